"""A lease in a bucket."""

from __future__ import annotations

from contextlib import suppress

from wsipipe.leases.holder import Holder
from wsipipe.leases.lease import Clock, Lease
from wsipipe.urls import Url


class BucketLease(Lease):
    """A lease that is one object of a bucket, known by the entity tag (ETag) of its last write."""

    def __init__(self, url: Url, holder: Holder, beat: float, clock: Clock) -> None:
        super().__init__(url, holder, beat, clock)
        self._url, self._e_tag = url, ""

    def claim(self, e_tag: str | None) -> bool:
        """Write the lease if the object has the tag ``e_tag`` (None: does not exist); return whether it did.

        Raises
        ------
        OSError
            If the bucket cannot be reached, or refuses.
        """
        return self._write(self.holder.written(), e_tag)

    def _beat(self, content: bytes) -> bool:
        return self._write(content, self._e_tag) or (self._is_mine() and self._write(content, self._e_tag))

    def _rename(self) -> bool:
        return True  # each write is on the condition that nobody else wrote

    def _write(self, content: bytes, e_tag: str | None) -> bool:
        written = self._url.put_if(content, e_tag)
        if written is None:  # refused, or written and the answer was lost
            there = self._url.read_tagged()
            written = there[1] if there is not None and there[0] == content else None
        self._e_tag = self._e_tag if written is None else written
        return written is not None

    def _is_mine(self) -> bool:
        """Whether the object is an earlier beat of this lease, whose answer was lost."""
        there = self._url.read_tagged()
        if there is None or Holder.read(there[0]).token != self.holder.token:
            return False
        self._e_tag = there[1]
        return True

    def _give_back(self, *, lost: bool) -> None:
        with suppress(OSError):
            if not lost and self._is_mine():
                self._url.unlink(missing_ok=True)
