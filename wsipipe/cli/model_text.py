"""What ``wsipipe model`` says of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from math import isnan
from typing import TYPE_CHECKING, Any

from wsipipe.geometry.network import Receptive, round_up

if TYPE_CHECKING:
    from wsipipe.importing.margins import MarginShare
    from wsipipe.model.model_file import ModelInfo
    from wsipipe.quantization.agreement import Agreement

CORES_PX = (256, 512, 1024, 2048, 4096)
"""Cores that are shown, px, rounded up to the stride."""


def facts(info: ModelInfo) -> dict[str, Any]:
    """All that is known of a model, for JSON."""
    sizes = info.receptive
    return {
        "path": info.path,
        "sha256": info.sha256,
        **asdict(info.network),
        "kind": info.network.kind.value,
        "quantized": info.quantized,
        "reach_px": sizes.reach,
        "halo_px": sizes.halo,
        "margin_px": sizes.margin,
        "core_multiple_px": sizes.stride,
        "tiles": [{"core_px": core, "tile_px": tile, "computed_per_kept": cost} for core, tile, cost in tiles(sizes)],
        **asdict(info.spec),
    }


def described(info: ModelInfo) -> str:
    """What a user should know of a model: how far it looks, and what its tiles cost."""
    network, sizes = info.network, info.receptive
    kind = network.kind.value + ", quantised" * info.quantized
    exact = "tiles give what the whole image would" if network.exact else "APPROXIMATE: labels depend on the tiles"
    lines = [
        f"{info.path}: {kind}, {network.in_channels} channels, {network.classes} classes, {network.head}",
        f"it looks {sizes.reach} px far; stride {sizes.stride} px, margin {sizes.margin} px; {exact}",
        f"licence: {info.spec.licence}",
        *sources_text(info.spec.training),
        "core px   tile px   computed for one kept",
    ]
    return "\n".join([*lines, *(f"{core:7}   {tile:7}   {cost:.2f}" for core, tile, cost in tiles(sizes))])


def sources_text(training: dict[str, Any]) -> Iterator[str]:
    """A line for each data set that the record of a ``training`` names, with whom its licence asks to name."""
    for one in training.get("sources", []):
        by = f": {one['attribution']}" if one.get("attribution") else ""
        yield f"trained on {one.get('name')} ({one.get('licence') or 'licence not stated'}){by}"


def margins_text(margins: list[MarginShare]) -> str:
    """What margins below the reach change."""
    if not margins:
        return "no smaller margin is possible: its convolutions need what is around each core"
    rows = (f"{one.px:9}   {one.cost:.2f}                    {one.share:.4%}" for one in margins)
    return "\n".join(["margin px   computed for one kept   labels that differ", *rows])


def agreement_text(agreed: Agreement) -> str:
    """How far a model in int8 agrees with float32."""
    dice = ", ".join(f"{name} {value:.4f}" for name, value in agreed.dice.items() if not isnan(value))
    return "\n".join(
        [
            f"on {agreed.tiles} other tiles of the same slides, int8 against float32:",
            f"labels that differ   {agreed.differing / agreed.labels:.3%} of {agreed.labels:,}",
            f"Dice coefficient     {dice}",
            f"objects              {agreed.lost:,} of {agreed.objects:,} lost, {agreed.appeared:,} appeared",
            f"speed                {agreed.speedup:.2f} times that of float32",
        ]
    )


def tiles(sizes: Receptive) -> Iterator[tuple[int, int, float]]:
    """Cores that a network can have, their tiles, px, and how many pixels are computed for one that is kept."""
    for core in [sizes.largest_core] if sizes.largest_core else sorted({round_up(px, sizes.stride) for px in CORES_PX}):
        yield core, core + sizes.margin, round(((core + sizes.margin) / core) ** 2, 2)
