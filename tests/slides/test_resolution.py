from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.slides.made import APERIO, picture, pyramid
from wsipipe.errors import ResolutionError
from wsipipe.slides.open import describe, open_slide
from wsipipe.slides.resolution import HINT, MPP_DOUBTED, STATED, TAGS, Reading, checked, weighed
from wsipipe.slides.slide import Slide, choose_level


def opened(tmp_path: Path, **options: Any) -> Slide:
    pyramid(tmp_path / "a.tif", picture((128, 128)), **options)
    return open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("unit", "per_unit", "mpp"), [("centimeter", 20000.0, 0.5), ("inch", 50800.0, 0.5), ("centimeter", 40000.0, 0.25)]
)
def test_resolution_tags_are_read_in_their_unit(tmp_path: Path, unit: str, per_unit: float, mpp: float) -> None:
    slide = opened(tmp_path, resolution=(per_unit, per_unit), resolutionunit=unit)
    assert slide.mpp == pytest.approx(mpp)
    assert slide.mpp_source == "XResolution and YResolution tags"
    assert slide.warnings == ()


@pytest.mark.parametrize(
    ("resolution", "unit", "problem"),
    [
        ((10.0, 10.0), "centimeter", "tags give 1000 micrometres per pixel, which is coarser than any scanner"),
        ((72.0, 72.0), "inch", "tags give 352.778 micrometres per pixel, which is coarser than any scanner"),
        ((20000.0, 18000.0), "centimeter", "has pixels that are not square"),
        ((0.0, 0.0), "centimeter", "tags give nan micrometres per pixel, which is not a size"),
    ],
)
def test_implausible_resolution_is_a_warning_and_not_used(
    tmp_path: Path, resolution: tuple[float, float], unit: str, problem: str
) -> None:
    slide = opened(tmp_path, resolution=resolution, resolutionunit=unit)
    assert slide.mpp is None
    assert [level.mpp for level in slide.levels] == [None] * 3
    assert len(slide.warnings) == 1
    assert problem in slide.warnings[0]
    assert slide.warnings[0].endswith("it is not used")


def test_aperio_mpp_goes_before_the_tags(tmp_path: Path) -> None:
    slide = opened(
        tmp_path, description=APERIO.format(w=128, h=128), resolution=(40000.0, 40000.0), resolutionunit="centimeter"
    )
    assert (slide.mpp, slide.mpp_source) == (0.499, "MPP in ImageDescription")


def test_aperio_without_a_usable_mpp_falls_back_to_the_tags(tmp_path: Path) -> None:
    for text, warnings in (("|AppMag = 40", 0), ("|MPP = 0", 1), ("|MPP = none", 1)):
        description = f"Aperio Image Library v1\r\n128x128 (64x64) JPEG{text}"
        slide = opened(tmp_path, description=description, resolution=(40000.0, 40000.0), resolutionunit="centimeter")
        assert slide.mpp == pytest.approx(0.25)
        assert len(slide.warnings) == warnings


@pytest.mark.parametrize(("y", "x"), [(0.25, -0.25), (float("inf"), 1.0), (float("nan"), 0.5), (21, 21), (1, 1.06)])
def test_sizes_that_cannot_be_are_not_used(y: float, x: float) -> None:
    resolution = checked(y, x, "a tag")
    assert resolution.mpp is None
    assert resolution.warnings


@pytest.mark.parametrize(("y", "x"), [(0.25, 0.25), (1, 1.04), (20, 20), (0.05, 0.0501)])
def test_sizes_that_can_be_are_averaged(y: float, x: float) -> None:
    assert checked(y, x, "a tag").mpp == pytest.approx((x + y) / 2)


def test_resolution_finer_than_any_light_microscope_is_doubted_unless_the_user_gives_it(tmp_path: Path) -> None:
    slide = opened(tmp_path, resolution=(400000.0, 400000.0), resolutionunit="centimeter")
    assert slide.mpp == pytest.approx(0.025)
    (warning,) = slide.warnings
    assert "give 0.025 micrometres per pixel, which is finer than any light microscope" in warning
    assert "--mpp" in warning
    assert open_slide(tmp_path / "a.tif", mpp=0.25).warnings == ()
    assert checked(MPP_DOUBTED, MPP_DOUBTED, "a tag").warnings == ()


# --- what formats state ---------------------------------------------------------------------------------------

NONE = {"resolutionunit": "none"}
LEICA = """<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection>
<image><pixels sizeX="128" sizeY="128"><dimension sizeX="128" sizeY="128" r="0" ifd="0"/></pixels>
<view sizeX="32000" sizeY="32000"/><scanSettings><objectiveSettings><objective>40</objective></objectiveSettings>
</scanSettings></image></collection></scn>"""
AKOYA = "<PerkinElmer-QPI-ImageDescription><Objective>20x</Objective></PerkinElmer-QPI-ImageDescription>"
EVERY_4TH: dict[str, Any] = {"resolution": (4, 4), "levels": 1}


@pytest.mark.parametrize(
    ("options", "mpp", "source", "hint"),
    [
        ({"description": LEICA}, 0.25, "view in Leica's XML", ("objective in Leica's XML", 0.25)),
        (
            {"description": AKOYA, "software": "PerkinElmer-QPI", "resolution": (2e4, 2e4), "resolutionunit": 3},
            0.5,
            "XResolution and YResolution tags",
            ("Objective in ImageDescription", 0.5),
        ),
        ({"description": "ImageJ=1\nunit=micron\n", **EVERY_4TH}, 0.25, "unit in ImageJ's description", None),
        ({"description": "ImageJ=1\nunit=\\u00B5m\n", **EVERY_4TH}, 0.25, "unit in ImageJ's description", None),
        (
            {"description": "Aperio x|MPP = 0,2481|AppMag = 40"},
            0.2481,
            "MPP in ImageDescription",
            ("AppMag in ImageDescription", 0.25),
        ),
    ],
    ids=["leica", "akoya", "imagej", "imagej escaped", "aperio"],
)
def test_what_a_format_states_is_read(
    tmp_path: Path, options: dict[str, Any], mpp: float, source: str, hint: tuple[str, float] | None
) -> None:
    slide = opened(tmp_path, **(NONE | options))
    assert (slide.mpp, slide.mpp_source) == (pytest.approx(mpp), source)
    assert [(r.source, r.mpp) for r in slide.readings if r.kind == HINT] == ([hint] if hint else [])
    assert not [w for w in slide.warnings if "micrometres" in w]


def philips(path: Path, shapes: list[tuple[int, int]], spacings: list[float]) -> Path:
    """Levels that are padded to whole tiles of 64 px, with the spacings of the pixels in the description."""
    levels = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING">'
        f'"{mm}" "{mm}"</Attribute></DataObject>'
        for mm in spacings
    )
    document = (
        f'<DataObject ObjectType="DPUfsImport"><Attribute Name="x"><Array>{levels}</Array></Attribute></DataObject>'
    )
    with tifffile.TiffWriter(path) as tiff:
        for i, (height, width) in enumerate(shapes):
            filled = (-(-height // 64) * 64, -(-width // 64) * 64)
            options = {"description": document, "software": "Philips DP v1.0"} if i == 0 else {"software": False}
            tiff.write(picture((*filled, 3)), tile=(64, 64), photometric="rgb", metadata=None, **options)
    return path


def test_the_levels_of_philips_are_what_their_spacings_say(tmp_path: Path) -> None:
    shapes = [(448, 640), (224, 320), (112, 160), (56, 80)]
    slide = open_slide(philips(tmp_path / "a.tiff", shapes, [0.00025 * 2**i for i in range(4)]))
    assert (slide.vendor, slide.mpp_source) == ("philips", "DICOM_PIXEL_SPACING in ImageDescription")
    assert [level.downsample for level in slide.levels] == [1, 2, 4, 8]
    assert [level.mpp for level in slide.levels] == pytest.approx([0.25, 0.5, 1, 2])
    assert choose_level(slide, 2.0) == slide.levels[3]


# The names of the schema; some letters are others in lower case.
@pytest.mark.parametrize(
    ("unit", "size", "mpp"),
    [
        ("Å", 2500, 0.25),
        ("\N{ANGSTROM SIGN}", 2500, 0.25),
        ("angstrom", 2500, 0.25),
        ("thou", 0.01, 0.254),
        ("Mm", 2.5e-13, 0.25),
        ("fm", 2.5e8, 0.25),
        ("li", 1e-4, 0.2116667),
        ("pt", 1e-3, 0.3527778),
    ],
)
def test_the_unit_in_ome_is_any_length_of_the_schema(tmp_path: Path, unit: str, size: float, mpp: float) -> None:
    physical = {f"PhysicalSize{axis}{key}": value for axis in "XY" for key, value in (("", size), ("Unit", unit))}
    tifffile.imwrite(tmp_path / "a.ome.tif", picture((16, 16)), metadata={"axes": "YX", **physical})
    assert open_slide(tmp_path / "a.ome.tif").mpp == pytest.approx(mpp)


@pytest.mark.parametrize("unit", ["pixel", "reference frame", "furlong"])
def test_what_is_no_length_is_no_resolution(tmp_path: Path, unit: str) -> None:
    physical = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "a.ome.tif", picture((16, 16)), metadata={"axes": "YX", **physical})
    slide = open_slide(tmp_path / "a.ome.tif")
    assert slide.mpp is None
    assert f"PhysicalSizeYUnit in OME-XML is '{unit}', not a length" in slide.mpp_source


def test_the_magnification_in_ome_is_that_of_the_objective_of_the_image(tmp_path: Path) -> None:
    document = """<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Instrument ID="Instrument:0">
    <Objective ID="Objective:0" NominalMagnification="5"/><Objective ID="Objective:1" NominalMagnification="40"/>
    </Instrument><Image ID="Image:0"><ObjectiveSettings ID="Objective:1"/><Pixels ID="Pixels:0" DimensionOrder="XYCZT"
    Type="uint8" SizeX="128" SizeY="128" SizeC="1" SizeZ="1" SizeT="1" PhysicalSizeX="250" PhysicalSizeXUnit="nm"
    PhysicalSizeY="0.00025" PhysicalSizeYUnit="mm"><Channel ID="Channel:0" SamplesPerPixel="1"/><TiffData/></Pixels>
    </Image></OME>"""
    tifffile.imwrite(tmp_path / "a.ome.tif", picture((128, 128)), description=document, metadata=None, tile=(64, 64))
    slide = open_slide(tmp_path / "a.ome.tif")
    assert [(r.source, pytest.approx(r.mpp), r.kind) for r in slide.readings] == [
        ("PhysicalSizeX and Y in OME-XML", 0.25, STATED),
        ("NominalMagnification in OME-XML", 0.25, HINT),
    ]
    assert slide.mpp == pytest.approx(0.25)


# --- readings against each other ------------------------------------------------------------------------------


def stated(mpp: float, source: str = "a statement") -> Reading:
    return Reading(source, mpp, mpp)


def tags(mpp: float) -> Reading:
    return Reading("X and Y tags", mpp, mpp, TAGS)


def hint(mpp: float) -> Reading:
    return Reading("a magnification", mpp, mpp, HINT)


@pytest.mark.parametrize(
    ("found", "mpp", "named"),
    [
        ([stated(0.25), tags(0.26), hint(0.25)], 0.25, []),
        ([stated(0.25), stated(0.262, "another"), hint(0.23)], 0.25, []),
        (
            [stated(0.25), tags(0.5)],
            0.25,
            ["X and Y tags give 0.5", "a statement gives 0.25", "the former is not used"],
        ),
        ([stated(0.25), stated(0.27, "another"), tags(0.25)], None, ["another gives 0.27", "none of them is used"]),
        ([stated(0.0), tags(0.5)], 0.5, ["a statement gives 0", "is not a size", "it is not used"]),
        ([stated(0.25), hint(0.5)], 0.25, ["a magnification stands for about 0.5", "the former is used"]),
        ([tags(0.254), hint(0.1)], None, ["a magnification stands for about 0.1", "none of them is used"]),
        ([tags(0.2282), hint(0.25)], 0.2282, []),
        ([hint(0.25)], None, []),
        ([hint(0.25), tags(1000.0)], None, ["X and Y tags give 1000", "is coarser than any scanner"]),
        ([], None, []),
    ],
)
def test_readings_are_weighed_and_what_is_not_used_is_named(
    found: list[Reading], mpp: float | None, named: list[str]
) -> None:
    resolution = weighed(found)
    assert resolution.mpp == mpp
    assert resolution.readings == tuple(found)
    assert bool(resolution.warnings) == bool(named)
    for words in named:
        assert words in " ".join(resolution.warnings)


def test_statements_that_contradict_each_other_are_an_error_that_names_them_and_the_option(tmp_path: Path) -> None:
    description = APERIO.format(w=128, h=128).replace("MPP = 0.4990", "MPP = 0.2500") + "\nunit"
    slide = opened(tmp_path, description=description, resolution=(2e4, 2e4), resolutionunit="centimeter")
    assert slide.mpp == 0.25
    assert len(slide.warnings) == 2, "the tags, and 20x"
    mixed = weighed([stated(0.25, "MPP in ImageDescription"), stated(0.5, "PhysicalSizeX and Y in OME-XML")])
    with pytest.raises(ResolutionError) as caught:
        choose_level(replace(slide, mpp=mixed.mpp, mpp_source=mixed.source), 0.5)
    assert str(caught.value) == (
        "a.tif has no micrometres per pixel (MPP in ImageDescription gives 0.25 micrometres per pixel, but "
        "PhysicalSizeX and Y in OME-XML give 0.5 micrometres per pixel); give --mpp, e.g. --mpp 0.25 for a 40x scan"
    )


def test_a_magnification_alone_is_named_and_never_used(tmp_path: Path) -> None:
    slide = opened(tmp_path, description="Aperio x|AppMag = 20", **NONE)
    assert slide.mpp is None
    assert slide.mpp_source == (
        "no MPP in ImageDescription, AppMag in ImageDescription stands for about 0.5 micrometres per pixel, "
        "which is no measurement, ResolutionUnit tag is 1, no unit of length"
    )


def test_readings_are_told_as_json_whatever_they_are(tmp_path: Path) -> None:
    slide = opened(tmp_path, description="Aperio x|MPP = none", **NONE)
    document = json.loads(json.dumps(describe(slide), allow_nan=False))
    assert document["readings"] == [{"source": "MPP in ImageDescription", "y": None, "x": None, "kind": "stated"}]
    assert np.isnan(slide.readings[0].mpp)
