"""The report of a night on disk."""

from __future__ import annotations

from wsipipe.files import Location, make_folder, write_whole
from wsipipe.pictures.thumbnail import StoreSummary, summarise
from wsipipe.report.page import page
from wsipipe.report.record import (
    DONE,
    NO_TISSUE,
    SKIPPED,
    NightReport,
    append_history,
    read_history,
    report_as_json,
)

JSON, PAGE, HISTORY = "report.json", "report.html", "history.jsonl"
MAX_PICTURES = 1000
"""Of a page, which has 27 MB of them then; slides that were done in this night come first."""


def write_report(report: NightReport, folder: Location) -> Location:
    """Write ``report`` into ``folder``: JSON, a line of the history, and the page; the page's path.

    Each is whole or not there, and what programs read is written first: no picture can lose it.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    make_folder(folder)
    write_whole(folder / JSON, report_as_json(report), shared=True)
    append_history(folder / HISTORY, report.summary)
    text = page(report, summarise_all(report), read_history(folder / HISTORY))
    write_whole(folder / PAGE, text.encode(), shared=True)
    return folder / PAGE


def summarise_all(report: NightReport) -> dict[int, StoreSummary]:
    """What there is to see of the slides whose stores are finished, by their place in ``report``."""
    finished = [
        (i, slide.slide, slide.store)
        for status in (DONE, NO_TISSUE, SKIPPED)
        for i, slide in enumerate(report.slides)
        if slide.status == status and slide.store is not None
    ]
    left_out = StoreSummary(notes=(f"no picture: this page has {MAX_PICTURES} of others",))
    seen = {i: summarise(slide, store) for i, slide, store in finished[:MAX_PICTURES]}
    return seen | {i: left_out for i, _, _ in finished[MAX_PICTURES:]}
