"""Small slides made for the tests: smooth and noisy at once, so that no two tiles are alike."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from PIL import Image

VMS = "case-17.vms"
APERIO = "Aperio Image Library v11.2.1\r\n{w}x{h} (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990"


def picture(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Random pixels over a gradient, never 0."""
    noise = np.random.default_rng(seed).integers(1, 60, shape)
    gradient = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))
    image = noise + (gradient.reshape(gradient.shape + (1,) * (len(shape) - 2)) % 190)
    return (image * (257 if dtype == "uint16" else 1)).astype(dtype)


def pyramid(
    path: Path, image: np.ndarray, levels: int = 3, *, subifds: bool = False, **options: Any
) -> list[np.ndarray]:
    """Write ``image`` and its halvings as levels, pages or SubIFDs; return them."""
    images = [image[:: 2**i, :: 2**i] for i in range(levels)]
    options = {"photometric": "rgb" if image.ndim == 3 else "minisblack", "tile": (64, 64), "metadata": None} | options
    bigtiff, byteorder = options.pop("bigtiff", False), options.pop("byteorder", "<")
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as tiff:
        tiff.write(image, subifds=levels - 1 if subifds else None, **options)
        for smaller in images[1:]:
            tiff.write(smaller, subfiletype=1, **{k: v for k, v in options.items() if k != "description"})
    return images


def ome_zarr(
    path: Path,
    images: list[np.ndarray],
    axes: str,
    version: str = "0.5",
    unit: str | None = "micrometer",
    channels: tuple[str, ...] = (),
) -> Path:
    """Write ``images`` as the levels of an OME-Zarr of 0.5 µm/px."""
    spatial = {"type": "space"} | ({"unit": unit} if unit else {})
    kinds = {"t": {"type": "time"}, "c": {"type": "channel"}}
    multiscale = {
        "axes": [{"name": axis, **kinds.get(axis, spatial)} for axis in axes],
        "datasets": [
            {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": scale(axes, 0.5 * 2**i)}]}
            for i in range(len(images))
        ],
    }
    named = {"omero": {"channels": [{"label": name} for name in channels]}} if channels else {}
    if version == "0.5":
        attributes: dict[str, Any] = {"ome": {"version": version, "multiscales": [multiscale], **named}}
        group = zarr.create_group(path, zarr_format=3, attributes=attributes)
    else:
        attributes = {"multiscales": [{"version": version} | multiscale], **named}
        group = zarr.create_group(path, zarr_format=2, attributes=attributes)
    for i, image in enumerate(images):
        chunks = tuple(64 if axis in "yx" else 1 for axis in axes)
        group.create_array(str(i), shape=image.shape, chunks=chunks, dtype=image.dtype)[:] = image
    return path


def zipped(path: Path, folder: Path, method: int = zipfile.ZIP_STORED, within: str = "") -> Path:
    """A zip file at ``path`` of all files in ``folder``, below ``within``."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            archive.write(file, within + file.relative_to(folder).as_posix())
    return path


def scale(axes: str, mpp: float) -> list[float]:
    """The scale of one dataset."""
    return [mpp if axis in "yx" else 1.0 for axis in axes]


def vms(folder: Path) -> np.ndarray:
    """Write a Hamamatsu VMS slide of 0.5 µm/px into ``folder``; return its pixels, as Pillow decodes them."""
    colours = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    image = np.kron(colours, np.ones((8, 8, 1), np.uint8))
    jpeg: dict[str, Any] = {"quality": 95, "subsampling": 0}
    Image.fromarray(image).save(folder / "image.jpg", restart_marker_blocks=15, **jpeg)
    Image.fromarray(image[:64, :96]).save(folder / "map.jpg", restart_marker_blocks=12, **jpeg)
    height, width = (side * 500 for side in image.shape[:2])
    lines = [
        "[Virtual Microscope Specimen]",
        "NoLayers=1",
        "NoJpegColumns=1",
        "NoJpegRows=1",
        "ImageFile=image.jpg",
        "MapFile=map.jpg",
        "MacroImage=map.jpg",
        f"PhysicalWidth={width}",
        f"PhysicalHeight={height}",
        "SourceLens=20",
    ]
    (folder / VMS).write_text("\n".join(lines))
    with Image.open(folder / "image.jpg") as decoded:
        return np.asarray(decoded)


def scn(path: Path, sides: Sequence[int] = (192, 96)) -> list[np.ndarray]:
    """Write a Leica SCN with square regions of 0.5 µm/px and two levels each, after a macro; return the regions."""
    regions = [picture((side, side, 3), seed=i) for i, side in enumerate(sides)]
    view = '<view sizeX="{0}" sizeY="{0}" offsetX="{1}" offsetY="0"/>'
    macro = f'<pixels><dimension sizeX="64" sizeY="64" r="0" ifd="0"/></pixels>{view.format(9**6, 0)}'
    images = [f'<image name="macro">{macro}</image>']
    for i, side in enumerate(sides):
        levels = "".join(
            f'<dimension sizeX="{side >> r}" sizeY="{side >> r}" r="{r}" ifd="{1 + 2 * i + r}"/>' for r in (0, 1)
        )
        images.append(f'<image name="main{i}"><pixels>{levels}</pixels>{view.format(side * 500, i * 10**5)}</image>')
    schema, sizes = "http://www.leica-microsystems.com/scn/2010/10/01", f'sizeX="{9**6}" sizeY="{9**6}"'
    document = f'<?xml version="1.0"?><scn xmlns="{schema}"><collection {sizes}>{"".join(images)}</collection></scn>'
    options: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(picture((64, 64, 3)), description=document, **options)
        for region in regions:
            tiff.write(region, **options)
            tiff.write(region[::2, ::2], **options)
    return regions


def set_tag(path: Path, name: str, value: Any) -> None:
    """Overwrite the value of one tag of the first page, in place."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags[name].overwrite(value, dtype="I")


def tile_at(path: Path, number: int, page: int = 0) -> tuple[int, int]:
    """Offset and byte count of one tile."""
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[page].aspage()
        return found.dataoffsets[number], found.databytecounts[number]


def patch(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
