"""Slides that failed: why, and in how many nights, until the file, or what it is segmented with, changes.

Each has a small JSON file in ``OUT/.failed``: runners on several machines share them, like the stores.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from wsipipe.files import Location, make_folder, write_whole
from wsipipe.slides.address import file_of
from wsipipe.slides.readers.dicom_series import series_of
from wsipipe.urls import Url

FOLDER = ".failed"
SAME_NIGHT_SECONDS = 4 * 3600
"""Failures within this time of the first count as one, because several runners may share a night."""


@dataclass(frozen=True)
class Failure:
    """The record of one slide that failed."""

    slide: str
    """Path or URL."""
    version: tuple[int, int]
    """Size and time of last change of the file, as `size_and_change`: a changed file has not failed yet."""
    config: str
    """Digest of the night's configuration, model and region: under another one, the slide has not failed yet."""
    attempts: int
    """Nights in which the slide failed."""
    message: str
    """The error of the last attempt."""
    at: float
    """Time of the last failure that counted, in seconds since the epoch."""

    @property
    def nights(self) -> str:
        """`attempts`, for messages."""
        return "one night" if self.attempts == 1 else f"{self.attempts} nights"


class Failures:
    """The failures of slides whose stores are in ``out``, under the configuration with this ``digest``."""

    def __init__(self, out: Location, digest: str) -> None:
        self._folder, self._digest = out / FOLDER, digest

    def of(self, slide: Location) -> Failure | None:
        """The failure of ``slide`` as it is now; None if it has not failed."""
        try:
            row = json.loads(self._file(slide).read_bytes())
            failure = Failure(**row | {"version": tuple(row["version"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        same = (failure.version, failure.config) == (size_and_change(slide), self._digest)
        return failure if same else None

    def add(self, slide: Location, message: str, now: float) -> Failure:
        """Record that ``slide`` failed at ``now``, in seconds since the epoch, and return the updated failure.

        Raises
        ------
        OutputError
            If the record cannot be written.
        """
        known = self.of(slide)
        attempts, at = (known.attempts, known.at) if known else (0, float("-inf"))
        if abs(now - at) > SAME_NIGHT_SECONDS:
            attempts, at = attempts + 1, now
        failure = Failure(str(slide), size_and_change(slide), self._digest, attempts, message, at)
        make_folder(self._folder)
        write_whole(self._file(slide), json.dumps(asdict(failure)).encode(), shared=True)
        return failure

    def forget(self, slide: Location) -> None:
        """Remove the failure of ``slide``, if there is one."""
        with suppress(OSError):  # there nearly never is one
            self._file(slide).unlink()

    def _file(self, slide: Location) -> Location:
        return self._folder / f"{hashlib.sha256(os.fsencode(str(slide))).hexdigest()[:16]}.json"


@dataclass(frozen=True)
class Stat:
    """The size and times of a file or folder."""

    size: int
    """In bytes."""
    modified_ns: int
    """Time of change of its content, in ns since the epoch; copying tools may set it to the original's."""
    changed: float
    """Time of last change of its content or metadata, in seconds since the epoch."""


def size_and_change(slide: Location) -> tuple[int, int]:
    """Size in bytes and time of last change in ns of the file, or of everything in the folder; zeros if it is gone."""
    try:
        stats = list(stats_of(slide))
    except OSError:
        return 0, 0
    return sum(stat.size for stat in stats), max(stat.modified_ns for stat in stats)


def stats_of(slide: Location) -> Iterator[Stat]:
    """Yield the stat of the file, or of the folder and of everything in it; of a dangling link, its own.

    The other files of a DICOM series follow the one that stands for it.

    Raises
    ------
    OSError
        If it is gone, or something in it disappears meanwhile.
    """
    slide, _ = file_of(slide)
    if isinstance(slide, Url):
        for row in [slide.head()] if slide.is_file() else list(slide.rows()) or [slide.head()]:
            at = row["last_modified"].timestamp()
            yield Stat(row["size"], round(at * 1e9), at)
        return
    yield _stat(slide.stat() if slide.exists() else slide.lstat())
    others: list[Path] = []
    with suppress(OSError):  # what cannot be read is found when it is opened
        others = series_of(slide)
    for file in others:
        yield _stat(file.stat())
    for folder, folders, files in os.walk(slide):
        for name in (*folders, *files):
            yield _stat(Path(folder, name).lstat())


def _stat(there: os.stat_result) -> Stat:
    return Stat(there.st_size, there.st_mtime_ns, max(there.st_mtime, there.st_ctime))
