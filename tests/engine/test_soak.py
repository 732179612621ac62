"""A run in which everything fails now and then, for as long as one likes: all rows come, and nothing is held on to."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# An hour: PC_ENGINE_SOAK_SECONDS=3600 pytest -s tests/engine/test_soak.py
SECONDS = float(os.environ.get("PC_ENGINE_SOAK_SECONDS", "6"))
# Beside what the allocator does; ten thousand rows held would be as much.
MOST_MB = 12

PROGRAM = Path(__file__).with_name("soak_program.py")
DISK = {"disk: cannot be opened", "disk: breaks off", "memory: reading"}
NETWORK = {"memory: network", "network: no number"}
IN_PROCESSES = {
    "It made the decoder crash ",
    "The process that decoded it was killed, perhaps as memory ran out: scale it down first.",
    "It does not fit into memory: scale it down first.",
    "Decoding takes longer than 2 seconds, the limit ",
}
IN_PROCESS = {"memory: decoding", "decoder: fails"}


@pytest.fixture(params=[False, True], ids=["threads", "processes"])
def soaked(request: pytest.FixtureRequest, tmp_path: Path, tiny_directory: Path) -> dict[str, Any]:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("what a process holds is read from /proc")
    folder = tmp_path / "photos"
    folder.mkdir()
    settings = {
        "model": str(tiny_directory),
        "folder": str(folder),
        "seconds": SECONDS,
        "isolate": request.param,
        "out": str(tmp_path / "soaked.json"),
    }
    path = os.pathsep.join([str(PROGRAM.parent / "decode_functions"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(PROGRAM), json.dumps(settings)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS + 300,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    return {**json.loads((tmp_path / "soaked.json").read_text()), "isolate": request.param}


@pytest.mark.slow
def test_a_run_under_faults_has_all_rows_and_holds_on_to_nothing(soaked: dict[str, Any]) -> None:
    kinds, moments, isolate = soaked["kinds"], soaked["moments"], soaked["isolate"]
    rows = sum(kinds.values())
    assert rows == soaked["listed"] > 100
    assert soaked["wrong"] == []
    assert 0.3 < kinds["ok"] / rows < 0.9
    # In processes the decoders have their own faults.
    assert set(soaked["injected"]) >= DISK | NETWORK | (set() if isolate else IN_PROCESS)
    if isolate:
        assert set(kinds) >= IN_PROCESSES

    early, late = moments[len(moments) // 4 : len(moments) // 2], moments[-len(moments) // 4 :]
    print(f"{soaked['moments'][-1]['seconds'] - soaked['moments'][0]['seconds']:.0f} s, {rows:,} rows, faults:")
    print(soaked["injected"], kinds, sep="\n")
    for what, most in (("mb", MOST_MB), ("decoder_mb", MOST_MB), ("descriptors", 3), ("threads", 2), ("processes", 0)):
        # The servers' connections come and go, and run in this process, too.
        before, after = (statistics.median(moment[what] for moment in part) for part in (early, late))
        print(f"{what}: {before:.1f} early, {after:.1f} late, {max(moment[what] for moment in moments):.1f} at most")
        assert after <= before + most, what
    assert max(moment["descriptors"] for moment in moments) < 100
