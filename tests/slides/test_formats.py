"""The table of formats in the documentation has the rows that are found as each file is read and compared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.real_data import needs_data
from tests.slides.formats import found_row, paths, table, written, written_rows
from tests.soak import in_soak

ANEW = "python -m tests.slides.formats writes the table anew"


LARGE = ("tcga-cr-7395-01a-01-ts1.svs", "yb10kx5k.zstd.tiff", "grey10kx5k.tif", "test3-DAPI-2-387.ndpi")
"""Files of which each pixel takes seconds to compare."""


def _paths() -> list[object]:
    """`paths`, the large ones only with ``-m soak``."""
    return [*(path for path in paths() if path.name not in LARGE), *in_soak(*(p for p in paths() if p.name in LARGE))]


@needs_data
@pytest.mark.parametrize("path", _paths() or [Path("none")], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_row_of_a_file_in_the_documentation_is_what_is_found(path: Path) -> None:
    for library in ("openslide", "wsidicom"):
        pytest.importorskip(library)
    assert found_row(path) in [row for name, row in written_rows() if name == path.name], ANEW


@needs_data
def test_table_in_the_documentation_has_each_file_once_and_rows_that_say_the_same_are_one() -> None:
    rows = written_rows()
    assert Counter(name for name, _ in rows) == Counter(path.name for path in paths()), ANEW
    left = list(rows)
    in_order = [left.pop(next(i for i, (name, _) in enumerate(left) if name == path.name)) for path in paths()]
    assert written() == table(in_order), ANEW
