"""``wsipipe check``: whether finished results are still what they were."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from wsipipe.cli.command import PATH
from wsipipe.cli.exit_codes import EXIT_FAILED
from wsipipe.cli.json_text import echo_json

if TYPE_CHECKING:
    from wsipipe.store.check import StoreCheck


@click.command()
@click.argument("out", nargs=-1, required=True, type=PATH, metavar="OUT...")
@click.option("--threads", type=click.IntRange(min=1), help="Shards that are read at a time; as many as cores.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(out: tuple[str, ...], threads: int | None, as_json: bool) -> None:
    """Read all of the finished stores in each OUT, a folder of results or one store.

    Every shard of every level, probabilities and tissue mask included, must be there, and every chunk must fit its
    checksum; so must the table of objects, if there is one. If it is interrupted, the same command goes on with the
    next store.
    Exit code: 0 if all are sound, 1 if some are damaged.
    """
    import platformdirs
    from dask.system import CPU_COUNT

    from wsipipe.store.check import check_stores, stores_named

    stores = stores_named(out)
    name = hashlib.sha256("\0".join(map(str, stores)).encode()).hexdigest()[:16]
    notes = platformdirs.user_cache_path("wsipipe") / "check" / f"{name}.jsonl"
    checks = []
    for shards in check_stores(stores, threads or CPU_COUNT, notes):
        found = _with_objects(shards)
        checks.append(found)
        if not as_json:
            click.echo("\n".join([*found.damages] or [f"{found.store}: sound, {found.shards} shards"]))
    damaged = sum(bool(found.damages) for found in checks)
    if as_json:
        echo_json({"stores": [asdict(found) for found in checks], "damaged": damaged})
    else:
        way_out = "; delete what is named, and the command that made it makes it again" if damaged else ""
        click.echo(f"{len(checks)} stores, {damaged} damaged{way_out}")
    click.get_current_context().exit(EXIT_FAILED if damaged else 0)


def _with_objects(found: StoreCheck) -> StoreCheck:
    """What was found in a store, with the damages of its objects."""
    from wsipipe.errors import WsipipeError
    from wsipipe.objects.read import damages_of_objects
    from wsipipe.store.finished import open_finished

    try:
        return replace(found, damages=(*found.damages, *damages_of_objects(open_finished(found.store))))
    except WsipipeError:  # which is one of the damages already
        return found
