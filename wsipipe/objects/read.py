"""The table of objects, read back a row group at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import shapely

from wsipipe.errors import DamagedStoreError, StoreError, UsageError
from wsipipe.files import Named, locate
from wsipipe.objects.table import Description, parse_description
from wsipipe.store.finished import FinishedStore
from wsipipe.store.spec import OBJECTS_TABLE
from wsipipe.urls import Url


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """The objects of a slide, on a disk until they are asked for; made by `open_objects`."""

    path: str
    """The file."""
    description: Description
    """What it says of itself: classes, resolution, and what was measured."""
    count: int
    """Number of objects."""
    _file: pq.ParquetFile = field(repr=False)

    @property
    def dataset(self) -> ds.Dataset:
        """The table as a dataset of pyarrow, which is lazy and has filters, joins and batches of its own."""
        return ds.dataset(self.path, format="parquet")

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self._file.schema_arrow.names)

    @property
    def empty(self) -> pa.Table:
        """No rows, of all columns."""
        return self._file.schema_arrow.empty_table()

    def check_classes(self, names: Collection[str]) -> None:
        """Refuse names that no class has.

        Raises
        ------
        UsageError
            If there is one.
        """
        known = [one.name for one in self.description.classes]
        if unknown := [name for name in names if name not in known]:
            raise UsageError(f"{self.path} has no class {unknown[0]!r}; choose from {', '.join(map(repr, known))}")

    def parts(
        self,
        *,
        columns: Collection[str] | None = None,
        classes: Collection[str] = (),
        region: shapely.Geometry | None = None,
    ) -> Iterator[pa.Table]:
        """The rows, a row group at a time, in the order of the file.

        Parameters
        ----------
        columns
            Which columns; None for all.
        classes
            Which classes, by name; empty for all.
        region
            Only objects whose centroid lies in it, in pixels of the slide's finest level. Row groups elsewhere are
            skipped.

        Raises
        ------
        UsageError
            If there is no class of such a name.
        DamagedStoreError
            If the file cannot be read.
        """
        self.check_classes(classes)
        wanted = None if columns is None else list(dict.fromkeys([*columns, "class", "x", "y"]))
        for group in range(self._file.num_row_groups):
            if region is not None and not region.intersects(self._extent(group)):
                continue
            part = self._read(group, wanted)
            if classes:
                part = part.filter(pc.is_in(part["class"].cast(pa.string()), pa.array(list(classes))))
            if region is not None:
                part = part.filter(pa.array(shapely.contains_xy(region, part["x"].to_numpy(), part["y"].to_numpy())))
            if len(part):
                yield part if columns is None else part.select(list(columns))

    def meeting(self, extent: tuple[float, float, float, float], columns: Collection[str]) -> Iterator[pa.Table]:
        """The rows whose bounding boxes meet a rectangle, a row group at a time, in the order of the file.

        Parameters
        ----------
        extent
            Its first x and y, and its last ones, in pixels of the slide's finest level.
        columns
            Which columns.

        Raises
        ------
        DamagedStoreError
            If the file cannot be read.
        """
        x0, y0, x1, y1 = extent
        rectangle = shapely.box(*extent)
        for group in range(self._file.num_row_groups):
            if not rectangle.intersects(self._extent(group)):
                continue
            part = self._read(group, list(dict.fromkeys([*columns, "bbox"])))
            xmin, ymin, xmax, ymax = (column.to_numpy() for column in part["bbox"].combine_chunks().flatten())
            met = (xmin <= x1) & (ymin <= y1) & (xmax >= x0) & (ymax >= y0)
            yield part.filter(pa.array(met)).select(list(columns))

    def to_pandas(self) -> Any:
        """All objects as a data frame of pandas, which must be installed; polygons as WKB.

        ``geopandas.read_parquet(table.path)`` has them as geometries.
        """
        return pa.concat_tables(self.parts()).to_pandas() if self.count else self.empty.to_pandas()

    def _read(self, group: int, columns: list[str] | None) -> pa.Table:
        try:
            return self._file.read_row_group(group, columns)
        except (OSError, pa.ArrowInvalid) as err:
            raise DamagedStoreError(f"{self.path} cannot be read: {err}; remove it, make the objects again") from err

    def _extent(self, group: int) -> shapely.Geometry:
        """The box around the objects of a row group."""
        metadata = self._file.metadata.row_group(group)
        columns = {metadata.column(number).path_in_schema: number for number in range(metadata.num_columns)}
        low = (metadata.column(columns[f"bbox.{name}"]).statistics.min for name in ("xmin", "ymin"))
        high = (metadata.column(columns[f"bbox.{name}"]).statistics.max for name in ("xmax", "ymax"))
        return shapely.box(*low, *high)


def open_objects(path: Named) -> ObjectTable:
    """The table of objects at ``path``, a store or the file itself, whose rows are not yet read.

    Raises
    ------
    UsageError
        If ``path`` is a URL.
    StoreError
        If it is a folder without objects.
    DamagedStoreError
        If it is missing, or not a table of objects.
    """
    where = locate(path)
    if isinstance(where, Url):
        raise UsageError(f"{where}: tables of objects are read from a disk; copy the file first")
    try:
        if where.is_dir():
            where = where / OBJECTS_TABLE
            if not where.exists():
                raise StoreError(f"{path} has no objects; make them with wsipipe objects {path}")
        file = pq.ParquetFile(where, page_checksum_verification=True)
        description = parse_description(file.schema_arrow.metadata)
    except (OSError, ValueError) as err:  # ArrowInvalid is a ValueError
        raise DamagedStoreError(f"{where} cannot be read: {err}; make the objects again") from err
    return ObjectTable(str(where), description, file.metadata.num_rows, file)


def damages_of_objects(store: FinishedStore) -> tuple[str, ...]:
    """What is wrong with the objects of a finished store on a disk, one message each; all of their table is read.

    A store without objects has none that are wrong.
    """
    table = locate(store.path) / OBJECTS_TABLE
    if isinstance(table, Url) or not (table.exists() or store.objects):
        return ()
    try:
        opened = open_objects(table)
        for _ in opened.parts():
            pass
    except DamagedStoreError as err:
        return (str(err),)
    counted = sum(one.objects for one in store.objects or ())
    if counted != opened.count:
        return (
            f"{table} has {opened.count} objects, and {store.path} says {counted}; wsipipe objects counts them anew",
        )
    return ()


def geometries(part: pa.Table) -> Any:
    """The polygons of some rows, (rows,), an object array of shapely; its dtype is object."""
    return shapely.from_wkb(np.asarray(part["geometry"].to_numpy(zero_copy_only=False), object))
