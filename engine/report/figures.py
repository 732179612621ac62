"""What a report says in figures: images by count and class, failures by reason, and how fast the run was."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pc_engine.report.compact import agree, classes_of, failure_of, found_count, has_open_label
from pc_engine.runs.run_state import states
from pc_engine.runs.run_status import count_not_begun, run_parts, whole_condition
from pc_engine.shown_text import for_page

_CLASSES_SHOWN = 20
_COUNTS_SHOWN = 24
_REASONS_SHOWN = 30
_EXAMPLES = 3
# What differs between two failures for one reason.
_NUMBER = re.compile(r"\d[\d,.]*")


class FigureCollector:
    """Sums up the rows of a run; `figures` gives what a report shows of them."""

    def __init__(self) -> None:
        self._n = self._failed = self._reviewed = self._right = self._pointers = 0
        self._identity: tuple[str, str] = ("", "")
        self._counts: Counter[tuple[int, bool]] = Counter()
        self._classes: Counter[str] = Counter()
        self._reasons: dict[str, _Reason] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row, as `pc_engine.runs.rows.iter_rows` yields it, corrected."""
        if not self._n:
            self._identity = (for_page(row["mode"]), for_page(row["model"]))
        self._n += 1
        if row["status"] != "ok":
            self._failed += 1
            self._add_failure(failure_of(row), for_page(row["path"]))
            return
        if row.get("reviewed"):
            self._reviewed += 1
            count, is_open = found_count(row)
            self._right += count is not None and agree(count, is_open, row["count"])
        self._pointers += len(row["pointers"])
        self._counts[(row["count"], has_open_label(row))] += 1
        self._classes.update(classes_of(row))

    def figures(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Return the figures as JSON-ready values.

        Parameters
        ----------
        run
            What `run_facts` returns.
        """
        mode, model = self._identity
        return {
            "images": self._n,
            "failed": self._failed,
            "reviewed": self._reviewed,
            "right": self._right,
            "pointers": self._pointers,
            "mode": mode,
            "model": model,
            "stages": {},
            **run,
            # Rows may be of other sources than the last run's, whose number is known.
            "total": run.get("total") if (run.get("total") or 0) >= self._n else None,
            "counts": self._histogram(),
            "classes": [{"name": name, "n": n} for name, n in self._classes.most_common(_CLASSES_SHOWN)],
            "other_classes": max(len(self._classes) - _CLASSES_SHOWN, 0),
            "failures": self._failures(),
        }

    def _histogram(self) -> list[dict[str, Any]]:
        """Return the images of each count, with counts that no image has in between; the last bar may take several."""
        if not self._counts:
            return []
        largest = max(count for count, _ in self._counts)
        last = min(largest, _COUNTS_SHOWN - 1)
        bars: list[dict[str, Any]] = []
        for count in range(last + 1):
            open_n, n = self._counts[(count, True)], self._counts[(count, False)]
            if n or not open_n:
                bars.append({"label": str(count), "from": count, "to": count, "n": n})
            if open_n:
                bars.append({"label": f"{count}+", "from": count, "to": count, "n": open_n})
        if largest > last:
            n_more = sum(n for (count, _), n in self._counts.items() if count > last)
            bars.append({"label": f"{last + 1} or more", "from": last + 1, "to": None, "n": n_more})
        return bars

    def _add_failure(self, sentence: str, path: str) -> None:
        reason = self._reasons.setdefault(_NUMBER.sub("#", sentence), _Reason(sentence))
        reason.n += 1
        if len(reason.examples) < _EXAMPLES:
            reason.examples.append({"path": path, "error": sentence})

    def _failures(self) -> list[dict[str, Any]]:
        ranked = sorted(self._reasons.values(), key=lambda reason: -reason.n)
        shown: list[dict[str, Any]] = [
            {"reason": reason.sentence, "n": reason.n, "examples": reason.examples} for reason in ranked
        ]
        if len(shown) > _REASONS_SHOWN:
            rest = sum(reason["n"] for reason in shown[_REASONS_SHOWN:])
            shown[_REASONS_SHOWN:] = [{"reason": "Other reasons; see the gallery.", "n": rest, "examples": []}]
        return shown


class _Reason:
    """Failures whose sentences differ in their numbers only."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence
        self.n = 0
        self.examples: list[dict[str, str]] = []


def run_facts(directory: Path) -> dict[str, Any]:
    """Return what the ``run.json`` of a run, or those of its shards together, say; empty where there is none.

    Of what they may say these are kept: ``backend``, ``precision``, ``device``, ``state``, ``total``, ``seconds`` and
    ``images_per_second``, and ``stages`` in seconds. Shards run side by side: rates and stages add up.
    """
    found = states(directory)
    if not found:
        return {}
    facts = {name: _text(found[0].get(name)) for name in ("backend", "precision", "device")}
    stages: Counter[str] = Counter()
    for state in found:
        stages.update({for_page(name): seconds for name, seconds in state.get("stages", {}).items()})
    parts = run_parts(directory, found)
    condition = whole_condition(parts)
    return facts | {
        # A run that was killed is one that stopped before its end, like one that was asked to.
        "state": "interrupted" if condition == "stopped" else condition,
        "total": None if count_not_begun(parts) else _sum([part.total for part in parts]),
        "seconds": max(state.get("seconds", 0) for state in found),
        "images_per_second": _sum([state.get("images_per_second") for state in found]),
        "stages": dict(stages),
    }


def _sum(values: list[float | None]) -> float | None:
    """Return the sum; None where a value is not known."""
    return None if None in values else sum(filter(None, values))


def _text(value: Any) -> str | None:
    return for_page(value) if isinstance(value, str) else None
