"""The table in docs/slides/formats.md: ``python -m tests.slides.formats`` makes it and writes it there.

A row says which reader opens a file, what it finds, and what its pixels were compared with: the pixels that other
programs wrote again, else those that pydicom decodes of DICOM, else those that OpenSlide does, else those that tifffile
does. Of DICOM, OpenSlide believes the header where JPEG says another colour space. Equal rows become one.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import tifffile

from tests.real_data import DATA, data
from wsipipe.arrays import Pixels
from wsipipe.errors import PlaneError, SlideError
from wsipipe.geometry.grid import Box
from wsipipe.slides.discover import expand
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.planes import Planes
from wsipipe.slides.slide import Level, Slide

PAGE = Path(__file__).parents[2] / "docs" / "slides" / "formats.md"
BEGIN, END = "<!-- formats -->\n", "<!-- end of formats -->\n"
HEADER = "| file | read by | opened too by | levels | µm/px | pixels | notes |\n|---|---|---|---|---|---|---|\n"
FOLDERS = ("slides", "writers", "zarr", "dicom", "variants/imagecodecs-codecs/tiff")
CMU, CROP = "slides/CMU-1-Small-Region.svs", Box(900, 1517, 600, 1333)
LOSSLESS = ("none", "adobe_deflate", "deflate", "lzw", "zstd", "lzma", "packbits", "png", "blosc", "zstd")
MAX_PX = 10**8
"""Limit for a level, which is compared whole."""


Row = tuple[str, ...]
"""All columns of a file but its name."""


def paths() -> list[Path]:
    """Every file of the test data, and every folder that is a slide; none without the data."""
    return [] if DATA is None else [path for folder in FOLDERS for path in expand([DATA / folder])]


def table(rows: Iterable[tuple[str, Row]]) -> str:
    """The table, of (file name, row); files whose rows say the same share one."""
    names: dict[Row, list[str]] = {}
    for name, row in rows:
        names.setdefault(row, []).append(name.replace("_", r"\_"))
    return HEADER + "".join(f"| {' | '.join([', '.join(files), *row])} |\n" for row, files in names.items())


def written() -> str:
    """The table as the page has it."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0]


def written_rows() -> list[tuple[str, Row]]:
    """The (file name, row) that the page has."""
    rows = []
    for line in written().removeprefix(HEADER).splitlines():
        names, *row = (cell.strip() for cell in line.strip("|").split("|"))
        rows += [(name.replace(r"\_", "_"), tuple(row)) for name in names.split(", ")]
    return rows


def found_row(path: Path) -> Row:
    """What is found of a file."""
    return tuple(_row(path))


def _row(path: Path) -> Iterator[str]:
    """The cells of a row after the file's name."""
    try:
        slides = _slides(path)
    except SlideError as err:
        yield from ("refused", "", "", "", "")
        yield re.split(r"; wsipipe reads|; copy it", str(err).removeprefix(path.name + " "))[0]
        return
    slide, other = slides[0], _by_openslide(path, slides[0])
    yield slide.reader + f", with `--series` 0 to {len(slides) - 1}" * (len(slides) > 1)
    yield "openslide" if other else ""
    yield str(len(slide.levels))
    yield "" if slide.mpp is None else f"{slide.mpp:.4g}"
    yield ", ".join(sorted({_compared(path, one, other if len(slides) == 1 else None) for one in slides}))
    yield "; ".join(warning for warning in slide.warnings if "micrometres" not in warning)


def _slides(path: Path) -> list[Slide]:
    """The slide, or each image of a file that holds several."""
    try:
        return [open_slide(path)]
    except PlaneError as err:
        count = int(re.search(r"holds (\d+) images", str(err))[1])  # type: ignore[index]
        return [open_slide(path, planes=Planes(series=number)) for number in range(count)]


def _by_openslide(path: Path, slide: Slide) -> Slide | None:
    """The slide as OpenSlide opens it, of a DICOM folder by one of its files."""
    if path.is_dir() and slide.reader == "dicom":
        path = sorted(path.iterdir())[0]
    try:
        return open_slide(path, reader="openslide")
    except SlideError:
        return None


def _compared(path: Path, slide: Slide, other: Slide | None) -> str:
    """How the pixels compare, and with what."""
    finest = slide.levels[0]
    if path.parent.name in ("writers", "zarr") and finest.shape == CROP.shape and finest.channels == 3:
        source = read_box(open_slide(data(CMU)).levels[0], CROP)
        return _said("the source", _difference(_whole(finest), source), finest)
    if slide.reader == "dicom":
        most = max(_difference(_whole(level), _by_pydicom(path, level.shape)) for level in slide.levels)
        return _said("pydicom", most, finest)
    if other is not None and finest.dtype == "uint8" and not _is_turned(slide):
        of_size = {level.shape: level for level in other.levels}
        pairs = [(level, of_size[level.shape]) for level in slide.levels if level.shape in of_size]
        most = max(_difference(_whole(mine), _whole(theirs)) for mine, theirs in pairs)
        return _said("OpenSlide", most, finest)
    if slide.reader != "tiff":
        return ""
    with tifffile.TiffFile(path) as tiff:
        pages = [page for page in tiff.pages if sorted((page.imagelength, page.imagewidth)) == sorted(finest.shape)]
        expected = pages[finest.planes.series or 0].asarray()
    if expected.dtype == bool:
        expected = expected * np.uint8(255)
    found = np.moveaxis(_whole(finest), -1, 0) if finest.axes == "cyx" else _whole(finest)
    found = np.rot90(found) if _is_turned(slide) else found
    if expected.size != found.size:
        return "not compared"
    return _said("tifffile", _difference(found.ravel(), expected.ravel()), finest)


def _by_pydicom(folder: Path, shape: tuple[int, int]) -> Pixels:
    """The level of that shape in a folder of DICOM files that are tiled without gaps."""
    pydicom = import_module("pydicom")
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        if (dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns) == shape:
            break
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a header that is not believed, as the slide does
        frames = np.asarray(dataset.pixel_array)
    height, width = dataset.Rows, dataset.Columns
    grid = frames.reshape(-1, -(-shape[1] // width), height, width, 3).swapaxes(1, 2)
    return grid.reshape(len(grid) * height, -1, 3)[: shape[0], : shape[1]]


def _difference(found: Pixels, expected: Pixels) -> int:
    """By how many grey values two arrays of one type differ at most; in that type, as slides are large."""
    assert found.dtype == expected.dtype
    return int((np.maximum(found, expected) - np.minimum(found, expected)).max())


def _said(what: str, most: int, level: Level) -> str:
    """A difference in words; of lossy codecs one grey value is rounding, in which libraries differ."""
    limit = 0 if set(level.codec.split(", ")) <= set(LOSSLESS) else 1
    if most > limit:
        return f"differ by up to {most} from {what}"
    return f"equal {what}" if limit == 0 else f"within 1 of {what}"


def _is_turned(slide: Slide) -> bool:
    return any(warning.startswith("Orientation") for warning in slide.warnings)


def _whole(level: Level) -> Pixels:
    assert level.shape[0] * level.shape[1] <= MAX_PX
    return read_box(level, Box(0, level.shape[0], 0, level.shape[1]))


if __name__ == "__main__":
    text = PAGE.read_text()
    PAGE.write_text(
        text.replace(BEGIN + written() + END, BEGIN + table((path.name, found_row(path)) for path in paths()) + END)
    )
