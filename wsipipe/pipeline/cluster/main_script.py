"""The script that this process runs, which each worker process on this machine imports again."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FrameType, ModuleType

from wsipipe.errors import UsageError


def check_main_script() -> None:
    """Raise a UsageError if a worker that imports the script would start the run again, and so on.

    Raises
    ------
    UsageError
        If the call is at the top of the script, not below ``if __name__ == "__main__":``.
    """
    main = sys.modules["__main__"]
    script, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    frame = _top_level(main)
    if frame is None or script is None or (spec is not None and spec.name.endswith("__main__")):
        return  # the command, a notebook, another thread, a process of multiprocessing: nothing is run again
    try:
        tree = ast.parse(Path(script).read_bytes())
    except (OSError, ValueError, SyntaxError):
        return
    guards = (node for node in ast.walk(tree) if isinstance(node, ast.If) and "'__name__'" in ast.dump(node.test))
    if not any(node.lineno <= frame.f_lineno <= (node.end_lineno or 0) for node in guards):
        raise UsageError(
            f"{script}, line {frame.f_lineno}: each worker imports this script, and would run it again; put the call "
            'below `if __name__ == "__main__":`'
        )


def _top_level(main: ModuleType) -> FrameType | None:
    """The frame of the top level of ``main``, if it is what calls."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals is vars(main):
            return frame
        frame = frame.f_back
    return None
