"""What is kept in the repository: code, tests and what was measured, and nothing that somebody's trials left behind."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KNOWN = {
    *(".ci", ".gitignore", "pyproject.toml"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"),
    *("bench", "engine", "export", "kernels", "tests"),
}
LARGEST = 4_000_000


def test_only_known_files_are_kept() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no clone of the repository")
    names = [Path(name) for name in listed.stdout.split("\0") if name]
    assert {name.parts[0] for name in names} <= KNOWN
    assert [name for name in names if (ROOT / name).is_file() and (ROOT / name).stat().st_size > LARGEST] == []


def headings(page: Path) -> set[str]:
    """The names that a page's headings have in addresses."""
    lines = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S).splitlines()
    words = [line.lstrip("# ").lower() for line in lines if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w -]", "", text).replace(" ", "-") for text in words}


PAGES = sorted(page for page in ROOT.rglob("*.md") if not {"build", ".venv"} & set(page.relative_to(ROOT).parts))


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("https://"):
            name, _, heading = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not heading or heading in headings(target), link
