from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pc_engine.pointers import BoxPointer, EllipsePointer
from pc_engine.result import Result, error_result
from pc_engine.review import ReviewServer, ReviewSession
from pc_engine.review.changes import Answer, Withdrawal
from pc_engine.runs.corrections import Correction, read_corrections

TAB, ENTER, ESCAPE, DELETE, LEFT, RIGHT, DOWN = "\ue004", "\ue007", "\ue00c", "\ue017", "\ue012", "\ue014", "\ue015"
BOXES = (BoxPointer(10.0, 20.0, 110.0, 120.0, 0.5), BoxPointer(200.0, 100.0, 300.0, 200.0, 0.25))
CLASSED = (replace(BOXES[0], class_id=3, class_name="fish"), replace(BOXES[1], class_id=7, class_name="cat"))
SAVED = "document.querySelector('.editor .save-state').dataset.state === 'saved'"


class Page:
    """The page of a review, and the run under it."""

    def __init__(self, browser: Any, run: Path, server: ReviewServer) -> None:
        self.browser, self.run, self.server = browser, run, server

    def open(self, **size: int) -> None:
        self.browser.open(self.server.url, **size)
        self.browser.wait("document.querySelectorAll('.tile').length > 0")

    def edit(self, number: int) -> None:
        self.browser.run("document.querySelector(`.tile[data-number='${arguments[0]}']`).click()", number)
        self.browser.wait("document.querySelector('.stage .picture').classList.contains('loaded')")

    def saved(self) -> dict[str, Correction]:
        """Return the corrections by name of the photo, once the page says that all are saved."""
        self.browser.wait(SAVED)
        return {Path(path).name: correction for path, correction in read_corrections(self.run).items()}

    def at(self, x: float, y: float) -> tuple[int, int]:
        """Return where on the screen a pixel of the picture is."""
        place = self.browser.run(
            "const matrix = document.querySelector('.drawing').getScreenCTM();"
            "const point = new DOMPoint(arguments[0], arguments[1]).matrixTransform(matrix); return [point.x, point.y]",
            x,
            y,
        )
        return round(place[0]), round(place[1])

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        mouse = self.browser.actions()
        mouse.w3c_actions.pointer_action.move_to_location(*self.at(*start)).pointer_down()
        mouse.w3c_actions.pointer_action.move_to_location(*self.at(*end)).pointer_up()
        mouse.perform()

    def click(self, x: float, y: float) -> None:
        mouse = self.browser.actions()
        mouse.w3c_actions.pointer_action.move_to_location(*self.at(x, y)).click()
        mouse.perform()


@pytest.fixture
def page(browser: Any, tmp_path: Path, write_run: Callable[..., Path]) -> Iterator[Page]:
    """Four photos, with boxes, an ellipse or nothing, and one that failed."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in "abcd":
        Image.new("RGB", (400, 300), "navy").save(photos / f"{name}.png")

    def counted(name: str, *pointers: BoxPointer | EllipsePointer) -> Result:
        n = len(pointers)
        return Result(str(photos / name), "ok", None, 400, 300, "p2c", "tiny", n, str(n), pointers=pointers)

    run = write_run(
        tmp_path / "run",
        counted("a.png", *BOXES),
        counted("b.png", EllipsePointer(200.0, 150.0, 40.0, 20.0, 1.0)),
        counted("c.png"),
        error_result(str(photos / "broken.jpg"), "It is not an image.", mode="p2c", model="tiny"),
        counted("d.png", *CLASSED),
    )
    with ReviewServer(ReviewSession(run)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        page = Page(browser, run, server)
        page.open()
        yield page
        # Ahead of the server: what the page had yet to load would be refused, and complained of.
        browser.driver.get("about:blank")
        server.shutdown()
        thread.join()


def test_a_count_is_set_by_a_key_saved_at_once_and_there_again(page: Page) -> None:
    page.edit(0)
    page.browser.press("7")
    assert page.saved()["a.png"].count == 7
    assert page.saved()["a.png"].pointers == BOXES
    page.browser.press("c", "1", "2", ENTER)
    page.browser.wait("document.querySelector('.count').value === '12'")
    page.browser.press("+", "-", ESCAPE)
    page.browser.wait("!document.querySelector('dialog').open")
    assert page.browser.texts(".tile:first-child .badge") == ["12", "✓"]
    page.browser.wait(SAVED)
    page.open()
    assert page.browser.texts(".tile:first-child .badge") == ["12", "✓"]
    assert page.browser.texts(".progress span")[0] == "1 of 4 reviewed (25 %)"


def test_a_pointer_is_moved_and_resized_by_the_mouse(page: Page) -> None:
    page.edit(0)
    page.drag((60, 70), (160, 90))
    moved, other = page.saved()["a.png"].pointers
    assert isinstance(moved, BoxPointer)
    assert (moved.x0, moved.y0, moved.x1, moved.y1) == pytest.approx((110, 40, 210, 140), abs=1)
    assert (moved.score, other) == (0.5, BOXES[1])
    page.drag((moved.x1, moved.y1), (350, 290))
    resized = page.saved()["a.png"].pointers[0]
    assert isinstance(resized, BoxPointer)
    assert (resized.x0, resized.y0, resized.x1, resized.y1) == pytest.approx((110, 40, 350, 290), abs=1)
    page.drag((150, 60), (10, 10))  # it stays inside
    inside = page.saved()["a.png"].pointers[0]
    assert isinstance(inside, BoxPointer)
    assert (inside.x0, inside.y0) == (0, 0)
    assert page.saved()["a.png"].count == 2


def test_pointers_are_added_by_click_drag_and_key_and_the_count_goes_with_them(page: Page) -> None:
    page.edit(0)
    page.click(350, 250)
    added = page.saved()["a.png"]
    assert added.count == 3
    assert added.pointers[2].centre == pytest.approx((350, 250), abs=1)
    assert added.pointers[2].kind == "box"
    page.drag((120, 210), (180, 290))
    spanned = page.saved()["a.png"].pointers[3]
    assert isinstance(spanned, BoxPointer)
    assert (spanned.x0, spanned.y0, spanned.x1, spanned.y1) == pytest.approx((120, 210, 180, 290), abs=1)
    page.browser.press(ESCAPE, ESCAPE)
    page.edit(1)
    page.browser.press("a")
    ellipse = page.saved()["b.png"]
    assert (ellipse.count, ellipse.pointers[1].kind) == (2, "ellipse")
    assert ellipse.pointers[1] == EllipsePointer(200.0, 150.0, 40.0, 20.0, 1.0)


def test_a_pointer_is_taken_moved_and_deleted_by_keys(page: Page) -> None:
    page.edit(0)
    page.browser.press(TAB, TAB, RIGHT, RIGHT, DOWN)
    pointers = page.saved()["a.png"].pointers
    assert pointers == (BOXES[0], BoxPointer(204.0, 102.0, 304.0, 202.0, 0.25))
    page.browser.press("u")  # steps that follow one another are undone together
    page.browser.wait("document.querySelector('.state').textContent === 'Not reviewed yet'")
    page.browser.press(TAB, DELETE)
    deleted = page.saved()["a.png"]
    assert (deleted.count, deleted.pointers) == (1, (BOXES[1],))


def test_an_ellipse_that_reaches_beyond_the_picture_is_resized(page: Page) -> None:
    page.edit(1)
    page.drag((200, 150), (390, 290))
    assert page.saved()["b.png"].pointers[0].bounds == pytest.approx((350, 270, 430, 310), abs=1)
    page.drag((399, 299), (390, 295))
    assert page.saved()["b.png"].pointers[0].bounds == pytest.approx((350, 270, 390, 295), abs=1)
    assert page.saved()["b.png"].count == 1


def test_a_drag_makes_no_pointer_outside_and_none_without_an_area(page: Page) -> None:
    page.open(height=1000)
    page.edit(0)
    page.drag((100, -40), (200, -10))
    assert page.browser.texts(".state") == ["Not reviewed yet"]
    page.drag((130, 250), (190, 250))
    flat = page.saved()["a.png"]
    assert flat.count == 3
    assert flat.pointers[2].bounds == pytest.approx((130, 250, 190, 253), abs=1)
    page.drag((350, -40), (380, 30))
    assert page.saved()["a.png"].pointers[3].bounds == pytest.approx((350, 0, 380, 30), abs=1)


def test_the_count_stays_while_pointers_only_move(page: Page) -> None:
    """A person may say that two pointers are one object."""
    page.edit(0)
    page.browser.press("1", TAB, RIGHT)
    assert (page.saved()["a.png"].count, page.saved()["a.png"].pointers[0].bounds) == (1, (12.0, 20.0, 112.0, 120.0))
    page.drag((250, 150), (260, 150))
    assert page.saved()["a.png"].count == 1
    page.browser.press("a")
    assert page.saved()["a.png"].count == 3


def test_a_pointer_keeps_its_class_whatever_is_done_to_it(page: Page) -> None:
    page.edit(4)
    assert page.browser.texts(".pointer-list bdi") == [" fish", " cat"]
    page.browser.press(ENTER)
    assert page.saved()["d.png"].pointers == CLASSED
    page.drag((60, 70), (80, 90))
    page.drag((130, 140), (150, 160))
    page.browser.press(TAB, RIGHT)
    first, second = page.saved()["d.png"].pointers
    assert (first.class_id, first.class_name, second.class_id, second.class_name) == (3, "fish", 7, "cat")
    assert first.bounds == pytest.approx((30, 40, 150, 160), abs=1)


def test_a_class_is_typed_kept_through_other_changes_and_taken_back(page: Page) -> None:
    page.edit(0)
    page.browser.press("l", *"grey  raccoon", ENTER)
    saved = page.saved()["a.png"]
    assert (saved.class_name, saved.count, saved.pointers) == ("grey raccoon", 2, BOXES)
    page.browser.press("3", TAB, RIGHT)
    saved = page.saved()["a.png"]
    assert (saved.class_name, saved.count, saved.pointers[0].bounds) == ("grey raccoon", 3, (12.0, 20.0, 112.0, 120.0))
    page.browser.press(ESCAPE, ESCAPE)
    page.browser.wait("!document.querySelector('dialog').open")
    assert "grey raccoon" in page.browser.texts(".tile:first-child .detail")[0]
    page.browser.choose("Class", "grey raccoon")
    assert page.browser.texts(".tile .name") == ["a.png"]
    page.open()
    assert "grey raccoon" in page.browser.texts(".tile:first-child .detail")[0]
    page.edit(0)
    assert page.browser.run("return document.querySelector('.class-name').value") == "grey raccoon"
    page.browser.press("l", "x", ESCAPE)
    assert page.browser.run("return document.querySelector('.class-name').value") == "grey raccoon"
    page.browser.press("l", DELETE, ENTER)  # that of the run again, which has none
    saved = page.saved()["a.png"]
    assert (saved.class_name, saved.count) == (None, 3)
    page.browser.press("u")
    page.browser.wait("document.querySelector('.class-name').value === 'grey raccoon'")
    assert page.saved()["a.png"].class_name == "grey raccoon"


def test_what_is_typed_is_said_by_a_press_on_the_picture_too(page: Page) -> None:
    page.edit(0)
    page.browser.press("l", *"fox")
    page.click(60, 70)
    assert (page.saved()["a.png"].class_name, page.saved()["a.png"].pointers) == ("fox", BOXES)
    page.browser.press("c", "9")
    page.click(150, 250)
    saved = page.saved()["a.png"]
    assert (saved.class_name, saved.count, len(saved.pointers)) == ("fox", 9, 3)
    page.edit(1)
    page.browser.press("c")  # which says nothing by itself
    page.click(200, 150)
    assert list(page.saved()) == ["a.png"]


def test_keys_of_an_input_method_are_no_keys_of_the_page(page: Page) -> None:
    page.edit(0)
    page.browser.press("l", *"fox")
    page.browser.run(
        "document.querySelector('.class-name').dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    assert page.browser.run("return document.activeElement.className") == "class-name"
    assert read_corrections(page.run) == {}


def test_undo_leads_back_to_what_nobody_has_reviewed(page: Page) -> None:
    page.edit(0)
    page.browser.press("9", TAB, DELETE)
    assert (page.saved()["a.png"].count, len(page.saved()["a.png"].pointers)) == (9, 1)
    page.browser.actions().key_down("\ue009").send_keys("z").key_up("\ue009").perform()
    page.browser.wait("document.querySelectorAll('.pointer-list li').length === 2")
    page.browser.press("u", "u")
    page.browser.wait("document.querySelector('.count').value === '2'")
    assert page.saved() == {}
    assert page.browser.texts(".state") == ["Not reviewed yet"]


@pytest.mark.parametrize(("before", "button"), [("5", "Undo"), ("5", "Not reviewed"), (TAB, "Delete")])
def test_keys_work_after_a_button_that_is_disabled_then(page: Page, before: str, button: str) -> None:
    page.edit(0)
    page.browser.press(before)
    next(each for each in page.browser.all(".editor .facts button") if each.text == button).click()
    page.browser.run("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.browser.press("n", "7")
    assert page.browser.texts(".editor h2") == ["b.png"]
    assert page.saved()["b.png"].count == 7


def test_a_typed_count_is_one_step_and_escape_leaves_it(page: Page) -> None:
    page.edit(0)
    page.browser.press("c", "9", ESCAPE)
    assert page.browser.run("return document.querySelector('.count').value") == "2"
    assert page.browser.texts(".state") == ["Not reviewed yet"]
    page.browser.press("c", "2", ENTER)  # what the run said, but a person says it now
    assert page.saved()["a.png"].count == 2
    page.browser.press("c", "1", "2", ENTER)
    assert page.saved()["a.png"].count == 12
    page.browser.press("u")
    page.browser.wait("document.querySelector('.count').value === '2'")
    page.browser.press("u")
    page.browser.wait("document.querySelector('.state').textContent === 'Not reviewed yet'")
    assert page.saved() == {}


def test_images_are_accepted_one_after_the_other_and_taken_back(page: Page) -> None:
    page.edit(0)
    page.browser.press(ENTER, ENTER)
    assert page.browser.texts(".editor h2") == ["c.png"]
    assert {name: correction.count for name, correction in page.saved().items()} == {"a.png": 2, "b.png": 1}
    assert page.saved()["a.png"].pointers == BOXES
    page.browser.press("p")
    page.browser.one(".actions button:last-child").click()
    page.browser.wait("document.querySelector('.state').textContent === 'Not reviewed yet'")
    assert list(page.saved()) == ["a.png"]


def test_keys_lead_to_neighbours_and_a_failed_image_cannot_be_changed(page: Page) -> None:
    page.edit(2)
    names = [button.accessible_name for button in page.browser.all(".editor header button")]
    assert names == ["Previous", "Next", "Back to the gallery"]
    page.browser.press("n")
    assert page.browser.texts(".editor h2") == ["broken.jpg"]
    assert page.browser.texts(".stage .missing") == ["It is not an image."]
    page.browser.press("5", "a", "+", ENTER)
    assert page.browser.texts(".editor h2") == ["d.png"]
    page.browser.press(LEFT, LEFT)
    assert page.browser.texts(".editor h2") == ["c.png"]
    assert read_corrections(page.run) == {}


def test_what_is_left_to_review_is_found(page: Page) -> None:
    page.edit(0)
    page.browser.press(ENTER)
    page.saved()
    page.browser.press(ESCAPE)
    page.browser.wait("!document.querySelector('dialog').open")
    page.browser.choose("Review", "Not reviewed")
    assert page.browser.texts(".tile .name") == ["b.png", "c.png", "d.png"]
    page.browser.choose("Review", "Reviewed")
    assert page.browser.texts(".tile .name") == ["a.png"]
    page.browser.choose("Review", "All")
    page.browser.one(".review-title button").click()
    assert page.browser.texts(".editor h2") == ["b.png"]


def test_what_is_not_saved_is_said_and_tried_again(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    page.edit(0)
    with monkeypatch.context() as disk:
        disk.setattr("pc_engine.runs.corrections.os.fsync", full)
        page.browser.press("5")
        page.browser.wait("document.querySelector('.editor .save-state').dataset.state === 'failed'")
    assert "No space left on device" in page.browser.texts(".editor .save-state")[0]
    assert page.saved()["a.png"].count == 5
    assert all("500 (Internal Server Error)" in complaint for complaint in page.browser.complaints())


def test_a_page_of_an_earlier_start_says_where_to_go_on(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.edit(0)
    monkeypatch.setattr(page.server, "token", "another" * 6)  # as after a second start at the same port
    page.browser.press("5")
    page.browser.wait("document.querySelector('.editor .save-state').dataset.state === 'failed'")
    assert "was restarted: open the address that it prints" in page.browser.texts(".editor .save-state")[0]
    assert all("403 (Forbidden)" in complaint for complaint in page.browser.complaints())
    assert read_corrections(page.run) == {}


def test_what_is_refused_holds_up_no_other_change(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    change, asked = page.server.session.change, threading.Event()

    def refuse_the_first(wanted: Answer | Withdrawal) -> int:
        if wanted.index == 0 and isinstance(wanted, Answer) and wanted.count == 5:
            asked.wait(120)
            raise ValueError("There are never five.")
        return change(wanted)

    monkeypatch.setattr(page.server.session, "change", refuse_the_first)
    page.edit(0)
    page.browser.press("5", "n", "7")
    asked.set()
    page.browser.wait("document.querySelector('.editor .save-state').dataset.state === 'failed'")
    assert page.browser.texts(".editor .save-state") == ["Not saved: There are never five."]
    assert [correction.count for correction in read_corrections(page.run).values()] == [7]
    page.browser.press("p", "6")
    assert {name: correction.count for name, correction in page.saved().items()} == {"a.png": 6, "b.png": 7}
    assert all("422 (Unprocessable" in complaint for complaint in page.browser.complaints())


def test_the_editor_fits_a_phone(page: Page) -> None:
    page.open(width=360, height=740)
    page.edit(0)
    assert page.browser.run("return document.querySelector('dialog').scrollWidth") <= 360
    page.browser.one(".counter button:last-child").click()
    assert page.saved()["a.png"].count == 3
