"""``pc-engine status``: how far a run has come."""

from __future__ import annotations

from pathlib import Path

from pc_engine.cli import options
from pc_engine.cli.console import number_of_images, print_json, print_line, print_table
from pc_engine.runs.run_status import RunStatus, condition_of, read_status
from pc_engine.runs.writers import ROWS_PER_PARTITION, SECONDS_PER_PARTITION
from pc_engine.shown_text import for_shell

_REASONS = 10
_NEXT = {
    "running": "",
    "interrupted": "It was interrupted: run the same command again to go on.",
    "stopped": "It did not finish: run the same command again to go on.",
    "finished": "",
}
_UNKNOWN = (
    "No run.json says how these rows were made, so no run can go on with them: run into another folder, or make them "
    "again with --fresh."
)
_SHARDS_NAMED = 8


def status(
    run: options.Run,
    as_json: options.AsJson = False,
) -> None:
    """Show how far a run has come: rows, failures by reason, and how to go on."""
    found = read_status(run)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(run, found)


def unfinished(run: Path) -> str | None:
    """Return a sentence where images of a run may be without rows yet; to be asked before its rows are read."""
    condition = condition_of(run)
    if condition in (None, "finished"):
        return None
    state = "has not finished" if condition != "running" else "is still going on"
    return (
        f"The run into {run} {state}, so its other images are not included: 'pc-engine status {for_shell(str(run))}' "
        "says how far it is, and how to go on."
    )


def _print(run: Path, found: RunStatus) -> None:
    tally, total = found.tally, found.total
    if found.settings is not None:
        model, mode, backend, precision = (
            found.settings.get(name, "?") for name in ("model", "mode", "backend", "precision")
        )
        print_line(f"{run}: {found.condition}. {model}, {mode}, {backend} {precision}.")
    else:
        print_line(f"{run}: {found.condition}.")
    coming = f"; {found.waiting:,} more are done and come with the next partition" if found.waiting else ""
    images = number_of_images(tally.n) if total is None else f"{tally.n:,} of {number_of_images(total)}"
    have = "has a row" if tally.n == 1 else "have rows"
    print_line(f"{images} {have}, {tally.failed:,} of them failed{coming}.")
    if found.reviewed:
        print_line(f"{number_of_images(found.reviewed)} reviewed.")
    if found.condition == "running":
        _print_pace(found)
    if any(part.shard is not None for part in found.parts):
        rows = [
            (
                "" if part.shard is None else part.shard.option,
                part.condition,
                "" if part.total is None else f"{part.total:,}",
            )
            for part in found.parts
        ]
        print_table(None, ("shard", "state", ">images"), rows)
    if found.errors:
        failures = [(f"{failure.n:,}", failure.error, failure.example) for failure in found.errors[:_REASONS]]
        print_table(None, (">images", "why they failed", "such as"), failures)
        if len(found.errors) > _REASONS:
            print_line(f"... and {len(found.errors) - _REASONS:,} more reasons.")
    if found.settings is None and tally.n:
        print_line(_UNKNOWN)
        return
    if tally.failed and found.condition == "finished":
        print_line("Run the same command with --retry-failed to retry the failed ones.")
    if found.shards_not_begun:
        names = found.first_not_begun(_SHARDS_NAMED)
        more = found.shards_not_begun - len(names)
        others = f" and {more:,} more" if more else ""
        print_line(f"Not begun: {', '.join(names)}{others}: run the same command with each as --shard.")
    not_ended = not found.parts or any(part.condition != "finished" for part in found.parts)
    if not_ended and _NEXT[found.condition]:
        print_line(_NEXT[found.condition])


def _print_pace(found: RunStatus) -> None:
    rate, total = found.images_per_second, found.total
    if rate:
        left = "" if total is None else f", {_duration((total - found.tally.n - found.waiting) / rate)} left"
        print_line(f"{rate:,.1f} images/s{left}.")
    if all(part.by_workers for part in found.parts if part.condition == "running"):
        print_line(
            "Rows appear a block of images at a time, as workers finish them: small ones first, larger ones later."
        )
    else:
        print_line(
            f"Rows appear a partition at a time: after {ROWS_PER_PARTITION:,} images or "
            f"{SECONDS_PER_PARTITION / 60:.0f} minutes."
        )


def _duration(seconds: float) -> str:
    minutes = max(round(seconds / 60), 0)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
