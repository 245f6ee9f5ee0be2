"""Labels in OME-Zarr folders, such as those that wsipipe writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from wsipipe.arrays import Pixels
from wsipipe.errors import LabelError, SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.label_raster import LabelRaster, refuse_dtype
from wsipipe.rasters.opened import Opened, damage_of, reading
from wsipipe.slides.readers.omezarr.attributes import zarr_corner, zarr_resolution
from wsipipe.slides.readers.omezarr.chunks import count_pieces, open_dataset
from wsipipe.slides.readers.omezarr.identity import zarr_identity
from wsipipe.slides.readers.omezarr.zipped import UNZIP, is_zip
from wsipipe.store.finished import open_finished


def zarr_labels(path: Path) -> LabelRaster:
    """Open an OME-Zarr of labels, with or without ``image-label`` metadata.

    Raises
    ------
    LabelError
        If it has several channels, or does not hold integers; if it is zipped.
    SlideError
        If it is damaged or unfinished.
    """
    if is_zip(path):
        raise LabelError(f"{path.name} is a zip file; labels are read from folders; {UNZIP}")
    with damage_of(path):
        attributes: dict[str, Any] = zarr.open(LocalStore(path, read_only=True), mode="r").attrs.asdict()
        multiscales = attributes.get("ome", attributes).get("multiscales")
        if not isinstance(multiscales, list) or len(multiscales) != 1:
            count = len(multiscales) if isinstance(multiscales, list) else "no"
            raise LabelError(
                f"{path.name} is a Zarr folder with {count} multiscales; it must have one; "
                "give the folder of the label image"
            )
        multiscale = multiscales[0]
        axes = "".join(axis["name"][:1].lower() for axis in multiscale["axes"])
        dataset = multiscale["datasets"][0]["path"]
        array = open_dataset(path, dataset)
        mpp = zarr_resolution(multiscale, multiscale["axes"], axes).mpp
        corner = None if mpp is None else zarr_corner(multiscale, multiscale["axes"], axes)
    sizes = dict(zip(axes, array.shape, strict=True)) if len(axes) == array.ndim else {}
    if not {"y", "x"} <= set(sizes) or any(sizes[axis] != 1 for axis in set(sizes) - {"y", "x"}):
        raise LabelError(
            f"{path.name} has the axes {axes} of lengths {array.shape}; labels have y and x, any others of length 1"
        )
    if array.dtype.kind not in "iu":
        refuse_dtype(path, str(array.dtype))
    if "wsipipe" in attributes:
        _check_finished(path, dataset, array)
    source = LabelZarr(str(path), dataset, axes, zarr_identity(path, (dataset,)))
    return LabelRaster(path.name, str(path), (sizes["y"], sizes["x"]), mpp, source, corner)


@dataclass(frozen=True)
class LabelZarr:
    """The finest array of an OME-Zarr of labels."""

    path: str
    dataset: str
    """Path of the array within the folder."""
    axes: str
    """First letters of its axes; all but y and x have length 1."""
    identity: str
    """The folder's identity when it was first opened."""

    def open(self) -> Opened:
        """See `Source.open`.

        Raises
        ------
        SlideReadError
            If it is damaged, or was replaced.
        """
        path = Path(self.path)
        with damage_of(path):
            array = open_dataset(path, self.dataset)
            if zarr_identity(path, (self.dataset,)) != self.identity:
                raise SlideReadError(f"{path.name} has changed since it was opened; start again")

        def read(box: Box) -> Pixels:
            where = dict(zip("yx", box.slices, strict=True))
            with reading(path, box):
                return np.asarray(array[tuple(where.get(axis, 0) for axis in self.axes)])

        return Opened(read, 0)


def _check_finished(path: Path, dataset: str, array: zarr.Array[Any]) -> None:
    """Refuse a store of wsipipe that is not complete: a missing shard would read as background.

    Raises
    ------
    SlideReadError
        If shards are missing, with their number, or the run did not come to its end.
    DamagedStoreError
        If its attributes cannot be read.
    """
    there, total = count_pieces(path, dataset, array)
    if not open_finished(path).complete or there < total:
        raise SlideReadError(
            f"{path.name} is not finished: {there} of {total} blocks are there; the same wsipipe run completes it"
        )
