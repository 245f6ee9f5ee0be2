"""The small inputs that went wrong, and the right value of each: planes, names, resolution, missing files."""

from __future__ import annotations

import pytest
import tifffile

from tests.real_data import case, needs_cases
from wsipipe.errors import PlaneError, SlideError, SlideFormatError
from wsipipe.slides.open import open_slide
from wsipipe.slides.planes import Planes

pytestmark = needs_cases


def test_tifffile_of_five_planes_has_five_channels_once_they_are_chosen() -> None:
    path = case("tifffile-5-channels.tif")
    with pytest.raises(PlaneError, match="--channels 0,1,2,3,4"):
        open_slide(path)
    slide = open_slide(path, planes=Planes((0, 1, 2, 3, 4)))
    assert slide.levels[0].channels == 5
    assert (slide.levels[0].array[:] == tifffile.imread(path)).all()


def test_channels_of_a_qptiff_are_known_by_name() -> None:
    slide = open_slide(case("qptiff-channel-names.qptiff"), planes=Planes(("Opal 690",)))
    assert slide.channel_names == ("DAPI", "Opal 520", "Opal 690")


def test_resolution_of_0_025_um_is_doubted() -> None:
    slide = open_slide(case("says-0.025-um.tif"))
    assert slide.mpp == pytest.approx(0.025)
    assert any("finer than any light microscope" in warning and "--mpp" in warning for warning in slide.warnings)


def test_mrxs_without_its_folder_says_so() -> None:
    with pytest.raises(SlideFormatError, match=r"is without its folder no-folder, .*; copy the file and its folder"):
        open_slide(case("no-folder.mrxs"))


def test_focal_planes_of_an_svs_are_never_chosen_by_openslide() -> None:
    pytest.importorskip("openslide")
    with pytest.raises(SlideError, match=r"focal planes|cannot be opened by OpenSlide|does not recognise"):
        open_slide(case("svs-focal-planes.svs"), reader="openslide")
