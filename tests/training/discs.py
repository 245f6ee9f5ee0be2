"""A tiny training set: bright discs on noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsipipe import UNet
from wsipipe.events import StepDone, TrainingEvent
from wsipipe.training.augment import NO_AUGMENTATION
from wsipipe.training.config import (
    ClassConfig,
    LoopConfig,
    NetworkConfig,
    OptimizerConfig,
    PatchConfig,
    TrainConfig,
    WeightConfig,
)
from wsipipe.training.data_config import DataConfig
from wsipipe.training.setup import TrainingSetup, prepare_training
from wsipipe.training.train import train

KNOWN = "disc-0*"
"""The images to validate on."""
TINY = TrainConfig(
    DataConfig(".", validation=(KNOWN,)),
    name="discs",
    classes=(ClassConfig("disc"),),
    network=NetworkConfig(base_channels=4, depth=2, convs_per_level=1),
    patches=PatchConfig(core=32),
    weights=WeightConfig(w0=0.0),
    optimizer=OptimizerConfig(learning_rate=1e-2, warm_up=2),
    loop=LoopConfig(steps=6, validate_every=2, checkpoint_every=2, workers=0, threads=1),
)
"""A training of six steps; `changed` makes others from it."""
SGD = {"name": "sgd", "learning_rate": 0.02, "momentum": 0.9}
"""An optimizer that learns discs."""


def changed(config: TrainConfig = TINY, **tables: Any) -> TrainConfig:
    """``config`` with changes, by table: ``changed(loop={"steps": 3}, mpp=0.5)``."""
    return replace(
        config,
        **{k: replace(getattr(config, k), **v) if isinstance(v, dict) else v for k, v in tables.items()},
    )


QUICK = changed(augmentation=NO_AUGMENTATION)
"""`TINY` on still patches, which are made faster."""


def discs(shape: tuple[int, int], channels: int = 3, dtype: str = "uint8", seed: int = 0) -> tuple[Any, Any]:
    """An image (y, x, channel), or (y, x) for one, and the number of the disc at each pixel, uint8, 0 for none."""
    rng = np.random.default_rng(seed)
    rows, cols = np.indices(shape)
    image, objects = rng.normal(90, 20, (*shape, channels)), np.zeros(shape, np.uint8)
    for number in range(1, 2 + shape[0] * shape[1] // 700):
        y, x, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(4, 9)
        objects[(rows - y) ** 2 + (cols - x) ** 2 < radius**2] = number
    image[objects > 0] += 70
    image = image.clip(0, 255) * (257 if dtype == "uint16" else 1)
    return np.squeeze(image.astype(dtype), 2) if channels == 1 else image.astype(dtype), objects


def write_image(path: Path, image: Any, mpp: float | None = None) -> Path:
    """Write pixels as a tiled TIFF."""
    options: dict[str, Any] = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    photometric = "rgb" if image.ndim == 3 else "minisblack"
    tifffile.imwrite(path, image, photometric=photometric, tile=(64, 64), metadata=None, **options)
    return path


def write_discs(
    folder: Path, count: int = 4, *, shape: tuple[int, int] = (72, 72), channels: int = 3, dtype: str = "uint8"
) -> Path:
    """Write ``count`` pairs of image and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image, objects = discs(shape, channels, dtype, seed=i)
        write_image(folder / f"disc-{i}_image.tif", image)
        write_image(folder / f"disc-{i}_label.tif", objects)
    return folder


def write_toml(path: Path, config: TrainConfig) -> Path:
    """Write ``config`` as a TOML file, as people would."""
    document = config.as_json()
    del document["data"]["slides"]
    classes = document.pop("classes")
    tables = [(f"[{name}]", document.pop(name)) for name in list(document) if isinstance(document[name], dict)]
    blocks = [("", document), *tables, *(("[[classes]]", one) for one in classes)]
    lines = [
        line
        for title, values in blocks
        for line in (title, *(f"{k} = {json.dumps(v)}" for k, v in values.items() if v is not None))
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def made_setup(folder: Path, config: TrainConfig, into: Path) -> TrainingSetup:
    """The setup of a training of ``config`` on the images in ``folder``, and its folder in ``into``."""
    setup = prepare_training(config, into / "discs.safetensors", [folder])
    setup.folder.mkdir(parents=True, exist_ok=True)
    return setup


def network_of(setup: TrainingSetup) -> UNet:
    """An untrained network of its architecture."""
    return UNet(**setup.architecture)


class StopError(Exception):
    """Raised by `stopping_at`."""


def stopping_at(step: int) -> Callable[[TrainingEvent], None]:
    """A listener that raises a StopError at ``step``."""

    def listener(event: TrainingEvent) -> None:
        if isinstance(event, StepDone) and event.step == step:
            raise StopError(f"step {step}")

    return listener


def trained(folder: Path, out: Path, config: Any = QUICK, **options: Any) -> bytes:
    """The model that a training on the CPU writes."""
    train(config, out, **{"roots": [folder], "device": "cpu"} | options)
    return out.read_bytes()
