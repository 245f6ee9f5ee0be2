"""Promise 2: peak memory does not grow with the slide, is projected beforehand, and `--max-memory` is kept."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.big import write_big_slide
from tests.faults import summary, wsipipe
from tests.soak import rounds
from wsipipe.model.model_file import load_model, save_unet


def run_json(*arguments: object) -> dict[str, Any]:
    ended = wsipipe("run", *arguments, "--device", "cpu", "--json")
    assert ended.returncode == 0, ended.stderr
    return summary(ended.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shrink", "sides", "also"),
    rounds(
        (1.0, (2048, 8192), ()),
        (2.0, (2048, 4096), ()),
        (2.0, (2048, 8192), ()),
        (1.0, (2048, 8192), ("--objects", "--instances")),
    ),
)
def test_peak_memory_is_flat_and_below_the_projection(
    tmp_path: Path, tiny_model: Path, shrink: float, sides: tuple[int, int], also: tuple[str, ...]
) -> None:
    """For a slide as it is, and for one averaged from twice as fine a slide to as many pixels of labels.

    Labels that were all kept would be 64 MB more, and the pixels of the averaged slides 150 MB.
    """
    peaks, model = {}, load_model(tiny_model)
    save_unet(tmp_path / "b.safetensors", model.network, replace(model.spec, mpp=0.5))
    slides = [write_big_slide(tmp_path / f"{side}.zarr", round(side * shrink), mpp=0.5 / shrink) for side in sides]
    options = ("-m", tmp_path / "b.safetensors", "-o", tmp_path / "out", "--block", 1024, "--tile", 512, *also)
    plans = run_json(*slides, *options, "--dry-run")["slides"]
    assert not (tmp_path / "out").exists()
    for side, slide, planned in zip(sides, slides, plans, strict=True):
        done = run_json(slide, *options)
        assert planned["shrink"] == shrink
        assert done["slides"][0]["pixels"] == side * side
        assert done["peak_bytes"] <= planned["projected_memory_bytes"]
        peaks[side] = done["peak_bytes"]
    assert peaks[sides[1]] <= 1.1 * peaks[sides[0]]


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--objects", "--instances")])
def test_the_smallest_max_memory_that_is_named_works(
    tmp_path: Path, tiny_model: Path, options: tuple[str, ...]
) -> None:
    slide = write_big_slide(tmp_path / "s.zarr", 3000)
    command = ["run", slide, "-m", tiny_model, "-o", tmp_path / "out", "--device", "cpu", "--json", *options]
    refused = wsipipe(*command, "--max-memory", "50MB")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    found = re.search(r"smallest that works here: --max-memory (\d+)MB", refused.stderr)
    assert found, refused.stderr
    megabytes = int(found[1])
    # What the process takes before the first block differs by a few pages from start to start.
    fits = summary(wsipipe(*command, "--max-memory", f"{megabytes + 8}MB").stdout)
    assert fits["exit_code"] == 0
    assert fits["threads"] == 1
    assert fits["peak_bytes"] <= (megabytes + 8) * 1e6
