"""Without an extra: what needs it says so before any work is done, and how to install it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import Call, WriteSlide
from tests.training.discs import discs


def missing(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """As if ``library`` was not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)


def test_urls_need_the_extra_cloud(monkeypatch: pytest.MonkeyPatch, call: Call, write_slide: WriteSlide, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "a.tif")
    missing(monkeypatch, "obstore")
    ended = call("info", "s3://bucket/a.svs")
    assert "s3://bucket/a.svs needs obstore, which is not installed; pip install 'wsipipe[cloud]'" in ended.err
    assert call("run", slide, "-o", "s3://bucket/out").code == 3
    assert call("info", slide).code == 0


def test_a_training_needs_the_extra_train(monkeypatch: pytest.MonkeyPatch, call: Call, tmp_path: Path) -> None:
    missing(monkeypatch, "matplotlib")
    ended = call("train", discs(tmp_path), "-o", tmp_path / "m.safetensors")
    assert (ended.code, "training needs matplotlib, which is not installed; pip install 'wsipipe[train]'" in ended.err) == (3, True)
    assert not (tmp_path / "m.safetensors.training").exists()


def test_pictures_of_probabilities_need_it_too(monkeypatch: pytest.MonkeyPatch, call: Call, tmp_path: Path) -> None:
    missing(monkeypatch, "matplotlib")
    ended = call("evaluate", tmp_path, tmp_path, "--metrics", "average_precision", "--pictures", tmp_path / "p")
    assert ended.code == 3, ended
    assert ended.err == ""
