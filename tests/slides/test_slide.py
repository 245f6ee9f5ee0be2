from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.real_data import data, needs_data
from tests.slides.made import APERIO, picture, pyramid
from wsipipe.errors import ResolutionError, SlideFormatError, SlideReadError, UsageError
from wsipipe.slides.open import describe, open_slide
from wsipipe.slides.slide import choose_level, downsample_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A slide of 0.499 µm/px with levels of 1, 2 and 4."""
    pyramid(tmp_path / "case.svs", picture((256, 256, 3)), description=APERIO.format(w=256, h=256))
    return tmp_path / "case.svs"


@pytest.mark.parametrize(("wanted", "index"), [(None, 0), (0.5, 0), (0.495, 0), (1.0, 1), (1.007, 1), (2.0, 2)])
def test_level_within_one_percent_is_taken_as_it_is(path: Path, wanted: float | None, index: int) -> None:
    slide = open_slide(path)
    assert choose_level(slide, wanted) == slide.levels[index]


@pytest.mark.parametrize(
    ("wanted", "index", "shape"),
    [
        (0.48, 0, (267, 267)),  # enlarged
        (0.52, 0, (246, 246)),
        (0.90, 0, (142, 142)),  # level 1 would have to be enlarged by 1.109
        (0.91, 1, (141, 141)),
        (1.04, 1, (123, 123)),
        (499.0, 2, (1, 1)),
    ],
)
def test_the_level_that_needs_least_is_brought_to_the_wanted_mpp(
    path: Path, wanted: float, index: int, shape: tuple[int, int]
) -> None:
    slide = open_slide(path)
    level = choose_level(slide, wanted)
    assert level.mpp == wanted
    assert level.stored == slide.levels[index]
    assert level.shrink == pytest.approx(wanted / (0.499 * 2**index))
    assert level.downsample == pytest.approx(wanted / 0.499)
    assert level.shape == shape


@pytest.mark.parametrize(
    ("finest", "shape", "downsample"),
    [
        ((2967, 2221), (1483, 1110), 2.0),
        ((2967, 2221), (1484, 1111), 2.0),
        ((100_001, 100_003), (6250, 6251), 16.0),
        ((2967, 2221), (989, 740), 3.0),
        ((1000, 1000), (700, 700), 10 / 7),
        ((1000, 1000), (503, 503), 1000 / 503),
        ((1000, 2000), (500, 1010), (2 + 200 / 101) / 2),
    ],
)
def test_downsample_is_whole_where_sides_are_cut_or_filled_up_to_whole_pixels(
    finest: tuple[int, int], shape: tuple[int, int], downsample: float
) -> None:
    assert downsample_of(finest, shape) == pytest.approx(downsample, rel=1e-12)


def test_no_level_is_enlarged_where_a_finer_one_can_be_shrunk(path: Path) -> None:
    slide = open_slide(path)
    assert choose_level(slide, 0.9, 5.0).index == 0
    assert choose_level(slide, 0.91, 1.0).index == 0
    assert choose_level(slide, 0.48, 1.04).shrink < 1
    assert choose_level(slide, 0.1, 5.0).shrink == pytest.approx(0.1 / 0.499)
    assert choose_level(slide, 0.495, 1.0) == slide.levels[0], "as it is, it is not enlarged"
    with pytest.raises(ResolutionError, match=r"enlarged 1.04 times, more than the allowed 1;"):
        choose_level(slide, 0.48, 1.0)


def test_nearest_of_two_near_levels_is_chosen(tmp_path: Path) -> None:
    from dataclasses import replace

    pyramid(tmp_path / "a.tif", picture((256, 256)), levels=2)
    slide = open_slide(tmp_path / "a.tif", mpp=1.0)
    near = replace(slide, levels=(slide.levels[0], replace(slide.levels[1], mpp=1.03)))
    assert choose_level(near, 1.02).index == 1
    assert choose_level(near, 1.01).index == 0


def test_a_slide_that_is_too_coarse_says_what_it_has_and_what_to_do(path: Path) -> None:
    with pytest.raises(ResolutionError) as caught:
        choose_level(open_slide(path), 0.25)
    assert str(caught.value) == (
        "case.svs is coarser than 0.25 micrometres per pixel (level 0: 0.499, level 1: 0.998, level 2: 1.996): level 0 "
        "would have to be enlarged 1.996 times, more than the allowed 1.1; use a model trained at a resolution that "
        "the slide has, correct that of level 0 with --mpp if it is wrong, or allow it with --max-upsample"
    )


def test_missing_mpp_says_why_and_what_to_do(tmp_path: Path) -> None:
    pyramid(tmp_path / "case-17.tif", picture((256, 256)), resolutionunit="none")
    slide = open_slide(tmp_path / "case-17.tif")
    with pytest.raises(ResolutionError) as caught:
        choose_level(slide, 0.25)
    assert str(caught.value) == (
        "case-17.tif has no micrometres per pixel (ResolutionUnit tag is 1, no unit of length); "
        "give --mpp, e.g. --mpp 0.25 for a 40x scan"
    )
    assert choose_level(slide, None) == slide.levels[0]


def test_given_mpp_replaces_that_of_the_file(path: Path) -> None:
    slide = open_slide(path, mpp=0.25)
    assert (slide.mpp, slide.mpp_source) == (0.25, "given")
    assert [level.mpp for level in slide.levels] == [0.25, 0.5, 1.0]
    assert slide.identity == open_slide(path).identity


@pytest.mark.parametrize("mpp", [0, -1.0, float("nan"), float("inf")])
def test_given_mpp_that_is_no_size_is_a_usage_error(path: Path, mpp: float) -> None:
    with pytest.raises(UsageError, match="--mpp"):
        open_slide(path, mpp=mpp)


def test_description_is_plain_json_of_all_there_is_to_know(path: Path) -> None:
    document = describe(open_slide(path))
    assert json.loads(json.dumps(document)) == document
    assert document["vendor"] == "aperio"
    assert document["mpp_source"] == "MPP in ImageDescription"
    assert document["bytes"] == path.stat().st_size
    assert document["levels"][1] == {
        "index": 1,
        "shape": [128, 128],
        "downsample": 2.0,
        "mpp": pytest.approx(0.998),
        "axes": "yxc",
        "channels": 3,
        "dtype": "uint8",
        "tile": [64, 64],
        "codec": "none",
    }


def test_identity_tells_slides_apart_by_bytes_not_by_name(tmp_path: Path) -> None:
    for name, seed in (("a.tif", 1), ("b.tif", 1), ("c.tif", 2)):
        pyramid(tmp_path / name, picture((300, 300), seed=seed))
    first, same, other = (open_slide(tmp_path / name).identity for name in ("a.tif", "b.tif", "c.tif"))
    assert first == same != other
    assert len(first) == 64


@pytest.mark.parametrize(
    ("name", "stem"), [("a.b.svs", "a.b"), ("a.ome.tif", "a"), ("a.OME.TIFF", "a"), ("a.ome.btf", "a"), ("a", "a")]
)
def test_name_loses_its_suffixes(tmp_path: Path, name: str, stem: str) -> None:
    pyramid(tmp_path / name, picture((64, 64)))
    assert open_slide(tmp_path / name).name == stem


def test_path_is_absolute_and_normal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    assert open_slide("../" + path.parent.name + "/case.svs").path == str(path)


def test_missing_file_and_plain_folder_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(SlideReadError, match=r"gone.svs cannot be opened: No such file"):
        open_slide(tmp_path / "gone.svs")
    with pytest.raises(SlideFormatError, match="is a folder that is neither an OME-Zarr image nor a DICOM series"):
        open_slide(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tif")
    with pytest.raises(SlideFormatError, match="neither a file nor a folder"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read anything")
def test_file_without_permission_is_a_clear_error(path: Path) -> None:
    path.chmod(0)
    with pytest.raises(SlideReadError, match=r"case.svs cannot be opened: Permission denied"):
        open_slide(path)


@needs_data
def test_real_slides_say_where_their_mpp_is_from() -> None:
    found = {}
    for name in ("CMU-1-Small-Region.svs", "test3-DAPI-2-387.ndpi", "kidney-48-5.tif", "tcga-cr-7395-01a-01-ts1.svs"):
        slide = open_slide(data(f"slides/{name}"))
        found[name.split("-")[0]] = (slide.mpp and round(slide.mpp, 4), slide.mpp_source)
    assert found == {
        "CMU": (0.499, "MPP in ImageDescription"),
        "test3": (0.2282, "XResolution and YResolution tags"),
        "kidney": (None, "no ResolutionUnit tag"),
        "tcga": (None, "no MPP in ImageDescription, no ResolutionUnit tag"),
    }
