"""A lease in a bucket."""

from __future__ import annotations

from contextlib import suppress

from wsipipe.leases.holder import Holder
from wsipipe.leases.lease import Clock, Lease
from wsipipe.urls import Url


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
