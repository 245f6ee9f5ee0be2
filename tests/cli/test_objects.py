"""``wsipipe objects`` and ``wsipipe export``, as a user meets them."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile

import wsipipe
from tests.conftest import Call
from tests.faults import files
from tests.objects.stores import made_store
from wsipipe.leases.leases import holding

LABELS = np.zeros((150, 130), np.uint8)
LABELS[10:20, 10:30] = 7  # 200 px, 50 um2
LABELS[60:90, 40:110] = 200  # over several blocks
LABELS[120:122, 5:9] = 7  # 8 px, 2 um2


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(made_store(tmp_path / "out", labels=LABELS, min_area_um2=8.0)[0].path)


def test_objects_are_counted_per_class(call: Call, store: Path) -> None:
    made = call("objects", "out")
    assert made.code == 0, made.err
    lines = made.out.splitlines()
    table = store / "objects" / "objects.parquet"
    assert lines[0] == f"{store}: 2 objects (1 smaller ones left out) -> {table}"
    assert lines[1].startswith("    gland: 1, 410.3 per mm2, 2.05% of the area, median 50.0 um2")
    assert lines[2].startswith("    fat: 1, 410.3 per mm2, 21.54% of the area, median 525.0 um2")
    assert lines[-1] == "1 stores, 0 failed"
    again = call("objects", store, "--json")
    (found,) = json.loads(again.out)["stores"]
    assert (found["made"], found["small"], [one["objects"] for one in found["classes"]]) == (False, None, [1, 1])
    other = json.loads(call("objects", store, "--json", "--min-area", "1", "--connectivity", "4", "--split").out)
    assert [one["objects"] for one in other["stores"][0]["classes"]] == [2, 1]
    read = wsipipe.open_objects(store)
    assert (read.count, read.description.min_area_um2, read.description.split) == (3, 1.0, True)
    assert read.dataset.count_rows() == 3
    assert f"    instances -> {store}/labels/instances" in call("objects", store, "--instances").out


def test_a_store_that_fails_does_not_stop_the_others(call: Call, store: Path, tmp_path: Path) -> None:
    broken = Path(made_store(tmp_path / "out" / "other", labels=LABELS)[0].path).rename(
        tmp_path / "out" / "broken.zarr"
    )
    next((broken / "0").rglob("c/*/*")).unlink()
    ended = call("objects", "out")
    assert ended.code == 1
    assert f"{broken}: FAILED: broken.zarr is not finished" in ended.out
    assert f"{store}: 2 objects" in ended.out
    assert "2 stores, 1 failed" in ended.out
    assert json.loads(call("objects", "out", "--json").out)["failed"][0]["store"] == str(broken)
    two = call("objects", "out", "--slide", "out/case-17.tif")
    assert (two.code, "is the slide of one store, but 2 are given" in two.err) == (2, True)
    exported = call("export", "out", "--to", "csv")
    assert (exported.code, "has no objects; make them with wsipipe objects" in exported.out) == (1, True)
    assert Path("case-17.csv").exists()
    assert call("objects", store, "--max-memory", "1MB", "--min-area", "3").code == 3


def test_measuring_loads_no_torch_which_takes_a_second(store: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from wsipipe.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "objects", store, "--instances"], capture_output=True, text=True)
    assert (done.returncode, "2 objects" in done.stdout) == (0, True), done.stderr


def test_one_process_at_a_time_works_on_a_store(call: Call, store: Path) -> None:
    before = files(store)
    with holding(store):
        ended = call("objects", store)
        assert ended.code == 1
        assert f"{store}: FAILED: pid {os.getpid()} on " in ended.out
        assert f"is working on {store}; wait until that has ended, then give the same command" in ended.out
        assert files(store) == before
    assert call("objects", store).code == 0
    assert [path.name for path in store.parent.iterdir() if "lease" in path.name] == []


def test_objects_are_exported(call: Call, store: Path) -> None:
    assert call("objects", store).code == 0
    for kind in ("geojson", "csv", "parquet", "ome-tiff"):
        ended = call("export", store, "--to", kind)
        assert (ended.code, ended.err) == (0, "")
    features = json.loads(gzip.decompress(Path("case-17.geojson.gz").read_bytes()))["features"]
    assert [one["properties"]["classification"]["name"] for one in features] == ["gland", "fat"]
    with Path("case-17.csv").open() as file:
        assert [row["pixels"] for row in csv.DictReader(file)] == ["200", "2100"]
    assert np.array_equal(tifffile.imread("case-17.ome.tif"), LABELS)
    assert pq.read_table("case-17.parquet").equals(pq.read_table(store / "objects" / "objects.parquet"))

    region = {"type": "Feature", "geometry": shapely.geometry.mapping(shapely.box(0, 0, 50, 50)), "properties": {}}
    Path("region.geojson").write_text(json.dumps(region))
    for choice in (["--class", "gland"], ["--region", "region.geojson"]):
        assert (
            "1 objects -> some.parquet" in call("export", store, "--to", "parquet", "-o", "some.parquet", *choice).out
        )
        assert pq.read_table("some.parquet")["pixels"].to_pylist() == [200]
    assert wsipipe.open_objects("some.parquet").count == 1
    drawn = ["--simplify", "1", "--annotation", "fat", "-o", "x.geojson"]
    assert call("export", store, "--to", "geojson", *drawn).code == 0
    features = json.loads(Path("x.geojson").read_bytes())["features"]
    assert [one["properties"]["objectType"] for one in features] == ["detection", "annotation"]


def test_what_cannot_be_exported_is_an_error_and_overwrites_nothing(call: Call, store: Path, tmp_path: Path) -> None:
    made_store(tmp_path / "second", labels=LABELS)
    assert call("objects", store, "second").code == 0
    table = (store / "objects" / "objects.parquet").read_bytes()
    for words, reason in (
        (["--to", "csv", "--class", "bone"], "has no class 'bone'; choose from 'gland', 'fat'"),
        (["--to", "parquet", "--simplify", "1"], "--simplify changes outlines in geojson and spatialdata, not parquet"),
        (["--to", "spatialdata", "--annotation", "fat"], "--annotation changes types in geojson, not spatialdata"),
        (["--to", "ome-tiff", "--class", "fat"], "--to ome-tiff writes whole label images; remove --class"),
        (["--to", "parquet", "-o", store / "objects" / "objects.parquet"], "lies in the store itself"),
        (["second", "--to", "csv"], "two stores have the same name"),
        (["second", "--to", "csv", "-o", "file.csv"], "is one file for 2 stores; give a folder"),
    ):
        Path("file.csv").write_text("mine")
        ended = call("export", store, *words)
        assert ended.code == 2
        assert reason in ended.err
    assert (store / "objects" / "objects.parquet").read_bytes() == table
    assert Path("file.csv").read_text() == "mine"
    missing = call("export", store, "--to", "csv", "--region", "gone.geojson")
    assert (missing.code, "gone.geojson cannot be opened" in missing.err) == (1, True)
