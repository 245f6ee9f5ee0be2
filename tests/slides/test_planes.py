from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.slides.made import ome_zarr, picture, pyramid
from tests.soak import in_soak, rounds
from wsipipe.arrays import Pixels
from wsipipe.errors import PlaneError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.planes import ALL, Planes, parse_channels, parse_reading
from wsipipe.slides.slide import Level

NAMES = ("DAPI", "CD3", "CD8")
STACK = np.stack(
    [
        np.stack([np.stack([picture((70, 90), seed=t * 100 + z * 10 + c) for c in range(3)]) for z in range(4)])
        for t in range(2)
    ]
)
"""(t, z, c, y, x), no two planes alike."""


def write_tiff(path: Path, axes: str) -> None:
    pixels = np.transpose(STACK, ["TZCYX".index(axis) for axis in axes])
    metadata = {"axes": axes, "Channel": {"Name": list(NAMES)}}
    tifffile.imwrite(path, pixels, metadata=metadata, photometric="minisblack", tile=(64, 64))


def write_zarr(path: Path, axes: str) -> None:
    pixels = np.transpose(STACK, ["TZCYX".index(axis) for axis in axes])
    ome_zarr(path, [pixels, pixels[..., ::2, ::2]], axes.lower(), channels=NAMES)


WRITE = {"a.ome.tif": write_tiff, "a.ome.zarr": write_zarr}


def whole(level: Level) -> Pixels:
    return read_box(level, Box(0, level.shape[0], 0, level.shape[1]))


@pytest.fixture(params=[(name, axes) for name in WRITE for axes in ("TZCYX", "TCZYX")], ids="-".join)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name, axes = request.param
    WRITE[name](tmp_path / name, axes)
    return tmp_path / name


@pytest.mark.parametrize("channels", [None, ("CD3", 0), *in_soak((2,), (2, 0), ("DAPI", "CD3", "CD8"))])
@pytest.mark.parametrize(("z", "t"), rounds((3, 1), (0, 0), (1, 0)))
def test_planes_that_are_chosen_are_those_that_were_written(
    path: Path, channels: tuple[int | str, ...] | None, z: int, t: int
) -> None:
    slide = open_slide(path, planes=Planes(channels, z, t))
    assert slide.channel_names == NAMES
    level = slide.levels[0]
    numbers = [NAMES.index(c) if isinstance(c, str) else c for c in channels or range(3)]
    assert level.channels == len(numbers)
    np.testing.assert_array_equal(whole(level), np.moveaxis(STACK[t, z, numbers], 0, -1))
    again = pickle.loads(pickle.dumps(level))
    np.testing.assert_array_equal(whole(again), whole(level))
    assert parse_reading(level.reading) == (None, level.planes)
    assert level.planes.indices == (None if numbers == [0, 1, 2] else numbers)


@pytest.mark.parametrize(
    ("planes", "said"),
    [
        (ALL, r"a.ome.\w+ holds 4 focal planes \(0 to 3\); choose with --z N"),
        (Planes(z=0), r"a.ome.\w+ holds 2 time points \(0 to 1\); choose with --t N"),
        (Planes(z=4, t=0), r"holds 4 focal planes \(0 to 3\); there is no --z 4"),
        (Planes(z=-1, t=0), r"there is no --z -1"),
        (Planes(z=0, t=2), r"holds 2 time points \(0 to 1\); there is no --t 2"),
        (Planes(z=0, t=0, series=1), r"holds one image; there is no --series 1"),
        (Planes(("CD4",), 0, 0), r"has the channels 0: DAPI, 1: CD3, 2: CD8; --channels CD4 is not one of them"),
        (Planes((3,), 0, 0), r"--channels 3 is not one of them"),
        (Planes((0, "DAPI"), 0, 0), r"--channels 0,DAPI names a channel twice"),
    ],
)
def test_planes_are_never_chosen_for_the_user(path: Path, planes: Planes, said: str) -> None:
    with pytest.raises(PlaneError, match=said):
        open_slide(path, planes=planes)


def test_two_channels_of_one_name_are_chosen_by_number(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "a.zarr", [STACK[0, 0]], "cyx", channels=("CD3", "CD3", "CD8"))
    with pytest.raises(PlaneError, match=r"--channels CD3 is the name of several"):
        open_slide(tmp_path / "a.zarr", planes=Planes(("CD3",)))
    level = open_slide(tmp_path / "a.zarr", planes=Planes((1,))).levels[0]
    np.testing.assert_array_equal(whole(level)[..., 0], STACK[0, 0, 1])


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tile", [(64, 64), None])
def test_channels_of_one_page_are_chosen(
    tmp_path: Path, planarconfig: str, compression: str | None, tile: tuple[int, int] | None
) -> None:
    image = picture((100, 90, 3))
    stored = image if planarconfig == "contig" else np.moveaxis(image, -1, 0)
    options: dict[str, Any] = {"planarconfig": planarconfig, "compression": compression, "tile": tile}
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", metadata=None, **options)
    level = open_slide(tmp_path / "a.tif", planes=Planes((2, 0))).levels[0]
    assert (level.channels, level.reading) == (2, "--channels 2,0")
    np.testing.assert_array_equal(whole(level), image[..., [2, 0]])


def test_channels_that_follow_one_another_pixel_by_pixel_are_channels(tmp_path: Path) -> None:
    image = picture((100, 90, 5))
    extra = {"extrasamples": ["unspecified"] * 4, "photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", image, metadata=None, tile=(64, 64), **extra)
    level = open_slide(tmp_path / "a.tif").levels[0]
    assert (level.axes, level.channels) == ("yxc", 5)
    np.testing.assert_array_equal(whole(level), image)
    np.testing.assert_array_equal(
        whole(open_slide(tmp_path / "a.tif", planes=Planes((4, 1))).levels[0]), image[..., [4, 1]]
    )


def test_pages_of_one_size_are_images_to_choose_from(tmp_path: Path) -> None:
    pages = [picture((64, 80), seed=i) for i in range(3)]
    tifffile.imwrite(tmp_path / "a.tif", np.stack(pages), photometric="minisblack", metadata=None)
    with pytest.raises(
        PlaneError, match=r"a.tif holds 3 images of 80 wide x 64 high \(0 to 2\); choose with --series N"
    ):
        open_slide(tmp_path / "a.tif")
    for number, page in enumerate(pages):
        level = open_slide(tmp_path / "a.tif", planes=Planes(series=number)).levels[0]
        assert level.reading == f"--series {number}"
        np.testing.assert_array_equal(whole(level)[..., 0], page)


def test_each_of_several_images_has_the_levels_that_follow_it(tmp_path: Path) -> None:
    images = [picture((256, 256), seed=i) for i in range(2)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for image in images:
            tiff.write(image, tile=(64, 64), metadata=None)
            tiff.write(image[::2, ::2], tile=(64, 64), metadata=None, subfiletype=1)
    for number, image in enumerate(images):
        slide = open_slide(tmp_path / "a.tif", planes=Planes(series=number))
        assert len(slide.levels) == 2
        for level, expected in zip(slide.levels, (image, image[::2, ::2]), strict=True):
            np.testing.assert_array_equal(whole(level)[..., 0], expected)


def test_images_of_an_ome_tiff_are_chosen_by_number(tmp_path: Path) -> None:
    images = [picture(shape) for shape in ((64, 80), (70, 66))]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        for i, image in enumerate(images):
            tiff.write(image, metadata={"Name": f"region {i}"})
    with pytest.raises(
        PlaneError,
        match=r"holds 2 images \(0: region 0 80 wide x 64 high, 1: region 1 66 wide x 70 high\); choose with --series",
    ):
        open_slide(tmp_path / "a.ome.tif")
    for number, image in enumerate(images):
        level = open_slide(tmp_path / "a.ome.tif", planes=Planes(series=number)).levels[0]
        np.testing.assert_array_equal(whole(level)[..., 0], image)


def test_stack_of_imagej_is_chosen_from_by_its_axes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "TZCYX"})
    with pytest.raises(PlaneError, match="choose with --z N"):
        open_slide(tmp_path / "a.tif")
    level = open_slide(tmp_path / "a.tif", planes=Planes((1,), 2, 1)).levels[0]
    np.testing.assert_array_equal(whole(level)[..., 0], STACK[1, 2, 1])


FIVE = np.stack([picture((70, 90), seed=i) for i in range(5)])
AS_CHANNELS = r"if they are channels, read them with --channels 0,1,2,3,4$"


def write_shaped(path: Path) -> None:
    tifffile.imwrite(path, FIVE, tile=(64, 64), compression="zlib")


def write_pages(path: Path) -> None:
    """Each plane is followed by its levels."""
    with tifffile.TiffWriter(path) as tiff:
        for plane in FIVE:
            tiff.write(plane, tile=(64, 64), metadata=None)
            tiff.write(plane[::2, ::2], tile=(64, 64), metadata=None, subfiletype=1)


def write_levels(path: Path) -> None:
    """Each level has all planes."""
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 2):
            for plane in FIVE:
                tiff.write(plane[::step, ::step], tile=(64, 64), metadata=None, subfiletype=step - 1)


def write_imagej(path: Path) -> None:
    tifffile.imwrite(path, FIVE, description="ImageJ=1.54f\nimages=5\n", metadata=None)


@pytest.mark.parametrize("write", [write_shaped, write_pages, write_levels, write_imagej])
def test_planes_that_the_file_does_not_name_are_channels_if_channels_are_chosen(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.tif"
    write(path)
    with pytest.raises(PlaneError, match=AS_CHANNELS):
        open_slide(path)
    for channels in ((0, 1, 2, 3, 4), (3, 0)):
        slide = open_slide(path, planes=Planes(channels))
        assert (slide.levels[0].axes, slide.levels[0].reading) == ("cyx", f"--channels {','.join(map(str, channels))}")
        assert len(slide.levels) == (2 if write in (write_pages, write_levels) else 1)
        for level in slide.levels:
            step = 2**level.index
            expected = np.moveaxis(FIVE[list(channels), ::step, ::step], 0, -1)
            np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(level))), expected)
    with pytest.raises(PlaneError, match="has the channels 0 to 4; --channels 5 is not one of them"):
        open_slide(path, planes=Planes((5,)))


def test_focal_planes_that_the_file_names_are_never_channels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", FIVE, metadata={"axes": "ZYX"}, tile=(64, 64))
    with pytest.raises(PlaneError, match=r"holds 5 focal planes \(0 to 4\); choose with --z N$"):
        open_slide(tmp_path / "a.tif", planes=Planes((0,)))


@pytest.mark.parametrize("imagej", [False, True])
def test_channels_that_the_file_names_need_no_option(tmp_path: Path, imagej: bool) -> None:
    path = tmp_path / ("a.tif" if imagej else "a.ome.tif")
    tifffile.imwrite(path, FIVE, imagej=imagej, metadata={"axes": "CYX"})
    np.testing.assert_array_equal(whole(open_slide(path).levels[0]), np.moveaxis(FIVE, 0, -1))


@pytest.mark.parametrize(("photometric", "colours"), [("rgb", 3), ("minisblack", 1)])
def test_five_bands_as_vips_writes_them_are_channels(tmp_path: Path, photometric: str, colours: int) -> None:
    image = np.ascontiguousarray(np.moveaxis(FIVE, 0, -1))
    extra = ["unassalpha"] + ["unspecified"] * (4 - colours)
    options: dict[str, Any] = {"photometric": photometric, "planarconfig": "contig", "extrasamples": extra}
    tifffile.imwrite(tmp_path / "a.tif", image, metadata=None, tile=(64, 64), compression="zlib", **options)
    level = open_slide(tmp_path / "a.tif").levels[0]
    assert (level.axes, level.channels) == ("yxc", 5)
    np.testing.assert_array_equal(whole(level), image)
    chosen = open_slide(tmp_path / "a.tif", planes=Planes((4, 1))).levels[0]
    np.testing.assert_array_equal(whole(chosen), image[..., [4, 1]])


def test_channels_of_a_qptiff_have_the_names_of_its_pages(tmp_path: Path) -> None:
    names = ("DAPI", "Opal 520", "Opal 690")
    xml = (
        '<?xml version="1.0" encoding="utf-16"?><PerkinElmer-QPI-ImageDescription>{}</PerkinElmer-QPI-ImageDescription>'
    )
    with tifffile.TiffWriter(tmp_path / "a.qptiff") as tiff:
        for name, plane in zip(names, FIVE, strict=False):
            tags = f"<ImageType>FullResolution</ImageType><Name>{name}</Name>"
            options: dict[str, Any] = {"description": xml.format(tags), "software": "PerkinElmer-QPI", "metadata": None}
            tiff.write(plane, tile=(64, 64), **options)
    slide = open_slide(tmp_path / "a.qptiff", planes=Planes(("Opal 690", "DAPI")))
    assert slide.channel_names == names
    np.testing.assert_array_equal(whole(slide.levels[0]), np.moveaxis(FIVE[[2, 0]], 0, -1))


def test_option_for_a_choice_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    pyramid(tmp_path / "a.tif", picture((200, 300, 3)))
    assert open_slide(tmp_path / "a.tif", planes=Planes(z=0, t=0, series=0)).levels[0].planes == ALL
    with pytest.raises(PlaneError, match=r"a.tif holds one focal plane; there is no --z 1"):
        open_slide(tmp_path / "a.tif", planes=Planes(z=1))


@pytest.mark.parametrize("text", ["", "0,", "0,0", "DAPI,,CD3"])
def test_channels_that_are_no_list_are_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--channels"):
        parse_channels(text)


def test_channels_are_numbers_or_names() -> None:
    assert parse_channels("0,2") == (0, 2)
    assert parse_channels("DAPI, CD3") == ("DAPI", "CD3")


@pytest.mark.parametrize(
    ("reader", "planes"),
    [
        (None, ALL),
        ("openslide", ALL),
        (None, Planes((2, 0), 3, 1, 5)),
        ("dicom", Planes(z=1)),
        (None, Planes(series=0)),
    ],
)
def test_what_a_store_says_of_planes_is_read_back(reader: str | None, planes: Planes) -> None:
    text = " ".join(filter(None, [f"--reader {reader}" * (reader is not None), str(planes)]))
    assert parse_reading(text) == (reader, planes)


def test_number_of_a_channel_has_few_digits() -> None:
    assert parse_channels("12," + "9" * 5000) == (12, "9" * 5000)
