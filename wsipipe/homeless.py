"""For users who have no home: a container with a number as its user, without ``HOME``."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def load_bokeh() -> None:
    """Import bokeh's settings, which needs a home as it is imported; distributed imports it for its dashboards.

    Nothing happens where there is a home, or no bokeh.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = os.devnull  # below which no file is found
        try:
            with suppress(ImportError):
                import bokeh.settings  # noqa: F401
        finally:
            del os.environ["HOME"]
