import pytest
from rich.console import Console

from pc_engine.cli import console
from pc_engine.cli.console import print_table

ROWS = [("0.15-0.2", "100", "61-100"), ("0.25-0.3", "93", "69-99")]


@pytest.mark.parametrize("columns", [22, 27, 200])
def test_numbers_are_not_folded_where_there_is_room_without_the_space_around_them(capsys, monkeypatch, columns):
    monkeypatch.setattr(console, "_out", Console(width=columns, highlight=False))
    print_table(None, ("scale", ">n", ">95 %"), ROWS)
    lines = capsys.readouterr().out.splitlines()
    for row in ROWS:
        assert any(all(cell in line for cell in row) for line in lines)
