"""What a user says of slides, a row of a CSV file each: it goes before what the slides say themselves.

::

    slide,mpp
    case-17.svs,0.2482
    archive/case-18.tif,0.5
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from wsipipe.errors import UsageError
from wsipipe.files import Named, absolute
from wsipipe.tables import positive, read_csv
from wsipipe.urls import is_url


@dataclass(frozen=True)
class SlideRow:
    """What is said of one slide: the columns that a table may have. What is None the slide says itself."""

    slide: str
    """The file's name, wherever it is, or its path, from the table's folder on, or its URL."""
    mpp: float | None = None
    """Micrometres per pixel of level 0."""


@dataclass(frozen=True)
class SlidesTable:
    """The rows of a table."""

    name: str
    """Of its file."""
    paths: Mapping[str, SlideRow]
    """The rows by the slide's path, absolute, or its URL."""
    names: Mapping[str, SlideRow]
    """Those that have no more than a name, by that."""

    def row(self, slide: Named) -> SlideRow:
        """What is said of the file ``slide``: by its path or URL, else by its name, else nothing."""
        here = absolute(slide)
        return self.paths.get(str(here)) or self.names.get(here.name) or SlideRow(str(here))


def read_slides_table(path: Path) -> SlidesTable:
    """The table at ``path``.

    Raises
    ------
    UsageError
        If it can not be read, has columns that are not known, or makes no sense.
    """
    beside = tuple(field.name for field in fields(SlideRow) if field.name != "slide")
    rows: dict[str, SlideRow] = {}
    for where, cells in read_csv(path, ("slide",), beside):
        row = SlideRow(cells["slide"], positive(cells, "mpp", where))
        if row.slide in rows:
            raise UsageError(f"{where} names {row.slide}, as one before does; leave one of them")
        rows[row.slide] = row
    return SlidesTable(
        name=path.name,
        paths={
            str(absolute(row.slide if is_url(row.slide) else path.parent / row.slide)): row for row in rows.values()
        },
        names={row.slide: row for row in rows.values() if os.path.basename(row.slide) == row.slide},  # noqa: PTH119
    )
