"""Whether the samples of a tile are RGB or YCbCr: one rule for every reader.

The code stream is asked first, then the compression code, then the header: slides are written again by programs that
keep the tiles and lose what was said about them. What contradicts it is worth a warning.

JPEG: the markers of JFIF and Adobe and the names of the components, as in libjpeg, then the sampling factors, as nobody
subsamples the green of RGB.
JPEG 2000: the colour specification of the JP2 file, the sampling factors, the component transform, after whose inverse
samples are RGB.

Source: JFIF 1.02; ITU-T T.872, 6.5.3 (Adobe's marker); ITU-T T.81, B.2.2; ISO/IEC 15444-1, A.5.1, A.6.1 and I.5.3.3;
default_decompress_parms in libjpeg's jdapimin.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import imagecodecs
import numpy as np
import numpy.typing as npt

from wsipipe.slides.readers.jpeg import (
    JPEG2000_CODECS,
    JPEG_CODECS,
    JPEG_XL_CODECS,
    START_OF_CODESTREAM,
    Frame,
    frame_of,
)

Space = Literal["RGB", "YCbCr"]
RGB: Space = "RGB"
YCBCR: Space = "YCbCr"
RGB_IDS = tuple(b"RGB")
"""Names of components that are colours."""
SIZE, CODING_STYLE, START_OF_TILE = 0x51, 0x52, 0x90
"""Second bytes of the markers SIZ, COD and SOT."""
ENUMERATED: dict[int, Space] = {16: RGB, 18: YCBCR}
"""Enumerated colour spaces of JP2: sRGB and sYCC."""


@dataclass(frozen=True)
class Believed:
    """A colour space, and why it is taken for that of a tile."""

    space: Space
    why: str
    """What says so, in words."""
    by_codec: bool = False
    """Whether imagecodecs decodes such a tile to RGB by itself, though its samples are YCbCr."""


BY_CODE = {33003: Believed(YCBCR, "compression 33003"), 33005: Believed(RGB, "compression 33005")}
"""TIFF compressions that stand for a colour space, Aperio's."""


def believed(data: bytes, compression: int, said: Space) -> Believed:
    """The colour space of the three samples of a tile.

    Parameters
    ----------
    data
        The tile as it is in the file, or its beginning with all headers.
    compression
        The value of the TIFF tag.
    said
        What the header says, which holds if neither the code stream nor the compression says it.
    """
    found = None
    if compression in JPEG_CODECS:
        found = _by_jpeg(frame_of(data))
    elif compression in JPEG2000_CODECS:
        found = _by_jpeg2000(data)
    return found or _by_code_or_header(compression, said)


def contradictions(found: Believed, compression: int, header: str, meant: Space) -> tuple[str, ...]:
    """Warnings that a ``header``, in words, which means a colour space, or the compression code is not believed."""
    coded = BY_CODE.get(compression)
    says = {header: meant} | ({coded.why: coded.space} if coded else {})
    return tuple(
        f"{what} contradicts {found.why}: tiles are read as {found.space}"
        for what, space in says.items()
        if space != found.space
    )


def rgb_of(samples: npt.NDArray[Any], found: Believed) -> npt.NDArray[Any]:
    """RGB, uint8 or uint16, (..., 3), of samples of that type and shape, as imagecodecs decodes them by default."""
    return samples if found.space == RGB or found.by_codec else rgb_of_ycc(samples)


def decode_jpeg(data: bytes, found: Believed) -> npt.NDArray[Any]:
    """RGB, uint8, (y, x, 3), of a JPEG."""
    pixels: npt.NDArray[Any] = imagecodecs.jpeg8_decode(data, colorspace=found.space, outcolorspace=RGB)
    return pixels


def rgb_of_ycc(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """RGB of YCbCr, both uint8 or uint16, (..., 3): JFIF 1.02, the inverse of ITU-R BT.601 at full range."""
    most = np.iinfo(pixels.dtype).max
    y, cb, cr = np.moveaxis(pixels.astype(np.float32) - np.array([0, 1, 1], np.float32) * (most // 2 + 1), -1, 0)
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    rounded: npt.NDArray[Any] = np.clip(np.rint(rgb), 0, most).astype(pixels.dtype)
    return rounded


@lru_cache(maxsize=256)
def _by_code_or_header(compression: int, said: Space) -> Believed:
    """What the compression says, else the header."""
    return BY_CODE.get(compression) or Believed(said, "the header", by_codec=compression in JPEG_XL_CODECS)


@lru_cache(maxsize=256)
def _by_jpeg(frame: Frame) -> Believed | None:
    """What a JPEG of three components says; None if it does not say."""
    if len(frame.ids) != 3:
        return None
    if frame.jfif:
        return Believed(YCBCR, "the JFIF marker of its JPEG")
    if frame.adobe is not None:
        return Believed(YCBCR if frame.adobe else RGB, "the Adobe marker of its JPEG")
    if frame.ids == RGB_IDS:
        return Believed(RGB, "the names of its JPEG's components")
    if frame.sampling[1:] != frame.sampling[:1] * 2:
        return Believed(YCBCR, "the subsampling of its JPEG")
    return None


def _by_jpeg2000(data: bytes) -> Believed | None:
    """What JPEG 2000 of three components says; None if it does not say, or is damaged."""
    start = data.find(START_OF_CODESTREAM)
    box = data.find(b"colr", 0, max(start, 0))
    if box >= 0 and data[box + 4 : box + 5] == b"\1":
        space = ENUMERATED.get(int.from_bytes(data[box + 7 : box + 11], "big"))
        if space is not None:
            return Believed(space, "the colour specification of its JPEG 2000", by_codec=space == YCBCR)
    try:
        at = start + 2
        while start >= 0 and data[at] == 0xFF and (marker := data[at + 1]) != START_OF_TILE:
            if marker == SIZE:
                (count,) = struct.unpack_from(">H", data, at + 38)
                steps = [data[at + 41 + 3 * i : at + 43 + 3 * i] for i in range(count)]
                if count == 3 and steps[1:] != steps[:1] * 2:
                    return Believed(YCBCR, "the subsampling of its JPEG 2000", by_codec=True)
            if marker == CODING_STYLE:
                return Believed(RGB, "the component transform of its JPEG 2000") if data[at + 8] else None
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    except (IndexError, struct.error):
        pass
    return None
