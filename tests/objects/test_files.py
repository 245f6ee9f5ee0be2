"""The files of blocks: read back as written, refused where they are damaged or of something else."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import shapely

from tests.objects.made import CLASSES, read_sorted, regions, write_objects
from tests.real_data import data, needs_data
from tests.soak import rounds
from wsipipe.errors import (
    DamagedStoreError,
    FingerprintError,
    GeometryError,
    OutlineError,
    OutputError,
    SlideReadError,
    UsageError,
)
from wsipipe.geometry.grid import Box
from wsipipe.objects.block import Counting, measure_block
from wsipipe.objects.block_file import BlockFile, block_file, write_block_file
from wsipipe.objects.sums import Intensities, Layout
from wsipipe.objects.table import Description
from wsipipe.objects.write import write_table

LABELS = (np.random.default_rng(0).random((40, 40)) < 0.6).astype(np.uint8)
COUNTING = Counting((80, 80), 4, Layout(("red",)), split=True)
PIXELS = np.random.default_rng(1).integers(0, 2**16, (40, 40, 1), np.uint16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of one block of four."""
    block = measure_block(LABELS, Box(0, 40, 40, 80), COUNTING, Intensities(COUNTING.layout, PIXELS))
    write_block_file(block_file(tmp_path, (0, 1)), block, COUNTING)
    (path,) = tmp_path.iterdir()
    return path


def equal(one: object, other: object) -> bool:
    """Whether two dataclasses of arrays are the same, dtypes included."""
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other) and one.dtype == other.dtype  # type: ignore[attr-defined]
    if isinstance(one, tuple):
        return all(map(equal, one, other))  # type: ignore[arg-type]
    return all(equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))  # type: ignore[arg-type]


def test_a_block_is_read_back_as_it_was_measured(path: Path) -> None:
    block = measure_block(LABELS, Box(0, 40, 40, 80), COUNTING, Intensities(COUNTING.layout, PIXELS))
    found = BlockFile(path, COUNTING)
    assert found.origin == block.origin
    assert equal(found.whole(), (block.whole, block.hulls, block.rings))
    assert equal(found.first(), block.whole.first)
    assert equal(found.cut(), block.cut)
    assert len(block.cut.fragments.y) > 0


def test_a_damaged_block_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for at in (0, 9, 13, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DamagedStoreError, match=r"0\.1\.objects is damaged: .*; remove it, and measure"):
            BlockFile(path, COUNTING).whole(), BlockFile(path, COUNTING).cut()
    for size in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedStoreError, match="is damaged"):
            BlockFile(path, COUNTING).whole(), BlockFile(path, COUNTING).cut()


def test_a_block_that_is_missing_or_was_measured_otherwise_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(SlideReadError, match=r"0\.0\.objects cannot be read: No such file"):
        BlockFile(block_file(tmp_path, (0, 0)), COUNTING).whole()
    with pytest.raises(FingerprintError, match="of another slide or made with other options"):
        BlockFile(path, Counting((80, 80), 8, COUNTING.layout)).whole()
    description = Description("slide", CLASSES, 0.5, layout=COUNTING.layout)
    table = tmp_path / "objects.parquet"
    with pytest.raises(SlideReadError, match=r"0\.0\.objects"):
        write_table(table, tmp_path, counting=COUNTING, block_px=40, description=description)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_class_without_a_name_is_refused_and_the_old_table_stays(tmp_path: Path) -> None:
    table = tmp_path / "one.parquet"
    table.write_bytes(b"old")
    with pytest.raises(UsageError, match=r"objects of label 9 were found; the classes have the labels \[1, 2, 3, 4\]"):
        write_objects(table, np.full((10, 10), 9, np.uint8), block_px=5)
    assert table.read_bytes() == b"old"
    assert not list(tmp_path.glob("*.scratch")) + list(tmp_path.glob("*.partial"))


def test_a_table_that_has_no_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    description = Description("slide", CLASSES, 0.5)
    with pytest.raises(OutputError, match="cannot be created"):
        write_table(
            tmp_path / "file" / "a.parquet", tmp_path, counting=Counting((9, 9)), block_px=9, description=description
        )


def test_an_outline_with_too_many_corners_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutlineError, match=r"object at \[0:40, 0:40\] of class 1, .* corners; at most 50 "):
        write_objects(tmp_path / "one.parquet", LABELS | np.eye(40, dtype=np.uint8), block_px=20, max_corners=50)


@pytest.mark.parametrize(
    ("box", "message"),
    [(Box(0, 3, 0, 40), "4 px or more"), (Box(0, 90, 0, 40), "1 to 16384"), (Box(5, 5, 0, 9), "1 to")],
)
def test_blocks_of_impossible_sizes_are_refused(box: Box, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        measure_block(np.zeros(box.shape, np.uint8), box, Counting((80, 80)))


@pytest.mark.parametrize(("channels", "stained"), [(("a", "b", "a"), False), (("a", "b"), True)])
def test_channels_that_cannot_be_measured_are_refused(channels: tuple[str, ...], stained: bool) -> None:
    with pytest.raises(UsageError, match="got "):
        Layout(channels, stained)


@needs_data
@pytest.mark.parametrize(("side_px", "split"), rounds((400, False), (4000, False), (4000, True)))
def test_nuclei_of_a_real_slide(side_px: int, split: bool, tmp_path: Path) -> None:
    """The dark pixels of the CMU slide, whose outlines are far more ragged than those that a network draws."""
    from wsipipe.slides.open import open_slide

    array = open_slide(data("slides/CMU-1-Small-Region.svs")).levels[0].array
    pixels = np.asarray(array[400 : 400 + side_px, 600 : 600 + side_px])
    pixels = np.moveaxis(pixels, 0, 2) if pixels.shape[0] == 3 else pixels
    labels = 1 + (pixels.mean(axis=2) < 130).astype(np.uint8)
    labels[pixels.mean(axis=2) > 170] = 0
    files = [tmp_path / f"{side}.parquet" for side in (150, 512)]
    for path, block_px in zip(files, (150, 512), strict=True):
        write_objects(path, labels, block_px=block_px, pixels=pixels, stained=True, split=split)
    assert files[0].read_bytes() == files[1].read_bytes()
    table = read_sorted(files[0])
    geometries = shapely.from_wkb(table["geometry"].to_pylist())
    assert shapely.is_valid(geometries).all()
    assert shapely.area(geometries).tolist() == table["pixels"].to_pylist()
    if not split:
        right = regions(labels, 8)
        assert table["pixels"].to_pylist() == [region.num_pixels for *_, region in right]
        assert np.allclose(table["x"], [region.centroid[1] + 0.5 for *_, region in right])
