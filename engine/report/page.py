"""One HTML file from a page's parts: its frame, its style, its modules of JavaScript in one, and its data.

Nothing that data says becomes markup: it goes into ``script`` elements as JSON, and the code shows it as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: The parts that all pages share.
ASSETS = Path(__file__).parent / "assets"

_IMPORT = re.compile(r'^import \{[^}]*\} from "(\.[^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=const|function|class|async)", re.MULTILINE)
# Has the marks "<!-- title -->", "<!-- policy -->", "<!-- style -->", "<!-- data -->" and "<!-- code -->".
_FRAME = ASSETS / "page.html"
_DATA_MARK = "<!-- data -->"
# All pages begin with a policy that allows their own code only, and have a title that ends with who made them.
_BEGINNING = re.compile(
    r"<!doctype html>.*? content=\"default-src &#x27;none&#x27;; script-src &#x27;sha256-.*? - pc-engine</title>",
    re.DOTALL,
)


@dataclass(frozen=True)
class PageParts:
    """What a page has of its own, within the frame of all.

    Attributes
    ----------
    styles
        CSS files, in order.
    code
        The JavaScript module that the page starts with; those that it imports are found by their relative paths.
    """

    styles: tuple[Path, ...]
    code: Path


def render_page(
    parts: PageParts, title: str, data: Iterable[tuple[str, Iterable[str]]], *, policy: str = ""
) -> Iterator[str]:
    """Yield the text of a page, piece by piece.

    Parameters
    ----------
    parts
        What it is made of.
    title
        Title of the document.
    data
        Names, each with the pieces of its JSON as `pc_engine.report.compact.script_json` makes it.
    policy
        Directives of the Content-Security-Policy beside those for code and style, which allow the page's own only.
    """
    style = "".join(path.read_text(encoding="utf-8") for path in parts.styles)
    code = bundle(parts.code)
    frame = _FRAME.read_text(encoding="utf-8")
    for mark, text in (
        ("title", html.escape(title)),
        ("policy", html.escape(content_policy(style, code, policy))),
        ("style", f"<style>{style}</style>"),
        ("code", f'<script type="module">{code}</script>'),
    ):
        frame = frame.replace(f"<!-- {mark} -->", text, 1)
    before, after = frame.split(_DATA_MARK)
    yield before
    for name, pieces in data:
        yield f'<script type="application/json" id="{html.escape(name)}">'
        yield from pieces
        yield "</script>\n"
    yield after


def is_page(beginning: str) -> bool:
    """Whether a file that begins with this text is a page of `render_page`."""
    return _BEGINNING.match(beginning) is not None


def content_policy(style: str, code: str, more: str = "") -> str:
    """Return a Content-Security-Policy that allows this style and this code, and else only what ``more`` says."""
    directives = (
        "default-src 'none'",
        f"script-src '{_digest(code)}'",
        f"style-src '{_digest(style)}'",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join((*directives, *filter(None, (more,))))


def bundle(entry: Path) -> str:
    """Return a JavaScript module and all that it imports as one: each file once, after those that it imports.

    The files are plain modules with ``import {…} from "./other.js";`` and ``export`` before declarations. In one file
    they share a scope, so a name may be declared in one of them only.
    """
    texts: dict[Path, str] = {}
    _collect(entry.resolve(), texts, [])
    return "\n".join(texts.values())


def _collect(path: Path, texts: dict[Path, str], importing: list[Path]) -> None:
    if path in texts:
        return
    if path in importing:
        raise ValueError(f"{path.name} imports itself through {importing[-1].name}")
    text = path.read_text(encoding="utf-8")
    for imported in _IMPORT.findall(text):
        _collect((path.parent / imported).resolve(), texts, [*importing, path])
    texts[path] = _EXPORT.sub("", _IMPORT.sub("", text))


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
