"""Values of options that go on as they are to `RunConfig`, which refuses them with the sentence that Python has too."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    AnyType = click.ParamType[Any]
else:
    AnyType = click.ParamType  # click before 8.4 cannot subscript it


class Choice(click.Choice[str]):
    """Names to choose from, for help and completion; any other name goes on as well."""

    def convert(self, value: Any, *_: Any) -> Any:
        """The text as it is."""
        return value


class Number(AnyType):
    """A number, or with ``auto`` None for that word; any other text goes on as well."""

    name = "number"

    def __init__(self, kind: type[int] | type[float], *, auto: bool = False) -> None:
        self._kind, self._auto = kind, auto

    def convert(self, value: Any, *_: Any) -> Any:
        """The number if ``value`` is the text of one."""
        if self._auto and value == "auto":
            return None
        with suppress(ValueError):
            return self._kind(value)
        return value
