from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from pc_engine.files.letter_forms import in_other_form


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.fixture(autouse=True)
def _keeps_names_as_they_are(tmp_path: Path) -> None:
    (tmp_path / nfd("ü")).touch()
    if (tmp_path / nfc("ü")).exists():
        pytest.skip("this file system takes both forms for one name")


def test_a_name_in_either_form_is_found_by_the_other(tmp_path: Path) -> None:
    (tmp_path / nfd("Äpfel.jpg")).touch()
    (tmp_path / nfc("Öl.jpg")).touch()
    assert in_other_form(f"{tmp_path}/{nfc('Äpfel.jpg')}") == f"{tmp_path}/{nfd('Äpfel.jpg')}"
    assert in_other_form(f"{tmp_path}/{nfd('Öl.jpg')}") == f"{tmp_path}/{nfc('Öl.jpg')}"
    assert in_other_form(f"{tmp_path}/{nfd('Ö1.jpg')}") is None
    assert in_other_form(f"{tmp_path}/a.jpg") is None
    assert in_other_form(f"{tmp_path}/ü\0.jpg") is None


def test_each_folder_may_be_in_a_form_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / nfd("Gemüse") / "grün" / nfd("Möhre") / "1.jpg"
    file.parent.mkdir(parents=True)
    file.touch()
    assert in_other_form(f"{tmp_path}/Gemüse/{nfd('grün')}/Möhre/1.jpg") == str(file)
    assert in_other_form(f"{tmp_path}/Gemüse/") == f"{tmp_path}/{nfd('Gemüse')}"
    assert in_other_form(f"{tmp_path}/Gemüse/grün/Möhre/2.jpg") is None
    monkeypatch.chdir(tmp_path)
    assert in_other_form("Gemüse/grün/Möhre/1.jpg") == os.path.relpath(file, tmp_path)


def test_of_two_none_is_taken(tmp_path: Path) -> None:
    mixed = nfd("Ä") + nfc("Ä")
    (tmp_path / nfc(mixed)).touch()
    assert in_other_form(f"{tmp_path}/{mixed}") == f"{tmp_path}/{nfc(mixed)}"
    (tmp_path / nfd(mixed)).touch()
    assert in_other_form(f"{tmp_path}/{mixed}") is None


def test_a_name_of_very_many_folders_is_just_not_there(tmp_path: Path) -> None:
    assert in_other_form(f"{tmp_path}/ü{'/a' * 1900}") is None
