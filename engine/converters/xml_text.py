"""Pieces of XML that may hold any text of a row."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement

# What XML 1.0 cannot hold, and the carriage return, which a reader turns into a line feed.
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(value: object) -> str:
    """Return a value as a text that XML can hold; other characters appear as \\xNN."""
    return _NOT_XML.sub(lambda match: match.group().encode("unicode_escape").decode(), str(value))


def add_element(parent: Element, tag: str, text: object = None, /, **attributes: object) -> Element:
    """Append an element and return it."""
    element = SubElement(parent, tag, {key: xml_text(value) for key, value in attributes.items()})
    if text is not None:
        element.text = xml_text(text)
    return element
