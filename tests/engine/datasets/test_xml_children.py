from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pc_engine.datasets import xml_children
from pc_engine.datasets.xml_children import read_children

REFUSED = {"other": "it is of another form", "track": "it has tracks"}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Return ``read(content)``: the children of the root element of a file, by tag, text and attributes."""

    def read(content: bytes | str) -> list[tuple[str, str | None, dict[str, str]]]:
        path = tmp_path / "file.xml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return [(child.tag, child.text, dict(child.attrib)) for child in read_children(path, "root", REFUSED)]

    return read


@pytest.mark.parametrize("part", [1, 7, 1 << 20])
def test_children_come_whole_wherever_the_parts_of_a_file_end(
    read: Any, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(xml_children, "_PART", part)
    text = '<?xml version="1.0"?>\n<root> <!-- a --><a x="&lt;é">b&amp;c<![CDATA[<d>]]></a> text <e><f>g</f></e></root>'
    assert read(text) == [("a", "b&c<d>", {"x": "<é"}), ("e", None, {})]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_the_encoding_is_that_of_the_declaration(read: Any, encoding: str) -> None:
    declared = encoding.removesuffix("-sig")
    assert read(f'<?xml version="1.0" encoding="{declared}"?><root><a>é</a></root>'.encode(encoding)) == [
        ("a", "é", {})
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no element found: line 1, column 0"),
        ("\0\0", "not well-formed"),
        ("<root><a></root>", "mismatched tag"),
        ("<root><a/>", "no element found"),
        ("<root/><root/>", "junk after document element"),
        ("<root>&a;</root>", "undefined entity"),
        ("<root>&#0;</root>", "invalid character number"),
        ("<rooted/>", "its root element is <rooted>, expected <root>"),
        ("<other/>", "it is of another form"),
        ("<root><a/><track/>", "it has tracks"),
        ('<?xml version="1.0" encoding="none"?><root/>', "unknown encoding"),
        ('<?xml version="1.0" encoding="gb2312"?><root/>', "multi-byte encodings are not supported"),
        ('<?xml version="1.0" encoding="hex"?><root/>', "not a text encoding"),
        ('<?xml version="1.0" encoding="punycode"?><root/>', "can't decode byte|multi-byte encodings"),
        ("<root>" + "<a>" * 1_000_000, "its elements are nested more than 100 deep"),
    ],
)
def test_what_is_no_xml_of_the_form_is_said(read: Any, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(content)


@pytest.mark.parametrize(
    "definition",
    [
        '<!DOCTYPE root [<!ENTITY a "b"><!ENTITY c "&a;&a;&a;&a;">]><root>&c;</root>',
        '<!DOCTYPE root [<!ENTITY a SYSTEM "file:///etc/passwd">]><root>&a;</root>',
        '<!DOCTYPE root SYSTEM "http://127.0.0.1:9/a.dtd"><root/>',
        '<!DOCTYPE root [<!ENTITY % a SYSTEM "http://127.0.0.1:9/a.dtd">%a;]><root/>',
        "<!DOCTYPE root><root/>",
    ],
)
def test_nothing_is_defined_in_a_file_or_fetched_for_it(read: Any, definition: str) -> None:
    for encoding in ("utf-8", "utf-16"):
        with pytest.raises(ValueError, match="it has a <!DOCTYPE>, which may expand to more than any memory holds"):
            read(definition.encode(encoding))


def test_a_child_may_not_be_as_large_as_memory_but_the_file_may(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_children, "_PART", 100)
    monkeypatch.setattr(xml_children, "_LARGEST_CHILD", 1000)
    child = f"<a>{'b' * 800}</a>"
    assert len(read(f"<root>{child * 50}</root>")) == 50
    for large in ("b" * 2000, "<b/>" * 500, f"<b>{' ' * 2000}</b>", f"<!--{'b' * 2000}-->"):
        with pytest.raises(ValueError, match="an element of it has more than 1,000 bytes"):
            read(f"<root>{child}<a>{large}</a></root>")
