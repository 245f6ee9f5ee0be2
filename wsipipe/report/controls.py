"""Choosing slides on the page of a night, and sorting them, by style sheets alone: the page runs no script.

Each choice is a radio button, and a rule of the style sheet that applies while it is checked. To sort, each card has
its places in a rule of its own (``.n12 { --by-name: 3 }``), of which the checked button takes one as ``order``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from wsipipe.pictures.thumbnail import StoreSummary
from wsipipe.report.markup import Html, element, fragment
from wsipipe.report.record import STATUSES, SlideReport
from wsipipe.report.words import last_part

FEWEST = 2
"""Slides from which on there is a choice."""
Key = Callable[[SlideReport, StoreSummary], tuple[float | str, ...]]
ORDERS: dict[str, Key] = {
    "name": lambda slide, _: (last_part(slide.slide).casefold(), slide.slide),
    "objects": lambda _, found: (-sum(one.objects for one in found.objects),),
    "area": lambda _, found: (-sum(one.share or 0.0 for one in found.classes),),
    "tissue": lambda _, found: (-(found.tissue_share or 0.0),),
}
"""What cards can be sorted by, besides their order on the page: most first, but for names."""
NOTHING = StoreSummary()


def anchor(status: str) -> str:
    """The name of the section of ``status``, as an id and in class names."""
    return status.replace(" ", "-")


def controls(slides: Sequence[SlideReport]) -> Html | None:
    """Buttons to choose among ``slides``, and to sort them; None if there are too few."""
    if len(slides) < FEWEST:
        return None
    here = [status for status in STATUSES if any(slide.status == status for slide in slides)]
    shown = {"all": "all", **{anchor(status): status for status in here}}
    shown |= {"warned": "with warnings"} if any(slide.warnings for slide in slides) else {}
    orders = {"page": "warnings first", **{name: name for name in ORDERS}}
    return element("div", _choice("show", shown), _choice("sort", orders), class_="controls")


def _choice(of: str, texts: Mapping[str, str]) -> Html:
    """Radio buttons, the first of them checked."""
    first = next(iter(texts))
    buttons = (
        fragment(
            element("input", type="radio", name=of, id=f"{of}-{key}", checked="" if key == first else None),
            element("label", text, for_=f"{of}-{key}"),
        )
        for key, text in texts.items()
    )
    return element("fieldset", element("legend", of), *buttons)


def rules() -> str:
    """The style sheet of `controls`, the same for every page."""
    lines = [
        f"body:has(#show-{anchor(status)}:checked) section.slides:not(.of-{anchor(status)}) {{ display: none; }}"
        for status in STATUSES
    ]
    lines += [
        "body:has(#show-warned:checked) :is(section.slides:not(:has(.warned)), section.slides "
        ":is(.card, .problem, tbody tr):not(.warned)) { display: none; }"
    ]
    lines += [f"body:has(#sort-{name}:checked) .card {{ order: var(--by-{name}); }}" for name in ORDERS]
    return "\n".join(lines) + "\n"


def places(slides: Sequence[SlideReport], summaries: Mapping[int, StoreSummary]) -> str:
    """The rules that give the card of each of ``slides`` its places."""
    if len(slides) < FEWEST:
        return ""
    numbers: dict[int, list[str]] = {i: [] for i in range(len(slides))}
    for name, key in ORDERS.items():
        ordered = sorted(numbers, key=lambda i: key(slides[i], summaries.get(i, NOTHING)))
        for place, i in enumerate(ordered):
            numbers[i].append(f"--by-{name}: {place}")
    return "".join(f".n{i} {{ {'; '.join(given)}; }}\n" for i, given in numbers.items())
