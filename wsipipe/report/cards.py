"""The slides on the page of a night: a card for each that is done, and the reason for each that is not."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Sequence

from wsipipe.pictures.thumbnail import ClassArea, Picture, StoreSummary
from wsipipe.report.markup import Child, Html, element, fragment, swatch
from wsipipe.report.objects import objects_found
from wsipipe.report.record import DONE, FAILED, NO_TISSUE, OPEN, SET_ASIDE, SKIPPED, TAKEN, WAITING, SlideReport
from wsipipe.report.words import amount, area, count_of, duration, last_part, shortened, three_digits

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
NAME_LENGTH, LONG_TEXT, LONG_LINES = 90, 700, 8
"""Characters of a name, and characters and lines of a text; longer names are cut, longer texts collapsed."""


def problem(slide: SlideReport, found: StoreSummary | None) -> Html:
    """A slide that is not done, with the reason in full."""
    tone = TONES[slide.status]
    facts = [
        f"tried on {count_of(slide.attempts, 'night')}" if slide.attempts else "",
        *_speed(slide),
    ]
    return element(
        "article",
        element("h3", element("span", slide.status, class_=f"badge {tone}"), " ", _name(slide)),
        _figure(slide, found) if found else None,
        _message(slide.message),
        notes(slide.warnings, ()),
        _facts(facts),
        _more(slide, None, ""),
        class_=_classes(f"problem {tone}", slide),
    )


def card(slide: SlideReport, found: StoreSummary | None, *, number: int, version: str) -> Html:
    """Slide ``number``, whose store is finished; ``version`` is that of wsipipe if the store does not say."""
    made_by = (found.version if found else "") or version
    return element(
        "article",
        _figure(slide, found),
        element(
            "div",
            element("h3", element("span", slide.status, class_=f"badge {TONES[slide.status]}"), " ", _name(slide)),
            _message(slide.message),
            notes(slide.warnings, ()),
            _areas(found) if found else None,
            objects_found(found.objects, {c.name: c.color for c in found.classes}) if found else None,
            notes((), found.notes if found else ()),
            _facts(_scale(found) if found and found.opened else []),
            _facts(_speed(slide)),
            _facts([*_weights(slide, found), f"wsipipe {made_by}"]),
            _more(slide, found, made_by),
        ),
        class_=_classes(f"card n{number}", slide),
    )


def _figure(slide: SlideReport, found: StoreSummary | None) -> Html:
    """The picture of a slide; where there is a larger one, a click shows it, and another click closes it."""
    if found is None or not found.thumbnail.jpeg:
        return element("figure", element("figcaption", "no picture"))
    names = ", ".join(c.name for c in found.classes if c.pixels)
    alt = f"The slide {shortened(last_part(slide.slide), NAME_LENGTH)}, " + (
        f"with its labels outlined: {names}" if names else "without labels"
    )
    small = _image(found.thumbnail, alt)
    if not found.large.jpeg:
        return element("figure", small)
    summary = element("summary", small, title="click to enlarge, and click again to close")
    large = element("div", _image(found.large, alt), class_="large")
    return element("figure", element("details", summary, large, class_="zoom"))


def _image(picture: Picture, alt: str) -> Html:
    height, width = picture.shape
    source = f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}"
    return element("img", src=source, alt=alt, width=width, height=height)


def _areas(found: StoreSummary) -> Html | None:
    if not found.classes:
        return None
    rows = (
        element(
            "tr",
            element("th", swatch(c.color), c.name, scope="row"),
            _area(c),
            element("td", "" if c.share is None else f"{three_digits(100 * c.share)}%"),
        )
        for c in found.classes
    )
    of = (
        "of tissue" if found.tissue_share is not None else "of region" if found.region_share is not None else "of slide"
    )
    head = element("tr", *(element("th", name, scope="col") for name in ("class", "area", of)))
    return element("table", element("thead", head), element("tbody", *rows), class_="areas")


def _area(of: ClassArea) -> Html:
    about = "" if of.exact else "≈ "
    size = f"{of.pixels:,} px" if of.mm2 is None else area(of.mm2)
    why = None if of.exact else "counted at a coarser level"
    return element("td", f"{about}{size}", title=why)


def _scale(found: StoreSummary) -> list[str]:
    """The resolution of the labels, and the share of tissue."""
    mpp = "resolution unknown" if found.mpp is None else f"{found.mpp:.4g} µm/px"
    region = "" if found.region_share is None else f"region on {found.region_share:.1%} of the slide"
    of = "region" if region else "slide"
    return [mpp, region, "" if found.tissue_share is None else f"tissue on {found.tissue_share:.0%} of the {of}"]


def _classes(class_: str, slide: SlideReport) -> str:
    """``class_``, and for slides with warnings ``warned``, by which the page is filtered."""
    return f"{class_} warned" if slide.warnings else class_


def _speed(slide: SlideReport) -> list[str]:
    """Size, duration, speed and bottleneck of a slide, as far as it was computed."""
    if not slide.pixels:
        return [duration(slide.seconds)] if slide.seconds else []
    speed = f"{three_digits(slide.pixels_per_second / 1e6)} MP/s"
    limit = f"bottleneck: {slide.bottleneck}" if slide.bottleneck else ""
    outside = f"{slide.outside / slide.pixels:.0%} outside the region" if slide.outside else ""
    glass = f"{slide.skipped / slide.pixels:.0%} skipped, without tissue" if slide.skipped else ""
    return [amount(slide.pixels), outside, glass, duration(slide.seconds), speed, limit]


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


def notes(warnings: Sequence[str], others: Sequence[str]) -> Html | None:
    """A list of warnings, and of other notes; None if there are none."""
    lines = [element("li", "⚠ ", element("span", text, class_="text"), class_="warn") for text in warnings]
    lines += [element("li", element("span", text, class_="text")) for text in others]
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
        "to look": f"wsipipe view {shlex.quote(slide.store)}" if slide.store and found else "",
        "weights": slide.model_sha256 or (found.model_sha256 if found else ""),
        "made by": f"wsipipe {version}" if version else "",
        "tried": f"on {count_of(slide.attempts, 'night')}" if slide.attempts else "",
    }
    known = [(name, value) for name, value in facts.items() if value]
    rows = (fragment(element("dt", name), element("dd", value, class_="text")) for name, value in known)
    return element("details", element("summary", "details"), element("dl", *rows), class_="more")


def rows_of(slides: Iterable[SlideReport]) -> Html:
    """A table of slides with the reason why they are not done."""
    head = element("tr", element("th", "slide", scope="col"), element("th", "why", scope="col"))
    rows = (
        element(
            "tr",
            element("th", _name(slide), _more(slide, None, ""), scope="row"),
            element("td", _message(slide.message), notes(slide.warnings, ())),
            class_="warned" if slide.warnings else None,
        )
        for slide in slides
    )
    return element("div", element("table", element("thead", head), element("tbody", *rows)), class_="list")


def _name(slide: SlideReport) -> Html:
    name = shortened(last_part(slide.slide), NAME_LENGTH)
    return element("span", name, class_="name", title=slide.slide)
