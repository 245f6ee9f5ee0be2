"""``wsipipe model``: show models, and make untrained ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from wsipipe.errors import UsageError


@click.group()
def model() -> None:
    """Show or make a model."""


@model.command()
@click.argument("model")
def show(model: str) -> None:
    """Print the metadata of MODEL as JSON."""
    from wsipipe.model.model_file import load_model

    info = load_model(model).info
    receptive = info.receptive
    sizes = {"halo_px": receptive.halo, "margin_px": receptive.margin, "core_multiple_px": receptive.stride}
    click.echo(
        json.dumps(
            {
                "path": info.path,
                "sha256": info.sha256,
                **asdict(info.network),
                **sizes,
                **asdict(info.spec),
            },
            indent=2,
        )
    )


@model.command()
@click.argument("model")
@click.option("--in-channels", default=3, show_default=True, metavar="N", help="Channels of the slides.")
@click.option("--base-channels", default=64, show_default=True, metavar="N", help="Channels of the first level.")
@click.option("--depth", default=4, show_default=True, metavar="N", help="Number of 2x2 poolings.")
@click.option("--classes", default=2, show_default=True, metavar="N", help="Classes of the softmax; 1: one sigmoid.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Seed of the random weights.")
@click.option("--mpp", type=float, metavar="F", help="Micrometres per pixel of its input.  [default: any]")
def init(
    model: str, in_channels: int, base_channels: int, depth: int, classes: int, seed: int, mpp: float | None
) -> None:
    """Write an untrained model to MODEL, for tests and timings."""
    for option, value, least in (
        ("--in-channels", in_channels, 1),
        ("--base-channels", base_channels, 1),
        ("--depth", depth, 0),
        ("--classes", classes, 1),
    ):
        if value < least:
            raise UsageError(f"{option} must be {least} or more (got {value})")
    if Path(model).exists():
        raise UsageError(f"{model} already exists; give another name, or remove it")

    from wsipipe.model.model_file import save_untrained

    sizes = {"in_channels": in_channels, "classes": classes, "base_channels": base_channels, "depth": depth}
    count = save_untrained(model, sizes, seed=seed, mpp=mpp)
    click.echo(f"{model}: {count:,} untrained weights")
