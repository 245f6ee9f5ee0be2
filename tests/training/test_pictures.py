"""The pictures of a training: any log has curves, any images a sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from tests.faults import files_up_to
from tests.training.discs import discs
from wsipipe.errors import OutputError
from wsipipe.pictures.caption import TITLE_PX
from wsipipe.training.pictures import (
    FOUND,
    GAP_PX,
    SHEET_IMAGE_PX,
    SMOOTH,
    TRUE,
    Shown,
    mean_of_last,
    patch_as_rgb,
    write_curves,
    write_sheet,
)


def picture(path: Path) -> Any:
    """(y, x, 3) of a PNG, uint8."""
    return (imread(path) * 255).round().astype(np.uint8)[..., :3]


def step(number: int, loss: float | None) -> dict[str, Any]:
    return {"kind": "step", "step": number, "loss": loss}


def validation(number: int, scores: dict[str, float | None]) -> dict[str, Any]:
    return {"kind": "validation", "step": number, "scores": scores, "best_step": number}


LOGS = {
    "nothing": [],
    "one step": [{"kind": "start"}, step(1, 0.5)],
    "steps": [step(i, 1 / i) for i in range(1, 60)],
    "no number": [step(1, None), step(2, 0.4), validation(2, {"dice": None, "dice.disc": None, "f1": 0.5})],
    "zero": [step(1, 0.0), step(2, 0.0)],
    "no images": [step(1, 1.0), validation(1, {})],
    "more to come": [step(1, 1.0), validation(1, {"dice": 0.1}), validation(2, {"dice": 0.3, "merged_per_100": 90.0})],
}


@pytest.mark.parametrize("lines", LOGS.values(), ids=LOGS)
def test_curves_are_drawn_of_any_log(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    write_curves(tmp_path / "curves.png", lines)
    assert picture(tmp_path / "curves.png").shape == (600, 800, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


def test_curves_show_losses_and_scores(tmp_path: Path) -> None:
    drawn = {}
    for name in ("nothing", "steps", "more to come"):
        write_curves(tmp_path / "curves.png", LOGS[name])
        drawn[name] = picture(tmp_path / "curves.png")
    losses, scores = (drawn[name] != drawn["nothing"] for name in ("steps", "more to come"))
    assert losses[:280, 80:].any()
    assert scores[330:, 80:].any()


def test_smoothed_loss_begins_at_the_first_step_and_leaves_out_what_is_no_number() -> None:
    losses = np.array([4.0, 2.0, np.nan, 3.0, 1.0])
    np.testing.assert_allclose(mean_of_last(losses, 2), [4, 3, 2, 3, 2])
    assert np.isfinite(mean_of_last(losses, SMOOTH)).all()
    assert len(mean_of_last(losses[:1], SMOOTH)) == 1


def test_sheet_has_image_found_and_true_side_by_side(tmp_path: Path) -> None:
    image, objects = discs((60, 80))
    found = np.zeros_like(objects)
    found[20:30, 20:30] = 1
    small, few = discs((33, 40), channels=1, dtype="uint16", seed=1)
    large = np.zeros((SHEET_IMAGE_PX + 50, SHEET_IMAGE_PX + 9, 3), np.uint8)
    nothing = np.zeros(large.shape[:2], np.uint8)
    rows = [Shown(image, found, objects, "case 17"), Shown(small[..., None], few, few), Shown(large, nothing, nothing)]
    write_sheet(tmp_path / "validation.png", rows)
    sheet = picture(tmp_path / "validation.png")
    assert sheet.shape == (60 + 33 + SHEET_IMAGE_PX + 3 * (GAP_PX + TITLE_PX), 3 * (SHEET_IMAGE_PX + GAP_PX), 3)
    titles, sheet = sheet[:TITLE_PX], sheet[TITLE_PX:]
    for left, text in ((0, True), (86, True), (172, True), (258, False)):
        assert (titles[:, left : left + 80] < 100).any() == text
    np.testing.assert_array_equal(sheet[:60, :80], image)
    middle, right = sheet[:60, 86:166], sheet[:60, 172:252]
    for strip, color, labels in ((middle, FOUND, found), (right, TRUE, objects)):
        drawn = (strip == color).all(-1)
        assert drawn.any()
        np.testing.assert_array_equal(strip[~drawn], image[~drawn])
        near = np.zeros_like(drawn)
        for y, x in np.argwhere(labels > 0):
            near[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = True
        assert not (drawn & ~near).any(), "only about objects"
    np.testing.assert_array_equal(sheet[:60, 252 : 252 + 100], 255)
    below = sheet[66 + TITLE_PX : 66 + TITLE_PX + 33, :40]
    assert (below[..., 0] == below[..., 1]).all()
    assert below.min() == 0
    assert below.max() == 255


def test_grey_levels_keep_their_order_and_rgb_stays() -> None:
    rgb = discs((20, 30))[0]
    assert patch_as_rgb(rgb) is rgb
    ramp = np.arange(0, 60000, 60, np.uint16).reshape(20, 50, 1)
    seen = patch_as_rgb(ramp)
    assert (seen.shape, seen.dtype) == ((20, 50, 3), np.uint8)
    assert (np.diff(seen[..., 0].ravel().astype(int)) >= 0).all()
    assert np.ptp(seen) == 255
    np.testing.assert_array_equal(patch_as_rgb(np.full((4, 4, 2), 7, np.uint16)), 0)


def test_full_disk_is_an_output_error_and_leaves_the_picture_before(tmp_path: Path) -> None:
    image, objects = discs((60, 80))
    calls = {
        "validation.png": lambda path: write_sheet(path, [Shown(image, objects, objects)]),
        "curves.png": lambda path: write_curves(path, LOGS["steps"]),
    }
    for name, call in calls.items():
        call(tmp_path / name)
        before = (tmp_path / name).read_bytes()
        with files_up_to(500), pytest.raises(OutputError, match=name):
            call(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
