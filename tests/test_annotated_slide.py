"""From a slide that somebody annotated to scores: train, run, evaluate, as a user would type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.real_data import data, needs_data
from wsipipe.cli import cli

WORKFLOW = Path(__file__).parents[1] / "workflows" / "cmu"
SMALLER = {
    "base_channels = 8": "base_channels = 8\ndepth = 3",
    "core = 256": "core = 128",
    "steps = 200": "steps = 100\nworkers = 0\nthreads = 1\n[optimizer]\nwarm_up = 10\nlearning_rate = 2e-3",
}


def call(*words: object) -> Result:
    ended = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended


@needs_data
@pytest.mark.slow
def test_an_annotated_slide_becomes_a_model_that_runs_and_scores_well(tmp_path: Path) -> None:
    slide = data("slides/CMU-1-Small-Region.svs")
    text = (WORKFLOW / "tissue.toml").read_text()
    for large, small in SMALLER.items():
        assert large in text
        text = text.replace(large, small)
    (tmp_path / "tissue.toml").write_text(text)
    (tmp_path / "train.geojson").write_bytes((WORKFLOW / "train.geojson").read_bytes())
    model = tmp_path / "tissue.safetensors"
    call("train", tmp_path / "tissue.toml", "-o", model, "--data", slide.parent, "--device", "cpu")
    call("run", slide, "-m", model, "-o", tmp_path / "out", "--device", "cpu")
    store = tmp_path / "out" / "CMU-1-Small-Region.zarr"
    scores = json.loads(call("evaluate", store, WORKFLOW / "test.geojson", "--json").stdout)["scores"]
    # Of the region 55 % are epithelium, 41 % dermis: who says epithelium everywhere is 45 % wrong, and finds no dermis.
    assert scores["pixel_error"] < 0.3
    assert min(scores["dice.epithelium"], scores["dice.dermis"]) > 0.5
