from pc_engine.graph.names import fresh_name


def test_a_fresh_name_is_given_once():
    taken = {"a", "a_1", "b_1"}
    assert [fresh_name(name, taken) for name in ("a", "a", "b", "b", "c")] == ["a_2", "a_3", "b", "b_2", "c"]
    assert taken == {"a", "a_1", "a_2", "a_3", "b", "b_1", "b_2", "c"}
