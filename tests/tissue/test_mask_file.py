from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.slides.made import picture, pyramid
from wsipipe.errors import LabelError, SlideError, UsageError
from wsipipe.slides.open import open_slide
from wsipipe.slides.slide import Level
from wsipipe.tissue import mask_file
from wsipipe.tissue.mask_file import given_mask, given_shape, tissue_identity


@pytest.fixture
def level(tmp_path: Path) -> Level:
    pyramid(tmp_path / "s.tif", picture((160, 240, 3)), levels=2)
    return open_slide(tmp_path / "s.tif").levels[0]


def save(path: Path, mask: np.ndarray) -> str:
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(mask))
    else:
        tifffile.imwrite(path, mask, tile=(16, 16), compression="deflate")
    return str(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("shape", [(2, 3), (16, 24), (20, 30), (33, 50), (160, 240), (320, 480)])
def test_a_raster_of_any_size_is_taken_as_it_is(
    tmp_path: Path, level: Level, shape: tuple[int, int], suffix: str
) -> None:
    raster = (np.random.default_rng(0).random(shape) < 0.3) * np.uint8(200)
    path = save(tmp_path / f"m{suffix}", raster)
    mask = given_mask(path, level)
    assert mask.plane == (160, 240)
    assert given_shape(path, level) == shape
    assert np.array_equal(mask.cells, raster > 0)


@pytest.mark.parametrize("band", [1, 700, 10**6])
def test_of_a_huge_raster_every_pixel_counts(
    tmp_path: Path, level: Level, monkeypatch: pytest.MonkeyPatch, band: int
) -> None:
    monkeypatch.setattr(mask_file, "MOST_CELLS", 500)
    monkeypatch.setattr(mask_file, "BAND_CELLS", band)
    raster = np.zeros((83, 125), np.uint8)
    raster.flat[np.random.default_rng(1).integers(0, raster.size, 30)] = 1
    mask = given_mask(save(tmp_path / "m.tif", raster), level)
    rows, cols = mask.cells.shape
    assert rows * cols <= 500
    wanted = np.zeros((rows, cols), bool)
    for y, x in np.argwhere(raster):
        wanted[y * rows // 83 : -(-(y + 1) * rows // 83), x * cols // 125 : -(-(x + 1) * cols // 125)] = True
    assert np.array_equal(mask.cells, wanted)


def polygons(path: Path, *rings: list[list[float]]) -> str:
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}
        for ring, properties in zip(rings, [{}, {"classification": {"name": "Region*"}}], strict=False)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return str(path)


def test_polygons_are_in_pixels_of_level_0_whatever_their_classes(tmp_path: Path, level: Level) -> None:
    coarse = open_slide(level.path).levels[1]
    path = polygons(
        tmp_path / "m.geojson",
        [[16, 32], [80, 32], [80, 64], [16, 64], [16, 32]],
        [[160, 96], [240, 96], [240, 160], [160, 160], [160, 96]],
    )
    for one, cell in ((level, 8), (coarse, 16)):
        wanted = np.zeros((160 // cell, 240 // cell), bool)
        wanted[32 // cell : 64 // cell, 16 // cell : 80 // cell] = wanted[96 // cell :, 160 // cell :] = True
        assert np.array_equal(given_mask(path, one).cells, wanted)


def test_a_mask_of_other_proportions_is_refused(tmp_path: Path, level: Level) -> None:
    path = save(tmp_path / "m.png", np.ones((30, 20), np.uint8))
    with pytest.raises(
        LabelError, match=r"20 wide x 30 high, and does not have the proportions of s\.tif level 0, 240 wide x 160 high"
    ):
        given_shape(path, level)
    thumbnail = save(tmp_path / "n.png", np.ones((7, 10), np.uint8))  # 6.67 x 10
    assert given_shape(thumbnail, level) == (7, 10)


def test_files_that_are_not_masks_are_refused(tmp_path: Path, level: Level) -> None:
    (tmp_path / "m.png").write_text("no picture")
    (tmp_path / "m.json").write_text("[]")
    for name in ("m.png", "m.json"):
        with pytest.raises(SlideError, match=name):
            given_mask(str(tmp_path / name), level)
    colours = save(tmp_path / "rgb.png", np.ones((16, 24, 3), np.uint8))
    with pytest.raises(LabelError, match="3 channels"):
        given_mask(colours, level)
    far = polygons(tmp_path / "far.geojson", [[1000, 1000], [1100, 1000], [1100, 1100], [1000, 1000]])
    with pytest.raises(LabelError, match="outside the slide"):
        given_mask(far, replace(level))


def test_the_identity_of_a_file_is_its_content(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"abc")
    assert tissue_identity(str(tmp_path / "m.png")) == sha256(b"abc").hexdigest()
    assert tissue_identity("off") == "off"
    assert tissue_identity("auto").startswith("auto ")
    with pytest.raises(UsageError, match=r"--tissue nowhere\.png cannot be read: No such file"):
        tissue_identity("nowhere.png")
