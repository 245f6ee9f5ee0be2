"""Other looks: L*a*b* against scikit-image, and what stains, cameras and red cells do to a patch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage import color

from tests.training.discs import changed, made_setup, write_discs
from wsipipe.training.cameras import compressed, disc, dulled, out_of_focus
from wsipipe.training.stain import HED_OF_DENSITY, density_of, jitter_hed, with_erythrocytes
from wsipipe.training.styles import Styles, lab_of, look_of, restyled, rgb_of

RNG = np.random.default_rng(0)
IMAGE = RNG.random((40, 48, 3), np.float32)


def test_lab_and_back_are_those_of_scikit_image() -> None:
    np.testing.assert_allclose(lab_of(IMAGE), color.rgb2lab(IMAGE), atol=0.02)
    np.testing.assert_allclose(rgb_of(lab_of(IMAGE)), IMAGE, atol=1e-4)
    grey = np.full((1, 1, 3), 0.5, np.float32)
    np.testing.assert_allclose(lab_of(grey)[0, 0, 1:], 0, atol=0.05)


def test_drawn_looks_have_mean_and_covariance_of_the_training_images() -> None:
    looks = np.random.default_rng(1).normal([60, 20, -10, 12, 5, 4], [8, 4, 3, 2, 1, 1], (40, 6))
    looks[:, 1] += looks[:, 0] / 4
    rng = np.random.default_rng(2)
    drawn = np.array([Styles(looks).draw(rng) for _ in range(4000)])
    np.testing.assert_allclose(drawn.mean(0), looks.mean(0), atol=0.6)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(looks.T), atol=8)


def test_restyled_patch_has_the_look_that_was_drawn() -> None:
    pale = (0.5 + 0.1 * IMAGE).astype(np.float32)
    wanted = np.array([65.0, 8.0, -6.0, 4.0, 3.0, 3.0])
    np.testing.assert_allclose(look_of(restyled(pale, Styles(wanted[None]), RNG)), wanted, atol=0.2)


def test_training_draws_looks_from_its_own_patches(tmp_path: Path) -> None:
    config = changed(augmentation={"restyle": 1.0})
    maker = made_setup(write_discs(tmp_path / "data"), config, tmp_path).maker
    assert maker.styles is not None
    assert maker.styles.looks.shape == (128, 6)
    assert 20 < maker.styles.looks[:, 0].mean() < 60  # L* of grey about 100 of 255
    assert (maker.patch(0).image != made_setup(tmp_path / "data", changed(), tmp_path).maker.patch(0).image).any()


def test_hed_moves_each_stain_by_its_own_gain() -> None:
    moved = jitter_hed(IMAGE * 0.8 + 0.1, np.random.default_rng(3), 0.1)
    before, after = (np.einsum("yxc,cs->yxs", density_of(one), HED_OF_DENSITY) for one in (IMAGE * 0.8 + 0.1, moved))
    for stain in range(3):
        gain, offset = np.polyfit(before[..., stain].ravel(), after[..., stain].ravel(), 1)
        assert 0.9 <= gain <= 1.1
        assert abs(offset) <= 0.03
        np.testing.assert_allclose(after[..., stain], gain * before[..., stain] + offset, atol=1e-3)


def test_dull_camera_lowers_white_and_balance_keeps_the_mean_of_logarithms() -> None:
    white = np.ones((2, 2, 3), np.float32)
    dulls = [float(dulled(white, np.random.default_rng(s), 0.3, 0.0)[0, 0, 0]) for s in range(200)]
    assert 0.7 <= min(dulls) < 0.72
    assert 0.98 < max(dulls) <= 1
    tinted = dulled(white, np.random.default_rng(0), 0.0, 0.1)[0, 0]
    assert np.ptp(tinted) > 0.01
    assert np.log(tinted).mean() == pytest.approx(0, abs=1e-6)


def test_out_of_focus_is_a_convolution_with_a_disc() -> None:
    assert disc(3.0).sum() == pytest.approx(1)
    assert (disc(3.0) > 0).sum() == pytest.approx(np.pi * 3.5**2, rel=0.1)
    for seed in range(8):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        got = out_of_focus(IMAGE, rng, 5.0)
        if again.random() < 0.5:
            assert got is IMAGE
        else:
            kernel = disc(again.uniform(0, 5.0))[..., None]
            np.testing.assert_allclose(got, ndimage.convolve(IMAGE, kernel, mode="reflect"), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_of_low_quality_loses_more(channels: int) -> None:
    image = ndimage.gaussian_filter(IMAGE, (2, 2, 0))[..., :channels]
    losses = {}
    for least in (5, 94):
        got = compressed(image, np.random.default_rng(0), least)
        assert (got.shape, got.dtype) == (image.shape, np.float32)
        losses[least] = np.abs(got - image).mean()
    assert losses[94] < losses[5] < 0.1


def test_erythrocytes_are_red_discs_beside_the_nuclei() -> None:
    tissue = np.full((96, 96, 3), 0.8, np.float32)
    nuclei = np.zeros((96, 96), bool)
    nuclei[30:60, 30:60] = True
    changed_px = 0
    for seed in range(6):
        got = with_erythrocytes(tissue, nuclei, np.random.default_rng(seed), 12.0)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got[nuclei], 0.8, atol=1e-5)
        cells = got[..., 1] < 0.75
        changed_px += cells.sum()
        assert (got[cells][:, 0] > got[cells][:, 1]).all(), "red"
    assert changed_px > 6 * 100
