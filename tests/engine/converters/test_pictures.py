from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pc_engine.converters.pictures import Survey, pictures, survey_rows
from pc_engine.errors import PcEngineError, UsageError
from pc_engine.pointers import BoxPointer, EllipsePointer

ELLIPSE, BOX = EllipsePointer(10, 10, 5, 5, 0.5), BoxPointer(1, 2, 3, 4, 0.5)


def test_a_survey_knows_what_there_is(two_modes) -> None:
    assert survey_rows(two_modes.ellipses) == Survey(
        rows=3,
        failed=1,
        folder=("photos",),
        local_folder=None,
        categories=("object",),
        category_of={None: 0},
        has_boxes=False,
        has_ellipses=True,
    )
    survey = survey_rows(two_modes.boxes)
    assert survey.categories == ("goldfish, Carassius auratus", "crane", 'bell "cote" & <co>')
    assert survey.category_of == {3: 0, 7: 1, 12: 2}
    assert (survey.has_boxes, survey.has_ellipses) == (True, False)


def test_the_folder_is_found_by_a_photo_that_lies_in_it_itself(make_row, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/b.jpg").touch()
    paths = ("tar://a.jpg::photos/s.tar", "photos/b.jpg", "tar://c.jpg::photos/s.tar")
    survey = survey_rows(make_row(path) for path in paths)
    assert survey.local_folder == tmp_path / "photos"


def test_two_classes_of_one_name_stay_apart(make_row) -> None:
    rows = [make_row("a.jpg", class_id=9), make_row("b.jpg", class_id=3), make_row("c.jpg", class_id=7)]
    assert survey_rows(rows).categories == ("goldfish, Carassius auratus", "crane (7)", "crane (9)")


def test_a_class_without_a_name_has_its_number(make_row) -> None:
    assert survey_rows([make_row("a.jpg", class_id=7, class_name=None)]).categories == ("7",)


def test_rows_with_and_without_a_class_share_a_numbering(make_row) -> None:
    rows = [make_row("a.jpg", BOX, class_id=3), make_row("b.jpg", ELLIPSE)]
    survey = survey_rows(rows)
    assert survey.categories == ("object", "goldfish, Carassius auratus")
    labels = [picture.label(picture.result.pointers[0]) for picture in pictures(rows, survey, 0)]
    assert labels == [*reversed(survey.categories)]


def test_pointers_of_several_classes_have_a_category_each(make_row) -> None:
    crane = replace(BOX, class_id=7, class_name="crane")
    row = make_row(
        "a.jpg",
        replace(BOX, class_id=3, class_name="goldfish, Carassius auratus"),
        crane,
        replace(crane, score=0.1),
        class_id=3,
    )
    survey = survey_rows([row])
    assert survey.categories == ("goldfish, Carassius auratus", "crane")
    (picture,) = pictures([row], survey, 0.2)
    assert [picture.label(pointer) for pointer in picture.result.pointers] == list(survey.categories)
    assert [picture.category(pointer) for pointer in picture.result.pointers] == [0, 1]


def test_a_run_without_a_readable_image_has_a_category_all_the_same(failed_row) -> None:
    survey = survey_rows([failed_row])
    assert (survey.rows, survey.failed, survey.categories, survey.folder) == (1, 1, ("object",), ())


def test_images_are_named_below_the_folder_asked_for(make_row) -> None:
    rows = [make_row("photos/x/a.jpg"), make_row("photos/x/b.jpg")]
    names = [picture.name for picture in pictures(rows, survey_rows(rows), 0)]
    assert names == ["a.jpg", "b.jpg"]
    names = [picture.name for picture in pictures(rows, survey_rows(rows, "photos/"), 0)]
    assert names == ["x/a.jpg", "x/b.jpg"]
    for folder in ("elsewhere", "photos/x/a.jpg", "photos/xy"):
        with pytest.raises(UsageError, match=rf"photos/x/a\.jpg is not below {folder}: name a folder that"):
            survey_rows(rows, folder)


def test_rows_that_fail_do_not_widen_the_folder(make_row, failed_row) -> None:
    assert survey_rows([{**failed_row, "path": "/elsewhere/x"}, make_row("photos/a.jpg")]).folder == ("photos",)


def test_weak_pointers_are_left_out_unless_a_person_reviewed_them(make_row) -> None:
    weak, strong = BoxPointer(1, 2, 3, 4, 0.25), BoxPointer(1, 2, 3, 4, 0.5)
    rows = [make_row("a.jpg", weak, strong, class_id=3), make_row("b.jpg", weak, class_id=3, reviewed=True)]
    kept = [picture.result.pointers for picture in pictures(rows, survey_rows(rows), 0.5)]
    assert kept == [(strong,), (weak,)]
    assert [picture.reviewed for picture in pictures(rows, survey_rows(rows), 0)] == [False, True]


def test_boxes_are_cut_at_the_edges_of_the_picture(make_row) -> None:
    rows = [make_row("a.jpg", EllipsePointer(60, 5, 10.123, 8.456, 1.0), size=(64, 48))]
    (picture,) = pictures(rows, survey_rows(rows), 0)
    (pointer,) = picture.result.pointers
    assert picture.box(pointer) == (49.88, 0, 64, 13.46)
    assert picture.point(pointer) == (60, 5)
    outside = EllipsePointer(-3, 50, 1, 1, 1.0)
    assert picture.point(outside) == (0, 48)
    assert picture.box(outside) == (0, 48, 0, 48)


def test_rows_are_taken_one_by_one(make_row) -> None:
    taken = 0

    def rows() -> Iterator[dict]:
        nonlocal taken
        for taken in range(1, 100):
            yield make_row(f"photos/{taken}.jpg")

    stream = pictures(rows(), survey_rows(rows()), 0)
    next(stream)
    assert taken == 1


def test_a_run_that_goes_on_meanwhile_is_said(make_row) -> None:
    survey = survey_rows([make_row("photos/a.jpg", class_id=3)])
    for new in (make_row("photos/b.jpg", class_id=7), make_row("elsewhere/b.jpg", class_id=3)):
        with pytest.raises(PcEngineError, match=r"The run changed while it was read \(.*b\.jpg\)"):
            list(pictures([new], survey, 0))
