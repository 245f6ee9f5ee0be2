"""The last nights, on the page of a night: as bars, and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from wsipipe.report.markup import Html, element
from wsipipe.report.record import DONE, FAILED, SET_ASIDE, NightSummary
from wsipipe.report.words import amount, day, day_and_time, duration, shortened

NIGHTS, LEAST_BARS = 30, 12
"""Nights that are drawn, and the least that fill the width: fewer are at its right."""


def history_of(nights: Sequence[NightSummary]) -> Html | None:
    """The last nights as bars, and as a table."""
    nights = nights[-NIGHTS:]
    if len(nights) < 2:
        return None
    most = max(1, *(n.counts.get(DONE, 0) + n.failed for n in nights))
    fastest = max(n.pixels_per_second for n in nights)
    done, failed = element("b", "done", class_="good"), element("b", "failed", class_="bad")
    slides = element("span", "slides ", done, " and ", failed)
    first, last = day(nights[0].started), day(nights[-1].started)
    ends = (f"from {first}", last) if len(nights) >= LEAST_BARS else ("", f"{first} to {last}")
    days = element("p", *(element("span", text) for text in ends), class_="axis")
    return element(
        "section",
        element("h2", f"The last {len(nights)} nights"),
        element(
            "div",
            element("p", slides, element("span", f"at most {most}"), class_="axis"),
            _bars(nights, most),
            days,
            element("p", element("span", "speed"), element("span", f"at most {amount(fastest)}/s"), class_="axis"),
            _speeds(nights, fastest),
            element("details", element("summary", "as a table"), _table(nights)),
            class_="history",
        ),
    )


def _bars(nights: Sequence[NightSummary], most: int) -> Html:
    """A bar per night: slides done, and on top of them those that failed."""
    bars = []
    for i, night in enumerate(nights):
        done, failed = (100 * n / most for n in (night.counts.get(DONE, 0), night.failed))
        bars.append(
            element(
                "g",
                element("title", _night_in_words(night)),
                _rect(i, 0, 100, "whole"),
                _rect(i, 100 - done, done, "good"),
                _rect(i, 100 - done - failed, failed, "bad"),
            )
        )
    return _chart(bars, len(nights), "Slides done and failed, night by night", "bars")


def _speeds(nights: Sequence[NightSummary], fastest: float) -> Html:
    heights = [100 * night.pixels_per_second / (fastest or 1) for night in nights]
    bars = [
        element("g", element("title", _night_in_words(night)), _rect(i, 100 - h, h, "soft"))
        for i, (night, h) in enumerate(zip(nights, heights, strict=True))
    ]
    return _chart(bars, len(nights), "Speed, night by night", "bars low")


def _chart(bars: Sequence[Html], nights: int, label: str, class_: str) -> Html:
    """Bars over the full width; their texts are outside of the drawing, so that they keep their size."""
    width = 10 * max(nights, LEAST_BARS)
    box = f"{10 * nights - width} 0 {width} 100"
    return element("svg", *bars, viewBox=box, preserveAspectRatio="none", role="img", aria_label=label, class_=class_)


def _rect(i: int, y: float, height: float, class_: str) -> Html:
    return element("rect", x=10 * i + 1, y=f"{y:.2f}", width=8, height=f"{height:.2f}", class_=class_)


def _night_in_words(night: NightSummary) -> str:
    counts = ", ".join(f"{n} {status}" for status, n in night.counts.items() if n) or "nothing to do"
    return f"{day_and_time(night.started)}: {counts}; {amount(night.pixels_per_second)}/s"


def _table(nights: Sequence[NightSummary]) -> Html:
    columns = ("night", DONE, FAILED, SET_ASIDE, "speed", "computed", "duration", "exit code", "host", "stopped")
    rows = (
        element(
            "tr",
            element("th", day_and_time(night.started), scope="row"),
            *(element("td", str(night.counts.get(status, 0))) for status in (DONE, FAILED, SET_ASIDE)),
            element("td", f"{amount(night.pixels_per_second)}/s"),
            element("td", amount(night.pixels)),
            element("td", duration(night.seconds)),
            element("td", str(night.exit_code)),
            element("td", night.host),
            element("td", shortened(night.stopped, 160), class_="text"),
        )
        for night in reversed(nights)
    )
    head = element("tr", *(element("th", name, scope="col") for name in columns))
    return element("div", element("table", element("thead", head), element("tbody", *rows)), class_="scroll")
