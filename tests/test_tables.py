"""TOML files as dataclasses: all problems are reported at once, each with its line."""

from __future__ import annotations

import pickle
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from wsipipe.errors import UsageError
from wsipipe.tables import Place, TableError, bound_problems, bounded, line_of, parse_table, read_toml


@dataclass(frozen=True)
class Inner:
    size: int
    name: str = "none"
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    ratio: float = 1.0
    flag: bool = False
    names: tuple[str, ...] = ()
    pair: tuple[int, ...] | None = None
    free: dict[str, Any] = field(default_factory=dict)
    one: Inner = field(default_factory=lambda: Inner(0))
    many: tuple[Inner, ...] = ()


TEXT = """\
ratio = 0.5
names = [
    "a = b",
    "[one]",
]
"flag" = true
# one = 7

[one]   # the only one
size = 3

[free]
ratio = 2
[free.deep]
size = 4
[[many]]
size = 1
[[many]]
name = "second"
size = 2
[ many . sub ]
size = 9
"""


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("ratio",), 1),
        (("names",), 2),
        (("names", 1), 2),
        (("flag",), 6),
        (("one",), 9),
        (("one", "size"), 10),
        (("one", "name"), 9),  # not there: the table that lacks it
        (("free", "ratio"), 13),
        (("free", "deep"), 14),
        (("free", "deep", "size"), 15),
        (("many", 0), 16),
        (("many", 0, "size"), 17),
        (("many", 1), 18),
        (("many", 1, "size"), 20),
        (("many", 1, "kind"), 18),
        (("elsewhere",), 1),
        ((), 1),
    ],
)
def test_line_of_a_place_is_where_it_stands(place: Place, line: int) -> None:
    tomllib.loads(TEXT.replace("[ many . sub ]\nsize = 9\n", ""))  # it is TOML
    assert line_of(TEXT, place) == line


@pytest.mark.parametrize(
    ("text", "place", "line"),
    [
        ("\nrun = {size = 1, name = 'x'}\n", ("run", "size"), 2),
        ("\nmany = [{size = 1}, {size = 2}]\n", ("many", 1, "size"), 2),
        ("\nmany = [\n  {size = 1},\n  {size = 2},\n]\nlast = 1\n", ("many", 1, "size"), 2),
        ("\n\nrun.size = 1\nrun.name = 'x'\n", ("run", "size"), 3),
        ("\n\nrun.size = 1\nrun.name = 'x'\n", ("run", "name"), 4),
        ("[a]\n\nrun . size = 1\n", ("a", "run", "size"), 3),
        ('[a]\n"run"."size" = 1\n', ("a", "run", "size"), 2),
        ("pair = [\n  [1, 2],\n  [3, 4],\n]\nlast = 1\n", ("last",), 5),
        ("[a]\npair = [\n  [1, 2],\n]\nlast = 1\n", ("a", "last"), 5),
        ("[ 'a' ]\nx = 1\n", ("a", "x"), 2),
        ("x = 'one line\u2028\x85 of TOML'\ny = 1\n", ("y",), 2),
        ("[a]\r\nx = 1\r\ny = 2\r\n", ("a", "y"), 3),
    ],
)
def test_line_of_inline_tables_dotted_keys_and_nested_lists(text: str, place: Place, line: int) -> None:
    tomllib.loads(text)
    assert line_of(text, place) == line


def test_a_table_is_read_with_its_defaults() -> None:
    document = {"ratio": 2, "names": ["x"], "pair": [1, 2], "free": {"any": 1}, "many": [{"size": 1}, {"size": 2}]}
    parsed = parse_table(Outer, document)
    assert parsed == Outer(2.0, False, ("x",), (1, 2), {"any": 1}, Inner(0), (Inner(1), Inner(2)))
    assert type(parsed.ratio) is float


def problems(document: dict[str, Any]) -> dict[Place, str]:
    with pytest.raises(TableError) as raised:
        parse_table(Outer, document)
    assert str(raised.value) == raised.value.problems[0][1]
    assert pickle.loads(pickle.dumps(raised.value)).problems == raised.value.problems
    found = dict(raised.value.problems)
    assert len(found) == len(raised.value.problems)
    return found


def test_all_that_is_wrong_is_said_at_once_each_at_its_place() -> None:
    found = problems(
        {
            "ratoi": 1.0,
            "ratio": "2",
            "flag": 1,
            "names": ["x", 2],
            "pair": [1, 2.5],
            "free": [],
            "one": {"size": True, "extra": 1},
            "many": [{"size": 1}, {"name": "no size"}, {"size": "3", "kind": "c"}],
        }
    )
    assert found == {
        (
            "ratoi",
        ): "the configuration has no key ratoi; did you mean ratio? Allowed: ratio, flag, names, pair, free, one, many",
        ("ratio",): "ratio is '2'; allowed: a number",
        ("flag",): "flag is 1; allowed: true or false",
        ("names",): "names is 2; allowed: text",
        ("pair",): "pair is 2.5; allowed: a whole number",
        ("free",): "free is []; allowed: a table",
        ("one", "extra"): "[one] has no key extra; allowed: size, name, kind",
        ("one", "size"): "[one] size is True; allowed: a whole number",
        ("many", 1): "[[many]] lacks size",
        ("many", 2, "size"): "[[many]] size is '3'; allowed: a whole number",
        ("many", 2, "kind"): "[[many]] kind is 'c'; allowed: 'a', 'b'",
    }


@pytest.mark.parametrize(
    ("document", "place", "message"),
    [
        ({"one": 3}, ("one",), "one is 3; it must be a table, [one]"),
        ({"one": [{"size": 1}]}, ("one",), "one is [{'size': 1}]; it must be a table, [one]"),
        ({"many": {"size": 1}}, ("many",), "many is {'size': 1}; it must be a list of tables, [[many]]"),
        ({"many": [{"size": 1}, 2]}, ("many", 1), "many is 2; it must be a table, [[many]]"),
        ({"pair": 3}, ("pair",), "pair is 3; allowed: a list of a whole number"),
    ],
)
def test_what_should_be_a_table_or_a_list(document: dict[str, Any], place: Place, message: str) -> None:
    assert problems(document) == {place: message}


def test_reading_says_which_file_and_where(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    with pytest.raises(UsageError, match=r"night\.toml cannot be read: No such file"):
        read_toml(path)
    path.write_text("a = 1\nb = \n")
    with pytest.raises(UsageError, match=r"night\.toml is not a TOML file: .*line 2"):
        read_toml(path)
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(UsageError, match=r"night\.toml is not a TOML file"):
        read_toml(path)
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\n")  # an editor of Windows
    assert read_toml(path)[0] == {"a": 1}


@dataclass(frozen=True)
class Limited:
    """Numbers within bounds."""

    name: str
    positive: float | None = bounded(None, above=0)
    more: int = bounded(3, least=2, hint="one is not a pair")
    share: float | tuple[str, ...] = bounded(0.5, least=0, most=1)
    seed: int = bounded(0, least=0, below=2**63)
    ratio: float = bounded(0.25, least=0, below=1)


@dataclass(frozen=True)
class Holder:
    one: Limited = field(default_factory=lambda: Limited("only"))
    many: tuple[Limited, ...] = ()
    top: int = bounded(1, above=0)


def test_numbers_within_bounds_are_taken_and_so_is_what_is_no_number() -> None:
    edges = {"positive": 1e-9, "more": 2, "share": 1.0, "seed": 2**63 - 1, "ratio": 0}
    document = {"one": {"name": "a", **edges}, "many": [{"name": "b", "share": ["x"]}], "top": 1}
    parsed = parse_table(Holder, document)
    assert parsed.one == Limited("a", 1e-9, 2, 1.0, 2**63 - 1, 0.0)
    assert parsed.many == (Limited("b", None, 3, ("x",)),)
    assert Limited("c") == Limited("c", None, 3, 0.5, 0, 0.25)
    assert list(bound_problems(parsed)) == []


OUT_OF_BOUNDS: dict[Place, tuple[Any, str]] = {
    ("top",): (0, "top 0 is not a positive number"),
    ("one", "positive"): (0.0, "[one] positive 0.0 is not a positive number"),
    ("one", "more"): (1, "[one] more 1 is not a number of 2 or more; one is not a pair"),
    ("one", "share"): (1.5, "[one] share 1.5 is not a number from 0 to 1"),
    ("one", "seed"): (2**63, f"[one] seed {2**63} is not a number from 0 to below 2**63"),
    ("one", "ratio"): (1.0, "[one] ratio 1.0 is not a number from 0 to below 1"),
    ("many", 1, "ratio"): (float("nan"), "[[many]] second: ratio nan is not a number from 0 to below 1"),
    ("many", 1, "positive"): (float("inf"), "[[many]] second: positive inf is not a positive number"),
}


def test_all_numbers_out_of_bounds_are_said_at_once_of_a_document_and_of_a_value_of_python() -> None:
    def within(*path: str | int) -> dict[str, Any]:
        return {str(p[-1]): value for p, (value, _) in OUT_OF_BOUNDS.items() if p[:-1] == path}

    second = {"name": "second", **within("many", 1)}
    document = {**within(), "one": {"name": "only", **within("one")}, "many": [{"name": "first"}, second]}
    wanted = {place: message for place, (_, message) in OUT_OF_BOUNDS.items()}
    with pytest.raises(TableError) as raised:
        parse_table(Holder, document)
    assert dict(raised.value.problems) == wanted
    made = Holder(Limited("only", **within("one")), (Limited("first"), Limited(**second)), **within())
    assert dict(bound_problems(made)) == wanted
    assert len(raised.value.problems) == len(list(bound_problems(made))) == len(wanted)


def test_wrong_types_and_numbers_out_of_bounds_are_said_together() -> None:
    with pytest.raises(TableError) as raised:
        parse_table(Holder, {"top": -1, "one": {"name": 3, "more": 0}})
    assert [place for place, _ in raised.value.problems] == [("one", "name"), ("one", "more"), ("top",)]
