import pytest

from pc_engine.errors import UsageError
from pc_engine.export.settings import check_normalisation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNCHANGED = ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("mean", "std", "given", "meant"),
    [
        (
            *(MEAN, STD, "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"),
            "--mean 123.675,116.28,103.53 --std 58.395,57.12,57.375",
        ),
        ((0.5,) * 3, (0.5,) * 3, "--mean 0.5 --std 0.5", "--mean 127.5 --std 127.5"),
        ((0, 0, 0), STD, "--std 0.229,0.224,0.225", "--std 58.395,57.12,57.375"),
        ((), (0.5,) * 3, "--std 0.5", "--std 127.5"),
        (MEAN, (1, 1, 1), "--mean 0.485,0.456,0.406", "--mean 123.675,116.28,103.53"),
        (MEAN, (), "--mean 0.485,0.456,0.406", "--mean 123.675,116.28,103.53"),
    ],
)
def test_numbers_for_pixels_up_to_1_are_refused_with_those_for_255(mean, std, given, meant):
    with pytest.raises(UsageError) as caught:
        check_normalisation(mean, std)
    assert str(caught.value) == (
        f"{given} seems to be for pixels of 0..1, but pixels are 0..255 here: multiply by 255, {meant}. For a "
        "network that takes pixels of 0..1, --std 255 is all."
    )


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((), ()),
        UNCHANGED,
        (UNCHANGED[0], ()),
        ((0, 0, 0), (255, 255, 255)),
        ((0, 0, 0), (1, 1, 1.5)),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ((123.68, 116.779, 103.939), (1, 1, 1)),
        ((), (58, 57, 57)),
    ],
)
def test_numbers_for_pixels_up_to_255_are_taken(mean, std):
    check_normalisation(mean, std)
