"""Linked lists, many at once: the order in which each node follows another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csgraph, csr_array

from wsipipe.objects.numbers import Counts


def follow(successor: Counts) -> tuple[Counts, Counts]:
    """The nodes of each path one after the other, and where each path starts.

    No two nodes have the same successor, so that the nodes form cycles and chains. A cycle starts with its lowest node.
    A chain starts with the node that nobody precedes, which must be the chain's lowest.

    Parameters
    ----------
    successor
        (nodes,), int64: the node after each node; -1 at the end of a chain.

    Returns
    -------
    tuple
        (nodes,) int64, path by path, in the order of their first nodes; and (paths + 1,) int64, the start of each path
        within it.
    """
    count = len(successor)
    if not count:
        return np.zeros(0, np.int64), np.zeros(1, np.int64)
    paths, path, first = _components(_one_each(successor))
    predecessor = np.empty(count + 1, np.int64)  # the last one is that of no node
    predecessor[successor] = np.arange(count)
    last, ends = predecessor[first], np.flatnonzero(successor < 0)
    last[path[ends]] = ends
    # The end of each path leads to the start of the next one, and a search walks the one long path in compiled code.
    onward = successor.copy()
    onward[last[:-1]], onward[last[-1]] = first[1:], -1
    order = csgraph.depth_first_order(_one_each(onward), int(first[0]), return_predecessors=False)
    return order.astype(np.int64), np.append(0, np.cumsum(np.bincount(path, minlength=paths)))


def connected(count: int, one: npt.NDArray[np.integer], other: npt.NDArray[np.integer]) -> tuple[int, Counts]:
    """The groups of nodes that pairs connect, numbered in the order of their lowest nodes.

    Parameters
    ----------
    count
        Number of nodes.
    one, other
        (pairs,), integers: the nodes of each pair.

    Returns
    -------
    tuple
        The number of groups, and (nodes,) int64, the group of each node.
    """
    if not len(one):
        return count, np.arange(count)
    groups, group, _ = _components(csr_array((np.ones(len(one)), (one, other)), shape=(count, count)))
    return groups, group


def _components(graph: csr_array) -> tuple[int, Counts, Counts]:
    """The number of groups of connected nodes, the group of each node, and the lowest node of each group."""
    count = graph.shape[0]
    groups, group = csgraph.connected_components(graph, directed=False)
    first = np.full(groups, count, np.int64)
    np.minimum.at(first, group, np.arange(count))
    order = np.argsort(first, kind="stable")
    rank = np.empty(groups, np.int64)
    rank[order] = np.arange(groups)
    return groups, rank[group], first[order]


def _one_each(successor: Counts) -> csr_array:
    """The graph of nodes with one successor each, or none (-1)."""
    count, there = len(successor), successor >= 0
    begins = np.append(0, np.cumsum(there)).astype(np.int32)
    return csr_array((np.ones(begins[-1]), successor.compress(there).astype(np.int32), begins), shape=(count, count))
