"""Layers of napari as plain tuples: no napari is needed for them. What they look like is tested in `test_napari`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
import zarr

import wsipipe
from tests.napari_plugin.made import MPP, Made, made_result
from wsipipe.errors import DamagedStoreError, SlideError
from wsipipe.napari_plugin import layers, pyramids
from wsipipe.napari_plugin.layers import is_store, napari_layers
from wsipipe.store.image_label import read_attributes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_result(tmp_path_factory.mktemp("napari"), downsample=2.0)


def by_name(path: Path) -> dict[str, tuple[Any, dict[str, Any], str]]:
    """Layers by their names without that of the slide; of a pyramid the finest level."""
    found = {}
    for data, options, kind in wsipipe.napari_layers(path):
        finest = data if kind == "shapes" else np.asarray(data[0] if options.get("multiscale") else data)
        found[options["name"].removeprefix("case-17 ")] = (finest, options, kind)
    return found


def test_layers_have_the_pixels_of_the_slide_and_of_the_store(made: Made) -> None:
    found = by_name(made.store)
    assert [*found] == ["slide", "tissue", "probability of gland", "probability of fat", "labels", "objects"]
    assert [kind for _, _, kind in found.values()] == ["image", "labels", "image", "image", "labels", "shapes"]
    assert np.array_equal(found["slide"][0], made.pixels)
    assert np.array_equal(found["labels"][0], made.labels)
    assert np.array_equal(found["probability of fat"][0], made.probabilities[2])
    assert found["tissue"][0].sum() == made.tissue.sum() - 2  # two cells are surrounded
    assert found["labels"][1]["colormap"] == {None: "transparent", 0: "transparent", 7: "#ff8000", 200: "#0080ff"}
    assert [name for name, (_, options, _) in found.items() if not options.get("visible", True)] == [
        "probability of gland",
        "probability of fat",
    ]


def test_layers_lie_where_the_metadata_of_the_store_say(made: Made) -> None:
    found = by_name(made.store)
    for name, folder in (("labels", made.store), ("tissue", made.store / "tissue")):
        (multiscale,) = read_attributes(folder)["multiscales"]
        said = {one["type"]: one[one["type"]] for one in multiscale["datasets"][0]["coordinateTransformations"]}
        assert found[name][1]["scale"] == pytest.approx(said["scale"])
        assert found[name][1]["translate"] == pytest.approx(said["translation"])
    assert found["slide"][1]["scale"] == (MPP, MPP)
    assert {options["units"] for _, options, _ in found.values()} == {("micrometer", "micrometer")}


def test_outlines_are_those_of_the_objects_and_have_their_measures(made: Made) -> None:
    outlines, options, _ = by_name(made.store)["objects"]
    table = wsipipe.open_objects(made.store)
    holes = 0.0
    for part in table.parts():
        polygons = shapely.get_parts(shapely.from_wkb(np.asarray(part["geometry"].to_numpy(), object)))
        holes += sum(shapely.Polygon(ring).area for one in polygons for ring in one.interiors)
    drawn = sum(shapely.Polygon(outline[:, ::-1]).area for outline in outlines)
    assert drawn == pytest.approx(4 * np.count_nonzero(made.labels) + holes)
    assert len(options["features"]["area_um2"]) == len(options["edge_color"]) == len(outlines)
    assert set(options["features"]["id"]) == set(range(1, table.count + 1))


def test_many_objects_are_discs_and_too_many_are_left_out(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "MOST_OUTLINES", 1)
    centroids, options, kind = by_name(made.store)["objects"]
    assert (kind, len(centroids)) == ("points", wsipipe.open_objects(made.store).count)
    assert (np.pi * options["size"] ** 2 / 4).sum() == pytest.approx(4 * np.count_nonzero(made.labels))
    monkeypatch.setattr(layers, "MOST_POINTS", 1)
    assert "objects" not in by_name(made.store)


def test_a_store_without_its_slide_is_shown_with_a_warning(made: Made, tmp_path: Path) -> None:
    slide = Path(made.slide.path)
    slide.rename(tmp_path / "away.tif")
    try:
        with pytest.warns(UserWarning, match=r"case-17\.zarr is shown without its slide: .*case-17\.tif"):
            assert next(iter(by_name(made.store))) == "tissue"
        tifffile.imwrite(slide, np.zeros((64, 64, 3), np.uint8) + 7, photometric="rgb")
        with pytest.warns(UserWarning, match=r"case-17\.tif is not the slide that was segmented"):
            wsipipe.napari_layers(made.store)
    finally:
        (tmp_path / "away.tif").replace(slide)


def test_what_has_no_resolution_is_in_pixels(tmp_path: Path) -> None:
    made = made_result(tmp_path, downsample=2.0, mpp=None)
    found = by_name(made.store)
    assert {options["units"] for _, options, _ in found.values()} == {("pixel", "pixel")}
    assert (found["slide"][1]["scale"], found["labels"][1]["scale"]) == ((1.0, 1.0), (2.0, 2.0))
    assert found["labels"][1]["translate"] == (0.5, 0.5)


def test_channels_are_layers_of_their_own(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**16, (2, 40, 50), np.uint16)
    meta = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Channel": {"Name": ["DAPI", "CD3"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata=meta, tile=(16, 16))
    found = napari_layers(tmp_path / "a.ome.tif")
    assert [options["name"] for _, options, _ in found] == ["a DAPI", "a CD3"]
    assert all(np.array_equal(np.asarray(data), plane) for (data, _, _), plane in zip(found, pixels, strict=True))
    assert len({options["colormap"] for _, options, _ in found}) == 2


def test_a_slide_of_one_level_has_an_overview_of_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramids, "OVERVIEW_PX", 64)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 260, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64))
    ((levels, options, _),) = napari_layers(tmp_path / "a.tif")
    assert options["multiscale"]
    assert [level.shape for level in levels] == [(200, 260, 3), (50, 65, 3), (13, 17, 3)]
    means = pixels.reshape(50, 4, 65, 4, 3).mean((1, 3))
    assert np.abs(np.asarray(levels[1]) - means).max() <= 0.51


def test_probabilities_have_an_overview_of_means(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramids, "OVERVIEW_PX", 16)
    store = layers.open_finished(made.store)
    levels, index = pyramids.probability_pyramid(store)
    height, width = (side // 4 * 4 for side in made.labels.shape)
    means = made.probabilities[:, :height, :width].reshape(3, height // 4, 4, width // 4, 4).mean((2, 4))
    assert index == {7: 1, 200: 2}
    assert np.abs(np.asarray(levels[1]) - means).max() <= 0.51


def test_only_stores_of_wsipipe_are_stores(made: Made, tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "foreign.zarr", attributes={"ome": {"version": "0.5"}})
    assert [is_store(path) for path in (made.store, tmp_path / "foreign.zarr", tmp_path)] == [True, False, False]
    with pytest.raises(SlideError):
        napari_layers(tmp_path / "gone.tif")
    shutil.copytree(made.store, tmp_path / "damaged.zarr")
    (tmp_path / "damaged.zarr" / "zarr.json").write_text("{")
    with pytest.raises(DamagedStoreError):
        napari_layers(tmp_path / "damaged.zarr")
