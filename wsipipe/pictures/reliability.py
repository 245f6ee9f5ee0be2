"""Precision over recall, and reliability, of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from wsipipe.evaluation.calibration import average_precision, calibration_error, curve, reliability
from wsipipe.evaluation.ratios import Floats
from wsipipe.files import write_whole


def write_reliability(path: Path, counts: Floats, classes: Sequence[str]) -> None:
    """Write a PNG of the curves of each class, from the counts (classes, 2, 256), float64, of `count_probabilities`.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display, no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    right.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    for name, one in zip(classes, counts, strict=True):
        found, bins = curve(one), reliability(one)
        left.plot(found.recall, found.precision, label=f"{name}: average {average_precision(one):.3f}")
        there = bins.pixels > 0
        label = f"{name}: error {calibration_error(one):.3f}"
        right.plot(bins.predicted[there], bins.true[there], marker=".", label=label)
    left.set(xlabel="recall of pixels", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="precision over recall")
    right.set(xlabel="probability", ylabel="share that is true", xlim=(0, 1), ylim=(0, 1.02), title="reliability")
    for axes in (left, right):
        axes.legend(fontsize="small")
    png = BytesIO()
    figure.savefig(png, dpi=100, format="png")
    write_whole(path, png.getvalue())
