"""The processes that a training leaves behind, if any."""

from __future__ import annotations

from contextlib import suppress

import psutil


def begun_since(before: set[psutil.Process]) -> list[psutil.Process]:
    """Child processes that are not in ``before`` and do not end, except those that Python keeps for cleaning up."""

    def tracks(process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):  # or it has ended, and was not waited for yet
            return "tracker" in "".join(process.cmdline())
        return False

    since = set(psutil.Process().children(recursive=True)) - before
    return psutil.wait_procs([process for process in since if not tracks(process)], timeout=30)[1]
