"""Annotations in COCO's JSON: images, categories, and objects as polygons or as run lengths, in pixels of an image.

Run lengths go down the columns, one after the other, and begin with those of background. As a text they are differences
to the count before the last, five bits a character (``rleFrString`` in pycocotools' maskApi.c).

Source: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsipipe.arrays import size_text
from wsipipe.errors import LabelError
from wsipipe.rasters.features import Features, Points, ring_of, tidy_name
from wsipipe.rasters.pairs import stem

OTHER_SIZE = 1.05
"""An image larger or smaller by this factor is another one: sizes are rounded to whole pixels of a level."""
Counts = npt.NDArray[np.int64]


def is_coco(document: Any) -> bool:
    """Whether a JSON ``document`` is COCO's, by its lists."""
    lists = ("images", "annotations", "categories")
    return isinstance(document, dict) and all(isinstance(document.get(name), list) for name in lists)


def features_of(document: dict[str, Any], file: str, image: str, size: tuple[float, float] | None) -> Features:
    """The objects that ``document`` has on one of its images, of which there may be none.

    Parameters
    ----------
    document
        See `is_coco`.
    file
        Name for messages.
    image
        File name of the image, or its stem; if there is a single image, any.
    size
        (height, width) that the image should have, px, to a factor of `OTHER_SIZE`; None: any.

    Raises
    ------
    LabelError
        If it has no such image, or one of its objects cannot be read.
    """
    try:
        chosen = _image_of(document["images"], file, image)
        names = {one["id"]: tidy_name(str(one["name"])) for one in document["categories"]}
        mine = [(k, one) for k, one in enumerate(document["annotations"]) if one["image_id"] == chosen["id"]]
    except (KeyError, TypeError, AttributeError) as err:
        raise LabelError(f"{file} is not sound COCO ({type(err).__name__}: {err}); export it again") from err
    stated: tuple[Any, Any] = chosen.get("height"), chosen.get("width")
    pairs = zip(stated, size, strict=True) if size else ()
    if size and any(type(n) is int and n and not 1 / OTHER_SIZE < side / n < OTHER_SIZE for n, side in pairs):
        raise LabelError(
            f"{file}: its image {chosen.get('file_name')} is {size_text(stated)}, but the slide is "
            f"{size_text([round(side) for side in size])} at level 0; coordinates must be in pixels of level 0"
        )
    found = Features()
    for number, one in mine:
        try:
            parts = _parts_of(one["segmentation"], stated)
            found.add(number, names[one["category_id"]], parts, unknown=bool(one.get("iscrowd", 0)))
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as err:
            raise LabelError(
                f"{file}: annotation {one.get('id', number)} of {chosen.get('file_name')} is not an object of COCO "
                f"({type(err).__name__}: {err}); correct it, or delete it"
            ) from err
    return found


def _image_of(images: list[dict[str, Any]], file: str, image: str) -> dict[str, Any]:
    """The entry of ``images`` for ``image``. Raise a LabelError unless there is one, and one only."""
    if len(images) == 1:
        return images[0]
    entries = [(_last(one["file_name"]), one) for one in images]
    fitting = [one for name, one in entries if name == image]
    fitting = fitting or [one for name, one in entries if stem(Path(name)) == stem(Path(image))]
    if len(fitting) == 1:
        return fitting[0]
    some = ", ".join(name for name, _ in entries[:4])
    raise LabelError(
        f"{file} has {len(images)} images ({some} ...), {len(fitting) or 'none'} of them called {image}; each "
        "file_name must be that of its image, and unique"
    )


def _last(path: str) -> str:
    """The name of a file, of any system's path."""
    return path.replace("\\", "/").rpartition("/")[2]


def _parts_of(segmentation: Any, size: tuple[Any, Any]) -> list[list[Points]]:
    """The polygons of an object. Raise a ValueError if there are none, or they are not sound."""
    if isinstance(segmentation, dict):
        parts = outlines_of_runs(_counts(segmentation["counts"]), *map(int, segmentation["size"]))
        if all(type(n) is int for n in size) and tuple(segmentation["size"]) != size:
            raise ValueError(f"its mask has the size {segmentation['size']}, its image {list(size)}")
    else:
        parts = [[ring_of(np.array(ring, np.float64).reshape(-1, 2))] for ring in segmentation]
    if not parts:
        raise ValueError("it has no outline; a box alone is not enough")
    return parts


def _counts(counts: list[int] | str) -> Counts:
    """Run lengths, (n,), int64, of either form."""
    if not isinstance(counts, str):
        return np.array(counts, np.int64)
    found: list[int] = []
    value, bits = 0, 0
    for character in counts.encode("ascii"):
        five = character - 48
        if not 0 <= five < 64:
            raise ValueError(f"its run lengths have the character {chr(character)!r}")
        value |= (five & 31) << bits
        bits += 5
        if not five & 32:
            value -= (1 << bits) if five & 16 else 0
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value, bits = 0, 0
    return np.array(found, np.int64)


def outlines_of_runs(counts: Counts, height: int, width: int) -> list[list[Points]]:
    """Polygons along the edges of the pixels that run lengths cover; each is an outline, and then its holes.

    Parameters
    ----------
    counts
        Run lengths, (n,), int64: background, object, background, ... down the columns.
    height, width
        Size of the mask, px.

    Raises
    ------
    ValueError
        If they do not add up to the size.
    """
    ends = np.cumsum(counts)
    if counts.ndim != 1 or (counts < 0).any() or not len(counts) or ends[-1] != height * width:
        raise ValueError(f"its run lengths do not add up to {size_text((height, width))}")
    runs = zip(ends[:-1:2].tolist(), ends[1::2].tolist(), strict=True)
    boxes = np.array([box for a, b in runs if a < b for box in _boxes(a, b, height)], np.float64).reshape(-1, 4)
    if not len(boxes):
        return []
    covered = shapely.get_parts(shapely.union_all(shapely.box(*boxes.T)))
    return [[shapely.get_coordinates(ring) for ring in (one.exterior, *one.interiors)] for one in covered]


def _boxes(start: int, stop: int, height: int) -> Iterable[tuple[int, int, int, int]]:
    """(x0, y0, x1, y1) of up to three boxes that cover the pixels ``start`` to ``stop``, counted down the columns."""
    first, last = -(-start // height), stop // height
    if first > last:  # within one column
        yield last, start % height, last + 1, stop % height
        return
    if start % height:
        yield first - 1, start % height, first, height
    if first < last:
        yield first, 0, last, height
    if stop % height:
        yield last, 0, last + 1, stop % height
