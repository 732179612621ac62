"""The names of a network's classes: reading them, and one for each logit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pc_engine.datasets.imagenet import imagenet_class_names
from pc_engine.errors import UsageError, system_reason
from pc_engine.files.regular_file import check_regular
from pc_engine.say import Say

# What a class that means "no object" is called where the names are known to have none for it.
_BACKGROUND = "background"


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read class names in the order of the logits.

    Parameters
    ----------
    path
        A text file with one name a line, or JSON: a list of names, a list of ``[index, name]`` or
        ``[index, wnid, name]``, or an object from index to name or to ``[wnid, name]``.

    Raises
    ------
    UsageError
        If the file cannot be read, has another form, or its indices are not 0, 1, 2, … each once.
    """
    is_json = path.suffix.lower() == ".json"
    try:
        check_regular(path)
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if is_json else text.rstrip("\n").split("\n")
        json.dumps(content, ensure_ascii=False).encode()  # JSON can hold halves of characters
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"The class names in {path} cannot be read ({system_reason(error)}): name a text or JSON file with "
            "--classes."
        ) from None
    if isinstance(content, list) and all(isinstance(item, str) for item in content):
        return tuple(item.strip() for item in content)
    try:
        rows = list(content.items()) if isinstance(content, dict) else [(row[0], row[1:]) for row in content]
        by_index = {int(index): value if isinstance(value, str) else str(value[-1]) for index, value in rows}
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError):
        raise UsageError(
            f"{path} holds no class names: expected a list of names, or of [index, name] or [index, wnid, name]."
        ) from None
    if len(by_index) != len(rows) or sorted(by_index) != list(range(len(rows))):
        raise UsageError(f"The indices in {path} must be 0 to {len(rows) - 1}, each once; number the classes so.")
    return tuple(by_index[index] for index in range(len(rows)))


def names_of_logits(
    classes: Sequence[str],
    n_logits: int,
    background_class: int | None = None,
    report: Say = lambda _: None,
) -> tuple[str, ...]:
    """Return one name per logit, or none where none is given.

    Parameters
    ----------
    classes
        The names that are given. Those of ImageNet have none for a background class: it gets one here.
    n_logits
        Number of logits.
    background_class
        The logit that means "no object"; -1 where none was said to, None where the network is known to have none.
    report
        Called with a sentence where a name was added.

    Raises
    ------
    UsageError
        If there are not as many names as logits.
    """
    names = tuple(classes)
    if len(names) in (0, n_logits):
        return names
    hint = ""
    if background_class is not None and len(names) == n_logits - 1:
        # A file may have a name for the background, and lack another one.
        of_imagenet = names == imagenet_class_names()
        if of_imagenet and background_class >= 0:
            report(f"ImageNet's names have none for a background class: class {background_class} is '{_BACKGROUND}'.")
            return (*names[:background_class], _BACKGROUND, *names[background_class:])
        name = "" if of_imagenet else "a name for it at the top of the file, and "
        hint = f" Networks of TensorFlow often have a background class first: for it add {name}--background-class 0."
    raise UsageError(
        f"There are {len(names):,} class names, but the network has {n_logits:,} logits: give one name per logit with "
        f"--classes, or leave it out.{hint}"
    )
