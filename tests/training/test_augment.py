from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import make_interp_spline

from wsipipe.errors import UsageError
from wsipipe.training.augment import (
    NO_AUGMENTATION,
    Augmentation,
    elastic,
    exposed,
    jitter,
    sample_image,
    sample_labels,
    source_positions,
)

SIDE = 33


def only(**kinds: Any) -> Augmentation:
    """An augmentation of ``kinds`` only."""
    return dataclasses.replace(NO_AUGMENTATION, **kinds)


def positions_of(augmentation: Augmentation, seed: int = 0, side: int = SIDE) -> npt.NDArray[np.float64]:
    return source_positions(np.random.default_rng(seed), side, augmentation)


def random_image(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)


STILL = positions_of(NO_AUGMENTATION)


@pytest.mark.parametrize("side", [1, 2, 7, 32])
def test_without_augmentation_a_patch_is_a_crop(side: int) -> None:
    positions = positions_of(NO_AUGMENTATION, side=side)
    np.testing.assert_array_equal(positions, np.indices((side, side)) - (side - 1) / 2)
    top, left = 5, 9
    there = positions + np.array([top, left])[:, None, None] + (side - 1) / 2
    image, labels = random_image(60, 50, 3), np.arange(60 * 50, dtype=np.uint16).reshape(60, 50)
    crop = np.s_[top : top + side, left : left + side]
    np.testing.assert_allclose(sample_image(image, there), image[crop], rtol=0, atol=1e-7)
    np.testing.assert_array_equal(sample_labels(labels, there), labels[crop])


def test_a_flip_mirrors_half_of_the_patches() -> None:
    flipped = [positions_of(only(flip=True), seed)[1, 0, 0] > 0 for seed in range(200)]
    assert 70 < sum(flipped) < 130
    for seed in range(20):
        y, x = positions_of(only(flip=True), seed)
        np.testing.assert_array_equal(y, STILL[0])
        np.testing.assert_array_equal(x, STILL[1] if x[0, 0] < 0 else STILL[1][:, ::-1])


def test_a_rotation_keeps_distances_and_handedness_and_has_any_angle() -> None:
    angles = []
    for seed in range(300):
        y, x = positions_of(only(rotate=True), seed, side=9)
        np.testing.assert_allclose(np.hypot(y, x), np.hypot(*positions_of(NO_AUGMENTATION, side=9)), atol=1e-12)
        down, right = (y[1, 0] - y[0, 0], x[1, 0] - x[0, 0]), (y[0, 1] - y[0, 0], x[0, 1] - x[0, 0])
        assert down[0] * right[1] - down[1] * right[0] == pytest.approx(1)
        angles.append(math.atan2(down[1], down[0]))
    counts, _ = np.histogram(angles, 6, (-math.pi, math.pi))
    assert (counts > 25).all()


def test_zoom_is_even_on_a_logarithmic_scale() -> None:
    logs = []
    for seed in range(400):
        positions = positions_of(only(scale=2.0), seed, side=9)
        zoom = positions[0, 0, 0] / positions_of(NO_AUGMENTATION, side=9)[0, 0, 0]
        np.testing.assert_allclose(positions, positions_of(NO_AUGMENTATION, side=9) * zoom)
        logs.append(math.log2(zoom))
    assert -1 <= min(logs) < -0.95
    assert 0.95 < max(logs) <= 1
    assert np.mean(logs) == pytest.approx(0, abs=0.1)
    assert np.std(logs) == pytest.approx(1 / math.sqrt(3), abs=0.05)


def test_control_points_are_moved_by_the_standard_deviation_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    moved = np.array([elastic(rng, 9, points=3, sigma_px=10.0)[:, ::4, ::4] for _ in range(1500)])
    assert moved.shape == (1500, 2, 3, 3)
    np.testing.assert_allclose(moved.std(axis=0), 10, rtol=0.1)
    np.testing.assert_allclose(moved.mean(axis=0), 0, atol=1.2)
    np.testing.assert_allclose(np.corrcoef(moved.reshape(1500, -1).T), np.eye(18), atol=0.12)


@pytest.mark.parametrize("points", [2, 3, 5])
def test_between_control_points_is_the_natural_bicubic_spline(points: int) -> None:
    side = 4 * 5 * (points - 1) + 1
    got = elastic(np.random.default_rng(1), side, points=points, sigma_px=10.0)
    knots, pixels = np.linspace(0, side - 1, points), np.arange(side)
    moved = got[:, :: 4 * 5, :: 4 * 5]
    if points == 2:  # a natural spline through two points is a straight line
        rows = np.array([[np.interp(pixels, knots, line) for line in plane] for plane in moved])
        wanted = np.array([[np.interp(pixels, knots, line) for line in plane.T] for plane in rows]).transpose(0, 2, 1)
    else:
        rows = make_interp_spline(knots, moved, bc_type="natural", axis=2)(pixels)
        wanted = make_interp_spline(knots, rows, bc_type="natural", axis=1)(pixels)
    np.testing.assert_allclose(got, wanted, atol=1e-9)


def test_the_elastic_map_is_smooth() -> None:
    """Slope and curvature are continuous across a control point: no second difference stands out."""
    displacement = elastic(np.random.default_rng(2), 201, points=3, sigma_px=10.0)
    for axis in (1, 2):
        bends = np.diff(displacement, 2, axis=axis)
        assert np.abs(np.diff(bends, axis=axis)).max() < 0.05 * np.abs(bends).max()


def test_a_generator_gives_the_same_patch_again_and_another_gives_another() -> None:
    every = Augmentation(stain=0.2, restain=0.5)
    image, foreground = random_image(SIDE, SIDE, 3), random_image(SIDE, SIDE) < 0.2

    def patch(seed: int) -> tuple[bytes, bytes]:
        rng = np.random.default_rng(seed)
        return source_positions(rng, SIDE, every).tobytes(), jitter(image, foreground, rng, every)[0].tobytes()

    first = [patch(seed) for seed in range(8)]
    np.random.seed(0)
    torch.manual_seed(0)
    assert first == [patch(seed) for seed in range(8)]
    assert len({p for p, _ in first}) == len({i for _, i in first}) == 8


@pytest.fixture
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def sampled_bytes() -> bytes:
    return sample_image(random_image(160, 160, 3), positions_of(only(rotate=True, elastic_px=4), 5, 65) + 80).tobytes()


ONE_THREAD = sampled_bytes()


@pytest.mark.usefixtures("_two_threads")
def test_threads_change_nothing() -> None:
    assert sampled_bytes() == ONE_THREAD


@given(st.integers(0, 2**32))
def test_image_and_labels_come_from_the_same_places(seed: int) -> None:
    """The image holds each pixel's row and column, so that a sample is its own position."""
    positions = positions_of(Augmentation(elastic_px=3), seed, 24) + 60
    rows, columns = np.indices((120, 120), np.int32)
    image = sample_image(np.stack([rows, columns], axis=-1).astype(np.float32), positions)
    # torch's cubic (a = -0.75) is up to 0.05 px off on a ramp
    np.testing.assert_allclose(image.transpose(2, 0, 1), positions, atol=0.05)
    labels = np.stack([sample_labels(rows, positions), sample_labels(columns, positions)])
    np.testing.assert_array_equal(labels, np.rint(positions))


@pytest.mark.parametrize("seed", range(4))
def test_labels_drawn_as_grey_move_as_labels(seed: int) -> None:
    y, x = np.indices((200, 200))
    label = (np.hypot(y - 90, (x - 105) / 2) < 22).astype(np.uint8)
    label[60:80, 120:150] = 1
    positions = positions_of(Augmentation(elastic_px=5), seed, 97) + 100
    grey = sample_image(label[..., None].astype(np.float32), positions)[..., 0]
    moved = sample_labels(label, positions)
    assert moved.any()
    inside = np.abs(grey - 0.5) > 0.35  # the rest is the outline, where one pixel and its neighbours differ
    np.testing.assert_array_equal((grey > 0.5)[inside], moved[inside] == 1)
    assert inside.mean() > 0.95


def test_cubic_interpolation_is_smooth_and_close() -> None:
    """A wave of 11 px period, sampled between its pixels, is the wave, as near as torch's cubic (a = -0.75) comes."""
    y, x = np.indices((64, 64))
    positions = positions_of(only(rotate=True), 3, 24) + 32
    got = sample_image(np.sin(2 * np.pi * (y + 2 * x) / 24)[..., None].astype(np.float32), positions)[..., 0]
    wanted = np.sin(2 * np.pi * (positions[0] + 2 * positions[1]) / 24)
    np.testing.assert_allclose(got, wanted, atol=0.05)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, bool])
def test_labels_keep_their_type(dtype: type) -> None:
    assert sample_labels(np.ones((40, 40), dtype), STILL + 18).dtype == dtype


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_keep_their_channels_and_may_be_read_only(channels: int) -> None:
    image = random_image(50, 50, channels)
    image.flags.writeable = False
    got = sample_image(image, STILL + 24)
    assert got.shape == (SIDE, SIDE, channels)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_positions_without_two_pixels_to_spare_are_refused(shift: float) -> None:
    image = random_image(SIDE + 4, SIDE + 4, 1)
    inside = STILL + (SIDE + 3) / 2
    sample_image(image, inside)
    with pytest.raises(AssertionError):
        sample_image(image, inside + 1.5 * shift)


def test_without_augmentation_nothing_is_jittered() -> None:
    image = random_image(SIDE, SIDE, 3)
    got, keep = jitter(image, image[..., 0] > 0.5, np.random.default_rng(0), NO_AUGMENTATION)
    assert keep
    assert got is not image
    np.testing.assert_array_equal(got, image)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_jittered_stays_in_range_and_the_original_as_it_was(channels: int, seed: int) -> None:
    image = random_image(SIDE, SIDE, channels)
    before = image.copy()
    strong = Augmentation(
        intensity=0.8, noise=0.5, blur_px=2.0, stain=0.8 * (channels == 3), restain=0.5 * (channels == 3)
    )
    got, _ = jitter(image, image[..., 0] > 0.5, np.random.default_rng(seed), strong)
    assert got.dtype == np.float32
    assert got.shape == image.shape
    assert got.min() >= 0
    assert got.max() <= 1
    assert (got != before).mean() > 0.3
    np.testing.assert_array_equal(image, before)


def test_intensity_varies_contrast_and_brightness_by_its_standard_deviation() -> None:
    image = np.array([0.25, 0.75], np.float32).reshape(1, 2, 1)
    rng, sigma = np.random.default_rng(0), 0.1
    got = np.array([exposed(image, rng, sigma).ravel() for _ in range(2000)])
    # contrast and brightness multiply the difference; brightness and the offset move the mean of 0.5
    assert np.log(2 * (got[:, 1] - got[:, 0])).std() == pytest.approx(sigma * math.sqrt(2), rel=0.1)
    assert got.mean(axis=1).std() == pytest.approx(sigma * math.hypot(0.5, 0.5), rel=0.1)
    assert got.mean() == pytest.approx(0.5, abs=0.01)


def test_noise_has_at_most_its_standard_deviation() -> None:
    image = np.full((40, 40, 1), 0.5, np.float32)
    blank = np.zeros((40, 40), bool)
    sds = [jitter(image, blank, np.random.default_rng(s), only(noise=0.1))[0].std() for s in range(100)]
    assert 0.09 < max(sds) < 0.11
    assert np.mean(sds) == pytest.approx(0.05, abs=0.01)


def test_optics_sharpen_and_blur() -> None:
    image = random_image(64, 64, 3) * 0.2 + 0.4
    blank = np.zeros((64, 64), bool)
    ratios = [
        jitter(image, blank, np.random.default_rng(s), only(blur_px=1.0))[0].std() / image.std() for s in range(60)
    ]
    assert 0.3 < min(ratios) < 0.6
    assert 1.6 < max(ratios) < 2.3


def test_a_share_of_patches_is_restained_and_some_lose_their_objects() -> None:
    image = random_image(12, 12, 3)
    foreground = image[..., 0] < 0.2
    results = [jitter(image, foreground, np.random.default_rng(s), only(restain=0.5)) for s in range(400)]
    same = sum(np.array_equal(got, image) for got, _ in results)
    assert 160 < same < 240
    assert 20 < sum(not keep for _, keep in results) < 65  # a fifth of half


@pytest.mark.parametrize("kind", ["stain", "restain", "hed", "restyle", "erythrocytes"])
@pytest.mark.parametrize("channels", [1, 4])
def test_stains_of_other_than_rgb_do_not_fit(kind: str, channels: int) -> None:
    assert only(**{kind: 0.1}).unfit(channels, "uint8") == f"[augmentation] {kind} is for RGB images; set it to 0"
    assert only(**{kind: 0.1}).unfit(3, "uint16") == ""
    assert "jpeg is for images of 8 bits" in only(jpeg=50).unfit(channels, "uint16")


OTHER_LOOKS = {"hed": 0.2, "dull": 0.3, "white_balance": 0.1, "defocus_px": 4.0, "jpeg": 40, "erythrocytes": 1.0}


@pytest.mark.parametrize("kind", OTHER_LOOKS)
def test_each_look_varies_a_patch_by_its_seed_and_draws_nothing_when_off(kind: str) -> None:
    image = np.repeat(np.repeat(random_image(8, 8, 3), 6, axis=0), 6, axis=1)
    foreground = np.zeros(image.shape[:2], bool)
    looks = []
    for seed in (0, 1, 2, 2):
        rng = np.random.default_rng(seed)
        got, keep = jitter(image, foreground, rng, only(**{kind: OTHER_LOOKS[kind]}))
        assert (got.dtype, got.shape, keep) == (np.float32, image.shape, True)
        assert got.min() >= 0
        assert got.max() <= 1
        looks.append(got)
    np.testing.assert_array_equal(looks[2], looks[3])
    assert any((one != image).any() for one in looks)
    assert (looks[0] != looks[1]).any() or (looks[1] != looks[2]).any()
    quiet, untouched = np.random.default_rng(0), np.random.default_rng(0)
    jitter(image, foreground, quiet, NO_AUGMENTATION)
    assert quiet.bit_generator.state == untouched.bit_generator.state


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("elastic_px", -1.0),
        ("elastic_px", math.nan),
        ("elastic_grid", 1),
        ("scale", 0.8),
        ("scale", math.inf),
        ("intensity", -0.1),
        ("noise", math.inf),
        ("blur_px", -2.0),
        ("stain", -1.0),
        ("restain", 1.5),
        ("hed", 1.0),
        ("restyle", 1.5),
        ("dull", 1.0),
        ("defocus_px", -1.0),
        ("jpeg", 101),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"\[augmentation\] {name} {value}"):
        Augmentation(**{name: value})  # type: ignore[arg-type]
