"""What a training is to be: the tables of a TOML file, one frozen dataclass each.

::

    name = "nuclei"                       mpp = 0.5                licence = "CC0-1.0"
    [data]                                folder = "fields"        labels_are = "instances"
    [[classes]]                           name = "nucleus"         color = "#ffe119"
    [network]   [patches]   [weights]   [augmentation]   [optimizer]   [loop]
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from wsipipe.errors import UsageError
from wsipipe.geometry.network import Receptive
from wsipipe.model.model_file import CLASS_COLORS, SIZES
from wsipipe.rasters.label_raster import MAX_LABEL
from wsipipe.tables import parse_table, parse_value, read_toml
from wsipipe.training.augment import Augmentation
from wsipipe.training.pixel_weights import TOUCHING, reach_of

LabelsAre = Literal["instances", "components", "classes"]
Split = float | tuple[str, ...]
TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")


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
    mpp: float | None = None
    """Micrometres per pixel of the images, over what they say; for those of which a table does not say it."""
    background: tuple[str, ...] = ()
    """Names of annotations that are to be background, and cover what is below them."""
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
    dropout: float = 0.5
    """Share of the deepest level's outputs that a step leaves out. A narrow network under 0.5 learns to do without its
    deepest level; 0: none."""
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
    ridge_px: float = TOUCHING
    """What is this near to another object becomes background, so that there is some between any two: 1.5 takes one
    pixel of each of two objects that touch. A wider one is easier to learn, and costs the outlines a little."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights are moved."""

    name: Literal["adamw", "sgd"] = "adamw"
    """``sgd`` is that of the paper, with momentum; its learning rate stays."""
    learning_rate: float = 4e-3
    """The largest; AdamW reaches it after `warm_up` steps, and comes down to 0 by a cosine, and gives layers of many
    connections less of it (`wsipipe.training.optimizer.shares_under_adam`), so that one suits any width and depth."""
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
    average: float = 0.0
    """The weights that are validated and kept are an average over steps, each counting so much less than the next one
    (Polyak and Juditsky 1992): 0.99 looks back some 100 steps; 0 keeps the weights as they are."""


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
    calibrate: bool = False
    """Whether the bias of background is moved at the end, by what gives the best `select` on the validation images:
    border weights make a network say background where it is in doubt, more or less than a score wants."""
    workers: int | None = None
    """Processes that make patches; 0: none but this one. By default what the processor has to spare."""
    threads: int | None = None
    """Threads that a CPU trains with, over all replicas: another number adds up in another order, and gives weights
    that differ in the last bits, then everywhere. By default all cores."""


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
    """Micrometres per pixel to train at; None: at those of the images, and the model runs on any slide's level 0."""
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
        return tuple(c.color or CLASS_COLORS[(i + 3) % len(CLASS_COLORS)] for i, c in enumerate(self.classes))

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
                yield f"[[data.slides]] {slide.image} needs one of annotations and labels"
            if slide.split not in (None, *SPLITS):
                yield f"[[data.slides]] {slide.image} has the split {slide.split!r}; allowed: {', '.join(SPLITS)}"
            if slide.mpp is not None and not 0 < slide.mpp < float("inf"):
                yield f"[[data.slides]] {slide.image} has mpp {slide.mpp}, which is not a positive number"
        drawn = bool(data.slides) and all(slide.annotations for slide in data.slides)
        for name, share in (("validation", data.validation), ("test", data.test)):
            if not isinstance(share, tuple) and not 0 <= share < 1:
                yield f"[data] {name} {share} is not a share from 0 to below 1, nor a list of names"
        names = [c.name for c in self.classes]
        if not 1 <= len(names) <= 255 or len(set(names)) < len(names):
            yield f"[[classes]] has {len(names)} entries, {sorted(names)}; 1 to 255 of different names are allowed"
        if "background" in map(str.lower, names):
            yield "[[classes]] has a background, which needs no entry: it is 0, and what is not annotated; take it out"
        if data.labels_are != "classes" and not drawn and len(names) > 1:
            yield (
                f"[data] labels_are {data.labels_are!r} tells objects, not which of the {len(names)} classes they are; "
                "give one class, or labels_are = 'classes'"
            )
        if colors := [c.color for c in self.classes if c.color and not re.fullmatch("#[0-9a-fA-F]{6}", c.color)]:
            yield f"[[classes]] has the color {colors[0]!r}; allowed: '#rrggbb', such as '#ffe119'"
        given = {c.name: c.value for c in self.classes if c.value is not None}
        if given and (drawn or data.labels_are != "classes"):
            yield (
                f"[[classes]] {next(iter(given))} has a value, which rasters of classes have; "
                + ("annotations have names" if drawn else "say [data] labels_are = 'classes', or leave it away")
            )
        if any(not 0 < value <= MAX_LABEL for value in given.values()):
            yield f"[[classes]] has the values {given}; from 1 to {MAX_LABEL} are allowed, 0 is background"
        if len(self.values) <= len(names):
            yield f"[[classes]] has two classes of one value: {self.values}"
        if self.network.sigmoid and len(names) > 1:
            yield f"[network] sigmoid is for one class; there are {len(names)}: {', '.join(names)}"
        for where, positive in (
            ("mpp", self.mpp),
            ("[data] mpp", data.mpp),
            ("[data] object_um", data.object_um),
            ("[weights] sigma_px", self.weights.sigma_px),
            ("[optimizer] learning_rate", optimizer.learning_rate),
            ("[optimizer] clip", optimizer.clip),
            ("[optimizer] batch", optimizer.batch),
            ("[network] base_channels", self.network.base_channels),
            ("[loop] steps", loop.steps),
            ("[loop] minutes", loop.minutes),
            ("[loop] threads", loop.threads),
            ("[loop] validate_every", loop.validate_every),
            ("[loop] checkpoint_every", loop.checkpoint_every),
        ):
            if positive is not None and not 0 < positive < float("inf"):
                yield f"{where} {positive} is not a positive number"
        if data.object_um is not None and self.mpp is None:
            yield "[data] object_um sizes the images for an mpp; give mpp"
        if data.object_um is not None and data.mpp is not None:
            yield "[data] object_um is for images whose resolution nobody knows; give one of mpp and object_um"
        if data.background and not any(slide.annotations for slide in data.slides):
            yield "[data] background names annotations, and there are none"
        if data.object_um is not None and (data.slides or data.labels_are == "classes"):
            yield (
                "[data] object_um is for images of a folder or table, with objects; "
                + ("give the mpp of each of [[data.slides]]" if data.slides else "give [data] mpp")
            )
        if not 0 <= patches.balance <= 1:
            yield f"[patches] balance {patches.balance} is not a share from 0 to 1"
        for where, least in (
            ("[weights] w0", self.weights.w0),
            ("[loop] seed", loop.seed),
            ("[optimizer] warm_up", optimizer.warm_up),
            ("[optimizer] weight_decay", optimizer.weight_decay),
        ):
            if not 0 <= least < float("inf"):
                yield f"{where} {least} is not a number of 0 or more"
        if loop.seed >= 2**63:
            yield f"[loop] seed {loop.seed} is not below 2**63"
        for where, share in (
            ("[network] dropout", self.network.dropout),
            ("[optimizer] momentum", optimizer.momentum),
            ("[optimizer] average", optimizer.average),
        ):
            if not 0 <= share < 1:
                yield f"{where} {share} is not from 0 to below 1"
        if loop.workers is not None and loop.workers < 0:
            yield f"[loop] workers {loop.workers} is not 0 or more"
        for where, (lowest, highest) in (("base_channels", SIZES["base_channels"]), ("depth", SIZES["depth"])):
            if not lowest <= getattr(self.network, where) <= highest:
                yield f"[network] {where} {getattr(self.network, where)} is not from {lowest} to {highest}"
        self.receptive.check_core(patches.core, "[patches] core")
        context = self.receptive.margin // 2
        if self.weights.w0 and data.labels_are == "classes" and not any(s.annotations for s in data.slides):
            yield "[weights] w0 needs objects, and labels_are 'classes' has none; set w0 = 0"
        ridge = self.weights.ridge_px
        if not TOUCHING <= ridge < context + 1:
            yield (
                f"[weights] ridge_px {ridge:g} is not from {TOUCHING} to below {context + 1}: "
                f"a patch has {context} px of context"
            )
        elif self.weights.w0 and (beyond := reach_of(self.weights.sigma_px) + math.floor(ridge)) > context:
            yield (
                f"[weights] sigma_px {self.weights.sigma_px:g} looks {beyond} px beyond the target, where a patch has "
                f"{context}; at most {(context - math.floor(ridge)) // 6}, or a deeper [network]"
            )


def load_config(path: Path) -> TrainConfig:
    """The training that a TOML file describes.

    Raises
    ------
    UsageError
        If it can not be read, has a key that is not known, or a value of the wrong kind.
    """
    document, _ = read_toml(path)
    try:
        return config_of(document)
    except UsageError as err:
        raise UsageError(f"{path}: {err}") from err


def config_of(document: dict[str, Any]) -> TrainConfig:
    """The training that ``document`` says, as tomllib reads it, or as `TrainConfig.as_json` gives it.

    Raises
    ------
    UsageError
        If it has a key that is not known, or a value of the wrong kind; the message names table and key.
    """
    return parse_table(TrainConfig, document)  # type: ignore[no-any-return]


def parse_labels_are(text: str) -> LabelsAre:
    """``text`` as `DataConfig.labels_are`; a UsageError if it is none."""
    return parse_value(LabelsAre, text, "--labels-are")  # type: ignore[no-any-return]
