from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.report.chromium import PROGRAM, Chromium
from tests.report.nights import HOSTILE, counts_of, disc, night, slides_of_all_kinds, write_pyramid, write_store
from wsipipe.pictures.thumbnail import StoreSummary
from wsipipe.report.page import page as render
from wsipipe.report.record import DONE, FAILED, SlideReport
from wsipipe.report.words import shown
from wsipipe.report.write import write_report

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights with every hostile text, and two real pictures."""
    folder = tmp_path_factory.mktemp("report")
    mask = disc((400, 300), (0.5, 0.5), 0.3)
    slide = write_pyramid(folder / "a.tif", [np.where(mask[..., None], 90, 240).repeat(3, -1).astype(np.uint8)])
    store = write_store(folder / "a.zarr", slide, mask.astype(np.uint8) * 7)
    done = [SlideReport(str(slide), DONE, store=store), SlideReport("/nowhere.tif", DONE, store=store)]
    slides = [slide for text in HOSTILE for slide in slides_of_all_kinds(text)]
    report = night(*done, *slides, host=HOSTILE[0], command=HOSTILE[1], stopped=HOSTILE[4])
    write_report(replace(report, started="2026-11-23T22:00:00+00:00", host=HOSTILE[2]), folder)
    return write_report(report, folder)


def test_page_opens_without_an_error_or_a_request(browser: Chromium, page: Path) -> None:
    browser.open(page)
    asked = {request["request"]["url"][:11] for request in browser.told("Network.requestWillBeSent")}
    assert asked <= {page.as_uri()[:11], "data:image/"}
    assert browser.told("Log.entryAdded") == []
    assert browser.told("Runtime.consoleAPICalled") == []
    assert browser.told("Runtime.exceptionThrown") == []
    assert browser.told("Network.loadingFailed") == []
    assert browser.value("document.title").endswith("wsipipe, night of 24 November 2026, 22:00 UTC")


def test_pictures_are_shown(browser: Chromium, page: Path) -> None:
    browser.open(page)
    sizes = browser.value(
        "Promise.all([...document.images].map(i => i.decode().then(() => [i.naturalWidth, i.width, i.height])))"
    )
    assert [natural for natural, _, _ in sizes] == [240, 300, 240]  # the slide that is gone has no larger one
    small = [(width, height) for natural, width, height in sizes if natural == 240]
    assert all(0 < width <= 240 and abs(height - width * 4 / 3) <= 1 for width, height in small)
    assert browser.value("getComputedStyle(document.querySelector('header')).borderLeftWidth") != "0px"


@pytest.mark.parametrize("width", [390, 1200])
def test_a_click_enlarges_a_picture_and_another_closes_it(browser: Chromium, page: Path, width: int) -> None:
    browser.open(page, width=width)
    at_point = "document.elementsFromPoint(innerWidth / 2, 400).some(e => e.matches('.zoom > summary'))"
    browser.value("document.querySelector('.zoom > summary').scrollIntoView({block: 'center'})")
    middle = "(r => [r.x + r.width / 2, r.y + r.height / 2])"
    click(browser, *browser.value(f"{middle}(document.querySelector('.zoom > summary').getBoundingClientRect())"))
    assert browser.value("document.querySelector('.zoom').open")
    assert browser.value("document.querySelector('.large img').getBoundingClientRect().height") > 300
    assert browser.value(at_point)  # it covers the page
    click(browser, width / 2, 400)
    assert not browser.value("document.querySelector('.zoom').open")


def click(browser: Chromium, x: float, y: float) -> None:
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def test_slides_are_chosen_and_sorted_without_a_script(browser: Chromium, tmp_path: Path) -> None:
    counted = counts_of("gland")
    slides = [
        SlideReport("/in/b.tif", DONE, warnings=("odd",)),
        SlideReport("/in/c.tif", DONE, store="x", objects=counted),
        SlideReport("/in/a.tif", DONE),
        SlideReport("/in/z.tif", FAILED, "torn"),
    ]
    path = tmp_path / "page.html"
    path.write_text(render(night(*slides), {1: StoreSummary(objects=counted)}, ()))
    browser.open(path)
    visible = """[...document.querySelectorAll('article')].filter(e => e.offsetHeight)
        .sort((a, b) => a.offsetTop - b.offsetTop || a.offsetLeft - b.offsetLeft)
        .map(e => e.querySelector('.name').textContent[0]).join('')"""
    assert browser.value(visible) == "zbca"
    for button, wanted in {
        "sort-name": "zabc", "sort-objects": "zcba", "show-failed": "z", "show-done": "cba", "show-warned": "b",
    }.items():  # fmt: skip
        browser.value(f"document.getElementById('{button}').click()")
        assert browser.value(visible) == wanted, button


def test_hostile_texts_are_text(browser: Chromium, page: Path) -> None:
    browser.open(page)
    told = set(browser.value("[...document.querySelectorAll('.text')].map(e => e.textContent)"))
    for text in map(shown, HOSTILE):
        assert {text, f"odd{text}", f"/in/{text}.tif", f"/out/{text}.zarr"} <= told
    assert (
        browser.value("document.querySelectorAll('script, iframe, object, form, [onerror], [onmouseover]').length") == 0
    )


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_page_is_as_wide_as_its_window(browser: Chromium, page: Path, width: int) -> None:
    browser.open(page, width=width)
    assert browser.value("document.documentElement.scrollWidth") <= width


def test_policy_of_the_page_lets_nothing_out_and_nothing_run(browser: Chromium, page: Path) -> None:
    browser.open(page)
    broken = browser.value(
        """new Promise(done => {
            const broken = [];
            document.addEventListener('securitypolicyviolation', event => {
                broken.push(event.effectiveDirective);
                if (broken.length == 4) done(broken.sort());
            });
            document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/'}));
            const script = document.createElement('script');
            script.textContent = 'document.title = "ran"';
            document.body.append(script);
            const style = document.createElement('style');
            style.textContent = 'body { display: none }';
            document.body.append(style);
            fetch('http://127.0.0.1:9/').catch(() => 0);
        })"""
    )
    assert broken == ["connect-src", "img-src", "script-src-elem", "style-src-elem"]
    assert browser.value("document.title") != "ran"
    sent = browser.told("Network.requestWillBeSent")  # this includes blocked requests
    blocked = {
        failed["requestId"] for failed in browser.told("Network.loadingFailed") if failed["blockedReason"] == "csp"
    }
    assert {one["requestId"] for one in sent if one["request"]["url"].startswith("http")} <= blocked


def test_folded_texts_are_printed(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        heights = browser.value(
            "[...document.querySelectorAll('details .text')].map(e => e.getBoundingClientRect().height)"
        )
        assert len(heights) > 50
        assert min(heights) > 0
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
