"""``wsipipe examples``: the examples that come with wsipipe, to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from wsipipe.cli.command import PATH

EXAMPLES = Path(__file__).parent.parent / "examples"
"""In a checkout, its folders are links to `workflows/` and `docs/notebooks/`."""


@click.command()
@click.argument("folder", default="wsipipe-examples", type=PATH, metavar="[DIR]")
def examples(folder: str) -> None:
    """Write examples into DIR: nights, workflows for schedulers, trainings, and notebooks.

    Files that are there stay as they are.
    """
    from wsipipe.errors import MachineError
    from wsipipe.files import make_folder, write_whole

    sources = sorted(path for name in EXAMPLES.glob("*") for path in name.glob("**/*") if path.is_file())
    if not sources:
        raise MachineError(f"{EXAMPLES} has no examples, because they were not installed; install wsipipe from a wheel")
    kept = 0
    for source in sources:
        target = Path(folder) / source.relative_to(EXAMPLES)
        if target.exists():
            kept += 1
            click.echo(f"{target} is there, and stays as it is", err=True)
            continue
        make_folder(target.parent)
        write_whole(target, source.read_bytes())
    index = Path(folder) / "workflows" / "README.md"
    click.echo(f"{len(sources) - kept} examples written to {folder}; {index} says which one to use")
