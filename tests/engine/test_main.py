"""Where the command line begins."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

import pc_engine
from pc_engine.cli import main

_SLOW_IMPORTS = """
import sys
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            print("importing", flush=True)
            import time; time.sleep(600)
sys.meta_path.insert(0, Slow())
from pc_engine.__main__ import main
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are sent otherwise there")
def test_ctrl_c_while_everything_is_being_imported_is_one_line():
    command = [sys.executable, "-c", _SLOW_IMPORTS, "--version"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (130, "pc-engine: stopped.\n")


_INTERRUPTED = """
import signal, sys
import pc_engine.cli.doctor as doctor
doctor.describe_machine = lambda: signal.raise_signal(signal.SIGINT)
sys.argv = ["pc-engine", "doctor"]
from pc_engine.__main__ import main
main()
"""


def test_ctrl_c_in_a_command_is_one_line_too():
    done = subprocess.run([sys.executable, "-c", _INTERRUPTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "pc-engine: stopped.\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
def test_ctrl_c_keeps_its_exit_code_where_the_log_is_on_a_full_disk():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", _INTERRUPTED], stdout=subprocess.PIPE, stderr=full, check=False)
    assert (done.returncode, done.stdout) == (130, b"")


_FAILING = """
import sys
import pc_engine.cli.doctor as doctor
from pc_engine.errors import UsageError
def fail():
    print("so far")
    raise UsageError("Do this.")
doctor.describe_machine = fail
sys.argv = ["pc-engine", "doctor"]
from pc_engine.__main__ import main
main()
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
def test_why_a_command_ends_is_said_also_where_its_output_cannot_be_written():
    with open("/dev/full", "w") as full:
        command, held_back = [sys.executable, "-c", _FAILING], {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, env=held_back, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "pc-engine: Do this.\n")


@pytest.mark.skipif(os.name != "posix", reason="a stream is closed otherwise there")
def test_what_nobody_hears_does_not_go_to_stdout():
    command = ["/bin/sh", "-c", 'exec "$0" -m pc_engine run nowhere 2>&-', sys.executable]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize("start", [["-m", "pc_engine"], ["-c", "from pc_engine.__main__ import main; main()"]])
def test_the_version_is_told(start):
    done = subprocess.run([sys.executable, *start, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"pc-engine {pc_engine.__version__}\n"


def test_another_encoding_is_no_reason_to_end(tmp_path):
    (tmp_path / "Höhle.jpg").write_bytes(b"no picture")
    done = subprocess.run(
        [sys.executable, "-m", "pc_engine", "run", str(tmp_path), "--backend", "onnxruntime", "--precision", "fp32"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 3
    assert b"H\\xf6hle.jpg" in done.stdout
    assert b"should not have happened" not in done.stderr


def test_patterns_reach_the_command_on_windows_too(tmp_path, monkeypatch, capsys):
    (tmp_path / "photos 1").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("typer.core.os", SimpleNamespace(**{**vars(os), "name": "nt"}))
    monkeypatch.setattr("sys.argv", ["pc-engine", "status", "photos [1]"])
    with pytest.raises(SystemExit):
        main()
    assert "photos [1]" in capsys.readouterr().err


_PRINTING = [("models", "--json"), ("models",), ("--version",), ("run", "--help")]


def printed_to(stdout, command, unbuffered):
    return subprocess.run(
        [sys.executable, "-m", "pc_engine", *command],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", _PRINTING)
def test_a_full_disk_behind_what_is_printed_is_said(command, unbuffered):
    with open("/dev/full", "w") as full:
        done = printed_to(full, command, unbuffered)
    assert (done.returncode, done.stderr) == (
        1,
        b"pc-engine: The output cannot be written (No space left on device): make room.\n",
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
def test_a_log_on_a_full_disk_costs_no_exit_code():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "pc_engine", "run", "nowhere"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, check=False)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.skipif(os.name != "posix", reason="a pipe that nobody reads is told of otherwise there")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", _PRINTING)
def test_whoever_reads_what_is_printed_may_have_enough(command, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    done = printed_to(writer, command, unbuffered)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(os.name != "posix", reason="files have no largest size there")
def test_a_file_behind_what_is_printed_that_may_not_grow_is_said(tmp_path):
    script = 'ulimit -f 1 && exec "$0" -m pc_engine models --json > "$1"'
    command = ["/bin/sh", "-c", script, sys.executable, str(tmp_path / "models.json")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "pc-engine: The output cannot be written (File too large): make room.\n",
    )


_WITHOUT_A_LIBRARY = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            try:
                raise ImportError("libx.so: failed to map segment from shared object\\nand more")
            except ImportError as error:
                raise ImportError("\\nA page of advice.") from error
sys.meta_path.insert(0, Broken())
from pc_engine.__main__ import main
main()
"""


@pytest.mark.parametrize(("library", "command"), [("PIL", "--version"), ("pc_engine.cli.doctor", "doctor")])
def test_a_library_that_cannot_be_loaded_is_one_line(library, command):
    """At the start, and by a command."""
    program = _WITHOUT_A_LIBRARY.replace("sys.argv[1]", repr(library))
    done = subprocess.run([sys.executable, "-c", program, command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "pc-engine: A library cannot be loaded (libx.so: failed to map segment from shared object): see whether "
        "memory runs out, or install pc-engine anew, on a disk that programs may be loaded from.\n"
    )


def test_memory_that_runs_out_is_no_fault_of_the_program(monkeypatch, capsys):
    def fail():
        raise MemoryError

    monkeypatch.setattr("pc_engine.cli.doctor.describe_machine", fail)
    monkeypatch.setattr("sys.argv", ["pc-engine", "doctor"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("pc-engine: Memory ran out: end other programs, or do less at once")


@pytest.mark.parametrize("columns", ["0", "7"])
def test_a_terminal_of_no_width_loses_nothing(columns):
    done = subprocess.run(
        [sys.executable, "-m", "pc_engine", "models"],
        env={**os.environ, "COLUMNS": columns},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert "lego" in done.stdout
    assert "pc-engine run FOLDER --model NAME" in done.stdout


@pytest.mark.parametrize(
    "command", [("evaluate", "{}"), ("status", "{}"), ("fit-counter", "lego:{}", "--model", "lego")]
)
@pytest.mark.parametrize("name", ["closed/x", "x" * 300])
def test_what_the_system_refuses_is_said_in_one_sentence(tmp_path, monkeypatch, capsys, command, name):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    if name.startswith("closed") and os.access(closed, os.X_OK):
        pytest.skip("nothing is closed to this user")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pc-engine", *(word.format(name) for word in command)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code in (1, 2)
    assert name in said
    assert "should not have happened" not in said
    assert "Errno" not in said


@pytest.mark.skipif(os.name != "posix", reason="a folder that somebody is in is not removed")
@pytest.mark.parametrize("command", [("run", "."), ("convert", "run", "--to", "csv"), ("status", "run")])
def test_a_current_folder_that_is_gone_is_said(tmp_path, command):
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" -m pc_engine "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("pc-engine: ")
    assert "should not have happened" not in done.stderr
    if command[0] == "run":
        assert done.stderr == "pc-engine: The current folder is gone: change to one that is there.\n"


def test_what_others_wrote_does_not_steer_the_terminal(tmp_path, monkeypatch, capsys):
    name = str(tmp_path / "\n\x1b[31mred\u202e")
    monkeypatch.setattr("sys.argv", ["pc-engine", "report", name])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert r"\n\x1b[31mred\u202e: name the one" in said
    assert said.count("\n") == 1
    assert said[:-1].isprintable()


_WHAT_IS_OPEN = """
import os, sys
from pc_engine.__main__ import _open_streams
_open_streams()
with open(sys.argv[1], "w") as stream:
    print(stream.fileno() > 2, *(os.fstat(n).st_rdev == os.stat(os.devnull).st_rdev for n in (0, 1, 2)), file=stream)
"""


@pytest.mark.skipif(os.name != "posix", reason="streams are closed by a POSIX shell")
@pytest.mark.parametrize(
    ("closed", "expected"), [("<&- >&- 2>&-", "True True True"), ("</dev/zero >&- 2>/dev/zero", "False True False")]
)
def test_no_file_takes_the_place_of_a_stream_that_is_closed(tmp_path, closed, expected):
    found = tmp_path / "found.txt"
    command = f'exec "$0" -c "$1" "$2" {closed}'
    subprocess.run(["/bin/sh", "-c", command, sys.executable, _WHAT_IS_OPEN, str(found)], check=True)
    assert found.read_text() == f"True {expected}\n"


def test_what_the_package_promises_is_there():
    for name in pc_engine.__all__:
        assert getattr(pc_engine, name) is not None
        assert name in dir(pc_engine)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = pc_engine.nothing
