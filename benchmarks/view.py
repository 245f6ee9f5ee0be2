"""How fast the viewer answers, and what it takes: tiles of a slide and of labels over it, as a browser asks for them.

    python benchmarks/view.py SLIDE [--requests 10000] [--clients 2]

Labels of the slide's size are made, with a nucleus every 24 pixels. Then clients look around: each goes to a place at
random, at a zoom at random, and asks for the tiles of a window of 1200 x 900 px and for the border that bokeh asks for
as well; of the slide, then of the labels. The first looks warm up and do not count. Exits with 1 if the median of the
answers takes more than `MEDIAN_MS`, the 95th percentile more than `LATE_MS`, or if memory grows by more than `GROWTH`
from the middle of the requests, when as many tiles are held as may be, to the last.
"""

from __future__ import annotations

import argparse
import http.client
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

from wsipipe.geometry.grid import Box, Grid
from wsipipe.geometry.network import UNetSizes
from wsipipe.slides.open import open_slide
from wsipipe.slides.slide import Slide
from wsipipe.store import content, lifecycle
from wsipipe.store.spec import Fingerprint, Seen, StoreSpec, coarse_chunks
from wsipipe.viewer.tiling import TILE_PX, TilePyramid

MEDIAN_MS, LATE_MS, GROWTH = 50, 150, 1.1
WARM = 10
"""Windows that each client looks at before it counts."""
NUCLEUS_PX, EVERY_PX, BLOCK_PX = 14, 24, 4096


def nuclei(box: Box) -> np.ndarray:
    """Labels of ``box``: a disc every `EVERY_PX` pixels."""
    y, x = np.ogrid[box.y0 : box.y1, box.x0 : box.x1]
    away = (y % EVERY_PX - EVERY_PX // 2) ** 2 + (x % EVERY_PX - EVERY_PX // 2) ** 2
    return (4 * away < NUCLEUS_PX**2).astype(np.uint8)


def write_labels(path: Path, slide: Slide) -> None:
    """A finished store of the slide's finest level."""
    spec = StoreSpec(
        str(path),
        slide.path,
        Fingerprint(slide.identity, "b" * 64, 0, slide.mpp, False),
        1.0,
        Grid(slide.levels[0].shape, UNetSizes(2, 1).receptive, 4, BLOCK_PX),
        (("background", 0, "#000000"), ("nucleus", 1, "#ff8000")),
        "nuclei",
        "0",
        seen=Seen(slide.state, slide.sha256),
    )
    lifecycle.begin_store(spec)
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(
            lambda index: content.write_block(spec, index, nuclei(spec.grid.block_box(index)), None),
            list(spec.grid.indices()),
        ):
            pass
    for levels in spec.grid.coarse_passes():
        for index in coarse_chunks(spec, levels[-1]):
            content.write_coarse_chunks(spec, levels, index)
    lifecycle.publish(spec, {})


class Client:
    """A browser that keeps its connection, and looks around."""

    def __init__(self, address: str, tiling: TilePyramid, seed: int) -> None:
        parts = urlsplit(address)
        self._at, self._path = http.client.HTTPConnection(parts.netloc), parts.path
        self._tiling, self._rng = tiling, np.random.default_rng(seed)
        self.milliseconds: list[float] = []

    def look(self) -> int:
        """Ask for all tiles of a window; returns how many."""
        zoom = int(self._rng.integers(0, self._tiling.last + 1))
        shown = TILE_PX * self._tiling.scale(zoom)
        rows, cols = (max(1, -(-side // shown)) for side in self._tiling.shape)
        row, col = int(self._rng.integers(rows)), int(self._rng.integers(cols))
        near = [(row + y, col + x) for y in range(-1, 3) for x in range(-1, 4)]
        there = [(y, x) for y, x in near if 0 <= y < rows and 0 <= x < cols]
        for layer in ("slide", "labels"):
            for y, x in there:
                start = time.perf_counter()
                self._at.request("GET", f"{self._path}tiles/0/{layer}/{zoom}/{y}/{x}?shown=1")
                answer = self._at.getresponse()
                answer.read()
                assert answer.status == 200
                self.milliseconds.append(1e3 * (time.perf_counter() - start))
        return 2 * len(there)


def main() -> int:
    """Time the answers, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=2)
    given = parser.parse_args()
    slide = open_slide(given.slide)
    height, width = slide.levels[0].shape
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "labels.zarr")
        write_labels(store, slide)
        command = [sys.executable, "-m", "wsipipe", "view", str(store), "--no-browser"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                address, memory = process.stdout.readline().split()[0], psutil.Process(process.pid)
                clients = [Client(address, TilePyramid((height, width)), seed) for seed in range(given.clients)]
                with ThreadPoolExecutor(given.clients) as pool:
                    list(pool.map(lambda client: [client.look() for _ in range(WARM)], clients))
                    for client in clients:
                        client.milliseconds.clear()
                    megabytes, done = [], 0
                    while done < given.requests:
                        done += sum(pool.map(Client.look, clients))
                        megabytes.append(memory.memory_info().rss / 1e6)
            finally:
                process.terminate()
    took = np.concatenate([client.milliseconds for client in clients])
    median, late = np.percentile(took, [50, 95])
    fifth = max(1, len(megabytes) // 5)
    first, last = np.median(megabytes[2 * fifth : 3 * fifth]), np.median(megabytes[-fifth:])
    print(
        f"{Path(given.slide).name}, {height * width / 1e9:.2f} gigapixels, {given.clients} clients: "
        f"{len(took):,} tiles, median {median:.1f} ms, 95 % within {late:.1f} ms; memory {first:,.0f} MB, "
        f"in the end {last:,.0f} MB ({last / first:.2f})"
    )
    return int(median > MEDIAN_MS or late > LATE_MS or last > GROWTH * first)


if __name__ == "__main__":
    sys.exit(main())
