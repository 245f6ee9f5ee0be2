"""What somebody without this run's certificates can do to a run on this machine: ``python -m tests.attack``.

A real ``wsipipe run --cluster local:2`` is begun, and whatever port it listens on is attacked from other addresses of
this machine and from loopback, without a certificate and with one of another run. Each `CASES` returns what got in.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dask
import psutil
from distributed.core import rpc
from distributed.protocol.pickle import dumps
from distributed.security import Security

from tests.big import write_big_slide
from tests.faults import PATIENCE_SECONDS, shards, start, wait_until, write_model

SECONDS = 3
"""How long each attempt may take."""
PAGES = (
    *("info/main/workers.html", "info/logs.html", "info/call-stacks.html", "json/counts.json", "json/identity.json"),
    *("api/v1/get_workers", "metrics", "health", "status", "sitemap.json", "proxy/8786/127.0.0.1/"),
)
"""What an HTTP server of distributed may have."""
CODE = ("run", "run_function", "run_coroutine")
"""What workers, nannies and schedulers call to run code that comes over the network."""
SECRET = "patient-4711"
"""Part of the slide's name, which nobody else should see."""


@dataclass(frozen=True)
class Target:
    """A run, and where it listens."""

    folder: Path
    listening: tuple[tuple[str, int], ...]
    """(address, port) of each socket."""


@contextmanager
def target(folder: Path) -> Iterator[Target]:
    """A run with two worker processes, in the midst of a slide; it ends with the context."""
    (folder / "in").mkdir()
    slide = write_big_slide(folder / "in" / f"{SECRET}.zarr", 9000)
    write_model(folder / "b.safetensors")
    out = folder / "out"
    given = ["-m", folder / "b.safetensors", "-o", out, "--block", 128, "--tile", 128, "--device", "cpu"]
    given += ["--tissue", "off"]
    before = set(psutil.Process().children(recursive=True))
    process = start("run", slide, *given, "--cluster", "local:2", "--threads", 1, log=folder / "log")
    try:
        begun = out / f"{SECRET}.zarr.partial"
        assert wait_until(lambda: begun.exists() and len(shards(begun)) > 0, process), (folder / "log").read_text()
        family = set(psutil.Process().children(recursive=True)) - before
        yield Target(folder, tuple(sorted({socket_of for one in family for socket_of in _listening(one)})))
        assert process.poll() is None, "the attack is over before the run is"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_SECONDS)


def _listening(process: psutil.Process) -> Iterator[tuple[str, int]]:
    with suppress(psutil.NoSuchProcess):
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                yield connection.laddr.ip, connection.laddr.port


def other_addresses() -> list[str]:
    """Addresses of this machine that are not the one that the run should listen on."""
    families = (socket.AF_INET, socket.AF_INET6)
    found = {a.address for rows in psutil.net_if_addrs().values() for a in rows if a.family in families}
    return sorted((found | {"127.0.0.2"}) - {"127.0.0.1", "::1"})


def connects_from_outside(run: Target) -> list[str]:
    """Ports that answer at another address of this machine."""
    got_in = []
    for address in other_addresses():
        for _, port in run.listening:
            with suppress(OSError), socket.create_connection((address, port), timeout=SECONDS):
                got_in.append(f"{address}:{port} answers")
    return got_in


def runs_code(security: Security, scheme: str, run: Target) -> list[str]:
    """Ports of which a client with ``security`` had code run."""
    marker = run.folder / f"code-was-run-{scheme}"

    async def attempt(port: int, operation: str) -> None:
        connection = security.get_connection_args("client")
        async with rpc(f"{scheme}://127.0.0.1:{port}", connection_args=connection) as there:
            touch = partial(Path.touch, marker.with_name(f"{marker.name}-{port}"))
            await getattr(there, operation)(function=dumps(touch), args=dumps(()), kwargs=dumps({}))

    async def attempts() -> None:
        tried = [asyncio.wait_for(attempt(port, name), 2 * SECONDS) for _, port in run.listening for name in CODE]
        await asyncio.gather(*tried, return_exceptions=True)

    with dask.config.set({"distributed.comm.timeouts.connect": f"{SECONDS}s"}):
        asyncio.run(attempts())
    found = sorted(run.folder.glob(f"{marker.name}-*"))
    for path in found:
        path.unlink()
    return [f"code was run through port {path.name.rpartition('-')[2]}" for path in found]


def reads_pages(run: Target) -> list[str]:
    """Pages that name the slide, or the folder of the run."""
    got_in = []
    for _, port in run.listening:
        for page in PAGES:
            text = _page(f"http://127.0.0.1:{port}/{page}")
            if SECRET in text or str(run.folder) in text:
                got_in.append(f"port {port} tells of the slide at /{page}")
    return got_in


def _page(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return str(answer.read().decode(errors="replace"))
    except (OSError, ValueError, urllib.error.HTTPError):
        return ""
    except Exception as err:  # http.client's: not HTTP at all
        return f"{type(err).__name__}"


def changes_the_run(run: Target) -> list[str]:
    """Ports that obey the HTTP interface of a scheduler."""
    got_in = []
    for _, port in run.listening:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/v1/adaptive_target", headers={"Content-Type": "application/json"}
        )
        if _answers(request):
            got_in.append(f"port {port} obeys /api/v1")
    return got_in


def _answers(request: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return bool(answer.status == 200)
    except Exception:  # refused, one way or another
        return False


CASES: dict[str, Callable[[Target], list[str]]] = {
    "connecting from another address": connects_from_outside,
    "running code without a certificate": partial(runs_code, Security(require_encryption=False), "tcp"),
    "running code with the certificate of another run": partial(runs_code, Security.temporary(), "tls"),
    "reading the pages of its HTTP servers": reads_pages,
    "changing the run over HTTP": changes_the_run,
}


def main() -> int:
    """Run all cases, and say what got in; 1 if anything did."""
    got_in = 0
    with tempfile.TemporaryDirectory(prefix="wsipipe-attack-") as folder, target(Path(folder)) as run:
        sys.stdout.write(f"{len(run.listening)} ports: {', '.join(f'{a}:{p}' for a, p in run.listening)}\n")
        for name, case in CASES.items():
            found = case(run)
            got_in += len(found)
            sys.stdout.write(f"{name}: {'; '.join(found) or 'refused'}\n")
    return 1 if got_in else 0


if __name__ == "__main__":
    sys.exit(main())
