"""Objects as SpatialData: shapes, and an annotated table of their measures, written by that library itself.

The slide and the store are named in its attributes, and stay where they are: copies of images and labels would take
more room than all objects.

Source: https://spatialdata.scverse.org/en/stable/design_doc.html
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wsipipe.errors import UsageError
from wsipipe.extras import install
from wsipipe.files import appearing
from wsipipe.objects.export import EVERYTHING, UNMEASURED, Selection, count_objects, simplified
from wsipipe.objects.read import ObjectTable, geometries

MOST_OBJECTS = 1_000_000
"""The library holds all shapes and measures in memory, some 5 kB for each nucleus."""
SHAPES, TABLE = "objects", "table"
"""Names of the shapes and of their table."""
PIXELS, MICRONS = "global", "microns"
"""Coordinate systems: pixels of the slide's finest level, which is what SpatialData shows first, and micrometres."""


def export_spatialdata(
    table: ObjectTable,
    path: Path,
    selection: Selection = EVERYTHING,
    *,
    simplify_px: float | None = None,
    attributes: dict[str, Any] | None = None,
) -> int:
    """Write objects as a folder of SpatialData, and return how many; it appears whole or not at all.

    Parameters
    ----------
    table
        The objects.
    path
        The folder to make.
    selection
        Which objects.
    simplify_px
        How far an outline may be from the original, in pixels of the slide's finest level; None or 0 for outlines along
        the edges of pixels.
    attributes
        What it should say of where the objects come from.

    Raises
    ------
    UsageError
        If the library is not installed, there is something at ``path``, also if that appeared meanwhile, a class is
        unknown, or there are more than `MOST_OBJECTS` or no objects.
    DamagedStoreError
        If the table cannot be read.
    OutputError
        If the folder cannot be written.
    """
    try:
        import spatialdata
    except ImportError as err:
        raise UsageError(
            f"--to spatialdata needs {err.name}, which is not installed; {install('spatialdata')}"
        ) from err
    _refuse_existing(path)
    count = count_objects(table, selection)
    if not 0 < count <= MOST_OBJECTS:
        raise UsageError(
            f"{table.path} has {count:,} objects to export, and SpatialData holds all of them in memory; 1 to "
            f"{MOST_OBJECTS:,} are possible; choose some (--class, --region), or use --to parquet"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # meant for those who develop the library
        shapes, measures = _elements(table, selection, simplify_px or 0.0)
        data = spatialdata.SpatialData(shapes={SHAPES: shapes}, tables={TABLE: measures}, attrs=attributes)
        with appearing(path, shared=True) as partial:
            data.write(partial)
            _refuse_existing(path)  # another export may have made it meanwhile
    return count


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise UsageError(f"{path} is there already; remove it, or give another folder (-o)")


def _elements(table: ObjectTable, selection: Selection, simplify_px: float) -> tuple[Any, Any]:
    """The shapes and the measures; their rows are in memory only until both are made."""
    rows = pa.concat_tables(table.parts(classes=selection.classes, region=selection.region))
    return _shapes(rows, table, simplify_px), _measures(rows)


def _shapes(rows: pa.Table, table: ObjectTable, simplify_px: float) -> Any:
    """The outlines, with the ids as index."""
    import geopandas
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity, Scale

    transformations: dict[str, Any] = {PIXELS: Identity()}
    if (mpp := table.description.mpp) is not None:
        finest = mpp / table.description.downsample
        transformations[MICRONS] = Scale([finest, finest], axes=("x", "y"))
    outlines = geopandas.GeoDataFrame(
        geometry=simplified(geometries(rows), simplify_px), index=rows["id"].to_numpy().copy()
    )
    return ShapesModel.parse(outlines, transformations=transformations)


def _measures(rows: pa.Table) -> Any:
    """The measures, a row for each object, which its id links to its outline."""
    import anndata
    import pandas
    from spatialdata.models import TableModel

    names = [name for name in rows.column_names if name not in UNMEASURED or name == "pixels"]
    values = [rows[name].cast(pa.float64()).to_numpy() for name in names]
    ids = rows["id"].to_numpy()
    about = pandas.DataFrame(
        {
            "class": rows["class"].combine_chunks().to_pandas(),
            "region": pandas.Categorical([SHAPES] * len(ids)),
            "id": ids,
        }
    )
    about.index = about["id"].astype(str).rename(None)
    cells = anndata.AnnData(np.stack(values, axis=1), obs=about, var=pandas.DataFrame(index=names))
    cells.obsm["spatial"] = np.stack([rows[name].to_numpy() for name in ("x", "y")], axis=1)
    return TableModel.parse(cells, region=SHAPES, region_key="region", instance_key="id")
