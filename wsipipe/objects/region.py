"""A region of a slide that a user draws in QuPath, for choosing objects."""

from __future__ import annotations

from pathlib import Path

import shapely

from wsipipe.rasters.annotation_file import read_features


def read_region(path: Path) -> shapely.Geometry:
    """All polygons of an annotation file as one geometry, in pixels of the slide's finest level.

    Raises
    ------
    LabelError
        If it is not one, or holds no polygons.
    SlideReadError
        If it cannot be opened.
    """
    region = shapely.union_all(read_features(path, path.name).polygons((1.0, 1.0)))
    shapely.prepare(region)
    return region
