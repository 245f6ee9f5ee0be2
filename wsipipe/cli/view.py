"""``wsipipe view``: slides and results in a browser."""

from __future__ import annotations

import click


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="STORE|SLIDE|OUT...")
@click.option("--browser/--no-browser", default=True, help="Open the page in a browser.  [default: where there is a screen]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on.  [default: a free one]")
def view(paths: tuple[str, ...], browser: bool, host: str, port: int) -> None:
    """Show slides, with their labels and objects over them, in a browser, until Ctrl-C.

    A folder of results gives a page of all of them, also while a run writes there. Whoever has the address, which ends
    in a token, can look; the server listens on this machine only, unless --host says otherwise. On a server without
    a screen, the second line is the command that brings the page to your own machine.
    """
    from wsipipe.view.serve import serve

    serve(paths, host=host, port=port, browser=browser, say=click.echo)
