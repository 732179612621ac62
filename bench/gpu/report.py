"""What the parts of the acceptance on a GPU found: kept in one file, shown as tables, held against the goals."""

from __future__ import annotations

import json
import operator
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pc_engine.errors import DataError, DeviceLostError, PcEngineError, first_line
from pc_engine.files.durable import publish_bytes, publish_json
from pc_engine.files.out_folder import folder_error
from pc_engine.hardware.cuda import failure

JSON_FILE, TEXT_FILE = "gpu-acceptance.json", "gpu-acceptance.txt"

#: One finding: names of columns to text, numbers, booleans, or None where there is nothing to say. ``reason`` is why
#: something was not measured.
Row = dict[str, Any]

#: Least share of the card's measured matrix rate that a network at fp16 has to reach, and images/s on an H200.
MATRIX_SHARE = 0.8
IMAGES_PER_SECOND = {"vgg16": 20_400, "vgg19": 16_100}
#: Most time of what follows the network, as a share of the network's.
FOLLOWING_SHARE = 0.05
#: Least rate from files to results, as a share of the slower of decoding and the network.
END_TO_END_SHARE = 0.8
#: Least share of images whose count is that of fp32 on the CPU.
SAME_COUNTS = 0.995


@dataclass(frozen=True)
class Section:
    """What one part found.

    Attributes
    ----------
    part
        Its name.
    state
        ``"done"``, ``"incomplete"`` (stopped by the time limit or an error, with the rows until then), or
        ``"skipped"`` (something that it needs is missing).
    reason
        Why it is not done; empty if it is.
    seconds
        Wall-clock time that it took.
    rows
        Its findings.
    machine
        Where it ran, with versions.
    """

    part: str
    state: str = "done"
    reason: str = ""
    seconds: float = 0.0
    rows: tuple[Row, ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Goal:
    """A figure to reach: at least, at most (``"<="``) or exactly. ``reached`` is None where nothing was measured."""

    goal: str
    wanted: float
    reached: float | None
    sign: Literal[">=", "<=", "="] = ">="

    @property
    def met(self) -> bool | None:
        """Whether it was reached; None where nothing says."""
        if self.reached is None:
            return None
        compare = {">=": operator.ge, "<=": operator.le, "=": operator.eq}[self.sign]
        return bool(compare(self.reached, self.wanted))


def read_sections(folder: Path) -> dict[str, Section]:
    """Return the sections that earlier runs left in ``folder``, by part.

    Raises
    ------
    DataError
        If the file there is not one that `write_sections` wrote.
    """
    path = folder / JSON_FILE
    if not path.is_file():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["parts"]
        return {name: Section(**{**value, "rows": tuple(value["rows"])}) for name, value in stored.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a report of this command ({error}): move it away.") from None


def write_sections(folder: Path, sections: Mapping[str, Section]) -> None:
    """Write all sections as JSON and as text; a reader sees the old file or the new one.

    Raises
    ------
    UsageError
        If the folder cannot be written.
    """
    stored = {name: asdict(section) for name, section in sections.items()}
    reached = [{**asdict(goal), "met": goal.met} for goal in goals(sections)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        publish_json(folder / JSON_FILE, {"parts": stored, "goals": reached})
        publish_bytes(folder / TEXT_FILE, as_text(sections).encode())
    except OSError as error:
        raise folder_error(folder, error) from None


def as_text(sections: Mapping[str, Section]) -> str:
    """Return all findings as tables, the goals first."""
    blocks = ["Goals", table([_goal_row(goal) for goal in goals(sections)])]
    for section in sections.values():
        about = f"{section.part}: {section.state}, {section.seconds:.0f} s"
        blocks += ["", about + (f". {section.reason}" if section.reason else "")]
        if section.rows:
            blocks.append(table(section.rows))
    machines = {json.dumps(section.machine, sort_keys=True): section.machine for section in sections.values()}
    for machine in machines.values():
        blocks += ["", "Measured on", *(f"  {name}: {value}" for name, value in machine.items())]
    return "\n".join(blocks) + "\n"


def table(rows: Sequence[Row]) -> str:
    """Return rows as a table whose columns are all the names that occur, numbers to the right."""
    if not rows:
        return "  nothing"
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_shown(row.get(name)) for name in names] for row in rows]
    numeric = [any(_is_number(row.get(name)) for row in rows) for name in names]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]

    def line(values: Sequence[str]) -> str:
        padded = (
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(values, widths, numeric, strict=True)
        )
        return "  " + "  ".join(padded).rstrip()

    return "\n".join([line(names), line(["-" * width for width in widths]), *map(line, cells)])


def goals(sections: Mapping[str, Section]) -> list[Goal]:
    """Return what the findings say about the goals."""
    rows = {name: section.rows for name, section in sections.items()}
    return [
        *_network_goals(rows.get("network", ())),
        *_following_goals(rows.get("network", ()), rows.get("modes", ())),
        *_run_goals(rows.get("run", ())),
        Goal(
            "least share of images with the CPU's fp32 count, fp16 and fp32",
            SAME_COUNTS,
            min(
                (row["same_counts"] for row in rows.get("parity", ()) if _says(row, "same_counts", _FLOATS)),
                default=None,
            ),
        ),
        *_traffic_goals(rows.get("traffic", ())),
    ]


_FLOATS = ("fp32", "fp16")


def _network_goals(rows: Sequence[Row]) -> Iterator[Goal]:
    for model, wanted in IMAGES_PER_SECOND.items():
        best = _best(rows, model)
        rate = None if best is None else best["images_per_s"]
        share = None if best is None else best["share_of_matrix"]
        yield Goal(f"{model} fp16 network, share of the matrix rate", MATRIX_SHARE, share)
        yield Goal(f"{model} fp16 network, images/s (H200)", wanted, rate)


def _following_goals(network: Sequence[Row], modes: Sequence[Row]) -> Iterator[Goal]:
    """What follows the network, beside the fastest fp16 network of the same model."""
    for model in IMAGES_PER_SECOND:
        best = _best(network, model)
        slowest = max(
            (row["us_per_image"] for row in modes if row.get("model") == model and _says(row, "us_per_image")),
            default=None,
        )
        share = None if best is None or slowest is None else slowest * best["images_per_s"] / 1e6
        yield Goal(f"{model}, slowest mode after the network, share of its time", FOLLOWING_SHARE, share, "<=")


def _run_goals(rows: Sequence[Row]) -> Iterator[Goal]:
    for model in IMAGES_PER_SECOND:
        ratios = [row["ratio"] for row in rows if row.get("model") == model and _says(row, "ratio")]
        reached = min(ratios, default=None)
        yield Goal(f"{model} files to results, share of min(decode, network)", END_TO_END_SHARE, reached)


def _traffic_goals(rows: Sequence[Row]) -> Iterator[Goal]:
    found = [row["copies_per_batch"] for row in rows if row.get("direction") == "device to host"]
    yield Goal(
        "copies from device to host, a batch", 1.0, max(found, key=lambda copies: abs(copies - 1), default=None), "="
    )


def _best(rows: Sequence[Row], model: str) -> Row | None:
    """Return the fastest fp16 network of ``model``."""
    found = [row for row in rows if row.get("model") == model and _says(row, "images_per_s", ("fp16",))]
    return max(found, key=lambda row: row["images_per_s"], default=None)


def _says(row: Row, name: str, precisions: Sequence[str] = ()) -> bool:
    return row.get(name) is not None and (not precisions or row.get("precision") in precisions)


def _goal_row(goal: Goal) -> Row:
    answer = {True: "yes", False: "NO", None: "not measured"}[goal.met]
    return {"goal": goal.goal, "wanted": f"{goal.sign} {goal.wanted:g}", "reached": goal.reached, "met": answer}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def reason_of(error: Exception) -> str:
    """Return why something was not measured: in the words of this project, or with the kind of another error.

    Raises
    ------
    DeviceLostError
        If the GPU is gone, as this error says or CUDA's number in it does: nothing else can be measured either.
    """
    status = getattr(error, "status", None)
    meant = failure("measuring", first_line(error), status) if isinstance(status, int) else error
    if isinstance(meant, DeviceLostError):
        raise meant
    return str(error) if isinstance(error, PcEngineError) else f"{type(error).__name__}: {first_line(error)}"


def measured(about: Row, figures: Callable[..., Row], *arguments: object) -> Row:
    """Return a row with the ``figures`` of these arguments, or why there are none: one row must not cost the others."""
    try:
        return {**about, **figures(*arguments)}
    except Exception as error:  # whatever a driver or a library does
        return {**about, "reason": reason_of(error)}


def spread(seconds: Sequence[float]) -> float:
    """Return how far apart the runs are: largest minus smallest over the median."""
    return (max(seconds) - min(seconds)) / statistics.median(seconds)
