"""`segment`: a part of the array is computed alone, and has the labels that it has in the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import zarr
from dask.callbacks import Callback

import wsipipe
from tests.big import write_big_slide
from tests.conftest import WriteSlide
from tests.faults import write_model, write_slide
from tests.tissue.drawn import disc, on_glass
from wsipipe.errors import LabelError
from wsipipe.geometry.grid import Box
from wsipipe.inference.block import BlockWork, PredictedBlock
from wsipipe.pipeline import lazy_plane
from wsipipe.pipeline.setup import Setup

SHAPE = (300, 410)
SIZES: dict[str, Any] = {"block": 192, "tile": 96, "device": "cpu", "engine": "torch"}
PARTS: list[tuple[Any, ...]] = [
    np.s_[101:143, 77:91],  # within a tile
    np.s_[90:200, 185:290],  # over four blocks
    np.s_[299:, 405:],  # the last pixels
    np.s_[0, :],
    np.s_[7:250:13, 5],
    np.s_[30:60, [3, 390, 17]],
    np.s_[250:260, ::-7],
    np.s_[40:40, 10:20],
    np.s_[131, 401],
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "b.safetensors")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = disc((120, 150), 90, SHAPE) | disc((250, 380), 40, SHAPE)
    return write_slide(tmp_path_factory.mktemp("slide") / "case.tif", on_glass(where))


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("tissue", ["off", "auto"])
def test_a_part_at_odd_places_is_that_of_the_whole(slide: Path, model: Path, tissue: str, probabilities: bool) -> None:
    lazy = wsipipe.segment(slide, model, tissue=tissue, probabilities=probabilities, **SIZES)
    whole = lazy.compute(scheduler="synchronous")
    assert len(np.unique(whole)) > 1
    for part in PARTS:
        np.testing.assert_array_equal(lazy[(..., *part)].compute(scheduler="synchronous"), whole[(..., *part)])


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[Box]:
    """The boxes that go through the network from now on."""
    boxes: list[Box] = []
    predict = lazy_plane.predict_box

    def noted(work: BlockWork, box: Box, *more: Any) -> PredictedBlock:
        boxes.append(box)
        return predict(work, box, *more)

    monkeypatch.setattr(lazy_plane, "predict_box", noted)
    return boxes


def test_a_part_computes_itself_alone(tmp_path: Path, tiny_model: Path, predicted: list[Box]) -> None:
    labels = wsipipe.segment(write_big_slide(tmp_path / "big.zarr", 4096), tiny_model, block=2048, device="cpu")
    (labels[1001:1041, 3001:3041] > 0).sum().compute(scheduler="synchronous")
    assert predicted == [Box(1000, 1044, 3000, 3044)], "whole cells of 4 px"


def test_labels_and_probabilities_are_those_that_a_run_writes(slide: Path, model: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    mask.write_bytes(imagecodecs.png_encode(np.kron(np.eye(2), np.full((15, 20), 255)).astype(np.uint8)))
    for tissue in ("auto", str(mask)):
        config = wsipipe.RunConfig(str(tmp_path / "out"), str(model), tissue=tissue, probabilities=True, **SIZES)
        (outcome,) = wsipipe.run([slide], wsipipe.RunConfig(**{**vars(config), "overwrite": True})).slides
        store = zarr.open_group(str(outcome.store), mode="r")
        for probabilities, array in ((False, "0"), (True, "probabilities/0")):
            lazy = wsipipe.segment(slide, model, tissue=tissue, probabilities=probabilities, **SIZES)
            np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), store[array][...])  # type: ignore[index]


def test_only_the_region_is_computed_and_all_else_is_0(slide: Path, model: Path, predicted: list[Box]) -> None:
    whole = wsipipe.segment(slide, model, **SIZES).compute(scheduler="synchronous")
    predicted.clear()
    labels = wsipipe.segment(slide, model, region="90,100,61,40", **SIZES)  # x, y, width, height
    expected = np.zeros_like(whole)
    expected[100:140, 90:151] = whole[100:140, 90:151]
    np.testing.assert_array_equal(labels.compute(scheduler="synchronous"), expected)
    assert [(box.y0, box.y1, box.x0, box.x1) for box in predicted] == [(100, 140, 88, 152)]
    for part in PARTS:
        np.testing.assert_array_equal(labels[part].compute(scheduler="synchronous"), expected[part])


def test_a_region_that_is_not_on_the_slide_is_refused_at_once(slide: Path, model: Path) -> None:
    with pytest.raises(LabelError, match=r"--roi 900,900,10,10 is outside case\.tif"):
        wsipipe.segment(slide, model, region="900,900,10,10", **SIZES)
    with pytest.raises(wsipipe.UsageError, match="must be x,y,width,height"):
        wsipipe.segment(slide, model, region="here", **SIZES)


def test_a_mask_of_another_slide_is_refused_at_once(slide: Path, model: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    mask.write_bytes(imagecodecs.png_encode(np.ones((90, 20), np.uint8)))
    with pytest.raises(LabelError, match="does not have the proportions"):
        wsipipe.segment(slide, model, tissue=mask)


def test_of_approximate_labels_whole_tiles_are_computed(
    model: Path, slide: Path, predicted: list[Box], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They depend on the tiles, so those of a part must be the tiles of the whole."""
    monkeypatch.setattr(Setup, "approximate", True)
    labels = wsipipe.segment(slide, model, **SIZES)
    labels[101:143, 77:91].compute(scheduler="synchronous")
    labels[200:205, 300:].compute(scheduler="synchronous")
    assert sorted(predicted) == [Box(96, 192, 0, 96), Box(192, 288, 288, 384), Box(192, 288, 384, 410)]


def test_without_sizes_there_are_chunks_enough_for_a_progress_bar(tmp_path: Path, tiny_model: Path) -> None:
    done: list[Any] = []
    labels = wsipipe.segment(write_big_slide(tmp_path / "big.zarr", 2100), tiny_model, device="cpu")
    assert labels.chunks == ((1024, 1024, 52), (1024, 1024, 52))
    with Callback(posttask=lambda key, *_: done.append(key)):
        labels[:, 2048:].compute(scheduler="synchronous")
    assert len([key for key in done if isinstance(key, tuple)]) >= 3


def test_the_nuclei_model_is_the_default(tmp_path: Path, write_slide: WriteSlide) -> None:
    slide = write_slide(tmp_path / "a.tif", (96, 128))
    labels, named = wsipipe.segment(slide), wsipipe.segment(slide, "nuclei")
    assert labels.name == named.name
    assert labels[40:44, 50:54].compute(scheduler="synchronous").shape == (4, 4)
