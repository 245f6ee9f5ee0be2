"""Slides and stores as layers of napari: plain tuples, for which napari need not be installed.

napari's coordinates are those of the middles of pixels, in micrometres where these are known. The middle of the slide's
first pixel is the origin, as it is in the metadata of stores::

    pixel i of what spans d pixels of the slide    lies at (i * d + (d - 1) / 2) * mpp
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from wsipipe.errors import WsipipeError
from wsipipe.files import Named, absolute
from wsipipe.napari_plugin.pyramids import label_pyramid, probability_pyramid, slide_pyramid
from wsipipe.objects.read import ObjectTable, geometries, open_objects
from wsipipe.pictures.drawing import OUTLINE, REGION_OUTLINE, inner_edge
from wsipipe.rasters.region import read_region
from wsipipe.rasters.segmented_slide import open_segmented_slide
from wsipipe.slides.open import open_slide
from wsipipe.slides.slide import Slide
from wsipipe.store.finished import FinishedStore, is_store, open_finished
from wsipipe.store.spec import PARTIAL, REGION, STORE

LayerData = tuple[Any, dict[str, Any], str]
"""Data, keyword arguments and type of one layer, as napari's readers return them."""

MOST_OUTLINES = 2000
"""Objects that are drawn with their outlines: napari takes a second for them, but without bermuda half a minute."""
MOST_POINTS = 200_000
"""Objects that are drawn as discs if there are too many to outline; beyond that, the labels show them."""
LINE_PX = 1.5
"""Width of outlines in pixels of the slide."""
NOT_MEASURED = ("bbox", "geometry")
"""Columns of objects that are drawn, not listed."""


@dataclass(frozen=True)
class Space:
    """The coordinates of one slide."""

    mpp: float | None
    """Micrometres per pixel of its finest level; None if unknown."""

    def place(self, downsample: tuple[float, float] = (1.0, 1.0), corner: float = 0.0) -> dict[str, Any]:
        """Scale, translation and units of a layer whose pixels span ``downsample`` (y, x) of the slide's.

        ``corner`` is how far (0, 0) of the layer's data lies from the middle of its first pixel, in these pixels.
        """
        size = 1.0 if self.mpp is None else self.mpp
        return {
            "scale": tuple(size * span for span in downsample),
            "translate": tuple(size * ((span - 1) / 2 - corner * span) for span in downsample),
            "units": ("pixel" if self.mpp is None else "micrometer",) * 2,
        }


def napari_layers(path: Named) -> list[LayerData]:
    """The layers in which napari shows the store at ``path`` with its slide, or a slide alone.

    From back to front: the slide, as RGB or one layer a channel; the outline of the tissue; that of
    the region, if one was asked for; a heat map for each class with probabilities, hidden at first; the labels in the
    colours of their classes; the outlines of up to 2000 objects with their measures, or up to 200 000 as discs. Pixels
    are read when they are shown. A slide that cannot be read, or that is not the one that was segmented, is left out
    with a warning.

    >>> viewer = napari.Viewer()  # doctest: +SKIP
    >>> for layer in wsipipe.napari_layers("segmentations/case-17.zarr"):  # doctest: +SKIP
    ...     viewer.add_layer(napari.layers.Layer.create(*layer))

    Returns
    -------
    list of tuple
        Data, keyword arguments and type of each layer, as napari's readers return them.

    Raises
    ------
    SlideError
        If it is neither a store nor a slide, or a store that is damaged.
    """
    where = absolute(path)
    if not is_store(where):
        slide = open_slide(where)
        return list(_slide_layers(slide, Space(slide.mpp), slide.name))
    store = open_finished(where)
    name = Path(store.path).name.removesuffix(PARTIAL).removesuffix(STORE)
    segmented = _slide_of(store)
    space = Space(segmented.mpp if store.slide_mpp is None and segmented is not None else store.slide_mpp)
    return [
        *(() if segmented is None else _slide_layers(segmented, space, name)),
        *_tissue_layers(store, space, name),
        *_region_layers(store, space, name),
        *_probability_layers(store, space, name),
        _label_layer(store, space, name),
        *_object_layers(store, space, name),
    ]


def _slide_of(store: FinishedStore) -> Slide | None:
    """The slide that was segmented; None, with a warning, if it cannot be read."""
    try:
        return open_segmented_slide(store)
    except WsipipeError as err:
        warnings.warn(f"{store.path} is shown without its slide: {err}", stacklevel=3)
        return None


def _levels(pyramid: list[Any], kind: str, **options: Any) -> LayerData:
    """A layer of a pyramid; napari takes one level as an array, not as a list of one."""
    several = len(pyramid) > 1
    return pyramid if several else pyramid[0], {"multiscale": several, **options}, kind


def _slide_layers(slide: Slide, space: Space, name: str) -> Iterator[LayerData]:
    finest, pyramid = slide.levels[0], slide_pyramid(slide)
    common = space.place()
    # Three channels of 8 bits look the same in red, green and blue, whatever they are.
    if finest.dtype == "uint8" and (finest.channels == 3 or (finest.channels == 4 and finest.axes == "yxc")):
        yield _levels([level[..., :3] for level in pyramid], "image", rgb=True, name=f"{name} slide", **common)
        return
    colors = ["red", "green", "blue"] if finest.channels == 3 else ["gray", "magenta", "green", "cyan", "yellow"]
    chosen = finest.planes.indices or range(finest.channels)
    for number, channel in enumerate(chosen):
        known = channel < len(slide.channel_names)
        of = slide.channel_names[channel] if known else "slide" if finest.channels == 1 else f"channel {channel}"
        looks = {"name": f"{name} {of}", "blending": "additive" if number else "translucent_no_depth"}
        looks |= {"colormap": colors[number % len(colors)]}
        limits = {"contrast_limits": (0, 255)} if finest.dtype == "uint8" else {}  # napari looks for others
        yield _levels([level[..., number] for level in pyramid], "image", **common, **looks, **limits)


def _tissue_layers(store: FinishedStore, space: Space, name: str) -> Iterator[LayerData]:
    levels: list[Any] = []
    while (level := store.tissue(len(levels))) is not None:
        levels.append(level)
    if not levels:
        return
    cell = _cell(store, levels[0].shape)
    edges = [inner_edge(np.asarray(level[:], bool)).astype(np.uint8) for level in levels]
    color = "#" + bytes(OUTLINE).hex()
    looks = {**_looks({1: color}, {1: "tissue"}), "opacity": 1.0}
    yield _levels(edges, "labels", name=f"{name} tissue", **looks, **space.place(cell))


def _region_layers(store: FinishedStore, space: Space, name: str) -> Iterator[LayerData]:
    document = store.region()
    if document is None:
        return
    polygons = read_region(document, REGION, store.shapes[0], store.downsample).polygons
    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.interiors)]
    looks = {
        "shape_type": "polygon",
        "edge_color": "#" + bytes(REGION_OUTLINE).hex(),
        "edge_width": LINE_PX,
        "face_color": "transparent",
    }
    data = [np.asarray(ring.coords)[:-1, ::-1] for ring in rings]
    yield data, {"name": f"{name} region", "opacity": 1.0, **looks, **space.place(corner=0.5)}, "shapes"


def _cell(store: FinishedStore, shape: tuple[int, ...]) -> tuple[float, float]:
    """Pixels of the slide that a cell of the tissue mask of ``shape`` spans, (rows, columns)."""
    height, width = (side * store.downsample / cells for side, cells in zip(store.shapes[0], shape, strict=True))
    return height, width


def _probability_layers(store: FinishedStore, space: Space, name: str) -> Iterator[LayerData]:
    if not store.probable:
        return
    pyramid, index = probability_pyramid(store)
    for class_name, label, color in store.classes:
        rgb = [value / 255 for value in bytes.fromhex(color[1:])]
        looks = {
            "name": f"{name} probability of {class_name}",
            "colormap": {"name": f"{class_name} {color}", "colors": [[*rgb, 0.0], [*rgb, 1.0]]},
            "contrast_limits": (0, 255),
            "blending": "translucent_no_depth",
            "visible": False,
        }
        place = space.place((store.downsample, store.downsample))
        yield _levels([level[index[label]] for level in pyramid], "image", **looks, **place)


def _label_layer(store: FinishedStore, space: Space, name: str) -> LayerData:
    colors = {label: color for _, label, color in store.classes}
    names = {label: class_name for class_name, label, _ in store.classes}
    place = space.place((store.downsample, store.downsample))
    looks = {**_looks(colors, names), "opacity": 0.5, "name": f"{name} labels", "metadata": {"store": store.path}}
    return _levels(label_pyramid(store), "labels", **looks, **place)


def _looks(colors: dict[int, str], names: dict[int, str]) -> dict[str, Any]:
    """Colours and names of labels; any other label is transparent."""
    return {
        "colormap": {None: "transparent", 0: "transparent", **colors},
        "features": {"index": [0, *names], "class": ["background", *names.values()]},
        "blending": "translucent_no_depth",
    }


def _object_layers(store: FinishedStore, space: Space, name: str) -> Iterator[LayerData]:
    try:
        table = open_objects(store.path)
    except WsipipeError:
        return
    if 0 < table.count <= MOST_POINTS:
        drawn = _outlines(table) if table.count <= MOST_OUTLINES else _discs(table)
        data, looks, kind = drawn
        # Outlines are in pixels from the corner of the first, as GeoJSON's are.
        yield data, {"name": f"{name} objects", "opacity": 1.0, **looks, **space.place(corner=0.5)}, kind


def _outlines(table: ObjectTable) -> LayerData:
    """Objects as polygons without their holes, which napari does not have; one for each part of an object."""
    rings: list[Any] = []
    measures: dict[str, list[Any]] = {column: [] for column in table.columns if column not in NOT_MEASURED}
    for part in table.parts():
        polygons, rows = shapely.get_parts(geometries(part), return_index=True)
        rings += [np.asarray(polygon.exterior.coords)[:-1, ::-1] for polygon in polygons]
        for column, values in measures.items():
            values += part[column].take(rows).to_pylist()
    colors = table.description.colors
    looks = {
        "shape_type": "polygon",
        "edge_color": [colors[one] for one in measures["class"]],
        "edge_width": LINE_PX,
        "face_color": "transparent",
    }
    return rings, {**looks, "features": measures}, "shapes"


def _discs(table: ObjectTable) -> LayerData:
    """Objects as discs of their area around their centroids."""
    measures: dict[str, list[Any]] = {column: [] for column in table.columns if column not in NOT_MEASURED}
    for part in table.parts(columns=list(measures)):
        for column, values in measures.items():
            values += part[column].to_pylist()
    colors = table.description.colors
    size = 2 * np.sqrt(np.array(measures["pixels"]) / np.pi) * table.description.downsample
    looks = {
        "size": size,
        "face_color": "transparent",
        "border_color": [colors[one] for one in measures["class"]],
        "border_width_is_relative": False,
        "border_width": LINE_PX,
    }
    return np.column_stack([measures["y"], measures["x"]]), {**looks, "features": measures}, "points"
