"""Writing the report of a night: page, JSON and history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from wsipipe.files import Location, locate, make_folder, write_whole
from wsipipe.pictures.apart import pictures_apart
from wsipipe.pictures.thumbnail import StoreSummary, summarise
from wsipipe.report.page import page
from wsipipe.report.record import (
    DONE,
    FAILED,
    NO_TISSUE,
    SET_ASIDE,
    SKIPPED,
    NightReport,
    append_history,
    read_history,
    report_as_json,
)
from wsipipe.slides.address import file_of
from wsipipe.urls import Url

JSON, PAGE, HISTORY = "report.json", "report.html", "history.jsonl"
MAX_PICTURES = 1000
"""Small pictures per page, about 27 MB; slides that were done tonight come first."""
LARGE_PICTURES_BYTES = 24_000_000
"""Bytes of the large pictures of a page, 32 MB of its text, so that it stays below 64 MB: 150 of them or more."""
MAX_FAILED_PICTURES = 50
"""Pictures of slides that failed."""
FOUND = ("classes", "objects", "mpp", "tissue_share", "region_share", "notes", "version", "model", "model_sha256")
"""Fields of a `StoreSummary` that the JSON has: all but pictures."""


def write_report(report: NightReport, folder: Location) -> Location:
    """Write ``report`` into ``folder``: JSON, a line of the history, and the page. Returns the path of the page.

    Each is written whole or not at all. The files for programs come first, so that no picture can cost them; the JSON
    is written again once the stores were read, with what was found in them.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    make_folder(folder)
    write_whole(folder / JSON, report_as_json(report), shared=True)
    append_history(folder / HISTORY, report.summary)
    summaries = summarise_all(report)
    write_whole(folder / JSON, report_as_json(report, found_in(summaries)), shared=True)
    text = page(report, summaries | failed_pictures(report), read_history(folder / HISTORY))
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
    seen: dict[int, StoreSummary] = {}
    left_bytes = LARGE_PICTURES_BYTES
    for i, slide, store in finished[:MAX_PICTURES]:
        seen[i] = summarise(slide, store, large=left_bytes > 0)
        left_bytes -= len(seen[i].large.jpeg)
    return seen | {i: left_out for i, _, _ in finished[MAX_PICTURES:]}


def failed_pictures(report: NightReport) -> dict[int, StoreSummary]:
    """Pictures of the slides that failed but can be opened, by the index of their slide in ``report``."""
    failed = [
        i for i, slide in enumerate(report.slides) if slide.status in (FAILED, SET_ASIDE) and _may_open(slide.slide)
    ][:MAX_FAILED_PICTURES]
    pictures = pictures_apart([report.slides[i].slide for i in failed])
    return {i: StoreSummary(thumbnail=one) for i, one in zip(failed, pictures, strict=True) if one.jpeg}


def _may_open(slide: str) -> bool:
    """Whether there is such a file, or a URL, which is not asked."""
    try:
        where = file_of(locate(slide))[0]
        return isinstance(where, Url) or where.exists()
    except (OSError, ValueError):
        return False


def found_in(summaries: Mapping[int, StoreSummary]) -> dict[int, dict[str, Any]]:
    """What the cards of the page say of stores, in the types of JSON."""
    return {
        i: {name: value for name, value in asdict(found).items() if name in FOUND} for i, found in summaries.items()
    }
