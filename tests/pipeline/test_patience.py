"""No run waits for ever: where tasks wait and no worker works, it ends with the reason, and resumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client, LocalCluster

import wsipipe
from tests.conftest import WriteSlide
from tests.faults import assert_same_bytes, finish, picture, shards, start, wait_until, write_model
from tests.faults import write_slide as write_pyramid
from tests.faults import wsipipe as command
from wsipipe.errors import MachineError
from wsipipe.events import BlockDone, Event
from wsipipe.pipeline.cluster import patience
from wsipipe.pipeline.cluster.patience import LOOK_SECONDS, Patience


class Scheduler:
    """A client whose scheduler says what a test wants it to say."""

    def __init__(self) -> None:
        self.workers: dict[str, Any] = {}

    def scheduler_info(self, **_: object) -> dict[str, Any]:
        return {"workers": self.workers}


def looks(client: Scheduler, count: int, *, seconds: float = 60.0) -> Iterator[Patience]:
    """A `Patience` of ``seconds`` after each of ``count`` looks."""
    now = [0.0]
    watch = Patience(client, seconds, clock=lambda: now[0])  # type: ignore[arg-type]
    for _ in range(count):
        now[0] += LOOK_SECONDS
        watch.look()
        yield watch


def test_a_wait_without_a_worker_ends_with_the_reason() -> None:
    with pytest.raises(MachineError, match=r"there was no worker for 60 s; .*the same command resumes"):
        list(looks(Scheduler(), 13))
    assert len(list(looks(Scheduler(), 11))) == 11


@pytest.mark.parametrize(
    ("seen", "counts"), [(True, {"ready": 4}), (False, {"executing": 4})], ids=["paused", "silent"]
)
def test_a_wait_for_workers_that_do_not_work_ends(seen: bool, counts: dict[str, int]) -> None:
    client, at = Scheduler(), [0.0]

    def wait() -> None:
        for _ in looks(client, 20):
            at[0] += seen
            client.workers = {"tcp://w": {"last_seen": at[0], "metrics": {"task_counts": counts}}}

    with pytest.raises(MachineError, match="none of the 1 workers has worked for 60 s"):
        wait()


def test_a_wait_for_a_worker_that_works_or_for_tasks_that_end_goes_on() -> None:
    client = Scheduler()
    for i, _ in enumerate(looks(client, 100)):
        client.workers = {"tcp://w": {"last_seen": float(i), "metrics": {"task_counts": {"executing": 1}}}}
    for watch in looks(Scheduler(), 100):
        watch.reset()


def test_a_process_that_was_suspended_for_hours_has_not_waited() -> None:
    now = [0.0]
    watch = Patience(Scheduler(), 60.0, clock=lambda: now[0])  # type: ignore[arg-type]
    for _ in range(5):
        now[0] += 3600
        watch.look()


def test_a_run_whose_workers_left_ends_with_the_reason_and_the_same_command_resumes(
    tmp_path: Path, tiny_model: Path, write_slide: WriteSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "IDLE_SECONDS", 0.4)
    monkeypatch.setattr(patience, "LOOK_SECONDS", 0.2)
    slide = write_slide(tmp_path / "a.tif", (256, 256))
    sizes: dict[str, Any] = {"device": "cpu", "engine": "torch", "block": 64, "tile": 64, "tissue": "off"}
    with LocalCluster(1, processes=False, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        there = wsipipe.ClusterConfig(scheduler=cluster.scheduler_address)
        config = wsipipe.RunConfig(out=str(tmp_path / "out"), model=str(tiny_model), cluster=there, **sizes)

        def leave(event: Event) -> None:
            if isinstance(event, BlockDone) and cluster.workers:
                cluster.scale(0)

        stopped = wsipipe.run([slide], config, leave)
    assert stopped.exit_code == 3
    assert "the same command resumes" in stopped.stopped, stopped.stopped
    for out in ("out", "undisturbed"):
        config = wsipipe.RunConfig(out=str(tmp_path / out), model=str(tiny_model), **sizes)
        assert wsipipe.run([slide], config).exit_code == 0
    assert_same_bytes(tmp_path / "out" / "a.zarr", tmp_path / "undisturbed" / "a.zarr")


class Hung:
    """A task that has ended on a worker that hangs since then."""

    def cancelled(self) -> bool:
        return False

    def exception(self, timeout: float) -> None:
        assert timeout == patience.IDLE_SECONDS

    def result(self, timeout: float) -> None:
        assert timeout == patience.IDLE_SECONDS
        raise TimeoutError


class Gone(Hung):
    """A task that had ended, and waits again since the only worker has left with its result."""

    def exception(self, timeout: float) -> None:
        assert timeout == patience.IDLE_SECONDS
        raise TimeoutError


def test_a_result_on_a_worker_that_hangs_is_not_waited_for_for_ever() -> None:
    with pytest.raises(MachineError, match=r"has not handed over a result for 120 s; .* the same command resumes"):
        patience.result_of(Hung())  # type: ignore[arg-type]
    with pytest.raises(MachineError, match=r"has not handed over a result for 120 s; .* the same command resumes"):
        patience.error_of(Gone())  # type: ignore[arg-type]


def be_impatient() -> None:
    """Have a process wait for workers that hang for seconds only."""
    patience.IDLE_SECONDS, patience.LOOK_SECONDS = 4.0, 0.5


@pytest.mark.soak
@pytest.mark.parametrize("hung", [1, 2])
def test_a_run_whose_workers_hang_ends_with_the_reason_and_the_same_command_resumes(tmp_path: Path, hung: int) -> None:
    slide, model = write_pyramid(tmp_path / "a.tif", picture((1500, 1500))), write_model(tmp_path / "m.safetensors")
    given = ["run", slide, "-m", model, "-o", tmp_path, "--block", 128, "--tile", 128, "--device", "cpu"]
    begun = tmp_path / "a.zarr.partial"
    process = start(*given, "--cluster", "local:2", "--threads", 1, first=be_impatient, log=tmp_path / "log")
    assert wait_until(lambda: begun.exists() and len(shards(begun)) > 3, process)
    started = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(started) == 2
    for worker in started[:hung]:
        worker.suspend()
    stdout = finish(process)
    assert process.returncode == 3, (tmp_path / "log").read_text()
    assert "the same command resumes" in stdout
    assert not any(worker.is_running() for worker in started)
    assert command(*given).returncode == 0
