"""The metadata documents of a store, byte for byte, made from its `StoreSpec` and the statistics of its run.

Source: https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from wsipipe.store.shards import ZSTD_LEVEL
from wsipipe.store.spec import STORE, TISSUE, StoreSpec, arrays, tissue_shapes

STORE_VERSION = 1
TISSUE_CLASS = ("tissue", 1, "#28ff50")
"""Name, label and colour of the tissue mask's one class."""


def documents(spec: StoreSpec, run: dict[str, Any] | None, objects: dict[str, Any] | None = None) -> dict[str, bytes]:
    """Every metadata document of the store, as zarr writes it, by its path in the store.

    ``run`` holds the statistics of the run that finished the store; None while it is unfinished. ``objects`` holds the
    counts of its objects; None if it has none.
    """
    memory = MemoryStore()
    zarr.create_group(memory, attributes=_attributes(spec, run, objects), zarr_format=3)
    if spec.fingerprint.probabilities:
        zarr.create_group(memory, path="probabilities", attributes=_probability_attributes(spec), zarr_format=3)
    if spec.fingerprint.uncertainty:
        zarr.create_group(memory, path="uncertainty", attributes=_uncertainty_attributes(spec), zarr_format=3)
    if spec.tissue is not None:
        zarr.create_group(memory, path=TISSUE, attributes={"ome": _tissue_attributes(spec)}, zarr_format=3)
    for name, shape, chunks, shards in arrays(spec):
        describe_array(memory, name, shape, chunks, shards, dtype="uint8")
    return documents_in(memory)


def describe_array(
    memory: MemoryStore,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...],
    *,
    dtype: str,
) -> None:
    """Put the metadata of an array of labels, ids or probabilities, (y, x) or (class, y, x), into ``memory``."""
    zarr.create_array(
        memory,
        name=name,
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype=dtype,
        compressors=ZstdCodec(level=ZSTD_LEVEL, checksum=True),
        fill_value=0,
        dimension_names=("c", "y", "x")[-len(shape) :],
    )


def is_described(array: zarr.Array[Any]) -> bool:
    """Whether an array of labels is stored as `describe_array` says, whatever its attributes and dimension names."""
    if array.shards is None:
        return False
    memory = MemoryStore()
    describe_array(memory, "it", array.shape, array.chunks, array.shards, dtype="uint8")
    ours, theirs = zarr.open_array(memory, path="it").metadata.to_dict(), array.metadata.to_dict()
    return all(ours[key] == theirs.get(key) for key in ours.keys() - {"attributes", "dimension_names"})


def documents_in(memory: MemoryStore) -> dict[str, bytes]:
    """The metadata documents in ``memory``, by their path."""
    return {name: document.to_bytes() for name, document in memory._store_dict.items()}


def _attributes(spec: StoreSpec, run: dict[str, Any] | None, objects: dict[str, Any] | None) -> dict[str, Any]:
    """The attributes of the root group: ``ome`` for viewers, ``wsipipe`` for later runs (see `parse_record`)."""
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [_multiscale(spec, levels=len(spec.grid.level_shapes), axes="yx")],
            "image-label": _image_label(spec.classes, spec.image),
        },
        "wsipipe": {
            "version": spec.version,
            "store_version": STORE_VERSION,
            "complete": run is not None,
            "slide": spec.slide,
            "model": spec.model,
            "fingerprint": spec.fingerprint.described(),
            **({} if spec.seen is None else {"slide_seen": asdict(spec.seen)}),
            "mpp_source": spec.mpp_source,
            "block": spec.grid.block,
            "min_area_um2": spec.min_area_um2,
            **({} if run is None else {"run": run}),
            **({} if objects is None else {"objects": objects}),
        },
    }


def _image_label(classes: Iterable[tuple[str, int, str]], image: str | None = None) -> dict[str, Any]:
    """Colours and names of ``classes``, and the path of the labelled ``image`` if it is an OME-Zarr."""
    named = [(name, label, color) for name, label, color in classes if label]
    return {
        "colors": [{"label-value": label, "rgba": [*bytes.fromhex(color[1:]), 255]} for _, label, color in named],
        "properties": [{"label-value": label, "class": name} for name, label, _ in named],
        **({} if image is None else {"source": {"image": image}}),
    }


def _tissue_attributes(spec: StoreSpec) -> dict[str, Any]:
    assert spec.tissue is not None
    cell = spec.grid.shape[0] / spec.tissue[0], spec.grid.shape[1] / spec.tissue[1]
    multiscale = _multiscale(spec, TISSUE, levels=len(tissue_shapes(spec)), axes="yx", sides=cell)
    return {"version": "0.5", "multiscales": [multiscale], "image-label": _image_label([TISSUE_CLASS])}


def _probability_attributes(spec: StoreSpec) -> dict[str, Any]:
    names = [name for name, _, _ in spec.classes]
    multiscale = _multiscale(spec, "probabilities", levels=1, axes="cyx")
    return {
        "ome": {"version": "0.5", "multiscales": [multiscale], "omero": _channels(multiscale["name"], spec.classes)},
        "wsipipe": {"classes": names, "value": "round(255 p)"},
    }


def _uncertainty_attributes(spec: StoreSpec) -> dict[str, Any]:
    multiscale = _multiscale(spec, "uncertainty", levels=1, axes="yx")
    return {"ome": {"version": "0.5", "multiscales": [multiscale]}, "wsipipe": {"value": "round(255 u)"}}


def _channels(name: str, classes: Iterable[tuple[str, int, str]]) -> dict[str, Any]:
    """How viewers show probabilities: each class by its name, from black to its colour, the background hidden.

    Labels have no such block: napari-ome-zarr cannot open labels that have one.
    """
    window = {"min": 0, "start": 0, "end": 255, "max": 255}
    return {
        "name": name,
        "channels": [
            {
                "label": class_name,
                "color": color[1:].upper() if label else "FFFFFF",
                "window": window,
                "active": bool(label),
            }
            for class_name, label, color in classes
        ],
    }


def _multiscale(
    spec: StoreSpec, *of: str, levels: int, axes: str, sides: tuple[float, float] = (1.0, 1.0)
) -> dict[str, Any]:
    """One multiscale, named after the store and what it is ``of``.

    Its origin is pixel (0, 0) of the slide's finest level, its scale the size of a pixel.

    Pixels of its finest level have ``sides`` (y, x), in pixels of the level that is segmented.
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
        "name": " ".join([Path(spec.path).name.removesuffix(STORE), *of]),
        **({"type": "mode"} if levels > 1 else {}),
        "axes": [{"name": axis, **({"type": "channel"} if axis == "c" else space)} for axis in axes],
        "datasets": datasets,
    }
