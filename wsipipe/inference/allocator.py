"""How this process asks the system for memory: large blocks straight from it, and straight back.

Left to itself, glibc keeps freed blocks of up to 32 MiB in one heap per thread; tiles that come and go then pile
up to what nobody planned: 820 MB where 592 were projected, 576 with large blocks mapped one by one, at the same
speed (base 4, depth 2, blocks of 2048 px). Mapped blocks are touched page by page, which huge pages make cheaper:
the forward pass takes 0.8 to 0.9 of the time.
"""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE_BYTES = 2**20
TRIM_THRESHOLD_BYTES = 2**24


def settle() -> None:
    """Have blocks of a MiB and more mapped one by one; to be called before torch allocates any.

    Where there is no glibc it does nothing. See mallopt(3), and ``THP_MEM_ALLOC_ENABLE`` in torch's
    c10/core/impl/alloc_cpu.cpp.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
