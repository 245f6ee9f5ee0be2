"""A finished store as people read it: its labels, classes, scale, objects and statistics.

What is read are JSON, arrays of Zarr 3 and Parquet. None of these can hold code; a store of another kind is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import zarr

from wsipipe.errors import DamagedStoreError
from wsipipe.extras import require
from wsipipe.files import Named, locate, zarr_store
from wsipipe.model.spec import LabelClass
from wsipipe.objects.read import ObjectTable, open_objects
from wsipipe.report.markup import element
from wsipipe.report.words import shown_lines
from wsipipe.store.finished import FinishedStore, open_complete
from wsipipe.store.spec import INSTANCES, PROBABILITIES, ROOT, TISSUE, UNCERTAINTY

if TYPE_CHECKING:
    import xarray

CHUNK_PX = 1024
"""Least side of a chunk of dask: what zarr reads in some milliseconds."""


@dataclass(frozen=True)
class ClassStatistics:
    """What a store counts of one class."""

    name: str
    """Name of the class."""
    label: int
    """Value of its pixels in the labels."""
    color: str
    """Colour in which viewers draw it, ``#rrggbb``."""
    pixels: int | None
    """Number of its pixels at the finest level; None if the run did not record it."""
    area_mm2: float | None
    """Their area in square millimetres; None if that or the size of a pixel is unknown."""
    objects: int | None
    """Number of its objects; None if they were not measured."""
    per_mm2: float | None
    """Objects per square millimetre of the area that was searched; None if that is unknown."""
    median_um2: float | None
    """Median of the areas of objects in square micrometres; None without objects or the size of a pixel."""


@dataclass(frozen=True, eq=False, repr=False)
class Store:
    """A finished store; made by `open_store`. Pixels are read when they are indexed or computed."""

    path: str
    """Path or URL of the store."""
    slide: str
    """Path of the slide when it was segmented."""
    model: str
    """Name of the model; empty if unknown."""
    classes: tuple[LabelClass, ...]
    """The classes except background: names, labels and colours."""
    mpp: float | None
    """Micrometres per pixel of the finest level of labels; None if unknown."""
    downsample: float
    """Pixels of the slide's finest level that one pixel of the finest labels spans, along a side."""
    tissue_share: float | None
    """Share of the slide that was searched, 0 to 1; None if no tissue mask was used."""
    statistics: tuple[ClassStatistics, ...]
    """Pixels, areas and counts of objects, class by class; ``pandas.DataFrame(store.statistics)`` makes a table."""
    levels: tuple[zarr.Array[Any], ...]
    """The labels of each level, from fine to coarse: (y, x), uint8, 0 is background."""
    probabilities: zarr.Array[Any] | None
    """The probability of each class, (class, y, x), uint8, round(255 p); None if they were not written."""
    uncertainty: zarr.Array[Any] | None
    """How undecided the network is, (y, x), uint8, 0 certain to 255 undecided; None if it was not written."""
    tissue: zarr.Array[Any] | None
    """The tissue mask, (row, column) of cells that cover the slide, uint8, 1 in tissue; None if there is none."""
    instances: zarr.Array[Any] | None
    """The id of each pixel's object, (y, x), uint32, 0 for none; None if they were not written."""

    @property
    def labels(self) -> zarr.Array[Any]:
        """The labels at the finest level: (y, x), uint8, 0 is background; ``store.labels[:100, :100]`` is of numpy."""
        return self.levels[0]

    @cached_property
    def objects(self) -> ObjectTable:
        """The table of objects, not yet read.

        Raises
        ------
        StoreError
            If they were not measured.
        DamagedStoreError
            If the table is damaged.
        UsageError
            If the store is behind a URL.
        """
        return open_objects(self.path)

    def to_dask(self, level: int = 0) -> da.Array:
        """The labels of ``level`` as a lazy dask array, (y, x), uint8, in whole chunks of the store."""
        array = self.levels[level]
        chunks = tuple(piece * max(1, CHUNK_PX // piece) for piece in array.chunks)
        lazy: da.Array = da.from_array(array, chunks=chunks, inline_array=True)
        return lazy

    def to_xarray(self, level: int = 0) -> xarray.DataArray:
        """The labels of ``level`` as a lazy array of xarray, whose coordinates are those of the middles of pixels.

        They are in micrometres from the middle of the slide's first pixel; in pixels of the slide's finest level if
        the size of a pixel is unknown. Attribute ``classes`` has the name of each label.

        Raises
        ------
        MachineError
            If xarray is not installed.
        """
        require("xarray", "xarray", what="to_xarray")
        import xarray

        span = self.downsample * 2**level
        size, unit = (1.0, "pixel") if self.mpp is None else (self.mpp / self.downsample, "micrometer")
        coordinates = {
            axis: (axis, (np.arange(count) * span + (span - 1) / 2) * size, {"units": unit})
            for axis, count in zip("yx", self.levels[level].shape, strict=True)
        }
        names = {one.label: one.name for one in self.classes}
        return xarray.DataArray(
            self.to_dask(level), coordinates, ("y", "x"), name="labels", attrs={"classes": names, "model": self.model}
        )

    def __repr__(self) -> str:
        height, width = self.labels.shape
        scale = "" if self.mpp is None else f" at {self.mpp:.4g} um/px"
        lines = [f"{self.path}: labels {width} wide x {height} high{scale}, {len(self.levels)} levels, by {self.model}"]
        for one in self.statistics:
            said = [f"{value} {unit}" for (_, unit), value in zip(COLUMNS, _cells(one), strict=True) if value]
            lines.append(f"    {one.name} ({one.label}): {', '.join(said)}".removesuffix(": "))
        return shown_lines(lines)

    def _repr_html_(self) -> str:
        """The same for a notebook; names are shown as text, whatever they hold."""
        first, *_ = repr(self).split("\n")
        head = element("tr", *(element("th", name) for name in ("class", "label", *(name for name, _ in COLUMNS))))
        rows = [
            element("tr", *(element("td", text) for text in (one.name, str(one.label), *_cells(one))))
            for one in self.statistics
        ]
        return element("div", element("p", first), element("table", head, *rows)).source


COLUMNS = (
    ("pixels", "px"),
    ("area, mm2", "mm2"),
    ("objects", "objects"),
    ("objects per mm2", "per mm2"),
    ("median area, um2", "um2 in the median"),
)
"""Columns of the statistics, and the words that follow a number where there are no columns."""


def _cells(one: ClassStatistics) -> list[str]:
    """The numbers of a class, as people read them; empty where there is none."""
    numbers = (one.pixels, one.area_mm2, one.objects, one.per_mm2, one.median_um2)
    forms = (",", ",.4g", ",", ",.1f", ",.1f")
    return ["" if number is None else format(number, form) for number, form in zip(numbers, forms, strict=True)]


def open_store(path: Named) -> Store:
    """The finished store at ``path``, which `run` wrote, to read labels, classes, scale, objects and statistics.

    >>> store = wsipipe.open_store("segmentations/case-17.zarr")  # doctest: +SKIP
    >>> store.labels[600:900, 800:1100]  # doctest: +SKIP

    Parameters
    ----------
    path
        Folder or URL of a store.

    Raises
    ------
    StoreError
        If it is not a store that wsipipe made, or not finished.
    DamagedStoreError
        If its metadata cannot be read, or are not those of labels.
    """
    store = open_complete(path)
    optional = (PROBABILITIES, UNCERTAINTY, f"{TISSUE}/0", f"{INSTANCES}/0")
    probabilities, uncertainty, tissue, instances = (
        _array(store, name) if (locate(store.path) / name / ROOT).is_file() else None for name in optional
    )
    return Store(
        path=store.path,
        slide=store.slide_path,
        model=store.model,
        classes=tuple(LabelClass(*one) for one in store.classes),
        mpp=store.mpp,
        downsample=store.downsample,
        tissue_share=store.tissue_share,
        statistics=_statistics(store),
        levels=tuple(_array(store, str(level)) for level in range(max(1, store.levels))),
        probabilities=probabilities,
        uncertainty=uncertainty,
        tissue=tissue,
        instances=instances,
    )


def _array(store: FinishedStore, name: str) -> zarr.Array[Any]:
    """The array ``name`` of ``store``; only Zarr 3 is opened, whose codecs cannot run what they read.

    Raises
    ------
    DamagedStoreError
        If there is none, or one of other axes or of another type.
    """
    axes, dtype = 3 if name == PROBABILITIES else 2, "uint32" if name.startswith(INSTANCES) else "uint8"
    try:
        array = zarr.open_array(zarr_store(locate(store.path) / name), mode="r", zarr_format=3)
    except Exception as err:  # whatever zarr raises on metadata that are damaged or missing
        raise DamagedStoreError(
            f"{store.path}: array {name} cannot be read ({type(err).__name__}: {err}); segment the slide again"
        ) from err
    if array.ndim != axes or array.dtype != dtype:
        raise DamagedStoreError(
            f"{store.path}: array {name} is {array.dtype} of {array.ndim} axes, and should be {dtype} of {axes}; "
            "segment the slide again"
        )
    return array


def _statistics(store: FinishedStore) -> tuple[ClassStatistics, ...]:
    counted = {one.name: one for one in store.objects or ()}
    found = []
    for name, label, color in store.classes:
        pixels = store.counts.get(label, 0) if store.counts else None
        area = None if pixels is None or store.mpp is None else pixels * store.mpp**2 / 1e6
        of = counted.get(name)
        measured = (None, None, None) if of is None else (of.objects, of.per_mm2, of.median_um2)
        found.append(ClassStatistics(name, label, color, pixels, area, *measured))
    return tuple(found)
