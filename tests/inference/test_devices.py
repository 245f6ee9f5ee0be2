from __future__ import annotations

import os
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from wsipipe.errors import MachineError, UsageError
from wsipipe.inference import allocator, devices, hardware
from wsipipe.inference.devices import is_cpu, resolve_devices, resolve_engine, threads_per_replica
from wsipipe.model.file_kind import FileKind
from wsipipe.model.forward import compute_float32
from wsipipe.pipeline.config import ComputeRequest
from wsipipe.pipeline.setup import site_of_this_process


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with nothing but a CPU; a test may give it GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


def give_gpus(machine: pytest.MonkeyPatch, count: int) -> None:
    machine.setattr(torch.cuda, "is_available", lambda: True)
    machine.setattr(torch.cuda, "device_count", lambda: count)
    machine.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H{device[-1]}00")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("wish", ["auto", "cpu"])
def test_a_machine_without_gpu_computes_on_its_cpu(wish: str) -> None:
    assert resolve_devices(wish) == ("cpu",)


@pytest.mark.parametrize("wish", ["auto", "cuda"])
def test_all_gpus_are_used_by_default(machine: pytest.MonkeyPatch, wish: str) -> None:
    give_gpus(machine, 2)
    assert resolve_devices(wish) == ("cuda:0", "cuda:1")


def test_apples_gpu_is_used_if_there_is_no_other(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_devices("auto") == resolve_devices("mps") == ("mps",)
    with pytest.raises(UsageError, match="mps,mps: two threads at once crash mps"):
        resolve_devices("mps,mps")
    give_gpus(machine, 1)
    assert resolve_devices("auto") == ("cuda:0",)


@pytest.mark.parametrize(
    ("wish", "devices"),
    [
        ("cuda:1", ("cuda:1",)),
        ("cuda:1,cuda:0", ("cuda:1", "cuda:0")),
        ("cpu,cpu,cpu", ("cpu", "cpu", "cpu")),
        ("cpu, cuda:0", ("cpu", "cuda:0")),
        ("cuda,cpu", ("cuda:0", "cuda:1", "cpu")),
    ],
)
def test_a_list_is_one_replica_each_in_its_order(
    machine: pytest.MonkeyPatch, wish: str, devices: tuple[str, ...]
) -> None:
    give_gpus(machine, 2)
    assert resolve_devices(wish) == devices


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    "wish", ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cpu,", "auto,cpu", "cpu:0", "cpu;cuda"]
)
def test_an_unknown_device_is_refused_with_those_allowed(wish: str) -> None:
    with pytest.raises(UsageError, match="is not a device; allowed: auto, cpu, mps, cuda, cuda:0,cuda:1"):
        resolve_devices(wish)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("wish", ["cuda", "cuda:0", "cpu,cuda:0", "mps"])
def test_a_missing_device_is_refused_with_those_available(wish: str) -> None:
    with pytest.raises(MachineError, match=rf"--device {wish}: there is no (cuda|cuda:0|mps) here; available: cpu \("):
        resolve_devices(wish)


def test_one_gpu_too_many_is_refused_with_those_available(machine: pytest.MonkeyPatch) -> None:
    give_gpus(machine, 2)
    with pytest.raises(MachineError, match="there is no cuda:2 here; available: cuda:0, cuda:1, cpu"):
        resolve_devices("cuda:0,cuda:2")


def test_the_devices_of_this_machine_can_be_used() -> None:
    for device in resolve_devices("auto"):
        assert torch.ones(3, device=device).sum().item() == 3


def test_is_cpu_if_every_device_is_the_cpu() -> None:
    assert is_cpu(("cpu",))
    assert is_cpu(("cpu", "cpu"))
    assert not is_cpu(("cuda:0",))
    assert not is_cpu(("cpu", "cuda:0"))


def test_openvino_computes_on_cpus_if_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_engine("auto", ("cpu", "cpu")) == "openvino"
    assert resolve_engine("auto", ("cuda:0",)) == resolve_engine("auto", ("mps",)) == "torch"
    assert resolve_engine("torch", ("cpu",)) == "torch"
    monkeypatch.setattr(devices, "find_spec", lambda _: None)
    assert resolve_engine("auto", ("cpu",)) == "torch"
    with pytest.raises(MachineError, match="pip install 'wsipipe\\[openvino\\]'"):
        resolve_engine("openvino", ("cpu",))


def test_an_unknown_or_unfit_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="allowed: auto, torch, compile, openvino"):
        resolve_engine("onnx", ("cpu",))
    with pytest.raises(UsageError, match="not on cuda:0; add --device cpu"):
        resolve_engine("openvino", ("cuda:0",))


def test_layouts_are_measured_for_float32_on_gpus() -> None:
    measured = [(e, d, p) for e in ("torch", "compile") for d in ("cpu", "cuda:0") for p in ("float32", "bfloat16")]
    assert [devices.layouts(e, (d,), p) for e, d, p in measured] == [
        (True, False) if given == ("torch", "cuda:0", "float32") else (True,) for given in measured
    ]


def test_replicas_on_the_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CPU_COUNT", 8)
    assert threads_per_replica(("cpu",)) == 8
    assert threads_per_replica(("cpu", "cpu", "cpu")) == 2
    assert threads_per_replica(("cpu",) * 20) == 1


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_tf32_is_refused_elsewhere(device: str) -> None:
    with pytest.raises(
        UsageError, match=f"--precision tf32 is for NVIDIA GPUs, not for {device}; use --precision float32"
    ):
        resolve_engine("auto", (device,), "tf32")


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_what_convolutions_are_set_to(tf32: bool) -> None:
    """The settings can be read without a GPU, and agree with each other."""
    cudnn, before = torch.backends.cudnn, torch.backends.cudnn.deterministic
    try:
        compute_float32(torch.device("cuda"), tf32=tf32)
        assert (cudnn.allow_tf32, cudnn.conv.fp32_precision == "tf32", cudnn.deterministic) == (tf32, tf32, True)
    finally:
        cudnn.allow_tf32, cudnn.deterministic = True, before  # as torch has them


def test_lower_precisions_are_refused_where_a_gpu_is_older_than_they_are(machine: pytest.MonkeyPatch) -> None:
    native: dict[str, bool] = {"cuda:0": True, "cuda:1": False}
    asked: list[str] = []
    machine.setattr(torch.cuda, "device", lambda device: nullcontext(asked.append(device)))
    machine.setattr(
        torch.cuda, "is_bf16_supported", lambda *, including_emulation: native[asked[-1]] or including_emulation
    )
    give_gpus(machine, 2)

    def engine_for(device: str, precision: str) -> str:
        return site_of_this_process(ComputeRequest(device, "auto", precision, None, FileKind.SAFETENSORS)).engine

    for precision in ("bfloat16", "tf32"):
        assert engine_for("cuda:0", precision) == "torch"
        with pytest.raises(
            MachineError, match=rf"{precision}: cuda:1 has no tensor cores.* use --precision float16 or"
        ):
            engine_for("cuda", precision)
    assert engine_for("cuda:1", "float16") == engine_for("cuda:1", "float32") == "torch"


@pytest.mark.parametrize("given", [None, "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_gpu_memory_grows_in_segments_unless_the_user_configured_it(
    machine: pytest.MonkeyPatch, given: str | None
) -> None:
    for name in allocator.GPU_SETTINGS:
        machine.delenv(name, raising=False)
    resolve_devices("cpu")
    assert not os.environ.keys() & allocator.GPU_SETTINGS, "nothing is set where there is no GPU"
    if given is not None:
        machine.setenv(given, "max_split_size_mb:64")
    machine.setattr(allocator.sys, "platform", "linux")
    give_gpus(machine, 1)
    machine.setattr(os, "environ", dict(os.environ))
    resolve_devices("auto")
    found = {name: value for name, value in os.environ.items() if name in allocator.GPU_SETTINGS}
    assert found == ({given: "max_split_size_mb:64"} if given else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"})


def test_gpus_have_one_name_in_all_processes_and_the_cpu_has_none(machine: pytest.MonkeyPatch) -> None:
    uuids = {"cuda:0": "a-1", "cuda:1": "b-2"}
    machine.setattr(torch.cuda, "get_device_properties", lambda device: type("Properties", (), {"uuid": uuids[device]}))
    assert devices.identities(("cuda:1", "cuda:0", "cuda:1", "cpu")) == {"a-1", "b-2"}
    assert devices.identities(("mps",)) == {"mps"}
    assert devices.identities(("cpu",)) == set()


def test_memory_that_is_kept_for_the_next_array_is_given_back(machine: pytest.MonkeyPatch) -> None:
    released: list[str] = []
    machine.setattr(torch.cuda, "empty_cache", lambda: released.append("device"))
    machine.setattr(torch.accelerator, "empty_host_cache", lambda: released.append("pinned"), raising=False)
    devices.forget_free_memory()
    assert released == []
    machine.setattr(torch.cuda, "is_initialized", lambda: True)
    devices.forget_free_memory()
    assert released == ["device", "pinned"]


def test_devices_have_the_names_of_their_hardware(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(hardware, "processor", lambda: "EPYC")
    machine.setattr(hardware, "CPU_COUNT", 16)
    assert hardware.names_of(("cpu", "cpu")) == ("cpu (EPYC, 16 cores)",)
    give_gpus(machine, 2)
    machine.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    assert hardware.names_of(("cuda:0", "cuda:1", "cpu")) == ("cuda:0, cuda:1 (NVIDIA H200)", "cpu (EPYC, 16 cores)")
    request = ComputeRequest("auto", "auto", "float32", None, FileKind.SAFETENSORS)
    assert site_of_this_process(request).names == ("cuda:0, cuda:1 (NVIDIA H200)",)


def test_falling_back_to_the_cpu_of_a_machine_with_a_gpu_is_said(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine.setattr(hardware, "NVIDIA_DRIVER", tmp_path / "gone")
    machine.setattr("shutil.which", lambda _: None)
    machine.setattr(torch.version, "cuda", None)

    def said(wish: str = "auto") -> str:
        return site_of_this_process(ComputeRequest(wish, "torch", "float32", None, FileKind.SAFETENSORS)).fallback

    assert said() == "", "there is no GPU"
    machine.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert re.search(r"NVIDIA GPU \(/usr/bin/nvidia-smi\): PyTorch .* is built for CPUs only; install", said())
    machine.setattr(hardware, "NVIDIA_DRIVER", tmp_path)
    machine.setattr(torch.version, "cuda", "13.0")
    assert re.search(rf"NVIDIA GPU \({tmp_path}\): CUDA 13.0 of PyTorch .* does not find it", said())
    assert said("cpu") == "", "the CPU was chosen"
    machine.setenv("CUDA_VISIBLE_DEVICES", "")
    assert said() == "", "the GPU was hidden on purpose"
    machine.delenv("CUDA_VISIBLE_DEVICES")
    give_gpus(machine, 1)
    assert said() == "", "the GPU computes"
