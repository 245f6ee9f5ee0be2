from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.report.html_check import Seen
from tests.report.nights import HOSTILE, night, slides_of_all_kinds, write_pyramid, write_store
from wsipipe.errors import OutputError
from wsipipe.pictures import apart
from wsipipe.pictures.apart import pictures_apart
from wsipipe.pictures.thumbnail import Picture, StoreSummary
from wsipipe.report import write
from wsipipe.report.record import DONE, FAILED, SET_ASIDE, SKIPPED, SlideReport, read_history, read_report
from wsipipe.report.write import failed_pictures, summarise_all, write_report


def pictures(page: Path) -> list[str]:
    return [a["src"] or "" for name, a in Seen(page.read_text()).elements if name == "img"]


def test_report_is_a_page_json_and_a_line_of_the_history(tmp_path: Path) -> None:
    slide = write_pyramid(tmp_path / "a.tif", [np.full((100, 80, 3), 255, np.uint8)])
    store = write_store(tmp_path / "a.zarr", slide, np.full((100, 80), 7, np.uint8))
    report = night(SlideReport(str(slide), DONE, store=store), SlideReport("/in/b.tif", FAILED, "torn"))
    out = tmp_path / "out/deep"
    assert write_report(report, out) == out / "report.html"
    assert sorted(file.name for file in out.iterdir()) == ["history.jsonl", "report.html", "report.json"]
    assert read_report(out / "report.json") == report
    assert read_history(out / "history.jsonl") == (report.summary,)
    small, large = pictures(out / "report.html")
    assert small.startswith("data:image/jpeg;base64,/9j/")
    assert large.startswith("data:image/jpeg;base64,/9j/")
    assert "0.00200 mm²" in (out / "report.html").read_text()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_report_of_hostile_texts_is_written_and_read_back(tmp_path: Path, text: str) -> None:
    report = night(*slides_of_all_kinds(text), host=text, command=text, stopped=text)
    page = write_report(report, tmp_path)
    write_report(replace(report, started="2026-11-23T22:00:00+00:00"), tmp_path)
    assert read_report(tmp_path / "report.json").slides == report.slides
    assert len(read_history(tmp_path / "history.jsonl")) == 2
    Seen(page.read_bytes().decode())


def test_a_run_of_wsipipe_is_shown(tmp_path: Path, tiny_model: Path, write_slide: Callable[..., Path]) -> None:
    from wsipipe.pipeline.config import RunConfig
    from wsipipe.pipeline.run import run

    slide = write_slide(tmp_path / "case.tif", (96, 128))
    summary = run([slide], RunConfig(out=str(tmp_path / "out"), model=str(tiny_model), device="cpu", engine="torch"))
    (outcome,) = summary.slides
    assert outcome.store is not None
    report = night(
        SlideReport(outcome.slide, DONE, store=outcome.store, pixels=outcome.pixels, seconds=outcome.seconds)
    )
    (found,) = summarise_all(report).values()
    assert found.notes == ()
    assert found.thumbnail.shape == (96, 128)
    assert found.model == "tiny"
    assert sum(c.pixels for c in found.classes) == sum(n for label, n in outcome.labels.items() if label)
    assert all(c.exact and c.mm2 == pytest.approx(c.pixels * 0.25e-6) for c in found.classes)
    assert len(pictures(write_report(report, tmp_path / "report"))) == 2


def test_missing_slides_do_not_prevent_a_report(tmp_path: Path) -> None:
    report = night(
        SlideReport("/nowhere/a.tif", DONE, store="/nowhere/a.zarr"),
        SlideReport(os.fsdecode(b"/nowhere/\xff.tif"), SKIPPED, store=os.fsdecode(b"/nowhere/\xff.zarr")),
        SlideReport("s3://bucket/a.tif", DONE, store="nowhere://bucket/a.zarr"),
        SlideReport("/in/\0.tif", DONE, store="/out/\0.zarr"),
    )
    text = Seen(write_report(report, tmp_path).read_text()).text
    assert text.count("the store cannot be read") == 4


def test_only_finished_stores_are_summarised_and_those_of_this_night_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(write, "summarise", lambda slide, _store, **_: seen.append(slide) or StoreSummary())
    monkeypatch.setattr(write, "MAX_PICTURES", 3)
    slides = [
        SlideReport("old 1", SKIPPED, store="x"),
        SlideReport("bad", FAILED, store="x"),
        SlideReport("new 1", DONE, store="x"),
        SlideReport("no store", DONE),
        SlideReport("old 2", SKIPPED, store="x"),
        SlideReport("new 2", DONE, store="x"),
    ]
    summaries = summarise_all(night(*slides))
    assert seen == ["new 1", "new 2", "old 1"]
    assert sorted(summaries) == [0, 2, 4, 5]
    assert "the page already has 3" in summaries[4].notes[0]


def test_json_and_history_are_there_before_the_first_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_slide: str, _store: str, **_: object) -> StoreSummary:
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "summarise", killed)
    report = night(SlideReport("a", DONE, store="x"))
    with pytest.raises(KeyboardInterrupt):
        write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report
    assert read_history(tmp_path / "history.jsonl") == (report.summary,)
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_leaves_the_previous_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(night(host="first"), tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    write_bytes = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name.startswith("report.html"):
            write_bytes(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"report\.html cannot be written: No space left"):
        write_report(night(host="second"), tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert json.loads((tmp_path / "report.json").read_text())["host"] == "second"
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot be created"):
        write_report(night(), tmp_path / "out")


def test_a_thousand_pictures_make_a_page_that_can_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (Picture(np.random.default_rng(0).bytes(n), (240, 320)) for n in (20_000, 160_000))
    made = {True: StoreSummary(small, large), False: StoreSummary(small)}
    monkeypatch.setattr(write, "summarise", lambda _slide, _store, *, large: made[large])
    page = write_report(night(*[SlideReport(f"/in/{i}.tif", DONE, store="x") for i in range(1000)]), tmp_path)
    assert 55e6 < page.stat().st_size < 64e6
    assert 150 <= page.read_text().count('class="large"') < 1000


def test_a_failed_slide_that_opens_has_its_picture_whatever_another_file_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = write_pyramid(tmp_path / "a.tif", [np.full((100, 80, 3), 200, np.uint8)])
    report = night(
        SlideReport(str(slide), FAILED, "no mpp"),
        SlideReport(str(tmp_path / "gone.tif"), FAILED, "gone"),
        SlideReport("/in/\0.tif", SET_ASIDE, "torn"),
    )
    assert list(failed_pictures(report)) == [0]
    assert [bool(one.jpeg) for one in pictures_apart([str(slide), "/gone", str(slide)])] == [True, False, True]
    assert [bool(one.jpeg) for one in pictures_apart(["\0", str(slide)])] == [False, True]
    source = write_report(report, tmp_path / "out").read_text()
    assert source.count("<img") == 1
    monkeypatch.setattr(apart, "COMMAND", ("/bin/false",))  # as if it died of the file
    assert failed_pictures(report) == {}


def test_json_says_what_the_cards_say(tmp_path: Path) -> None:
    slide = write_pyramid(tmp_path / "a.tif", [np.full((100, 80, 3), 255, np.uint8)])
    store = write_store(tmp_path / "a.zarr", slide, np.full((100, 80), 7, np.uint8))
    write_report(night(SlideReport("/in/b.tif", FAILED, "torn"), SlideReport(str(slide), DONE, store=store)), tmp_path)
    torn, done = json.loads((tmp_path / "report.json").read_text())["slides"]
    assert "found" not in torn
    assert done["found"]["mpp"] == 0.5
    gland = done["found"]["classes"][0]
    assert (gland["name"], gland["pixels"], gland["share"]) == ("gland", 8000, 1.0)
    assert "thumbnail" not in done["found"]
