"""A table completes and corrects what single slides say themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsipipe.errors import UsageError
from wsipipe.slides.planes import Planes
from wsipipe.slides.table import SlideRow, read_slides_table


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "slides.csv"
    path.write_text(text)
    return path


def test_a_slide_is_found_by_its_path_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "slide, mpp\na.svs, 0.25\nold/a.svs, 0.5\nb.svs,\n\n/elsewhere/c.svs, 1\n"
    table = read_slides_table(write(tmp_path, text))
    assert table.row(tmp_path / "a.svs").mpp == 0.25
    assert table.row("/anywhere/a.svs").mpp == 0.25
    assert table.row(tmp_path / "old" / "a.svs").mpp == 0.5
    assert table.row(tmp_path / "b.svs") == SlideRow("b.svs", None)
    assert table.row("/elsewhere/c.svs").mpp == 1.0
    assert table.row(tmp_path / "c.svs").mpp is None
    monkeypatch.chdir(tmp_path)
    assert table.row("old/../old/a.svs").mpp == 0.5


def test_what_a_row_says_of_planes_goes_before_the_options(tmp_path: Path) -> None:
    table = read_slides_table(write(tmp_path, 'slide,reader,channels,z\na.tif,tiff,"DAPI,2",3\nb.tif,,,\n'))
    row = table.row(tmp_path / "a.tif")
    assert (row.reader, row.planes(Planes(z=1, t=4))) == ("tiff", Planes(("DAPI", 2), z=3, t=4))
    assert table.row(tmp_path / "b.tif").planes(Planes(z=1)) == Planes(z=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns none; needed: slide; optional: mpp"),
        ("slide,mpp", "has no row"),
        ("slide,mpp,stain\na.svs,1,HE", "has the columns 'slide', 'mpp', 'stain'; needed: slide; optional"),
        ("mpp\n1", "needed: slide"),
        ("slide,mpp\na.svs,0", r"line 2 has the mpp '0'; it must be a positive number"),
        ("slide,mpp\na.svs,x", r"line 2 has the mpp 'x'; it must be a positive number"),
        ("slide,mpp\na.svs,1,2", r"line 2 has 3 cells for 2 columns"),
        ("slide,z\na.svs,-1", r"line 2: z must be a whole number from 0, not '-1'"),
        ("slide,reader\na.svs,tifff", r"--reader tifff is not a reader; allowed: tiff"),
        ("slide,mpp\n,1", r"line 2 lacks a slide"),
        ("slide,mpp\na.svs,1\nb.svs,1\na.svs,2", r"line 4 names a.svs, as an earlier line does"),
        ("slide,mpp\na.svs,1\n./a.svs,2", r"line 3 names ./a.svs, as an earlier line does \(a.svs\); remove one"),
        ("slide,z\na.svs," + "9" * 5000, r"line 2: z must be a whole number from 0, not '9{20}'"),
        ('slide,mpp\n"a.svs,1\nb.svs,1', r"is not CSV in UTF-8: unexpected end of data"),
    ],
)
def test_a_table_that_makes_no_sense_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_slides_table(write(tmp_path, text))


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone.csv cannot be read: No such file"):
        read_slides_table(tmp_path / "gone.csv")
