"""Reading a slide's file where the system lacks what Linux has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import WriteSlide
from tests.faults import PATIENCE_SECONDS
from wsipipe.slides.byte_source import open_source

NO_LINUX = """
import os, runpy, sys
del os.pread
sys.modules.update(fcntl=None, resource=None)
sys.argv[0] = "wsipipe"
runpy.run_module("wsipipe", run_name="__main__")
"""


def test_without_pread_threads_read_their_own_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    whole = rng.bytes(2**16)
    path = tmp_path / "a.bin"
    path.write_bytes(whole)
    monkeypatch.delattr(os, "pread")
    source = open_source(path)
    places = [(int(offset), int(count)) for offset, count in rng.integers(0, 2**16, (2000, 2))]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda place: source.read(*place), places))
    assert found == [whole[offset : offset + count] for offset, count in places]


def test_a_slide_is_read_without_the_modules_and_calls_of_unix(tmp_path: Path, write_slide: WriteSlide) -> None:
    slide = write_slide(tmp_path / "a.tif")
    command = [sys.executable, "-c", NO_LINUX]
    done = subprocess.run([*command, "info", str(slide), "--json"], capture_output=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["levels"][0]["shape"] == [96, 128]
    preview = [*command, "preview", str(slide), "-o", str(tmp_path / "a.png")]
    assert subprocess.run(preview, capture_output=True, timeout=PATIENCE_SECONDS).returncode == 0
    assert (tmp_path / "a.png").stat().st_size > 0
