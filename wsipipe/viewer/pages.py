"""The pages of the viewer, before their scripts fill them."""

from __future__ import annotations

from wsipipe.report.markup import Html, element


def viewer_page() -> str:
    """The page that shows one slide or several."""
    return _page(
        "viewer",
        element(
            "header",
            element("a", "all slides", href="./", id="all", hidden=""),
            element("h1", "…", id="name"),
            element("output", id="place"),
        ),
        element(
            "main",
            element("div", element("div", id="names"), element("div", id="plots"), class_="pictures"),
            element("aside", id="panel"),
        ),
        scripts=("bokeh.js", "common.js", "viewer.js"),
    )


def catalog_page() -> str:
    """The page of all slides and results, as thumbnails."""
    return _page(
        "catalog",
        element(
            "header",
            element("h1", "slides and results", id="name"),
            element("input", type="search", id="filter", placeholder="filter by name or status", aria_label="filter"),
            element("select", id="sort", aria_label="sort by"),
            element("button", "side by side", id="compare", disabled=""),
        ),
        element("main", element("div", id="cards")),
        scripts=("common.js", "catalog.js"),
    )


def _page(kind: str, *body: Html, scripts: tuple[str, ...]) -> str:
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", "wsipipe view"),
        element("link", rel="icon", href="data:,"),
        element("link", rel="stylesheet", href="static/view.css"),
        *(element("script", src=f"static/{name}", defer="") for name in scripts),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', *body, class_=kind), lang='en').source}\n"
