"""Default tile, block and thread counts, chosen to fit the available memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wsipipe.pipeline.machine import default_threads
from wsipipe.pipeline.memory_need import block_need, network_need, tissue_need
from wsipipe.pipeline.setup import Setup
from wsipipe.pipeline.slide_plan import grid_of
from wsipipe.slides.slide import Level

CORES = (256, 512, 1024, 2048, 4096)
"""Cores of tiles to choose from, px; the larger ones only where they were measured to be faster."""
LEAST_BLOCK = 512
"""The smallest block to choose, px."""


def fit_memory(setup: Setup, levels: Sequence[Level], base_bytes: int) -> Setup:
    """``setup`` with the sizes that fit into the memory for all ``levels``, except levels that fit with none.

    Large tiles are worth most, because fewer of their pixels are margin; then blocks in flight, so that some are read
    while others compute; then large blocks.
    """
    core, block = setup.preferred_sizes
    most = setup.asked.threads or default_threads(setup.devices)
    cores = [c for c in reversed(CORES) if c <= core]
    blocks = [block >> i for i in range(block.bit_length()) if block >> i >= LEAST_BLOCK]
    threads = [most >> i for i in range(most.bit_length()) if most >> i >= min(2, most)]
    wishes = [(replace(setup, preferred_sizes=(c, b)), t) for c in cores for t in threads for b in blocks if b >= c]
    wishes += [(wish, setup.asked.threads or 1) for wish, _ in wishes]

    def need(level: Level, wish: Setup, threads: int) -> int:
        grid = grid_of(level, wish)
        a_task = max(block_need(level, grid, wish), tissue_need(level, wish))
        return base_bytes + threads * a_task + network_need(grid, wish)

    least = [level for level in levels if need(level, *wishes[-1]) <= setup.limit_bytes]
    fitting = (wish for wish, t in wishes if all(need(level, wish, t) <= setup.limit_bytes for level in least))
    return next(fitting, wishes[-1][0]) if least else wishes[-1][0]
