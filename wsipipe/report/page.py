"""The page of a night: one HTML file that loads nothing, runs nothing, and shows all foreign text as text.

Everything enters the page through `wsipipe.report.markup.element`, which escapes text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

from wsipipe.pictures.thumbnail import ClassArea, StoreSummary
from wsipipe.report.markup import Child, Html, element, fragment, swatch
from wsipipe.report.objects import objects_found
from wsipipe.report.record import (
    DONE,
    FAILED,
    NO_TISSUE,
    OPEN,
    SET_ASIDE,
    SKIPPED,
    STATUSES,
    TAKEN,
    WAITING,
    NightReport,
    NightSummary,
    SlideReport,
    moment,
)
from wsipipe.report.style import STYLE
from wsipipe.report.words import EXIT_CODES, amount, area, aside, duration, headline, shortened, three_digits

POLICY = (
    "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)
"""Content security policy: the page may show the pictures in it, and use its own style sheet; nothing else."""
TONES = {
    DONE: "good",
    FAILED: "bad",
    SET_ASIDE: "warn",
    OPEN: "warn",
    WAITING: "soft",
    TAKEN: "soft",
    SKIPPED: "soft",
    NO_TISSUE: "soft",
}
ATTENTION = (FAILED, SET_ASIDE, OPEN)
"""Statuses whose sections come first."""
VERDICTS = {"good": "✓", "warn": "●", "bad": "✗"}
ICON_COLORS = {"good": "#17784a", "warn": "#d18b00", "bad": "#b3261e"}
NIGHTS = 30
"""Nights of the history that are drawn."""
NAME_LENGTH, LONG_TEXT, LONG_LINES = 90, 700, 8
"""Characters of a name, and characters and lines of a text; longer names are cut, longer texts collapsed."""


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
    parts = {
        status: _section(status, report, numbers, summaries)
        for status in (*ATTENTION, DONE, NO_TISSUE, WAITING, TAKEN, SKIPPED)
        if (numbers := [i for i, slide in enumerate(report.slides) if slide.status == status])
    }
    first, then = (
        [part for status, part in parts.items() if (status in ATTENTION) is is_so] for is_so in (True, False)
    )
    body = element("body", _header(report), _tiles(report), *first, _history(history), *then, _footer(report))
    return f"<!DOCTYPE html>\n{element('html', _head(report), body, lang='en').source}\n"


def _head(report: NightReport) -> Html:
    color = ICON_COLORS[tone_of(report)]
    circle = f"<circle cx='8' cy='8' r='7' fill='{color}'/>"
    icon = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>{circle}</svg>"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("link", rel="icon", href=f"data:image/svg+xml,{quote(icon)}"),
        element("title", f"{headline(report)} · wsipipe, night of {_day(report.started)}"),
        element("style", Html(STYLE)),
    )


def _header(report: NightReport) -> Html:
    tone = tone_of(report)
    parts: list[Child] = []
    for status, count in report.counts.items():
        if status == DONE or (count and status in ATTENTION):
            text = f"{count} {status}"
            parts += [
                ", " if parts else None,
                element("a", text, href=f"#{_anchor(status)}", class_=TONES[status]) if count else text,
            ]
    warned = sum(1 for slide in report.slides if slide.warnings)
    beside = ", ".join(filter(None, [aside(report), f"{_count(warned, 'slide')} with warnings" if warned else ""]))
    stopped = f"Stopped early: {report.stopped}" if report.stopped else None
    return element(
        "header",
        element("p", f"wsipipe · night of {_weekday(report.started)}", class_="soft"),
        element("h1", element("span", VERDICTS[tone], class_=tone, aria_hidden="true"), " ", *parts),
        element("p", beside) if beside else None,
        element("p", stopped, class_="stopped text") if stopped else None,
        class_=tone,
    )


def _tiles(report: NightReport) -> Html:
    computed = sum(1 for slide in report.slides if slide.pixels)
    limits = _bottlenecks(report)
    tiles = [
        ("Duration", duration(report.seconds), _from_to(report)),
        ("Speed", f"{amount(report.pixels_per_second)}/s" if report.pixels else "none", limits),
        ("Computed", amount(report.pixels) if report.pixels else "none", f"in {_count(computed, 'slide')}"),
        ("Exit code", str(report.exit_code), EXIT_CODES.get(report.exit_code, "")),
    ]
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
    slides = [(report.slides[i], summaries.get(i)) for i in numbers]
    title = f"{len(slides)} {status}"
    meaning = element("small", f" · {STATUSES[status]}")
    if status in (WAITING, TAKEN):
        inside = _list(slide for slide, _ in slides)
    elif status in (DONE, NO_TISSUE, SKIPPED):
        slides.sort(key=lambda pair: not pair[0].warnings)
        inside = element("div", *(_card(slide, found, report.version) for slide, found in slides), class_="cards")
    else:
        inside = fragment(*(_problem(slide) for slide, _ in slides))
    if status != SKIPPED:
        return element("section", element("h2", title, meaning, id=_anchor(status)), inside)
    summary = element("summary", element("h2", title, meaning))
    return element("section", element("details", summary, inside, id=_anchor(status)))


def _problem(slide: SlideReport) -> Html:
    """A slide that is not done, with the reason in full."""
    tone = TONES[slide.status]
    facts = [
        f"tried on {_count(slide.attempts, 'night')}" if slide.attempts else "",
        *_speed(slide),
    ]
    return element(
        "article",
        element("h3", element("span", slide.status, class_=f"badge {tone}"), " ", _name(slide)),
        _message(slide.message),
        _facts(facts),
        _notes(slide.warnings, ()),
        _more(slide, None, ""),
        class_=f"problem {tone}",
    )


def _card(slide: SlideReport, found: StoreSummary | None, version: str) -> Html:
    """A slide whose store is finished."""
    made_by = (found.version if found else "") or version
    return element(
        "article",
        _figure(slide, found),
        element(
            "div",
            element("h3", element("span", slide.status, class_=f"badge {TONES[slide.status]}"), " ", _name(slide)),
            _message(slide.message),
            _areas(found.classes) if found else None,
            objects_found(found.objects, {c.name: c.color for c in found.classes}) if found else None,
            _facts(_speed(slide)),
            _notes(slide.warnings, found.notes if found else ()),
            _facts([*_weights(slide, found), f"wsipipe {made_by}"]),
            _more(slide, found, made_by),
        ),
        class_="card",
    )


def _figure(slide: SlideReport, found: StoreSummary | None) -> Html:
    if found is None or not found.jpeg:
        return element("figure", element("figcaption", "no picture"))
    names = ", ".join(c.name for c in found.classes if c.pixels)
    return element(
        "figure",
        element(
            "img",
            src=f"data:image/jpeg;base64,{base64.b64encode(found.jpeg).decode()}",
            alt=f"The slide {shortened(_file(slide.slide), NAME_LENGTH)}, "
            + (f"with its labels outlined: {names}" if names else "without labels"),
            width=found.shape[1],
            height=found.shape[0],
        ),
    )


def _areas(classes: Sequence[ClassArea]) -> Html | None:
    if not classes:
        return None
    rows = (element("tr", element("th", swatch(c.color), c.name, scope="row"), _area(c)) for c in classes)
    head = element("tr", element("th", "class", scope="col"), element("th", "area", scope="col"))
    return element("table", element("thead", head), element("tbody", *rows), class_="areas")


def _area(of: ClassArea) -> Html:
    about = "" if of.exact else "≈ "
    size = f"{of.pixels:,} px" if of.mm2 is None else area(of.mm2)
    why = None if of.exact else "counted at a coarser level"
    return element("td", f"{about}{size}", title=why)


def _speed(slide: SlideReport) -> list[str]:
    """Size, duration, speed and bottleneck of a slide, as far as it was computed."""
    if not slide.pixels:
        return [duration(slide.seconds)] if slide.seconds else []
    speed = f"{three_digits(slide.pixels_per_second / 1e6)} MP/s"
    limit = f"bottleneck: {slide.bottleneck}" if slide.bottleneck else ""
    outside = f"{slide.skipped / slide.pixels:.0%} skipped, without tissue" if slide.skipped else ""
    return [amount(slide.pixels), outside, duration(slide.seconds), speed, limit]


def _weights(slide: SlideReport, found: StoreSummary | None) -> list[Html | str]:
    """Name and SHA-256 of the model; the latter in full when the pointer is over it."""
    model = slide.model or (found.model if found else "")
    digest = slide.model_sha256 or (found.model_sha256 if found else "")
    parts: list[Html | str] = [model] if model else []
    return [*parts, element("span", f"sha256 {digest[:12]}…", title=digest)] if digest else parts


def _facts(parts: Sequence[Html | str]) -> Html | None:
    """The ``parts`` that are known, in one line."""
    known = [part for part in parts if part]
    dotted: list[Child] = [piece for part in known for piece in (" · ", part)]
    return element("p", *dotted[1:], class_="facts") if known else None


def _notes(warnings: Sequence[str], notes: Sequence[str]) -> Html | None:
    lines = [element("li", "⚠ ", element("span", text, class_="text"), class_="warn") for text in warnings]
    lines += [element("li", element("span", text, class_="text")) for text in notes]
    return element("ul", *lines, class_="notes") if lines else None


def _message(text: str) -> Html | None:
    """The message in full; collapsed if it is long."""
    if not text:
        return None
    if len(text) <= LONG_TEXT and text.count("\n") < LONG_LINES:
        return element("p", text, class_="text")
    first = shortened(text.strip().split("\n", 1)[0], 160)
    return element("details", element("summary", first), element("p", text, class_="text"), class_="message")


def _more(slide: SlideReport, found: StoreSummary | None, version: str) -> Html:
    """Details of a slide, collapsed: for tracing a problem."""
    facts = {
        "slide": slide.slide,
        "store": slide.store or "",
        "weights": slide.model_sha256 or (found.model_sha256 if found else ""),
        "made by": f"wsipipe {version}" if version else "",
        "tried": f"on {_count(slide.attempts, 'night')}" if slide.attempts else "",
    }
    known = [(name, value) for name, value in facts.items() if value]
    rows = (fragment(element("dt", name), element("dd", value, class_="text")) for name, value in known)
    return element("details", element("summary", "details"), element("dl", *rows), class_="more")


def _list(slides: Iterable[SlideReport]) -> Html:
    """A table of slides with the reason why they are not done."""
    head = element("tr", element("th", "slide", scope="col"), element("th", "why", scope="col"))
    rows = (
        element(
            "tr",
            element("th", _name(slide), _more(slide, None, ""), scope="row"),
            element("td", _message(slide.message), _notes(slide.warnings, ())),
        )
        for slide in slides
    )
    return element("div", element("table", element("thead", head), element("tbody", *rows)), class_="list")


def _history(nights: Sequence[NightSummary]) -> Html | None:
    """The last nights as bars, and as a table."""
    nights = nights[-NIGHTS:]
    if len(nights) < 2:
        return None
    most = max(1, *(n.counts.get(DONE, 0) + n.failed for n in nights))
    fastest = max(n.pixels_per_second for n in nights)
    done, failed = element("b", "done", class_="good"), element("b", "failed", class_="bad")
    slides = element("span", "slides ", done, " and ", failed)
    days = element(
        "p",
        element("span", f"from {_day(nights[0].started)}"),
        element("span", _day(nights[-1].started)),
        class_="axis",
    )
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
    width = 10 * max(nights, 12)  # the bars of a few nights do not fill the width, and are at its right
    box = f"{10 * nights - width} 0 {width} 100"
    return element("svg", *bars, viewBox=box, preserveAspectRatio="none", role="img", aria_label=label, class_=class_)


def _rect(i: int, y: float, height: float, class_: str) -> Html:
    return element("rect", x=10 * i + 1, y=f"{y:.2f}", width=8, height=f"{height:.2f}", class_=class_)


def _night_in_words(night: NightSummary) -> str:
    counts = ", ".join(f"{n} {status}" for status, n in night.counts.items() if n) or "nothing to do"
    return f"{_day(night.started)}: {counts}; {amount(night.pixels_per_second)}/s"


def _table(nights: Sequence[NightSummary]) -> Html:
    columns = ("night", DONE, FAILED, SET_ASIDE, "speed", "computed", "duration", "exit code", "host", "stopped")
    rows = (
        element(
            "tr",
            element("th", _day(night.started), scope="row"),
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


def _footer(report: NightReport) -> Html:
    return element(
        "footer",
        element(
            "p", element("span", f"wsipipe {report.version} on {report.host}", class_="name"), f", {_from_to(report)}"
        ),
        element("p", element("span", report.command, class_="text")),
        element("p", "report.json, next to this page, has the same data for programs."),
    )


def _name(slide: SlideReport) -> Html:
    name = shortened(_file(slide.slide), NAME_LENGTH)
    return element("span", name, class_="name", title=slide.slide)


def _file(slide: str) -> str:
    """The last part of a path or URL."""
    return slide.rstrip("/").rsplit("/", 1)[-1] or slide


def _anchor(status: str) -> str:
    return status.replace(" ", "-")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _day(text: str) -> str:
    when = moment(text)
    return f"{when.day} {when:%B %Y}"


def _weekday(text: str) -> str:
    return f"{moment(text):%A} {_day(text)}"


def _from_to(report: NightReport) -> str:
    """The times of the night: ``24 Nov 22:00 to 25 Nov 06:12 UTC``."""
    start, end = moment(report.started), moment(report.finished)
    last = f"{end:%H:%M}" if start.date() == end.date() else _minute(end)
    return f"{_minute(start)} to {last} UTC"


def _minute(when: datetime) -> str:
    return f"{when.day} {when:%b %H:%M}"
