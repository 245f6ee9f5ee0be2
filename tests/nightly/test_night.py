"""Nights in real life: broken slides, slides still being copied in, weights that change, a disk that fills up."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

import wsipipe
from tests.conftest import WriteSlide
from tests.faults import assert_same_bytes, files, picture, write_model
from tests.faults import write_slide as write_pyramid
from tests.nightly.nights import (
    DAY,
    HOUR,
    SMALL,
    Clock,
    blocks_take,
    listing,
    night_of,
    rows,
    set_age,
    statuses,
)
from tests.real_data import data, needs_data
from tests.slides.made import scn
from tests.soak import rounds
from tests.tissue.drawn import glass
from wsipipe.errors import MachineError, UsageError, WsipipeError
from wsipipe.events import BlockDone, Event, ObjectsFound, SlideDone, SlideFailed, SlideStarted, Warned
from wsipipe.leases.leases import Leases
from wsipipe.model.model_file import read_model_info
from wsipipe.nightly.config import Night, read_night
from wsipipe.nightly.failures import size_and_change
from wsipipe.nightly.night import run_night, seconds_left_alone, slides_in
from wsipipe.nightly.projection import project
from wsipipe.pipeline import dispatcher
from wsipipe.pipeline.summary import RunSummary
from wsipipe.report.record import NightReport, moment, read_history, read_report


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of three classes for slides of 0.5 micrometres per pixel."""
    return write_model(tmp_path_factory.mktemp("model") / "small.safetensors")


class Nights:
    """One night after the other, a day apart."""

    def __init__(self, night: Night) -> None:
        self.night, self.clock = night, Clock()
        self.heard: list[Event] = []
        self.also: Callable[[Event], object] = lambda _: None

    def run(self, between_checks: Callable[[], object] = lambda: None) -> NightReport:
        """Run the next night; ``between_checks`` is called between the two checks of the files."""
        self.clock.now += DAY
        self.heard.clear()
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            if not slept:
                between_checks()
            slept.append(seconds)
            self.clock.sleep(seconds)

        def listener(event: Event) -> None:
            self.heard.append(event)
            self.also(event)

        report = run_night(self.night, listener, clock=self.clock, sleep=sleep)
        assert report == read_report(self.night.report / "report.json")
        return report

    def of(self, kind: type[Event], name: str = "slide") -> list[str]:
        """The file names in the events of one kind."""
        return [Path(getattr(event, name)).name for event in self.heard if isinstance(event, kind)]


def fill(folder: Path, write_slide: WriteSlide, good: int) -> None:
    """``good`` + `ODD` slides, in two folders, as a scanner and its users leave them."""
    for i in range(good):
        write_slide(folder / f"a/good-{i:02}.tif", (96, 128), seed=i)
    write_slide(folder / "a/twin.tif", seed=100)
    write_slide(folder / "b/twin.tif", seed=101)
    write_slide(folder / "a/no-mpp.tif", mpp=None)
    write_slide(folder / "b/x_20x_1.tif", mpp=None, seed=102)
    write_slide(folder / "a/cut.tif", (130, 130))
    os.truncate(folder / "a/cut.tif", (folder / "a/cut.tif").stat().st_size // 2)
    rotten = write_pyramid(folder / "a/rotten.tif", picture((300, 560)))
    with rotten.open("r+b") as file:  # within a tile that is compressed
        file.seek(rotten.stat().st_size // 3)
        file.write(bytes(2000))
    (folder / "a/notes.tif").write_text("slides of Monday\n")
    (folder / "b/empty.tif").touch()
    write_slide(folder / "b/copying.tif", seed=103)
    write_slide(folder / "b/growing.tif", seed=104)
    (folder / "b/half.tif").write_bytes(b"II*\0 and what is to come")
    write_slide(folder / "b/huge.tif", (200, 300), seed=105)
    write_slide(folder / "b/black.tif", seed=106)
    resolution = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        folder / "b/black.tif", np.zeros((90, 90, 3), np.uint8), photometric="rgb", metadata=None, **resolution
    )
    (folder / "b/readme.txt").write_text("no slide")


FAILED = {"a/no-mpp.tif", "a/cut.tif", "a/rotten.tif", "a/notes.tif", "b/black.tif", "b/empty.tif"}
ODD = 13
"""Faulty or unusual slides: six fail, three are still being copied in."""
MINUTE = 60


@pytest.mark.slow
@pytest.mark.parametrize("good", rounds(3, 27))
def test_nights_over_many_slides_report_the_truth_and_do_the_rest(
    tmp_path: Path, model: Path, write_slide: WriteSlide, good: int
) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    fill(inbox, write_slide, good)
    tables = SMALL + "[[slides]]\nmatch = '*_20x*'\nmpp = 0.5\n"
    nights = Nights(night_of(tmp_path, model, inbox=["in/a", "in/b"], tables=tables, retries=2))
    clock = nights.clock
    clock.now += DAY
    set_age(inbox / "b/copying.tif", MINUTE, clock)
    set_age(inbox / "b/half.tif", 30 * MINUTE, clock)
    clock.now -= DAY
    before = listing(inbox)

    def grow() -> None:
        with (inbox / "b/growing.tif").open("ab") as file:
            file.write(bytes(100))
        set_age(inbox / "b/growing.tif", DAY, clock)

    def unchanged() -> bool:
        now = listing(inbox)
        return {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)} <= {
            str(inbox / "b/growing.tif")
        }

    # --- the first night
    report = nights.run(grow)
    told = rows(report, parts=2)
    assert len(told) == good + ODD
    by_status = {status: {name for name, row in told.items() if row.status == status} for status in report.counts}
    done = set(told) - FAILED - {"b/copying.tif", "b/growing.tif", "b/half.tif"}
    assert by_status["done"] == done
    assert by_status["failed"] == FAILED
    assert by_status["waiting"] == {"b/copying.tif", "b/growing.tif", "b/half.tif"}
    assert (report.exit_code, report.stopped) == (1, "")
    remedy = "give [[slides]] mpp, e.g. [[slides]] mpp = 0.25 for a 40x scan"
    assert told["a/no-mpp.tif"].message.endswith(f'{remedy}\n[[slides]]\nmatch = "no-mpp.tif"\nmpp = 0.25')
    assert "cut.tif" in told["a/cut.tif"].message
    assert "could not be read" in told["a/rotten.tif"].message
    assert "changed 60 s ago, and settle = '5m', so copying may not have finished" in told["b/copying.tif"].message
    assert "still being copied in" in told["b/growing.tif"].message
    assert (
        "changed less than 12 times settle = '5m' ago, so copying may not have finished: half.tif "
        in told["b/half.tif"].message
    )
    assert all(told[name].attempts == (name in FAILED) for name in told)
    assert all(told[name].message == "" for name in done)
    assert "every pixel that was read is zero" in told["b/black.tif"].message
    assert told["b/huge.tif"].pixels == 200 * 300
    assert len([event for event in nights.heard if isinstance(event, BlockDone) and "huge" in event.slide]) == 20
    stores = {name: Path(str(told[name].store)) for name in done}
    assert len(set(stores.values())) == len(done)
    assert all(Path(row.slide).is_file() for row in told.values())
    assert {path.name for path in out.glob("*.zarr")} == {path.name for path in stores.values()}
    assert stores["b/twin.tif"] != stores["a/twin.tif"]
    assert {path.name for path in out.iterdir() if path.name not in {s.name for s in stores.values()}} == {
        ".failed",
        "reports",
        "rotten.zarr.partial",
    }
    for name in ("a/twin.tif", "b/twin.tif", "b/huge.tif"):  # the same as when it is run alone
        config = replace(nights.night.run_config(), out=str(tmp_path / "alone" / name))
        alone = Path(str(wsipipe.run([inbox / name], config).slides[0].store))
        if stores[name].name == alone.name:
            assert_same_bytes(stores[name], alone)
        assert files(stores[name] / "0") == files(alone / "0")
    assert unchanged()
    made = {name: listing(store) for name, store in stores.items()}

    # --- the second night: the slides that are left
    report = nights.run()
    told = rows(report, parts=2)
    late = {"b/copying.tif", "b/growing.tif"}
    failed = FAILED | {"b/half.tif"}
    assert {name: row.status for name, row in told.items()} == (
        dict.fromkeys(done, "skipped") | dict.fromkeys(late, "done") | dict.fromkeys(failed, "failed")
    )
    assert sorted(nights.of(SlideDone)) == ["copying.tif", "growing.tif"]
    assert {name: listing(store) for name, store in stores.items()} == made
    assert {name: told[name].attempts for name in failed} == dict.fromkeys(FAILED, 2) | {"b/half.tif": 1}
    assert unchanged()

    # --- the third and the fourth: slides that failed in two nights are set aside
    report = nights.run()
    told = rows(report, parts=2)
    assert {name for name, row in told.items() if row.status == "set aside"} == FAILED
    assert {name: row.attempts for name, row in told.items() if row.status == "failed"} == {"b/half.tif": 2}
    assert nights.of(SlideFailed) == ["half.tif"], "slides set aside are not tried"
    assert "[[slides]] mpp" in told["a/no-mpp.tif"].message
    assert told["a/no-mpp.tif"].message.startswith(
        "failed in 2 nights; it is tried again once its file, night.toml, or"
    )
    report = nights.run()
    assert (report.counts["set aside"], report.counts["failed"], report.counts["skipped"]) == (7, 0, good + ODD - 7)
    assert report.exit_code == 0, "nothing failed in this night"
    assert nights.of(SlideStarted) == []

    # --- a file is mended, then the configuration is changed
    write_slide(inbox / "a/cut.tif", (130, 130))
    report = nights.run()
    told = rows(report, parts=2)
    assert (told["a/cut.tif"].status, report.counts["set aside"]) == ("done", 6)
    with nights.night.path.open("a") as file:
        file.write("# and now?\n")
    nights.night = read_night(nights.night.path)
    told = rows(nights.run(), parts=2)
    assert {name: row.attempts for name, row in told.items() if row.status == "failed"} == dict.fromkeys(
        FAILED - {"a/cut.tif"} | {"b/half.tif"}, 1
    )
    assert [night.counts["done"] for night in read_history(nights.night.report / "history.jsonl")][:2] == [
        good + ODD - 9,
        2,
    ]
    assert len(read_history(nights.night.report / "history.jsonl")) == 6


# --- weights and files that change ----------------------------------------------------------------------------


@pytest.fixture
def inbox(tmp_path: Path, write_slide: WriteSlide) -> Path:
    """Three slides, of 4, 16 and 4 blocks."""
    for i, (name, side) in enumerate({"a": 128, "b": 256, "c": 128}.items()):
        write_slide(tmp_path / "in" / f"{name}.tif", (side, side), seed=i)
    return tmp_path / "in"


def test_new_weights_redo_slides_and_the_old_store_stays_until_the_new_one_is_complete(
    tmp_path: Path, inbox: Path, model: Path
) -> None:
    weights = shutil.copy(model, tmp_path / "weights.safetensors")
    nights = Nights(night_of(tmp_path, weights))
    assert set(statuses(nights.run()).values()) == {"done"}
    stores = {name: tmp_path / "out" / f"{name}.zarr" for name in "abc"}
    old = {name: listing(store) for name, store in stores.items()}
    assert set(statuses(nights.run()).values()) == {"skipped"}, "unchanged weights mean skip"
    assert {name: listing(store) for name, store in stores.items()} == old

    other = write_model(tmp_path / "other.safetensors", seed=1)
    shutil.copy(other, weights)  # at the same path
    seen = []

    def first_block(event: Event) -> None:
        if isinstance(event, BlockDone):
            seen.append(listing(stores[Path(event.slide).stem]) == old[Path(event.slide).stem])

    nights.also = first_block
    report = nights.run()
    assert set(statuses(report).values()) == {"done"}
    assert report.exit_code == 0
    assert len(seen) == 24
    assert all(seen), "the old one is there while the new one is made"
    config = replace(nights.night.run_config(), out=str(tmp_path / "undisturbed"), model=str(other))
    wsipipe.run([inbox], config)
    for name, store in stores.items():
        assert_same_bytes(store, tmp_path / "undisturbed" / f"{name}.zarr")
    nights.also = lambda _: None
    assert set(statuses(nights.run()).values()) == {"skipped"}


@pytest.mark.usefixtures("inbox")
def test_a_slide_that_was_set_aside_is_tried_again_once_its_region_is_corrected(tmp_path: Path, model: Path) -> None:
    def draw(x: int) -> None:
        square = [[x, 10], [x + 60, 10], [x + 60, 70], [x, 70], [x, 10]]
        polygon = {"type": "Polygon", "coordinates": [square]}
        (tmp_path / "a.geojson").write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": polygon}))

    draw(9000)
    tables = '[[slides]]\nmatch = "a.tif"\nroi = "a.geojson"\n' + SMALL
    nights = Nights(night_of(tmp_path, model, tables=tables, retries=1))
    assert statuses(nights.run())["a.tif"] == "failed"
    told = nights.run()
    assert statuses(told)["a.tif"] == "set aside"
    assert "once its file, night.toml, or its model or region changes" in rows(told)["a.tif"].message
    draw(10)
    assert statuses(nights.run())["a.tif"] == "done"


def test_a_night_that_wants_objects_measures_finished_slides_too(tmp_path: Path, inbox: Path, model: Path) -> None:
    nights = Nights(night_of(tmp_path, model))
    (inbox / "c.tif").rename(tmp_path / "c.tif")
    nights.run()
    made = {name: files(tmp_path / "out" / f"{name}.zarr" / "0") for name in "ab"}
    (tmp_path / "c.tif").rename(inbox / "c.tif")
    nights = Nights(night_of(tmp_path, model, tables=SMALL + "objects = true\nmin_area = 2.0\nsplit = true\n"))
    _, (projection,) = project(nights.night, nights.clock())
    assert [plan.action for plan in projection.plan.planned] == ["measure", "measure", "segment"]
    report = nights.run()
    assert set(statuses(report).values()) == {"done"}
    assert sorted(nights.of(ObjectsFound)) == ["a.tif", "b.tif", "c.tif"]
    for name in "ab":
        assert files(tmp_path / "out" / f"{name}.zarr" / "0") == made[name]
    for row in report.slides:
        counts = row.objects
        assert row.store is not None
        table = wsipipe.open_objects(row.store)
        assert sum(one.objects for one in counts) == table.count == table.dataset.count_rows() > 0
        assert (table.description.min_area_um2, table.description.split) == (2.0, True)
    assert f"class 1: {report.slides[0].objects[0].objects:,}" in (nights.night.report / "report.html").read_text()
    assert set(statuses(nights.run()).values()) == {"skipped"}


def test_a_slide_without_tissue_is_reported_and_not_tried_again(tmp_path: Path, inbox: Path, model: Path) -> None:
    write_pyramid(inbox / "glass.tif", glass((128, 192)))
    nights = Nights(night_of(tmp_path, model, tables=SMALL.replace("'off'", "'auto'")))
    report = nights.run()
    assert statuses(report) == {"a.tif": "done", "b.tif": "done", "c.tif": "done", "glass.tif": "no tissue"}
    row = rows(report)["glass.tif"]
    assert (report.exit_code, row.message, row.skipped) == (0, "", 128 * 192)
    assert "no tissue found" in row.warnings[0]
    assert set(statuses(nights.run()).values()) == {"skipped"}


def test_a_slide_that_was_scanned_again_is_done_again(
    tmp_path: Path, inbox: Path, model: Path, write_slide: WriteSlide
) -> None:
    nights = Nights(night_of(tmp_path, model))
    nights.run()
    made = {name: listing(tmp_path / "out" / f"{name}.zarr") for name in "abc"}
    write_slide(inbox / "a.tif", (128, 128), seed=77)
    report = nights.run()
    assert statuses(report) == {"a.tif": "done", "b.tif": "skipped", "c.tif": "skipped"}
    assert report.exit_code == 0
    for name in "bc":
        assert listing(tmp_path / "out" / f"{name}.zarr") == made[name]
    wsipipe.run([inbox / "a.tif"], replace(nights.night.run_config(), out=str(tmp_path / "undisturbed")))
    assert_same_bytes(tmp_path / "out" / "a.zarr", tmp_path / "undisturbed" / "a.zarr")


def test_a_store_of_other_weights_is_begun_anew_and_one_that_cannot_be_read_is_made_again(
    tmp_path: Path, inbox: Path, model: Path
) -> None:
    other = write_model(tmp_path / "other.safetensors", seed=1)
    out = tmp_path / "out"
    wsipipe.run([inbox], replace(night_of(tmp_path, other).run_config(), out=str(out)))
    (out / "a.zarr").rename(out / "a.zarr.partial")
    root = out / "a.zarr.partial" / "zarr.json"
    root.write_text(root.read_text().replace('"complete": true', '"complete": false'))
    (out / "a.zarr.partial" / "0/c/0/0").unlink()
    (out / "b.zarr" / "zarr.json").write_bytes(b"{")
    nights = Nights(night_of(tmp_path, model))
    report = nights.run()
    assert set(statuses(report).values()) == {"done"}
    assert len(nights.of(BlockDone)) == 24
    wsipipe.run([inbox], replace(nights.night.run_config(), out=str(tmp_path / "undisturbed")))
    for name in "abc":
        assert_same_bytes(out / f"{name}.zarr", tmp_path / "undisturbed" / f"{name}.zarr")


def test_something_else_at_the_path_of_a_store_is_refused_and_left_alone(
    tmp_path: Path, inbox: Path, model: Path
) -> None:
    mine = tmp_path / "out" / "a.zarr" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    before = listing(inbox, mine.parent)
    report = Nights(night_of(tmp_path, model)).run()
    assert statuses(report) == {"a.tif": "failed", "b.tif": "done", "c.tif": "done"}
    assert "a.zarr is in the way" in rows(report)["a.tif"].message
    assert listing(inbox, mine.parent) == before


# --- time and space -------------------------------------------------------------------------------------------


def test_a_night_ends_in_time_and_the_next_ones_resume(
    tmp_path: Path, inbox: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 blocks of 100 s each, in nights of 1000 s, two of which go into the second check of the files."""
    nights = Nights(night_of(tmp_path, model, tables=SMALL.replace("threads = 2", "threads = 1"), duration="1000s"))
    margin = read_model_info(str(model)).receptive.margin
    blocks_take(100, 64 + margin, monkeypatch)
    ends: list[float] = []

    def time_passes(event: Event) -> None:
        if isinstance(event, BlockDone):
            nights.clock.now += 100
            ends.append(nights.clock())

    nights.also = time_passes
    for blocks, wanted in (
        (9, {"a.tif": "done", "b.tif": "open", "c.tif": "open"}),
        (9, {"a.tif": "skipped", "b.tif": "open", "c.tif": "open"}),
        (6, {"a.tif": "skipped", "b.tif": "done", "c.tif": "done"}),
    ):
        ends.clear()
        report = nights.run()
        assert (statuses(report), len(ends)) == (wanted, blocks)
        until = moment(report.started).timestamp() + 1000
        assert max(ends) <= until
        assert report.exit_code == 0
        ended_early = "open" in wanted.values()
        assert ("no block would end before" in report.stopped) == ended_early
        assert all("no block would end before" in row.message for row in report.slides if row.status == "open")
        assert rows(report)["b.tif"].pixels == 64 * 64 * len([s for s in nights.of(BlockDone) if s == "b.tif"])
    monkeypatch.undo()
    wsipipe.run([inbox], replace(nights.night.run_config(), out=str(tmp_path / "undisturbed")))
    for name in "abc":
        assert_same_bytes(tmp_path / "out" / f"{name}.zarr", tmp_path / "undisturbed" / f"{name}.zarr")


@pytest.mark.usefixtures("inbox")
def test_a_night_stops_below_the_reserve_and_says_so_and_the_next_one_resumes(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = Nights(night_of(tmp_path, model, reserve="2GB"))
    free = [3 * 10**9]

    def disk_fills(event: Event) -> None:
        if isinstance(event, SlideDone):
            free[0] = 10**9

    nights.also = disk_fills
    monkeypatch.setattr(dispatcher, "IN_HAND_PER_THREAD", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free[0]))
    report = nights.run()
    assert report.exit_code == 3
    assert "has 1000MB free, less than the reserve of 2000MB; free some space" in report.stopped
    assert statuses(report) == {"a.tif": "done", "b.tif": "open", "c.tif": "open"}
    assert all(report.stopped == row.message for row in report.slides if row.status == "open")
    assert not (tmp_path / "out" / ".failed").exists(), "no slide failed"
    done = len(nights.of(BlockDone))
    assert 4 <= done < 24
    monkeypatch.undo()
    nights.also = lambda _: None
    report = nights.run()
    assert statuses(report) == {"a.tif": "skipped", "b.tif": "done", "c.tif": "done"}
    assert len(nights.of(BlockDone)) == 24 - done
    assert report.exit_code == 0


# --- what ends a night ----------------------------------------------------------------------------------------


def test_an_interrupted_night_reports_what_was_done_and_the_next_one_resumes(
    tmp_path: Path, inbox: Path, model: Path, write_slide: WriteSlide
) -> None:
    (inbox / "0.tif").write_text("no slide")
    write_slide(inbox / "d_20x.tif", mpp=None)
    nights = Nights(night_of(tmp_path, model, tables=SMALL + "[[slides]]\nmatch = '*_20x*'\nmpp = 0.5\n"))

    def interrupted(event: Event) -> None:
        if isinstance(event, SlideDone):
            raise KeyboardInterrupt

    nights.also = interrupted
    with pytest.raises(KeyboardInterrupt):
        nights.run()
    report = read_report(nights.night.report / "report.json")
    why = "interrupted; the next night resumes"
    assert (report.exit_code, report.stopped) == (130, why)
    left = ["b.tif", "c.tif", "d_20x.tif"]
    assert statuses(report) == dict.fromkeys(left, "open") | {"0.tif": "failed", "a.tif": "done"}
    told = rows(report)
    assert (told["0.tif"].attempts, told["a.tif"].pixels, told["a.tif"].model) == (1, 128 * 128, "small")
    assert {told[name].message for name in left} == {why}
    assert not list((tmp_path / "out").glob("*.lease*"))
    nights.also = lambda _: None
    report = nights.run()
    assert statuses(report) == dict.fromkeys(left, "done") | {"0.tif": "failed", "a.tif": "skipped"}
    assert rows(report)["0.tif"].attempts == 2


@pytest.mark.parametrize(
    ("error", "code", "why"),
    [
        (MachineError("the GPU fell off the bus"), 3, "the GPU fell off the bus"),
        (UsageError("max_memory is too little"), 2, "max_memory is too little"),
        (ZeroDivisionError("by zero"), 1, "unexpected ZeroDivisionError: by zero"),
    ],
)
def test_whatever_goes_wrong_with_one_group_the_report_has_all_slides(
    tmp_path: Path,
    inbox: Path,
    model: Path,
    write_slide: WriteSlide,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    why: str,
) -> None:
    write_slide(inbox / "a_20x.tif", mpp=None)  # so that its group is the second
    nights = Nights(night_of(tmp_path, model, tables=SMALL + "[[slides]]\nmatch = '*_20x*'\nmpp = 0.5\n"))

    def run_but_for(slides: list[Path], config: wsipipe.RunConfig, *given: object, **options: object) -> RunSummary:
        if config.mpp is not None:
            raise error
        return wsipipe.run(slides, config, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("wsipipe.nightly.night.run", run_but_for)
    with nullcontext() if isinstance(error, WsipipeError) else pytest.raises(type(error)):
        nights.run()
    report = read_report(nights.night.report / "report.json")
    assert (report.exit_code, report.stopped) == (code, why)
    assert statuses(report) == {"a.tif": "done", "b.tif": "done", "c.tif": "done", "a_20x.tif": "open"}
    assert rows(report)["a_20x.tif"].message == why
    assert not (tmp_path / "out" / ".failed").exists()


@pytest.mark.usefixtures("inbox")
def test_a_night_that_is_interrupted_before_it_began_is_reported_too(tmp_path: Path, model: Path) -> None:
    nights = Nights(night_of(tmp_path, model))

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nights.run(interrupted)
    report = read_report(nights.night.report / "report.json")
    assert (report.exit_code, statuses(report)) == (130, dict.fromkeys(["a.tif", "b.tif", "c.tif"], "open"))


@pytest.mark.usefixtures("inbox")
def test_a_missing_device_is_reported_as_the_machines_fault(tmp_path: Path, model: Path) -> None:
    nights = Nights(night_of(tmp_path, model, tables=SMALL.replace("cpu,cpu", "cuda:77")))
    report = nights.run()
    assert report.exit_code == 3
    assert "there is no cuda:77 here" in report.stopped
    assert {(row.status, row.message) for row in report.slides} == {("open", report.stopped)}
    assert not (tmp_path / "out" / ".failed").exists()


def test_an_empty_inbox_is_an_empty_night(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    nights = Nights(night_of(tmp_path, model, inbox=["in", "in/*.svs"]))
    report = nights.run()
    assert (report.slides, report.exit_code, report.stopped) == ((), 0, "")
    assert (nights.night.report / "report.html").exists()


def test_failures_that_cannot_be_recorded_do_not_end_the_night(tmp_path: Path, inbox: Path, model: Path) -> None:
    (inbox / "broken.tif").write_text("no slide")
    nights = Nights(night_of(tmp_path, model))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".failed").touch()  # a file, so that no folder can be made there
    report = nights.run()
    assert statuses(report) == {"a.tif": "done", "b.tif": "done", "c.tif": "done", "broken.tif": "failed"}
    assert report.exit_code == 1
    assert [e.slide for e in nights.heard if isinstance(e, Warned) and "could not record the failure" in e.message] == [
        str(inbox / "broken.tif")
    ]


@pytest.mark.usefixtures("inbox")
def test_a_slide_that_another_runner_does_not_release_is_reported_as_taken(tmp_path: Path, model: Path) -> None:
    nights = Nights(night_of(tmp_path, model, duration="10m"))
    (tmp_path / "out").mkdir()
    with Leases().take(tmp_path / "out" / "b.zarr.lease") as lease:  # type: ignore[union-attr]
        report = nights.run()
        assert statuses(report) == {"a.tif": "done", "b.tif": "taken", "c.tif": "done"}
        assert str(lease.holder) in rows(report)["b.tif"].message
        assert report.exit_code == 0
    assert statuses(nights.run()) == {"a.tif": "skipped", "b.tif": "done", "c.tif": "skipped"}


# --- slides that are still copied in --------------------------------------------------------------------------


def test_a_slide_that_is_a_folder_is_left_alone_only_if_everything_in_it_is(tmp_path: Path) -> None:
    clock = Clock()
    slide = tmp_path / "slide.zarr"
    deep = slide / "0" / "c" / "3"
    deep.mkdir(parents=True)
    chunk = deep / "4"
    chunk.write_bytes(b"1234")
    for path in (chunk, deep, deep.parent, slide / "0", slide):
        set_age(path, 2 * HOUR, clock)
    before = size_and_change(slide)
    assert seconds_left_alone(slide, clock()) == pytest.approx(2 * HOUR)
    set_age(chunk, 100, clock)
    assert seconds_left_alone(slide, clock()) == pytest.approx(100)
    assert size_and_change(slide) != before
    set_age(chunk, 2 * HOUR, clock)
    assert size_and_change(slide) == before
    (deep / "5").write_bytes(b"5")
    set_age(deep, 2 * HOUR, clock)
    set_age(deep / "5", 2 * HOUR, clock)
    assert size_and_change(slide) != before, "there is one more file"


def test_copying_tools_that_set_the_time_to_the_originals_do_not_fool_it(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    path.write_bytes(b"1234")
    os.utime(path, (1e9, 1e9))
    now = path.stat().st_ctime
    assert seconds_left_alone(path, now + 7) == pytest.approx(7)
    os.utime(path, (now + 50, now + 50))
    assert seconds_left_alone(path, now + 7) == float("inf"), "another machine's clock"
    assert seconds_left_alone(tmp_path / "gone", now) == 0


def test_a_dangling_link_is_tried_and_reported(tmp_path: Path, inbox: Path, model: Path) -> None:
    (inbox / "link.tif").symlink_to(tmp_path / "gone.tif")
    report = Nights(night_of(tmp_path, model)).run()
    assert rows(report)["link.tif"].status == "failed"
    assert report.exit_code == 1


def test_a_slide_in_two_inboxes_or_by_two_names_is_done_once(tmp_path: Path, inbox: Path, model: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "other.tif").symlink_to(inbox / "a.tif")
    night = night_of(tmp_path, model, inbox=["in", "in/*.tif", "links", "in/../in/b.tif"])
    assert [path.name for path in slides_in(night)[0]] == ["a.tif", "b.tif", "c.tif"]


def test_a_slide_that_disappears_between_the_checks_is_not_a_failure(tmp_path: Path, inbox: Path, model: Path) -> None:
    report = Nights(night_of(tmp_path, model)).run((inbox / "a.tif").unlink)
    assert statuses(report) == {"a.tif": "waiting", "b.tif": "done", "c.tif": "done"}
    assert report.exit_code == 0


def test_regions_of_an_scn_are_slides_of_a_night_whose_tables_match_their_file(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    scn(tmp_path / "in/a.scn")
    night = night_of(tmp_path, model, tables=SMALL + "[[slides]]\nmatch = '*.scn'\nmpp = 0.5\n")
    assert {night.options(slide).mpp for slide in slides_in(night)[0]} == {0.5}
    nights = Nights(night)
    assert statuses(nights.run()) == {"a.scn#0": "done", "a.scn#1": "done"}
    assert statuses(nights.run()) == {"a.scn#0": "skipped", "a.scn#1": "skipped"}
    (tmp_path / "in/a.scn").touch()
    nights.clock.now = (tmp_path / "in/a.scn").stat().st_mtime + 1 - DAY
    assert set(statuses(nights.run()).values()) == {"waiting"}


def test_one_region_of_an_scn_is_chosen_by_a_table(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    scn(tmp_path / "in/a.scn")
    night = night_of(tmp_path, model, tables=SMALL + "[[slides]]\nmatch = '*.scn'\nseries = 1\n")
    assert slides_in(night) == ([tmp_path / "in/a.scn"], {}, [])


@needs_data
def test_files_of_a_dicom_series_are_one_slide_of_a_night(tmp_path: Path, model: Path) -> None:
    shutil.copytree(data("dicom/cmu-small-wsi2dcm"), tmp_path / "in")
    for inbox in (["in/*.dcm"], ["in/*.dcm", "in"], ["in/level-1*", "in/level-0*"]):
        assert len(slides_in(night_of(tmp_path, model, inbox=inbox))[0]) == 1
