"""A user's options for single slides, one row of a CSV file each; they override what the slides say themselves.

::

    slide,mpp,channels
    case-17.svs,0.2482,
    archive/case-18.tif,0.5,"DAPI,CD3"
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from wsipipe.errors import UsageError
from wsipipe.files import Named, absolute
from wsipipe.slides.address import file_of
from wsipipe.slides.planes import MAX_DIGITS, Planes, parse_channels
from wsipipe.slides.readers.registry import named
from wsipipe.tables import positive, read_csv
from wsipipe.urls import is_url


@dataclass(frozen=True)
class SlideRow:
    """The row of one slide; its fields are the columns that a table may have. None leaves it to the slide."""

    slide: str
    """The file's name, wherever it is; or its path, relative to the table's folder; or its URL."""
    mpp: float | None = None
    """Micrometres per pixel of level 0."""
    reader: str | None = None
    """Name of the reader to use."""
    channels: tuple[int | str, ...] | None = None
    """Channels in the order wanted, by number from 0 or by name."""
    z: int | None = None
    """Focal plane, from 0."""
    t: int | None = None
    """Time point, from 0."""
    series: int | None = None
    """Image, from 0."""

    def planes(self, otherwise: Planes) -> Planes:
        """The planes that it chooses, with those of ``otherwise`` where it chooses none."""
        said = {field.name: getattr(self, field.name) for field in fields(Planes)}
        return replace(otherwise, **{name: value for name, value in said.items() if value is not None})


@dataclass(frozen=True)
class SlidesTable:
    """The rows of a table."""

    name: str
    """Name of the table's file."""
    paths: Mapping[str, SlideRow]
    """Rows by the absolute path, or the URL, of the slide."""
    names: Mapping[str, SlideRow]
    """Rows that give just the name of a file, by this name."""

    def row(self, slide: Named) -> SlideRow:
        """The row of ``slide``, by its path or URL, else by its name, else that of its file, else an empty one."""
        here = absolute(slide)
        for one in (here, file_of(here)[0]):
            if row := self.paths.get(str(one)) or self.names.get(one.name):
                return row
        return SlideRow(str(here))

    def unmatched(self, slides: Iterable[Named]) -> list[str]:
        """The slides, as the table has them, of rows that are of none of ``slides``."""
        used = {self.row(slide).slide for slide in slides}
        return [row.slide for row in self.paths.values() if row.slide not in used]


def read_slides_table(path: Path) -> SlidesTable:
    """Read the table at ``path``.

    Raises
    ------
    UsageError
        If it cannot be read, has unknown columns or invalid values, or two rows for one slide.
    """
    beside = tuple(field.name for field in fields(SlideRow) if field.name != "slide")
    rows: dict[str, SlideRow] = {}
    paths: dict[str, SlideRow] = {}
    for where, cells in read_csv(path, ("slide",), beside):
        row = SlideRow(
            slide=cells["slide"],
            mpp=positive(cells, "mpp", where),
            reader=cells.get("reader") or None,
            channels=parse_channels(cells["channels"]) if cells.get("channels") else None,
            **{name: _number(cells, name, where) for name in ("z", "t", "series")},
        )
        named(row.reader)
        if (other := paths.setdefault(_path_of(row.slide, path.parent), row)) is not row:
            raise UsageError(
                f"{where} names {row.slide}, as an earlier line does ({other.slide}); remove one of the two"
            )
        rows[row.slide] = row
    return SlidesTable(
        name=path.name,
        paths=paths,
        names={row.slide: row for row in rows.values() if os.path.basename(row.slide) == row.slide},  # noqa: PTH119
    )


def _path_of(slide: str, folder: Path) -> str:
    """The absolute path, or the URL, of a slide in a table of ``folder``."""
    return str(absolute(slide if is_url(slide) else folder / slide))


def _number(cells: Mapping[str, str], column: str, where: str) -> int | None:
    """The whole number in ``column`` of a row, or None if it is empty."""
    text = cells.get(column) or None
    if text is not None and not (text.isdecimal() and len(text) <= MAX_DIGITS):
        raise UsageError(f"{where}: {column} must be a whole number from 0, not {text[:20]!r}")
    return None if text is None else int(text)
