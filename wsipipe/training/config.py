"""What a training is to be: the tables of a TOML file, one frozen dataclass each.

::

    name = "nuclei"                       mpp = 0.5                licence = "CC0-1.0"
    [data]                                folder = "fields"        labels_are = "instances"
    [[classes]]                           name = "nucleus"         color = "#ffe119"
    [network]   [patches]   [weights]   [augmentation]   [optimizer]   [loop]
"""

from __future__ import annotations

import json
import tomllib
import typing
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal

from wsipipe.errors import UsageError
from wsipipe.geometry.network import Receptive
from wsipipe.model.bundle import PALETTE
from wsipipe.training.augment import Augmentation
from wsipipe.training.weights import reach_of

LabelsAre = Literal["instances", "components", "classes"]
Split = float | tuple[str, ...]


@dataclass(frozen=True)
class AnnotatedSlide:
    """A slide, and what somebody drew on it: either annotations or a raster of labels."""

    image: str
    """The slide."""
    annotations: str | None = None
    """GeoJSON as QuPath writes it; polygons named after the classes, and regions outside which nothing is learnt."""
    labels: str | None = None
    """A raster of labels, at any level of the slide."""
    mpp: float | None = None
    """Micrometres per pixel of the slide's finest level, over what it says."""
    split: str | None = None
    """``train``, ``validation`` or ``test``; without it `DataConfig.validation` and `DataConfig.test` say."""


@dataclass(frozen=True)
class DataConfig:
    """Where the images and their labels are: in one of a folder, a table, or slides."""

    folder: str | None = None
    """Pairs of ``NAME_image.*`` and ``NAME_label.*``, or of ``image/NAME.*`` and ``label/NAME.*``."""
    table: str | None = None
    """CSV with the columns image and label, and if you like mpp and split; paths relative to the table."""
    slides: tuple[AnnotatedSlide, ...] = ()
    """Annotated slides, ``[[data.slides]]``."""
    labels_are: LabelsAre = "instances"
    """What the numbers in a raster of labels are: one per object; or ``components``, where each connected component of
    what is not 0 is an object; or ``classes``, without objects."""
    object_um: float | None = None
    """For images that do not say their resolution, and have labels of objects: an image is taken to be at the mpp at
    which its median object is a disc of so many micrometres across."""
    validation: Split = 0.1
    """What the best weights are chosen on: the last share of the names in order, or patterns of names."""
    test: Split = 0.0
    """What is not looked at until the end, and gives the scores: a share, behind that of `validation`, or patterns."""


@dataclass(frozen=True)
class ClassConfig:
    """A class to be learnt. Background needs no entry."""

    name: str
    """As viewers, and annotations, name it."""
    color: str | None = None
    """``#rrggbb``; by default of the palette."""
    value: int | None = None
    """Its value in rasters of ``classes``; by default its number, from 1."""


@dataclass(frozen=True)
class NetworkConfig:
    """The arguments of `UNet`."""

    base_channels: int = 32
    """Channels of the first level (the paper: 64)."""
    depth: int = 4
    """Poolings."""
    convs_per_level: int = 2
    """3x3 valid convolutions per level and side."""
    sigmoid: bool = False
    """One sigmoid channel and binary cross entropy in place of a softmax; for one class."""


@dataclass(frozen=True)
class PatchConfig:
    """What one example is."""

    core: int = 256
    """Side in pixels of the target; what the network sees is larger by its margin."""
    balance: float = 0.5
    """Share of the patches that are laid where a class occurs that was drawn first, each as often; the others lie
    anywhere in the labelled area."""
    small_images: Literal["refuse", "mirror"] = "refuse"
    """What becomes of an image that is smaller than `core`: an error, or it is continued by its mirror."""


@dataclass(frozen=True)
class WeightConfig:
    """The weight of each pixel in the loss (equation 2 of the paper)."""

    balance: bool = True
    """Whether each class counts as much as any other."""
    w0: float = 10.0
    """How much more the background counts where two objects meet."""
    sigma_px: float = 5.0
    """How near they must be for it."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights are moved."""

    name: Literal["adamw", "sgd"] = "adamw"
    """``sgd`` is that of the paper, with momentum; its learning rate stays."""
    learning_rate: float = 1e-3
    """The largest; AdamW reaches it after `warm_up` steps, and comes down to 0 by a cosine."""
    momentum: float = 0.99
    """Of ``sgd``."""
    weight_decay: float = 1e-3
    """Of ``adamw``."""
    warm_up: int = 50
    """Steps."""
    clip: float = 1.0
    """Longest gradient there may be (its norm)."""
    batch: int = 1
    """Patches a step, over all devices."""


@dataclass(frozen=True)
class LoopConfig:
    """How long, and what is looked at on the way."""

    steps: int = 2000
    """Batches."""
    minutes: float | None = None
    """Train for so long in place of `steps`."""
    seed: int = 0
    """Of weights, patches and dropout."""
    validate_every: int = 100
    """Steps."""
    checkpoint_every: int = 100
    """Steps; after a crash at most so many are done again."""
    select: str = "dice"
    """The score by which the best weights are chosen."""
    workers: int | None = None
    """Processes that make patches; 0: none but this one. By default what the processor has to spare."""


@dataclass(frozen=True)
class TrainConfig:
    """All of it.

    Raises
    ------
    UsageError
        If values make no sense, by themselves or together.
    """

    data: DataConfig
    name: str = "unnamed"
    """Of the model."""
    licence: str = "not stated"
    """Of its weights, as an SPDX expression if there is one."""
    mpp: float | None = None
    """Micrometres per pixel to train at; None: at those of the images, and the model then runs on any slide's level 0."""
    classes: tuple[ClassConfig, ...] = (ClassConfig("object"),)
    """Beside background."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    patches: PatchConfig = field(default_factory=PatchConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise UsageError(f"training {self.name!r}: {problem}")

    @property
    def receptive(self) -> Receptive:
        """The sizes of the network."""
        return Receptive(self.network.depth, self.network.convs_per_level)

    @property
    def colors(self) -> tuple[str, ...]:
        """Of the classes."""
        return tuple(c.color or PALETTE[(i + 3) % len(PALETTE)] for i, c in enumerate(self.classes))

    @property
    def values(self) -> dict[int, int]:
        """The class (0: background) of each value in a raster of classes."""
        return {0: 0} | {c.value if c.value is not None else i: i for i, c in enumerate(self.classes, 1)}

    def as_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document

    def _problems(self) -> Iterator[str]:
        """What is wrong with it; what follows relies on what came before."""
        data, patches, loop, optimizer = self.data, self.patches, self.loop, self.optimizer
        if sum(map(bool, (data.folder, data.table, data.slides))) != 1:
            yield "[data] names its images by one of folder, table and slides"
        for slide in data.slides:
            if (slide.annotations is None) == (slide.labels is None):
                yield f"[[data.slides]] {slide.image} has one of annotations and labels"
        for name, share in (("validation", data.validation), ("test", data.test)):
            if isinstance(share, float) and not 0 <= share < 1:
                yield f"[data] {name} {share} is not a share from 0 to below 1, nor a list of names"
        names = [c.name for c in self.classes]
        if not 1 <= len(names) <= 255 or len(set(names)) < len(names):
            yield f"[[classes]] has {len(names)} entries, {sorted(names)}; 1 to 255 of different names are allowed"
        if data.labels_are != "classes" and not data.slides and len(names) > 1:
            yield (
                f"[data] labels_are {data.labels_are!r} tells objects, not which of the {len(names)} classes they are; "
                "give one class, or labels_are = 'classes'"
            )
        if len(self.values) <= len(names):
            yield f"[[classes]] has two classes of one value, or one of 0, which is background: {self.values}"
        if self.network.sigmoid and len(names) > 1:
            yield f"[network] sigmoid is for one class; there are {len(names)}: {', '.join(names)}"
        for where, positive in (
            ("mpp", self.mpp),
            ("[data] object_um", data.object_um),
            ("[weights] sigma_px", self.weights.sigma_px),
            ("[optimizer] learning_rate", optimizer.learning_rate),
            ("[optimizer] clip", optimizer.clip),
            ("[optimizer] batch", optimizer.batch),
            ("[network] base_channels", self.network.base_channels),
            ("[loop] steps", loop.steps),
            ("[loop] minutes", loop.minutes),
            ("[loop] validate_every", loop.validate_every),
            ("[loop] checkpoint_every", loop.checkpoint_every),
        ):
            if positive is not None and not 0 < positive < float("inf"):
                yield f"{where} {positive} is not a positive number"
        if data.object_um is not None and self.mpp is None:
            yield "[data] object_um sizes the images for an mpp; give mpp"
        if not 0 <= patches.balance <= 1:
            yield f"[patches] balance {patches.balance} is not a share from 0 to 1"
        if not (0 <= self.weights.w0 < float("inf") and loop.seed >= 0 and optimizer.warm_up >= 0):
            yield "[weights] w0, [loop] seed and [optimizer] warm_up are 0 or more"
        if not 0 <= optimizer.momentum < 1 or optimizer.weight_decay < 0:
            yield "[optimizer] momentum is from 0 to below 1, weight_decay 0 or more"
        if loop.workers is not None and loop.workers < 0:
            yield f"[loop] workers {loop.workers} is not 0 or more"
        self.receptive.check_core(patches.core, "[patches] core")
        context = self.receptive.margin // 2
        if self.weights.w0 and data.labels_are == "classes" and not any(s.annotations for s in data.slides):
            yield "[weights] w0 needs objects, and labels_are 'classes' has none; set w0 = 0"
        if self.weights.w0 and reach_of(self.weights.sigma_px) + 1 > context:
            yield (
                f"[weights] sigma_px {self.weights.sigma_px:g} looks {reach_of(self.weights.sigma_px) + 1} px beyond "
                f"the target, where a patch has {context}; at most {(context - 1) // 6}, or a deeper [network]"
            )


def load_config(path: Path) -> TrainConfig:
    """The training that a TOML file describes.

    Raises
    ------
    UsageError
        If it can not be read, has a key that is not known, or a value of the wrong kind.
    """
    try:
        document = tomllib.loads(path.read_text())
    except OSError as err:
        raise UsageError(f"{path} can not be read: {err.strerror or err}") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise UsageError(f"{path} is not a TOML file: {err}") from err
    try:
        return _parse(TrainConfig, document, "it")  # type: ignore[no-any-return]
    except UsageError as err:
        raise UsageError(f"{path}: {err}") from err


def parse_labels_are(text: str) -> LabelsAre:
    """``text`` as `DataConfig.labels_are`; a UsageError if it is none."""
    return _parse(LabelsAre, text, "--labels-are")  # type: ignore[no-any-return]


def _parse(kind: Any, value: Any, where: str) -> Any:
    """``value``, as tomllib gives it, as a ``kind``: a dataclass, a tuple of one kind, or a plain type."""
    if is_dataclass(kind):
        return _parse_table(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise UsageError(f"{where} is {value!r}; allowed: {', '.join(map(repr, arguments))}")
        return value
    if origin in (UnionType, typing.Union):
        for one in arguments:
            try:
                return _parse(one, value, where)
            except UsageError as err:
                reason = err
        raise reason
    if origin is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{where} is {value!r}; a list is allowed")
        return tuple(_parse(arguments[0], one, where) for one in value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UsageError(f"{where} is {value!r}; {_said(kind)} is allowed")
    return value


def _parse_table(kind: Any, value: Any, where: str) -> Any:
    """``value``, a TOML table, as the dataclass ``kind``."""
    if not isinstance(value, dict):
        raise UsageError(f"{where} is {value!r}; a table is allowed")
    kinds, known = typing.get_type_hints(kind), {f.name: f for f in fields(kind)}
    if unknown := sorted(set(value) - set(known)):
        raise UsageError(f"{where} has {_names(unknown)}, which is not known; allowed: {_names(known)}")
    needed = [f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in value]:
        raise UsageError(f"{where} lacks {_names(missing)}")
    return kind(**{name: _parse(kinds[name], one, f"{where} {name}") for name, one in value.items()})


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)


def _said(kind: type) -> str:
    """A type, as people call it."""
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(kind, str(kind))
