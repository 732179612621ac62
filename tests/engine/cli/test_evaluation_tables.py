import pytest

from pc_engine.cli.evaluation_tables import _print_gains

NONE = {"images": 0}


def _gain(points, *interval):
    return {"gain": points and points / 100, "interval": [end / 100 for end in interval] or None}


@pytest.mark.parametrize(
    ("counted", "pointed", "expected"),
    [
        (_gain(5.3, 1, 9.6), NONE, [["c2p", "counting", "+5.3", "1.0 to 9.6"]]),
        (_gain(-5.3, -9.6, 1), NONE, [["c2p", "counting", "-5.3", "-9.6 to 1.0"]]),
        (_gain(0.0, -2, 3), NONE, [["c2p", "counting", "0.0", "-2.0 to 3.0"]]),
        (_gain(-0.04, -0.04, 0), NONE, [["c2p", "counting", "0.0", "0.0 to 0.0"]]),
        (_gain(100.0), NONE, [["c2p", "counting", "+100.0", "-"]]),
        (
            _gain(1.0, 0, 2),
            {"images": 7, "0.5": _gain(0.0, -3, 3), "0.8": _gain(-1.0, -2, 0)},
            [
                ["c2p", "counting", "+1.0", "0.0 to 2.0"],
                ["", "pointing at 0.5, where both count right (7 images)", "0.0", "-3.0 to 3.0"],
                ["", "pointing at 0.8, where both count right (7 images)", "-1.0", "-2.0 to 0.0"],
            ],
        ),
        # Of 4 objects or more alone there is no mean.
        (_gain(1.0), {"images": 7, "0.5": _gain(None), "0.8": _gain(None)}, [["c2p", "counting", "+1.0", "-"]]),
    ],
)
def test_a_gain_is_a_row_with_its_interval(capsys, monkeypatch, counted, pointed, expected):
    monkeypatch.setenv("COLUMNS", "120")
    gains = {"combined over c2p": {"mean": counted, "pointing": pointed, "known_count": None}}
    _print_gains({"modes": {"c2p": {}, "combined": {}}, "gains": gains})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("What combined gains over other modes, in points of the mean")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    assert [row for row in rows if row] == expected


def test_of_one_mode_there_is_no_gain(capsys):
    _print_gains({"modes": {"c2p": {}}, "gains": {}})
    assert capsys.readouterr().out == ""
