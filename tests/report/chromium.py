"""A real Chromium without a window, controlled over a pipe by the DevTools protocol: no port, no other library.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-pipe"
)
PATIENCE_SECONDS = 60
"""Seconds after which a browser that says nothing is a failure."""


START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
"""Starts the browser, which reads commands from descriptor 3 and writes to 4."""


class Chromium:
    """A browser with one page; `events` holds all that the browser reported."""

    def __init__(self, profile: Path, *options: str) -> None:
        assert PROGRAM is not None
        reads, self._to = above_4(*os.pipe())
        self._from, writes = above_4(*os.pipe())
        program = [PROGRAM, *OPTIONS.split(), f"--user-data-dir={profile}", *options]
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(reads), str(writes), *program],
            pass_fds=(reads, writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(reads)
        os.close(writes)
        self._rest, self._calls, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Network", "Log", "Runtime"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call ``method``, and return its result."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._calls:
            self.events.append(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def open(self, page: Path | str, *, width: int = 1200) -> None:
        """Load ``page``, a file or an address, into a window of ``width`` px, and wait until it is complete."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        assert "errorText" not in self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def value(self, expression: str) -> Any:
        """The value of ``expression``, JavaScript that may be a promise."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def told(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the events named ``method``."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            there, _, _ = select.select([self._from], [], [], PATIENCE_SECONDS)
            assert there, "the browser says nothing"
            part = os.read(self._from, 2**20)
            assert part, "the browser is gone"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(message))

    def close(self) -> None:
        """End the browser by closing its pipe; kill what stays after that."""
        os.close(self._to)
        try:
            self._process.wait(PATIENCE_SECONDS)
        finally:
            os.close(self._from)
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def above_4(*descriptors: int) -> tuple[int, int]:
    """The two ``descriptors``, moved away from 3 and 4, which the browser uses."""
    first, second = (fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return first, second
