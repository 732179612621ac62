from __future__ import annotations

from pathlib import Path

from pc_engine.files.file_address import at_home


def test_a_tilde_is_the_home_folder_where_there_is_one() -> None:
    assert at_home("~/photos") == Path.home() / "photos"
    assert at_home("~no-such-user/photos") == Path("~no-such-user/photos")
    assert at_home("photos/~") == Path("photos/~")
