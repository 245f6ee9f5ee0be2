"""The scores of ``wsipipe evaluate`` as tables, sentences, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsipipe.evaluation.bootstrap import Difference, Interval
    from wsipipe.evaluation.evaluate import Evaluation
    from wsipipe.evaluation.object_metrics import Matches

LISTED = 10
"""Images in the listing, the worst; --csv has all."""
REMARKS = 5
"""Remarks on grids and resolutions that are printed; --json has all."""


def scores_as_text(found: Evaluation) -> str:
    """The scores of all images as a table, the worst images, and on what terms they were compared."""
    scored, several = found.scored, len(found.images) > 1
    rows = []
    for name in _told(found):
        row = [name, _number(scored.pooled[name])]
        if several:
            row += [_range(scored.pooled_intervals[name]), _number(scored.mean[name])]
            row += [_range(scored.mean_intervals[name])]
        rows.append(row)
    titles = _titled(rows, {1: "all images", 3: "mean of the images"}) if several else []
    return "\n".join([*titles, *_table(rows), "", *_listing(found), *_objects(found), *_terms(found)])


def _told(found: Evaluation) -> list[str]:
    """The scores to print: those of a class by itself only where there are several."""
    if len(found.tally.classes) > 1:
        return list(found.scores)
    of_class = {f"{name}.{found.tally.classes[0]}" for name in found.scores}
    return [name for name in found.scores if name not in of_class]


def _listing(found: Evaluation) -> list[str]:
    """The worst images, with their counts of objects."""
    count = len(found.images)
    if count == 1:
        return ["1 image"]
    rows = [["", found.headline, *(("true", "found", "matched") if found.matches else ())]]
    for index in found.worst_first[:LISTED]:
        image = found.images[index]
        counts = _counts(image.matches).values() if image.matches else ()
        rows.append([image.name, _number(image.scores[found.headline]), *map(str, counts)])
    more = f"; the {LISTED} worst" if count > LISTED else ", the worst first"
    return [f"{count} images{more}:", *(f"  {line}" for line in _table(rows)), ""]


def _objects(found: Evaluation) -> list[str]:
    """How many objects there are of each class, and of which sizes."""
    lines = []
    for name, matches in found.matches.items():
        counts = _counts(matches)
        lines.append(
            f"{name}: {counts['true']} true, {counts['found']} found, {counts['matched']} matched at IoU > 0.5"
        )
    if (quartiles := found.quartiles_um) and not math.isnan(quartiles[0]):
        listed = ", ".join(f"{diameter:.1f}" for diameter in quartiles)
        lines.append(f"quarters of the true objects, by diameter, end at {listed} um")
    return lines


def _terms(found: Evaluation) -> list[str]:
    """What an object is, and how the images were compared."""
    lines = []
    if "detection_f1" in found.scores:
        lines.append(f"detection: centroids at most {found.radius_um:g} um apart")
    if found.objects:
        lines.append(f"objects of the predictions: {found.objects}")
    if found.true_objects and found.true_objects.source == "table":
        lines.append(f"objects of the labels: {found.true_objects}")
    if len(found.images) > 1:
        from wsipipe.evaluation.bootstrap import RESAMPLES

        lines.append(f"intervals: 95 %, bootstrap over images, {RESAMPLES} resamples")
    more = len(found.remarks) - REMARKS
    return [*lines, *found.remarks[:REMARKS], *([f"and {more} more remarks, in --json"] if more > 0 else ())]


def comparison_as_text(names: tuple[str, str], found: tuple[Evaluation, Evaluation], by: Sequence[Difference]) -> str:
    """The scores of two predictions side by side, their differences, and which is better."""
    told = set(_told(found[0]))
    rows = [
        [one.name, _number(one.first), _number(one.second), _signed(one.value), _range(one.interval)]
        for one in by
        if one.name in told
    ]
    titles = _titled(rows, {1: "first", 2: "second", 3: "difference"})
    terms = [_terms(one) for one in found]
    both = [line for line in terms[0] if line in terms[1]]
    apart = [
        f"{side}: {line}"
        for side, lines in zip(("first", "second"), terms, strict=True)
        for line in lines
        if line not in both
    ]
    count = len(found[0].images)
    heading = [f"first: {names[0]}", f"second: {names[1]}", "", *titles]
    images = f"{count} image" + "s" * (count > 1)
    return "\n".join([*heading, *_table(rows), "", images, *both, *apart, verdict(names, found[0], by)])


def verdict(names: tuple[str, str], found: Evaluation, differences: Sequence[Difference]) -> str:
    """A sentence that says which of two predictions is better by the score that images are ranked by, if either is."""
    one = next(difference for difference in differences if difference.name == found.headline)
    first, second = names
    if math.isnan(one.value):
        return f"{second} against {first}: {one.name} has no value for one of them"
    values = f"{one.name} {_number(one.second)} against {_number(one.first)}"
    if len(found.images) == 1:
        return f"{second} against {first}: {values}; a single image does not tell how far that holds"
    how = f"{values}, difference {_signed(one.value)} ({_range(one.interval)})"
    if one.verdict:
        return f"{second} is {'better' if one.verdict > 0 else 'worse'} than {first}: {how}"
    return f"these {len(found.images)} images do not tell which of {first} and {second} is better: {how}"


def as_document(found: Evaluation) -> dict[str, Any]:
    """The document of ``--json``; a score without a value is null."""
    from wsipipe.evaluation.bootstrap import RESAMPLES

    images = [
        {
            "name": i.name,
            "prediction": i.prediction,
            "labels": i.labels,
            "scores": _finite(i.scores),
            "counts": None if i.matches is None else _counts(i.matches),
        }
        for i in found.images
    ]
    scored = found.scored
    return {
        "images": images,
        "scores": _finite(scored.pooled),
        "intervals": {name: _finite_pair(ends) for name, ends in scored.pooled_intervals.items()},
        "mean": _finite(scored.mean),
        "mean_intervals": {name: _finite_pair(ends) for name, ends in scored.mean_intervals.items()},
        "resamples": RESAMPLES,
        "counts": {name: _counts(matches) for name, matches in found.matches.items()},
        "radius_um": found.radius_um,
        "quartiles_um": [None if math.isnan(value) else value for value in found.quartiles_um],
        "objects": None if found.objects is None else asdict(found.objects),
        "true_objects": None if found.true_objects is None else asdict(found.true_objects),
        "remarks": list(found.remarks),
    }


def comparison_as_document(
    names: tuple[str, str], found: tuple[Evaluation, Evaluation], differences: Sequence[Difference]
) -> dict[str, Any]:
    """The document of ``--json`` with ``--compare``."""
    return {
        "first": {"name": names[0], **as_document(found[0])},
        "second": {"name": names[1], **as_document(found[1])},
        "differences": {
            one.name: {
                "difference": _finite({"": one.value})[""],
                "interval": _finite_pair(one.interval),
                "better": {1: "second", -1: "first", 0: None}[one.verdict],
            }
            for one in differences
        },
        "verdict": verdict(names, found[0], differences),
    }


def write_scores(table: Path, found: Evaluation) -> None:
    """Write one row of scores per image, as CSV, by rename.

    Raises
    ------
    OutputError
        If ``table`` cannot be written.
    """
    from wsipipe.files import write_whole

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    counts = ["true", "found", "matched"] if found.matches else []
    writer.writerow(["name", "prediction", "labels", *counts, *found.scores])
    for image in found.images:
        values = ("" if math.isnan(value) else repr(float(value)) for value in image.scores.values())
        objects = _counts(image.matches).values() if image.matches else ()
        writer.writerow([image.name, image.prediction, image.labels, *objects, *values])
    write_whole(table, text.getvalue().encode(), way_out="give another file")


def _counts(matches: Matches) -> dict[str, int]:
    both = matches.both
    return {"true": int(both + matches.truth), "found": int(both + matches.predicted), "matched": int(both)}


def _finite(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def _finite_pair(ends: Interval) -> list[float] | None:
    return None if math.isnan(ends[0]) else list(ends)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.4f}"


def _range(ends: Interval) -> str:
    return "" if math.isnan(ends[0]) else f"{ends[0]:.4f} to {ends[1]:.4f}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines, in columns: the first to the left, the others to the right."""
    widths = _widths(rows)
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def _titled(rows: Sequence[Sequence[str]], titles: Mapping[int, str]) -> list[str]:
    """The line above a `_table`: ``titles`` by the column that they begin at; each may reach over the next ones."""
    widths, line = _widths(rows), ""
    for column, title in titles.items():
        line = line.ljust(sum(widths[:column]) + 2 * column) + title
    return [line]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]
