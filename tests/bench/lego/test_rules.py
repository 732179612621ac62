import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pc_engine.bench.lego.rules import (
    ARRANGEMENTS,
    LegoClass,
    arrangements_of,
    cell_centres,
    chosen_arrangements,
    make_classes,
)
from pc_engine.errors import UsageError


@settings(max_examples=40)
@given(n_digits=st.integers(1, 8), share=st.floats(0.01, 1), seed=st.integers(0, 5))
def test_classes_are_distinct_deterministic_and_as_many_as_asked(n_digits: int, share: float, seed: int) -> None:
    possible = len(arrangements_of(n_digits)) * 10**n_digits
    n_classes = max(1, min(200, int(share * possible)))
    classes = make_classes(n_classes, n_digits, seed)
    assert len(set(classes)) == len(classes) == n_classes
    assert classes == make_classes(n_classes, n_digits, seed)
    assert all(len(c.digits) == n_digits and c.arrangement in arrangements_of(n_digits) for c in classes)


@pytest.mark.parametrize("n_digits", [1, 2])
def test_all_possible_classes_can_be_asked_for(n_digits: int) -> None:
    possible = len(arrangements_of(n_digits)) * 10**n_digits
    assert len(set(make_classes(possible, n_digits))) == possible
    with pytest.raises(UsageError, match=str(possible)):
        make_classes(possible + 1, n_digits)


@pytest.mark.parametrize(("n_classes", "n_digits"), [(0, 3), (5, 0)])
def test_no_classes_or_no_digits_are_refused(n_classes: int, n_digits: int) -> None:
    with pytest.raises(UsageError, match="cannot be made"):
        make_classes(n_classes, n_digits)


def test_arrangements_can_be_chosen() -> None:
    classes = make_classes(30, 3, arrangements=("diagonal", "row", "diagonal"))
    assert {each.arrangement for each in classes} == {"row", "diagonal"}
    assert len({*make_classes(1000, 3, arrangements=("grid",))}) == 1000
    with pytest.raises(UsageError, match="from 1 to 1000 classes"):
        make_classes(1001, 3, arrangements=("grid",))
    # Those of all that differ are the usual ones.
    assert make_classes(100, 3, arrangements=arrangements_of(3)) == make_classes(100, 3)
    assert chosen_arrangements(2) == arrangements_of(2)


@pytest.mark.parametrize(
    ("n_digits", "names", "known"),
    [
        (3, ("row", "circle"), "row, column, triangle, grid, diagonal"),
        (3, (), "row, column, triangle, grid, diagonal"),
        (2, ("grid",), "row, column, diagonal"),
        (1, ("column",), "row"),
    ],
)
def test_other_arrangements_are_refused(n_digits: int, names: tuple[str, ...], known: str) -> None:
    with pytest.raises(UsageError, match=rf"one or more of {known}\."):
        make_classes(5, n_digits, arrangements=names)


def test_a_hundred_classes_share_digits_in_other_orders() -> None:
    classes = make_classes(100, 3)
    bags = [tuple(sorted(c.digits)) for c in classes]
    assert len(set(bags)) <= 60
    assert LegoClass("row", (1, 4, 7)).name == "row-1-4-7"


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("n_digits", [1, 2, 3, 4, 7])
def test_cells_start_at_zero_and_keep_apart(arrangement: str, n_digits: int) -> None:
    centres = cell_centres(arrangement, n_digits)
    assert centres.shape == (n_digits, 2)
    assert (centres.min(axis=0) == 0).all()
    distance = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1)) + 1e9 * np.eye(n_digits)
    assert distance.min() > 20


def test_arrangements_offered_differ_from_each_other() -> None:
    for n_digits in range(1, 8):
        layouts = {tuple(map(tuple, cell_centres(kind, n_digits).tolist())) for kind in arrangements_of(n_digits)}
        assert len(layouts) == len(arrangements_of(n_digits))


def test_an_unknown_arrangement_is_refused() -> None:
    with pytest.raises(UsageError, match="spiral"):
        cell_centres("spiral", 3)
