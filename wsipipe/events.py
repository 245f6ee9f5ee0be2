"""What a run tells whoever listens: the progress bars, the plain lines, the tests. The library never prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Self


@dataclass
class Spent:
    """Where the seconds went: those of the threads that have a block each, and those of the devices."""

    read: float = 0.0
    """Bytes from the file; of OME-Zarr and by OpenSlide, which do both in one, decoded as well."""
    decode: float = 0.0
    """Pixels from those bytes."""
    wait: float = 0.0
    """A block's thread for the network, other blocks' tiles included."""
    write: float = 0.0
    """Coarser levels, compression, and bytes to the store."""
    other: float = 0.0
    """The rest of a block's time: pixels averaged, copied and mirrored, and Python."""
    infer: float = 0.0
    """Of the devices: tiles copied there, the network, and labels copied back."""

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Add the time within the context to ``name``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - started)

    @property
    def threads(self) -> float:
        """All but the devices' seconds."""
        return self.read + self.decode + self.wait + self.write + self.other

    def __iadd__(self, more: Spent) -> Self:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(more, field.name))
        return self


@dataclass(frozen=True)
class ClusterReady:
    """The workers that are to compute were found good."""

    scheduler: str
    """Its address."""
    dashboard: str
    """Where a browser sees what they do."""
    workers: int
    threads: int
    """Blocks in flight, in all of them."""


@dataclass(frozen=True)
class RunStarted:
    """All slides were looked at."""

    blocks: int
    """Blocks to compute in all."""
    pixels: int
    """Pixels to compute in all."""


@dataclass(frozen=True)
class SizesChosen:
    """What was not told is chosen."""

    engine: str
    """What computes."""
    tile: int
    """Side in pixels of a tile's core."""
    batch: int
    """Tiles that go through the network at once."""
    block: int
    """Side in pixels of a block of the largest slide."""
    threads: int
    """Blocks in flight."""
    bare: float
    """Pixels a second, margins included, of the bare network on one device."""
    seconds: float
    """What measuring took; 0 if it was measured before."""


@dataclass(frozen=True)
class SlideStarted:
    """A slide is segmented, or its segmentation is resumed."""

    slide: str
    store: str
    blocks: int
    """Blocks that the slide has."""
    blocks_to_do: int
    """Blocks to compute now."""
    pixels_to_do: int
    """Pixels in those."""


@dataclass(frozen=True)
class TissueFound:
    """It is known where on a slide there is something to look at."""

    slide: str
    how: str
    """``brightfield``, ``fluorescence``, ``blank``, ``given`` or ``found before``."""
    share: float
    """Of the slide: 0 to 1."""


@dataclass(frozen=True)
class BlockDone:
    """One block's shards are on disk."""

    slide: str
    index: tuple[int, int]
    """(row, column)."""
    pixels: int
    computed: int
    """Pixels that went through the network, margins included."""
    skipped: int
    """Pixels in tiles that did not, for they are of glass."""
    labels: dict[int, int]
    """Pixels per label."""
    blank: bool
    """Whether pixels were read, and all of them are zero."""
    spent: Spent


@dataclass(frozen=True)
class SlideDone:
    """A slide's store is complete, and has its name."""

    slide: str
    store: str
    seconds: float
    pixels: int
    """Pixels computed in this run."""


@dataclass(frozen=True)
class SlideEmpty:
    """A slide's store is complete, and has its name, but there is no tissue on the slide: all of it is 0."""

    slide: str
    store: str
    seconds: float
    reason: str


@dataclass(frozen=True)
class SlideSkipped:
    """There was nothing to do for a slide."""

    slide: str
    store: str
    reason: str


@dataclass(frozen=True)
class SlideTaken:
    """Another runner has the slide, and is alive."""

    slide: str
    store: str
    holder: str


@dataclass(frozen=True)
class SlideLeft:
    """The run ended before the slide did, in good order; it is resumed the next time."""

    slide: str
    store: str
    reason: str


@dataclass(frozen=True)
class SlideFailed:
    """A slide could not be segmented, or not wholly; the others go on."""

    slide: str
    error: str


@dataclass(frozen=True)
class Warned:
    """Something about a slide that a person should know."""

    slide: str
    message: str


@dataclass(frozen=True)
class TrainingStarted:
    """The training set was read and found good."""

    train: int
    """Images, or slides, to learn from."""
    validation: int
    """Views that the best weights are chosen by."""
    test: int
    """Views that give the scores."""
    first_step: int
    """Steps that were done before."""
    devices: tuple[str, ...]


@dataclass(frozen=True)
class StepDone:
    """One batch."""

    step: int
    """From 1."""
    loss: float
    learning_rate: float
    seconds: float
    """Since the training began."""
    share: float
    """Of the training, when the step began: 0 to 1."""


@dataclass(frozen=True)
class Validated:
    """The weights were scored."""

    step: int
    scores: dict[str, float]
    best_step: int
    """When the weights were that are best so far."""
    seconds: float


@dataclass(frozen=True)
class TrainingDone:
    """The model is written."""

    model: str
    steps: int
    best_step: int
    split: str
    """What the scores are of: ``test`` or ``validation``."""
    scores: dict[str, float]


OfSlide = (
    SlideStarted
    | TissueFound
    | BlockDone
    | SlideDone
    | SlideEmpty
    | SlideSkipped
    | SlideTaken
    | SlideLeft
    | SlideFailed
    | Warned
)
Event = ClusterReady | RunStarted | SizesChosen | OfSlide
TrainingEvent = TrainingStarted | StepDone | Validated | TrainingDone
Listener = Callable[[Event], None]
TrainingListener = Callable[[TrainingEvent], None]


def ignore(_event: Event | TrainingEvent) -> None:
    """Listen to nothing."""
