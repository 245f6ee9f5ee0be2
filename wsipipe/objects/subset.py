"""A part of a table of objects as a table of its own."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from wsipipe.errors import OutputError, WsipipeError
from wsipipe.files import MAKE_ROOM
from wsipipe.objects.export import EVERYTHING, Selection
from wsipipe.objects.read import ObjectTable
from wsipipe.objects.table import schema_of


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
    parts = table.parts(classes=selection.classes, region=selection.region)
    partial, written = path.with_name(path.name + ".partial"), 0
    schema = schema_of(table.description)
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd", use_dictionary=["class"]) as writer:
            for part in parts:
                writer.write_table(part.cast(schema))
                written += len(part)
        partial.replace(path)
    except WsipipeError:
        raise
    except OSError as err:
        raise OutputError(f"{path} cannot be written: {err.strerror or err}; {MAKE_ROOM}") from err
    finally:
        with suppress(OSError):
            partial.unlink()
    return written
