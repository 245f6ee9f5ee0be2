from __future__ import annotations

import numpy as np
import pytest

from tests.report.nights import HOSTILE
from wsipipe.pictures.caption import CAPTION_PX, LEAST_CAPTION_PX, captioned, scale_bar, with_scale_bar


def longest_dark_row(image: np.ndarray) -> int:
    """Most dark pixels of a row."""
    return int((image.max(-1) < 80).sum(1).max())


@pytest.mark.parametrize(
    ("um_per_px", "most_px", "length", "name"),
    [
        (0.5, 250, 200, "100 µm"),
        (0.25, 250, 200, "50 µm"),
        (16.0, 80, 62.5, "1 mm"),
        (50.0, 100, 100, "5 mm"),
        (0.001, 80, 50, "0.05 µm"),
    ],
)
def test_scale_bar_is_the_longest_round_one_that_fits(
    um_per_px: float, most_px: float, length: float, name: str
) -> None:
    assert scale_bar(um_per_px, most_px) == (pytest.approx(length), name)


@pytest.mark.parametrize(("shape", "um_per_px"), [((400, 600), 0.5), ((240, 320), 3.0), ((750, 1000), 7.0)])
def test_the_bar_on_a_picture_has_its_length(shape: tuple[int, int], um_per_px: float) -> None:
    plain = np.full((*shape, 3), 200, np.uint8)
    image = with_scale_bar(plain, um_per_px)
    length, _ = scale_bar(um_per_px, shape[1] / 4)
    assert longest_dark_row(image) == round(length)
    assert (image[: shape[0] * 3 // 4] == 200).all()
    assert (plain == 200).all()


@pytest.mark.parametrize(("shape", "um_per_px"), [((400, 600), None), ((400, 60), 0.5), ((20, 600), 0.5)])
def test_no_bar_without_a_resolution_or_the_room(shape: tuple[int, int], um_per_px: float | None) -> None:
    assert (with_scale_bar(np.full((*shape, 3), 200, np.uint8), um_per_px) == 200).all()


@pytest.mark.parametrize("text", [*HOSTILE, ""])
@pytest.mark.parametrize("width", [1, 300, 900])
def test_any_text_is_drawn_below_the_picture_and_not_over_it(text: str, width: int) -> None:
    image = captioned(np.full((50, width, 3), 99, np.uint8), text, 0.5)
    assert image.shape == (50 + CAPTION_PX, max(width, LEAST_CAPTION_PX), 3)
    assert (image[:50, :width] == 99).all()
    strip = image[50:]
    if width > 1:
        assert longest_dark_row(strip) >= round(scale_bar(0.5, min(width, strip.shape[1] / 4))[0])
    assert bool((strip[:, : strip.shape[1] // 2] < 80).any()) == bool(text)
