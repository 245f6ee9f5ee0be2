"""Taking leases: free ones, and those whose holder is dead."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wsipipe.errors import OutputError, StoreError, UsageError
from wsipipe.files import MAKE_ROOM, Location, locate
from wsipipe.leases.bucket import BucketLease
from wsipipe.leases.folder import GONE, NOT_FREE, discard, evict, file_name, look_at, read_file
from wsipipe.leases.holder import UNREADABLE, Holder, ended, this_process
from wsipipe.leases.lease import (
    BEAT_SECONDS,
    HEART,
    LEASE,
    PATIENCE_SECONDS,
    Clock,
    Lease,
    awake_and_asleep,
)
from wsipipe.urls import Url

MAX_ATTEMPTS = 3
"""Attempts, in one call, to claim a lease that looks free and goes to somebody faster each time."""


class Leases:
    """Takes leases for one runner, and remembers how long each other holder has been silent.

    Ask it again and again, from one thread: a holder on another machine is known to be dead at the second look, at
    least `patience` after the first.

    Parameters
    ----------
    patience
        Seconds without a heartbeat after which a holder is dead. If two runners differ, the longer one counts.
    beat
        Seconds between heartbeats; at most a third of ``patience``, so that one may fail.
    clock
        Seconds since any moment; never compared with those of another machine.

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
                f"patience of {patience:g} s with a heartbeat every {beat:g} s: live holders would seem dead; "
                f"give at least {3 * beat:g} s"
            )
        self._patience, self._beat, self._clock = float(patience), beat, clock
        self._seen: dict[Location, dict[Location, tuple[bytes, float]]] = {}  # lease: its files: (content, since when)

    def take(self, path: Location) -> Lease | Holder:
        """The lease at ``path`` if it is free, or its holder known to be dead; else its holder. Does not wait.

        Parameters
        ----------
        path
            Path of the lease, ``OUT/case-17.zarr.lease``.

        Raises
        ------
        OutputError
            If its folder, or bucket, cannot be read or written.
        """
        for _ in range(MAX_ATTEMPTS):
            taken = self._attempt_in_bucket(path) if isinstance(path, Url) else self._attempt(path)
            if isinstance(taken, Lease):
                HEART.add(taken)
            if taken is not None:
                return taken
        return UNREADABLE

    def _attempt(self, path: Path) -> Lease | Holder | None:
        """One attempt of `take`; None if another process was faster."""
        asked = self._clock()
        if path.is_symlink():  # nobody's lease: where it leads, there is nothing to look at, and nothing to remove
            evict(path, path)
        contents = look_at(path)
        holder = self._living(path, contents, asked)
        if holder:
            return holder
        for file in contents:
            evict(path, file)
        return self._claim(path)

    def _attempt_in_bucket(self, url: Url) -> Lease | Holder | None:
        """As `_attempt`, for a lease in a bucket."""
        asked = self._clock()
        try:
            there = url.read_tagged()
            holder = self._living(url, {} if there is None else {url: there[0]}, asked)
            if holder:
                return holder
            lease = BucketLease(url, this_process(secrets.token_hex(8), self._patience), self._beat, self._clock)
            return lease if lease.claim(None if there is None else there[1]) else None
        except OSError as err:
            raise OutputError(f"{url} cannot be written: {err.strerror or err}; {MAKE_ROOM}") from err

    def _living(self, path: Location, contents: Mapping[Any, bytes], asked: float) -> Holder | None:
        """A holder among ``contents``, read since ``asked``, that may be alive; None if all are dead."""
        # The silence lasts from the end of the first read to the beginning of the last: a disk that hangs kills nobody.
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
        """The lease at ``path``, which is free; None if another process was faster."""
        token = secrets.token_hex(8)
        lease = Lease(path, this_process(token, self._patience), self._beat, self._clock)
        claim, won = path.with_name(f"{path.name}.{token}"), False
        try:
            claim.mkdir()
            try:
                (claim / file_name(token)).write_bytes(lease.holder.written())
                with suppress(OSError):  # Windows renames a folder only onto nothing, not onto an empty one
                    path.rmdir()
                claim.rename(path)
            except OSError as err:
                if err.errno not in GONE | NOT_FREE:
                    raise
            # The file decides, not the result of rename: NFS can lose the answer and get "no such file" when it asks
            # again, and a holder that sweeps late may have emptied the claim before it was renamed.
            won = read_file(path / file_name(token)) is not None
        except OSError as err:
            raise OutputError(f"{path} cannot be created: {err.strerror or err}; {MAKE_ROOM}") from err
        finally:
            if not won:
                discard(claim, token)
                discard(path, token)
        return lease if won else None


@contextmanager
def holding(store: Location) -> Iterator[Lease]:
    """The lease of ``store``, held within the context.

    Raises
    ------
    StoreError
        If somebody else holds it.
    OutputError
        If its folder cannot be read or written.
    """
    lease = Leases().take(locate(f"{store}{LEASE}"))
    if isinstance(lease, Holder):
        raise StoreError(f"{lease} is working on {store}; wait until that has ended, then give the same command")
    with lease:
        yield lease


def remove_if_dead(path: Location) -> None:
    """Remove the lease at ``path`` if its holder is known to be dead; nobody else removes that of a finished store.

    In a bucket it stays: to look would take one request a store.
    """
    with suppress(OutputError):
        if isinstance(path, Path) and path.exists() and isinstance(lease := Leases().take(path), Lease):
            lease.release()
