from __future__ import annotations

import io
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pc_engine.errors import WeightsError
from pc_engine.export import torch_files
from pc_engine.export.torch_files import read_torch_tensors

torch = pytest.importorskip("torch", reason="PyTorch writes the files that are read")

OLD = {"_use_new_zipfile_serialization": False}


def state() -> dict[str, Any]:
    """Tensors of all kinds of numbers, and in all ways to lie in a storage."""
    numbers = torch.arange(24.0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    return {
        **network.state_dict(),
        "whole": numbers,
        "part": numbers[5:11],
        "turned": numbers.reshape(4, 6).t(),
        "every second": numbers[::2],
        "channels last": numbers.reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "one number": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        **{str(kind): torch.tensor([0, 1, 2, 3]).to(kind) for kind in KINDS},
    }


KINDS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


@pytest.mark.parametrize("form", [{}, OLD, {"pickle_protocol": 4}, OLD | {"pickle_protocol": 4}])
def test_every_tensor_is_what_pytorch_reads(tmp_path: Path, form: dict[str, Any]) -> None:
    path, wanted = tmp_path / "w.pth", state()
    torch.save(wanted, path, **form)
    found = read_torch_tensors(path)
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype.name == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(found[name].astype(np.float64), tensor.detach().double().numpy(), name)


@pytest.mark.parametrize("form", [{}, OLD])
def test_what_a_training_script_keeps_beside_them_is_passed_over(tmp_path: Path, form: dict[str, Any]) -> None:
    network = torch.nn.Linear(2, 3)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    parallel = OrderedDict((f"module.{name}", tensor) for name, tensor in network.state_dict().items())
    kept = {
        "epoch": 3,
        "best": 0.5,
        "state_dict": parallel,
        "optimizer": optimiser.state_dict(),
        "size": torch.Size([2]),
    }
    torch.save(kept, tmp_path / "w.pth", **form)
    assert list(read_torch_tensors(tmp_path / "w.pth")) == ["weight", "bias"]


def test_numbers_of_the_other_byte_order(tmp_path: Path) -> None:
    torch.save({"a": torch.tensor([1.0, -2.5])}, tmp_path / "w.pth")

    def turned(name: str, data: bytes) -> bytes:
        if name.endswith("byteorder"):
            return b"big"
        return np.frombuffer(data, "<f4").astype(">f4").tobytes() if "/data/" in name else data

    rewrite(tmp_path / "w.pth", turned)
    assert read_torch_tensors(tmp_path / "w.pth")["a"].tolist() == [1.0, -2.5]


def rewrite(path: Path, changed: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write an archive anew, each member as ``changed`` has it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, changed(name, data))


class Refused:
    def __init__(self, made_by: tuple[Any, ...]) -> None:
        self._made_by = made_by

    def __reduce__(self) -> tuple[Any, ...]:
        return self._made_by


@pytest.mark.parametrize("form", [{}, OLD, {"pickle_protocol": 4}])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda marker: {"a": Refused((type(marker).touch, (marker,)))}, id="a call"),
        pytest.param(lambda marker: {"a": Refused((eval, (f"open({str(marker)!r}, 'w')",)))}, id="eval"),
        pytest.param(lambda _: torch.nn.Linear(2, 3), id="a network"),
        pytest.param(lambda _: {"a": Path()}, id="an object"),
        pytest.param(lambda _: {"a": torch.zeros(3)._neg_view()}, id="a tensor to be negated"),
        pytest.param(lambda _: {"a": torch.zeros(1).expand(9)}, id="a tensor that repeats its numbers"),
        pytest.param(lambda _: {"a": {2**40: 1}}, id="a key that is a large number"),
        pytest.param(lambda _: {"a": {1.5: 1}}, id="a key that is a fraction"),
        pytest.param(lambda _: {(1, 2): 3}, id="a key that is no text"),
    ],
)
def test_what_is_no_plain_container_is_refused_and_not_run(
    tmp_path: Path, form: dict[str, Any], content: Callable[[Path], Any]
) -> None:
    marker = tmp_path / "ran"
    torch.save(content(marker), tmp_path / "w.pth", **form)
    with pytest.raises(WeightsError, match=r"and plain containers \(.+\), and is refused, as it could run code"):
        read_torch_tensors(tmp_path / "w.pth")
    assert not marker.exists()


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt", "a") as archive:
        archive.writestr("w/constants.pkl", b"")
    with pytest.raises(WeightsError, match="it is a TorchScript program"):
        read_torch_tensors(tmp_path / "w.pt")


class Writer(pickle.Pickler):
    """Writes `Name` and `Id` as PyTorch names its classes and its storages."""

    def reducer_override(self, value: Any) -> Any:
        return value.name if isinstance(value, Name) else NotImplemented

    def persistent_id(self, value: Any) -> Any:
        return value.of if isinstance(value, Id) else None


class Name:
    def __init__(self, name: str) -> None:
        self.name = name


class Id:
    def __init__(self, of: Any) -> None:
        self.of = of


FLOATS = torch.FloatStorage
REBUILD = torch._utils._rebuild_tensor_v2


def archive(path: Path, content: Any, data: bytes = bytes(16), **members: bytes) -> Path:
    """Write what ``torch.save`` would, with a single storage of these bytes."""
    stream = io.BytesIO()
    Writer(stream, 2).dump(content)
    with zipfile.ZipFile(path, "w") as file:
        for name, written in {"data.pkl": stream.getvalue(), "data/0": data, **members}.items():
            file.writestr(f"w/{name}", written)
    return path


def tensor(storage: Any = ("storage", FLOATS, "0", "cpu", 4), *layout: Any) -> Refused:
    return Refused((REBUILD, (Id(storage), *(layout or (0, (4,), (1,))), False, OrderedDict())))


def test_an_archive_made_by_hand_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "w.pth", {"a": tensor()}, struct.pack("<4f", 1, 2, 3, 4))
    assert read_torch_tensors(path)["a"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param({"a": tensor(("storage", FLOATS, "0", "cpu", 4), 0, (5,), (1,))}, "lies beyond", id="too long"),
        pytest.param({"a": tensor(("storage", FLOATS, "0", "cpu", 4), 2, (3,), (1,))}, "lies beyond", id="too late"),
        pytest.param({"a": tensor(("storage", FLOATS, "0", "cpu", 4), 0, (2, 2), (3, 1))}, "lies beyond", id="far"),
        pytest.param({"a": tensor(("storage", FLOATS, "0", "cpu", 4), -1, (1,), (1,))}, "does not take", id="before"),
        pytest.param(
            {"a": tensor(("storage", FLOATS, "0", "cpu", 4), 0, (2,), (-1,))}, "does not take", id="backwards"
        ),
        pytest.param({"a": tensor(("storage", FLOATS, "0", "cpu", 4), 0, (2,), (1, 1))}, "does not take", id="ragged"),
        pytest.param({"a": tensor(("storage", FLOATS, "0", "cpu", 5))}, "has 16 bytes", id="another size"),
        pytest.param({"a": tensor(("storage", FLOATS, "1", "cpu", 4))}, "w/data/1", id="absent"),
        pytest.param({"a": tensor(("storage", FLOATS, "0", "cpu", -4))}, "has no size", id="negative"),
        pytest.param({"a": tensor(("storage", FLOATS, ("0",), "cpu", 4))}, "or no name", id="unnamed"),
        pytest.param({"a": tensor(("tensor", FLOATS, "0", "cpu", 4))}, "an unknown type", id="no storage"),
        pytest.param({"a": tensor("storage")}, "not enough values", id="no description"),
        pytest.param({"a": Refused((OrderedDict, ([["a", 1]],)))}, "OrderedDict is called with", id="pairs"),
    ],
)
def test_what_does_not_fit_together_is_damaged(tmp_path: Path, content: Any, reason: str) -> None:
    with pytest.raises(WeightsError, match=rf"w\.pth is damaged, cut off or not a PyTorch file \(.*{reason}"):
        read_torch_tensors(archive(tmp_path / "w.pth", content))


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(b"\x80\x02.", id="nothing to return"),
        pytest.param(b"\x80\x02}", id="no end"),
        pytest.param(b"\x80\x02K\x01K\x02s.", id="an entry of a number"),
        pytest.param(b"\x80\x02}K\x01K\x02K\x03(s.", id="a mark as an entry"),
        pytest.param(b"\x80\x02h\x07.", id="a memory of nothing"),
        pytest.param(b"\x80\x02K\x01K\x02R.", id="a call of a number"),
        pytest.param(b"\x80\x02K\x01K\x02b.", id="a state of a number"),
        pytest.param(b"\x80\x02e.", id="values without a beginning"),
        pytest.param(b"not a pickle", id="no pickle"),
    ],
)
def test_a_program_that_goes_wrong_is_damaged(tmp_path: Path, program: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as file:
        file.writestr("w/data.pkl", program)
    with pytest.raises(WeightsError, match="is damaged, cut off or not a PyTorch file"):
        read_torch_tensors(tmp_path / "w.pth")


def test_an_archive_that_is_cut_off_is_one(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(5000)}, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:9000])
    with pytest.raises(WeightsError, match=r"w\.pth is damaged, cut off .* \(File is not a zip file\); get it again"):
        read_torch_tensors(tmp_path / "w.pth")


def test_what_would_be_endless_when_written_out_is_not(tmp_path: Path) -> None:
    """Tuples of the tuple before, sixty times, as the name of a class: 2**60 texts."""
    doubled = b"K\x01\x94" + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86\x94" for n in range(60))
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as file:
        file.writestr("w/data.pkl", b"\x80\x04" + doubled + b"\x8c\x01a\x93.")
    begun = time.thread_time()
    with pytest.raises(WeightsError, match="a name is not text"):
        read_torch_tensors(tmp_path / "w.pth")
    assert time.thread_time() - begun < 5


def program(path: Path, *instructions: bytes) -> Path:
    """Write an archive with this pickle and no storages."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("w/data.pkl", b"\x80\x02" + b"".join(instructions) + b".")
    return path


def test_more_instructions_than_any_state_dict_has_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_files, "_MOST_INSTRUCTIONS", 1000)
    assert read_torch_tensors(program(tmp_path / "w.pth", b"}" * 900)) == {}
    with pytest.raises(WeightsError, match="more than 1,000 instructions"):
        read_torch_tensors(program(tmp_path / "w.pth", b"}" * 1000))


def test_a_shape_that_is_named_often_is_not_gone_through_each_time(tmp_path: Path) -> None:
    """A million axes, and twenty thousand tensors that have them."""
    axes = b"(" + b"K\x01" * 1_000_000 + b"tq\x00"
    called = b"ctorch._utils\n_rebuild_tensor_v2\nq\x01(NK\x00h\x00h\x00tq\x02"
    begun = time.thread_time()
    with pytest.raises(WeightsError, match="is called with what it does not take"):
        read_torch_tensors(program(tmp_path / "w.pth", axes, called, b"h\x01h\x02R" * 20_000))
    assert time.thread_time() - begun < 30


def test_members_that_lie_in_one_another_are_not_read(tmp_path: Path) -> None:
    """A directory that names one member's bytes many times: an archive of megabytes would hold gigabytes."""
    path = archive(tmp_path / "w.pth", {"a": tensor()}, bytes(1000), **{"data/1": bytes(1000)})
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    end = data.index(b"PK\x05\x06")
    entry = bytes(data[at : data.index(b"PK\x01\x02", at + 4)])
    entries = [entry.replace(b"data/0", b"data/%d" % n) for n in range(2, 10)]
    count = struct.pack("<HH", 3 + len(entries), 3 + len(entries))
    data[end + 8 : end + 12] = count
    data[end + 12 : end + 16] = struct.pack("<I", end - data.index(b"PK\x01\x02") + sum(map(len, entries)))
    data[end:end] = b"".join(entries)
    path.write_bytes(data)
    assert len(zipfile.ZipFile(path).infolist()) == 11
    with pytest.raises(WeightsError, match="its members are compressed, or overlap"):
        read_torch_tensors(path)


@pytest.mark.parametrize("order", [b"little\n", b"middle", b""])
def test_an_order_of_bytes_that_is_not_known_is_damage(tmp_path: Path, order: bytes) -> None:
    with pytest.raises(WeightsError, match="order of its bytes is not known"):
        read_torch_tensors(archive(tmp_path / "w.pth", {"a": tensor()}, byteorder=order))


def test_what_a_file_names_cannot_change_the_terminal(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as raised:
        read_torch_tensors(program(tmp_path / "w.pth", b"cfoo\x1b[31m\nbar\n"))
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(("content", "kind"), [(torch.zeros(3), "tensor"), ([1], "list"), (torch.float16, "named")])
def test_what_is_no_state_dict_is_named(tmp_path: Path, content: Any, kind: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=f"holds a {kind}, expected a state_dict of named tensors"):
        read_torch_tensors(tmp_path / "w.pth")


def test_a_parameter_with_attributes_is_its_tensor(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.kept = "beside it"
    torch.save({"a": parameter}, tmp_path / "w.pth")
    assert read_torch_tensors(tmp_path / "w.pth")["a"].tolist() == [1, 1]


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pth")
    rewrite(tmp_path / "w.pth", lambda _, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="its members are compressed"):
        read_torch_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("form", [{}, OLD])
def test_a_file_that_is_cut_off_says_so(tmp_path: Path, form: dict[str, Any]) -> None:
    torch.save(state(), tmp_path / "whole.pth", **form)
    data = (tmp_path / "whole.pth").read_bytes()
    for length in (0, 1, 20, 100, len(data) // 2, len(data) - 40):
        (tmp_path / "w.pth").write_bytes(data[:length])
        with pytest.raises(WeightsError, match=r"w\.pth is damaged, cut off or not a PyTorch file"):
            read_torch_tensors(tmp_path / "w.pth")


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        read_torch_tensors(tmp_path)
