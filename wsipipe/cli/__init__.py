"""The command line: options in, one library call, text out.

Nothing heavier than click is imported until a command needs it, so that ``wsipipe --help`` answers at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

import click

from wsipipe.cli.check import check
from wsipipe.cli.completion import completion
from wsipipe.cli.demo import demo
from wsipipe.cli.evaluate import evaluate
from wsipipe.cli.examples import examples
from wsipipe.cli.exit_codes import EXIT_ENVIRONMENT, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from wsipipe.cli.export import export
from wsipipe.cli.info import info
from wsipipe.cli.model import model
from wsipipe.cli.nightly import nightly
from wsipipe.cli.objects import objects
from wsipipe.cli.preview import preview
from wsipipe.cli.run import run
from wsipipe.cli.streams import open_closed_streams
from wsipipe.cli.terminal import escaped_output
from wsipipe.cli.train import train
from wsipipe.cli.view import view
from wsipipe.errors import MachineError, ModelError, UsageError, WsipipeError
from wsipipe.version import VERSION

RESUMED = "the same command resumes where it stopped"
AFTER_INTERRUPTION = {
    "train": "the same command with --resume continues from the last checkpoint",
    "model": "nothing was written",
    "info": "nothing was written",
    "preview": "nothing was written",
}
"""What holds after commands that do not resume by themselves."""


class Interrupted(click.Abort):
    """Ctrl-C, or SIGTERM, and what holds after it."""


class Commands(click.Group):
    """The commands, which say what an interruption leaves."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command of ``ctx``.

        Raises
        ------
        Interrupted
            On Ctrl-C.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as err:
            raise Interrupted(AFTER_INTERRUPTION.get(ctx.invoked_subcommand or "", RESUMED)) from err


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, package_name="wsipipe")
def cli() -> None:
    """Segment gigapixel whole-slide images with a U-Net: exact at tile borders, resumable, in flat memory."""


for command in (run, nightly, view, objects, export, train, evaluate, check, info, preview, model):
    cli.add_command(command)
for command in (demo, examples, completion):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line. An error of wsipipe becomes one line on stderr and an exit code."""
    open_closed_streams()
    for name in [name for name in os.environ if name.startswith("ZARR_")]:
        del os.environ[name]  # not for wsipipe; read as zarr is imported, here and by workers
    signal.signal(signal.SIGTERM, _interrupt)  # a batch system that ends a job means Ctrl-C
    with escaped_output():
        code = _run()
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # everything is done and reported, so a late signal must not change the exit code
    sys.exit(code)


def _run() -> int:
    try:
        code: int = cli(prog_name="wsipipe", standalone_mode=False) or 0  # given to Context.exit by a command
    except click.ClickException as err:
        err.show()
        code = err.exit_code
    except (click.Abort, KeyboardInterrupt) as err:
        click.echo(f"wsipipe: interrupted; {str(err) or RESUMED}", err=True)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has ended
        code = EXIT_FAILED
    except WsipipeError as err:
        code = _failed(str(err), _exit_code(err))
    except OSError as err:  # a path that may not be looked at, or whose name is too long
        if err.filename is None:
            raise
        code = _failed(f"{err.filename} cannot be used: {err.strerror}", EXIT_ENVIRONMENT)
    return code


def _failed(message: str, code: int) -> int:
    """Say why the command failed; returns ``code``."""
    click.echo(f"wsipipe: {message}", err=True)
    if "--json" in sys.argv:
        with suppress(OSError):  # stdout cannot be written, either
            click.echo(json.dumps({"error": message, "exit_code": code}))
    return code


def _exit_code(err: WsipipeError) -> int:
    if isinstance(err, UsageError | ModelError):
        return EXIT_USAGE
    return EXIT_ENVIRONMENT if isinstance(err, MachineError) else EXIT_FAILED


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
