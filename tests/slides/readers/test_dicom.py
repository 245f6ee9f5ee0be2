from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.real_data import case, data, needs_cases, needs_data
from tests.slides.made import patch
from wsipipe.arrays import Pixels
from wsipipe.errors import SlideError, SlideFormatError, SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.nightly.failures import size_and_change
from wsipipe.slides.discover import expand
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.readers.dicom_series import instance_of, series_in
from wsipipe.slides.slide import Level

pytestmark = [
    needs_data,
    pytest.mark.skipif(find_spec("wsidicom") is None, reason="no wsidicom; pip install '.[dicom]'"),
]
FINEST = "level-0-frames-0-30.dcm"


def whole(level: Level) -> Pixels:
    return read_box(level, Box(0, level.shape[0], 0, level.shape[1]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a series of 12 levels."""
    shutil.copytree(data("dicom/cmu-small-wsi2dcm"), tmp_path / "case-17")
    return tmp_path / "case-17"


def test_series_is_a_slide_of_all_its_levels(folder: Path) -> None:
    slide = open_slide(folder)
    assert (slide.reader, slide.name, slide.mpp, slide.mpp_source) == ("dicom", "case-17", 0.499, "PixelSpacing")
    assert len(slide.levels) == 12
    assert slide.levels[0].shape == (2967, 2220)
    assert slide.levels[11].shape == (1, 1)
    assert slide.warnings == (
        "PhotometricInterpretation RGB contradicts the JFIF marker of its JPEG: tiles are read as YCbCr",
    )


def test_any_file_of_the_series_stands_for_it(folder: Path) -> None:
    one, other = open_slide(folder), open_slide(folder / "level-3-frames-0-1.dcm")
    assert [level.shape for level in one.levels] == [level.shape for level in other.levels]
    assert one.identity == other.identity


def test_every_level_equals_what_openslide_decodes_once_the_header_is_right(folder: Path) -> None:
    pytest.importorskip("openslide")
    pydicom = pytest.importorskip("pydicom")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PhotometricInterpretation = "YBR_FULL_422"
        dataset.save_as(path)
    one, other = open_slide(folder), open_slide(folder / FINEST, reader="openslide")
    assert one.warnings == ()
    for mine, theirs in zip(one.levels, other.levels, strict=True):
        box = Box(0, min(mine.shape[0], 900), 0, min(mine.shape[1], 900))
        assert np.abs(read_box(mine, box).astype(int) - read_box(theirs, box)).max() <= 1


def test_folder_of_a_series_is_one_slide_and_so_are_its_files_among_others(folder: Path) -> None:
    assert expand([folder]) == [folder]
    assert expand([folder.parent]) == [folder]
    shutil.copy(data("slides/small.svs"), folder / "small.svs")
    assert [path.name for path in expand([folder])] == [FINEST, "small.svs"]


def test_two_series_in_a_folder_are_two_slides_and_one_is_to_be_chosen(folder: Path) -> None:
    (uid,) = series_in(folder)
    other = folder / "other.dcm"
    other.write_bytes((folder / FINEST).read_bytes().replace(uid.encode(), uid[:-1].encode() + b"9"))
    assert [path.name for path in expand([folder])] == [FINEST, "other.dcm"]
    with pytest.raises(
        SlideError, match=rf"case-17 holds 2 images \(0: {FINEST}, 1: other.dcm\); choose with --series N"
    ):
        open_slide(folder)
    assert len(open_slide(other).levels) == 1


def test_damaged_frame_is_an_error_and_not_grey(folder: Path) -> None:
    path = folder / FINEST
    content = path.read_bytes()
    first = content.index(b"\xff\xd8\xff", 1000)
    patch(path, content.index(b"\xff\xd9", first), b"\0\0")
    level = open_slide(folder).levels[0]
    with pytest.raises(
        SlideReadError, match=r"case-17 level 0 .* frame of tile 0, 0 is damaged: the JPEG data do not end"
    ):
        read_box(level, Box(0, 10, 0, 10))
    assert read_box(level, Box(600, 700, 600, 700)).any()


def test_truncated_file_of_a_series_is_an_error(folder: Path) -> None:
    path = folder / "level-1-frames-0-9.dcm"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SlideError, match="case-17"):
        whole(open_slide(folder).levels[1])


def test_series_that_lost_a_file_is_not_what_it_was(folder: Path) -> None:
    slide = open_slide(folder)
    (folder / "level-2-frames-0-4.dcm").unlink()
    with pytest.raises(SlideReadError, match="case-17 has changed since it was opened"):
        _ = slide.levels[0].array


def test_without_wsidicom_the_error_says_how_to_get_it(folder: Path) -> None:
    code = (
        "import sys; sys.modules['wsidicom'] = sys.modules['openslide'] = None;"
        "from wsipipe.slides.open import open_slide; open_slide(sys.argv[1])"
    )
    said = subprocess.run([sys.executable, "-c", code, str(folder)], check=False, capture_output=True, text=True).stderr
    assert said.splitlines()[-1].endswith(
        "is DICOM and needs wsidicom, which is not installed; pip install 'wsipipe[dicom]'"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_file_that_may_not_be_read_hides_no_other(folder: Path) -> None:
    (folder / "secret").write_bytes(b"?")
    (folder / "secret").chmod(0)
    assert expand([folder]) == [folder]


def test_link_to_nowhere_hides_no_slide(folder: Path) -> None:
    (folder / "gone.dcm").symlink_to("nowhere.dcm")
    (folder.parent / "gone").symlink_to("nowhere")
    assert expand([folder.parent]) == [folder]


def test_beginning_of_a_file_says_what_pydicom_reads_in_it() -> None:
    pydicom = pytest.importorskip("pydicom")
    for path in sorted(data("dicom/cmu-small-wsi2dcm").iterdir()):
        found, expected = instance_of(path), pydicom.dcmread(path, stop_before_pixels=True)
        assert found is not None
        assert (found.sop_class, found.uid, found.series) == (
            expected.SOPClassUID,
            expected.SOPInstanceUID,
            expected.SeriesInstanceUID,
        )
        assert found.image_type == tuple(expected.ImageType)


def test_files_of_a_series_are_one_slide_and_another_name_of_its_folder_is_the_same(folder: Path) -> None:
    assert expand([f"{folder}/*.dcm"]) == [folder / FINEST]
    assert expand(sorted(folder.iterdir())) == [folder / FINEST]
    assert expand([folder, f"{folder}/*.dcm", folder / FINEST]) == [folder]


@needs_cases
def test_files_of_one_slide_by_a_pattern_are_one_slide() -> None:
    (path,) = expand([f"{case('dcm-glob')}/*.dcm"])
    assert [level.shape for level in open_slide(path).levels] == [(370, 277), (185, 138), (92, 69)]


@needs_cases
def test_files_that_are_tiff_as_well_are_the_levels_of_their_series() -> None:
    for given in (case("dcm-dual-personality"), f"{case('dcm-dual-personality')}/*.dcm"):
        slides = [open_slide(path) for path in expand([given])]
        assert [slide.name for slide in slides] == ["a0", "b0"]
        for slide in slides:
            assert (slide.reader, [level.shape for level in slide.levels]) == (
                "dicom",
                [(370, 277), (185, 138), (92, 69)],
            )


def test_file_that_is_tiff_as_well_is_never_read_as_tiff(folder: Path) -> None:
    (folder / FINEST).write_bytes(b"II*\0" + (folder / FINEST).read_bytes()[4:])
    assert len(open_slide(folder / FINEST).levels) == 12
    with pytest.raises(SlideFormatError, match="reader tiff does not recognise it"):
        open_slide(folder / FINEST, reader="tiff")


@needs_cases
def test_annotation_beside_a_slide_is_not_a_slide(tmp_path: Path) -> None:
    shutil.copytree(case("dcm-slide-with-annotation"), tmp_path / "case-17")
    folder, image, annotation = tmp_path / "case-17", *(f"sm_{name}.dcm" for name in ("image", "annotations"))
    assert expand([folder]) == [folder]
    assert expand([f"{folder}/*.dcm"]) == [folder / image]
    assert expand([folder, folder / annotation]) == [folder]
    assert [level.shape for level in open_slide(folder).levels] == [(50, 50)]
    assert expand([folder / annotation]) == [folder / annotation]
    with pytest.raises(
        SlideFormatError,
        match=r"annotations.dcm is DICOM, but not a slide \(Microscopy Bulk Simple Annotations Storage\)",
    ):
        open_slide(folder / annotation)


def test_label_in_a_series_of_its_own_is_not_a_slide(folder: Path) -> None:
    (uid,) = series_in(folder)
    content = (folder / "level-11-frames-0-1.dcm").read_bytes()
    label = folder / "a-label.dcm"
    label.write_bytes(content.replace(b"VOLUME", b"LABEL ").replace(uid.encode(), uid[:-1].encode() + b"9"))
    assert expand([folder]) == [folder]
    assert expand([f"{folder}/*.dcm"]) == [folder / FINEST]
    with pytest.raises(SlideFormatError, match=r"a-label.dcm is DICOM, but not a slide \(LABEL\)"):
        open_slide(label)


def test_instance_twice_is_an_error_that_names_both_files(folder: Path) -> None:
    shutil.copy(folder / FINEST, folder / "copy (1).dcm")
    with pytest.raises(
        SlideReadError, match=rf"case-17: copy \(1\).dcm and {FINEST} are the same DICOM instance; remove one"
    ):
        open_slide(folder)


def test_series_changes_for_a_night_as_long_as_any_of_its_files_does(folder: Path) -> None:
    before = size_and_change(folder / FINEST)
    os.utime(folder / "level-3-frames-0-1.dcm", ns=(0, 2**62))
    assert size_and_change(folder / FINEST) != before


def with_header(path: Path, source: Path, **elements: object) -> Path:
    """Write a copy of a DICOM file that is another instance, with other elements in its header."""
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dcmread(source)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{dataset.SOPInstanceUID}.1"
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def test_level_of_which_one_frame_is_left_is_half_written(folder: Path, tmp_path: Path) -> None:
    with_header(tmp_path / "a.dcm", folder / "level-3-frames-0-1.dcm", TotalPixelMatrixColumns=2 * 277)
    with pytest.raises(SlideReadError, match=r"a.dcm is half-written: its single tile is 554 wide x 370 high; copy it"):
        open_slide(tmp_path / "a.dcm")


def test_level_with_two_images_of_one_plane_is_an_error_that_names_both(folder: Path) -> None:
    with_header(folder / "b.dcm", folder / "level-3-frames-0-1.dcm")
    with pytest.raises(
        SlideReadError,
        match=r"case-17: b.dcm and level-3-frames-0-1.dcm both show all of one plane of 277 wide x 370 high",
    ):
        open_slide(folder)


def test_level_of_another_shape_is_not_one_of_the_slide(folder: Path) -> None:
    sides = {"Rows": 277, "Columns": 370, "TotalPixelMatrixRows": 277, "TotalPixelMatrixColumns": 370}
    with_header(folder / "level-3-frames-0-1.dcm", folder / "level-3-frames-0-1.dcm", **sides)
    with pytest.raises(
        SlideFormatError, match=r"370 wide x 277 high is not a level of 2220 wide x 2967 high, .*folder of its own"
    ):
        open_slide(folder)


def test_pyramids_of_one_series_are_not_mixed(folder: Path) -> None:
    with_header(folder / "level-3-frames-0-1.dcm", folder / "level-3-frames-0-1.dcm", PyramidUID="1.2.3")
    with pytest.raises(SlideFormatError, match=r"case-17: its series holds 2 pyramids \(PyramidUID\)"):
        open_slide(folder)


@pytest.mark.parametrize(
    ("name", "value"), [("PhotometricInterpretation", "MONOCHROME1"), ("DimensionOrganizationType", "3D")]
)
def test_error_about_pixels_that_are_not_read_says_which_they_are(tmp_path: Path, name: str, value: str) -> None:
    with_header(tmp_path / "a.dcm", data("dicom/cmu-small-wsi2dcm/level-1-frames-0-9.dcm"), **{name: value})
    with pytest.raises(SlideFormatError, match=r"a.dcm .* wsidicom reads.*PhotometricInterpretation .*, BitsStored 8,"):
        open_slide(tmp_path / "a.dcm", reader="dicom")


def test_tiles_without_a_frame_are_warned_of(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    position, frame = pydicom.Dataset(), pydicom.Dataset()
    position.ColumnPositionInTotalImagePixelMatrix = position.RowPositionInTotalImagePixelMatrix = 1
    for axis in "XYZ":
        setattr(position, f"{axis}OffsetInSlideCoordinateSystem", 0)
    frame.PlanePositionSlideSequence = [position]
    changes = {"TotalPixelMatrixColumns": 554, "DimensionOrganizationType": "TILED_SPARSE"}
    source = data("dicom/cmu-small-wsi2dcm/level-3-frames-0-1.dcm")
    path = with_header(tmp_path / "a.dcm", source, PerFrameFunctionalGroupsSequence=[frame], **changes)
    assert "1 of 2 tiles of 554 wide x 370 high have no frame, and read as background" in open_slide(path).warnings
