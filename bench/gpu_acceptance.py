"""Acceptance on a machine with an NVIDIA GPU, in parts of a few minutes each.

    python -m pc_engine.bench.gpu_acceptance --list
    python -m pc_engine.bench.gpu_acceptance --part kernels --part parity --out bench/results
    python bench/from_checkout.py -m pc_engine.bench.gpu_acceptance       # from a checkout, without installing it

Each part adds what it found to ``gpu-acceptance.json`` and to the tables of ``gpu-acceptance.txt`` in the folder, row
by row, so that a part that is cut short leaves what it has. Parts that ran earlier stay; a part that runs again
replaces its own. A missing package is named, and what fails costs only its row. ``--limit`` ends a part after so many
seconds, between two measurements; one that goes on for a minute more ends the process, with what was found kept. Each
part in a process of its own (CONTRIBUTING.md has the command) is independent of a card that the one before lost.

Needed are CuPy, NumPy, onnx and onnxruntime for everything; a TensorRT (``pc-engine[gpu]`` or ``[tensorrt]``), cuDNN
(``[cudnn]``) or onnxruntime-gpu for networks; PyTorch for the peers, the matrix rate of bf16, int8 and fp8, and to see
every copy; cuML and nvImageCodec for what bears their names; pytest and hypothesis for the tests. Exit codes: 0 all
parts were done, 3 some were not, 2 there is no GPU or the call is wrong.
"""

from __future__ import annotations

import faulthandler
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

import typer

from pc_engine.bench.gpu.device import CudaMeter, describe
from pc_engine.bench.gpu.report import TEXT_FILE, Row, Section, as_text, read_sections, reason_of, write_sections
from pc_engine.bench.gpu.subjects import Job, Subjects
from pc_engine.errors import DeviceLostError, MissingPackageError, PcEngineError, UsageError
from pc_engine.hardware.devices import gpu_reason
from pc_engine.modes import MODES

_TESTS = Path(__file__).resolve().parents[1] / "tests"
_RESULTS = Path("bench/results")
_PARTLY_DONE = 3
# Seconds that a measurement which began within the limit of its part may take beyond it.
_GRACE = 60.0
# What starts pytest. A program that a shell runs beside others ignores Ctrl-C, and so would all that it starts.
_PYTEST = """import signal, sys
import pytest
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(pytest.main(sys.argv[1:]))"""
# Of a part's limit, what is left for pytest to say what it did when it is asked to end, and as much again for the rows.
_SECONDS_TO_REPORT = 3.0

Measure = Callable[[Job, Subjects], Iterator[Row]]
Keep = Callable[[Section], None]


@dataclass(frozen=True)
class Part:
    """A part: its name, what it finds out, and the generator of its rows."""

    name: str
    about: str
    measure: Measure


def _later(module: str, function: str) -> Measure:
    """Return what is imported as its part begins, so that a package that is missing costs that part only."""

    def measure(job: Job, subjects: Subjects) -> Iterator[Row]:
        rows: Iterator[Row] = getattr(import_module(f"pc_engine.bench.gpu.{module}"), function)(job, subjects)
        return rows

    return measure


def run_device_tests(job: Job, _: Subjects, *, tests: Path = _TESTS) -> Iterator[Row]:
    """Yield the outcome of ``pytest -m gpu``, and each test that failed; of those until then where time is over."""
    if not tests.is_dir():
        raise UsageError(f"The tests are not installed with the package: run this from a checkout, which has {tests}.")
    with tempfile.TemporaryDirectory(prefix="pc-engine-tests-") as folder:
        report = Path(folder) / "report.xml"
        options = ["-m", "gpu", "-q", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
        command = [sys.executable, "-c", _PYTEST, *options, f"--junitxml={report}", *map(str, _with_gpu_tests(tests))]
        said, seconds = _run_for(command, tests.parent, max(job.limit - 2 * _SECONDS_TO_REPORT, 1))
        if "No module named 'pytest'" in said:
            raise ModuleNotFoundError(name="pytest")
        if report.is_file():
            yield from rows_of_tests(report.read_text(encoding="utf-8"))
        elif seconds is None:
            yield {"what": "pytest -m gpu", "reason": (said.strip().splitlines() or ["It wrote no report."])[-1]}
        if seconds is not None:
            raise PcEngineError(f"The tests were stopped after {seconds:.0f} s: what is not below had not run.")


def _with_gpu_tests(tests: Path) -> list[Path]:
    """Return the files with tests marked gpu, and the folders whose conftest marks some: to collect all takes long."""
    marked = [path for path in sorted(tests.rglob("*.py")) if "mark.gpu" in path.read_text(encoding="utf-8")]
    return [path.parent if path.name == "conftest.py" else path for path in marked] or [tests]


def _run_for(command: Sequence[str], folder: Path, seconds: float) -> tuple[str, float | None]:
    """Run a program for so long at most; return what it said of errors, and the seconds where it was ended for them.

    It is asked to end by Ctrl-C, as which pytest reports the tests that it has done, and killed where it does not; on
    Windows at once.
    """
    with subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as running:
        try:
            return running.communicate(timeout=seconds)[1], None
        except subprocess.TimeoutExpired:
            try:
                running.send_signal(signal.SIGINT)
            except ValueError:  # Windows sends no such thing to a process alone
                running.terminate()
        try:
            return running.communicate(timeout=_SECONDS_TO_REPORT)[1], seconds
        except subprocess.TimeoutExpired:
            running.kill()
        return running.communicate()[1], seconds


def rows_of_tests(report: str) -> Iterator[Row]:
    """Yield the numbers of a JUnit report, and the tests in it that failed or could not run."""
    suites = list(ElementTree.fromstring(report).iter("testsuite"))
    numbers = {
        name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    }
    passed = numbers["tests"] - numbers["failures"] - numbers["errors"] - numbers["skipped"]
    yield {"what": "pytest -m gpu", "passed": passed, **numbers}
    for case in (case for suite in suites for case in suite.iter("testcase")):
        for kind in ("failure", "error", "skipped"):
            found = case.find(kind)
            if found is not None:
                said = (found.get("message") or "").strip().splitlines()
                name = f"{case.get('classname')}::{case.get('name')}"
                yield {"what": name, "outcome": kind, "reason": said[0] if said else kind}


PARTS: Mapping[str, Part] = {
    part.name: part
    for part in (
        Part("tests", "the tests that are marked gpu", run_device_tests),
        Part(
            "kernels",
            "each kernel beside NumPy and beside the rate of a large copy",
            _later("kernels", "measure_kernels"),
        ),
        Part(
            "build",
            "networks compiled, or found in the cache, for the parts below",
            _later("networks", "measure_builds"),
        ),
        Part("parity", "every tap and count beside fp32 on the CPU", _later("networks", "measure_parity")),
        Part("traffic", "copies between host and device during a run", _later("runs", "measure_traffic")),
        Part("network", "networks beside the card's matrix rate", _later("networks", "measure_networks")),
        Part("modes", "what follows the network, mode by mode", _later("networks", "measure_modes")),
        Part("decode", "decoding on the cores and with nvImageCodec", _later("runs", "measure_decoding")),
        Part("run", "from files to results", _later("runs", "measure_runs")),
        Part("peers", "PyTorch eager and compiled, cuML and scikit-learn", _later("peers", "measure_peers")),
        Part("processes", "from files to rows on disk, by 1 to 8 processes", _later("processes", "measure_processes")),
    )
}


def run_part(
    part: Part,
    job: Job,
    subjects: Subjects,
    keep: Keep,
    *,
    machine: Mapping[str, Any],
    clock: Callable[[], float] = time.perf_counter,
) -> Section:
    """Measure a part until it is done, fails, or its time is over; ``keep`` gets the section first and after every row.

    Raises
    ------
    DeviceLostError
        If the GPU is gone, once the section is kept: nothing else will run.
    """
    start = clock()
    section = Section(part.name, "incomplete", "It is still running, or was killed.", machine=machine)
    # Else one that is killed ahead of its first row leaves what an earlier one found, as if it were its own.
    keep(section)
    lost: DeviceLostError | None = None
    try:
        rows = part.measure(job, subjects)
        with closing(rows):  # type: ignore[type-var]
            for row in rows:
                section = replace(section, rows=(*section.rows, row), seconds=clock() - start)
                keep(section)
                if section.seconds > job.limit:
                    raise _OutOfTimeError
        section = replace(section, state="done", reason="")
    except _OutOfTimeError:
        section = replace(
            section, reason=f"The limit of {job.limit:.0f} s was over: what is not below was not measured."
        )
    except DeviceLostError as error:
        section, lost = replace(section, reason=str(error)), error
    except (ModuleNotFoundError, MissingPackageError) as error:
        reason = f"The package '{error.name}' is missing." if isinstance(error, ModuleNotFoundError) else str(error)
        section = replace(section, state="incomplete" if section.rows else "skipped", reason=reason)
    except Exception as error:  # one part must not cost the others, whatever a driver or a library does
        try:
            section = replace(section, reason=reason_of(error))
        except DeviceLostError as meant:
            section, lost = replace(section, reason=str(meant)), meant
    section = replace(section, seconds=clock() - start)
    keep(section)
    if lost is not None:
        raise lost
    return section


class _OutOfTimeError(Exception):
    """The limit of a part is over."""


app = typer.Typer(add_completion=False)


@app.command()
def main(
    part: Annotated[list[str] | None, typer.Option("--part", help="A part; repeatable; if omitted, all.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = _RESULTS,
    model: Annotated[list[str] | None, typer.Option("--model", help="Name or directory; repeatable.")] = None,
    backend: Annotated[list[str] | None, typer.Option("--backend", help="Backends to measure.")] = None,
    precision: Annotated[list[str] | None, typer.Option("--precision", help="Precisions to measure.")] = None,
    mode: Annotated[list[str] | None, typer.Option("--mode", help="Modes to run; repeatable.")] = None,
    device: Annotated[str, typer.Option("--device", help="cuda or cuda:N.")] = "cuda:0",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images in a batch.")] = Job.batch_size,
    images: Annotated[int, typer.Option("--images", min=1, help="Images to compare results on.")] = Job.images,
    photos: Annotated[str, typer.Option("--photos", help="A folder, or random:N.")] = Job.photos,
    n: Annotated[int, typer.Option("--n", min=1, help="Photos of a run from files.")] = Job.n,
    limit: Annotated[float, typer.Option("--limit", min=1, help="Most seconds for a part.")] = Job.limit,
    list_parts: Annotated[bool, typer.Option("--list", help="List the parts and exit.")] = False,
) -> None:
    """Measure this machine's GPU in parts and write what was found; see the module's docstring."""
    if list_parts:
        typer.echo("\n".join(f"{entry.name:10}{entry.about}" for entry in PARTS.values()))
        return
    try:
        _check_names("part", part or (), PARTS)
        _check_names("mode", mode or (), MODES)
        chosen = Job(
            meter=_open_meter(device),
            models=tuple(model or Job.models),
            backends=tuple(backend or ()),
            precisions=tuple(precision or ()),
            modes=tuple(mode or Job.modes),
            batch_size=batch_size,
            images=images,
            photos=photos,
            n=n,
            limit=limit,
        )
        done = accept(chosen, [PARTS[name] for name in part or PARTS], out, machine=describe(device))
    except PcEngineError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit(0 if done else _PARTLY_DONE)


def accept(job: Job, parts: list[Part], out: Path, *, machine: Mapping[str, Any]) -> bool:
    """Run parts one after the other and keep what they find in ``out``; return whether all of them were done."""
    sections = read_sections(out)

    def keep(section: Section) -> None:
        sections[section.part] = section
        write_sections(out, sections)

    done = True
    with Subjects(job) as subjects:
        for part in parts:
            typer.echo(f"{part.name}: {part.about} ...", err=True)
            # What hangs, as a library or a card may, ends the process with the places where its threads are.
            faulthandler.dump_traceback_later(job.limit + _GRACE, exit=True, file=sys.__stderr__ or sys.stderr)
            try:
                section = run_part(part, job, subjects, keep, machine=machine)
            finally:
                faulthandler.cancel_dump_traceback_later()
            done = done and section.state == "done"
            typer.echo(f"  {section.state} after {section.seconds:.0f} s. {section.reason}", err=True)
    typer.echo(as_text(sections))
    typer.echo(f"Written to {out / TEXT_FILE}.", err=True)
    return done


def _check_names(kind: str, names: Sequence[str], known: Collection[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"There is no {kind} '{unknown[0]}': choose one of {', '.join(known)}.")


def _open_meter(device: str) -> CudaMeter:
    reason = gpu_reason()
    if reason:
        raise UsageError(reason)
    return CudaMeter(device)


if __name__ == "__main__":
    app()
