"""What workflows/paper/isbi2012.py adds to a training: registered images, and averages over turned ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import ndimage

from tests.training.given import field, pixels, png, squares
from wsipipe.geometry.grid import Box
from wsipipe.model.model_file import Model, load_model, save_unet
from wsipipe.model.spec import ModelSpec, default_classes
from wsipipe.model.unet import UNet
from wsipipe.training.setup import View

PATH = Path(__file__).parents[2] / "workflows" / "paper" / "isbi2012.py"
MOVED = (0.5, -0.3)


@pytest.fixture(scope="module")
def isbi2012() -> ModuleType:
    spec = importlib.util.spec_from_file_location("isbi2012", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(seed: int) -> np.ndarray:
    """Rounded cells, bool (y, x)."""
    noise = np.random.default_rng(seed).normal(size=(160, 160))
    return ndimage.gaussian_filter(noise, 4) > 0


def seen(label: np.ndarray) -> np.ndarray:
    """``label`` as a microscope may show it, moved by `MOVED`."""
    blurred = ndimage.gaussian_filter(label * 200.0, 1.5)
    return np.rint(ndimage.shift(blurred, MOVED, order=3, mode="mirror")).clip(0, 255).astype(np.uint8)


def test_an_image_is_moved_back_by_what_it_was_moved(isbi2012: ModuleType) -> None:
    label = cells(0)
    assert isbi2012.offset(seen(label).astype(np.float64), label) == pytest.approx((-0.5, 0.3), abs=0.1)


def test_register_moves_the_images_and_nothing_else(isbi2012: ModuleType, tmp_path: Path) -> None:
    source, target = tmp_path / "as-it-is" / "isbi2012-em", tmp_path / "registered" / "isbi2012-em"
    for k, name in enumerate(("00", "01", "23")):
        png(source / "image" / f"{name}.png", seen(cells(k)))
        png(source / "label" / f"{name}.png", (cells(k) * 255).astype(np.uint8))
    before = {path: path.read_bytes() for path in source.rglob("*.png")}
    words = ["register", str(source.parent), str(target.parent)]
    ended = CliRunner().invoke(isbi2012.main, words, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    assert {path: path.read_bytes() for path in source.rglob("*.png")} == before
    for k, name in enumerate(("00", "01", "23")):
        label = target / "label" / f"{name}.png"
        assert label.read_bytes() == (source / "label" / f"{name}.png").read_bytes()
        image = isbi2012.read(target / "image" / f"{name}.png").astype(np.float64)
        assert isbi2012.offset(image, cells(k)) == pytest.approx((0, 0), abs=0.1)
    again = CliRunner().invoke(isbi2012.main, words)
    assert again.exit_code == 2
    assert str(target) in again.output


def test_an_average_over_turned_images_turns_with_the_image(isbi2012: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = UNet(in_channels=1, base_channels=4, depth=2)
    spec = ModelSpec(classes=default_classes(2), mean=(0.5,), std=(0.2,))
    save_unet(tmp_path / "b.safetensors", network, spec)
    model: Model = load_model(tmp_path / "b.safetensors")
    image = pixels((64, 64, 1))

    def averaged(shown: np.ndarray) -> np.ndarray:
        shown_field = field(np.ascontiguousarray(shown), squares((64, 64)))
        found: np.ndarray = isbi2012.averaged(model, View(shown_field, Box(0, 64, 0, 64)))
        return found

    upright = averaged(image)
    assert upright.std() > 1e-3
    for turned in (np.rot90, np.flipud, np.fliplr):
        np.testing.assert_allclose(averaged(turned(image)), turned(upright), atol=1e-5)


def test_a_threshold_that_parts_cells_from_membranes_has_no_error(
    isbi2012: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [squares((40, 48)), squares((40, 48), side=9)]
    views = tuple(View(field(pixels((40, 48, 1)), label), Box(0, 40, 0, 48)) for label in labels)

    def known(_: object, view: View) -> np.ndarray:
        return np.where(view.field.truth.read(view.box).instances > 0, 0.62, 0.38).astype(np.float32)

    monkeypatch.setattr(isbi2012, "averaged", known)
    errors = isbi2012.scores_at(None, views)
    parted = (isbi2012.THRESHOLDS > 0.38) & (isbi2012.THRESHOLDS < 0.62)
    membrane = np.mean([label == 0 for label in labels])
    assert all(np.all(np.array(values)[parted] == 0) for values in errors.values())
    assert all(np.all(np.array(values)[~parted] > 0) for values in errors.values())
    assert errors["pixel_error"][0] == pytest.approx(membrane)


def test_pairs_of_pixels_are_pooled_over_the_slices(isbi2012: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    right, joined = np.zeros((40, 48), np.uint16), np.zeros((40, 48), np.uint16)
    right[4:14, 4:14] = 1
    joined[4:14, 4:14], joined[4:14, 15:25] = 1, 2
    found = [right > 0, ndimage.binary_closing(joined > 0, np.ones((1, 3)))]
    views = tuple(View(field(pixels((40, 48, 1)), label), Box(0, 40, 0, 48)) for label in (right, joined))
    shown = dict(zip(views, found, strict=True))
    monkeypatch.setattr(isbi2012, "averaged", lambda _, view: shown[view].astype(np.float32))
    errors = isbi2012.scores_at(None, views)
    pairs = 100 * 99  # ordered pairs within a square; the closed gap joins the two squares of the second slice
    both, true, predicted = 3 * pairs, 3 * pairs, pairs + 200 * 199
    assert errors["adapted_rand_error"][9] == pytest.approx(1 - 2 * both / (true + predicted))


def test_cells_grown_until_they_meet_are_parted(isbi2012: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.zeros((20, 41), np.uint16)
    label[:, :20], label[:, 21:] = 1, 2
    shown = np.where(label > 0, 0.92, 0.12).astype(np.float32)
    shown[:, 17:24] = 0.22  # the membrane is seen too wide,
    shown[8:12, 17:24] = 0.62  # and at one place weakly
    monkeypatch.setattr(isbi2012, "averaged", lambda _, __: shown)
    view = View(field(pixels((20, 41, 1)), label), Box(0, 20, 0, 41))
    errors = isbi2012.scores_at(None, (view,))
    merged, parted = np.searchsorted(isbi2012.THRESHOLDS, (0.5, 0.8))
    assert errors["rand error, watershed"][parted] == 0
    assert errors["adapted_rand_error"][parted] > 0.1
    assert errors["rand error, watershed"][merged] > 0.1
    assert not isbi2012.grown(shown, 0.99).any()
