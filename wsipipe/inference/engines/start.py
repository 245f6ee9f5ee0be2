"""The start of an engine by its name."""

from __future__ import annotations

import torch

from wsipipe.inference.devices import COMPILE, FLOAT32, ONNXRUNTIME, OPENVINO
from wsipipe.inference.engines.engine import Engine
from wsipipe.model.model_file import Model


def start_engine(
    name: str,
    model: Model,
    device: torch.device,
    *,
    threads: int,
    precision: str = FLOAT32,
    channels_last: bool = True,
) -> Engine:
    """The network of ``model`` on ``device``, computed by the engine of this ``name`` with ``threads`` CPU cores.

    ``precision`` is one that the engine computes in (`wsipipe.inference.devices.PRECISIONS_OF`). ``channels_last`` is
    for torch: whether the channels of a pixel lie together in memory.

    Raises
    ------
    ModelError
        If the engine lacks an operation of the network.
    RuntimeError, MemoryError
        If the device cannot hold the network.
    """
    # Each engine is imported where it is asked for: some are extras, and not installed everywhere.
    if name == OPENVINO:
        from wsipipe.inference.engines.openvino import start_openvino

        return start_openvino(model, threads, precision)
    if name == ONNXRUNTIME:
        from wsipipe.inference.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(model, device, threads)
    from wsipipe.inference.engines.torch import start_torch

    return start_torch(model, device, precision, compiled=name == COMPILE, channels_last=channels_last)
