"""Real processes on one folder: no slide is done twice and none is left, whichever is stopped, killed or ended."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import wsipipe
from tests.conftest import WriteSlide
from tests.faults import Process, assert_same_bytes, finish, shards, start, summary, wait_until
from tests.nightly.nights import SMALL, events, log_rows, night_of, rows, statuses, write_night
from wsipipe.nightly import night as nights
from wsipipe.nightly.config import read_night
from wsipipe.nightly.night import run_night
from wsipipe.pipeline import dispatcher
from wsipipe.report.record import read_history, read_report

pytestmark = pytest.mark.slow
BLOCKS = {"a": 49, "b": 9, "c": 4, "d": 9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_slide: WriteSlide, tiny_model: Path) -> Path:
    """Four slides in ``in``, and the stores that one runner makes of them in ``undisturbed``."""
    folder = tmp_path_factory.mktemp("runners")
    for name, blocks in BLOCKS.items():
        side = 64 * int(blocks**0.5)
        write_slide(folder / "in" / f"{name}.tif", (side, side), seed=blocks + ord(name))
    config = night_of(folder, tiny_model).run_config()
    wsipipe.run([folder / "in"], config)
    (folder / "out").rename(folder / "undisturbed")
    return folder


@dataclass
class Runners:
    """Processes that share the slides of ``folder``, each with its own log and reports, and one folder of stores."""

    folder: Path
    model: Path
    out: Path
    processes: dict[str, Process] = field(default_factory=dict)

    def night(self, name: str) -> Process:
        """Start `wsipipe nightly`."""
        toml = write_night(
            self.out.with_name(f"{name}.toml"),
            inbox=[str(self.folder / "in")],
            out=str(self.out),
            model=str(self.model),
            report=f"reports-{name}",
            log=f"{name}.jsonl",
            settle="0s",
            tables=SMALL,
        )
        return self._start(name, "nightly", toml)

    def run(self, name: str) -> Process:
        """Start `wsipipe run`."""
        options = ["--device", "cpu,cpu", "--engine", "torch", "--block", 64, "--tile", 64, "--threads", 2]
        options += ["--tissue", "off", "--json"]
        return self._start(name, "run", self.folder / "in", "-m", self.model, "-o", self.out, *options)

    def _start(self, name: str, *arguments: object) -> Process:
        # A shell that starts pytest in the background has SIGINT ignored, and children inherit that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.processes[name] = start(*arguments, log=self.out.with_name(f"{name}.log"), first=impatient)
        finally:
            signal.signal(signal.SIGINT, before)
        return self.processes[name]

    def said(self, name: str) -> str:
        return self.out.with_name(f"{name}.log").read_text()

    def report(self, name: str) -> Path:
        return self.out.with_name(f"reports-{name}")

    def log(self, name: str) -> list[dict[str, Any]]:
        """The events that a night has logged so far."""
        path = self.out.with_name(f"{name}.jsonl")
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def slides_done(self, name: str) -> set[str]:
        """The slides that a night has done so far."""
        return {Path(row["slide"]).stem for row in events(self.log(name), "SlideDone")}

    def holds(self, name: str) -> list[str]:
        """The slides whose leases a process holds."""
        found = []
        for file in self.out.glob("*.zarr.lease/*.json"):
            try:
                pid = json.loads(file.read_bytes())["pid"]
            except (OSError, ValueError):
                continue  # it is being released, or written
            if pid == self.processes[name].pid:
                found.append(file.parent.name.removesuffix(".zarr.lease"))
        return found

    def halfway(self, name: str) -> bool:
        """Whether a process holds a slide, and has done some of its blocks."""
        return any(len(shards(self.out / f"{slide}.zarr.partial")) >= 6 for slide in self.holds(name))

    @contextmanager
    def stopped_halfway(self, name: str) -> Iterator[list[str]]:
        """Hold a process up in the middle of slides, which it yields, as on a machine that swaps; it stays alive."""
        process = self.processes[name]
        while True:
            assert wait_until(lambda: self.halfway(name), process), self.said(name)
            process.send_signal(signal.SIGSTOP)
            assert wait_until(lambda: state(process) == "T", process), self.said(name)
            if self.halfway(name):
                break
            process.send_signal(signal.SIGCONT)
        try:
            yield self.holds(name)
        finally:
            process.send_signal(signal.SIGCONT)

    def blocks_of(self, slide: str) -> dict[str, tuple[int, int]]:
        """The blocks of a slide that are done, in its partial store or its finished one."""
        return shards(self.out / f"{slide}.zarr.partial") | shards(self.out / f"{slide}.zarr")

    def assert_all_is_done(self) -> None:
        for name in BLOCKS:
            assert_same_bytes(self.out / f"{name}.zarr", self.folder / "undisturbed" / f"{name}.zarr")
        assert sorted(path.name for path in self.out.iterdir()) == [f"{name}.zarr" for name in BLOCKS]


@pytest.fixture
def runners(folder: Path, tiny_model: Path, tmp_path: Path) -> Iterator[Runners]:
    made = Runners(folder, tiny_model, tmp_path / "out")
    try:
        yield made
    finally:
        for process in made.processes.values():
            if process.poll() is None:
                process.kill()
                process.communicate()


def impatient() -> None:
    """Have this process look at its inbox again, and at what another holds, after moments and not seconds."""
    nights.INBOX_SECONDS = dispatcher.DISPATCH_CHECK_SECONDS = 0.1


def state(process: Process) -> str:
    """``T`` once it is stopped."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_two_nights_at_once_share_the_slides_and_do_none_twice(runners: Runners) -> None:
    first = runners.night("first")
    with runners.stopped_halfway("first") as held:
        second = runners.night("second")
        assert wait_until(lambda: bool(runners.slides_done("second")), second), runners.said("second")
    outputs = {"first": finish(first), "second": finish(second)}
    assert (first.returncode, second.returncode) == (0, 0), (runners.said("first"), runners.said("second"))

    done = {name: runners.slides_done(name) for name in outputs}
    assert done["first"] | done["second"] == set(BLOCKS)
    assert not done["first"] & done["second"]
    assert set(held) <= done["first"], "a living runner keeps its slides, however long it is held up"
    assert done["second"]
    logs = [log_rows(runners.out.with_name(f"{name}.jsonl")) for name in outputs]
    blocks = Counter((Path(row["slide"]).stem, *row["index"]) for log in logs for row in events(log, "BlockDone"))
    assert set(blocks.values()) == {1}
    assert Counter(name for name, *_ in blocks) == BLOCKS
    for name in outputs:
        told = statuses(runners.report(name))
        assert told == {f"{slide}.tif": "done" if slide in done[name] else "skipped" for slide in BLOCKS}
        assert f"{len(done[name])} done" in outputs[name]
    runners.assert_all_is_done()


def test_a_night_whose_runner_is_killed_is_finished_by_the_other(runners: Runners) -> None:
    victim = runners.night("victim")
    with runners.stopped_halfway("victim") as held:
        had = {name: shards(runners.out / f"{name}.zarr.partial") for name in held}
        others = set(BLOCKS) - set(held) - {path.stem for path in runners.out.glob("*.zarr")}
        survivor = runners.night("survivor")
        assert wait_until(
            lambda: bool(events(runners.log("survivor"), "RunStarted")) and runners.slides_done("survivor") == others,
            survivor,
        ), runners.said("survivor")
        assert survivor.poll() is None, "it waits for the slides of the other"
        assert {name: shards(runners.out / f"{name}.zarr.partial") for name in held} == had
        victim.kill()
    finish(victim)
    output = finish(survivor)
    assert (victim.returncode, survivor.returncode) == (-signal.SIGKILL, 0), runners.said("survivor")

    log = log_rows(runners.out.with_name("survivor.jsonl"))
    blocks = Counter(Path(row["slide"]).stem for row in events(log, "BlockDone"))
    for name in held:
        assert blocks[name] == BLOCKS[name] - len(had[name]), "blocks that the killed one wrote are not computed again"
        assert had[name].items() <= shards(runners.out / f"{name}.zarr").items()
    told = rows(runners.report("survivor"))
    assert {name for name, row in told.items() if row.status == "done"} == {f"{name}.tif" for name in {*held, *others}}
    assert f"{len(held) + len(others)} done" in output
    assert not runners.report("victim").exists()
    runners.assert_all_is_done()


@pytest.mark.soak  # as two nights do
def test_two_runs_of_the_same_command_at_once_do_no_slide_twice_and_exit_with_0(runners: Runners) -> None:
    first = runners.run("first")
    with runners.stopped_halfway("first") as held:
        others = set(BLOCKS) - set(held)
        second = runners.run("second")
        assert wait_until(lambda: {path.stem for path in runners.out.glob("*.zarr")} >= others, second)
    told = [summary(finish(process)) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), (runners.said("first"), runners.said("second"))
    computed: Counter[str] = Counter()
    for document in told:
        assert document["failed"] == 0
        for slide in document["slides"]:
            computed[Path(slide["slide"]).stem] += slide["blocks_computed"]
    assert computed == BLOCKS
    for slide in told[1]["slides"]:
        wanted = {"taken", "skipped"} if Path(slide["slide"]).stem in held else {"done", "skipped"}
        assert slide["status"] in wanted
    runners.assert_all_is_done()


def test_a_night_that_is_told_to_end_reports_and_exits_with_130_and_the_next_one_resumes(runners: Runners) -> None:
    seen: dict[str, dict[str, tuple[int, int]]] = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        process = runners.night("night")
        wanted = sum(map(len, seen.values())) + 15

        def came(wanted: int = wanted) -> bool:
            return sum(len(runners.blocks_of(name)) for name in BLOCKS) >= wanted

        assert wait_until(came, process), runners.said("night")
        process.send_signal(number)
        finish(process)
        assert process.returncode == 130
        said = runners.said("night")
        assert said.endswith("wsipipe: interrupted; the same command resumes where it stopped\n")
        assert "Traceback" not in said
        report = read_report(runners.report("night") / "report.json")
        assert (report.exit_code, report.stopped) == (130, "interrupted; the next night resumes")
        there = {path.stem for path in runners.out.glob("*.zarr")}
        for name, status in statuses(report).items():
            assert status in ({"done", "skipped"} if Path(name).stem in there else {"open"})
        assert "open" in statuses(report).values()
        assert not list(runners.out.glob("*.lease*"))
        now = {
            name: shards(runners.out / f"{name}.zarr.partial") | shards(runners.out / f"{name}.zarr") for name in BLOCKS
        }
        for name, kept in seen.items():
            assert kept.items() <= now[name].items(), "blocks that were done stay"
        seen = now
        time.sleep(1 - time.time() % 1)  # to the history, nights of this machine that begin within one second are one
    night = read_night(runners.out.with_name("night.toml"))
    report = run_night(night, sleep=lambda _: None)
    assert report.exit_code == 0
    assert set(statuses(report).values()) <= {"done", "skipped"}
    assert sum(row.pixels for row in report.slides) == 64 * 64 * (sum(BLOCKS.values()) - sum(map(len, seen.values())))
    assert [told.exit_code for told in read_history(runners.report("night") / "history.jsonl")] == [130, 130, 0]
    runners.assert_all_is_done()
