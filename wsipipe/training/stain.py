"""Other stains: the colours of stained tissue, varied as between laboratories and scanners.

Colours are mixed as optical densities, in which stains add up (Beer and Lambert):
``density = -log(transmitted share)``.
Images are RGB, float32 (y, x, 3), in 0 .. 1.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from wsipipe.arrays import Mask

FloatImage = npt.NDArray[np.float32]
Channel = npt.NDArray[np.float32]

DARKEST = np.float32(1 / 256)
"""Added to a transmitted share before its logarithm is taken: half a grey level at black and white alike."""
NO_NUCLEI = 0.2
"""Share of the restained patches drawn without nuclei, so that the network sees eosin and debris alone."""
DARK_MATTER = 0.3
"""Share of the restained patches drawn with keratin, ink or folds."""
DENSITY_OF_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
"""(stain, channel): optical density of one unit of haematoxylin, of eosin, and of DAB."""
HED_OF_DENSITY = np.linalg.inv(DENSITY_OF_HED.astype(np.float64)).astype(np.float32)
COARSEST_PX = 25.0
"""The largest standard deviation that a texture is smoothed with, in px."""


def density_of(image: FloatImage) -> FloatImage:
    """Optical density (natural logarithm) of the transmitted shares ``image``, float32, (y, x, 3) or any axes (...)."""
    density: FloatImage = -np.log(image * (1 - DARKEST) + DARKEST)
    return density


def image_of(density: FloatImage) -> FloatImage:
    """The inverse of `density_of`, float32, (y, x, 3) or any axes (...)."""
    image: FloatImage = (np.exp(-density) - DARKEST) / (1 - DARKEST)
    return image


def jitter_stain(image: FloatImage, rng: np.random.Generator, strength: float) -> FloatImage:
    """``image`` stained and scanned a little differently, float32 (y, x, 3), not clipped.

    Parameters
    ----------
    image
        RGB, float32 (y, x, 3), in 0 .. 1.
    rng
        Draws, for each channel, a gain of the optical density, exp(strength * z), an offset, 0.3 * strength * z, and
        from each other channel a share of 0.2 * strength * z that is mixed in; z is normal, of standard deviation 1.
    strength
        See ``rng``; 0.2 spans the usual range of laboratories.
    """
    gain = np.exp(strength * rng.standard_normal(3))
    mixing = np.diag(gain) + 0.2 * strength * rng.standard_normal((3, 3)) * (1 - np.eye(3))
    offset = 0.3 * strength * rng.standard_normal(3)
    # einsum, not @: BLAS may add up in another order on other numbers of threads
    mixed = np.einsum("yxa,ab->yxb", density_of(image), mixing.astype(np.float32))
    return image_of(mixed + offset.astype(np.float32))


def jitter_hed(image: FloatImage, rng: np.random.Generator, strength: float) -> FloatImage:
    """``image`` with other amounts of haematoxylin, eosin and DAB, float32 (y, x, 3), not clipped.

    Parameters
    ----------
    image
        RGB, float32 (y, x, 3), in 0 .. 1.
    rng
        Draws, for each stain, a gain of its amount, evenly from 1 - ``strength`` to 1 + ``strength``, and what is
        added to it, evenly up to 0.3 * ``strength`` either way.
    strength
        See ``rng``; 0.2 is strong.

    Sources: Ruifrok and Johnston 2001 (the three colours); Tellez et al. 2018, doi:10.1109/TMI.2018.2820199 (jitter).
    """
    gain, offset = rng.uniform(1 - strength, 1 + strength, 3), 0.3 * rng.uniform(-strength, strength, 3)
    amounts = np.einsum("yxc,cs->yxs", density_of(image), HED_OF_DENSITY)
    moved = amounts * gain.astype(np.float32) + offset.astype(np.float32)
    return image_of(np.einsum("yxs,sc->yxc", moved, DENSITY_OF_HED))


def with_erythrocytes(image: FloatImage, foreground: Mask, rng: np.random.Generator, diameter_px: float) -> FloatImage:
    """``image`` with red cells in a vessel or loose, away from nuclei, float32 (y, x, 3), not clipped.

    Parameters
    ----------
    image
        RGB of stained tissue, float32 (y, x, 3), in 0 .. 1.
    foreground
        Where nuclei are, bool (y, x).
    rng
        Draws their number, places, shapes and colour.
    diameter_px
        Their mean diameter.
    """
    side = np.array(image.shape[:2])
    centre, spread = rng.uniform(0, 1, 2) * side, math.exp(rng.uniform(math.log(diameter_px), math.log(side.max())))
    cells = np.zeros(image.shape[:2], np.float32)
    for _ in range(rng.integers(3, 40)):
        y, x = centre + spread * rng.standard_normal(2)
        radius, flat, turn = diameter_px / 2 * rng.uniform(0.85, 1.1), rng.uniform(0.7, 1), rng.uniform(0, math.pi)
        _draw_cell(cells, y, x, radius, flat, turn)
    color = np.array([rng.uniform(0.02, 0.2), rng.uniform(0.5, 1.2), rng.uniform(0.4, 1.0)], np.float32)
    away = 1 - ndimage.gaussian_filter(foreground.astype(np.float32), 1)
    away[foreground] = 0
    return image_of(density_of(image) + (cells * away)[..., None] * color)


def _draw_cell(cells: Channel, y: float, x: float, radius_px: float, flat: float, turn: float) -> None:
    """Draw a cell into ``cells``, (y, x): 1 at its rim, paler in the middle, unless there is more already."""
    reach = math.ceil(radius_px) + 1
    rows, cols = (
        np.arange(max(0, round(c) - reach), min(n, round(c) + reach + 1))
        for c, n in zip((y, x), cells.shape, strict=True)
    )
    if not len(rows) or not len(cols):
        return
    dy, dx = rows[:, None] - y, cols - x
    along, across = dy * math.sin(turn) + dx * math.cos(turn), dy * math.cos(turn) - dx * math.sin(turn)
    r = np.hypot(along, across / flat) / radius_px
    shade = ((1 - r) * radius_px + 0.5).clip(0, 1) * (0.7 + 0.3 * np.minimum(r, 1) ** 2)
    here = np.ix_(rows, cols)
    cells[here] = np.maximum(cells[here], shade.astype(np.float32))


def restain(image: FloatImage, foreground: Mask, rng: np.random.Generator) -> tuple[FloatImage, bool]:
    """Haematoxylin of ``image`` in another colour, over drawn eosin, glass and debris; and whether it still has nuclei.

    A field without eosin then looks as if it had been counterstained. `NO_NUCLEI` of the patches lose their nuclei, so
    that the network learns that pink and dirt are background.

    Parameters
    ----------
    image
        RGB of tissue stained with haematoxylin, float32 (y, x, 3), in 0 .. 1.
    foreground
        Where nuclei are, bool (y, x); eosin is drawn around them, and dark matter away from them.
    rng
        Draws everything.
    """
    keep = rng.random() >= NO_NUCLEI
    nuclei = (foreground & keep).astype(np.float32)
    blue = haematoxylin_of(image, foreground) * np.float32(keep)
    density = counterstained(blue, nuclei, rng)
    if rng.random() < DARK_MATTER:
        density += dark_matter(nuclei, rng)
    return image_of(density), keep


def haematoxylin_of(image: FloatImage, foreground: Mask) -> Channel:
    """Optical density of red, which eosin transmits, above that of the background, float32 (y, x), 0 or more."""
    red = density_of(image[..., 0])
    background = red[~foreground]
    glass = np.median(background) if len(background) else red.min()
    return np.maximum(red - glass, np.float32(0))


def counterstained(blue: Channel, nuclei: Channel, rng: np.random.Generator) -> FloatImage:
    """Optical density, float32 (y, x, 3), of haematoxylin in a drawn colour, over drawn eosin and glass.

    Parameters
    ----------
    blue
        Optical density of the haematoxylin, float32 (y, x).
    nuclei
        1 where eosin should be thinner, 0 elsewhere, float32 (y, x).
    rng
        Draws the colours and the amount of each.
    """
    haematoxylin = np.array([1, rng.uniform(0.9, 1.5), rng.uniform(0.3, 0.9)], np.float32)
    eosin = np.array([rng.uniform(0.03, 0.25), 1, rng.uniform(0.2, 0.75)], np.float32)
    cytoplasm = _share(rng, 0, 0.8) * texture(blue.shape, rng, finest_px=8)
    pink = _share(rng, 0, 1.4) * texture(blue.shape, rng) + _share(rng, 0, 0.4) * texture(blue.shape, rng)
    pink *= 1 - _share(rng, 0.2, 0.9) * ndimage.gaussian_filter(nuclei, 1)
    stained = blue * _share(rng, 0.7, 1.8) + cytoplasm
    glass = rng.uniform(0, 0.08, 3).astype(np.float32)
    density = stained[..., None] * haematoxylin + pink[..., None] * eosin + glass
    return density.astype(np.float32, copy=False)


def dark_matter(nuclei: Channel, rng: np.random.Generator) -> FloatImage:
    """Optical density (y, x, 3), float32, of keratin, ink or folds: dark, of any colour, long, away from ``nuclei``."""
    away = (1 - ndimage.gaussian_filter(nuclei, 6)) ** 4
    where = texture(nuclei.shape, rng, finest_px=20) * away
    where *= texture(nuclei.shape, rng, stretch=rng.uniform(2, 4))
    color = rng.uniform(0.3, 2, 3).astype(np.float32)
    density: FloatImage = where[..., None] * color
    return density


def texture(
    shape: tuple[int, ...], rng: np.random.Generator, *, finest_px: float = 1.5, stretch: float | None = None
) -> Channel:
    """Fibres, cells or clouds: noise, smoothed, stretched one way, its contrast raised, float32 (y, x), in 0 .. 1.

    Parameters
    ----------
    shape
        (y, x), px. The texture is periodic.
    rng
        Draws the noise, its direction, its scale and its contrast.
    finest_px
        The smallest standard deviation that the noise is smoothed with; the largest is `COARSEST_PX`.
    stretch
        Root of the ratio of length to width of its grains; by default drawn from 1 to 3.
    """
    turn, stretch = rng.uniform(0, math.pi), stretch or rng.uniform(1, 3)
    sigma_px = math.exp(rng.uniform(math.log(finest_px), math.log(COARSEST_PX)))
    y, x = (f.astype(np.float32) for f in (np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])))
    along, across = y * math.sin(turn) + x * math.cos(turn), y * math.cos(turn) - x * math.sin(turn)
    blur = np.exp(-2 * (math.pi * sigma_px) ** 2 * ((along * stretch) ** 2 + (across / stretch) ** 2))
    blur[0, 0] = 0  # the mean, which in a patch smaller than a grain would be all there is
    noise = fft.irfft2(fft.rfft2(rng.standard_normal(shape, np.float32)) * blur, shape)
    noise /= noise.std() or 1
    grey: Channel = 1 / (1 + np.exp(_share(rng, -8, -1) * (noise + _share(rng, -1, 2))))
    return grey


def _share(rng: np.random.Generator, low: float, high: float) -> np.float32:
    """A number drawn evenly from ``low`` to ``high``, float32 so that arrays stay float32."""
    return np.float32(rng.uniform(low, high))
