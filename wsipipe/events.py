"""Events of runs and trainings, for whoever listens: progress bars, plain lines, tests. The library never prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass
class Spent:
    """Seconds by activity: those of the threads, which have a block each, and those of the devices."""

    read: float = 0.0
    """Reading bytes from the file; for OME-Zarr and OpenSlide, which do both at once, decoding as well."""
    decode: float = 0.0
    """Decoding those bytes into pixels."""
    wait: float = 0.0
    """A block's thread waiting for the network, other blocks' tiles included."""
    write: float = 0.0
    """Making coarser levels, compressing, and writing bytes to the store."""
    other: float = 0.0
    """The rest of a block's time: averaging, copying and mirroring pixels, measuring objects, and Python."""
    infer: float = 0.0
    """Time of the devices: copying tiles there, the network, and copying labels back."""

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Add the seconds within the context to the field ``name``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - started)

    @property
    def threads(self) -> float:
        """Seconds of the threads: all but those of the devices."""
        return self.read + self.decode + self.wait + self.write + self.other

    def __iadd__(self, more: Spent) -> Self:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(more, field.name))
        return self


@dataclass(frozen=True)
class ClassCount:
    """The objects of one class."""

    name: str
    """Name of the class."""
    objects: int
    """Number of objects."""
    per_mm2: float | None
    """Objects per square millimetre of the area that was searched; None if that is unknown, or nothing."""
    area_share: float | None
    """Share of that area that they cover; None if nothing was searched."""
    median_pixels: float | None
    """Median of their areas in pixels of the labels; None without objects."""
    median_um2: float | None
    """The same in square micrometres; None if the size of a pixel is unknown."""
    areas: tuple[tuple[float, int], ...] = ()
    """A histogram of their areas: (smallest area in pixels, number of objects) of bins without a gap; each ends where
    the next one begins, at sqrt(2) times its own smallest area."""


def parse_class_count(row: Mapping[str, Any]) -> ClassCount:
    """The counts in ``row``, as JSON has them; keys that a newer wsipipe writes are left out.

    Raises
    ------
    KeyError, TypeError, ValueError
        If they are not those of a class.
    """
    given = dict(row)
    known = {field.name: given[field.name] for field in fields(ClassCount) if field.name in given}
    areas = tuple((float(area), int(count)) for area, count in given.get("areas", ()))
    return ClassCount(**known | {"areas": areas})


@dataclass(frozen=True)
class ClusterReady:
    """The workers of a cluster passed their checks."""

    scheduler: str
    """Address of the scheduler."""
    dashboard: str
    """URL of the page that shows what the workers do."""
    workers: int
    threads: int
    """Blocks in flight, over all workers."""


@dataclass(frozen=True)
class RunStarted:
    """All slides are planned."""

    blocks: int
    """Blocks to compute, over all slides."""
    pixels: int
    """Pixels to compute, over all slides."""
    slides: int = 1
    """Slides to segment, to resume or to measure."""
    model: str = ""
    """Name of the model."""
    devices: tuple[str, ...] = ()
    """The devices of one process, with their names: ``cuda:0 (NVIDIA H200)``."""
    processes: int = 1
    """Processes that compute."""


@dataclass(frozen=True)
class GpuUnused:
    """The CPU computes on a machine that has a GPU, though nobody chose that."""

    reason: str
    """Why, and what to do."""


@dataclass(frozen=True)
class SizesChosen:
    """Engine, tile, batch, block and threads are chosen."""

    engine: str
    """Inference engine, such as ``torch``."""
    tile: int
    """Side of a tile's core, px."""
    batch: int
    """Tiles per forward pass."""
    block: int
    """Side of a block of the largest slide, px."""
    threads: int
    """Blocks in flight."""
    devices: int
    """Devices of a process; on a CPU replicas, which share its cores."""
    bare: float
    """Speed of the bare network on one device, pixels per second, margins included."""
    measured: bool
    """Whether `bare` is the speed of this tile and batch, not of smaller ones, because a short run measures no more."""
    seconds: float
    """Duration of the measurement; 0 if it was measured before."""


@dataclass(frozen=True)
class PrecisionGain:
    """What a lower precision would gain over float32, on this machine and for this model."""

    precision: str
    """The lower precision, such as ``bfloat16``."""
    speed: float
    """Speed of the network over that in float32."""
    differing: float
    """Share of the labels of one tile that differ from those in float32, 0 to 1."""


@dataclass(frozen=True)
class SlideStarted:
    """The segmentation of a slide starts, or resumes."""

    slide: str
    store: str
    blocks: int
    """All blocks of the slide."""
    blocks_to_do: int
    """Blocks to compute in this run."""
    pixels_to_do: int
    """Pixels of `blocks_to_do`."""
    work: int = 0
    """Pixels that go through the network for them if all is tissue; counted like `BlockDone.computed`."""
    region_share: float | None = None
    """Share of the slide that lies in the region that was asked for, 0 to 1; None: all of it."""


@dataclass(frozen=True)
class TissueFound:
    """The part of a slide to segment is known."""

    slide: str
    how: str
    """Source of the tissue mask: ``brightfield``, ``fluorescence``, ``blank``, ``given`` or ``found before``."""
    share: float
    """Share of the slide, or of its region, inside the mask, 0 to 1."""
    work: int = 0
    """Pixels that go through the network for the blocks to do; counted like `BlockDone.computed`."""


@dataclass(frozen=True)
class TilesDone:
    """Tiles of a block that is under way are predicted; said at most a few times a second."""

    slide: str
    index: tuple[int, int]
    """(row, column) of the block in the grid."""
    computed: int
    """Pixels of the block that went through the network by now; counted like `BlockDone.computed`."""


@dataclass(frozen=True)
class BlockDone:
    """One block's shards are on disk."""

    slide: str
    index: tuple[int, int]
    """(row, column) of the block in the grid."""
    pixels: int
    computed: int
    """Pixels that went through the network, margins included; once for each pass over a tile."""
    skipped: int
    """The `pixels` of the region in tiles outside the tissue mask, which did not go through the network."""
    labels: dict[int, int]
    """Pixels per label."""
    blank: bool
    """Whether pixels were read, and all of them are zero."""
    spent: Spent
    compared: tuple[int, int] = (0, 0)
    """Labels that were computed twice, from different tiles, and those of them that differ."""
    outside: int = 0
    """The `pixels` outside the region that was asked for."""


@dataclass(frozen=True)
class BlockMeasured:
    """The objects of one block of a finished store are measured."""

    slide: str
    done: int
    """Blocks that are measured by now, those of earlier runs included."""
    blocks: int
    """All blocks of the slide."""


@dataclass(frozen=True)
class ObjectsFound:
    """The table of a slide's objects is in its store."""

    slide: str
    table: str
    """Path of the table, once the store has its final name."""
    classes: tuple[ClassCount, ...]
    """Counts of each class."""


@dataclass(frozen=True)
class SlideDone:
    """A slide's store is complete, and has its final name."""

    slide: str
    store: str
    seconds: float
    pixels: int
    """Pixels computed in this run."""


@dataclass(frozen=True)
class SlideEmpty:
    """A slide's store is complete, and has its final name, but the slide has no tissue: all labels are 0."""

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
    """Another runner, which is alive, has the slide."""

    slide: str
    store: str
    holder: str
    over: bool = False
    """Whether it took it over from this one."""


@dataclass(frozen=True)
class SlideLeft:
    """The run ended in good order before the slide was done; the next run resumes it."""

    slide: str
    store: str
    reason: str


@dataclass(frozen=True)
class SlideFailed:
    """A slide could not be segmented, or not completely; the others continue."""

    slide: str
    error: str


@dataclass(frozen=True)
class Warned:
    """A warning about a slide, or about the table of slides by its name."""

    slide: str
    message: str


@dataclass(frozen=True)
class TrainingStarted:
    """The training set was read, and passed its checks."""

    train: int
    """Images, or slides, to train on."""
    validation: int
    """Views by which the best weights are chosen."""
    test: int
    """Views for the final scores."""
    first_step: int
    """Steps that were done before, by an interrupted training."""
    devices: tuple[str, ...]
    pretrained: str | None = None
    """File name of the model whose weights it starts from; None if they are random."""


@dataclass(frozen=True)
class TrainingWarned:
    """A warning about a training."""

    message: str


@dataclass(frozen=True)
class StepDone:
    """One training step, which is one batch, is done."""

    step: int
    """Number of the step, from 1."""
    loss: float
    learning_rate: float
    seconds: float
    """Seconds since the training began."""
    share: float
    """Share of the training that was done when the step began, 0 to 1."""
    steps: int | None = None
    """Steps of the whole training; None if it ends by the clock."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end of the training, at its speed so far; None where nothing can be said yet."""
        share = self.step / self.steps if self.steps else self.share
        return self.seconds * (1 / share - 1) if share > 0 else None


@dataclass(frozen=True)
class Validated:
    """The weights were scored on the validation views."""

    step: int
    scores: dict[str, float]
    best_step: int
    """Step of the best weights so far."""
    seconds: float


@dataclass(frozen=True)
class TrainingDone:
    """The model file is written."""

    model: str
    steps: int
    best_step: int
    split: str
    """Views that were scored: ``test`` or ``validation``."""
    scores: dict[str, float]


OfSlide = (
    SlideStarted
    | TissueFound
    | TilesDone
    | BlockDone
    | BlockMeasured
    | ObjectsFound
    | SlideDone
    | SlideEmpty
    | SlideSkipped
    | SlideTaken
    | SlideLeft
    | SlideFailed
    | Warned
)
Event = ClusterReady | RunStarted | GpuUnused | SizesChosen | PrecisionGain | OfSlide
TrainingEvent = TrainingStarted | TrainingWarned | StepDone | Validated | TrainingDone
Listener = Callable[[Event], None]
TrainingListener = Callable[[TrainingEvent], None]


def ignore(_event: Event | TrainingEvent) -> None:
    """A listener that ignores every event."""
