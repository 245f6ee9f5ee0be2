"""Text and scale bars of pictures."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsipipe.slides.pixels.overview import RgbImage

CAPTION_PX = 44
"""Height of the strip below a picture that `captioned` adds."""
LEAST_CAPTION_PX = 360
"""Least width of that strip: a narrower picture gets white at its right."""
TITLE_PX = 18
"""Height of the strip above a picture that `titled` adds."""
TEXT_PX, LEAST_TEXT_PX = 16, 11
"""Sizes of the font, on large and on small pictures."""
BAR_SHARE = 0.25
"""Largest share of a picture's width that a scale bar takes."""
LEAST_BAR_PX = 100
"""Narrower pictures, or lower ones than half of it, get no scale bar, which would hide them."""
MARGIN_PX = 12
FONT = Path(__file__).with_name("DejaVuSans.ttf")
"""Latin, Greek, Cyrillic and more, of https://dejavu-fonts.github.io."""
INK, PAPER = (26, 30, 35), (255, 255, 255)


def scale_bar(um_per_px: float, most_px: float) -> tuple[float, str]:
    """The length in px, and the name, of the longest scale bar of at most ``most_px``: 1, 2 or 5 of a power of ten."""
    most = um_per_px * most_px
    power = 10.0 ** math.floor(math.log10(most))
    um = max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))
    return um / um_per_px, f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm"


def with_scale_bar(image: RgbImage, um_per_px: float | None) -> RgbImage:
    """``image`` (y, x, 3), uint8, with a scale bar in its lower left corner, unless it is too small for one.

    Parameters
    ----------
    image
        The picture, which stays as it is.
    um_per_px
        Micrometres that a pixel of it spans; None, if that is unknown, gives no scale bar.
    """
    height, width = image.shape[:2]
    if um_per_px is None or width < LEAST_BAR_PX or height < LEAST_BAR_PX / 2:
        return image
    font = _font(TEXT_PX if width >= 600 else LEAST_TEXT_PX)
    bar, name = scale_bar(um_per_px, BAR_SHARE * width)
    drawn = Image.fromarray(image)
    draw = ImageDraw.Draw(drawn)
    wide, tall = max(bar, font.getlength(name)) + 10, font.size + 13
    left, top = 4, height - 4 - tall
    draw.rectangle((left, top, left + wide, top + tall), fill=PAPER)
    draw.text((left + 5, top + 2), name, INK, font)
    draw.rectangle((left + 5, top + tall - 6, left + 5 + round(bar) - 1, top + tall - 4), fill=INK)
    return np.array(drawn)


def captioned(image: RgbImage, text: str, um_per_px: float | None) -> RgbImage:
    """``image`` (y, x, 3), uint8, above a strip of `CAPTION_PX` with ``text`` and a scale bar.

    Characters that cannot be printed become ``?``, and a text that is too long loses its middle.
    """
    height, width = image.shape[:2]
    wide = max(width, LEAST_CAPTION_PX)
    drawn = Image.new("RGB", (wide, height + CAPTION_PX), PAPER)
    drawn.paste(Image.fromarray(image), (0, 0))
    draw, font, middle = ImageDraw.Draw(drawn), _font(TEXT_PX), height + CAPTION_PX // 2
    right = wide - MARGIN_PX
    if um_per_px is not None:
        bar, name = scale_bar(um_per_px, min(BAR_SHARE * wide, width))
        draw.rectangle((right - round(bar) + 1, middle + 7, right, middle + 10), fill=INK)
        draw.text((right, middle + 2), name, INK, font, anchor="rs")
        right -= round(max(bar, font.getlength(name))) + MARGIN_PX
    draw.text((MARGIN_PX, middle), _fitting(text, font, right - MARGIN_PX), INK, font, anchor="lm")
    return np.array(drawn)


def titled(image: RgbImage, text: str) -> RgbImage:
    """``image`` (y, x, 3), uint8, below a strip of `TITLE_PX` with ``text``, without its middle if it is too long."""
    height, width = image.shape[:2]
    drawn = Image.new("RGB", (width, height + TITLE_PX), PAPER)
    drawn.paste(Image.fromarray(image), (0, TITLE_PX))
    font = _font(LEAST_TEXT_PX)
    ImageDraw.Draw(drawn).text((2, TITLE_PX // 2), _fitting(text, font, width - 4), INK, font, anchor="lm")
    return np.array(drawn)


def _fitting(text: str, font: ImageFont.FreeTypeFont, most_px: float) -> str:
    """``text`` as it can be drawn in ``most_px``."""
    drawable = "".join(c if c.isprintable() else "?" for c in text)
    left = right = (len(drawable) + 1) // 2
    if font.getlength(drawable) <= most_px:
        return drawable
    left, right = min(left, 200), max(right, len(drawable) - 200)
    while left and font.getlength(f"{drawable[:left]}…{drawable[right:]}") > most_px:
        left, right = left - 1, min(right + 1, len(drawable))
    return f"{drawable[:left]}…{drawable[right:]}"


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    with FONT.open("rb") as file:  # a path that is missing is looked for among the fonts of the system
        return ImageFont.truetype(file, size_px)
