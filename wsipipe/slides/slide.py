"""What a slide is: its levels from fine to coarse, its micrometres per pixel, and where that was read.

Every value here can be pickled. Pixels stay in the file: each process opens it again from its path,
at the first use of `Level.array`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsipipe.errors import ResolutionError, SlideError, SlideFormatError, SlideReadError
from wsipipe.geometry.scale import shrunk_side
from wsipipe.slides.opened import LEVELS, Source
from wsipipe.slides.planes import ALL, Planes
from wsipipe.slides.resolution import Reading

if TYPE_CHECKING:
    import zarr

AS_IT_IS = 0.01
"""A level whose mpp is this near to the wanted one, as a share of it, is taken as it is: averaging blurs it, by so
little in a pattern that moves over the slide. Of a slide at 0.499 µm/px the nuclei model gives 1.5 % of the pixels
another label if they are averaged to 0.5, where 4.9 % are nuclei; and no more if it is 5 % off."""
MAX_UPSAMPLE = 1.1
"""No level is enlarged by more than this unless one asks for it."""
MAX_SIDE_PX = 2**23
"""A level with a longer side is refused: that is 2 m at 0.25 µm/px."""
UNMENTIONED_READERS = ("tiff", "ome-zarr")
"""The readers of before there was a choice; what they read needs no mention."""


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
    """That of the slide; a file replaced since then is another slide."""
    shape: tuple[int, int]
    """(height, width) in pixels."""
    downsample: float
    """How many pixels of level 0 one of its pixels spans, the mean of both axes."""
    mpp: float | None
    """Micrometres per pixel."""
    axes: str
    """``yx``, ``yxc`` or ``cyx``."""
    channels: int
    """1 for grey, 3 for RGB, 4 for RGBA, or as many as there are or were chosen."""
    dtype: str
    """``uint8`` or ``uint16``."""
    tile: tuple[int, int]
    """(height, width) in pixels of what the file holds in one piece: a tile, strip or chunk."""
    codec: str
    """How the pieces are compressed, as people call it."""
    stored_axes: str
    """The axes of `array`: `axes`, and in OME-Zarr also z and t, and then `array` has all planes of the file."""
    source: Source[zarr.Array[Any]]
    """Where its pixels are; opened once per process."""
    planes: Planes = ALL
    """Which planes of the file it is, by number; None where there is no choice."""
    shrink: float = 1.0
    """How many pixels of the level in the file one of its pixels spans along each axis; below 1 it is enlarged."""
    shrunk_from: Level | None = None
    """The level in the file, whose pixels are averaged (`slides.pixels.averaging`); None if it is that level itself."""

    @property
    def reading(self) -> str:
        """What tells its pixels from all planes as the reader of the format gives them; mostly nothing."""
        # `parse_reading` takes it apart.
        return " ".join(
            filter(None, [f"--reader {self.reader}" * (self.reader not in UNMENTIONED_READERS), str(self.planes)])
        )

    @property
    def stored(self) -> Level:
        """The level in the file."""
        return self.shrunk_from or self

    def shrunk(self, shrink: float) -> Level:
        """The level whose pixels span ``shrink`` of this one's, which is in the file, along each axis."""
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
        """As messages call it."""
        return f"{Path(self.path).name} level {self.index}"

    @property
    def array(self) -> zarr.Array[Any]:
        """The pixels, read-only, with the axes `stored_axes`; opened once per process.

        Raises
        ------
        SlideError
            If the file is gone, can not be opened, or is not the one that it was.
        """
        try:
            return LEVELS.get(self.source)
        except SlideError:
            raise
        except FileNotFoundError as err:
            raise SlideReadError(f"{self.name} is gone: there is no {self.path} any more") from err
        except Exception as err:  # whatever zarr or the file system raises
            raise SlideReadError(f"{self.name} can not be opened: {type(err).__name__}: {err}") from err


@dataclass(frozen=True)
class Slide:
    """One slide file, or one OME-Zarr folder, and what it says of itself."""

    path: str
    """Absolute, or a URL."""
    name: str
    """File name without its suffixes."""
    reader: str
    """Name of the reader that opened it."""
    vendor: str
    """Of the scanner or writer, as far as the file tells; ``generic`` otherwise."""
    levels: tuple[Level, ...]
    """From fine to coarse; at least one."""
    mpp: float | None
    """Micrometres per pixel of level 0."""
    mpp_source: str
    """Where it was read, or why there is none."""
    identity: str
    """sha256, in hex, of what tells this slide from another (`wsipipe.slides.identity`)."""
    associated: tuple[str, ...]
    """Label, macro and thumbnail images that were found and are not used."""
    warnings: tuple[str, ...]
    """What is odd about it."""
    readings: tuple[Reading, ...] = ()
    """All that it says of the size of its pixels, used or not."""
    why: str = ""
    """Why that reader."""
    channel_names: tuple[str, ...] = ()
    """Of all channels in the file, where it names them."""
    bounds: tuple[int, int, int, int] | None = None
    """(y, x, height, width) of what was scanned, in pixels of level 0, where the file says so; beyond is background."""

    @property
    def file(self) -> str:
        """The file's name, as messages call it."""
        return Path(self.path).name


def check_sides(name: str, shapes: Sequence[tuple[int, int]]) -> None:
    """Refuse levels that no slide has: planning a run over them would take time and memory without bounds.

    Raises
    ------
    SlideFormatError
        Naming the file and the level.
    """
    for index, shape in enumerate(shapes):
        if max(shape) > MAX_SIDE_PX:
            raise SlideFormatError(
                f"{name} level {index} has {shape[0]} x {shape[1]} px; wsipipe reads sides up to {MAX_SIDE_PX} px"
            )


def with_mpp(slide: Slide, mpp: float, source: str = "given") -> Slide:
    """The slide with ``mpp`` micrometres per pixel at level 0, and its levels to match."""
    levels = tuple(replace(level, mpp=mpp * level.downsample) for level in slide.levels)
    return replace(slide, mpp=mpp, mpp_source=source, levels=levels)


def downsample_of(finest: tuple[int, int], shape: tuple[int, int]) -> float:
    """How many pixels of a level of ``finest`` (height, width) one of a level of ``shape`` spans, by these alone.

    A whole number if both sides may be cut or filled up to whole pixels by it, as scanners and writers do: at the end
    of an odd side of 100 001 px the ratio of the sides is off by half a pixel. Else the mean of both axes.
    """
    ratio = (finest[0] / shape[0] + finest[1] / shape[1]) / 2
    whole = round(ratio)
    fits = all(side in (large // whole, -(-large // whole)) for large, side in zip(finest, shape, strict=True))
    return float(whole) if fits else ratio


def choose_level(slide: Slide, mpp: float | None, max_upsample: float = MAX_UPSAMPLE) -> Level:
    """The level at ``mpp``: that which has to be shrunk or enlarged least, brought to it; level 0 where it is None.

    One within 1 % of ``mpp`` is taken as it is. None is enlarged by more than ``max_upsample``, nor by more than 1.1
    where there is a finer one to shrink: that shows more.

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
            f"to be enlarged {1 / shrink:.4g} times, allowed is {max_upsample:g}; use a model trained at what the "
            f"slide has, correct level 0 with --mpp if it is wrong, or allow it with --max-upsample"
        )
    return level if _as_it_is(shrink) else replace(level.shrunk(shrink), mpp=mpp)


def _as_it_is(shrink: float) -> bool:
    """Whether a level that would have to be shrunk by ``shrink`` is taken as it is."""
    return abs(1 / shrink - 1) <= AS_IT_IS


def _allowed(shrink: float, max_upsample: float) -> bool:
    """Whether a level may be used that has to be shrunk by ``shrink``, or enlarged if that is below 1."""
    return 1 / shrink <= max_upsample or _as_it_is(shrink)
