"""One slide's label store on disk: OME-Zarr 0.5 (Zarr 3), an image-label with a multiscale pyramid.

::

    case-17.zarr/
        zarr.json               multiscales, colours, class names; attributes.wsipipe: fingerprint, complete, run
        0/ 1/ 2/ ...            uint8 (y, x); one shard a block, chunks of at most 512 px
        probabilities/0/        uint8 (class, y, x) = round(255 p), where asked for

While it is being made it is called ``case-17.zarr.partial``. Its metadata follow from a `StoreSpec` alone,
byte for byte, so that mending them is writing them again; only ``run``, how the run went that finished it, is
added in the end. Every file appears whole, by rename, and every shard is written once, by one task; a block
without objects too, in a few hundred bytes.

Source: https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from wsipipe.errors import DamagedStoreError, OutputError, StoreError
from wsipipe.geometry.grid import Box, Grid, boxes
from wsipipe.labels.pyramid import Labels, halve
from wsipipe.labels.shards import ZSTD_LEVEL, write_shard

STORE, PARTIAL, REPLACED = ".zarr", ".partial", ".replaced"
ROOT = "zarr.json"
PROBABILITIES = "probabilities/0"
STORE_VERSION = 1
RESUMES = "once it can, the same command resumes"


@dataclass(frozen=True)
class Fingerprint:
    """All that decides what labels come out: stores of one fingerprint and one block hold the same bytes.

    Tile, batch, devices and threads are not in it: they change speed only.
    """

    slide: str
    """Identity of the slide file (sha256)."""
    bundle: str
    """Identity of the bundle file (sha256)."""
    level: int
    """The level of the slide that is segmented."""
    mpp: float | None
    """Micrometres per pixel of that level, as used; None where they are not known."""
    probabilities: bool
    """Whether probabilities are written too."""
    precision: str = "float32"
    """What convolutions computed in; stores of before there was a choice do not say."""
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
    """Of the level that is segmented."""
    grid: Grid
    """Blocks, chunks and levels."""
    classes: tuple[tuple[str, int, str], ...]
    """(name, label, #rrggbb) of each output channel of the network."""
    model: str
    """Name of the bundle."""
    version: str
    """Of wsipipe."""

    @property
    def partial(self) -> Path:
        """Where it is while it is being made."""
        return Path(self.path + PARTIAL)

    @property
    def binary(self) -> bool:
        """Whether no more than two labels occur in it."""
        return len({0} | {label for _, label, _ in self.classes}) <= 2

    @property
    def raw_bytes(self) -> int:
        """What its arrays hold, before compression: one byte a pixel."""
        return sum(prod(shape) for _, shape, _, _ in _arrays(self))


@dataclass(frozen=True)
class Record:
    """What a store that is there says of itself."""

    slide: str
    """Path of the slide it was made from."""
    fingerprint: Fingerprint
    """What its labels follow from."""
    block: int
    """Side in pixels of its blocks."""
    complete: bool
    """Whether it says of itself that it is finished."""


def read_record(path: str | Path) -> Record | None:
    """What the store at ``path`` says of itself, or None if there is nothing.

    Raises
    ------
    DamagedStoreError
        If it is there, and its metadata are not readable.
    StoreError
        If what is there is not a store of wsipipe.
    """
    root = Path(path) / ROOT
    try:
        attributes = json.loads(root.read_bytes())["attributes"]["wsipipe"]
        if attributes["store_version"] > STORE_VERSION:
            raise StoreError(f"{path} was made by a newer wsipipe ({attributes['version']}); use that, or another -o")
        fingerprint = Fingerprint(**attributes["fingerprint"])
        return Record(attributes["slide"], fingerprint, attributes["block"], attributes["complete"])
    except FileNotFoundError:
        left = list(Path(path).iterdir()) if Path(path).is_dir() else []
        if all(file.name.startswith(ROOT) and file.name.endswith(PARTIAL) for file in left):
            return None  # not there, or its writer was killed before the first rename
        raise StoreError(
            f"{path} is in the way: it is not a store that wsipipe made; move it, or use another -o"
        ) from None
    except KeyError as err:
        raise StoreError(
            f"{path} is in the way: it is a Zarr store, but wsipipe did not make it; move it, or use another -o"
        ) from err
    except (ValueError, TypeError) as err:
        raise DamagedStoreError(
            f"{root} can not be read ({err}), so what the store was made from is not known; --overwrite makes it anew"
        ) from err
    except NotADirectoryError as err:
        raise StoreError(f"{path} is in the way: it is a file; move it, or use another -o") from err
    except OSError as err:
        raise OutputError(f"{root} can not be read: {err.strerror}") from err


def prepare(spec: StoreSpec, damaged: Iterable[str] = ()) -> None:
    """Make the unfinished store ready for its blocks: write its metadata, new or again, and clear debris away.

    Parameters
    ----------
    spec
        What the store is to be.
    damaged
        Shards that are not whole, by their path in it; zarr would try to read them before it writes them anew.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    _write_documents(spec)
    never_renamed = spec.partial.rglob("*" + PARTIAL)
    for torn in (*never_renamed, *(spec.partial / name for name in damaged)):
        torn.unlink(missing_ok=True)


def write_block(
    spec: StoreSpec, index: tuple[int, int], labels: Labels, probabilities: npt.NDArray[np.uint8] | None
) -> None:
    """Write the shards of block ``index``: coarser levels and probabilities first, level 0 last.

    Parameters
    ----------
    spec
        Of a store that was prepared.
    index
        (row, column) of the block.
    labels
        (y, x), uint8: as many pixels as the block has.
    probabilities
        (class, y, x), uint8, or None where the store has none.

    Raises
    ------
    OutputError
        If the disk does not take them.
    """
    assert labels.shape == spec.grid.block_box(index).shape, f"{labels.shape} px are no block {index}"
    levels = [labels]
    while len(levels) < spec.grid.block_levels:
        levels.append(halve(levels[-1], binary=spec.binary))
    for level in range(1, len(levels)):
        _write_shard(spec, str(level), index, levels[level])
    if probabilities is not None:
        _write_shard(spec, PROBABILITIES, (0, *index), probabilities)
    _write_shard(spec, "0", index, labels)


def label_counts(spec: StoreSpec, labels: Labels) -> dict[int, int]:
    """Pixels of each label that occurs in ``labels``, which are some of the store's."""
    values = sorted({label for _, label, _ in spec.classes} - {0})
    counts = {value: int(np.count_nonzero(labels == value)) for value in values[1:]}
    rest = int(np.count_nonzero(labels)) - sum(counts.values())  # of the first, which need not be looked for
    counts = {0: labels.size - rest - sum(counts.values())} | dict.fromkeys(values[:1], rest) | counts
    return {label: count for label, count in counts.items() if count}


def count_labels(spec: StoreSpec, index: tuple[int, int]) -> Counter[int]:
    """Pixels of each label in block ``index``, which was written before.

    Raises
    ------
    DamagedStoreError
        If it can not be read; its shard is gone then, to be made again.
    OutputError
        If the disk fails.
    """
    return Counter(label_counts(spec, _read(spec, 0, spec.grid.block_box(index))))


def coarse_chunks(spec: StoreSpec, level: int) -> Iterator[tuple[int, int]]:
    """The (row, column) of every chunk of a ``level`` that blocks do not write."""
    height, width = spec.grid.level_shapes[level]
    return ((i, j) for i in range(-(-height // spec.grid.chunk)) for j in range(-(-width // spec.grid.chunk)))


def write_coarse_chunks(spec: StoreSpec, levels: range, index: tuple[int, int]) -> None:
    """Make chunk ``index`` of the last of ``levels``, and what it is made of in the others, from the level before.

    Parameters
    ----------
    spec
        Of a store whose blocks are all there.
    levels
        One pass of `Grid.coarse_passes`; a shard of them is one chunk.
    index
        (row, column) of the chunk.

    Raises
    ------
    DamagedStoreError
        If the level before can not be read; the shards in question are gone then, to be made again.
    OutputError
        If the disk does not take it.
    """
    before, chunk = levels.start - 1, spec.grid.chunk
    side = chunk << len(levels)
    (height, width), (y0, x0) = spec.grid.level_shapes[before], (side * i for i in index)
    box = Box(y0, min(y0 + side, height), x0, min(x0 + side, width))
    labels = _read(spec, before, box)
    for level in levels:
        labels = halve(labels, binary=spec.binary)
        across = side >> (level - before)  # of this part, in pixels of this level
        for part in boxes(labels.shape, chunk):
            at = (index[0] * across + part.y0) // chunk, (index[1] * across + part.x0) // chunk
            _write_shard(spec, str(level), at, labels[part.slices])


def _read(spec: StoreSpec, level: int, box: Box) -> Labels:
    """The pixels of ``box``, which is whole shards, of ``level`` of the unfinished store.

    Raises
    ------
    DamagedStoreError
        If they can not be read; the shards in question are gone then, to be made again.
    OutputError
        If the disk fails.
    """
    try:
        return np.asarray(zarr.open_array(spec.partial / str(level), mode="r")[box.slices])
    except OSError as err:
        raise OutputError(f"{spec.partial} can not be read: {err.strerror or err}; the same command resumes") from err
    except Exception as err:  # whatever a codec raises on bytes that rotted within a chunk
        side = spec.grid.shard(level)
        for part in boxes(box.shape, side):
            at = (box.y0 + part.y0) // side, (box.x0 + part.x0) // side
            (spec.partial / shard_name(str(level), at)).unlink(missing_ok=True)
        raise DamagedStoreError(f"{spec.partial} was damaged ({err}); the same command makes that part again") from err


def publish(spec: StoreSpec, run: dict[str, Any]) -> None:
    """Mark the store complete, and give it its final name; a store that had it before goes only then.

    What ``run`` says of the run that finished it, as JSON, stands in its attributes.
    """
    _write_documents(spec, run)
    final, replaced = Path(spec.path), Path(spec.path + REPLACED)
    try:
        if final.exists():
            if replaced.exists():
                shutil.rmtree(replaced)
            final.rename(replaced)
        spec.partial.rename(final)
    except OSError as err:
        raise _output_error(final, err) from err
    discard_replaced(spec)


def discard_replaced(spec: StoreSpec) -> None:
    """Remove what is left of a store that was replaced, if a kill just then left anything."""
    shutil.rmtree(spec.path + REPLACED, ignore_errors=True)


def reopen(spec: StoreSpec) -> None:
    """Take a finished store back to unfinished, so that what was found missing in it can be made again."""
    discard_partial(spec)  # at most what a writer left that was killed before its first rename
    try:
        Path(spec.path).rename(spec.partial)
    except OSError as err:
        raise _output_error(spec.partial, err) from err


def discard_partial(spec: StoreSpec) -> None:
    """Remove an unfinished store; the root's document last, for without it nobody knows whose the rest is."""
    try:
        for entry in spec.partial.glob("*/"):
            shutil.rmtree(entry)
        if spec.partial.exists():
            shutil.rmtree(spec.partial)
    except OSError as err:
        raise _output_error(spec.partial, err) from err


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


def shard_name(array: str, index: tuple[int, ...]) -> str:
    """The path within the store of shard ``index`` of ``array``."""
    return "/".join([array, "c", *map(str, index)])


def arrays_fit(spec: StoreSpec, root: Path) -> bool:
    """Whether every array of the store at ``root`` opens, and has the shape, shards and chunks it should."""
    try:
        for name, shape, chunks, shards in _arrays(spec):
            array = zarr.open_array(root / name, mode="r")
            if (array.shape, array.chunks, array.shards) != (shape, chunks, shards):
                return False
        if spec.fingerprint.probabilities:
            zarr.open_group(root / "probabilities", mode="r")
    except Exception:  # zarr raises all sorts on what is no metadata
        return False
    return True


def _write_shard(spec: StoreSpec, array: str, index: tuple[int, ...], pixels: npt.NDArray[np.uint8]) -> None:
    """Write shard ``index`` of ``array``, of which ``pixels`` are what lies within the slide."""
    chunks, shards = next((chunks, shards) for name, _, chunks, shards in _arrays(spec) if name == array)
    path = spec.partial / shard_name(array, index)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise _output_error(spec.partial, err) from err
    write_shard(path, pixels, chunks, shards, way_out=RESUMES)


def _output_error(path: Path, err: OSError) -> OutputError:
    return OutputError(f"{path} can not be written: {err.strerror or err}; {RESUMES}")


def _write_documents(spec: StoreSpec, run: dict[str, Any] | None = None) -> None:
    """Write every metadata document that is not there in just these bytes, the root's first."""
    documents = _documents(spec, run)
    try:
        for name in sorted(documents, key=lambda name: (name != ROOT, name)):
            path = spec.partial / name
            if not path.exists() or path.read_bytes() != documents[name]:
                path.parent.mkdir(parents=True, exist_ok=True)
                torn = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
                torn.write_bytes(documents[name])
                torn.replace(path)
    except OSError as err:
        raise _output_error(spec.partial, err) from err


def _documents(spec: StoreSpec, run: dict[str, Any] | None) -> dict[str, bytes]:
    """Every metadata document of the store by its path in it, as zarr writes them."""
    memory = MemoryStore()
    zarr.create_group(memory, attributes=_attributes(spec, run), zarr_format=3)
    if spec.fingerprint.probabilities:
        zarr.create_group(memory, path="probabilities", attributes=_probability_attributes(spec), zarr_format=3)
    for name, shape, chunks, shards in _arrays(spec):
        zarr.create_array(
            memory,
            name=name,
            shape=shape,
            chunks=chunks,
            shards=shards,
            dtype="uint8",
            compressors=ZstdCodec(level=ZSTD_LEVEL, checksum=True),
            fill_value=0,
            dimension_names=("c", "y", "x")[-len(shape) :],
        )
    return {name: document.to_bytes() for name, document in memory._store_dict.items()}


def _arrays(spec: StoreSpec) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Name, shape, chunks and shards of every array of the store."""
    grid, chunk = spec.grid, spec.grid.chunk
    for level, shape in enumerate(grid.level_shapes):
        yield str(level), shape, (chunk, chunk), (grid.shard(level), grid.shard(level))
    if spec.fingerprint.probabilities:
        classes = len(spec.classes)
        yield PROBABILITIES, (classes, *grid.shape), (1, chunk, chunk), (classes, grid.block, grid.block)


def _attributes(spec: StoreSpec, run: dict[str, Any] | None) -> dict[str, Any]:
    """The attributes of the root group: what viewers read, and what a later run does."""
    named = [(name, label, color) for name, label, color in spec.classes if label]
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [_multiscale(spec, levels=len(spec.grid.level_shapes), axes="yx")],
            "image-label": {
                "colors": [
                    {"label-value": label, "rgba": [*bytes.fromhex(color[1:]), 255]} for _, label, color in named
                ],
                "properties": [{"label-value": label, "class": name} for name, label, _ in named],
            },
        },
        "wsipipe": {
            "version": spec.version,
            "store_version": STORE_VERSION,
            "complete": run is not None,
            "slide": spec.slide,
            "model": spec.model,
            "fingerprint": asdict(spec.fingerprint),
            "block": spec.grid.block,
            **({} if run is None else {"run": run}),
        },
    }


def _probability_attributes(spec: StoreSpec) -> dict[str, Any]:
    names = [name for name, _, _ in spec.classes]
    return {
        "ome": {"version": "0.5", "multiscales": [_multiscale(spec, levels=1, axes="cyx")]},
        "wsipipe": {"classes": names, "value": "round(255 p)"},
    }


def _multiscale(spec: StoreSpec, *, levels: int, axes: str) -> dict[str, Any]:
    """One multiscale: pixel (0, 0) of the slide's finest level is the origin, and a scale is what a pixel measures."""
    mpp, known = spec.fingerprint.mpp or 1.0, spec.fingerprint.mpp is not None
    space = {"type": "space", "unit": "micrometer"} if known else {"type": "space"}
    channel = [1.0] * axes.count("c")
    datasets = []
    for level in range(levels):
        finest = spec.downsample * 2**level  # pixels of the slide's finest level in one of this
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [*channel, mpp * 2**level, mpp * 2**level]},
                    {
                        "type": "translation",
                        "translation": [*(0.0 for _ in channel), *[(finest - 1) / 2 * mpp / spec.downsample] * 2],
                    },
                ],
            }
        )
    return {
        "name": Path(spec.path).name.removesuffix(STORE),
        **({"type": "mode"} if levels > 1 else {}),
        "axes": [{"name": axis, **({"type": "channel"} if axis == "c" else space)} for axis in axes],
        "datasets": datasets,
    }
