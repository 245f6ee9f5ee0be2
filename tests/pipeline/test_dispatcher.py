"""Runs that stop in good order, and slides that other runners have."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from distributed.scheduler import KilledWorker

import wsipipe
from tests.conftest import WriteSlide
from tests.faults import assert_same_bytes
from tests.nightly.nights import Clock, blocks_take
from wsipipe.cli import cli
from wsipipe.events import BlockDone, Event
from wsipipe.leases.holder import Holder
from wsipipe.leases.lease import HEART, Lease
from wsipipe.leases.leases import Leases
from wsipipe.model.model_file import read_model_info
from wsipipe.pipeline import dispatcher
from wsipipe.pipeline.dispatcher import Limits
from wsipipe.pipeline.run import run
from wsipipe.pipeline.summary import DONE, FAILED, OPEN, SKIPPED, TAKEN, RunSummary
from wsipipe.store import content
from wsipipe.store.spec import StoreSpec

SIDE = 64


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path) -> wsipipe.RunConfig:
    return wsipipe.RunConfig(
        out=str(tmp_path / "out"),
        model=str(tiny_model),
        device="cpu,cpu",
        engine="torch",
        block=SIDE,
        tile=SIDE,
        threads=1,
        tissue="off",
    )


@pytest.fixture
def slides(tmp_path: Path, write_slide: WriteSlide) -> list[Path]:
    """Slides of 16, 4 and 4 blocks of equal size."""
    sizes = {"a": (4 * SIDE, 4 * SIDE), "b": (2 * SIDE, 2 * SIDE), "c": (2 * SIDE, 2 * SIDE)}
    return [write_slide(tmp_path / f"{name}.tif", shape, seed=ord(name)) for name, shape in sizes.items()]


def told(summary: RunSummary) -> list[str]:
    return [slide.status for slide in summary.slides]


def assert_as_undisturbed(slides: list[Path], config: wsipipe.RunConfig, tmp_path: Path) -> None:
    undisturbed = replace(config, out=str(tmp_path / "undisturbed"))
    assert told(run(slides, undisturbed)) == [DONE] * len(slides)
    for slide in slides:
        assert_same_bytes(Path(config.out) / f"{slide.stem}.zarr", Path(undisturbed.out) / f"{slide.stem}.zarr")
    assert sorted(path.name for path in Path(config.out).iterdir()) == [f"{slide.stem}.zarr" for slide in slides]


# --- time -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_no_block_begins_that_would_not_end_in_time_and_what_is_open_is_resumed(
    tmp_path: Path, config: wsipipe.RunConfig, slides: list[Path], monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Blocks take 100 s each by a clock that moves with them, and the network was measured to be as fast as that."""
    clock, config = Clock(0.0), replace(config, threads=threads)
    margin = read_model_info(str(config.model)).receptive.margin
    blocks_take(100, SIDE + margin, monkeypatch)
    ends: list[float] = []
    computed: list[tuple[str, tuple[int, int]]] = []

    def listener(event: Event) -> None:
        if isinstance(event, BlockDone):
            clock.now += 100 / threads
            ends.append(clock())
            computed.append((event.slide, event.index))

    runs, left = 0, 24
    while left:
        ends.clear()
        until = clock() + 950
        summary = run(slides, config, listener, limits=Limits(until=until, clock=clock))
        runs += 1
        assert len(ends) == min(left, 9 * threads)
        assert max(ends) <= until
        left = 24 - len(computed)
        still_open = [slide for slide in summary.slides if slide.status == OPEN]
        assert (left > 0) == bool(still_open) == bool(summary.ended)
        assert all("no block would end before" in slide.message for slide in still_open)
        assert (summary.exit_code, summary.stopped) == (0, "")
    assert runs == {1: 3, 2: 2}[threads]
    assert len(set(computed)) == 24, "no block is computed twice"
    monkeypatch.undo()
    assert_as_undisturbed(slides, config, tmp_path)


def test_nothing_begins_when_the_time_is_up_already(config: wsipipe.RunConfig, slides: list[Path]) -> None:
    clock = Clock(1000.0)
    summary = run(slides, config, limits=Limits(until=999.0, clock=clock))
    assert told(summary) == [OPEN] * 3
    assert summary.exit_code == 0
    assert list(Path(config.out).iterdir()) == []


def test_what_is_left_after_the_blocks_is_done_when_time_is_up(
    tmp_path: Path, config: wsipipe.RunConfig, slides: list[Path]
) -> None:
    """Coarse levels take an instant: a slide whose blocks are all there gets its name."""
    clock = Clock(0.0)

    def listener(event: Event) -> None:
        clock.now += 1e9 * isinstance(event, BlockDone)

    summary = run([slides[1]], config, listener, limits=Limits(until=1e6, clock=clock))
    assert told(summary) == [DONE]
    assert summary.ended == "", "nothing is left"
    assert_as_undisturbed([slides[1]], config, tmp_path)


# --- space ----------------------------------------------------------------------------------------------------


def test_a_run_stops_cleanly_below_the_reserve_and_resumes_with_more_space(
    tmp_path: Path, config: wsipipe.RunConfig, slides: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10**9]
    done: Counter[str] = Counter()

    def listener(event: Event) -> None:
        if isinstance(event, BlockDone):
            done[Path(event.slide).stem] += 1
            free[0] -= 10**8

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free[0]))
    summary = run(slides, config, listener, limits=Limits(reserve_bytes=5 * 10**8))
    assert told(summary) == [OPEN, OPEN, OPEN]
    assert summary.exit_code == 3
    assert summary.stopped.startswith(f"{config.out} has ")
    assert summary.stopped.endswith("MB free, less than the reserve of 500MB; free some space")
    begun = done["a"]
    assert 5 < begun < 16, "what the workers had was finished"
    assert len(list(Path(config.out).glob("a.zarr.partial/0/c/*/*"))) == begun
    monkeypatch.undo()
    done.clear()
    assert told(run(slides, config, listener, limits=Limits(reserve_bytes=1))) == [DONE, DONE, DONE]
    assert done == {"a": 16 - begun, "b": 4, "c": 4}
    assert_as_undisturbed(slides, config, tmp_path)


def test_a_disk_that_was_full_for_a_moment_stops_the_run_with_its_reason(
    config: wsipipe.RunConfig, slides: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([1])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free, 10**9)))
    summary = run(slides, config, limits=Limits(reserve_bytes=10**6))
    assert told(summary) == [OPEN] * 3
    assert (summary.exit_code, "free some space" in summary.stopped) == (3, True)


def test_a_disk_that_gets_full_with_the_last_block_fails_nothing(
    config: wsipipe.RunConfig, slides: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10**9]

    def listener(event: Event) -> None:
        if isinstance(event, BlockDone):
            free[0] = 1

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free[0]))
    summary = run([slides[1]], config, listener, limits=Limits(reserve_bytes=10**6))  # 4 blocks, handed over at once
    assert told(summary) == [DONE]
    assert (summary.exit_code, summary.stopped, summary.ended) == (0, "", "")


# --- workers that die -----------------------------------------------------------------------------------------


def test_a_slide_whose_coarser_levels_kill_workers_fails_alone_and_its_blocks_stay(
    config: wsipipe.RunConfig, slides: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(spec: StoreSpec, *given: object, real: Callable[..., object]) -> object:
        if Path(spec.path).name == "a.zarr":
            raise KilledWorker("a task", SimpleNamespace(address="tcp://gone"), 2)
        return real(spec, *given)

    for step, other in (("write_coarse_chunks", DONE), ("count_labels", SKIPPED)):
        with monkeypatch.context() as patched:
            patched.setattr(content, step, partial(die, real=getattr(content, step)))
            failed = run(slides[:2], config)
        assert told(failed) == [FAILED, other]
        assert "a.tif: the worker died each time that it made the coarser levels" in failed.slides[0].message
        assert "a.zarr.partial; check the worker logs" in failed.slides[0].message
    again = run(slides[:2], config)
    assert (told(again), again.slides[0].blocks_computed) == ([DONE, SKIPPED], 0)


# --- other runners --------------------------------------------------------------------------------------------


def held(config: wsipipe.RunConfig, slide: Path) -> Lease:
    """The lease of ``slide``, held by another runner, and renewed only when a test does it."""
    Path(config.out).mkdir(exist_ok=True)
    with patch.object(HEART, "add"), patch.object(HEART, "remove"):
        lease = Leases().take(Path(config.out) / f"{slide.stem}.zarr.lease")
    assert isinstance(lease, Lease)
    return lease


class Sleeps:
    """Replaces sleep: calls ``then`` with the number of each, of which there must not be many."""

    def __init__(self, then: Callable[[int], object]) -> None:
        self.then, self.count = then, 0

    def __call__(self, _seconds: float) -> None:
        self.count += 1
        assert self.count < 20, "it waits for ever"
        self.then(self.count)


def test_slides_of_living_runners_are_told_taken_and_the_others_are_done(
    config: wsipipe.RunConfig, slides: list[Path]
) -> None:
    """Their heartbeats need not fall together."""
    others = [held(config, slides[0]), held(config, slides[2])]
    sleeps = Sleeps(lambda count: others[count % 2].renew())
    summary = run(slides, config, limits=Limits(sleep=sleeps))
    assert told(summary) == [TAKEN, DONE, TAKEN]
    assert summary.exit_code == 0
    assert summary.slides[0].message == str(others[0].holder)
    assert sleeps.count == 2
    for lease in others:
        assert not lease.lost
        lease.release()
    assert told(run(slides, config)) == [DONE, SKIPPED, DONE]


def test_the_command_says_taken_and_ends_with_0(
    config: wsipipe.RunConfig, slides: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = held(config, slides[1])
    limits = Limits(sleep=Sleeps(lambda _: lease.renew()))
    monkeypatch.setattr("wsipipe.pipeline.run.Dispatcher", lambda *given: dispatcher.Dispatcher(*given[:4], limits))
    options = ["-m", config.model, "-o", config.out, "--block", "64", "--tile", "64", "--device", "cpu"]
    ended = CliRunner().invoke(cli, ["run", *map(str, slides[1:]), *options])
    assert ended.exit_code == 0, ended.output
    assert f"b.tif: taken by {lease.holder}" in ended.stderr
    assert f"taken    b.tif -> {config.out}/b.zarr: {lease.holder}" in ended.stdout
    assert "1 done, 0 skipped, 0 failed, 1 taken" in ended.stdout
    lease.release()


def test_a_slide_that_another_runner_lets_go_of_is_done_and_one_that_it_has_done_is_skipped(
    tmp_path: Path, config: wsipipe.RunConfig, slides: list[Path]
) -> None:
    elsewhere = replace(config, out=str(tmp_path / "elsewhere"))
    run(slides, elsewhere)
    let_go, done = held(config, slides[0]), held(config, slides[1])

    def others(count: int) -> None:
        if count == 2:
            let_go.release()
        if count == 3:
            shutil.copytree(Path(elsewhere.out) / "b.zarr", Path(config.out) / "b.zarr")
            done.release()

    summary = run(slides, config, limits=Limits(stay=True, sleep=Sleeps(others)))
    assert told(summary) == [DONE, SKIPPED, DONE]
    assert_as_undisturbed(slides, config, tmp_path)


def test_a_slide_that_another_runner_left_halfway_is_resumed(
    tmp_path: Path, config: wsipipe.RunConfig, slides: list[Path]
) -> None:
    """It was not begun when this run looked at it."""
    elsewhere = replace(config, out=str(tmp_path / "elsewhere"))
    run(slides, elsewhere)
    lease = held(config, slides[0])

    def other(_count: int) -> None:
        begun = Path(config.out) / "a.zarr.partial"
        shutil.copytree(Path(elsewhere.out) / "a.zarr", begun)
        root = begun / "zarr.json"
        root.write_text(root.read_text().replace('"complete": true', '"complete": false'))
        for name in ("0/c/0/1", "0/c/3/3"):
            (begun / name).unlink()
        lease.release()

    summary = run(slides, config, limits=Limits(stay=True, sleep=Sleeps(other)))
    assert told(summary) == [DONE] * 3
    assert summary.slides[0].blocks_computed == 2
    assert_as_undisturbed(slides, config, tmp_path)


def test_a_runner_that_waits_ends_when_its_time_is_up(config: wsipipe.RunConfig, slides: list[Path]) -> None:
    clock, lease = Clock(0.0), held(config, slides[0])
    sleeps = Sleeps(lambda _: clock.sleep(100))
    summary = run([slides[0]], config, limits=Limits(until=450, stay=True, clock=clock, sleep=sleeps))
    assert told(summary) == [TAKEN]
    assert sleeps.count == 5
    assert summary.exit_code == 0
    assert not lease.lost
    lease.release()


def test_of_slides_that_are_let_go_of_no_more_are_taken_than_there_is_work_for(
    config: wsipipe.RunConfig, slides: list[Path]
) -> None:
    """Several runners wait for the slides of one that died: each takes one after the other."""
    theirs = [held(config, slide) for slide in slides]
    most = [0]

    def listener(event: Event) -> None:
        if isinstance(event, BlockDone):
            most[0] = max(most[0], len(list(Path(config.out).glob("*.lease"))))

    def others(_count: int) -> None:
        for lease in theirs:
            lease.release()

    assert told(run(slides, config, listener, limits=Limits(stay=True, sleep=Sleeps(others)))) == [DONE] * 3
    assert most == [1]


def test_a_slide_that_was_taken_over_is_left_alone(
    config: wsipipe.RunConfig, slides: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that slept for an hour wakes up, and its slide is another's."""
    mine: list[Lease] = []

    class Kept(Leases):
        def take(self, path: Path) -> Lease | Holder:
            lease = super().take(path)
            if isinstance(lease, Lease):
                mine.append(lease)
            return lease

    def listener(event: Event) -> None:
        if isinstance(event, BlockDone) and not mine[0].lost:
            shutil.rmtree(mine[0].path)
            mine[0].renew()

    monkeypatch.setattr(dispatcher, "Leases", partial(Kept))
    summary = run(slides[:2], config, listener)
    assert told(summary) == [TAKEN, DONE]
    assert summary.slides[0].message == "taken over by another runner while this one was suspended"
    assert summary.exit_code == 0
    assert not (Path(config.out) / "a.zarr").exists()
    assert not list(Path(config.out).glob("*.lease*"))
    assert told(run(slides[:2], config)) == [DONE, SKIPPED]


def test_what_was_begun_and_is_gone_when_its_turn_comes_is_begun_anew(
    tmp_path: Path, config: wsipipe.RunConfig, slides: list[Path]
) -> None:
    elsewhere = replace(config, out=str(tmp_path / "elsewhere"))
    run(slides, elsewhere)
    begun = Path(config.out) / "b.zarr.partial"
    shutil.copytree(Path(elsewhere.out) / "b.zarr", begun)
    root = begun / "zarr.json"
    root.write_text(root.read_text().replace('"complete": true', '"complete": false'))
    (begun / "0/c/0/1").unlink()
    lease = held(config, slides[1])

    def other(_count: int) -> None:
        shutil.rmtree(begun)
        lease.release()

    summary = run([slides[1]], config, limits=Limits(stay=True, sleep=Sleeps(other)))
    assert (told(summary), summary.slides[0].blocks_computed) == ([DONE], 4)
    assert_as_undisturbed([slides[1]], config, tmp_path)


def test_a_cluster_that_has_no_worker_for_a_moment_is_given_work_all_the_same(
    tmp_path: Path, config: wsipipe.RunConfig, slides: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([0, 0, 2, 0])
    real = dispatcher.Dispatcher

    def no_workers(*given: object) -> dispatcher.Dispatcher:
        return real(*given[:3], lambda: next(counts, 0), given[4])  # type: ignore[arg-type]

    monkeypatch.setattr("wsipipe.pipeline.run.Dispatcher", no_workers)
    assert told(run(slides, config)) == [DONE] * 3
    assert_as_undisturbed(slides, config, tmp_path)
