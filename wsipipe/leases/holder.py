"""Who holds a lease: a process, as a file says it, and whether it is still there."""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Holder:
    """Who has a lease, as its file says."""

    host: str
    machine: str
    """Of what the pid is a number: hostname, boot and namespaces; empty where that can not be told."""
    pid: int
    started: int
    """When the process began, in clock ticks since boot; 0 where that can not be told."""
    token: str
    """Of this one taking of this one lease."""
    patience: float
    """For how many seconds it may be silent before it is dead."""
    beat: int = 0
    """How often it was renewed."""

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}" if self.pid else "somebody whose lease can not be read"

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
        """What `read` reads."""
        return json.dumps(asdict(self)).encode() + b"\n"


UNREADABLE = Holder(host="", machine="", pid=0, started=0, token="", patience=0.0)


def this_process(token: str, patience: float) -> Holder:
    """Who takes a lease as ``token`` here and now, and is dead once silent for ``patience`` seconds."""
    started = began(os.getpid())
    machine = "" if started is None else this_machine()
    return Holder(platform.node(), machine, os.getpid(), started or 0, token, patience)


def ended(holder: Holder) -> bool:
    """Whether ``holder`` was a process of this machine and certainly is no more."""
    if not holder.machine or holder.machine != this_machine():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's, which is there
        pass
    return began(holder.pid) not in {None, holder.started}


def began(pid: int) -> int | None:
    """When process ``pid`` began, in clock ticks since boot; -1 if it has ended, None if that is not to be seen.

    Of a killed process the first thread can be gone while another is still in a write: it has ended when all have.
    psutil's times are of the wall clock, and move when somebody sets that.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    state, threads, started = fields[0], int(fields[17]), int(fields[19])
    return -1 if state in b"ZX" and threads < 2 else started  # ended: killed, and its parent has not asked yet


def this_machine() -> str:
    """What two processes have in common that see each other by the same pids; empty where that can not be told."""
    try:
        parts = [platform.node(), Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        return ""
    with suppress(OSError):  # since Linux 5.6; what `began` counts from
        parts.append(str(Path("/proc/self/ns/time").readlink()))
    return " ".join(parts)
