"""Files behind a URL, in pathlib's words: in a bucket (S3, Google, Azure), or on a web server.

What is behind a URL appears whole or not at all, is never renamed, and lies in no folder: a folder is what several
names begin with. A web server can not say what begins with a name, and takes nothing.

Where a bucket is and who one is there stands in the environment: ``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ...

Source: https://developmentseed.org/obstore/ (the Rust crate object_store)
"""

from __future__ import annotations

import errno
import posixpath
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from wsipipe.errors import UsageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

WEB = ("http", "https")
SCHEMES = ("s3", "gs", "az", "abfs", "abfss", *WEB)
REQUEST_SECONDS = 30.0
"""After which a request that was not answered in full is made again."""
ATTEMPTS, RETRY_SECONDS = 10, 180.0
"""At one request, with pauses that grow from 0.1 to 15 s; and for how long."""
COALESCE_BYTES = 2**14
"""Bytes that are read for nothing rather than ask twice: those of a small tile."""

Answer = TypeVar("Answer")


def is_url(text: object) -> bool:
    """Whether ``text`` is a URL rather than a path."""
    return "://" in str(text)


@dataclass(frozen=True, order=True)
class Url:
    """One URL, without a slash at its end.

    Raises
    ------
    UsageError
        If it is not one of `SCHEMES`.
    """

    text: str
    """``s3://bucket/slides/case-17.svs``"""

    def __post_init__(self) -> None:
        scheme, host, path, *_ = urlsplit(self.text, allow_fragments=False)
        if scheme not in SCHEMES or not host:
            allowed = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise UsageError(f"{self.text} is no URL that can be read; allowed: file://, {allowed}")
        if {"..", "."} & set(path.split("/")) or "//" in path:
            raise UsageError(f"{self.text} has an empty part, or .. in it; give the URL without")
        object.__setattr__(self, "text", self.text.rstrip("/"))

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self.text}/{name}")

    @property
    def scheme(self) -> str:
        """``s3``, ``https``, ..."""
        return self.text.partition("://")[0]

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return posixpath.basename(self._key)

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        """The last suffix of the name, with its dot."""
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> Url:
        """All but the name."""
        return Url(self.text.removesuffix(self.name))

    def with_name(self, name: str) -> Url:
        """The same with another name."""
        return self.parent / name

    @property
    def lists(self) -> bool:
        """Whether it can be asked what begins with its name."""
        return self.scheme not in WEB

    @property
    def store(self) -> ObjectStore:
        """All that begins with this URL and a slash, as obstore and zarr read it."""
        return connect_store(self.text, REQUEST_SECONDS)

    @property
    def _host(self) -> ObjectStore:
        return connect_store(f"{self.scheme}://{urlsplit(self.text).netloc}", REQUEST_SECONDS)

    @property
    def _key(self) -> str:
        """What follows host or bucket."""
        return self.text.partition("://")[2].partition("/")[2]

    def head(self) -> dict[str, Any]:
        """Its ``size``, ``last_modified`` and ``e_tag``.

        Raises
        ------
        OSError
            If it is not there, or can not be reached.
        """
        import obstore

        with self._as_os_error():
            return dict(obstore.head(self._host, self._key))

    def exists(self) -> bool:
        """Whether it is a file, or a folder with something in it."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is something under this very name."""
        try:
            return bool(self._key) and self.head() is not None
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Whether something begins with this name and a slash; never, of a web server."""
        return self.lists and next(self.files(), None) is not None

    def files(self) -> Iterator[tuple[str, int]]:
        """Name, after this one and a slash, and size in bytes of all that is in this folder and in those within.

        Raises
        ------
        OSError
            If that can not be told.
        """
        return ((row["path"], row["size"]) for row in self.rows())

    def rows(self) -> Iterator[dict[str, Any]]:
        """As `files`: ``path``, after this one, ``size`` and ``last_modified`` of each."""
        import obstore

        self._check_lists()
        start = f"{self._key}/" if self._key else ""
        with self._as_os_error():
            for chunk in obstore.list(self._host, prefix=self._key or None):
                for row in chunk:
                    if row["path"].startswith(start):
                        yield {**row, "path": row["path"].removeprefix(start)}

    def iterdir(self) -> Iterator[Url]:
        """What is in this folder; those within it too."""
        import obstore

        self._check_lists()
        with self._as_os_error():
            found = obstore.list_with_delimiter(self._host, prefix=self._key or None)
        host = self.text.removesuffix(self._key).rstrip("/")
        for path in (*found["common_prefixes"], *(row["path"] for row in found["objects"])):
            yield Url(f"{host}/{path}")

    def _check_lists(self) -> None:
        if not self.lists:
            raise OSError(errno.ENOTSUP, "a web server does not say what it has", str(self))

    def read_bytes(self) -> bytes:
        """All of it.

        Raises
        ------
        OSError
            If it is not there, or can not be read.
        """
        import obstore

        with self._as_os_error():
            return bytes(obstore.get(self._host, self._key).bytes())

    def read_tagged(self) -> tuple[bytes, str] | None:
        """All of it, and its e_tag; None if it is not there.

        Raises
        ------
        OSError
            If it can not be read.
        """
        import obstore

        with self._as_os_error():
            try:
                found = obstore.get(self._host, self._key)
            except FileNotFoundError:
                return None
            return bytes(found.bytes()), found.meta["e_tag"] or ""

    def read_ranges(self, starts: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        """``counts`` bytes from each of ``starts``, which lie within the file; several at a time.

        Raises
        ------
        OSError
            If it is not there, or can not be read.
        """
        import obstore

        if not starts:
            return []
        with self._as_os_error():
            found = obstore.get_ranges(self._host, self._key, starts=starts, lengths=counts, coalesce=COALESCE_BYTES)
            return list(map(bytes, found))

    def write_bytes(self, blob: bytes) -> None:
        """Put ``blob`` there, over what is there.

        Raises
        ------
        OSError
            If it can not be written.
        """
        import obstore

        with self._as_os_error():
            obstore.put(self._host, self._key, blob)

    def put_if(self, blob: bytes, e_tag: str | None) -> str | None:
        """Put ``blob`` there if ``e_tag`` is what is there now, or None and nothing is; the new e_tag, or None.

        It is None too where the ``blob`` was put there, and the answer was lost.

        Raises
        ------
        OSError
            If it can not be written.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if e_tag is None else {"e_tag": e_tag}
        with self._as_os_error():
            try:
                return again(lambda: obstore.put(self._host, self._key, blob, mode=mode))["e_tag"]
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return None

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove it; S3 does not say whether it was there.

        Raises
        ------
        OSError
            If it can not be removed.
        """
        self.remove([""], missing_ok=missing_ok)

    def remove(self, names: Sequence[str], *, missing_ok: bool = True) -> None:
        """Remove the files of ``names`` in this folder; the empty name stands for itself."""
        import obstore

        keys = [f"{self._key}/{name}" if name else self._key for name in names]
        with self._as_os_error(), suppress(*[FileNotFoundError] if missing_ok else []):
            again(lambda: obstore.delete(self._host, keys))

    def copy(self, name: str, to: Url) -> None:
        """Copy the file of ``name`` in this folder into folder ``to`` of the same bucket, without fetching it.

        Raises
        ------
        OSError
            If it can not be written.
        """
        import obstore

        with self._as_os_error():
            obstore.copy(self._host, f"{self._key}/{name}", f"{to._key}/{name}")

    @contextmanager
    def _as_os_error(self) -> Iterator[None]:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except FileNotFoundError as err:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(self)) from err
        except (PermissionDeniedError, UnauthenticatedError) as err:
            raise PermissionError(errno.EACCES, f"no permission ({_first_line(err)})", str(self)) from err
        except BaseError as err:
            raise OSError(errno.EIO, _first_line(err), str(self)) from err


@lru_cache(maxsize=256)
def connect_store(url: str, seconds: float) -> ObjectStore:
    """All that is below ``url``, whose requests take ``seconds`` at most: one in a process, for its connections.

    It makes requests again that failed; of those that took too long all but the two kinds that `again` is for.
    """
    from obstore.store import from_url

    return from_url(
        url,
        client_options={"allow_http": True, "timeout": timedelta(seconds=seconds)},
        retry_config={"max_retries": ATTEMPTS, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )


def again(request: Callable[[], Answer]) -> Answer:
    """What ``request`` gives, a removal or a write on condition: one that took too long obstore does not make again."""
    from obstore.exceptions import GenericError

    over = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return request()
        except GenericError:
            if time.monotonic() > over:
                raise


def _first_line(err: Exception) -> str:
    return str(err).splitlines()[0]
