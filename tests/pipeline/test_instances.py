"""Instances: the ids of a store's table, pixel by pixel, as OME-Zarr that others open."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr_models import open_ome_zarr

from tests.faults import files, start, wait_until
from tests.objects.stores import made_store
from tests.objects.test_pixel_ids import right_ids
from tests.pipeline.test_objects_store import NO_LIMIT, make
from wsipipe.errors import MemoryLimitError, StoreError
from wsipipe.pipeline import instances
from wsipipe.pipeline.instances import make_instances
from wsipipe.store.check import check_store
from wsipipe.store.finished import open_finished
from wsipipe.store.pyramid import halve, halve_ids


def make_ids(store: Path | str, *, instances: bool = True, threads: int = 2, **request: object) -> Path | None:
    """Make the objects of a store, and their ids."""
    make(store, threads=threads, slide="off", **request)
    return make_instances(
        store, wanted=instances, threads=threads, limit_bytes=NO_LIMIT, progress=lambda _done, _blocks: None
    )


def levels_of(store: str) -> list[np.ndarray]:
    group = zarr.open_group(Path(store, "labels/instances"), mode="r")
    return [np.asarray(group[str(level)]) for level in range(open_finished(store).levels)]


@pytest.mark.parametrize(("connectivity", "block"), [(4, 48), (8, 1024)])
def test_instances_have_the_ids_of_the_table_at_every_level(tmp_path: Path, connectivity: int, block: int) -> None:
    side, shape = (3, (150, 130)) if block == 48 else (20, (1501, 1100))
    patches = np.random.default_rng(0).choice([0, 7, 200], (80, 60)).astype(np.uint8)
    labels = np.kron(patches, np.ones((side, side), np.uint8))[: shape[0], : shape[1]]
    spec, labels, _ = made_store(tmp_path, shape=shape, block=block, labels=labels)
    found = make_ids(spec.path, connectivity=connectivity, min_area_um2=3.0)
    assert found == Path(spec.path, "labels/instances")
    levels = levels_of(spec.path)
    assert np.array_equal(levels[0], right_ids(labels, connectivity, 12))
    for finer, coarser in pairwise(levels):
        assert np.array_equal(halve_ids(finer), coarser)
    store = open_finished(spec.path)
    for level in range(store.levels):
        ours, theirs = zarr.open_array(found / str(level), mode="r"), store.labels(level)
        assert (ours.dtype, ours.shape, ours.chunks, ours.shards) == (
            np.uint32,
            theirs.shape,
            theirs.chunks,
            theirs.shards,
        )
    assert check_store(Path(spec.path), 2).damages == ()


def test_instances_are_an_image_label_beside_the_labels(tmp_path: Path) -> None:
    spec, _, _ = made_store(tmp_path)
    make_ids(spec.path)
    label = open_ome_zarr(zarr.open_group(Path(spec.path, "labels/instances"), mode="r"))
    assert type(label).__name__ == "ImageLabel"
    assert open_ome_zarr(zarr.open_group(Path(spec.path, "labels"), mode="r")).attributes.ome.labels == ["instances"]
    assert open_ome_zarr(zarr.open_group(spec.path, mode="r"))
    here, root = (json.loads(Path(spec.path, name, "zarr.json").read_bytes()) for name in ("labels/instances", ""))
    (ours,), (theirs,) = (one["attributes"]["ome"]["multiscales"] for one in (here, root))
    assert ours["datasets"] == theirs["datasets"]


def test_the_bytes_do_not_depend_on_threads_or_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, _, _ = made_store(tmp_path)
    make_ids(spec.path, split=True)
    whole = files(Path(spec.path))
    make_ids(spec.path, split=True)
    assert files(Path(spec.path)) == whole

    write = instances.InstancesWriter.write_block
    written: list[tuple[int, int]] = []
    left = 0

    def stop(writer: instances.InstancesWriter, index: tuple[int, int], ids: np.ndarray) -> None:
        if len(written) == left:
            raise KeyboardInterrupt
        written.append(index)
        write(writer, index, ids)

    monkeypatch.setattr(instances.InstancesWriter, "write_block", stop)
    for left in (0, 1, 5, 11):
        written.clear()
        other, _, _ = made_store(tmp_path / str(left), slide="../case-17.tif")
        with pytest.raises(KeyboardInterrupt):
            make_ids(other.path, threads=1, split=True)
        assert (len(written), Path(other.path, "labels").exists()) == (left, False)
        for path in Path(other.path).glob("objects/instances-*/instances/0/c/0/1"):
            path.write_bytes(b"")  # as after a loss of power
            written.remove((0, 1))
        left = -1
        make_ids(other.path, threads=3, split=True)
        assert sorted(written) == sorted(other.grid.indices())
        found = files(Path(other.path))
        assert {name: blob for name, blob in found.items() if name.startswith("labels/")} == {
            name: blob for name, blob in whole.items() if name.startswith("labels/")
        }
        assert found.keys() == whole.keys()


def test_instances_follow_the_table(tmp_path: Path) -> None:
    spec, labels, _ = made_store(tmp_path)
    assert make_ids(spec.path, instances=False) is None
    make_ids(spec.path)
    assert make_ids(spec.path, connectivity=4, instances=False) is not None
    assert np.array_equal(levels_of(spec.path)[0], right_ids(labels, 4))
    assert check_store(Path(spec.path), 2).damages == ()


def test_labels_of_others_stay_as_they_are(tmp_path: Path) -> None:
    spec, _, _ = made_store(tmp_path)
    labels = zarr.open_group(Path(spec.path, "labels"), mode="w", attributes={"ome": {"labels": ["mine"]}, "a": 1})
    labels.create_array("mine", data=np.arange(4))
    make_ids(spec.path)
    again = zarr.open_group(Path(spec.path, "labels"), mode="r")
    assert dict(again.attrs) == {"ome": {"labels": ["mine", "instances"]}, "a": 1}
    assert np.array_equal(again["mine"], np.arange(4))

    other, _, _ = made_store(tmp_path / "other")
    zarr.open_group(Path(other.path, "labels/instances"), mode="w", attributes={"a": 1})
    before = files(Path(other.path, "labels"))
    assert make_ids(other.path, instances=False) is None
    with pytest.raises(StoreError, match=r"labels/instances is in the way: wsipipe did not make it; rename it"):
        make_ids(other.path)
    assert files(Path(other.path, "labels")) == before


def test_damaged_and_stale_instances_are_found(tmp_path: Path) -> None:
    spec, _, _ = made_store(tmp_path)
    make_ids(spec.path)
    root = Path(spec.path, "zarr.json")
    sound = root.read_text()
    root.write_text(sound.replace('"connectivity": 8', '"connectivity": 4'))
    (found,) = check_store(Path(spec.path), 2).damages
    assert "they do not match the table; wsipipe objects --instances" in found
    root.write_text(sound)
    shard = next(Path(spec.path, "labels/instances/0").rglob("c/*/*"))
    blob = shard.read_bytes()
    shard.write_bytes(blob[:9] + bytes([blob[9] ^ 1]) + blob[10:])
    (found,) = check_store(Path(spec.path), 2).damages
    assert found.startswith(f"{shard}: 1 of its ")
    assert found.endswith(
        f"remove {Path(spec.path, 'labels/instances')}, and wsipipe objects --instances makes it anew"
    )


def test_a_block_that_does_not_fit_into_the_memory_is_an_error(tmp_path: Path) -> None:
    spec, _, _ = made_store(tmp_path)
    make(spec.path)
    with pytest.raises(MemoryLimitError, match=r"instances of a block of 48 px need .*; raise --max-memory"):
        make_instances(spec.path, wanted=True, threads=1, limit_bytes=1000, progress=lambda _done, _blocks: None)
    assert not Path(spec.path, "labels").exists()


@pytest.mark.soak  # an interruption within a process shows it too
def test_a_killed_process_is_resumed(tmp_path: Path) -> None:
    spec, _, _ = made_store(tmp_path, shape=(300, 260), block=32)
    make(spec.path)
    process = start("objects", spec.path, "--threads", "1", "--instances")
    assert wait_until(lambda: len(list(Path(spec.path).glob("objects/instances-*/instances/0/c/*/*"))) > 3, process)
    process.kill()
    process.wait()
    make_ids(spec.path)
    whole = files(Path(spec.path))
    other, _, _ = made_store(tmp_path / "other", shape=(300, 260), block=32)
    make_ids(other.path)
    assert {name: blob for name, blob in files(Path(other.path)).items() if "labels/" in name} == {
        name: blob for name, blob in whole.items() if "labels/" in name
    }


def test_ids_are_halved_by_the_rule_of_labels() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (2001, 1003), np.uint8)
    assert np.array_equal(halve_ids(labels.astype(np.uint32) * 2**24), halve(labels).astype(np.uint32) * 2**24)
