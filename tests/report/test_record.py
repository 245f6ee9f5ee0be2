from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.nights import HOSTILE, night, slides_of_all_kinds, texts
from wsipipe.errors import OutputError, UsageError
from wsipipe.report.record import (
    DONE,
    FAILED,
    SKIPPED,
    STATUSES,
    SlideReport,
    append_history,
    read_history,
    read_report,
    report_as_json,
)


@given(text=texts, status=st.sampled_from(list(STATUSES)), seconds=st.floats(0, 1e6), pixels=st.integers(0, 10**13))
def test_report_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, text: str, status: str, seconds: float, pixels: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "report.json"
    slide = SlideReport(text, status, text, text, seconds, pixels, text, (text, text), 3, text, text)
    report = night(slide, SlideReport("/in/b.tif", DONE), host=text, command=text, stopped=text, exit_code=3)
    path.write_bytes(report_as_json(report))
    assert read_report(path) == report
    assert all(byte < 128 for byte in path.read_bytes())


def test_file_names_that_are_not_unicode_are_read_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"/in/caf\xe9\xff.tif")
    (tmp_path / "report.json").write_bytes(report_as_json(night(SlideReport(name, DONE))))
    assert os.fsencode(read_report(tmp_path / "report.json").slides[0].slide) == b"/in/caf\xe9\xff.tif"


def test_json_says_what_follows_from_the_report() -> None:
    document = json.loads(report_as_json(night(*slides_of_all_kinds())))
    assert document["summary"]["counts"] == dict.fromkeys(STATUSES, 1)
    assert document["summary"]["seconds"] == 8 * 3600 + 12 * 60
    assert document["summary"]["pixels"] == 1_003_145_728
    assert document["summary"]["pixels_per_second"] == pytest.approx(1_003_145_728 / 108.1)


def test_speed_is_that_of_computing_not_of_waiting_or_failing() -> None:
    slides = [SlideReport("a", DONE, seconds=2, pixels=100), SlideReport("b", FAILED, seconds=1000)]
    assert night(*slides).pixels_per_second == 50
    assert night().pixels_per_second == 0
    assert SlideReport("a", DONE, seconds=0, pixels=7).pixels_per_second == 0


def test_numbers_that_are_not_finite_do_not_break_the_json() -> None:
    report = night(SlideReport("a", DONE, seconds=float("nan"), pixels=1), SlideReport("b", DONE, seconds=float("inf")))
    text = report_as_json(report).decode()
    assert json.loads(text, parse_constant=pytest.fail)["slides"][0]["seconds"] == 0


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"", "not the report of a night"),
        (b"[]", "not the report of a night"),
        (b'{"slides": []}', "not the report of a night"),
        (b'{"report_version": 1, "slides": [3]}', "not the report of a night"),
        (b"[" * 100_000, "not the report of a night"),
        (b'{"report_version": 2, "version": "9.0"}', "newer wsipipe .9.0."),
        (None, "cannot be read"),
    ],
)
def test_what_is_not_a_report_is_an_error_that_says_so(tmp_path: Path, written: bytes | None, said: str) -> None:
    path = tmp_path / "report.json"
    if written is not None:
        path.write_bytes(written)
    with pytest.raises(UsageError, match=said):
        read_report(path)


def test_a_wrong_status_or_time_is_refused() -> None:
    with pytest.raises(UsageError, match="allowed: done, failed"):
        SlideReport("a", "lost")
    with pytest.raises(UsageError, match="ISO 8601"):
        night(started="yesterday")


def test_history_has_every_night_from_old_to_new(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert read_history(path) == ()
    nights = [
        replace(night(*slides_of_all_kinds(), host=text), started=f"2026-11-{day:02}T22:00:00+00:00").summary
        for day, text in enumerate(HOSTILE, 1)
    ]
    for one in reversed(nights):
        append_history(path, one)
    assert read_history(path) == tuple(nights)
    assert len(path.read_bytes().splitlines()) == len(nights)


def test_a_night_that_is_reported_twice_counts_once_as_reported_last(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    append_history(path, night().summary)
    append_history(path, night(host="gpu-04").summary)
    append_history(path, night(SlideReport("a", SKIPPED)).summary)
    assert [one.host for one in read_history(path)] == ["gpu-03", "gpu-04"]
    assert read_history(path)[0].counts[SKIPPED] == 1


def test_a_torn_last_line_loses_nothing_else_wherever_it_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    first, second, third = (
        night(host="</script>", started=f"2026-11-2{i}T22:00:00+00:00").summary for i in range(3)
    )  # fmt: skip
    append_history(path, first)
    before = path.read_bytes()
    append_history(path, second)
    whole = path.read_bytes()
    for end in range(len(before), len(whole)):
        path.write_bytes(whole[:end])
        found = read_history(path)
        assert found == ((first, second) if end == len(whole) - 1 else (first,))
        append_history(path, third)
        assert path.read_bytes().startswith(whole[:end])
        assert read_history(path) == (*found, third)


@pytest.mark.parametrize("line", [b"\0" * 50, b"7", b"[]", b"{}", b"\xff", b'{"started": 1}', b"[" * 100_000])
def test_lines_that_are_not_a_night_are_skipped(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(line + b"\n")
    append_history(path, night().summary)
    assert read_history(path) == (night().summary,)


@pytest.mark.parametrize("field", ["pixels", "pixels_per_second"])
@pytest.mark.parametrize("value", ["1e999", '"many"', "null", "[]", "NaN"])
def test_a_line_with_an_invalid_number_is_skipped(tmp_path: Path, field: str, value: str) -> None:
    path = tmp_path / "history.jsonl"
    append_history(path, night().summary)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: "?"}).replace('"?"', value))
    assert read_history(path) == ()


def test_history_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        append_history(tmp_path, night().summary)
    with pytest.raises(OutputError, match="cannot be read"):
        read_history(tmp_path)
