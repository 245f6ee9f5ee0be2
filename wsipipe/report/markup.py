"""HTML from Python values: everything enters a page through `element`, which escapes text."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass

from wsipipe.report.words import shown

VOID = {"meta", "link", "img", "br", "input"}
"""Elements without an end tag."""


@dataclass(frozen=True)
class Html:
    """Text that is HTML already, and needs no escaping."""

    source: str


Child = Html | str | None


def element(tag: str, /, *children: Child, **attributes: str | int | None) -> Html:
    """An element of HTML. Strings are escaped, so that they are shown as text; None is left out.

    The attribute ``class_`` becomes ``class``, ``aria_label`` becomes ``aria-label``.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    start = "".join(f' {key}="{_text(str(value))}"' for key, value in given.items())
    inside = "" if tag in VOID else f"{_inside(children)}</{tag}>"
    return Html(f"<{tag}{start}>{inside}")


def fragment(*children: Child) -> Html:
    """``children``, one after the other, without an element around them."""
    return Html(_inside(children))


def _inside(children: Iterable[Child]) -> str:
    return "".join(c.source if isinstance(c, Html) else _text(c) for c in children if c is not None)


def _text(text: str) -> str:
    return html.escape(shown(text))


def swatch(color: str) -> Html:
    """A small square of a class's colour, #rrggbb."""
    square = element("rect", width=10, height=10, fill=color)
    return element("svg", square, viewBox="0 0 10 10", class_="swatch", aria_hidden="true")
