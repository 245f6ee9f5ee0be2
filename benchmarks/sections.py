"""A benchmark in sections, each in a process of its own: one that fails, dies or hangs becomes a row that says so."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from wsipipe.files import write_whole

Row = dict[str, Any]
"""What was measured, by column; ``what`` is its title. It may have an ``error``, or a reason why it was ``skipped``."""
Section = Callable[[float], Iterator[Row]]
"""Yields its rows, each as soon as it is there, until a time of `time.monotonic`."""
FORK = multiprocessing.get_context("fork")
"""What the first process has imported is there at once; it must not compute itself."""
MOST_SHARE = 0.25
"""The most of all minutes that one section takes."""
UNNAMED = ("section", "what", "torch", "device")
"""Columns that a line does not name: titles, and those that are the same for all."""


def measure(sections: Mapping[str, Section], minutes: float, out: Path) -> list[Row]:
    """The rows of all ``sections``, in this order, printed and written to ``out`` as they come."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # by way of `finally`, which ends sections
    rows: list[Row] = []
    deadline = time.monotonic() + 60 * minutes
    for name, section in sections.items():
        with closing(rows_of(section, min(deadline, time.monotonic() + 60 * minutes * MOST_SHARE))) as found:
            for row in found:
                rows.append({"section": name, **row})
                print(line_of(rows[-1]), flush=True)
                write_whole(out, json.dumps(rows, indent=1).encode())
    return rows


def rows_of(section: Section, deadline: float) -> Generator[Row, None, None]:
    """The rows of ``section``, whatever becomes of its process, which ends at ``deadline``."""
    if time.monotonic() >= deadline:
        yield {"what": "not begun", "skipped": "the minutes are used up"}
        return
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_compute, args=(section, deadline, sender))
    # Not while it forks: what a handler raises within the callbacks of a fork is lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    process.start()
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        sender.close()
        while receiver.poll(max(0.0, deadline - time.monotonic())):
            try:
                yield receiver.recv()
            except EOFError:
                process.join()
                if process.exitcode:
                    yield {"what": "died", "error": f"its process ended with exit code {process.exitcode}"}
                return
        yield {"what": "stopped", "skipped": "its time was up"}
    finally:
        assert process.pid is not None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def _compute(section: Section, deadline: float, sender: Connection) -> None:
    """Send the rows of ``section``, with the seconds that each took."""
    os.setsid()  # so that whatever it starts ends with it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    started = time.perf_counter()
    try:
        for row in section(deadline):
            now = time.perf_counter()
            sender.send({**row, "seconds": now - started})
            started = now
    except Exception as err:
        traceback.print_exc()
        sender.send({"what": "failed", "error": f"{type(err).__name__}: {err}"})


def line_of(row: Row) -> str:
    """``row`` as a line of the table."""
    values = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in row.items()}
    named = "  ".join(f"{name} {value}" for name, value in values.items() if name not in UNNAMED)
    return f"{values['section']:15} {values['what']:48} {named}"
