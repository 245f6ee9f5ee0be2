"""Slides in which tiles do not exist: as scanners write them they open, and those of which nearly none exist do not."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from tests.real_data import data, needs_data
from tests.slides.made import ome_zarr
from wsipipe.errors import SlideError, SlideFormatError, SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.pipeline.config import RunConfig
from wsipipe.pipeline.run_plan import plan_run
from wsipipe.pipeline.setup import resolve
from wsipipe.pipeline.slide_plan import SlidePlan
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.slide import MAX_SIDE_PX

FLAT_BYTES = 2**27


def sparse_tiff(path: Path, side: int, there: int) -> Path:
    """Grey, ``side`` px square, in tiles of 16 px of which the first ``there`` exist."""
    tile = zlib.compress(bytes([9] * 256))
    tiles = (tile if number < there else b"" for number in range((side // 16) ** 2))
    options = {"shape": (side, side), "dtype": "uint8", "tile": (16, 16), "metadata": None}
    tifffile.imwrite(path, tiles, compression="zlib", photometric="minisblack", **options)
    return path


def sparse_zarr(path: Path, side: int, chunk: int, there: int) -> Path:
    """RGB, ``side`` px square, of whose chunks ``there`` have a file; what is in it is never read."""
    ome_zarr(path, [np.zeros((3, 1, 1), np.uint8)], "cyx")
    zarr.create_array(
        path / "0", shape=(3, side, side), chunks=(3, chunk, chunk), dtype="uint8", fill_value=200, overwrite=True
    )
    for number in range(there):
        row, col = divmod(number, side // chunk)
        (path / f"0/c/0/{row}").mkdir(parents=True, exist_ok=True)
        (path / f"0/c/0/{row}/{col}").touch()
    return path


def test_slide_whose_background_was_left_out_opens(tmp_path: Path) -> None:
    slide = open_slide(sparse_tiff(tmp_path / "a.tif", 1024, 1))
    assert slide.warnings == ("4095 of 4096 tiles of 1024 wide x 1024 high have no data and read as 0",)
    assert read_box(slide.levels[0], Box(0, 16, 0, 32)).mean() == 4.5
    slide = open_slide(sparse_zarr(tmp_path / "a.zarr", 40_000, 400, 1))
    assert slide.warnings == ("9999 of 10000 chunks of 0 have no file, and read as 200",)


def test_plane_of_which_nearly_nothing_exists_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(
        SlideReadError, match=r"^a.tif is half-written.*: 1 of 16384 tiles of 2048 wide x 2048 high .*crop"
    ):
        open_slide(sparse_tiff(tmp_path / "a.tif", 2048, 1))
    with pytest.raises(SlideReadError, match=r"^a.zarr is half-written.*: 1 of 268435456 tiles of array 0, 3 .*crop"):
        open_slide(sparse_zarr(tmp_path / "a.zarr", MAX_SIDE_PX, 512, 1))


def test_table_of_tiles_that_takes_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    places = (MAX_SIDE_PX // 512) ** 2
    tags = {256: MAX_SIDE_PX, 257: MAX_SIDE_PX, 258: 8, 259: 8, 262: 1, 277: 1, 322: 512, 323: 512}
    entries = b"".join(struct.pack("<HHQQ", code, 4, 1, value) for code, value in tags.items())
    entries += struct.pack("<HHQQ", 324, 16, places, 4096) + struct.pack("<HHQQ", 325, 16, places, 4096 + 8 * places)
    path.write_bytes(b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 10) + entries + bytes(8))
    with path.open("r+b") as file:
        file.truncate(4096 + 16 * places)  # a hole, which takes no room on the disk
    tracemalloc.start()
    with pytest.raises(SlideFormatError, match=r"^a.tif has a tag of .*, such as a table of 268435456 tiles; .*vips"):
        open_slide(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < FLAT_BYTES


@needs_data
def test_dicom_that_claims_more_tiles_than_it_has_frames_is_an_error_before_a_table_is_made(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("wsidicom")
    dataset = pydicom.dcmread(data("dicom/cmu-small-wsi2dcm/level-3-frames-0-1.dcm"))
    position, frame = pydicom.Dataset(), pydicom.Dataset()
    position.ColumnPositionInTotalImagePixelMatrix = position.RowPositionInTotalImagePixelMatrix = 1
    frame.PlanePositionSlideSequence = pydicom.Sequence([position])
    dataset.PerFrameFunctionalGroupsSequence = pydicom.Sequence([frame])
    dataset.DimensionOrganizationType = "TILED_SPARSE"
    dataset.TotalPixelMatrixRows = dataset.TotalPixelMatrixColumns = MAX_SIDE_PX
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(SlideError, match=r"^a.dcm is half-written, .* wrong: 1 of \d+ tiles .* exist; .*copy"):
        open_slide(tmp_path / "a.dcm")


def test_plan_of_a_slide_that_claims_2_to_the_46_pixels_is_flat(tmp_path: Path, tiny_model: Path) -> None:
    path = sparse_zarr(tmp_path / "a.zarr", MAX_SIDE_PX, 4096, 420)
    setup = resolve(RunConfig(model=str(tiny_model), out=str(tmp_path / "out"), device="cpu", block=2048, tile=1024))
    tracemalloc.start()
    (plan,) = plan_run([path], setup).slides
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(plan, SlidePlan), plan
    assert (len(plan.blocks), plan.pixels) == (4096**2, MAX_SIDE_PX**2)
    assert next(iter(plan.blocks)) == (0, 0)
    assert peak < FLAT_BYTES
