"""The settings of zarr for all that wsipipe reads and writes: zarr's defaults, whatever the environment has set.

The order of an array's axes in memory, the indentation of documents, codecs: a store's bytes must not depend on them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any

import zarr


def own_zarr_settings() -> AbstractContextManager[Any]:
    """Set zarr's defaults, at once; leaving the context returns to what was set before."""
    changes: dict[str, Any] = {}
    for defaults in zarr.config.defaults:
        changes |= deepcopy(defaults)
    settings: AbstractContextManager[Any] = zarr.config.set(changes)
    return settings
