"""The training set: fields of view, each an image and its labels, at the resolution to train at.

Small images are held in memory, scaled once; slides stay in their files, and are read and rasterised box by box.
A field goes to the processes that make patches by pickling.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsipipe.arrays import Pixels, size_text
from wsipipe.errors import ChannelError, LabelError, ResolutionError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices
from wsipipe.rasters.annotations import Annotated, Annotations, open_annotations
from wsipipe.rasters.image import Raster, open_raster, raster_of
from wsipipe.rasters.labels import open_label_raster
from wsipipe.rasters.pairs import ANNOTATION_SUFFIXES, pairs_in
from wsipipe.slides.open import open_slide
from wsipipe.slides.slide import choose_level
from wsipipe.tables import at, positive, read_csv
from wsipipe.training.config import TrainConfig
from wsipipe.training.data_config import SPLITS, TEST, TRAIN, VALIDATION, AnnotatedSlide, DataConfig, LabelsAre
from wsipipe.training.resize import nearest, resized, scaled_shape
from wsipipe.training.truth import HeldTruth, RasterTruth, Truth, as_truth, bounding, check_objects

HELD_PX = 2**24
"""Images up to this size are held in memory."""


class FieldImage(Protocol):
    """Pixels, read box by box."""

    def read(self, box: Box) -> Pixels:
        """The pixels in ``box``, (y, x, channel), uint8 or uint16."""
        ...


@dataclass(frozen=True, eq=False)
class Field:
    """One image, or slide, with its labels."""

    name: str
    split: str
    """``train``, ``validation`` or ``test``."""
    shape: tuple[int, int]
    """(height, width) in pixels."""
    channels: int
    dtype: str
    """``uint8`` or ``uint16``."""
    image: FieldImage
    truth: Truth
    sha256: str
    """Digest of its sources: the files of image and labels, or a slide's identity and the file of its labels."""
    data_set: int = 0
    """Its place in `TrainConfig.data_sets`."""

    def pixels_at(self, rows: Indices, cols: Indices) -> Pixels:
        """The pixels at ``rows`` x ``cols``, (y, x, channel), uint8 or uint16; the indices are int64, in any order."""
        box, ys, xs = bounding(rows, cols)
        return self.image.read(box)[ys[:, None], xs]

    def truth_at(self, rows: Indices, cols: Indices) -> Annotated:
        """The labels at ``rows`` x ``cols``, each (y, x); the indices are int64, in any order."""
        box, ys, xs = bounding(rows, cols)
        truth, where = self.truth.read(box), (ys[:, None], xs)
        return Annotated(truth.classes[where], truth.instances[where], truth.inside[where])


@dataclass(frozen=True, eq=False)
class HeldImage:
    """An image in memory."""

    pixels: Pixels
    """(y, x, channel), uint8 or uint16."""

    def read(self, box: Box) -> Pixels:
        """The pixels in ``box``, (y, x, channel), uint8 or uint16."""
        return self.pixels[box.slices]


def read_fields(config: TrainConfig, roots: Sequence[Path]) -> list[Field]:
    """All fields of the training set, in order of their names; relative paths are looked for in each of ``roots``.

    Raises
    ------
    UsageError
        If there are none, or none to train on.
    SlideError
        If an image or its labels cannot be used; the message names the file.
    """
    fields: list[Field] = []
    for number, data in enumerate(config.data_sets):
        mine = _fields_of(data, config, roots)
        if len(config.data_sets) > 1:
            mine = [replace(f, name=f"{data.title}/{f.name}", data_set=number) for f in mine]
        fields += mine
    if not any(f.split == TRAIN for f in fields):
        raise UsageError(f"none of the {len(fields)} images is left to train on; there are {_some(fields)}")
    _check_alike(fields)
    _check_sizes(fields, config)
    return sorted(fields, key=lambda f: f.name)


def _fields_of(data: DataConfig, config: TrainConfig, roots: Sequence[Path]) -> list[Field]:
    """The fields of a data set, with their splits."""
    if data.slides:
        fields = [_slide_field(slide, data, config, roots) for slide in data.slides]
        given = [slide.split for slide in data.slides]
    else:
        place = at(str(data.table or data.folder), roots)
        pairs = list(_pairs_of_table(place) if data.table else _pairs_of_folder(place))
        fields = [_pair_field(pair, data, config) for pair in pairs]
        given = [pair.split for pair in pairs]
    _check_names(fields)
    return _split(fields, given, data, config.table_of(data))


@dataclass(frozen=True)
class Pair:
    """An image and its labels, as files."""

    name: str
    image: Path
    labels: Path
    mpp: float | None = None
    split: str | None = None


def _pairs_of_folder(folder: Path) -> Iterator[Pair]:
    for name, (image, labels) in pairs_in(folder).items():
        yield Pair(name, image, labels)


def _pairs_of_table(table: Path) -> Iterator[Pair]:
    """The rows of a CSV file; an image goes by its file name, or by its path if two files have the same name."""
    rows = read_csv(table, ("image", "label"), ("mpp", "split"))
    names = [Path(row["image"]).name for _, row in rows]
    for (where, row), name in zip(rows, names, strict=True):
        if row.get("split") and row["split"] not in SPLITS:
            raise UsageError(f"{where} has the split {row['split']!r}; allowed: {', '.join(SPLITS)}, or nothing")
        mpp = positive(row, "mpp", where)
        name = name if len(set(names)) == len(names) else row["image"]
        yield Pair(name, table.parent / row["image"], table.parent / row["label"], mpp, row.get("split") or None)


def _pair_field(pair: Pair, data: DataConfig, config: TrainConfig) -> Field:
    """The field of an image, and its annotations or a raster of labels."""
    image = open_raster(pair.image, mpp=pair.mpp or data.mpp)
    sha256 = _digest(pair.image, pair.labels)
    truth = _truth_of(pair, image, data, config)
    if image.shape[0] * image.shape[1] > HELD_PX:
        return _lazy_field(pair.name, image, truth, sha256, data, config.mpp)
    whole = Box(0, image.shape[0], 0, image.shape[1])
    known = _held(truth, whole, data.labels_are)
    shape = scaled_shape(image, _mpp_of(image, known.instances, data, config.mpp), config.mpp)
    planes = (nearest(plane, shape) for plane in (known.classes, known.instances, known.inside))
    held = HeldImage(resized(image.read(whole), shape))
    return Field(pair.name, TRAIN, shape, image.channels, image.dtype, held, HeldTruth(*planes), sha256)


def _truth_of(pair: Pair, image: Raster, data: DataConfig, config: TrainConfig) -> Annotations | RasterTruth:
    """The labels of ``image``, in its pixels."""
    if pair.labels.suffix.lower() in ANNOTATION_SUFFIXES:
        names, background = tuple(c.name for c in config.classes), data.background
        return open_annotations(pair.labels, image.shape, names, background=background, image=pair.image.name)
    labels = open_label_raster(pair.labels)
    if image.shape != labels.shape:
        raise LabelError(
            f"{pair.image} is {size_text(image.shape)}, its labels {labels.name} are "
            f"{size_text(labels.shape)}; both must have the same size"
        )
    return RasterTruth(labels, image.shape, config.values if data.labels_are == "classes" else None)


def _held(truth: Annotations | RasterTruth, whole: Box, labels_are: LabelsAre) -> Annotated:
    """All of ``truth``; the numbers of a raster are checked to be objects, or made so, as the configuration says."""
    if not isinstance(truth, RasterTruth) or labels_are == "classes":
        return truth.read(whole)
    ids = truth.raster.read(whole)
    if labels_are == "components":
        ids = ndimage.label(ids > 0)[0].astype(np.int32)
    else:
        check_objects(ids, truth.raster.name)
    return as_truth(ids, None, truth.raster.name)


def _slide_field(slide: AnnotatedSlide, data: DataConfig, config: TrainConfig, roots: Sequence[Path]) -> Field:
    """The field of a slide, on the level that a run would read."""
    opened = open_slide(at(slide.image, roots), mpp=slide.mpp or data.mpp)
    if opened.mpp is None and config.mpp is not None:
        raise ResolutionError(
            f"{opened.file} has no micrometres per pixel ({opened.mpp_source}); give it an mpp under [[data.slides]]"
        )
    level = choose_level(opened, config.mpp)
    truth: Truth
    if slide.annotations is not None:
        source = at(slide.annotations, roots)
        names = tuple(c.name for c in config.classes)
        truth = open_annotations(
            source,
            level.shape,
            names,
            background=data.background,
            downsample=level.downsample,
            image=Path(slide.image).name,
        )
    else:
        source = at(str(slide.labels), roots)
        raster = open_label_raster(source)
        if not one_image(raster.shape, level.shape):
            raise LabelError(
                f"{source.name} of {size_text(raster.shape)} is not a level of {opened.file}, whose "
                f"level {level.index} is {size_text(level.shape)}; labels must cover the whole slide"
            )
        truth = RasterTruth(raster, level.shape, config.values if data.labels_are == "classes" else None)
    digest = hashlib.sha256((opened.identity + _digest(source)).encode()).hexdigest()
    return _lazy_field(opened.name, raster_of(level), truth, digest, data, None)


def one_image(some: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether both are (height, width) of one image at two scales, the coarser rounded up or down to whole pixels."""
    coarse, fine = sorted((some, other))
    scales = [(there / (here + 1), there / max(here - 1, 0.5)) for here, there in zip(coarse, fine, strict=True)]
    return max(low for low, _ in scales) < min(high for _, high in scales)


def _lazy_field(name: str, image: Raster, truth: Truth, sha256: str, data: DataConfig, mpp: float | None) -> Field:
    """A field that stays in its files."""
    if data.labels_are == "components" and isinstance(truth, RasterTruth):
        raise UsageError(f"{name} is too large for labels_are = 'components'; number its objects instead")
    if mpp is not None and scaled_shape(image, _mpp_of(image, None, data, mpp), mpp) != image.shape:
        raise ResolutionError(
            f"{name} is too large to be scaled to {mpp:g} micrometres per pixel in memory; give it under "
            "[[data.slides]], with a level of that resolution"
        )
    return Field(name, TRAIN, image.shape, image.channels, image.dtype, image, truth, sha256)


def _mpp_of(image: Raster, ids: npt.NDArray[np.int32] | None, data: DataConfig, mpp: float | None) -> float | None:
    """Micrometres per pixel of ``image``: its own, or by the size of its objects if the configuration says so."""
    if image.mpp is not None or data.object_um is None or mpp is None:
        return image.mpp
    if ids is None:
        raise ResolutionError(
            f"{image.name} is too large for object_um, and has no micrometres per pixel; give them in a table's column "
            "mpp, or under [[data.slides]]"
        )
    areas = np.unique(ids[ids > 0], return_counts=True)[1]
    if not len(areas):
        raise ResolutionError(
            f"{image.name} has no objects, so object_um cannot tell its resolution; give it in a table's column mpp"
        )
    return data.object_um / float(np.median(2 * np.sqrt(areas / np.pi)))


def _check_names(fields: Sequence[Field]) -> None:
    """Raise a UsageError if two fields have the same name."""
    name, count = Counter(f.name for f in fields).most_common(1)[0]
    if count > 1:
        raise UsageError(f"{count} images are called {name}; names must differ")


def _check_alike(fields: Sequence[Field]) -> None:
    """Raise a ChannelError unless all fields have the same channels and pixel type."""
    kinds = {(f.channels, f.dtype): f for f in reversed(fields)}
    if len(kinds) > 1:
        first, second = (
            f"{f.name} has {c} channel{'s'[: c > 1]} of {dtype}" for (c, dtype), f in list(kinds.items())[:2]
        )
        raise ChannelError(f"{first}, {second}; all images of a training must have the same channels and pixel type")


def _check_sizes(fields: Sequence[Field], config: TrainConfig) -> None:
    """Raise a UsageError if the core of a patch is larger than an image, unless small images are mirrored."""
    smallest = min(fields, key=lambda f: min(f.shape))
    side, stride, core = min(smallest.shape), config.receptive.stride, config.patches.core
    if config.patches.small_images == "mirror" or core <= side:
        return
    count = sum(min(f.shape) < core for f in fields)
    fits = f"core = {side // stride * stride} fits all, or " if side >= stride else ""
    raise UsageError(
        f"{smallest.name} is {size_text(smallest.shape)}, smaller than the patches' core of {core} px "
        f"({count} of {len(fields)} images are too small); [patches] {fits}small_images = 'mirror'"
    )


def _split(fields: list[Field], given: list[str | None], data: DataConfig, where: str) -> list[Field]:
    """``fields`` with their splits: as given, or by pattern, or the last ones in order of names by share."""
    by_name = {f.name: f for f in fields}
    splits = dict(zip(by_name, given, strict=True))
    for split, wish in ((TEST, data.test), (VALIDATION, data.validation)):
        if isinstance(wish, tuple):
            for pattern in wish:
                hits = [n for n in by_name if n == pattern or fnmatch(n, pattern) or fnmatch(Path(n).stem, pattern)]
                if not hits:
                    raise UsageError(f"{where} {split}: no image matches {pattern!r}; there are {_some(fields)}")
                splits.update({name: split for name in hits if splits[name] is None})
        elif not any(given):
            free = [name for name in sorted(by_name) if splits[name] is None]
            count = max(1, round(wish * len(by_name))) if wish and len(by_name) > 1 else 0
            splits.update(dict.fromkeys(free[len(free) - count :], split))
    return [replace(f, split=splits[f.name] or TRAIN) for f in fields]


def _some(fields: Sequence[Field]) -> str:
    shown = sorted(f.name for f in fields)
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")


def _digest(*paths: Path) -> str:
    """sha256 of the digests of files one after the other; a folder counts as all its files."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
