"""The modes: pure functions from taps to counts and pointers, on the array library of the taps.

``MODES`` names each, the taps it reads and the fitted parts of a model that it needs. To add one: write its module and
list it here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pc_engine.backbone import Taps
from pc_engine.errors import ManifestError, UsageError
from pc_engine.fitted.counter import CountSVM
from pc_engine.fitted.signatures import SignatureDictionary
from pc_engine.manifest import Manifest
from pc_engine.modes.c2p import C2PSettings, c2p, c2p_taps
from pc_engine.modes.combined import POINTER_KINDS, CombinedSettings, combined, combined_taps, pointing_heat
from pc_engine.modes.known_count import KnownCount
from pc_engine.modes.limits import check_choice
from pc_engine.modes.outcome import Outcome
from pc_engine.modes.p2c import can_point_at_known_counts, p2c
from pc_engine.modes.p2c_manifest import p2c_defaults, p2c_taps, signature_source
from pc_engine.modes.p2c_settings import BOX_KINDS, CLUSTERINGS, Clustering, P2CSettings

Part = Literal["counter", "signatures"]

# Types of the settings that a manifest may set.
_SETTABLE = ("int", "float", "str", "Signature", "BoxKind", "PointerKind", "PointingHeat", "PointedClusters")


@dataclass(frozen=True)
class Settings:
    """Settings of all modes; combined uses those of the other two, too."""

    c2p: C2PSettings = field(default_factory=C2PSettings)
    p2c: P2CSettings = field(default_factory=P2CSettings)
    combined: CombinedSettings = field(default_factory=CombinedSettings)


@dataclass(frozen=True, eq=False)
class FittedParts:
    """What was fitted for a network: its count SVM and its class signatures, each None where there is none."""

    counter: CountSVM | None = None
    signatures: SignatureDictionary | None = None

    def has(self, part: Part) -> bool:
        """Whether ``part`` is there."""
        return getattr(self, part) is not None


class _Evaluate(Protocol):
    def __call__(
        self, taps: Taps, parts: FittedParts, settings: Settings, known_count: KnownCount | None = None
    ) -> Outcome: ...


@dataclass(frozen=True)
class Mode:
    """One mode.

    ``taps`` says which taps of a network it reads, ``needs`` which fitted parts (but see `parts`), ``clusterings`` what
    it can be told to cluster with, and ``pointers`` with what to point. ``evaluate`` counts and points on a batch,
    given all of these and, where that is known, how many objects each image shows, if settings are such that it
    ``takes_counts``.
    """

    name: str
    taps: Callable[[Manifest], tuple[str, ...]]
    needs: tuple[Part, ...]
    clusterings: tuple[Clustering, ...]
    evaluate: _Evaluate
    pointers: tuple[str, ...] = ()
    takes_counts: Callable[[Settings], bool] = lambda _: True

    def told(self) -> Mode:
        """Return the mode for images whose count is known: it needs nothing to count with."""
        return dataclasses.replace(self, needs=tuple(part for part in self.needs if part != "counter"))

    def parts(self, manifest: Manifest) -> tuple[Part, ...]:
        """Return the fitted parts that it needs of this model: no signatures where the network's evidence is read."""
        if signature_source(manifest) == "dictionary":
            return self.needs
        return tuple(part for part in self.needs if part != "signatures")


def _c2p(taps: Taps, parts: FittedParts, settings: Settings, known_count: KnownCount | None = None) -> Outcome:
    return c2p(taps, parts.counter, settings.c2p, known_count)


def _p2c(taps: Taps, parts: FittedParts, settings: Settings, known_count: KnownCount | None = None) -> Outcome:
    return p2c(taps, parts.signatures, settings.p2c, known_count)


def _combined(taps: Taps, parts: FittedParts, settings: Settings, known_count: KnownCount | None = None) -> Outcome:
    return combined(taps, parts.counter, parts.signatures, settings.p2c, settings.combined, settings.c2p, known_count)


MODES = {
    mode.name: mode
    for mode in (
        Mode("c2p", c2p_taps, ("counter",), (), _c2p),
        Mode(
            *("p2c", p2c_taps, ("signatures",), CLUSTERINGS, _p2c, BOX_KINDS),
            takes_counts=lambda settings: can_point_at_known_counts(settings.p2c),
        ),
        Mode("combined", combined_taps, ("counter", "signatures"), ("density-peaks",), _combined, POINTER_KINDS),
    )
}


def find_mode(name: str, *beside: str) -> Mode:
    """Return the mode of that name.

    Raises
    ------
    UsageError
        If there is none; the message lists them, and the words that the caller takes ``beside``.
    """
    if name not in MODES:
        raise UsageError(f"There is no mode '{name}': choose one of {', '.join((*MODES, *beside))}.")
    return MODES[name]


def check_clustering(mode: Mode, cluster: str) -> None:
    """Raise UsageError if ``mode`` cannot use that clustering."""
    check_choice("clustering", cluster, CLUSTERINGS)
    if not mode.clusterings:
        raise UsageError(f"Mode {mode.name} clusters nothing, it fits a mixture: leave --cluster out.")
    if cluster not in mode.clusterings:
        raise UsageError(
            f"Mode {mode.name} asks for a number of clusters, which only {' or '.join(mode.clusterings)} can give: "
            f"leave --cluster out."
        )


def check_pointer(mode: Mode, pointer: str) -> None:
    """Raise UsageError if ``mode`` cannot point with that."""
    if not mode.pointers:
        raise UsageError(f"Mode {mode.name} points in one way only: leave --pointer out, or take another mode.")
    check_choice("pointer", pointer, mode.pointers, f" for mode {mode.name}")


def check_choices(mode: Mode, *, cluster: str | None, classes: int | None, pointer: str | None) -> None:
    """Raise UsageError if ``mode`` does not take what was chosen; None is where nothing was."""
    if cluster is not None:
        check_clustering(mode, cluster)
    if classes is not None and mode.name != "p2c":
        raise UsageError(f"Mode {mode.name} counts objects of one class: leave --classes out, or take mode p2c.")
    if pointer is not None:
        check_pointer(mode, pointer)


def check_known_count(mode: Mode, settings: Settings) -> None:
    """Raise UsageError if ``mode`` cannot be told a count with these settings."""
    if not mode.takes_counts(settings):
        raise UsageError(
            "Only density peaks of one class can be asked for a number of objects: leave --cluster and --classes out, "
            "or --count."
        )


def settings_for(
    manifest: Manifest, *, mode: str | None = None, pointer: str | None = None, **p2c_overrides: Any
) -> Settings:
    """Return the settings of a model: the defaults, then its manifest's, then what is given and not None.

    ``pointer`` is that of ``mode``, ``p2c_overrides`` are settings of p2c.

    Raises
    ------
    ManifestError
        If the manifest names a setting that does not exist.
    UsageError
        If a value is not allowed.
    """
    kinds = {"c2p": C2PSettings, "p2c": P2CSettings, "combined": CombinedSettings}
    values: dict[str, dict[str, Any]] = {mode: {} for mode in kinds}
    values["p2c"] |= p2c_defaults(manifest, p2c_overrides.get("cluster"))
    values["combined"]["heat"] = pointing_heat(manifest)
    types = {f"{mode}.{item.name}": item.type for mode, kind in kinds.items() for item in dataclasses.fields(kind)}
    for name, value in manifest.settings.items():
        if types.get(name) not in _SETTABLE:
            known = ", ".join(name for name, kind in types.items() if kind in _SETTABLE)
            raise ManifestError(f"The manifest of '{manifest.name}' sets '{name}', which does not exist: use {known}.")
        of, _, key = name.partition(".")
        # JSON may write a whole number as 2.0.
        whole = types[name] == "int" and isinstance(value, float) and value.is_integer()
        values[of][key] = int(value) if whole else value
    values["p2c"].update({name: value for name, value in p2c_overrides.items() if value is not None})
    if mode is not None and pointer is not None:
        values[mode]["pointer"] = pointer
    return Settings(C2PSettings(**values["c2p"]), P2CSettings(**values["p2c"]), CombinedSettings(**values["combined"]))


__all__ = [
    "CLUSTERINGS",
    "MODES",
    "C2PSettings",
    "CombinedSettings",
    "FittedParts",
    "KnownCount",
    "Mode",
    "Outcome",
    "P2CSettings",
    "Part",
    "Settings",
    "c2p",
    "check_choices",
    "check_clustering",
    "check_known_count",
    "check_pointer",
    "combined",
    "find_mode",
    "p2c",
    "settings_for",
]
