"""The page of a night: one HTML file that loads nothing, runs nothing, and shows all foreign text as text.

Everything enters the page through `wsipipe.report.markup.element`, which escapes text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

from wsipipe.pictures.thumbnail import StoreSummary
from wsipipe.report.cards import TONES, card, notes, problem, rows_of
from wsipipe.report.controls import anchor, controls, places, rules
from wsipipe.report.history import history_of
from wsipipe.report.markup import Child, Html, element, fragment
from wsipipe.report.record import (
    DONE,
    FAILED,
    INTERRUPTED,
    NO_TISSUE,
    OPEN,
    SET_ASIDE,
    SKIPPED,
    STATUSES,
    TAKEN,
    WAITING,
    NightReport,
    NightSummary,
    moment,
)
from wsipipe.report.style import STYLE
from wsipipe.report.words import EXIT_CODES, amount, aside, count_of, day_and_time, duration, headline

ATTENTION = (FAILED, SET_ASIDE, OPEN)
"""Statuses whose sections come first."""
VERDICTS = {"good": "✓", "warn": "●", "bad": "✗"}
ICON_COLORS = {"good": "#17784a", "warn": "#d18b00", "bad": "#b3261e"}


def tone_of(report: NightReport) -> str:
    """The verdict on a night: ``bad`` if someone has to act, ``warn`` if not everything is done, else ``good``."""
    counts = report.counts
    if counts[FAILED] or report.exit_code:
        return "bad"
    return "warn" if counts[SET_ASIDE] or counts[OPEN] or report.stopped else "good"


def page(report: NightReport, summaries: Mapping[int, StoreSummary], history: Sequence[NightSummary]) -> str:
    """The page, as HTML.

    Parameters
    ----------
    report
        The report of the night.
    summaries
        Summaries of stores, by the index of their slide in the report.
    history
        The nights to draw, from old to new.
    """
    parts = [
        _section(status, report, numbers, summaries)
        for status in (*ATTENTION, DONE, NO_TISSUE, WAITING, TAKEN, SKIPPED)
        if (numbers := [i for i, slide in enumerate(report.slides) if slide.status == status])
    ]
    body = element(
        "body",
        _header(report),
        _tiles(_outcome(report)),
        controls(report.slides),
        *parts,
        element("section", element("h2", "How the night ran"), _tiles(_course(report))),
        history_of(history),
        _footer(report),
    )
    head = _head(report, STYLE + rules() + places(report.slides, summaries))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en').source}\n"


def policy(style: str) -> str:
    """Content security policy: the page may show the pictures in it, and use its ``style`` sheet; nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src 'sha256-{digest}'"


def _head(report: NightReport, style: str) -> Html:
    color = ICON_COLORS[tone_of(report)]
    circle = f"<circle cx='8' cy='8' r='7' fill='{color}'/>"
    icon = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>{circle}</svg>"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy(style)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("link", rel="icon", href=f"data:image/svg+xml,{quote(icon)}"),
        element("title", f"{headline(report)} · wsipipe, night of {day_and_time(report.started)}"),
        element("style", Html(style)),
    )


def _header(report: NightReport) -> Html:
    tone = tone_of(report)
    parts: list[Child] = []
    for status, count in report.counts.items():
        if status == DONE or (count and status in ATTENTION):
            text = f"{count} {status}"
            parts += [
                ", " if parts else None,
                element("a", text, href=f"#{anchor(status)}", class_=TONES[status]) if count else text,
            ]
    beside = aside(report)
    stopped = f"Stopped early: {report.stopped}" if report.stopped else None
    return element(
        "header",
        element("p", f"wsipipe · night of {_weekday(report.started)}", class_="soft"),
        element("h1", element("span", VERDICTS[tone], class_=tone, aria_hidden="true"), " ", *parts),
        element("p", beside) if beside else None,
        element("p", stopped, class_="stopped text") if stopped else None,
        notes(report.warnings, ()),
        class_=tone,
    )


Tile = tuple[str, str, str]
"""A name, a value, and what it goes with."""


def _outcome(report: NightReport) -> list[Tile]:
    """What came of the night."""
    counted = [slide for slide in report.slides if slide.objects]
    objects = ("Objects", f"{report.objects:,}", f"in {count_of(len(counted), 'slide')}")
    return [
        *([objects] if counted else []),
        ("Warnings", f"{report.warned:,}" if report.warned else "none", f"of {count_of(len(report.slides), 'slide')}"),
        ("Exit code", str(report.exit_code), EXIT_CODES.get(report.exit_code, "")),
    ]


def _course(report: NightReport) -> list[Tile]:
    """How long it took, and how fast it was."""
    computed = sum(1 for slide in report.slides if slide.pixels)
    return [
        ("Duration", duration(report.seconds), _from_to(report)),
        ("Computed", amount(report.pixels) if report.pixels else "none", f"in {count_of(computed, 'slide')}"),
        ("Speed", f"{amount(report.pixels_per_second)}/s" if report.pixels else "none", _bottlenecks(report)),
    ]


def _tiles(tiles: Sequence[Tile]) -> Html:
    return element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", value), element("dd", more), class_="tile")
            for name, value, more in tiles
        ),
        class_="tiles",
    )


def _bottlenecks(report: NightReport) -> str:
    """The most frequent bottleneck."""
    found = [slide.bottleneck for slide in report.slides if slide.bottleneck]
    if not found:
        return ""
    most = max(sorted(set(found)), key=found.count)
    share = f" in {found.count(most)} of {len(found)}" if len(set(found)) > 1 else ""
    return f"bottleneck: {most}{share}"


def _section(status: str, report: NightReport, numbers: Sequence[int], summaries: Mapping[int, StoreSummary]) -> Html:
    """The section of all slides with ``status``; cards with warnings come first."""
    slides = [(i, report.slides[i], summaries.get(i)) for i in numbers]
    title = f"{len(slides)} {status}"
    interrupted = status == OPEN and report.exit_code == INTERRUPTED
    meaning = element("small", f" · {report.stopped if interrupted else STATUSES[status]}")
    if status in (WAITING, TAKEN):
        inside = rows_of(slide for _, slide, _ in slides)
    elif status in (DONE, NO_TISSUE, SKIPPED):
        slides.sort(key=lambda one: not one[1].warnings)
        inside = element(
            "div", *(card(slide, found, number=i, version=report.version) for i, slide, found in slides), class_="cards"
        )
    else:
        inside = fragment(*(problem(slide, found) for _, slide, found in slides))
    name, class_ = anchor(status), f"slides of-{anchor(status)}"
    if status != SKIPPED:
        return element("section", element("h2", title, meaning, id=name), inside, class_=class_)
    summary = element("summary", element("h2", title, meaning))
    return element("section", element("details", summary, inside, id=name), class_=class_)


def _footer(report: NightReport) -> Html:
    return element(
        "footer",
        element(
            "p", element("span", f"wsipipe {report.version} on {report.host}", class_="name"), f", {_from_to(report)}"
        ),
        element("p", element("span", report.command, class_="text")),
        element("p", "report.json, next to this page, has the same data for programs."),
    )


def _weekday(text: str) -> str:
    return f"{moment(text):%A} {day_and_time(text)}"


def _from_to(report: NightReport) -> str:
    """The times of the night: ``24 Nov 22:00 to 25 Nov 06:12 UTC``."""
    start, end = moment(report.started), moment(report.finished)
    last = f"{end:%H:%M}" if start.date() == end.date() else _minute(end)
    return f"{_minute(start)} to {last} UTC"


def _minute(when: datetime) -> str:
    return f"{when.day} {when:%b %H:%M}"
