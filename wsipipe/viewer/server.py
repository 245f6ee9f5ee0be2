"""The server of the viewer: tiles, outlines and pages, behind a token, for whoever was given the address.

Every address begins with the token. Nothing in an address is a path: items have numbers, given by `Catalog`.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import shapely
from bokeh.util.paths import bokehjs_path
from tornado.web import Application, HTTPError, RequestHandler
from zict import LRU

from wsipipe.errors import WsipipeError
from wsipipe.rasters.opened import damage_of
from wsipipe.report.style import COLORS
from wsipipe.viewer.catalog import Catalog
from wsipipe.viewer.encoding import NOTHING, Encoded, encoded_overlay, encoded_picture, encoded_slide
from wsipipe.viewer.items import Item
from wsipipe.viewer.outlines import outlines_in
from wsipipe.viewer.pages import catalog_page, viewer_page
from wsipipe.viewer.plots import LAYERS, layers_of, plots, unit_of
from wsipipe.viewer.result_tiles import heat_tile, label_tile, region_tile, tissue_tile
from wsipipe.viewer.tiling import TileIndex

CACHE_BYTES = 64 * 2**20
"""Bytes of encoded tiles that are held."""
THREADS = 4
"""Tiles that are made at a time."""
MOST_ITEMS = 4
"""Items on one page."""
POLICY = (
    "default-src 'none'; script-src 'self'; img-src 'self' data: blob:; connect-src 'self'; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
"""Content security policy: scripts from this server alone, and none in the page; bokeh brings style sheets."""
STATIC = {
    "bokeh.js": "text/javascript",
    "common.js": "text/javascript",
    "viewer.js": "text/javascript",
    "catalog.js": "text/javascript",
    "view.css": "text/css",
}
INTEGER = re.compile("[0-9]{1,9}", re.ASCII)
T = TypeVar("T")


@dataclass
class Viewer:
    """What all requests share."""

    catalog: Catalog
    token: str
    hosts: frozenset[str]
    """Names under which the server may be asked for, in lower case (see `answers_to`)."""
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "wsipipe-view"))
    _tiles: LRU[Any, Encoded] = field(
        default_factory=lambda: LRU(CACHE_BYTES, {}, weight=lambda _key, tile: len(tile[0])), repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def answers_to(self, host: str) -> bool:
        """Whether the server may be asked for as ``host``: by a name in `hosts`, or by any IP address.

        A page of another site could reach the server only by a name, which that site makes lead here.
        """
        with suppress(ValueError):
            return bool(ip_address(host.removeprefix("[").removesuffix("]")))
        return host.lower() in self.hosts

    def tile(self, key: Any, make: Callable[[], Encoded]) -> Encoded:
        """The tile called ``key``, made unless it is held."""
        with self._lock:
            held: Encoded | None = self._tiles.get(key)
        if held is None:
            held = make()
            with self._lock:
                self._tiles[key] = held
        return held


def make_application(viewer: Viewer) -> Application:
    """The web application of ``viewer``."""
    routes = [
        ("", _Home),
        ("look", _Look),
        ("plots", _Plots),
        ("catalog", _Entries),
        (f"about/({INTEGER.pattern})", _About),
        (f"thumbnail/({INTEGER.pattern})", _Thumbnail),
        (f"outlines/({INTEGER.pattern})", _Outlines),
        (rf"tiles/({INTEGER.pattern})/({'|'.join(LAYERS)})" + f"/({INTEGER.pattern})" * 3, _Tile),
        (f"static/({'|'.join(STATIC)})", _Static),
    ]
    return Application(
        [(f"/([^/]+)/{route}", handler, {"viewer": viewer}) for route, handler in routes], serve_traceback=False
    )


class _Handler(RequestHandler):
    """A request: refused without the token; errors of wsipipe become a line of text."""

    def initialize(self, viewer: Viewer) -> None:
        self.viewer = viewer

    def prepare(self) -> None:
        if not self.viewer.answers_to(self.request.host_name):
            raise HTTPError(403)
        if not hmac.compare_digest(self.path_args[0].encode(), self.viewer.token.encode()):
            raise HTTPError(403)
        del self.path_args[0]

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Cache-Control", "no-store")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        err = kwargs.get("exc_info", (None, None))[1]
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(str(err) if isinstance(err, WsipipeError) else f"{status_code}")

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, WsipipeError):
            super().log_exception(typ, value, tb)

    async def made(self, function: Callable[..., T], *arguments: Any) -> T:
        """What ``function`` returns, computed in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.viewer.pool, partial(function, *arguments))

    async def item(self, number: str | int) -> Item:
        try:
            return await self.made(self.viewer.catalog.item, int(number))
        except LookupError as err:
            raise HTTPError(404) from err

    async def items(self) -> list[tuple[int, Item]]:
        """The items that the query asks for, each with its number."""
        numbers = list(dict.fromkeys(self.integers("items", "0")))
        if not 1 <= len(numbers) <= MOST_ITEMS:
            raise HTTPError(400)
        return [(number, await self.item(number)) for number in numbers]

    def html(self, page: str) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(page)

    def integers(self, name: str, default: str) -> list[int]:
        """The integers of the query, which commas part; others are left out."""
        return [int(text) for text in self.get_query_argument(name, default).split(",") if INTEGER.fullmatch(text)]

    def number_in(self, name: str) -> float:
        """A number of the query."""
        try:
            number = float(self.get_query_argument(name))
        except ValueError as err:
            raise HTTPError(400) from err
        if not math.isfinite(number):
            raise HTTPError(400)
        return number


class _Home(_Handler):
    async def get(self) -> None:
        numbers = await self.made(self.viewer.catalog.refresh)
        self.html(catalog_page() if len(numbers) > 1 else viewer_page())


class _Look(_Handler):
    async def get(self) -> None:
        with suppress(WsipipeError):  # the page says what is wrong, and has the way back
            await self.items()
        self.html(viewer_page())


class _Plots(_Handler):
    async def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(plots(await self.items()))


class _About(_Handler):
    """What the page says of an item."""

    async def get(self, number: str) -> None:
        item = await self.item(number)
        (unit,) = unit_of([item])
        self.finish(
            {
                "name": item.name,
                "warning": item.warning,
                "mpp": item.mpp,
                "unit": unit,
                "shape": item.tiling.shape,
                "last": item.tiling.last,
                "classes": [{"name": name, "label": label, "color": color} for name, label, color in item.classes],
                "layers": layers_of(item),
                "objects": None if item.objects is None else item.objects.count,
                "model": "" if item.store is None else item.store.model,
                "complete": item.store is None or item.store.complete,
            }
        )


class _Entries(_Handler):
    async def get(self) -> None:
        entries = await self.made(self.viewer.catalog.entries)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps([asdict(entry) for entry in entries]))


class _Thumbnail(_Handler):
    async def get(self, number: str) -> None:
        try:
            blob, kind = await self.made(_thumbnail, self.viewer, int(number))
        except LookupError as err:
            raise HTTPError(404) from err
        self.set_header("Content-Type", kind)
        self.finish(blob)


class _Outlines(_Handler):
    async def get(self, number: str) -> None:
        item = await self.item(number)
        view = shapely.box(*(self.number_in(name) for name in ("x0", "y0", "x1", "y1")))
        unit, tolerance = self.number_in("unit"), self.number_in("tolerance")
        if item.objects is None:
            raise HTTPError(404)
        self.finish(await self.made(outlines_in, item.objects, view, unit, tolerance))


class _Tile(_Handler):
    async def get(self, number: str, layer: str, zoom: str, row: str, col: str) -> None:
        item = await self.item(number)
        tile = TileIndex(int(zoom), int(row), int(col))
        shown = tuple(self.integers("shown", ""))
        blob, kind = await self.made(_tile, self.viewer, item, layer, tile, shown)
        self.set_header("Content-Type", kind)
        self.set_header("Cache-Control", "private, no-cache")  # kept by the browser, which asks whether it is the same
        self.finish(blob)


class _Static(_Handler):
    async def get(self, name: str) -> None:
        self.set_header("Content-Type", f"{STATIC[name]}; charset=utf-8")
        self.set_header("Cache-Control", "private, max-age=600")
        self.finish(_static(name))


def _static(name: str) -> bytes:
    if name == "bokeh.js":
        script: bytes = (bokehjs_path() / "js" / "bokeh.min.js").read_bytes()
        return script
    content = files("wsipipe.viewer").joinpath("static", name).read_bytes()
    return COLORS.encode() + content if name == "view.css" else content


def _tile(viewer: Viewer, item: Item, layer: str, tile: TileIndex, shown: tuple[int, ...]) -> Encoded:
    if layer not in layers_of(item):
        raise HTTPError(404)
    make = partial(_made, item, layer, tile, shown)
    growing = layer in ("labels", "heat") and item.store is not None and not item.store.complete
    return make() if growing else viewer.tile((item.serial, layer, tile, shown), make)


def _made(item: Item, layer: str, tile: TileIndex, shown: tuple[int, ...]) -> Encoded:
    box, scale = item.tiling.box(tile), item.tiling.scale(tile.zoom)
    if box is None:  # browsers ask for a border around what they show
        return NOTHING
    if layer == "slide":
        assert item.slide is not None
        return encoded_slide(item.slide.rgb(tile, box))
    assert item.store is not None
    if layer == "heat" and (not shown or shown[0] not in {label for _, label, _ in item.classes}):
        raise HTTPError(404)
    with damage_of(Path(item.path)):
        if layer == "tissue":
            return encoded_overlay(tissue_tile(item.store, box, scale))
        if layer == "region":
            return NOTHING if item.region is None else encoded_overlay(region_tile(item.region, box, scale))
        if layer == "labels":
            return encoded_overlay(label_tile(item.store, box, scale, shown))
        return encoded_overlay(heat_tile(item.store, box, scale, shown[0]))


def _thumbnail(viewer: Viewer, number: int) -> Encoded:
    """The picture of an item on the page of all: with its labels outlined, if it has any."""
    item = viewer.catalog.item(number)
    if item.store is not None and not item.store.complete:
        return _drawn_small(viewer.catalog, number, item)
    return viewer.tile(("thumbnail", item.serial), partial(_drawn_small, viewer.catalog, number, item))


def _drawn_small(catalog: Catalog, number: int, item: Item) -> Encoded:
    if item.store is not None and (jpeg := catalog.summary(number).thumbnail.jpeg):
        return jpeg, "image/jpeg"
    whole = TileIndex(0, 0, 0)
    box = item.tiling.box(whole)
    if item.slide is None or box is None:
        return NOTHING
    return encoded_picture(item.slide.rgb(whole, box))
