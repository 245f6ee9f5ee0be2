"""Objects detected by their centroids: each true one within a radius of a predicted one, one to one.

Sources
-------
- Sirinukunwattana et al. 2016, doi:10.1109/TMI.2016.2525803: a nucleus is found within 6 px at 0.55 um/px, 3.3 um
- Graham et al. 2019 (HoVer-Net), doi:10.1016/j.media.2019.101563: within 12 px at 0.25 um/px, 3 um
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csgraph, csr_array
from scipy.spatial import cKDTree

from wsipipe.evaluation.ratios import Floats, ratio
from wsipipe.objects.numbers import Counts

RADIUS_UM = 3.0
"""Largest distance of the centroids of two nuclei that are taken for the same, in micrometres."""
BATCH = 1000
"""Pairs of near points that are matched at once, unless more hang together: time grows with the square of them."""


class Detection(NamedTuple):
    """Numbers of objects, which add up over images."""

    both: float
    """True objects that were found."""
    predicted: float
    """Predicted objects."""
    truth: float
    """True objects."""

    @property
    def f1(self) -> float:
        """2 TP / (predicted + true); NaN if neither side has an object."""
        return ratio(2 * self.both, self.predicted + self.truth)

    @property
    def precision(self) -> float:
        """TP / predicted; NaN if nothing is predicted."""
        return ratio(self.both, self.predicted)

    @property
    def recall(self) -> float:
        """TP / true; NaN without true objects."""
        return ratio(self.both, self.truth)


def match_points(predicted: Floats, truth: Floats, radius: float) -> tuple[Counts, Counts]:
    """The pairs of points, (pairs,) each: index in ``predicted``, ascending, and index in ``truth``.

    As many pairs as possible of points at most ``radius`` apart, each point in one pair at most; of all such choices,
    one of the least total distance.

    Parameters
    ----------
    predicted, truth
        (points, 2), float64.
    radius
        In the unit of the points.
    """
    empty = np.zeros(0, np.int64)
    if not len(predicted) or not len(truth):
        return empty, empty
    near = cKDTree(predicted).sparse_distance_matrix(cKDTree(truth), radius, output_type="ndarray")
    if not len(near):
        return empty, empty
    edges = near["i"], len(predicted) + near["j"]
    graph = coo_array((np.ones(len(near), bool), edges), (len(predicted) + len(truth),) * 2)
    _, group = csgraph.connected_components(graph, directed=False)
    near = near[np.argsort(group[near["i"]], kind="stable")]
    ends = np.append(np.flatnonzero(np.diff(group[near["i"]])) + 1, len(near))
    found, begin = [], 0
    while begin < len(near):
        end = int(ends[min(int(np.searchsorted(ends, begin + BATCH)), len(ends) - 1)])
        found.append(_assigned(near["i"][begin:end], near["j"][begin:end], near["v"][begin:end], radius))
        begin = end
    one, other = (np.concatenate(side).astype(np.int64) for side in zip(*found, strict=True))
    order = np.argsort(one)
    return one[order], other[order]


def _assigned(one: Counts, other: Counts, distance: Floats, radius: float) -> tuple[Counts, Counts]:
    """The best pairs of some that may be, (candidates,) each.

    Each predicted point may also stay alone, at a price above all that the others could save by that.
    """
    ones, i = np.unique(one, return_inverse=True)
    others, j = np.unique(other, return_inverse=True)
    price = (radius + 1) * (len(ones) + 1)
    alone = np.arange(len(ones))
    costs = np.append(distance + 1, np.full(len(ones), price))  # an edge of 0 would be no edge
    places = np.append(i, alone), np.append(j, len(others) + alone)
    matrix = csr_array((costs, places), (len(ones), len(others) + len(ones)))
    row, column = csgraph.min_weight_full_bipartite_matching(matrix)
    paired = column < len(others)
    return ones[row[paired]], others[column[paired]]
