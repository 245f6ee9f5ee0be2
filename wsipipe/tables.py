"""Files that users write: TOML as frozen dataclasses, with all problems reported at once, and CSV row by row.

The field of a number says what it allows: ``steps: int = bounded(2000, above=0)``.
"""

from __future__ import annotations

import ast
import csv
import difflib
import inspect
import json
import math
import os
import re
import textwrap
import tomllib
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import partial
from itertools import pairwise, takewhile
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar

from wsipipe.errors import UsageError

Place = tuple[str | int, ...]
"""A place in a document: keys, and indices within lists of tables."""
KEY = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
DOTTED = rf"\s*({KEY}(?:\s*\.\s*{KEY})*)\s*"
BOUNDS = "bounds"
"""The key of a field's metadata under which its `Bounds` are."""
Value = TypeVar("Value")


class TableError(UsageError):
    """A document with problems; the message is that of the first one."""

    def __init__(self, problems: list[tuple[Place, str]], usable: Callable[[], Any] = lambda: None) -> None:
        super().__init__(problems[0][1])
        self.problems = problems
        self.usable = usable
        """Makes what was asked for, with the default, or an empty value, for each key of the wrong name or type."""

    def __reduce__(self) -> tuple[type[TableError], tuple[list[tuple[Place, str]]]]:
        return TableError, (self.problems,)


@dataclass(frozen=True)
class Bounds:
    """The numbers that a field allows, all of them finite."""

    above: float = -math.inf
    least: float = -math.inf
    below: float = math.inf
    most: float = math.inf
    hint: str = ""
    """What messages add: another value that is allowed, or the reason."""

    def __contains__(self, value: float) -> bool:
        return self.above < value < self.below and self.least <= value <= self.most

    def __str__(self) -> str:
        if self.above == 0:
            return "a positive number"
        if self.most < math.inf:
            return f"a number from {self.least} to {self.most}"
        if self.below < math.inf:
            return f"a number from {self.least} to below {_in_short(self.below)}"
        return f"a number of {self.least} or more"


def _in_short(number: float) -> str:
    """``number``, as ``2**63`` if it is such a power and has more digits than people read."""
    power = int(number).bit_length() - 1
    return f"2**{power}" if power >= 20 and number == 2**power else str(number)


def bounded(
    default: Value,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
    hint: str = "",
) -> Value:
    """A dataclass field of numbers within bounds; None, or a list in place of a number, is not bounded.

    Parameters
    ----------
    default
        Its value where none is given.
    above
        Values are larger than this: only 0 is possible, and no other bound beside it.
    least
        Values are this or more.
    below
        Values are smaller than this; needs ``least``.
    most
        Values are this or less; needs ``least``.
    hint
        What the message of a value that is out of bounds adds.
    """
    return field(default=default, metadata={BOUNDS: Bounds(above, least, below, most, hint)})


def bound_problems(table: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """The place and message of each number out of bounds in the dataclass ``table``, or in one that it holds.

    `parse_table` says the same of a document; this is for a ``table`` that was made in Python.
    """
    yield from _out_of_bounds(type(table), vars(table), place)
    for name, value in vars(table).items():
        if is_dataclass(value):
            yield from bound_problems(value, (*place, name))
        for i, entry in enumerate(value if isinstance(value, tuple) else ()):
            if is_dataclass(entry):
                yield from bound_problems(entry, (*place, name, i))


def _out_of_bounds(kind: Any, values: Mapping[str, Any], place: Place) -> Iterator[tuple[Place, str]]:
    """As `bound_problems`, for the ``values`` of one table by name; an entry of a list is named by its first value."""
    path = ".".join(str(part) for part in place if isinstance(part, str))
    where = f"[{path}] " if path else ""
    if place and isinstance(place[-1], int):
        where = f"[[{path}]] {values.get(fields(kind)[0].name, place[-1])}: "
    for one in fields(kind):
        bounds, value = one.metadata.get(BOUNDS), values.get(one.name)
        if bounds is not None and value is not None and not isinstance(value, tuple) and value not in bounds:
            hint = f"; {bounds.hint}" if bounds.hint else ""
            yield (*place, one.name), f"{where}{one.name} {value} is not {bounds}{hint}"


def field_docs(kind: type) -> dict[str, str]:
    """The docstring below each field of the dataclass ``kind``, in one line; fields without one are left out."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """The document in the TOML file at ``path``, and its text.

    Raises
    ------
    UsageError
        If it cannot be read, or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors write a byte order mark first
        return _parsed(text, path), text
    except OSError as err:
        raise UsageError(f"{path} cannot be read: {err.strerror or err}") from err
    except UnicodeDecodeError as err:
        raise UsageError(f"{path} is not a TOML file: {err}") from err


def _parsed(text: str, path: Path) -> dict[str, Any]:
    """The document in ``text``; the UsageError of one that is not TOML says which quotes are missing, if any are."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        message, lines = str(err), text.split("\n")
        if at := re.search(r"at line (\d+)", message):
            number = int(at[1])
        else:  # at the end of the document: of a quote without another one after it
            number = text.count("\n", 0, text.rfind("'" if "'" in message else '"') + 1) + 1
        line = lines[number - 1].strip()
        bare = re.fullmatch(rf"{DOTTED}=\s*([^\s\"'\[{{#][^\"'#]*?)\s*(?:#.*)?", line)
        if bare and re.match("Expected newline|Invalid value|Invalid date", message):
            quoted = f"'{bare[2]}'" if "\\" in bare[2] else f'"{bare[2]}"'
            raise UsageError(f"{path.name}:{number}: {bare[1]} must be in quotes: {bare[1]} = {quoted}") from err
        if re.search(r"character '\\n'|Unterminated string|Expected \"'", message):
            raise UsageError(f"{path.name}:{number}: a quote is not closed: {line}") from err
        raise UsageError(f"{path} is not a TOML file: {err}") from err


def at(path: str, roots: Sequence[Path]) -> Path:
    """``path`` in the first of ``roots`` that has it; in the first of all if none has."""
    places = [root / path for root in roots]
    return next((place for place in places if os.path.lexists(place)), places[0])


def line_of(text: str, place: Place) -> int:
    """The line of ``text``, from 1, that holds ``place``, or else the innermost table or key around it that it has."""
    current: Place = ()
    found, most, seen = 1, 0, dict[str, int]()
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.match(rf"\s*(\[\[?){DOTTED}\]\]?\s*(?:#|$)", line):
            at = current = _names(header[2])
            if header[1] == "[[":
                seen[header[2]] = seen.get(header[2], -1) + 1
                at = current = (*current, seen[header[2]])
        elif key := re.match(rf"{DOTTED}=", line):
            at = (*current, *_names(key[1]))
        else:
            continue
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(at, place, strict=False)))
        if shared > most:
            found, most = number, shared
    return found


def _names(dotted: str) -> Place:
    return tuple(name.strip("\"'") for name in re.findall(KEY, dotted))


def parse_table(kind: Any, value: Any, place: Place = (), *, listed: bool = False) -> Any:
    """``value``, the TOML table at ``place``, as the dataclass ``kind``.

    Raises
    ------
    TableError
        If it has unknown keys, lacks required ones, or has values of the wrong type or out of their bounds; all of them
        are named.
    """
    path = ".".join(str(part) for part in place if isinstance(part, str))
    here = f"[[{path}]]" if listed else f"[{path}]" if path else "the configuration"
    if not isinstance(value, dict):
        raise TableError([(place, f"{path} is {value!r}; it must be a table, {here}")], partial(_usable, kind, {}))
    kinds, known = typing.get_type_hints(kind), {f.name: f for f in fields(kind)}
    problems: list[tuple[Place, str]] = [
        ((*place, unknown), f"{here} has no key {unknown}; {_meant(unknown, known)}{', '.join(known)}")
        for unknown in sorted(set(value) - set(known))
    ]
    needed = [f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in value]:
        problems.append((place, f"{here} lacks {', '.join(missing)}"))
    parsed = {}
    for name, one in value.items():
        if name in known:
            try:
                parsed[name] = _parse_key(kinds[name], one, (*place, name), f"{here} {name}" if path else name)
            except TableError as err:
                problems += err.problems
                parsed[name] = err
            except UsageError as err:
                problems.append(((*place, name), str(err)))
    problems += _out_of_bounds(kind, parsed, place)
    if problems:
        raise TableError(problems, partial(_usable, kind, parsed))
    return kind(**parsed)


def _meant(unknown: str, known: Iterable[str]) -> str:
    """The beginning of the list of keys that are allowed, after a key that ``unknown`` may stand for."""
    close = difflib.get_close_matches(unknown, known, 1)
    return f"did you mean {close[0]}? Allowed: " if close else "allowed: "


def _usable(kind: Any, parsed: dict[str, Any]) -> Any:
    """A ``kind`` of what was ``parsed``, with empty values where something is missing that it needs."""
    kinds = typing.get_type_hints(kind)
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    values = {name: one.usable() if isinstance(one, TableError) else one for name, one in parsed.items()}
    return kind(**{name: (typing.get_origin(kinds[name]) or kinds[name])() for name in needed} | values)


def _parse_key(kind: Any, value: Any, place: Place, where: str) -> Any:
    """``value`` of the key at ``place``: a table, a list of tables, either of them, or a value for `parse_value`."""
    (element, *_) = typing.get_args(kind) or (None,)
    if is_dataclass(element) and typing.get_origin(kind) is UnionType and not isinstance(value, list):
        kind = element
    if is_dataclass(kind):
        return parse_table(kind, value, place)
    if is_dataclass(element):
        if not isinstance(value, list):
            path = ".".join(map(str, place))
            raise UsageError(f"{path} is {value!r}; it must be a list of tables, [[{path}]]")
        return _parse_tables(element, value, place)
    return parse_value(kind, value, where)


def _parse_tables(kind: Any, tables: list[Any], place: Place) -> tuple[Any, ...]:
    """The list of ``tables`` at ``place``, each as a ``kind``; the problems of all are reported at once."""
    parsed, problems = [], list[tuple[Place, str]]()
    for i, entry in enumerate(tables):
        try:
            parsed.append(parse_table(kind, entry, (*place, i), listed=True))
        except TableError as err:
            problems += err.problems
            parsed.append(err)
    if problems:
        raise TableError(problems, lambda: tuple(e.usable() if isinstance(e, TableError) else e for e in parsed))
    return tuple(parsed)


def parse_value(kind: Any, value: Any, where: str) -> Any:
    """``value``, as tomllib gives it, as a ``kind``: a plain type, a union of such types, or a tuple of one.

    Raises
    ------
    UsageError
        If it is not a ``kind``; the message names ``where``.
    """
    for one in typing.get_args(kind) if typing.get_origin(kind) in (UnionType, typing.Union) else (kind,):
        if typing.get_origin(one) is Literal and value in typing.get_args(one):
            return value
        if typing.get_origin(one) is tuple and isinstance(value, list):
            return tuple(parse_value(typing.get_args(one)[0], entry, where) for entry in value)
        if typing.get_origin(one) is dict and isinstance(value, dict):
            return value
        if one is float and type(value) is int:
            return float(value)
        if type(value) is one:
            return value
    listed = kind == tuple[str, ...] and isinstance(value, str)
    example = f": {where.rpartition(' ')[2]} = [{json.dumps(value)}]" if listed else ""
    raise UsageError(f"{where} is {value!r}; allowed: {_said(kind)}{example}")


def _said(kind: Any) -> str:
    """The name of a type in messages."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return ", ".join(map(repr, arguments))
    if origin is tuple:
        return f"a list of {_said(arguments[0])}"
    if origin is dict:
        return "a table"
    if origin in (UnionType, typing.Union):
        return " or ".join(_said(one) for one in arguments if one is not NoneType)
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return names[kind] if kind in names else str(kind.__name__)


def read_csv(table: Path, needed: tuple[str, ...], beside: tuple[str, ...]) -> list[tuple[str, dict[str, str]]]:
    """(place, cells by column) of each row of ``table`` that is not empty; messages name the place.

    Raises
    ------
    UsageError
        If it cannot be read, has no rows, lacks columns or cells that are ``needed``, or has columns that are neither
        ``needed`` nor ``beside``.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
        reader = csv.reader(text.splitlines(), skipinitialspace=True, strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except OSError as err:
        raise UsageError(f"table {table} cannot be read: {err.strerror or err}") from err
    except (UnicodeDecodeError, csv.Error) as err:
        raise UsageError(f"table {table} is not CSV in UTF-8: {err}") from err
    columns = lines[0][1] if lines else []
    if not set(needed) <= set(columns) <= {*needed, *beside} or len(set(columns)) < len(columns):
        raise UsageError(
            f"table {table} has the columns {', '.join(map(repr, columns)) or 'none'}; needed: {', '.join(needed)}; "
            f"optional: {', '.join(beside)}; separated by commas"
        )
    if len(lines) == 1:
        raise UsageError(f"table {table} has no rows below its header")
    rows = []
    for number, cells in lines[1:]:
        where = f"{table} line {number}"
        if len(cells) > len(columns):
            raise UsageError(f"{where} has {len(cells)} cells for {len(columns)} columns; quote cells with a comma")
        row = dict.fromkeys(columns, "") | dict(zip(columns, cells, strict=False))
        if not all(row[name] for name in needed):
            raise UsageError(f"{where} lacks {' or '.join(f'an {n}' if n[0] in 'aeiou' else f'a {n}' for n in needed)}")
        rows.append((where, row))
    return rows


def positive(cells: Mapping[str, str], column: str, where: str) -> float | None:
    """The number in ``column`` of a row, or None if the cell is empty.

    Raises
    ------
    UsageError
        If it is not a positive number.
    """
    text = cells.get(column)
    try:
        value = float(text) if text else None
    except ValueError:
        value = -1.0
    if value is not None and not 0 < value < float("inf"):
        raise UsageError(f"{where} has the {column} {text!r}; it must be a positive number such as 0.5, or empty")
    return value
