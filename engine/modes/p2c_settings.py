"""Settings of mode p2c."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pc_engine.errors import UsageError
from pc_engine.fitted.cluster_likelihood import PEAK_LIMITS
from pc_engine.kernels.density_peaks import LEAST_DENSITY
from pc_engine.manifest import EVIDENCE
from pc_engine.modes.limits import FACTOR, LENGTH, SHARE, check_choice, check_limits
from pc_engine.modes.salience import Salience

Clustering = Literal["density-peaks", "dbscan", "cuml-dbscan"]
CLUSTERINGS: tuple[Clustering, ...] = ("density-peaks", "dbscan", "cuml-dbscan")
Signature = Literal["dictionary", "evidence"]
_SIGNATURES: tuple[Signature, ...] = ("dictionary", "evidence")
BoxKind = Literal["core", "box"]
BOX_KINDS: tuple[BoxKind, ...] = ("core", "box")

_LIMITS = {
    "top_last": (0, 100_000),
    "top_prev": (0, 100_000),
    "top_evidence": (0, 100_000),
    "mean_factor": FACTOR,
    "softness": SHARE,
    "background_class": (-1, 1_000_000),
    **PEAK_LIMITS,
    "eps": LENGTH,
    "min_weight": (1e-6, 1e6),
    "trim": SHARE,
    "box_trim": (0.0, 0.99),
    "classes": (1, 1000),
    "class_share": SHARE,
    "class_overlap": SHARE,
}


@dataclass(frozen=True)
class P2CSettings:
    """Settings of point-then-count. Lengths are in cells of the heatmap; their defaults are for 14 x 14 cells.

    Attributes
    ----------
    signature
        Which maps speak for a class: those of the ``"dictionary"`` fitted from labelled images, or the ``"evidence"``
        that the network itself gives, image by image.
    top_last, top_prev
        Number of maps of ``conv_last`` and ``conv_prev`` that a signature selects (paper 4: 20 and 50); all of them
        where a layer has fewer.
    top_evidence
        Number of maps that the evidence selects, those that speak most for the class; 0 for all, also those that speak
        against it.
    mean_factor
        Multiple of the stack's mean that is subtracted before clamping at 0 (paper 4: 2).
    heat
        Taps, spaces between their names, whose maps' mean says where anything is salient: what is clustered is the
        geometric mean of the class's heatmap and theirs. Other maps tell neighbours apart that those of the class show
        as one. ``""``, the paper's way, leaves the class's as it is.
    softness
        Share w of the mean M of a map of ``heat``, P, over which its clamp at 0 is rounded off: w M log(1 + exp((P - M)
        / (w M))) is what is salient. 0 is max(P - M, 0), with which a cell next to the mean comes and goes with the
        rounding of the network, and as the product of the heatmaps with it.
    background_class
        The class that means "no object", where the network has one; -1 where it has none. An image of this class counts
        0 in p2c, which has no other way to see nothing (paper 4.1: "a naive treatment for zero objects").
    cluster
        ``"density-peaks"`` (Rodriguez & Laio 2014), ``"dbscan"``, or ``"cuml-dbscan"``: the same by cuML, on a GPU.
    cutoff
        Density peaks: the cut-off distance d_c of the density.
    min_density, min_distance
        Density peaks: a centre's density, as a fraction of the image's largest, and its distance to any denser cell.
        With a ``prominence``, from which fraction on a peak counts in full, above 0.1; the distance is not read then.
    prominence
        Density peaks: 0 for those two thresholds. Else how far a peak has to rise, as a fraction of the image's largest
        density, above the saddle that joins it to a denser one, to count in full. One of density rho over a saddle s,
        with the largest density t, counts clip((rho / t - 0.1) / (min_density - 0.1), 0, 1) * min(1, (rho - s) / t /
        prominence), and there are as many clusters beside the densest as these sum to, rounded. Whoever rounds the
        network changes all densities a little: prominences change by at most twice as much (the bottleneck stability of
        topological persistence; Cohen-Steiner, Edelsbrunner & Harer 2007, doi 10.1007/s00454-006-1276-5), a distance to
        a denser cell by any amount.
    eps, min_weight
        DBSCAN: neighbourhood radius, and the least heat of a core point's neighbourhood as a multiple of the mean heat
        of the image's surviving cells.
    pointer
        ``"core"``: a cluster's box holds what is surest of the object, and lies inside it: what is pointed with, as the
        paper judges pointers. ``"box"``: it goes around all of the object, as labels do
        (``bench/results/boxes.json``).
    trim
        A core holds the cells whose density is at least this fraction of the cluster's peak; 0 holds all (paper 3.2).
        On photos a half doubles the boxes that are pointed at (``bench/results/ablation-p2c-trim.json``).
    box_trim
        A box ends where the heat falls below this fraction of the greatest in the cluster, between cells.
    classes
        The most classes that are looked for in an image (paper 3.2, the extended scenario).
    class_share
        A class takes part if its probability is at least this share of the most probable one's.
    class_overlap
        Clusters of two classes are one object if their boxes share more than this much of the smaller one. It belongs
        to the class that is stronger there, compared with the class's strongest cluster in the image; to the more
        probable class where neither is.
    """

    signature: Signature = "dictionary"
    top_last: int = 20
    top_prev: int = 50
    top_evidence: int = 0
    mean_factor: float = 2.0
    heat: str = ""
    softness: float = 0.0
    background_class: int = -1
    cluster: Clustering = "density-peaks"
    cutoff: float = 1.0
    min_density: float = 0.5
    min_distance: float = 4.0
    prominence: float = 0.0
    eps: float = 1.5
    min_weight: float = 3.0
    pointer: BoxKind = "core"
    trim: float = 0.5
    box_trim: float = 0.25
    classes: int = 1
    class_share: float = 0.1
    class_overlap: float = 0.5

    def __post_init__(self) -> None:
        check_choice("clustering", self.cluster, CLUSTERINGS)
        check_choice("signature", self.signature, _SIGNATURES)
        check_choice("pointer", self.pointer, BOX_KINDS, " for mode p2c")
        check_limits(self, "p2c", _LIMITS)
        if self.prominence and not self.min_density > LEAST_DENSITY:
            raise UsageError(
                f"The setting p2c.min_density is {self.min_density!r:.60}, expected a number above {LEAST_DENSITY:g} "
                f"beside p2c.prominence: raise it, or set p2c.prominence to 0."
            )
        if self.top_last == self.top_prev == 0:
            raise UsageError("The settings p2c.top_last and p2c.top_prev are both 0: at least one map is needed.")
        if self.classes > 1 and self.signature == EVIDENCE:
            raise UsageError(
                "Several classes in an image need a signature of each, but the network's evidence is for one class "
                "only: make signatures with 'pc-engine fit-signatures', or ask for 1 class."
            )

    @property
    def salience(self) -> Salience:
        """What the class's heatmap is weighed with, whatever its class."""
        return Salience(self.heat, softness=self.softness)

    @property
    def recordable(self) -> bool:
        """Whether a GPU's work can be recorded as a CUDA graph: cuML waits for the device."""
        return self.cluster != "cuml-dbscan"
