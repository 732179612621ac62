from __future__ import annotations

import pytest

from pc_engine.fitted.counter import DEFAULT_LABELS
from pc_engine.fitting.learnable import learnable_labels


@pytest.mark.parametrize(
    ("counts", "learnt", "alone"),
    [
        ([1, 1, 2, 2], ("1", "2"), ()),
        ([0, 1, 1, 2, 2, 7], ("1", "2"), ("0", "4+")),
        ([4, 9, 1, 1], ("1", "4+"), ()),
        ([0, 1, 1], ("0", "1"), ()),
        ([], (), ()),
    ],
)
def test_a_label_of_one_image_is_left_out_where_two_others_stay(counts, learnt, alone):
    assert learnable_labels(counts, DEFAULT_LABELS) == (learnt, alone)
