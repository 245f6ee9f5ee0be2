"""Nights, slides and stores for the tests of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from hypothesis import strategies as st

from wsipipe.events import ClassCount
from wsipipe.geometry.grid import Grid
from wsipipe.geometry.network import UNetSizes
from wsipipe.report.record import (
    DONE,
    FAILED,
    NO_TISSUE,
    OPEN,
    SET_ASIDE,
    SKIPPED,
    TAKEN,
    WAITING,
    NightReport,
    SlideReport,
)
from wsipipe.slides.open import open_slide
from wsipipe.store import content, lifecycle
from wsipipe.store.spec import Fingerprint, StoreSpec, coarse_chunks

SHA = "640fa0a2bc630b359b599091fb3edf61a1215c073d5f60d936ae580b9fc35aa3"
CLASSES = (("background", 0, "#000000"), ("gland", 7, "#ff8000"), ("fat & <b>", 200, "#0080ff"))
HOSTILE = [
    "<script>document.title = 'broken'</script>",
    "</style></title></textarea><!-- --><img src=x onerror=alert(1)>",
    "\" onmouseover='alert(1)' & &amp; &lt; &#60; `",
    "case\u202efdp.tif\u2066 \u200e",
    b"caf\xe9 \xff\xc3.tif".decode("utf-8", "surrogateescape"),
    "two\nlines\r\nand\ttab\x00\x07\x1b[31m\x7f\x85\u2028\u2029\ufeff",
    "\\u202e \\x00 \\ \\\\n",
    '{status="done"} 7\n# TYPE x counter\nx{a="b\\"} 1',
    "]]> --> <![CDATA[ <?php ?> {{7*7}} ${x}",
    "ñ한글 🔬 e\u0301 א",
    "n" * 4096,
    "<" * 1400 + "\n" * 9,
]

texts = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(
        st.one_of(
            st.characters(), st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), st.sampled_from("<>&\"'\\\n\r")
        )
    ),
)


def counts_of(name: str) -> tuple[ClassCount, ...]:
    """Counts of 7 objects of a class, and of a class without any."""
    areas = ((32.0, 3), (32 * 2**0.5, 0), (64.0, 4))
    return ClassCount(name, 7, 1234.5, 0.02, 60.0, 15.0, areas), ClassCount("fat", 0, 0.0, 0.0, None, None)


def slides_of_all_kinds(text: str = "") -> tuple[SlideReport, ...]:
    """One slide of each status, with ``text`` wherever there can be a text."""
    return (
        SlideReport(
            f"/in/{text or 'case-1'}.tif",
            DONE,
            message=text,
            store="/out/case-1.zarr",
            seconds=8.1,
            pixels=3_145_728,
            bottleneck="network",
            warnings=("odd" + text, "odder"),
            attempts=1,
            model=text or "nuclei",
            model_sha256=SHA,
            skipped=1_048_576,
            objects=counts_of(text or "gland"),
        ),
        SlideReport("/in/case-2.tif", FAILED, text or "case-2.tif is truncated", seconds=2.0, attempts=2),
        SlideReport("/in/case-3.tif", SET_ASIDE, text or "case-3.tif has no mpp; give --mpp", attempts=3),
        SlideReport("/in/case-4.tif", OPEN, text or "time was up", seconds=100.0, pixels=10**9, attempts=1),
        SlideReport("https://host/case-5.tif?a=1&b=2", WAITING, text or "it grows"),
        SlideReport("/in/case-6.tif", TAKEN, text or "by gpu-04"),
        SlideReport("/in/case-7.tif", SKIPPED, text or "done before", store=f"/out/{text or 'case-7'}.zarr"),
        SlideReport("/in/case-8.tif", NO_TISSUE, store="/out/case-8.zarr", warnings=(text or "no tissue was found",)),
    )


def night(*slides: SlideReport, **changes: Any) -> NightReport:
    values = {
        "started": "2026-11-24T22:00:03+00:00",
        "finished": "2026-11-25T06:12:03+00:00",
        "host": "gpu-03",
        "version": "0.1.0",
        "command": "wsipipe nightly night.toml",
        "slides": slides,
    }
    return NightReport(**(values | changes))


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    """A mask (y, x), bool; centre and radius are shares of the sides, so that it scales with them."""
    ys, xs = ((np.arange(n) + 0.5) / n for n in shape)
    return ((ys - centre[0]) / radius)[:, None] ** 2 + ((xs - centre[1]) / radius)[None] ** 2 < 1


def write_pyramid(path: Path, images: list[np.ndarray], mpp: float | None = 0.5, **options: Any) -> Path:
    """A TIFF whose levels are ``images``."""
    options = {"tile": (64, 64), "photometric": "rgb" if images[0].ndim == 3 else "minisblack"} | options
    with tifffile.TiffWriter(path) as tiff:
        for i, image in enumerate(images):
            down = images[0].shape[1] / image.shape[1]
            known = {} if mpp is None else {"resolution": (1e4 / mpp / down,) * 2, "resolutionunit": "CENTIMETER"}
            tiff.write(image, subfiletype=1 if i else 0, metadata=None, **options, **known)
    return path


def write_store(
    path: Path,
    slide: Path,
    labels: np.ndarray,
    *,
    level: int = 0,
    shrink: float = 1.0,
    mpp: float | None = 0.5,
    run: Any = None,
) -> str:
    """Write a finished store with ``labels`` for ``level`` of ``slide``; by default its run counts all pixels."""
    opened = open_slide(slide)
    spec = StoreSpec(
        path=str(path),
        slide=str(slide),
        fingerprint=Fingerprint(opened.identity, SHA, level, mpp, False, shrink=shrink),
        downsample=opened.levels[level].downsample * shrink,
        grid=Grid(labels.shape, UNetSizes(2, 1).receptive, 32, 256),
        classes=CLASSES,
        model="glands",
        version="0.0.9",
    )
    lifecycle.begin_store(spec)
    for index in spec.grid.indices():
        content.write_block(spec, index, labels[spec.grid.block_box(index).slices], None)
    for levels in spec.grid.coarse_passes():
        for index in coarse_chunks(spec, levels[-1]):
            content.write_coarse_chunks(spec, levels, index)
    values, counts = np.unique(labels, return_counts=True)
    counted = {str(value): int(count) for value, count in zip(values, counts, strict=True)}
    lifecycle.publish(spec, {"labels": counted} if run is None else run)
    return str(path)
