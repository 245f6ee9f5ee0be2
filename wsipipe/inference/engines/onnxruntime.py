"""onnxruntime: ONNX files on CPUs, and on NVIDIA GPUs where ``onnxruntime-gpu`` is installed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor

from wsipipe.errors import ModelError
from wsipipe.inference.engines.onnx import as_named, first_line, foreign
from wsipipe.model.model_file import Model

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
CUDA_SETTINGS = {"use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
"""All 24 bits of float32; the same kernels each time, where a search would time them for every shape; and only as much
memory as is asked for."""
FATAL = 4
"""Severity from which on onnxruntime prints; what it raises is told by whoever asked."""


class OnnxRuntimeEngine:
    """The ONNX file of ``model``, as `Engine`; of several outputs only the one that the model names is computed.

    Parameters
    ----------
    model
        The loaded model.
    device
        A CPU, or a GPU that onnxruntime was built for.
    threads
        CPU cores that one call uses.

    Raises
    ------
    ModelError
        If onnxruntime lacks an operation of the network.
    RuntimeError
        If it does not compute on the device.
    """

    def __init__(self, model: Model, device: torch.device, threads: int) -> None:
        self._about, self._device = foreign(model), device
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = FATAL
        wanted = CUDA if device.type == "cuda" else CPU
        settings = {**CUDA_SETTINGS, "device_id": device.index or 0} if wanted == CUDA else {}
        if wanted not in onnxruntime.get_available_providers():
            raise RuntimeError("this onnxruntime computes on CPUs only; pip install onnxruntime-gpu in its place")
        try:
            self._session = onnxruntime.InferenceSession(model.network, options, providers=[(wanted, settings)])
        except Exception as err:  # its errors share no class but this one
            raise ModelError(
                f"model {model.info.path}: onnxruntime cannot compute it: {first_line(err)}; use --engine openvino"
            ) from err
        self._session.disable_fallback()  # to the CPU, where a call fails, with a message on stdout
        if wanted not in self._session.get_providers():
            raise RuntimeError("onnxruntime cannot load CUDA's libraries; its documentation names those that it needs")

    def __call__(self, x: Tensor) -> Tensor:
        """The output (n, class, y, x) for tiles ``x`` (n, channel, y, x), both float32.

        Raises
        ------
        RuntimeError
            If it does not take them, or memory is short.
        """
        return as_named(self._about, x, self._infer).to(self._device)

    def _infer(self, tiles: npt.NDArray[np.float32]) -> Tensor:
        try:
            (output,) = self._session.run([self._about.output], {self._about.input: tiles})
        except Exception as err:  # its errors share no class but this one
            raise RuntimeError(str(err)) from err
        return torch.from_numpy(output)
