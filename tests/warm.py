"""Processes forked from one that has imported torch and the rest: a second of processor time, and not four.

What comes after the imports is the same: a process of its own, with its own files, signals and end.
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path

import dask
import distributed

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["wsipipe.cli", "wsipipe.pipeline.run", "wsipipe.training.trainer", "openvino", "distributed.cli"]
)
dask.config.update_defaults({"distributed": {"worker": {"multiprocessing-method": "forkserver"}}})
distributed.utils._forkserver_preload_set = True  # workers that a run starts are forked from it too
NUMBERS = itertools.count()
First = Callable[[], None]
"""A function that a process calls before all else; it is pickled, so it is a function of a module."""


@cache
def folder_of_outputs() -> tempfile.TemporaryDirectory[str]:
    """A folder made once by whoever starts processes, not by these, which import this module too."""
    return tempfile.TemporaryDirectory(prefix="wsipipe-stdout-")


class Warm:
    """One of these processes, as far as it is like a `subprocess.Popen` of text.

    Parameters
    ----------
    program
        The module whose ``main`` it is.
    arguments
        What follows the program's name on a command line.
    log
        Where what it says on stderr goes.
    first
        What it does before all else.
    environment
        Over that of this process; what libraries read of it as they are imported is not seen.
    """

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        log: Path,
        *,
        first: First | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.args = [program, *arguments]
        self._said = Path(folder_of_outputs().name, str(next(NUMBERS)))
        interrupts = signal.getsignal(signal.SIGINT) != signal.SIG_IGN
        around = {**os.environ, **(environment or {})}
        given = (self.args, str(self._said), str(log), around, str(Path.cwd()), interrupts, first)
        self._process = CONTEXT.Process(target=_main, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, or None as long as it runs."""
        return self._process.exitcode

    returncode = property(poll)

    def send_signal(self, number: int) -> None:
        """Send it, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return its exit code."""
        if not wait([self._process.sentinel], timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait for its end; return what it wrote on stdout."""
        self.wait(timeout)
        return self._said.read_text(), None


def _main(
    arguments: list[str],
    stdout: str,
    stderr: str,
    environment: dict[str, str],
    folder: str,
    interrupts: bool,
    first: First | None,
) -> None:
    """The main function of a process that was just forked."""
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler if interrupts else signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    forkserver._forkserver.ensure_running = lambda: None  # workers come from the server that this one came from
    sys.argv = arguments
    dask.config.refresh()
    if first:
        first()
    try:
        import_module(arguments[0]).main()
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out
