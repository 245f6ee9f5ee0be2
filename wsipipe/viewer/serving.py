"""A viewer that runs: for the command line until it is interrupted, for a notebook as long as that lives."""

from __future__ import annotations

import asyncio
import html
import secrets
import socket
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from tornado.httpserver import HTTPServer

from wsipipe.errors import MachineError
from wsipipe.files import Named
from wsipipe.viewer.catalog import Catalog
from wsipipe.viewer.server import Viewer, make_application

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine that no other machine reaches."""
EVERY_INTERFACE = ("", "0.0.0.0", "::")
INLINE_HEIGHT_PX = 640
"""Height of the page within a notebook."""


class ViewServer:
    """Serves pages, in a thread of its own, until it is closed.

    Raises
    ------
    SlideError
        If the only item cannot be opened.
    OutputError
        If a folder cannot be listed.
    MachineError
        If the port is taken, or the host is not one of this machine.
    """

    def __init__(self, paths: Iterable[Named], *, host: str = "127.0.0.1", port: int = 0) -> None:
        catalog = Catalog(paths)
        if len(catalog.refresh()) == 1:
            catalog.item(0)  # what is wrong with it is said before a page opens
        try:
            listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as err:
            raise MachineError(
                f"{host}:{port} cannot be listened on: {err.strerror or err}; choose another --port or --host"
            ) from err
        listening.setblocking(False)
        self.port: int = listening.getsockname()[1]
        named = socket.getfqdn() if host in EVERY_INTERFACE else host
        token = secrets.token_urlsafe(24)
        names = {"localhost"} if host in LOOPBACK else {"localhost", named.lower(), socket.gethostname().lower()}
        self.address = f"http://{f'[{named}]' if ':' in named else named}:{self.port}/{token}/"
        """The page, with its token."""
        self._viewer = Viewer(catalog, token, frozenset(names))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(listening,), name="wsipipe-view", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving; the second time nothing happens."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._viewer.pool.shutdown(cancel_futures=True)

    def _serve(self, listening: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        server = HTTPServer(make_application(self._viewer))
        server.add_socket(listening)
        try:
            self._loop.run_forever()
        finally:
            server.stop()
            self._loop.run_until_complete(server.close_all_connections())
            self._loop.close()

    def _repr_html_(self) -> str:
        """The page within a notebook."""
        source = html.escape(self.address)
        return f'<iframe src="{source}" width="100%" height="{INLINE_HEIGHT_PX}" style="border:0"></iframe>'

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def view(*paths: Named, host: str = "127.0.0.1", port: int = 0) -> ViewServer:
    """Serve slides, and results over them, for a browser; in a notebook the page is shown where this is called.

    >>> wsipipe.view("segmentations/case-17.zarr")  # doctest: +SKIP

    Parameters
    ----------
    paths
        Slides, stores, and folders of results.
    host, port
        Where to listen; port 0 is any that is free.

    Returns
    -------
    ViewServer
        It has the ``address`` of the page, and serves until its ``close()`` or the end of this process.

    Raises
    ------
    SlideError
        If there is one path, and it cannot be opened.
    OutputError
        If a folder cannot be listed.
    MachineError
        If the port is taken.
    """
    return ViewServer(paths, host=host, port=port)
