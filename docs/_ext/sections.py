"""The sections and the examples of a command's ``--help``, in the page that sphinx-click makes of it."""

from __future__ import annotations

import click
from sphinx.application import Sphinx

from wsipipe.cli.command import PLAIN_SECTION, Command, sections


def with_titles(_app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Put the title of each section above its first option, in place."""
    if not isinstance(ctx.command, Command):
        return
    for title, options in sections(ctx).items():
        first = f".. option:: {options[0].opts[0]}"
        at = next((i for i, line in enumerate(lines) if line.startswith(first)), None)
        if at is not None and title != PLAIN_SECTION:
            lines[at:at] = [f"**{title}**", ""]


def with_examples(_app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Add the examples, in place."""
    for line, meaning in getattr(ctx.command, "examples", ()):
        lines += [f"{meaning[0].upper()}{meaning[1:]}:", "", ".. code-block:: shell", "", f"   {line}", ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Listen to sphinx-click."""
    app.connect("sphinx-click-process-options", with_titles)
    app.connect("sphinx-click-process-epilog", with_examples)
    return {"parallel_read_safe": True}
