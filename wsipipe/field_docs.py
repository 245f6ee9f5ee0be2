"""What the fields of dataclasses mean: the docstrings below them, which Python itself does not keep."""

from __future__ import annotations

import ast
import inspect
from dataclasses import MISSING, Field, fields
from functools import cache
from itertools import pairwise
from textwrap import dedent, indent
from typing import Any

TITLE = "Attributes\n----------\n"


def field_docs(kind: type) -> dict[str, str]:
    """The docstrings below the fields of a dataclass, by the names of these; empty where its source is not at hand."""
    try:
        (found,) = ast.parse(dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):  # no source, or made by a function
        return {}
    assert isinstance(found, ast.ClassDef)
    docs = {}
    for statement, below in pairwise(found.body):
        match statement, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = inspect.cleandoc(text)
    return docs


@cache
def document(kind: type) -> None:
    """Add a section on its fields to the docstring of a dataclass, so that ``help`` shows what each means."""
    docs = field_docs(kind)
    shown = [
        f"{one.name} : {one.type}{_default(one)}\n{indent(docs[one.name], '    ')}"
        for one in fields(kind)
        if one.name in docs
    ]
    if shown and kind.__doc__ is not None:
        kind.__doc__ = f"{inspect.cleandoc(kind.__doc__)}\n\n{TITLE}" + "\n".join(shown)


def _default(one: Field[Any]) -> str:
    if one.default_factory is not MISSING:
        return f" = {one.default_factory()!r}"
    return "" if one.default is MISSING else f" = {one.default!r}"
