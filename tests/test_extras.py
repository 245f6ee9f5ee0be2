"""Without an extra: what needs it says so before any work is done, and how to install it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.conftest import Call, WriteSlide
from tests.training.discs import QUICK, write_discs, write_toml
from wsipipe.evaluation.metrics import OF_PROBABILITIES


def missing(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """As if ``library`` was not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)


def test_urls_need_the_extra_cloud(
    monkeypatch: pytest.MonkeyPatch, call: Call, write_slide: WriteSlide, tmp_path: Path
) -> None:
    slide = write_slide(tmp_path / "a.tif")
    missing(monkeypatch, "obstore")
    ended = call("info", "s3://bucket/a.svs")
    assert "s3://bucket/a.svs needs obstore, which is not installed; pip install 'wsipipe[cloud]'" in ended.err
    assert call("run", slide, "-o", "s3://bucket/out").code == 3
    assert call("info", slide).code == 0


def test_a_training_needs_the_extra_train(monkeypatch: pytest.MonkeyPatch, call: Call, tmp_path: Path) -> None:
    write_discs(tmp_path, 3)
    missing(monkeypatch, "matplotlib")
    ended = call("train", write_toml(tmp_path / "t.toml", QUICK), "-o", tmp_path / "m.safetensors")
    assert ended.code == 3
    assert "training needs matplotlib, which is not installed; pip install 'wsipipe[train]'" in ended.err
    assert not (tmp_path / "m.safetensors.training").exists()


def test_pictures_of_probabilities_need_it_too(monkeypatch: pytest.MonkeyPatch, call: Call, tmp_path: Path) -> None:
    for folder in ("found", "true"):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", np.ones((8, 8), np.uint8))
    missing(monkeypatch, "matplotlib")
    scored = ("evaluate", tmp_path / "found", tmp_path / "true", "--pictures", tmp_path / "pictures", "--metrics")
    ended = call(*scored, OF_PROBABILITIES[0])
    assert (ended.code, "pip install 'wsipipe[train]'" in ended.err) == (3, True)
    assert call(*scored, "dice").code == 0
