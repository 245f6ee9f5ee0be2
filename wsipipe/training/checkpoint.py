"""A checkpoint: the whole state of a training at one step, in one safetensors file that appears by rename.

Nothing is pickled. On a CPU, a training that continues from it computes the same bits as one that never stopped.
"""

from __future__ import annotations

import json
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from wsipipe.errors import OutputError, TrainingError
from wsipipe.files import MAKE_ROOM, write_whole

CHECKPOINT_KEY, CHECKSUM_KEY = "wsipipe-checkpoint", "crc32"


@dataclass
class Progress:
    """Progress of a training."""

    step: int = 0
    """Batches done."""
    seconds: float = 0.0
    """Time since its beginning, without that between a crash and the next start."""
    best_step: int = 0
    """The step whose weights are the best so far; 0: none were validated yet."""
    best_score: float = -1.0
    """The score of those weights, with its sign such that more is better."""


def write_checkpoint(
    path: Path,
    fingerprint: str,
    progress: Progress,
    network: nn.Module,
    best: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    scale: float | None,
) -> None:
    """Write everything to ``path``; it appears whole or not at all.

    Parameters
    ----------
    path
        The file.
    fingerprint
        Identity of data and settings; a training that resumes must have the same.
    progress
        How far the training has come.
    network, optimizer
        Their present state is written; that of the optimizer by the numbers of the network's parameters.
    best
        The best weights so far, by name, each of the shape and dtype of the network's, any axes (...).
    scale
        Scale of the loss under float16, or None.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for number, parameter in enumerate(network.parameters()):
        state = optimizer.state.get(parameter, {})
        tensors |= {f"optimizer.{number}.{name}": v for name, v in state.items() if v is not None}
    header = json.dumps({"fingerprint": fingerprint, "progress": asdict(progress), "scale": scale})
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_whole(path, save(plain, metadata={CHECKPOINT_KEY: header, CHECKSUM_KEY: checksum(header, plain)}))


def read_checkpoint(
    path: Path, fingerprint: str, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Tensor], float | None]:
    """Restore ``network`` and ``optimizer`` from a checkpoint; returns its progress, best weights, and scale.

    The best weights are by name, each of the shape and dtype of the network's, any axes (...).

    Raises
    ------
    TrainingError
        If it cannot be read, is damaged, or is of other data or settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata[CHECKPOINT_KEY]
        _check_whole(metadata[CHECKSUM_KEY], text, tensors)
        header = json.loads(text)
        progress, scale, written_for = Progress(**header["progress"]), header["scale"], header["fingerprint"]
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as err:
        raise TrainingError(
            f"checkpoint {path} cannot be read ({err}); remove {path.parent} to start over, or use another -o"
        ) from err
    if written_for != fingerprint:
        raise TrainingError(
            f"checkpoint {path} was written with other data or settings; use those again, or another -o, "
            f"or remove {path.parent} to start over"
        )
    network.load_state_dict(_under(tensors, "network."))
    _restore(optimizer, list(network.parameters()), _under(tensors, "optimizer."))
    return progress, _under(tensors, "best."), scale


def checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """CRC-32 of ``text`` and all ``tensors``, of any axes (...) and dtype, with names: safetensors itself has none."""
    crc = zlib.crc32(text.encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode(), crc)
        crc = zlib.crc32(tensor.contiguous().numpy().data, crc)
    return f"{crc:08x}"


def _check_whole(expected: str, text: str, tensors: dict[str, Tensor]) -> None:
    """Raise a ValueError unless ``text`` and ``tensors`` have the ``expected`` checksum."""
    if expected != checksum(text, tensors):
        raise ValueError("its checksum is wrong")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _restore(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], tensors: dict[str, Tensor]) -> None:
    """Give ``optimizer`` its state back, laid out in memory as it was: other strides may round otherwise.

    The number of steps stays on the CPU, unless one kernel does the whole step and reads it.
    """
    for key, tensor in tensors.items():
        number, name = key.split(".")
        parameter = parameters[int(number)]
        device = parameter.device if optimizer.defaults.get("fused") else tensor.device
        like = (
            torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor, device=device)
        )
        optimizer.state[parameter][name] = like.copy_(tensor)


def check_space(path: Path, wanted: int) -> None:
    """Raise an OutputError unless the disk under ``path`` has ``wanted`` bytes free."""
    free = shutil.disk_usage(path).free
    if free < wanted:
        raise OutputError(f"{path} has {free / 1e6:,.0f} MB left, checkpoints need {wanted / 1e6:,.0f} MB; {MAKE_ROOM}")
