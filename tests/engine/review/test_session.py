from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pc_engine.errors import ImageError, UsageError
from pc_engine.pointers import BoxPointer, EllipsePointer
from pc_engine.result import Result
from pc_engine.review import ReviewSession
from pc_engine.review.changes import Answer, Withdrawal
from pc_engine.runs.corrections import read_corrections
from pc_engine.runs.rows import iter_rows
from pc_engine.runs.writers import PartitionWriter


def answers(session: ReviewSession) -> dict[str, list[object]]:
    page = "".join(session.page())
    return dict(json.loads(re.search(r'id="answers">(.*?)</script>', page)[1]))


def test_changes_are_saved_and_come_back(run: Path) -> None:
    session = ReviewSession(run)
    assert (session.n_images, session.n_reviewed) == (4, 0)
    assert session.change(Answer(0, 2, ([0, 50, 60, 10, 10, 1], [1, 0, 0, 10, 10, 0.5]))) == 1
    assert session.change(Answer(1, 0, ())) == 2
    first, second = read_corrections(run).values()
    assert (first.count, first.pointers) == (
        2,
        (EllipsePointer(50.0, 60.0, 10.0, 10.0, 1.0), BoxPointer(0.0, 0.0, 10.0, 10.0, 0.5)),
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", first.when)
    assert [row["count"] for row in iter_rows(run, corrected=True)] == [2, 0, 1, None]
    expected = {"0": [2, [[0, 50, 60, 10, 10, 1], [1, 0, 0, 10, 10, 0.5]]], "1": [0, []]}
    assert answers(session) == expected
    again = ReviewSession(run)
    assert answers(again) == expected
    assert (again.n_reviewed, again.n_changed) == (2, 0)
    assert second.count == 0


def test_pointers_keep_the_classes_of_their_own(tmp_path: Path) -> None:
    pointers = tuple(
        BoxPointer(10.0 * k, 0.0, 10.0 * k + 5, 9.0, 0.5, class_id=k, class_name=name)
        for k, name in enumerate(("crane", "cat", None, "crane"))
    )
    with PartitionWriter(tmp_path, "jsonl") as writer:
        writer.write(Result("a.png", "ok", None, 40, 30, "p2c", "tiny", 4, "4", pointers=pointers))
    page = "".join(ReviewSession(tmp_path).page())
    (row,) = json.loads(re.search(r'id="rows">(.*?)</script>', page, re.DOTALL)[1])
    session = ReviewSession(tmp_path)
    session.change(Answer(0, 4, tuple(row[8])))
    assert read_corrections(tmp_path)["a.png"].pointers == pointers
    assert answers(session) == answers(ReviewSession(tmp_path)) == {"0": [4, row[8]]}


def test_a_class_is_corrected_by_a_name_that_the_run_knows_or_a_new_one(tmp_path: Path) -> None:
    counted = Result(
        "a.png", "ok", None, 40, 30, "p2c", "tiny", 0, "0", class_id=5, class_name="crane", class_score=0.5
    )
    others = (
        replace(counted, path="b.png", class_id=7, class_name="cat"),
        replace(counted, path="c.png", class_name=None),
    )
    with PartitionWriter(tmp_path, "jsonl") as writer:
        for result in (counted, *others):
            writer.write(result)
    session = ReviewSession(tmp_path)
    session.change(Answer(0, 1, (), "cat"))
    session.change(Answer(1, 1, (), "raccoon"))
    session.change(Answer(2, 1, ()))
    known, new, stands = iter_rows(tmp_path, corrected=True)
    assert (known["class_name"], known["class_score"]) == ("cat", None)
    assert (new["class_name"], new["class_score"]) == ("raccoon", None)
    assert (stands["class_id"], stands["class_name"], stands["class_score"]) == (5, None, 0.5)
    again = ReviewSession(tmp_path)
    assert answers(again) == answers(session) == {"0": [1, [], "cat"], "1": [1, [], "raccoon"], "2": [1, []]}
    again.change(Answer(0, 1, (), "raccoon"))
    assert next(iter_rows(tmp_path, corrected=True))["class_id"] == new["class_id"]
    again.change(Answer(0, 1, ()))
    assert next(iter_rows(tmp_path, corrected=True))["class_id"] == 5


def test_what_is_withdrawn_stands_as_the_run_has_it(run: Path) -> None:
    session = ReviewSession(run)
    session.change(Answer(0, 9, ()))
    assert session.change(Withdrawal(0)) == 0
    assert answers(session) == {}
    assert read_corrections(run) == {}
    assert session.n_changed == 0


def test_a_change_outside_the_picture_is_not_saved(run: Path) -> None:
    session = ReviewSession(run)
    with pytest.raises(ValueError, match="outside the picture"):
        session.change(Answer(0, 1, ([0, 500, 60, 10, 10, 1],)))
    assert read_corrections(run) == {}
    assert session.n_reviewed == 0


def test_a_photo_that_a_run_was_given_several_times_is_reviewed_once(run: Path) -> None:
    rows = run / "part-00000.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join([*lines, lines[1], lines[0], lines[1]]))
    session = ReviewSession(run)
    assert session.change(Answer(4, 7, ())) == 3
    assert sorted(answers(session)) == ["1", "4", "6"]
    assert answers(session) == answers(ReviewSession(run))
    assert session.change(Answer(2, 1, ())) == 4
    assert session.change(Withdrawal(1)) == 1
    assert (session.n_changed, session.n_reviewed) == (1, 1)
    assert list(read_corrections(run)) == [json.loads(lines[2])["path"]]


def test_an_image_that_failed_has_nothing_to_review(run: Path) -> None:
    with pytest.raises(ValueError, match="failed in the run"):
        ReviewSession(run).change(Answer(3, 1, ()))


@pytest.mark.parametrize("index", [-1, 4])
def test_images_that_the_run_does_not_have(run: Path, index: int) -> None:
    session = ReviewSession(run)
    with pytest.raises(IndexError):
        session.change(Answer(index, 1, ()))
    with pytest.raises(IndexError):
        session.picture(index, "photo")


def test_pictures_are_those_of_the_rows(run: Path) -> None:
    session = ReviewSession(run)
    assert session.picture(0, "thumbnail").startswith(b"RIFF")
    with pytest.raises(ImageError):
        session.picture(2, "photo")


def test_pictures_are_found_where_the_photos_lie_now(run: Path) -> None:
    moved = (run.parent / "photos").rename(run.parent / "moved")
    gone = ReviewSession(run)
    assert gone.missing() == str(run.parent / "photos/a.png")
    session = ReviewSession(run, moved)
    assert session.missing() == str(moved / "gone.png")
    assert session.picture(0, "thumbnail").startswith(b"RIFF")
    with pytest.raises(ImageError):
        gone.picture(0, "thumbnail")


def test_pictures_may_have_the_pixels_of_their_rows(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pc_engine.runs.photos.MAX_PIXELS", 1000)
    assert ReviewSession(run).picture(0, "thumbnail")
    with pytest.raises(ImageError, match="not an image"):
        ReviewSession(run).picture(3, "thumbnail")


def test_a_folder_without_rows_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no rows"):
        ReviewSession(tmp_path)


@pytest.mark.parametrize(
    ("first", "kind"),
    [(EllipsePointer(9.0, 9.0, 2.0, 3.0, 1.0), "ellipse"), (BoxPointer(1.0, 2.0, 3.0, 4.0, 1.0), "box")],
)
def test_what_is_added_is_of_the_kind_that_the_run_points_with(
    tmp_path: Path, first: EllipsePointer | BoxPointer, kind: str
) -> None:
    with PartitionWriter(tmp_path, "jsonl") as writer:
        for number, pointers in enumerate([(), (first,)]):
            writer.write(
                Result(f"{number}.png", "ok", None, 40, 30, "combined", "tiny", number, "1", pointers=pointers)
            )
    head = json.loads(re.search(r'id="head">(.*?)</script>', "".join(ReviewSession(tmp_path).page()))[1])
    assert head["pointsWith"] == kind
