"""The fuzzer for a few seconds; longer by PC_ENGINE_FUZZ_SECONDS, or by itself (see `fuzz.py`)."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from pc_engine.sources import folders

FUZZ = Path(__file__).with_name("fuzz.py")
SECONDS = float(os.environ.get("PC_ENGINE_FUZZ_SECONDS", "8"))


def fuzz(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "faulthandler", str(FUZZ), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_no_reader_dies_of_a_changed_file_or_answers_without_a_sentence() -> None:
    # As a process of its own, as what it looks for are deaths of processes.
    done = fuzz("--seconds", SECONDS)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    print(done.stdout)


def test_a_case_comes_back_by_its_number_and_a_failure_names_it(tmp_path: Path) -> None:
    done = fuzz("--first", 5, "--cases", 1, "labels.json", "counter")
    assert done.returncode == 0, done.stderr
    assert "2 cases, seed 0: none failed." in done.stdout
    broken = (
        "import runpy, sys; from pc_engine.datasets import labels_json; labels_json.read_json = lambda path: 1 / 0;"
        f"sys.argv = ['fuzz.py', '--cases', '1', 'labels.json']; runpy.run_path({str(FUZZ)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", broken], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "FAILED: labels.json --seed 0 --first 0 --cases 1; its files are in" in done.stdout
    assert "ZeroDivisionError" in done.stderr


def test_a_changed_list_leads_into_no_folder_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walked = list[str]()

    def entries(folder: str) -> list[list[folders.FolderEntry]]:
        walked.append(folder)
        return [[]]

    monkeypatch.setattr(folders, "sorted_entries", entries)
    case = tmp_path / "case"
    (case / "in").mkdir(parents=True)
    (case / "list.txt").write_text(f"/\n..\n{case}/in\n{case}/in/../..\n")
    runpy.run_path(str(FUZZ))["read_lists"](case)
    assert walked == [f"{case}/in"]
