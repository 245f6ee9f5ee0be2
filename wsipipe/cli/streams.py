"""stdout and stderr, which may be closed or on a full disk: then the work goes on, and the end says so."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TextIO, TypeVar

import click

from wsipipe.errors import OutputError

E = TypeVar("E")
CANNOT_WRITE = (OSError, ValueError)
"""What a stream raises that is full, broken, or closed."""


class Telling(Generic[E]):
    """A listener that passes events on to ``listener`` until that cannot write; from then on nothing is told.

    Parameters
    ----------
    listener
        What writes them.
    where
        What it writes to, for the message.
    """

    def __init__(self, listener: Callable[[E], None], where: str) -> None:
        self._listener, self._where = listener, where
        self.problem = ""

    def __call__(self, event: E) -> None:
        """Pass ``event`` on."""
        if self.problem:
            return
        try:
            self._listener(event)
        except CANNOT_WRITE as err:
            self.fail(err)

    def fail(self, err: Exception) -> None:
        """Tell nothing from now on, because of ``err``; ``problem`` says so."""
        self.problem = f"{self._where} cannot be written: {getattr(err, 'strerror', None) or err}; the work went on"


def open_closed_streams() -> None:
    """Give the standard streams that are closed back their numbers, which the next file would get otherwise.

    stderr then fails at the first write, as a full disk does.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)


def complain(text: str) -> None:
    """Write ``text`` to stderr, if that can be written."""
    with suppress(*CANNOT_WRITE):
        click.echo(text, err=True)


def answer(text: str) -> None:
    """Write a command's result to stdout.

    Raises
    ------
    OutputError
        If it cannot be written.
    BrokenPipeError
        If its reader has ended.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as err:
        raise OutputError(f"stdout cannot be written: {err.strerror or err}; the work is done") from err


def flush_streams() -> None:
    """Drop what a stream cannot take any more; Python would end with another exit code for it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except CANNOT_WRITE:
            drop(stream)


def drop(stream: TextIO) -> None:
    """Let whatever is written to ``stream`` from now on vanish."""
    with suppress(*CANNOT_WRITE):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        stream.flush()
