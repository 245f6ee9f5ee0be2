"""Which planes are wanted of a file that holds several: channels, focal planes, times, images.

All channels are read where nothing is said. Of everything else one is read, and where there are several somebody
has to say which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from wsipipe.errors import PlaneError, UsageError

NAMES = {"series": "image", "z": "focal plane", "t": "time"}
"""What messages call one of each, by the option that chooses."""


@dataclass(frozen=True)
class Planes:
    """What was asked for, or of a `Level` what is read; None where it was not said, or there is no choice."""

    channels: tuple[int | str, ...] | None = None
    """In this order, by number from 0 or by name."""
    z: int | None = None
    """Of a stack, from 0."""
    t: int | None = None
    """Of a time series, from 0."""
    series: int | None = None
    """Of the images of a file, from 0, in its own order."""

    @property
    def indices(self) -> list[int] | None:
        """The channels of a `Level`, all by number."""
        return None if self.channels is None else [int(channel) for channel in self.channels]

    def __str__(self) -> str:
        """As the options say it: ``--channels 0,2 --z 3``."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self))
        return " ".join(
            f"--{name} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
            for name, value in named
            if value is not None
        )


ALL = Planes()
MAX_LISTED = 20
"""Images that a message lists."""


def parse_channels(text: str) -> tuple[int | str, ...]:
    """The channels that ``0,2`` or ``DAPI,CD3`` says.

    Raises
    ------
    UsageError
        If one of them is empty, or there twice.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(f"--channels {text} is no list of different numbers or names, such as 0,2 or DAPI,CD3")
    return tuple(int(name) if name.isdecimal() else name for name in names)


def take_planes(options: dict[str, Any]) -> Planes:
    """What ``options`` say of planes, by the names of `Planes`, channels as text or None; these are taken out of them.

    Raises
    ------
    UsageError
        If the channels are no list.
    """
    said = {field.name: options.pop(field.name, None) for field in fields(Planes)}
    channels = said.pop("channels")
    return Planes(channels=None if channels is None else parse_channels(channels), **said)


def parse_reading(text: str) -> tuple[str | None, Planes]:
    """The reader and the planes that `Level.reading` says."""
    words = text.split()
    said = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    reader = said.pop("reader", None)
    return reader, take_planes({name: text if name == "channels" else int(text) for name, text in said.items()})


def choose_one(file: str, option: str, wanted: int | None, what: Sequence[str]) -> int:
    """Which of the things ``what`` is read: the one that is ``wanted``, or the only one.

    Parameters
    ----------
    file
        Name of the file, for messages.
    option
        ``z``, ``t`` or ``series``.
    wanted
        Its number, from 0.
    what
        Each of them in words, or just its number.

    Raises
    ------
    PlaneError
        If there are several and none is wanted, or that one is not there.
    """
    if wanted is None and len(what) == 1:
        return 0
    if wanted is not None and 0 <= wanted < len(what):
        return wanted
    several = f"{len(what)} {NAMES[option]}s{_listed(what)}" if len(what) > 1 else f"one {NAMES[option]}"
    if wanted is None:
        raise PlaneError(f"{file} holds {several}; choose with --{option} N")
    raise PlaneError(f"{file} holds {several}; --{option} {wanted} is not there")


def _listed(what: Sequence[str]) -> str:
    """The things that there are, by their numbers."""
    numbers = [str(number) for number in range(len(what))]
    if list(what) == numbers:
        return f" (0 to {len(what) - 1})"
    if len(set(what)) == 1:
        return f" of {what[0]} (0 to {len(what) - 1})"
    more = ", ..." * (len(what) > MAX_LISTED)
    return f" ({', '.join(map('{}: {}'.format, numbers[:MAX_LISTED], what))}{more})"


def choose_channels(
    file: str, wanted: tuple[int | str, ...] | None, names: Sequence[str], count: int
) -> tuple[int, ...] | None:
    """The numbers of the channels that are ``wanted`` of ``count``; None if that is all of them in their order.

    Parameters
    ----------
    file
        Name of the file, for messages.
    wanted
        Numbers or names; None: all.
    names
        Of the channels, or nothing.
    count
        How many channels there are.

    Raises
    ------
    PlaneError
        If one is not there, or its name is that of several.
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


def listed_channels(names: Sequence[str], count: int) -> str:
    """``0: DAPI, 1: CD3``, or ``0 to 4`` where they have no names."""
    return ", ".join(f"{i}: {name}" for i, name in enumerate(names)) if names else f"0 to {count - 1}"
