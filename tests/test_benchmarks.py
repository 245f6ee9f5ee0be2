"""Benchmarks that are for other machines than this: what they compute on paper, and that every path of them works."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile

from benchmarks.mosaic import main as write_mosaic
from benchmarks.mosaic import tiles_of
from benchmarks.roofline import H200, work_of
from tests.conftest import WriteSlide
from tests.faults import PATIENCE_SECONDS
from tests.warm import Warm
from wsipipe import open_slide
from wsipipe.training import log as training_log

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SECTIONS = """
import os, signal, time
from pathlib import Path
from sections import measure

def fails(_):
    yield {"what": "before"}
    raise ValueError("a reason")

def dies(_):
    os._exit(7)
    yield

def hangs(_):
    os.fork()
    time.sleep(1000)
    yield

def ended(_):
    os.kill(os.getppid(), signal.SIGTERM)
    yield from hangs(_)

def lasts(_):
    yield {"what": "after", "speed": 1.5}

measure({"fails": fails, "dies": dies, "lasts": lasts}, 8, Path("rows.json"))
measure({"hangs": hangs}, 0.02, Path("hung.json"))
measure({"ended": ended}, 8, Path("ended.json"))
"""


PAPER = [(16, "bfloat16", 4476, "memory"), (16, "float32", 638, "compute")]
PAPER += [(64, "bfloat16", 594, "compute"), (64, "float32", 40, "compute")]


@pytest.mark.parametrize(("base", "precision", "mps", "limit"), PAPER)
def test_the_limit_on_paper_is_that_computed_by_hand(base: int, precision: str, mps: int, limit: str) -> None:
    architecture = {"in_channels": 3, "classes": 2, "base_channels": base, "depth": 4, "convs_per_level": 2}
    pixels, what = work_of(architecture, 1024).limit(H200, precision)
    assert (round(pixels / 1e6), what) == (mps, limit)
    if base == 16:
        work = work_of(architecture, 1024)
        assert (round(work.flop / 1e3), round(2 * work.values)) == (105, 1072)


def test_work_on_paper_is_that_of_a_network_counted_layer_by_layer() -> None:
    """One level, one convolution: a tile of 12 px for a core of 8."""
    work = work_of({"in_channels": 3, "classes": 2, "base_channels": 4, "depth": 0, "convs_per_level": 1}, 8)
    assert work.flop * 64 == 2 * (9 * 3 * 4 * 64 + 4 * 2 * 64)
    assert work.values * 64 == 3 * 100 + 4 * 64 + 4 * 64 + 2 * 64


def test_a_mosaic_repeats_the_middle_of_a_slide_and_mirrors_it(tmp_path: Path, write_slide: WriteSlide) -> None:
    path = write_slide(tmp_path / "s.tif", (96, 120))
    tiles = list(tiles_of(open_slide(path).levels[0], 250, 16))
    found = np.concatenate([np.concatenate(tiles[i : i + 16], 1) for i in range(0, 256, 16)])
    middle = tifffile.imread(path)[:, 4:116]
    np.testing.assert_array_equal(found, np.pad(middle, ((0, 160), (0, 144), (0, 0)), mode="symmetric"))


def test_a_section_that_fails_dies_or_hangs_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    """A process left behind would hold the pipe that its end is waited for with."""
    done = subprocess.run(
        [sys.executable, "-c", SECTIONS],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{BENCHMARKS}:{BENCHMARKS.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["section"], row["what"], row.get("error")) for row in rows] == [
        ("fails", "before", None),
        ("fails", "failed", "ValueError: a reason"),
        ("dies", "died", "its process ended with exit code 7"),
        ("lasts", "after", None),
    ]
    (hung,) = json.loads((tmp_path / "hung.json").read_text())
    assert hung["skipped"] in ("its time was up", "the minutes are used up")
    assert "fails           before" in done.stdout
    assert "speed 1.5  seconds" in done.stdout


ONE_TEST = """
import pytest

@pytest.mark.gpu
@pytest.mark.skip
def test_gpu(): ...
"""
"""In place of the tests of this folder, which take seconds to import."""


def benchmarks_beside_one_test(folder: Path) -> Path:
    """The folder of a copy of the benchmarks, in ``folder``, which has the tests of `ONE_TEST`."""
    copy = folder / "checkout" / "benchmarks"
    shutil.copytree(BENCHMARKS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "checkout" / "tests").mkdir()
    (folder / "checkout" / "tests" / "test_gpu.py").write_text(ONE_TEST)
    return copy


def find_benchmarks(folder: Path) -> None:
    """Have this process find the modules of ``folder``, and draw no curves of trainings, which take longest."""
    sys.path.insert(0, str(folder))
    training_log.write_curves = lambda *_: None


@pytest.mark.soak  # it starts a process for each section
def test_every_section_of_the_gpu_benchmark_works_with_a_cpu_in_its_place(
    tmp_path: Path, tiny_model: Path, write_slide: WriteSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, out, log = tmp_path / "large.tif", tmp_path / "gpu.json", tmp_path / "log"
    small = write_slide(tmp_path / "s.tif")
    monkeypatch.setattr(sys, "argv", ["mosaic.py", *map(str, (small, slide)), "--side", "300", "--tile", "64"])
    write_mosaic()
    command = [str(slide), "-m", str(tiny_model), "--device", "cpu", "--quick", "-o", str(out)]
    beside_one_test = partial(find_benchmarks, benchmarks_beside_one_test(tmp_path))
    fast = {"TORCH_COMPILE_DISABLE": "1"}  # compiling takes half a minute, and has a test of its own
    process = Warm("gpu", command, log, first=beside_one_test, environment=fast)
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    rows = json.loads(out.read_text())
    assert process.returncode == 0, said + log.read_text()
    assert len(said.splitlines()) == len(rows)
    assert {"skipped", "error"} & {name for row in rows if row["section"] != "tests" for name in row} == set()
    of = {name: [row for row in rows if row["section"] == name] for name in dict.fromkeys(r["section"] for r in rows)}
    assert list(map(len, of.values())) == [1, 1, 1, 6, 12, 8, 4 + 1, 1, 1, 2, 1, 1], list(of)
    for name in ("run in float32", "run in bfloat16"):
        assert of[name][0]["of_projected"] < 1
    assert of["accuracy"][0]["largest_error"] < 1e-4 < of["accuracy"][-1]["largest_error"]
    assert of["tests"][0]["skipped"] == 1
    assert of["training"][0]["equal"]
    assert [0 <= row["labels_differ"] < 0.01 for row in of["compile"]] == [True, True]
    assert all(row["compile_seconds"] > 0 for row in of["compile"])
    assert 0 < of["run in bfloat16"][0]["labels_differ"] < 0.01
    assert of["two processes"][0]["labels_differ"] == 0
    assert all(row["torch"] and row["device"] and row["seconds"] >= 0 for row in rows)
