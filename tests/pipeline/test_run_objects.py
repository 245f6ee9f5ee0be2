"""Objects found in a run: those of `wsipipe objects` on the same labels, to the last byte, whatever interrupts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Call
from tests.faults import assert_same_bytes, files, picture, shards, write_model, write_slide
from tests.tissue.drawn import glass
from wsipipe import ClusterConfig, RunConfig, open_objects, run
from wsipipe.errors import GeometryError, OutputError, UsageError
from wsipipe.events import BlockDone, Event, ObjectsFound
from wsipipe.model.model_file import save_unet
from wsipipe.model.spec import ModelSpec, default_classes
from wsipipe.model.unet import UNet
from wsipipe.objects.block import STRIP_PX
from wsipipe.pipeline import objects_store
from wsipipe.pipeline.instances import InstancesWriter, make_instances
from wsipipe.pipeline.objects_plan import ObjectsRequest, block_side, plan_objects
from wsipipe.pipeline.objects_store import make_objects
from wsipipe.pipeline.run_plan import plan_run
from wsipipe.pipeline.setup import resolve
from wsipipe.pipeline.summary import SlideOutcome
from wsipipe.store.check import check_store

SHAPE = (120, 250)
BLOCKS = 8


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 x 4 blocks of 64 px; the right part is glass."""
    image = picture(SHAPE)
    image[:, 150:] = 240
    return write_slide(tmp_path_factory.mktemp("slide") / "slide.tif", image)


@pytest.fixture(scope="module")
def config(slide: Path) -> RunConfig:
    model = write_model(slide.with_name("small.safetensors"))
    return RunConfig(model=str(model), device="cpu", block=64, tile=64, tissue="off", objects=True, min_area_um2=3.0)


@pytest.fixture(scope="module")
def wanted(slide: Path, config: RunConfig) -> Path:
    """The store of a run without objects, and of `wsipipe objects` after it."""
    out = slide.parent / "wanted"
    again(slide, replace(config, objects=False, min_area_um2=None), out)
    measure(out / "slide.zarr", min_area_um2=3.0)
    return out / "slide.zarr"


@pytest.fixture(scope="module")
def with_ids(wanted: Path) -> Path:
    """The same, and of `wsipipe objects --instances`."""
    store = wanted.parent / "with-ids" / wanted.name
    shutil.copytree(wanted, store)
    assert write_ids(store)
    return store


def again(slide: Path, config: RunConfig, out: Path, stop_after: float = float("inf")) -> SlideOutcome:
    """The outcome of a run, which is interrupted after a number of blocks."""
    done = 0

    def listener(event: Event) -> None:
        nonlocal done
        done += isinstance(event, BlockDone)
        if done >= stop_after:
            raise KeyboardInterrupt

    (outcome,) = run([str(slide)], replace(config, out=str(out)), listener).slides
    return outcome


def interrupted(slide: Path, config: RunConfig, out: Path) -> set[str]:
    """Begin a run, and interrupt it; the shards of its finest level."""
    with pytest.raises(KeyboardInterrupt):
        again(slide, config, out, stop_after=2)
    begun = set(shards(out / "slide.zarr.partial"))
    assert len(begun) >= 2
    return begun


def measure(store: Path, **request: object) -> None:
    plan = plan_objects(store, ObjectsRequest(**request))  # type: ignore[arg-type]
    assert make_objects(plan, 1, 2**40, lambda _done, _blocks: None).made


def write_ids(store: Path) -> Path | None:
    return make_instances(store, wanted=True, threads=1, limit_bytes=2**40, progress=lambda _done, _blocks: None)


@pytest.mark.parametrize(
    "options", [{"tissue": "auto"}, {"probabilities": True, "split": True, "instances": True}, {"mpp": 0.31}]
)
def test_a_run_finds_the_objects_that_wsipipe_objects_finds(
    slide: Path, config: RunConfig, tmp_path: Path, options: dict[str, object]
) -> None:
    config = replace(config, **options)  # type: ignore[arg-type]
    outcome = again(slide, config, tmp_path / "run")
    assert outcome.status == "done", outcome.message
    assert (outcome.skipped > 0) == (config.tissue == "auto")
    again(slide, replace(config, objects=False, min_area_um2=None, split=False, instances=False), tmp_path / "after")
    measure(tmp_path / "after/slide.zarr", min_area_um2=3.0, split=config.split)
    assert not config.instances or write_ids(tmp_path / "after/slide.zarr")
    assert_same_bytes(tmp_path / "run/slide.zarr", tmp_path / "after/slide.zarr")
    noted = json.loads((tmp_path / "run/slide.zarr/zarr.json").read_bytes())["attributes"]["wsipipe"]["objects"]
    assert [one["objects"] for one in noted["classes"]] == [one.objects for one in outcome.objects]
    for one in outcome.objects:
        assert sum(count for _, count in one.areas) == one.objects > 0
        assert one.areas[0][0] * 0.25 * 2**0.5 > 3.0


def test_a_slide_without_tissue_has_no_objects_and_is_done(config: RunConfig, tmp_path: Path) -> None:
    empty = write_slide(tmp_path / "empty.tif", glass(SHAPE))
    config = replace(config, tissue="auto")
    outcome = again(empty, config, tmp_path / "out")
    assert (outcome.status, [one.objects for one in outcome.objects]) == ("no tissue", [0, 0])
    assert open_objects(tmp_path / "out/empty.zarr").count == 0
    assert again(empty, config, tmp_path / "out").status == "skipped"


@pytest.mark.parametrize("cluster", [None, "local"])
def test_interrupted_it_is_resumed_and_ends_in_the_same_bytes(
    slide: Path, config: RunConfig, wanted: Path, with_ids: Path, tmp_path: Path, cluster: str | None
) -> None:
    """The workers of the cluster write the ids of objects, too."""
    if cluster is not None:
        config, wanted = replace(config, cluster=ClusterConfig(kind=cluster, workers=2), instances=True), with_ids
    begun = interrupted(slide, config, tmp_path)
    measured = {path.name.removesuffix(".objects") for path in tmp_path.glob("*/objects/blocks-*/*.objects")}
    assert {name.removeprefix("0/c/").replace("/", ".") for name in begun} <= measured, "its objects came first"
    outcome = again(slide, config, tmp_path)
    assert (outcome.status, outcome.blocks_computed) == ("done", BLOCKS - len(begun)), outcome.message
    assert_same_bytes(tmp_path / "slide.zarr", wanted)


def test_begun_without_objects_they_are_measured_from_the_labels(
    slide: Path, config: RunConfig, wanted: Path, tmp_path: Path
) -> None:
    begun = interrupted(slide, replace(config, objects=False, min_area_um2=None), tmp_path)
    assert not list(tmp_path.rglob("objects"))
    assert again(slide, config, tmp_path).blocks_computed == BLOCKS - len(begun)
    assert_same_bytes(tmp_path / "slide.zarr", wanted)


def test_begun_with_objects_and_finished_without_nothing_is_left_of_them(
    slide: Path, config: RunConfig, wanted: Path, tmp_path: Path
) -> None:
    interrupted(slide, config, tmp_path)
    assert again(slide, replace(config, objects=False, min_area_um2=None), tmp_path).status == "done"
    assert not list(tmp_path.rglob("objects"))
    root = json.loads((tmp_path / "slide.zarr/zarr.json").read_bytes())
    assert "objects" not in root["attributes"]["wsipipe"]
    assert {name for name in files(wanted) if "objects" not in name} == set(files(tmp_path / "slide.zarr"))


def test_a_finished_store_gets_its_objects_and_no_label_is_computed(
    slide: Path, config: RunConfig, wanted: Path, tmp_path: Path, call: Call
) -> None:
    store, root = tmp_path / "slide.zarr", tmp_path / "slide.zarr/zarr.json"
    again(slide, replace(config, objects=False, min_area_um2=None), tmp_path)
    made, ran = shards(store), json.loads(root.read_bytes())["attributes"]["wsipipe"]["run"]
    command = ["run", slide, "-m", config.model, "-o", tmp_path, "--tissue", "off", "--device", "cpu", "--objects"]
    planned = json.loads(call(*command, "--min-area", "3", "--dry-run", "--json").out)["slides"][0]
    assert (planned["action"], planned["reason"], planned["blocks_to_do"]) == (
        "measure",
        "complete, but without objects",
        0,
    )
    ended = call(*command, "--min-area", "3")
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"done     slide.tif -> {store}  objects measured\n    class 1: ")
    assert_same_bytes(store, wanted)
    assert shards(store) == made
    assert json.loads(root.read_bytes())["attributes"]["wsipipe"]["run"] == ran
    assert "skipped" in call(*command, "--min-area", "3").out
    table = (store / "objects/objects.parquet").read_bytes()
    others = call(*command, "--split", "--dry-run").out
    assert "measure" in others
    assert "its objects were made with --split off (now on), --min-area 3.0 (now" in others
    assert "measured" in call(*command, "--split").out
    assert (store / "objects/objects.parquet").read_bytes() != table


def test_without_room_a_finished_store_stays_as_it_is_and_measuring_is_resumed(
    slide: Path, config: RunConfig, wanted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again(slide, replace(config, objects=False, min_area_um2=None), tmp_path)
    store, write, written = tmp_path / "slide.zarr", objects_store.write_block_file, list[Path]()
    before = files(store)

    def until_full(path: Path, *what: Any) -> None:
        if len(written) == 3:
            raise OutputError("No space left on device")
        write(path, *what)
        written.append(path)

    monkeypatch.setattr(objects_store, "write_block_file", until_full)
    assert again(slide, replace(config, threads=1), tmp_path).message == "No space left on device"
    assert {name: blob for name, blob in files(store).items() if "objects" not in name} == before
    monkeypatch.setattr(objects_store, "write_block_file", lambda path, *what: written.append(write(path, *what)))
    assert again(slide, config, tmp_path).status == "done"
    assert len(written) == BLOCKS
    assert_same_bytes(store, wanted)


@pytest.mark.parametrize("finished", [False, True])
def test_without_room_for_ids_the_same_run_goes_on_with_them(
    slide: Path, config: RunConfig, with_ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    store, write, written = tmp_path / "slide.zarr", InstancesWriter.write_block, list[tuple[int, int]]()
    if finished:
        again(slide, config, tmp_path)
    before, config = files(tmp_path), replace(config, instances=True)

    def until_full(writer: InstancesWriter, index: tuple[int, int], ids: Any) -> None:
        if len(written) == left:
            raise OutputError("No space left on device")
        written.append(index)
        write(writer, index, ids)

    left = 3
    monkeypatch.setattr(InstancesWriter, "write_block", until_full)
    assert again(slide, replace(config, threads=1), tmp_path).message == "No space left on device"
    assert {
        name: blob for name, blob in files(tmp_path).items() if "objects/instances-" not in name
    }.items() >= before.items()
    assert not list(tmp_path.rglob("labels"))
    torn = next(tmp_path.glob(f"*/objects/instances-*/instances/0/c/{written[0][0]}/{written[0][1]}"))
    torn.write_bytes(b"")  # as after a loss of power
    written.remove(written[0])
    left = -1
    outcome = again(slide, config, tmp_path)
    assert (outcome.status, outcome.blocks_computed) == ("done", 0), outcome.message
    assert sorted(written) == [(row, col) for row in range(2) for col in range(4)]
    assert_same_bytes(store, with_ids)


def test_a_finished_store_gets_its_ids_and_nothing_is_measured_again(
    slide: Path, config: RunConfig, with_ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(config: RunConfig) -> tuple[str, str]:
        (plan,) = plan_run([str(slide)], resolve(replace(config, out=str(tmp_path)))).planned
        return plan.action, plan.reason

    store, config_of_ids = tmp_path / "slide.zarr", replace(config, instances=True)
    again(slide, config, tmp_path)
    assert planned(config) == ("skip", "complete")
    assert planned(config_of_ids) == ("measure", "complete, but without instances")
    with monkeypatch.context() as patch:
        patch.setattr(objects_store, "write_block_file", None)
        assert again(slide, config_of_ids, tmp_path).status == "done"
    assert_same_bytes(store, with_ids)
    assert planned(config_of_ids) == planned(config) == ("skip", "complete")

    measure(store, min_area_um2=3.0, split=True)  # as a kill between table and ids leaves it
    parted = replace(config, split=True)
    assert planned(parted) == ("measure", "complete, but its instances are of other objects")
    for now in (parted, config):
        assert again(slide, now, tmp_path).status == "done"
        assert check_store(store, 1).damages == ()
    assert_same_bytes(store, with_ids)


def test_begun_with_ids_and_finished_without_no_ids_are_left(
    slide: Path, config: RunConfig, wanted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutputError("No space left on device")

    for out, objects in (("with", {}), ("without", {"objects": False, "min_area_um2": None})):
        with monkeypatch.context() as patch:
            patch.setattr(InstancesWriter, "publish", full)
            assert again(slide, replace(config, instances=True), tmp_path / out).message == "No space left on device"
        assert list(tmp_path.glob(f"{out}/*/objects/instances-*"))
        assert again(slide, replace(config, **objects), tmp_path / out).status == "done"  # type: ignore[arg-type]
        assert_same_bytes(tmp_path / out / "slide.zarr", wanted)


def test_an_end_between_table_and_counts_costs_nothing(
    slide: Path, config: RunConfig, wanted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutputError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(objects_store, "count_classes", full)
        assert again(slide, config, tmp_path).message == "No space left on device"
    assert (tmp_path / "slide.zarr.partial/objects/objects.parquet").exists()
    outcome = again(slide, config, tmp_path)
    assert (outcome.status, outcome.blocks_computed) == ("done", 0), outcome.message
    assert_same_bytes(tmp_path / "slide.zarr", wanted)


def test_an_end_between_another_table_and_its_counts_is_resumed(
    slide: Path, config: RunConfig, wanted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutputError("No space left on device")

    again(slide, replace(config, min_area_um2=20.0), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(objects_store, "note_objects", full)
        with pytest.raises(OutputError, match="No space left"):
            measure(tmp_path / "slide.zarr", min_area_um2=3.0)
    assert again(slide, config, tmp_path).status == "done"
    assert_same_bytes(tmp_path / "slide.zarr", wanted)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_block_file_that_is_damaged_is_made_again(
    slide: Path, config: RunConfig, wanted: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    interrupted(slide, config, tmp_path)
    damage(sorted(tmp_path.glob("*/objects/blocks-*/*.objects"))[0])
    outcome = again(slide, config, tmp_path)
    if outcome.status == "failed":  # the header was whole, as it is where the file ends too early
        assert "the same command resumes" in outcome.message
        outcome = again(slide, config, tmp_path)
    assert outcome.status == "done", outcome.message
    assert_same_bytes(tmp_path / "slide.zarr", wanted)


def test_a_damaged_shard_is_mended_and_the_objects_stay(
    slide: Path, config: RunConfig, wanted: Path, tmp_path: Path
) -> None:
    for objects in (True, False):
        out = tmp_path / str(objects)
        again(slide, config, out)
        (out / "slide.zarr/0/c/1/1").unlink()
        options = {} if objects else {"objects": False, "min_area_um2": None}
        outcome = again(slide, replace(config, **options), out)  # type: ignore[arg-type]
        assert (outcome.status, outcome.blocks_computed) == ("done", 1), outcome.message
        assert_same_bytes(out / "slide.zarr", wanted)


def test_an_outline_that_is_too_ragged_fails_its_slide_alone(
    slide: Path, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    small = write_slide(slide.with_name("one-block.tif"), picture((40, 60)))
    monkeypatch.setattr(objects_store, "MAX_CORNERS", 30)
    heard: list[Event] = []
    summary = run([str(slide), str(small)], replace(config, out=str(tmp_path)), heard.append)
    assert [one.status for one in summary.slides] == ["failed", "done"]
    assert "corners; at most 30 can be joined" in summary.slides[0].message
    assert [Path(event.slide).name for event in heard if isinstance(event, ObjectsFound)] == [small.name]
    assert again(slide, replace(config, objects=False, min_area_um2=None), tmp_path).status == "done"
    told = call("objects", tmp_path, "--connectivity", "4")
    assert (told.code, told.out.count("FAILED"), "2 stores, 1 failed" in told.out) == (1, 1, True)


def test_memory_is_projected_and_what_cannot_be_is_refused(slide: Path, config: RunConfig, tmp_path: Path) -> None:
    without = replace(config, objects=False, min_area_um2=None, out=str(tmp_path))
    one, other = (plan_run([str(slide)], resolve(c)).planned[0] for c in (without, replace(without, objects=True)))
    assert other.block_bytes - one.block_bytes >= 140 * 64 * 64
    large = replace(without, objects=True, instances=True, block=4096)
    assert plan_run([str(slide)], resolve(large)).planned[0].block_bytes >= 24 * 4096**2
    for wrong, message in (
        ({"split": True}, "--split is about objects.*add --objects"),
        ({"min_area_um2": 3.0}, "--min-area is about objects"),
        ({"instances": True}, "--instances is about objects"),
        ({"objects": True, "min_area_um2": -1.0}, "--min-area must be 0 um2 or more"),
        ({"objects": True, "out": "s3://bucket/out"}, "run without --objects, copy the stores"),
    ):
        with pytest.raises(UsageError, match=message):
            resolve(replace(without, **wrong))  # type: ignore[arg-type]
    model = slide.with_name("tiny.safetensors")
    save_unet(model, UNet(3, 2, base_channels=1, depth=0), ModelSpec(classes=default_classes(2), mpp=0.5))
    with pytest.raises(GeometryError, match=rf"block 2 px is too small for --objects; smallest: {STRIP_PX}"):
        plan_run([str(slide)], resolve(replace(config, model=str(model), block=2, tile=2)))


@pytest.mark.parametrize("block", [8, 64, 516, 1028, 4096, 4124, 4608])
def test_parts_of_a_runs_block_fill_it(block: int) -> None:
    side = block_side(block, 1024)
    assert block % side == 0
    assert 256 <= side <= 2048 or side == block
