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
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wsipipe.errors import OutputError, UsageError
from wsipipe.files import MAKE_ROOM, Location
from wsipipe.leases.holder import UNREADABLE, Holder, ended, this_process
from wsipipe.urls import Url

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
        _HEART.remove(self)
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
            with (self.path / _file_name(self.holder.token)).open("r+b", buffering=0) as file:
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
        _discard(self.path, self.holder.token)

    @staticmethod
    def _sweep(path: Path) -> None:
        """Remove claims of killed processes; one of a living process can not succeed now, and `_claim` looks."""
        claim = re.compile(re.escape(path.name) + r"\.([0-9a-f]{16})")
        with suppress(OSError):
            for match in map(claim.fullmatch, [other.name for other in path.parent.iterdir()]):
                if match:
                    _discard(path.with_name(match[0]), match[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None) -> None:
        self.release()


class BucketLease(Lease):
    """A lease that is one object of a bucket, ``e_tag`` what was written last."""

    def __init__(self, url: Url, holder: Holder, beat: float, clock: Clock) -> None:
        super().__init__(url, holder, beat, clock)
        self._url, self._e_tag = url, ""

    def claim(self, e_tag: str | None) -> bool:
        """Write it, if ``e_tag`` is what is there now, or if it is None and nothing is; whether that was so.

        Raises
        ------
        OSError
            If it could not be written, or that not be told.
        """
        return self._write(self.holder.written(), e_tag)

    def _beat(self, content: bytes) -> bool:
        return self._write(content, self._e_tag) or (self._is_mine() and self._write(content, self._e_tag))

    def _write(self, content: bytes, e_tag: str | None) -> bool:
        written = self._url.put_if(content, e_tag)
        if written is None:  # or it was, and the answer was lost
            there = self._url.read_tagged()
            written = there[1] if there is not None and there[0] == content else None
        self._e_tag = self._e_tag if written is None else written
        return written is not None

    def _is_mine(self) -> bool:
        """Whether what is there is an earlier beat of this lease, of which the answer was lost."""
        there = self._url.read_tagged()
        if there is None or Holder.read(there[0]).token != self.holder.token:
            return False
        self._e_tag = there[1]
        return True

    def _give_back(self, *, lost: bool) -> None:
        with suppress(OSError):
            if not lost and self._is_mine():
                self._url.unlink(missing_ok=True)


class Leases:
    """Takes leases for one runner, and remembers since when each that others hold has been silent.

    To be asked again and again, from one thread: a holder on another machine is seen to be dead by the second look,
    `patience` after the first or later.

    Parameters
    ----------
    patience
        Seconds without a heartbeat after which a holder is dead; of two runners' the longer is waited for.
    beat
        Seconds between heartbeats; at most a third of ``patience``, so that one may fail.
    clock
        Seconds since any moment; that of no other machine.

    Raises
    ------
    UsageError
        If ``patience`` is shorter than three beats.
    """

    def __init__(
        self,
        *,
        patience: float = PATIENCE_SECONDS,
        beat: float = BEAT_SECONDS,
        clock: Clock = awake_and_asleep,
    ) -> None:
        if not 0 < 3 * beat <= patience < float("inf"):
            raise UsageError(
                f"patience of {patience:g} s with a heartbeat every {beat:g} s: a holder would be dead too easily; "
                f"give at least {3 * beat:g} s"
            )
        self._patience, self._beat, self._clock = float(patience), beat, clock
        self._seen: dict[Location, dict[Location, tuple[bytes, float]]] = {}  # lease: its files: (content, since when)

    def take(self, path: Location) -> Lease | Holder:
        """The lease at ``path`` if it is free, or its holder known to be dead; else who has it. Does not wait.

        Parameters
        ----------
        path
            Of the lease, ``OUT/case-17.zarr.lease``.

        Raises
        ------
        OutputError
            If its folder can not be read or written.
        """
        for _ in range(LOOKS):
            taken = self._attempt_in_bucket(path) if isinstance(path, Url) else self._attempt(path)
            if isinstance(taken, Lease):
                _HEART.add(taken)
            if taken is not None:
                return taken
        return UNREADABLE

    def _attempt(self, path: Path) -> Lease | Holder | None:
        """As `take`; None if another was faster."""
        asked = self._clock()
        contents = _look(path)
        holder = self._living(path, contents, asked)
        if holder:
            return holder
        for file in contents:
            _evict(path, file)
        return self._claim(path)

    def _attempt_in_bucket(self, url: Url) -> Lease | Holder | None:
        """As `_attempt`."""
        asked = self._clock()
        try:
            there = url.read_tagged()
            holder = self._living(url, {} if there is None else {url: there[0]}, asked)
            if holder:
                return holder
            lease = BucketLease(url, this_process(secrets.token_hex(8), self._patience), self._beat, self._clock)
            return lease if lease.claim(None if there is None else there[1]) else None
        except OSError as err:
            raise OutputError(f"{url} can not be written: {err.strerror or err}; {MAKE_ROOM}") from err

    def _living(self, path: Location, contents: Mapping[Any, bytes], asked: float) -> Holder | None:
        """Who of those in ``contents``, read since ``asked``, may be alive."""
        # Of the first read its end counts, of the last its beginning: a disk that hangs makes nobody dead.
        seen, now = self._seen.pop(path, {}), self._clock()
        watched = {}
        for file, content in contents.items():
            same = file in seen and seen[file][0] == content
            watched[file] = seen[file] if same else (content, now)
        for content, since in watched.values():
            holder = Holder.read(content)
            if asked - since < max(self._patience, holder.patience) and not ended(holder):
                self._seen[path] = watched
                return holder
        return None

    def _claim(self, path: Path) -> Lease | None:
        """The lease, or None if another was faster."""
        token = secrets.token_hex(8)
        lease = Lease(path, this_process(token, self._patience), self._beat, self._clock)
        claim, won = path.with_name(f"{path.name}.{token}"), False
        try:
            claim.mkdir()
            try:
                (claim / _file_name(token)).write_bytes(lease.holder.written())
                with suppress(OSError):  # Windows renames a folder onto nothing, not onto an empty one
                    path.rmdir()
                claim.rename(path)
            except OSError as err:
                if err.errno not in GONE | NOT_FREE:
                    raise
            # It is the file that decides, not what rename said: NFS can lose the answer and be told "no such file"
            # when it asks again, and a holder that sweeps late may have emptied the claim before it was renamed.
            won = _read(path / _file_name(token)) is not None
        except OSError as err:
            raise OutputError(f"{path} can not be made: {err.strerror or err}; {MAKE_ROOM}") from err
        finally:
            if not won:
                _discard(claim, token)
                _discard(path, token)
        return lease if won else None


def remove_if_dead(path: Location) -> None:
    """Remove the lease at ``path`` if its holder is known to be dead: of a finished store nobody else will.

    In a bucket it stays, for to look would take a request for each store.
    """
    with suppress(OutputError):
        if isinstance(path, Path) and path.exists() and isinstance(lease := Leases().take(path), Lease):
            lease.release()


class _Heart:
    """The one thread of this process that renews its leases; it lives as long as there are any."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
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


_HEART = _Heart()  # one per process
if hasattr(os, "register_at_fork"):  # a child that renewed them would keep its dead parent's leases alive
    os.register_at_fork(after_in_child=_HEART.__init__)  # type: ignore[misc]


def _file_name(token: str) -> str:
    return f"{token}.json"


def _look(path: Path) -> dict[Path, bytes]:
    """What is in the lease at ``path``: nothing if it is free, ``path`` itself if that is a file, and so not ours."""
    try:
        files = list(path.iterdir())
    except NotADirectoryError:
        files = [path]
    except OSError as err:
        if err.errno in GONE:
            return {}
        raise OutputError(f"{path} can not be read: {err.strerror or err}; {MAKE_ROOM}") from err
    return {file: content for file in files if (content := _read(file)) is not None}


def _read(file: Path) -> bytes | None:
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


def _evict(path: Path, file: Path) -> None:
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


def _discard(folder: Path, token: str) -> None:
    """Remove the file of ``token`` from ``folder``, and the folder if that leaves it empty."""
    with suppress(OSError):
        (folder / _file_name(token)).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
