"""What a slide is: its levels from fine to coarse, its micrometres per pixel, and where that was read.

Every value here can be pickled. Pixels stay in the file: each process opens it again from its path,
at the first use of `Level.array`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wsipipe.errors import PlaneError, ResolutionError, SlideError, SlideFormatError, SlideReadError, UsageError
from wsipipe.slides.planes import ALL, Planes

if TYPE_CHECKING:
    import zarr

GENERIC_TIFF = "generic-tiff"
"""What OpenSlide calls a TIFF file of no scanner."""
MPP_TOLERANCE = 0.05
"""How far, as a share of the wanted mpp, that of a level may be from it."""
FIRST = ("tiff", "ome-zarr")
"""The readers of before there was a choice; what they read needs no mention."""
MPP_PLAUSIBLE = 20.0
"""No slide is scanned this coarsely, µm/px; libvips writes 1000 for an untagged TIFF, and 72 dpi is 353."""


@dataclass(frozen=True)
class Level:
    """One resolution of a slide, opened when its pixels are first wanted."""

    path: str
    """The slide's file or folder, absolute."""
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
    planes: Planes = ALL
    """Which planes of the file it is, by number; None where there is no choice."""

    @property
    def reading(self) -> str:
        """What tells its pixels from all planes as the reader of the format gives them; mostly nothing."""
        # `parse_reading` takes it apart.
        return " ".join(filter(None, [f"--reader {self.reader}" * (self.reader not in FIRST), str(self.planes)]))

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
        from wsipipe.slides.opened import opened_array

        return opened_array(self)


@dataclass(frozen=True)
class Slide:
    """One slide file, or one OME-Zarr folder, and what it says of itself."""

    path: str
    """Absolute."""
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


class Reader(Protocol):
    """What a file format has to offer: one file of `wsipipe.slides` each."""

    name: str
    """As `Level.reader` and ``--reader`` say it."""
    why: str
    """By what it knows its slides, in words."""

    def recognises(self, path: Path) -> bool:
        """Whether ``path`` looks like this format; a look at its first bytes, no more."""
        ...

    def open(self, path: Path, planes: Planes = ALL) -> Slide:
        """Read what the slide says of itself.

        Parameters
        ----------
        path
            The slide's file or folder, absolute.
        planes
            Which planes of it are wanted.

        Raises
        ------
        SlideError
            If it is damaged, or not something that wsipipe reads.
        PlaneError
            If it holds several planes and nobody said which, or not the one that was asked for.
        """
        ...

    def open_array(self, level: Level) -> zarr.Array[Any]:
        """Open the pixels of ``level``, in this process.

        Raises
        ------
        SlideError
            If the file can not be opened, or is not the one that it was.
        """
        ...


def open_slide(
    path: str | os.PathLike[str], *, mpp: float | None = None, reader: str | None = None, planes: Planes = ALL
) -> Slide:
    """Open a slide; nothing but its description, and a tile to try, is read.

    Parameters
    ----------
    path
        A TIFF file of any kind, an OME-Zarr folder, a DICOM file or series, or what OpenSlide reads.
    mpp
        Micrometres per pixel of level 0, instead of those in the file.
    reader
        Name of the reader to take; None: the first that knows the file and reads it right.
    planes
        Which planes are wanted of a file that holds several.

    Raises
    ------
    SlideFormatError
        If it is not a slide, or not one that wsipipe reads.
    SlideReadError
        If it can not be opened, or is damaged.
    PlaneError
        If it holds several planes and ``planes`` does not say which, or not the one that it says.
    UsageError
        If ``mpp`` is not a positive number, or there is no such ``reader``.
    """
    from wsipipe.slides.readers import named

    if mpp is not None and not 0 < mpp < float("inf"):
        raise UsageError(f"--mpp {mpp} is not a positive number of micrometres per pixel, such as 0.25")
    readers = named(reader)
    path = Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps "..", so that one file had two names
    try:
        if path.stat() and not (path.is_file() or path.is_dir()):
            raise SlideFormatError(f"{path.name} is neither a file nor a folder; a pipe or device can not be a slide")
        slide = _open(path, readers, planes)
        return slide if mpp is None else with_mpp(slide, mpp)
    except SlideError:
        raise
    except OSError as err:
        raise SlideReadError(f"{path.name} can not be opened: {err.strerror or err} ({path})") from err


def _open(path: Path, readers: Sequence[Reader], planes: Planes) -> Slide:
    """The slide by the first of ``readers`` that knows it and reads it right."""
    refusal: SlideError | None = None
    for reader in readers:
        if not reader.recognises(path):
            continue
        try:
            slide = reader.open(path, planes)
        except SlideError as err:
            # Where planes are to be chosen another reader would choose for itself, and damage is damage.
            if refusal is None and (isinstance(err, PlaneError) or not isinstance(err, SlideFormatError)):
                raise
            refusal = refusal or err
            continue
        if refusal is None:
            return replace(slide, why=reader.why if len(readers) > 1 else "asked for")
        # OpenSlide takes any tiled TIFF for the first images in it, whatever there is besides.
        if slide.vendor != GENERIC_TIFF:
            return replace(slide, why=f"{reader.why}; {readers[0].name}: {refusal}")
    if refusal is not None:
        raise refusal
    raise SlideFormatError(f"{path.name} {_what_it_is(path)}; {_what_is_read(path, readers)}")


def with_mpp(slide: Slide, mpp: float, source: str = "given") -> Slide:
    """The slide with ``mpp`` micrometres per pixel at level 0, and its levels to match."""
    levels = tuple(replace(level, mpp=mpp * level.downsample) for level in slide.levels)
    return replace(slide, mpp=mpp, mpp_source=source, levels=levels)


def choose_level(slide: Slide, mpp: float | None) -> Level:
    """The level whose mpp is nearest to ``mpp`` and within 5 % of it; level 0 where ``mpp`` is None.

    Raises
    ------
    ResolutionError
        If the slide does not say its mpp, or no level is near enough.
    """
    if mpp is None:
        return slide.levels[0]
    if slide.mpp is None:
        raise ResolutionError(
            f"{slide.file} has no micrometres per pixel ({slide.mpp_source}); "
            "give --mpp, e.g. --mpp 0.25 for a 40x scan"
        )
    known = [(level.mpp, level) for level in slide.levels if level.mpp is not None]
    nearest, level = min(known, key=lambda pair: abs(pair[0] - mpp))
    if abs(nearest - mpp) <= MPP_TOLERANCE * mpp:
        return level
    numbers = ", ".join(f"level {level.index}: {value:.4g}" for value, level in known)
    raise ResolutionError(
        f"{slide.file} has no level within {MPP_TOLERANCE:.0%} of {mpp:.4g} micrometres per pixel ({numbers}); "
        "use a model trained at one of these, or correct level 0 with --mpp if it is wrong"
    )


def describe(slide: Slide) -> dict[str, Any]:
    """What there is to know about a slide, as plain JSON types."""
    names = ("index", "shape", "downsample", "mpp", "axes", "channels", "dtype", "tile", "codec")
    document = asdict(slide) | {"planes": str(slide.levels[0].planes)}
    levels = [{name: level[name] for name in names} for level in document.pop("levels")]
    return _plain(document | {"bytes": _bytes_of(Path(slide.path)), "levels": levels})  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    """``value`` with tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _bytes_of(path: Path) -> int:
    """Size of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _what_is_read(path: Path, readers: Sequence[Reader]) -> str:
    """What is read instead of ``path``, or by what it would be."""
    from wsipipe.slides.readers import extra_for

    extra = extra_for(path)
    if extra is not None:
        return f"pip install 'wsipipe[{extra}]' brings what may read it"
    if len(readers) == 1:
        return f"reader {readers[0].name} does not know it"
    return "wsipipe reads TIFF of many kinds, OME-Zarr folders, DICOM, and what OpenSlide reads"


def _what_it_is(path: Path) -> str:
    """Why no reader knows the file, to follow its name."""
    if path.is_dir():
        return "is a folder that is neither an OME-Zarr image nor a DICOM series"
    with path.open("rb") as file:
        start = file.read(16)
    return f"is not a slide (its first bytes are {start!r})" if start else "is empty (0 bytes)"
