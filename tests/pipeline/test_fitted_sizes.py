"""Sizes not given are chosen: by memory before the run, by measuring at its start; those given stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.big import write_big_slide
from wsipipe.geometry.grid import Grid
from wsipipe.geometry.network import UNetSizes
from wsipipe.inference.pool import PoolSpec
from wsipipe.inference.speeds import Size, Speeds
from wsipipe.model.model_file import save_unet
from wsipipe.model.spec import ModelSpec, default_classes
from wsipipe.model.unet import UNet
from wsipipe.pipeline import measured_sizes as tune
from wsipipe.pipeline import run_plan
from wsipipe.pipeline.config import RunConfig
from wsipipe.pipeline.machine import RUNTIME_BYTES
from wsipipe.pipeline.memory_need import MOST_KEPT_BYTES, kept_bytes, network_bytes
from wsipipe.pipeline.run_plan import RunPlan, plan_run
from wsipipe.pipeline.setup import resolve
from wsipipe.slides.open import open_slide

BASE = 200 * 10**6
MB = 10**6


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_big_slide(tmp_path_factory.mktemp("sizes") / "big.zarr", 20_000)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sizes") / "b.safetensors"
    save_unet(path, UNet(3, 2, base_channels=16, depth=4), ModelSpec(default_classes(2)))
    return path


@pytest.fixture
def plan(tmp_path: Path, slide: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunPlan]:
    monkeypatch.setattr(run_plan, "loaded_bytes", lambda *_: BASE - RUNTIME_BYTES)

    def plan(limit: int, **config: Any) -> RunPlan:
        values = {"out": str(tmp_path / "out"), "model": str(model), "device": "cpu", "engine": "torch"}
        values |= {"tissue": "off"} | config
        run = plan_run([str(slide)], resolve(RunConfig(max_memory_bytes=limit, **values)))
        assert all(run.memory_bytes(p) <= limit for p in run.to_do)
        return run

    return plan


def sizes(run: RunPlan) -> tuple[int, int, int]:
    """(core, block, threads)."""
    (only,) = run.planned
    return only.grid.core, only.grid.block, run.threads


def test_sizes_shrink_with_the_memory_and_no_more_than_they_must(plan: Callable[..., RunPlan]) -> None:
    assert sizes(plan(10**12)) == (1024, 2048, 2)
    found = [sizes(plan(limit * MB)) for limit in (1000, 650, 480, 400, 340, 300)]
    assert found == sorted(found, reverse=True)
    assert found[0] == (1024, 2048, 2)
    assert found[-1][0] == 256
    assert {core for core, _, _ in found} == {1024, 512, 256}
    assert all(threads == 2 for core, _, threads in found if core > 256), "tiles shrink before only one block is left"


@pytest.mark.parametrize("told", [{"tile": 512}, {"block": 1024}, {"threads": 1}, {"batch": 3}], ids=str)
def test_what_is_told_stays_whatever_the_memory(plan: Callable[..., RunPlan], told: dict[str, int]) -> None:
    for limit in (10**12, 900 * MB):
        run = plan(limit, **told)
        core, block, threads = sizes(run)
        have = {"tile": core, "block": block, "threads": threads, "batch": run.setup.batch}
        assert have | told == have


def test_more_gpus_have_more_blocks_in_flight_before_larger_ones(plan: Callable[..., RunPlan]) -> None:
    assert sizes(plan(10**12, threads=8))[1:] == (2048, 8)
    core, block, threads = sizes(plan(700 * MB, threads=8))
    assert (core, threads) == (1024, 8)
    assert block < 2048


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[Size, float]:
    """What measuring finds, of the sizes that it is asked for."""
    table: dict[Size, float] = {}

    def measure(spec: PoolSpec, receptive: Any, wishes: Iterable[Size], _dtype: str, *, pixels: int) -> Speeds:
        assert pixels == 20_000**2
        factor = {"torch": 1.0, "openvino": 1.5}[spec.engine]
        by_size = {size: factor * table.get(size, 1.0) for size in [(256, 1), *wishes]}
        return Speeds(by_size, receptive, 0.5)

    monkeypatch.setattr(tune, "measure", measure)
    return table


def test_the_fastest_tile_that_fits_is_taken(plan: Callable[..., RunPlan], measured: dict[Size, float]) -> None:
    measured[2048, 1] = 5.0
    run, chosen = tune.tune(plan(10**12))
    assert sizes(run) == (2048, 2048, 2)
    assert (chosen.tile, chosen.batch, chosen.block, chosen.bare, chosen.seconds) == (2048, 1, 2048, 5.0, 1.0)
    assert run.bare == run.measured_bare == 5.0
    tight = plan(1000 * MB)
    assert sizes(tune.tune(tight)[0]) == (1024, 2048, 2)  # 2048 px take 1.6 GB
    assert sizes(tune.tune(plan(10**12, tile=512))[0]) == (512, 2048, 2)
    measured[256, 1] = 50.0
    run, _ = tune.tune(plan(10**12))
    assert sizes(run) == (256, 2048, 2)
    (before,), (after,) = plan(10**12).planned, run.planned
    assert after.network_bytes < before.network_bytes / 4
    assert after.store == replace(before.store, grid=replace(before.grid, core=256))


def test_the_faster_engine_is_taken_unless_it_is_told(
    plan: Callable[..., RunPlan], measured: dict[Size, float]
) -> None:
    measured[1024, 1] = 3.0
    run, chosen = tune.tune(plan(10**12, engine="auto"))
    assert (chosen.engine, run.setup.pool.engine, chosen.bare) == ("openvino", "openvino", 4.5)
    assert tune.tune(plan(10**12, engine="torch"))[1].engine == "torch"


def test_torch_is_taken_where_openvino_is_slower(plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(spec: PoolSpec, receptive: Any, _sizes: object, _dtype: str, *, pixels: int) -> Speeds:
        return Speeds({(256, 1): {"torch": 2.0, "openvino": 1.0}[spec.engine] * pixels}, receptive, 0.0)

    monkeypatch.setattr(tune, "measure", measure)
    before = plan(10**12, engine="auto")
    assert tune.tune(before)[0].measured_bare == 0.0, "small tiles are no measure of the large ones that it takes"
    assert before.setup.pool.engine == "openvino"
    run, chosen = tune.tune(before)
    assert (chosen.engine, run.setup.pool.engine) == ("torch", "torch")
    assert run.to_do[0].network_bytes < before.to_do[0].network_bytes
    told, _ = tune.tune(plan(10**12, engine="openvino"))
    assert told.setup.pool.engine == "openvino"


def test_batches_are_tried_on_gpus_only(
    plan: Callable[..., RunPlan], measured: dict[Size, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured[1024, 4] = 10.0
    run, _ = tune.tune(plan(10**12))
    assert run.setup.pool.batch == 1
    monkeypatch.setattr(tune, "is_cpu", lambda _: False)
    run, chosen = tune.tune(plan(10**12))
    assert (run.setup.pool.batch, chosen.batch, chosen.tile) == (4, 4, 1024)
    run, _ = tune.tune(plan(10**12, batch=2))
    assert run.setup.pool.batch == 2


def test_the_faster_layout_is_taken(plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    speed = {True: 1.0}

    def measure(spec: PoolSpec, receptive: Any, _sizes: object, _dtype: str, *, pixels: int) -> Speeds:
        return Speeds({(256, 1): speed[spec.channels_last] * pixels}, receptive, 0.0)

    monkeypatch.setattr(tune, "measure", measure)
    for speed[False], layouts, last in [(0.5, (True, False), True), (2.0, (True, False), False), (2.0, (True,), True)]:
        monkeypatch.setattr(tune, "layouts", lambda *_, found=layouts: found)
        run, chosen = tune.tune(plan(10**12))
        assert (run.setup.pool.channels_last, chosen.engine) == (last, "torch")


def test_replicas_on_many_cores_are_planned_for(
    plan: Callable[..., RunPlan], measured: dict[Size, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured[1024, 1] = 8.0
    asked = list[int]()

    def best_replicas(_pool: PoolSpec, _size: Size, _dtype: str, *, pixels: int, alone: float, most: int) -> Any:
        assert pixels > 0
        asked.append(most)
        return min(most, 4), alone / 2

    monkeypatch.setattr(tune, "best_replicas", best_replicas)
    before = plan(10**12, device="auto")
    run, chosen = tune.tune(before)
    assert (chosen.devices, run.setup.devices, chosen.bare, run.bare) == (4, ("cpu",) * 4, 4.0, 4.0)
    assert run.setup.pool.device == "cpu,cpu,cpu,cpu"
    assert (run.threads, chosen.threads) == (8, 8), "one block of each computes, and one is read or written"
    assert run.memory_bytes(run.to_do[0]) - run.base_bytes == run.to_do[0].memory_bytes(8)
    assert run.to_do[0].network_bytes == 4 * before.to_do[0].network_bytes
    assert run.base_bytes > before.base_bytes
    tight = plan(2000 * MB, device="auto")
    run, chosen = tune.tune(tight)
    assert run.memory_bytes(run.to_do[0]) <= 2000 * MB
    assert asked == [tune.MOST_REPLICAS, chosen.devices]
    assert tune.tune(plan(10**12, device="cpu"))[1].devices == 1, "as the user says"
    assert sizes(plan(10**12, device="cpu,cpu,cpu"))[2] == 6
    for told, most in [({"threads": 2}, 4), ({"threads": 2, "tile": 2048}, 1), ({"tile": 2048}, tune.MOST_REPLICAS)]:
        run, _ = tune.tune(plan(10**13, device="auto", **told))
        assert (asked[-1], run.threads) == (most, told.get("threads", 8)), "more would wait for tiles"


@pytest.mark.parametrize("probabilities", [False, True])
def test_pinned_memory_is_counted_as_torch_allocates_it(plan: Callable[..., RunPlan], probabilities: bool) -> None:
    """Powers of two, by two lanes, of which smaller ones take as much again; on a CPU there is none."""
    setup = plan(10**12, batch=3, probabilities=probabilities).setup
    network, core, side = setup.model.network, 1024, 1024 + setup.receptive.margin
    assert 2 * 3 * 3 * side**2 == 26_440_992
    rounded = 2**25 + 2**22 + probabilities * 2**23  # pixels, labels, probabilities of two classes
    assert 3 * core**2 == 3 * 2**20
    assert network_bytes(network, side, setup.pool, ("cuda:0",)) == 2 * 2 * rounded
    assert network_bytes(network, side, setup.pool, ("cuda:0", "cuda:1")) == 4 * 2 * rounded
    cpu = network_bytes(network, side, setup.pool, ("cpu",))
    assert (
        cpu
        == 26_440_992 + setup.pool.tensor_bytes(network, side, 3)
        == network_bytes(network, side, setup.pool, ("mps",))
    )


@pytest.mark.parametrize(
    ("layout", "kept"),
    [
        ({"tile": (128, 128), "compression": "deflate"}, 6 * 2),  # 512 + 40 px high meet 6 tiles, 40 px wide 2
        ({"rowsperstrip": 64, "compression": "deflate"}, 10),  # 10 strips of 64 px, each as wide as the slide
        ({"tile": (128, 128)}, 0),  # as well read again
    ],
    ids=["tiles", "strips", "uncompressed"],
)
def test_tiles_that_blocks_share_are_planned_for(tmp_path: Path, layout: dict[str, Any], kept: int) -> None:
    tifffile.imwrite(tmp_path / "s.tif", np.ones((1500, 1500), np.uint8), metadata=None, **layout)
    level = open_slide(tmp_path / "s.tif").levels[0]
    receptive = UNetSizes(depth=2, convs=2).receptive
    assert receptive.margin == 40
    assert kept_bytes(level, Grid(level.shape, receptive, 256, 512)) == kept * level.tile[0] * level.tile[1]
    assert kept_bytes(level, Grid(level.shape, receptive, 256, 2048)) == 0, "there is no block to the right"
    huge = replace(level, tile=(64, MOST_KEPT_BYTES // 64), shape=(1500, MOST_KEPT_BYTES // 64))
    assert kept_bytes(huge, Grid(huge.shape, receptive, 256, 512)) == 0, "strips this wide do not fit"
