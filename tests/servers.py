"""A bucket on loopback, one that fails and stalls, and a web server that counts what it sends."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.faults import PATIENCE_SECONDS
from wsipipe.urls import Url

BUCKET = "lab"
SETTINGS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


def settings(port: int) -> dict[str, str]:
    """What a process needs to know of the bucket behind ``port``."""
    return {**SETTINGS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


@contextmanager
def s3_server() -> Iterator[int]:
    """The port of an S3 endpoint, a process of its own, with an empty `BUCKET`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("moto_server")
    with subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
            deadline = time.monotonic() + PATIENCE_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                with suppress(OSError):
                    urllib.request.urlopen(request).close()
                    break
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()


def upload(file: Path, url: str) -> str:
    """Put ``file``, or all in a folder, under ``url``; return ``url``."""
    for path in file.rglob("*") if file.is_dir() else [file]:
        if path.is_file():
            name = path.relative_to(file).as_posix()
            (Url(url) if path == file else Url(url) / name).write_bytes(path.read_bytes())
    return url


def download(url: str, folder: Path) -> Path:
    """Put all that is under ``url`` into ``folder``; return ``folder``."""
    for name, _ in Url(url).files():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((Url(url) / name).read_bytes())
    return folder


@dataclass
class Proxy:
    """A proxy for the server at ``port``: one request in ``every`` is refused, or never answered."""

    port: int
    every: int = 20
    requests: int = 0
    troubled: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    def trouble(self) -> str:
        """The trouble with the next request, if any."""
        with self._lock:
            self.requests += 1
            if self.requests % self.every:
                return ""
            kind = ("refused", "stalled", "done, and not answered")[self.requests // self.every % 3]
            self.troubled[kind] += 1
            return kind

    @contextmanager
    def serve(self) -> Iterator[int]:
        """Serve; yield its own port."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = (
                -1
            )  # headers and body go together; apart, the second waits 40 ms for the first to be acknowledged
            disable_nagle_algorithm = True

            def handle_one(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                kind = proxy.trouble()
                if kind == "refused":
                    return self.answer(503, {}, b"")
                if kind == "stalled":
                    return self.leave()
                connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                data, headers = answer.read(), dict(answer.getheaders())
                connection.close()
                if kind:
                    return self.leave()
                return self.answer(answer.status, headers, data)

            def leave(self) -> None:
                proxy._over.wait(PATIENCE_SECONDS)
                self.close_connection = True

            def answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in {"transfer-encoding", "connection", "content-length", "date", "server"}:
                        self.send_header(name, value)
                head = self.command == "HEAD" and "Content-Length" in headers
                self.send_header("Content-Length", headers["Content-Length"] if head else str(len(data)))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else data)

            def log_message(self, *_: object) -> None:
                pass

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one  # noqa: N815

        with _serving(Handler) as port:
            try:
                yield port
            finally:
                self._over.set()


@dataclass
class Web:
    """A web server that sends files of ``folder``, and parts of them, and keeps what it sent."""

    folder: Path
    sent: dict[str, int] = field(default_factory=Counter)
    """Bytes by path."""
    whole: list[str] = field(default_factory=list)
    """Paths that were asked for without a range."""
    query: str = ""
    """The signature: what each request must have after its path; it is for GET alone, as those of S3 are."""

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve; yield its address."""
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = (
                -1
            )  # headers and body go together; apart, the second waits 40 ms for the first to be acknowledged
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self.send(with_body=True)

            def do_HEAD(self) -> None:
                self.send(with_body=False)

            def send(self, *, with_body: bool) -> None:
                name, _, query = self.path.partition("?")
                path, allowed = web.folder / name.lstrip("/"), query == web.query and (with_body or not query)
                if not allowed or not path.is_file():
                    self.send_response(404 if allowed else 403)
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                data, wanted = path.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                part = data[int(wanted[1]) : int(wanted[2]) + 1] if wanted else data
                self.send_response(206 if wanted else 200)
                if wanted:
                    start = int(wanted[1])
                    self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
                self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
                self.send_header("Access-Control-Allow-Origin", "*")
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                if with_body:
                    web.sent[self.path] = web.sent.get(self.path, 0) + len(part)
                    web.whole += [] if wanted else [self.path]
                    self.wfile.write(part)
                return None

            def log_message(self, *_: object) -> None:
                pass

        with _serving(Handler) as port:
            yield f"http://127.0.0.1:{port}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Do nothing: clients go away in the middle, which is what is tested."""


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
