"""The wording of reports: foreign text made visible, and numbers as people read them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable

from wsipipe.report.record import DONE, FAILED, INTERRUPTED, OPEN, SET_ASIDE, STATUSES, NightReport, moment

BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of the text after them, so that ``fdp.exe`` may look like ``exe.pdf``."""
EXIT_CODES = {
    0: "no slide failed",
    1: "some slides failed",
    2: "the command or its configuration is wrong",
    3: "the machine failed",
    INTERRUPTED: "interrupted",
}


def shown(text: str) -> str:
    r"""``text`` with invisible characters, and what is not Unicode, as Python escapes; line ends and tabs stay.

    Invisible are control characters, line separators, marks that change the direction of text, and the lone surrogates
    of `os.fsdecode`. The result can be encoded and printed anywhere: ``"a\x1b.tif"`` becomes ``"a\\x1b.tif"``.
    """
    if text.isprintable():  # nearly all texts, among them pictures of 27 kB
        return text
    return "".join(_escaped(c) if _unseen(c) else c for c in text)


def shown_lines(lines: Iterable[str]) -> str:
    r"""``lines``, each `shown` in one line: a line end within one, as a file's name may have, becomes ``\n``."""
    return "\n".join(shown(line).replace("\n", r"\n") for line in lines)


def _unseen(c: str) -> bool:
    return c in BIDI or (c not in "\n\t" and unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"})


def _escaped(c: str) -> str:
    return c.encode("unicode_escape").decode()


def shortened(text: str, length: int) -> str:
    """``text``, cut in the middle to ``length`` characters if it has more."""
    if len(text) <= length:
        return text
    end = length // 3
    return f"{text[: length - end - 1]}…{text[-end:]}"


def headline(report: NightReport) -> str:
    """The night in a few words: ``38 done, 1 failed, 1 set aside``."""
    told = {status: n for status, n in report.counts.items() if status in (DONE, FAILED, SET_ASIDE, OPEN)}
    return ", ".join(f"{n} {status}" for status, n in told.items() if n or status == DONE)


def aside(report: NightReport) -> str:
    """The counts that `headline` leaves out: slides that need no action, and those with warnings."""
    told = {status: n for status, n in report.counts.items() if status not in (DONE, FAILED, SET_ASIDE, OPEN)}
    parts = [f"{n} {status} ({STATUSES[status]})" for status, n in told.items() if n]
    if report.warned:
        parts.append(f"{count_of(report.warned, 'slide')} with warnings")
    return ", ".join(parts)


def in_a_line(report: NightReport) -> str:
    """All counts of the night: `headline`, and `aside` if there is any."""
    return "; ".join(filter(None, (headline(report), aside(report))))


def duration(seconds: float) -> str:
    """``seconds`` as ``8 h 12 min``, ``12 min 5 s`` or ``8.1 s``."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


def amount(pixels: float) -> str:
    """``pixels`` as ``3.15 MP`` or ``12.3 GP``; append ``/s`` for a speed."""
    for size, unit in ((1e12, "TP"), (1e9, "GP"), (1e6, "MP")):
        if pixels >= size:
            return f"{three_digits(pixels / size)} {unit}"
    return f"{three_digits(pixels / 1e6)} MP"


def size(count: int) -> str:
    """``count`` bytes as ``840 bytes``, ``3.15 MB`` or ``12.3 GB``."""
    for unit_bytes, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit_bytes:
            return f"{three_digits(count / unit_bytes)} {unit}"
    return f"{count} bytes"


def area(mm2: float) -> str:
    """``mm2`` as ``0.125 mm²``, or as ``62 µm²`` below 0.001 mm²."""
    return f"{three_digits(mm2)} mm²" if mm2 >= 1e-3 or not mm2 else f"{three_digits(mm2 * 1e6)} µm²"


def three_digits(number: float) -> str:
    """``number``, 0 or more, to three significant digits, with commas at thousands: ``0.0412``, ``3.15``, ``1,230``."""
    if not number or not math.isfinite(number):
        return "0" if not number else "unknown"
    rounded = float(f"{number:.3g}")
    decimals = max(0, 2 - math.floor(math.log10(rounded)))
    return f"{number:,.{min(decimals, 6)}f}"


def count_of(number: int, thing: str) -> str:
    """``1 slide`` or ``2 slides``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def day(text: str) -> str:
    """The day of a time in ISO 8601: ``24 November 2026``."""
    when = moment(text)
    return f"{when.day} {when:%B %Y}"


def day_and_time(text: str) -> str:
    """The day and the time of day of a time in ISO 8601: ``24 November 2026, 22:00 UTC``."""
    return f"{day(text)}, {moment(text):%H:%M} UTC"


def last_part(slide: str) -> str:
    """The last part of a path or URL."""
    return slide.rstrip("/").rsplit("/", 1)[-1] or slide
