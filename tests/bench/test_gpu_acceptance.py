"""The parts of the acceptance on a GPU: what happens when one fails, and what they write. No GPU takes part."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pc_engine.bench import from_checkout, gpu_acceptance
from pc_engine.bench.gpu.report import JSON_FILE, Row, Section, read_sections, reason_of, write_sections
from pc_engine.bench.gpu.subjects import Job, Subjects
from pc_engine.bench.gpu_acceptance import PARTS, Part, accept, app, run_device_tests, run_part
from pc_engine.errors import BackendError, DeviceLostError, MissingPackageError, UsageError
from pc_engine.hardware.cuda import failure


@pytest.fixture
def job(host_meter: Any) -> Job:
    return Job(host_meter, limit=100)


def part(*rows: Row | Exception) -> Part:
    def measure(_: Job, __: Subjects) -> Iterator[Row]:
        for row in rows:
            if isinstance(row, Exception):
                raise row
            yield row

    return Part("it", "nothing", measure)


def run(job: Job, chosen: Part, **keywords: Any) -> tuple[Section, list[Section]]:
    kept: list[Section] = []
    with Subjects(job) as subjects:
        return run_part(chosen, job, subjects, kept.append, machine={"gpu": "none"}, **keywords), kept


def test_rows_are_kept_one_by_one_and_a_part_says_when_it_is_done(job: Job) -> None:
    section, kept = run(job, part({"a": 1}, {"a": 2}))
    assert (section.state, section.reason, section.rows) == ("done", "", ({"a": 1}, {"a": 2}))
    assert [len(one.rows) for one in kept] == [0, 1, 2, 2]
    assert [one.state for one in kept] == ["incomplete", "incomplete", "incomplete", "done"]
    assert section.machine == {"gpu": "none"}


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "incomplete", "The package 'torch' is missing."),
        (MissingPackageError("cuml", "cuml", "cluster"), "incomplete", "The package 'cuml' is needed to cluster: "),
        (BackendError("It failed."), "incomplete", "It failed."),
        (ValueError("first\nsecond"), "incomplete", "ValueError: first"),
        (ValueError(), "incomplete", "ValueError: "),
    ],
)
def test_what_a_part_found_before_it_failed_stays(job: Job, error: Exception, state: str, reason: str) -> None:
    section, kept = run(job, part({"a": 1}, error))
    assert (section.state, section.rows) == (state, ({"a": 1},))
    assert section.reason.startswith(reason)
    assert kept[-1] == section


def test_a_part_that_cannot_begin_is_skipped_by_the_name_of_what_is_missing(job: Job) -> None:
    section, _ = run(job, part(ModuleNotFoundError("no", name="torch")))
    assert (section.state, section.reason) == ("skipped", "The package 'torch' is missing.")


def test_the_limit_ends_a_part_between_two_rows(job: Job) -> None:
    seconds = itertools.count(0, 60)
    section, _ = run(job, part({"a": 1}, {"a": 2}, {"a": 3}), clock=lambda: next(seconds))
    assert (section.state, len(section.rows)) == ("incomplete", 2)
    assert "The limit of 100 s was over" in section.reason


class CUDARuntimeError(RuntimeError):
    status = 700


@pytest.mark.parametrize("error", [DeviceLostError("Gone."), CUDARuntimeError("cudaErrorIllegalAddress")])
@pytest.mark.parametrize("of_a_row", [False, True])
def test_a_lost_gpu_ends_everything_but_what_was_found_is_kept(
    of_a_row: bool, error: Exception, job: Job, tmp_path: Path
) -> None:
    def measure(_: Job, __: Subjects) -> Iterator[Row]:
        yield {"a": 1}
        try:
            raise error
        except Exception as met:
            if not of_a_row:
                raise
            yield {"reason": reason_of(met)}  # as each part does where one row is not to cost the others

    parts = [Part("it", "", measure), Part("next", "", part({"b": 1}).measure)]
    with pytest.raises(DeviceLostError):
        accept(job, parts, tmp_path, machine={})
    [section] = read_sections(tmp_path).values()
    assert (section.state, section.rows) == ("incomplete", ({"a": 1},))
    assert section.reason in ("Gone.", str(failure("measuring", "cudaErrorIllegalAddress", 700)))


@pytest.mark.parametrize("rows", [({"a": 1},), ()], ids=["in its second row", "in its first"])
def test_a_part_that_hangs_ends_by_itself_and_what_was_found_is_kept(rows: tuple[Row, ...], tmp_path: Path) -> None:
    write_sections(tmp_path, {"it": Section("it", rows=({"a": "of another day"},))})
    program = f"""
import faulthandler, pathlib, sys, time
from pc_engine.bench import gpu_acceptance as it
from pc_engine.bench.gpu.subjects import Job

# Its time passes as it begins to hang, however long the machine takes until then.
end_later = faulthandler.dump_traceback_later
def note(seconds, **options):
    asked.append((seconds, options))
faulthandler.dump_traceback_later, asked = note, []

def hang(job, subjects):
    yield from {rows}
    (seconds, options), = asked
    assert seconds == 660
    end_later(0.1, **options)
    time.sleep(600)

it.accept(Job(None, limit=600), [it.Part("it", "", hang)], pathlib.Path(sys.argv[1]), machine={{}})
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1
    assert "in hang" in done.stderr
    [section] = read_sections(tmp_path).values()
    assert (section.state, section.rows) == ("incomplete", rows)


def test_parts_of_several_runs_come_together(job: Job, tmp_path: Path) -> None:
    first, second = Part("first", "", part({"a": 1}).measure), Part("second", "", part(ValueError()).measure)
    assert accept(job, [first], tmp_path, machine={})
    assert not accept(job, [second], tmp_path, machine={})
    assert accept(job, [Part("first", "", part({"a": 9}).measure)], tmp_path, machine={})
    sections = read_sections(tmp_path)
    assert {name: section.rows for name, section in sections.items()} == {"first": ({"a": 9},), "second": ()}
    stored = json.loads((tmp_path / JSON_FILE).read_text())
    assert {goal["met"] for goal in stored["goals"]} == {None}


def test_without_a_gpu_one_sentence_and_exit_code_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_acceptance, "gpu_reason", lambda: "This machine has no NVIDIA GPU.")
    done = CliRunner().invoke(app, ["--part", "kernels", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr.strip() == "This machine has no NVIDIA GPU."
    assert list(tmp_path.iterdir()) == []


def test_unknown_parts_are_refused_and_the_known_ones_listed() -> None:
    done = CliRunner().invoke(app, ["--part", "kernel"])
    assert done.exit_code == 2
    assert "There is no part 'kernel': choose one of tests, kernels, build, parity" in done.stderr
    listed = CliRunner().invoke(app, ["--list"])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(PARTS)


@pytest.mark.parametrize(("good", "code"), [(True, 0), (False, 3)])
def test_the_exit_code_says_whether_all_was_done(
    good: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host_meter: Any
) -> None:
    chosen = part({"a": 1}) if good else part(ValueError("no"))
    monkeypatch.setattr(gpu_acceptance, "PARTS", {"it": chosen})
    monkeypatch.setattr(gpu_acceptance, "_open_meter", lambda _: host_meter)
    monkeypatch.setattr(gpu_acceptance, "describe", lambda _: {"gpu": "none"})
    done = CliRunner().invoke(app, ["--out", str(tmp_path), "--model", "lego", "--limit", "5"])
    assert done.exit_code == code
    assert "it: " in done.stdout
    assert read_sections(tmp_path)["it"].machine == {"gpu": "none"}


def write_tests(folder: Path, body: str) -> Path:
    (folder / "tests").mkdir()
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: needs one\n")
    (folder / "tests" / "test_it.py").write_text(f"import pytest\n{body}\n")
    return folder / "tests"


def test_device_tests_are_run_and_their_failures_named(job: Job, tmp_path: Path) -> None:
    body = (
        "@pytest.mark.gpu\ndef test_good(): pass\n@pytest.mark.gpu\ndef test_bad(): assert 1 == 2\n"
        "@pytest.mark.gpu\ndef test_left(): pytest.skip('no card')\ndef test_other(): assert False\n"
    )
    with Subjects(job) as subjects:
        first, *others = run_device_tests(job, subjects, tests=write_tests(tmp_path, body))
    assert {name: first[name] for name in ("passed", "failures", "errors", "skipped")} == {
        "passed": 1,
        "failures": 1,
        "errors": 0,
        "skipped": 1,
    }
    assert [(row["what"].split("::")[1], row["outcome"]) for row in others] == [
        ("test_bad", "failure"),
        ("test_left", "skipped"),
    ]
    assert "assert 1 == 2" in others[0]["reason"]
    assert "no card" in others[1]["reason"]


@pytest.mark.parametrize("hangs", [False, True])
def test_of_device_tests_that_take_too_long_those_before_are_reported(
    hangs: bool, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    body = (
        "import pathlib, signal, time\n@pytest.mark.gpu\ndef test_bad(): assert 1 == 2\n"
        f"@pytest.mark.gpu\ndef test_endless():\n    if {hangs}: signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"    pathlib.Path({str(begun)!r}).touch()\n    time.sleep(600)\n"
    )

    class Impatient(subprocess.Popen[str]):
        def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:  # noqa: A002
            if timeout == 94:
                while not begun.exists():
                    time.sleep(0.02)
                raise subprocess.TimeoutExpired("pytest", timeout)
            return super().communicate(input, (0.5 if hangs else 600) if timeout else None)

    monkeypatch.setattr(subprocess, "Popen", Impatient)
    tests = Part("tests", "", partial(run_device_tests, tests=write_tests(tmp_path, body)))
    section, _ = run(job, tests)
    assert (section.state, section.reason) == (
        "incomplete",
        "The tests were stopped after 94 s: what is not below had not run.",
    )
    assert [row["what"].split("::")[-1] for row in section.rows] == ([] if hangs else ["pytest -m gpu", "test_bad"])


def test_windows_ends_a_program_that_takes_too_long_without_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_signal = subprocess.Popen.send_signal

    def as_on_windows(running: subprocess.Popen[str], number: int) -> None:
        if number == signal.SIGINT:
            raise ValueError(f"Unsupported signal: {number}")
        send_signal(running, number)

    monkeypatch.setattr(subprocess.Popen, "send_signal", as_on_windows)
    body = "import os, time; os.write(2, b'\\xff\\xc3\\xa4'); time.sleep(60)"
    said, seconds = gpu_acceptance._run_for([sys.executable, "-c", body], tmp_path, 2.0)
    assert said in ("\ufffdä", "")  # it may not have begun
    assert seconds == 2.0


def test_files_without_device_tests_are_not_read(job: Job, tmp_path: Path) -> None:
    """Collecting the tests of all files takes as long as many of those for a device."""
    tests = write_tests(tmp_path, "@pytest.mark.gpu\ndef test_good(): pass\n")
    (tests / "test_other.py").write_text("raise AssertionError\n")
    (tests / "marked").mkdir()
    (tests / "marked" / "conftest.py").write_text(
        "import pytest\n@pytest.fixture(params=[pytest.param(1, marks=pytest.mark.gpu)])\n"
        "def one(request): return request.param\n"
    )
    (tests / "marked" / "test_marked.py").write_text("def test_one(one): assert one == 1\n")
    with Subjects(job) as subjects:
        [row] = run_device_tests(job, subjects, tests=tests)
    assert (row["passed"], row["errors"]) == (2, 0)


def test_device_tests_need_a_checkout(job: Job, tmp_path: Path) -> None:
    with Subjects(job) as subjects, pytest.raises(UsageError, match="run this from a checkout"):
        list(run_device_tests(job, subjects, tests=tmp_path / "tests"))


def test_a_checkout_is_laid_out_as_the_package_with_its_metadata(tmp_path: Path) -> None:
    from_checkout.lay_out(Path(__file__).resolve().parents[2], tmp_path)
    code = (
        "import importlib.metadata, pc_engine.kernels.cuda as cuda, pc_engine\n"
        "print(pc_engine.__file__, cuda.FOLDER, importlib.metadata.distribution('pc-engine').locate_file(''))"
    )
    environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert all(path.startswith(str(tmp_path)) for path in done.stdout.split())


def test_a_missing_simplejpeg_is_stood_in_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_checkout.stand_in_for_simplejpeg(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "simplejpeg", raising=False)
    import simplejpeg

    assert simplejpeg.__file__ == str(tmp_path / "simplejpeg.py")
    with pytest.raises(ValueError, match="not installed"):
        simplejpeg.decode_jpeg(b"", "RGB", min_height=1)


def test_missing_packages_are_named(tmp_path: Path) -> None:
    project = '[project]\nname = "x"\nversion = "1"\ndependencies = ["numpy>=1", "no-such-package-here>=2"]\n'
    (tmp_path / "pyproject.toml").write_text(project)
    assert from_checkout.missing_packages(tmp_path) == ["no-such-package-here"]


def test_without_arguments_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert from_checkout.main([]) == 2
    assert "bench/from_checkout.py -m" in capsys.readouterr().err
