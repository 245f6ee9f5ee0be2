"""Leases: of all runners that share a folder, only one at a time works on a slide's store.

A lease is a small folder beside the store, with one JSON file in it that names its holder::

    case-17.zarr
    case-17.zarr.lease/                        held if it contains something; free if empty or missing
        2f6c09d1a8b34e75.json                  the holder's own, by a name that is never used again
    case-17.zarr.lease.2f6c09d1a8b34e75/       a claim, for an instant

    claim      .lease.2f6c/2f6c.json  --rename the folder-->  .lease/2f6c.json     only onto nothing, or an empty folder
    beat       .lease/2f6c.json       is written in place: never created, never renamed over another
    regain     .lease/2f6c.json       --rename the file-->    .lease/90d3.json     only if nobody evicted it
    evict      .lease/2f6c.json       --unlink-->  .lease/ is empty, hence free: the first to claim gets it
    release    .lease/2f6c.json       --unlink-->  .lease/ is empty              --rmdir-->  nothing

Three operations make this safe, each a single step on every POSIX file system, NFS's server included: a folder is
renamed onto another only if that is empty, a folder is removed only if it is empty, and a name is unlinked. The first
decides between any number of contenders. The others are safe however late they happen, for example in a process that
was stopped between judging and acting: names are never used twice, so it can only meet its own lease, or nothing. A
killed process leaves at worst a dead lease, an empty folder, or a claim that failed. The next holder of the lease
removes them.

Times of other machines, or of files, are never compared. A holder rewrites its file every beat, and a waiting process
reads it: a holder whose file does not change for ``patience`` seconds of the waiting process's own clock is dead. The
holder counts as well, from before its last beat, hence from before anybody can have read that beat. So it has lost the
lease one beat before anybody may take it, even if it cannot reach the disk to look. A process that was suspended, and
whose lease nobody took meanwhile, gets it back by renaming its file: either that comes before an eviction, which then
meets nothing, or it fails. A write that it began earlier, and
that is still under way, cannot be called back. That is the window; the one beat is the time for such a write to end.

In a bucket a lease is one object, ``case-17.zarr.lease``. It is claimed, renewed and taken from the dead by writing it
on the condition that it does not exist, or is what was read. Only its removal has no condition: a late one can remove
the lease of the next holder, who then finds it gone at the next beat.

Sources: POSIX ``rename()``; RFC 1813 section 3.3.14, RENAME. Bazaar's ``LockDir`` claims in the same way. RFC 9110
section 13.1, If-Match and If-None-Match, which S3, Google and Azure support.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from wsipipe.files import Location
from wsipipe.leases.folder import GONE, NOT_FREE, discard, file_name, read_file
from wsipipe.leases.holder import Holder

LEASE = ".lease"
CLAIM_SUFFIX = f"{LEASE}.{'0' * 16}"
"""What a claim's name ends in, the longest that is written beside a store."""
PATIENCE_SECONDS, BEAT_SECONDS = 60.0, 10.0

Clock = Callable[[], float]


def awake_and_asleep() -> float:
    """Seconds on a clock that, if the machine has one, also runs while a laptop's lid is closed."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """The right to work on a slide's store until `release`; made by `Leases.take`, renewed by a thread.

    Also a context manager, which releases it. A process forked from this one does not hold the lease.
    """

    def __init__(self, path: Location, holder: Holder, beat: float, clock: Clock) -> None:
        self.path, self.holder, self.beat_seconds = path, holder, beat
        self._clock = clock
        self._renewed = clock()
        self._beats = holder.beat
        self._gone = self._released = False
        self._renewing = threading.Lock()

    @property
    def lost(self) -> bool:
        """Whether the holder must not write: another has the lease, it is gone, or it was not renewed for too long.

        In the last case `regain` may get it back. This reads the clock and no file. After `release` it is whether the
        lease had been lost before that.
        """
        overdue = self._clock() - self._renewed > self.holder.patience - self.beat_seconds
        return self._gone or (overdue and not self._released)

    @property
    def gone(self) -> bool:
        """Whether it is lost for good."""
        return self._gone

    def regain(self) -> bool:
        """Renew the lease, and return whether this process holds it: nobody took it while it was not renewed."""
        self.renew()
        return not self.lost

    def renew(self) -> None:
        """Write one heartbeat, unless the lease is gone. Never raises: a lease that cannot be renewed becomes lost."""
        with self._renewing:
            began = self._clock()
            if self._gone or self._released:
                return
            # Counted before it is written: a beat that failed half-way must differ from the next one, or those who wait
            # would see one beat where this process has counted two.
            self._beats += 1
            with suppress(OSError):
                if (not self.lost or self._rename()) and self._beat(self._content()):
                    self._renewed = began
                else:
                    self._gone = True

    def _content(self) -> bytes:
        return replace(self.holder, beat=self._beats).written()

    def release(self) -> None:
        """Give the lease back, if this process still holds it, and leave no file. A second call does nothing."""
        if self._released or os.getpid() != self.holder.pid:
            return
        HEART.remove(self)
        self._gone, self._released = self.lost, True
        self._give_back(lost=self._gone)

    def _rename(self) -> bool:
        """Give the holder's file a new name, which nobody who thinks it dead knows; whether it was still there.

        Raises
        ------
        OSError
            If it cannot be renamed although it may still be there.
        """
        assert isinstance(self.path, Path)
        anew = replace(self.holder, token=secrets.token_hex(8))
        try:
            (self.path / file_name(self.holder.token)).rename(self.path / file_name(anew.token))
        except OSError as err:
            if err.errno not in GONE | NOT_FREE:
                raise
        if read_file(self.path / file_name(anew.token)) is None:  # not the answer of rename, which NFS can lose
            return False
        self.holder = anew
        return True

    def _beat(self, content: bytes) -> bool:
        """Write ``content`` over the last beat, if that is still there; return whether it was.

        Raises
        ------
        OSError
            If it cannot be written although it may still be there.
        """
        assert isinstance(self.path, Path)
        try:
            with (self.path / file_name(self.holder.token)).open("r+b", buffering=0) as file:
                file.write(content)  # "r+": a file that is gone is not created again
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
        """Remove the claims of killed processes. That of a living one cannot succeed now; `Leases` finds it gone."""
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
    """The one thread of this process that renews its leases; it runs as long as there are any."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        """Renew ``lease`` from now on."""
        with self._changed:
            self._leases.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="wsipipe leases", daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, lease: Lease) -> None:
        """Stop renewing ``lease``; after the return no heartbeat follows."""
        with self._changed:
            self._leases.discard(lease)
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while self._leases:
                self._changed.wait(min(lease.beat_seconds for lease in self._leases))
                for lease in self._leases:
                    lease.renew()
                self._leases = {lease for lease in self._leases if not lease.gone}
            self._thread = None


HEART = Heart()
"""The thread of this process."""
if hasattr(os, "register_at_fork"):  # a child that renewed its dead parent's leases would keep them alive
    os.register_at_fork(after_in_child=HEART.__init__)  # type: ignore[misc]
