"""Which planes are wanted of a file that holds several: channels, focal planes, time points, images.

By default all channels are read. Of everything else one is read; where there are several, the user has to say which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from wsipipe.errors import PlaneError, UsageError

NAMES = {"series": "image", "z": "focal plane", "t": "time point"}
"""Names of these in messages, by the option that chooses one."""
MAX_LISTED = 20
"""A message lists this many images at most."""
MAX_DIGITS = 9
"""A number of a plane or an image has no more; Python takes no text of thousands for a number."""


@dataclass(frozen=True)
class Planes:
    """The planes that are asked for, or that a `Level` reads; None if nothing is chosen, or there is no choice."""

    channels: tuple[int | str, ...] | None = None
    """Channels in the order wanted, by number from 0 or by name."""
    z: int | None = None
    """Focal plane, from 0."""
    t: int | None = None
    """Time point, from 0."""
    series: int | None = None
    """Image, from 0, in the file's own order."""

    @property
    def indices(self) -> list[int] | None:
        """The channels of a `Level` by number; None for all of them."""
        return None if self.channels is None else [int(channel) for channel in self.channels]

    def __str__(self) -> str:
        """The options that choose them: ``--channels 0,2 --z 3``."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self))
        return " ".join(
            f"--{name} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
            for name, value in named
            if value is not None
        )


ALL = Planes()
"""Nothing chosen."""


def parse_channels(text: str) -> tuple[int | str, ...]:
    """The channels that a text such as ``0,2`` or ``DAPI,CD3`` lists.

    Raises
    ------
    UsageError
        If one of them is empty, or listed twice.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(
            f"--channels must list distinct channel numbers or names, such as 0,2 or DAPI,CD3 (got {text!r})"
        )
    return tuple(int(name) if name.isdecimal() and len(name) <= MAX_DIGITS else name for name in names)


def take_planes(options: dict[str, Any]) -> Planes:
    """Take the options named like the fields of `Planes` out of ``options``; channels are text or None.

    Raises
    ------
    UsageError
        If the channels are not a list of distinct numbers or names.
    """
    said = {field.name: options.pop(field.name, None) for field in fields(Planes)}
    channels = said.pop("channels")
    return Planes(channels=None if channels is None else parse_channels(channels), **said)


def parse_reading(text: str) -> tuple[str | None, Planes]:
    """The reader and the planes that a `Level.reading` names."""
    words = text.split()
    said = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    reader = said.pop("reader", None)
    return reader, take_planes({name: text if name == "channels" else int(text) for name, text in said.items()})


def choose_one(file: str, option: str, wanted: int | None, choices: Sequence[str], *, unnamed: bool = False) -> int:
    """Number of the choice to read: ``wanted``, or 0 if there is only one.

    Parameters
    ----------
    file
        Name of the file, for messages.
    option
        ``z``, ``t`` or ``series``.
    wanted
        Its number, from 0.
    choices
        Each choice in words, or just its number.
    unnamed
        Whether they may be channels, too, because the file does not say what they are.

    Raises
    ------
    PlaneError
        If there are several and ``wanted`` is None, or it does not exist.
    """
    if wanted is None and len(choices) == 1:
        return 0
    if wanted is not None and 0 <= wanted < len(choices):
        return wanted
    several = f"{len(choices)} {NAMES[option]}s{_listed(choices)}" if len(choices) > 1 else f"one {NAMES[option]}"
    if wanted is None:
        each = f", or name each as a slide of its own: {file}#0 {file}#1" if option == "series" else ""
        numbers = [*map(str, range(min(len(choices), MAX_LISTED))), *["..."] * (len(choices) > MAX_LISTED)]
        each += f"; if they are channels, read them with --channels {','.join(numbers)}" * unnamed
        raise PlaneError(f"{file} holds {several}; choose with --{option} N{each}")
    raise PlaneError(f"{file} holds {several}; there is no --{option} {wanted}")


def _listed(choices: Sequence[str]) -> str:
    """The choices by number, to follow their count."""
    numbers = [str(number) for number in range(len(choices))]
    if list(choices) == numbers:
        return f" (0 to {len(choices) - 1})"
    if len(set(choices)) == 1:
        return f" of {choices[0]} (0 to {len(choices) - 1})"
    more = ", ..." * (len(choices) > MAX_LISTED)
    return f" ({', '.join(map('{}: {}'.format, numbers[:MAX_LISTED], choices))}{more})"


def choose_channels(
    file: str, wanted: tuple[int | str, ...] | None, names: Sequence[str], count: int
) -> tuple[int, ...] | None:
    """Numbers of the ``wanted`` channels out of ``count``; None for all of them in their order.

    Parameters
    ----------
    file
        Name of the file, for messages.
    wanted
        Numbers or names; None: all.
    names
        Names of the channels, or nothing if they have none.
    count
        How many channels there are.

    Raises
    ------
    PlaneError
        If one does not exist or is listed twice, or a name is that of several.
    """
    if wanted is None:
        return None
    found = []
    for one in wanted:
        numbers = [one] if isinstance(one, int) else [i for i, name in enumerate(names) if name == one]
        if len(numbers) != 1 or not 0 <= numbers[0] < count:
            why = "is the name of several" if len(numbers) > 1 else "is not one of them"
            raise PlaneError(f"{file} has the channels {listed_channels(names, count)}; --channels {one} {why}")
        found.append(numbers[0])
    if len(set(found)) < len(found):
        raise PlaneError(f"{file}: --channels {','.join(map(str, wanted))} names a channel twice")
    return None if found == list(range(count)) else tuple(found)


def all_chosen(file: str, wanted: tuple[int | str, ...] | None, names: Sequence[str], count: int) -> tuple[int, ...]:
    """Like `choose_channels`, but always the numbers, also those of all: whoever opens it again must choose them, too.

    Raises
    ------
    PlaneError
        As `choose_channels`.
    """
    return choose_channels(file, wanted, names, count) or tuple(range(count))


def listed_channels(names: Sequence[str], count: int) -> str:
    """``0: DAPI, 1: CD3``, or ``0 to 4`` where they have no names."""
    return ", ".join(f"{i}: {name}" for i, name in enumerate(names)) if names else f"0 to {count - 1}"
