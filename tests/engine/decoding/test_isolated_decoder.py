from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pc_engine.decoding.decode import decode_bytes
from pc_engine.decoding.isolated_decoder import IsolatedDecoder
from pc_engine.decoding.pixel_room import PixelRoom
from pc_engine.decoding.settings import Decoders, Decoding
from pc_engine.errors import ImageError, PcEngineError, UsageError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

SIZE = (32, 48)
# Seconds, for what is sure to happen.
PATIENCE = 120


def encode(seed: int, file_format: str = "JPEG", size: tuple[int, int] = (90, 60)) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), np.uint8)
    Image.fromarray(pixels).resize(size).save(stream, file_format)
    return stream.getvalue()


PICTURE = encode(0)


def processes_of(decoder: IsolatedDecoder) -> list[int]:
    """The processes in the groups of the decoder's keepers."""
    groups = set(decoder.keepers)
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) in groups and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def decoder(crashing_decoder: str) -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder(1, seconds=600, function=crashing_decoder) as decoder:
        yield decoder


def failure(decoder: IsolatedDecoder, data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decoder.decode(data, *SIZE)
    return str(caught.value)


def still_right(decoder: IsolatedDecoder) -> bool:
    return bool((decoder.decode(PICTURE, *SIZE).pixels == decode_bytes(PICTURE, *SIZE).pixels).all())


def test_processes_decode_what_threads_do() -> None:
    files = [encode(k, ("JPEG", "PNG", "WEBP", "TIFF")[k % 4], (60 + k, 90)) for k in range(24)] * 3
    with IsolatedDecoder(3) as decoder, ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda data: decoder.decode(data, *SIZE), files))
    for image, data in zip(found, files, strict=True):
        expected = decode_bytes(data, *SIZE)
        assert (image.width, image.height) == (expected.width, expected.height)
        np.testing.assert_array_equal(image.pixels, expected.pixels)


@pytest.mark.parametrize("data", [b"", b"no picture", PICTURE[:600], b"%PDF-1.7"])
def test_a_file_that_cannot_be_read_has_the_sentence_of_a_thread(decoder: IsolatedDecoder, data: bytes) -> None:
    with pytest.raises(ImageError) as expected:
        decode_bytes(data, *SIZE)
    assert failure(decoder, data) == str(expected.value)
    assert still_right(decoder)


@pytest.mark.parametrize(
    ("mark", "sentence"),
    [
        ("segfault", "It made the decoder crash (with SIGSEGV): the file is damaged, or made to do that."),
        ("abort", "It made the decoder crash (with SIGABRT): the file is damaged, or made to do that."),
        ("exit", "It made the decoder crash (with exit code 7): the file is damaged, or made to do that."),
        ("bug", "It made the decoder crash (with exit code 1): the file is damaged, or made to do that."),
        ("killed", "The process that decoded it was killed, perhaps as memory ran out: scale it down first."),
        ("many", "It does not fit into memory: scale it down first."),
    ],
)
def test_what_ends_a_process_costs_its_own_file_only(decoder: IsolatedDecoder, mark: str, sentence: str) -> None:
    for _ in range(2):
        assert failure(decoder, PICTURE + f"#{mark}".encode()) == sentence
        assert still_right(decoder)
    assert len(decoder.keepers) == 1


def test_a_file_that_takes_too_long_is_given_up_and_not_tried_again(crashing_decoder: str, tmp_path: Path) -> None:
    too_long = "Decoding takes longer than 0.5 seconds, the limit (--image-seconds)."
    tries = tmp_path / "tries"

    def right_at_last() -> bool:
        while time.monotonic() < end:
            with contextlib.suppress(ImageError):  # as of one that a busy machine takes too long for
                return still_right(decoder)
        return still_right(decoder)

    end = time.monotonic() + PATIENCE
    with IsolatedDecoder(1, seconds=0.5, function=crashing_decoder) as decoder:
        assert right_at_last()
        while not tries.exists():  # as long as it did not come to decode it
            start = time.monotonic()
            assert failure(decoder, PICTURE + b"#hang:" + os.fsencode(tries)) == too_long
            assert time.monotonic() - start > 0.4
            assert time.monotonic() < end
        assert right_at_last()
    assert tries.read_bytes() == b"x"


def test_a_file_is_tried_again_where_a_decoder_crashed_on_it_once(decoder: IsolatedDecoder, tmp_path: Path) -> None:
    image = decoder.decode(PICTURE + b"#once:" + os.fsencode(tmp_path / "been"), *SIZE)
    assert (tmp_path / "been").exists()
    np.testing.assert_array_equal(image.pixels, decode_bytes(PICTURE, *SIZE).pixels)


def test_a_decoder_that_destroys_its_channel_harms_no_other_image(decoder: IsolatedDecoder) -> None:
    assert decoder.decode(PICTURE + b"#cut", *SIZE).pixels.shape == (*SIZE, 3)
    assert still_right(decoder)


@pytest.mark.parametrize(
    ("mark", "sentence"),
    [
        ("wipe", "It made the decoder crash (with exit code 1): the file is damaged, or made to do that."),
        ("size", "It made the decoder answer with a size that no picture has: the file is damaged."),
    ],
)
def test_a_decoder_that_a_file_has_taken_over_cannot_end_the_run(
    decoder: IsolatedDecoder, mark: str, sentence: str
) -> None:
    assert still_right(decoder)
    for _ in range(2):
        assert failure(decoder, PICTURE + f"#{mark}".encode()) == sentence
        assert still_right(decoder)


def test_many_crashes_among_many_threads_leave_the_others_right(crashing_decoder: str) -> None:
    files = [encode(k) + (b"#segfault" if k % 5 == 0 else b"") for k in range(60)]

    def outcome(data: bytes) -> np.ndarray | str:
        try:
            return decoder.decode(data, *SIZE).pixels
        except ImageError as error:
            return str(error)

    with IsolatedDecoder(3, function=crashing_decoder) as decoder, ThreadPoolExecutor(3) as pool:
        found = list(pool.map(outcome, files))
    for k, (one, data) in enumerate(zip(found, files, strict=True)):
        if k % 5 == 0:
            assert "SIGSEGV" in str(one)
        else:
            np.testing.assert_array_equal(one, decode_bytes(data, *SIZE).pixels)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
def test_a_decoder_or_its_keeper_that_is_killed_between_images_is_replaced(decoder: IsolatedDecoder) -> None:
    assert still_right(decoder)
    (keeper,) = decoder.keepers
    for _ in range(3):
        for pid in set(processes_of(decoder)) - {keeper}:
            os.kill(pid, signal.SIGKILL)
        assert still_right(decoder)
    for pid in processes_of(decoder):
        os.kill(pid, signal.SIGKILL)
    assert still_right(decoder)
    assert len(decoder.keepers) == 2
    assert "SIGSEGV" in failure(decoder, PICTURE + b"#segfault")


def test_a_decoder_that_ends_between_images_is_not_blamed_on_the_next_one() -> None:
    picture = encode(3, "PNG", (900, 600))  # takes a while, and is in work when the run learns of the death
    expected = decode_bytes(picture, *SIZE).pixels
    ended = threading.Event()

    def keep_busy() -> None:
        while not ended.is_set():
            sum(range(2000))

    threads = [threading.Thread(target=keep_busy) for _ in range(2)]
    with IsolatedDecoder(1, seconds=600) as decoder:
        for thread in threads:
            thread.start()
        try:
            for _ in range(25):
                decoder.decode(picture, *SIZE)
                for process in set(processes_of(decoder)) - set(decoder.keepers):
                    os.kill(process, signal.SIGKILL)
                time.sleep(0.02)
                np.testing.assert_array_equal(decoder.decode(picture, *SIZE).pixels, expected)
        finally:
            ended.set()
            for thread in threads:
                thread.join()


def test_processes_that_end_at_once_end_the_run_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        IsolatedDecoder(1, function="pc_engine.no_such_module:decode") as decoder,
        pytest.raises(PcEngineError, match="exit as soon as they are started"),
    ):
        decoder.decode(PICTURE, *SIZE)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(PcEngineError, match="No process for decoding can be started"):
        IsolatedDecoder(1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
def test_closing_ends_all_processes_and_leaves_no_descriptor(crashing_decoder: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    decoder = IsolatedDecoder(2, function=crashing_decoder)
    assert still_right(decoder)
    assert len(processes_of(decoder)) == 3
    keepers = decoder.keepers
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(decoder.decode, PICTURE + b"#hang", *SIZE)
        # Again and again: a decoder that had not begun yet is replaced by one that will hang.
        end = time.monotonic() + 50
        while not hanging.done() and time.monotonic() < end:
            time.sleep(0.2)
            for pid in set(processes_of(decoder)) - set(keepers):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGALRM)
        with pytest.raises(ImageError, match="longer than 60 seconds"):
            hanging.result(timeout=30)
    decoder.close()
    assert decoder.keepers == ()
    with pytest.raises(UsageError, match="was closed"):
        decoder.decode(PICTURE, *SIZE)
    assert not [pid for pid in keepers if Path(f"/proc/{pid}").exists()]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
def test_nothing_is_left_of_a_decoder_that_is_forgotten() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    decoder = IsolatedDecoder(2)
    assert still_right(decoder)
    processes = processes_of(decoder)
    assert len(processes) == 3
    del decoder
    gc.collect()
    end = time.monotonic() + PATIENCE
    while left := [pid for pid in processes if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")
def test_closing_during_work_starts_nothing_and_touches_no_other_file(
    crashing_decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    room = PixelRoom(90 * 60)
    decoder = IsolatedDecoder(2, max_pixels=90 * 60, room=room, function=crashing_decoder)
    waiting, taken = threading.Event(), room.taken
    with ThreadPoolExecutor(3) as pool:
        with room.taken(90 * 60):
            monkeypatch.setattr(room, "taken", lambda pixels: (waiting.set(), taken(pixels))[1])
            # One waits for its decoder, one for room, and one for either of them to be done.
            work = [pool.submit(decoder.decode, PICTURE + mark, *SIZE) for mark in (b"#hang", b"", b"")]
            assert waiting.wait(PATIENCE)
            decoder.close()
            # These would get the numbers of descriptors that were closed too early.
            others = [(tmp_path / f"{k}").open("wb") for k in range(8)]
        for each in work:
            with pytest.raises(UsageError, match="was closed"):
                each.result(timeout=PATIENCE)
    assert decoder.keepers == ()
    for other in others:
        other.close()
        assert Path(other.name).read_bytes() == b""
    assert len(os.listdir("/proc/self/fd")) == before


PARENT = """
import os, sys
from pc_engine.decoding.isolated_decoder import IsolatedDecoder
decoder = IsolatedDecoder(2)
print(*decoder.keepers, flush=True)
sys.stdin.read(1)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
def test_nothing_is_left_of_a_run_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        keeper = int(parent.stdout.readline())
        assert Path(f"/proc/{keeper}").exists()
        parent.communicate(b"x")
    deadline = time.monotonic() + PATIENCE
    while _group(keeper) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _group(keeper)


def _group(leader: int) -> bool:
    """Whether a process group has members that run."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            return True
    return False


_WITHOUT_STREAMS = """
import os, sys
from pathlib import Path
from pc_engine.decoding.isolated_decoder import IsolatedDecoder
for number in (0, 1, 2):
    os.close(number)
with IsolatedDecoder(1) as decoder:
    Path(sys.argv[2]).write_bytes(decoder.decode(Path(sys.argv[1]).read_bytes(), 8, 8).pixels.tobytes())
"""


def test_closed_streams_are_no_channels(tmp_path: Path) -> None:
    picture, pixels = tmp_path / "a.png", tmp_path / "pixels"
    picture.write_bytes(encode(3, "PNG"))
    subprocess.run([sys.executable, "-c", _WITHOUT_STREAMS, str(picture), str(pixels)], check=True, timeout=PATIENCE)
    assert pixels.read_bytes() == decode_bytes(picture.read_bytes(), 8, 8).pixels.tobytes()


_WITH_FEW_DESCRIPTORS = """
import resource, sys
from pathlib import Path
from pc_engine.decoding.isolated_decoder import IsolatedDecoder
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
with IsolatedDecoder(64) as decoder:
    decoder.decode(Path(sys.argv[1]).read_bytes(), 8, 8)
may, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
print(may if most == resource.RLIM_INFINITY or most >= 4096 else 4096)
"""


def test_many_processes_may_have_more_files_open_than_the_system_gives_at_first(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(3, "PNG"))
    command = [sys.executable, "-c", _WITH_FEW_DESCRIPTORS, str(tmp_path / "a.png")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "4096\n", "")


def test_the_folder_of_the_photos_is_no_place_to_import_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numpy", "json", "PIL", "pc_engine"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    with IsolatedDecoder(1) as decoder:
        assert still_right(decoder)


def test_memory_of_a_large_file_is_given_back(decoder: IsolatedDecoder) -> None:
    large = encode(1, "BMP", (4000, 3000))
    np.testing.assert_array_equal(decoder.decode(large, *SIZE).pixels, decode_bytes(large, *SIZE).pixels)
    (slot,) = decoder._slots
    assert os.fstat(slot._memory).st_size < 1 << 20
    assert still_right(decoder)


@pytest.mark.parametrize("how", ["absent", "forbidden"])
def test_where_there_are_no_files_in_memory_one_on_disk_is_shared(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def forbid(_: str) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if how == "forbidden":
        monkeypatch.setattr(os, "memfd_create", forbid, raising=False)
    else:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    with IsolatedDecoder(1) as decoder:
        assert still_right(decoder)


def test_memory_that_runs_out_for_the_channel_costs_the_image(
    decoder: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr("pc_engine.decoding.isolated_decoder.write_memory", fail)
        assert failure(decoder, PICTURE) == "There is no memory to hand it to its decoder (No space left on device)."
    assert still_right(decoder)


def test_large_pictures_of_several_processes_share_the_room() -> None:
    files = [encode(k, "PNG", (400, 300)) for k in range(12)]
    room = PixelRoom(400 * 300 + 1)
    with IsolatedDecoder(3, max_pixels=400 * 300, room=room) as decoder, ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda data: decoder.decode(data, *SIZE), files))
        with room.taken(400 * 300):  # all of it was given back
            pass
    for image, data in zip(found, files, strict=True):
        np.testing.assert_array_equal(image.pixels, decode_bytes(data, *SIZE).pixels)


def test_room_is_given_back_by_a_process_that_dies_with_it(crashing_decoder: str) -> None:
    room = PixelRoom(90 * 60)
    with IsolatedDecoder(1, max_pixels=90 * 60, room=room, function=crashing_decoder) as decoder:
        for _ in range(3):
            assert "SIGSEGV" in failure(decoder, PICTURE + b"#segfault")
            assert still_right(decoder)
    with room.taken(90 * 60):
        pass


def test_the_limit_of_pixels_holds_in_processes() -> None:
    with IsolatedDecoder(1, max_pixels=90 * 60 - 1) as decoder:
        assert "90 x 60 pixels, more than the limit of 5,399" in failure(decoder, PICTURE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_pixels": 0}, "max_pixels is 0"),
        ({"image_seconds": 0.0, "isolate": True}, "image_seconds is 0.0"),
        ({"image_seconds": float("nan"), "isolate": True}, "image_seconds is nan"),
        ({"image_seconds": 3.0}, "add --isolate"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Decoding(**settings)  # type: ignore[arg-type]


def test_systems_that_cannot_fork_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    with pytest.raises(UsageError, match="needs Linux or macOS: omit --isolate"):
        Decoders(Decoding(isolate=True), 1, None)


def test_the_gpu_decodes_nothing_in_this_process_where_decoding_is_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a decoder on the GPU was opened")

    monkeypatch.setattr("pc_engine.decoding.settings.DeviceDecoder", fail)
    decoders = Decoders(Decoding(isolate=True), 1, "cuda:0")
    try:
        assert decoders.on_device is None
        assert decoders.decode(PICTURE, *SIZE).width == 90
    finally:
        decoders.close()
