from __future__ import annotations

import pytest

from tests.real_data import needs_data
from tests.slides.formats import table, written


@needs_data
def test_table_of_formats_in_the_readme_is_what_is_found() -> None:
    for library in ("openslide", "wsidicom"):
        pytest.importorskip(library)
    assert written() == table(), "python -m tests.slides.formats writes it anew"
