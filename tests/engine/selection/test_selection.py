from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from pc_engine.backbone import Backbone, CompileRequest, Probe
from pc_engine.backends import BACKENDS, OnnxRuntimeBackend
from pc_engine.errors import BackendError, ModelError, UsageError
from pc_engine.files.storage import FileCache, cache_directory
from pc_engine.manifest import NETWORK_FILE, QUANTISED_FILES, Fidelity, QuantisedNetwork
from pc_engine.manifest_file import read_manifest, write_manifest
from pc_engine.model import load_model
from pc_engine.networks import network_request
from pc_engine.selection import candidates, execution, selection
from pc_engine.selection.candidates import TOLERANCE, exact_difference, probe_images, tap_difference
from pc_engine.selection.selection import Selection, open_backbone, refusal, require_precision, select


@dataclass
class FakeBackbone:
    """ONNX Runtime's numbers, changed, in the time that is said."""

    request: CompileRequest
    network: Backbone
    fake: FakeBackend
    parallel: int = 1
    remarks = ()

    @property
    def backend(self) -> str:
        return self.fake.name

    def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.fake.inferred += 1
        self.fake.spent += self.fake.seconds
        return {name: self.fake.distort(tap) for name, tap in self.network.infer(images).items()}

    def close(self) -> None:
        self.network.close()


@dataclass
class FakeBackend:
    name: str
    precisions: tuple[str, ...] = ("fp32",)
    seconds: float = 0.001
    distort: Callable[[np.ndarray], np.ndarray] = lambda tap: tap
    version: str = "1"
    reason: str = ""
    compile_fails: bool = False
    load_fails: bool = False
    save_fails: bool = False
    compiled: int = 0
    loaded: int = 0
    inferred: int = 0
    spent: float = 0.0
    devices: tuple[str, ...] = ("cpu",)
    inner: OnnxRuntimeBackend = field(default_factory=OnnxRuntimeBackend)

    def probe(self, device: str = "cpu") -> Probe:
        return Probe(not self.reason, self.reason or "works", self.version, () if self.reason else self.precisions)

    def compile(self, request: CompileRequest, save_to: Path | None = None) -> FakeBackbone:
        self.compiled += 1
        if self.compile_fails or (self.save_fails and save_to is not None):
            raise BackendError(f"{self.name} cannot compile this.")
        return FakeBackbone(request, self.inner.compile(replace(request, precision="fp32"), save_to), self)

    def load(self, request: CompileRequest, saved: Path) -> FakeBackbone:
        self.loaded += 1
        if self.load_fails:
            raise BackendError(f"{self.name} cannot load this.")
        return FakeBackbone(request, self.inner.load(replace(request, precision="fp32"), saved), self)


@pytest.fixture
def request_(tiny_directory: Path) -> CompileRequest:
    return replace(network_request(load_model(tiny_directory), ("conv_last", "logits"), batch_size=2), threads=1)


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the backends by fakes; the reference stays ONNX Runtime. Time passes in their networks only."""

    def replace_by(*fakes: FakeBackend) -> None:
        known = {"onnxruntime": FakeBackend("onnxruntime", seconds=0.02), **{fake.name: fake for fake in fakes}}
        for module in (candidates, execution, selection):
            monkeypatch.setattr(module, "BACKENDS", known)
        clock = SimpleNamespace(perf_counter=lambda: sum(fake.spent for fake in known.values()))
        monkeypatch.setattr(candidates, "time", clock)

    return replace_by


def test_the_fastest_backend_that_agrees_is_chosen(request_: CompileRequest, backends: Callable[..., None]) -> None:
    backends(FakeBackend("quick", seconds=0.002), FakeBackend("slow", seconds=0.04))
    chosen = select(request_)
    assert (chosen.backend, chosen.precision) == ("quick", "fp32")
    speed = {candidate.backend: candidate.images_per_second for candidate in chosen.candidates}
    assert speed == pytest.approx({"quick": 2 / 0.002, "onnxruntime": 2 / 0.02, "slow": 2 / 0.04})
    assert [candidate.difference for candidate in chosen.candidates] == [0, 0, 0]


@pytest.mark.parametrize(
    "distort",
    [
        lambda tap: tap * 1.1,
        lambda tap: tap + 0.1,
        lambda tap: np.full_like(tap, np.nan),
        lambda tap: np.where(np.arange(tap.size).reshape(tap.shape) == 0, np.inf, tap),
        lambda tap: tap[::-1],
    ],
    ids=["scaled", "shifted", "NaN", "infinite", "images swapped"],
)
def test_a_backend_with_wrong_numbers_is_rejected_however_fast(
    request_: CompileRequest, backends: Callable[..., None], distort: Callable[[np.ndarray], np.ndarray]
) -> None:
    backends(FakeBackend("wrong", distort=distort))
    chosen = select(request_)
    assert chosen.backend == "onnxruntime"
    rejected = {candidate.backend: candidate for candidate in chosen.candidates}["wrong"]
    assert rejected.reason.startswith("differs from the reference by ")
    assert rejected.images_per_second is None
    with pytest.raises(UsageError, match="no backend 'other'"):
        open_backbone(request_, "other")


def test_a_precision_is_judged_by_its_own_tolerance(request_: CompileRequest, backends: Callable[..., None]) -> None:
    coarse = FakeBackend("coarse", ("fp32", "bf16"), distort=lambda tap: tap * 1.01)
    backends(coarse)
    chosen = select(request_)
    assert (chosen.backend, chosen.precision) == ("coarse", "bf16")
    assert {c.precision: bool(c.reason) for c in chosen.candidates if c.backend == "coarse"} == {
        "fp32": True,
        "bf16": False,
    }


def test_where_none_keeps_to_the_tolerance_of_a_precision_asked_for_by_name_the_nearest_runs(
    request_: CompileRequest, backends: Callable[..., None]
) -> None:
    backends(
        FakeBackend("far", ("bf16",), distort=lambda tap: tap * 2),
        FakeBackend("near", ("bf16",), distort=lambda tap: tap * 1.25),
        FakeBackend("farther", ("bf16",), distort=lambda tap: tap * 3),
    )
    chosen = select(request_, precision="bf16")
    assert (chosen.backend, chosen.precision) == ("near", "bf16")
    assert all(candidate.reason.startswith("differs") for candidate in chosen.candidates)


def test_a_backend_that_fails_to_compile_is_rejected_with_its_reason(
    request_: CompileRequest, backends: Callable[..., None]
) -> None:
    backends(FakeBackend("broken", compile_fails=True), FakeBackend("absent", reason="absent is not installed."))
    chosen = select(request_)
    assert chosen.backend == "onnxruntime"
    assert {candidate.backend: candidate.reason for candidate in chosen.candidates} == {
        "onnxruntime": "",
        "broken": "broken cannot compile this.",
    }


def test_the_verdict_is_kept_and_the_second_time_compiles_nothing(
    request_: CompileRequest, backends: Callable[..., None]
) -> None:
    quick = FakeBackend("quick")
    backends(quick)
    reports: list[str] = []
    first = open_backbone(request_, report=reports.append)
    assert first.backend == "quick"
    assert [report.split()[0] for report in reports] == ["Choosing", "Compiling"]
    compiled = quick.compiled
    second = open_backbone(request_, report=reports.append)
    assert second.backend == "quick"
    assert (quick.compiled, quick.loaded) == (compiled, 2)
    assert len(reports) == 2
    images = probe_images(64, 64, 2, seed=1)
    np.testing.assert_array_equal(first.infer(images)["logits"], second.infer(images)["logits"])


def test_the_kept_verdict_is_the_measured_one_and_can_be_taken_anew(
    request_: CompileRequest, backends: Callable[..., None]
) -> None:
    quick = FakeBackend("quick")
    backends(quick)
    verdict = select(request_)
    assert isinstance(verdict, Selection)
    assert select(request_) == verdict
    quick.distort = lambda tap: tap * 2
    assert select(request_).backend == "quick"
    assert select(request_, fresh=True).backend == "onnxruntime"
    assert select(request_).backend == "onnxruntime"


def test_a_choice_made_beside_others_is_measured_once_more_and_the_better_timing_counts(
    request_: CompileRequest, backends: Callable[..., None], others_share: Callable[[float], None]
) -> None:
    said: list[str] = []
    fast = FakeBackend("fast", seconds=0.2)  # slowed down by others
    backends(fast)
    others_share(0.5)
    first = select(request_, report=said.append)
    assert (first.backend, first.provisional) == ("onnxruntime", True)
    assert "50% of the cores" in said[-1]
    fast.seconds = 0.001
    second = select(request_, report=said.append)
    assert (second.backend, second.provisional) == ("fast", False)
    fast.seconds = 0.2
    compiled = fast.compiled
    assert select(request_, report=said.append) == second
    assert fast.compiled == compiled


def test_a_better_timing_of_before_counts_too(
    request_: CompileRequest, backends: Callable[..., None], others_share: Callable[[float], None]
) -> None:
    fast = FakeBackend("fast")
    backends(fast)
    others_share(0.5)
    assert select(request_).backend == "fast"
    fast.seconds = 0.2
    assert select(request_).backend == "fast"


def test_candidates_close_to_the_fastest_are_timed_again(
    request_: CompileRequest, backends: Callable[..., None]
) -> None:
    slow_at_first = FakeBackend("other", seconds=0.025)
    far = FakeBackend("far", seconds=0.5)
    backends(slow_at_first, far)
    compile_ = slow_at_first.compile

    def faster_the_second_time(request: CompileRequest, save_to: Path | None = None) -> FakeBackbone:
        slow_at_first.seconds = 0.001 if slow_at_first.compiled else 0.025
        return compile_(request, save_to)

    slow_at_first.compile = faster_the_second_time  # type: ignore[method-assign]
    assert select(request_).backend == "other"
    assert (slow_at_first.compiled, far.compiled) == (2, 1)


def test_a_slow_network_is_timed_for_fewer_rounds(
    request_: CompileRequest, backends: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "_TIMED_SECONDS", 0.4)
    quick, slow = FakeBackend("quick"), FakeBackend("slow", seconds=0.5)
    backends(quick, slow)
    assert select(request_).backend == "quick"
    assert (quick.inferred, slow.inferred) == (1 + 3, 1 + 1)  # the first to be compared


@pytest.mark.parametrize("change", ["batch_size", "taps", "version", "precisions"])
def test_another_request_or_version_is_measured_anew(
    request_: CompileRequest, backends: Callable[..., None], change: str
) -> None:
    quick = FakeBackend("quick")
    backends(quick)
    select(request_)
    compiled = quick.compiled
    if change == "version":
        quick.version = "2"
    elif change == "precisions":
        quick.precisions = ("fp32", "bf16")
    else:
        request_ = replace(request_, **{"batch_size": 3} if change == "batch_size" else {"taps": ("logits",)})
    select(request_)
    assert quick.compiled > compiled


def test_a_kept_file_that_fails_to_load_is_made_anew(request_: CompileRequest, backends: Callable[..., None]) -> None:
    quick = FakeBackend("quick")
    backends(quick)
    open_backbone(request_, "quick")
    assert (quick.compiled, quick.loaded) == (1, 1)
    [saved] = [path for path in cache_directory().glob("network-*") if path.suffix != ".sha256"]
    saved.write_bytes(b"damaged")
    open_backbone(request_, "quick").infer(probe_images(64, 64, 1))
    assert (quick.compiled, quick.loaded) == (2, 2)
    open_backbone(request_, "quick")
    assert (quick.compiled, quick.loaded) == (2, 3)


@pytest.mark.parametrize("fault", ["load_fails", "save_fails"])
def test_a_run_does_not_depend_on_the_cache(
    request_: CompileRequest, backends: Callable[..., None], fault: str
) -> None:
    backends(FakeBackend("odd", **{fault: True}))
    for _ in range(2):
        network = open_backbone(request_, "odd")
        assert network.infer(probe_images(64, 64, 2))["logits"].shape == (2, 3)


def test_a_cache_that_cannot_be_written_costs_nothing(
    request_: CompileRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PC_ENGINE_HOME", str(tmp_path / "file"))
    assert open_backbone(request_, precision="fp32").infer(probe_images(64, 64, 2))["logits"].shape == (2, 3)


def test_a_network_that_was_not_kept_for_want_of_room_is_said_not_to_be(
    request_: CompileRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    said: list[str] = []
    open_backbone(request_, "onnxruntime", "fp32", report=said.append)
    assert len(said) == 1
    monkeypatch.setattr(FileCache, "put", fail)
    other = replace(request_, batch_size=3)
    assert open_backbone(other, "onnxruntime", "fp32", report=said.append).infer(probe_images(64, 64, 1))
    assert len(said) == 3
    assert said[2].startswith(f"It was not kept after all: see that {cache_directory()} has room")


def test_a_network_that_cannot_be_compiled_is_an_error_not_a_loop(
    request_: CompileRequest, backends: Callable[..., None]
) -> None:
    backends(FakeBackend("broken", compile_fails=True))
    with pytest.raises(BackendError, match="broken cannot compile this"):
        open_backbone(request_, "broken")


def test_unknown_names_are_wrong_use_and_name_the_known_ones(request_: CompileRequest) -> None:
    with pytest.raises(UsageError, match=r"no backend 'tensorflow': choose one of auto, onnxruntime, openvino"):
        open_backbone(request_, "tensorflow")
    for act in (open_backbone, select):
        with pytest.raises(UsageError, match=r"no precision 'fp31': choose one of auto, fp32, bf16"):
            act(request_, "auto", "fp31")


def test_a_precision_that_does_not_run_here_names_those_that_do(
    request_: CompileRequest, backends: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pc_engine.backends.onnxruntime.adds_bytes_exactly", lambda: True)
    with pytest.raises(
        BackendError, match=r"Precision bf16 does not run here; what does: onnxruntime at fp32 or int8\."
    ):
        open_backbone(request_, "onnxruntime", "bf16")
    backends(FakeBackend("other", ("fp32",)))
    with pytest.raises(BackendError, match="what does: onnxruntime at fp32, other at fp32"):
        open_backbone(request_, "auto", "bf16")


def test_no_more_backends_are_looked_at_than_tell_that_a_precision_runs(
    monkeypatch: pytest.MonkeyPatch, backends: Callable[..., None]
) -> None:
    asked: list[str] = []

    class Told(FakeBackend):
        def probe(self, device: str = "cpu") -> Probe:
            asked.append(self.name)
            return super().probe(device)

    backends(Told("onnxruntime"), Told("second", precisions=("fp32", "bf16")))
    require_precision("auto", "auto")
    require_precision("fp32", "auto")
    assert asked == ["onnxruntime", "onnxruntime"]
    require_precision("bf16", "auto")
    assert asked[2:] == ["onnxruntime", "second"]
    with pytest.raises(
        BackendError, match="fp16 does not run here; what does: onnxruntime at fp32, second at fp32 or bf16"
    ):
        require_precision("fp16", "auto")


def test_a_backend_that_is_absent_says_why(request_: CompileRequest, backends: Callable[..., None]) -> None:
    backends(FakeBackend("absent", reason="absent cannot be imported: pip install absent."))
    for precision in ("auto", "fp32"):
        with pytest.raises(BackendError, match="absent cannot be imported: pip install absent"):
            open_backbone(request_, "absent", precision)


def test_a_network_that_returns_nan_cannot_choose_a_backend(
    make_model: Callable[..., Path], tmp_path: Path, backends: Callable[..., None]
) -> None:
    directory = make_model(tmp_path / "nan", nan_above=-5.0)  # for every picture
    request = replace(network_request(load_model(directory), ("conv_last", "logits"), batch_size=1), threads=1)
    backends(FakeBackend("same"))
    with pytest.raises(ModelError, match="not finite for ordinary pictures"):
        open_backbone(request)


def test_if_none_agrees_each_is_named_with_its_reason(
    request_: CompileRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FirstOnlyRight(FakeBackend):
        """Right as the reference, wrong as a candidate."""

        def compile(self, request: CompileRequest, save_to: Path | None = None) -> FakeBackbone:
            self.distort = (lambda tap: tap) if self.compiled == 0 else (lambda tap: -tap)
            return super().compile(request, save_to)

    only = {"onnxruntime": FirstOnlyRight("onnxruntime")}
    for module in (candidates, execution, selection):
        monkeypatch.setattr(module, "BACKENDS", only)
    with pytest.raises(BackendError, match=r"No backend runs tiny correctly here \(onnxruntime fp32: differs .* by 2,"):
        select(request_)


def test_the_real_backends_agree_on_the_tiny_network(request_: CompileRequest) -> None:
    chosen = select(request_)
    assert chosen.backend in BACKENDS
    for candidate in chosen.candidates:
        assert candidate.reason == ""
        assert candidate.difference is not None
        assert candidate.difference <= TOLERANCE[candidate.precision]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_what_is_kept_for_taps_in_another_order_is_not_mistaken(request_: CompileRequest, backend: str) -> None:
    images, found = probe_images(request_.manifest.input.height, request_.manifest.input.width, 2), []
    for taps in (request_.taps, request_.taps[::-1], request_.taps):
        network = open_backbone(replace(request_, taps=taps), backend, "fp32")
        found.append(network.infer(images))
        network.close()
    for name in request_.taps:
        for other in found[1:]:
            np.testing.assert_array_equal(found[0][name], other[name])


def test_probe_images_are_the_same_everywhere_and_not_flat() -> None:
    images = probe_images(20, 30, 3)
    assert (images.shape, images.dtype) == ((3, 20, 30, 3), np.uint8)
    np.testing.assert_array_equal(images, probe_images(20, 30, 3))
    assert (images.std(axis=(1, 2)) > 5).all()
    assert np.abs(images[0].astype(int) - images[1]).mean() > 5


def test_tap_difference_is_relative_and_of_the_worst_tap() -> None:
    reference = {"a": np.array([3.0, 4.0]), "b": np.zeros(2)}
    assert tap_difference(reference, reference) == 0
    assert tap_difference({"a": np.array([3.0, 4.5]), "b": np.zeros(2)}, reference) == pytest.approx(0.1)
    assert tap_difference({"a": reference["a"], "b": np.array([0.0, 0.2])}, reference) == pytest.approx(0.2)
    assert tap_difference({"a": np.array([3.0, np.nan]), "b": np.zeros(2)}, reference) == float("inf")


def test_evidence_may_jump_where_a_class_tips_over_but_not_be_another() -> None:
    logits = np.array([[1.0, 0.999], [2.0, 0.0], [0.0, 2.0]])
    reference = {"logits": logits, "evidence": np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 1]])}
    tipped = {"logits": logits.copy(), "evidence": reference["evidence"].copy()}
    tipped["logits"][0] = [0.999, 1.0]
    tipped["evidence"][0] = [0, 1, 1]
    assert exact_difference(tipped, reference) == pytest.approx(tap_difference({"l": tipped["logits"]}, {"l": logits}))
    tipped["evidence"][1] = [0.9, 0.1, 0]  # a unit more or less
    assert exact_difference(tipped, reference) < 1e-3
    tipped["evidence"][1] = [-1, 0, 0]
    assert exact_difference(tipped, reference) == float("inf")
    assert exact_difference({**reference, "evidence": reference["evidence"] * np.nan}, reference) == float("inf")
    assert exact_difference({"logits": logits * 1.1}, {"logits": logits}) == pytest.approx(0.1)
    assert exact_difference({"evidence": reference["evidence"]}, {"evidence": reference["evidence"]}) == 0


@pytest.fixture
def int8(make_model: Callable[..., Path], tmp_path: Path) -> Callable[..., CompileRequest]:
    """Return ``make(top1=, counts=)``: a request of a model whose int8 network is its own file once more."""
    directory = make_model(tmp_path / "quantised")

    def make(
        top1: float | None = 0.99,
        counts: dict[str, float] | None = None,
        *,
        precision: str = "int8",
        note: str = "",
        backend: str = "x",
        n: int = 100,
    ) -> CompileRequest:
        network = onnx.load(directory / NETWORK_FILE)
        network.doc_string = note
        onnx.save(network, directory / QUANTISED_FILES["int8"])
        manifest = read_manifest(directory)
        quantised = {"int8": QuantisedNetwork(manifest.input, manifest.taps)}
        manifest = write_manifest(replace(manifest, quantised=quantised), directory)
        if top1 is not None:
            report = Fidelity(backend, n, top1, counts or {}, {}, manifest.precision_files(precision))
            manifest = write_manifest(replace(manifest, fidelity={precision: report}), directory)
        return replace(network_request(load_model(directory), ("conv_last", "logits"), batch_size=2), threads=1)

    return make


def test_int8_is_taken_where_it_is_fastest_and_agrees(
    int8: Callable[..., CompileRequest], backends: Callable[..., None]
) -> None:
    backends(FakeBackend("quick", ("int8",), seconds=0.002))
    assert select(int8()).precision == "int8"
    network = open_backbone(int8())
    assert (network.backend, network.request.precision) == ("quick", "int8")
    assert network.request.network.name == QUANTISED_FILES["int8"]


def test_int8_needs_a_network_of_its_own(request_: CompileRequest, backends: Callable[..., None]) -> None:
    backends(FakeBackend("quick", ("int8",), seconds=0.002))
    chosen = select(request_)
    assert chosen.precision == "fp32"
    assert "int8" not in {candidate.precision for candidate in chosen.candidates}
    for act in (open_backbone, select):
        with pytest.raises(ModelError, match=r"'tiny' has no int8 network: make one .* --precision int8 --calibrate"):
            act(request_, "auto", "int8")


@pytest.mark.parametrize(
    ("top1", "counts", "reason"),
    [
        (0.931, {}, "agreement 93.1 %, below 97 %: not used unless asked for by name"),
        (0.99, {"c2p": 0.99, "p2c": 0.5}, "agreement 50.0 %, below 97 %: not used unless asked for by name"),
        (None, {}, "not measured on photos: not used unless asked for by name"),
    ],
)
def test_int8_below_the_agreement_is_not_run_unless_named(
    int8: Callable[..., CompileRequest],
    backends: Callable[..., None],
    top1: float | None,
    counts: dict[str, float],
    reason: str,
) -> None:
    quick = FakeBackend("quick", ("int8",), seconds=0.002)
    backends(quick)
    request = int8(top1, counts)
    chosen = select(request)
    assert (chosen.backend, chosen.precision) == ("onnxruntime", "fp32")
    assert quick.compiled == 0
    [refused] = [candidate for candidate in chosen.candidates if candidate.precision == "int8"]
    assert (refused.reason, refused.images_per_second) == (reason, None)
    assert select(request) == chosen
    assert open_backbone(request, precision="int8").request.precision == "int8"
    assert open_backbone(request, "quick", "int8").backend == "quick"


@pytest.mark.parametrize("precision", sorted(QUANTISED_FILES))
def test_every_network_of_8_bits_is_judged_on_enough_photos(tiny_directory: Path, precision: str) -> None:
    manifest = read_manifest(tiny_directory)
    files = {**manifest.files, QUANTISED_FILES[precision]: "0" * 64}
    quantised = {precision: QuantisedNetwork(manifest.input, manifest.taps)}
    manifest = replace(manifest, files=files, quantised=quantised)
    assert refusal(manifest, precision).startswith("not measured on photos")
    report = Fidelity("onnxruntime", 50, 0.97, {}, {}, manifest.precision_files(precision))
    assert refusal(replace(manifest, fidelity={precision: report}), precision) == ""
    for worse, reason in (({"n": 49}, "judged on 49 photos, fewer"), ({"top1": 0.96}, "agreement 96.0 %, below 97 %")):
        judged = replace(manifest, fidelity={precision: replace(report, **worse)})
        assert refusal(judged, precision).startswith(reason)


def test_a_mode_asks_for_its_own_counts(int8: Callable[..., CompileRequest], backends: Callable[..., None]) -> None:
    backends(FakeBackend("quick", ("int8",), seconds=0.002))
    request = int8(0.98, {"c2p": 0.97, "p2c": 0.8})
    assert select(request, mode="c2p").precision == "int8"
    assert select(request, mode="p2c").precision == "fp32"
    assert select(request).precision == "fp32"
    assert open_backbone(request, mode="c2p").request.precision == "int8"


def test_bf16_that_was_measured_to_disagree_is_not_run_unless_named(
    int8: Callable[..., CompileRequest], backends: Callable[..., None]
) -> None:
    backends(FakeBackend("quick", ("fp32", "bf16"), seconds=0.002))
    assert {c.precision for c in select(int8(None)).candidates if not c.reason} == {"fp32", "bf16"}
    chosen = select(int8(0.9, precision="bf16"))
    assert chosen.precision == "fp32"
    assert {c.precision: c.reason for c in chosen.candidates}["bf16"].startswith("agreement 90.0 %, below 97 %")


def test_bf16_that_was_measured_to_keep_counts_may_round_drawn_pictures_more(
    int8: Callable[..., CompileRequest], backends: Callable[..., None]
) -> None:
    def distort(tap: np.ndarray) -> np.ndarray:
        return tap * np.float32(1.08)

    backends(FakeBackend("quick", ("bf16",), seconds=0.002, distort=distort))
    refused = select(int8(None))
    assert refused.precision == "fp32"
    assert {c.precision: c.reason for c in refused.candidates}["bf16"].startswith("differs from the reference by 0.08")
    assert select(int8(0.98, precision="bf16", backend="quick")).precision == "bf16"
    # Not where another backend was measured, few photos were, or the numbers are nonsense.
    assert select(int8(0.98, precision="bf16", backend="other")).precision == "fp32"
    assert select(int8(0.98, precision="bf16", backend="quick", n=20)).precision == "fp32"
    backends(FakeBackend("quick", ("bf16",), seconds=0.002, distort=lambda tap: tap * np.float32(1.2)))
    assert select(int8(0.98, precision="bf16", backend="quick"), fresh=True).precision == "fp32"


def test_what_a_manifest_says_of_fp32_is_not_asked(
    int8: Callable[..., CompileRequest], backends: Callable[..., None]
) -> None:
    backends()
    assert select(int8(0.1, precision="fp32")).precision == "fp32"


def test_where_every_precision_was_measured_to_disagree_one_has_to_be_named(
    int8: Callable[..., CompileRequest], backends: Callable[..., None]
) -> None:
    backends(FakeBackend("quick", ("bf16",), seconds=0.002))
    request = int8(0.9, precision="bf16")
    with pytest.raises(BackendError, match=r"No precision of tiny can be chosen here \(quick bf16: agreement 90"):
        select(request, "quick")
    assert select(request, "quick", "bf16").precision == "bf16"


def test_another_quantised_network_is_compiled_and_measured_anew(
    int8: Callable[..., CompileRequest], backends: Callable[..., None]
) -> None:
    quick = FakeBackend("quick", ("int8",), seconds=0.002)
    backends(quick)
    open_backbone(int8(note="first"))
    compiled = quick.compiled
    open_backbone(int8(note="first"))
    assert quick.compiled == compiled
    open_backbone(int8(note="second"))
    assert quick.compiled == compiled + 2  # once to choose, once to keep


def test_what_is_asked_for_by_name_runs_though_it_rounds_more_than_allowed(
    request_: CompileRequest, backends: Callable[..., None]
) -> None:
    backends(FakeBackend("coarse", ("bf16",), distort=lambda tap: tap * 1.04))
    reports: list[str] = []
    chosen = select(request_, precision="bf16", report=reports.append)
    assert (chosen.backend, chosen.precision) == ("coarse", "bf16")
    assert (
        "coarse at bf16 differs from the reference by 0.04, more than 0.03; it runs as it was asked for" in reports[-1]
    )
    assert select(request_).precision == "fp32"


def test_what_runs_other_than_intended_is_said(
    request_: CompileRequest, backends: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackbone, "remarks", ("It runs without a CUDA graph.",))
    backends(FakeBackend("odd"))
    said: list[str] = []
    open_backbone(request_, "odd", "fp32", said.append).close()
    assert said[-1] == "It runs without a CUDA graph."


def test_tensorrts_signed_levels_may_differ_by_twice_as_much() -> None:
    assert candidates.tolerance("tensorrt", "int8") == 2 * candidates.tolerance("openvino", "int8")
    assert candidates.tolerance("tensorrt", "fp16") == candidates.tolerance("onnxruntime", "fp16") == TOLERANCE["fp16"]
