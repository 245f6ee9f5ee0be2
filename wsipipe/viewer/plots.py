"""The plots of a page: of each item its tiles, overlays and outlines, all of them moving together.

Tiles are squares of a quadtree with y pointing up, as maps have them; a slide lies below the origin::

    x = column * unit,  y = -row * unit        unit: um per pixel of the slide's finest level; 1 where that is unknown
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bokeh.embed import json_item
from bokeh.layouts import row
from bokeh.models import (
    ColumnDataSource,
    HoverTool,
    Metric,
    MultiPolygons,
    PanTool,
    Plot,
    Range1d,
    ResetTool,
    ScaleBar,
    WheelZoomTool,
    WMTSTileSource,
)
from bokeh.plotting import figure

from wsipipe.viewer.items import Item
from wsipipe.viewer.outlines import NOT_SHOWN
from wsipipe.viewer.tiling import TILE_PX

SHARPER = 2
"""Pixels of a tile for each pixel of the screen that it is made for, because bokeh enlarges tiles up to twice."""
LAYERS = ("slide", "labels", "heat", "tissue", "region")
"""The kinds of tiles, from below."""
MICROMETRE = "µm"
"""As bokeh writes it."""
PARTS = ".bk-Panel { background: none; }"
"""Style of what bokeh puts over a plot: no box around an attribution that is empty."""
OPACITY = 0.5
"""Of labels and probabilities, at first."""


def layers_of(item: Item) -> list[str]:
    """The kinds of tiles that there are of ``item``, from below."""
    there = {
        "slide": item.slide is not None,
        "labels": item.store is not None,
        "heat": item.store is not None and item.store.probable,
        "tissue": item.has_tissue,
        "region": item.region is not None,
    }
    return [layer for layer in LAYERS if there[layer]]


def unit_of(items: Sequence[Item]) -> tuple[float, ...]:
    """What a pixel of each item's finest level measures on the page: um if all are known, else 1 for each."""
    known = [item.mpp for item in items if item.mpp is not None]
    return tuple(known) if len(known) == len(items) else (1.0,) * len(items)


def plots(items: Sequence[tuple[int, Item]]) -> str:
    """The plots of ``items``, each with its number, side by side with the same ranges, as JSON that bokeh embeds."""
    units = unit_of([item for _, item in items])
    in_um = all(item.mpp is not None for _, item in items)
    height = max(item.tiling.shape[0] * unit for (_, item), unit in zip(items, units, strict=True))
    width = max(item.tiling.shape[1] * unit for (_, item), unit in zip(items, units, strict=True))
    x_range, y_range = Range1d(0, width), Range1d(-height, 0)
    figures = [
        _plot(number, item, unit, x_range, y_range, in_um=in_um)
        for (number, item), unit in zip(items, units, strict=True)
    ]
    return json.dumps(json_item(row(*figures, sizing_mode="stretch_both", spacing=4)))


def _plot(number: int, item: Item, unit: float, x_range: Range1d, y_range: Range1d, *, in_um: bool) -> Plot:
    zoom = WheelZoomTool(zoom_on_axis=False)
    plot = figure(
        name=f"plot-{number}",
        x_range=x_range,
        y_range=y_range,
        match_aspect=True,
        sizing_mode="stretch_both",
        tools=[PanTool(), zoom, ResetTool()],
        active_scroll=zoom,
        toolbar_location=None,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border=0,
        output_backend="canvas",
        stylesheets=[PARTS],
    )
    plot.axis.visible = False
    plot.grid.visible = False
    for layer in layers_of(item):
        plot.add_tile(
            _tiles(number, item, unit, layer),
            name=f"{layer}-{number}",
            smoothing=layer != "labels",
            visible=layer in ("slide", "labels", "region"),
            alpha=OPACITY if layer in ("labels", "heat") else 1.0,
        )
    if item.objects is not None:
        _add_outlines(plot, number, item.objects.columns)
    if in_um:
        metric = Metric(base_unit="m", include=[MICROMETRE, "mm"])
        bar = ScaleBar(range=x_range, unit=MICROMETRE, dimensional=metric, bar_length=0.15, location="bottom_right")
        plot.add_layout(bar)
    return plot


def _tiles(number: int, item: Item, unit: float, layer: str) -> WMTSTileSource:
    last = item.tiling.last
    side = TILE_PX * 2**last * unit  # of the whole quadtree
    return WMTSTileSource(
        url=f"tiles/{number}/{layer}/{{Z}}/{{Y}}/{{X}}",
        tile_size=TILE_PX // SHARPER,
        min_zoom=0,
        max_zoom=last,
        x_origin_offset=0,
        y_origin_offset=side,
        initial_resolution=side / (TILE_PX // SHARPER),
        wrap_around=False,
        attribution="",
    )


def _add_outlines(plot: Any, number: int, columns: Sequence[str]) -> None:
    shown = [name for name in columns if name not in NOT_SHOWN]
    source = ColumnDataSource({name: [] for name in ("xs", "ys", "color", *shown)}, name=f"objects-{number}")
    glyph = MultiPolygons(xs="xs", ys="ys", fill_alpha=0, line_color="color", line_width=2)
    pointed = MultiPolygons(xs="xs", ys="ys", fill_color="color", fill_alpha=0.25, line_color="color", line_width=3)
    renderer = plot.add_glyph(source, glyph, hover_glyph=pointed, name=f"outlines-{number}")
    plot.add_tools(
        HoverTool(
            renderers=[renderer],
            tooltips=[(name, f"@{{{name}}}") for name in shown],
            point_policy="follow_mouse",
            attachment="horizontal",
            name=f"measures-{number}",
        )
    )
