"""Tables of objects are read back, and exported by the rules of those who read them."""

from __future__ import annotations

import csv
import gzip
import json
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from tests.faults import files_up_to
from tests.objects.made import write_objects
from tests.objects.qupath import read_objects
from wsipipe.errors import DamagedStoreError, OutputError, UsageError
from wsipipe.objects import export
from wsipipe.objects.export import Selection, export_csv, export_geojson, export_parquet
from wsipipe.objects.read import ObjectTable, open_objects

LABELS = np.kron(np.random.default_rng(0).integers(0, 3, (20, 30), np.uint8), np.ones((3, 2), np.uint8))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> ObjectTable:
    path = tmp_path_factory.mktemp("objects") / "one.parquet"
    pixels = np.random.default_rng(0).integers(0, 256, (*LABELS.shape, 3), np.uint8)
    write_objects(path, LABELS, block_px=16, pixels=pixels, stained=True, downsample=2.0)
    return open_objects(path)


def test_the_file_follows_geoparquet(table: ObjectTable) -> None:
    geo = json.loads(pq.read_schema(table.path).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    column = geo["columns"][geo["primary_column"]]
    assert (column["encoding"], column["crs"], column["orientation"]) == ("WKB", None, "counterclockwise")
    rows = pq.read_table(table.path).to_pylist()
    assert column["covering"]["bbox"]["xmax"] == ["bbox", "xmax"]
    for row in rows:
        geometry = shapely.from_wkb(row["geometry"])
        assert geometry.geom_type in column["geometry_types"]
        assert geometry.bounds == tuple(row["bbox"].values())
        assert all(piece.exterior.is_ccw for piece in getattr(geometry, "geoms", [geometry]))


def test_a_table_says_what_it_is_and_is_read_in_parts(table: ObjectTable) -> None:
    assert table.description.classes[0].name == "class 1"
    assert table.description.layout.stained
    assert table.dataset.count_rows() == table.count == sum(len(part) for part in table.parts())
    (part,) = table.parts(columns=["pixels"], classes=["class 2"])
    assert part.column_names == ["pixels"]
    assert sum(part["pixels"].to_pylist()) == (LABELS == 2).sum()


def test_objects_of_a_region_are_those_whose_centroid_is_in_it(table: ObjectTable) -> None:
    region = shapely.box(20, 20, 70, 90)
    found = {row["id"] for part in table.parts(region=region) for row in part.to_pylist()}
    every = pq.read_table(table.path).to_pylist()
    assert found == {row["id"] for row in every if 20 < row["x"] < 70 and 20 < row["y"] < 90} != set()
    assert list(table.parts(region=shapely.box(1e6, 1e6, 2e6, 2e6))) == []


@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz"])
def test_geojson_keeps_to_the_rules_of_qupath(name: str, table: ObjectTable, tmp_path: Path) -> None:
    path = tmp_path / name
    assert export_geojson(table, path, annotations=["class 2"]) == table.count
    text = (gzip.decompress if name.endswith("gz") else bytes)(path.read_bytes())
    found = read_objects(text)
    rows = pq.read_table(table.path).to_pylist()
    assert [one.uuid.int & (1 << 48) - 1 for one in found] == [row["id"] for row in rows]
    assert {(one.uuid.version, one.uuid.variant) for one in found} == {(8, uuid.RFC_4122)}
    for one, row in zip(found, rows, strict=True):
        assert one.kind == ("annotation" if row["class"] == "class 2" else "detection")
        assert (one.name, one.color) == (row["class"], (255, 128, 0))
        for measure, value in one.measurements.items():
            assert abs(value - row[measure]) <= 0.051
        assert {"area_um2", "hematoxylin_od", "mean_c0"} <= set(one.measurements)
        assert one.geometry.is_valid
        assert one.geometry.equals(shapely.from_wkb(row["geometry"]))
    again = tmp_path / f"again-{name}"
    export_geojson(table, again, annotations=["class 2"])
    assert again.read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_measures_that_are_unknown_are_left_out_of_geojson(tmp_path: Path) -> None:
    write_objects(tmp_path / "one.parquet", LABELS, block_px=16, mpp=None)
    export_geojson(open_objects(tmp_path / "one.parquet"), tmp_path / "a.geojson", simplify_px=1)
    for one in read_objects((tmp_path / "a.geojson").read_bytes()):
        assert {"x", "y", "pixels", "solidity"} <= one.measurements.keys()
        assert not [name for name in one.measurements if name.endswith(("_um", "_um2"))]


def test_simplified_outlines_are_valid_and_near(table: ObjectTable, tmp_path: Path) -> None:
    export_geojson(table, tmp_path / "a.geojson", Selection(classes=("class 1",)), simplify_px=2)
    features = json.loads((tmp_path / "a.geojson").read_bytes())["features"]
    right = {row["pixels"]: shapely.from_wkb(row["geometry"]) for part in table.parts() for row in part.to_pylist()}
    for feature in features:
        found = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert found.is_valid
        if feature["properties"]["measurements"]["pixels"] > 100:
            assert found.hausdorff_distance(right[feature["properties"]["measurements"]["pixels"]]) <= 5


def test_too_many_features_are_refused_unless_asked_for(
    table: ObjectTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MANY_FEATURES", 5)
    with pytest.raises(UsageError, match=r"objects to export, and QuPath .*--simplify 0"):
        export_geojson(table, tmp_path / "a.geojson")
    assert list(tmp_path.iterdir()) == []
    assert export_geojson(table, tmp_path / "a.geojson", simplify_px=0) == table.count


def test_csv_has_every_measure(table: ObjectTable, tmp_path: Path) -> None:
    assert export_csv(table, tmp_path / "a.csv") == table.count
    rows = pq.read_table(table.path).to_pylist()
    with (tmp_path / "a.csv").open() as file:
        for line, row in zip(csv.DictReader(file), rows, strict=True):
            assert line.keys() == (row.keys() | row["bbox"].keys()) - {"bbox", "geometry"}
            assert float(line["area_um2"]) == pytest.approx(row["area_um2"], abs=6e-5)
            assert float(line["xmin"]) == row["bbox"]["xmin"]
            decimals = {name: len(value.partition(".")[2]) for name, value in line.items() if name != "class"}
            assert max(decimals["x"], decimals["y"]) <= 1
            assert max(decimals.values()) <= 4


def test_an_unknown_class_is_refused(table: ObjectTable, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no class 'tumor'; choose from 'class 1', "):
        export_csv(table, tmp_path / "a.csv", Selection(classes=("tumor",)))
    with pytest.raises(UsageError, match="has no class 'tumor'"):
        export_geojson(table, tmp_path / "a.geojson", annotations=["tumor"])
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_table_of_objects_is_refused(table: ObjectTable, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for content in (b"", b"PAR1", Path(table.path).read_bytes()[:-40]):
        path.write_bytes(content)
        with pytest.raises(DamagedStoreError, match=r"a\.parquet cannot be read"):
            open_objects(path)
    pq.write_table(pq.read_table(table.path).replace_schema_metadata(), path)
    with pytest.raises(DamagedStoreError, match="not a table of objects"):
        open_objects(path)


def test_every_bit_that_changed_in_the_rows_is_noticed(table: ObjectTable, tmp_path: Path) -> None:
    whole, path = Path(table.path).read_bytes(), tmp_path / "a.parquet"
    rows = pq.read_table(table.path)
    out = tmp_path / "a.csv"
    out.write_text("of yesterday")
    read = {"right": 0, "refused": 0}
    for place in np.random.default_rng(0).integers(4, len(whole) // 2, 30).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            right = pa.concat_tables(open_objects(path).parts()).equals(rows)
        except DamagedStoreError:
            read["refused"] += 1
            with pytest.raises(DamagedStoreError, match="make the objects again"):
                export_geojson(open_objects(path), out)
        else:
            read["right"] += right  # a bit of no meaning
    assert sum(read.values()) == 30
    assert read["refused"] > 20
    assert out.read_text() == "of yesterday"


@pytest.mark.parametrize("write", [export_csv, export_geojson, export_parquet])
def test_a_file_that_cannot_be_written_leaves_nothing(
    table: ObjectTable, tmp_path: Path, write: Callable[[ObjectTable, Path], int]
) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write(table, tmp_path / "missing" / "a.gz")
    path = tmp_path / "a.gz"
    path.write_text("of yesterday")
    with files_up_to(1000), pytest.raises(OutputError, match=r"a\.gz cannot be written: .*make room"):
        write(table, path)
    assert path.read_text() == "of yesterday"
    assert list(tmp_path.iterdir()) == [path]
