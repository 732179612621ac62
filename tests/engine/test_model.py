from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pc_engine import Model, load_model
from pc_engine.errors import ManifestError, MissingPartError, ModelError
from pc_engine.files.storage import models_directory
from pc_engine.fitted.cluster_likelihood import ClusterLikelihood, PeakSettings
from pc_engine.fitted.counter import CountSVM
from pc_engine.fitted.signatures import SignatureDictionary
from pc_engine.graph.prepare import open_graph
from pc_engine.manifest import (
    COUNTER_FILE,
    EVIDENCE,
    MANIFEST_FILE,
    NETWORK_FILE,
    QUANTISED_FILES,
    SIGNATURES_FILE,
    Manifest,
    QuantisedNetwork,
    Tap,
)
from pc_engine.manifest_file import read_manifest, write_manifest
from pc_engine.model import write_model
from pc_engine.modes import MODES, settings_for
from pc_engine.modes.p2c_manifest import heat_name


def test_a_complete_model_has_all_its_parts(tiny_directory: Path) -> None:
    model = load_model(tiny_directory)
    assert isinstance(model, Model)
    assert model.name == "tiny"
    assert repr(model) == f"<Model tiny in {tiny_directory} with counter and signatures>"
    assert model.network == tiny_directory / NETWORK_FILE
    assert set(model.manifest.files) == {NETWORK_FILE, COUNTER_FILE, SIGNATURES_FILE}
    for mode in MODES.values():
        assert model.missing_parts(mode) == ()
        model.require(mode)


@pytest.mark.parametrize(
    ("mode", "missing", "command"),
    [
        ("c2p", ("counter",), "fit-counter"),
        ("p2c", ("signatures",), "fit-signatures"),
        ("combined", ("counter", "signatures"), "fit-counter"),
    ],
)
def test_a_missing_part_names_the_command_that_makes_one(
    make_model: Callable[..., Path], tmp_path: Path, mode: str, missing: tuple[str, ...], command: str
) -> None:
    model = load_model(make_model(tmp_path / "m", counter=None, signatures=None))
    assert model.missing_parts(MODES[mode]) == missing
    # The name in the manifest may be that of another model.
    with pytest.raises(ModelError, match=rf"Mode {mode} needs .* 'pc-engine {command} DATA --model {tmp_path}/m'"):
        model.require(MODES[mode])
    spaced = load_model(make_model(tmp_path / "my net", counter=None, signatures=None))
    with pytest.raises(ModelError, match=rf"'pc-engine {command} DATA --model '{tmp_path}/my net''"):
        spaced.require(MODES[mode])
    installed = load_model(make_model(models_directory() / "mine", counter=None, signatures=None))
    with pytest.raises(ModelError, match=rf"'pc-engine {command} DATA --model mine'"):
        installed.require(MODES[mode])


def test_what_would_do_instead_of_signatures_is_said(
    make_model: Callable[..., Path], tiny_manifest: Manifest, tmp_path: Path
) -> None:
    without = load_model(make_model(tmp_path / "without", signatures=None))
    with pytest.raises(ModelError, match="or export the network again"):
        without.require(MODES["p2c"])
    taps = {**tiny_manifest.taps, "evidence": Tap("second_relu", (5,))}
    manifest = replace(tiny_manifest, taps=taps)
    unfitted = load_model(make_model(tmp_path / "unfitted", signatures=None, manifest=manifest))
    unfitted.require(MODES["p2c"])
    unfitted.require(MODES["combined"])
    manifest = replace(manifest, settings={"p2c.signature": "dictionary"})
    named = load_model(make_model(tmp_path / "named", signatures=None, manifest=manifest))
    with pytest.raises(ModelError, match=r"or remove 'p2c\.signature' and 'sha256' from its manifest"):
        named.require(MODES["p2c"])


@pytest.mark.parametrize("name", [NETWORK_FILE, COUNTER_FILE, SIGNATURES_FILE])
def test_a_file_that_was_changed_is_refused(make_model: Callable[..., Path], tmp_path: Path, name: str) -> None:
    directory = make_model(tmp_path / "m")
    content = bytearray((directory / name).read_bytes())
    content[-1] ^= 1
    (directory / name).write_bytes(content)
    with pytest.raises(ManifestError, match=rf"{name} is not the file that its manifest describes"):
        load_model(directory)


def test_a_file_that_the_manifest_does_not_list_is_taken_with_its_sum(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    directory = make_model(tmp_path / "m")
    raw = json.loads((directory / MANIFEST_FILE).read_text())
    sums = raw.pop("files")
    del raw["sha256"]
    (directory / MANIFEST_FILE).write_text(json.dumps(raw))
    assert load_model(directory).manifest.files == sums


def test_a_model_that_is_being_fitted_meanwhile_is_read_again(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_model(tmp_path / "m")
    fitted = read_manifest(directory)
    read: list[Manifest] = []
    stale = replace(fitted, files={**fitted.files, SIGNATURES_FILE: "0" * 64})

    def manifest_of_the_moment(_: Path) -> Manifest:
        read.append(stale if not read else fitted)
        return read[-1]

    monkeypatch.setattr("pc_engine.model.read_manifest", manifest_of_the_moment)
    assert load_model(directory).manifest.files == fitted.files
    monkeypatch.setattr("pc_engine.model.read_manifest", lambda _: stale)
    with pytest.raises(ManifestError, match="is not the file"):
        load_model(directory)


def test_a_manifest_without_a_network(make_model: Callable[..., Path], tmp_path: Path) -> None:
    directory = make_model(tmp_path / "m")
    (directory / NETWORK_FILE).unlink()
    with pytest.raises(ManifestError, match=r"has a manifest but no model\.onnx"):
        load_model(directory)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is not a model directory"):
        load_model(tmp_path)


def test_a_counter_of_another_network_is_refused(make_model: Callable[..., Path], tmp_path: Path) -> None:
    other = CountSVM(("gap",), ("0", "1"), {"gap": np.zeros((2, 99), np.float32)}, np.zeros(2, np.float32))
    with pytest.raises(ModelError, match="expects 99 values from the tap 'gap', but the network gives 5"):
        load_model(make_model(tmp_path / "m", counter=other))


@pytest.mark.parametrize("current", [True, False])
def test_likelihoods_of_clusters_hold_for_the_signatures_they_were_fitted_with(
    make_model: Callable[..., Path], tiny_counter: CountSVM, tmp_path: Path, current: bool
) -> None:
    table = np.zeros((6, len(tiny_counter.labels)), np.float32)
    manifest = load_model(make_model(tmp_path / "m")).manifest
    name = heat_name(manifest, settings_for(manifest).p2c)
    assert name is not None
    assert name.startswith(manifest.files[SIGNATURES_FILE])
    witness = ClusterLikelihood(table, PeakSettings(1.0, 0.5, 4.0), name if current else "evidence")
    directory = make_model(tmp_path / "fitted", counter=replace(tiny_counter, clusters=witness))
    model = load_model(directory)
    counter = model.parts.counter
    assert counter is not None
    assert (counter.clusters is not None) == current
    assert model.clusters_set_aside is not current


@pytest.mark.parametrize("setting", [{"p2c.softness": 0.1}, {"p2c.mean_factor": 1}, {"p2c.heat": "conv_last"}])
def test_likelihoods_of_clusters_hold_for_the_heat_they_were_fitted_with(
    make_model: Callable[..., Path],
    tiny_manifest: Manifest,
    tiny_counter: CountSVM,
    tmp_path: Path,
    setting: dict[str, float | str],
) -> None:
    other = replace(tiny_manifest, settings={**tiny_manifest.settings, **setting})
    manifest = load_model(make_model(tmp_path / "m", manifest=other)).manifest
    table = np.zeros((6, len(tiny_counter.labels)), np.float32)
    name = heat_name(manifest, settings_for(manifest).p2c)
    counter = replace(tiny_counter, clusters=ClusterLikelihood(table, PeakSettings(1.0, 0.5, 4.0), str(name)))
    for folder, of_model in (("same", other), ("usual", tiny_manifest)):
        fitted = load_model(make_model(tmp_path / folder, manifest=of_model, counter=counter))
        assert fitted.clusters_set_aside is (folder == "usual")


def test_a_setting_that_is_not_allowed_is_wrong_with_the_manifest(
    make_model: Callable[..., Path], tiny_manifest: Manifest, tiny_counter: CountSVM, tmp_path: Path
) -> None:
    wrong = replace(tiny_manifest, settings={"p2c.softness": 5})
    table = np.zeros((6, len(tiny_counter.labels)), np.float32)
    witness = ClusterLikelihood(table, PeakSettings(1.0, 0.5, 4.0), "evidence")
    weighing = make_model(tmp_path / "m", manifest=wrong, counter=replace(tiny_counter, clusters=witness))
    with pytest.raises(ManifestError, match=r"The setting p2c\.softness is 5"):
        load_model(weighing)


def test_signatures_of_another_network_are_refused(make_model: Callable[..., Path], tmp_path: Path) -> None:
    other = SignatureDictionary({"conv_last": np.zeros((9, 1), np.int32)}, np.ones(9, bool))
    with pytest.raises(ModelError, match="signatures hold 9 classes"):
        load_model(make_model(tmp_path / "m", signatures=other))


def test_a_part_that_was_removed_is_missing_not_broken(
    make_model: Callable[..., Path], tmp_path: Path, tiny_manifest: Manifest
) -> None:
    directory = make_model(tmp_path / "m", manifest=replace(tiny_manifest, name="other"))
    (directory / COUNTER_FILE).unlink()
    model = load_model(directory)
    assert model.missing_parts(MODES["c2p"]) == ("counter",)
    assert model.missing_parts(MODES["p2c"]) == ()


def test_a_dictionary_that_is_gone_is_missed_and_not_replaced_by_evidence(
    make_model: Callable[..., Path], tmp_path: Path, tiny_manifest: Manifest
) -> None:
    taps = {**tiny_manifest.taps, EVIDENCE: tiny_manifest.taps["gap"]}
    directory = make_model(tmp_path / "m", manifest=replace(tiny_manifest, taps=taps))
    (directory / SIGNATURES_FILE).unlink()
    model = load_model(directory)
    assert model.missing_parts(MODES["p2c"]) == ("signatures",)
    with pytest.raises(MissingPartError, match=r"has lost: restore signatures\.s\w+, or make one .*; or remove"):
        model.require(MODES["p2c"])
    # Not even what is fitted or built meanwhile makes it forgotten.
    write_model(model, directory, replace(model.manifest, licence="MIT"))
    assert load_model(directory).lost.keys() == {SIGNATURES_FILE}
    write_model(model, tmp_path / "copy", model.manifest)
    assert load_model(tmp_path / "copy").missing_parts(MODES["p2c"]) == ("signatures",)
    write_manifest(replace(read_manifest(directory), files={}), directory)
    assert load_model(directory).missing_parts(MODES["p2c"]) == ()


def test_a_quantised_network_belongs_to_the_model_while_its_file_is_there(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    directory = make_model(tmp_path / "m")
    manifest = read_manifest(directory)
    (directory / QUANTISED_FILES["int8"]).write_bytes(b"in integers")
    quantised = {"int8": QuantisedNetwork(manifest.input, manifest.taps)}
    write_manifest(replace(manifest, quantised=quantised), directory)
    assert load_model(directory).manifest.quantised == quantised

    model = load_model(directory)
    write_model(model, tmp_path / "copy", model.manifest)
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {MANIFEST_FILE, *model.manifest.files}
    assert load_model(tmp_path / "copy").manifest == model.manifest

    (directory / QUANTISED_FILES["int8"]).write_bytes(b"in other integers")
    with pytest.raises(ManifestError, match=r"model\.int8\.onnx is not the file that its manifest describes"):
        load_model(directory)
    (directory / QUANTISED_FILES["int8"]).unlink()
    assert load_model(directory).manifest.quantised == {}


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("given", [True, False], ids=["replaced", "new"])
@pytest.mark.parametrize("killed_at", range(4))
def test_however_writing_is_cut_off_the_model_is_whole(
    make_model: Callable[..., Path],
    tiny_counter: CountSVM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: bool,
    killed_at: int,
) -> None:
    directory = make_model(tmp_path / "m", counter=tiny_counter if given else None)
    before = load_model(directory)
    fitted = replace(tiny_counter, bias=np.ones_like(tiny_counter.bias))
    replaced, calls = Path.replace, []

    def replace_or_die(path: Path, target: Path) -> Path:
        calls.append(path.name)
        if len(calls) > killed_at:
            raise Killed
        return replaced(path, target)

    monkeypatch.setattr(Path, "replace", replace_or_die)
    changes = {COUNTER_FILE: fitted.save}
    if killed_at == 3:
        write_model(before, directory, before.manifest, changes)
    else:
        with pytest.raises(Killed):
            write_model(before, directory, before.manifest, changes)
    monkeypatch.undo()
    after = load_model(directory)
    # The counter's own file, the manifest, the counter in its place: the second one is the turn.
    expected = fitted if killed_at >= 2 else tiny_counter if given else None
    counter = after.parts.counter
    assert (counter is None) == (expected is None)
    if counter is not None and expected is not None:
        np.testing.assert_array_equal(counter.bias, expected.bias)
    assert (COUNTER_FILE in after.manifest.files) == (expected is not None)


def test_a_file_beside_the_model_is_not_taken_for_one_of_its_own(
    make_model: Callable[..., Path], tiny_counter: CountSVM, tmp_path: Path
) -> None:
    directory = make_model(tmp_path / "m")
    replace(tiny_counter, bias=np.ones_like(tiny_counter.bias)).save(directory / (COUNTER_FILE + ".next"))
    counter = load_model(directory).parts.counter
    assert counter is not None
    assert not counter.bias.any()


def test_a_tap_of_another_type_or_shape_or_name_is_a_sentence(
    make_model: Callable[..., Path], tiny_manifest: Manifest, tmp_path: Path
) -> None:
    for name, tap, message in (
        ("logits", Tap("score", (3,)), "which its network does not have; the closest names are 'scores'"),
        ("conv_last", Tap("second_relu", (5, 8, 9)), "has shape (5, 8, 9) in its manifest"),
        ("gap", Tap("pixels", (64, 64, 3)), "of type uint8; name a floating-point one"),
    ):
        manifest = replace(tiny_manifest, taps={**tiny_manifest.taps, name: tap})
        parts = {"counter": None, "signatures": None}
        directory = make_model(tmp_path / name, manifest=manifest, **parts)
        model = load_model(directory)
        with pytest.raises(ManifestError) as error:
            open_graph(model.network, model.manifest, tuple(manifest.taps))
        assert message in str(error.value)
