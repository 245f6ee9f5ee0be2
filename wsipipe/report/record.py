"""One night, which is one pass of ``wsipipe nightly``, and the nights before it; as values and as JSON.

::

    report.json         the last night, whole; `read_report` gives it back
    history.jsonl       one line a night: counts, speed, duration

A name that is no Unicode, as `os.fsdecode` gives it, stands in the JSON as the escape of a lone surrogate: Python
gives the same name back, other readers may replace it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from wsipipe.errors import OutputError, UsageError
from wsipipe.files import Location
from wsipipe.urls import Url

DONE, FAILED, SKIPPED, SET_ASIDE = "done", "failed", "skipped", "set aside"
WAITING, TAKEN, OPEN, NO_TISSUE = "waiting", "taken", "open", "no tissue"
STATUSES = {
    DONE: "segmented this night",
    FAILED: "could not be segmented, or not wholly",
    SET_ASIDE: "failed in too many nights, not tried any more",
    OPEN: "time was up; the next night resumes",
    WAITING: "still being copied in",
    TAKEN: "with another runner",
    NO_TISSUE: "nothing was found to segment; complete all the same",
    SKIPPED: "done before",
}
"""What can become of a slide, and what that means, in the order in which it is told."""
REPORT_VERSION = 1


@dataclass(frozen=True)
class SlideReport:
    """What became of one slide."""

    slide: str
    """Path or URL."""
    status: str
    """One of `STATUSES`."""
    message: str = ""
    """The error in full, or why it is not done."""
    store: str | None = None
    """Where its labels are, or are to be."""
    seconds: float = 0.0
    """That it took in this night."""
    pixels: int = 0
    """Computed in this night."""
    bottleneck: str = ""
    """What would have to be faster; empty where that is not known."""
    warnings: tuple[str, ...] = ()
    attempts: int = 0
    """Nights that tried it."""
    model: str = ""
    """Name of the model."""
    model_sha256: str = ""
    """Of the model's file."""
    skipped: int = 0
    """Of `pixels`, those in tiles of glass, which did not go through the network."""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise UsageError(f"a slide is not {self.status!r}; allowed are {', '.join(STATUSES)}")

    @property
    def pixels_per_second(self) -> float:
        """Of its own time; 0 if nothing was computed."""
        return self.pixels / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class NightReport:
    """What became of a night."""

    started: str
    """ISO 8601, in UTC."""
    finished: str
    """ISO 8601, in UTC."""
    host: str
    """Name of the machine."""
    version: str
    """Of wsipipe."""
    command: str
    """The command, or the path of the configuration, that says what was to be done."""
    slides: tuple[SlideReport, ...]
    """In the order in which they are told."""
    stopped: str = ""
    """Why it ended early; empty if it did not."""
    exit_code: int = 0

    def __post_init__(self) -> None:
        for text in (self.started, self.finished):
            moment(text)

    @property
    def counts(self) -> dict[str, int]:
        """How many slides there are of each status, all of `STATUSES`."""
        return {status: sum(slide.status == status for slide in self.slides) for status in STATUSES}

    @property
    def seconds(self) -> float:
        """From start to end."""
        return max(0.0, (moment(self.finished) - moment(self.started)).total_seconds())

    @property
    def pixels(self) -> int:
        """Computed in this night."""
        return sum(slide.pixels for slide in self.slides)

    @property
    def pixels_per_second(self) -> float:
        """While slides were computed: waiting for work does not make it slower. 0 if nothing was computed."""
        busy = sum(slide.seconds for slide in self.slides if slide.pixels)
        return self.pixels / busy if busy > 0 else 0.0

    @property
    def summary(self) -> NightSummary:
        """Its line of the history."""
        return NightSummary(
            started=self.started,
            finished=self.finished,
            host=self.host,
            version=self.version,
            seconds=self.seconds,
            counts=self.counts,
            pixels=self.pixels,
            pixels_per_second=self.pixels_per_second,
            stopped=self.stopped,
            exit_code=self.exit_code,
        )


@dataclass(frozen=True)
class NightSummary:
    """One line of the history."""

    started: str
    finished: str
    host: str
    version: str
    seconds: float
    counts: dict[str, int]
    """Slides by status."""
    pixels: int
    pixels_per_second: float
    stopped: str
    exit_code: int

    @property
    def failed(self) -> int:
        """Slides that failed, in this night or in too many before."""
        return self.counts.get(FAILED, 0) + self.counts.get(SET_ASIDE, 0)


def moment(text: str) -> datetime:
    """The instant that ``text``, ISO 8601, says; in UTC unless it says another zone.

    Raises
    ------
    UsageError
        If it is no such text.
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError as err:
        raise UsageError(f"{text!r} is no time in ISO 8601, such as 2026-11-24T22:00:00+00:00") from err
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def report_as_json(report: NightReport) -> bytes:
    """What stands in ``report.json``: the report, and what follows from it, for other programs."""
    derived = {
        "counts": report.counts,
        "seconds": report.seconds,
        "pixels": report.pixels,
        "pixels_per_second": report.pixels_per_second,
    }
    document = {"report_version": REPORT_VERSION, **asdict(report), "summary": derived}
    return (json.dumps(plain(document), indent=2) + "\n").encode()


def read_report(path: Location) -> NightReport:
    """The report that `report_as_json` wrote to ``path``.

    Raises
    ------
    UsageError
        If it is not there, is none, or is of a newer wsipipe.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["report_version"] > REPORT_VERSION:
            raise UsageError(f"{path} is of a newer wsipipe ({document['version']}); read it with that")
        slides = tuple(
            SlideReport(**_known(SlideReport, row) | {"warnings": tuple(row["warnings"])}) for row in document["slides"]
        )
        return NightReport(**_known(NightReport, document) | {"slides": slides})
    except OSError as err:
        raise UsageError(f"{path} can not be read: {err.strerror or err}") from err
    except UsageError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as err:
        raise UsageError(f"{path} is not the report of a night ({type(err).__name__}: {err})") from err


def append_history(path: Location, night: NightSummary) -> None:
    """Add the line of ``night`` to the file at ``path``; what stands there stays, a line that a crash tore too.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    line = json.dumps(plain(asdict(night))).encode() + b"\n"
    try:
        if isinstance(path, Url):
            _append_behind(path, line)
            return
        with path.open("a+b", buffering=0) as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - 1))
            torn = end > 0 and file.read(1) != b"\n"
            file.write(b"\n" + line if torn else line)
    except OSError as err:
        raise OutputError(f"{path} can not be written: {err.strerror or err}; make room, or use another -o") from err


def _append_behind(url: Url, line: bytes) -> None:
    """Write all of it again, unless another wrote meanwhile; then what that one wrote too."""
    written = None
    while written is None:
        before, e_tag = url.read_tagged() or (b"", None)
        written = "" if before.endswith(line) else url.put_if(before + line, e_tag)


def read_history(path: Location) -> tuple[NightSummary, ...]:
    """The nights of the file at ``path``, from old to new, without lines that a crash tore.

    A night that was reported again is there once, as it was told last.

    Raises
    ------
    OutputError
        If the file is there and can not be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return ()
    except OSError as err:
        raise OutputError(f"{path} can not be read: {err.strerror or err}") from err
    nights: dict[tuple[str, str], NightSummary] = {}
    for line in lines:
        try:
            night = _night(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            continue
        nights[night.host, night.started] = night
    return tuple(sorted(nights.values(), key=lambda night: moment(night.started)))


def _night(row: dict[str, Any]) -> NightSummary:
    """A line of the history; whatever it raises says that it is none."""
    moment(row["started"]), moment(row["finished"])
    seconds, speed = float(row["seconds"]), float(row["pixels_per_second"])
    if not math.isfinite(seconds + speed):
        raise ValueError
    return NightSummary(
        **{name: str(row[name]) for name in ("started", "finished", "host", "version", "stopped")},
        seconds=seconds,
        counts={str(status): int(count) for status, count in row["counts"].items()},
        pixels=int(row["pixels"]),
        pixels_per_second=speed,
        exit_code=int(row["exit_code"]),
    )


def _known(cls: type[Any], row: dict[str, Any]) -> dict[str, Any]:
    """Of ``row``, what ``cls`` has a field for."""
    return {field.name: row[field.name] for field in fields(cls) if field.name in row}


def plain(value: Any) -> Any:
    """``value`` as JSON has it: what is no number, such as a speed of infinity, is 0."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return 0.0 if isinstance(value, float) and not math.isfinite(value) else value
