"""Which images of a file, and which files, are the slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.real_data import case, needs_cases
from tests.slides.made import APERIO
from wsipipe.errors import PlaneError
from wsipipe.slides.open import open_slide
from wsipipe.slides.planes import Planes


@pytest.mark.parametrize("said", [True, False])
def test_focal_planes_of_an_svs_are_listed_and_can_be_chosen(tmp_path: Path, said: bool) -> None:
    image = np.kron(np.random.default_rng(0).integers(60, 250, (16, 16, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.svs") as tiff:
        for z in range(3):
            described = APERIO.format(w=256, h=256) + f"|OffsetZ = {z / 2}" * said
            tiff.write(image - z * 20, tile=(64, 64), description=described, **options)
            if z == 0:
                tiff.write(image[::4, ::4], description=APERIO.format(w=256, h=256) + " -> 64x64", **options)
            tiff.write(image[::2, ::2] - z * 20, tile=(64, 64), description=described, **options)
    listed = r" \(0: OffsetZ = 0.0, 1: OffsetZ = 0.5, 2: OffsetZ = 1.0\)" if said else r" \(0 to 2\)"
    with pytest.raises(PlaneError, match=rf"a.svs holds 3 focal planes{listed}; choose with --z N"):
        open_slide(tmp_path / "a.svs")
    for z in range(3):
        slide = open_slide(tmp_path / "a.svs", planes=Planes(z=z))
        assert (str(slide.levels[0].planes), slide.associated) == (f"--z {z}", ("thumbnail 64 x 64 px",))
        assert [level.shape for level in slide.levels] == [(256, 256), (128, 128)]
        for level, step in zip(slide.levels, (1, 2), strict=True):
            np.testing.assert_array_equal(level.array[:], image[::step, ::step] - z * 20)


@needs_cases
def test_focal_planes_of_a_scanner() -> None:
    for z, pages in enumerate(((0, 2), (3, 4), (5, 6))):
        slide = open_slide(case("svs-focal-planes.svs"), planes=Planes(z=z))
        with tifffile.TiffFile(slide.path) as tiff:
            for level, page in zip(slide.levels, pages, strict=True):
                expected = tiff.pages[page].asarray().astype(int)
                assert np.abs(level.array[:] - expected).max() <= 1
