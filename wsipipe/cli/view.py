"""``wsipipe view``: slides and results in a browser."""

from __future__ import annotations

import os
import sys

import click

from wsipipe.cli.command import PATH


@click.command()
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="STORE|SLIDE|OUT...")
@click.option("--no-browser", is_flag=True, help="Do not open the page, only say where it is.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on.  [default: one that is free]"
)
@click.option("--napari", is_flag=True, help="Show them in napari instead: pip install 'wsipipe[napari]'.")
def view(paths: tuple[str, ...], no_browser: bool, host: str, port: int, napari: bool) -> None:
    """Show slides in a browser, with labels, probabilities and objects over them, until Ctrl-C.

    A folder of results gives a page of all of them, also while a run writes there. Whoever has the address, which ends
    in a token, can look. The server listens on this machine only, unless --host says otherwise; where there is no
    screen, a line says how to get the page to your own machine.
    """
    if napari:
        from wsipipe.napari_plugin.reader import open_in_napari

        open_in_napari(paths)
    else:
        _serve(paths, no_browser, host, port)


def _serve(paths: tuple[str, ...], no_browser: bool, host: str, port: int) -> None:
    import threading
    import webbrowser
    from contextlib import suppress

    from wsipipe.viewer.serving import LOOPBACK, ViewServer

    with ViewServer(paths, host=host, port=port) as server, suppress(KeyboardInterrupt):
        click.echo(f"{server.address}  (Ctrl-C ends it)")
        if _has_screen():
            if not no_browser:
                webbrowser.open(server.address)
        elif host in LOOPBACK:
            click.echo(f"from your own machine: {_tunnel(server.port)}, then that address")
        threading.Event().wait()


def _has_screen() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _tunnel(port: int) -> str:
    """The command that brings the page to the machine from which this one is used."""
    from getpass import getuser
    from socket import getfqdn, gethostname

    try:
        user = getuser()
    except (OSError, KeyError):  # no name for this user
        user = "USER"
    host = getfqdn()
    return f"ssh -N -L {port}:127.0.0.1:{port} {user}@{gethostname() if host.startswith('localhost') else host}"
