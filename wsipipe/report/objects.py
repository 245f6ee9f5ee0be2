"""The objects of a slide on the page of a night: counts of each class, and a histogram of their areas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

from wsipipe.events import ClassCount
from wsipipe.report.markup import Html, element, fragment, swatch
from wsipipe.report.words import three_digits

BIN_WIDTH, LEAST_BINS = 10, 12
"""Width of a bar with the gap beside it, and the least bars that fill the width, so that few are not as wide as it."""


def objects_found(classes: Sequence[ClassCount], colors: Mapping[str, str]) -> Html | None:
    """A table of ``classes``, and a histogram for each that has objects; None if nothing was counted.

    ``colors`` has the colour of each class, #rrggbb, by its name.
    """
    if not classes:
        return None
    head = element("tr", *(element("th", name, scope="col") for name in ("objects", "per mm²", "median")))
    rows = (
        element(
            "tr",
            element("th", swatch(colors.get(one.name, "#808080")), f"{one.name}: {one.objects:,}", scope="row"),
            element("td", "" if one.per_mm2 is None else three_digits(one.per_mm2)),
            element("td", "" if one.median_pixels is None else _area(one.median_pixels, one)),
        )
        for one in classes
    )
    table = element("table", element("thead", head), element("tbody", *rows), class_="areas")
    return fragment(table, *(_histogram(one, colors.get(one.name, "#808080")) for one in classes if one.areas))


def _histogram(one: ClassCount, color: str) -> Html:
    """Bars of the areas of one class; their widths are equal, so that the axis is logarithmic."""
    most = max(count for _, count in one.areas)
    bars = [
        element(
            "g",
            element("title", f"{_area(least, one)} to {_area(least * sqrt(2), one)}: {count:,}"),
            element("rect", x=BIN_WIDTH * i + 1, y=0, width=BIN_WIDTH - 2, height=100, class_="whole"),
            element(
                "rect",
                x=BIN_WIDTH * i + 1,
                y=f"{100 - 100 * count / most:.2f}",
                width=BIN_WIDTH - 2,
                height=f"{100 * count / most:.2f}",
                fill=color,
            ),
        )
        for i, (least, count) in enumerate(one.areas)
    ]
    chart = element(
        "svg",
        *bars,
        viewBox=f"0 0 {BIN_WIDTH * max(len(bars), LEAST_BINS)} 100",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"Areas of {one.name}, at most {most:,} in a bar",
        class_="bars low",
    )
    first, last = one.areas[0][0], one.areas[-1][0] * sqrt(2)
    ends = element("span", f"{_area(first, one)} to {_area(last, one)}, in steps of √2")
    return fragment(chart, element("p", element("span", f"areas of {one.name}"), ends, class_="axis"))


def _area(pixels: float, one: ClassCount) -> str:
    """An area in square micrometres, or in pixels if their size is unknown."""
    if one.median_um2 is None or not one.median_pixels:
        return f"{three_digits(pixels)} px"
    return f"{three_digits(pixels * one.median_um2 / one.median_pixels)} µm²"
