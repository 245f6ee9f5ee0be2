"""The files that others' readers crashed on: each ends in a clear error or opens, in little memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.real_data import DATA, needs_data

OPENS = {
    # Whole, though Bio-Formats died before it wrote the OME-XML: all tiles of level 0 equal the slide's.
    "bioformats-j2k-aborted.ome.btf",
    # Odd tags or an odd order, but sound pixels.
    "multipage-lastframe.tif",
    "multipage_out_of_order.tiff",
    "ifd_tag_type.tiff",
    "tiff_wrong_bits_per_sample_2.tiff",
}
CHILD = """
import json, resource, sys
from pathlib import Path
import numpy as np
from wsipipe.errors import SlideError
from wsipipe.slides.reading import read_mirrored
from wsipipe.slides.slide import open_slide
results = {}
for path in sys.argv[1:]:
    start = resource.getrusage(resource.RUSAGE_SELF)
    try:
        for level in open_slide(path).levels:
            read_mirrored(level, np.arange(level.shape[0]), np.arange(level.shape[1]))
        outcome = "opens"
    except SlideError as err:
        outcome = str(err)
    end = resource.getrusage(resource.RUSAGE_SELF)
    results[Path(path).name] = [outcome, end.ru_utime - start.ru_utime, end.ru_maxrss]
print(json.dumps(results))
"""


def broken_paths() -> list[str]:
    """Every broken file, and every invalid OME-Zarr folder."""
    if DATA is None:
        return []
    folder = DATA / "broken"
    files = [path for path in folder.rglob("*") if path.is_file() and "ome-zarr-invalid" not in path.parts]
    return sorted(map(str, [*files, *(folder / "ome-zarr-invalid").iterdir()]))


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[str, float, int]]:
    """What came of each file, seconds of processor time, and the peak memory until then."""
    command = [sys.executable, "-W", "error", "-c", CHILD, *broken_paths()]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr  # any other error than a SlideError ends the child
    result: dict[str, tuple[str, float, int]] = json.loads(run.stdout)
    return result


@needs_data
def test_broken_files_open_or_end_in_an_error_that_names_them(outcomes: dict[str, tuple[str, float, int]]) -> None:
    assert len(outcomes) == len(broken_paths()) > 100
    assert {name for name, (outcome, *_) in outcomes.items() if outcome == "opens"} == OPENS
    for name, (outcome, *_) in outcomes.items():
        assert outcome == "opens" or name in outcome


@needs_data
def test_broken_files_take_little_time_and_memory(outcomes: dict[str, tuple[str, float, int]]) -> None:
    assert max(seconds for _, seconds, _ in outcomes.values()) < 10
    unit = 1 if sys.platform == "darwin" else 1024
    assert max(peak for *_, peak in outcomes.values()) * unit < 2 * 2**30
