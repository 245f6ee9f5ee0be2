"""The summary of a run, slide by slide, from its events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from wsipipe.events import (
    BlockDone,
    ClassCount,
    Event,
    Listener,
    ObjectsFound,
    OfSlide,
    PrecisionGain,
    SlideDone,
    SlideEmpty,
    SlideFailed,
    SlideLeft,
    SlideSkipped,
    SlideStarted,
    SlideTaken,
    Spent,
    TissueFound,
    Warned,
)
from wsipipe.pipeline.summary_shown import as_html, as_text
from wsipipe.report.record import DONE, FAILED, NO_TISSUE, OPEN, SKIPPED, TAKEN

BUSY = 0.9
"""Share of busy time from which the network is a run's bottleneck."""
NOT_ATTEMPTED = "not attempted"
RUN_STATUSES = (DONE, FAILED, SKIPPED, NOT_ATTEMPTED, TAKEN, OPEN, NO_TISSUE)
"""Outcomes that a slide can have in a run."""


@dataclass
class SlideOutcome:
    """The outcome of one slide."""

    slide: str
    """Path or URL of the slide."""
    status: str = NOT_ATTEMPTED
    """``done``, ``failed``, ``skipped`` if it was done before, ``taken`` by another runner, ``open`` when the time was
    up, ``not attempted`` because the machine failed before, ``no tissue`` if there was nothing to segment."""
    store: str | None = None
    """Path or URL of its result, finished or not."""
    message: str = ""
    """Reason why it failed or was skipped."""
    blocks: int = 0
    """Number of blocks of the slide."""
    blocks_computed: int = 0
    """Blocks computed in this run."""
    pixels: int = 0
    """Pixels of the blocks computed in this run."""
    computed: int = 0
    """Pixels that went through the network, margins included; once for each pass over a tile."""
    skipped: int = 0
    """The `pixels` of the region in tiles that did not go through the network, because they have no tissue."""
    outside: int = 0
    """The `pixels` outside the region that was asked for."""
    region_share: float | None = None
    """Share of the slide that lies in that region, 0 to 1; None if none was asked for."""
    tissue_share: float | None = None
    """Share of the slide, or of that region, that is tissue, 0 to 1; None if no tissue mask was used."""
    tissue_by: str = ""
    """Method by which the tissue was found, such as ``brightfield``."""
    seconds: float = 0.0
    """Time from its first task to its last; slides overlap."""
    spent: Spent = field(default_factory=Spent)
    """Sum over all blocks, several of which are in flight at a time, and over all devices."""
    labels: dict[int, int] = field(default_factory=dict)
    """Pixels per label in the blocks computed in this run."""
    compared: tuple[int, int] = (0, 0)
    """Labels that were computed twice in this run, from different tiles, and those of them that differ."""
    objects: tuple[ClassCount, ...] = ()
    """Counts of its objects, class by class; empty if they were not asked for, or found in this run."""
    warnings: list[str] = field(default_factory=list)
    """Warnings about the slide."""

    @property
    def shown_store(self) -> str | None:
        """Its `store`, to be shown; None for a slide that failed, of which nothing may have been written."""
        return None if self.status == FAILED else self.store


@dataclass(frozen=True)
class Account:
    """Where the time of a slide, or of a run, went."""

    busy: float
    """Share of the devices' time in which they computed: 0 to 1."""
    of_bare: float | None
    """Speed over that of the bare network on as many devices, 0 to 1; None if that was not measured for these tiles.

    The bare network's is the one that was measured, or that of the devices while they computed here, if that is more:
    then something else kept the machine busy while it was measured."""
    shares: dict[str, float]
    """Shares of the threads' time: read, decode, wait, write and other of `Spent`; idle is time without a block."""
    bottleneck: str
    """The stage that limited the speed: ``network``, or the largest of `shares` except wait."""


def account(
    slides: Iterable[SlideOutcome], *, seconds: float, threads: int, devices: int, bare: float
) -> Account | None:
    """The account of ``slides``, computed in ``seconds`` on that many threads and devices; None if none was.

    ``bare`` is the speed of the bare network on one device, in pixels a second; 0 if it was not measured.
    """
    spent, computed = Spent(), 0
    for slide in slides:
        spent += slide.spent
        computed += slide.computed
    if not computed:
        return None
    shares = {name: getattr(spent, name) / (seconds * threads) for name in ("read", "decode", "wait", "write", "other")}
    shares["idle"] = max(0.0, 1 - sum(shares.values()))
    busy = spent.infer / (seconds * devices)
    own = {name: share for name, share in shares.items() if name != "wait"}
    bottleneck = "network" if busy >= BUSY else max(own, key=own.__getitem__)
    while_busy = computed / spent.infer if spent.infer else 0.0
    of_bare = computed / (seconds * devices * max(bare, while_busy)) if bare else None
    return Account(busy, of_bare, shares, bottleneck)


@dataclass(frozen=True)
class RunSummary:
    """The summary of a run."""

    out: str
    """Folder of the results, as it was given."""
    model: str
    """Path of the model."""
    slides: tuple[SlideOutcome, ...]
    """In the order of the command."""
    seconds: float
    """Duration of the run."""
    threads: int
    """Blocks in flight, in all processes."""
    devices: int
    """Devices of all processes."""
    computing_seconds: float
    """From the first block to the last slide's end."""
    bare: float
    """Pixels a second, margins included, of the bare network on one device; 0 if that was not measured."""
    projected_bytes: int
    """The peak memory that was projected."""
    peak_bytes: int
    """The peak memory of the process."""
    lower_precision: PrecisionGain | None = None
    """What a lower precision would have gained; None if that was not measured."""
    stopped: str = ""
    """The error of the machine that ended the run early; empty if there was none."""
    ended: str = ""
    """Why the run ended early in good order; empty if it did not."""

    def count(self, status: str) -> int:
        """Number of slides that ended as ``status``."""
        return sum(s.status == status for s in self.slides)

    def account(self, slide: SlideOutcome | None = None) -> Account | None:
        """Where the time of ``slide``, or of all slides, went; None if nothing was computed.

        Slides overlap: while the last blocks of one are computed the next one has begun.
        """
        slides, seconds = (self.slides, self.computing_seconds) if slide is None else ((slide,), slide.seconds)
        if not seconds:
            return None
        return account(slides, seconds=seconds, threads=self.threads, devices=self.devices, bare=self.bare)

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        """A table for a notebook."""
        return as_html(self)

    @property
    def exit_code(self) -> int:
        """0 if no slide failed, 1 if some did, 3 if the machine failed."""
        return 3 if self.stopped else 1 if self.count(FAILED) else 0


class Outcomes:
    """A listener that keeps the account of a run, and passes every event on to ``listeners``."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners
        self._by_slide: dict[str, SlideOutcome] = {}

    def __call__(self, event: Event) -> None:
        """Add ``event`` to the account, and pass it on."""
        if isinstance(event, OfSlide):
            self._note(self._by_slide.setdefault(event.slide, SlideOutcome(event.slide)), event)
        for listener in self._listeners:
            listener(event)

    def _note(self, slide: SlideOutcome, event: OfSlide) -> None:
        match event:
            case SlideStarted():
                slide.store, slide.blocks, slide.region_share = event.store, event.blocks, event.region_share
            case TissueFound():
                slide.tissue_share, slide.tissue_by = event.share, event.how
            case BlockDone():
                slide.blocks_computed += 1
                slide.pixels += event.pixels
                slide.skipped += event.skipped
                slide.outside += event.outside
                slide.computed += event.computed
                slide.spent += event.spent
                slide.compared = slide.compared[0] + event.compared[0], slide.compared[1] + event.compared[1]
                for label, count in event.labels.items():
                    slide.labels[label] = slide.labels.get(label, 0) + count
            case ObjectsFound():
                slide.objects = event.classes
            case SlideDone():
                slide.status, slide.seconds = DONE, event.seconds
            case SlideEmpty():
                slide.status, slide.seconds, slide.message = NO_TISSUE, event.seconds, event.reason
            case SlideSkipped():
                slide.status, slide.store, slide.message = SKIPPED, event.store, event.reason
            case SlideTaken():
                slide.status, slide.store = TAKEN, event.store
                slide.message = f"taken over by {event.holder}" if event.over else event.holder
            case SlideLeft():
                slide.status, slide.store, slide.message = OPEN, event.store, event.reason
            case SlideFailed():
                slide.status, slide.message = FAILED, event.error
            case Warned():
                slide.warnings.append(event.message)

    def in_order(self, slides: Iterable[str]) -> tuple[SlideOutcome, ...]:
        """The outcomes of ``slides``."""
        return tuple(self._by_slide.get(slide, SlideOutcome(slide)) for slide in slides)
