"""The holder of a lease: a process, as the lease's file names it, and whether it is still alive."""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease, as the lease's file names it."""

    host: str
    """Hostname, for messages."""
    machine: str
    """The PID namespace, see `this_machine`: hostname, boot id, namespace ids; empty if unknown."""
    pid: int
    """Process id; 0 if the file cannot be read."""
    started: int
    """Start of the process, in clock ticks since boot; 0 if unknown."""
    token: str
    """Random name of this one claim of this one lease, never used again."""
    patience: float
    """Seconds without a heartbeat after which it counts as dead."""
    beat: int = 0
    """Number of heartbeats so far."""

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}" if self.pid else "somebody whose lease cannot be read"

    @classmethod
    def read(cls, content: bytes) -> Holder:
        """The holder that a lease's file names; `UNREADABLE` if it is torn, empty or foreign."""
        try:
            holder = cls(**json.loads(content))
        except (ValueError, TypeError, RecursionError):
            return UNREADABLE
        fits = [type(value) for value in astuple(holder)] == [type(value) for value in astuple(UNREADABLE)]
        return holder if fits and 0 < holder.pid < 2**31 and 0 < holder.patience < float("inf") else UNREADABLE

    def written(self) -> bytes:
        """The content of the lease's file, which `read` takes apart again."""
        return json.dumps(asdict(self)).encode() + b"\n"


UNREADABLE = Holder(host="", machine="", pid=0, started=0, token="", patience=0.0)
"""The holder that stands for a file that cannot be read."""


def this_process(token: str, patience: float) -> Holder:
    """The holder that this process is, under the name ``token``; ``patience`` in seconds."""
    started = began(os.getpid())
    machine = "" if started is None else this_machine()
    return Holder(platform.node(), machine, os.getpid(), started or 0, token, patience)


def ended(holder: Holder) -> bool:
    """Whether ``holder`` was a process of this machine that has certainly ended."""
    if not holder.machine or holder.machine != this_machine():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's process, which is alive
        pass
    return began(holder.pid) not in {None, holder.started}


def began(pid: int) -> int | None:
    """Start of process ``pid`` in clock ticks since boot; -1 if it has ended, None if unknown.

    The first thread of a killed process can be gone while another is still in a write: the process has ended when all
    its threads have. The start times of psutil follow the wall clock, and move when somebody sets it.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    state, threads, started = fields[0], int(fields[17]), int(fields[19])
    return -1 if state in b"ZX" and threads < 2 else started  # ended, but its parent has not waited for it yet


def this_machine() -> str:
    """The PID namespace: hostname, boot id, namespace ids; empty if unknown.

    Two processes with the same one see each other by the same pids.
    """
    try:
        parts = [platform.node(), Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        return ""
    with suppress(OSError):  # since Linux 5.6; `began` counts from its boot
        parts.append(str(Path("/proc/self/ns/time").readlink()))
    return " ".join(parts)
