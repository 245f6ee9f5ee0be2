"""The fastest engine, tile and batch for a run, by measuring those that fit into the memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from wsipipe.events import PrecisionGain, SizesChosen
from wsipipe.inference.devices import AUTO, alternatives, is_cpu, layouts
from wsipipe.inference.gains import measure_gain
from wsipipe.inference.speeds import Size, Speeds, best_replicas, fits_device, measure
from wsipipe.pipeline.fitted_sizes import CORES
from wsipipe.pipeline.machine import BLOCKS_PER_REPLICA, default_threads
from wsipipe.pipeline.memory_need import weight_bytes
from wsipipe.pipeline.run_plan import RunPlan

BATCHES = (1, 2, 4, 8, 16)
"""Batches to choose from on GPUs; one tile is enough to keep a CPU busy."""
MOST_REPLICAS = 64
"""The most replicas to choose on a CPU."""
Ask = Callable[..., Any]
"""Calls a function where the blocks are computed, and returns its result."""


def ask_here(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The result of ``function``, called in this process."""
    return function(*args, **options)


def tune(run: RunPlan, ask: Ask = ask_here) -> tuple[RunPlan, SizesChosen]:
    """``run`` with the fastest engine, layout, tile and batch, unless the user fixed them; returns the choice, too.

    There must be slides to compute. Which engine is faster on a CPU depends on the network: OpenVINO takes 0.8 of
    torch's time for the nuclei model, and 1.8 times as long for one of 2 channels.

    Raises
    ------
    ModelError, MachineError
        As loading the network.
    """
    setup, to_do = run.setup, run.to_do
    asked, receptive = setup.asked, setup.receptive
    planned = max(to_do, key=lambda p: p.pixels).grid
    most = receptive.largest_core or planned.block
    cores = {planned.core, *(c for c in CORES if c <= most and c % receptive.stride == 0 and planned.block % c == 0)}
    batches = (1,) if is_cpu(setup.devices) else BATCHES
    wishes: list[Size] = [
        (core, batch)
        for core in (cores if asked.tile is None and not setup.approximate else (planned.core,))
        for batch in (batches if asked.batch is None else (asked.batch,))
    ]
    sizes = [size for size in wishes if _fits(run, size, ask)] or [(planned.core, setup.batch)]
    dtype, pixels = to_do[0].level.dtype, sum(p.pixels for p in to_do)
    engines: tuple[str, ...] = (setup.engine,)
    if asked.engine == AUTO and not setup.labels_by_engine:
        engines = alternatives(setup.engine, setup.devices, setup.model.network.kind)
    pools = [
        replace(setup.pool, engine=engine, channels_last=last)
        for engine in engines
        for last in layouts(engine, setup.devices, setup.precision)
    ]
    probes: list[Speeds] = [ask(measure, pool, receptive, [], dtype, pixels=pixels) for pool in pools]
    fastest = max(range(len(pools)), key=lambda i: max(probes[i].by_size.values()))
    speeds: Speeds = ask(measure, pools[fastest], receptive, sizes, dtype, pixels=pixels)
    core, batch = speeds.best(sizes)
    chosen = SizesChosen(
        engine=pools[fastest].engine,
        tile=core,
        batch=batch,
        block=planned.block,
        threads=run.threads,
        devices=len(setup.devices),
        bare=speeds.of((core, batch)),
        measured=(core, batch) in speeds.by_size,
        seconds=speeds.seconds + sum(probe.seconds for probe in probes),
    )
    setup = replace(setup, engine=chosen.engine, channels_last=pools[fastest].channels_last)
    return _with_replicas(_tiled(replace(run, setup=setup), (core, batch)), chosen, dtype, pixels, ask)


def _with_replicas(run: RunPlan, chosen: SizesChosen, dtype: str, pixels: int, ask: Ask) -> tuple[RunPlan, SizesChosen]:
    """``run`` with as many replicas on a CPU of many cores as are fastest, unless the user named devices."""
    site, size, most = run.setup.site, (chosen.tile, chosen.batch), 1
    run = replace(run, bare=chosen.bare, measured=chosen.measured)
    if site.device != AUTO or not is_cpu(site.devices) or site.per_machine > 1:
        return run, chosen
    tiles = (chosen.block // chosen.tile) ** 2  # in a block

    def is_possible(shared: RunPlan) -> bool:
        """Whether the blocks in flight have enough tiles for all replicas, and there is memory for both."""
        enough = shared.threads * tiles >= BLOCKS_PER_REPLICA * len(shared.setup.devices)
        return enough and _fits(shared, size, ask)

    while most < MOST_REPLICAS and is_possible(_on_cpus(run, 2 * most)):
        most *= 2
    count, each = ask(best_replicas, run.setup.pool, size, dtype, pixels=pixels, alone=chosen.bare, most=most)
    run = replace(_tiled(_on_cpus(run, count), size), bare=each)
    return run, replace(chosen, devices=count, bare=each, threads=run.threads)


def _on_cpus(run: RunPlan, count: int) -> RunPlan:
    """``run``, whose one replica is on the CPU, with ``count`` of them, and as many more blocks in flight."""
    if count == 1:
        return run
    setup, devices = run.setup, ("cpu",) * count
    model, engine = setup.model.path, setup.engine
    more = weight_bytes(model, devices, engine) - weight_bytes(model, setup.devices, engine)
    setup = replace(setup, site=replace(setup.site, device=",".join(devices), devices=devices))
    threads = setup.asked.threads or default_threads(devices)
    return replace(run, setup=setup, threads=threads, base_bytes=run.base_bytes + more)


def gain(run: RunPlan, chosen: SizesChosen, ask: Ask = ask_here) -> PrecisionGain | None:
    """What a lower precision would gain for ``run``; None if sizes are the user's, or it is not measured."""
    asked = run.setup.asked
    if run.setup.model.quantized or any(size is not None for size in (asked.tile, asked.block, asked.batch)):
        return None
    largest = max(run.to_do, key=lambda p: p.pixels)
    pixels = sum(p.pixels for p in run.to_do)
    found: PrecisionGain | None = ask(
        measure_gain, run.setup.pool, largest.level, chosen.tile, pixels=pixels, bare=chosen.bare
    )
    return found


def _tiled(run: RunPlan, size: Size) -> RunPlan:
    """``run`` with tiles and batches of ``size`` for the slides that it computes."""
    core, batch = size
    setup = replace(run.setup, batch=batch)
    return replace(run, setup=setup, slides=tuple(p.tiled(core, setup) if p in run.to_do else p for p in run.slides))


def _fits(run: RunPlan, size: Size, ask: Ask) -> bool:
    """Whether there is memory for tiles and batches of ``size``, here and on the devices."""
    tiled = _tiled(run, size)
    here = all(tiled.memory_bytes(plan) <= run.setup.limit_bytes for plan in tiled.to_do)
    return here and bool(ask(fits_device, tiled.setup.pool, run.setup.model.network, size))
