from __future__ import annotations

import pytest
import torch

from wsipipe.errors import MachineError, UsageError
from wsipipe.inference import devices
from wsipipe.inference.devices import is_cpu, resolve_devices, resolve_engine, threads_per_replica


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


def test_replicas_on_the_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CPU_COUNT", 8)
    assert threads_per_replica(("cpu",)) == 8
    assert threads_per_replica(("cpu", "cpu", "cpu")) == 2
    assert threads_per_replica(("cpu",) * 20) == 1
