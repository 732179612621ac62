"""The modes: pure functions from taps to counts and pointers, on the array library of the taps.

``MODES`` names each, the taps it reads and the fitted parts of a model that it needs. To add one: write its module and
list it here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_type_hints

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

# What is chosen for a run: a model's own settings depend on it.
_OF_A_RUN = ("p2c.cluster",)


@dataclass(frozen=True)
class Settings:
    """Settings of all modes, in groups; each mode says which of them it reads."""

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

    Attributes
    ----------
    name
        What ``--mode`` takes, and what stands in rows.
    taps
        Returns which taps of a network it reads.
    needs
        Which fitted parts it reads; but see `parts`.
    settings
        The groups of `Settings` that it reads: its own, which has its ``pointer``, then those of other modes.
    evaluate
        Counts and points on a batch, given all of these and, where that is known, how many objects each image shows.
    unread
        Settings of these groups that it does not read, such as ``"p2c.trim"``.
    clusterings
        What it can be told to cluster with.
    pointers
        With what it can be told to point.
    open_label
        Whether its count is that of a label, which may stand for "at least so many".
    takes_classes
        Whether it can be told to count objects of several classes.
    takes_counts
        Whether it can be told how many objects an image shows, with these settings.
    """

    name: str
    taps: Callable[[Manifest], tuple[str, ...]]
    needs: tuple[Part, ...]
    settings: tuple[str, ...]
    evaluate: _Evaluate
    unread: tuple[str, ...] = ()
    clusterings: tuple[Clustering, ...] = ()
    pointers: tuple[str, ...] = ()
    open_label: bool = False
    takes_classes: bool = False
    takes_counts: Callable[[Settings], bool] = lambda _: True

    @property
    def weighs_clusters(self) -> bool:
        """Whether its counter may weigh clusters in, as one does that was fitted beside signatures."""
        return {"counter", "signatures"} <= {*self.needs}

    def reads(self, setting: str) -> bool:
        """Whether what it says can depend on a setting, such as ``"p2c.cutoff"``."""
        return setting.partition(".")[0] in self.settings and setting not in self.unread

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
        Mode(
            name="c2p",
            taps=c2p_taps,
            needs=("counter",),
            settings=("c2p",),
            evaluate=_c2p,
            open_label=True,
        ),
        Mode(
            name="p2c",
            taps=p2c_taps,
            needs=("signatures",),
            settings=("p2c",),
            evaluate=_p2c,
            clusterings=CLUSTERINGS,
            pointers=BOX_KINDS,
            takes_classes=True,
            takes_counts=lambda settings: can_point_at_known_counts(settings.p2c),
        ),
        Mode(
            name="combined",
            taps=combined_taps,
            needs=("counter", "signatures"),
            settings=("combined", "c2p", "p2c"),
            evaluate=_combined,
            # Of clusters that it does not make, of cores that it does not point with, and of several classes.
            unread=(
                "p2c.cluster",
                "p2c.eps",
                "p2c.min_weight",
                "p2c.pointer",
                "p2c.trim",
                "p2c.classes",
                "p2c.class_share",
                "p2c.class_overlap",
            ),
            clusterings=("density-peaks",),
            pointers=POINTER_KINDS,
        ),
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
        raise UsageError(f"Mode {mode.name} does not cluster, it fits a mixture: omit --cluster.")
    if cluster not in mode.clusterings:
        raise UsageError(
            f"Mode {mode.name} asks for a number of clusters, which only {' or '.join(mode.clusterings)} can give: "
            "omit --cluster."
        )


def check_pointer(mode: Mode, pointer: str) -> None:
    """Raise UsageError if ``mode`` cannot point with that."""
    if not mode.pointers:
        raise UsageError(f"Mode {mode.name} points in one way only: omit --pointer, or use another mode.")
    check_choice("pointer", pointer, mode.pointers, f" for mode {mode.name}")


def check_choices(mode: Mode, *, cluster: str | None, classes: int | None, pointer: str | None) -> None:
    """Raise UsageError if ``mode`` does not take what was chosen; None is where nothing was."""
    if cluster is not None:
        check_clustering(mode, cluster)
    if classes is not None and not mode.takes_classes:
        raise UsageError(f"Mode {mode.name} counts objects of one class: omit --classes, or use mode p2c.")
    if pointer is not None:
        check_pointer(mode, pointer)


def counts_by_label(mode: str, count_scores: object) -> bool:
    """Whether the count of a row is that of its label, which may be open-ended: one that was told has no scores."""
    return count_scores is not None and mode in MODES and MODES[mode].open_label


def check_known_count(mode: Mode, settings: Settings) -> None:
    """Raise UsageError if ``mode`` cannot be told a count with these settings."""
    if not mode.takes_counts(settings):
        raise UsageError(
            "Only density peaks of one class can be asked for a number of objects: omit --cluster and --classes, or "
            "--count."
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
        If a value is of the wrong type, or not allowed.
    """
    kinds: dict[str, Any] = {group.name: group.default_factory for group in dataclasses.fields(Settings)}
    values: dict[str, dict[str, Any]] = {group: {} for group in kinds}
    types = {f"{group}.{name}": of for group, kind in kinds.items() for name, of in get_type_hints(kind).items()}
    for name, value in manifest.settings.items():
        if name not in types or name in _OF_A_RUN:
            known = ", ".join(name for name in types if name not in _OF_A_RUN)
            raise ManifestError(f"The manifest of '{manifest.name}' sets '{name}', which does not exist: use {known}.")
        if types[name] not in (int, float) and not isinstance(value, str):  # numbers are looked at with their limits
            raise UsageError(f"The setting {name} is {value!r:.60}, expected text.")
        of, _, key = name.partition(".")
        # JSON may write a whole number as 2.0.
        whole = types[name] is int and isinstance(value, float) and value.is_integer()
        values[of][key] = int(value) if whole else value
    values["combined"] = {"heat": pointing_heat(manifest)} | values["combined"]
    values["p2c"] = p2c_defaults(manifest, p2c_overrides.get("cluster")) | values["p2c"]
    values["p2c"] |= {name: value for name, value in p2c_overrides.items() if value is not None}
    if mode is not None and pointer is not None:
        values[find_mode(mode).settings[0]]["pointer"] = pointer
    return Settings(**{group: kind(**values[group]) for group, kind in kinds.items()})


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
    "counts_by_label",
    "find_mode",
    "p2c",
    "settings_for",
]
