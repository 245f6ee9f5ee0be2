"""The files that others' readers crashed on: each ends in a clear error or opens, in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
KINDS = {"SlideReadError", "SlideFormatError", "PlaneError"}
MOST_BYTES, MOST_SECONDS = 2**30, 10
CHILD = """
import faulthandler, json, os, resource, sys
import numpy as np
import psutil
import wsipipe.slides.readers.registry  # once, not in each process
from wsipipe.errors import SlideError
from wsipipe.slides.pixels.mirrored import read_mirrored
from wsipipe.slides.open import describe, open_slide
def look(path):
    slide = open_slide(path)
    describe(slide)
    for level in slide.levels:
        read_mirrored(level, np.arange(level.shape[0]), np.arange(level.shape[1]))
def limited(path, answer):
    # Past these the kernel refuses memory, or ends the process, whatever C library it is in.
    most = psutil.Process().memory_info().vms + MOST_BYTES
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    faulthandler.dump_traceback_later(6 * MOST_SECONDS, exit=True)
    try:
        look(path)
        outcome = ["opens", ""]
    except SlideError as err:
        outcome = [type(err).__name__, str(err)]
    os.write(answer, json.dumps(outcome).encode())
    os._exit(0)
results = {}
for path in sys.argv[1:]:  # a process each, so that no file hides behind another that took more
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        limited(path, writing)
    os.close(writing)
    _, status, used = os.wait4(child, 0)
    with open(reading) as answer:
        text = answer.read()
    assert status == 0, f"{path} ended the process: {os.waitstatus_to_exitcode(status)}"
    results[path] = [*json.loads(text), used.ru_maxrss]
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
def outcomes() -> dict[str, tuple[str, str, int]]:
    """The outcome of each file, its message, and the peak memory; each had 10 s, and 1 GiB beyond numpy's."""
    limits = f"MOST_BYTES, MOST_SECONDS = {MOST_BYTES}, {MOST_SECONDS}\n"
    command = [sys.executable, "-W", "error", "-c", limits + CHILD, *broken_paths()]
    one_thread = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # only a process of one thread is forked without harm
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=one_thread)
    assert run.returncode == 0, run.stderr  # any other error than a SlideError, or a signal, ends the child
    result: dict[str, tuple[str, str, int]] = json.loads(run.stdout)
    return result


@needs_data
def test_broken_files_open_or_end_in_an_error_that_names_them(outcomes: dict[str, tuple[str, str, int]]) -> None:
    assert len(outcomes) == len(broken_paths()) > 100
    assert {Path(path).name for path, (kind, *_) in outcomes.items() if kind == "opens"} == OPENS
    for path, (kind, message, _) in outcomes.items():
        assert kind == "opens" or (kind in KINDS and Path(path).name in message)


@needs_data
def test_broken_files_take_little_memory(outcomes: dict[str, tuple[str, str, int]]) -> None:
    unit = 1 if sys.platform == "darwin" else 1024
    assert max(peak for *_, peak in outcomes.values()) * unit < MOST_BYTES
