"""Files behind a URL, in pathlib's words: in a bucket (S3, Google, Azure), or on a web server.

A file behind a URL appears whole or not at all, and is never renamed. A folder is only a prefix that several names
share. A web server cannot list the names with a prefix, and cannot be written to.

A bucket's endpoint and credentials come from environment variables: ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ...
A URL of a web server may have a query string, such as the signature of a presigned URL. It is sent with each request,
and is no part of a `Url`'s text, so that no store, report, log or message has it.

Source: https://developmentseed.org/obstore/ (the Rust crate object_store)
"""

from __future__ import annotations

import errno
import posixpath
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from wsipipe.errors import UsageError
from wsipipe.extras import require
from wsipipe.redaction import without_secrets

if TYPE_CHECKING:
    from obstore.store import ObjectStore

WEB = ("http", "https")
CONTAINERS = ("abfs", "abfss")
"""Schemes whose URLs have the name of a container before the host: ``abfss://container@account...``."""
SCHEMES = ("s3", "gs", "az", *CONTAINERS, *WEB)
REQUEST_SECONDS = 30.0
"""The time after which a request that is not fully answered is repeated."""
RETRIES, RETRY_SECONDS = 10, 180.0
"""Retries of a request, with pauses that grow from 0.1 to 15 s, and the time limit for all of them."""
COALESCE_BYTES = 2**14
"""Gap between two ranges, in bytes, that is read too rather than make two requests: the size of a small tile."""

signatures: dict[str, str] = {}
"""Query strings by URL without them: those that this process was given. A child's is that of its nearest parent."""

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
        If it is not one of `SCHEMES`, or has a user name, a password or a token before its host.
    MachineError
        If what reads and writes them is not installed.
    """

    text: str
    """The URL itself, such as ``s3://bucket/slides/case-17.svs``; without its query string, if it had one."""
    query: str = field(default="", init=False, repr=False, compare=False)
    """The query string that it was given with."""

    def __post_init__(self) -> None:
        scheme, host, path, query, _ = parts = urlsplit(self.text, allow_fragments=False)
        if "@" in host and (scheme not in CONTAINERS or ":" in host):
            raise UsageError(
                f"{without_secrets(self.text)} was given with a user name, password or token before its host, which "
                "would end up in logs and results; remove it: buckets take credentials from environment variables, "
                "and a web server can give a presigned URL"
            )
        try:
            _ = parts.port
        except ValueError:  # such as the begin of a password that has a slash; the text is not quoted
            raise UsageError(f"a URL of {scheme}:// has a port that is not a number; correct it") from None
        if scheme in WEB and query:
            object.__setattr__(self, "text", self.text.partition("?")[0])
            object.__setattr__(self, "query", query)
            signatures[self.text.rstrip("/")] = query
        if scheme not in SCHEMES or not host:
            allowed = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise UsageError(f"{self.text} is not a supported URL; allowed: file://, {allowed}")
        if {"..", "."} & set(path.split("/")) or "//" in path:
            raise UsageError(f"{self.text} has an empty part, . or .. in its path; remove it")
        object.__setattr__(self, "text", self.text.rstrip("/"))
        require("obstore", "cloud", what=self.text)

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self.text}/{name}")

    @property
    def scheme(self) -> str:
        """The scheme: ``s3``, ``https``, ..."""
        return self.text.partition("://")[0]

    @property
    def name(self) -> str:
        """The part after the last slash."""
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
        """The URL without its name."""
        return Url(self.text.removesuffix(self.name))

    def with_name(self, name: str) -> Url:
        """The same URL with another name."""
        return self.parent / name

    @property
    def lists(self) -> bool:
        """Whether the names below it can be listed."""
        return self.scheme not in WEB

    @property
    def store(self) -> ObjectStore:
        """The store of all that begins with this URL and a slash, for obstore and zarr."""
        return connect_store(self.text, REQUEST_SECONDS, self._signature)

    @property
    def _host(self) -> ObjectStore:
        return connect_store(f"{self.scheme}://{urlsplit(self.text).netloc}", REQUEST_SECONDS, self._signature)

    @property
    def _signature(self) -> str:
        """The query string of its requests."""
        text = self.text
        while text not in signatures and "/" in text.partition("://")[2]:
            text = text.rpartition("/")[0]
        return signatures.get(text, "")

    @property
    def _key(self) -> str:
        """The part after the host or bucket."""
        return self.text.partition("://")[2].partition("/")[2]

    def head(self) -> dict[str, Any]:
        """The file's ``size``, ``last_modified`` and ``e_tag``.

        Raises
        ------
        OSError
            If it does not exist, or cannot be reached.
        """
        import obstore

        with self._as_os_error():
            if self._signature:  # it may be for GET alone
                return dict(obstore.get(self._host, self._key, options={"range": (0, 1)}).meta)
            return dict(obstore.head(self._host, self._key))

    def exists(self) -> bool:
        """Whether it is a file, or a folder that is not empty."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is a file of exactly this name."""
        try:
            return bool(self._key) and self.head() is not None
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Whether any name begins with this one and a slash; always False on a web server."""
        return self.lists and next(self.files(), None) is not None

    def files(self) -> Iterator[tuple[str, int]]:
        """(relative name, size in bytes) of each file in this folder and in the folders within it.

        Raises
        ------
        OSError
            If they cannot be listed.
        """
        return ((row["path"], row["size"]) for row in self.rows())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Like `files`, but a dict of each file, with its relative ``path``, ``size`` and ``last_modified``."""
        import obstore

        self._check_lists()
        start = f"{self._key}/" if self._key else ""
        with self._as_os_error():
            for chunk in obstore.list(self._host, prefix=self._key or None):
                for row in chunk:
                    if row["path"].startswith(start):
                        yield {**row, "path": row["path"].removeprefix(start)}

    def iterdir(self) -> Iterator[Url]:
        """The files and folders directly in this folder."""
        import obstore

        self._check_lists()
        with self._as_os_error():
            found = obstore.list_with_delimiter(self._host, prefix=self._key or None)
        host = self.text.removesuffix(self._key).rstrip("/")
        for path in (*found["common_prefixes"], *(row["path"] for row in found["objects"])):
            yield Url(f"{host}/{path}")

    def _check_lists(self) -> None:
        if not self.lists:
            raise OSError(errno.ENOTSUP, "a web server cannot list its files", str(self))

    def read_bytes(self) -> bytes:
        """The whole content.

        Raises
        ------
        OSError
            If it does not exist, or cannot be read.
        """
        import obstore

        with self._as_os_error():
            return bytes(obstore.get(self._host, self._key).bytes())

    def read_tagged(self) -> tuple[bytes, str] | None:
        """(whole content, e_tag), or None if the file does not exist.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        import obstore

        with self._as_os_error():
            try:
                found = obstore.get(self._host, self._key)
            except FileNotFoundError:
                return None
            return bytes(found.bytes()), found.meta["e_tag"] or ""

    def read_ranges(self, starts: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        """``counts[i]`` bytes from ``starts[i]`` on, within the file, for each i; several ranges at a time.

        Raises
        ------
        OSError
            If it does not exist, or cannot be read.
        """
        import obstore

        if not starts:
            return []
        with self._as_os_error():
            found = obstore.get_ranges(self._host, self._key, starts=starts, lengths=counts, coalesce=COALESCE_BYTES)
            return list(map(bytes, found))

    def write_bytes(self, blob: bytes) -> None:
        """Write ``blob``; an existing file is replaced.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        import obstore

        with self._as_os_error():
            obstore.put(self._host, self._key, blob)

    def put_if(self, blob: bytes, e_tag: str | None) -> str | None:
        """Write ``blob`` if the file still has ``e_tag``, or does not exist and that is None; the new e_tag, or None.

        None means that it was not written, or that it was and the answer was lost.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if e_tag is None else {"e_tag": e_tag}
        with self._as_os_error():
            try:
                return retried(lambda: obstore.put(self._host, self._key, blob, mode=mode))["e_tag"]
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return None

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file; S3 does not say whether it existed.

        Raises
        ------
        OSError
            If it cannot be removed.
        """
        self.remove([""], missing_ok=missing_ok)

    def remove(self, names: Sequence[str], *, missing_ok: bool = True) -> None:
        """Remove the files ``names`` of this folder; the empty name stands for this URL itself."""
        import obstore

        keys = [f"{self._key}/{name}" if name else self._key for name in names]
        with self._as_os_error(), suppress(*[FileNotFoundError] if missing_ok else []):
            retried(lambda: obstore.delete(self._host, keys))

    def copy(self, name: str, to: Url) -> None:
        """Copy the file ``name`` of this folder into the folder ``to`` of the same bucket, without downloading it.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        import obstore

        with self._as_os_error():
            obstore.copy(self._host, f"{self._key}/{name}", f"{to._key}/{name}")

    @contextmanager
    def _as_os_error(self) -> Iterator[None]:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        def cause(err: Exception) -> Exception | None:
            return None if self._signature else err  # its text has the whole URL

        try:
            yield
        except FileNotFoundError as err:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(self)) from cause(err)
        except (PermissionDeniedError, UnauthenticatedError) as err:
            raise PermissionError(errno.EACCES, f"no permission ({_first_line(err)})", str(self)) from cause(err)
        except BaseError as err:
            raise OSError(errno.EIO, _first_line(err), str(self)) from cause(err)


@lru_cache(maxsize=256)
def connect_store(url: str, seconds: float, query: str = "") -> ObjectStore:
    """The store of all that is below ``url``; a process has one, so that its connections are shared.

    A request may take ``seconds``, and has the query string ``query``. Requests that fail are retried, and so are those
    that time out, but for the two kinds that `retried` retries.
    """
    from obstore.store import HTTPStore, from_url

    # A signed URL of Amazon or Azure is one of a web server: their own stores would sign requests themselves.
    connect = HTTPStore.from_url if query else from_url
    return connect(
        f"{url}?{query}" if query else url,
        client_options={"allow_http": True, "timeout": timedelta(seconds=seconds)},
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )


def retried(request: Callable[[], Answer]) -> Answer:
    """The result of ``request``, a removal or a conditional write: obstore does not retry these after a timeout."""
    from obstore.exceptions import GenericError

    over = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return request()
        except GenericError:
            if time.monotonic() > over:
                raise


def _first_line(err: Exception) -> str:
    return without_secrets(str(err).splitlines()[0])
