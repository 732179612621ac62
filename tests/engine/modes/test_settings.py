from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from pc_engine.errors import ManifestError, UsageError
from pc_engine.manifest import SIGNATURES_FILE, Manifest, Tap
from pc_engine.manifest_file import read_manifest, write_manifest
from pc_engine.modes import _OF_A_RUN, CLUSTERINGS, MODES, C2PSettings, P2CSettings, settings_for
from pc_engine.modes.combined import CombinedSettings

REPOSITORY = Path(__file__).resolve().parents[3]
# Every setting that a manifest may set, with its default.
SETTABLE = {
    f"{mode}.{item.name}": item.default
    for mode, kind in (("c2p", C2PSettings), ("p2c", P2CSettings), ("combined", CombinedSettings))
    for item in dataclasses.fields(kind)
    if f"{mode}.{item.name}" not in _OF_A_RUN
}


def test_a_manifest_without_settings_gives_the_defaults(tiny_manifest: Manifest) -> None:
    settings = settings_for(with_grid(tiny_manifest, 14))
    assert settings.c2p == C2PSettings()
    assert settings.p2c == P2CSettings()


def test_defaults_are_those_beside_which_others_were_measured(tiny_manifest: Manifest) -> None:
    """The settings name that measurement for why they are what they are: who changes one measures anew."""
    settings = settings_for(replace(with_grid(tiny_manifest, 14), settings={"p2c.heat": "conv_prev"}))
    usual = {f"{mode}.{name}": value for mode in MODES for name, value in vars(getattr(settings, mode)).items()}
    tables = json.loads((REPOSITORY / "bench/results/ablation-photos.json").read_text())["data"]
    trials = chain.from_iterable(chain.from_iterable(table["modes"].values()) for table in tables.values())
    # Heat is the model's own, and what begins otherwise is none of a mode's settings.
    measured = {each["setting"]: each["default"] for each in trials if each["setting"] in usual}
    measured = {name: value for name, value in measured.items() if not name.endswith(".heat")}
    assert len(measured) > 15
    assert measured == {name: usual[name] for name in measured}


@pytest.mark.parametrize("side", [7, 8, 28])
def test_default_lengths_grow_with_the_finest_grid(tiny_manifest: Manifest, side: int) -> None:
    found = settings_for(with_grid(tiny_manifest, side)).p2c
    usual = P2CSettings()
    assert found == P2CSettings(cutoff=usual.cutoff * side / 14, min_distance=usual.min_distance * side / 14)


@pytest.mark.parametrize("evidence", [False, True])
def test_lengths_go_by_the_number_of_cells_whatever_their_rows_and_columns(
    tiny_manifest: Manifest, evidence: bool
) -> None:
    found = []
    for grid in ((14, 14), (7, 28), (28, 7)):
        taps = {**tiny_manifest.taps, "conv_last": Tap("second_relu", (5, *grid)), "conv_prev": Tap("a", (5, *grid))}
        if evidence:
            taps["evidence"] = Tap("evidence", (5,))
        found.append(settings_for(replace(tiny_manifest, taps=taps, settings={})).p2c)
    assert found[0] == found[1] == found[2]


def with_grid(manifest: Manifest, side: int) -> Manifest:
    """The manifest without settings, whose last maps have half the side of those before."""
    taps = {
        **manifest.taps,
        "conv_prev": Tap("first_relu", (5, side, side)),
        "conv_last": Tap("second_relu", (5, side // 2, side // 2)),
    }
    return replace(manifest, taps=taps, settings={})


def test_the_manifest_changes_defaults_and_the_caller_changes_both(tiny_manifest: Manifest) -> None:
    manifest = replace(
        with_grid(tiny_manifest, 14), settings={"p2c.top_last": 7.0, "c2p.min_deviation": 0.5, "p2c.trim": 0.7}
    )
    settings = settings_for(manifest, cluster="dbscan", trim=None)
    assert settings.p2c == P2CSettings(top_last=7, trim=0.7, cluster="dbscan")
    assert isinstance(settings.p2c.top_last, int)
    assert settings.c2p == C2PSettings(min_deviation=0.5)
    assert settings_for(manifest, trim=0.2).p2c.trim == 0.2


@pytest.mark.parametrize("name", ["p2c.size", "top_last", "c2p.cluster", "p2c.cluster", "", "p2c.", "combined.trim"])
def test_a_setting_that_does_not_exist_names_those_that_do(tiny_manifest: Manifest, name: str) -> None:
    with pytest.raises(
        ManifestError, match=rf"'{name}', which does not exist: use c2p.heat, .*p2c\.trim, .*combined\.pointer"
    ):
        settings_for(replace(tiny_manifest, settings={name: 1}))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (C2PSettings, {"mean_factor": -1}),
        (C2PSettings, {"min_deviation": 0}),
        (C2PSettings, {"max_iter": 0}),
        (C2PSettings, {"tol": float("nan")}),
        (P2CSettings, {"cutoff": 0.0}),
        (P2CSettings, {"min_density": 1.5}),
        (P2CSettings, {"min_distance": -1}),
        (P2CSettings, {"softness": -0.1}),
        (P2CSettings, {"prominence": 1.5}),
        (P2CSettings, {"eps": float("inf")}),
        (P2CSettings, {"min_weight": 0}),
        (P2CSettings, {"trim": -0.1}),
        (P2CSettings, {"top_last": -1}),
        (P2CSettings, {"mean_factor": float("nan")}),
    ],
)
def test_a_value_that_a_kernel_would_refuse_is_refused_before_the_run(kind: type, values: dict[str, Any]) -> None:
    [(name, value)] = values.items()
    with pytest.raises(UsageError, match=rf"\.{name} is {value}, expected a number from"):
        kind(**values)


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        (C2PSettings, "tol", "0.1", "a number"),
        (C2PSettings, "mean_factor", True, "a number"),
        (C2PSettings, "max_iter", 2.5, "a whole number"),
        (P2CSettings, "classes", "two", "a whole number"),
        (P2CSettings, "cutoff", None, "a number"),
        (CombinedSettings, "cutoff", "x", "a number"),
    ],
)
def test_a_value_of_another_type_is_refused(kind: type, name: str, value: Any, expected: str) -> None:
    with pytest.raises(UsageError, match=rf"\.{name} is {value!r}, expected {expected} from"):
        kind(**{name: value})


@pytest.mark.parametrize("name", SETTABLE)
def test_what_a_manifest_sets_comes_through_its_file(tiny_manifest: Manifest, tmp_path: Path, name: str) -> None:
    mode, _, key = name.partition(".")
    write_manifest(replace(tiny_manifest, settings={name: SETTABLE[name]}), tmp_path)
    assert getattr(getattr(settings_for(read_manifest(tmp_path)), mode), key) == SETTABLE[name]
    is_text = isinstance(SETTABLE[name], str)
    write_manifest(replace(tiny_manifest, settings={name: 3 if is_text else "3"}), tmp_path)
    with pytest.raises(UsageError, match=f"expected {'text' if is_text else 'a'}"):
        settings_for(read_manifest(tmp_path))


def test_a_whole_number_of_a_manifest_is_not_cut_to_one(tiny_manifest: Manifest) -> None:
    assert settings_for(replace(tiny_manifest, settings={"p2c.classes": 2.0})).p2c.classes == 2
    for value in (2.5, "two", float("nan")):
        with pytest.raises(UsageError, match=rf"p2c\.classes is {value!r}, expected a whole number from 1 to 1000"):
            settings_for(replace(tiny_manifest, settings={"p2c.classes": value}))


def test_no_map_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one map"):
        P2CSettings(top_last=0, top_prev=0)


def test_a_prominence_needs_a_density_above_the_least_one() -> None:
    P2CSettings(min_density=0.1)
    P2CSettings(min_density=0.11, prominence=0.2)
    with pytest.raises(
        UsageError, match=r"p2c\.min_density is 0\.1, expected a number above 0\.1 beside p2c\.prominence"
    ):
        P2CSettings(min_density=0.1, prominence=0.2)


def test_an_unknown_clustering_names_the_known_ones(tiny_manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="no clustering 'kmeans': choose one of density-peaks, dbscan"):
        settings_for(tiny_manifest, cluster="kmeans")


def test_every_limit_is_of_a_setting_and_every_number_has_one() -> None:
    for kind in (C2PSettings, P2CSettings, CombinedSettings):
        for item in dataclasses.fields(kind):
            if item.type in ("int", "float"):
                with pytest.raises(UsageError):
                    kind(**{item.name: -(10**9)})


def test_modes_say_what_they_read_and_need(tiny_manifest: Manifest) -> None:
    assert {name: mode.taps(tiny_manifest) for name, mode in MODES.items()} == {
        "c2p": ("gap", "conv_last"),
        "p2c": ("conv_prev", "conv_last", "logits"),
        "combined": ("gap", "conv_last", "conv_prev", "logits"),
    }
    assert {name: mode.needs for name, mode in MODES.items()} == {
        "c2p": ("counter",),
        "p2c": ("signatures",),
        "combined": ("counter", "signatures"),
    }
    assert MODES["p2c"].clusterings == CLUSTERINGS


def with_evidence(manifest: Manifest, **changes: Any) -> Manifest:
    return replace(manifest, taps={**manifest.taps, "evidence": Tap("evidence", (5,))}, **changes)


def test_evidence_stands_in_for_signatures_until_some_are_fitted(tiny_manifest: Manifest) -> None:
    unfitted = with_evidence(tiny_manifest)
    assert MODES["p2c"].taps(unfitted) == ("conv_last", "logits", "evidence", "conv_prev")
    assert MODES["combined"].taps(unfitted) == ("gap", "conv_last", "logits", "evidence", "conv_prev")
    assert {name: mode.parts(unfitted) for name, mode in MODES.items()} == {
        "c2p": ("counter",),
        "p2c": (),
        "combined": ("counter",),
    }
    assert settings_for(unfitted).p2c.signature == "evidence"
    fitted = replace(unfitted, files={SIGNATURES_FILE: "0"})
    assert MODES["p2c"].taps(fitted) == ("conv_prev", "conv_last", "logits")
    assert MODES["p2c"].parts(fitted) == ("signatures",)
    assert settings_for(fitted).p2c == settings_for(tiny_manifest).p2c


def test_combined_points_at_the_evidence_where_there_is_any(tiny_manifest: Manifest) -> None:
    fitted = with_evidence(tiny_manifest, files={SIGNATURES_FILE: "0"})
    assert settings_for(tiny_manifest).combined.heat == "p2c"
    assert settings_for(fitted).combined.heat == "evidence"
    assert MODES["combined"].taps(fitted) == ("gap", "conv_last", "conv_prev", "logits", "evidence")
    assert MODES["combined"].parts(fitted) == ("counter", "signatures")
    told = replace(fitted, settings={"combined.heat": "p2c"})
    assert settings_for(told).combined.heat == "p2c"
    assert MODES["combined"].taps(told) == ("gap", "conv_last", "conv_prev", "logits")
    with pytest.raises(ManifestError, match=r"sets 'combined\.heat' to 'evidence', a tap that it does not have"):
        replace(tiny_manifest, settings={"combined.heat": "evidence"})
    with pytest.raises(UsageError, match="There is no heat 'warm' to point at: choose one of evidence, p2c"):
        settings_for(replace(fitted, settings={"combined.heat": "warm"}))


@pytest.mark.parametrize("signature", ["dictionary", "evidence"])
@pytest.mark.parametrize("files", [{}, {SIGNATURES_FILE: "0"}])
def test_the_manifest_can_say_where_signatures_come_from(
    tiny_manifest: Manifest, signature: str, files: dict[str, str]
) -> None:
    manifest = with_evidence(tiny_manifest, files=files, settings={"p2c.signature": signature})
    assert settings_for(manifest).p2c.signature == signature
    assert ("evidence" in MODES["p2c"].taps(manifest)) == (signature == "evidence")
    assert ("signatures" in MODES["p2c"].parts(manifest)) == (signature == "dictionary")


def test_evidence_has_defaults_of_its_own_that_go_with_its_grid(tiny_manifest: Manifest) -> None:
    manifest = with_evidence(tiny_manifest, settings={"p2c.trim": 0.7, "p2c.heat": ""})
    settings = settings_for(manifest).p2c
    assert settings.mean_factor == settings_for(manifest, cluster="density-peaks").p2c.mean_factor == 0
    assert settings_for(manifest, cluster="dbscan").p2c.mean_factor == P2CSettings().mean_factor
    # On the 8 x 8 cells of its maps; weaker and closer ones than of a dictionary's are objects.
    assert (settings.min_density, settings.min_distance) == (0.3, 2 * 8 / 14)
    assert settings.cutoff == 8 / 14
    assert settings.trim == 0.7
    top = replace(manifest, taps={**manifest.taps, "conv_top": Tap("conv_top", (5, 16, 16))})
    assert MODES["p2c"].taps(top) == ("conv_top", "logits", "evidence")
    for name in ("cutoff", "min_distance"):
        assert getattr(settings_for(top).p2c, name) == 2 * getattr(settings, name)


def test_evidence_is_weighed_with_the_maps_before_the_last(tiny_manifest: Manifest) -> None:
    manifest = with_evidence(tiny_manifest)
    usual = settings_for(manifest).p2c
    assert usual.heat == "conv_prev"
    assert usual == settings_for(replace(manifest, settings={**manifest.settings, "p2c.heat": "conv_prev"})).p2c
    assert settings_for(replace(manifest, settings={"p2c.heat": ""})).p2c.heat == ""
    alone = replace(manifest, taps={name: tap for name, tap in manifest.taps.items() if name != "conv_prev"})
    assert settings_for(alone).p2c.heat == ""
    assert settings_for(replace(manifest, files={SIGNATURES_FILE: "0"})).p2c.heat == ""


@pytest.mark.parametrize(
    ("signature", "side", "cutoff", "prominence"),
    [
        ("dictionary", 14, 1.4, 0.1),
        ("evidence", 28, 1.4, 0.1),
        ("dictionary", 8, 1.2, 0.05),
        ("evidence", 14, 1.2, 0.05),
    ],
)
def test_heat_that_is_weighed_has_defaults_that_go_with_its_grids(
    tiny_manifest: Manifest, signature: str, side: int, cutoff: float, prominence: float
) -> None:
    """Lengths go with the finest grid, 28 x 28, how far a peak rises with that of the class's maps."""
    own = {"p2c.signature": signature, "p2c.heat": "conv_last fine"}
    taps = {**with_grid(tiny_manifest, side).taps, "evidence": Tap("evidence", (5,)), "fine": Tap("fine", (5, 28, 28))}
    manifest = replace(tiny_manifest, taps=taps, settings=own)
    assert MODES["p2c"].taps(manifest)[-1] == "fine"
    found = settings_for(manifest).p2c
    assert (found.heat, found.min_density, found.prominence) == ("conv_last fine", 0.4, prominence)
    assert (found.softness, found.trim) == (0.05, 0.6)
    assert (found.cutoff, found.min_distance) == (pytest.approx(2 * cutoff), pytest.approx(6))
    assert settings_for(replace(manifest, settings={**own, "p2c.cutoff": 1.0})).p2c.cutoff == 1.0
    # A soft clamp leaves no gaps, by which DBSCAN tells objects apart.
    assert settings_for(manifest, cluster="dbscan").p2c.softness == 0
    assert settings_for(manifest, cluster="density-peaks").p2c == found
    for mode in ("p2c", "combined"):
        with pytest.raises(ManifestError, match=r"sets 'p2c\.heat' to 'logits', but has no maps called logits"):
            MODES[mode].taps(replace(manifest, settings={**own, "p2c.heat": "logits"}))


def test_a_layer_that_no_map_is_taken_of_makes_no_grid_fine(tiny_manifest: Manifest) -> None:
    settings = {"p2c.heat": "conv_prev", "p2c.top_last": 2}
    manifest = replace(with_grid(tiny_manifest, 14), settings=settings)
    assert settings_for(manifest).p2c.prominence == 0.1
    without = replace(manifest, settings={**settings, "p2c.top_prev": 0})
    assert settings_for(without).p2c.prominence == 0.05
    nothing = replace(manifest, settings={**settings, "p2c.top_prev": 0, "p2c.top_last": 0})
    with pytest.raises(UsageError, match="are both 0"):
        settings_for(nothing)


def test_signatures_from_nowhere_name_where_they_can_come_from(tiny_manifest: Manifest) -> None:
    manifest = replace(tiny_manifest, settings={"p2c.signature": "guess"})
    with pytest.raises(UsageError, match="no signature 'guess': choose one of dictionary, evidence"):
        settings_for(manifest)


def test_a_network_without_conv_prev_is_not_asked_for_it(tiny_manifest: Manifest) -> None:
    taps = {name: tap for name, tap in tiny_manifest.taps.items() if name != "conv_prev"}
    assert MODES["p2c"].taps(replace(tiny_manifest, taps=taps)) == ("conv_last", "logits")


def test_a_tap_that_serves_twice_is_asked_for_once(tiny_manifest: Manifest) -> None:
    manifest = replace(tiny_manifest, count_features=("conv_last", "gap"))
    assert MODES["c2p"].taps(manifest) == ("conv_last", "gap")


def test_a_setting_is_changed_without_looking_up_the_types_of_all(monkeypatch):
    """Mode combined does so for each batch, and looking them up took longer than all else."""
    settings = P2CSettings()
    monkeypatch.setattr("pc_engine.modes.limits.get_type_hints", lambda _: pytest.fail("Types were looked up."))
    assert dataclasses.replace(settings, cutoff=2.0).cutoff == 2.0
    with pytest.raises(UsageError, match=r"classes is 1\.5, expected a whole number"):
        dataclasses.replace(settings, classes=1.5)
