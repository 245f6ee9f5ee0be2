"""The places of patches: a survey of the labels, and draws from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsipipe.errors import LabelError
from wsipipe.geometry.grid import boxes
from wsipipe.training.fields import Field


@dataclass(frozen=True)
class Survey:
    """The number of pixels of each class in each cell of some fields."""

    fields: npt.NDArray[np.int64]
    """(cell,): index of its field."""
    origins: npt.NDArray[np.int64]
    """(cell, 2): (y, x) of its first pixel."""
    sides: npt.NDArray[np.int64]
    """(cell, 2): (height, width) in pixels."""
    counts: npt.NDArray[np.int64]
    """(cell, class): labelled pixels of background, and of each class."""

    @property
    def totals(self) -> npt.NDArray[np.int64]:
        """Labelled pixels of each class, (class,), int64."""
        return self.counts.sum(0)  # type: ignore[no-any-return]


def survey(fields: Sequence[Field], classes: int, cell: int) -> Survey:
    """Count the labels of ``fields``, read cell by cell.

    Parameters
    ----------
    fields
        The fields to survey; every label is read once.
    classes
        Number of classes beside background.
    cell
        Side of a cell, px.
    """
    rows = []
    for number, field in enumerate(fields):
        for box in boxes(field.shape, cell):
            truth = field.truth.read(box)
            counts = np.bincount(truth.classes[truth.inside], minlength=classes + 1)
            if counts.any():
                rows.append((number, box.y0, box.x0, *box.shape, *counts))
    table = np.array(rows, np.int64).reshape(-1, 5 + classes + 1)
    return Survey(table[:, 0], table[:, 1:3], table[:, 3:5], table[:, 5:])


def check_learnable(found: Survey, fields: Sequence[Field], names: Sequence[str]) -> None:
    """Refuse fields that nothing can be learnt from.

    Parameters
    ----------
    found
        The survey of ``fields``.
    names
        Names of the classes 1, 2, ...

    Raises
    ------
    LabelError
        If fewer than two classes occur, background included, or if one of ``names`` does not.
    """
    there = [name for name, count in zip(("background", *names), found.totals, strict=True) if count]
    missing = [name for name in names if name not in there]
    if len(there) < 2:
        what = f"every labelled pixel is {there[0]}" if there else "no pixel is labelled"
        way_out = "a network needs two classes to tell apart; label them, or check [data] labels_are"
    elif missing:
        what = f"no pixel is {', '.join(missing)}"
        way_out = "remove it from [[classes]], or check its value, and the splits"
    else:
        return
    first = ", ".join(f.name for f in fields[:3]) + (" ..." if len(fields) > 3 else "")
    raise LabelError(f"in the {len(fields)} images to train on ({first}) {what}; {way_out}")


@dataclass(frozen=True)
class PatchPlace:
    """The place of a patch."""

    field: int
    """Index of its field."""
    center: tuple[float, float]
    """(y, x), px; 0.5 is the middle of the first pixel."""


class Places:
    """Draws places from a survey.

    Parameters
    ----------
    found
        The survey.
    balance
        Share of the draws in which a class is drawn first, each class that occurs equally often.
    data_sets
        The data set of each field, from 0; by default there is one.
    shares
        Share of the draws from each data set, relative to those of the others; one without labelled pixels has none.
    """

    def __init__(
        self, found: Survey, balance: float, *, data_sets: Sequence[int] = (), shares: Sequence[float] = (1.0,)
    ) -> None:
        self.survey, self.balance = found, balance
        of_cell = np.array(data_sets or [0] * (1 + int(found.fields.max(initial=0))), np.int64)[found.fields]
        mine = [found.counts * (of_cell == number)[:, None] for number in range(len(shares))]
        self.totals = np.array([counts.sum(0) for counts in mine])
        known = np.array(shares) * self.totals.any(1)
        self.shares = known / known.sum()
        self.classes = [np.flatnonzero(totals) for totals in self.totals]
        self.up_to = [np.cumsum(np.column_stack([counts.sum(1), counts]), axis=0) for counts in mine]

    @property
    def frequencies(self) -> npt.NDArray[np.int64]:
        """Pixels of each class, (class,), int64, if each data set had as many labelled pixels as its share of all."""
        if len(self.shares) == 1:
            return self.survey.totals
        per_set = self.shares[:, None] * self.totals / np.maximum(self.totals.sum(1, keepdims=True), 1)
        return np.asarray(np.rint(per_set.sum(0) * self.survey.totals.sum()), np.int64)

    def draw(self, rng: np.random.Generator) -> PatchPlace:
        """Draw a cell, in proportion to its labelled pixels or to those of a class, and a place anywhere within it."""
        one = 0 if len(self.shares) == 1 else int(rng.choice(len(self.shares), p=self.shares))
        column = 1 + int(rng.choice(self.classes[one])) if rng.random() < self.balance else 0
        up_to = self.up_to[one][:, column]
        cell = int(np.searchsorted(up_to, rng.random() * up_to[-1], side="right"))
        y, x = self.survey.origins[cell] + rng.random(2) * self.survey.sides[cell]
        return PatchPlace(int(self.survey.fields[cell]), (float(y), float(x)))
