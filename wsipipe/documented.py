"""Docstrings of dataclasses that say what each field means, which ``help`` shows."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any

from wsipipe.tables import field_docs

TITLE = "Attributes\n----------"


@cache
def document(kind: type) -> None:
    """Add a section on its fields to the docstring of a dataclass: each with its type, default and meaning."""
    try:
        docs = field_docs(kind)
    except (OSError, TypeError):  # its source is not at hand
        return
    known = [
        f"{one.name} : {one.type}{_default(one)}\n    {docs[one.name]}" for one in fields(kind) if one.name in docs
    ]
    if known and kind.__doc__ is not None:
        kind.__doc__ = "\n".join([inspect.cleandoc(kind.__doc__), "", TITLE, *known])


def _default(one: Field[Any]) -> str:
    if one.default_factory is not MISSING:
        return f" = {one.default_factory()!r}"
    return "" if one.default is MISSING else f" = {one.default!r}"
