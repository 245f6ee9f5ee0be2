"""Failures of slides: counted once a night, until the file or the configuration changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.nightly.nights import DAY, HOUR
from wsipipe.nightly.failures import FOLDER, SAME_NIGHT_SECONDS, Failures, size_and_change


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "a.tif"
    path.write_bytes(b"broken")
    return path


@pytest.fixture
def failures(tmp_path: Path) -> Failures:
    return Failures(tmp_path / "out", "digest")


def test_a_failure_is_counted_once_a_night_and_the_last_reason_is_kept(slide: Path, failures: Failures) -> None:
    assert failures.of(slide) is None
    assert failures.add(slide, "first", 0.0).attempts == 1
    assert failures.add(slide, "a second runner", SAME_NIGHT_SECONDS - 1).attempts == 1
    assert failures.add(slide, "a third", SAME_NIGHT_SECONDS / 2) == failures.of(slide)
    known = failures.of(slide)
    assert known is not None
    assert (known.attempts, known.message, known.at, known.slide) == (1, "a third", 0.0, str(slide))
    assert failures.add(slide, "next night", DAY).attempts == 2
    assert failures.add(slide, "and one more", 2 * DAY).attempts == 3
    assert failures.add(slide, "a clock that was set back", DAY).attempts == 4


def test_a_long_night_counts_once_for_both_of_its_runners(slide: Path, failures: Failures) -> None:
    """The window begins with the first failure of a night: later ones do not move it."""
    failures.add(slide, "first", 0.0)
    failures.add(slide, "second", 3.9 * HOUR)
    assert failures.add(slide, "eight hours later", 7.9 * HOUR).attempts == 2


def test_another_file_or_configuration_has_not_failed_yet(slide: Path, failures: Failures, tmp_path: Path) -> None:
    failures.add(slide, "first", 0.0)
    failures.add(slide, "second", DAY)
    assert Failures(tmp_path / "out", "other").of(slide) is None
    assert Failures(tmp_path / "elsewhere", "digest").of(slide) is None
    before = slide.stat()
    slide.write_bytes(b"mended")  # as long
    os.utime(slide, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert failures.of(slide) is None
    os.utime(slide, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert failures.of(slide) is not None
    slide.write_bytes(b"longer than it was")
    os.utime(slide, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert failures.of(slide) is None
    assert failures.add(slide, "anew", 2 * DAY).attempts == 1


def test_slides_of_one_name_are_told_apart(slide: Path, failures: Failures, tmp_path: Path) -> None:
    other = tmp_path / "b" / slide.name
    other.parent.mkdir()
    other.write_bytes(slide.read_bytes())
    os.utime(other, ns=(0, slide.stat().st_mtime_ns))
    failures.add(slide, "first", 0.0)
    assert failures.of(other) is None


def test_a_failure_can_be_forgotten_even_twice(slide: Path, failures: Failures) -> None:
    failures.forget(slide)
    failures.add(slide, "first", 0.0)
    failures.forget(slide)
    failures.forget(slide)
    assert failures.of(slide) is None
    assert failures.add(slide, "again", DAY).attempts == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"7", b'{"slide": "a"}', b'{"version": 3}', b"\xff", b'{"version": [1, 2], "x": 1}'],
)
def test_torn_json_counts_as_no_failure(slide: Path, failures: Failures, tmp_path: Path, content: bytes) -> None:
    failures.add(slide, "first", 0.0)
    (file,) = (tmp_path / "out" / FOLDER).iterdir()
    file.write_bytes(content)
    assert failures.of(slide) is None
    assert failures.add(slide, "again", DAY).attempts == 1
    assert failures.of(slide) is not None


def test_a_file_cut_anywhere_counts_as_no_failure(slide: Path, failures: Failures, tmp_path: Path) -> None:
    failures.add(slide, "first", 0.0)
    (file,) = (tmp_path / "out" / FOLDER).iterdir()
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert failures.of(slide) is None
    file.write_bytes(whole)
    assert failures.of(slide) is not None


def test_names_that_are_not_unicode_are_kept(failures: Failures, tmp_path: Path) -> None:
    slide = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9.tif"))
    slide.write_bytes(b"broken")
    failures.add(slide, f"{slide} is broken", 0.0)
    known = failures.of(slide)
    assert known is not None
    assert (known.slide, known.message) == (str(slide), f"{slide} is broken")


def test_the_version_of_a_file_that_is_gone_is_zeros(tmp_path: Path, slide: Path) -> None:
    assert size_and_change(tmp_path / "gone") == (0, 0)
    assert size_and_change(slide) == (6, slide.stat().st_mtime_ns)
