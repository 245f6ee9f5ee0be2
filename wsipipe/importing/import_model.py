"""A network of another program becomes a model: its file is described, and how far it looks is measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path

import numpy as np
import torch

from wsipipe.errors import ModelError, NoFiniteReachError, UsageError, WsipipeError
from wsipipe.extras import install
from wsipipe.geometry.network import Receptive, round_up
from wsipipe.importing.inside import foreign_of, global_operation, opaque_compute
from wsipipe.importing.legal_sides import Compute, Sides, SidesHint, find_sides, noise
from wsipipe.importing.memory import measure_bytes
from wsipipe.importing.reach import measure_receptive, shift_test
from wsipipe.importing.smallest_side import MOST_SIDE_PX, smallest_side
from wsipipe.inference.devices import COMPILE, ENGINES_OF, is_installed
from wsipipe.inference.engines.start import start_engine
from wsipipe.model.file_kind import SUFFIX_OF, FileKind, kind_named, kind_of
from wsipipe.model.model_file import (
    PORTS,
    Model,
    ModelInfo,
    check_fit,
    load_foreign,
    read_model_info,
    write_description,
)
from wsipipe.model.network import LABELS, MOST_CHANNELS, MOST_PX, SIGMOID, SOFTMAX, ForeignNetwork, Head
from wsipipe.model.port import Port
from wsipipe.model.spec import BACKGROUND, MOST_LABEL, LabelClass, ModelSpec
from wsipipe.model.torchscript_file import convert_torchscript, load_torchscript
from wsipipe.palette import class_color

UNMEASURED = Receptive(stride=1, halo=0, margin=0, crop=0)
MOST_ROOM_PX = 2048
"""The most that is added to margins for networks that take large tiles only."""
STRENGTHS = (3, 300)
"""Factors of the noise that tells logits from probabilities: logits grow with it."""
APPROXIMATE_STRIDE = 32
"""Grid of cores in pixels for networks that commute with no shift; encoders have it most often."""


@dataclass(frozen=True)
class NetworkRequest:
    """What a user says of a network; None where its file or its output says it."""

    head: str | None = None
    """``softmax``, ``sigmoid`` or ``labels``; None: labels of whole numbers, sigmoid of one channel, else softmax."""
    input: str | None = None
    """Name of the input."""
    output: str | None = None
    """Name of the output."""
    channels_last: bool = False
    """Whether it takes and gives (n, y, x, channel)."""
    in_channels: int = 3
    """Channels of its images, where the file does not say: of TorchScript."""
    step: int = 32
    """The sides of its images are multiples of so many pixels, where the file does not say."""
    margin: int | None = None
    """Pixels around each core for a network without a finite reach, whose labels are approximate then."""

    def __post_init__(self) -> None:
        for option, value, least, most in (
            ("--channels", self.in_channels, 1, MOST_CHANNELS),
            ("--step", self.step, 1, MOST_SIDE_PX),
            ("--margin", self.margin or 0, 0, MOST_PX),
        ):
            if not least <= value <= most:
                raise UsageError(f"{option} must be from {least} to {most} (got {value})")


def named_classes(names: Sequence[str]) -> tuple[LabelClass, ...]:
    """Classes by these names: ``background`` is label 0, and the others are 1, 2 and so on, in their order.

    Raises
    ------
    UsageError
        If a name is empty or there twice, or there are more than 255 besides background.
    """
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(f"--classes must be names, each of them once (got {','.join(names)!r})")
    others = [name for name in names if name != "background"]
    if len(others) > MOST_LABEL:
        raise UsageError(f"--classes: {len(others)} names besides background; {MOST_LABEL} is the most")
    return tuple(
        LabelClass(name, label, class_color(label))
        if (label := others.index(name) + 1 if name in others else BACKGROUND)
        else LabelClass(name, BACKGROUND, "#000000")
        for name in names
    )


def check_normalisation(spec: ModelSpec) -> None:
    """Raise a UsageError unless ``spec`` says how pixels are normalised, which nobody can guess of such networks.

    Raises
    ------
    UsageError
        If it leaves out means or deviations.
    """
    if not spec.mean or not spec.std:
        raise UsageError(
            f"model {spec.name!r}: say how the input is normalised: mean= and std= of wsipipe.ModelSpec, as shares of "
            "full scale; mean=(0, 0, 0), std=(1, 1, 1) for pixels from 0 to 1"
        )


def import_file(
    source: Path,
    target: Path,
    spec: ModelSpec,
    request: NetworkRequest,
    *,
    trust: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> ModelInfo:
    """As `import_model`, for a file of any kind; ``trust`` lets a TorchScript file execute what is in it.

    Raises
    ------
    NoFiniteReachError, ModelError, UsageError, OutputError
        As `import_model`; a ModelError also for a file that is none of a network.
    """
    kind = kind_of(source)
    if kind == FileKind.SAFETENSORS:
        raise ModelError(f"{source} is a safetensors file, which has weights but no network; -m takes those of wsipipe")
    if kind == FileKind.TORCHSCRIPT:
        return _import_torchscript(source, target, spec, request, trust=trust, say=say)
    if target.suffix != SUFFIX_OF[kind]:
        raise UsageError(f"-o {target}: {source} is {kind.value}; give a name that ends in {SUFFIX_OF[kind]}")
    return import_model(source, kind, target, spec, request, say)


def _import_torchscript(
    source: Path,
    target: Path,
    spec: ModelSpec,
    request: NetworkRequest,
    *,
    trust: bool,
    say: Callable[[str], None],
) -> ModelInfo:
    """As `import_file`, for a TorchScript file: it is converted first, to what the name of ``target`` says."""
    if (kind := kind_named(target)) is None:
        raise UsageError(
            f"-o {target}: {source} becomes ONNX or .pt2; give a name that ends in {' or '.join(SUFFIX_OF.values())}"
        )
    network = load_torchscript(source, trust=trust)
    say("converting it")
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / target.name
        side = smallest_side(network, request.in_channels, request.step, channels_last=request.channels_last)
        convert_torchscript(network, converted, channels=request.in_channels, side=side, step=request.step)
        return import_model(converted, kind, target, spec, request, say)


def import_model(
    source: Path,
    kind: FileKind,
    target: Path,
    spec: ModelSpec,
    request: NetworkRequest,
    say: Callable[[str], None] = lambda _: None,
) -> ModelInfo:
    """Write the network in ``source`` to ``target`` as a model, once it is measured.

    Parameters
    ----------
    source, kind
        A file of another program, and which.
    target
        The file to write; it appears whole.
    spec
        What the model says of itself: a class for each channel of the output.
    request
        What is known of the network.
    say
        Told what comes next.

    Raises
    ------
    NoFiniteReachError
        If tiles cannot give what the whole image would, and no margin is asked for.
    ModelError
        If the file cannot be used, or the spec does not fit it.
    UsageError
        If what is asked for is not in the file.
    OutputError
        If the file cannot be written.
    """
    check_normalisation(spec)
    network = measure_network(source, kind, spec, request, say)
    say("measuring its memory")
    engines = [engine for engine in ENGINES_OF[kind] if is_installed(engine)]
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder) / source.name
        write_description(source, tried, network, spec)
        network = replace(network, bytes_per_pixel=measure_bytes(tried, engines))
    write_description(source, target, network, spec)
    return read_model_info(target)


def measure_network(
    path: Path, kind: FileKind, spec: ModelSpec, request: NetworkRequest, say: Callable[[str], None] = lambda _: None
) -> ForeignNetwork:
    """The description of the network in the file at ``path``, all but the memory that it takes; as `import_model`.

    Raises
    ------
    NoFiniteReachError, ModelError, UsageError
        As `import_model`.
    """
    inputs, outputs = PORTS[kind](path)
    image = _port(path, "input", inputs, request.input)
    output = _port(path, "output", outputs, request.output)
    channels, hint = _image(path, image, channels_last=request.channels_last)
    network = ForeignNetwork(
        kind=kind,
        in_channels=channels,
        classes=len(spec.classes),
        head=Head(SOFTMAX),
        receptive=UNMEASURED,
        input=image.name,
        output=output.name if kind == FileKind.ONNX else str(outputs.index(output)),
        channels_last=request.channels_last,
        single=image.shape[0] == 1,
        exact=True,
        bytes_per_pixel={"": 0.0},
    )
    check_fit(path, network, spec)
    model = Model(ModelInfo(str(path), "", network, spec), load_foreign(path, network))
    compute = _compute(model)
    say("looking for the sides of tiles that it takes")
    sides = find_sides(compute, channels, hint)
    network = replace(network, head=_head(path, compute, network, sides, whole=_is_whole(output), wish=request.head))
    say("measuring how far it looks")
    try:
        receptive = measure_receptive(compute, channels, sides=sides, analysis=opaque_compute(model, sides, _compute))
        receptive = _with_room(compute, channels, receptive)
        shift_test(compute, channels, receptive)
    except NoFiniteReachError as err:
        if request.margin is None:
            operation = global_operation(model, sides)
            reason = f"{operation} looks at the whole image; use a network without it" if operation else err
            raise NoFiniteReachError(
                f"model {path} cannot be computed in tiles without seams: {reason}; or add --approximate --margin PX, "
                "and its labels will depend a little on the tiles"
            ) from err
        return replace(network, receptive=_approximate(compute, channels, sides, request.margin), exact=False)
    return replace(network, receptive=receptive)


def _with_room(compute: Compute, channels: int, receptive: Receptive) -> Receptive:
    """``receptive`` with a margin that makes the smallest tile, of one stride and the margin, large enough."""
    if receptive.largest_core is not None:
        return receptive
    for more in range(0, MOST_ROOM_PX, 2 * receptive.stride):
        side = receptive.stride + receptive.margin + more
        try:
            compute(noise(channels, side, side)[None])
        except (WsipipeError, RuntimeError, ValueError):  # what engines raise for sides that a network does not take
            continue
        return replace(receptive, margin=receptive.margin + more, crop=receptive.crop + more // 2)
    raise ModelError(
        f"the network takes no tile of {side} px, which has {receptive.stride} px and {receptive.margin} around"
    )


def _port(path: Path, what: str, ports: Sequence[Port], name: str | None) -> Port:
    """The one of ``ports`` that is called ``name``, or the only one."""
    there = "; ".join(map(str, ports))
    if name is None and len(ports) == 1:
        return ports[0]
    if name is None:
        raise UsageError(f"model {path} has {len(ports)} {what}s: {there}; say which with --{what} NAME")
    if (found := next((port for port in ports if port.name == name), None)) is not None:
        return found
    raise UsageError(f"--{what} {name}: model {path} has no such {what}; it has {there}")


def _image(path: Path, port: Port, *, channels_last: bool) -> tuple[int, SidesHint]:
    """The channels of an image that is given to ``port``, and what it declares of the sides."""
    if len(port.shape) != 4 or port.dtype != "float32":
        raise ModelError(
            f"model {path} takes {port}, which is no batch of images in float32: (n, channel, y, x) is needed"
        )
    number, *axes = port.shape
    channels, sides = (axes[2], axes[:2]) if channels_last else (axes[0], axes[1:])
    if channels is None or channels > max(3, *(side or 0 for side in sides)):
        raise ModelError(
            f"model {path} takes {port}, which does not say how many channels an image has where they are "
            f"expected, {'last' if channels_last else 'second'}; export it with a fixed number of channels, or "
            f"{'leave out' if channels_last else 'add'} --channels-last"
        )
    if number not in (None, 1):
        raise ModelError(f"model {path} takes {port}: {number} images at once; export it for one, or for any number")
    if len(set(sides)) > 1:
        raise ModelError(f"model {path} takes {port}: images that are not square; export it with free sides")
    return channels, SidesHint(fixed=sides[0])


def _is_whole(port: Port) -> bool:
    """Whether it has whole numbers: classes."""
    return port.dtype.startswith(("int", "uint"))


def _compute(model: Model) -> Compute:
    """What computes the network of ``model``, a foreign one, by the last of its engines that is installed."""
    path, kind = model.info.path, foreign_of(model).kind
    there = [engine for engine in reversed(ENGINES_OF[kind]) if is_installed(engine) and engine != COMPILE]
    if not there:
        raise ModelError(f"model {path} is {kind.value}, which nothing here computes; {install('onnx')}")
    engine = start_engine(there[0], model, torch.device("cpu"), threads=torch.get_num_threads())

    @torch.inference_mode()
    def compute(images: np.ndarray) -> np.ndarray:
        return engine(torch.from_numpy(np.ascontiguousarray(images))).float().numpy().copy()

    return compute


def _head(
    path: Path, compute: Compute, network: ForeignNetwork, sides: Sides, *, whole: bool, wish: str | None
) -> Head:
    """What the output of ``network`` means, as ``wish`` says and noise shows."""
    images = noise(network.in_channels, sides.legal, sides.width(sides.legal))[None]
    output = np.concatenate([compute(images * np.float32(strength)) for strength in STRENGTHS])
    channels = output.shape[1]
    kind = wish or (LABELS if whole else SIGMOID if channels == 1 else SOFTMAX)
    if whole != (kind == LABELS):
        raise UsageError(
            f"--head {kind}: the output of {path} has {'whole numbers' if whole else 'numbers that are not whole'}; "
            f"use --head {LABELS if whole else f'{SOFTMAX} or {SIGMOID}'}"
        )
    if kind == LABELS:
        if channels != 1:
            raise ModelError(f"model {path} gives classes in {channels} channels, not in one; choose another --output")
        if output.min() < 0 or output.max() >= network.classes:
            raise ModelError(
                f"model {path} gives classes from {int(output.min())} to {int(output.max())} for {network.classes} "
                "--classes; name all, from 0 on"
            )
        return Head(LABELS)
    if channels != network.classes:
        raise ModelError(
            f"model {path} has an output of {channels} channels for {network.classes} --classes; name one for each, in "
            "their order"
        )
    if kind == SOFTMAX and channels == 1:
        raise UsageError(f"--head {SOFTMAX}: the output of {path} has one channel; use --head {SIGMOID}")
    shares = bool((output >= 0).all() and (output <= 1).all())
    return Head(kind, shares and (kind == SIGMOID or np.allclose(output.sum(1), 1, atol=1e-4)))


def _approximate(compute: Compute, channels: int, sides: Sides, margin: int) -> Receptive:
    """Sizes of tiles with at least ``margin`` px around each core, on a grid that the network need not commute with."""
    lost = sides.legal - sides.scale * compute(noise(channels, sides.legal, sides.width(sides.legal))[None]).shape[2]
    if not sides.step:
        core = (sides.legal - 2 * margin) // sides.scale * sides.scale
        if core < 1 or (sides.legal - core) % 2 or lost // 2 > (sides.legal - core) // 2:
            raise UsageError(
                f"--margin {margin} leaves no core of the tiles of {sides.legal} px that the network takes; use less"
            )
        whole = sides.legal - core
        return Receptive(core, whole // 2, whole, whole // 2 - lost // 2, sides.scale, core)
    step = lcm(sides.step, sides.scale, APPROXIMATE_STRIDE)
    least = round_up(2 * max(margin, -(-lost // 2)), 2)
    for whole in range(least, least + 2 * step + 1, 2):
        if (step + whole - sides.legal) % sides.step == 0 and (whole // 2 - lost // 2) % sides.scale == 0:
            return Receptive(step, whole // 2, whole, whole // 2 - lost // 2, sides.scale)
    raise ModelError(f"no tile of the network has a core in its middle, with {margin} px around it")
