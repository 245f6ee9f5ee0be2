"""PNG files, which can only be decoded whole (https://www.w3.org/TR/png-3/)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsipipe.errors import SlideFormatError, SlideReadError
from wsipipe.rasters.opened import MAX_PIECE_BYTES, Opened, check_same, keep

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Channels by the colour type of the header; imagecodecs turns palettes into RGB."""
TILE_IT = "convert it, e.g. with: vips tiffsave IN OUT --tile --compression deflate"


@dataclass(frozen=True)
class PngFile:
    """A PNG, decoded whole."""

    path: str
    identity: str
    """The file's identity when it was first opened."""

    def open(self) -> Opened:
        """See `Source.open`; the pixels are (y, x, channel), without an alpha channel.

        Raises
        ------
        SlideFormatError
            If it is partly transparent.
        SlideReadError
            If it is damaged, or was replaced.
        """
        from imagecodecs import png_decode

        path = Path(self.path)
        check_same(path, self.identity)
        try:
            pixels = png_decode(path.read_bytes())
        except Exception as err:  # imagecodecs' own class for each codec, and what Python raises
            raise SlideReadError(f"{path.name} is a damaged PNG ({err}); write it again") from err
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if pixels.shape[2] not in (2, 4):
            return keep(pixels)
        if (pixels[:, :, -1] < np.iinfo(pixels.dtype).max).any():
            raise SlideFormatError(
                f"{path.name} is partly transparent, and its background is not known; save it without an alpha channel"
            )
        return keep(np.ascontiguousarray(pixels[:, :, :-1]))


@dataclass(frozen=True)
class PngHeader:
    """The first chunk of a PNG (https://www.w3.org/TR/png-3/, section 11.2.1)."""

    shape: tuple[int, int]
    """(height, width) in pixels."""
    depth: int
    """Bits per sample."""
    colour: int
    """Colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha."""


def png_header(path: Path) -> PngHeader:
    """Read the header of a PNG.

    Raises
    ------
    SlideReadError
        If it is truncated or invalid.
    SlideFormatError
        If the image is too large to be decoded whole.
    """
    with path.open("rb") as file:
        head = file.read(26)
    if len(head) < 26 or head[12:16] != b"IHDR" or head[25] not in PNG_CHANNELS:
        raise SlideReadError(f"{path.name} is a damaged PNG: it has no header; write it again")
    width, height, depth, colour = struct.unpack(">IIBB", head[16:])
    size = height * width * PNG_CHANNELS[colour] * max(depth // 8, 1)
    if size > MAX_PIECE_BYTES:
        raise SlideFormatError(
            f"{path.name} is {height} x {width} px, {size / 2**30:.1f} GiB once decoded, and a PNG can only be "
            f"decoded whole; at most {MAX_PIECE_BYTES / 2**30:.0f} GiB is allowed; {TILE_IT}"
        )
    return PngHeader((height, width), depth, colour)
