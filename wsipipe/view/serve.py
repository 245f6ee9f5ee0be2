"""Starts the viewer and keeps it running."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable, Iterable
from getpass import getuser

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from wsipipe.errors import MachineError
from wsipipe.files import Named
from wsipipe.view.catalog import Catalog
from wsipipe.view.server import Viewer, make_application

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def serve(paths: Iterable[Named], *, host: str, port: int, browser: bool, say: Callable[[str], None]) -> None:
    """Serve what is at ``paths`` until this process is interrupted.

    Parameters
    ----------
    paths
        Slides, stores, and folders of results.
    host, port
        Where to listen; port 0 is any that is free.
    browser
        Whether to open the page, if there is a screen.
    say
        Receives lines for the user.

    Raises
    ------
    SlideError
        If the only item cannot be opened.
    MachineError
        If the port is taken.
    """
    catalog = Catalog(paths)
    if len(catalog.refresh()) == 1:
        catalog.item(0)  # what is wrong with it is said before a page opens
    asyncio.run(_serve(catalog, host, port, browser, say))


async def _serve(catalog: Catalog, host: str, port: int, browser: bool, say: Callable[[str], None]) -> None:
    try:
        sockets = bind_sockets(port, host)
    except OSError as err:
        raise MachineError(f"cannot listen on {host}:{port}: {err.strerror or err}; choose another --port") from err
    port = sockets[0].getsockname()[1]
    token = secrets.token_urlsafe(24)
    names = LOOPBACK | {host} if host in LOOPBACK else LOOPBACK | {host, socket.gethostname(), socket.getfqdn()}
    server = HTTPServer(make_application(Viewer(catalog, token, frozenset(names))))
    server.add_sockets(sockets)
    shown = host if host != "0.0.0.0" else socket.getfqdn()
    address = f"http://{shown}:{port}/{token}/"
    say(f"{address}  (Ctrl-C ends it)")
    if _has_screen():
        if browser:
            webbrowser.open(address)
    elif host in LOOPBACK:
        say(f"from your own machine: ssh -N -L {port}:127.0.0.1:{port} {getuser()}@{socket.getfqdn()}, then that address")
    try:
        await asyncio.Event().wait()
    finally:
        server.stop()


def _has_screen() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
