"""What ``pc-engine bench`` measured, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pc_engine.cli.console import print_line, print_table

# Share of the cores that others may have before the user is told.
_DISTURBED = 0.05


def print_throughput(report: Mapping[str, Any]) -> None:
    """Print what `Throughput.to_dict` gave."""
    rates = (
        ("decode alone", "decode_ips"),
        ("network alone", "network_ips"),
        ("post-processing alone", "postprocess_ips"),
        ("files to rows", "end_to_end_ips"),
    )
    print_line(
        f"{report['model']}, {report['mode']}, {report['backend']} {report['precision']}, batches of "
        f"{report['batch_size']}, {report['workers']} decoding threads: {report['n']} images, median of "
        f"{report['repeats']} runs"
    )
    print_table(None, ("what", ">images/s"), [(name, f"{report[key]:,.1f}") for name, key in rates])
    print_line("Seconds of the median run by stage; stages overlap, and each counts all of its threads")
    print_table(
        None,
        ("stage", ">seconds", ">share of wall time"),
        [(name, f"{value:.3f}", f"{value / report['seconds']:.1%}") for name, value in report["stages"].items()],
    )
    print_line(
        f"The run reaches {report['ratio']:.1%} of its network alone; the bottleneck is {report['bottleneck']}. "
        f"Peak memory {_number(report['peak_rss_mb'], ',.0f')} MB. {_machine(report['machine'])}"
    )
    if report["share_of_peak"] is not None:
        print_line(
            f"The network alone does {report['operations_per_second'] / 1e9:,.0f} billion operations a second, "
            f"{report['share_of_peak']:.0%} of the {report['peak_operations'] / 1e9:,.0f} that these cores can do at "
            f"most at {report['precision']}."
        )
    _print_disturbance(report["busy_elsewhere"])
    _print_random_parts(report["random_parts"])


def print_sweep(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows of `sweep_throughput`."""
    columns = ("precision", ">batch", ">threads", ">network", ">run", ">ratio", ">peak MB", "bottleneck")
    table = []
    for row in rows:
        identity = (row["precision"], str(row["batch_size"]), str(row["workers"]))
        if "error" in row:
            table.append((*identity, "-", "-", "-", "-", row["error"]))
        else:
            rates = (f"{row['network_ips']:.1f}", f"{row['end_to_end_ips']:.1f}", f"{row['ratio']:.1%}")
            table.append((*identity, *rates, _number(row["peak_rss_mb"], ",.0f"), row["bottleneck"]))
    print_line("Images per second of the network alone and of the run from files to rows; threads decode.")
    print_table(None, columns, table)


def print_peers(report: Mapping[str, Any]) -> None:
    """Print what `PeerReport.to_dict` gave."""
    print_line(
        f"{report['model']}, {report['mode']}, batches of {report['batch_size']}: {report['n']} images, median of "
        f"{report['repeats']} runs in turn. Taps and counts against {report['reference']}."
    )
    rows = [
        (
            f"({peer['letter']}) {peer['name']}",
            peer["precision"],
            "network" if peer["scope"] == "network" else "files",
            _number(peer["images_per_second"], ".1f"),
            _number(peer["ratio"], ".2f"),
            _number(peer["tap_difference"], ".0e"),
            _number(peer["count_agreement"], ".0%"),
        )
        for peer in report["peers"]
    ]
    print_table(None, ("peer", "precision", "from", ">images/s", ">x (a)", ">taps off", ">counts"), rows)
    for peer in report["peers"]:
        print_line(f"({peer['letter']}) {peer['name']} {peer['precision']}, {peer['scope']}: " + _about(peer))
    print_line(_machine(report["machine"]))
    _print_disturbance(report["busy_elsewhere"])
    _print_random_parts(report["random_parts"])


def print_kernels(report: Mapping[str, Any]) -> None:
    """Print what `KernelReport.to_dict` gave."""
    print_line(
        f"{report['batch']} images of {report['channels']} maps of {report['grid']} x {report['grid']} cells, one "
        f"core; a large copy moves {report['bandwidth_gb_s']:.1f} GB/s."
    )
    rows = [
        (
            rate["kernel"],
            rate["mode"],
            f"{rate['ms']:.4f}",
            f"{rate['peer_ms']:.3f}",
            f"{rate['speedup']:.1f}",
            f"{rate['bytes'] / 1024:,.1f}",
            f"{rate['bandwidth_share']:.1%}",
            rate["peer"],
        )
        for rate in report["kernels"]
    ]
    columns = ("=kernel", "mode", ">ms/image", ">peer ms", ">x", ">KiB/image", ">of copy", "checked against")
    print_table(None, columns, rows)
    sums = ", ".join(f"{mode}: {value:.3f}" for mode, value in report["sum_ms"].items())
    print_line(f"Sum of ms an image: {sums}. {_machine(report['machine'])}")


def print_decoding(report: Mapping[str, Any]) -> None:
    """Print what `DecodingReport.to_dict` gave."""
    larger = "" if report["enlarged"] == 1 else f", made {report['enlarged']} times larger"
    print_line(f"{report['model']}, {report['mode']}: {report['n']} photos{larger}. Compared with decoding in full.")
    rows = [
        (
            "in full" if row["oversampling"] is None else f"{row['oversampling']} x the network's size",
            "in use" if row["oversampling"] == report["in_use"] else "",
            f"{row['ms']:.2f}",
            "-" if row["same_class"] is None else f"{row['same_class']:.1%}",
            f"{row['same_count']:.1%}",
        )
        for row in report["variants"]
    ]
    print_table(None, ("decoded at least at", "", ">ms an image", ">same class", ">same count"), rows)
    print_line(f"One core of {_machine(report['machine'])}")


def print_isolation(report: Mapping[str, Any]) -> None:
    """Print what `IsolationReport.to_dict` gave."""
    rows = [
        (name, f"{report[key]['threads']:,.1f}", f"{report[key]['processes']:,.1f}", f"{report['cost'][what]:+.1%}")
        for name, key, what in (("decode alone", "decode_ips", "decode"), ("files to rows", "run_ips", "run"))
    ]
    print_table(None, ("images/s", ">threads", ">processes", ">cost"), rows)
    print_line(
        f"{report['model']}, {report['mode']}, {report['backend']} {report['precision']}: {report['n']} images, "
        f"{report['workers']} workers, median of {report['repeats']} rounds in turn. The processes take "
        f"{report['start_seconds']:.1f} s to start. {_machine(report['machine'])}"
    )
    _print_disturbance(report["share_elsewhere"])


def _machine(machine: Mapping[str, Any]) -> str:
    return f"{machine['processor']}, {machine['cores']} cores ({', '.join(machine['extensions'])})."


def _print_disturbance(share: float | None) -> None:
    """Say what ``share`` of the cores others had, where that is much."""
    if share is not None and share > _DISTURBED:
        print_line(f"Other processes used {share:.0%} of the cores meanwhile: measure again when the machine is quiet.")


def _print_random_parts(names: Sequence[str]) -> None:
    if names:
        print_line(f"With {' and '.join(names)} filled in at random: the model has none.")


def _about(peer: Mapping[str, Any]) -> str:
    if not peer["reason"]:
        return f"{peer['note']}."
    # What was set up has a note, whatever it was found to say then.
    return f"not {'timed' if peer['note'] else 'available'}: {peer['reason']}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
