"""From labels to objects, ids of pixels and GeoJSON: seconds and memory, and the ratio to dask and scikit-image.

    python benchmarks/objects.py STORE [--side 32768] [--shapes]
    python benchmarks/objects.py STORE --flat [--side 100000]

The labels of a store are repeated to a square of ``--side`` pixels, in a store of their own, whose slide is the crop
repeated as well: all its tiles are a few that stand in the file once. Then the commands run, as a user types them:
`objects`, the same with ``--instances``, which writes the ids alone as the objects are there, and `export`. For the
comparison, dask reads one period of the same labels and pixels, and they go through
`skimage.measure.regionprops_table` with the same measures, and `find_contours` for each object, on one core. Exits with
1 if the ratio of the speeds is less than `PROMISED`.

With ``--flat``, the peak of memory is compared with that of a store of `SMALL_PX` a side; of the large one, a quarter is
tissue. In a third store, one region covers half of all pixels. Exits with 1 if it is more than `MORE` times as high, or more than `LIMIT_MB` in any.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr

from wsipipe.geometry.grid import Box, Grid
from wsipipe.geometry.network import UNetSizes
from wsipipe.store import content, lifecycle
from wsipipe.store.spec import Fingerprint, Seen, StoreSpec

PROMISED, MORE = 50, 1.1
SMALL_PX, LIMIT_MB = 20_000, 3_000
BLOCK_PX, TILE_PX = 2048, 512
PERIOD_PX = 2048
"""Of the labels and the slide, so that whole tiles are repeated."""
PROPERTIES = (
    "area",
    "centroid",
    "bbox",
    "perimeter",
    "axis_major_length",
    "axis_minor_length",
    "eccentricity",
    "orientation",
    "solidity",
)
INTENSITIES = ("intensity_mean", "intensity_std")
Pixels = Callable[[Box], np.ndarray]


def period_of(store: str) -> tuple[np.ndarray, np.ndarray]:
    """One period of labels, (y, x), and of a made-up slide, (y, x, 3); both uint8."""
    labels = zarr.open_array(f"{store}/0", mode="r")[:PERIOD_PX, :PERIOD_PX]
    whole = np.zeros((PERIOD_PX, PERIOD_PX), np.uint8)
    whole[: labels.shape[0], : labels.shape[1]] = labels > 0
    light = np.random.default_rng(0).integers(0, 30, (*whole.shape, 3), np.uint8)
    return whole, light + np.where(whole[..., None] > 0, np.uint8(90), np.uint8(200))


def repeated(period: np.ndarray) -> Pixels:
    """The pixels of any box of a plane that is ``period`` without end."""

    def read(box: Box) -> np.ndarray:
        y, x = np.arange(box.y0, box.y1) % period.shape[0], np.arange(box.x0, box.x1) % period.shape[1]
        return period[y[:, None], x]

    return read


def in_tissue(period: np.ndarray) -> Pixels:
    """`repeated`, in one of four squares of a period each: as much of it as is tissue on a slide."""
    everywhere = repeated(period)

    def read(box: Box) -> np.ndarray:
        y, x = (np.arange(start, stop) // PERIOD_PX % 2 for start, stop in ((box.y0, box.y1), (box.x0, box.x1)))
        found: np.ndarray = everywhere(box) * ((y[:, None] | x) == 0)
        return found

    return read


def half_a_slide(box: Box) -> np.ndarray:
    """One region over half of a slide, in all of its blocks: a comb with ragged teeth, 256 px wide."""
    y, x = np.ogrid[box.y0 : box.y1, box.x0 : box.x1]
    return ((y + x // 16 % 2 * 4) // 256 % 2 == 0).astype(np.uint8) | (x < 64)


def write_slide(path: Path, period: np.ndarray, side: int) -> None:
    """A BigTIFF of ``side`` pixels a side, whose tiles are those of ``period`` again and again: JPEG, 0.5 um/px."""
    import imagecodecs

    across, count = -(-side // TILE_PX), period.shape[0] // TILE_PX
    tiles = [
        imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), level=90)
        for rows in np.split(period, count, axis=0)
        for tile in np.split(rows, count, axis=1)
    ]
    places = 16 + np.cumsum([0, *map(len, tiles)])
    grid = np.arange(across) % count
    which = (grid[:, None] * count + grid).ravel()
    tables = [places[:-1][which].astype("<u8").tobytes(), np.array([*map(len, tiles)], "<u8")[which].tobytes()]
    at = int(places[-1])
    resolution = struct.pack("<II", 20_000, 1)  # pixels a centimetre
    tags = [
        (256, 4, 1, side),
        (257, 4, 1, side),
        (258, 3, 3, 8 | 8 << 16 | 8 << 32),
        (259, 3, 1, 7),
        (262, 3, 1, 6),
        (277, 3, 1, 3),
        (282, 5, 1, int.from_bytes(resolution, "little")),
        (283, 5, 1, int.from_bytes(resolution, "little")),
        (296, 3, 1, 3),
        (322, 4, 1, TILE_PX),
        (323, 4, 1, TILE_PX),
        (324, 16, len(which), at),
        (325, 16, len(which), at + len(tables[0])),
        (530, 3, 2, 2 | 2 << 16),
    ]
    entries = b"".join(struct.pack("<HHQQ", *tag) for tag in tags)
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, at + 2 * len(tables[0])))
        file.write(b"".join([*tiles, *tables, struct.pack("<Q", len(tags)), entries, struct.pack("<Q", 0)]))


def write_store(path: Path, labels: Pixels, side: int, slide: Path | None) -> None:
    """A finished store of ``side`` pixels a side, without coarser levels than those of its blocks."""
    seen, identity = None, "a" * 64
    if slide is not None:
        from wsipipe.slides.open import open_slide

        opened = open_slide(slide)
        seen, identity = Seen(opened.state, opened.sha256), opened.identity
    grid = Grid((side, side), UNetSizes(2, 1).receptive, 4, BLOCK_PX)
    classes = (("background", 0, "#000000"), ("nucleus", 1, "#ff8000"))
    fingerprint = Fingerprint(identity, "b" * 64, 0, 0.5, False)
    spec = StoreSpec(str(path), str(slide), fingerprint, 1.0, grid, classes, "nuclei", "0", seen=seen)
    lifecycle.begin_store(spec)
    for index in grid.indices():
        content.write_block(spec, index, labels(grid.block_box(index)), None)
    lifecycle.publish(spec, {})


class Done(NamedTuple):
    """What a command took."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def called(*words: object) -> Done:
    """What ``wsipipe WORDS`` takes; prints it."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "wsipipe", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.read().splitlines()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    assert status == 0, said
    done = Done(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
    print(f"{said[0]}\n    {done.seconds:.1f} s, {done.cpu_seconds:.1f} s of the processor, peak {done.peak_mb:.0f} MB")
    return done


def scikit_image_rate(period: np.ndarray, pixels: np.ndarray, folder: Path, *, shapes: bool) -> float:
    """Megapixels a second of dask and scikit-image for one period."""
    import dask.array as da
    from skimage.measure import find_contours, label, regionprops, regionprops_table

    arrays = []
    for name, values in (("labels", period), ("pixels", pixels)):
        chunks = (TILE_PX, TILE_PX, *values.shape[2:])
        zarr.create_array(folder / name, data=values, chunks=chunks)
        arrays.append(da.from_zarr(folder / name))
    began = time.process_time()  # one thread; not what other programs take
    numbers = label(arrays[0].compute(), connectivity=2)
    if shapes:
        regionprops_table(numbers, properties=PROPERTIES)
    else:
        regionprops_table(numbers, arrays[1].compute(), properties=PROPERTIES + INTENSITIES)
    for region in regionprops(numbers):
        find_contours(np.pad(region.image, 1), 0.5)
    return period.size / 1e6 / (time.process_time() - began)


def compare(args: argparse.Namespace, folder: Path) -> int:
    """The speed, and the ratio to scikit-image."""
    labels, pixels = period_of(args.store)
    slide = None if args.shapes else folder / "slide.tif"
    if slide is not None:
        write_slide(slide, pixels, args.side)
    store = folder / "case.zarr"
    write_store(store, repeated(labels), args.side, slide)
    words = ("objects", store, *(["--slide", "off"] if slide is None else []))
    objects = called(*words)
    called(*words, "--instances")
    called("export", store, "--to", "geojson", "--simplify", "0", "-o", folder / "case.geojson.gz")
    theirs = scikit_image_rate(labels, pixels, folder, shapes=args.shapes)
    pixels_done = args.side**2 / 1e6
    ratio = pixels_done / objects.seconds / theirs
    print(
        f"dask and scikit-image: {theirs:.2f} MP/s; wsipipe: {ratio:.0f} times as fast, "
        f"{pixels_done / objects.cpu_seconds / theirs:.0f} times a core"
    )
    return int(ratio < PROMISED)


def compare_memory(args: argparse.Namespace, folder: Path) -> int:
    """The peaks of memory of a small slide, a large one, and one that is half covered by one region."""
    labels, _ = period_of(args.store)
    peaks = []
    for name, side, plane in (
        ("small", SMALL_PX, repeated(labels)),
        ("large", args.side, in_tissue(labels)),
        ("region", args.side, half_a_slide),
    ):
        write_store(folder / f"{name}.zarr", plane, side, None)
        print(f"{name}: {side} x {side} px")
        words = ("--slide", "off", "--max-memory", f"{LIMIT_MB}MB")
        peaks.append(called("objects", folder / f"{name}.zarr", *words).peak_mb)
    print(f"large / small {peaks[1] / peaks[0]:.2f}; region {peaks[2] / LIMIT_MB:.2f} of --max-memory")
    return int(peaks[1] > MORE * peaks[0] or max(peaks) > LIMIT_MB)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", help="a store of nuclei, such as OUT/case-17.zarr")
    parser.add_argument("--side", type=int, default=32768)
    parser.add_argument("--shapes", action="store_true", help="shapes only, no intensities")
    parser.add_argument("--flat", action="store_true", help="compare peaks of memory")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return (compare_memory if args.flat else compare)(args, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
