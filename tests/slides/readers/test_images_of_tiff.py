"""Which images of a file, and which files, are the slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.real_data import case, needs_cases
from tests.slides.made import APERIO, picture, scn
from wsipipe.errors import PlaneError, SlideFormatError
from wsipipe.slides.compare import compare_readers
from wsipipe.slides.discover import expand, is_whole
from wsipipe.slides.open import describe, open_slide
from wsipipe.slides.planes import Planes

SCHEMA = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
IMAGE = (
    '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="64" SizeY="64" '
    'SizeZ="{z}" SizeC="1" SizeT="1">{planes}</Pixels></Image>'
)


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
        assert (str(slide.levels[0].planes), slide.associated) == (f"--z {z}", ("thumbnail 64 wide x 64 high",))
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


def test_file_of_several_is_refused_with_the_names_of_the_others(tmp_path: Path) -> None:
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="z{z}.ome.tif">urn:uuid:{z}</UUID></TiffData>'
        for z in range(2)
    )
    image = IMAGE.format(z=2, planes=planes)
    documents = {
        "whole.ome.tif": f'<OME {SCHEMA} UUID="urn:uuid:0">{image}</OME>',
        "z1.ome.tif": f"<OME {SCHEMA}>{image}</OME>",
        "binary.ome.tif": f'<OME {SCHEMA}><BinaryOnly MetadataFile="all.companion.ome" UUID="urn:uuid:7"/></OME>',
    }
    others = {"whole.ome.tif": "z1.ome.tif", "z1.ome.tif": "z0.ome.tif", "binary.ome.tif": "all.companion.ome"}
    for name, document in documents.items():
        tifffile.imwrite(tmp_path / name, np.ones((64, 64), np.uint8), description=document, metadata=None)
        with pytest.raises(
            SlideFormatError, match=rf"{name} is one of several files of an OME-TIFF \(see {others[name]}\)"
        ):
            open_slide(tmp_path / name)


@pytest.mark.parametrize("uuid", ["", ' UUID="urn:uuid:0"'])
def test_ome_tiff_in_one_file_is_read_also_if_it_was_renamed(tmp_path: Path, uuid: str) -> None:
    planes = '<TiffData IFD="0"><UUID FileName="before.ome.tif">urn:uuid:0</UUID></TiffData>'
    document = f"<OME {SCHEMA}{uuid}>{IMAGE.format(z=1, planes=planes)}</OME>"
    path = tmp_path / "after.ome.tif"
    tifffile.imwrite(path, np.ones((64, 64), np.uint8), description=document, metadata=None)
    assert open_slide(path).levels[0].shape == (64, 64)


@needs_cases
def test_files_of_a_real_ome_tiff_over_several_are_refused() -> None:
    for path in sorted(case("ome-several-files").glob("*.tiff")):
        with pytest.raises(
            SlideFormatError, match=r"one of several files of an OME-TIFF \(see multifile.companion.ome\)"
        ):
            open_slide(path)


@pytest.mark.parametrize("name", ["case.vsi", "renamed.tif"])
def test_overview_of_an_olympus_slide_is_never_the_slide(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    tifffile.imwrite(path, np.ones((64, 64, 3), np.uint8), photometric="rgb")
    if name == "renamed.tif":
        assert open_slide(path).levels[0].shape == (64, 64)
        (tmp_path / "_renamed_" / "stack1").mkdir(parents=True)
        (tmp_path / "_renamed_" / "stack1" / "frame_t.ets").touch()
    for reader in (None, "tiff"):
        with pytest.raises(
            SlideFormatError, match=rf"{name} is an Olympus VSI, .* \.ets files of the folder _{path.stem}_"
        ):
            open_slide(path, reader=reader)


@needs_cases
def test_real_vsi_is_refused() -> None:
    with pytest.raises(SlideFormatError, match=r"Image_01\.vsi is an Olympus VSI"):
        open_slide(case("vsi/Image_01.vsi"))


def test_regions_of_an_scn_are_slides_of_their_own_whatever_their_sizes(tmp_path: Path) -> None:
    regions = scn(tmp_path / "a.scn")
    for given in (tmp_path, tmp_path / "a.scn", f"{tmp_path}/*.scn"):
        paths = expand([given])
        assert [path.name for path in paths] == ["a.scn#0", "a.scn#1"]
    for number, (path, region) in enumerate(zip(paths, regions, strict=True)):
        slide = open_slide(path)
        assert (slide.name, slide.path, slide.mpp) == (f"a-series{number}", str(path), pytest.approx(0.5))
        assert (describe(slide)["bytes"], slide.levels[0].reading) == (
            (tmp_path / "a.scn").stat().st_size,
            f"--series {number}",
        )
        for level, step in zip(slide.levels, (1, 2), strict=True):
            np.testing.assert_array_equal(level.array[:], region[::step, ::step])


def test_region_is_chosen_by_number_and_the_macro_is_none(tmp_path: Path) -> None:
    scn(tmp_path / "a.scn")
    listed = r"2 images \(0: main0 192 wide x 192 high, 1: main1 96 wide x 96 high\)"
    with pytest.raises(PlaneError, match=rf"a.scn holds {listed}; choose with --series N, or name .*: a.scn#0 a.scn#1"):
        open_slide(tmp_path / "a.scn")
    assert expand([tmp_path / "a.scn"], lambda _: True) == [tmp_path / "a.scn"]
    assert open_slide(tmp_path / "a.scn", planes=Planes(series=1)).levels[0].shape == (96, 96)
    assert open_slide(tmp_path / "a.scn#1", planes=Planes(series=1)).levels[0].shape == (96, 96)
    for path, number in (("a.scn", 2), ("a.scn#2", None), ("a.scn#1", 0)):
        with pytest.raises(PlaneError, match=r"no --series 2|--series 0 is another"):
            open_slide(tmp_path / path, planes=Planes(series=number))


def test_scn_of_one_region_is_one_slide_and_a_damaged_one_is_kept(tmp_path: Path) -> None:
    scn(tmp_path / "one.scn", [128])
    (tmp_path / "bad.scn").write_bytes(b"II*\0 and then nothing")
    (tmp_path / "empty.scn").touch()
    assert [path.name for path in expand([tmp_path])] == ["bad.scn", "empty.scn", "one.scn"]
    assert open_slide(tmp_path / "one.scn").name == "one"


def test_image_of_any_file_has_a_name_and_a_file_of_that_name_is_itself(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for seed in (0, 1):
            tiff.write(picture((96, 64 + seed), seed=seed), metadata=None)
    assert open_slide(tmp_path / "a.tif#1").levels[0].shape == (96, 65)
    tifffile.imwrite(tmp_path / "a.tif#1", picture((32, 32)))
    assert (open_slide(tmp_path / "a.tif#1").levels[0].shape, expand([tmp_path])) == ((32, 32), [tmp_path / "a.tif"])


def test_regions_are_left_to_a_reader_that_shows_all_in_one(tmp_path: Path) -> None:
    scn(tmp_path / "a.scn")
    whole = [
        is_whole(reader, planes) for reader, planes in ((None, Planes()), ("tiff", Planes()), ("openslide", Planes()))
    ]
    assert whole == [False, False, True]
    assert is_whole(None, Planes(series=0))
    assert any("tiff" in line for line in compare_readers(tmp_path / "a.scn#0"))


@needs_cases
def test_regions_of_a_scanner() -> None:
    slides = [open_slide(path) for path in expand([case("scn-two-regions.scn")])]
    assert [slide.levels[0].shape for slide in slides] == [(600, 600), (400, 400)]
    assert {slide.mpp for slide in slides} == {0.5}


def test_level_of_an_ome_tiff_with_sides_in_another_ratio_is_left_out(tmp_path: Path) -> None:
    image = picture((256, 256, 3))
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb"}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        tiff.write(image, subifds=2, metadata={"axes": "YXS"}, **options)
        tiff.write(image[::2, ::4], subfiletype=1, **options)
        tiff.write(image[::4, ::4], subfiletype=1, **options)
    slide = open_slide(tmp_path / "a.ome.tif")
    assert [level.shape for level in slide.levels] == [(256, 256), (64, 64)]
    assert slide.warnings == (
        "level of 64 wide x 128 high is left out: its sides are not in the ratio of the finest level's",
    )
