"""One slide's label store on disk: OME-Zarr 0.5 (Zarr 3), an image-label with a multiscale pyramid.

::

    case-17.zarr/
        zarr.json               multiscales, colours, class names; attributes.wsipipe: fingerprint, complete, run
        0/ 1/ 2/ ...            uint8 (y, x); one shard a block, chunks of at most 512 px
        probabilities/0/        uint8 (class, y, x) = round(255 p), where asked for
        0/unread/3.7.json       of a block, where asked for: boxes of tiles that could not be decoded, and are label 0
        tissue/0/ 1/ ...        uint8 (y, x): the cells that were looked at, unless all was; an image-label, too

While it is being made it is called ``case-17.zarr.partial``; in a bucket, where nothing is renamed, it is copied from
there to its name in the end, the root's document last. Its metadata follow from a `StoreSpec` alone, byte for byte, so
that mending them is writing them again; only ``run``, how the run went that finished it, is added in the end. Every
file appears whole, by rename or as an object, and every shard is written once, by one task; a block without objects
too, in a few hundred bytes.

Source: https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from wsipipe.errors import DamagedStoreError, OutputError, StoreError
from wsipipe.files import Location, files_in, locate, make_folder, move_folder, remove_folder, write_whole, zarr_store
from wsipipe.geometry.grid import CHUNK_PX, Box, Grid, boxes
from wsipipe.geometry.network import round_up
from wsipipe.labels.pyramid import Labels, halve
from wsipipe.labels.shards import ZSTD_LEVEL, write_shard
from wsipipe.urls import Url

STORE, PARTIAL, REPLACED = ".zarr", ".partial", ".replaced"
ROOT = "zarr.json"
PROBABILITIES = "probabilities/0"
TISSUE = "tissue"
TISSUE_CLASS = ("tissue", 1, "#28ff50")
"""Name, label and colour of what is looked at."""
UNREAD = "0/unread"
"""Within an array, for a group would have to say what it is."""
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
    """Name of the bundle."""
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
    tissue_share: float | None
    """What of it was looked at, as the run says that finished it."""


def read_record(path: str) -> Record | None:
    """What the store at ``path`` says of itself, or None if there is nothing.

    Raises
    ------
    DamagedStoreError
        If it is there, and its metadata are not readable.
    StoreError
        If what is there is not a store of wsipipe.
    """
    root = locate(path) / ROOT
    try:
        attributes = json.loads(root.read_bytes())["attributes"]["wsipipe"]
        if attributes["store_version"] > STORE_VERSION:
            raise StoreError(f"{path} was made by a newer wsipipe ({attributes['version']}); use that, or another -o")
        fingerprint = Fingerprint(**attributes["fingerprint"])
        share = ((attributes.get("run") or {}).get("tissue") or {}).get("share")
        return Record(attributes["slide"], fingerprint, attributes["block"], attributes["complete"], share)
    except FileNotFoundError:
        if _is_debris(path):
            return None
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


def _is_debris(path: str) -> bool:
    """Whether there is nothing at ``path``, or what a writer left that was killed before the root's document."""
    folder = locate(path)
    if isinstance(folder, Url):  # killed while it copied from the unfinished store to its name, or removed either
        return not folder.is_dir() or path.endswith(PARTIAL) or (locate(path + PARTIAL) / ROOT).is_file()
    left = list(folder.iterdir()) if folder.is_dir() else []
    return all(file.name.startswith(ROOT) and file.name.endswith(PARTIAL) for file in left)


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
    never_renamed = [] if isinstance(spec.partial, Url) else spec.partial.rglob("*" + PARTIAL)
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


def write_tissue(spec: StoreSpec, cells: npt.NDArray[np.bool_]) -> None:
    """Write the tissue mask of a store that was prepared, its finest level last.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    assert cells.shape == spec.tissue, f"{cells.shape} cells are no mask of {spec.tissue}"
    levels = [cells.astype(np.uint8)]
    while len(levels) < len(_tissue_shapes(spec)):
        levels.append(halve(levels[-1], binary=True))
    for level in reversed(range(len(levels))):
        _write_shard(spec, f"{TISSUE}/{level}", (0, 0), levels[level])


def has_tissue(spec: StoreSpec) -> bool:
    """Whether the unfinished store has its tissue mask."""
    return (spec.partial / shard_name(f"{TISSUE}/0", (0, 0))).exists()


def read_tissue(spec: StoreSpec) -> npt.NDArray[np.bool_]:
    """The cells of the tissue mask of the unfinished store.

    Raises
    ------
    DamagedStoreError
        If they can not be read; they are gone then, to be made again.
    OutputError
        If the disk fails.
    """
    assert spec.tissue is not None
    return _read(spec, f"{TISSUE}/0", Box(0, spec.tissue[0], 0, spec.tissue[1]), max(spec.tissue)).astype(bool)


def note_unread(spec: StoreSpec, index: tuple[int, int], tiles: Iterable[Box], pixels: int) -> None:
    """Keep which ``tiles`` of block ``index``, boxes of the plane, could not be decoded, before it is written.

    So many ``pixels`` of it have label 0 for them.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    path = spec.partial / UNREAD / f"{index[0]}.{index[1]}.json"
    make_folder(path.parent, way_out=RESUMES)
    blob = json.dumps({"pixels": pixels, "tiles": [*map(astuple, tiles)]}).encode()
    write_whole(path, blob, way_out=RESUMES, shared=True)


def all_unread(spec: StoreSpec) -> tuple[list[Box], int]:
    """The tiles that could not be decoded, of all blocks of the unfinished store, each once, and how many pixels are 0.

    Raises
    ------
    OutputError
        If the disk fails.
    """
    folder = spec.partial / UNREAD
    try:
        names = [name for name, _ in files_in(folder) if name.endswith(".json")]
        notes = [json.loads((folder / name).read_bytes()) for name in names]
    except OSError as err:
        raise OutputError(f"{folder} can not be read: {err.strerror or err}; {RESUMES}") from err
    return sorted({Box(*sides) for note in notes for sides in note["tiles"]}), sum(note["pixels"] for note in notes)


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
    return Counter(label_counts(spec, _read(spec, "0", spec.grid.block_box(index), spec.grid.block)))


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
    labels = _read(spec, str(before), box, spec.grid.shard(before))
    for level in levels:
        labels = halve(labels, binary=spec.binary)
        across = side >> (level - before)  # of this part, in pixels of this level
        for part in boxes(labels.shape, chunk):
            at = (index[0] * across + part.y0) // chunk, (index[1] * across + part.x0) // chunk
            _write_shard(spec, str(level), at, labels[part.slices])


def _read(spec: StoreSpec, array: str, box: Box, side: int) -> Labels:
    """The pixels of ``box``, which is whole shards of ``side`` px, of ``array`` of the unfinished store.

    Raises
    ------
    DamagedStoreError
        If they can not be read; the shards in question are gone then, to be made again.
    OutputError
        If the disk fails.
    """
    try:
        return np.asarray(zarr.open_array(zarr_store(spec.partial / array), mode="r")[box.slices])
    except OSError as err:
        raise OutputError(f"{spec.partial} can not be read: {err.strerror or err}; the same command resumes") from err
    except Exception as err:  # whatever a codec raises on bytes that rotted within a chunk
        for part in boxes(box.shape, side):
            at = (box.y0 + part.y0) // side, (box.x0 + part.x0) // side
            (spec.partial / shard_name(array, at)).unlink(missing_ok=True)
        raise DamagedStoreError(f"{spec.partial} was damaged ({err}); the same command makes that part again") from err


def publish(spec: StoreSpec, run: dict[str, Any]) -> None:
    """Mark the store complete, and give it its final name; a store that had it before goes only then.

    What ``run`` says of the run that finished it, as JSON, stands in its attributes.
    """
    _write_documents(spec, run)
    final, replaced = locate(spec.path), Path(spec.path + REPLACED)
    try:
        if isinstance(final, Url):
            remove_folder(final, root=ROOT)
        elif final.exists():
            if replaced.exists():
                shutil.rmtree(replaced)
            final.rename(replaced)
        move_folder(spec.partial, final, root=ROOT)
    except OSError as err:
        raise _output_error(final, err) from err
    discard_replaced(spec)


def discard_replaced(spec: StoreSpec) -> None:
    """Remove what is left of a store that was replaced, if a kill just then left anything."""
    if not isinstance(locate(spec.path), Url):  # in a bucket it goes before the new one comes
        shutil.rmtree(spec.path + REPLACED, ignore_errors=True)


def reopen(spec: StoreSpec) -> None:
    """Take a finished store back to unfinished, so that what was found missing in it can be made again."""
    discard_partial(spec)  # at most what a writer left that was killed before its first rename
    try:
        move_folder(locate(spec.path), spec.partial, root=ROOT)
    except OSError as err:
        raise _output_error(spec.partial, err) from err


def discard_partial(spec: StoreSpec) -> None:
    """Remove an unfinished store."""
    try:
        remove_folder(spec.partial, root=ROOT)
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


def tissue_shards(spec: StoreSpec) -> dict[str, int]:
    """As `block_shards`, of the tissue mask: a shard for each level."""
    sides = [_tissue_side(shape) for shape in _tissue_shapes(spec)]
    return {shard_name(f"{TISSUE}/{i}", (0, 0)): (side // CHUNK_PX) ** 2 for i, side in enumerate(sides)}


def _tissue_shapes(spec: StoreSpec) -> list[tuple[int, int]]:
    """(rows, columns) of each level of the tissue mask, until one chunk holds it; none where there is no mask."""
    shapes = [] if spec.tissue is None else [spec.tissue]
    while shapes and max(shapes[-1]) > CHUNK_PX:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def _tissue_side(shape: tuple[int, int]) -> int:
    """Side of the one shard of a level of the tissue mask."""
    return round_up(max(shape), CHUNK_PX)


def shard_name(array: str, index: tuple[int, ...]) -> str:
    """The path within the store of shard ``index`` of ``array``."""
    return "/".join([array, "c", *map(str, index)])


def arrays_fit(spec: StoreSpec, root: Location) -> bool:
    """Whether every array of the store at ``root`` opens, and has the shape, shards and chunks it should."""
    try:
        for name, shape, chunks, shards in _arrays(spec):
            array = zarr.open_array(zarr_store(root / name), mode="r")
            if (array.shape, array.chunks, array.shards) != (shape, chunks, shards):
                return False
        if spec.fingerprint.probabilities:
            zarr.open_group(zarr_store(root / "probabilities"), mode="r")
        if spec.tissue is not None:
            zarr.open_group(zarr_store(root / TISSUE), mode="r")
    except Exception:  # zarr raises all sorts on what is no metadata
        return False
    return True


def _write_shard(spec: StoreSpec, array: str, index: tuple[int, ...], pixels: npt.NDArray[np.uint8]) -> None:
    """Write shard ``index`` of ``array``, of which ``pixels`` are what lies within the slide."""
    chunks, shards = next((chunks, shards) for name, _, chunks, shards in _arrays(spec) if name == array)
    path = spec.partial / shard_name(array, index)
    make_folder(path.parent, way_out=RESUMES)
    write_shard(path, pixels, chunks, shards, way_out=RESUMES)


def _output_error(path: Location, err: OSError) -> OutputError:
    return OutputError(f"{path} can not be written: {err.strerror or err}; {RESUMES}")


def _write_documents(spec: StoreSpec, run: dict[str, Any] | None = None) -> None:
    """Write every metadata document that is not there in just these bytes, the root's first."""
    documents = _documents(spec, run)
    for name in sorted(documents, key=lambda name: (name != ROOT, name)):
        path = spec.partial / name
        if not _holds(path, documents[name]):
            make_folder(path.parent, way_out=RESUMES)
            write_whole(path, documents[name], way_out=RESUMES, shared=True)


def _holds(path: Location, blob: bytes) -> bool:
    """Whether the file at ``path`` is just ``blob``."""
    try:
        return path.read_bytes() == blob
    except FileNotFoundError:
        return False
    except OSError as err:
        raise OutputError(f"{path} can not be read: {err.strerror or err}; {RESUMES}") from err


def _documents(spec: StoreSpec, run: dict[str, Any] | None) -> dict[str, bytes]:
    """Every metadata document of the store by its path in it, as zarr writes them."""
    memory = MemoryStore()
    zarr.create_group(memory, attributes=_attributes(spec, run), zarr_format=3)
    if spec.fingerprint.probabilities:
        zarr.create_group(memory, path="probabilities", attributes=_probability_attributes(spec), zarr_format=3)
    if spec.tissue is not None:
        zarr.create_group(memory, path=TISSUE, attributes={"ome": _tissue_attributes(spec)}, zarr_format=3)
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
    for level, shape in enumerate(_tissue_shapes(spec)):
        yield f"{TISSUE}/{level}", shape, (CHUNK_PX, CHUNK_PX), (_tissue_side(shape),) * 2


def _attributes(spec: StoreSpec, run: dict[str, Any] | None) -> dict[str, Any]:
    """The attributes of the root group: what viewers read, and what a later run does."""
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [_multiscale(spec, levels=len(spec.grid.level_shapes), axes="yx")],
            "image-label": _image_label(spec.classes),
        },
        "wsipipe": {
            "version": spec.version,
            "store_version": STORE_VERSION,
            "complete": run is not None,
            "slide": spec.slide,
            "model": spec.model,
            "fingerprint": asdict(spec.fingerprint),
            "mpp_source": spec.mpp_source,
            "block": spec.grid.block,
            **({} if run is None else {"run": run}),
        },
    }


def _image_label(classes: Iterable[tuple[str, int, str]]) -> dict[str, Any]:
    named = [(name, label, color) for name, label, color in classes if label]
    return {
        "colors": [{"label-value": label, "rgba": [*bytes.fromhex(color[1:]), 255]} for _, label, color in named],
        "properties": [{"label-value": label, "class": name} for name, label, _ in named],
    }


def _tissue_attributes(spec: StoreSpec) -> dict[str, Any]:
    assert spec.tissue is not None
    cell = spec.grid.shape[0] / spec.tissue[0], spec.grid.shape[1] / spec.tissue[1]
    multiscale = _multiscale(spec, levels=len(_tissue_shapes(spec)), axes="yx", sides=cell)
    return {"version": "0.5", "multiscales": [multiscale], "image-label": _image_label([TISSUE_CLASS])}


def _probability_attributes(spec: StoreSpec) -> dict[str, Any]:
    names = [name for name, _, _ in spec.classes]
    return {
        "ome": {"version": "0.5", "multiscales": [_multiscale(spec, levels=1, axes="cyx")]},
        "wsipipe": {"classes": names, "value": "round(255 p)"},
    }


def _multiscale(spec: StoreSpec, *, levels: int, axes: str, sides: tuple[float, float] = (1.0, 1.0)) -> dict[str, Any]:
    """One multiscale: pixel (0, 0) of the slide's finest level is the origin, and a scale is what a pixel measures.

    Its finest level has pixels of ``sides``, in pixels of the level that is segmented.
    """
    mpp, known = spec.fingerprint.mpp or 1.0, spec.fingerprint.mpp is not None
    space = {"type": "space", "unit": "micrometer"} if known else {"type": "space"}
    channels = axes.count("c")
    datasets = []
    for level in range(levels):
        scale = [mpp * side * 2**level for side in sides]
        finest = [spec.downsample * side * 2**level for side in sides]  # pixels of the slide's finest level in one
        origin = [(count - 1) / 2 * mpp / spec.downsample for count in finest]
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0] * channels + scale},
                    {"type": "translation", "translation": [0.0] * channels + origin},
                ],
            }
        )
    return {
        "name": Path(spec.path).name.removesuffix(STORE),
        **({"type": "mode"} if levels > 1 else {}),
        "axes": [{"name": axis, **({"type": "channel"} if axis == "c" else space)} for axis in axes],
        "datasets": datasets,
    }
