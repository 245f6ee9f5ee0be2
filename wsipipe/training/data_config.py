"""The data sets of a training: the tables ``[data]`` or ``[[data]]`` of its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsipipe.tables import bounded

LabelsAre = Literal["instances", "components", "classes"]
Split = float | tuple[str, ...]
TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class AnnotatedSlide:
    """A slide and its labels: either annotations or a raster of labels."""

    image: str
    """The slide."""
    annotations: str | None = None
    """Annotations of QuPath, ImageScope or COCO: polygons named after the classes, and regions outside which nothing is
    learnt, and inside which nothing else than background is left."""
    labels: str | None = None
    """A raster of labels, at any level of the slide."""
    mpp: float | None = bounded(None, above=0)
    """Micrometres per pixel of the slide's finest level, in place of what its file says."""
    split: str | None = None
    """``train``, ``validation`` or ``test``; without it `DataConfig.validation` and `DataConfig.test` decide."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"[[data.slides]] {self.image}"


@dataclass(frozen=True)
class DataConfig:
    """Source of images and their labels: one of a folder, a table, or slides; as a list, ``[[data]]``, several."""

    folder: str | None = None
    """Pairs of ``NAME_image.*`` and ``NAME_label.*``, or of ``image/NAME.*`` and ``label/NAME.*``; labels are
    rasters or annotations."""
    table: str | None = None
    """CSV with the columns image and label, and optionally mpp and split; paths are relative to the table."""
    slides: tuple[AnnotatedSlide, ...] = ()
    """Annotated slides, ``[[data.slides]]``."""
    labels_are: LabelsAre = "instances"
    """The meaning of the numbers in a raster of labels: ``instances``, one number per object; ``components``, where
    each connected component of what is not 0 is an object; or ``classes``, without objects."""
    mpp: float | None = bounded(None, above=0)
    """Micrometres per pixel of the images, in place of what they say; a table's column mpp takes precedence."""
    background: tuple[str, ...] = ()
    """Names of annotations that count as background, and cover what is below them."""
    object_um: float | None = bounded(None, above=0)
    """Median diameter of the objects, micrometres, for images that do not say their resolution: an image is taken to
    have the mpp at which its median object is a disc this wide."""
    validation: float | tuple[str, ...] = bounded(0.1, least=0, below=1, hint="a list of names is allowed, too")
    """The images that the best weights are chosen on: a share, the last in order of names, or patterns of names."""
    test: float | tuple[str, ...] = bounded(0.0, least=0, below=1, hint="a list of names is allowed, too")
    """The images that are used only at the end, for the scores: a share, after that of `validation`, or patterns."""

    name: str | None = None
    """Name of the data set, where there are several; by default that of its folder or table."""
    share: float = bounded(1.0, above=0)
    """Share of the patches that come from this data set, relative to those of the others."""
    licence: str | None = None
    """Licence of the data, an SPDX expression if there is one; the model's header has it."""
    attribution: str | None = None
    """Whom the licence asks to name; the model's header has it, and ``wsipipe model show`` says it."""

    @property
    def title(self) -> str:
        """Its name, in front of those of its images where there are several data sets."""
        source = self.folder or self.table or (self.slides[0].image if self.slides else "")
        return self.name or Path(source).stem or "data"

    @property
    def has_annotations(self) -> bool:
        """Whether any slide has annotations."""
        return any(slide.annotations for slide in self.slides)

    @property
    def is_annotated(self) -> bool:
        """Whether all images are slides with annotations, which go by the names of the classes."""
        return bool(self.slides) and all(slide.annotations for slide in self.slides)


def data_problems(data: DataConfig, where: str, mpp: float | None) -> Iterator[str]:
    """Problems with the images that ``data`` names, which messages call ``where``, for a training at ``mpp``."""
    given = [key for key in ("folder", "table", "slides") if getattr(data, key)]
    if len(given) != 1:
        yield f"{where} has {' and '.join(given) or 'no images'}; give one of folder, table and slides"
    for slide in data.slides:
        if (slide.annotations is None) == (slide.labels is None):
            yield f"{slide.name} needs one of annotations and labels"
        if slide.split not in (None, *SPLITS):
            yield f"{slide.name} has the split {slide.split!r}; allowed: {', '.join(SPLITS)}"
    if data.background and not data.has_annotations:
        yield f"{where} background {list(data.background)} names annotations, but no slide has any; remove it"
    if data.object_um is None:
        return
    if mpp is None:
        yield f"{where} object_um scales the images to an mpp; give mpp"
    if data.mpp is not None:
        yield f"{where} object_um is for images of unknown resolution; give one of mpp and object_um"
    if data.slides or data.labels_are == "classes":
        yield (
            f"{where} object_um is for images of a folder or table, with objects; "
            + ("give the mpp of each of [[data.slides]]" if data.slides else f"give {where} mpp")
        )
