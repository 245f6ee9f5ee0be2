"""Checks, before work is planned on a TIFF, that it can be read and is complete."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import numpy.typing as npt
import tifffile
from tifffile import TiffFile, TiffPage

from wsipipe.errors import SlideFormatError, SlideReadError
from wsipipe.files import Location
from wsipipe.slides.byte_source import open_source
from wsipipe.slides.readers.colour import believed, contradictions
from wsipipe.slides.readers.jpeg import JPEG2000_CODECS, JPEG_CODECS
from wsipipe.slides.readers.sparse import StoredPieces, lacks_pieces
from wsipipe.slides.readers.tiff.image import PALETTE, TiledImage
from wsipipe.slides.readers.tiff.pages import COPY_AGAIN, page_area, shape_of, size_of
from wsipipe.slides.readers.tiff.store import UPRIGHT

MAX_TILE_BYTES = 2**30
"""A tile or strip that needs more than this once decoded is refused: every block would need it."""
LARGE_TILE_BYTES = 2**26
"""A tile larger than this once decoded is worth a warning, and is not decoded just to try whether it can be."""
HEADERS_BYTES = 2**16
"""Bytes in which a tile's own headers are looked for."""
CONVERT = "convert it, e.g. with: vips tiffsave IN OUT --tile --pyramid --compression deflate"


def check_kind(path: Location, page: TiffPage) -> None:
    """Refuse pixels that are not grey, RGB or RGBA of 8 or 16 bits, a palette, or grey of fewer bits.

    Raises
    ------
    SlideFormatError
        If they are of another kind; the message names the tag, its value, and what is allowed.
    """
    samples, photometric = page.samplesperpixel, int(page.photometric)
    compression = int(page.compression)
    jpeg = compression in JPEG_CODECS + JPEG2000_CODECS
    planar = page.planarconfig == 2
    extra = samples - len(page.extrasamples) == {1: 1, 2: 3}.get(photometric)
    # vips calls any number of bands RGB, of which the fourth is alpha: of five or more all are channels.
    channels = extra and (samples > 4 or (photometric == 1 and set(page.extrasamples) == {0}))
    grey = samples == 1 and photometric in (0, 1, PALETTE)
    colours = None if page.colormap is None else page.colormap.shape
    turned = orientation_of(page) in UPRIGHT and UPRIGHT[orientation_of(page)][0]
    costly = turned and not page.is_tiled and compression != 1 and page_area(page) * samples > LARGE_TILE_BYTES
    rules = {
        ("ImageWidth and ImageLength", size_of(page), "at least 1 px"): page.imagelength > 0 and page.imagewidth > 0,
        ("Orientation", orientation_of(page), "1 to 8"): orientation_of(page) in UPRIGHT,
        ("Orientation", f"{orientation_of(page)} in compressed strips", "that in tiles"): not costly,
        ("SampleFormat", page.sampleformat, "1, unsigned integers"): page.sampleformat == 1,
        ("BitsPerSample", page.bitspersample, "8 or 16, of grey and palettes 1, 2 or 4"): page.bitspersample in (8, 16)
        or (grey and page.bitspersample in (1, 2, 4)),
        ("ColorMap", colours, "2^BitsPerSample colours"): photometric != PALETTE
        or colours == (3, 2**page.bitspersample),
        ("ImageDepth", page.imagedepth, "1"): page.imagedepth == 1,
        # 6 is the old-style JPEG of TIFF 6.0, which every writer understood differently.
        ("Compression", compression, "none, LZW, deflate, zstd, JPEG (7), JPEG 2000 and others of today"): compression
        != 6
        and (compression == 1 or compression in tifffile.TIFF.DECOMPRESSORS),
        (
            "PhotometricInterpretation",
            photometric,
            "0 and 1 (grey), 2 (RGB), 3 (palette), or 6 (YCbCr) in JPEG and JPEG 2000",
        ): photometric in (0, 1, 2, PALETTE) or (photometric == 6 and jpeg),
        ("PlanarConfiguration", page.planarconfig, "1 for YCbCr"): photometric != 6 or not planar,
        (
            "SamplesPerPixel",
            samples,
            "1 for grey, 3 or 4 for RGB, 3 for YCbCr, or channels",
        ): samples in {0: (1,), 1: (1,), 2: (3, 4), PALETTE: (1,), 6: (3,)}.get(photometric, ())
        or (photometric == 1 and planar)
        or channels,
    }
    for (tag, value, allowed), fine in rules.items():
        if not fine:
            raise SlideFormatError(f"{path.name} has {tag} {value}; wsipipe reads {allowed}; {CONVERT}")


def count_empty(path: Location, image: TiledImage, file_bytes: int) -> tuple[int, int]:
    """How many tiles have no data, and how many there are; nothing is read or allocated for it.

    Raises
    ------
    SlideError
        If the tags do not fit together, or point beyond the end of the file.
    """
    empty, total = 0, 0
    if len(image.chunks) != len(image.shape) or min(image.chunks) < 1:
        raise SlideReadError(
            f"{path.name} is damaged: an image of shape {image.shape} has tiles of {image.chunks}; {COPY_AGAIN}"
        )
    if image.tile_bytes > MAX_TILE_BYTES:
        raise SlideFormatError(
            f"{path.name} has tiles or strips of {image.chunks}, {image.tile_bytes / 2**30:.1f} GiB each; "
            f"wsipipe reads up to {MAX_TILE_BYTES / 2**30:.0f} GiB; {CONVERT}"
        )
    for page in image.pages:
        wanted = prod(page.chunked)
        offsets, counts = page.dataoffsets, page.databytecounts
        if not len(offsets) == len(counts) == wanted:
            raise SlideReadError(
                f"{path.name} is damaged: an image of {size_of(page)} in tiles of {page.chunks} has {wanted} of them, "
                f"but there are {len(offsets)} offsets and {len(counts)} byte counts; {COPY_AGAIN}"
            )
        starts, lengths = np.asarray(offsets, np.float64), np.asarray(counts, np.float64)
        within = (starts >= 0) & (lengths >= 0) & (starts + lengths <= file_bytes)
        if not within.all():
            number = int(np.argmin(within))
            raise SlideReadError(
                f"{path.name} is truncated or damaged: tile {number} of {size_of(page)} is at bytes "
                f"{starts[number]:.0f} to {starts[number] + lengths[number]:.0f}, the file has {file_bytes}; "
                f"{COPY_AGAIN}"
            )
        empty += int((~_has_data(page)).sum())
        total += wanted
    return empty, total


def colour_doubts(tiff: TiffFile, image: TiledImage) -> tuple[str, ...]:
    """Warnings that the first tile of ``image`` has other colours than the tags say."""
    page = image.pages[0]
    place = next(_places(page), None)
    if image.said is None or place is None or page.compression not in JPEG_CODECS + JPEG2000_CODECS:
        return ()
    tiff.filehandle.seek(place[1])
    head = page.jpegheader or tiff.filehandle.read(min(place[2], HEADERS_BYTES))
    found = believed(head, page.compression, image.said)
    header = f"PhotometricInterpretation {int(page.photometric)} ({image.said})"
    return contradictions(found, page.compression, header, image.said)


def lacks_tiles(image: TiledImage, finer: TiledImage) -> bool:
    """Whether tiles of ``image`` have no data where the ``finer`` level has some: some scanners lose single tiles."""
    pairs = zip(image.pages, finer.pages, strict=True)
    return any(lacks_pieces(_pieces(page), _pieces(under)) for page, under in pairs)


def probe(path: Location, image: TiledImage) -> None:
    """Decode one tile, so that a file that cannot be decoded is found before work is planned on it.

    Raises
    ------
    SlideReadError
        If it cannot be decoded.
    """
    if image.by_row or image.tile_bytes > LARGE_TILE_BYTES:
        return
    page, number, offset, count = next((page, *place) for page in image.pages for place in _places(page))
    data = open_source(path).read(offset, count)
    try:
        image.decode(page, number, data)
    except SlideReadError as err:
        raise SlideReadError(f"{path.name} cannot be decoded: {err} ({codec_of(page)}); {COPY_AGAIN}") from err


def _places(page: TiffPage) -> Iterator[tuple[int, int, int]]:
    """(number, offset, count) of the tiles that have data."""
    for number, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        if offset and count:
            yield number, int(offset), int(count)


def _pieces(page: TiffPage) -> StoredPieces:
    """The tiles or strips of a page."""
    sides = page.chunks[:2]
    return StoredPieces(shape_of(page), (int(sides[0]), int(sides[1])), _has_data(page))


def _has_data(page: TiffPage) -> npt.NDArray[np.bool_]:
    """Which tiles have data, (plane, y, x)."""
    grid = [-(-size // int(side)) for size, side in zip(shape_of(page), page.chunks[:2], strict=True)]
    starts, lengths = np.asarray(page.dataoffsets, np.float64), np.asarray(page.databytecounts, np.float64)
    found: npt.NDArray[np.bool_] = ((starts >= 1) & (lengths >= 1)).reshape(-1, *grid)  # damaged tags hold fractions
    return found


def orientation_of(page: TiffPage) -> int:
    """The TIFF Orientation tag, 1 to 8; an invalid 0, which some writers produce, counts as 1."""
    return int(page.tags.valueof(274, 1)) or 1


def codec_of(page: TiffPage) -> str:
    """The compression by name, or by number if it has none."""
    return str(getattr(page.compression, "name", page.compression)).lower()
