"""A mode is listed in one place: a further one runs, is judged and is drawn like those that are there."""

import json
from dataclasses import replace

import pytest

from pc_engine.bench.accuracy.charts import mode_colour
from pc_engine.modes import MODES
from pc_engine.runs.rows import iter_rows

FAST = ("--backend", "onnxruntime", "--precision", "fp32")


@pytest.fixture
def further(monkeypatch):
    """Modes like c2p and p2c, by other names."""
    for name in ("c2p", "p2c"):
        monkeypatch.setitem(MODES, f"my-{name}", replace(MODES[name], name=f"my-{name}"))


@pytest.fixture
def labelled(scenes):
    places = [(1, 1), (6, 1), (1, 6), (6, 6)]
    records = [
        {
            "file": f"{count}.png",
            "count": count,
            "boxes": [{"c": "red", "b": [x * 8 + 1, y * 8, 8, 8]} for x, y in places[:count]],
        }
        for count in range(5)
    ]
    (scenes / "labels.json").write_text(json.dumps({"set": "blobs", "images": records}))
    return scenes


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("c2p", ()),
        ("p2c", ("--pointer", "box", "--classes", "2")),
        ("p2c", ("--cluster", "dbscan")),
        ("p2c", ("--count", "2")),
    ],
)
def test_it_runs_as_the_mode_that_it_is_like(pc_engine, scenes, tiny_directory, tmp_path, further, name, options):
    rows = {}
    for mode in (name, f"my-{name}"):
        out = tmp_path / mode
        command = ("run", scenes, "--model", tiny_directory, "--mode", mode, *options, *FAST)
        assert pc_engine(*command, "--out", out).code == 3  # one of the scenes is no picture
        rows[mode] = [{**row, "mode": name} for row in iter_rows(out)]
    assert rows[name] == rows[f"my-{name}"]
    tables = [pc_engine("run", scenes, "--model", tiny_directory, "--mode", mode, *options, *FAST).out for mode in rows]
    assert len({table.partition("images/s")[0].rpartition("\n")[0] for table in tables}) == 1


def test_a_page_shows_its_open_labels(pc_engine, scenes, tiny_directory, tmp_path, further):
    pages = []
    for mode in ("c2p", "my-c2p"):
        out = tmp_path / mode / "run"
        assert pc_engine("run", scenes, "--model", tiny_directory, "--mode", mode, "--out", out, *FAST).code == 3
        assert pc_engine("report", out).code == 0
        pages.append((out / "report.html").read_text())
    assert ['"openCount":4' in page for page in pages] == [True, True]


def test_it_is_judged_and_drawn(pc_engine, labelled, tiny_directory, tmp_path, further):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figures"
    outcome = pc_engine("evaluate", labelled, "--mode", "all", "--model", tiny_directory, "--out", out, *FAST)
    assert outcome.code == 0, outcome.err
    modes = json.loads((out / "evaluation.json").read_text())["modes"]
    assert list(modes) == ["c2p", "p2c", "combined", "my-c2p", "my-p2c"]
    for name in ("c2p", "p2c"):
        assert modes[f"my-{name}"] == modes[name]
    assert {"count-accuracy.png", "confusion.png", "pointing-accuracy.png"} <= {path.name for path in out.iterdir()}
    assert len({mode_colour(mode) for mode in modes}) == len(modes)


def test_settings_that_it_reads_are_tried(pc_engine, labelled, tiny_directory, further):
    outcome = pc_engine(
        *("bench", "ablation", labelled, "--mode", "my-p2c", "--model", tiny_directory, "--try", "p2c.trim=0.3"),
        *("--json", *FAST),
    )
    assert outcome.code == 0, outcome.err
    assert [trial["setting"] for trial in outcome.json()["modes"]["my-p2c"]] == [None, "p2c.trim"]
    outcome = pc_engine("bench", "ablation", labelled, "--mode", "my-c2p", "--model", tiny_directory, "--json", *FAST)
    assert outcome.code == 0, outcome.err
