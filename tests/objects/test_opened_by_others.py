"""Tables and exports are opened by the libraries that people use: by each that is installed (the extra ``interop``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import shapely

from tests.conftest import Call
from tests.objects.stores import made_store
from wsipipe.errors import UsageError
from wsipipe.objects.export import Selection, export_geojson
from wsipipe.objects.read import open_objects
from wsipipe.objects.spatial import export_spatialdata
from wsipipe.store.finished import open_finished


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with objects and instances."""
    from tests.pipeline.test_instances import make_ids

    spec, _, _ = made_store(tmp_path_factory.mktemp("opened"))
    make_ids(spec.path)
    return Path(spec.path)


def test_pyarrow_filters_by_class_and_bounding_box(store: Path) -> None:
    table = open_objects(store)
    inside = (pc.field("bbox", "xmin") >= 30) & (pc.field("bbox", "xmax") <= 90) & (pc.field("class") == "gland")
    found = ds.dataset(table.path).to_table(columns=["id"], filter=inside)["id"].to_pylist()
    rows = pq.read_table(table.path).to_pylist()
    glands = [row for row in rows if row["class"] == "gland"]
    assert found == [row["id"] for row in glands if row["bbox"]["xmin"] >= 30 and row["bbox"]["xmax"] <= 90] != []


def test_geopandas_reads_geometries_and_the_bounding_box(store: Path, tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    table = open_objects(store)
    frame = geopandas.read_parquet(table.path)
    assert (len(frame), frame.crs, frame.geometry.name) == (table.count, None, "geometry")
    assert frame.geometry.is_valid.all()
    assert frame.geometry.area.tolist() == frame["pixels"].tolist()
    assert list(frame["class"].cat.categories) == ["gland", "fat"]
    some = geopandas.read_parquet(table.path, bbox=(10, 20, 40, 60))
    assert sorted(some["id"]) == sorted(frame[frame.geometry.bounds.pipe(_meets, 10, 20, 40, 60)]["id"]) != []

    pytest.importorskip("pyogrio")
    path = tmp_path / "one.geojson"
    export_geojson(table, path)
    again = geopandas.read_file(path)
    assert again.geometry.crs == 4326  # what GeoJSON means to GDAL, whatever the unit
    assert shapely.equals(again.geometry.to_numpy(), frame.geometry.to_numpy()).all()
    assert np.allclose([one["area_um2"] for one in map(_parsed, again["measurements"])], frame["area_um2"], atol=1e-4)
    assert [one["name"] for one in map(_parsed, again["classification"])] == frame["class"].tolist()


def _parsed(value: object) -> Any:
    """An object of JSON, which some versions of pyogrio leave as text."""
    return json.loads(value) if isinstance(value, str) else value


def _meets(bounds: object, x0: float, y0: float, x1: float, y1: float) -> object:
    return (
        (bounds["minx"] <= x1) & (bounds["maxx"] >= x0) & (bounds["miny"] <= y1) & (bounds["maxy"] >= y0)  # type: ignore[index]
    )


def test_duckdb_counts_filters_and_reads_geometries(store: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    rows = pq.read_table(open_objects(store).path)
    found = duckdb.sql(
        f"select class, count(*), sum(pixels) from '{store}/objects/objects.parquet' "
        "where bbox.xmin >= 30 group by class order by class"
    ).fetchall()
    kept = rows.filter(pc.field("bbox", "xmin") >= 30)
    right = kept.group_by("class").aggregate([("pixels", "count"), ("pixels", "sum")]).to_pylist()
    assert found == sorted((row["class"], row["pixels_count"], row["pixels_sum"]) for row in right)
    outlines = duckdb.sql(f"select geometry from '{store}/objects/objects.parquet' order by id").fetchall()
    right = shapely.from_wkb(rows.sort_by("id")["geometry"].to_pylist())
    assert shapely.equals(shapely.from_wkb([bytes(one) for (one,) in outlines]), right).all()


def test_ome_zarr_and_so_napari_finds_the_instances_beside_the_labels(store: Path) -> None:
    reader = pytest.importorskip("ome_zarr.reader")
    location = pytest.importorskip("ome_zarr.io").parse_url(str(store))
    found = {node.zarr.basename(): node for node in reader.Reader(location)()}
    ids = np.asarray(found["instances"].data[0])
    assert ids.dtype == np.uint32
    assert np.array_equal(np.unique(ids[ids > 0]), sorted(pq.read_table(open_objects(store).path)["id"].to_pylist()))
    assert [level.shape for level in found["instances"].data] == open_finished(store).shapes


def test_spatialdata_has_outlines_and_measures(store: Path, tmp_path: Path, call: Call) -> None:
    spatialdata = pytest.importorskip("spatialdata")
    path = tmp_path / "one.spatialdata"
    ended = call("export", store, "--to", "spatialdata", "-o", path)
    assert (ended.code, ended.out) == (0, f"{store}: {open_objects(store).count} objects -> {path}\n"), ended.err
    data = spatialdata.read_zarr(path)
    rows = pq.read_table(open_objects(store).path).to_pandas().set_index("id")
    shapes, table = data.shapes["objects"], data.tables["table"]
    assert data.attrs["wsipipe"] == {"store": str(store), "slide": open_finished(store).slide_path}
    assert shapes.index.tolist() == rows.index.tolist()
    assert shapely.equals(shapes.geometry.to_numpy(), shapely.from_wkb(rows["geometry"].to_numpy())).all()
    assert table.obs["id"].tolist() == rows.index.tolist()
    assert table.obs["class"].tolist() == rows["class"].tolist()
    for name in ("area_um2", "pixels", "solidity", "perimeter_um"):
        assert np.array_equal(np.asarray(table[:, name].X).ravel(), rows[name].to_numpy(float), equal_nan=True)
    microns = spatialdata.transform(shapes, to_coordinate_system="microns")
    assert np.allclose(microns.geometry.area, rows["area_um2"])
    joined, linked = spatialdata.join_spatialelement_table(
        sdata=data, spatial_element_names="objects", table_name="table"
    )
    assert len(joined["objects"]) == len(linked) == len(rows)

    words = ["--to", "spatialdata", "--class", "gland", "--simplify", "1", "-o", tmp_path / "two.spatialdata"]
    assert call("export", store, *words).code == 0
    some = spatialdata.read_zarr(tmp_path / "two.spatialdata")
    assert set(some.tables["table"].obs["class"]) == {"gland"}
    assert some.shapes["objects"].geometry.is_valid.all()
    assert "is there already" in call("export", store, "--to", "spatialdata", "-o", path).err


def test_of_two_exports_to_spatialdata_at_once_the_first_that_is_complete_stays(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spatialdata = pytest.importorskip("spatialdata")
    path, table = tmp_path / "one.spatialdata", open_objects(store)
    write = spatialdata.SpatialData.write

    def overtaken(data: Any, partial: Path) -> None:
        write(data, partial)
        monkeypatch.setattr(spatialdata.SpatialData, "write", write)
        export_spatialdata(table, path, Selection(classes=("gland",)))

    monkeypatch.setattr(spatialdata.SpatialData, "write", overtaken)
    with pytest.raises(UsageError, match="is there already"):
        export_spatialdata(table, path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert set(spatialdata.read_zarr(path).tables["table"].obs["class"]) == {"gland"}


def test_too_many_objects_for_spatialdata_are_refused(
    store: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("spatialdata")
    monkeypatch.setattr("wsipipe.objects.spatial.MOST_OBJECTS", 5)
    ended = call("export", store, "--to", "spatialdata", "-o", tmp_path / "x.zarr")
    assert ended.code == 2
    assert "SpatialData holds all of them in memory; 1 to 5 are possible; choose some" in ended.err
    assert not list(tmp_path.iterdir())


def test_without_the_library_spatialdata_is_an_error_that_says_what_to_install(
    store: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spatialdata", None)
    ended = call("export", store, "--to", "spatialdata", "-o", tmp_path / "x.zarr")
    assert ended.code == 2
    assert "pip install 'wsipipe[spatialdata]'" in ended.err
