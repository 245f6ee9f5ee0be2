"""What all stores that pixels are read through have in common: nothing is written or listed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, NoReturn

from zarr.abc.store import Store

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


class ReadOnlyStore(Store):
    """A Zarr store that can only be read, key by key; a subclass has `get` and `exists`."""

    def __init__(self) -> None:
        super().__init__(read_only=True)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open file cannot be pickled; pickle the Level and open it again")

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several of `get`."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    @property
    def supports_writes(self) -> bool:
        """Never."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """Never."""
        return False

    @property
    def supports_listing(self) -> bool:
        """Never: the tiles of a slide are too many to be listed."""
        return False

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002
        """Raise a PermissionError."""
        raise PermissionError(f"slides are read-only, {key} cannot be written")

    async def delete(self, key: str) -> None:
        """Raise a PermissionError."""
        raise PermissionError(f"slides are read-only, {key} cannot be deleted")

    def list(self) -> AsyncIterator[str]:
        """Raise a NotImplementedError."""
        raise NotImplementedError("slides are not listed")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Raise a NotImplementedError."""
        raise NotImplementedError("slides are not listed")

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Raise a NotImplementedError."""
        raise NotImplementedError("slides are not listed")
