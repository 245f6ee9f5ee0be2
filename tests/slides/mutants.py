"""Sound slides, damaged by a seeded mutator that knows how TIFF and Zarr metadata are laid out.

``python -m tests.slides.mutants FOLDER FIRST COUNT`` reads COUNT mutants as `wsipipe info` and a block of
`wsipipe run` do, and prints the outcomes. It ends with a traceback if one of them raises anything but a
SlideError, or takes longer than `MOST_SECONDS`; the mutant is then in FOLDER.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import shutil
import struct
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import psutil
import tifffile

from tests.slides.made import APERIO, ome_zarr, picture, pyramid, zipped
from wsipipe.errors import SlideError
from wsipipe.pipeline.machine import peak_bytes
from wsipipe.slides.open import describe, open_slide
from wsipipe.slides.pixels.mirrored import read_mirrored

MOST_SECONDS = 10
"""A mutant that takes longer kills the process."""
MOST_BYTES = 2**30
"""Address space beyond what the process has before the first mutant."""
SETTLED = 1000
"""After this many mutants all caches are full."""
BLOCK_PX = 160
EXTREMES = (0, 1, 2, 3, 7, 8, 255, 256, 65535, 2**16, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63)
CODES = (254, 256, 257, 258, 259, 262, 270, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339)
MORE_CODES = (347, 700, 530, 42113, 50838, 50839, 65420, 65421, 65426, 65449, 34665, 34853, 37724)
ODD: tuple[Any, ...] = (None, True, -1, 1e308, float("nan"), "", "..", "/", "zstd", [], {}, [0], [-1], [[]])
ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Sizes of the types of TIFF's tags."""


def sound(folder: Path) -> list[Path]:
    """Small sound slides of every kind that the tests can write, written into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    rgb, grey = picture((150, 170, 3)), picture((150, 170))
    for codec in (None, "zlib", "lzw", "jpeg", "jpeg2000", "zstd", "webp", "packbits", "lzma", "png", "jpegxl", "lerc"):
        pyramid(folder / f"{codec}.tif", rgb, levels=2, compression=codec)
    for codec in (None, "zlib", "jpeg"):
        pyramid(folder / f"strips-{codec}.tif", rgb, levels=1, compression=codec, tile=None, rowsperstrip=32)
    pyramid(folder / "big.tif", grey, bigtiff=True, compression="zlib", predictor=True)
    pyramid(folder / "big-endian.tif", picture((150, 170), "uint16"), byteorder=">", compression="zstd")
    planes = np.moveaxis(rgb, -1, 0)
    tiled: dict[str, Any] = {"tile": (64, 64), "compression": "lzw"}
    tifffile.imwrite(folder / "planar.tif", planes, photometric="rgb", planarconfig="separate", **tiled)
    tifffile.imwrite(folder / "palette.tif", grey, photometric="palette", colormap=np.zeros((3, 256), "u2"), **tiled)
    tifffile.imwrite(folder / "bits.tif", grey > 99, photometric="miniswhite")
    tifffile.imwrite(folder / "imagej.tif", np.stack([grey] * 2), imagej=True, metadata={"axes": "CYX", "unit": "um"})
    description = APERIO.format(w=170, h=150)
    pyramid(folder / "a.svs", rgb, compression="jpeg", subsampling=(2, 2), description=description)
    physical = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    pyramid(folder / "a.ome.tif", rgb, levels=3, subifds=True, metadata=physical, compression="zlib")
    tifffile.imwrite(folder / "c.ome.tif", planes, photometric="minisblack", metadata={"axes": "CYX"}, **tiled)
    ome_zarr(folder / "v5.zarr", [grey, grey[::2, ::2]], "yx")
    ome_zarr(folder / "v4.zarr", [grey, grey[::2, ::2]], "yx", "0.4")
    zipped(folder / "v5.ozx", folder / "v5.zarr")
    (folder / "a.png").write_bytes(imagecodecs.png_encode(rgb))
    (folder / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(rgb))
    return sorted(folder.iterdir())


@dataclass(frozen=True)
class Entry:
    """A tag in a directory of a TIFF file."""

    at: int
    count_at: int
    value_at: int
    order: str
    word: str
    data_at: int
    item_bytes: int
    count: int


def look(path: Path) -> None:
    """Do what `wsipipe info` does, and `wsipipe run` for a block at the first and last corner of each level.

    Raises
    ------
    SlideError
        If the slide is not sound.
    """
    slide = open_slide(path)
    describe(slide)
    for level in slide.levels:
        sides = [np.abs(np.arange(-8, min(BLOCK_PX, side))) % side for side in level.shape]
        read_mirrored(level, sides[0], sides[1])
        sides = [np.arange(max(side - 16, 0), side) for side in level.shape]
        read_mirrored(level, sides[0], sides[1])


def mutant(number: int, slides: list[Path], folder: Path) -> Path:
    """Mutant ``number``, written into ``folder``; the same whenever the ``slides`` are."""
    rng = random.Random(number)
    source = rng.choice(slides)
    path = folder / f"mutant-{number}{source.suffix}"
    if source.is_dir():
        shutil.copytree(source, path)
        file = rng.choice(sorted(each for each in path.rglob("*") if each.is_file()))
        if file.name.startswith((".z", "zarr.json")) and rng.random() < 0.8:
            file.write_text(damaged_json(file.read_text(), rng))
        else:
            file.write_bytes(damaged(file.read_bytes(), rng, b""))
        return path
    other = rng.choice([slide for slide in slides if slide.is_file()]).read_bytes()
    data = source.read_bytes()
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = damaged_tiff(data, rng) if rng.random() < 0.6 else damaged(data, rng, other)
    path.write_bytes(data)
    return path


def damaged(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """``data`` with some bytes changed, cut out, overwritten or taken from ``other``."""
    blob = bytearray(data or b"\0")
    at, length = rng.randrange(len(blob)), int(2 ** rng.uniform(0, 12))
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.choice((1, 2, 8, 64))):
            blob[rng.randrange(len(blob))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del blob[at:]
    elif kind == 2:
        del blob[at : at + length]
    elif kind == 3:
        blob[at : at + length] = bytes(len(blob[at : at + length]))
    elif kind == 4:
        blob[at : at + length] = rng.randbytes(len(blob[at : at + length]))
    else:
        start = rng.randrange(max(len(other), 1))
        blob[at : at + length] = other[start : start + length]
    return bytes(blob)


def damaged_tiff(data: bytes, rng: random.Random) -> bytes:
    """``data`` with one tag, or one pointer to a directory, set to an impossible value."""
    try:
        wheres, pointers = zip(*_directories(data), strict=True)
        entries = layout(data)
    except (struct.error, OverflowError, ValueError):  # damaged before
        entries = []
    if not entries:
        return damaged(data, rng, b"")
    blob = bytearray(data)
    entry, kind = rng.choice(entries), rng.randrange(6)
    extreme, bits = rng.choice(EXTREMES), 8 * struct.calcsize(entry.word)
    wrap = (1 << bits) - 1
    if kind == 0:
        struct.pack_into(entry.order + "H", blob, entry.at, rng.choice(CODES + MORE_CODES))
    elif kind == 1:
        struct.pack_into(entry.order + "H", blob, entry.at + 2, rng.choice((*ITEM_BYTES, 0, 99)))
    elif kind == 2:
        struct.pack_into(entry.order + entry.word, blob, entry.count_at, extreme & wrap)
    elif kind == 3:
        struct.pack_into(entry.order + entry.word, blob, entry.value_at, extreme & wrap)
    elif kind == 4 and entry.item_bytes:
        at = entry.data_at + entry.item_bytes * rng.randrange(max(min(entry.count, 1000), 1))
        if at + entry.item_bytes <= len(blob):
            order = "little" if entry.order == "<" else "big"
            blob[at : at + entry.item_bytes] = (extreme % 2 ** (8 * entry.item_bytes)).to_bytes(entry.item_bytes, order)
    else:
        at, target = rng.choice(pointers), rng.choice((*wheres, rng.randrange(len(data))))
        struct.pack_into(entry.order + entry.word, blob, rng.choice((at, entry.value_at)), target)
    return bytes(blob)


def _directories(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each directory of the main chain and of SubIFDs begins, and where the pointer to it is."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, number, entry_bytes = ("Q", "Q", 20) if big else ("I", "H", 12)
    pointers, seen = [8 if big else 4], set()
    while pointers:
        at = pointers.pop(0)
        (where,) = struct.unpack_from(order + word, data, at)
        if where == 0 or where in seen or where >= len(data):
            continue
        seen.add(where)
        yield where, at
        (count,) = struct.unpack_from(order + number, data, where)
        first = where + struct.calcsize(order + number)
        for i in range(min(count, 100)):
            entry = _entry(data, first + i * entry_bytes, order, word)
            if struct.unpack_from(order + "H", data, entry.at)[0] == 330:
                pointers += [entry.data_at + j * entry.item_bytes for j in range(min(entry.count, 10))]
        pointers.append(first + count * entry_bytes)


def _entry(data: bytes, at: int, order: str, word: str) -> Entry:
    _, kind = struct.unpack_from(order + "HH", data, at)
    size = struct.calcsize(order + word)
    (count,) = struct.unpack_from(order + word, data, at + 4)
    item_bytes, value_at = ITEM_BYTES.get(kind, 0), at + 4 + size
    (pointed,) = struct.unpack_from(order + word, data, value_at)
    data_at = value_at if item_bytes * count <= size else pointed
    return Entry(at, at + 4, value_at, order, word, data_at, item_bytes, count)


def layout(data: bytes) -> list[Entry]:
    """All tags of a TIFF file."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, number, entry_bytes = ("Q", "Q", 20) if big else ("I", "H", 12)
    entries = []
    for where, _ in _directories(data):
        (count,) = struct.unpack_from(order + number, data, where)
        first = where + struct.calcsize(order + number)
        entries += [_entry(data, first + i * entry_bytes, order, word) for i in range(min(count, 100))]
    return entries


def damaged_json(text: str, rng: random.Random) -> str:
    """The document with one value replaced by an odd one, left out or nested deeply."""
    document = json.loads(text)
    holder, key = rng.choice(list(_places(document)) or [([document], 0)])
    kind = rng.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = "DEEP"
        return json.dumps(document).replace('"DEEP"', "[" * 100_000 + "]" * 100_000)
    elif kind == 2:
        holder[key] = [holder[key]] * rng.choice((2, 10_000))
    else:
        holder[key] = rng.choice((*ODD, *EXTREMES))
    return json.dumps(document)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (object, key) and (array, index) of a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def main(folder: Path, first: int, count: int) -> dict[str, Any]:
    """Look at mutants ``first`` to ``first + count``, and say what came of them."""
    slides = sound(folder / "sound")
    for slide in slides:
        look(slide)
    process = psutil.Process()
    limit = process.memory_info().vms + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    outcomes: Counter[str] = Counter()
    settled = 0
    for number in range(first, first + count):
        path = mutant(number, slides, folder)
        faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
        try:
            look(path)
            outcomes["opened"] += 1
        except SlideError as err:
            outcomes[type(err).__name__ if path.name in str(err) else f"no name in: {err}"] += 1
        faulthandler.cancel_dump_traceback_later()
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if number == first + min(SETTLED, count // 2):
            settled = process.memory_info().rss
    peak = peak_bytes()
    return {"outcomes": outcomes, "settled": settled, "end": process.memory_info().rss, "peak": peak}


if __name__ == "__main__":
    warnings.simplefilter("error")
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:4]))))
