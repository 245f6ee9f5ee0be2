"""Commands whose ``--help`` has its options in sections, and examples at the end.

click has neither: its options are one list, and it wraps an epilog like prose. Libraries that add both (cloup,
rich-click) replace all of click's classes, and take longer to import than ``--help`` may take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click

PLAIN_SECTION, LAST_SECTION = "Options", "Messages and help"
"""The section of options that name none, and that of ``--help``."""
EXAMPLE_COLUMNS = 42
"""Longest example that has its meaning beside it, not below."""

PATH = click.Path(readable=False)
"""The type of a path, a pattern or a URL: shells complete it, and whether it can be read is asked where it is used."""


class SectionOption(click.Option):
    """An option that stands in a section of ``--help``."""

    def __init__(self, *args: Any, section: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


def in_section(section: str) -> Callable[..., Callable[[Callable[..., None]], Callable[..., None]]]:
    """A `click.option` whose options stand in ``section`` of ``--help``."""
    return partial(click.option, cls=SectionOption, section=section)


def sections(ctx: click.Context) -> dict[str, list[click.Option]]:
    """The options of a command by section, in the order in which they were added; ``--help`` is in the last one.

    Those that name no section are in the first.
    """
    found: dict[str, list[click.Option]] = {PLAIN_SECTION: []}
    help_option = ctx.command.get_help_option(ctx)
    for option in (param for param in ctx.command.get_params(ctx) if isinstance(param, click.Option)):
        if option is not help_option:
            found.setdefault(option.section if isinstance(option, SectionOption) else PLAIN_SECTION, []).append(option)
    last = found.pop(LAST_SECTION, [])
    if help_option is not None:
        last.append(help_option)
    if len(found) == 1 and len(last) == 1:  # no sections
        return {PLAIN_SECTION: [*found[PLAIN_SECTION], *last]}
    return {title: options for title, options in (found | {LAST_SECTION: last}).items() if options}


class Command(click.Command):
    """A command with sections and ``examples``: a command line each, and what it does."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section of the options."""
        for title, options in sections(ctx).items():
            records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples after the epilog."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                formatter.write_dl(self.examples, col_max=EXAMPLE_COLUMNS)
