"""Objects of finished stores: those of the whole label image, whatever interrupts, and nothing is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from click.testing import CliRunner

from tests.faults import files, files_up_to, start, wait_until, write_slide
from tests.objects.made import regions
from tests.objects.stores import made_store
from wsipipe.cli import cli
from wsipipe.errors import (
    DamagedStoreError,
    MemoryLimitError,
    OutputError,
    SlideReadError,
    StoreError,
    UsageError,
    WsipipeError,
)
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.min_areas import MIN_AREAS_UM2
from wsipipe.model.model_file import read_model_info
from wsipipe.objects import block_file
from wsipipe.objects.read import damages_of_objects
from wsipipe.pipeline import objects_store
from wsipipe.pipeline.objects_plan import ObjectsRequest, block_side, fitted_blocks, plan_objects
from wsipipe.pipeline.objects_store import StoreObjects, make_objects
from wsipipe.store.finished import open_finished
from wsipipe.store.record import read_record
from wsipipe.store.spec import PARTIAL, shard_name

NAMES = {7: "gland", 200: "fat"}
NO_LIMIT = 2**40


def make(store: Path | str, *, threads: int = 2, **request: object) -> StoreObjects:
    plan = plan_objects(store, ObjectsRequest(**request))  # type: ignore[arg-type]
    return make_objects(plan, threads, NO_LIMIT, lambda _done, _blocks: None)


def test_check_reads_the_table_too(tmp_path: Path) -> None:
    spec, _, _ = made_store(tmp_path)
    table = Path(make(spec.path).table)
    assert damages_of_objects(open_finished(spec.path)) == ()
    blob = table.read_bytes()
    table.write_bytes(blob[:99] + bytes([blob[99] ^ 1]) + blob[100:])
    result = CliRunner().invoke(cli, ["check", spec.path])
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{table} ")
    table.unlink()
    assert "cannot be read" in "".join(damages_of_objects(open_finished(spec.path)))
    table.write_bytes(blob)
    root = Path(spec.path, "zarr.json")
    document = json.loads(root.read_text())
    document["attributes"]["wsipipe"]["objects"]["classes"][0]["objects"] += 1
    root.write_text(json.dumps(document))
    assert "wsipipe objects counts them anew" in "".join(damages_of_objects(open_finished(spec.path)))


@pytest.mark.parametrize("connectivity", [4, 8])
def test_objects_are_those_of_the_whole_label_image(tmp_path: Path, connectivity: int) -> None:
    spec, labels, pixels = made_store(tmp_path, probabilities=True)
    found = make(spec.path, connectivity=connectivity, min_area_um2=0)
    right = regions(labels, connectivity, pixels)
    rows = pq.read_table(found.table).sort_by("id").to_pydict()
    assert (found.made, found.small, found.warning) == (True, 0, "")
    assert rows["class"] == [NAMES[label] for _, label, _ in right]
    assert rows["pixels"] == [region.num_pixels for *_, region in right]
    for number, name in enumerate(("red", "green", "blue")):
        assert np.allclose(rows[f"mean_{name}"], [region.intensity_mean[number] for *_, region in right])
    chances = zarr.open_array(Path(spec.path, "probabilities/0"), mode="r")[:]
    chance = [chances[1 if label == 7 else 2][tuple(r.coords.T)].mean() / 255 for _, label, r in right]
    assert np.allclose(rows["probability"], chance)

    for count in found.classes:
        areas = [region.num_pixels for _, label, region in right if NAMES[label] == count.name]
        searched = labels.size * 0.5
        assert count.objects == len(areas)
        assert count.per_mm2 == pytest.approx(len(areas) / (searched * 0.25e-6))
        assert count.area_share == pytest.approx(sum(areas) / searched)
        assert (count.median_pixels, count.median_um2) == (np.median(areas), np.median(areas) * 0.25)
    said = json.loads(Path(spec.path, "zarr.json").read_bytes())["attributes"]["wsipipe"]["objects"]
    assert [one["objects"] for one in said["classes"]] == [one.objects for one in found.classes]
    assert (said["connectivity"], said["min_area_um2"]) == (connectivity, 0.0)
    assert sorted(path.name for path in Path(found.table).parent.iterdir()) == ["objects.parquet", "zarr.json"]
    assert {"0", "objects", "probabilities"} < {name for name, _ in zarr.open_group(spec.path, mode="r").members()}


def test_the_bytes_do_not_depend_on_blocks_threads_or_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _, _ = made_store(tmp_path / "one")
    make(one.path)
    made = files(Path(one.path))
    assert not make(one.path).made
    assert files(Path(one.path)) == made

    other, _, _ = made_store(tmp_path / "one" / "other", block=32, slide="../case-17.tif")

    def stop(done: int, _blocks: int) -> None:
        if done > 5:
            raise KeyboardInterrupt

    plan = plan_objects(other.path, ObjectsRequest())
    with pytest.raises(KeyboardInterrupt):
        make_objects(plan, 1, NO_LIMIT, stop)
    kept = len(list(Path(other.path).glob("objects/blocks-*/*.objects")))
    assert kept >= 6
    measured = []
    monkeypatch.setattr(objects_store, "write_block_file", lambda path, *what: measured.append(write(path, *what)))
    write = block_file.write_block_file
    assert make(other.path, threads=3).made
    assert len(measured) == other.grid.count - kept
    assert Path(other.path, "objects/objects.parquet").read_bytes() == made["objects/objects.parquet"]


@pytest.mark.soak  # an interruption within a process shows it too
def test_a_killed_process_is_resumed(tmp_path: Path) -> None:
    spec, _, _ = made_store(tmp_path, block=32)
    process = start("objects", spec.path, "--threads", "1")
    assert wait_until(lambda: len(list(Path(spec.path).glob("objects/blocks-*/*.objects"))) > 3, process)
    process.kill()
    process.wait()
    resumed = make(spec.path)
    table = Path(resumed.table).read_bytes()
    Path(resumed.table).unlink()
    assert make(spec.path).made
    assert Path(resumed.table).read_bytes() == table


def test_small_objects_are_left_out_as_the_model_says_or_the_user(tmp_path: Path) -> None:
    spec, labels, _ = made_store(tmp_path, min_area_um2=8.0)
    found = make(spec.path, slide="off")
    areas = [region.num_pixels * 0.25 for *_, region in regions(labels, 8)]
    assert sum(one.objects for one in found.classes) == sum(area >= 8 for area in areas)
    assert found.small == sum(area < 8 for area in areas) > 0
    assert make(spec.path, slide="off", min_area_um2=3.0).small == sum(area < 3 for area in areas)
    record = read_record(spec.path)
    assert record is not None
    assert record.min_area_um2 == 8.0


def test_the_nuclei_model_says_how_small_a_nucleus_is_and_so_do_its_older_stores(tmp_path: Path) -> None:
    assert read_model_info(DEFAULT_MODEL).spec.min_area_um2 == 8.0
    ((earlier, least_um2),) = MIN_AREAS_UM2.items()
    spec, _, _ = made_store(tmp_path)
    root = Path(spec.path, "zarr.json")
    document = json.loads(root.read_bytes())
    described = document["attributes"]["wsipipe"]
    del described["min_area_um2"]
    root.write_text(json.dumps(document))
    assert plan_objects(spec.path, ObjectsRequest()).description.min_area_um2 == 0.0
    described["fingerprint"]["model_sha256"] = earlier
    root.write_text(json.dumps(document))
    assert plan_objects(spec.path, ObjectsRequest()).description.min_area_um2 == least_um2 == 8.0


def test_without_the_slide_shapes_are_measured_and_no_intensity_is_lost(tmp_path: Path) -> None:
    spec, _, _ = made_store(tmp_path)
    slide = Path(spec.slide)
    away = slide.rename(tmp_path / "moved.tif")
    found = make(spec.path)
    assert "the slide cannot be read" in found.warning
    assert "mean_red" not in pq.read_schema(found.table).names
    assert make(spec.path, slide=str(away)).made
    table = Path(found.table).read_bytes()
    assert not make(spec.path).made
    with pytest.raises(StoreError, match=r"has intensities that would be lost.*--slide FILE.*--slide off"):
        make(spec.path, min_area_um2=5.0)
    assert Path(found.table).read_bytes() == table
    assert make(spec.path, min_area_um2=5.0, slide="off").made
    with pytest.raises(SlideReadError, match=r"gone\.tif"):
        make(spec.path, slide=str(tmp_path / "gone.tif"))
    write_slide(slide, np.full((150, 130, 3), 7, np.uint8))
    with pytest.raises(StoreError, match=r"case-17\.tif is not the slide that .*case-17\.zarr was made from"):
        make(spec.path)


def test_stores_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    spec, _, _ = made_store(tmp_path)
    shard = Path(spec.path) / shard_name("0", (1, 1))
    blob = shard.read_bytes()
    shard.unlink()
    with pytest.raises(SlideReadError, match=r"case-17\.zarr is not finished: 11 of 12 blocks are there"):
        make(spec.path)
    shard.write_bytes(blob[:4] + bytes([blob[4] ^ 255]) + blob[5:])
    with pytest.raises(SlideReadError, match=r"case-17\.zarr cannot be read at .*; wsipipe check names the file"):
        make(spec.path, slide="off")
    shard.write_bytes(blob)
    unfinished = Path(spec.path).rename(spec.path + PARTIAL)
    root = unfinished / "zarr.json"
    root.write_text(root.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(StoreError, match="is not finished; the same wsipipe run completes it"):
        make(unfinished)
    with pytest.raises(StoreError, match="not a store"):
        make(tmp_path)
    with pytest.raises(UsageError, match="copy the store first"):
        make("s3://bucket/case-17.zarr")
    assert not (unfinished / "objects" / "objects.parquet").exists()


def test_without_room_nothing_is_lost_and_the_same_call_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, _, _ = made_store(tmp_path)
    before = Path(make(spec.path).table).read_bytes()

    def full(path: Path, *_: object) -> None:
        raise OutputError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(objects_store, "write_block_file", full)
    with pytest.raises(OutputError, match="No space left"):
        make(spec.path, connectivity=4)
    monkeypatch.undo()
    for most in (500, len(before) // 2):  # a block's file and the table do not fit
        with files_up_to(most), pytest.raises(OutputError, match=r"cannot be written: .*File too large.*; once it can"):
            make(spec.path, connectivity=4)
        assert Path(spec.path, "objects/objects.parquet").read_bytes() == before
        assert not list(Path(spec.path).glob("objects/*.scratch"))
    assert make(spec.path, connectivity=4).made
    Path(spec.path, "objects/objects.parquet").write_bytes(before[:100])
    assert make(spec.path).made
    assert Path(spec.path, "objects/objects.parquet").read_bytes() == before


def test_blocks_are_parts_of_the_stores_blocks_that_fit_into_memory(tmp_path: Path) -> None:
    assert [block_side(block, 2048) for block in (16, 2048, 4096, 4608, 3 * 2048)] == [16, 2048, 2048, 1536, 2048]
    spec, _, _ = made_store(tmp_path)
    plan = plan_objects(spec.path, ObjectsRequest(slide="off"))
    plan = replace(plan, store=replace(plan.store, block=4096))
    assert fitted_blocks(plan, 4, 2**40) == (2048, 4)
    assert fitted_blocks(plan, 4, 2**30) == (1024, 4)
    assert fitted_blocks(plan, 4, 2**24) == (256, 1)
    with pytest.raises(MemoryLimitError, match="raise --max-memory"):
        fitted_blocks(plan, 4, 2**20)


@pytest.mark.parametrize("wrong", [{"connectivity": 6}, {"min_area_um2": -1.0}, {"min_area_um2": float("nan")}])
def test_impossible_requests_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"^--(connectivity|min-area) must be"):
        ObjectsRequest(**wrong)  # type: ignore[arg-type]


def test_damaged_attributes_are_said_to_be(tmp_path: Path) -> None:
    spec, _, _ = made_store(tmp_path)
    Path(spec.path, "zarr.json").write_bytes(b"{")
    with pytest.raises((DamagedStoreError, WsipipeError), match="cannot be read"):
        make(spec.path)
