"""The planes chosen are those segmented, whoever opens the slide again, and those that its store records."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

import wsipipe
from tests.slides.made import VMS, picture, pyramid, scn, vms
from tests.soak import in_soak
from wsipipe.pipeline.summary import DONE, FAILED, SKIPPED
from wsipipe.slides.planes import Planes

Config = Callable[..., wsipipe.RunConfig]
NAMES = ("DAPI", "CD3", "CD8", "CD20", "PanCK")


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path) -> Config:
    return lambda out, **options: wsipipe.RunConfig(
        out=str(tmp_path / out), model=str(tiny_model), device="cpu", block=64, engine="torch", **options
    )


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """An OME-TIFF of 2 focal planes and 5 channels."""
    pixels = np.stack([picture((96, 128), seed=seed) for seed in range(10)]).reshape(2, 5, 96, 128)
    metadata = {"axes": "ZCYX", "Channel": {"Name": list(NAMES)}}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata=metadata, photometric="minisblack", tile=(64, 64))
    rgb = np.moveaxis(pixels[1, [4, 0, 2]], 0, -1)
    tifffile.imwrite(tmp_path / "plain.tif", rgb, photometric="rgb", tile=(64, 64), metadata=None)
    return tmp_path / "a.ome.tif"


def labels(store: str | None) -> np.ndarray:
    return np.asarray(zarr.open_group(str(store), mode="r")["0"][...])  # type: ignore[index]


@pytest.mark.parametrize("cluster", [None, wsipipe.ClusterConfig(kind="local", workers=1)], ids=["here", "in a worker"])
def test_chosen_planes_are_segmented_as_a_slide_of_just_these_is(
    stack: Path, config: Config, cluster: wsipipe.ClusterConfig | None
) -> None:
    planes = Planes(("PanCK", 0, "CD8"), z=1)
    chosen = wsipipe.run([stack], config("chosen", planes=planes, cluster=cluster)).slides[0]
    plain = wsipipe.run([stack.with_name("plain.tif")], config("plain")).slides[0]
    assert (chosen.status, plain.status) == (DONE, DONE)
    np.testing.assert_array_equal(labels(chosen.store), labels(plain.store))
    assert len(np.unique(labels(chosen.store))) > 1


def test_store_of_other_planes_is_not_gone_on_with(stack: Path, config: Config) -> None:
    one = config("out", planes=Planes((4, 0, 2), z=1))
    first = wsipipe.run([stack], one).slides[0]
    root = json.loads((Path(str(first.store)) / "zarr.json").read_text())
    assert root["attributes"]["wsipipe"]["fingerprint"]["reading"] == "--channels 4,0,2 --z 1"
    assert wsipipe.run([stack], one).slides[0].status == SKIPPED
    other = wsipipe.run([stack], replace(one, planes=Planes((4, 0, 2), z=0))).slides[0]
    assert other.status == FAILED
    assert "--channels 4,0,2 --z 1 (now --channels 4,0,2 --z 0)" in other.message


def test_too_many_channels_are_listed_with_the_option_that_chooses(stack: Path, config: Config) -> None:
    failed = wsipipe.run([stack], config("out", planes=Planes(z=0))).slides[0]
    assert failed.status == FAILED
    assert "a.ome.tif has 5 channels, model 'tiny' takes 3 channels (RGB)" in failed.message
    assert "or choose 3 of them with --channels: 0: DAPI, 1: CD3, 2: CD8, 3: CD20, 4: PanCK" in failed.message


def test_slide_by_openslide_is_segmented_as_its_pixels_in_a_tiff_are(tmp_path: Path, config: Config) -> None:
    pytest.importorskip("openslide")
    image = vms(tmp_path)
    resolution = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "plain.tif", image, photometric="rgb", tile=(64, 64), metadata=None, **resolution)
    one, other = wsipipe.run([tmp_path / VMS, tmp_path / "plain.tif"], config("out")).slides
    assert (one.status, other.status) == (DONE, DONE)
    np.testing.assert_array_equal(labels(one.store), labels(other.store))


@pytest.mark.parametrize(
    "cluster", [None, *in_soak(wsipipe.ClusterConfig(kind="local", workers=1))], ids=["here", "in a worker"]
)
def test_regions_of_an_scn_each_have_a_store_of_their_own(
    tmp_path: Path, config: Config, cluster: wsipipe.ClusterConfig | None
) -> None:
    regions = scn(tmp_path / "a.scn")
    for number, region in enumerate(regions):
        pyramid(tmp_path / f"plain{number}.tif", region, resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    summary = wsipipe.run([tmp_path / "a.scn"], config("out", cluster=cluster))
    assert [Path(str(slide.store)).name for slide in summary.slides] == ["a-series0.zarr", "a-series1.zarr"]
    plain = wsipipe.run([tmp_path / f"plain{number}.tif" for number in range(2)], config("plain"))
    for one, other in zip(summary.slides, plain.slides, strict=True):
        assert (one.status, other.status) == (DONE, DONE)
        np.testing.assert_array_equal(labels(one.store), labels(other.store))
    if cluster is None:
        again = wsipipe.run([tmp_path / "a.scn"], config("out"))
        assert [slide.status for slide in again.slides] == [SKIPPED, SKIPPED]
        one = wsipipe.run([tmp_path / "a.scn"], config("one", planes=Planes(series=1))).slides[0]
        assert Path(str(one.store)).name == "a.zarr"
        np.testing.assert_array_equal(labels(one.store), labels(summary.slides[1].store))
