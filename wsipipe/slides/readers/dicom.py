"""DICOM whole-slide images: the files of one series, each a level, or some planes or part of one.

wsidicom knows which frame is which tile. Which instances are a level is worked out here, by their size, because
wsidicom leaves out levels whose tiles have another size than the finest level's, such as the last ones of a pyramid.

Source: DICOM PS3.3 A.32.8, VL Whole Slide Microscopy Image IOD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

from wsipipe.arrays import size_text
from wsipipe.errors import SlideError, SlideFormatError, SlideReadError
from wsipipe.events import Spent
from wsipipe.extras import install
from wsipipe.files import Location
from wsipipe.slides.identity import file_identity, folder_identity
from wsipipe.slides.pixels.tiled_array import TiledArray, tiled_array
from wsipipe.slides.planes import ALL, Planes, choose_channels, choose_one
from wsipipe.slides.readers.colour import RGB, believed, contradictions
from wsipipe.slides.readers.dicom_checks import check_levels, missing_frames, pixels_of
from wsipipe.slides.readers.dicom_frames import (
    COPY_SERIES_AGAIN,
    TRANSFORMED,
    FrameStore,
    codec_of,
    header_space,
    planes_of,
)
from wsipipe.slides.readers.dicom_series import Instance, instance_of, instances_in, series_in
from wsipipe.slides.resolution import Resolution, checked
from wsipipe.slides.slide import Level, Slide, downsample_of
from wsipipe.urls import Url

CACHE_BYTES = 2**24
"""Size of each of wsidicom's caches, besides the tiles that are kept here."""


@dataclass(frozen=True)
class Pyramid:
    """The files of one series, open."""

    files: tuple[Path, ...]
    """All of them, sorted."""
    levels: tuple[tuple[Any, ...], ...]
    """The instances of each level, all of one size; levels from fine to coarse."""
    associated: tuple[str, ...]
    """Kinds and sizes of the label, overview and thumbnail images."""


class DicomReader:
    """Opens a DICOM file together with the others of its series beside it, or the folder of a series."""

    name = "dicom"
    why = "it is DICOM"

    def recognises(self, path: Location) -> bool:
        """Whether ``path`` is a DICOM file, or a folder that holds some; never true for a URL."""
        if isinstance(path, Url):
            return False
        return bool(series_in(path)) if path.is_dir() else instance_of(path) is not None

    def open(self, path: Location, planes: Planes = ALL) -> Slide:
        """See `Reader.open`; raises a SlideError as it says there."""
        assert isinstance(path, Path), "it recognises no other"
        pyramid = _open(path, planes.series)
        first = pyramid.levels[0]
        optical, focal = planes_of(first)
        choose_one(path.name, "t", planes.t, ["0"])
        z = choose_one(path.name, "z", planes.z, [f"{value} mm" for value in focal])
        samples = int(first[0].image_data.samples_per_pixel)
        if len(optical) > 1 and samples > 1:
            raise SlideFormatError(
                f"{path.name} has {len(optical)} optical paths in colour; wsipipe reads one, or several in grey"
            )
        names = optical if samples == 1 else ()
        channels = choose_channels(path.name, planes.channels, names, max(samples, len(optical)))
        chosen = Planes(channels, z if len(focal) > 1 else None, None, planes.series)
        resolution = _resolution(first[0])
        identity = _identity(pyramid.files)
        sources = [_source(path, index, identity, pyramid, chosen) for index in range(len(pyramid.levels))]
        _probe(path, pyramid, sources[0])
        doubts = dict.fromkeys(doubt for each in sources for doubt in _colour_doubts(pyramid, each))
        levels = tuple(_level(source, pyramid, resolution.mpp) for source in sources)
        return Slide(
            path=str(path),
            name=path.name if path.is_dir() else path.stem,
            reader=self.name,
            vendor=str(first[0].dataset.as_dataset().get("Manufacturer", "") or "dicom").lower(),
            levels=levels,
            mpp=resolution.mpp,
            mpp_source=resolution.source,
            identity=identity,
            parts=tuple(map(str, pyramid.files)),
            associated=pyramid.associated,
            warnings=(*missing_frames(pyramid.levels), *doubts, *resolution.warnings),
            channel_names=tuple(names),
        )


@dataclass(frozen=True)
class DicomLevel:
    """One level of a series; all fields as in `Level`."""

    path: str
    identity: str
    index: int
    shape: tuple[int, int]
    tile: tuple[int, int]
    axes: str
    channels: int
    dtype: str
    planes: Planes

    def open(self) -> TiledArray:
        """See `Source.open`; raises a SlideError as it says there."""
        path = Path(self.path)
        pyramid = _open(path, self.planes.series)
        if _identity(pyramid.files) != self.identity:
            raise SlideReadError(f"{path.name} has changed since it was opened; start again")
        return tiled_array(FrameStore(pyramid.levels[self.index], self))


def _open(path: Path, wanted: int | None) -> Pyramid:
    """Open the files of the series at ``path``, or of the ``wanted`` one of several.

    Raises
    ------
    SlideError
        If wsidicom is not installed, does not read one of the files, or finds no level in them; or if there are several
        series and none is wanted.
    """
    try:
        config, source_of = import_module("wsidicom.config"), import_module("wsidicom.file").WsiDicomFileSource
    except ImportError as err:
        raise SlideFormatError(
            f"{path.name} is DICOM and needs wsidicom, which is not installed; {install('dicom')}"
        ) from err
    files = _files(path, wanted)
    settings = config.Settings(
        strict_tile_size_check=False, decoded_frame_cache_size=CACHE_BYTES, encoded_frame_cache_size=CACHE_BYTES
    )
    try:
        with config.use_settings(settings):
            source = source_of.open([str(file) for file in files])
            instances = list(source.level_instances)
            kinds = {kind: list(getattr(source, f"{kind}_instances")) for kind in ("label", "overview", "thumbnail")}
        read = {Path(str(file)) for file in source.files}
        lost = [file.name for file in files if file not in read]
        if lost:
            raise SlideReadError(
                f"{path.name}: {lost[0]} of its series is not a whole-slide image, or is damaged; {COPY_SERIES_AGAIN}"
            )
        by_size: dict[tuple[int, int], list[Any]] = {}
        for instance in instances:
            by_size.setdefault((instance.size.height, instance.size.width), []).append(instance)
        levels = tuple(tuple(by_size[size]) for size in sorted(by_size, key=prod, reverse=True))
        check_levels(path, files, levels)
    except SlideError:
        raise
    except Exception as err:  # wsidicom and pydicom raise all sorts on damaged files, also when asked for planes
        raise SlideFormatError(
            f"{path.name} is not a DICOM whole-slide image that wsidicom reads, or is damaged ({_in_words(err)}; "
            f"{pixels_of(files[0])}); {COPY_SERIES_AGAIN}, or convert it"
        ) from err
    associated = tuple(
        f"{kind} {size_text((i.size.height, i.size.width))}" for kind, found in kinds.items() for i in found
    )
    return Pyramid(tuple(files), levels, associated)


def _files(path: Path, wanted: int | None) -> list[Path]:
    """The files of the wanted series, each another instance.

    Raises
    ------
    SlideFormatError
        If the file at ``path`` is not of a slide.
    SlideReadError
        If two of them are the same instance.
    PlaneError
        If a folder holds several series and none is ``wanted``, or the wanted one does not exist.
    """
    if path.is_dir():
        found = list(instances_in(path).values())
        files = found[choose_one(path.name, "series", wanted, [series[0].path.name for series in found])]
    else:
        choose_one(path.name, "series", wanted, ["0"])
        files = _beside(path)
    of_uid: dict[str, Path] = {}
    for file in files:
        twin = of_uid.setdefault(file.uid, file.path)
        if file.uid and twin != file.path:
            raise SlideReadError(
                f"{path.name}: {twin.name} and {file.path.name} are the same DICOM instance; remove one of them"
            )
    return [file.path for file in files]


def _beside(path: Path) -> list[Instance]:
    """The whole-slide images of the series of ``path``, which is one of them.

    Raises
    ------
    SlideFormatError
        If it is not, or none of them is a level.
    """
    own = instance_of(path)
    series = None if own is None or not own.is_slide else instances_in(path.parent).get(own.series)
    if own is not None and series is None:
        kind = import_module("pydicom.uid").UID(own.sop_class).name if own.sop_class else "unknown"
        what = "/".join(filter(None, own.image_type[2:3])) or kind
        raise SlideFormatError(
            f"{path.name} is DICOM, but not a slide ({what}), and no slide of its series is beside it; "
            "give the slide's files, or their folder"
        )
    return series or []


def _in_words(err: Exception) -> str:
    """The class and the message of an error; the message is left out if it shows objects of Python."""
    return type(err).__name__ + ("" if " object at 0x" in str(err) else f": {err}")


def _colour_doubts(pyramid: Pyramid, level: DicomLevel) -> tuple[str, ...]:
    """Warnings that the first frame of a level has other colours than its header says."""
    if level.axes != "yxc":
        return ()
    store, geometry = FrameStore(pyramid.levels[level.index], level), import_module("wsidicom.geometry")
    (path, image), point = next(iter(store.images.items())), geometry.Point(0, 0)
    if image.is_sparse(point, store.z, path):
        return ()
    try:
        data = image.get_encoded_tile(point, store.z, path)
    except Exception:  # whatever wsidicom raises; whoever reads this frame learns why
        return ()
    header, found = str(image.photometric_interpretation), believed(data, codec_of(image), header_space(image))
    meant = RGB if header in TRANSFORMED else header_space(image)
    return contradictions(found, codec_of(image), f"PhotometricInterpretation {header}", meant)


def _source(path: Path, index: int, identity: str, pyramid: Pyramid, planes: Planes) -> DicomLevel:
    """Where the pixels of level ``index`` are.

    Raises
    ------
    SlideFormatError
        If its pixels are not of a kind that wsipipe reads, or its planes are not those of the finest level.
    """
    first, instances = pyramid.levels[0], pyramid.levels[index]
    instance = instances[0]
    if planes_of(instances) != planes_of(first):
        raise SlideFormatError(
            f"{path.name}: level {index} does not have the same planes as level 0; {COPY_SERIES_AGAIN}"
        )
    samples, optical = int(instance.image_data.samples_per_pixel), len(planes_of(first)[0])
    bits, signed = instance.dataset.bits, instance.dataset.as_dataset().get("PixelRepresentation", 0)
    if signed or bits not in (8, 16) or samples not in (1, 3):
        raise SlideFormatError(
            f"{path.name} has {samples} {'signed ' * bool(signed)}samples of {bits} bits; "
            "wsipipe reads 1 or 3 unsigned samples of 8 or 16 bits"
        )
    return DicomLevel(
        path=str(path),
        identity=identity,
        index=index,
        shape=(instance.size.height, instance.size.width),
        tile=(instance.tile_size.height, instance.tile_size.width),
        axes="yxc" if samples > 1 else "cyx" if optical > 1 else "yx",
        channels=max(samples, optical) if planes.channels is None else len(planes.channels),
        dtype="uint8" if bits == 8 else "uint16",
        planes=planes,
    )


def _level(source: DicomLevel, pyramid: Pyramid, mpp: float | None) -> Level:
    """The level whose pixels are at ``source``; ``mpp`` is that of the finest."""
    finest = pyramid.levels[0][0].size
    downsample = downsample_of((finest.height, finest.width), source.shape)
    return Level(
        path=source.path,
        reader=DicomReader.name,
        index=source.index,
        identity=source.identity,
        shape=source.shape,
        downsample=downsample,
        mpp=None if mpp is None else mpp * downsample,
        axes=source.axes,
        channels=source.channels,
        dtype=source.dtype,
        tile=source.tile,
        codec=str(getattr(pyramid.levels[source.index][0].image_data.transfer_syntax, "name", "?")),
        stored_axes=source.axes,
        source=source,
        planes=source.planes,
    )


def _resolution(instance: Any) -> Resolution:
    """Micrometres per pixel of the finest level."""
    spacing = instance.pixel_spacing
    if spacing is None:
        return Resolution(None, "no PixelSpacing")
    return checked(float(spacing.height) * 1000, float(spacing.width) * 1000, "PixelSpacing")


def _identity(files: Sequence[Path]) -> str:
    """The identity of the series."""
    if len(files) == 1:
        return file_identity(files[0])
    return folder_identity(files[0].parent, [], [(file.name, file.stat().st_size) for file in files])


def _probe(path: Path, pyramid: Pyramid, level: DicomLevel) -> None:
    """Decode one tile, so that a series that cannot be decoded is found before work is planned on it.

    Raises
    ------
    SlideReadError
        If it cannot be decoded.
    """
    middle: Mapping[str, int] = {
        axis: size // side // 2 for axis, size, side in zip("yx", level.shape, level.tile, strict=True)
    }
    try:
        FrameStore(pyramid.levels[0], level).read_tile(tuple(middle.get(axis, 0) for axis in level.axes), Spent())
    except Exception as err:  # whatever a codec raises
        raise SlideReadError(f"{path.name} cannot be decoded: {err}; {COPY_SERIES_AGAIN}") from err
