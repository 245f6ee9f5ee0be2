"""The keys of a TOML file, for people: their meanings and values, from the dataclass that reads it."""

from __future__ import annotations

import dataclasses
import json
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

import click

from wsipipe.tables import field_docs

LINE = 116
"""Most characters of a comment's line."""


def meaning_of(docs: dict[str, str], name: str, options: click.Command | None) -> str:
    """The meaning of the key ``name``: the docstring below its field, of ``docs``, or the help of its option.

    Raises
    ------
    ValueError
        If it has neither.
    """
    if name in docs:
        return docs[name]
    option = option_of(options, name)
    if option is None or not option.help:
        raise ValueError(f"the key {name} has neither a docstring nor an option")
    return option.help.partition("  [default")[0]


def option_of(command: click.Command | None, name: str) -> click.Option | None:
    """The option of ``command`` that the key ``name`` stands for."""
    wanted = f"--{name.replace('_', '-')}"
    options = command.params if command else []
    return next((one for one in options if isinstance(one, click.Option) and wanted in one.opts), None)


def commented_keys(
    kind: Any, examples: dict[str, Any], options: click.Command, place: str = "", *, off: str = ""
) -> Iterator[str]:
    """The lines of a TOML file with every key of the dataclass ``kind``, each below its meaning.

    Keys that need not be given are comments, ``#key = value``, and have their default, where there is one.

    Parameters
    ----------
    kind
        The dataclass; what its fields hold follows as tables.
    examples
        Values of keys without a default, by name.
    options
        The command whose options explain the fields that have no docstring.
    place
        Name of the table, ``run``.
    off
        ``#`` for a table that need not be given, though it has keys that must be.
    """
    types, docs, tables = typing.get_type_hints(kind), field_docs(kind), list[Iterator[str]]()
    for one in dataclasses.fields(kind):
        of_field, below = types[one.name], f"{place}.{one.name}".removeprefix(".")
        (element, *_) = typing.get_args(of_field) or (of_field,)
        if dataclasses.is_dataclass(element):
            head = f"#[[{below}]]" if element is not of_field else f"[{below}]"
            tables.append(iter(["", *_comment(str(element.__doc__).partition("\n\n")[0]), head]))
            tables.append(commented_keys(element, examples, options, below, off="#" * (element is not of_field)))
            continue
        yield from ["", *_comment(meaning_of(docs, one.name, options))]
        option = option_of(options, one.name)
        if one.name not in docs and option is not None and isinstance(option.type, click.Choice):
            yield f"# One of {', '.join(option.type.choices)}."
        if typing.get_origin(of_field) is dict:
            yield f"#[{below}]"
            yield from (f"#{name} = {json.dumps(value)}" for name, value in examples[one.name].items())
            continue
        needed = one.default is dataclasses.MISSING
        value = examples[one.name] if needed or one.default is None else one.default
        yield f"{off if needed else '#'}{one.name} = {json.dumps(value)}"
    for lines in tables:
        yield from lines


def _comment(text: str) -> Iterator[str]:
    """``text`` as lines of a comment, without the marks of code."""
    return (f"# {line}" for line in textwrap.wrap(text.replace("`", ""), LINE, break_long_words=False))
