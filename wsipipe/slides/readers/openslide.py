"""Formats that OpenSlide reads: MIRAX, Hamamatsu VMS and VMU, Sakura SVSLIDE, Trestle, Ventana BIF, Zeiss CZI and more.

OpenSlide gives RGBA; pixels that are partly or wholly transparent, as where nothing was scanned, are laid over the
slide's background colour, or over white. OpenSlide places regions in pixels of level 0. If a level's downsample is not
a whole number, most of its pixels begin between those, and OpenSlide blends them; so each region begins here where a
pixel of the level and one of level 0 begin together.

An OpenSlide handle that failed once repeats its error forever. So a region that fails is tried once more with a new
handle, because the error may be another thread's, and the new handle replaces the old one.

Source: https://openslide.org/api/openslide_8h.html
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import size_text
from wsipipe.errors import PlaneError, SlideFormatError, SlideReadError
from wsipipe.events import Spent
from wsipipe.extras import install
from wsipipe.files import Location
from wsipipe.slides.identity import file_identity, folder_identity
from wsipipe.slides.pixels.tile_cache import Tile
from wsipipe.slides.pixels.tile_store import Tiles, TileStore
from wsipipe.slides.pixels.tiled_array import TiledArray, tiled_array
from wsipipe.slides.planes import ALL, Planes, choose_channels, choose_one
from wsipipe.slides.readers.dicom_series import series_of
from wsipipe.slides.resolution import Resolution, checked
from wsipipe.slides.slide import Level, Slide, check_sides

OPENSLIDE_SUFFIXES = (".mrxs", ".vms", ".vmu", ".svslide", ".czi")
"""Suffixes of files that only OpenSlide reads, in lower case."""
WHITE = "FFFFFF"
MIN_TILE_PX, MAX_TILE_PX = 256, 2048
"""Smaller tiles are read several at once, larger ones in parts."""
MAX_LEAD_PX = 2048
"""Most pixels along an axis that are read before those that are wanted; levels that need more are left out."""
MAX_TILE_PX_IN_FILE = 2**28
"""A larger tile is refused: OpenSlide takes 4 bytes a pixel for it, and ends the process if it cannot have them."""
EXACT_PX = 2**-10
"""Closer than this is the same place: cairo blends in steps of 1/128 px."""


class OpenSlideReader:
    """Opens slides through OpenSlide."""

    name = "openslide"
    why = "OpenSlide knows it"

    def recognises(self, path: Location) -> bool:
        """Whether OpenSlide is installed and knows the format of the file; never true for a URL."""
        try:
            return isinstance(path, Path) and path.is_file() and _library().OpenSlide.detect_format(path) is not None
        except ImportError:
            return False

    def open(self, path: Location, planes: Planes = ALL) -> Slide:
        """See `Reader.open`."""
        assert isinstance(path, Path), "it recognises no other"
        handle = Handle(path)
        slide = handle.slide
        _refuse_planes(path, slide)
        for option in ("z", "t", "series"):
            choose_one(path.name, option, getattr(planes, option), ["0"])
        channels = choose_channels(path.name, planes.channels, (), 3)
        properties = dict(slide.properties)
        _check_sizes(path, slide, properties)
        resolution = _resolution(properties)
        identity = openslide_identity(path)
        exact = _exact_levels(slide)
        sources = [
            OpenSlideLevel(
                path=str(path),
                identity=identity,
                index=index,
                shape=slide.level_dimensions[number][::-1],
                tile=_tile(properties, number),
                downsample=float(slide.level_downsamples[number]),
                planes=Planes(channels=channels),
            )
            for index, number in enumerate(exact)
        ]
        levels = tuple(_level(source, properties["openslide.vendor"], resolution.mpp) for source in sources)
        left_out = [number for number in range(slide.level_count) if number not in exact]
        warnings = [
            f"level {number} is left out: at its downsample of {slide.level_downsamples[number]:.6g} OpenSlide "
            "blends pixels instead of returning them as they are"
            for number in left_out
        ]
        _probe(path, handle, levels[0], _bounds(properties))
        return Slide(
            path=str(path),
            name=path.stem,
            reader=self.name,
            vendor=properties["openslide.vendor"],
            levels=levels,
            mpp=resolution.mpp,
            mpp_source=resolution.source,
            identity=identity,
            parts=tuple(map(str, (path, *_data_files(path)))),
            associated=tuple(sorted(slide.associated_images)),
            warnings=(*warnings, *resolution.warnings),
            bounds=_bounds(properties),
        )


@dataclass(frozen=True)
class OpenSlideLevel:
    """One level as OpenSlide gives it; all fields as in `Level`."""

    path: str
    identity: str
    index: int
    shape: tuple[int, int]
    tile: tuple[int, int]
    downsample: float
    planes: Planes

    @property
    def channels(self) -> int:
        """Number of channels, of red, green and blue."""
        return 3 if self.planes.channels is None else len(self.planes.channels)

    def open(self) -> TiledArray:
        """See `Source.open`; raises a SlideError as it says there."""
        path = Path(self.path)
        if openslide_identity(path) != self.identity:
            raise SlideReadError(f"{path.name} has changed since it was opened; start again")
        handle = Handle(path)
        number = _exact_levels(handle.slide)[self.index]
        return tiled_array(RegionStore(handle, number, self))


def _level(source: OpenSlideLevel, vendor: str, mpp: float | None) -> Level:
    """The level whose pixels are at ``source``; ``mpp`` is that of the finest."""
    return Level(
        path=source.path,
        reader=OpenSlideReader.name,
        index=source.index,
        identity=source.identity,
        shape=source.shape,
        downsample=source.downsample,
        mpp=None if mpp is None else mpp * source.downsample,
        axes="yxc",
        channels=source.channels,
        dtype="uint8",
        tile=source.tile,
        codec=f"as {vendor} has it",
        stored_axes="yxc",
        source=source,
        planes=source.planes,
    )


class Handle:
    """An open slide, shared by threads; one that failed is replaced by a new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self.slide = self._open()
        self.background = _colour(self.slide.properties.get("openslide.background-color", WHITE))

    def region(self, level: int, at: tuple[int, int], shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """RGB, uint8 (height, width, 3), of ``shape`` from ``at``, (y, x) in pixels of level 0.

        Raises
        ------
        SlideReadError
            If OpenSlide cannot read it.
        """
        place = (at[::-1], level, shape[::-1])
        failed = self.slide
        try:
            rgba = np.asarray(failed.read_region(*place))
        except _library().OpenSlideError:
            fresh = self._open()
            try:
                rgba = np.asarray(fresh.read_region(*place))
            except _library().OpenSlideError as err:
                fresh = self._open()
                raise SlideReadError(f"OpenSlide: {err}") from err
            finally:
                with self._lock:
                    if self.slide is failed:
                        self.slide = fresh
        return over(rgba, self.background)

    def _open(self) -> Any:
        """Open a new handle.

        Raises
        ------
        SlideFormatError
            If OpenSlide is not installed, does not know the file, or cannot open it.
        """
        try:
            library = _library()
        except ImportError as err:
            raise SlideFormatError(
                f"{self.path.name} needs OpenSlide, which is not installed; {install('openslide')}"
            ) from err
        try:
            return library.OpenSlide(self.path)
        except library.OpenSlideError as err:
            raise SlideFormatError(f"{self.path.name} cannot be opened by OpenSlide: {err}") from err


class RegionStore(TileStore):
    """The tiles of one level, read by OpenSlide."""

    image: Tiles

    def __init__(self, handle: Handle, number: int, level: OpenSlideLevel) -> None:
        super().__init__(Tiles((*level.shape, level.channels), (*level.tile, level.channels)))
        self.handle, self.number, self.level = handle, number, level
        self._places = tuple(exact_places(size, level.downsample) for size in level.shape)

    def read_tile(self, chunk: tuple[int, ...], spent: Spent) -> Tile:
        """See `TileStore.read_tile`: (y, x, channels), uint8."""
        ys, xs, _ = self.image.within(chunk)
        with spent.on("read"):
            from_y, from_x = (int(p[np.searchsorted(p, s.start, "right") - 1]) for p, s in self._where(ys, xs))
            at = (round(from_y * self.level.downsample), round(from_x * self.level.downsample))
            pixels = self.handle.region(self.number, at, (ys.stop - from_y, xs.stop - from_x))
            pixels = pixels[ys.start - from_y :, xs.start - from_x :]
            wanted = self.level.planes.indices
            pixels = pixels if wanted is None else pixels[..., wanted]
            return np.pad(
                pixels, [(0, side - size) for side, size in zip(self.image.chunks, pixels.shape, strict=True)]
            )

    def _where(self, ys: slice, xs: slice) -> zip[tuple[npt.NDArray[np.int64], slice]]:
        return zip(self._places, (ys, xs), strict=True)


def _exact_levels(slide: Any) -> list[int]:
    """Numbers of the levels whose pixels OpenSlide gives as they are, at a reasonable cost; level 0 is one of them."""
    return [
        number
        for number, (size, downsample) in enumerate(zip(slide.level_dimensions, slide.level_downsamples, strict=True))
        if max(_lead(side, downsample) for side in size) <= MAX_LEAD_PX
    ]


def exact_places(size: int, downsample: float) -> npt.NDArray[np.int64]:
    """The pixels of a level along one axis that begin where one of level 0 does, (places,), int64; 0 is one of them."""
    places = np.arange(size) * downsample
    found: npt.NDArray[np.int64] = np.flatnonzero(np.abs(places - np.rint(places)) < EXACT_PX * downsample)
    return found


def over(rgba: npt.NDArray[np.uint8], background: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """RGB (..., 3), uint8, of RGBA (..., 4), uint8, not premultiplied, over a colour (3,), uint8; rounded once."""
    alpha = rgba[..., 3:]
    if (alpha == 255).all():
        return rgba[..., :3]
    share = alpha.astype(np.uint32)
    mixed = rgba[..., :3] * share + background * (255 - share)
    return ((2 * mixed + 255) // 510).astype(np.uint8)


def openslide_identity(path: Path) -> str:
    """The slide's identity: by its file, and by the data files that some formats keep beside it."""
    files = _data_files(path)
    if not files:
        return file_identity(path)
    sizes = [(file.relative_to(path.parent).as_posix(), file.stat().st_size) for file in (path, *files)]
    return folder_identity(path.parent, [path.read_bytes()], sizes)


def missing_files(path: Location) -> str | None:
    """What is missing of a MIRAX slide, whose pixels are in a folder beside it, in words; None if nothing is."""
    folder = path.with_suffix("") if isinstance(path, Path) else path
    if path.suffix.lower() != ".mrxs" or (folder / "Slidedat.ini").is_file():
        return None
    lacks = f"lacks {folder.name}/Slidedat.ini" if folder.is_dir() else f"is without its folder {folder.name}"
    return f"{lacks}, which holds the pixels of this MIRAX slide; copy the file and its folder {folder.name} together"


def _data_files(path: Path) -> list[Path]:
    """The files that hold the pixels, or some of them, beside ``path`` itself."""
    if others := series_of(path):
        return others
    if path.suffix.lower() == ".mrxs":
        return sorted(file for file in path.with_suffix("").glob("*") if file.is_file())
    if path.suffix.lower() not in (".vms", ".vmu"):
        return []
    values = (line.partition("=")[2].strip() for line in path.read_text(errors="replace").splitlines())
    return sorted({path.parent / value for value in values if value and (path.parent / value).is_file()})


def _library() -> Any:
    """The module of OpenSlide.

    Raises
    ------
    ImportError
        If it is not installed, or the C library that it calls is not.
    """
    try:
        return import_module("openslide")
    except OSError as err:
        raise ImportError(str(err)) from err


def _resolution(properties: Mapping[str, str]) -> Resolution:
    """Micrometres per pixel of level 0."""
    y, x = (properties.get(f"openslide.mpp-{axis}") for axis in "yx")
    if y is None or x is None:
        return Resolution(None, "no openslide.mpp-x and -y")
    return checked(float(y), float(x), "openslide.mpp-x and -y")


def _colour(text: str) -> npt.NDArray[np.uint8]:
    """Three bytes of six hexadecimal digits."""
    return np.frombuffer(bytes.fromhex(text), np.uint8)


def _refuse_planes(path: Path, slide: Any) -> None:
    """Refuse a file of which OpenSlide shows several images of one size as levels, and would read the first.

    Raises
    ------
    PlaneError
        If it is such a file.
    """
    count = slide.level_dimensions.count(slide.level_dimensions[0])
    if count > 1:
        raise PlaneError(
            f"{path.name} holds {count} focal planes, or images, of one size, of which OpenSlide reads the first; "
            "leave out --reader openslide, then choose with --z N or --series N"
        )


def _check_sizes(path: Path, slide: Any, properties: Mapping[str, str]) -> None:
    """Refuse sizes that no slide has, which would take unbounded memory.

    Raises
    ------
    SlideFormatError
        If a side or a tile is too large; the message names the level.
    """
    check_sides(path.name, [sides[::-1] for sides in slide.level_dimensions])
    for level in range(slide.level_count):
        sides = (properties.get(f"openslide.level[{level}].tile-{side}", 0) for side in ("height", "width"))
        height, width = map(int, sides)
        if height * width > MAX_TILE_PX_IN_FILE:
            raise SlideFormatError(
                f"{path.name} level {level} has tiles of {size_text((height, width))}; through OpenSlide wsipipe reads "
                f"tiles of up to {MAX_TILE_PX_IN_FILE} px"
            )


def _bounds(properties: Mapping[str, str]) -> tuple[int, int, int, int] | None:
    """See `Slide.bounds`."""
    found = [properties.get(f"openslide.bounds-{name}") for name in ("y", "x", "height", "width")]
    return None if None in found else tuple(int(value or 0) for value in found)  # type: ignore[return-value]


def _tile(properties: Mapping[str, str], level: int) -> tuple[int, int]:
    """(height, width) of the pixels to read at once: about one piece of the file."""
    sides = [int(properties.get(f"openslide.level[{level}].tile-{side}", 0)) for side in ("height", "width")]
    height, width = (s * ceil(MIN_TILE_PX / s) if 0 < s <= MAX_TILE_PX else 2 * MIN_TILE_PX for s in sides)
    return height, width


def _lead(size: int, downsample: float) -> int:
    """The most pixels along one axis from an exact place to the last one before the next."""
    places = np.append(exact_places(size, downsample), size)
    return int(np.diff(places).max()) - 1


def _probe(path: Path, handle: Handle, level: Level, bounds: tuple[int, int, int, int] | None) -> None:
    """Read a pixel in the middle of the scanned area, so that damage is found before work is planned on it.

    Raises
    ------
    SlideReadError
        If it cannot be read.
    """
    y, x, height, width = bounds or (0, 0, *level.shape)
    try:
        handle.region(0, (y + height // 2, x + width // 2), (1, 1))
    except SlideReadError as err:
        raise SlideReadError(f"{path.name} cannot be read: {err}; copy it again from where it came from") from err
