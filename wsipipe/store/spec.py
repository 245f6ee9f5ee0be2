"""What the store of one slide is to be, and where everything is in it: an OME-Zarr 0.5 (Zarr 3), an image-label.

::

    case-17.zarr/
        zarr.json               multiscales, colours, class names; attributes.wsipipe: fingerprint, complete, run
        0/ 1/ 2/ ...            uint8 (y, x); one shard a block, chunks of at most 512 px
        probabilities/0/        uint8 (class, y, x) = round(255 p), where asked for
        0/unread/3.7.json       of a block, where asked for: boxes of tiles that could not be decoded, and are label 0
        tissue/0/ 1/ ...        uint8 (y, x): the cells that were looked at, unless all was; an image-label, too

Source: https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import prod

from wsipipe.files import Location, locate
from wsipipe.geometry.grid import CHUNK_PX, Grid
from wsipipe.geometry.network import round_up

STORE, PARTIAL, REPLACED = ".zarr", ".partial", ".replaced"
ROOT = "zarr.json"
PROBABILITIES = "probabilities/0"
TISSUE = "tissue"
UNREAD = "0/unread"
"""Within an array, for a group would have to say what it is."""


@dataclass(frozen=True)
class Fingerprint:
    """All that decides what labels come out: stores of one fingerprint and one block hold the same bytes.

    Tile, batch, devices and threads are not in it: they change speed only.
    """

    slide: str
    """Identity of the slide file (sha256)."""
    model_sha256: str
    """Identity of the model file (sha256)."""
    level: int
    """The level of the slide that is segmented."""
    mpp: float | None
    """Micrometres per pixel that are segmented; None where they are not known."""
    probabilities: bool
    """Whether probabilities are written too."""
    precision: str = "float32"
    """What convolutions computed in; stores of before there was a choice do not say."""
    shrink: float = 1.0
    """How many pixels of that level one of the store's spans; stores of before levels were averaged do not say."""
    tissue: str = "off"
    """Where it was looked: everywhere, in the tissue that a version of the algorithm found, or in a file (sha256)."""
    on_bad_tile: str = "fail"
    """Whether tiles that can not be decoded fail the slide, or fill it with label 0."""
    reading: str = ""
    """By which reader, and which planes of the slide, if not all by the reader of its format."""

    def differences(self, other: Fingerprint) -> list[str]:
        """The names of the fields in which the two differ."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]


@dataclass(frozen=True)
class StoreSpec:
    """What a store is to be: everything that its metadata say."""

    path: str
    """Its final path, ``.../case-17.zarr``."""
    slide: str
    """Path of the slide it is made from."""
    fingerprint: Fingerprint
    """What its labels follow from."""
    downsample: float
    """How many pixels of the slide's finest level one of its own spans."""
    grid: Grid
    """Blocks, chunks and levels."""
    classes: tuple[tuple[str, int, str], ...]
    """(name, label, #rrggbb) of each output channel of the network."""
    model: str
    """Name of the model."""
    version: str
    """Of wsipipe."""
    mpp_source: str = ""
    """Where the slide's micrometres per pixel were read, or who gave them."""
    tissue: tuple[int, int] | None = None
    """(rows, columns) of cells of the tissue mask; None where there is none."""

    @property
    def partial(self) -> Location:
        """Where it is while it is being made."""
        return locate(self.path + PARTIAL)

    @property
    def binary(self) -> bool:
        """Whether no more than two labels occur in it."""
        return len({0} | {label for _, label, _ in self.classes}) <= 2

    @property
    def raw_bytes(self) -> int:
        """What its arrays hold, before compression: one byte a pixel."""
        return sum(prod(shape) for _, shape, _, _ in arrays(self))


def arrays(spec: StoreSpec) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Name, shape, chunks and shards of every array of the store."""
    grid, chunk = spec.grid, spec.grid.chunk
    for level, shape in enumerate(grid.level_shapes):
        yield str(level), shape, (chunk, chunk), (grid.shard(level), grid.shard(level))
    if spec.fingerprint.probabilities:
        classes = len(spec.classes)
        yield PROBABILITIES, (classes, *grid.shape), (1, chunk, chunk), (classes, grid.block, grid.block)
    for level, shape in enumerate(tissue_shapes(spec)):
        yield f"{TISSUE}/{level}", shape, (CHUNK_PX, CHUNK_PX), (_tissue_side(shape),) * 2


def shard_name(array: str, index: tuple[int, ...]) -> str:
    """The path within the store of shard ``index`` of ``array``."""
    return "/".join([array, "c", *map(str, index)])


def block_shards(spec: StoreSpec, index: tuple[int, int]) -> dict[str, int]:
    """The shards that block ``index`` writes, by their path within the store, and how many chunks each holds."""
    shards = {
        shard_name(str(level), index): (spec.grid.shard(level) // spec.grid.chunk) ** 2
        for level in range(spec.grid.block_levels)
    }
    if spec.fingerprint.probabilities:
        per_class = (spec.grid.block // spec.grid.chunk) ** 2
        shards[shard_name(PROBABILITIES, (0, *index))] = len(spec.classes) * per_class
    return shards


def coarse_chunks(spec: StoreSpec, level: int) -> Iterator[tuple[int, int]]:
    """The (row, column) of every chunk of a ``level`` that blocks do not write."""
    height, width = spec.grid.level_shapes[level]
    return ((i, j) for i in range(-(-height // spec.grid.chunk)) for j in range(-(-width // spec.grid.chunk)))


def tissue_shards(spec: StoreSpec) -> dict[str, int]:
    """As `block_shards`, of the tissue mask: a shard for each level."""
    sides = [_tissue_side(shape) for shape in tissue_shapes(spec)]
    return {shard_name(f"{TISSUE}/{i}", (0, 0)): (side // CHUNK_PX) ** 2 for i, side in enumerate(sides)}


def tissue_shapes(spec: StoreSpec) -> list[tuple[int, int]]:
    """(rows, columns) of each level of the tissue mask, until one chunk holds it; none where there is no mask."""
    shapes = [] if spec.tissue is None else [spec.tissue]
    while shapes and max(shapes[-1]) > CHUNK_PX:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def _tissue_side(shape: tuple[int, int]) -> int:
    """Side of the one shard of a level of the tissue mask."""
    return round_up(max(shape), CHUNK_PX)
