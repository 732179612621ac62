from __future__ import annotations

import itertools
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pc_engine.sources.braces import expand_braces, has_braces


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s/{000..002}.tar", ["s/000.tar", "s/001.tar", "s/002.tar"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{08..10}", ["08", "09", "10"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{-1..1}", ["-1", "0", "1"]),
        ("{a,b}/{1..2}.tar", ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]),
        ("x{,.bak}", ["x", "x.bak"]),
        ("{one}", ["{one}"]),
        ("{}", ["{}"]),
        ("plain.tar", ["plain.tar"]),
        ("{a..c}", ["{a..c}"]),
    ],
)
def test_braces(text: str, expected: list[str]) -> None:
    assert list(expand_braces(text)) == expected
    assert has_braces(text) == (expected != [text])


def test_ranges_of_any_length_are_not_held() -> None:
    assert list(itertools.islice(expand_braces("{0..999999999999}.tar"), 2)) == ["0.tar", "1.tar"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_as_bash_does() -> None:
    for text in ("{000..010}", "{1..3}-{a,b,c}", "{-02..1}", "{5..5}", "a{x,}b{01..2}", "{09..100}"):
        said = subprocess.run(["bash", "-c", f"printf '%s\\n' {text}"], capture_output=True, text=True, check=True)
        assert list(expand_braces(text)) == said.stdout.splitlines()


@given(st.text(st.sampled_from("{},.0123ab-"), max_size=12))
def test_any_text_gives_something(text: str) -> None:
    first = next(expand_braces(text))
    assert has_braces(text) or first == text
