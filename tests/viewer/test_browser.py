"""The pages in a real browser: what one sees lies where it should, and nothing is asked of any other server."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

import wsipipe
from tests.objects.stores import made_store
from tests.report.chromium import PATIENCE_SECONDS, PROGRAM, Chromium
from tests.report.nights import HOSTILE, write_pyramid, write_store
from tests.soak import each_value_once, in_soak
from wsipipe.pipeline.objects_plan import ObjectsRequest, plan_objects
from wsipipe.pipeline.objects_store import make_objects
from wsipipe.viewer.serving import ViewServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed: apt-get install chromium"),
]
TEXT_IN_SHADOWS = """function text(node) {
    return [node.shadowRoot, ...node.childNodes].filter(Boolean).map(text).join("") + (node.nodeValue || "");
}"""
"""All text below a node: bokeh puts what it shows into shadow trees."""
OUTLINES_DRAWN = "views_of(viewer.model('outlines', 0)).glyph.sxs.length > 0"
GLAND, FAT = (0xFF, 0x80, 0x00), (0x00, 0x80, 0xFF)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


def look(browser: Chromium, address: str, *, width: int = 1200) -> None:
    """Open a page of the viewer, and wait until it shows all."""
    browser.open("about:blank")  # or another place on the same page would not load it again
    browser.open(address, width=width)
    wait(browser, "document.body && document.body.dataset.ready")
    assert browser.value("document.body.dataset.ready") == "yes", browser.value("document.body.innerText")


def wait(browser: Chromium, expression: str) -> None:
    """Wait until ``expression`` is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not browser.value(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.05)


def drawn(browser: Chromium) -> np.ndarray:
    """What the page shows once all tiles are there, (y, x, 3)."""
    wait(browser, "viewer.complete()")
    browser.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    blob = base64.b64decode(browser.call("Page.captureScreenshot")["data"])
    return np.asarray(imagecodecs.png_decode(blob))[..., :3]


def switch(browser: Chromium, name: str) -> None:
    """Click the switch of the panel that has this name."""
    browser.value(f"[...document.querySelectorAll('.switch')].find(s => s.innerText == '{name}').click()")


def place(browser: Chromium, x: float, y: float) -> tuple[int, int]:
    """(row, column) of the screen at which the pixel (x, y) of the slide's finest level is."""
    row, col = browser.value(f"viewer.screen_of({x}, {y})")
    return int(row), int(col)


def asked_elsewhere(browser: Chromium, address: str) -> list[str]:
    urls = [event["request"]["url"] for event in browser.told("Network.requestWillBeSent")]
    return [url for url in urls if not url.startswith((address, "data:", "blob:"))]


def complaints(browser: Chromium) -> list[object]:
    told = [event for event in browser.told("Runtime.consoleAPICalled") if event["type"] != "info"]
    return [*told, *browser.told("Runtime.exceptionThrown"), *browser.told("Log.entryAdded")]


LEVELS = {"finest": (0, 1), "coarser": (1, 2)}
"""Level of the store, and levels of the slide."""


@pytest.fixture(scope="module", params=LEVELS)
def striped(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ViewServer, int]]:
    """A grey slide of odd sides with a square that is white and labelled, whose store is of one of its levels."""
    level, levels = LEVELS[request.param]
    folder = tmp_path_factory.mktemp("square")
    labels = np.zeros((1301, 901), np.uint8)
    labels[800:1000, 400:600] = 7
    labels[1200:1301, 800:901] = 200
    planes = [labels[:: 2**n, :: 2**n] for n in range(levels)]
    pictures = [np.where(plane == 7, 255, 90).astype(np.uint8)[..., None].repeat(3, -1) for plane in planes]
    slide = write_pyramid(folder / "a.tif", pictures, compression="deflate")
    store = write_store(folder / "a.zarr", slide, planes[level], level=level, mpp=0.5 * 2**level)
    with ViewServer([store]) as running:
        yield running, level


def test_labels_lie_on_the_slide_to_the_pixel(browser: Chromium, striped: tuple[ViewServer, int]) -> None:
    """At two opposite corners of the square, which have all of its edges."""
    served, _ = striped
    look(browser, f"{served.address}#x=500&y=900&w=100", width=600)
    browser.value("viewer.model('labels', 0).alpha = 1")
    for x, y in ((402, 802), (598, 998)):
        browser.value(f"location.hash = 'x={x}&y={y}&w=40'")
        wait(browser, f"Math.abs(viewer.x.start / viewer.unit(0) + 20 - {x}) < 1e-6")
        shown = drawn(browser)
        for dx in (-4, 0, 4):
            for dy in (-4, 0, 4):
                inside = 400 <= x + dx < 600 and 800 <= y + dy < 1000
                row, col = place(browser, x + dx + 0.5, y + dy + 0.5)
                assert tuple(shown[row, col]) == (GLAND if inside else (90, 90, 90)), (x + dx, y + dy)


ON_THE_FINEST = pytest.mark.parametrize("striped", [*LEVELS][:1] + in_soak(*[*LEVELS][1:]), indirect=True)
"""Where a label lies is shown of both levels above."""


@ON_THE_FINEST
def test_panel_switches_classes_and_the_link_keeps_the_place(
    browser: Chromium, striped: tuple[ViewServer, int]
) -> None:
    served, _ = striped
    look(browser, f"{served.address}#x=850&y=1250&w=300")
    browser.value("viewer.model('labels', 0).alpha = 1")
    at = place(browser, 850.5, 1250.5)
    assert tuple(drawn(browser)[at]) == FAT
    browser.value("document.querySelectorAll('#panel .switch input')[1].click()")
    assert tuple(drawn(browser)[at]) == (90, 90, 90)
    browser.value("viewer.go(200, -300, 150)")  # um: the slide has 0.5 um/px
    wait(browser, "location.hash.includes('x=400.0&y=600.0&w=300.0')")
    browser.value("location.hash = 'x=300&y=500&w=60'; viewer.settled()")  # the way before it comes to rest meanwhile
    wait(browser, "Math.abs(viewer.x.start / viewer.unit(0) - 270) < 1e-6")
    assert complaints(browser) == []
    assert asked_elsewhere(browser, served.address) == []


def test_pointing_at_an_object_shows_its_measures(browser: Chromium, tmp_path: Path) -> None:
    spec, labels, _ = made_store(tmp_path)
    make_objects(plan_objects(spec.path, ObjectsRequest(min_area_um2=0)), 1, 2**40, lambda _done, _all: None)
    with ViewServer([spec.path]) as served:
        look(browser, f"{served.address}#x=65&y=75&w=100")
        wait(browser, OUTLINES_DRAWN)
        ys, xs = np.nonzero(labels[40:110, 30:100])
        row, col = place(browser, xs[0] + 30.5, ys[0] + 40.5)
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=col, y=row)
        wait(browser, "document.getElementById('place').textContent.includes('px')")
        wait(browser, f"({TEXT_IN_SHADOWS})(document.body).includes('area_um2')")
        assert complaints(browser) == []


def test_pointing_at_outlines_that_are_not_drawn_yet_finds_nothing(browser: Chromium, tmp_path: Path) -> None:
    spec, labels, _ = made_store(tmp_path)
    make_objects(plan_objects(spec.path, ObjectsRequest(min_area_um2=0)), 1, 2**40, lambda _done, _all: None)
    ys, xs = np.nonzero(labels[40:110, 30:100])
    with ViewServer([spec.path]) as served:
        look(browser, f"{served.address}#x=65&y=75&w=100")
        wait(browser, OUTLINES_DRAWN)
        before, between, after = browser.value(
            f"""(async () => {{
                const view = views_of(viewer.model("outlines", 0)), source = view.model.data_source, all = source.data;
                const {{ x_scale, y_scale }} = views_of(viewer.shared).frame;
                const unit = viewer.unit(0);
                const [sx, sy] = [x_scale.compute({xs[0] + 30.5} * unit), y_scale.compute(-{ys[0] + 40.5} * unit)];
                const hits = () => view.hit_test({{ type: "point", sx, sy }})?.indices.length ?? 0;
                const painted = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
                const before = hits();
                source.data = Object.fromEntries(Object.keys(all).map((name) => [name, []]));
                await painted();
                view.map_data = () => {{}}; // as long as nothing is drawn
                source.data = all;
                await painted();
                const between = hits();
                delete view.map_data;
                view.map_data();
                return [before, between, hits()];
            }})()"""
        )
    assert (before > 0, between, after) == (True, 0, before)


def test_outlines_of_one_slide_are_switched_off_and_those_beside_it_stay(browser: Chromium, tmp_path: Path) -> None:
    spec, _, _ = made_store(tmp_path)
    make_objects(plan_objects(spec.path, ObjectsRequest(min_area_um2=0)), 1, 2**40, lambda _done, _all: None)
    shutil.copytree(spec.path, tmp_path / "b.zarr")
    count = "items.map((item) => viewer.model('outlines', item).data_source.data.id.length)"
    with ViewServer([spec.path, tmp_path / "b.zarr"]) as served:
        look(browser, f"{served.address}look?items=0,1#x=65&y=75&w=100")
        wait(browser, f"{count}.every(Boolean)")
        switch(browser, "outlines of objects")
        browser.value("Promise.all(items.map((item, i) => viewer.outline(item, i)))")
        off, on = browser.value(count)
    assert (off, on > 0) == (0, True)


def test_outline_of_the_region_lies_on_its_edge_and_is_switched_off(
    browser: Chromium, tiny_model: Path, tmp_path: Path
) -> None:
    slide = write_pyramid(tmp_path / "a.tif", [np.full((500, 600, 3), 90, np.uint8)])
    config = wsipipe.RunConfig(out=str(tmp_path), model=str(tiny_model), roi="200,100,300,250", tissue="off")
    assert wsipipe.run([slide], config).exit_code == 0
    with ViewServer([str(tmp_path / "a.zarr")]) as served:
        look(browser, f"{served.address}#x=200&y=200&w=40", width=600)
        browser.value("viewer.model('labels', 0).alpha = 0")
        at = [place(browser, x + 0.5, 200.5) for x in (197, 200, 203)]
        on = [int(drawn(browser)[pixel][2]) for pixel in at]
        switch(browser, "outline of the region")
        off = [int(drawn(browser)[pixel][2]) for pixel in at]
    assert (on[0], on[1] > 200, on[2], off) == (90, True, 90, [90, 90, 90]), "blue, on the edge alone"


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewServer]:
    """Slides of different sizes and resolutions, the last of an unknown one."""
    folder = tmp_path_factory.mktemp("unequal")
    given = {"wide": ((200, 400), 0.5), "high": ((600, 300), 1.0), "unknown": ((300, 300), None)}
    slides = [
        write_pyramid(folder / f"{name}.tif", [np.full((*shape, 3), 200, np.uint8)], mpp=mpp)
        for name, (shape, mpp) in given.items()
    ]
    with ViewServer(slides) as running:
        yield running


def test_side_by_side_each_slide_has_its_name_above_it_and_an_overview(browser: Chromium, unequal: ViewServer) -> None:
    look(browser, f"{unequal.address}look?items=0,1")
    for name, plot in browser.value(
        """items.map((item, i) => {
            const ends = (box) => [box.left, box.right, box.top, box.bottom];
            const plot = views_of(viewer.model("plot", item)).el.getBoundingClientRect();
            return [ends(document.querySelectorAll("#names p")[i].getBoundingClientRect()), ends(plot)];
        })"""
    ):
        assert name[:2] == pytest.approx(plot[:2], abs=2)
        assert name[3] <= plot[2]
    assert browser.value("document.getElementById('names').innerText").split() == ["wide.tif", "high.tif"]
    wait(browser, "[...document.querySelectorAll('.overview img')].filter((image) => image.naturalWidth).length == 2")
    for i, middle in ((1, [150, -300]), (0, [100, -50])):  # um
        browser.value(
            f"""(() => {{
                const overview = document.querySelectorAll(".overview")[{i}], box = overview.getBoundingClientRect();
                const [clientX, clientY] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
                overview.dispatchEvent(new MouseEvent("click", {{ clientX, clientY }}));
            }})()"""
        )
        assert browser.value(
            "[(viewer.x.start + viewer.x.end) / 2, (viewer.y.start + viewer.y.end) / 2]"
        ) == pytest.approx(middle, abs=5)  # a pixel of the overview, as events have whole ones
    browser.value("viewer.go(100, -50, 20)")  # the middle of the first
    assert browser.value("[...document.querySelectorAll('.here')].map((here) => here.style.left)") == ["45%", "30%"]
    assert complaints(browser) == []


def test_slides_of_which_one_has_no_resolution_are_shown_by_pixels_and_the_panel_says_so(
    browser: Chromium, unequal: ViewServer
) -> None:
    look(browser, f"{unequal.address}look?items=0,2#x=150&y=100&w=40")
    assert "all are shown pixel by pixel, because the µm/px of unknown.tif" in browser.value(
        "document.getElementById('panel').innerText"
    )
    left = browser.value("items.map((item) => views_of(viewer.model('plot', item)).el.getBoundingClientRect().left)")
    row, col = place(browser, 150.5, 100.5)
    for of, told in zip(left, ("x 150, y 100 px · 0.075, 0.050 mm", "x 150, y 100 px"), strict=True):
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=col + of - left[0], y=row)
        wait(browser, f"document.getElementById('place').textContent == '{told}'")
    look(browser, f"{unequal.address}look?items=0,1")
    assert "pixel by pixel" not in browser.value("document.getElementById('panel').innerText")


def test_page_of_all_has_a_card_each_and_opens_two_side_by_side(browser: Chromium, tmp_path: Path) -> None:
    texts = [text.replace("/", "_")[:60] for text in HOSTILE if "\0" not in text]
    slides = [
        write_pyramid(tmp_path / f"{n}{t}.tif", [np.full((20, 30, 3), 200, np.uint8)]) for n, t in enumerate(texts)
    ]
    store = write_store(tmp_path / "b.zarr", slides[0], np.full((20, 30), 7, np.uint8))
    with ViewServer([*slides, store]) as served:
        look(browser, served.address)
        names = browser.value("[...document.querySelectorAll('article a:not(.picture)')].map(a => a.textContent)")
        assert sorted(names) == sorted([*(slide.name for slide in slides), "b.zarr"])
        browser.value("[...document.querySelectorAll('article input')].slice(0, 2).forEach(box => box.click())")
        browser.events.clear()
        browser.value("document.getElementById('compare').click()")
        wait(browser, "document.body && document.body.className == 'viewer' && document.body.dataset.ready")
        assert browser.value("items.length") == 2
        browser.value("viewer.go(10, -5, 4)")
        assert browser.value("items.map(i => viewer.model('plot', i).x_range.start)") == [8, 8]
        assert browser.value("document.title").endswith("wsipipe view")
        assert complaints(browser) == []
        assert asked_elsewhere(browser, served.address) == []


@pytest.mark.parametrize(
    ("width", "striped"), each_value_once([390, 1600], ["coarser", "finest"]), indirect=["striped"]
)
def test_pages_fit_their_windows(browser: Chromium, striped: tuple[ViewServer, int], width: int) -> None:
    served, _ = striped
    look(browser, served.address, width=width)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("document.getElementById('plots').getBoundingClientRect().height") > 300


@ON_THE_FINEST
def test_a_slide_keeps_its_shape_in_a_window_of_another_size(
    browser: Chromium, striped: tuple[ViewServer, int]
) -> None:
    served, _ = striped
    look(browser, served.address)
    for width, height in ((500, 800), (1200, 900)):
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        wait(browser, f"viewer.size.width <= {width} && viewer.size.width > {width} - 300")
        drawn(browser)
        spans = browser.value("[viewer.x.end - viewer.x.start, viewer.y.end - viewer.y.start]")
        frame = browser.value("[viewer.frame().width, viewer.frame().height]")
        assert spans[0] / frame[0] == pytest.approx(spans[1] / frame[1])
        at_least = max(901 / frame[0], 1301 / frame[1]) / 2  # um in a pixel of the screen
        assert spans[0] / frame[0] == pytest.approx(1.02 * at_least)


def test_a_slide_that_cannot_be_opened_says_why_and_has_the_way_back(browser: Chromium, tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).write_bytes(b"no slide")
    with ViewServer([tmp_path / "a.tif", tmp_path / "b.tif"]) as served:
        browser.open(f"{served.address}look?items=1")
        wait(browser, "document.body.dataset.ready == 'failed'")
        assert "b.tif" in browser.value("document.getElementById('name').textContent")
        wait(browser, "!document.getElementById('all').hidden")
