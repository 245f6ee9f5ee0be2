"""Writing the report of a night: page, JSON and history."""

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
"""Pictures per page (about 27 MB); slides that were done tonight come first."""


def write_report(report: NightReport, folder: Location) -> Location:
    """Write ``report`` into ``folder``: JSON, a line of the history, and the page. Returns the path of the page.

    Each is written whole or not at all. The files for programs come first, so that no picture can cost them.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    make_folder(folder)
    write_whole(folder / JSON, report_as_json(report), shared=True)
    append_history(folder / HISTORY, report.summary)
    text = page(report, summarise_all(report), read_history(folder / HISTORY))
    write_whole(folder / PAGE, text.encode(), shared=True)
    return folder / PAGE


def summarise_all(report: NightReport) -> dict[int, StoreSummary]:
    """Summaries of the finished stores, by the index of their slide in ``report``."""
    finished = [
        (i, slide.slide, slide.store)
        for status in (DONE, NO_TISSUE, SKIPPED)
        for i, slide in enumerate(report.slides)
        if slide.status == status and slide.store is not None
    ]
    left_out = StoreSummary(notes=(f"no picture: the page already has {MAX_PICTURES}",))
    seen = {i: summarise(slide, store) for i, slide, store in finished[:MAX_PICTURES]}
    return seen | {i: left_out for i, _, _ in finished[MAX_PICTURES:]}
