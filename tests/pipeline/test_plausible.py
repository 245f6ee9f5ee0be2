"""Slides of another stain are refused, and results that are implausible have a warning."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.conftest import Call
from tests.real_data import DATA, needs_data
from wsipipe import RunConfig, run
from wsipipe.demo import draw_tissue
from wsipipe.errors import SlideError
from wsipipe.events import ClassCount
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.model_file import ModelInfo, read_model_info
from wsipipe.model.usual_objects import USUAL, Usual, usual_of
from wsipipe.pipeline import plausible
from wsipipe.pipeline.plausible import light_of, odd_sizes, stain_conflict
from wsipipe.slides.discover import expand
from wsipipe.slides.open import open_slide
from wsipipe.tissue.detect import BRIGHTFIELD, FLUORESCENCE, find_tissue


@pytest.fixture(scope="module")
def nuclei() -> ModelInfo:
    return read_model_info(DEFAULT_MODEL)


def write(path: Path, image: np.ndarray) -> Path:
    resolution = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), metadata=None, **resolution)
    return path


def dark(shape: tuple[int, int]) -> np.ndarray:
    """Stained tissue, inverted: nuclei are bright."""
    return 255 - draw_tissue(np.random.default_rng(1), shape)


def test_fluorescence_is_refused_by_a_model_of_stained_tissue_unless_asked_for(call: Call, tmp_path: Path) -> None:
    slide, out = write(tmp_path / "x.tif", dark((256, 320))), tmp_path / "out"
    for _ in range(2):  # nothing of the first is resumed by the second
        ended = call("run", slide, "-o", out, "--device", "cpu", "--engine", "torch")
        assert ended.code == 1
        assert "x.tif is fluorescence by its brightness" in ended.err
        assert "--any-stain" in ended.err
        assert list(out.iterdir()) == []
    ended = call("run", slide, "-o", out, "--any-stain", "--device", "cpu", "--engine", "torch")
    assert (ended.code, [path.name for path in out.iterdir()]) == (0, ["x.zarr"])


@pytest.mark.parametrize(
    ("mean", "light"),
    [
        ((0.7, 0.6, 0.83), BRIGHTFIELD),
        ((0.02, 0.02, 0.2), FLUORESCENCE),
        ((0.43, 0.3, 0.4), BRIGHTFIELD),
        ((0.26, 0.26, 0.26), None),
        ((0.1, 0.1, 0.9), None),
        ((0.5,), None),
    ],
)
def test_the_light_of_a_model_is_that_of_its_training(
    nuclei: ModelInfo, mean: tuple[float, ...], light: str | None
) -> None:
    model = replace(nuclei, spec=replace(nuclei.spec, mean=mean))
    assert light_of(model) == light
    assert light_of(replace(model, spec=replace(model.spec, training={}))) is None


@pytest.mark.parametrize("how", [BRIGHTFIELD, FLUORESCENCE, "given", "found before", "not readable"])
def test_either_is_refused_by_the_model_of_the_other(nuclei: ModelInfo, tmp_path: Path, how: str) -> None:
    slide = open_slide(write(tmp_path / "x.tif", dark((64, 64))))
    stained, glowing = nuclei, replace(nuclei, spec=replace(nuclei.spec, mean=(0.1, 0.1, 0.1)))
    level = slide.levels[0]
    refused = [bool(stain_conflict(slide, level, model, how)) for model in (stained, glowing)]
    assert refused == [how == FLUORESCENCE, how == BRIGHTFIELD]
    assert not stain_conflict(slide, replace(level, dtype="uint16"), stained, how)


@needs_data
def test_no_real_slide_is_refused_but_the_one_of_fluorescence(nuclei: ModelInfo) -> None:
    assert DATA is not None
    refused, looked = [], 0
    for path in (path for name in ("slides", "dicom", "zarr", "writers") for path in expand([DATA / name])):
        try:
            slide = open_slide(path)
            level = slide.levels[0]
            if level.channels != 3:
                continue
            _, how = find_tissue(slide, level, halo=44)
        except SlideError:
            continue
        looked += 1
        refused += [path.name] if stain_conflict(slide, level, nuclei, how) else []
    assert looked > 10
    assert refused == ["test3-DAPI-2-387.ndpi"]


def test_nearly_nothing_on_much_tissue_is_a_warning_with_a_way_out(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eosin = np.full((200, 300, 3), (225, 130, 190), np.uint8)
    slide = write(tmp_path / "x.tif", eosin)
    options = ("--device", "cpu", "--engine", "torch", "--tissue", "off", "--json")
    quiet = json.loads(call("run", slide, "-o", tmp_path / "small", *options).out)
    assert quiet["slides"][0]["warnings"] == []  # 0.015 mm2 is not much
    monkeypatch.setattr(plausible, "MUCH_MM2", 0.01)
    ended = call("run", slide, "-o", tmp_path / "out", *options)
    (warning,) = json.loads(ended.out)["slides"][0]["warnings"]
    assert warning.startswith("nearly nothing was found: 0.00% of 0.015 mm2 of the slide is labelled")
    assert "0.5 um/px" in warning
    assert "--mpp" in warning
    assert f"x.tif: warning: {warning}" in ended.err


def test_objects_of_an_unusual_size_are_a_warning_in_a_run_and_when_they_are_measured_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nuclei: ModelInfo
) -> None:
    slide = write(tmp_path / "x.tif", draw_tissue(np.random.default_rng(7), (512, 640)))
    config = RunConfig(out=str(tmp_path / "out"), device="cpu", engine="torch", tissue="off", objects=True)
    (usual,) = run([slide], replace(config, out=str(tmp_path / "usual"))).slides
    assert usual.objects[0].objects > 30
    assert usual.warnings == []
    monkeypatch.setitem(USUAL, nuclei.sha256, Usual((20.0, 30.0), 0.01))
    run([slide], replace(config, objects=False))
    (measured,) = run([slide], config).slides
    (whole,) = run([slide], replace(config, out=str(tmp_path / "whole"))).slides
    assert measured.warnings == whole.warnings
    assert "20 to 30 um are usual for this model" in whole.warnings[0]


@pytest.mark.parametrize("objects", [29, 30])
@pytest.mark.parametrize("diameter", [4.5, 5.1, 8.9, 9.6])
def test_few_objects_and_usual_sizes_say_nothing(
    nuclei: ModelInfo, tmp_path: Path, objects: int, diameter: float
) -> None:
    slide = open_slide(write(tmp_path / "x.tif", dark((64, 64))))
    count = ClassCount("nucleus", objects, None, None, 1.0, math.pi * diameter**2 / 4)
    said = list(odd_sizes(slide, nuclei.sha256, [count]))
    assert bool(said) == (objects == 30 and diameter not in (5.1, 8.9))
    assert usual_of("another") is None
    assert not list(odd_sizes(slide, "another", [count]))
