from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.slides.made import ome_zarr, picture
from wsipipe.errors import PlaneError, SlideError, SlideFormatError, SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.slides.discover import expand
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.planes import Planes

SHAPES = {
    "yx": (150, 130),
    "yxc": (150, 130, 3),
    "cyx": (3, 150, 130),
    "tczyx": (1, 3, 1, 150, 130),
    "zyx": (1, 150, 130),
}


@pytest.mark.parametrize("axes", SHAPES)
@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", ["uint8", ">u2"])
def test_image_of_any_axes_reads_as_written(tmp_path: Path, axes: str, version: str, dtype: str) -> None:
    image = picture((150, 130, 3), "uint16" if "u2" in dtype else dtype).astype(dtype)
    stored = {"yx": image[..., 0], "zyx": image[..., 0], "yxc": image}.get(axes, np.moveaxis(image, -1, 0))
    path = ome_zarr(tmp_path / "a.ome.zarr", [stored.reshape(SHAPES[axes])], axes, version)
    slide = open_slide(path)
    level = slide.levels[0]
    assert (slide.name, slide.mpp, slide.mpp_source) == ("a", 0.5, "scale in multiscales")
    assert level.axes == {"zyx": "yx", "tczyx": "cyx"}.get(axes, axes)
    assert level.stored_axes == axes
    got = read_box(level, Box(10, 150, 0, 129))
    assert got.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(got, image[10:150, :129, : got.shape[-1]])


def test_missing_chunks_are_the_fill_value_but_none_at_all_is_half_written(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", [picture((150, 130))], "yx")
    chunks = sorted(file for file in (path / "0" / "c").rglob("*") if file.is_file())
    chunks[0].unlink()
    level = open_slide(path).levels[0]
    assert not read_box(level, Box(0, 64, 0, 64)).any()
    assert read_box(level, Box(64, 150, 64, 130)).all()
    for chunk in chunks[1:]:
        chunk.unlink()
    with pytest.raises(SlideReadError, match=r"a.zarr is half-written: 0 has no chunks"):
        open_slide(path)


def edited(path: Path, change: dict[str, Any]) -> Path:
    """An OME-Zarr with ``change`` made to its multiscale; None takes an entry away."""
    ome_zarr(path, [picture((150, 130)), picture((75, 65))], "yx")
    document = json.loads((path / "zarr.json").read_text())
    multiscale = document["attributes"]["ome"]["multiscales"][0]
    multiscale.update(change)
    for key in [key for key, value in change.items() if value is None]:
        del multiscale[key]
    (path / "zarr.json").write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"axes": None}, "do not follow the OME-Zarr specification"),
        ({"axes": []}, "do not follow the OME-Zarr specification"),
        ({"axes": [{"name": "y"}, {"name": "y"}]}, "has the axes"),
        ({"axes": [{"name": "x"}, {"name": "y"}]}, "has the axes"),
        ({"axes": 7}, "do not follow the OME-Zarr specification"),
        ({"datasets": []}, "list no datasets"),
        ({"datasets": [{"path": "nowhere"}]}, "half-written: there is no array nowhere"),
        ({"datasets": [{"path": "../b.zarr"}]}, "is outside its folder"),
        ({"datasets": [{"path": "1"}, {"path": "0"}]}, "do not decrease in size"),
        ({"datasets": None}, "do not follow the OME-Zarr specification"),
    ],
)
def test_metadata_that_break_the_specification_are_clear_errors(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SlideError, match=f"a.zarr.*{problem}"):
        open_slide(edited(tmp_path / "a.zarr", change))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"attributes": 7}', '{"attributes": {"ome": {"multiscales": [{}, {}]}}}']
)
def test_document_that_is_no_image_is_a_clear_error(tmp_path: Path, text: str) -> None:
    path = ome_zarr(tmp_path / "a.zarr", [picture((64, 64))], "yx")
    (path / "zarr.json").write_text(text)
    with pytest.raises(SlideError, match=r"a.zarr"):
        open_slide(path)


@pytest.mark.parametrize(
    ("shape", "axes", "dtype", "problem"),
    [
        ((2, 64, 64), "zyx", "uint8", r"a.zarr holds 2 focal planes \(0 to 1\); choose with --z N"),
        ((4, 1, 64, 64), "tcyx", "uint8", r"a.zarr holds 4 time points \(0 to 3\); choose with --t N"),
        ((2, 64, 64), "qyx", "uint8", "has the axes q 2, y 64, x 64; wsipipe reads yx, yxc, cyx, with z and t before"),
        ((64, 64), "yx", "float32", "is float32; wsipipe reads uint8 and uint16"),
        ((64, 64), "yx", "int16", "is int16"),
    ],
)
def test_stacks_and_other_dtypes_are_refused(
    tmp_path: Path, shape: tuple[int, ...], axes: str, dtype: str, problem: str
) -> None:
    path = ome_zarr(tmp_path / "a.zarr", [np.ones(shape, dtype)], axes)
    with pytest.raises(SlideFormatError, match=problem):
        open_slide(path)


def test_axes_without_a_unit_give_no_mpp(tmp_path: Path) -> None:
    slide = open_slide(ome_zarr(tmp_path / "a.zarr", [picture((64, 64))], "yx", unit=None))
    assert (slide.mpp, slide.mpp_source) == (None, "axis y has no unit")
    other = open_slide(ome_zarr(tmp_path / "b.zarr", [picture((64, 64))], "yx", unit="millimeter"))
    assert other.mpp is None
    assert "coarser than any scanner" in other.warnings[0]


def test_image_of_a_collection_is_chosen_or_its_folder_given(tmp_path: Path) -> None:
    collection = tmp_path / "a.zarr"
    collection.mkdir()
    (collection / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {"ome": {}}}')
    ome_zarr(collection / "0", [picture((64, 64))], "yx")
    assert open_slide(collection) == replace(open_slide(collection / "0"), why="it is a Zarr folder")
    ome_zarr(collection / "1", [picture((64, 70))], "yx")
    with pytest.raises(PlaneError, match=r"a.zarr holds 2 images \(0 to 1\); choose with --series N"):
        open_slide(collection)
    slide = open_slide(collection, planes=Planes(series=1))
    assert (slide.name, slide.levels[0].shape) == ("a-1", (64, 70))


def test_identity_sees_pixels_that_changed_size_and_ignores_labels(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", [picture((150, 130))], "yx")
    before = open_slide(path).identity
    ome_zarr(path / "labels" / "mine", [picture((150, 130))], "yx")
    assert open_slide(path).identity == before
    chunk = path / "0" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes() + b"\0")
    assert open_slide(path).identity != before


@pytest.mark.parametrize("codec", ["blosc", "zstd"])
def test_truncated_shard_is_an_error_and_a_whole_one_reads_as_written(tmp_path: Path, codec: str) -> None:
    image = picture((256, 256))
    path = ome_zarr(tmp_path / "a.zarr", [image], "yx")
    shutil.rmtree(path / "0")
    compressor = zarr.codecs.BloscCodec() if codec == "blosc" else zarr.codecs.ZstdCodec()
    options = {"chunks": (64, 64), "shards": (128, 128), "compressors": compressor}
    zarr.create_array(path / "0", shape=image.shape, dtype=image.dtype, **options)[:] = image
    level = open_slide(path).levels[0]
    assert level.tile == (64, 64)
    np.testing.assert_array_equal(read_box(level, Box(0, 256, 0, 256))[..., 0], image)
    shard = path / "0" / "c" / "0" / "1"
    shard.write_bytes(shard.read_bytes()[:-30])
    for box in (Box(0, 128, 128, 256), Box(0, 10, 130, 140)):
        with pytest.raises(SlideReadError, match=r"a.zarr level 0 cannot be read"):
            read_box(level, box)


def test_pixels_of_another_slide_give_another_identity(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):  # as large, and uncompressed: only the pixels tell them apart
        path = ome_zarr(tmp_path / f"{name}.zarr", [picture((200, 200), seed=seed)], "yx")
        array = zarr.create_array(
            path / "0", shape=(200, 200), chunks=(64, 64), dtype="uint8", compressors=None, overwrite=True
        )
        array[:] = picture((200, 200), seed=seed)
    assert open_slide(tmp_path / "a.zarr").identity != open_slide(tmp_path / "b.zarr").identity


def test_chunks_without_a_file_are_warned_of_and_a_level_without_any_is_refused(tmp_path: Path) -> None:
    image = picture((200, 200))
    path = ome_zarr(tmp_path / "copied.zarr", [image, image[::2, ::2]], "yx")
    (path / "0" / "c" / "1" / "2").unlink()
    assert any("1 of 16 chunks of 0 have no file" in warning for warning in open_slide(path).warnings)
    for chunk in (path / "1" / "c").rglob("*"):
        if chunk.is_file():
            chunk.unlink()
    with pytest.raises(SlideReadError, match=r"copied\.zarr is half-written: 1 has no chunks"):
        open_slide(path)


def test_labels_are_no_slide(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "case.zarr", [picture((80, 80))], "yx")
    ome_zarr(tmp_path / "slide.zarr", [picture((80, 80))], "yx")
    group = zarr.open_group(path, mode="r+")
    group.attrs["ome"] = {**group.attrs["ome"], "image-label": {}}
    with pytest.raises(SlideFormatError, match="holds labels"):
        open_slide(path)
    assert [found.name for found in expand([str(tmp_path)])] == ["slide.zarr"]
