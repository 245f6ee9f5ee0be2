from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from tests.conftest import WriteSlide
from wsipipe.cli.run_text import plan_as_text
from wsipipe.errors import GeometryError, MachineError, MemoryLimitError, OutputError, UsageError
from wsipipe.model.model_file import load_model, save_unet
from wsipipe.model.spec import ModelSpec, default_classes
from wsipipe.model.unet import UNet
from wsipipe.pipeline import run_plan
from wsipipe.pipeline.config import ClusterConfig, RunConfig
from wsipipe.pipeline.run_plan import Refused, RunPlan, plan_run
from wsipipe.pipeline.setup import resolve
from wsipipe.pipeline.slide_plan import RESUME, SEGMENT, SKIP, SlidePlan
from wsipipe.store import content, lifecycle
from wsipipe.store.spec import REPLACED, StoreSpec, coarse_chunks


@dataclass(frozen=True)
class Bench:
    """A folder with slides and an output folder, and the tiny model to use."""

    folder: Path
    model: Path
    write: WriteSlide

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def slide(self, name: str, **content: Any) -> Path:
        return self.write(self.folder / name, **content)

    def plan(self, *slides: Path, **config: Any) -> RunPlan:
        values = {"out": str(self.out), "model": str(self.model), "device": "cpu", "block": 64, "tissue": "off"}
        return plan_run([str(s) for s in slides], resolve(RunConfig(**(values | config))))

    def one(self, *slides: Path, **config: Any) -> SlidePlan:
        """The plan of a single slide."""
        (plan,) = self.plan(*slides, **config).slides
        assert isinstance(plan, SlidePlan), plan
        return plan

    def refusal(self, *slides: Path, **config: Any) -> str:
        """Why a single slide is refused."""
        (plan,) = self.plan(*slides, **config).slides
        assert isinstance(plan, Refused), plan
        return plan.error

    def names(self, *slides: Path) -> dict[str, str]:
        """Name of the store, by the slide's path in the folder."""
        return {
            str(Path(p.slide.path).relative_to(self.folder)): Path(p.store.path).name
            for p in self.plan(*slides).planned
        }


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path, write_slide: WriteSlide) -> Bench:
    return Bench(tmp_path, tiny_model, write_slide)


def begin(plan: SlidePlan) -> StoreSpec:
    """Make the store of ``plan`` exist, with none of its blocks."""
    lifecycle.begin_store(plan.store)
    return plan.store


def finish(plan: SlidePlan) -> StoreSpec:
    """Make the store of ``plan`` exist, finished, without computing anything."""
    spec = complete(plan)
    lifecycle.publish(spec, {})
    return spec


def complete(plan: SlidePlan) -> StoreSpec:
    """All of the store of ``plan``, but not published."""
    spec = begin(plan)
    for index in spec.grid.indices():
        content.write_block(spec, index, np.ones(spec.grid.block_box(index).shape, np.uint8), None)
    for levels in spec.grid.coarse_passes():
        for index in coarse_chunks(spec, levels[-1]):
            content.write_coarse_chunks(spec, levels, index)
    return spec


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


# names


def test_a_store_has_its_slides_name(bench: Bench) -> None:
    plan = bench.one(bench.slide("a/case 17.ome.tif"))
    assert plan.store.path == str(bench.out / "case 17.zarr")
    assert (plan.action, tuple(plan.blocks)) == (SEGMENT, ((0, 0), (0, 1), (1, 0), (1, 1)))


def test_two_slides_of_one_name_have_two_stores(bench: Bench) -> None:
    slides = [bench.slide(name, seed=i) for i, name in enumerate(["a/x.tif", "b/x.tif", "b/x.tiff", "c/y.tif"])]
    names = bench.names(*slides)
    assert len(set(names.values())) == 4
    assert names["a/x.tif"] == "x.zarr"  # the first in the command
    assert names["c/y.tif"] == "y.zarr"
    assert all(re.fullmatch(r"x-[0-9a-f]{8}\.zarr", names[name]) for name in ("b/x.tif", "b/x.tiff"))
    assert names == bench.names(*slides)


@pytest.mark.parametrize("make", [begin, finish])
def test_stores_that_exist_keep_their_slides_in_any_order(bench: Bench, make: Any) -> None:
    slides = [bench.slide(f"{folder}/x.tif", seed=i) for i, folder in enumerate("abc")]
    for plan in bench.plan(*slides).planned[1:]:  # not all of them: x.zarr is still free
        make(plan)
    first = bench.names(*slides)
    assert first["a/x.tif"] == "x.zarr"
    make(bench.plan(*slides).planned[0])
    for order in itertools.permutations(slides):
        assert bench.names(*order) == first
    for subset in (slides[:1], slides[1:2], slides[1:], slides[::2]):
        found = bench.names(*subset)
        assert found == {name: first[name] for name in found}


def test_a_store_begun_by_the_second_slide_stays_its_when_the_first_comes_back(bench: Bench) -> None:
    a, b = bench.slide("a/x.tif", seed=1), bench.slide("b/x.tif", seed=2)
    begin(bench.one(b))
    for order in ((a, b), (b, a)):
        names = bench.names(*order)
        assert names["b/x.tif"] == "x.zarr"
        assert names["a/x.tif"] != "x.zarr"
    assert bench.names(a)["a/x.tif"] != "x.zarr"


def test_two_copies_of_one_file_are_two_slides_with_a_store_each(bench: Bench) -> None:
    a, b = bench.slide("a/x.tif"), bench.slide("b/x.tif")
    assert a.read_bytes() == b.read_bytes()
    names = bench.names(a, b)
    assert len(set(names.values())) == 2
    for plan in bench.plan(a, b).planned:
        finish(plan)
    for order in ((a, b), (b, a)):
        assert bench.names(*order) == names
        assert {p.action for p in bench.plan(*order).planned} == {SKIP}


def test_a_copy_keeps_its_own_store_when_it_comes_alone(bench: Bench) -> None:
    a, b = bench.slide("a/x.tif"), bench.slide("b/x.tif")
    names = bench.names(a, b)
    for plan in bench.plan(a, b).planned:
        finish(plan)
    assert bench.names(b) == {"b/x.tif": names["b/x.tif"]}
    assert bench.names(a) == {"a/x.tif": names["a/x.tif"]}


@pytest.mark.parametrize("make", [begin, finish])
def test_a_moved_slide_finds_its_store_again(bench: Bench, make: Any) -> None:
    old = bench.slide("old/x.tif", seed=1)
    spec, other = make(bench.one(old)), bench.slide("other/x.tif", seed=2)
    (bench.folder / "new").mkdir()
    new = old.rename(bench.folder / "new" / "x.tif")
    for order in ((new, other), (other, new)):
        plans = {Path(p.slide.path): p for p in bench.plan(*order).planned}
        assert plans[new].store.path == spec.path
        assert plans[new].action == (SKIP if make is finish else RESUME)
        assert plans[other].store.path != spec.path
        assert plans[other].action == SEGMENT


def test_the_same_slide_named_twice_is_planned_once(bench: Bench) -> None:
    slide = bench.slide("x.tif")
    (bench.folder / "link.tif").symlink_to(slide)
    assert len(bench.plan(slide, bench.folder / "." / "x.tif", bench.folder / "link.tif").slides) == 1


# stores that are there


def test_what_is_finished_is_skipped_and_what_was_begun_is_resumed(bench: Bench) -> None:
    done, begun, new = (bench.slide(f"{name}.tif", seed=i) for i, name in enumerate(["done", "begun", "new"]))
    finish(bench.one(done))
    spec = begin(bench.one(begun))
    content.write_block(spec, (0, 1), np.ones((64, 64), np.uint8), None)
    plans = bench.plan(done, begun, new).planned
    assert [p.action for p in plans] == [SKIP, RESUME, SEGMENT]
    assert tuple(plans[0].blocks) == ()
    assert tuple(plans[1].blocks) == ((0, 0), (1, 0), (1, 1))
    assert plans[1].reason == "1 of 4 blocks are done"
    assert plans[1].pixels == 64 * 64 + 32 * 64 + 32 * 64
    assert len(plans[2].blocks) == 4


def test_a_store_keeps_the_block_that_it_was_begun_with(bench: Bench) -> None:
    slide = bench.slide("x.tif")
    begin(bench.one(slide, block=32))
    assert bench.one(slide, block=64).grid.block == 32
    assert bench.one(slide, block=64).action == RESUME
    plan = bench.one(slide, block=64, overwrite=True)
    assert (plan.grid.block, plan.action, plan.restart) == (64, SEGMENT, True)


@pytest.mark.parametrize("tile", [4, 16, 48, 96])
def test_a_finished_store_is_skipped_whatever_the_tile(bench: Bench, tile: int) -> None:
    slide = bench.slide("x.tif")
    finish(bench.one(slide))
    assert bench.one(slide, tile=tile, block=None).action == SKIP


def test_a_file_replaced_by_another_is_refused_until_told_to_overwrite(bench: Bench) -> None:
    slide = bench.slide("x.tif", seed=1)
    spec = finish(bench.one(slide))
    bench.slide("x.tif", seed=2)
    assert re.search(r"x\.zarr was made with another slide file; --overwrite", bench.refusal(slide))
    plan = bench.one(slide, overwrite=True)
    assert (plan.action, plan.store.path, plan.restart) == (SEGMENT, spec.path, True)


def test_an_unfinished_store_of_a_replaced_file_is_refused_too(bench: Bench) -> None:
    slide = bench.slide("x.tif", seed=1)
    begin(bench.one(slide))
    bench.slide("x.tif", seed=2)
    assert re.search(r"x\.zarr\.partial was made with another slide file", bench.refusal(slide))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"mpp": 0.25}, "0.5 micrometres per pixel (now 0.25)"),
        ({"probabilities": True}, "no --probabilities"),
        ({"uncertainty": True}, "no --uncertainty"),
        ({"tta": "flips"}, "--tta off (now flips)"),
        ({"model": "other"}, "other weights (-m)"),
        ({"mpp": 0.25, "model": "other"}, "other weights (-m), 0.5 micrometres per pixel (now 0.25)"),
    ],
)
def test_options_that_change_the_labels_are_told_apart(bench: Bench, config: dict[str, Any], words: str) -> None:
    slide = bench.slide("x.tif")
    finish(bench.one(slide))
    if "model" in config:
        model = load_model(bench.model)
        save_unet(bench.folder / "other", model.network, replace(model.spec, name="other"))
        config = config | {"model": str(bench.folder / "other")}
    refusal = bench.refusal(slide, **config)
    assert f"was made with {words};" in refusal
    assert refusal.endswith("; --overwrite replaces it once the new one is complete; to have both, use another -o")
    assert bench.one(slide, **config, overwrite=True).action == SEGMENT


@pytest.mark.parametrize("config", [{"tile": 16}, {"batch": 3}, {"threads": 1}, {"device": "cpu,cpu"}, {"block": 32}])
def test_options_that_change_speed_only_are_not(bench: Bench, config: dict[str, Any]) -> None:
    slide = bench.slide("x.tif")
    finish(bench.one(slide))
    assert bench.one(slide, **config).action == SKIP


def test_a_finished_store_that_lost_a_shard_is_mended(bench: Bench) -> None:
    slide = bench.slide("x.tif")
    spec = finish(bench.one(slide))
    (Path(spec.path) / "0/c/1/0").unlink()
    (Path(spec.path) / "0/c/0/1").write_bytes(b"torn")
    plan = bench.one(slide)
    assert (plan.action, plan.reopen, plan.restart) == (RESUME, True, False)
    assert tuple(plan.blocks) == ((0, 1), (1, 0))
    assert plan.damaged == ("0/c/0/1",)


def test_overwriting_begins_anew_and_goes_on_where_it_was_killed(bench: Bench) -> None:
    slide = bench.slide("x.tif")
    finish(bench.one(slide))
    plan = bench.one(slide, overwrite=True)
    assert (plan.action, plan.restart, len(plan.blocks)) == (SEGMENT, True, 4)
    spec = begin(plan)
    content.write_block(spec, (0, 0), np.ones((64, 64), np.uint8), None)
    plan = bench.one(slide, overwrite=True)
    assert (plan.action, plan.restart, plan.reopen, len(plan.blocks)) == (RESUME, False, False, 3)


def test_a_run_killed_while_it_published_is_finished_by_the_next(bench: Bench) -> None:
    slide = bench.slide("x.tif")
    finish(bench.one(slide))
    spec = complete(bench.one(slide, overwrite=True))
    lifecycle.write_documents(spec, {})
    Path(spec.path).rename(spec.path + REPLACED)
    for overwrite in (False, True):
        plan = bench.one(slide, overwrite=overwrite)
        assert (plan.action, tuple(plan.blocks), plan.restart) == (RESUME, (), False)
    spec.partial.rename(spec.path)
    assert bench.one(slide).action == SKIP


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_in_the_way_is_refused_and_never_overwritten(bench: Bench, kind: str) -> None:
    slide, path = bench.slide("x.tif"), bench.out / "x.zarr"
    if kind == "file":
        bench.out.mkdir()
        path.write_bytes(b"mine")
    else:
        (path / "mine").mkdir(parents=True)
    for overwrite in (False, True):
        assert f"{path} is in the way" in bench.refusal(slide, overwrite=overwrite)


def test_a_store_whose_metadata_are_damaged_is_refused_until_told_to_overwrite(bench: Bench) -> None:
    slide = bench.slide("x.tif")
    spec = finish(bench.one(slide))
    (Path(spec.path) / "zarr.json").write_bytes(b"{")
    assert "--overwrite" in bench.refusal(slide)
    assert bench.one(slide, overwrite=True).action == SEGMENT


# slides that are refused, and the others


def test_every_slide_is_looked_at_and_the_bad_ones_say_why(bench: Bench) -> None:
    good, bad, gone = bench.slide("good.tif"), bench.folder / "bad.tif", bench.folder / "gone.tif"
    bad.write_bytes(b"no slide")
    grey = bench.folder / "grey.tif"
    tifffile.imwrite(grey, np.ones((64, 64), np.uint8), tile=(64, 64), metadata=None)
    plans = bench.plan(bad, good, gone, grey).slides
    assert [type(p) for p in plans] == [Refused, SlidePlan, Refused, Refused]
    errors = [p.error for p in plans if isinstance(p, Refused)]
    for error, words in zip(errors, ["bad.tif is not a slide", "gone.tif", "grey.tif has 1 channel"], strict=True):
        assert words in error


@pytest.fixture
def picky(bench: Bench) -> str:
    """A model that wants 0.5 µm/px."""
    torch.manual_seed(0)
    path = bench.folder / "picky.safetensors"
    save_unet(path, UNet(3, 2, 2, 2, 1), ModelSpec(default_classes(2), mpp=0.5))
    return str(path)


def test_a_slide_without_resolution_is_refused_by_a_model_that_wants_one(bench: Bench, picky: str) -> None:
    with_mpp, without = bench.slide("with.tif"), bench.slide("without.tif", mpp=None)
    plans = bench.plan(without, with_mpp, model=picky).slides
    assert isinstance(plans[0], Refused)
    assert "give --mpp" in plans[0].error
    assert isinstance(plans[1], SlidePlan)
    assert bench.one(without, model=picky, mpp=0.5).level.mpp == 0.5
    assert bench.one(without).level.mpp is None  # the tiny model does not care


def test_a_slide_is_planned_at_the_resolution_of_the_model(bench: Bench, picky: str) -> None:
    slide = bench.slide("x.tif", shape=(200, 300), mpp=0.2482)
    plan = bench.one(slide, model=picky)
    assert (plan.level.index, plan.level.mpp, plan.grid.shape) == (0, 0.5, (100, 149))
    assert plan.store.fingerprint.shrink == pytest.approx(2.0145, abs=1e-4)
    assert plan.store.downsample == plan.level.downsample == plan.level.shrink
    assert bench.one(slide).grid.shape == (200, 300), "the tiny model does not care"
    assert plan.keep(2).overlap_px == plan.grid.receptive.margin
    assert plan.block_bytes > bench.one(slide).block_bytes / 4


def test_stores_of_another_shrink_are_told_apart(bench: Bench, picky: str) -> None:
    slide = bench.slide("x.tif", shape=(200, 300), mpp=0.25)
    finish(bench.one(slide, model=picky))
    assert "was made with the level shrunk by 2 (now 2.0145);" in bench.refusal(slide, model=picky, mpp=0.2482)
    assert bench.one(slide, model=picky).action == SKIP


def test_no_more_is_enlarged_than_is_allowed(bench: Bench, picky: str) -> None:
    slide = bench.slide("x.tif", mpp=0.9)
    assert "--max-upsample" in bench.refusal(slide, model=picky)
    plan = bench.one(slide, model=picky, max_upsample=2.0)
    assert plan.level.shrink == pytest.approx(0.5 / 0.9, rel=1e-5)
    assert plan.level.mpp == 0.5


def test_a_table_says_the_resolution_of_single_slides(bench: Bench, picky: str) -> None:
    a, b, c = (bench.slide(f"{name}.tif", seed=i, mpp=0.5) for i, name in enumerate("abc"))
    table = bench.folder / "slides.csv"
    table.write_text("slide,mpp\na.tif,0.25\nb.tif,\n")
    plans = bench.plan(a, b, c, model=picky, slides_table=str(table), mpp=1 / 3).planned
    assert [(p.slide.mpp, p.slide.mpp_source) for p in plans] == [
        (0.25, "given in slides.csv"),
        (1 / 3, "given"),
        (1 / 3, "given"),
    ]
    assert [p.store.mpp_source for p in plans] == [p.slide.mpp_source for p in plans]
    assert [p.level.mpp for p in plans] == [0.5] * 3
    with pytest.raises(UsageError, match=r"none.csv cannot be read"):
        bench.plan(a, slides_table=str(bench.folder / "none.csv"))


def test_rows_of_the_table_that_match_no_slide_are_named(bench: Bench, picky: str) -> None:
    slide = bench.slide("a.tif")
    table = bench.folder / "slides.csv"
    table.write_text(f"slide,mpp\na.tif,0.5\nb.tif,0.25\n{bench.folder}/c.tif,0.25\n")
    plan = bench.plan(slide, model=picky, slides_table=str(table))
    assert plan.unmatched == ("b.tif", f"{bench.folder}/c.tif")
    assert f"match no slide of this run: b.tif, {bench.folder}/c.tif;" in plan.table_warning
    assert plan.table_warning in plan_as_text(plan)
    table.write_text("slide,mpp\na.tif,0.5\n")
    assert bench.plan(slide, model=picky, slides_table=str(table)).table_warning == ""


def test_planning_writes_nothing(bench: Bench) -> None:
    new, done, begun = (bench.slide(f"{name}.tif", seed=i) for i, name in enumerate(["new", "done", "begun"]))
    finish(bench.one(done))
    begin(bench.one(begun))
    before = everything(bench.folder)
    bench.plan(new, done, begun)
    bench.plan(new, done, begun, overwrite=True)
    bench.plan(new, out=str(bench.folder / "not" / "yet"))
    assert everything(bench.folder) == before


# options


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"tile": 0}, GeometryError, r"core 0 px .*\(--tile\)"),
        ({"tile": 0, "block": None}, GeometryError, r"core 0 px .*\(--tile\)"),
        ({"tile": 6}, GeometryError, r"core 6 px .* 4 and 8 \(--tile\)"),
        ({"block": 66}, GeometryError, r"block 66 px .* 64 and 68 \(--block\)"),
        ({"block": 0}, GeometryError, r"block 0 px .*\(--block\)"),
        ({"block": 8, "tile": 4}, GeometryError, r"block 8 px is smaller than .*: 12 \(--block\)"),
        ({"batch": 0}, UsageError, "--batch must be .*, not 0"),
        ({"threads": -1}, UsageError, "--threads must be .*, not -1"),
        ({"mpp": float("nan")}, UsageError, "--mpp must be .*, not nan"),
        ({"mpp": 0.0}, UsageError, "--mpp must be .*, not 0.0"),
        ({"max_upsample": 0.99}, UsageError, "--max-upsample must be .*, not 0.99"),
        ({"max_upsample": float("nan")}, UsageError, "--max-upsample must be .*, not nan"),
        ({"device": "tpu"}, UsageError, "'tpu' is not a device"),
        ({"device": "cuda:99"}, MachineError, "there is no cuda:99"),
    ],
)
def test_options_that_make_no_sense_are_refused_for_all_slides_at_once(
    bench: Bench, config: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        bench.plan(bench.slide("x.tif"), **config)


def test_an_output_folder_that_is_a_file_is_refused(bench: Bench) -> None:
    slide = bench.slide("x.tif")
    for out in (slide, slide / "deeper"):
        with pytest.raises(OutputError, match=r"x\.tif is a file, not a folder; give another -o"):
            bench.plan(slide, out=str(out))


# memory


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> int:
    """What the process takes, held still: the real number changes from one call to the next."""
    size = run_plan.loaded_bytes("openvino", ("cpu",))
    monkeypatch.setattr(run_plan, "loaded_bytes", lambda *_: size)
    return size


def mentioned(error: BaseException) -> int:
    """The bytes that the message says are enough."""
    found = re.search(r"smallest that works here: --max-memory (\d+)MB", str(error))
    assert found is not None, error
    return int(found[1]) * 10**6


@pytest.mark.parametrize("config", [{}, {"threads": 3}, {"batch": 4, "tile": 16}, {"probabilities": True}], ids=str)
@pytest.mark.usefixtures("steady")
def test_too_little_memory_is_refused_with_the_least_that_works(bench: Bench, config: dict[str, Any]) -> None:
    slides = [bench.slide("x.tif"), bench.slide("y.tif", shape=(300, 280))]
    with pytest.raises(UsageError, match=r"--max-memory 1MB is less than one block needs") as refused:
        bench.plan(*slides, **config, max_memory_bytes=10**6)
    enough = mentioned(refused.value)
    plan = bench.plan(*slides, **config, max_memory_bytes=enough)
    fitting = [p for p in plan.slides if isinstance(p, SlidePlan)]
    assert fitting
    assert all(plan.memory_bytes(p) <= enough for p in fitting)
    with pytest.raises(UsageError, match="is less than one block needs"):
        bench.plan(*slides, **config, max_memory_bytes=enough - 10**6)


def test_memory_that_is_simply_not_there_is_the_environments_fault(
    bench: Bench, steady: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsipipe.pipeline.setup.default_limit_bytes", lambda: steady // 2)
    with pytest.raises(MemoryLimitError, match=r"the available memory, .* smallest that works here"):
        bench.plan(bench.slide("x.tif"))


@pytest.mark.usefixtures("steady")
def test_blocks_in_flight_are_as_many_as_the_memory_takes(bench: Bench) -> None:
    slide = bench.slide("x.tif")
    plan = bench.plan(slide, max_memory_bytes=10**12)
    assert plan.threads == 2
    one, two = (plan.base_bytes + plan.planned[0].memory_bytes(threads) for threads in (1, 2))
    assert two > one
    assert bench.plan(slide, max_memory_bytes=two).threads == 2
    assert bench.plan(slide, max_memory_bytes=two - 1).threads == 1
    assert bench.plan(slide, max_memory_bytes=one).threads == 1
    with pytest.raises(UsageError, match="smallest that works"):
        bench.plan(slide, max_memory_bytes=one - 1)
    assert bench.plan(slide, max_memory_bytes=two, threads=2).threads == 2
    with pytest.raises(UsageError, match="smallest that works"):  # what was asked for is not quietly changed
        bench.plan(slide, max_memory_bytes=two - 1, threads=2)


@pytest.mark.usefixtures("steady")
def test_a_slide_that_needs_too_much_is_refused_and_the_others_go_on(bench: Bench) -> None:
    small, huge = bench.slide("small.tif"), bench.folder / "huge.tif"
    image = np.random.default_rng(0).integers(1, 255, (1500, 1500, 3), np.uint8)
    tifffile.imwrite(huge, image, photometric="rgb", rowsperstrip=1500, compression="deflate", metadata=None)
    roomy = bench.plan(small, huge, max_memory_bytes=10**12)
    needs = [roomy.base_bytes + p.memory_bytes(1) for p in roomy.planned]
    assert needs[1] - needs[0] > 5 * 10**6
    plan = bench.plan(huge, small, max_memory_bytes=needs[1] - 10**6)
    refused, planned = plan.slides
    assert isinstance(refused, Refused)
    assert "huge.tif needs " in refused.error
    assert "pieces of 1500 wide x 1500 high" in refused.error
    assert isinstance(planned, SlidePlan)


@pytest.mark.usefixtures("steady")
def test_what_is_finished_needs_no_memory(bench: Bench) -> None:
    slide = bench.slide("x.tif")
    finish(bench.one(slide))
    assert bench.one(slide, max_memory_bytes=1).action == SKIP


@pytest.mark.parametrize("shape", [(96, 128), (400, 900), (2000, 2000)])
def test_memory_does_not_depend_on_the_size_of_the_slide(bench: Bench, shape: tuple[int, int]) -> None:
    needs = [p.memory_bytes(2) for p in bench.plan(bench.slide("a.tif"), bench.slide("b.tif", shape=shape)).planned]
    assert needs[0] == needs[1]


def test_an_empty_cluster_is_this_process() -> None:
    assert RunConfig(cluster=ClusterConfig()).cluster is None
