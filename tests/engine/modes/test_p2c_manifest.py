from __future__ import annotations

from dataclasses import replace

import pytest

from pc_engine.manifest import SIGNATURES_FILE, Manifest
from pc_engine.modes.p2c_manifest import heat_name
from pc_engine.modes.p2c_settings import P2CSettings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (P2CSettings(), "5a"),
        (P2CSettings(heat="conv_last  conv_prev", top_last=7), "5a conv_last conv_prev top_last=7"),
        (P2CSettings(signature="evidence"), "evidence"),
        (P2CSettings(signature="evidence", mean_factor=0.25, softness=0.05), "evidence mean_factor=0.25 softness=0.05"),
        # What is said of clusters changes no heat.
        (P2CSettings(cutoff=3.0, min_density=0.2, trim=0.1, cluster="dbscan"), "5a"),
    ],
)
def test_heat_is_named_by_what_gives_it_and_what_is_unusual(
    tiny_manifest: Manifest, settings: P2CSettings, expected: str
) -> None:
    assert heat_name(replace(tiny_manifest, files={SIGNATURES_FILE: "5a"}), settings) == expected


def test_heat_of_a_dictionary_that_is_not_there_has_no_name(tiny_manifest: Manifest) -> None:
    manifest = replace(tiny_manifest, files={})
    assert heat_name(manifest, P2CSettings(heat="conv_last")) is None
    assert heat_name(manifest, P2CSettings(signature="evidence")) == "evidence"
