"""A model in int8: calibrated on tissue, and compared on other tissue of the same slides before it is written."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dask.system import CPU_COUNT

from wsipipe.errors import ModelError, UsageError
from wsipipe.files import Location
from wsipipe.importing.memory import measure_bytes
from wsipipe.inference.devices import ENGINES_OF, is_installed, resolve_engine
from wsipipe.inference.replica import Replica
from wsipipe.model.file_kind import SUFFIX_OF, FileKind, kind_named
from wsipipe.model.model_file import Model, ModelInfo, load_model, read_model_info, write_description
from wsipipe.model.spec import INT8_RECORD
from wsipipe.quantization.agreement import Agreement, agreement
from wsipipe.quantization.graph import float_network
from wsipipe.quantization.nncf_int8 import NNCF, nncf_version, quantized
from wsipipe.quantization.tiles import SEED, TissueTile, tissue_tiles


@dataclass(frozen=True)
class QuantizeRequest:
    """How a model becomes int8."""

    tiles: int = 32
    """Tiles to calibrate on, and most tiles to compare on."""
    mpp: float | None = None
    """Micrometres per pixel of the slides' finest level, instead of those in their files."""
    least_dice: float = 0.98
    """The least Dice coefficient of each class, int8 against float32."""

    def __post_init__(self) -> None:
        if self.tiles < 1:
            raise UsageError(f"--tiles must be 1 or more (got {self.tiles})")
        if not 0 <= self.least_dice <= 1:
            raise UsageError(f"--least-dice must be from 0 to 1 (got {self.least_dice})")


def quantize_model(
    model: str | Path,
    target: Path,
    slides: Sequence[Location],
    request: QuantizeRequest | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[ModelInfo, Agreement]:
    """Write ``model`` in int8 to ``target``; returns what the new file says, and how far it agrees with ``model``.

    Parameters
    ----------
    model
        The path of a model, or the name of one that comes with wsipipe: a U-Net of wsipipe, or an ONNX file.
    target
        The ONNX file to write; it appears whole.
    slides
        Files of slides, in whose tissue it is calibrated and compared.
    request
        How; None: by default.
    say
        Told what comes next.

    Raises
    ------
    ModelError
        If the model cannot become int8, or would agree less with float32 than is asked for.
    UsageError
        If ``target`` is not named as an ONNX file.
    SlideError
        If a slide cannot be read, does not suit the model, or has no tissue.
    MachineError
        If a package is missing, or ``target`` cannot be written.
    """
    request, info = request or QuantizeRequest(), read_model_info(model)
    if kind_named(target) is not FileKind.ONNX:
        raise UsageError(f"-o {target}: the model becomes ONNX; give a name that ends in {SUFFIX_OF[FileKind.ONNX]}")
    version = nncf_version()
    original = load_model(model)
    graph, network = float_network(original)
    say("looking for tissue")
    tiles, others = tissue_tiles(info, slides, request.tiles, mpp=request.mpp)
    say(f"calibrating on {len(tiles)} tiles")
    graph = quantized(graph, network, [tile.pixels(info.receptive) for tile in tiles], info.spec)
    with tempfile.TemporaryDirectory() as folder:
        bare, made = Path(folder) / "network.onnx", Path(folder) / target.name
        bare.write_bytes(graph.SerializeToString(deterministic=True))
        write_description(bare, made, network, info.spec)
        say(f"comparing on {len(others)} others")
        agreed = agreement(_replica(original), _replica(load_model(made)), others)
        _check(agreed, request.least_dice, info)
        say("measuring its memory")
        network = replace(network, bytes_per_pixel=_bytes_per_pixel(made))
        record = _record(info, version, tiles, agreed)
        spec = replace(info.spec, name=f"{info.spec.name}-int8", training=info.spec.training | {INT8_RECORD: record})
        write_description(bare, target, network, spec)
    return read_model_info(target), agreed


def _replica(model: Model) -> Replica:
    """The model on the CPU, by the first of its engines that is installed."""
    engine = resolve_engine("auto", ("cpu",), kind=model.info.network.kind)
    return Replica(model, "cpu", engine=engine, threads=CPU_COUNT)


def _bytes_per_pixel(model: Path) -> dict[str, float]:
    """Memory of each engine for a pixel of a tile, rounded up to quarters of powers of two: repeatable."""
    measured = measure_bytes(model, [engine for engine in ENGINES_OF[FileKind.ONNX] if is_installed(engine)])
    return {
        engine: float(math.ceil(2 ** (math.ceil(4 * math.log2(max(value, 1))) / 4)))
        for engine, value in measured.items()
    }


def _check(agreed: Agreement, least_dice: float, info: ModelInfo) -> None:
    """Raise a ModelError if a class has a Dice coefficient below ``least_dice``, or nothing was found to compare."""
    found = {name: value for name, value in agreed.dice.items() if not math.isnan(value)}
    if not found:
        raise ModelError(
            f"model {info.path} finds nothing in the {agreed.tiles} tiles that it is compared on, in float32 nor in "
            "int8; give slides on which it does (--on)"
        )
    name = min(found, key=lambda name: found[name])
    if found[name] < least_dice:
        raise ModelError(
            f"model {info.path}: in int8 the class {name!r} would have a Dice coefficient of {found[name]:.4f} against "
            f"float32, and --least-dice is {least_dice:g}; calibrate on more tiles (--tiles), or on more slides that "
            "are like those to segment (--on), or accept it with a lower --least-dice"
        )


def _record(info: ModelInfo, version: str, tiles: Sequence[TissueTile], agreed: Agreement) -> dict[str, Any]:
    """What the model says of how it was made; nothing in it depends on the speed of this machine."""
    return {
        "of": {"name": info.spec.name, "sha256": info.sha256},
        "by": f"{NNCF} {version}",
        "slides": sorted({tile.slide for tile in tiles}),
        "tiles": len(tiles),
        "core_px": max(max(tile.core.shape) for tile in tiles),
        "seed": SEED,
        "compared": {
            "tiles": agreed.tiles,
            "labels": agreed.labels,
            "differing": agreed.differing,
            "dice": {name: None if math.isnan(value) else round(value, 5) for name, value in agreed.dice.items()},
            "objects": agreed.objects,
            "lost": agreed.lost,
            "appeared": agreed.appeared,
        },
    }
