import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from pc_engine.backbone import CompileRequest
from pc_engine.backends import BACKENDS, REFERENCE
from pc_engine.bench.lego.dataset import LegoSettings
from pc_engine.bench.lego.model import COUNT_FEATURES, LegoTraining, train_lego
from pc_engine.bench.lego.network import PIXEL_MEAN, PIXEL_STD, NetworkSettings, build_network, fold, import_torch
from pc_engine.bench.lego.onnx_graph import write_network
from pc_engine.bench.lego.scenes import Scene, SceneSettings, SceneSource
from pc_engine.bench.lego.train import Lesson, TrainSettings, bf16_is_fast, train_network
from pc_engine.catalogue import EMBEDDED_DIRECTORY
from pc_engine.datasets.labels_json import LABELS_JSON
from pc_engine.errors import MissingPackageError, UsageError
from pc_engine.fitted.counter import check_counter, load_counter
from pc_engine.fitted.signatures import check_signatures, load_signatures
from pc_engine.manifest import COUNTER_FILE, NETWORK_FILE, SIGNATURES_FILE
from pc_engine.manifest_file import read_manifest
from pc_engine.model import load_model
from pc_engine.modes import MODES, settings_for
from pc_engine.progress import Progress
from pc_engine.sources import DEMO_DIRECTORY

NARROW = NetworkSettings(size=64, kernels=(4, 6, 8, 10), nin=7, count_kernels=5, fc6=6, fc7=4)
TINY = LegoTraining(
    lego=LegoSettings(n_classes=3, variants=4, scenes=SceneSettings(size=64)),
    network=TrainSettings(steps=3, batch_size=4, chunk=2, threads=1, network=NARROW),
    fit_scenes=70,
)


@pytest.fixture(scope="module")
def torch() -> object:
    return pytest.importorskip("torch", reason="training needs the extra 'train'")


@pytest.mark.parametrize("pooled_after", [(1, 2), (1, 3)])
def test_the_exported_network_computes_what_was_trained(torch, tmp_path: Path, pooled_after: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    settings = replace(NARROW, pooled_after=pooled_after)
    network = build_network(settings, n_logits=5, n_counts=4)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.bias.data.normal_(0, 0.3)
    network.eval()
    taps = write_network(fold(network, settings), tmp_path / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = dict(zip(taps, session.run([tap.tensor for tap in taps.values()], {"image": images}), strict=True))
    with torch.no_grad():
        pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - PIXEL_MEAN) / PIXEL_STD
        conv_last = network.trunk(pixels)
        expected = network(pixels)
        fc6 = network.fc6(network.count_conv(conv_last).relu().mean(dim=(2, 3)) * settings.grid**2 / 8).relu()
        fc7 = network.fc7(fc6).relu()
    # Weights are kept to 11 bits; edges agree as well as the middle only if zero padding kept its meaning.
    for name, value in (("conv_last", conv_last), ("logits", expected.logits), ("fc6", fc6), ("fc7", fc7)):
        np.testing.assert_allclose(outputs[name], value.numpy(), rtol=0.01, atol=0.005 * float(value.abs().max()))
    np.testing.assert_allclose(outputs["gap"], outputs["conv_last"].mean(axis=(2, 3)), rtol=1e-4, atol=1e-6)
    assert {name: value.shape[1:] for name, value in outputs.items()} == {n: tap.shape for n, tap in taps.items()}


def test_the_exported_network_keeps_its_weights_small(torch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_network(fold(build_network(NARROW, 5, 4).eval(), NARROW), tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    large = [tensor for tensor in graph.initializer if np.prod(tensor.dims) > 32]
    assert large
    assert all(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in large)


def test_counts_never_shape_the_feature_maps(torch) -> None:  # type: ignore[no-untyped-def]
    network = build_network(NARROW, 5, 4)
    network(torch.rand(2, 3, 64, 64)).counts.sum().backward()
    assert network.fc6.weight.grad is not None
    assert all(parameter.grad is None for parameter in network.trunk.parameters())


def test_one_call_makes_a_complete_model_and_the_same_again(torch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    trained = train_lego(tmp_path / "a", 1, TINY)
    manifest = read_manifest(tmp_path / "a")
    assert manifest == trained.manifest
    assert set(manifest.files) == {NETWORK_FILE, COUNTER_FILE, SIGNATURES_FILE}
    assert manifest.count_features == COUNT_FEATURES
    assert manifest.classes[-1] == "background"
    assert len(manifest.classes) == 4
    check_counter(load_counter(tmp_path / "a" / COUNTER_FILE), manifest)
    check_signatures(load_signatures(tmp_path / "a" / SIGNATURES_FILE), manifest)
    assert 0 <= trained.class_accuracy <= 1
    assert sum(trained.counter.images.values()) == 70

    again = train_lego(tmp_path / "b", 1, TINY)
    assert again.manifest.network_sha256 == trained.manifest.network_sha256
    assert again.counter == trained.counter
    for name in (COUNTER_FILE, SIGNATURES_FILE):
        first, second = load_file(tmp_path / "a" / name), load_file(tmp_path / "b" / name)
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[key], second[key]) for key in first)
    other = train_lego(tmp_path / "c", 2, TINY)
    assert other.manifest.network_sha256 != trained.manifest.network_sha256
    with pytest.raises(UsageError, match="exists and is not empty"):
        train_lego(tmp_path / "a", 1, TINY)


def test_training_lowers_the_loss(torch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    stages: list[tuple[str, int | None]] = []
    told: list[tuple[str, int, int]] = []

    def begin(stage: str, steps: int | None) -> Progress:
        stages.append((stage, steps))
        return lambda *how_far: told.append(how_far)

    longer = replace(TINY, network=replace(TINY.network, steps=60, batch_size=8, passes=10, learning_rate=0.01))
    train_lego(tmp_path / "a", 0, longer, begin)
    assert stages == [("training on scenes", 60), ("fitting signatures", 70), ("fitting the counter", 70)]
    steps = [how_far for how_far in told if how_far[0].startswith("training on scenes, loss ")]
    assert [how_far[1:] for how_far in steps] == [(done, 60) for done in range(1, 61)]
    # Each figure is the mean of the last 50 losses, the first that of one untrained step.
    losses = [float(text.split()[-1]) for text, _, _ in steps]
    assert losses[-1] < 0.9 * losses[0]
    for stage, scenes in stages[1:]:
        assert [how_far for how_far in told if how_far[0] == stage] == [(stage, 64, scenes), (stage, 70, scenes)]


def test_lessons_come_before_the_scenes_and_reach_the_trunk(torch) -> None:  # type: ignore[no-untyped-def]
    source = TINY.lego.source("train", 0)
    digits = Lesson(2, 32, (0.4, 0.6), batch_size=4, digits_only=True)
    objects = Lesson(2, 48, (0.5, 0.8), batch_size=4)
    assert [c.name for c in digits.source(source).classes] == [f"row-{digit}" for digit in range(10)]
    assert objects.source(source).classes == source.classes
    for lesson in (digits, objects):
        scenes = [lesson.source(source).scene(0, index) for index in range(8)]
        assert {scene.count for scene in scenes} == {1}
        assert {scene.image.shape[0] for scene in scenes} == {lesson.size}

    unlearnt = replace(TINY.network, steps=0)
    plain = train_network(source, unlearnt, 0)
    after_digits = train_network(source, replace(unlearnt, lessons=(digits,)), 0)
    after_objects = train_network(source, replace(unlearnt, lessons=(objects,)), 0)
    for learnt, head_learns in ((after_digits, False), (after_objects, True)):
        assert not torch.equal(next(learnt.trunk.parameters()), next(plain.trunk.parameters()))
        assert torch.equal(learnt.image_head.weight, plain.image_head.weight) is not head_learns
        assert len(learnt.image_head.bias) == len(source.classes) + 1


def test_a_training_goes_on_behind_the_last_part_that_was_kept(torch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = TINY.lego.source("train", 0)
    lessons = (Lesson(2, 32, (0.4, 0.6), batch_size=4, digits_only=True), Lesson(2, 48, (0.5, 0.8), batch_size=4))
    settings = replace(TINY.network, lessons=lessons, further_rounds=(2,))
    whole = train_network(source, settings, 0)
    train_network(source, settings, 0, kept=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{place}.safetensors" for place in range(4)]
    for place in (2, 3):
        (tmp_path / f"{place}.safetensors").unlink()
    weights = load_file(tmp_path / "1.safetensors")  # as of a version that had one head more
    save_file({**weights, "cell_head.weight": np.zeros((3, 7, 1, 1), np.float32)}, tmp_path / "1.safetensors")
    resumed = train_network(source, settings, 0, kept=tmp_path)
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())


def test_further_rounds_show_new_scenes(torch, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    shown: list[int] = []
    draw = SceneSource.scene

    def recorded(source: SceneSource, seed: int, index: int) -> Scene:
        shown.append(index)
        return draw(source, seed, index)

    monkeypatch.setattr(SceneSource, "scene", recorded)
    train_network(TINY.lego.source("train", 0), replace(TINY.network, further_rounds=(2, 3)), 0)
    # Three rounds of a chunk of 8 scenes, each with one that is drawn ahead.
    assert len(shown) == len(set(shown)) == 3 * 16


@pytest.mark.parametrize(
    ("architecture", "extensions", "fast"),
    [("x86_64", ["avx2"], False), ("x86_64", ["avx2", "avx512f", "avx512_bf16"], True), ("aarch64", [], True)],
)
def test_bf16_is_left_to_processors_that_are_fast_at_it(
    monkeypatch: pytest.MonkeyPatch, architecture: str, extensions: list[str], fast: bool
) -> None:
    machine = {"architecture": architecture, "extensions": extensions}
    monkeypatch.setattr("pc_engine.bench.lego.train.describe_machine", lambda: machine)
    assert bf16_is_fast() is fast


def test_sizes_that_disagree_are_refused() -> None:
    with pytest.raises(UsageError, match="same size"):
        replace(TINY, lego=replace(TINY.lego, scenes=SceneSettings(size=96)))


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingPackageError, match=r"pc-engine\[train\]"):
        import_torch()


def test_the_embedded_model_counts_and_points_in_the_demo_scenes() -> None:
    """The model that ships, on the scenes that ship: a wrong count in one of nine is the most that may happen."""
    model = load_model(EMBEDDED_DIRECTORY)
    assert model.manifest.classes[:-1] == tuple(lego_class.name for lego_class in LegoSettings().classes())
    settings = settings_for(model.manifest)
    assert settings.p2c.background_class == model.manifest.n_classes - 1
    truth = json.loads((DEMO_DIRECTORY / LABELS_JSON).read_text())["images"]
    side = model.manifest.input.width
    images = np.stack(
        [np.asarray(Image.open(DEMO_DIRECTORY / record["file"]).resize((side, side))) for record in truth]
    )
    taps = tuple(model.manifest.taps)
    request = CompileRequest(model.network, model.manifest, taps, "fp32", batch_size=len(images), threads=1)
    outputs = BACKENDS[REFERENCE].compile(request).infer(images)
    for mode in MODES.values():
        outcome = mode.evaluate(outputs, model.parts, settings)
        label = np.minimum(np.asarray(outcome.count), 4)
        wrong = int((label != [min(record["count"], 4) for record in truth]).sum())
        assert wrong <= 1, f"{mode.name}: {outcome.count}"
