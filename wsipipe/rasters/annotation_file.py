"""Files of annotations, of whichever format: GeoJSON (QuPath), XML (ImageScope), or COCO's JSON."""

from __future__ import annotations

import json
from pathlib import Path

from wsipipe.errors import LabelError
from wsipipe.rasters import coco, geojson, imagescope
from wsipipe.rasters.features import Features, bytes_of


def read_features(path: Path, image: str, size: tuple[float, float] | None = None) -> Features:
    """The polygons that a file has for one image.

    Parameters
    ----------
    path
        The file; its content says which format it has.
    image
        File name of the image, for COCO, where a file may have several.
    size
        (height, width) of the image, px of level 0, as far as a level tells; None: it may have any.

    Raises
    ------
    LabelError
        If it has none of these formats, is damaged, or has no polygons.
    SlideReadError
        If it cannot be opened.
    """
    data, name = bytes_of(path), path.name
    if data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return imagescope.features_of(data, name)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise LabelError(f"{name} is not JSON ({err}); export it again as GeoJSON") from err
    if coco.is_coco(document):
        return coco.features_of(document, name, image, size)
    return geojson.features_of(document, name)
