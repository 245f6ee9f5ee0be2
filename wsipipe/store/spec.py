"""The plan of a slide's store, an OME-Zarr 0.5 image-label (Zarr 3): its contents, and where each of them is.

::

    case-17.zarr/
        zarr.json               multiscales, colours, class names; attributes.wsipipe: fingerprint, complete, run
        0/ 1/ 2/ ...            uint8 (y, x); one shard a block, chunks of at most 512 px
        probabilities/0/        uint8 (class, y, x) = round(255 p), if asked for
        uncertainty/0/          uint8 (y, x) = round(255 u), 0 certain, 255 undecided, if asked for
        0/unread/3.7.json       of block (3, 7): boxes of tiles that could not be decoded, and have label 0
        tissue/0/ 1/ ...        uint8 (y, x): the tissue mask, if there is one; an image-label, too
        region.geojson          the region that was asked for, if one was: polygons in pixels of the slide's level 0
        objects/objects.parquet the table of objects, if asked for; beside it what blocks gave, while it is made
        labels/instances/0/ ... uint32 (y, x): ids of the table, if asked for; an image-label, too

Source: https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from math import prod
from typing import Any

from wsipipe.files import Location, locate
from wsipipe.geometry.grid import CHUNK_PX, Grid
from wsipipe.geometry.network import round_up
from wsipipe.geometry.symmetry import TTA_OFF

STORE, PARTIAL, REPLACED = ".zarr", ".partial", ".replaced"
ROOT = "zarr.json"
PROBABILITIES = "probabilities/0"
UNCERTAINTY = "uncertainty/0"
TISSUE = "tissue"
REGION = "region.geojson"
OBJECTS = "objects"
OBJECTS_TABLE = "objects/objects.parquet"
INSTANCES = "labels/instances"
UNREAD = "0/unread"
"""Place of unread tiles, within an array: a group of its own would need metadata."""


@dataclass(frozen=True)
class Fingerprint:
    """Everything that the labels depend on: stores of one fingerprint and one block size hold the same bytes.

    Tile, batch, devices and threads are not in it: they change speed only.
    """

    slide: str
    """Identity of the slide file (sha256)."""
    model_sha256: str
    """Identity of the model file (sha256)."""
    level: int
    """The level of the slide that is segmented."""
    mpp: float | None
    """Micrometres per pixel of the plane that is segmented; None if unknown."""
    probabilities: bool
    """Whether probabilities are written too."""
    precision: str = "float32"
    """Number format of the convolutions, and what computed them where labels depend on it: ``bfloat16 by openvino``.
    Stores older than the choice do not name it."""
    shrink: float = 1.0
    """Pixels of the segmented level that one pixel of the store spans, along a side. Older stores do not name it."""
    tissue: str = "off"
    """The tissue mask: off, found by a version of the algorithm, or read from a file (sha256)."""
    on_bad_tile: str = "fail"
    """Whether tiles that cannot be decoded fail the slide, or are filled with label 0."""
    reading: str = ""
    """Reader and planes of the slide; empty for all planes, by the reader of its format."""
    approximate: str = ""
    """The tiles, in words, where labels depend on them; empty where tiles give what the whole image would."""
    tta: str = TTA_OFF
    """The symmetries over which probabilities were averaged."""
    uncertainty: bool = False
    """Whether the uncertainty is written too."""
    region: str = ""
    """The region that is segmented: a rectangle in pixels of level 0, or a file (sha256); empty: the whole slide."""

    def described(self) -> dict[str, Any]:
        """The fields as the metadata of a store have them: the newest only where they say something."""
        silent = {("approximate", ""), ("tta", TTA_OFF), ("uncertainty", False), ("region", "")}
        return {name: value for name, value in asdict(self).items() if (name, value) not in silent}

    def differences(self, other: Fingerprint) -> list[str]:
        """Names of the fields in which the two differ."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]


@dataclass(frozen=True)
class Seen:
    """The files of a slide, as the run saw them that segmented it."""

    state: str
    """Their sizes and modification times, or their ETags behind a URL (sha256)."""
    sha256: str | None = None
    """Their whole content; None if it is not known yet, and behind a URL."""

    def same_as(self, other: Seen) -> bool:
        """Whether both are of the same slide: of the same state, or else of the same content."""
        return self.state == other.state or (self.sha256 is not None and self.sha256 == other.sha256)


@dataclass(frozen=True)
class StoreSpec:
    """Everything that the metadata of a store contain."""

    path: str
    """Final path of the store, ``.../case-17.zarr``."""
    slide: str
    """Path of the slide."""
    fingerprint: Fingerprint
    """Everything that its labels depend on."""
    downsample: float
    """Pixels of the slide's finest level that one pixel of the store spans, along a side."""
    grid: Grid
    """Blocks, chunks and levels of the store."""
    classes: tuple[tuple[str, int, str], ...]
    """(name, label, #rrggbb) of each output channel of the network."""
    model: str
    """Name of the model."""
    version: str
    """Version of wsipipe."""
    mpp_source: str = ""
    """Source of the slide's micrometres per pixel: a tag of the file, an option, ..."""
    tissue: tuple[int, int] | None = None
    """(rows, columns) of the cells of the tissue mask; None without a mask."""
    seen: Seen | None = None
    """The slide's files, as they are now; their content only if an earlier run of this store looked at it."""
    min_area_um2: float = 0.0
    """Area in square micrometres below which the model's finds are not objects; the labels have them all the same."""
    image: str | None = None
    """Path of the slide as an OME-Zarr image, relative to the store; None if it is of another format, or elsewhere."""

    @property
    def partial(self) -> Location:
        """Path of the store while it is unfinished."""
        return locate(self.path + PARTIAL)

    @property
    def binary(self) -> bool:
        """Whether at most two labels occur in it."""
        return len({0} | {label for _, label, _ in self.classes}) <= 2

    @property
    def raw_bytes(self) -> int:
        """Size of its arrays in bytes before compression: one byte a pixel."""
        return sum(prod(shape) for _, shape, _, _ in arrays(self))


def arrays(spec: StoreSpec) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Name, shape, chunks and shards of every array of the store."""
    grid, chunk = spec.grid, spec.grid.chunk
    for level, shape in enumerate(grid.level_shapes):
        yield str(level), shape, (chunk, chunk), (grid.shard(level), grid.shard(level))
    if spec.fingerprint.probabilities:
        classes = len(spec.classes)
        yield PROBABILITIES, (classes, *grid.shape), (1, chunk, chunk), (classes, grid.block, grid.block)
    if spec.fingerprint.uncertainty:
        yield UNCERTAINTY, grid.shape, (chunk, chunk), (grid.block, grid.block)
    for level, shape in enumerate(tissue_shapes(spec)):
        yield f"{TISSUE}/{level}", shape, (CHUNK_PX, CHUNK_PX), (_tissue_side(shape),) * 2


def shard_name(array: str, index: tuple[int, ...]) -> str:
    """Path within the store of shard ``index`` of ``array``."""
    return "/".join([array, "c", *map(str, index)])


def block_shards(spec: StoreSpec, index: tuple[int, int]) -> dict[str, int]:
    """The shards that block ``index`` writes: path within the store, and number of chunks."""
    shards = {
        shard_name(str(level), index): (spec.grid.shard(level) // spec.grid.chunk) ** 2
        for level in range(spec.grid.block_levels)
    }
    per_plane = (spec.grid.block // spec.grid.chunk) ** 2
    if spec.fingerprint.probabilities:
        shards[shard_name(PROBABILITIES, (0, *index))] = len(spec.classes) * per_plane
    if spec.fingerprint.uncertainty:
        shards[shard_name(UNCERTAINTY, index)] = per_plane
    return shards


def coarse_chunks(spec: StoreSpec, level: int) -> Iterator[tuple[int, int]]:
    """(row, column) of every chunk of a ``level`` that blocks do not write."""
    rows, cols = chunks_along(spec, level)
    return ((i, j) for i in range(rows) for j in range(cols))


def chunks_along(spec: StoreSpec, level: int) -> tuple[int, int]:
    """Number of chunks of ``level``, (rows, columns)."""
    height, width = spec.grid.level_shapes[level]
    return -(-height // spec.grid.chunk), -(-width // spec.grid.chunk)


def tissue_shards(spec: StoreSpec) -> dict[str, int]:
    """The shards of the tissue mask, one a level: path within the store, and number of chunks."""
    sides = [_tissue_side(shape) for shape in tissue_shapes(spec)]
    return {shard_name(f"{TISSUE}/{i}", (0, 0)): (side // CHUNK_PX) ** 2 for i, side in enumerate(sides)}


def tissue_shapes(spec: StoreSpec) -> list[tuple[int, int]]:
    """(rows, columns) of each level of the tissue mask, until one chunk holds it; empty without a mask."""
    shapes = [] if spec.tissue is None else [spec.tissue]
    while shapes and max(shapes[-1]) > CHUNK_PX:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def _tissue_side(shape: tuple[int, int]) -> int:
    """Side of the one shard of a level of the tissue mask."""
    return round_up(max(shape), CHUNK_PX)
