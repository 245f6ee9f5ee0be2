from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.real_data import case, needs_cases
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


@pytest.mark.parametrize(
    ("unit", "size", "mpp"),
    [
        ("angstrom", 5000, 0.5),
        ("nanometer", 500, 0.5),
        ("yard", 1e-6, 0.9144),
        ("Mm", 5e-13, 0.5),
        ("Micrometer", 2, 2),
    ],
)
def test_unit_may_be_any_length_of_the_specification(tmp_path: Path, unit: str, size: float, mpp: float) -> None:
    axes = [{"name": name, "type": "space", "unit": unit} for name in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [size, size]}]}]
    slide = open_slide(edited(tmp_path / "a.zarr", {"axes": axes, "datasets": datasets}))
    assert (slide.mpp, slide.warnings) == (pytest.approx(mpp), ())


def with_attributes(path: Path, change: dict[str, Any], version: str = "0.5") -> Path:
    """An image of ``version`` with its attributes changed."""
    ome_zarr(path, [picture((64, 64, 2))], "yxc", version)
    group = zarr.open_group(path)
    group.attrs.update({"ome": group.attrs["ome"] | change} if version == "0.5" else change)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_omero_may_be_null_or_have_labels_that_are_numbers_or_null(tmp_path: Path, version: str) -> None:
    named: dict[str, tuple[Any, tuple[str, ...]]] = {
        "null": (None, ()),
        "empty": ({}, ()),
        "channels": ({"channels": None}, ()),
        "numbers": ({"channels": [{"label": 0}, {"label": 1}]}, ("0", "1")),
        "labels": ({"channels": [{"label": "DAPI"}, {"label": None}]}, ()),
    }
    for name, (omero, names) in named.items():
        slide = open_slide(with_attributes(tmp_path / f"{name}.zarr", {"omero": omero}, version))
        assert (slide.channel_names, slide.levels[0].channels, slide.mpp) == (names, 2, 0.5)


def spatialdata(path: Path, version: str, dtype: str = "uint8") -> Path:
    """An image as SpatialData writes it: no units, and a transformation for each coordinate system that it names."""
    image = np.moveaxis(picture((12, 12, 3)), -1, 0).astype(dtype)
    ome_zarr(path, [image], "cyx", version[:3], unit=None, channels=("0", "1", "2"))
    group = zarr.open_group(path)
    attributes: dict[str, Any] = group.attrs.asdict()
    holder = attributes.get("ome", attributes)
    system = [{"name": axis, "type": "space", "unit": "unit"} for axis in "yx"]
    transforms: list[dict[str, Any]] = [
        {"type": "scale", "scale": [1, factor, factor], "input": {"axes": system}, "output": {"name": name}}
        for name, factor in (("global", 7), ("microns", 0.5))
    ]
    holder["multiscales"][0]["coordinateTransformations"] = transforms
    (holder if version.startswith("0.5") else holder["multiscales"][0])["version"] = version
    group.attrs.update(attributes)
    return path


@pytest.mark.parametrize("version", ["0.4-dev-spatialdata", "0.5-dev-spatialdata"])
def test_image_of_spatialdata_is_read_and_its_systems_are_no_resolution(tmp_path: Path, version: str) -> None:
    path = spatialdata(tmp_path / "a.zarr", version)
    slide = open_slide(path)
    assert (slide.levels[0].axes, slide.levels[0].channels, slide.levels[0].dtype) == ("cyx", 3, "uint8")
    assert (slide.mpp, slide.mpp_source, slide.channel_names) == (None, "axis y has no unit", ("0", "1", "2"))
    np.testing.assert_array_equal(read_box(slide.levels[0], Box(0, 12, 0, 12)), picture((12, 12, 3)))
    group = zarr.open_group(path)
    attributes: dict[str, Any] = group.attrs.asdict()
    for axis in attributes.get("ome", attributes)["multiscales"][0]["axes"][1:]:
        axis["unit"] = "micrometer"
    group.attrs.update(attributes)
    assert open_slide(path).mpp == 0.5  # the scale of the dataset, not of a system


@pytest.mark.parametrize(("version", "number"), [("0.4-dev-spatialdata", 2), ("0.5-dev-spatialdata", 3)])
def test_images_of_a_spatialdata_store_are_its_images(tmp_path: Path, version: str, number: Any) -> None:
    store = zarr.create_group(tmp_path / "a.zarr", zarr_format=number, attributes={"spatialdata_attrs": {}})
    for name in ("images", "labels", "tables"):
        store.create_group(name)
    spatialdata(tmp_path / "a.zarr" / "images" / "he", version)
    spatialdata(tmp_path / "a.zarr" / "labels" / "cells", version)
    assert expand([tmp_path]) == [tmp_path / "a.zarr"]
    assert open_slide(tmp_path / "a.zarr").name == "a-he"
    spatialdata(tmp_path / "a.zarr" / "images" / "dapi", version)
    with pytest.raises(PlaneError, match=r"a.zarr holds 2 images \(0: images/dapi, 1: images/he\); choose with --s"):
        open_slide(tmp_path / "a.zarr")
    assert open_slide(tmp_path / "a.zarr", planes=Planes(series=1)).name == "a-he"
    assert open_slide(tmp_path / "a.zarr" / "images" / "dapi").name == "a-dapi"
    with pytest.raises(PlaneError, match=r"images holds 2 images \(0: dapi, 1: he\)"):
        open_slide(tmp_path / "a.zarr" / "images")
    assert expand([f"{tmp_path}/a.zarr/images/*"])[1] == tmp_path / "a.zarr" / "images" / "he"


@needs_cases
def test_case_of_spatialdata_is_refused_for_its_type_alone() -> None:
    with pytest.raises(
        SlideFormatError, match=r"^spatialdata-v04.ome.zarr: array 0 is float64; wsipipe reads uint8 an"
    ):
        open_slide(case("spatialdata-v04.ome.zarr"))


@needs_cases
def test_case_of_bioformats2raw_has_its_named_images() -> None:
    path = case("bf2raw-series-names.zarr")
    with pytest.raises(PlaneError, match=r"holds 2 images \(0: wsi, 1: macro\); choose with --series N"):
        open_slide(path)
    found = [open_slide(path, planes=Planes(series=number)) for number in (0, 1)]
    assert [slide.name for slide in found] == ["bf2raw-series-names-wsi", "bf2raw-series-names-macro"]
    assert (found[0].levels[0].shape, found[0].mpp) == ((128, 128), 0.499)
    assert open_slide(f"{path}#0").levels[0].shape == (128, 128)


def collection(path: Path, names: list[str], version: str = "0.5", series: Any = None) -> Path:
    """Images of 64 px and more, as bioformats2raw writes them; their list, unless it is None, says ``series``."""
    number: Any = 3 if version == "0.5" else 2
    layout = {"bioformats2raw.layout": 3}
    group = zarr.create_group(path, zarr_format=number, attributes={"ome": layout} if number == 3 else layout)
    if series is not None:
        group.create_group("OME", attributes={"ome": {"series": series}} if number == 3 else {"series": series})
    for index, name in enumerate(names):
        ome_zarr(path / name, [picture((64, 64 + index))], "yx", version)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_list_of_series_has_the_order_and_the_names(tmp_path: Path, version: str) -> None:
    path = collection(tmp_path / "a.zarr", ["macro", "0", "deep/wsi"], version, ["deep/wsi", "macro"])
    slide = open_slide(path, planes=Planes(series=0))
    assert (slide.name, slide.levels[0].shape) == ("a-deep-wsi", (64, 66))
    assert open_slide(f"{path}#1").levels[0].shape == (64, 64)
    with pytest.raises(PlaneError, match=r"0: deep/wsi, 1: macro"):
        open_slide(path)


@pytest.mark.parametrize(
    ("series", "problem"),
    [
        (["../b.zarr", "0"], "series '../b.zarr' is outside its folder"),
        (["/etc"], "series '/etc' is outside"),
        (["0", "1"], "half-written: its series '1' is missing"),
        ("0", "is not a list of folders"),
        ([0, 1], "is not a list of folders"),
    ],
)
def test_list_of_series_that_is_wrong_is_a_clear_error(tmp_path: Path, series: Any, problem: str) -> None:
    ome_zarr(tmp_path / "b.zarr", [picture((64, 64))], "yx")
    with pytest.raises(SlideError, match=f"^a.zarr.*{problem}"):
        open_slide(collection(tmp_path / "a.zarr", ["0"], series=series))


def test_image_of_a_collection_is_chosen_or_its_folder_given(tmp_path: Path) -> None:
    path = collection(tmp_path / "a.zarr", ["0"])
    assert open_slide(path) == replace(open_slide(path / "0"), why="it is a Zarr folder")
    ome_zarr(path / "1", [picture((64, 70))], "yx")
    with pytest.raises(PlaneError, match=r"a.zarr holds 2 images \(0 to 1\); choose with --series N"):
        open_slide(path)
    slide = open_slide(path, planes=Planes(series=1))
    assert (slide.name, slide.levels[0].shape) == ("a-1", (64, 70))


def test_collection_without_an_image_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(SlideFormatError, match=r"with no multiscales; wsipipe reads one; give the folder of one image"):
        open_slide(collection(tmp_path / "a.zarr", [], series=[]))


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


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_level_that_does_not_show_what_the_finest_shows_is_left_out(tmp_path: Path, version: str) -> None:
    image = np.stack([picture((200, 200), seed=seed) for seed in range(4)])
    halved = ome_zarr(tmp_path / "z.zarr", [image, image[::2, ::2, ::2], image[:, ::4, ::4]], "zyx", version)
    narrow = ome_zarr(tmp_path / "n.zarr", [image[0], image[0, ::2, ::4], image[0, ::4, ::4]], "yx", version)
    lost = ome_zarr(tmp_path / "l.zarr", [image[0], image[0, ::2, ::2], image[0, ::4, ::4]], "yx", version)
    next(file for file in (lost / "1").rglob("*1") if file.is_file()).unlink()
    for path, planes, why in (
        (halved, Planes(z=1), "level 1 is left out: it has z 2, and the finest another number"),
        (narrow, Planes(), "level 1 is left out: its sides are not in the ratio of the finest level's"),
        (lost, Planes(), "level 1 is left out: some of its chunks have no file, finer ones have"),
    ):
        slide = open_slide(path, planes=planes)
        assert [(level.index, level.shape, level.mpp) for level in slide.levels] == [
            (0, (200, 200), 0.5),
            (1, (50, 50), 2.0),
        ]
        assert why in slide.warnings
        coarse = read_box(slide.levels[1], Box(0, 50, 0, 50))[..., 0]
        np.testing.assert_array_equal(coarse, image[planes.z or 0, ::4, ::4])


def test_level_without_chunks_where_the_finer_has_none_either_is_used(tmp_path: Path) -> None:
    image = picture((256, 256))
    path = ome_zarr(tmp_path / "a.zarr", [image, image[::2, ::2]], "yx")
    for file in ("0/c/0/0", "0/c/0/1", "0/c/1/0", "0/c/1/1", "1/c/0/0"):
        (path / file).unlink()
    assert len(open_slide(path).levels) == 2
