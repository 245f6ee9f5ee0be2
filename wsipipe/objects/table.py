"""The table of objects: its columns, and the file that holds it (GeoParquet 1.1).

https://geoparquet.org/releases/v1.1.0: polygons as WKB, a column ``bbox`` of which readers skip row groups, and the key
``geo``. The coordinates are pixels of the slide's finest level, x to the right and y down, which no coordinate
reference system describes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsipipe.errors import UsageError
from wsipipe.objects.numbers import Counts
from wsipipe.objects.rings import Rings
from wsipipe.objects.shapes import intensity_measures, shape_measures
from wsipipe.objects.sums import AREA, SHAPES_ONLY, Layout, Sums
from wsipipe.objects.wkb import write_wkb
from wsipipe.palette import class_color

BBOX = pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])
FIRST = "first"
"""The column of first pixels, which the file does not have: the order of the ids, and of rows within a tile."""
KEY = b"wsipipe"
"""The key of the schema's metadata that holds a `Description`, as JSON."""


@dataclass(frozen=True)
class ObjectClass:
    """A class of objects."""

    label: int
    """Its label in the store, 1 to 255."""
    name: str
    """Its name."""
    color: str = ""
    """#rrggbb; empty if unknown."""


@dataclass(frozen=True)
class Description:
    """What a table says of itself, and what its columns need to know of the labels."""

    slide: str
    """Identity of the slide file."""
    classes: tuple[ObjectClass, ...]
    """All classes but the background."""
    mpp: float | None
    """Micrometres per pixel of the labels; None if unknown, and then columns in micrometres are null."""
    downsample: float = 1.0
    """Pixels of the slide's finest level that one pixel of the labels spans, along a side."""
    connectivity: int = 8
    """Whether pixels that touch at a corner belong together (8) or not (4)."""
    split: bool = False
    """Whether objects were parted where they are narrow."""
    min_area_um2: float = 0.0
    """Area below which objects are left out, in square micrometres; where `mpp` is None, in pixels of the labels."""
    layout: Layout = SHAPES_ONLY
    """What was measured besides shapes."""

    @property
    def pixel_area(self) -> float:
        """Area of a pixel of the labels in square micrometres; 1 if that is unknown."""
        return 1.0 if self.mpp is None else self.mpp * self.mpp

    @property
    def names(self) -> dict[int, str]:
        """The name of each label."""
        return {one.label: one.name for one in self.classes}

    @property
    def colors(self) -> dict[str, str]:
        """The colour of each class, #rrggbb, by its name; where it is unknown, one of the palette."""
        return {one.name: one.color or class_color(one.label) for one in self.classes}

    def large_enough(self, area: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether objects of these areas in pixels, (objects,) integers, have the smallest area: booleans."""
        return area.astype(np.float64) * self.pixel_area >= self.min_area_um2


def make_table(sums: Sums, hulls: Counts, rings: Rings, description: Description) -> pa.Table:
    """The rows of objects, in their order; without ids, and with the column `FIRST`.

    Parameters
    ----------
    sums
        (objects,); rows and columns are counted from those of each extent.
    hulls
        (objects,), int64: twice the area of each convex hull, in pixels.
    rings
        The outlines.
    description
        What the columns need to know.
    """
    scale, mpp = description.downsample, description.mpp
    shape = shape_measures(sums, hulls)
    area = sums.added[:, AREA].astype(np.int64)
    y0, x0, y1, x1 = (pa.array(side * scale) for side in sums.extent.T)
    columns: dict[str, pa.Array] = {
        FIRST: pa.array(sums.first),
        "class": _class_names(sums.label, description),
        "x": pa.array(shape["x"] * scale),
        "y": pa.array(shape["y"] * scale),
        "x_um": _scaled(shape["x"], mpp),
        "y_um": _scaled(shape["y"], mpp),
        "pixels": pa.array(area),
        "area_um2": _scaled(area, None if mpp is None else mpp * mpp),
        "perimeter_um": _scaled(shape["perimeter"], mpp),
        "major_axis_um": _scaled(shape["major_axis"], mpp),
        "minor_axis_um": _scaled(shape["minor_axis"], mpp),
        **{
            name: pa.array(shape[name], from_pandas=True)
            for name in ("eccentricity", "orientation", "circularity", "solidity")
        },
        **{name: pa.array(values) for name, values in intensity_measures(sums, description.layout).items()},
        "bbox": pa.StructArray.from_arrays([x0, y0, x1, y1], fields=list(BBOX)),
        "geometry": write_wkb(rings, scale),
    }
    return pa.table(columns)


def empty_table(description: Description) -> pa.Table:
    """The table of no objects."""
    none = np.zeros(0, np.int64)
    sums = Sums(
        none.astype(np.uint8), none, np.zeros((0, 4), np.int64), np.zeros((0, description.layout.columns), np.int64)
    )
    return make_table(sums, none, Rings.none(), description)


def schema_of(description: Description) -> pa.Schema:
    """The schema of the file, with its metadata."""
    rows = empty_table(description).drop_columns([FIRST]).schema
    described = json.dumps(asdict(description), ensure_ascii=False, sort_keys=True)
    return pa.schema(
        [pa.field("id", pa.int64()), *rows], {b"geo": json.dumps(_geo()).encode(), KEY: described.encode()}
    )


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of tables of objects.

    Each page has a checksum: without one, 98 of 150 bits that were changed gave other values and no error.
    """
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=["class"], write_page_checksum=True)


def parse_description(metadata: Mapping[bytes, bytes] | None) -> Description:
    """What `schema_of` wrote.

    Raises
    ------
    ValueError
        If the metadata lack it, or it is damaged.
    """
    try:
        found = json.loads((metadata or {})[KEY])
        layout = Layout(**found.pop("layout") | {})
        classes = tuple(ObjectClass(**one) for one in found.pop("classes"))
        return Description(
            **found, classes=classes, layout=Layout(tuple(layout.channels), layout.stained, layout.probability)
        )
    except (KeyError, TypeError, ValueError) as err:
        raise ValueError(f"not a table of objects ({type(err).__name__}: {err})") from err


def _geo() -> dict[str, Any]:
    covering = {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}}
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon", "MultiPolygon"],
        "crs": None,
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": covering,
    }
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _class_names(labels: npt.NDArray[np.uint8], description: Description) -> pa.Array:
    """The names of labels; the dictionary has all classes, in the order of their labels, whatever is there."""
    names = description.names
    known = sorted(names)
    index = np.full(256, -1, np.int32)
    index[known] = np.arange(len(known))
    if (unknown := np.unique(labels[index[labels] < 0])).size:
        raise UsageError(f"objects of label {unknown[0]} were found; the classes have the labels {known}")
    return pa.DictionaryArray.from_arrays(
        pa.array(index[labels]), pa.array([names[label] for label in known], pa.string())
    )


def _scaled(values: npt.NDArray[Any], scale: float | None) -> pa.Array:
    if scale is None:
        return pa.nulls(len(values), pa.float64())
    return pa.array(values * scale)
