"""A night as metrics, for the textfile collector of Prometheus' node-exporter.

Metrics are per night, not per slide: the names of slides would make new time series every night.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
from pathlib import Path

from wsipipe.errors import OutputError
from wsipipe.files import MAKE_ROOM, write_whole
from wsipipe.report.record import NightReport, moment
from wsipipe.report.words import shown


def write_metrics(report: NightReport, path: Path) -> None:
    """Write the metrics of ``report`` to ``path``, whole; node-exporter reads files named ``*.prom``.

    ======================================== ================================================================
    wsipipe_slides{status}                   slides, for each status of `wsipipe.report.record.STATUSES`
    wsipipe_slides_with_warnings             slides with a warning
    wsipipe_night_seconds                    duration, from start to end
    wsipipe_night_pixels                     pixels computed
    wsipipe_night_objects                    objects measured
    wsipipe_pixels_per_second                speed while slides were computed
    wsipipe_night_started_timestamp_seconds  start, Unix time
    wsipipe_night_finished_timestamp_seconds end, Unix time; alert on its age
    wsipipe_night_exit_code                  exit code, as of ``wsipipe run``
    wsipipe_night_stopped                    1 if the night ended early
    wsipipe_night_info{host,version}         always 1
    ======================================== ================================================================

    Raises
    ------
    OutputError
        If ``path`` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise OutputError(f"{path.parent} cannot be created: {err.strerror or err}; {MAKE_ROOM}") from err
    write_whole(path, metrics(report).encode(), shared=True)


def metrics(report: NightReport) -> str:
    """The metrics of ``report``, in the text format of Prometheus."""
    by_status = (({"status": status}, count) for status, count in report.counts.items())
    gauges = [
        _gauge("slides", "Slides by status.", *by_status),
        _gauge("slides_with_warnings", "Slides with a warning.", ({}, report.warned)),
        _gauge("night_seconds", "Duration of the night.", ({}, report.seconds)),
        _gauge("night_pixels", "Pixels computed in the night.", ({}, report.pixels)),
        _gauge("night_objects", "Objects measured in the night.", ({}, report.objects)),
        _gauge("pixels_per_second", "Speed while slides were computed.", ({}, report.pixels_per_second)),
        _gauge("night_started_timestamp_seconds", "Start of the night.", ({}, moment(report.started).timestamp())),
        _gauge("night_finished_timestamp_seconds", "End of the night.", ({}, moment(report.finished).timestamp())),
        _gauge("night_exit_code", "Exit code of the night.", ({}, report.exit_code)),
        _gauge("night_stopped", "Whether the night ended early.", ({}, int(report.stopped != ""))),
        _gauge("night_info", "Where the night ran.", ({"host": report.host, "version": report.version}, 1)),
    ]
    return "".join(gauges)


def _gauge(name: str, description: str, *samples: tuple[dict[str, str], float]) -> str:
    """One metric with its samples, (labels, value) each."""
    lines = [f"# HELP wsipipe_{name} {description}", f"# TYPE wsipipe_{name} gauge"]
    lines += [f"wsipipe_{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _labels(labels: dict[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(text: str) -> str:
    return shown(text).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else str(value).replace("inf", "Inf").replace("nan", "NaN")
