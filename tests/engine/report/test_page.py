from __future__ import annotations

import base64
import hashlib
import html
import re
from collections import Counter
from pathlib import Path

import pytest

from pc_engine import report, review
from pc_engine.report.page import PageParts, bundle, render_page

ASSETS = [Path(package.__file__).parent / "assets" for package in (report, review)]
ENTRIES = [ASSETS[0] / "report.js", ASSETS[1] / "review.js"]
DECLARATION = re.compile(r"^(?:async )?(?:const|let|class|function) (\w+)|^const \[([^\]]*)\]", re.MULTILINE)


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.js").write_text(text)


def test_modules_become_one_each_after_what_it_imports(tmp_path: Path) -> None:
    write(
        tmp_path,
        a='import { b } from "./b.js";\nimport { c } from "./c.js";\na();\n',
        b='import { c } from "./c.js";\nexport const b = c;\n',
        c="export function c() {}\n",
    )
    assert " ".join(bundle(tmp_path / "a.js").split()) == "function c() {} const b = c; a();"


def test_modules_that_import_one_another_are_refused(tmp_path: Path) -> None:
    write(tmp_path, a='import { b } from "./b.js";\n', b='import { a } from "./a.js";\n')
    with pytest.raises(ValueError, match=r"a.js imports itself through b.js"):
        bundle(tmp_path / "a.js")


def test_the_pages_policy_names_their_style_and_code_and_data_stays_data(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("body { color: red }")
    write(tmp_path, code='document.title = "x";\n')
    parts = PageParts((tmp_path / "style.css",), tmp_path / "code.js")
    page = "".join(render_page(parts, "<b>", [("rows", ["[1", "]"])], policy="img-src data:"))
    assert "<title>&lt;b&gt;</title>" in page
    assert '<script type="application/json" id="rows">[1]</script>' in page
    policy = html.unescape(re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1])
    for text in ("body { color: red }", 'document.title = "x";\n'):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith("; img-src data:")
    assert "unsafe" not in policy


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda path: path.name)
def test_no_name_is_declared_in_two_modules_of_a_page(entry: Path) -> None:
    names = Counter(
        name.strip()
        for single, several in DECLARATION.findall(bundle(entry))
        for name in (single or several).split(",")
        if name.strip()
    )
    assert names["element"] == names["Gallery"] == 1
    assert [name for name, n in names.items() if n > 1] == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda path: path.name)
def test_no_module_can_end_its_script_or_make_markup_of_text(entry: Path) -> None:
    code = bundle(entry)
    assert "import {" not in code
    assert "\nexport " not in code
    for word in ("</script", "<!--", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in code


def test_every_asset_is_used_by_a_page() -> None:
    used = {path.name for path in ENTRIES} | {"page.html", "page.css", "report.css", "review.css"}
    texts = [path.read_text(encoding="utf-8") for folder in ASSETS for path in folder.glob("*.js")]
    imported = {name for text in texts for name in re.findall(r'from "[./\w-]*/([\w-]+\.js)"', text)}
    assert {path.name for folder in ASSETS for path in folder.iterdir()} == used | imported


def test_no_asset_names_another_server() -> None:
    for folder in ASSETS:
        for path in folder.iterdir():
            addresses = re.findall(
                r"(?:https?:)?//[\w.-]+\.\w+", re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.M)
            )
            assert set(addresses) <= {"http://www.w3.org"}, path
