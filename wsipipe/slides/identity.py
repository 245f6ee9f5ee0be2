"""What tells one slide file from another without reading all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

WINDOWS = 16
WINDOW_BYTES = 64 * 1024


def file_identity(path: Path) -> str:
    """sha256 of the file's size and of 16 evenly spaced windows of 64 KiB, the first and last bytes among them."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        digest = hashlib.sha256(f"{size}\n".encode())
        for i in range(WINDOWS):
            file.seek(max(size - WINDOW_BYTES, 0) * i // (WINDOWS - 1))
            digest.update(file.read(WINDOW_BYTES))
    return digest.hexdigest()


def folder_identity(folder: Path, documents: Iterable[bytes], sizes: Sequence[tuple[str, int]]) -> str:
    """sha256 of metadata documents, of the (relative path, size) of all chunk files, and of 16 of these themselves."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(hashlib.sha256(document).digest())
    sizes = sorted(sizes)
    for name, size in sizes:
        digest.update(f"{name}\0{size}\n".encode())
    for i in sorted({(len(sizes) - 1) * i // (WINDOWS - 1) for i in range(WINDOWS)}):
        digest.update(file_identity(folder / sizes[i][0]).encode())
    return digest.hexdigest()
