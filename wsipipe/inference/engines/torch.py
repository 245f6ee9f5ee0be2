"""Networks in torch: wsipipe's U-Net and ``torch.export`` programs, on any device, eager or compiled."""

from __future__ import annotations

import threading
from collections import Counter
from copy import deepcopy

import torch
from torch import Tensor, nn

from wsipipe.inference.devices import FLOAT32, TF32
from wsipipe.inference.engines.engine import Engine
from wsipipe.model.forward import compute_float32
from wsipipe.model.model_file import Model


def start_torch(
    model: Model, device: torch.device, precision: str, *, compiled: bool, channels_last: bool = True
) -> Engine:
    """A copy of the network of ``model`` on ``device``, in whose tensors channels are the last axis, or the first.

    ``precision`` is that of its convolutions.
    """
    assert isinstance(model.network, nn.Module)
    compute_float32(device, tf32=precision == TF32)
    network = deepcopy(model.network).to(device)
    engine: Engine
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        engine = CompiledNetwork(network) if compiled else network
    else:
        engine = lambda x: network(x.contiguous())  # noqa: E731
    if precision in (FLOAT32, TF32):
        return engine
    return LowerPrecision(engine, device.type, getattr(torch, precision))


class LowerPrecision:
    """``engine``, whose convolutions compute in ``dtype`` on devices of this ``kind``."""

    def __init__(self, engine: Engine, kind: str, dtype: torch.dtype) -> None:
        self._engine, self._kind, self._dtype = engine, kind, dtype

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n, class, y, x), of the dtype that torch gives them."""
        with torch.autocast(self._kind, self._dtype):
            return self._engine(x)


class CompiledNetwork:
    """``network``, compiled by torch for frequent shapes only, because each shape takes long to compile."""

    OFTEN = 3
    """Calls with a shape before it is compiled."""
    SHAPES = 64
    """Shapes that are compiled, of all networks in this process: those of tiles at the edges of slides, and of each
    number of tiles. torch stops after 8, and computes all others as if there were no compiler."""
    LOCK = threading.Lock()
    """Serialises the compiler, which is not thread-safe; on a GPU, only the start of the computation."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, self.SHAPES)
        self._compiled = torch.compile(network, dynamic=False)
        self._met: Counter[torch.Size] = Counter()

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n, class, y, x), as ``network`` computes them."""
        self._met[x.shape] += 1
        if self._met[x.shape] <= self.OFTEN:
            return self._network(x)  # type: ignore[no-any-return]
        with self.LOCK:
            return self._compiled(x)  # type: ignore[no-any-return]
