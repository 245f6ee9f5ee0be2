from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from wsipipe.training.stain import NO_NUCLEI, density_of, haematoxylin_of, image_of, jitter_stain, restain, texture

SIDE = 64


def tissue(seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Blue nuclei on a bright background, and where they are."""
    y, x = np.indices((SIDE, SIDE))
    nuclei = np.hypot(y % 32 - 16, x % 32 - 16) < 8
    image = np.where(nuclei[..., None], [0.4, 0.3, 0.6], [0.9, 0.88, 0.92])
    noise = np.random.default_rng(seed).normal(0, 0.01, image.shape)
    return (image + noise).astype(np.float32), nuclei


def test_density_and_back_is_the_image_black_and_white_included() -> None:
    levels = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16, 1).repeat(3, axis=-1)
    density = density_of(levels)
    assert density.dtype == np.float32
    assert density.max() == pytest.approx(np.log(256))
    assert density.min() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(image_of(density), levels, atol=1e-6)


def test_stain_of_no_strength_is_the_image() -> None:
    image, _ = tissue()
    np.testing.assert_allclose(jitter_stain(image, np.random.default_rng(0), 0.0), image, atol=1e-6)


def test_stain_varies_each_channel_by_its_strength() -> None:
    image, rng, strength = np.full((1, 1, 3), 0.4, np.float32), np.random.default_rng(0), 0.05
    moved = np.array([density_of(jitter_stain(image, rng, strength))[0, 0] for _ in range(3000)])
    density = density_of(image)[0, 0, 0]
    # the channel's own gain, the shares of two others, the offset
    wanted = strength * np.sqrt(density**2 * (1 + 2 * 0.2**2) + 0.3**2)
    np.testing.assert_allclose(moved.std(axis=0), wanted, rtol=0.08)
    np.testing.assert_allclose(moved.mean(axis=0), density, rtol=0.01)


def test_haematoxylin_is_the_red_density_above_the_glass() -> None:
    image, nuclei = tissue()
    blue = haematoxylin_of(image, nuclei)
    assert blue.dtype == np.float32
    assert blue.min() >= 0
    assert blue[nuclei].mean() == pytest.approx(np.log(0.9 / 0.4), abs=0.02)
    assert blue[~nuclei].mean() < 0.01


def test_haematoxylin_of_a_patch_that_is_all_nucleus_or_none() -> None:
    image, _ = tissue()
    for foreground in (np.ones((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool)):
        assert np.isfinite(haematoxylin_of(image, foreground)).all()


@pytest.mark.parametrize("seed", range(12))
def test_what_is_restained_keeps_shape_type_and_nuclei(seed: int) -> None:
    image, nuclei = tissue()
    got, keep = restain(image, nuclei, np.random.default_rng(seed))
    assert got.shape == image.shape
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    assert got.min() > -0.01
    assert got.max() <= 1
    if keep:  # red sees haematoxylin, hardly eosin
        assert got[nuclei, 0].mean() < got[~nuclei, 0].mean()


def test_without_nuclei_nothing_of_the_image_is_left() -> None:
    image, nuclei = tissue()
    other, elsewhere = 1 - image, ~nuclei
    kept = []
    for seed in range(100):
        got, keep = restain(image, nuclei, np.random.default_rng(seed))
        kept.append(keep)
        again, _ = restain(other, elsewhere, np.random.default_rng(seed))
        assert np.array_equal(got, again) != keep
    assert np.mean(kept) == pytest.approx(1 - NO_NUCLEI, abs=0.1)


def test_restained_patches_have_many_colors() -> None:
    image, nuclei = tissue()
    colors = np.array([restain(image, nuclei, np.random.default_rng(s))[0].mean((0, 1)) for s in range(40)])
    assert (colors.std(axis=0) > 0.05).all()
    assert (colors[:, 1] < colors[:, 0]).mean() > 0.8, "eosin takes green, not red"


@pytest.mark.parametrize("shape", [(64, 64), (33, 50), (1, 7)])
def test_a_texture_is_a_share_everywhere(shape: tuple[int, int]) -> None:
    for seed in range(10):
        grey = texture(shape, np.random.default_rng(seed))
        assert grey.shape == shape
        assert grey.dtype == np.float32
        assert grey.min() >= 0
        assert grey.max() <= 1


def test_coarse_textures_are_coarser() -> None:
    def slope(finest_px: float) -> float:
        drawn = [texture((128, 128), np.random.default_rng(s), finest_px=finest_px, stretch=1.0) for s in range(20)]
        return float(np.mean([np.abs(np.diff(t, axis=0)).mean() / t.std() for t in drawn]))

    assert slope(20) < slope(1.5) / 2
