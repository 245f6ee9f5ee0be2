"""Small images and labels, as files and as fields, for the tests of the training set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from tests.training.discs import changed
from wsipipe.geometry.grid import Box
from wsipipe.training.augment import NO_AUGMENTATION
from wsipipe.training.config import NetworkConfig, PatchConfig, TrainConfig, WeightConfig
from wsipipe.training.data_config import DataConfig
from wsipipe.training.fields import Field, HeldImage, read_fields
from wsipipe.training.truth import HeldTruth

PLAIN = TrainConfig(
    DataConfig(".", validation=0.0),
    network=NetworkConfig(base_channels=2, depth=2, convs_per_level=1),
    patches=PatchConfig(core=16),
    weights=WeightConfig(w0=0.0),
    augmentation=NO_AUGMENTATION,
)
"""Margin 22: tiles of 38 px, whose targets begin 11 px in."""
MARGIN = PLAIN.receptive.margin


def plain(**tables: Any) -> TrainConfig:
    """`PLAIN` with changes, by table."""
    return changed(PLAIN, **tables)


def pixels(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Noise over the whole range."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def squares(shape: tuple[int, int], side: int = 6, gap: int = 2) -> np.ndarray:
    """Objects 1, 2, ... of side x side px, with gaps to the left and above, uint16."""
    rows, cols = np.indices(shape)
    numbers = 1 + rows // (side + gap) * (shape[1] // (side + gap) + 1) + cols // (side + gap)
    inside = (rows % (side + gap) >= gap) & (cols % (side + gap) >= gap)
    return (numbers * inside).astype(np.uint16)


def png(path: Path, image: np.ndarray) -> Path:
    """Write ``image`` as a PNG, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(image))
    return path


def pair(folder: Path, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    """Write ``NAME_image.png`` and ``NAME_label.png``."""
    png(folder / f"{name}_image.png", image)
    png(folder / f"{name}_label.png", labels)


def pairs(folder: Path, *names: str, shape: tuple[int, int] = (40, 48)) -> Path:
    """A folder of RGB images with square objects; each image has different pixels."""
    for seed, name in enumerate(names):
        pair(folder, name, pixels((*shape, 3), seed=seed), squares(shape))
    return folder


def field(
    image: np.ndarray,
    instances: np.ndarray,
    classes: np.ndarray | None = None,
    *,
    name: str = "made",
    truth: Any = None,
) -> Field:
    """A field in memory: ``image`` (y, x, channel); objects are of class 1 unless ``classes`` are given."""
    known = (instances > 0).astype(np.uint8) if classes is None else classes.astype(np.uint8)
    held = truth or HeldTruth(known, instances.astype(np.int32))
    shape = (image.shape[0], image.shape[1])
    return Field(name, "train", shape, image.shape[2], str(image.dtype), HeldImage(image), held, name)


def polygon(name: str, y0: float, y1: float, x0: float, x1: float) -> dict[str, Any]:
    """A rectangle, as QuPath exports it."""
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


def geojson(path: Path, *features: dict[str, Any]) -> Path:
    """Write features as a FeatureCollection."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


def at_place(config: TrainConfig, **data: Any) -> TrainConfig:
    """``config`` with other data instead of its own: ``at_place(config, table="t.csv")``."""
    return replace(config, data=replace(DataConfig(validation=0.0), **data))


def whole(field: Field) -> Box:
    """The box of all of ``field``."""
    return Box(0, field.shape[0], 0, field.shape[1])


def image_of(field: Field) -> Any:
    """The pixels of ``field``, (y, x, channel)."""
    return field.image.read(whole(field))


def one(config: TrainConfig, folder: Path) -> Field:
    """The only field of a training set in ``folder``."""
    (found,) = read_fields(config, [folder])
    return found


def table(path: Path, *rows: str, encoding: str = "utf-8") -> TrainConfig:
    """Write ``rows`` as a CSV file, and `PLAIN` with that table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding=encoding)
    return at_place(plain(), table=path.name)


def splits(found: list[Field]) -> dict[str, str]:
    """The split of each field, by its name."""
    return {field.name: field.split for field in found}
