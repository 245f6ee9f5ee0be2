"""How far blocks under way are, as the process of the run hears it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pytest
from distributed.protocol import dumps, loads

import wsipipe
from tests.conftest import WriteSlide
from tests.tissue.drawn import disc
from wsipipe.events import BlockDone, Event, SlideStarted, TilesDone, TissueFound
from wsipipe.pipeline import tile_reports
from wsipipe.pipeline.tile_reports import TileReporter, TileReports


@pytest.mark.parametrize(("masked", "roi"), [(False, None), (True, None), (False, "150,100,300,200")])
def test_tiles_and_blocks_add_up_to_the_work_that_was_told_before(
    tmp_path: Path,
    tiny_model: Path,
    write_slide: WriteSlide,
    monkeypatch: pytest.MonkeyPatch,
    masked: bool,
    roi: str | None,
) -> None:
    monkeypatch.setattr(tile_reports, "LEAST_SECONDS", 0.0)
    mask = tmp_path / "mask.png"
    mask.write_bytes(imagecodecs.png_encode(disc((200, 300), 90, (600, 700)).astype(np.uint8) * 255))
    slide = write_slide(tmp_path / "a.tif", (600, 700))
    heard: list[Event] = []
    config = wsipipe.RunConfig(
        out=str(tmp_path / "out"),
        model=str(tiny_model),
        device="cpu",
        block=512,
        tile=128,
        tta="flips",
        tissue=str(mask) if masked else "off",
        roi=roi,
    )
    wsipipe.run(slide, config, heard.append)
    (known,) = [event.work for event in heard if isinstance(event, TissueFound if masked else SlideStarted)]
    blocks = {event.index: event.computed for event in heard if isinstance(event, BlockDone)}
    assert sum(blocks.values()) == known > 0
    (started,) = [event.work for event in heard if isinstance(event, SlideStarted)]
    assert known < started / 2 if masked else known == started
    assert (known < 4 * (600 + 44) * (700 + 44) / 2) == (masked or roi is not None), "four passes, with margins"
    tiles = [event for event in heard if isinstance(event, TilesDone)]
    assert len(tiles) >= sum(blocks.values()) // max(blocks.values())
    assert all(0 < event.computed <= blocks[event.index] for event in tiles)


def test_names_that_are_not_unicode_reach_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    slide, sent = os.fsdecode(b"\xff.tif"), []
    monkeypatch.setattr(tile_reports, "LEAST_SECONDS", 0.0)
    worker = SimpleNamespace(log_event=lambda topic, message: sent.append((topic, message)))
    monkeypatch.setattr(tile_reports, "get_worker", lambda: worker)
    reporter = TileReporter(slide, (1, 2))
    reporter(30)
    reporter(40)
    handlers = {}
    reports = TileReports(SimpleNamespace(subscribe_topic=handlers.__setitem__))  # type: ignore[arg-type]
    for topic, message in sent:
        handlers[topic]((0.0, loads(dumps(message))))
    assert list(reports.take()) == [TilesDone(slide, (1, 2), 30), TilesDone(slide, (1, 2), 70)]
    assert list(reports.take()) == []
