"""How a run went, slide by slide, as its events tell it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from wsipipe.events import (
    BlockDone,
    Event,
    Listener,
    OfSlide,
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
from wsipipe.report.record import DONE, FAILED, NO_TISSUE, OPEN, SKIPPED, TAKEN

BUSY = 0.9
"""From this share on it is the network that a run waits for."""
NOT_ATTEMPTED = "not attempted"
RUN_STATUSES = (DONE, FAILED, SKIPPED, NOT_ATTEMPTED, TAKEN, OPEN, NO_TISSUE)


@dataclass
class SlideOutcome:
    """How it went with one slide."""

    slide: str
    status: str = NOT_ATTEMPTED
    """One of `RUN_STATUSES`: ``taken`` by another runner, ``open`` when the time was up, ``not attempted`` as the
    machine failed before, ``no tissue`` if there was nothing to segment."""
    store: str | None = None
    message: str = ""
    """Why it failed or was skipped."""
    blocks: int = 0
    """Blocks that the slide has."""
    blocks_computed: int = 0
    """In this run."""
    pixels: int = 0
    """Computed in this run."""
    computed: int = 0
    """Pixels that went through the network, margins included."""
    skipped: int = 0
    """Of `pixels`, those in tiles that did not go through it, for they are of glass."""
    tissue_share: float | None = None
    """Of the slide, where there is tissue, or what is to be looked at: 0 to 1; None where that was not asked."""
    tissue_by: str = ""
    """How that was told, such as ``brightfield``."""
    seconds: float = 0.0
    spent: Spent = field(default_factory=Spent)
    """Summed over blocks, several of which are in flight, and over devices."""
    labels: dict[int, int] = field(default_factory=dict)
    """Pixels per label, of what was computed in this run."""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Account:
    """Where the time of a slide, or of a run, went."""

    busy: float
    """Share of the devices' time in which they computed: 0 to 1."""
    of_bare: float
    """Speed over that of the bare network on as many devices, as it was measured: 1 is as fast as the network alone."""
    shares: dict[str, float]
    """Of the threads' time: read, decode, wait, write and other of `Spent`; idle is without a block in hand."""
    bottleneck: str
    """What would have to be faster: ``network``, or the largest of `shares` but wait."""


def account(
    slides: Iterable[SlideOutcome], *, seconds: float, threads: int, devices: int, bare: float
) -> Account | None:
    """What ``slides`` come to, in ``seconds`` on that many threads and devices; None if nothing was computed.

    ``bare`` is the speed of the bare network on one device, in pixels a second.
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
    return Account(busy, computed / (seconds * devices * bare), shares, bottleneck)


@dataclass(frozen=True)
class RunSummary:
    """How a run went."""

    out: str
    model: str
    slides: tuple[SlideOutcome, ...]
    seconds: float
    threads: int
    """Blocks in flight, in all processes."""
    devices: int
    """Of all processes."""
    computing_seconds: float
    """From the first block to the last slide's end."""
    bare: float
    """Pixels a second, margins included, of the bare network on one device; 0 if nothing was computed."""
    projected_bytes: int
    """The most memory that was expected."""
    peak_bytes: int
    """The most that the process held."""
    stopped: str = ""
    """What failed the machine, so that the run ended early; empty if nothing did."""
    ended: str = ""
    """Why it ended early in good order; empty if it did not."""

    def count(self, status: str) -> int:
        """How many slides ended as ``status``."""
        return sum(s.status == status for s in self.slides)

    def account(self, slide: SlideOutcome | None = None) -> Account | None:
        """Where the time went, of ``slide`` or of all together; None if nothing was computed.

        Slides overlap: while the last blocks of one are computed the next one has begun.
        """
        slides, seconds = (self.slides, self.computing_seconds) if slide is None else ((slide,), slide.seconds)
        if not seconds:
            return None
        return account(slides, seconds=seconds, threads=self.threads, devices=self.devices, bare=self.bare)

    @property
    def exit_code(self) -> int:
        """0 if no slide failed, 1 if some did, 3 if the machine failed."""
        return 3 if self.stopped else 1 if self.count(FAILED) else 0


class Outcomes:
    """Listens to a run and keeps its account; every event goes on to ``listener``."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._by_slide: dict[str, SlideOutcome] = {}

    def __call__(self, event: Event) -> None:
        """Take ``event`` into the account, and pass it on."""
        if isinstance(event, OfSlide):
            self._note(self._by_slide.setdefault(event.slide, SlideOutcome(event.slide)), event)
        self._listener(event)

    def _note(self, slide: SlideOutcome, event: OfSlide) -> None:
        match event:
            case SlideStarted():
                slide.store, slide.blocks = event.store, event.blocks
            case TissueFound():
                slide.tissue_share, slide.tissue_by = event.share, event.how
            case BlockDone():
                slide.blocks_computed += 1
                slide.pixels += event.pixels
                slide.skipped += event.skipped
                slide.computed += event.computed
                slide.spent += event.spent
                for label, count in event.labels.items():
                    slide.labels[label] = slide.labels.get(label, 0) + count
            case SlideDone():
                slide.status, slide.seconds = DONE, event.seconds
            case SlideEmpty():
                slide.status, slide.seconds, slide.message = NO_TISSUE, event.seconds, event.reason
            case SlideSkipped():
                slide.status, slide.store, slide.message = SKIPPED, event.store, event.reason
            case SlideTaken():
                slide.status, slide.store, slide.message = TAKEN, event.store, event.holder
            case SlideLeft():
                slide.status, slide.store, slide.message = OPEN, event.store, event.reason
            case SlideFailed():
                slide.status, slide.message = FAILED, event.error
            case Warned():
                slide.warnings.append(event.message)

    def in_order(self, slides: Iterable[str]) -> tuple[SlideOutcome, ...]:
        """The outcomes of ``slides``."""
        return tuple(self._by_slide.get(slide, SlideOutcome(slide)) for slide in slides)
