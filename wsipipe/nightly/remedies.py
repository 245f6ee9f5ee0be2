"""The ways out that messages name, in the words of a night: ``[[slides]] mpp = 0.25`` instead of ``--mpp 0.25``.

Messages are made where a fault is found, also by workers, and name options of ``wsipipe run``. A night has the same
options as keys of its file, and `in_night` replaces what names one. Stores of other options are made anew without
``--overwrite``, which a night does not have; a damaged one has to be removed.
"""

from __future__ import annotations

import glob
import json
import re
from dataclasses import dataclass, fields, replace

from wsipipe.events import Event, Listener, SlideEmpty, SlideFailed, SlideLeft, SlideSkipped, Warned
from wsipipe.nightly.options import RunTable, SlideTable

NUMBER = r"[0-9]+(?:\.[0-9]+)?"
VALUES = {
    "mpp": NUMBER,
    "max_upsample": NUMBER,
    "z": rf"{NUMBER}|N\b",
    "t": rf"{NUMBER}|N\b",
    "series": rf"{NUMBER}|N\b",
    "tile": NUMBER,
    "block": NUMBER,
    "batch": NUMBER,
    "threads": NUMBER,
    "min_area": NUMBER,
    "max_memory": r"[0-9.]+[KMGT]?B",
    "tissue": "auto|off",
    "on_bad_tile": "fail|fill",
    "tta": "off|flips|all",
    "reader": "tiff|ome-zarr|dicom|picture|openslide",
    "channels": r"[0-9]+(?:,[0-9]+)*",
    "roi": r"[0-9][0-9.,a-zµ]*|\S+\.(?:geojson|json|xml)",
}
"""What the value of each option looks like; anything else after it is the rest of the sentence."""
FLAGS = {"any_stain", "probabilities", "uncertainty", "objects"}
SHORT = {"m": "model", "o": "out"}
OVERWRITE = (
    (re.compile(r", with --overwrite if its file has changed"), ""),
    (re.compile(r"(?<=fill|.off|auto) --overwrite\b"), ""),
    (re.compile(r"(?<![\w/-])--overwrite (?:replaces it once the new one is complete|makes (?:the store|it) anew)"),
     "remove it, and the next night makes it anew"),
)  # fmt: skip
OPTION = re.compile(r"(?<![\w/.-])(?:--([a-z]+(?:-[a-z]+)*)|-([mo]))(?![\w/.-]*[\w/-])")
SLIDES, RUN = "[[slides]] ", "[run] "
TABLES = (
    (SLIDES, {field.name for field in fields(SlideTable)}),
    (RUN, {field.name for field in fields(RunTable)}),
    ("", {"out"}),
)
"""Where a night's file has its keys; the first table that has one counts."""
PASTED = "\n[[slides]]\n"


def in_night(message: str, first: str = SLIDES) -> str:
    """``message`` with keys of a night's file instead of options of ``wsipipe run``.

    A key that both tables have is that of ``first``, `SLIDES` or `RUN`.
    """
    tables = sorted(TABLES, key=lambda table: table[0] != first)
    for pattern, instead in OVERWRITE:
        message = pattern.sub(instead, message)
    parts, at = [], 0
    for found in OPTION.finditer(message):
        name = SHORT.get(found[2], (found[1] or "").replace("-", "_"))
        table = next((title for title, names in tables if name in names), None)
        if table is None:
            continue
        value = re.compile(rf" ({VALUES[name]})(?!\w)").match(message, found.end()) if name in VALUES else None
        parts += [message[at : found.start()], table + name]
        at = found.end()
        if value is not None:
            parts.append(f" = {_as_toml(value[1])}")
            at = value.end()
        elif name in FLAGS:
            parts.append(" = true")
    return "".join(parts) + message[at:]


def with_table(message: str, name: str) -> str:
    """``message``, and below it, if it names a resolution, the table that gives it to the slide ``name``, to paste."""
    mpp = re.search(rf"\[\[slides\]\] mpp = ({NUMBER})", message)
    if mpp is None or not name.isprintable():
        return message
    return f"{message}{PASTED}match = {json.dumps(glob.escape(name), ensure_ascii=False)}\nmpp = {mpp[1]}"


def lines_with_table(message: str) -> list[str]:
    """The lines of `with_table`; any other line end is part of a file's name."""
    head, pasted, table = message.rpartition(PASTED)
    return [head, "[[slides]]", *table.split("\n")] if pasted else [message]


def _as_toml(value: str) -> str:
    return value if re.fullmatch(rf"{NUMBER}|N", value) else f'"{value}"'


@dataclass(frozen=True)
class InNight:
    """A listener that passes events on to another, with their messages `in_night`."""

    listener: Listener

    def __call__(self, event: Event) -> None:
        """Pass ``event`` on."""
        match event:
            case SlideFailed():
                event = replace(event, error=in_night(event.error))
            case SlideEmpty() | SlideLeft() | SlideSkipped():
                event = replace(event, reason=in_night(event.reason))
            case Warned():
                event = replace(event, message=in_night(event.message))
        self.listener(event)
