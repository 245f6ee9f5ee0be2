"""A training before its first step: data and settings checked against each other, and against its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsipipe.errors import LabelError, OutputError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.model.forward import ReadPixels
from wsipipe.model.spec import BACKGROUND, LabelClass, ModelSpec
from wsipipe.training.augment import NO_AUGMENTATION
from wsipipe.training.config import TrainConfig
from wsipipe.training.data_config import TEST, TRAIN, VALIDATION
from wsipipe.training.fields import HELD_PX, Field, read_fields
from wsipipe.training.patches import PatchMaker
from wsipipe.training.pixel_weights import class_weights
from wsipipe.training.pretrained import SIZES_OF_NETWORK, Pretrained, pretrained_path, read_pretrained
from wsipipe.training.sampling import Places, check_learnable, survey
from wsipipe.training.styles import Styles, look_of

STATISTICS_PATCHES = 16
"""Number of patches from which mean and standard deviation are taken, and of draws for the views of a slide."""

STYLE_PATCHES = 128
"""Number of patches whose looks others are drawn from."""


@dataclass(frozen=True)
class View:
    """A part of a field that is predicted whole, and compared with its labels."""

    field: Field
    box: Box

    @property
    def title(self) -> str:
        """Its name in pictures."""
        whole = self.box.shape == self.field.shape
        return self.field.name + ("" if whole else f", y {self.box.y0}, x {self.box.x0}")

    @property
    def place(self) -> tuple[ReadPixels, Box, tuple[int, int]]:
        """Its pixels, its box, and the shape of the field, for `predict_box`."""
        return self.field.pixels_at, self.box, self.field.shape


@dataclass(frozen=True)
class TrainingSetup:
    """All that a training needs to know, in plain values that go to other processes by pickling."""

    config: TrainConfig
    out: Path
    """The model to write."""
    architecture: dict[str, int]
    """Arguments of `UNet`."""
    pretrained: Pretrained | None
    """The model whose weights it starts from; None if they are random."""
    spec: ModelSpec
    """Header of the model, still without scores."""
    maker: PatchMaker
    validation: tuple[View, ...]
    test: tuple[View, ...]
    fingerprint: str
    """Identity of data and settings: trainings with the same one give the same weights, on the same kind of CPU."""

    @property
    def folder(self) -> Path:
        """The folder of checkpoint, log and pictures."""
        return self.out.with_name(self.out.name + ".training")

    @property
    def checkpoint(self) -> Path:
        """The file that an interrupted training continues from."""
        return self.folder / "checkpoint.safetensors"

    @property
    def log(self) -> Path:
        """The log: a line of JSON per step and validation."""
        return self.folder / "log.jsonl"


def prepare_training(config: TrainConfig, out: Path, roots: Sequence[Path]) -> TrainingSetup:
    """Read the training set and all its labels, and prepare what the loop needs.

    Parameters
    ----------
    config
        The configuration.
    out
        The model to write.
    roots
        Folders in which relative paths of the configuration are looked for.

    Raises
    ------
    UsageError, ModelError, SlideError
        If ``out`` exists, or data, settings and the model to start from do not fit; the message names the file.
    """
    if out.exists():
        raise UsageError(f"{out} already exists; give another -o, or remove it")
    given = config.network.pretrained
    pretrained = read_pretrained(pretrained_path(given, roots)) if given is not None else None
    fields = read_fields(config, roots)
    _check_kind(fields[0], config)
    classes = _label_classes(config, pretrained)
    architecture = {
        "in_channels": fields[0].channels,
        "classes": len(classes),
        **{size: getattr(config.network, size) for size in SIZES_OF_NETWORK},
    }
    if pretrained:
        pretrained.check_sizes(architecture)
    maker = _patch_maker(config, tuple(f for f in fields if f.split == TRAIN))
    mean, std = (pretrained.spec.mean, pretrained.spec.std) if pretrained else channel_statistics(maker)
    settings = config.as_json()
    for unimportant in ("workers", "checkpoint_every"):
        del settings["loop"][unimportant]
    del settings["network"]["pretrained"]  # its content counts, not its place
    files = {f.name: {"split": f.split, "sha256": f.sha256} for f in fields}
    record: dict[str, Any] = {"settings": settings, "data": files, "pixels": maker.places.survey.totals.tolist()}
    origin: dict[str, Any] = {"from": pretrained.record} if pretrained else {}
    if sources := _sources(config, fields):
        origin["sources"] = sources
    spec = ModelSpec(
        classes=classes,
        mpp=config.mpp,
        mean=mean,
        std=std,
        name=config.name,
        licence=config.licence_of_weights,
        min_area_um2=config.min_area_um2,
        training=record | origin,
    )
    identity = [settings, files, *([pretrained.info.sha256] if pretrained else [])]
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    validation, test = (
        tuple(view for f in fields if f.split == split for view in views(f, config)) for split in (VALIDATION, TEST)
    )
    return TrainingSetup(config, out, architecture, pretrained, spec, maker, validation, test, fingerprint)


def _sources(config: TrainConfig, fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Name, licence, attribution and number of images of each data set; none if there is one and it states neither."""
    if len(config.data_sets) == 1 and not (config.data_sets[0].licence or config.data_sets[0].attribution):
        return []
    return [
        {
            "name": data.title,
            "licence": data.licence,
            "attribution": data.attribution,
            "images": sum(f.data_set == number for f in fields),
        }
        for number, data in enumerate(config.data_sets)
    ]


def _check_kind(field: Field, config: TrainConfig) -> None:
    """Raise a UsageError if the augmentation is not for images of this kind."""
    if problem := config.augmentation.unfit(field.channels, field.dtype):
        count = field.channels
        raise UsageError(f"{field.name} has {count} channel{'s'[: count > 1]} of {field.dtype}, but {problem}")


def _patch_maker(config: TrainConfig, fields: tuple[Field, ...]) -> PatchMaker:
    """Survey the labels of ``fields``, and make their patch maker. Raise a LabelError if the labels teach nothing."""
    classes, core = len(config.classes), config.patches.core
    found = survey(fields, classes, max(core // 2, 1))
    check_learnable(found, fields, [c.name for c in config.classes])
    shares = [data.share for data in config.data_sets]
    places = Places(found, config.patches.balance, data_sets=[f.data_set for f in fields], shares=shares)
    maker = PatchMaker(
        fields=fields,
        places=places,
        seed=config.loop.seed,
        tile=core + config.receptive.margin + (config.receptive.stride - 1 if config.loss.steadiness else 0),
        margin=config.receptive.margin,
        augmentation=config.augmentation,
        weights=config.weights,
        class_weights=class_weights(places.frequencies) if config.weights.balance else np.ones(classes + 1),
    )
    return replace(maker, styles=styles_of(maker)) if config.augmentation.restyle else maker


def _label_classes(config: TrainConfig, pretrained: Pretrained | None) -> tuple[LabelClass, ...]:
    """The classes of the model: background, unless there is one sigmoid channel, and label i for class i.

    A class without a colour has that of the ``pretrained`` model's class of its name, or else one of the palette.
    """
    known = {c.name: c.color for c in pretrained.spec.classes} if pretrained else {}
    pairs = zip(config.classes, config.colors, strict=True)
    named = [LabelClass(c.name, i, c.color or known.get(c.name, color)) for i, (c, color) in enumerate(pairs, 1)]
    return tuple(named) if config.network.sigmoid else (LabelClass("background", BACKGROUND, "#000000"), *named)


def channel_statistics(maker: PatchMaker) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over the first patches, in shares of full scale, four decimals."""
    seen = np.stack([maker.patch(k).image for k in range(STATISTICS_PATCHES)]).astype(np.float64)
    mean, std = seen.mean((0, 2, 3)), np.maximum(seen.std((0, 2, 3)), 1e-3)
    return tuple(round(float(v), 4) for v in mean), tuple(round(float(v), 4) for v in std)


def styles_of(maker: PatchMaker) -> Styles:
    """The looks of `STYLE_PATCHES` patches as they are."""
    still = replace(maker, augmentation=NO_AUGMENTATION, weights=replace(maker.weights, w0=0.0))
    patches = (still.patch(k).image.transpose(1, 2, 0) for k in range(STYLE_PATCHES))
    return Styles(np.stack([look_of(image) for image in patches]))


def views(field: Field, config: TrainConfig) -> list[View]:
    """The parts of a field that are validated: a whole image, or boxes of a slide, drawn like patches.

    Raises
    ------
    LabelError
        If the field has no labelled pixels.
    """
    height, width = field.shape
    if height * width <= HELD_PX and not config.data_sets[field.data_set].slides:
        return [View(field, Box(0, height, 0, width))]
    core, step = config.patches.core, config.receptive.stride
    found = survey([field], len(config.classes), core)
    if not found.totals.any():
        raise LabelError(f"{field.name}, of the split {field.split}, has no labelled pixels; remove it")
    places = Places(found, config.patches.balance)
    rng = np.random.default_rng(0)
    boxes = set()
    for _ in range(STATISTICS_PATCHES):
        corner = (int(c) - core // 2 for c in places.draw(rng).center)
        y0, x0 = (max(0, min(c, side - core)) // step * step for c, side in zip(corner, field.shape, strict=True))
        boxes.add((y0, min(y0 + core, height), x0, min(x0 + core, width)))
    return [View(field, Box(*box)) for box in sorted(boxes)]


def check_place(setup: TrainingSetup, *, resume: bool) -> bool:
    """Whether there is a checkpoint to continue from; makes the folder of the training.

    Raises
    ------
    UsageError
        If another training is in the way, or there is nothing to resume.
    OutputError
        If the folder cannot be created.
    """
    begun = setup.checkpoint.exists()
    if begun and not resume:
        raise UsageError(
            f"{setup.folder} already contains a training run; continue it with --resume, remove it, or use another -o"
        )
    if resume and not begun:
        raise UsageError(f"no checkpoint at {setup.checkpoint}; run without --resume to start from scratch")
    try:
        setup.folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise OutputError(f"{setup.folder} cannot be created: {err.strerror or err}; use another -o") from err
    return begun
