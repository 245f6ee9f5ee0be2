"""TIFF files that are not the slide, or only a part of it: the rest is in other files, or is not for a TIFF reader."""

from __future__ import annotations

import glob
from pathlib import Path
from xml.etree import ElementTree

from tifffile import TiffFile, TiffPage

from wsipipe.errors import SlideFormatError
from wsipipe.extras import install
from wsipipe.files import Location

XMP = 700
"""The tag in which Ventana's scanners describe themselves."""
MAX_NAMED = 3
"""A message names this many other files at most."""


def refuse_elsewhere(path: Location, tiff: TiffFile, first: TiffPage) -> None:
    """Refuse a file whose pixels are not the slide, or whose other planes are in other files.

    Raises
    ------
    SlideFormatError
        If it is such a file; the message says where the rest is.
    """
    xmp = first.tags.valueof(XMP)
    if "bif" in tiff.flags or (isinstance(xmp, bytes) and b"<iScan" in xmp):
        raise SlideFormatError(
            f"{path.name} is a Ventana BIF, whose tiles overlap; OpenSlide puts them together: {install('openslide')}"
        )
    if path.suffix.lower() == ".vsi" or _has_ets(path):
        raise SlideFormatError(
            f"{path.name} is an Olympus VSI, which holds just the overview of a slide; its pixels are in .ets files of "
            f"the folder _{path.stem}_, which wsipipe does not read; export it as OME-TIFF, e.g. with bfconvert"
        )
    others = _other_files(tiff)
    if others:
        named = ", ".join(others[:MAX_NAMED]) + ", ..." * (len(others) > MAX_NAMED)
        raise SlideFormatError(
            f"{path.name} is one of several files of an OME-TIFF (see {named}); wsipipe reads OME-TIFF in one file; "
            "convert it, e.g. with: bfconvert IN OUT.ome.tiff"
        )


def _has_ets(path: Location) -> bool:
    """Whether a folder of Olympus' pixels belongs to the file, whatever its suffix."""
    return isinstance(path, Path) and any(path.parent.glob(f"_{glob.escape(path.stem)}_/*/*.ets"))


def _other_files(tiff: TiffFile) -> list[str]:
    """Names of the files that the OME-XML names besides this one; nothing if the file is whole."""
    try:
        root = ElementTree.fromstring(tiff.ome_metadata) if tiff.is_ome and tiff.ome_metadata else None
    except ElementTree.ParseError:
        root = None
    if root is None:
        return []
    binary = root.find("{*}BinaryOnly")
    if binary is not None:
        return [binary.get("MetadataFile", "?")]
    names = {element.text: element.get("FileName", "?") for element in root.iter() if element.tag.endswith("}UUID")}
    own = root.get("UUID") or next((uuid for uuid, name in names.items() if name == tiff.filename), None)
    own = next(iter(names), None) if own is None and len(names) == 1 else own  # it was renamed
    return [name for uuid, name in names.items() if uuid != own]
