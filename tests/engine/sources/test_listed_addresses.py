from __future__ import annotations

import pytest

from pc_engine.sources.listed_addresses import beside, is_of_folder


@pytest.mark.parametrize(
    ("address", "path", "expected"),
    [
        ("https://host/lists/l.txt", "a.jpg", "https://host/lists/a.jpg"),
        ("https://host/l.txt?key=a/b", "sub/a.jpg", "https://host/sub/a.jpg"),
        ("https://host/l.txt", "../../a.jpg", "https://host/a.jpg"),
        ("zip://in/l.txt::photos.zip", "./#a.jpg", "zip://in/#a.jpg::photos.zip"),
        ("s3://bucket/lists/l.txt", "../photos/", "s3://bucket/photos/"),
        ("s3://bucket/l.txt", "../other/a.jpg", "s3://bucket/other/a.jpg"),
        ("memory://l.txt", "a.jpg", "memory://a.jpg"),
        ("zip://l.txt::photos.zip", "a.jpg", "zip://a.jpg::photos.zip"),
        ("zip://lists/l.txt::photos.zip", "../in/a.jpg", "zip://in/a.jpg::photos.zip"),
        ("zip://l.txt::https://host/photos.zip", "../../a.jpg", "zip://a.jpg::https://host/photos.zip"),
        ("zip://l.txt::photos.zip", "./", "zip://::photos.zip"),
        ("simplecache::s3://bucket/in/l.txt", "a.jpg", "simplecache::s3://bucket/in/a.jpg"),
    ],
)
def test_what_lies_beside_an_address(address: str, path: str, expected: str) -> None:
    assert beside(address, path) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("zip://::photos.zip", True),
        ("zip://in/::https://host/photos.zip", True),
        ("simplecache::s3://bucket/photos/", True),
        ("memory://", True),
        ("s3://bucket/photos", False),
        ("zip://a.jpg::photos/", False),
        ("https://host/photos/", False),
    ],
)
def test_a_folders_address_is_known_by_its_form(address: str, expected: bool) -> None:
    assert is_of_folder(address) is expected
