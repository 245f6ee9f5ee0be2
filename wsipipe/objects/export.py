"""Tables of objects as files for other programs: GeoJSON for QuPath, and CSV.

QuPath's rules are those of its reader, ``qupath.lib.io.QuPathTypeAdapters``: a FeatureCollection; ``id`` a UUID; in
``properties`` the ``objectType`` (an object without one becomes an annotation), ``classification`` with ``name`` and
``color`` [r, g, b], and ``measurements``, an object of numbers. Coordinates are pixels of the slide's finest level.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import shapely

from wsipipe.errors import OutputError, UsageError, WsipipeError
from wsipipe.files import MAKE_ROOM
from wsipipe.objects.read import ObjectTable, geometries

MANY_FEATURES = 1_000_000
"""Above this number of features, a GeoJSON file must be asked for with a tolerance: QuPath parses the whole file at
once."""
NAMESPACE = uuid.UUID("0b3f6f0e-52a2-5b6f-9a54-1f2c7f7f9d3e")
"""Of the names, ``slide/id``, that UUIDs of objects are made of (RFC 9562, version 5)."""
DECIMALS = {"x": 1, "y": 1, "x_um": 2, "y_um": 2}
"""Decimals of measurements in GeoJSON, where they are not four."""
UNMEASURED = ("id", "class", "bbox", "geometry")
"""Columns that are not measurements."""
COMPRESSION = 1
"""Level of gzip: 6 takes three times as long for 15 % less."""


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
    with _appearing(path) as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        for part in table.parts(classes=selection.classes, region=selection.region):
            file.write((",\n" if written else "\n").encode() + ",\n".join(features.of(part)).encode())
            written += len(part)
        file.write(b"\n]}\n")
    return written


def export_csv(table: ObjectTable, path: Path, selection: Selection = EVERYTHING) -> int:
    """Write the measures of objects as CSV, and return how many; the file appears whole or not at all.

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
    with _appearing(path) as file:
        file.write(_csv(table.empty.drop_columns(["geometry"]), header=True))
        for part in parts:
            file.write(_csv(part, header=False))
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


class _Features:
    """The features of objects, as text."""

    def __init__(self, table: ObjectTable, annotations: frozenset[str], simplify_px: float) -> None:
        description = table.description
        self._slide, self._simplify_px = description.slide, simplify_px
        self._names = [name for name in table.columns if name not in UNMEASURED]
        self._kinds = {}
        for one in description.classes:
            classification: dict[str, Any] = {"name": one.name}
            if one.color:
                classification["color"] = list(bytes.fromhex(one.color.removeprefix("#")))
            kind = "annotation" if one.name in annotations else "detection"
            self._kinds[one.name] = f'"objectType":"{kind}","classification":{json.dumps(classification)}'

    def of(self, part: pa.Table) -> Iterator[str]:
        """The features of some rows, in their order."""
        names = [name for name in self._names if part[name].null_count < len(part)]
        measured = [self._rounded(name, part[name]) for name in names]
        # Row by row with one format is four times as fast as json.dumps.
        measurements = ",".join(f"{json.dumps(name)}:%s" for name in names)
        rows = zip(
            part["id"].to_pylist(),
            part["class"].to_pylist(),
            self._outlines(part),
            zip(*measured, strict=True),
            strict=True,
        )
        for number, name, outline, values in rows:
            text = measurements % values
            if "None" in text or "nan" in text:
                there = ((key, value) for key, value in zip(names, values, strict=True) if value is not None)
                text = ",".join(f"{json.dumps(key)}:{value}" for key, value in there)
            yield (
                f'{{"type":"Feature","id":"{self._uuid(number)}","geometry":{outline},'
                f'"properties":{{{self._kinds[name]},"measurements":{{{text}}}}}}}'
            )

    def _outlines(self, part: pa.Table) -> list[str]:
        polygons = geometries(part)
        if self._simplify_px:
            simple = shapely.simplify(polygons, self._simplify_px)
            polygons = np.where(shapely.is_valid(simple) & ~shapely.is_empty(simple), simple, polygons)
        texts: list[str] = shapely.to_geojson(shapely.transform(polygons, lambda points: np.round(points, 1))).tolist()
        return texts

    def _uuid(self, number: int) -> uuid.UUID:
        digest = hashlib.sha1(NAMESPACE.bytes + f"{self._slide}/{number}".encode(), usedforsecurity=False).digest()
        return uuid.UUID(bytes=digest[:16], version=5)

    def _rounded(self, name: str, values: pa.ChunkedArray) -> list[Any]:
        if pa.types.is_integer(values.type):
            return values.to_pylist()  # type: ignore[no-any-return]
        return pc.round(values, DECIMALS.get(name, 4)).to_pylist()  # type: ignore[no-any-return]


def _csv(part: pa.Table, *, header: bool) -> bytes:
    """Rows as CSV, with a column for each side of the bounding box."""
    flat = part.set_column(part.column_names.index("class"), "class", part["class"].cast(pa.string())).flatten()
    flat = flat.rename_columns([name.removeprefix("bbox.") for name in flat.column_names])
    text = pa.BufferOutputStream()
    pyarrow.csv.write_csv(flat, text, pyarrow.csv.WriteOptions(include_header=header))
    return text.getvalue().to_pybytes()  # type: ignore[no-any-return]


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
def _appearing(path: Path) -> Iterator[IO[bytes] | _Behind]:
    """A file that gets its name once it is complete; compressed, in a thread of its own, if the name ends in .gz."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as plain:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", COMPRESSION, plain, mtime=0) as packed, closing(_Behind(packed)) as behind:
                    yield behind
                    behind.wait()
            else:
                yield plain
        partial.replace(path)
    except WsipipeError:
        raise
    except OSError as err:
        raise OutputError(f"{path} cannot be written: {err.strerror or err}; {MAKE_ROOM}") from err
    finally:
        partial.unlink(missing_ok=True)
