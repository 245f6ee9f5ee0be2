"""A run over many slides: events, the account, and what ends it early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client

import wsipipe
from tests.conftest import WriteSlide
from tests.faults import store_files
from wsipipe.errors import MachineError
from wsipipe.events import (
    BlockDone,
    Event,
    RunStarted,
    SizesChosen,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    SlideStarted,
    Spent,
    TissueFound,
    Warned,
)
from wsipipe.inference import pool
from wsipipe.inference.speeds import REPEATS
from wsipipe.pipeline import dispatcher as flow
from wsipipe.pipeline.summary import DONE, FAILED, NOT_ATTEMPTED, SKIPPED, SlideOutcome, account
from wsipipe.store.spec import shard_name

Config = Callable[..., wsipipe.RunConfig]


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path) -> Config:
    return lambda **options: wsipipe.RunConfig(
        out=str(tmp_path / "out"), model=str(tiny_model), device="cpu", block=64, **options
    )


def test_events_tell_the_whole_run(tmp_path: Path, write_slide: WriteSlide, config: Config) -> None:
    good, broken = write_slide(tmp_path / "good.tif"), tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0 and no more")
    heard: list[Event] = []
    summary = wsipipe.run([broken, good], config(), heard.append)
    kinds = [type(event) for event in heard]
    assert kinds == [RunStarted, SlideFailed, SizesChosen, SlideStarted, TissueFound, *[BlockDone] * 4, SlideDone]
    blocks = [event for event in heard if isinstance(event, BlockDone)]
    assert {event.index for event in blocks} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert sum(event.pixels for event in blocks) == 96 * 128
    assert [slide.status for slide in summary.slides] == [FAILED, DONE]
    assert summary.slides[1].labels == {
        label: int(count)
        for label, count in enumerate(np.bincount(_labels(tmp_path / "out" / "good.zarr").ravel()))
        if count
    }
    again: list[Event] = []
    assert wsipipe.run(good, config(), again.append).slides[0].status == SKIPPED
    assert [type(event) for event in again] == [RunStarted, SlideSkipped]


@pytest.mark.parametrize(
    ("spent", "bottleneck", "of_bare"),
    [
        (Spent(read=1, decode=2, wait=8, write=1, other=4, infer=19), "network", 48 / 10 / (2 * 3)),
        (Spent(read=1, decode=5, wait=8, write=1, other=2, infer=10), "decode", 0.5),  # it computed 4.8 MP/s at work
        (Spent(read=1, wait=15, infer=1), "idle", 0.05),  # and here 48: so fast was the machine once it was free
    ],
)
def test_the_bottleneck_is_the_network_or_what_keeps_it_waiting(spent: Spent, bottleneck: str, of_bare: float) -> None:
    slide = SlideOutcome("a.tif", DONE, computed=48_000_000, seconds=10, spent=spent)
    found = account([slide], seconds=10, threads=2, devices=2, bare=3e6)
    assert found is not None
    assert found.of_bare == pytest.approx(of_bare)
    unknown = account([slide], seconds=10, threads=2, devices=2, bare=0.0)
    assert unknown is not None
    assert unknown.of_bare is None
    assert found.bottleneck == bottleneck
    assert found.busy == spent.infer / 20
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares["decode"] == spent.decode / 20


def test_every_second_of_a_block_is_accounted_for(tmp_path: Path, write_slide: WriteSlide, config: Config) -> None:
    heard: list[Event] = []
    summary = wsipipe.run([write_slide(tmp_path / "a.tif")], config(threads=1), heard.append)
    (slide,) = summary.slides
    blocks = [event.spent for event in heard if isinstance(event, BlockDone)]
    for name in ("read", "decode", "wait", "write", "other", "infer"):
        assert sum(getattr(spent, name) for spent in blocks) == pytest.approx(getattr(slide.spent, name))
        assert getattr(slide.spent, name) > 0
    assert slide.spent.threads <= slide.seconds
    kept = zarr.open_group(slide.store, mode="r").attrs["wsipipe"]["run"]
    assert kept["spent"] == asdict(slide.spent)
    assert (kept["blocks"], kept["pixels"], kept["devices"]) == (4, 96 * 128, ["cpu"])
    spent = account([slide], seconds=kept["seconds"], threads=1, devices=1, bare=summary.bare)
    assert kept["account"] == asdict(spent)
    assert slide.spent.infer <= slide.spent.wait  # one thread waits for each tile
    over_all = summary.account()
    assert over_all is not None
    assert over_all.busy == pytest.approx(slide.spent.infer / summary.computing_seconds)


def test_the_store_says_how_many_pixels_have_each_label_those_of_an_earlier_run_too(
    tmp_path: Path, write_slide: WriteSlide, config: Config
) -> None:
    slide = write_slide(tmp_path / "a.tif")
    store = Path(str(wsipipe.run([slide], config()).slides[0].store))
    labels = _labels(store)
    expected = {str(label): int(count) for label, count in enumerate(np.bincount(labels.ravel())) if count}
    assert _run_of(store)["labels"] == expected
    (store / "0" / "c" / "1" / "0").unlink()
    (again,) = wsipipe.run([slide], config()).slides
    assert (again.blocks_computed, _run_of(store)["labels"]) == (1, expected)


def _run_of(store: Path) -> dict[str, Any]:
    return dict(zarr.open_group(store, mode="r").attrs["wsipipe"]["run"])


def _labels(store: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(store / "0", mode="r")[:])


def test_a_machine_that_fails_ends_the_run_and_the_account_says_so(
    tmp_path: Path, write_slide: WriteSlide, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides = [write_slide(tmp_path / f"{name}.tif", seed=i) for i, name in enumerate("abc")]
    load, seen = pool.Replica.predict, []
    measured = REPEATS

    def fails_on_the_second_slide(self: pool.Replica, tiles: list[np.ndarray]) -> object:
        seen.append(tiles)
        if len(seen) > measured + 4:
            raise MachineError("device cpu failed: it is on fire")
        return load(self, tiles)

    monkeypatch.setattr(pool.Replica, "predict", fails_on_the_second_slide)
    monkeypatch.setattr(flow, "IN_HAND", 1)
    monkeypatch.setattr(flow, "IN_HAND_PER_THREAD", 1)  # so that no slide begins before the one before is done
    summary = wsipipe.run(slides, config(tile=64, threads=1))
    assert [slide.status for slide in summary.slides] == [DONE, FAILED, NOT_ATTEMPTED]
    assert "on fire" in summary.stopped
    assert summary.exit_code == 3
    monkeypatch.undo()
    assert wsipipe.run(slides, config(tile=64)).count(DONE) == 2


def test_the_scheduler_is_handed_a_few_blocks_at_a_time(
    tmp_path: Path, write_slide: WriteSlide, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "IN_HAND", 1)
    monkeypatch.setattr(flow, "IN_HAND_PER_THREAD", 3)
    handed, done, most = [0], [0], [0]
    get = Client.get

    def counting(client: Client, graph: dict[str, object], keys: list[str], **options: object) -> object:
        handed[0] += len(keys)
        most[0] = max(most[0], handed[0] - done[0])
        return get(client, graph, keys, **options)

    def listener(event: Event) -> None:
        done[0] += isinstance(event, BlockDone)

    monkeypatch.setattr(Client, "get", counting)
    (slide,) = wsipipe.run([write_slide(tmp_path / "x.tif", (300, 400))], config(threads=2), listener).slides
    assert (slide.status, slide.blocks_computed, handed) == (DONE, 35, [35])
    assert 3 <= most[0] <= 6


def test_the_next_slide_begins_before_the_last_blocks_of_the_one_before_are_done(
    tmp_path: Path, write_slide: WriteSlide, config: Config
) -> None:
    slides = [write_slide(tmp_path / f"{name}.tif", (200, 200), seed=i) for i, name in enumerate("ab")]
    heard: list[Event] = []
    summary = wsipipe.run(slides, config(threads=2), heard.append)
    assert [slide.status for slide in summary.slides] == [DONE, DONE]
    begun = next(i for i, e in enumerate(heard) if isinstance(e, SlideStarted) and e.slide == str(slides[1]))
    ended = next(i for i, e in enumerate(heard) if isinstance(e, SlideDone) and e.slide == str(slides[0]))
    assert begun < ended


def test_a_slide_of_zeros_fails(tmp_path: Path, config: Config) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "black.tif", np.zeros((90, 90, 3), np.uint8), photometric="rgb", metadata=None)
    heard: list[Event] = []
    wsipipe.run([tmp_path / "black.tif"], config(), heard.append)
    assert any(isinstance(event, SlideFailed) and "zero" in event.error for event in heard)


def test_a_shard_that_rotted_is_made_again(tmp_path: Path, write_slide: WriteSlide, config: Config) -> None:
    slide = write_slide(tmp_path / "x.tif", (96, 100))
    wsipipe.run([slide], config())
    store = tmp_path / "out" / "x.zarr"
    whole = store_files(store)
    edge = store / shard_name("0", (1, 1))
    rotted = bytearray(edge.read_bytes())
    rotted[8] ^= 0xFF  # within a chunk, so that size and index tell nothing
    edge.write_bytes(rotted)
    (store / shard_name("1", (0, 0))).unlink()
    (failed,) = wsipipe.run([slide], config()).slides
    assert failed.status == FAILED
    assert "the same command rewrites that part" in failed.message
    assert wsipipe.run([slide], config()).exit_code == 0
    assert store_files(store) == whole


def test_rows_of_the_table_that_match_no_slide_are_a_warning(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "slides.csv").write_text("slide,mpp\ngone.tif,0.5\ncase-71.tif,0.25\n")
    config = wsipipe.RunConfig(
        model=str(tiny_model), out=str(tmp_path / "out"), device="cpu", slides_table=str(tmp_path / "slides.csv")
    )
    heard: list[Event] = []
    wsipipe.run([tmp_path / "gone.tif"], config, heard.append)
    (warning,) = (event for event in heard if isinstance(event, Warned))
    assert warning.slide == "slides.csv"
    assert "match no slide of this run: case-71.tif;" in warning.message
