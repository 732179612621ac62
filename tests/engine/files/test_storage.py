from __future__ import annotations

import os
import shlex
import stat
import time
from pathlib import Path

import pytest

from pc_engine.errors import UsageError
from pc_engine.files import storage
from pc_engine.files.storage import (
    FileCache,
    cache_directory,
    cache_key,
    distrust,
    model_argument,
    models_complaint,
    models_directory,
)


def test_one_variable_moves_models_and_cache(engine_home: Path) -> None:
    assert models_directory() == engine_home / "models"
    assert cache_directory() == engine_home / "compiled"


def test_without_it_the_users_folders_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PC_ENGINE_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative, hence not valid")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert models_directory() == tmp_path / "data/pc-engine/models"
    assert cache_directory() == tmp_path / "home/.cache/pc-engine/compiled"


def test_a_home_with_a_tilde_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PC_ENGINE_HOME", "~/engine")
    assert models_directory() == tmp_path / "engine/models"


def test_a_model_is_named_as_a_shell_takes_it(engine_home: Path) -> None:
    assert model_argument(models_directory() / "mine") == "mine"
    for directory in ("nets/mine", "nets/my net", "nets/it's", "nets/$HOME;"):
        assert shlex.split(f"pc-engine run --model {model_argument(Path(directory))}")[-1] == directory
    assert shlex.split(model_argument(models_directory() / "my net")) == ["my net"]


def test_equal_facts_have_equal_keys_whatever_their_order() -> None:
    assert cache_key({"a": 1, "b": [2, 3]}) == cache_key({"b": [2, 3], "a": 1})
    assert cache_key({"a": 1}) != cache_key({"a": 2})


def test_another_version_of_the_engine_has_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache_key({"a": 1})
    monkeypatch.setattr(storage, "version", lambda name: "99.0")
    assert cache_key({"a": 1}) != before


def test_what_was_put_is_got(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache")
    assert cache.get("network") is None
    path = cache.put("network", lambda path: path.write_bytes(b"compiled"))
    assert cache.get("network") == path
    assert path.read_bytes() == b"compiled"
    cache.put("network", lambda path: path.write_bytes(b"anew"))
    assert cache.get("network") == path
    assert path.read_bytes() == b"anew"


def test_what_nobody_asks_for_makes_room(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    for name in ("old", "used", "other"):
        cache.put(name, lambda path: path.write_bytes(b"x"))
    (tmp_path / "alone.sha256").write_bytes(b"")
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 100 * 86_400,) * 2)
    assert cache.get("used") is not None
    cache.put("new", lambda path: path.write_bytes(b"x"))
    assert {path.name for path in tmp_path.iterdir()} == {"new", "new.sha256", "used", "used.sha256"}
    assert cache.get("used") is not None


def test_a_home_of_nobody_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PC_ENGINE_HOME", "~no-such-user/x")
    with pytest.raises(UsageError, match="PC_ENGINE_HOME is ~no-such-user/x, but there is no such home folder"):
        cache_directory()


def test_a_folder_of_models_that_cannot_be_read_is_said(engine_home: Path) -> None:
    assert models_complaint() == ""  # there is none yet
    models_directory().mkdir(parents=True)
    assert models_complaint() == ""
    models_directory().rmdir()
    models_directory().write_bytes(b"")
    assert models_complaint() == (
        f"Installed models are not listed: the folder {engine_home / 'models'} cannot be read (Not a directory). "
        "Set PC_ENGINE_HOME to another."
    )


def test_the_folder_is_private(tmp_path: Path) -> None:
    FileCache().put("network", lambda path: path.write_bytes(b"compiled"))
    assert stat.S_IMODE(cache_directory().stat().st_mode) == 0o700


def test_files_are_their_users_alone(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    path = cache.put("network", lambda path: path.write_bytes(b"compiled"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "network.sha256").stat().st_mode) == 0o600


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners of files as POSIX has")
@pytest.mark.parametrize("place", ["", "network", "network.sha256"])
def test_what_others_could_have_written_is_absent(tmp_path: Path, place: str) -> None:
    cache = FileCache(tmp_path)
    cache.put("network", lambda path: path.write_bytes(b"compiled"))
    mode = stat.S_IMODE((tmp_path / place).stat().st_mode)
    (tmp_path / place).chmod(mode | 0o020)
    assert cache.get("network") is None
    (tmp_path / place).chmod(mode)
    assert cache.get("network") is not None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners of files as POSIX has")
def test_another_users_folder_is_not_used_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FileCache(tmp_path)
    cache.put("network", lambda path: path.write_bytes(b"compiled"))
    assert cache.complaint() == ""
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    assert cache.get("network") is None
    assert "another user's" in distrust(tmp_path)
    assert cache.complaint().startswith("Nothing is kept for later runs: the folder")
    assert "PC_ENGINE_HOME" in cache.complaint()
    with pytest.raises(PermissionError):
        cache.put("network", lambda path: path.write_bytes(b"compiled"))


def test_a_link_is_absent_and_so_is_a_file_under_another_name(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    for name in ("network", "other"):
        cache.put(name, lambda path: path.write_bytes(b"compiled"))
    (tmp_path / "network").rename(tmp_path / "elsewhere")
    (tmp_path / "network").symlink_to(tmp_path / "elsewhere")
    assert cache.get("network") is None
    for suffix in ("", ".sha256"):
        (tmp_path / f"other{suffix}").rename(tmp_path / f"network{suffix}")
    assert cache.get("network") is None


def test_a_folder_reached_through_a_link_is_used(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    cache = FileCache(tmp_path / "cache")
    assert cache.put("network", lambda path: path.write_bytes(b"compiled")) == cache.get("network")


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    old, recent = tmp_path / "unfinished-old", tmp_path / "unfinished-recent"
    for folder in (old, recent):
        folder.mkdir()
        (folder / "network").write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.put("network", lambda path: path.write_bytes(b"compiled"))
    assert sorted(os.listdir(tmp_path)) == ["network", "network.sha256", "unfinished-recent"]


@pytest.mark.parametrize("name", ["network", "network.sha256"])
def test_every_flipped_bit_of_a_file_and_of_its_sum_makes_it_absent(tmp_path: Path, name: str) -> None:
    cache = FileCache(tmp_path)
    cache.put("network", lambda path: path.write_bytes(b"compiled"))
    content = (tmp_path / name).read_bytes()
    for position in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            (tmp_path / name).write_bytes(changed)
            assert cache.get("network") is None, (position, bit)


@pytest.mark.parametrize("step", ["write", "sum", "replace"])
def test_cut_off_anywhere_the_old_file_stands_or_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    cache = FileCache(tmp_path)
    cache.put("network", lambda path: path.write_bytes(b"old"))

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    def write(path: Path) -> None:
        path.write_bytes(b"new")
        if step == "write":
            kill()

    if step == "sum":
        monkeypatch.setattr(storage, "_sum_line", kill)
    if step == "replace":
        replaced = Path.replace
        monkeypatch.setattr(
            Path, "replace", lambda path, to: kill() if path.name == "digest" else replaced(path, to), raising=True
        )
    with pytest.raises(Killed):
        cache.put("network", write)
    monkeypatch.undo()
    kept = FileCache(tmp_path).get("network")
    assert (kept is None) if step == "replace" else (kept is not None and kept.read_bytes() == b"old")


def test_who_reads_a_cached_file_on_windows_is_waited_for(tmp_path: Path, open_for_a_moment: list[Path]) -> None:
    cache = FileCache(tmp_path)
    path = cache.put("network", lambda path: path.write_bytes(b"new"))
    assert cache.get("network") == path
    assert [path.name for path in open_for_a_moment] == ["network", "digest"]


@pytest.mark.parametrize("name", ["network", "network.sha256"])
@pytest.mark.parametrize("position", [0, -2])
def test_a_flipped_bit_of_a_file_or_of_its_sum_makes_it_absent(tmp_path: Path, name: str, position: int) -> None:
    cache = FileCache(tmp_path)
    cache.put("network", lambda path: path.write_bytes(b"compiled"))
    content = bytearray((tmp_path / name).read_bytes())
    content[position] ^= 1
    (tmp_path / name).write_bytes(content)
    assert cache.get("network") is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0" * 64])
def test_a_sum_that_is_no_sum_makes_the_file_absent(tmp_path: Path, content: bytes) -> None:
    cache = FileCache(tmp_path)
    cache.put("network", lambda path: path.write_bytes(b"compiled"))
    (tmp_path / "network.sha256").write_bytes(content)
    assert cache.get("network") is None


@pytest.mark.parametrize("name", ["network", "network.sha256"])
def test_either_file_missing_makes_it_absent(tmp_path: Path, name: str) -> None:
    cache = FileCache(tmp_path)
    cache.put("network", lambda path: path.write_bytes(b"compiled"))
    (tmp_path / name).unlink()
    assert cache.get("network") is None


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    cache.put("network", lambda path: path.write_bytes(b"compiled"))

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        cache.put("network", fail)
    kept = cache.get("network")
    assert kept is not None
    assert kept.read_bytes() == b"compiled"
    assert sorted(os.listdir(tmp_path)) == ["network", "network.sha256"]


def test_while_a_file_is_written_the_old_one_stands(tmp_path: Path) -> None:
    cache = FileCache(tmp_path)
    cache.put("network", lambda path: path.write_bytes(b"old"))

    def write(path: Path) -> None:
        path.write_bytes(b"new")
        current = cache.get("network")
        assert current is not None
        assert current.read_bytes() == b"old"

    cache.put("network", write)


def test_json_comes_back_and_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache")
    cache.put_json("verdict", {"backend": "openvino", "candidates": [1, None]})
    assert cache.get_json("verdict") == {"backend": "openvino", "candidates": [1, None]}
    assert cache.get_json("other") is None

    (tmp_path / "file").touch()
    blocked = FileCache(tmp_path / "file/cache")  # not even root can make a folder inside a file
    blocked.put_json("verdict", {"backend": "openvino"})
    assert blocked.get_json("verdict") is None
    with pytest.raises(OSError, match="directory"):
        blocked.put("network", lambda path: path.touch())
