"""Leases: of all runners that share a folder, one at a time works on a slide's store.

A lease is a small folder beside the store, with one JSON file in it that says who holds it::

    case-17.zarr
    case-17.zarr.lease/                        held if something is in it; free if empty, or not there
        2f6c09d1a8b34e75.json                  its holder's alone, by a name that is never used again
    case-17.zarr.lease.2f6c09d1a8b34e75/       a claim, for an instant

    claim      .lease.2f6c/2f6c.json  --rename the folder-->  .lease/2f6c.json     only onto nothing, or onto empty
    beat       .lease/2f6c.json       is written in place: never created, never renamed over another
    evict      .lease/2f6c.json       --unlink-->  .lease/ is empty, hence free: whoever claims first has it
    release    .lease/2f6c.json       --unlink-->  .lease/ is empty              --rmdir-->  nothing

It stands on three things that every POSIX file system does in one step, NFS's server included: a folder is renamed
onto another only if that is empty, a folder is removed only if it is empty, and a name is unlinked. The first decides
between any number of contenders. The rest is safe however late it happens, such as by a process that was stopped
between judging and acting: names are never used twice, so it can only meet its own lease, or nothing. So a killed
process leaves at worst a dead lease, an empty folder, or a claim that came to nothing, which the next to hold the
lease removes.

No time of another machine is ever compared, nor of a file. A holder rewrites its file every beat, and whoever waits
reads it: what did not change for ``patience`` seconds of the waiting process's own clock is dead. The holder counts
too, from before its last beat, which is earlier than anybody can have read that: it has lost the lease one beat before
anybody may take it, even if it can reach no disk to look. What it began to write before, and is still writing, nobody
can call back: that is the window, and the beat between the two is what there is for it to pass.

In a bucket a lease is one object, ``case-17.zarr.lease``: claimed, renewed and taken from the dead by writing it on the
condition that it is not there, or is what was read. Only its removal has no condition: one that comes late can take
the lease of the next holder, who then finds it gone at the next beat.

Sources: POSIX ``rename()``; RFC 1813 section 3.3.14, RENAME. Bazaar's ``LockDir`` claims in the same way. RFC 9110
section 13.1, If-Match and If-None-Match, which S3, Google and Azure know.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from wsipipe.errors import OutputError
from wsipipe.files import MAKE_ROOM, Location
from wsipipe.leases.holder import Holder

LEASE = ".lease"
PATIENCE_SECONDS, BEAT_SECONDS = 60.0, 10.0

GONE = {errno.ENOENT, errno.ESTALE}  # ESTALE: what NFS says of a file that another machine removed
NOT_FREE = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
LOOKS = 3
"""How often in one call a lease is claimed that looks free, and each time goes to somebody faster."""
LARGEST_BYTES = 4096
"""What is read of a file that may be anybody's; a lease has some 250."""

Clock = Callable[[], float]


def awake_and_asleep() -> float:
    """Seconds, of a clock that also counts those for which a laptop's lid is closed, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """A slide that is this process's own until `release`; made by `Leases.take`, renewed by a thread.

    Also a context manager, which releases it. A process forked from this one does not hold it.
    """

    def __init__(self, path: Location, holder: Holder, beat: float, clock: Clock) -> None:
        self.path, self.holder, self.beat_seconds = path, holder, beat
        self._clock = clock
        self._renewed = clock()
        self._beats = holder.beat
        self._lost = self._released = False

    @property
    def lost(self) -> bool:
        """Whether the holder must stop writing: another has the lease, it is gone, or it was not renewed for too long.

        Once lost, always lost. Nothing is read here: it is as quick as a look at the clock. After `release` it says
        whether the lease had been lost before that.
        """
        overdue = self._clock() - self._renewed > self.holder.patience - self.beat_seconds
        if overdue and not self._released:
            self._lost = True  # and never False, for the thread may have found it True meanwhile
        return self._lost

    def renew(self) -> None:
        """One heartbeat, unless the lease is lost; does not raise, for what can not be renewed is lost in the end."""
        began = self._clock()
        if self.lost:
            return
        # Counted before it is written: a beat that failed half-way and one that follows it must not look alike, or
        # those who wait would see one beat where this process has counted two.
        self._beats += 1
        with suppress(OSError):
            if self._beat(replace(self.holder, beat=self._beats).written()):
                self._renewed = began
            else:
                self._lost = True

    def release(self) -> None:
        """Give it back, if it is still this process's, and leave no file; again is nothing."""
        if self._released or os.getpid() != self.holder.pid:
            return
        HEART.remove(self)
        lost, self._released = self.lost, True
        self._give_back(lost=lost)

    def _beat(self, content: bytes) -> bool:
        """Write ``content`` over the last beat; whether that was still there.

        Raises
        ------
        OSError
            If it could not be written, or that not be told.
        """
        assert isinstance(self.path, Path)
        try:
            with (self.path / file_name(self.holder.token)).open("r+b", buffering=0) as file:
                file.write(content)  # "r+": what is gone does not come back
        except OSError as err:
            if err.errno in GONE | NOT_FREE:
                return False
            raise
        return True

    def _give_back(self, *, lost: bool) -> None:
        assert isinstance(self.path, Path)
        if not lost:
            self._sweep(self.path)
        discard(self.path, self.holder.token)

    @staticmethod
    def _sweep(path: Path) -> None:
        """Remove claims of killed processes; one of a living process can not succeed now, and `_claim` looks."""
        claim = re.compile(re.escape(path.name) + r"\.([0-9a-f]{16})")
        with suppress(OSError):
            for match in map(claim.fullmatch, [other.name for other in path.parent.iterdir()]):
                if match:
                    discard(path.with_name(match[0]), match[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None) -> None:
        self.release()


class Heart:
    """The one thread of this process that renews its leases; it lives as long as there are any."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        """From now on ``lease`` is renewed."""
        with self._changed:
            self._leases.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="wsipipe leases", daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, lease: Lease) -> None:
        """From its return on, ``lease`` is not renewed."""
        with self._changed:
            self._leases.discard(lease)
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while self._leases:
                self._changed.wait(min(lease.beat_seconds for lease in self._leases))
                for lease in self._leases:
                    lease.renew()
                self._leases = {lease for lease in self._leases if not lease.lost}
            self._thread = None


HEART = Heart()  # one per process
if hasattr(os, "register_at_fork"):  # a child that renewed them would keep its dead parent's leases alive
    os.register_at_fork(after_in_child=HEART.__init__)  # type: ignore[misc]


def file_name(token: str) -> str:
    """The file in a lease's folder that is its holder's alone."""
    return f"{token}.json"


def look_at(path: Path) -> dict[Path, bytes]:
    """What is in the lease at ``path``: nothing if it is free, ``path`` itself if that is a file, and so not ours."""
    try:
        files = list(path.iterdir())
    except NotADirectoryError:
        files = [path]
    except OSError as err:
        if err.errno in GONE:
            return {}
        raise OutputError(f"{path} can not be read: {err.strerror or err}; {MAKE_ROOM}") from err
    return {file: content for file in files if (content := read_file(file)) is not None}


def read_file(file: Path) -> bytes | None:
    """What ``file`` holds, None if there is none. Opened, not only looked up: that is when NFS asks its server."""
    try:
        with file.open("rb", buffering=0) as opened:
            return opened.read(LARGEST_BYTES)
    except IsADirectoryError:
        return b""
    except OSError as err:
        if err.errno in GONE:
            return None
        raise OutputError(f"{file} can not be read: {err.strerror or err}; {MAKE_ROOM}") from err


def evict(path: Path, file: Path) -> None:
    """Remove what a dead holder left in the lease at ``path``."""
    try:
        file.unlink()
    except OSError as err:
        replaced = file == path and path.is_dir()  # a foreign file, evicted by another who has claimed since
        if err.errno not in GONE and not replaced:
            raise OutputError(
                f"{file}, left by a dead process, can not be removed: {err.strerror or err}; "
                "remove it, or use another -o"
            ) from err


def discard(folder: Path, token: str) -> None:
    """Remove the file of ``token`` from ``folder``, and the folder if that leaves it empty."""
    with suppress(OSError):
        (folder / file_name(token)).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
