"""The settings of this process's allocator.

Where networks run (`settle`), large blocks come straight from the system, and go straight back. By default, glibc keeps
freed blocks of up to 32 MiB in one heap per thread, where the memory of past tiles piles up: 820 MB where 592 MB were
projected. With large blocks mapped one by one it was 576 MB, at the same speed (base 4, depth 2, blocks of 2048 px).
The pages of mapped blocks are touched one by one, which huge pages make cheaper: the forward pass takes 0.8 to 0.9 of
the time.

Where objects are measured alone (`reuse`), it is the other way round: all blocks of a slide take arrays of the same
sizes, and pages that are touched once take 0.87 of the processor's time, in the same memory.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
GPU_SETTINGS = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"}
"""The environment variables that configure torch's allocator of GPU memory."""
LARGE_BYTES = 2**20
TRIM_THRESHOLD_BYTES = 2**24
LARGEST_KEPT_BYTES = 2**25
"""The most that mallopt(3) takes for blocks that are not mapped."""


def settle() -> None:
    """Have blocks of 1 MiB and more mapped one by one. Call it before torch allocates any.

    Without glibc it has no effect. See mallopt(3), and ``THP_MEM_ALLOC_ENABLE`` in torch's
    c10/core/impl/alloc_cpu.cpp.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _set(LARGE_BYTES, TRIM_THRESHOLD_BYTES)


def expand_segments() -> None:
    """Let torch's segments of GPU memory grow, unless the user configured its allocator. Call it before CUDA starts.

    torch keeps freed memory for the stream that used it, and each lane has one of its own. A segment of fixed size that
    is too small for the next batch stays as a gap: see ``expandable_segments`` in
    https://docs.pytorch.org/docs/stable/notes/cuda.html.
    """
    if sys.platform == "linux" and not os.environ.keys() & GPU_SETTINGS:  # elsewhere torch warns that it cannot
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def reuse() -> None:
    """Keep freed blocks of up to 32 MiB for the next ones, where the process has glibc."""
    _set(LARGEST_KEPT_BYTES, 2 * LARGEST_KEPT_BYTES)


def _set(mmap_threshold_bytes: int, trim_threshold_bytes: int) -> None:
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, mmap_threshold_bytes)
        libc.mallopt(M_TRIM_THRESHOLD, trim_threshold_bytes)
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
