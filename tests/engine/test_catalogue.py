from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pc_engine import catalogue
from pc_engine.catalogue import (
    FETCHABLE,
    PACKAGED,
    PREFERRED,
    PackagedWeights,
    default_mode,
    default_model,
    find_model,
    installed_directory,
    list_models,
    model_for,
)
from pc_engine.errors import DownloadError, MissingPartError, ModelError, UsageError
from pc_engine.files.storage import models_directory
from pc_engine.manifest import COUNTER_FILE, MANIFEST_FILE, NETWORK_FILE, SIGNATURES_FILE, Manifest
from pc_engine.modes import MODES
from pc_engine.say import Say

Maker = Callable[..., Path]


@pytest.fixture(autouse=True)
def embedded(make_model: Maker, tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for the model that ships inside the package."""
    directory = make_model(tmp_path / "lego", manifest=replace(tiny_manifest, name="lego"))
    monkeypatch.setattr(catalogue, "EMBEDDED_DIRECTORY", directory)
    return directory


def test_the_embedded_model_is_found_by_name(embedded: Path) -> None:
    assert find_model("lego").directory == embedded


def test_an_installed_model_is_found_by_name(make_model: Maker) -> None:
    directory = make_model(installed_directory("mine"))
    assert find_model("mine").directory == directory
    assert directory.parent == models_directory()


def test_a_directory_is_a_model(make_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make_model(tmp_path / "some/where")
    assert find_model(directory).directory == directory
    monkeypatch.chdir(directory)
    assert find_model(".").name == "tiny"


def test_a_directory_that_is_no_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match="is not a model directory"):
        find_model(tmp_path / "photos")


def test_a_directory_that_may_not_be_entered_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    for method in ("stat", "open", "read_bytes"):
        monkeypatch.setattr(f"pathlib.Path.{method}", refuse)
    monkeypatch.setattr("pathlib.Path.is_dir", lambda path: True)
    with pytest.raises(UsageError, match=r"manifest\.json cannot be read .*Permission denied"):
        find_model(tmp_path)


def test_an_unknown_name_lists_the_known_ones(make_model: Maker) -> None:
    make_model(installed_directory("mine"))
    with pytest.raises(UsageError, match=r"no model 'vgg17': choose one of lego, mine, vgg16, vgg19, effi\w+, or name"):
        find_model("vgg17")


def test_a_model_that_is_not_installed_is_fetched_into_its_place(
    make_model: Maker, tiny_manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path]] = []

    def fetch(name: str, directory: Path, report: Say) -> Path:
        asked.append((name, directory))
        report("Fetching")
        return make_model(directory / name, manifest=replace(tiny_manifest, name=name))

    monkeypatch.setattr("pc_engine.export.fetch.fetch_vgg", fetch)
    reports: list[str] = []
    for _ in range(2):
        assert find_model("vgg16", reports.append).name == "vgg16"
    assert asked == [("vgg16", models_directory())]
    assert reports == ["Fetching"]


def test_a_folder_that_bears_a_models_name_by_chance_does_not_hide_the_model(
    make_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(installed_directory("vgg16"))
    (tmp_path / "work/vgg16").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    assert find_model("vgg16").directory == installed_directory("vgg16")
    make_model(tmp_path / "work/vgg16")  # but a model of one's own that lies right here is meant
    reports: list[str] = []
    assert find_model("vgg16", reports.append).directory == Path("vgg16")
    assert reports == ["Using the model in ./vgg16, not the one of that name that 'pc-engine models' lists."]
    assert find_model("./vgg16", reports.append).directory == Path("vgg16")
    assert len(reports) == 1


def test_a_model_of_ones_own_may_bear_the_name_of_one_that_can_be_fetched(
    make_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "vgg19")
    monkeypatch.chdir(tmp_path)
    assert model_for("vgg19", MODES["c2p"]).directory == Path("vgg19")


def test_the_embedded_model_is_never_hidden(
    make_model: Maker, embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "lego")
    monkeypatch.chdir(tmp_path)
    reports: list[str] = []
    assert find_model("lego", reports.append).directory == embedded
    assert reports == ["'lego' is the built-in model: for the one in the current folder, give its full path."]
    hidden = find_model("./lego")
    assert hidden.directory == Path("lego")
    assert hidden.argument == str(tmp_path / "lego")  # as its name is the other's


def test_a_fetch_that_fails_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, directory: Path, report: Say) -> Path:
        raise DownloadError("No network: fetch the file by hand.")

    monkeypatch.setattr("pc_engine.export.fetch.fetch_vgg", fail)
    with pytest.raises(DownloadError, match="by hand"):
        find_model("vgg19")


def test_the_list_says_what_is_there_and_what_is_fitted(make_model: Maker, embedded: Path) -> None:
    make_model(installed_directory("vgg19"), signatures=None)
    make_model(installed_directory("bare"), counter=None, signatures=None)
    broken = installed_directory("broken")
    broken.mkdir(parents=True)
    (broken / MANIFEST_FILE).write_text("{")
    (make_model(installed_directory("hollow")) / NETWORK_FILE).unlink()
    (make_model(installed_directory("less")) / COUNTER_FILE).unlink()
    (models_directory() / "not-a-model").mkdir()
    entries = {entry.name: entry for entry in list_models()}
    assert list(entries) == ["lego", "bare", "broken", "hollow", "less", "vgg19", "vgg16", *PACKAGED]
    assert entries["lego"].state == "embedded, counter and signatures fitted"
    assert entries["lego"].directory == embedded
    assert entries["vgg19"].state == "installed, counter fitted"
    assert entries["bare"].state == "installed, nothing fitted"
    assert entries["broken"].state.startswith("broken: ")
    assert entries["hollow"].state.endswith("hollow has a manifest but no model.onnx: put the network there.")
    assert entries["hollow"].state.startswith("broken: ")
    assert entries["less"].state == "installed, signatures fitted"
    assert (entries["vgg16"].state, entries["vgg16"].directory) == ("can be fetched", None)
    assert entries["bare"].taps == ("conv_prev", "conv_last", "gap", "logits")
    assert entries["bare"].licence == "MIT"


def test_without_any_folder_of_models_the_list_is_that_of_the_package() -> None:
    assert not models_directory().exists()
    assert [entry.name for entry in list_models()] == ["lego", *FETCHABLE, *PACKAGED]


def test_where_models_cannot_be_read_there_are_those_of_the_package(engine_home: Path) -> None:
    """As where the home folder is another user's, which a shell of theirs hands on."""
    engine_home.mkdir(mode=0)
    try:
        if os.access(engine_home, os.X_OK):
            pytest.skip("nothing is closed to this user")
        assert [entry.name for entry in list_models()] == ["lego", *FETCHABLE, *PACKAGED]
        with pytest.raises(UsageError, match=r"There is no model 'mine': .* cannot be read \(Permission denied\)"):
            find_model("mine")
    finally:
        engine_home.chmod(0o700)


@pytest.mark.parametrize("mode", MODES)
def test_the_default_is_the_papers_network_once_it_is_fitted(make_model: Maker, mode: str) -> None:
    reports: list[str] = []
    assert default_model(MODES[mode], reports.append).name == "lego"
    then = ", then --mode p2c" if "counter" in MODES[mode].needs else ""
    assert reports[0].endswith(f" For photos: pip install 'pc-engine[photos]'{then}.")

    reports.clear()
    make_model(installed_directory(PREFERRED[mode][1]))
    assert default_model(MODES[mode], reports.append).directory.name == PREFERRED[mode][1]
    make_model(installed_directory(PREFERRED[mode][0]))
    assert default_model(MODES[mode], reports.append).directory.name == PREFERRED[mode][0]
    assert reports == []


@pytest.fixture
def package(make_model: Maker, tiny_manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that were made of the package of weights, which is installed."""
    made: list[str] = []

    def make(name: str, directory: Path, report: Say) -> Path:
        made.append(name)
        report("Making")
        return make_model(directory / name, manifest=replace(tiny_manifest, name=name), counter=None, signatures=None)

    monkeypatch.setattr("pc_engine.export.packaged.make_packaged", make)
    monkeypatch.setattr(PackagedWeights, "find", lambda pin: Path(pin.file))
    return made


@pytest.mark.parametrize("name", PACKAGED)
def test_a_model_is_made_of_its_package_once(package: list[str], name: str) -> None:
    assert {entry.name: entry.state for entry in list_models()}[name] == "can be made"
    reports: list[str] = []
    for _ in range(2):
        assert find_model(name, reports.append).directory == installed_directory(name)
    assert package == [name]
    assert reports == ["Making"]
    assert {entry.name: entry.state for entry in list_models()}[name] == "installed, nothing fitted"


def test_where_a_package_has_weights_they_are_the_default_for_what_they_can_do(
    package: list[str], make_model: Maker
) -> None:
    small, told = next(iter(PACKAGED)), MODES["c2p"].told()
    reports: list[str] = []
    assert default_model(MODES["combined"], reports.append).name == "lego"
    assert reports[-1].endswith(
        f"For photos: --mode p2c, or make a counter with 'pc-engine fit-counter DATA --model {small}'."
    )
    assert package == []
    assert default_model(told).directory == installed_directory(small)
    (installed_directory(small) / MANIFEST_FILE).unlink()
    make_model(installed_directory(small))
    assert default_model(MODES["combined"]).directory == installed_directory(small)
    make_model(installed_directory("vgg19"))
    assert default_model(MODES["combined"]).directory == installed_directory("vgg19")


def test_a_run_that_names_no_mode_counts_photos_by_what_is_there(
    package: list[str], make_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = next(iter(PACKAGED))
    assert default_mode(None) == default_mode(small) == "p2c"  # can be made
    assert (default_mode("lego"), default_mode("vgg16"), default_mode("no-such-model")) == ("c2p", "p2c", "c2p")
    mine = make_model(tmp_path / "mine", counter=None)
    assert default_mode(mine) == "p2c"
    assert default_mode(make_model(tmp_path / "fitted")) == "c2p"
    monkeypatch.chdir(tmp_path)
    assert (default_mode("mine"), default_mode("fitted")) == ("p2c", "c2p")
    make_model(installed_directory("vgg16"), counter=None)
    assert default_mode(None) == default_mode("vgg16") == "p2c"
    make_model(installed_directory(small))
    assert default_mode(None) == default_mode(small) == "c2p"
    assert default_model(MODES["c2p"]).directory == installed_directory(small)
    assert package == []


def test_without_a_network_for_photos_a_run_that_names_no_mode_is_c2p() -> None:
    assert default_mode(None) == "c2p"


def test_what_cannot_be_made_or_is_damaged_does_not_become_a_count_of_digits(
    package: list[str], make_model: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, directory: Path, report: Say) -> Path:
        raise DownloadError("The folder cannot be written.")

    monkeypatch.setattr("pc_engine.export.packaged.make_packaged", fail)
    with pytest.raises(DownloadError, match="cannot be written"):
        default_model(MODES["p2c"])
    (make_model(installed_directory(next(iter(PACKAGED)))) / NETWORK_FILE).unlink()
    with pytest.raises(ModelError, match=r"has a manifest but no model\.onnx"):
        default_model(MODES["p2c"])
    (make_model(installed_directory("vgg16")) / SIGNATURES_FILE).unlink()
    with pytest.raises(MissingPartError, match="has lost"):
        default_model(MODES["p2c"])


def test_what_has_a_folder_in_front_is_no_name(make_model: Maker) -> None:
    make_model(installed_directory("mine"))
    for text in ("./mine", "../models/mine", "models/mine"):
        with pytest.raises(UsageError, match="There is no model"):
            find_model(text)


def test_a_package_without_its_file_has_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small_weights").mkdir()
    (tmp_path / "small_weights/__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    pin = PackagedWeights("small_weights", "photos", "w.pth", "", licence="MIT")
    assert pin.find() is None
    (tmp_path / "small_weights/w.pth").touch()
    assert pin.find() == tmp_path / "small_weights/w.pth"
    assert replace(pin, package="no_such_package").find() is None


def test_a_mode_that_prefers_no_network_takes_the_embedded_one(
    embedded: Path, make_model: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(installed_directory("vgg16"))
    monkeypatch.setitem(MODES, "new", replace(MODES["p2c"], name="new"))
    assert model_for(None, MODES["new"]).directory == embedded


def test_a_preferred_model_without_its_parts_is_passed_over_and_said_how_to_complete(make_model: Maker) -> None:
    make_model(installed_directory("vgg19"), counter=None)
    reports: list[str] = []
    assert default_model(MODES["c2p"], reports.append).name == "lego"
    assert "pc-engine fit-counter DATA --model" in reports[0]
    # To point at a number that is known, nothing is missing.
    assert default_model(MODES["c2p"].told()).directory.name == "vgg19"


def test_an_unfitted_model_named_on_purpose_is_an_error(make_model: Maker) -> None:
    make_model(installed_directory("mine"), counter=None)
    with pytest.raises(ModelError, match="fit-counter"):
        model_for("mine", MODES["c2p"])
    assert model_for("mine", MODES["p2c"]).directory == installed_directory("mine")
    assert model_for(None, MODES["p2c"]).name == "lego"


@pytest.mark.parametrize("mode", ["c2p", "combined"])
def test_nothing_is_fetched_that_could_not_be_run(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pc_engine.export.fetch.fetch_vgg", lambda *_: pytest.fail("it was fetched"))
    with pytest.raises(UsageError, match=r"vgg19 does not come with: make one .* fit-counter DATA --model vgg19"):
        model_for("vgg19", MODES[mode])
