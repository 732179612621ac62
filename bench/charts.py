"""Charts of the benchmarks, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pc_engine.files.durable import write_error
from pc_engine.packages import import_optional

#: Colours of text, and of what is beside the point.
INK, MUTED = "#23303f", "#a9bccb"
_ACCENT = "#2f6f9f"
_DPI = 150


def require_charts() -> None:
    """Raise MissingPackageError where charts cannot be drawn; better before a measurement than after it."""
    import_optional("matplotlib", "draw a chart")


def throughput_chart(report: Mapping[str, Any], path: Path) -> None:
    """Draw the rates of one `Throughput.to_dict`, and where the time of its median run goes."""
    figure, (left, right) = draw_panels(2, width=10, height=3.2)
    rates = {
        "decode alone": report["decode_ips"],
        "network alone": report["network_ips"],
        "post-processing alone": report["postprocess_ips"],
        "files to rows": report["end_to_end_ips"],
    }
    colours = [_ACCENT if name == "files to rows" else MUTED for name in rates]
    _bars(left, list(rates), list(rates.values()), colours)
    left.set_xscale("log")
    left.set_xlim(min(1, *rates.values()), max(rates.values()) * 5)
    left.set_xlabel("images per second (logarithmic)")
    left.set_title(f"files to rows at {report['ratio']:.1%} of the network alone", fontsize=9)
    shares = {stage: 100 * seconds / report["seconds"] for stage, seconds in report["stages"].items()}
    _bars(right, list(shares), list(shares.values()), [MUTED] * len(shares), unit=" %")
    right.set_xlim(0, max(shares.values()) * 1.25)
    right.set_xlabel("share of the wall time (stages overlap)")
    figure.suptitle(_title(report))
    save_chart(figure, path)


def sweep_chart(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the rate from files to rows over the batch size, a line for each precision and number of workers."""
    measured = [row for row in rows if "error" not in row]
    figure, (axes,) = draw_panels(1, width=6.5, height=4)
    lines: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for row in measured:
        key = (row["precision"], row["workers"])
        lines.setdefault(key, []).append((row["batch_size"], row["end_to_end_ips"]))
    for (precision, workers), points in sorted(lines.items()):
        across, up = zip(*sorted(points), strict=True)
        axes.plot(across, up, marker="o", label=f"{precision}, {workers} decoding thread{'s' * (workers > 1)}")
    axes.set_xscale("log", base=2)
    sizes = sorted({row["batch_size"] for row in measured})
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("batch size")
    axes.set_ylabel("images per second, files to rows")
    if lines:
        axes.legend(fontsize=8)
        axes.set_title(f"{measured[0]['model']}, {measured[0]['mode']}", fontsize=10)
    save_chart(figure, path)


def peers_chart(report: Mapping[str, Any], path: Path) -> None:
    """Draw the rates of a comparison with peers: what goes from files to counts, and below it the networks alone."""
    peers = [peer for peer in report["peers"] if peer["images_per_second"] is not None]
    peers.sort(key=lambda peer: (peer["scope"] != "end to end", peer["images_per_second"]))
    names = [f"({peer['letter']}) {peer['name']}, {peer['precision']}" for peer in peers]
    colours = [_ACCENT if peer["name"].startswith("pc-engine") else MUTED for peer in peers]
    figure, (axes,) = draw_panels(1, width=8, height=0.9 + 0.32 * len(peers))
    _bars(axes, names, [peer["images_per_second"] for peer in peers], colours)
    split = sum(peer["scope"] == "end to end" for peer in peers)
    if 0 < split < len(peers):
        axes.axhline(split - 0.5, color=INK, linewidth=0.6, linestyle=":")
    axes.set_xlabel("images per second (above the line: files to counts; below: network alone)")
    axes.set_xlim(0, 1.15 * max(peer["images_per_second"] for peer in peers))
    axes.set_title(f"{report['model']}, {report['mode']}, batches of {report['batch_size']}", fontsize=10)
    save_chart(figure, path)


def _title(report: Mapping[str, Any]) -> str:
    return (
        f"{report['model']}, {report['mode']}, {report['backend']} {report['precision']}, "
        f"batches of {report['batch_size']}, {report['workers']} decoding threads, {report['machine']['cores']} cores"
    )


def draw_panels(n: int, *, width: float, height: float) -> tuple[Any, Sequence[Any]]:
    """Return a figure of ``width`` x ``height`` inches, and its ``n`` panels side by side.

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    """
    require_charts()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no global state, and no window system is looked for.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, n, squeeze=False)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=INK)
    return figure, panels


def _bars(axes: Any, names: Sequence[str], values: Sequence[float], colours: Sequence[str], unit: str = "") -> None:
    """Draw horizontal bars from the top down, each with its value."""
    bars = axes.barh(range(len(names)), values, color=colours, height=0.65)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.bar_label(bars, labels=[f"{value:,.1f}{unit}" for value in values], padding=3, fontsize=8, color=INK)


def save_chart(figure: Any, path: Path) -> None:
    """Write a figure as PNG, making its folder; raise PcEngineError where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=_DPI)
    except OSError as error:
        raise write_error(path, error) from None
