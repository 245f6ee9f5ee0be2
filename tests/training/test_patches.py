"""Patches, against crops of the mirrored image and of maps of the whole image."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage

from tests.training.given import MARGIN, field, geojson, pixels, plain, polygon, squares
from wsipipe.errors import MachineError, SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.model.forward import core_of
from wsipipe.model.unet import UNet
from wsipipe.rasters.annotations import open_annotations
from wsipipe.training import fields as fields_module
from wsipipe.training import patches as patches_module
from wsipipe.training.augment import NO_AUGMENTATION, Augmentation, source_positions
from wsipipe.training.config import TrainConfig
from wsipipe.training.fields import Field, read_fields
from wsipipe.training.patches import Patch, PatchMaker, batches, stacked
from wsipipe.training.pixel_weights import border_weight, class_weights, separated
from wsipipe.training.sampling import PatchPlace, Places, survey

CORE, HALF = 16, MARGIN // 2
TILE = CORE + MARGIN
BORDERS = {"w0": 10.0, "sigma_px": 1.5}
"""6 sigma and the ridge fit into the 11 px that a patch has around its target."""


def maker_of(
    fields: Sequence[Field], config: TrainConfig, *, classes: int = 1, balanced: bool = False, seed: int = 0
) -> PatchMaker:
    core = config.patches.core
    found = survey(fields, classes, max(core // 2, 1))
    return PatchMaker(
        fields=tuple(fields),
        places=Places(found, config.patches.balance),
        seed=seed,
        tile=core + config.receptive.margin,
        margin=config.receptive.margin,
        augmentation=config.augmentation,
        weights=config.weights,
        class_weights=class_weights(found.totals) if balanced else np.ones(classes + 1),
    )


def still(maker: PatchMaker, y: float, x: float) -> Patch:
    """The patch at (y, x) as it is, without augmentation."""
    rng = np.random.default_rng(0)
    return maker.patch_at(PatchPlace(0, (y, x)), source_positions(rng, maker.tile, NO_AUGMENTATION), rng)


def mirrored(plane: np.ndarray, by: int) -> np.ndarray:
    return np.pad(plane, ((by, by), (by, by), *[(0, 0)] * (plane.ndim - 2)), mode="symmetric")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(("depth", "core"), [(2, 16), (0, 5)])
@pytest.mark.parametrize("shape", [(70, 90), (17, 30), (5, 3), (1, 1)])
def test_still_patch_is_the_crop_of_the_mirrored_image(
    shape: tuple[int, int], depth: int, core: int, dtype: str
) -> None:
    config = plain(network={"depth": depth}, patches={"core": core})
    margin, spare = config.receptive.margin, 60
    image, instances = pixels((*shape, 3), dtype), squares(shape)
    maker = maker_of([field(image, instances)], config)
    # the last pixel has its centre at n - 0.5, so n - 0.01 still lies on it
    for y in (0.0, 0.99, shape[0] // 2 + 0.5, shape[0] - 0.01):
        for x in (0.0, shape[1] / 2, shape[1] - 0.01):
            patch = still(maker, y, x)
            y0, x0 = (int(c) - core // 2 for c in (y, x))
            tile = np.s_[
                spare + y0 - margin // 2 : spare + y0 + core + margin // 2,
                spare + x0 - margin // 2 : spare + x0 + core + margin // 2,
            ]
            target = np.s_[spare + y0 : spare + y0 + core, spare + x0 : spare + x0 + core]
            expected = mirrored(image, spare)[tile].transpose(2, 0, 1)
            full = np.iinfo(dtype).max
            np.testing.assert_array_equal(np.rint(patch.image.astype(np.float64) * full), expected)
            np.testing.assert_allclose(patch.image, expected / full, rtol=0, atol=3e-7)
            np.testing.assert_array_equal(
                patch.target, (mirrored(separated(instances.astype(np.int32)), spare) > 0)[target]
            )
            assert (patch.weight == 1).all()
    assert (patch.image.dtype, patch.target.dtype, patch.weight.dtype) == (np.float32, np.int64, np.float32)


@pytest.mark.parametrize(("depth", "convs", "core"), [(0, 1, 8), (1, 2, 8), (2, 1, 16), (2, 2, 16), (3, 2, 16)])
def test_target_lies_where_the_network_gives_its_core(depth: int, convs: int, core: int) -> None:
    """An output pixel depends on the surroundings of the pixel in the tile that its target describes."""
    config = plain(network={"depth": depth, "convs_per_level": convs}, patches={"core": core})
    maker = maker_of([field(pixels((60, 70, 1)), squares((60, 70)))], config)
    patch = still(maker, 30, 30)
    torch.manual_seed(0)
    network = UNet(1, 2, base_channels=8, depth=depth, convs_per_level=convs).double().eval()
    tile = torch.from_numpy(patch.image)[None].double().requires_grad_()
    logits = core_of(network(tile), network.receptive)
    assert logits.shape[-2:] == patch.target.shape == patch.weight.shape == (core, core)
    half, spread = config.receptive.margin // 2, config.receptive.halo + network.receptive.stride
    for y, x in ((0, 0), (core - 1, 0), (core // 2, core - 1)):
        (slope,) = torch.autograd.grad(logits[0, :, y, x].sum(), tile, retain_graph=True)
        rows, cols = (slope[0, 0].abs().sum(axis).nonzero()[:, 0] for axis in (1, 0))
        for found, wanted in ((rows, half + y), (cols, half + x)):
            assert wanted - spread <= int(found.min()) <= wanted <= int(found.max()) <= wanted + spread


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", [{}, {"rotate": False}, {"elastic_px": 0.0}, {"elastic_px": 8.0, "elastic_grid": 5}])
def test_image_and_target_move_alike(axis: int, kind: dict[str, Any]) -> None:
    """Both say where a pixel comes from: the image as a ramp, which cubic interpolation keeps, the target as class."""
    position = np.indices((400, 400))[axis]
    image = (position * 150)[..., None].astype(np.uint16)
    moved = Augmentation(**{"intensity": 0, "noise": 0, "blur_px": 0, "elastic_px": 3.0, "scale": 1.5} | kind)
    config = plain(augmentation=moved)
    one = field(image, np.zeros((400, 400)), position % 251)
    maker = replace(maker_of([one], config, classes=250), class_weights=np.arange(251.0))
    for k in range(6):
        rng = np.random.default_rng(k)
        patch = maker.patch_at(PatchPlace(0, (200.3, 199.9)), source_positions(rng, TILE, moved), rng)
        came_from = patch.image[0].astype(np.float64)[HALF:-HALF, HALF:-HALF] * 65535 / 150
        assert np.ptp(came_from) > 8
        clear = np.abs(came_from % 1 - 0.5) > 0.01
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(patch.target[clear], np.rint(came_from[clear]) % 251)
        np.testing.assert_array_equal(patch.weight, patch.target)


@pytest.mark.parametrize("shape", [(90, 100), (20, 23)])
def test_weights_of_a_patch_are_those_of_the_whole_image(shape: tuple[int, int]) -> None:
    """So patches that overlap agree, to the last bit, up to their very borders."""
    instances = squares(shape, side=5, gap=2)
    instances[instances % 5 == 0] = 0
    instances[:, shape[1] // 2 :] = squares(shape, side=7, gap=0)[:, shape[1] // 2 :]  # these touch
    config = plain(weights=BORDERS)
    maker = maker_of([field(pixels((*shape, 1)), instances)], config, balanced=True)
    spare = 40
    apart = separated(mirrored(instances.astype(np.int32), spare))
    whole = maker.class_weights[(apart > 0).astype(int)].astype(np.float32)
    whole += border_weight(apart, w0=10.0, sigma=1.5)
    assert np.ptp(whole[apart == 0]) > 1
    for y, x in ((0, 0), (10, 11), (13, 11), (19.9, 22.9), (9, shape[1] - 1), (shape[0] - 0.1, shape[1] - 0.1)):
        patch = still(maker, y, x)
        y0, x0 = (spare + int(c) - CORE // 2 for c in (y, x))
        where = np.s_[y0 : y0 + CORE, x0 : x0 + CORE]
        np.testing.assert_array_equal(patch.weight, whole[where])
        np.testing.assert_array_equal(patch.target, apart[where] > 0)


def test_objects_that_touch_are_apart_in_the_target() -> None:
    instances = np.zeros((60, 60), int)
    instances[20:40, 20:30], instances[20:40, 30:40], instances[40:48, 40:48] = 3, 9, 4
    maker = maker_of([field(pixels((60, 60, 1)), instances)], plain(patches={"core": 32}, weights=BORDERS))
    patch = still(maker, 34, 34)  # rows and columns from 18
    assert ndimage.label(patch.target, np.ones((3, 3)))[1] == 3
    ridge = patch.target[3:20, 11:13]
    assert not ridge.all(1).any()
    assert (patch.weight[3:20, 11:13][ridge == 0] > 1 + 10 * np.exp(-9 / (2 * 1.5**2)) * 0.999).all()
    assert (patch.target[instances[18:50, 18:50] == 0] == 0).all()


def test_classes_without_objects_have_no_ridge() -> None:
    classes = np.repeat([[0, 1, 2, 1]], 60, 0).repeat(15, 1)
    maker = maker_of([field(pixels((60, 60, 1)), np.zeros((60, 60)), classes)], plain(), classes=2)
    np.testing.assert_array_equal(still(maker, 30, 30).target, classes[22:38, 22:38])


def test_weight_is_0_outside_the_regions(tmp_path: Path) -> None:
    path = geojson(tmp_path / "s.geojson", polygon("a", 0, 20, 0, 60), polygon("Region*", 10, 34, 0, 31))
    truth = open_annotations(path, (60, 60), ("a",))
    one = field(pixels((60, 60, 1)), np.zeros((60, 60)), truth=truth)
    config = plain(weights=BORDERS)
    maker = maker_of([one], config)
    patch = still(maker, 30, 30)  # rows and columns from 22
    rows, cols = np.indices((CORE, CORE)) + 22
    np.testing.assert_array_equal(patch.weight > 0, (rows < 34) & (cols < 31))
    assert all((maker.patch(k).weight > 0).any() for k in range(20))
    moved = replace(maker, augmentation=Augmentation())
    assert {float(w) for k in range(10) for w in np.unique(moved.patch(k).weight) if w < 1} == {0.0}


def test_objects_that_were_drawn_away_are_background(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = maker_of([field(pixels((60, 60, 3)), squares((60, 60)))], plain(weights=BORDERS), balanced=True)
    assert still(maker, 30, 30).target.any()
    monkeypatch.setattr(patches_module, "jitter", lambda image, *_: (image, False))
    patch = still(maker, 30, 30)
    assert not patch.target.any()
    np.testing.assert_array_equal(patch.weight, np.float32(maker.class_weights[0]))


# ---- which patch is which ----


def varied(seed: int = 0) -> PatchMaker:
    """A maker with everything that can be drawn."""
    some = [field(pixels((60, 70 + i, 3), seed=i), squares((60, 70 + i))) for i in range(3)]
    config = plain(weights=BORDERS, augmentation=Augmentation(elastic_px=3.0, stain=0.1, restain=0.3))
    return maker_of(some, config, balanced=True, seed=seed)


def as_bytes(patch: Patch) -> tuple[bytes, ...]:
    return tuple(plane.tobytes() for plane in patch)


def test_patch_depends_on_seed_and_number_alone() -> None:
    maker = varied()
    seventh = as_bytes(maker.patch(7))
    every = [as_bytes(maker.patch(k)) for k in range(9)]
    np.random.default_rng().random()
    assert seventh == every[7] == as_bytes(pickle.loads(pickle.dumps(varied())).patch(7))
    assert len({image for image, _, _ in every}) == 9
    other = [as_bytes(varied(1).patch(k)) for k in range(9)]
    assert not {image for image, _, _ in every} & {image for image, _, _ in other}


def test_batches_are_patches_in_order() -> None:
    maker = varied()
    made = list(islice(batches(maker, iter([[4, 2], [9, 0], [1, 1]]), 0), 3))
    for batch, numbers in zip(made, ([4, 2], [9, 0], [1, 1]), strict=True):
        expected = [maker.patch(k) for k in numbers]
        assert batch.image.shape == (2, 3, TILE, TILE)
        assert as_bytes(batch) == as_bytes(stacked(expected))
        np.testing.assert_array_equal(batch.target[1], expected[1].target)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_processes_make_the_same_patches(workers: int) -> None:
    maker = varied()
    made = batches(maker, ([2 * i, 2 * i + 1] for i in count()), workers)
    first = [as_bytes(batch) for batch in islice(made, 5)]
    made.close()  # type: ignore[attr-defined]
    assert first == [as_bytes(stacked([maker.patch(2 * i), maker.patch(2 * i + 1)])) for i in range(5)]


@pytest.mark.slow
def test_error_of_a_process_arrives_with_the_name_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a_image.tif", pixels((90, 90, 3)), photometric="rgb", tile=(32, 32))
    tifffile.imwrite(tmp_path / "a_label.tif", squares((90, 90)), tile=(32, 32))
    monkeypatch.setattr(fields_module, "HELD_PX", 100)
    maker = maker_of(read_fields(plain(), [tmp_path]), plain())
    (tmp_path / "a_image.tif").unlink()
    with pytest.raises(SlideReadError, match=r"a_image.tif"):
        next(batches(maker, iter([[0], [1]]), 1))


@dataclass(frozen=True)
class Deadly:
    """An image at which a process dies."""

    def read(self, box: Box) -> Any:
        os._exit(box.shape[0])


@pytest.mark.slow
def test_process_that_died_is_told_with_the_way_out() -> None:
    one = field(pixels((60, 60, 1)), squares((60, 60)))
    maker = maker_of([replace(one, image=Deadly())], plain())
    with pytest.raises(MachineError, match=r"a patch worker died.*--resume continues; fewer \[loop\] workers"):
        next(batches(maker, iter([[0], [1]]), 1))
