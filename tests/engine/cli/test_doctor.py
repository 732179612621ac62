def test_doctor_says_what_works_and_why_the_rest_does_not(pc_engine):
    report = pc_engine("doctor", "--json").json()
    backends = {entry["name"]: entry for entry in report["backends"]}
    assert backends["onnxruntime"]["works"]
    assert all(entry["reason"] for entry in [*report["backends"], *report["devices"]])
    assert report["machine"]["cores"] >= 1


def test_doctor_gives_a_line_each(pc_engine):
    lines = pc_engine("doctor").out.splitlines()
    for name in ("machine", "onnxruntime", "openvino", "cpu", "cuda"):
        assert sum(line.startswith(name) for line in lines) == 1


def test_backend_that_cannot_be_imported_is_explained(pc_engine, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    lines = pc_engine("doctor").out.splitlines()
    line = next(line for line in lines if line.startswith("openvino"))
    assert "does not work" in line
    assert "pip install openvino" in line
