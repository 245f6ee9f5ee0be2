"""Tables of objects as files for other programs: GeoJSON for QuPath, CSV, and GeoParquet of a part.

QuPath's rules are those of its reader, ``qupath.lib.io.QuPathTypeAdapters``: a FeatureCollection; ``id`` a UUID; in
``properties`` the ``objectType`` (an object without one becomes an annotation), ``classification`` with ``name`` and
``color`` [r, g, b], and ``measurements``, an object of numbers. Coordinates are pixels of the slide's finest level.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import shapely

from wsipipe.errors import UsageError
from wsipipe.files import appearing
from wsipipe.objects.geojson_text import geojson_of
from wsipipe.objects.read import ObjectTable, geometries
from wsipipe.objects.table import parquet_writer, schema_of

Made = TypeVar("Made")

MANY_FEATURES = 1_000_000
"""Above this number of features, a GeoJSON file must be asked for with a tolerance: QuPath parses the whole file at
once."""
DECIMALS = {"x": 1, "y": 1, "x_um": 2, "y_um": 2}
"""Decimals of measurements in GeoJSON and CSV, where they are not four."""
UNMEASURED = ("id", "class", "pixels", "bbox", "geometry")
"""Columns that are no measurements, or the first of them."""
THREADS = 2
"""Threads that write features; each has the text of a row group, some 17 MB."""
COMPRESSION = 1
"""Level of gzip: 6 takes three times as long for 30 % less."""


@dataclass(frozen=True)
class Selection:
    """Which objects to export."""

    classes: tuple[str, ...] = ()
    """Their classes by name; empty for all."""
    region: shapely.Geometry | None = None
    """Where their centroids are, in pixels of the slide's finest level; None for anywhere."""


EVERYTHING = Selection()
"""All objects."""


def export_geojson(
    table: ObjectTable,
    path: Path,
    selection: Selection = EVERYTHING,
    *,
    simplify_px: float | None = None,
    annotations: Collection[str] = (),
) -> int:
    """Write objects as GeoJSON for QuPath, and return how many; the file appears whole or not at all.

    Parameters
    ----------
    table
        The objects.
    path
        The file to write; compressed if its name ends in ``.gz``.
    selection
        Which objects.
    simplify_px
        How far an outline may be from the original, in pixels of the slide's finest level; None or 0 for outlines along
        the edges of pixels. Polygons stay valid.
    annotations
        Classes, by name, whose objects are annotations, such as regions of tumour; the others are detections.

    Raises
    ------
    UsageError
        If a class is unknown, or there are more than `MANY_FEATURES` objects and ``simplify_px`` is None.
    DamagedStoreError
        If the table cannot be read.
    OutputError
        If the file cannot be written.
    """
    table.check_classes(annotations)
    if simplify_px is None and (count := count_objects(table, selection)) > MANY_FEATURES:
        raise UsageError(
            f"{table.path} has {count:,} objects to export, and QuPath reads a whole GeoJSON file at once; choose some "
            "(--class, --region), simplify their outlines (--simplify 1), or ask for all of them (--simplify 0)"
        )
    written = 0
    features = _Features(table, frozenset(annotations), simplify_px or 0.0)
    with _opened(path) as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        parts = table.parts(classes=selection.classes, region=selection.region)
        for text, count in _in_threads(lambda part: (features.of(part), len(part)), parts):
            file.write(text[0 if written else 1 :])
            written += count
        file.write(b"\n]}\n")
    return written


def export_csv(table: ObjectTable, path: Path, selection: Selection = EVERYTHING) -> int:
    """Write the measures of objects as CSV, and return how many; the file appears whole or not at all.

    Measures have the decimals that they have in GeoJSON (`DECIMALS`); Parquet has all of them.

    Parameters
    ----------
    table
        The objects.
    path
        The file to write; compressed if its name ends in ``.gz``.
    selection
        Which objects.

    Raises
    ------
    UsageError
        If a class is unknown.
    DamagedStoreError
        If the table cannot be read.
    OutputError
        If the file cannot be written.
    """
    columns = [name for name in table.columns if name != "geometry"]
    parts = table.parts(columns=columns, classes=selection.classes, region=selection.region)
    written = 0
    with _opened(path) as file:
        file.write(_csv(table.empty.drop_columns(["geometry"]), header=True))
        for part in parts:
            file.write(_csv(part, header=False))
            written += len(part)
    return written


def export_parquet(table: ObjectTable, path: Path, selection: Selection = EVERYTHING) -> int:
    """Write objects as GeoParquet, and return how many; the file appears whole or not at all.

    Parameters
    ----------
    table
        The objects.
    path
        The file to write.
    selection
        Which objects.

    Raises
    ------
    UsageError
        If a class is unknown.
    DamagedStoreError
        If the table cannot be read.
    OutputError
        If the file cannot be written.
    """
    table.check_classes(selection.classes)
    schema, written = schema_of(table.description), 0
    with appearing(path) as partial, parquet_writer(partial, schema) as writer:
        for part in table.parts(classes=selection.classes, region=selection.region):
            writer.write_table(part.cast(schema))
            written += len(part)
    return written


def count_objects(table: ObjectTable, selection: Selection = EVERYTHING) -> int:
    """How many objects a selection has.

    Raises
    ------
    UsageError
        If a class is unknown.
    DamagedStoreError
        If the table cannot be read.
    """
    if selection == EVERYTHING:
        return table.count
    return sum(len(part) for part in table.parts(columns=["id"], classes=selection.classes, region=selection.region))


def simplified(polygons: Any, tolerance_px: float) -> Any:
    """Outlines within a tolerance of the original ones, (objects,), an object array of shapely; all of them are valid.

    An outline that would not be valid is left as it is.
    """
    if not tolerance_px:
        return polygons
    simple = shapely.simplify(polygons, tolerance_px)
    return np.where(shapely.is_valid(simple) & ~shapely.is_empty(simple), simple, polygons)


class _Features:
    """The features of objects, as text.

    The UUID of an object (RFC 9562, version 8) is made of the slide's identity and, in its last 12 digits, the object's
    id.
    """

    def __init__(self, table: ObjectTable, annotations: frozenset[str], simplify_px: float) -> None:
        description = table.description
        self._classes, self._simplify_px = description.classes, simplify_px
        self._measured = [name for name in table.columns if name not in UNMEASURED]
        digest = hashlib.sha256(description.slide.encode()).hexdigest()
        self._prefix = f"{digest[:8]}-{digest[8:12]}-8{digest[12:15]}-8{digest[15:18]}"
        self._kinds = {}
        for one in description.classes:
            classification: dict[str, Any] = {"name": one.name}
            if one.color:
                classification["color"] = list(bytes.fromhex(one.color.removeprefix("#")))
            kind = "annotation" if one.name in annotations else "detection"
            self._kinds[one.name] = f'"objectType":"{kind}","classification":{json.dumps(classification)}'

    def of(self, part: pa.Table) -> bytes:
        """The features of some rows, one after the other, each with a comma and a new line before it."""
        # Put together by column, in compiled code, and not object by object in Python.
        columns = [',\n{"type":"Feature","id":"', self._uuids(part["id"]), '","geometry":', self._outlines(part)]
        kinds = [self._kinds[one.name] for one in self._classes]
        names = pa.array([one.name for one in self._classes])
        kind = pc.take(pa.array(kinds), pc.index_in(part["class"].cast(pa.string()), names))
        columns += [',"properties":{', kind, ',"measurements":{"pixels":', part["pixels"].cast(pa.string())]
        for name in self._measured:
            values = _rounded(part, name).cast(pa.string())
            columns.append(pc.binary_join_element_wise(f",{json.dumps(name)}:", values, ""))
        features = pc.binary_join_element_wise(*columns, "}}}", "", null_handling="replace", null_replacement="")
        return _text(features)

    def _outlines(self, part: pa.Table) -> pa.Array:
        return geojson_of(simplified(geometries(part), self._simplify_px))

    def _uuids(self, numbers: pa.ChunkedArray) -> pa.Array:
        return pa.array([f"{self._prefix}-{number:012x}" for number in numbers.to_pylist()])


def _rounded(part: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of measurements, to the decimals that files of text have."""
    return pc.round(part[name], DECIMALS.get(name, 4))


def _text(rows: pa.ChunkedArray) -> bytes:
    """The text of all rows, one after the other."""
    texts = rows.combine_chunks().cast(pa.large_string())
    return b"" if not len(texts) else texts.buffers()[2].to_pybytes()


def _csv(part: pa.Table, *, header: bool) -> bytes:
    """Rows as CSV, with a column for each side of the bounding box, and as many decimals as in GeoJSON."""
    flat = part.set_column(part.column_names.index("class"), "class", part["class"].cast(pa.string())).flatten()
    flat = flat.rename_columns([name.removeprefix("bbox.") for name in flat.column_names])
    for i, column in enumerate(flat.schema):
        if pa.types.is_floating(column.type):
            flat = flat.set_column(i, column.name, _rounded(flat, column.name))
    text = pa.BufferOutputStream()
    pyarrow.csv.write_csv(flat, text, pyarrow.csv.WriteOptions(include_header=header))
    return text.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _in_threads(function: Callable[[pa.Table], Made], parts: Iterator[pa.Table]) -> Iterator[Made]:
    """What a function makes of each part, in their order; shapely and pyarrow do not hold the interpreter's lock."""
    with ThreadPoolExecutor(THREADS) as pool:
        begun: deque[Future[Made]] = deque()
        for part in parts:
            begun.append(pool.submit(function, part))
            if len(begun) > THREADS:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


class _Behind:
    """A file that is written in a thread: compressing does not hold the interpreter's lock."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file, self._thread = file, ThreadPoolExecutor(1)
        self._writing: Future[int] | None = None

    def write(self, blob: bytes) -> None:
        """Write this once what came before is written."""
        self.wait()
        self._writing = self._thread.submit(self._file.write, blob)

    def wait(self) -> None:
        """Return once all is written; raise what went wrong."""
        if self._writing is not None:
            self._writing.result()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes] | _Behind]:
    """A file that gets its name once it is complete; compressed, in a thread of its own, if the name ends in .gz."""
    with appearing(path) as partial, partial.open("wb") as plain:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", COMPRESSION, plain, mtime=0) as packed, closing(_Behind(packed)) as behind:
                yield behind
                behind.wait()
        else:
            yield plain
