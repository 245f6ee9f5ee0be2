"""The pictures of a training: its curves, and a sheet of validation images with found and true outlines."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import numpy.typing as npt

from wsipipe.files import write_whole
from wsipipe.pictures.caption import titled
from wsipipe.pictures.drawing import outlined
from wsipipe.slides.pixels.overview import RgbImage

FOUND, TRUE = (255, 40, 40), (40, 255, 80)
SHEET_IMAGE_PX, GAP_PX = 512, 6
SMOOTH = 25
"""Number of steps that the loss is averaged over."""


class Shown(NamedTuple):
    """One row of the sheet."""

    image: npt.NDArray[Any]
    """(y, x, channel), uint8 or uint16."""
    found: npt.NDArray[Any]
    """(y, x): the labels that were found."""
    true: npt.NDArray[Any]
    """(y, x): the true objects, or classes."""
    title: str = ""
    """What stands above the image."""


def write_sheet(path: Path, rows: Sequence[Shown]) -> None:
    """Write a PNG with a titled row for each of ``rows``: the image, found outlines in red, true ones in green."""
    strips = []
    for row in rows:
        image, found, true = (
            plane[:SHEET_IMAGE_PX, :SHEET_IMAGE_PX] for plane in (patch_as_rgb(row.image), row.found, row.true)
        )
        strip = [
            titled(image, row.title),
            titled(outlined(image, found, FOUND), "found"),
            titled(outlined(image, true, TRUE), "true"),
        ]
        strips.append(np.concatenate([_padded(one, one.shape[0], one.shape[1] + GAP_PX) for one in strip], axis=1))
    width = max(strip.shape[1] for strip in strips)
    sheet = np.concatenate([_padded(strip, strip.shape[0] + GAP_PX, width) for strip in strips])
    write_whole(path, bytes(imagecodecs.png_encode(sheet)))


def _padded(image: RgbImage, height: int, width: int) -> RgbImage:
    """``image`` with white below and to the right, (height, width, 3)."""
    sides = (0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)
    return np.pad(image, sides, constant_values=255)


def patch_as_rgb(pixels: npt.NDArray[Any]) -> RgbImage:
    """``pixels``, (y, x, channel), as RGB, (y, x, 3), uint8: RGB as it is, or else the first channel in grey."""
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return pixels
    plane = pixels[..., 0].astype(np.float64)
    low, high = np.percentile(plane, (0.5, 99.5))
    grey = np.clip((plane - low) / max(high - low, 1), 0, 1) * 255
    return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=2)


def mean_of_last(losses: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """At each step the mean of the last ``count`` losses, or of all so far, (steps,), float64, of those finite."""
    known = np.isfinite(losses)
    sums = np.concatenate([[0], np.cumsum(np.where(known, losses, 0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    first = np.maximum(np.arange(1, len(losses) + 1) - count, 0)
    with np.errstate(invalid="ignore"):
        return np.asarray((sums[1:] - sums[first]) / (counts[1:] - counts[first]))


def write_curves(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write a PNG of loss and scores over the steps, from the lines of a log."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display, no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    steps = [line for line in lines if line["kind"] == "step"]
    losses = np.array([line["loss"] for line in steps], float)
    if len(losses):
        at = np.array([line["step"] for line in steps])
        above.plot(at, losses, color="0.8", linewidth=0.7)
        above.plot(at, mean_of_last(losses, SMOOTH), color="C0", marker="o" if len(losses) == 1 else "")
        if (losses > 0).any():
            above.set_yscale("log")
    above.set_ylabel(f"loss, and mean of {SMOOTH}")
    validations = [line for line in lines if line["kind"] == "validation"]
    for name in dict.fromkeys(name for line in validations for name in line["scores"]):
        if "." not in name and not name.endswith("per_100"):
            points = [(line["step"], line["scores"][name]) for line in validations]
            last = "" if points[-1][1] is None else f" {points[-1][1]:.3f}"
            below.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name + last)
    if validations and validations[-1]["scores"]:
        below.legend(fontsize="small", ncols=3)
        below.axvline(validations[-1]["best_step"], color="0.6", linestyle=":")
    below.set(xlabel="step", ylabel="validation", ylim=(0, 1))
    png = BytesIO()
    figure.savefig(png, dpi=100, format="png")
    write_whole(path, png.getvalue())
