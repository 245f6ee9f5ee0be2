"""The configuration of a training: the tables of a TOML file, one frozen dataclass each.

::

    name = "nuclei"                       mpp = 0.5                licence = "CC0-1.0"
    [data]                                folder = "fields"        labels_are = "instances"    several: [[data]]
    [[classes]]                           name = "nucleus"         color = "#ffe119"
    [network]   [patches]   [weights]   [loss]   [augmentation]   [optimizer]   [loop]

The bounds of a value stand beside its field; the functions below `TrainConfig` check how several values fit each other.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from wsipipe.errors import UsageError
from wsipipe.geometry.network import Receptive, UNetSizes
from wsipipe.model.unet_file import SIZES
from wsipipe.palette import class_color
from wsipipe.rasters.label_raster import MAX_LABEL
from wsipipe.tables import bound_problems, bounded, parse_table, parse_value, read_toml
from wsipipe.training.augment import Augmentation
from wsipipe.training.data_config import DataConfig, LabelsAre, data_problems
from wsipipe.training.pixel_weights import TOUCHING, reach_of
from wsipipe.training.pretrained import with_pretrained

NOT_STATED = "not stated"
"""The licence of a model that states none."""


@dataclass(frozen=True)
class ClassConfig:
    """A class to learn. Background needs no entry."""

    name: str
    """Its name in viewers, and in annotations."""
    color: str | None = None
    """``#rrggbb``; by default one of the palette."""
    value: int | None = None
    """Its value in rasters of ``classes``; by default its number, from 1."""


@dataclass(frozen=True)
class NetworkConfig:
    """The arguments of `UNet`, and the weights that it starts from."""

    base_channels: int = bounded(32, least=SIZES["base_channels"][0], most=SIZES["base_channels"][1])
    """Channels of the first level (the paper: 64)."""
    depth: int = bounded(4, least=SIZES["depth"][0], most=SIZES["depth"][1])
    """Number of poolings."""
    convs_per_level: int = 2
    """3x3 valid convolutions per level and side."""
    dropout: float = bounded(0.5, least=0, below=1)
    """Share of the deepest level's outputs that a step leaves out; 0: none. At 0.5, a narrow network learns to do
    without its deepest level."""
    sigmoid: bool = False
    """One sigmoid channel and binary cross entropy in place of a softmax; for one class."""
    pretrained: str | None = None
    """A model of wsipipe's own U-Net whose weights, mean and standard deviation the training starts from; by default
    the weights are random. In a file, what is not stated of `mpp`, the classes and the sizes above is the model's."""


@dataclass(frozen=True)
class PatchConfig:
    """Size and place of an example."""

    core: int = 256
    """Side of the target, px; the network sees more, by its margin."""
    balance: float = bounded(0.5, least=0, most=1)
    """Share of the patches for which a class is drawn first, each equally often, and then a place where it occurs; the
    others lie anywhere in the labelled area."""
    small_images: Literal["refuse", "mirror"] = "refuse"
    """Treatment of an image smaller than `core`: ``refuse`` is an error, ``mirror`` continues it by its mirror."""


@dataclass(frozen=True)
class WeightConfig:
    """The weight of each pixel in the loss (equation 2 of the paper)."""

    balance: bool = True
    """Whether each class counts as much as any other."""
    w0: float = bounded(10.0, least=0)
    """Extra weight of the background where two objects meet."""
    sigma_px: float = bounded(5.0, above=0)
    """Reach of that weight: its standard deviation (sigma of equation 2), px."""
    ridge_px: float = TOUCHING
    """Distance to another object, px, up to which an object's pixels become background, so that there is some between
    any two: 1.5 takes one pixel of each of two objects that touch. A wider ridge is easier to learn, and makes the
    outlines a little worse."""


@dataclass(frozen=True)
class LossConfig:
    """What is added to the cross entropy."""

    steadiness: float = bounded(0.0, least=0)
    """Weight of the disagreement of two crops of each patch, shifted by less than the network's stride: the mean of the
    symmetric Kullback-Leibler divergence (`wsipipe.training.steadiness`). A step then takes twice as long; 0: none."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Update of the weights."""

    name: Literal["adamw", "sgd"] = "adamw"
    """``sgd`` is that of the paper, with momentum; its learning rate is constant after `warm_up`."""
    learning_rate: float = bounded(4e-3, above=0)
    """The largest learning rate. AdamW reaches it after `warm_up` steps, and comes down to 0 by a cosine; it gives
    layers of many connections less of it (`wsipipe.training.optimizer.shares_under_adam`), so that one rate suits any
    width and depth."""
    momentum: float = bounded(0.99, least=0, below=1)
    """Momentum of ``sgd``."""
    weight_decay: float = bounded(1e-3, least=0)
    """Weight decay of ``adamw``."""
    warm_up: int = bounded(50, least=0)
    """Steps in which the learning rate rises to its largest value."""
    clip: float = bounded(1.0, above=0)
    """Largest norm of the gradient; a longer one is shortened to it."""
    batch: int = bounded(1, above=0)
    """Patches per step, over all devices."""
    average: float = bounded(0.0, least=0, below=1)
    """The weights that are validated and kept are an average over steps, in which each counts this much relative to
    the next one (Polyak and Juditsky 1992): 0.99 looks back some 100 steps; 0 keeps the weights as they are."""


@dataclass(frozen=True)
class LoopConfig:
    """Length of the training, and times of validation and checkpoints."""

    steps: int = bounded(2000, above=0)
    """Batches to train for."""
    minutes: float | None = bounded(None, above=0)
    """Time to train for, in place of `steps`."""
    seed: int = bounded(0, least=0, below=2**63)
    """Seed of weights, patches and dropout."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numbers that the network is multiplied in; weights and loss are float32. ``auto`` is float32 on CPUs, and on GPUs
    bfloat16 or, where they do not multiply in it, float16. A CPU with AVX512_BF16 or AMX trains about twice as fast in
    ``bfloat16``; others train more slowly in it."""
    validate_every: int = bounded(100, above=0)
    """Steps from one validation to the next."""
    checkpoint_every: int = bounded(100, above=0)
    """Steps from one checkpoint to the next; after a crash at most this many are done again."""
    select: str = "dice"
    """The score by which the best weights are chosen."""
    calibrate: bool = False
    """Whether the bias of background is moved at the end, to the best `select` on the validation images: border
    weights make a network say background where it is in doubt, more or less often than a score rewards. The best
    weights are chosen before; validate only once, at the end, if that misleads the choice."""
    workers: int | None = bounded(None, least=0)
    """Processes that make patches, per device; 0: the training process makes them. By default as many as the processor
    has to spare."""
    threads: int | None = bounded(None, above=0)
    """CPU threads to train with, over all replicas; by default all cores. Another number adds up in another order, and
    gives weights that differ in the last bits first, then everywhere."""


@dataclass(frozen=True)
class TrainConfig:
    """The whole configuration.

    Raises
    ------
    UsageError
        If a value is out of its bounds, or values do not fit each other.
    """

    data: DataConfig | tuple[DataConfig, ...]
    name: str = "unnamed"
    """Name of the model."""
    licence: str = NOT_STATED
    """Licence of its weights, an SPDX expression if there is one; by default those of the data sets, if all state
    one."""
    mpp: float | None = bounded(None, above=0)
    """Micrometres per pixel to train at; without it, those of the images, and the model runs on any slide's level 0."""
    min_area_um2: float = bounded(0.0, least=0)
    """Area in square micrometres (pixels without `mpp`) below which what the model finds is not an object."""
    classes: tuple[ClassConfig, ...] = (ClassConfig("object"),)
    """The classes beside background."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    patches: PatchConfig = field(default_factory=PatchConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise UsageError(f"training {self.name!r}: {problem}")

    @property
    def data_sets(self) -> tuple[DataConfig, ...]:
        """The data sets, of which there may be a single one."""
        return self.data if isinstance(self.data, tuple) else (self.data,)

    def table_of(self, data: DataConfig) -> str:
        """The table of one of `data_sets`, for messages."""
        return f"[[data]] {data.title}:" if len(self.data_sets) > 1 else "[data]"

    @property
    def licence_of_weights(self) -> str:
        """`licence`, or else what the licences of the data sets ask for together; CC0 asks for nothing."""
        theirs = [data.licence for data in self.data_sets]
        if self.licence != NOT_STATED or None in theirs:
            return self.licence
        asking = dict.fromkeys(str(one) for one in theirs if one != "CC0-1.0")
        return " AND ".join(asking) or "CC0-1.0"

    @property
    def receptive(self) -> Receptive:
        """The sizes of the network."""
        return UNetSizes(self.network.depth, self.network.convs_per_level).receptive

    @property
    def colors(self) -> tuple[str, ...]:
        """The colour of each class, as given or of the palette."""
        return tuple(c.color or class_color(i) for i, c in enumerate(self.classes, 1))

    @property
    def values(self) -> dict[int, int]:
        """The class (0: background) of each value in a raster of classes."""
        return {0: 0} | {c.value if c.value is not None else i: i for i, c in enumerate(self.classes, 1)}

    def as_json(self) -> dict[str, Any]:
        """The configuration in plain JSON types."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document

    def _problems(self) -> Iterator[str]:
        """Its problems; later checks rely on earlier ones."""
        yield from (message for _, message in bound_problems(self))
        if not self.data_sets:
            yield "[[data]] is an empty list; give at least one data set"
        for data in self.data_sets:
            yield from data_problems(data, self.table_of(data), self.mpp)
        if len(set(titles := [data.title for data in self.data_sets])) < len(titles):
            yield f"[[data]] has sets called {', '.join(titles)}; give each a name of its own"
        yield from _class_problems(self)
        self.receptive.check_core(self.patches.core, "[patches] core")
        yield from _weight_problems(self)


def _class_problems(config: TrainConfig) -> Iterator[str]:
    """Problems with the classes by themselves, or with labels that cannot distinguish them."""
    names = [c.name for c in config.classes]
    if not 1 <= len(names) <= 255 or len(set(names)) < len(names):
        yield f"[[classes]] has {len(names)} entries, {sorted(names)}; 1 to 255 with different names are allowed"
    if "background" in map(str.lower, names):
        yield "[[classes]] has a background, which needs no entry: it is 0, and what is not annotated; remove it"
    for data in config.data_sets:
        if data.labels_are != "classes" and not data.is_annotated and len(names) > 1:
            yield (
                f"{config.table_of(data)} labels_are {data.labels_are!r} tells objects, not which of the {len(names)} "
                "classes they are; give one class, or labels_are = 'classes'"
            )
    if colors := [c.color for c in config.classes if c.color and not re.fullmatch("#[0-9a-fA-F]{6}", c.color)]:
        yield f"[[classes]] has the color {colors[0]!r}; allowed: '#rrggbb', such as '#ffe119'"
    given = {c.name: c.value for c in config.classes if c.value is not None}
    annotated = all(data.is_annotated for data in config.data_sets)
    if given and all(data.is_annotated or data.labels_are != "classes" for data in config.data_sets):
        name, value = next(iter(given.items()))
        names_them = "annotations have names: remove it"
        way_out = names_them if annotated else "set [data] labels_are = 'classes', or remove it"
        yield f"[[classes]] {name} has the value {value}, but only rasters of classes have values; {way_out}"
    if any(not 0 < value <= MAX_LABEL for value in given.values()):
        yield f"[[classes]] has the values {given}; from 1 to {MAX_LABEL} are allowed, 0 is background"
    if len(config.values) <= len(names):
        yield f"[[classes]] has two classes with the same value: {config.values}"
    if config.network.sigmoid and len(names) > 1:
        yield f"[network] sigmoid is for one class; there are {len(names)}: {', '.join(names)}"


def _weight_problems(config: TrainConfig) -> Iterator[str]:
    """Why the loss cannot be computed, on these labels or within the context that a patch has."""
    if config.loss.steadiness and not config.network.depth:
        yield "[loss] steadiness needs poolings, and [network] depth 0 has none: its labels move with the tissue"
    weights, context = config.weights, config.receptive.margin // 2
    if weights.w0 and all(data.labels_are == "classes" and not data.has_annotations for data in config.data_sets):
        yield "[weights] w0 needs objects, and labels_are 'classes' has none; set w0 = 0"
    ridge = weights.ridge_px
    if not TOUCHING <= ridge < context + 1:
        yield (
            f"[weights] ridge_px {ridge:g} is not from {TOUCHING} to below {context + 1}: "
            f"a patch has {context} px of context"
        )
    elif weights.w0 and (reach := reach_of(weights.sigma_px) + math.floor(ridge)) > context:
        yield (
            f"[weights] sigma_px {weights.sigma_px:g} reaches {reach} px beyond the target, where a patch has "
            f"{context}; at most {(context - math.floor(ridge)) // 6} is possible, or use a deeper [network]"
        )


def load_config(path: Path, roots: Sequence[Path] = (), *, pretrained: str | None = None) -> TrainConfig:
    """The configuration in the TOML file at ``path``.

    Parameters
    ----------
    path
        The file.
    roots
        Folders in which the model to start from is looked for; by default that of the file.
    pretrained
        That model, in place of the one that the file names.

    Raises
    ------
    UsageError
        If it cannot be read, has a key that is not known, or a value that is not allowed.
    ModelError
        If the model cannot be read.
    """
    document, _ = read_toml(path)
    try:
        return config_of(with_pretrained(document, roots or [path.parent], pretrained))
    except UsageError as err:
        raise UsageError(f"{path}: {err}") from err


def config_of(document: dict[str, Any]) -> TrainConfig:
    """The configuration in ``document``, as tomllib reads it, or as `TrainConfig.as_json` gives it.

    Raises
    ------
    UsageError
        If it has a key that is not known, or a value that is not allowed; the message names table and key.
    """
    return parse_table(TrainConfig, document)  # type: ignore[no-any-return]


def parse_labels_are(text: str) -> LabelsAre:
    """``text`` as `DataConfig.labels_are`. Raise a UsageError unless it is one of its values."""
    return parse_value(LabelsAre, text, "--labels-are")  # type: ignore[no-any-return]
