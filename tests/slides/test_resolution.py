from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.slides.made import APERIO, picture, pyramid
from wsipipe.slides.resolution import checked
from wsipipe.slides.slide import Slide, open_slide


def opened(tmp_path: Path, **options: Any) -> Slide:
    pyramid(tmp_path / "a.tif", picture((128, 128)), **options)
    return open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("unit", "per_unit", "mpp"), [("centimeter", 20000.0, 0.5), ("inch", 50800.0, 0.5), ("centimeter", 40000.0, 0.25)]
)
def test_resolution_tags_are_read_in_their_unit(tmp_path: Path, unit: str, per_unit: float, mpp: float) -> None:
    slide = opened(tmp_path, resolution=(per_unit, per_unit), resolutionunit=unit)
    assert slide.mpp == pytest.approx(mpp)
    assert slide.mpp_source == "XResolution and YResolution tags"
    assert slide.warnings == ()


@pytest.mark.parametrize(
    ("resolution", "unit", "problem"),
    [
        ((10.0, 10.0), "centimeter", "gives 1000 micrometres per pixel, which is coarser than any scanner"),
        ((72.0, 72.0), "inch", "gives 352.778 micrometres per pixel, which is coarser than any scanner"),
        ((20000.0, 18000.0), "centimeter", "has pixels that are not square"),
        ((0.0, 0.0), "centimeter", "gives nan micrometres per pixel, which is not a size"),
    ],
)
def test_implausible_resolution_is_a_warning_and_not_used(
    tmp_path: Path, resolution: tuple[float, float], unit: str, problem: str
) -> None:
    slide = opened(tmp_path, resolution=resolution, resolutionunit=unit)
    assert slide.mpp is None
    assert [level.mpp for level in slide.levels] == [None] * 3
    assert len(slide.warnings) == 1
    assert problem in slide.warnings[0]
    assert slide.warnings[0].endswith("it is not used")


def test_aperio_mpp_goes_before_the_tags(tmp_path: Path) -> None:
    slide = opened(
        tmp_path, description=APERIO.format(w=128, h=128), resolution=(40000.0, 40000.0), resolutionunit="centimeter"
    )
    assert (slide.mpp, slide.mpp_source) == (0.499, "MPP in ImageDescription")


def test_aperio_without_a_usable_mpp_falls_back_to_the_tags(tmp_path: Path) -> None:
    for text, warnings in (("|AppMag = 20", 0), ("|MPP = 0", 1), ("|MPP = none", 1)):
        description = f"Aperio Image Library v1\r\n128x128 (64x64) JPEG{text}"
        slide = opened(tmp_path, description=description, resolution=(40000.0, 40000.0), resolutionunit="centimeter")
        assert slide.mpp == pytest.approx(0.25)
        assert len(slide.warnings) == warnings


@pytest.mark.parametrize(("y", "x"), [(0.25, -0.25), (float("inf"), 1.0), (float("nan"), 0.5), (21, 21), (1, 1.06)])
def test_sizes_that_can_not_be_are_not_used(y: float, x: float) -> None:
    resolution = checked(y, x, "a tag")
    assert resolution.mpp is None
    assert resolution.warnings


@pytest.mark.parametrize(("y", "x"), [(0.25, 0.25), (1, 1.04), (20, 20), (0.05, 0.0501)])
def test_sizes_that_can_be_are_averaged(y: float, x: float) -> None:
    assert checked(y, x, "a tag").mpp == pytest.approx((x + y) / 2)
