"""Other readers of OME-Zarr open stores. Each test is skipped where its reader is not installed."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import zarr

from tests.napari_plugin.made import Made, made_result
from tests.slides.made import ome_zarr, picture

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other libraries are not ours


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_result(tmp_path_factory.mktemp("stores"), downsample=2.0)


def library(name: str) -> Any:
    """An installed library; the test is skipped, and says so, where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"no {name}; pip install {name.split('.')[0].replace('_', '-')}")


def test_napari_ome_zarr(made: Made) -> None:
    reader = library("napari_ome_zarr._reader")
    found = {}
    for name in ("", "tissue", "probabilities"):
        path = str(made.store / name)
        ((levels, options, kind),) = reader.napari_get_reader(path)(path)
        found[name] = (levels[0].shape, kind)
        assert options["scale"][-1] == pytest.approx(3.0 if name == "tissue" else 0.5, abs=0.1)
    assert found == {
        "": (made.labels.shape, "labels"),
        "tissue": (made.tissue.shape, "labels"),
        "probabilities": (made.probabilities.shape, "image"),
    }
    assert options["name"] == [f"case-17 probabilities: {name}" for name in ("background", "gland", "fat")]
    assert options["visible"] == [False, True, True]


def test_ome_zarr_shows_labels_with_the_image_that_they_name(made: Made, tmp_path: Path) -> None:
    reader, io = library("ome_zarr.reader"), library("ome_zarr.io")
    (node,) = reader.Reader(io.parse_url(str(made.store)))()
    assert (node.metadata["name"], node.data[0].shape) == ("case-17", made.labels.shape)
    slide = ome_zarr(tmp_path / "slide.zarr", [picture((61, 83))], "yx")
    copy = tmp_path / "labels.zarr"
    shutil.copytree(made.store, copy)
    group = zarr.open_group(copy, mode="r+")
    ome = dict(group.attrs["ome"])
    group.attrs["ome"] = ome | {"image-label": ome["image-label"] | {"source": {"image": "../slide.zarr"}}}
    shapes = [node.data[0].shape for node in reader.Reader(io.parse_url(str(copy)))()]
    assert shapes == [(61, 83), made.labels.shape]
    slide.rename(tmp_path / "away.zarr")
    assert len(list(reader.Reader(io.parse_url(str(copy)))())) == 1


def test_ngio(made: Made) -> None:
    ngio = library("ngio")
    label = ngio.open_label(str(made.store))
    assert label.get_as_numpy().shape == made.labels.shape
    assert (label.pixel_size.x, label.pixel_size.y) == (0.5, 0.5)
    assert ngio.open_label(str(made.store / "tissue")).get_as_numpy().shape == made.tissue.shape
    image = ngio.open_image(str(made.store / "probabilities"))
    assert list(image.channel_labels) == ["background", "gland", "fat"]
