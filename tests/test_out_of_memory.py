"""Memory that runs out, at any stage: batch and tile are halved, or there is a clear error; the bytes are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import wsipipe
from tests.conftest import WriteSlide
from tests.faults import assert_same_bytes
from tests.soak import rounds
from wsipipe.inference import block, replica
from wsipipe.inference.engines import openvino
from wsipipe.inference.engines import torch as torch_engine
from wsipipe.model import forward
from wsipipe.model.unet import UNet
from wsipipe.pipeline.summary import RunSummary
from wsipipe.store import content

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
CUDNN = RuntimeError("GET was unable to find an engine to execute this computation")
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")
OPENVINO = RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:223: std::bad_alloc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_slide: WriteSlide) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    write_slide(folder / "s.tif", (300, 420), seed=1)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, tiny_model: Path) -> Callable[..., RunSummary]:
    """``run(out, engine)``: segment the slide; ``undisturbed`` is done."""

    def run(out: str, engine: str = "torch") -> RunSummary:
        config = wsipipe.RunConfig(
            out=str(folder / out),
            model=str(tiny_model),
            device="cpu",
            engine=engine,
            block=128,
            tile=64,
            batch=4,
            probabilities=True,
        )
        return wsipipe.run([folder / "s.tif"], config)

    assert run("undisturbed").exit_code == 0
    return run


@pytest.fixture
def out(request: pytest.FixtureRequest) -> str:
    """A folder for this test's results."""
    return f"disturbed {request.node.name}".replace("/", " ")


class Exhausted:
    """``function``, but for some of its calls, which end with ``error``."""

    def __init__(self, function: Callable[..., Any], error: Exception, fails: Callable[[int], bool]) -> None:
        self.function, self.error, self.fails = function, error, fails
        self.calls = self.failed = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.fails(self.calls):
            self.failed += 1
            raise type(self.error)(*self.error.args)
        return self.function(*args, **kwargs)

    def __get__(self, instance: object, _owner: type) -> Callable[..., Any]:
        return lambda *args, **kwargs: self(instance, *args, **kwargs)


STAGES = {
    "stacking": (replica.Replica, "_stack"),
    "to the device": (forward.Normalise, "pixels"),
    "network": (UNet, "forward"),
    "labels": (replica, "winner"),
    "probabilities": (replica, "probabilities_of"),
    "from the device": (replica.Replica, "_to_host"),
    "openvino": (openvino.OpenVinoUNet, "__call__"),
}


@pytest.mark.parametrize(
    ("stage", "error"),
    [
        *((stage, CUDA) for stage in ("network", "probabilities", "from the device")),
        *rounds(
            ("openvino", OPENVINO),
            *((stage, CUDA) for stage in ("stacking", "to the device", "labels", "openvino")),
            *(("network", error) for error in (CUDNN, CUBLAS, CPU, MemoryError())),
        ),
    ],
    ids=str,
)
def test_the_bytes_are_the_same_wherever_a_device_runs_out_of_memory(
    run: Callable[..., RunSummary],
    folder: Path,
    out: str,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    error: Exception,
) -> None:
    engine = "openvino" if stage == "openvino" else "torch"
    owner, name = STAGES[stage]
    exhausted = Exhausted(getattr(owner, name), error, lambda call: call in (2, 3, 7))
    monkeypatch.setattr(owner, name, exhausted)
    summary = run(out, engine)
    assert summary.exit_code == 0, summary
    assert exhausted.failed == 3
    if engine == "torch":
        assert_same_bytes(folder / out / "s.zarr", folder / "undisturbed" / "s.zarr")
    else:  # its probabilities may be rounded otherwise
        labels = [zarr.open_array(folder / name / "s.zarr" / "0")[:] for name in (out, "undisturbed")]
        np.testing.assert_array_equal(*labels)


@pytest.mark.parametrize("stage", ["reading", "labels of a block", "writing", "loading"])
def test_a_machine_that_runs_out_of_memory_says_so_and_the_same_command_resumes(
    run: Callable[..., RunSummary], folder: Path, out: str, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    owner, name = {
        "reading": (block, "memory_of_thread"),
        "labels of a block": (block, "Prediction"),
        "writing": (content, "halve"),
        "loading": (torch_engine, "deepcopy"),
    }[stage]
    exhausted = Exhausted(getattr(owner, name), MemoryError(), lambda call: call >= (1 if stage == "loading" else 5))
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, exhausted)
        summary = run(out)
    assert exhausted.failed
    assert summary.exit_code == 3
    assert "memory" in summary.stopped.lower()
    assert run(out).exit_code == 0
    assert_same_bytes(folder / out / "s.zarr", folder / "undisturbed" / "s.zarr")
