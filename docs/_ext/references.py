"""References made from the code: the keys of a TOML file from its dataclasses, and the metrics.

``{toml-keys} wsipipe.training.config.TrainConfig`` has a section for each table, and a row for each key. The meaning is
the docstring below the field; with ``:options-of: wsipipe.cli.run.run``, a field without one has that option's help.
``{json-keys} wsipipe.pipeline.summary.RunSummary`` has a row for each key of a JSON document made of a dataclass.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from importlib import import_module
from types import NoneType, UnionType
from typing import Any

import click
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from wsipipe.cli.toml_keys import meaning_of, option_of
from wsipipe.documented import TITLE
from wsipipe.tables import BOUNDS, field_docs

NAMES = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}
JSON_NAMES = {**NAMES, bool: "true or false"}


def named(path: str) -> Any:
    """The object at a dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def kind_in_words(kind: Any) -> str:
    """The type of a field, as people who write TOML call it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f'`"{one}"`' for one in arguments)
    if origin is tuple:
        return f"list of {NAMES[arguments[0]]}s"
    if origin is dict:
        return "table"
    if arguments:
        return " or ".join(kind_in_words(one) for one in arguments if one is not NoneType)
    return NAMES[kind]


def default_in_words(field: dataclasses.Field[Any]) -> str:
    """The default, as TOML has it."""
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "required"
    value = field.default_factory() if field.default is dataclasses.MISSING else field.default
    if value is None or value == {}:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(repr(one) for one in value if isinstance(one, str)) + "]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def sections_of(kind: Any, options: click.Command | None, place: str = "", title: str = "Top level") -> Iterator[str]:
    """Markdown of a dataclass, and after it of those that its fields hold."""
    types, docs = typing.get_type_hints(kind), field_docs(kind)
    rows, inner = [], []
    for field in dataclasses.fields(kind):
        of_field = types[field.name]
        below = f"{place}.{field.name}".removeprefix(".")
        if dataclasses.is_dataclass(of_field):
            inner.append(sections_of(of_field, options, below, f"`[{below}]`"))
        elif (element := next(filter(dataclasses.is_dataclass, typing.get_args(of_field)), None)) is not None:
            one = "" if typing.get_origin(of_field) is tuple else f"`[{below}]`, or several: "
            inner.append(sections_of(element, options, below, f"{one}`[[{below}]]`"))
        else:
            option = None if field.name in docs else option_of(options, field.name)
            rows.append(row_of(field, of_field, meaning_of(docs, field.name, options), option))
    yield f"## {title}"
    yield inspect.getdoc(kind).partition("\n\n")[0].replace("\n", " ")
    if rows:
        yield "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])
    for one in inner:
        yield from one


def row_of(field: dataclasses.Field[Any], kind: Any, meaning: str, option: click.Option | None) -> str:
    """The row of a field, as Markdown; ``option`` is that of the command line, where its help is the meaning."""
    value, default, bounds = kind_in_words(kind), default_in_words(field), field.metadata.get(BOUNDS)
    if option is not None:
        if isinstance(option.type, click.Choice):
            value = ", ".join(f'`"{one}"`' for one in option.type.choices)
        if not default and option.default == "auto":
            default = "auto"
    if bounds is not None:
        value = str(bounds).removeprefix("a ") + " or list of texts" * ("list" in value)
        meaning = meaning.rstrip() + f" ({bounds.hint})" * bool(bounds.hint)
    meaning = meaning.strip().replace("|", r"\|")
    return f"| `{field.name}` | {value} | {default} | {meaning} |"


def json_rows(kind: Any, place: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, value, meaning) of each key of the JSON object that ``dataclasses.asdict`` makes of ``kind``.

    Keys of inner objects have those outside in front of them, ``[]`` stands for the elements of a list, and ``*`` for
    keys that the content decides.
    """
    types, docs = typing.get_type_hints(kind), field_docs(kind)
    for field in dataclasses.fields(kind):
        meaning = docs.get(field.name, "").replace("|", r"\|").replace("None", "null")
        if not meaning and not dataclasses.is_dataclass(types[field.name]):
            raise ValueError(f"the key {place}{field.name} has no docstring")
        yield from _json_rows(types[field.name], f"{place}{field.name}", meaning)


def _json_rows(kind: Any, key: str, meaning: str) -> Iterator[tuple[str, str, str]]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    known = [one for one in arguments if one is not NoneType]
    if dataclasses.is_dataclass(kind):
        if meaning:
            yield key, "object", meaning
        yield from json_rows(kind, f"{key}.")
    elif origin in (UnionType, typing.Union) and len(known) == 1:
        for i, (name, value, said) in enumerate(_json_rows(known[0], key, meaning)):
            yield name, f"{value} or null" if i == 0 else value, said
    elif origin in (tuple, list):
        element = known[0] if known[-1] is Ellipsis or len(known) == 1 or known[0] is known[1] else Any
        if dataclasses.is_dataclass(element):
            yield f"{key}[]", "object", meaning
            yield from json_rows(element, f"{key}[].")
        else:
            yield key, "list", meaning
    elif origin is dict:
        yield f"{key}.*", JSON_NAMES[known[1]], meaning
    else:
        yield key, JSON_NAMES[str if origin is typing.Literal else kind], meaning


class JsonKeys(SphinxDirective):
    """The keys of a JSON document, from the dataclass that it is made of."""

    required_arguments = 1
    option_spec: typing.ClassVar = {"place": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        rows = json_rows(named(self.arguments[0]), self.options.get("place", ""))
        text = [f"| `{key}` | {value} | {meaning} |" for key, value, meaning in rows]
        return self.parse_text_to_nodes("\n".join(["| key | value | meaning |", "|---|---|---|", *text]))


class TomlKeys(SphinxDirective):
    """The tables and keys of a TOML file, from the dataclass that reads it."""

    required_arguments = 1
    option_spec: typing.ClassVar = {"options-of": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Make the sections."""
        options = named(self.options["options-of"]) if "options-of" in self.options else None
        text = "\n\n".join(sections_of(named(self.arguments[0]), options))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Metrics(SphinxDirective):
    """The metrics of ``wsipipe evaluate``, each with its description."""

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        from wsipipe.evaluation.metrics import METRICS

        rows = [f"| `{name}` | {metric.description} |" for name, metric in METRICS.items()]
        return self.parse_text_to_nodes("\n".join(["| metric | meaning |", "|---|---|", *rows]))


def without_fields(_app: Sphinx, _what: str, _name: str, found: object, _options: object, lines: list[str]) -> None:
    """Take from a docstring the section on fields that is for `help`: here autodoc lists them, with their types."""
    title = TITLE.splitlines()
    at = next((i for i in range(len(lines)) if lines[i : i + 2] == title), len(lines))
    if dataclasses.is_dataclass(found):
        del lines[at:]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("toml-keys", TomlKeys)
    app.add_directive("json-keys", JsonKeys)
    app.add_directive("metrics", Metrics)
    app.connect("autodoc-process-docstring", without_fields, priority=1)  # before numpydoc
    return {"parallel_read_safe": True}
