"""From labels to objects: seconds for a slide, and the ratio to scikit-image on the same labels.

    python benchmarks/objects.py STORE/0 [--side 32768] [--block 2048] [--processes 2]

The labels of a store are repeated to a square of ``--side`` pixels, with the pixels of a made-up image. Blocks are
measured in processes of their own, joined and written as a table, which is then exported as GeoJSON. For the
comparison, one period of the labels goes through `skimage.measure.regionprops_table` with the same measures, and
`find_contours` for each object. Exits with 1 if the ratio of the speeds is less than `PROMISED`, or if blocks of
another size give other bytes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import zarr

from wsipipe.geometry.grid import Box, boxes
from wsipipe.objects.block import Counting, measure_block
from wsipipe.objects.block_file import block_file, write_block_file
from wsipipe.objects.export import export_geojson
from wsipipe.objects.read import open_objects
from wsipipe.objects.sums import Intensities, Layout
from wsipipe.objects.table import Description, ObjectClass
from wsipipe.objects.write import write_table

PROMISED = 50
LAYOUT = Layout(("red", "green", "blue"), stained=True)
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
    "intensity_mean",
    "intensity_std",
)


@cache
def plane(store: str) -> tuple[np.ndarray, np.ndarray]:
    """One period of labels, and of a made-up image, with a margin that lets blocks be cut out of them."""
    labels = zarr.open_array(store, mode="r")[:]
    return labels, np.random.default_rng(0).integers(90, 240, (*labels.shape, 3), np.uint8)


def repeated(period: np.ndarray, box: Box) -> np.ndarray:
    """The pixels of ``box`` of a plane that is repeated without end."""
    y, x = np.arange(box.y0, box.y1) % period.shape[0], np.arange(box.x0, box.x1) % period.shape[1]
    return period[y[:, None], x]


def measure(store: str, box: Box, counting: Counting, folder: Path, block_px: int) -> float:
    """Measure one block and write its file; the seconds of the processor."""
    labels, pixels = (repeated(period, box) for period in plane(store))
    intensities = Intensities(counting.layout, pixels if counting.layout.channels else None)
    began = time.process_time()
    block = measure_block(labels, box, counting, intensities)
    write_block_file(block_file(folder, (box.y0 // block_px, box.x0 // block_px)), block, counting)
    return time.process_time() - began


def make_objects(store: str, folder: Path, args: argparse.Namespace, block_px: int) -> Path:
    """Measure all blocks, and write the table; prints how long each took."""
    counting = Counting((args.side, args.side), layout=Layout() if args.shapes else LAYOUT)
    folder.mkdir()
    table = folder / "objects.parquet"
    began = time.perf_counter()
    every = list(boxes(counting.shape, block_px))
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool:
        cpu = sum(
            pool.map(
                measure, *zip(*((store, box, counting, folder, block_px) for box in every), strict=True), chunksize=1
            )
        )
    measured = time.perf_counter()
    description = Description("benchmark", (ObjectClass(1, "nucleus"),), 0.5, layout=counting.layout)
    write_table(table, folder, counting=counting, block_px=block_px, description=description)
    ended = time.perf_counter()
    pixels = args.side**2 / 1e6
    stored = sum(file.stat().st_size for file in folder.glob("*.objects")) / 1e6
    print(
        f"blocks of {block_px} px: {open_objects(table).count} objects; blocks {measured - began:.1f} s "
        f"({pixels / cpu:.0f} MP/s a core, {stored:.0f} MB), table {ended - measured:.1f} s "
        f"({table.stat().st_size / 1e6:.0f} MB), "
        f"{pixels / (ended - began):.0f} MP/s; peak {peak_mb():.0f} MB"
    )
    return table


def peak_mb() -> float:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def scikit_image_rate(labels: np.ndarray) -> float:
    """Megapixels a second of scikit-image for one period, on one core."""
    from skimage.measure import find_contours, label, regionprops, regionprops_table

    pixels = np.random.default_rng(0).integers(90, 240, (*labels.shape, 3), np.uint8)
    began = time.perf_counter()
    numbers = label(labels, connectivity=2)
    regionprops_table(numbers, pixels, PROPERTIES)
    for region in regionprops(numbers):
        find_contours(np.pad(region.image, 1), 0.5)
    return labels.size / 1e6 / (time.perf_counter() - began)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", help="a Zarr array of labels, such as OUT/case-17.zarr/0")
    parser.add_argument("--side", type=int, default=32768)
    parser.add_argument("--block", type=int, default=2048)
    parser.add_argument("--other-block", type=int, default=4096)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shapes", action="store_true", help="shapes only, no intensities")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        table = make_objects(args.store, Path(folder, "one"), args, args.block)
        rate = args.side**2 / 1e6 / (time.perf_counter() - began)
        began = time.perf_counter()
        path = Path(folder, "objects.geojson.gz")
        count = export_geojson(open_objects(table), path, simplify_px=0)
        print(f"GeoJSON: {count} features in {time.perf_counter() - began:.1f} s ({path.stat().st_size / 1e6:.0f} MB)")
        same = table.read_bytes() == make_objects(args.store, Path(folder, "two"), args, args.other_block).read_bytes()
    theirs = scikit_image_rate(zarr.open_array(args.store, mode="r")[:])
    ratio = rate / theirs
    print(
        f"scikit-image {theirs:.2f} MP/s; wsipipe / scikit-image {ratio:.0f}; bytes {'the same' if same else 'DIFFER'}"
    )
    return int(ratio < PROMISED or not same)


if __name__ == "__main__":
    sys.exit(main())
