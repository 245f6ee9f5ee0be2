"""What a slide is: its levels from fine to coarse, its micrometres per pixel, and where that was read.

Every value here can be pickled. Pixels stay in the file: each process opens it again from its path,
at the first use of `Level.read` or `Level.array`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsipipe.arrays import Pixels, size_text
from wsipipe.errors import ResolutionError, SlideError, SlideFormatError, SlideReadError, UsageError
from wsipipe.files import Location, locate
from wsipipe.geometry.mirror import mirror as mirrored_at
from wsipipe.geometry.scale import shrunk_side
from wsipipe.slides.identity import files_sha256, files_state
from wsipipe.slides.opened import LEVELS, Source
from wsipipe.slides.planes import ALL, Planes
from wsipipe.slides.resolution import DOUBT, Reading

if TYPE_CHECKING:
    import zarr

AS_IT_IS = 0.01
"""A level whose mpp differs from the wanted one by at most this share of it is used as it is: averaging by so little
blurs it in a pattern that moves over the slide. If a slide at 0.499 µm/px is averaged to 0.5, the nuclei model gives
1.5 % of the pixels another label, where 4.9 % are nuclei; and no more than that if the mpp is 5 % off."""
MAX_UPSAMPLE = 1.1
"""No level is enlarged by more than this unless the user asks for it."""
MAX_SIDE_PX = 2**23
"""A level with a longer side is refused: that is 2 m at 0.25 µm/px."""
UNMENTIONED_READERS = ("tiff", "ome-zarr")
"""The readers from before there was a choice; `Level.reading` does not mention them."""


@dataclass(frozen=True)
class Level:
    """One resolution of a slide, opened when its pixels are first wanted."""

    path: str
    """The slide's file or folder: absolute, or a URL."""
    reader: str
    """Name of the reader that opens it."""
    index: int
    """0 is the finest."""
    identity: str
    """The slide's identity; a replaced file has a different one."""
    shape: tuple[int, int]
    """(height, width) in pixels."""
    downsample: float
    """Pixels of level 0 that each of its pixels spans, the mean of both axes."""
    mpp: float | None
    """Micrometres per pixel."""
    axes: str
    """``yx``, ``yxc`` or ``cyx``."""
    channels: int
    """1 for grey, 3 for RGB, 4 for RGBA; else the number of channels in the file, or of those chosen."""
    dtype: str
    """``uint8`` or ``uint16``."""
    tile: tuple[int, int]
    """(height, width) in pixels of one piece of the file: a tile, strip or chunk."""
    codec: str
    """The common name of the pieces' compression."""
    stored_axes: str
    """The axes of `array`: `axes`, in OME-Zarr with z and t if the file has them; `array` then has all planes."""
    source: Source[zarr.Array[Any]]
    """Place of its pixels."""
    planes: Planes = ALL
    """The planes of the file that it shows, by number; None where there is no choice."""
    shrink: float = 1.0
    """Pixels of the level in the file that each of its pixels spans along an axis; below 1 it is enlarged."""
    shrunk_from: Level | None = None
    """The level in the file, whose pixels are averaged (`slides.pixels.averaging`); None if it is that level itself."""

    @property
    def reading(self) -> str:
        """The options that chose its reader and planes, ``--reader openslide --z 3``; mostly empty."""
        # The inverse is `parse_reading`.
        return " ".join(
            filter(None, [f"--reader {self.reader}" * (self.reader not in UNMENTIONED_READERS), str(self.planes)])
        )

    @property
    def stored(self) -> Level:
        """The level in the file."""
        return self.shrunk_from or self

    def shrunk(self, shrink: float) -> Level:
        """The level with ``shrink`` of its pixels averaged to one along each axis; it must be a level in the file."""
        height, width = self.shape
        return replace(
            self,
            shape=(shrunk_side(height, shrink), shrunk_side(width, shrink)),
            downsample=self.downsample * shrink,
            mpp=None if self.mpp is None else self.mpp * shrink,
            shrink=shrink,
            shrunk_from=self,
        )

    @property
    def name(self) -> str:
        """Its name in messages: the file's name and the number of the level."""
        return f"{Path(self.path).name} level {self.index}"

    def read(self, y: int, x: int, height: int, width: int, *, mirror: bool = False) -> Pixels:
        """The pixels of a rectangle, decoded by the calling thread; any number of threads may read at once.

        Pixels of a level that is `shrunk` are averaged, and are the same, to the last bit, in every rectangle.

        Parameters
        ----------
        y, x
            The first row and column, in pixels of this level.
        height, width
            The size in pixels, at least 1.
        mirror
            Beyond its borders the level continues as its mirror image, as it does for the network, however far:
            the edge pixel is repeated, as by ``numpy.pad`` in mode ``symmetric``. By default that is an error.

        Returns
        -------
        numpy.ndarray
            (y, x, channel), (height, width, `channels`), in `dtype`, whatever the order of axes in the file; new
            memory.

        Raises
        ------
        UsageError
            If the rectangle is empty, or reaches beyond the level without ``mirror``.
        SlideReadError
            If a tile cannot be read or decoded; the message names file, level and region.
        SlideError
            If the file is gone, cannot be opened, or has changed since it was opened.
        """
        # Imported here, because it brings zarr, and `wsipipe --help` needs no pixels.
        from wsipipe.slides.pixels.mirrored import read_mirrored

        y, x, height, width = map(operator.index, (y, x, height, width))
        if min(height, width) < 1:
            raise UsageError(
                f"{self.name}: a rectangle of {size_text((height, width))} is empty; read 1 x 1 px or more"
            )
        rows, cols = np.arange(y, y + height), np.arange(x, x + width)
        if mirror:
            rows, cols = mirrored_at(rows, self.shape[0]), mirrored_at(cols, self.shape[1])
        elif min(y, x) < 0 or y + height > self.shape[0] or x + width > self.shape[1]:
            raise UsageError(
                f"{self.name} is {size_text(self.shape)}; rows {y} to {y + height} and columns {x} to "
                f"{x + width} reach beyond it; read less, or with mirror=True"
            )
        return read_mirrored(self, rows, cols)

    @property
    def array(self) -> zarr.Array[Any]:
        """The pixels, read-only, with the axes `stored_axes`; opened once per process.

        It is for dask and whoever else takes Zarr arrays; `read` has one order of axes, mirrors, and averages.

        Raises
        ------
        SlideError
            If the file is gone, cannot be opened, or has changed since it was opened.
        """
        try:
            return LEVELS.get(self.source)
        except SlideError:
            raise
        except FileNotFoundError as err:
            raise SlideReadError(f"{self.name} is gone: {self.path} no longer exists") from err
        except Exception as err:  # whatever zarr or the file system raises
            raise SlideReadError(f"{self.name} cannot be opened: {type(err).__name__}: {err}") from err


@dataclass(frozen=True)
class Slide:
    """One slide file, or one OME-Zarr folder, and what it says about itself."""

    path: str
    """Absolute, or a URL."""
    name: str
    """File name without its suffixes."""
    reader: str
    """Name of the reader that opened it."""
    vendor: str
    """The maker of the scanner or the writer, if the file tells; else ``generic``."""
    levels: tuple[Level, ...]
    """From fine to coarse; at least one."""
    mpp: float | None
    """Micrometres per pixel of level 0."""
    mpp_source: str
    """Where `mpp` was read, or why it is None."""
    identity: str
    """sha256, in hex, that tells this slide from any other (`wsipipe.slides.identity`)."""
    associated: tuple[str, ...]
    """Label, macro and thumbnail images in the file, which are not used."""
    warnings: tuple[str, ...]
    """Its oddities."""
    readings: tuple[Reading, ...] = ()
    """All that it says about the size of its pixels, used or not."""
    why: str = ""
    """Why this reader was chosen, for `wsipipe info`."""
    channel_names: tuple[str, ...] = ()
    """Names of all channels in the file, if it has them."""
    bounds: tuple[int, int, int, int] | None = None
    """(y, x, height, width) of the scanned area in pixels of level 0, if the file says so; beyond it is background."""
    parts: tuple[str, ...] = ()
    """The files, and folders of files, that its pixels are read from; empty if `path` is all of them."""
    state: str = ""
    """The state of these files when it was opened (`wsipipe.slides.identity.files_state`)."""

    @property
    def sha256(self) -> str:
        """sha256 of the whole content of its files as they are now, read at the first use.

        Raises
        ------
        SlideReadError
            If they cannot be read.
        """
        return self._of_files(lambda path: files_sha256(path, self.parts, files_state(path, self.parts)))

    @property
    def state_now(self) -> str:
        """The state of its files now; raises a SlideReadError if one of them is gone."""
        return self._of_files(lambda path: files_state(path, self.parts))

    def _of_files(self, look: Callable[[Location], str]) -> str:
        try:
            return look(locate(self.levels[0].path))  # `path` may name one image of the file
        except OSError as err:
            raise SlideReadError(
                f"{self.file} cannot be read: {err.strerror or err}; restore it, then repeat the run"
            ) from err

    @property
    def file(self) -> str:
        """The file's name, for messages."""
        return Path(self.path).name


def check_sides(name: str, shapes: Sequence[tuple[int, int]]) -> None:
    """Refuse levels of a size that no slide has: planning a run over them would take unbounded time and memory.

    Raises
    ------
    SlideFormatError
        If a side is too long; the message names the file and the level.
    """
    for index, shape in enumerate(shapes):
        if max(shape) > MAX_SIDE_PX:
            raise SlideFormatError(
                f"{name} level {index} is {size_text(shape)}; wsipipe reads sides up to {MAX_SIDE_PX} px"
            )


def with_mpp(slide: Slide, mpp: float, source: str = "given") -> Slide:
    """The slide with ``mpp`` micrometres per pixel at level 0, and its levels to match; they are not doubted."""
    levels = tuple(replace(level, mpp=mpp * level.downsample) for level in slide.levels)
    warnings = tuple(warning for warning in slide.warnings if not warning.endswith(DOUBT))
    return replace(slide, mpp=mpp, mpp_source=source, levels=levels, warnings=warnings)


def downsample_of(finest: tuple[int, int], shape: tuple[int, int]) -> float:
    """How many pixels of a level of ``finest`` (height, width) each pixel of a level of ``shape`` spans.

    The shapes alone decide. It is a whole number if that explains both sides, cut or filled up to whole pixels as
    scanners and writers do: the ratio of the sides is off by half a pixel at the end of an odd side of 100 001 px. Else
    it is the mean of both axes.
    """
    ratio = (finest[0] / shape[0] + finest[1] / shape[1]) / 2
    whole = round(ratio)
    fits = all(side in (large // whole, -(-large // whole)) for large, side in zip(finest, shape, strict=True))
    return float(whole) if fits else ratio


def is_shrunk(finest: tuple[int, int], shape: tuple[int, int]) -> bool:
    """Whether one downsample explains both sides of ``shape`` (height, width), each off by a pixel of rounding."""
    least = max(large / (small + 1) for large, small in zip(finest, shape, strict=True))
    return all(large >= least * (small - 1) for large, small in zip(finest, shape, strict=True))


def choose_level(slide: Slide, mpp: float | None, max_upsample: float = MAX_UPSAMPLE) -> Level:
    """The level that has to be shrunk or enlarged least, brought to ``mpp``; level 0 if ``mpp`` is None.

    A level within 1 % of ``mpp`` is used as it is. No level is enlarged by more than ``max_upsample``, nor by more than
    1.1 if a finer one can be shrunk instead, which shows more.

    Raises
    ------
    ResolutionError
        If the slide does not say its mpp, or all levels are too coarse.
    """
    if mpp is None:
        return slide.levels[0]
    if slide.mpp is None:
        raise ResolutionError(
            f"{slide.file} has no micrometres per pixel ({slide.mpp_source}); "
            "give --mpp, e.g. --mpp 0.25 for a 40x scan"
        )
    known = [(mpp / level.mpp, level) for level in slide.levels if level.mpp is not None]
    most = min(max_upsample, MAX_UPSAMPLE)
    shrink, level = min(known, key=lambda pair: (not _allowed(pair[0], most), abs(math.log(pair[0]))))
    if not _allowed(shrink, max_upsample):
        numbers = ", ".join(f"level {level.index}: {level.mpp:.4g}" for _, level in known)
        raise ResolutionError(
            f"{slide.file} is coarser than {mpp:.4g} micrometres per pixel ({numbers}): level {level.index} would have "
            f"to be enlarged {1 / shrink:.4g} times, more than the allowed {max_upsample:g}; use a model trained at a "
            f"resolution that the slide has, correct that of level 0 with --mpp if it is wrong, or allow it with "
            f"--max-upsample"
        )
    return level if _as_it_is(shrink) else replace(level.shrunk(shrink), mpp=mpp)


def _as_it_is(shrink: float) -> bool:
    """Whether a level that would have to be shrunk by ``shrink`` is used as it is."""
    return abs(1 / shrink - 1) <= AS_IT_IS


def _allowed(shrink: float, max_upsample: float) -> bool:
    """Whether a level may be shrunk by ``shrink``, or enlarged if that is below 1."""
    return 1 / shrink <= max_upsample or _as_it_is(shrink)
