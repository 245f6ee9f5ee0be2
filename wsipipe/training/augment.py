"""Augmentation: patches rotated, bent, relit and restained, the labels along with them.

The paper (arXiv:1505.04597, section 3.1) has shifts, rotations, elastic deformations and grey values. Geometry is
one map: for each pixel of the patch the position that it comes from, relative to the patch's centre, px, axes (y, x)::

    positions = turn @ (flip * offsets) / zoom + elastic

    control points, 3 x 3      o---------o---------o     each is moved by a normal deviate in y and in x;
    over the patch             |    |    |    |    |     between them a cubic spline, in y and in x
                               o---------o---------o

The image is sampled there with cubic interpolation, the labels by the nearest pixel. All random numbers come from the
generator that is passed in, so that a seed gives the same bytes, whatever the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from scipy.interpolate import CubicSpline

from wsipipe.arrays import Mask
from wsipipe.errors import UsageError
from wsipipe.tables import bound_problems, bounded
from wsipipe.training.cameras import compressed, dulled, out_of_focus
from wsipipe.training.stain import jitter_hed, jitter_stain, restain, with_erythrocytes
from wsipipe.training.styles import Styles, restyled

FloatImage = npt.NDArray[np.float32]
Positions = npt.NDArray[np.float64]
Label = TypeVar("Label", bound=np.generic)

INSIDE_PX = 2
"""Distance of every position from the image's border, at least: cubic interpolation reads two pixels at either side."""


@dataclass(frozen=True)
class Augmentation:
    """Variation of patches; `NO_AUGMENTATION` leaves them as they are.

    Raises
    ------
    UsageError
        If a value is out of its bounds.
    """

    elastic_px: float = bounded(10.0, least=0)
    """Standard deviation of the displacement of the control points, in y and in x, px (the paper: 10); 0: none."""
    elastic_grid: int = bounded(3, least=2, hint="fewer control points per side do not span a patch")
    """Control points per side of the patch (the paper: 3)."""
    flip: bool = True
    """Whether half of the patches are mirrored."""
    rotate: bool = True
    """Whether patches are rotated, by any angle."""
    scale: float = bounded(1.25, least=1, hint="1.25 draws from 1 / 1.25 to 1.25")
    """Objects appear up to this many times larger or smaller, each equally likely; 1: never."""
    intensity: float = bounded(0.1, least=0)
    """Standard deviation of the logarithms of contrast and of brightness, and, halved, of what is added to every
    channel, full scale being 1; 0: none."""
    noise: float = bounded(0.02, least=0)
    """Largest standard deviation of the noise that is added to every pixel, full scale being 1; 0: none."""
    blur_px: float = bounded(0.5, least=0)
    """Other optics, and sharpened scans: detail finer than a Gaussian of this standard deviation loses up to 0.7 of its
    contrast, or gains up to 1.2; 0: neither."""
    stain: float = bounded(0.0, least=0)
    """RGB only: standard deviation of the logarithm of each channel's optical density, with some offset and mixing of
    channels (`jitter_stain`); 0: none."""
    restain: float = bounded(0.0, least=0, most=1)
    """RGB images with haematoxylin only: share of the patches that are drawn in other colours over drawn eosin, a
    fifth of them without nuclei (`wsipipe.training.stain.restain`); 0: none."""
    hed: float = bounded(0.0, least=0, below=1)
    """RGB only: the amounts of haematoxylin, eosin and DAB are multiplied by 1 - this to 1 + this, and moved
    (`wsipipe.training.stain.jitter_hed`); 0: none."""
    restyle: float = bounded(0.0, least=0, most=1)
    """RGB only: share of the patches that get the mean and the spread of lightness and colour of another look, drawn
    from the statistics of all training images (`wsipipe.training.styles`); 0: none."""
    erythrocytes: float = bounded(0.0, least=0, most=1)
    """RGB only: share of the patches with drawn red cells, which are background; 0: none."""
    erythrocyte_px: float = bounded(15.0, above=0)
    """Mean diameter of these, px: 7.5 um at 0.5 um per pixel."""
    dull: float = bounded(0.0, least=0, below=1)
    """Dull cameras: white becomes 1 - this at the darkest, full scale being 1; 0: none."""
    white_balance: float = bounded(0.0, least=0)
    """Standard deviation of the logarithm of each channel's brightness, relative to the others; 0: none."""
    defocus_px: float = bounded(0.0, least=0)
    """Half of the patches are blurred by a disc of up to this radius, as by a lens out of focus; 0: none."""
    jpeg: int = bounded(0, least=0, most=100)
    """Images of 8 bits only: lowest quality of JPEG that patches are compressed with, the highest being 95; 0: none."""

    def __post_init__(self) -> None:
        for _, problem in bound_problems(self, ("augmentation",)):
            raise UsageError(problem)

    def unfit(self, channels: int, dtype: str) -> str:
        """Why images of so many channels of ``dtype`` cannot be varied like this; empty if they can."""
        names = [name for name in ("stain", "restain", "hed", "restyle", "erythrocytes") if getattr(self, name) > 0]
        if names and channels != 3:
            number = ("is", "it") if len(names) == 1 else ("are", "them")
            return f"[augmentation] {' and '.join(names)} {number[0]} for RGB images; set {number[1]} to 0"
        if self.jpeg and (channels not in (1, 3) or dtype != "uint8"):
            return "[augmentation] jpeg is for images of 8 bits with 1 or 3 channels; set it to 0"
        return ""


NO_AUGMENTATION = Augmentation(
    elastic_px=0, flip=False, rotate=False, scale=1, intensity=0, noise=0, blur_px=0, stain=0, restain=0
)


def source_positions(rng: np.random.Generator, side: int, augmentation: Augmentation) -> Positions:
    """Where each pixel of a patch comes from, relative to its centre, px, float64 (2, side, side), (y, x) first.

    The centre of an even number of pixels lies between two. Without augmentation: ``pixel - (side - 1) / 2``.
    """
    turn = rng.uniform(0, 2 * np.pi) if augmentation.rotate else 0.0
    flip = rng.choice([-1, 1]) if augmentation.flip else 1
    zoom = augmentation.scale ** rng.uniform(-1, 1)
    # cos and sin of 0 are whole, so that nothing is rounded where nothing is turned
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * [1, flip] / zoom
    offsets = np.arange(side) - (side - 1) / 2
    positions: Positions = matrix[:, :1, None] * offsets[:, None] + matrix[:, 1:, None] * offsets
    if augmentation.elastic_px:
        positions += elastic(rng, side, points=augmentation.elastic_grid, sigma_px=augmentation.elastic_px)
    return positions


def elastic(rng: np.random.Generator, side: int, *, points: int, sigma_px: float) -> Positions:
    """Smooth random displacements, px, float64 (2, side, side): bicubic between ``points`` x ``points`` control points.

    The control points lie evenly over the patch, those at the border on its outermost pixels. Their displacements are
    normal, of standard deviation ``sigma_px`` in y and in x; the cubic spline through them is a natural one.
    """
    moved = rng.normal(0, sigma_px, (2, points, points))
    spline = CubicSpline(np.linspace(0, side - 1, points), np.eye(points), bc_type="natural")(np.arange(side))
    # einsum, not @: BLAS may add up in another order on other numbers of threads
    down = np.einsum("yi,aij->ayj", spline, moved)
    displacements: Positions = np.einsum("ayj,xj->ayx", down, spline)
    return displacements


def sample_image(pixels: FloatImage, positions: Positions) -> FloatImage:
    """``pixels`` (h, w, c) at ``positions`` (2, s, s), by cubic convolution, float32 (s, s, c).

    At whole positions it is the pixel, to the precision of float32. Values may overshoot those of the pixels around.

    Parameters
    ----------
    pixels
        float32 (h, w, c).
    positions
        In px of ``pixels``, (y, x) first; pixel centres are whole. At least `INSIDE_PX` inside the image.
    """
    low = np.floor(positions.min(axis=(1, 2))).astype(int) - INSIDE_PX + 1
    high = np.floor(positions.max(axis=(1, 2))).astype(int) + INSIDE_PX + 1
    assert min(low) >= 0, f"{low}, {high}"
    assert all(high <= pixels.shape[:2]), f"{low}, {high} of {pixels.shape}"
    window = pixels[low[0] : high[0], low[1] : high[1]].transpose(2, 0, 1).astype(np.float64)
    # 380 x 380 x 3 px take 42 ms; in float32 20 ms, but positions are then 5e-5 px off. scipy's splines take 190 ms.
    shares = 2 * (positions - low[:, None, None]) / (high - low - 1)[:, None, None] - 1
    grid = torch.from_numpy(np.stack([shares[1], shares[0]], axis=-1))[None]
    sampled = torch.nn.functional.grid_sample(torch.from_numpy(window)[None], grid, "bicubic", align_corners=True)
    image: FloatImage = sampled[0].permute(1, 2, 0).float().contiguous().numpy()
    return image


def sample_labels(labels: npt.NDArray[Label], positions: Positions) -> npt.NDArray[Label]:
    """``labels``, (h, w), any dtype, at the pixels nearest to ``positions``, (2, s, s), float64; (s, s)."""
    y, x = np.rint(positions).astype(np.int64)
    nearest: npt.NDArray[Label] = labels[y, x]
    return nearest


def jitter(
    image: FloatImage,
    foreground: Mask,
    rng: np.random.Generator,
    augmentation: Augmentation,
    styles: Styles | None = None,
) -> tuple[FloatImage, bool]:
    """``image`` as another laboratory and scanner would show it, in 0 .. 1; and whether its objects are still there.

    Parameters
    ----------
    image
        Share of full scale, float32 (s, s, c), of a kind that `Augmentation.unfit` finds fit.
    foreground
        Where objects are, bool (s, s).
    rng
        Draws everything. What is off draws nothing, so that the patches of a seed stay the same.
    augmentation
        How far to vary it.
    styles
        The looks for its ``restyle``.

    Returns
    -------
    image
        float32 (s, s, c), another array.
    keep_objects
        False if the patch was redrawn without its objects: its labels are then background.
    """
    image, keep_objects = restained(image, foreground, rng, augmentation, styles)
    image = exposed(image, rng, augmentation.intensity)
    if augmentation.dull or augmentation.white_balance:
        image = dulled(image, rng, augmentation.dull, augmentation.white_balance)
    if augmentation.defocus_px:
        image = out_of_focus(image, rng, augmentation.defocus_px)
    if augmentation.blur_px:
        image = defocused(image, rng, augmentation.blur_px)
    if augmentation.noise:
        sigma = np.float32(rng.uniform(0, augmentation.noise))
        image = image + sigma * rng.standard_normal(image.shape, np.float32)
    if augmentation.jpeg:
        image = compressed(image, rng, augmentation.jpeg)
    return image.clip(0, 1), keep_objects


def restained(
    image: FloatImage,
    foreground: Mask,
    rng: np.random.Generator,
    augmentation: Augmentation,
    styles: Styles | None = None,
) -> tuple[FloatImage, bool]:
    """The part of `jitter` about stains: float32 (s, s, c), not clipped, and whether its objects are still there."""
    keep_objects = True
    if augmentation.restain and rng.random() < augmentation.restain:
        image, keep_objects = restain(image, foreground, rng)
    elif augmentation.stain:
        image = jitter_stain(image, rng, augmentation.stain)
    if augmentation.hed:
        image = jitter_hed(image.clip(0, 1), rng, augmentation.hed)
    if styles is not None and rng.random() < augmentation.restyle:
        image = restyled(image.clip(0, 1), styles, rng)
    if augmentation.erythrocytes and rng.random() < augmentation.erythrocytes:
        image = with_erythrocytes(
            image.clip(0, 1), foreground & keep_objects, rng, diameter_px=augmentation.erythrocyte_px
        )
    return image, keep_objects


def exposed(image: FloatImage, rng: np.random.Generator, sigma: float) -> FloatImage:
    """``image`` with another contrast, about its mean, and another brightness, float32 (s, s, c), not clipped."""
    if not sigma:
        return image
    contrast, brightness = np.exp(rng.normal(0, sigma, 2))
    offset = rng.normal(0, sigma / 2)
    mean = image.mean(dtype=np.float64)
    gain = contrast * brightness
    return image * np.float32(gain) + np.float32(mean * (brightness - gain) + offset)


def defocused(image: FloatImage, rng: np.random.Generator, sigma_px: float) -> FloatImage:
    """``image`` through better or worse optics, float32 (s, s, c), not clipped."""
    fine = image - ndimage.gaussian_filter(image, (sigma_px, sigma_px, 0))
    refocused: FloatImage = image + np.float32(rng.uniform(-0.7, 1.2)) * fine
    return refocused
