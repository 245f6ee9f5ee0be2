"""stdout and stderr, which may be closed or on a full disk: then the work goes on, and the end says so."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO

from wsipipe.errors import OutputError

CANNOT_WRITE = (OSError, ValueError)
"""The errors of a stream that is full, broken, or closed."""


class Dispensable:
    """A text stream that writes on ``stream``, called ``name``, until that fails; what is written later vanishes.

    ``problem`` says why it failed; all else is that of ``stream``.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self.stream, self._name = stream, name
        self.problem = ""

    def write(self, text: str) -> int:
        """Write ``text``, if it can be written."""
        try:
            if text:  # click tries whether a stream takes text, and drops what that raises
                self.stream.write(text)
        except CANNOT_WRITE as err:
            self._fail(err)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, if it can be written."""
        try:
            self.stream.flush()
        except CANNOT_WRITE as err:
            self._fail(err)

    def _fail(self, err: Exception) -> None:
        self.problem = self.problem or why_untold(self._name, err)
        drop(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Required(Dispensable):
    """A stream that raises an OutputError once it fails, or a BrokenPipeError if its reader has ended."""

    def _fail(self, err: Exception) -> None:
        drop(self.stream)
        if isinstance(err, BrokenPipeError):
            raise err
        raise OutputError(f"{self._name} cannot be written: {_reason(err)}; the work is done") from err


def why_untold(where: str, err: Exception) -> str:
    """The sentence of a command's end about ``where``, which failed with ``err``."""
    return f"{where} cannot be written: {_reason(err)}; the work went on"


def stderr_problem() -> str:
    """Why stderr, if it is `Dispensable`, could not be written; empty if it could."""
    problem: str = getattr(sys.stderr, "problem", "")
    return problem


def open_closed_streams() -> None:
    """Give the standard streams that are closed back their numbers, which the next files would get otherwise.

    Such a stream then fails at the first write, as on a full disk.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # so Python sets a stream that was closed
            setattr(sys, name, os.fdopen(number, "w", buffering=1, errors="backslashreplace", closefd=False))


def drop(stream: TextIO) -> None:
    """Let all that is buffered in ``stream``, and written to it from now on, vanish.

    Python would end with another exit code for what it cannot flush.
    """
    with suppress(*CANNOT_WRITE):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()


def _reason(err: Exception) -> str:
    return getattr(err, "strerror", None) or str(err)
