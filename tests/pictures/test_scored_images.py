from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from imagecodecs import png_decode

from tests.conftest import WriteSlide
from tests.evaluation.test_evaluate import write_tiff
from wsipipe.arrays import Pixels
from wsipipe.evaluation import bootstrap, wrong
from wsipipe.evaluation.blockwise import ArrayPlane, Labelled, Terms, compare
from wsipipe.evaluation.evaluate import Evaluation, Options, evaluate
from wsipipe.evaluation.grids import On
from wsipipe.evaluation.wrong import window_of_errors, wrong_objects
from wsipipe.geometry.grid import Box
from wsipipe.pictures import scored_images
from wsipipe.pictures.reliability import write_reliability
from wsipipe.pictures.scored_images import BOTH, FOUND, TRUE, draw_evaluation, image_within
from wsipipe.pipeline.config import RunConfig
from wsipipe.pipeline.run import run
from wsipipe.slides.slide import Level

TRUTH = np.zeros((60, 80), np.uint8)
TRUTH[5:15, 5:15] = TRUTH[34:44, 50:60] = TRUTH[46:56, 50:60] = 1
PREDICTED = np.zeros_like(TRUTH)
PREDICTED[5:15, 5:15] = PREDICTED[20:26, 60:70] = 1
PREDICTED[50:52, 2:4] = 1  # too small to count


def test_what_is_wrong_is_told_from_what_is_right() -> None:
    planes = ArrayPlane("p", Labelled(PREDICTED)), ArrayPlane("t", Labelled(TRUTH))
    found = wrong_objects(*planes, Box(0, 60, 0, 80), Terms(predicted_px=5))
    assert np.array_equal(found.true > 0, TRUTH > 0)
    assert np.array_equal(found.found > 0, (PREDICTED > 0) & (np.arange(60) < 45)[:, None])
    assert np.array_equal(found.missed > 0, (TRUTH > 0) & (np.arange(60) > 30)[:, None])
    assert np.array_equal(found.false > 0, found.found * (np.arange(80) > 20) > 0)


def test_the_window_is_where_most_objects_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrong, "WINDOW_PX", 32)
    planes = ArrayPlane("p", Labelled(PREDICTED)), ArrayPlane("t", Labelled(TRUTH))
    compared = compare(*planes, 1, needs=("overlap", "centroids"))
    assert window_of_errors(compared, TRUTH.shape) == Box(28, 60, 32, 64)
    assert window_of_errors(compare(*planes, 1, needs=()), TRUTH.shape) == Box(0, 32, 0, 32)


def scored(folder: Path) -> Evaluation:
    for name, predicted in (("bad", PREDICTED), ("good", TRUTH)):
        for part, values in (("p", predicted), ("t", TRUTH)):
            (folder / part).mkdir(exist_ok=True)
            write_tiff(folder / part / f"{name}.tif", values)
    return evaluate(folder / "p", folder / "t", Options(min_area_um2=5))


@pytest.mark.parametrize("on", ["labels", "store"])
def test_the_image_lies_below_its_labels(tmp_path: Path, tiny_model: Path, write_slide: WriteSlide, on: On) -> None:
    slide = write_slide(tmp_path / "a.tif", (64, 96))
    run([str(slide)], RunConfig(str(tmp_path / "out"), str(tiny_model), tissue="off", device="cpu"))
    fine = write_tiff(tmp_path / "b.tif", np.zeros((128, 192), np.uint8))
    found = evaluate(tmp_path / "out" / "a.zarr", fine, Options(metrics=("dice",), on=on))
    image, times = found.images[0], 2 if on == "labels" else 1
    drawn = image_within(
        Path(image.prediction), fine, found.pairs[0], Box(8 * times, 24 * times, 40 * times, 80 * times)
    )
    assert np.array_equal(drawn, tifffile.imread(slide)[8:24, 40:80].repeat(times, 0).repeat(times, 1))


def test_pixels_that_lie_far_apart_are_read_in_strips(
    tmp_path: Path, tiny_model: Path, write_slide: WriteSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = write_slide(tmp_path / "a.tif", (64, 96))
    run([str(slide)], RunConfig(str(tmp_path / "out"), str(tiny_model), tissue="off", device="cpu"))
    coarse = write_tiff(tmp_path / "b.tif", np.zeros((8, 12), np.uint8))
    found = evaluate(tmp_path / "out" / "a.zarr", coarse, Options(metrics=("dice",)))
    monkeypatch.setattr(scored_images, "STRIP_PX", 96 * 16)
    read, sizes = Level.read, list[int]()

    def watched(level: Level, *where: int) -> Pixels:
        sizes.append(where[2] * where[3])
        return read(level, *where)

    monkeypatch.setattr(Level, "read", watched)
    drawn = image_within(Path(found.images[0].prediction), coarse, found.pairs[0], Box(0, 8, 0, 12))
    assert np.array_equal(drawn, tifffile.imread(slide)[4::8, 4::8])
    assert len(sizes) > 1
    assert max(sizes) <= 96 * 16


def test_probabilities_are_plotted(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (2, 2, 256)).cumsum(axis=1)[:, ::-1].astype(float)
    write_reliability(tmp_path / "calibration.png", counts, ("nucleus", "nothing"))
    assert len(np.unique(png_decode((tmp_path / "calibration.png").read_bytes()).reshape(-1, 4), axis=0)) > 20


def test_pictures_show_errors_filled_and_the_worst_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)
    monkeypatch.setattr(scored_images, "LEAST_PX", 80)
    draw_evaluation(tmp_path / "out", scored(tmp_path))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1-bad.png", "2-good.png", "sheet.png"]
    picture = png_decode((tmp_path / "out" / "1-bad.png").read_bytes())
    mixed = {name: tuple(round(0.55 * 255 + 0.45 * c) for c in color) for name, color in (("t", TRUE), ("f", FOUND))}
    places = [(10, 10), (5, 8), (38, 55), (34, 55), (23, 65), (20, 65), (50, 2)]
    seen = [tuple(picture[y, x].tolist()) for y, x in places]
    assert seen == [(255, 255, 255), BOTH, mixed["t"], TRUE, mixed["f"], FOUND, (255, 255, 255)]
    assert png_decode((tmp_path / "out" / "sheet.png").read_bytes()).shape[1] > 2 * 80
