"""Slides that failed: what, in how many nights, until the file or the configuration changes.

One small JSON file each, in ``OUT/.failed``: runners on several machines share them with the stores.
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
from wsipipe.urls import Url

FOLDER = ".failed"
SAME_NIGHT_SECONDS = 4 * 3600
"""Failures this close to the first of them count as one: two runners share a night."""


@dataclass(frozen=True)
class Failure:
    """What is known of one slide that failed."""

    slide: str
    version: tuple[int, int]
    """Size and time of last change of the file: another file has not failed yet."""
    config: str
    """Digest of the night's configuration: with another one it has not failed yet."""
    attempts: int
    """Nights in which it failed."""
    message: str
    """Why, the last time."""
    at: float
    """When, the last time that counted."""


class Failures:
    """Those of the slides whose stores are in ``out``, under the configuration of ``digest``."""

    def __init__(self, out: Location, digest: str) -> None:
        self._folder, self._digest = out / FOLDER, digest

    def of(self, slide: Location) -> Failure | None:
        """What is known of ``slide`` as it is now, if it failed."""
        try:
            row = json.loads(self._file(slide).read_bytes())
            failure = Failure(**row | {"version": tuple(row["version"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        same = (failure.version, failure.config) == (version_of(slide), self._digest)
        return failure if same else None

    def add(self, slide: Location, message: str, now: float) -> Failure:
        """Note that ``slide`` failed ``now``, and say how often it has.

        Raises
        ------
        OutputError
            If the disk does not take it.
        """
        known = self.of(slide)
        attempts, at = (known.attempts, known.at) if known else (0, float("-inf"))
        if abs(now - at) > SAME_NIGHT_SECONDS:
            attempts, at = attempts + 1, now
        failure = Failure(str(slide), version_of(slide), self._digest, attempts, message, at)
        make_folder(self._folder)
        write_whole(self._file(slide), json.dumps(asdict(failure)).encode(), shared=True)
        return failure

    def forget(self, slide: Location) -> None:
        """Note that ``slide`` did not fail."""
        with suppress(OSError):  # as good as always there is none
            self._file(slide).unlink()

    def _file(self, slide: Location) -> Location:
        return self._folder / f"{hashlib.sha256(os.fsencode(str(slide))).hexdigest()[:16]}.json"


@dataclass(frozen=True)
class Stat:
    """What is known of a file or folder without a look into it."""

    size: int
    modified_ns: int
    """When its content changed, as copying tools set it, too."""
    changed: float
    """When it, or its entry, changed, in seconds since the epoch."""


def version_of(slide: Location) -> tuple[int, int]:
    """Size and time of last change, in ns, of the file, or of all in the folder; zeros where there is none."""
    try:
        stats = list(stats_of(slide))
    except OSError:
        return 0, 0
    return sum(there.size for there in stats), max(there.modified_ns for there in stats)


def stats_of(slide: Location) -> Iterator[Stat]:
    """Of the file, or of the folder and of each file and folder in it; of a link that leads nowhere its own.

    Raises
    ------
    OSError
        If it is gone, or one of them goes meanwhile.
    """
    if isinstance(slide, Url):
        for row in [slide.head()] if slide.is_file() else list(slide.rows()) or [slide.head()]:
            at = row["last_modified"].timestamp()
            yield Stat(row["size"], round(at * 1e9), at)
        return
    yield _stat(slide.stat() if slide.exists() else slide.lstat())
    for folder, folders, files in os.walk(slide):
        for name in (*folders, *files):
            yield _stat(Path(folder, name).lstat())


def _stat(there: os.stat_result) -> Stat:
    return Stat(there.st_size, there.st_mtime_ns, max(there.st_mtime, there.st_ctime))
