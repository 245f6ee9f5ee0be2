"""The extras of the package, in messages: how to install the libraries that do not come along with wsipipe."""

from __future__ import annotations

from importlib.util import find_spec

from wsipipe.errors import MachineError

DISTRIBUTION = "wsipipe"
"""The name that pip knows the package by, as ``[project] name`` in ``pyproject.toml``."""


def install(extra: str) -> str:
    """The command that installs ``extra``, to follow a semicolon."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def require(library: str, extra: str, *, what: str) -> None:
    """Raise a MachineError unless ``library``, which comes with ``extra``, is installed.

    Call it before work begins that would otherwise be lost.

    Parameters
    ----------
    library
        The name that it is imported by.
    extra
        The extra of wsipipe that installs it.
    what
        What needs it, to begin the message with.

    Raises
    ------
    MachineError
        If it is not installed.
    """
    if find_spec(library) is None:
        raise MachineError(f"{what} needs {library}, which is not installed; {install(extra)}")
