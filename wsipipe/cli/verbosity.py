"""``-v`` and ``-q``: how much a command says. What each level says is in `wsipipe.report.run_line.Verbosity`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import click

from wsipipe.cli.command import LAST_SECTION, in_section
from wsipipe.cli.slide_options import Option

if TYPE_CHECKING:
    from wsipipe.report.run_line import Verbosity

_said = in_section(LAST_SECTION)
VERBOSITY_OPTIONS: tuple[Option, ...] = (
    _said("-v", "--verbose", is_flag=True, help="Also say what was chosen and measured, and where the time went."),
    _said("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors."),
)


def verbosity(verbose: bool, quiet: bool) -> Verbosity:
    """What was asked for; with ``verbose``, what wsipipe logs goes to stderr from now on.

    Raises
    ------
    UsageError
        If both were.
    """
    from wsipipe.errors import UsageError
    from wsipipe.report.run_line import Verbosity

    if verbose and quiet:
        raise UsageError("-v and -q exclude each other; give one of them")
    if verbose:
        logger = logging.getLogger("wsipipe")
        logger.setLevel(logging.DEBUG)
        logger.handlers = [_Echo()]
    return Verbosity.VERBOSE if verbose else Verbosity.QUIET if quiet else Verbosity.NORMAL


class _Echo(logging.Handler):
    """Writes records to what stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write ``record``."""
        click.echo(self.format(record), err=True)
