"""A training that was checked against its data and this machine, before its first step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsipipe.errors import LabelError, OutputError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.model.model_file import BACKGROUND, LabelClass, ModelSpec
from wsipipe.training.config import TEST, TRAIN, VALIDATION, TrainConfig
from wsipipe.training.fields import HELD_PX, Field, read_fields
from wsipipe.training.patches import PatchMaker
from wsipipe.training.pixel_weights import class_weights
from wsipipe.training.sampling import Places, check_learnable, survey

STATISTICS_PATCHES = 16
"""Patches that mean and standard deviation are taken from, and views of a slide that are validated."""


@dataclass(frozen=True)
class View:
    """A part of a field that is predicted whole, to be compared with what is known of it."""

    field: Field
    box: Box


@dataclass(frozen=True)
class TrainingSetup:
    """All that a training needs to know; plain values, that go to other processes by pickling."""

    config: TrainConfig
    out: Path
    """The model to write."""
    architecture: dict[str, int]
    """Arguments of `UNet`."""
    spec: ModelSpec
    """Of the model, as yet without scores."""
    maker: PatchMaker
    validation: tuple[View, ...]
    test: tuple[View, ...]
    fingerprint: str
    """Of data and settings: trainings of one fingerprint give the same weights, on a CPU of one kind."""

    @property
    def folder(self) -> Path:
        """Where checkpoint, log and pictures are."""
        return self.out.with_name(self.out.name + ".training")

    @property
    def checkpoint(self) -> Path:
        """What is gone on from."""
        return self.folder / "checkpoint.safetensors"

    @property
    def log(self) -> Path:
        """A line of JSON per step and validation."""
        return self.folder / "log.jsonl"


def prepare_training(config: TrainConfig, out: Path, roots: Sequence[Path]) -> TrainingSetup:
    """Read the training set, look at all its labels, and make what the loop needs.

    Parameters
    ----------
    config
        What is wanted.
    out
        The model to write.
    roots
        Folders in which relative paths of the configuration are looked for.

    Raises
    ------
    UsageError, SlideError
        If data and settings do not fit each other; the message names the file.
    """
    if out.exists():
        raise UsageError(f"{out} is there already; give another -o, or remove it")
    fields = read_fields(config, roots)
    _check_colors(fields[0], config)
    train = tuple(f for f in fields if f.split == TRAIN)
    classes, core = len(config.classes), config.patches.core
    found = survey(train, classes, max(core // 2, 1))
    check_learnable(found, train, [c.name for c in config.classes])
    balanced = class_weights(found.totals) if config.weights.balance else np.ones(classes + 1)
    maker = PatchMaker(
        fields=train,
        places=Places(found, config.patches.balance),
        seed=config.loop.seed,
        tile=core + config.receptive.margin,
        margin=config.receptive.margin,
        augmentation=config.augmentation,
        weights=config.weights,
        class_weights=balanced,
    )
    mean, std = channel_statistics(maker)
    settings = config.as_json()
    for unimportant in ("workers", "checkpoint_every"):
        del settings["loop"][unimportant]
    files = {f.name: {"split": f.split, "sha256": f.sha256} for f in fields}
    spec = ModelSpec(
        classes=_label_classes(config),
        mpp=config.mpp,
        mean=mean,
        std=std,
        name=config.name,
        licence=config.licence,
        training={"settings": settings, "data": files, "pixels": found.totals.tolist()},
    )
    architecture = {
        "in_channels": train[0].channels,
        "classes": len(spec.classes),
        "base_channels": config.network.base_channels,
        "depth": config.network.depth,
        "convs_per_level": config.network.convs_per_level,
    }
    fingerprint = hashlib.sha256(json.dumps([settings, files], sort_keys=True).encode()).hexdigest()
    validation, test = (
        tuple(view for f in fields if f.split == split for view in views(f, config)) for split in (VALIDATION, TEST)
    )
    return TrainingSetup(config, out, architecture, spec, maker, validation, test, fingerprint)


def _label_classes(config: TrainConfig) -> tuple[LabelClass, ...]:
    """The classes of the model: background, unless there is one sigmoid channel, and label i for class i."""
    pairs = zip(config.classes, config.colors, strict=True)
    named = [LabelClass(c.name, i, color) for i, (c, color) in enumerate(pairs, 1)]
    return tuple(named) if config.network.sigmoid else (LabelClass("background", BACKGROUND, "#000000"), *named)


def channel_statistics(maker: PatchMaker) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over the first patches, as shares of full scale, to four digits."""
    seen = np.stack([maker.patch(k).image for k in range(STATISTICS_PATCHES)]).astype(np.float64)
    mean, std = seen.mean((0, 2, 3)), np.maximum(seen.std((0, 2, 3)), 1e-3)
    return tuple(round(float(v), 4) for v in mean), tuple(round(float(v), 4) for v in std)


def views(field: Field, config: TrainConfig) -> list[View]:
    """What is looked at of a field when it is validated: all of it, or of a slide some parts, drawn as patches are."""
    height, width = field.shape
    if height * width <= HELD_PX and config.data.slides == ():
        return [View(field, Box(0, height, 0, width))]
    core, step = config.patches.core, config.receptive.stride
    found = survey([field], len(config.classes), core)
    if not found.totals.any():
        raise LabelError(f"{field.name}, of the split {field.split}, has no labelled pixel; leave it away")
    places = Places(found, config.patches.balance)
    rng = np.random.default_rng(0)
    boxes = set()
    for _ in range(STATISTICS_PATCHES):
        corner = (int(c) - core // 2 for c in places.draw(rng).center)
        y0, x0 = (max(0, min(c, side - core)) // step * step for c, side in zip(corner, field.shape, strict=True))
        boxes.add((y0, min(y0 + core, height), x0, min(x0 + core, width)))
    return [View(field, Box(*box)) for box in sorted(boxes)]


def _check_colors(field: Field, config: TrainConfig) -> None:
    """Raise a UsageError if stains are to be varied of images that are not RGB."""
    if config.augmentation.colors and field.channels != 3:
        raise UsageError(
            f"[augmentation] stain and restain are for RGB images, and {field.name} has {field.channels} "
            f"channel{'s'[: field.channels > 1]}; set both to 0"
        )


def check_place(setup: TrainingSetup, *, resume: bool) -> bool:
    """Whether there is a checkpoint to go on from; makes the folder of the training.

    Raises
    ------
    UsageError
        If something is in the way, or there is nothing to resume.
    OutputError
        If the folder can not be made.
    """
    begun = setup.checkpoint.exists()
    if begun and not resume:
        raise UsageError(
            f"{setup.folder} holds a training that was begun; --resume goes on with it; or remove it, or use another -o"
        )
    if resume and not begun:
        raise UsageError(f"there is nothing to resume at {setup.checkpoint}; leave --resume away to begin")
    try:
        setup.folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise OutputError(f"{setup.folder} can not be made: {err.strerror or err}; use another -o") from err
    return begun
