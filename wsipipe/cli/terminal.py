"""What reaches the terminal: all that is printed has its invisible characters escaped, whoever prints it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import TextIOWrapper
from typing import Any, TextIO, cast

from wsipipe.cli.streams import Dispensable, Required


class Escaping:
    """A text stream that writes on ``stream``, after `report.words.shown`; all else is that of ``stream``.

    Names of files and what slides say of themselves may hold escape sequences, which a terminal obeys: they move the
    cursor, rewrite lines, set the title, or have it answer.
    """

    def __init__(self, stream: TextIO | Dispensable) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write ``text``, escaped."""
        from wsipipe.report.words import shown

        self.stream.write(shown(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all ``lines``, escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def escaped_output() -> Iterator[None]:
    """Have stdout and stderr of this process escape: also warnings, logs, tracebacks and the messages of click.

    A command is done without stderr, and fails without stdout. Characters that the locale's encoding lacks are escaped,
    too.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with (
        redirect_stdout(cast(TextIO, Escaping(Required(sys.stdout, "stdout")))),
        redirect_stderr(cast(TextIO, Escaping(Dispensable(sys.stderr, "stderr")))),
    ):
        yield


def terminal() -> TextIO:
    """The stderr that obeys escape sequences, for bars; texts of others must be `shown` before they get there."""
    return cast(TextIO, sys.stderr.stream) if isinstance(sys.stderr, Escaping) else sys.stderr
