"""Sizes are chosen by measured speeds, which take limited time and are remembered."""

from __future__ import annotations

import threading
from dataclasses import replace
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from tests.conftest import WriteSlide
from wsipipe import RunConfig, run
from wsipipe.arrays import Pixels
from wsipipe.errors import MachineError
from wsipipe.events import Event, SizesChosen
from wsipipe.geometry.network import Receptive, UNetSizes
from wsipipe.inference import speeds as speeds_module
from wsipipe.inference.pool import PoolSpec, load_replicas
from wsipipe.inference.replica import Prediction, Replica
from wsipipe.inference.speeds import (
    REPEATS,
    Size,
    Speeds,
    best_replicas,
    correct,
    fits_device,
    measure,
    noise,
    recall,
    remember,
    speed_together,
    speeds_file,
)
from wsipipe.model.model_file import read_model_info

PAPER = UNetSizes(4, 2).receptive
SMALL = UNetSizes(2, 1).receptive
PROBE = (256, 1)


@pytest.fixture
def spec(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PoolSpec:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    info = read_model_info(tiny_model)
    return PoolSpec(str(tiny_model), info.sha256, "cpu", "torch", "float32", 1, False, info.receptive)


class Clock:
    """The clock of a device on which every pixel takes the same time, and nothing else takes any."""

    def __init__(self, speed: float) -> None:
        self.now, self.speed, self.predicted = 0.0, speed, list[Size]()

    def predict(self, _replica: Replica, tiles: list[Pixels]) -> Prediction:
        side = len(tiles[0])
        self.predicted.append((side - SMALL.margin, len(tiles)))
        self.now += len(tiles) * side * side / self.speed
        return Prediction(np.zeros(0, np.uint8), None)

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(1e6)
    monkeypatch.setattr(Replica, "predict", lambda *given: clock.predict(*given))
    monkeypatch.setattr(speeds_module.time, "perf_counter", clock.perf_counter)
    return clock


@pytest.mark.parametrize(
    ("by_size", "best"),
    [
        ({(256, 1): 1e6, (1024, 1): 1e6, (2048, 1): 1e6}, (2048, 1)),  # fewer of its pixels are margin
        ({(256, 1): 1e6, (1024, 1): 1e6, (2048, 1): 0.86e6}, (1024, 1)),  # about as fast, with less memory
        ({(256, 1): 4e6, (1024, 1): 1e6}, (256, 1)),
        ({(256, 1): 1e6}, (1024, 1)),  # there was no time for others: the largest that needs no measurement
        ({(256, 1): 1e6, (256, 8): 5e6, (1024, 1): 2e6}, (256, 8)),
    ],
)
def test_the_fastest_size_is_chosen_and_among_equals_the_smallest(by_size: dict[Size, float], best: Size) -> None:
    sizes = [(256, 1), (256, 8), (512, 1), (1024, 1), (2048, 1), (4096, 1)]
    assert Speeds(by_size, PAPER, 0.0).best(sizes) == best


def test_networks_that_look_far_get_larger_tiles_unmeasured() -> None:
    far = Receptive(stride=32, halo=280, margin=576, crop=288)
    sizes = [(512, 1), (1024, 1), (2048, 1), (4096, 1)]
    assert Speeds({PROBE: 1e6}, far, 0.0).best(sizes) == (2048, 1)


def test_a_size_that_was_asked_for_is_used_unmeasured() -> None:
    speeds = Speeds({PROBE: 1e6}, PAPER, 0.0)
    assert speeds.best([(2048, 4)]) == (2048, 4)
    assert speeds.of((2048, 4)) == 1e6


def test_every_size_is_measured_if_time_allows_and_never_again(spec: PoolSpec, clock: Clock) -> None:
    sizes = [(512, 1), (1024, 1)]
    speeds = measure(spec, SMALL, sizes, "uint8", pixels=10**12)
    assert clock.predicted == [size for size in (PROBE, *sizes) for _ in range(REPEATS)]
    assert speeds.by_size == {size: pytest.approx(1e6) for size in (PROBE, *sizes)}
    assert speeds.seconds == clock.now > 0
    assert recall(spec) == pytest.approx(speeds.by_size)
    again = measure(spec, SMALL, sizes, "uint8", pixels=10**12)
    assert (again.by_size, again.seconds) == (recall(spec), 0.0)
    assert len(clock.predicted) == 9
    measure(spec, SMALL, [*sizes, (2048, 1)], "uint8", pixels=10**12)  # three passes would take 13 seconds
    assert len(clock.predicted) == 9
    clock.speed = 1e8
    other = replace(spec, probabilities=True)
    assert measure(other, SMALL, [(2048, 1)], "uint8", pixels=10**12).of((2048, 1)) == pytest.approx(1e8)


@pytest.mark.parametrize(("pixels", "sizes"), [(10**12, [PROBE, (512, 1)]), (10**6, [PROBE])])
def test_measuring_ends_in_time(spec: PoolSpec, clock: Clock, pixels: int, sizes: list[Size]) -> None:
    clock.speed = 1e6 / 2
    measure(spec, SMALL, [(512, 1), (1024, 1), (2048, 1)], "uint8", pixels=pixels)
    assert sorted(set(clock.predicted)) == sizes
    later = clock.now - REPEATS * (256 + SMALL.margin) ** 2 / clock.speed  # without the first, which is always measured
    assert later <= speeds_module.MOST_SECONDS


def test_a_size_that_the_device_cannot_compute_is_not_chosen(
    spec: PoolSpec, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(replica: Replica, tiles: list[Pixels]) -> Prediction:
        if len(tiles[0]) > 1024:
            raise MachineError("device cuda:0 failed: more than 2**31 elements")
        return clock.predict(replica, tiles)

    clock.speed = 1e8
    monkeypatch.setattr(Replica, "predict", predict)
    sizes = [(512, 1), (1024, 1), (2048, 1)]
    speeds = measure(spec, SMALL, sizes, "uint8", pixels=10**12)
    assert set(recall(spec)) == {PROBE, (512, 1)}
    assert speeds.best(sizes) == (512, 1), "not even the size that needs no measurement"
    monkeypatch.setattr(speeds_module, "PROBE_PX", 2048)
    with pytest.raises(MachineError, match="more than 2"):  # the first size is needed
        measure(replace(spec, probabilities=True), SMALL, sizes[2:], "uint8", pixels=10**12)


@pytest.mark.usefixtures("clock")
def test_remembered_speeds_that_cannot_be_read_or_written_are_measured_again(spec: PoolSpec) -> None:
    path = speeds_file()
    path.parent.mkdir(parents=True)
    for torn in (b"", b"{", b"[1]", b"null", b'{"a": 1}'):
        path.write_bytes(torn)
        assert recall(spec) == {}
        measure(spec, SMALL, [], "uint8", pixels=10)
        assert set(recall(spec)) == {PROBE}
    path.unlink()
    path.mkdir()  # so that nothing can be renamed to it
    assert measure(spec, SMALL, [], "uint8", pixels=10).of(PROBE) == pytest.approx(1e6)


def test_speeds_name_the_engine_whatever_package_it_is_from(spec: PoolSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    def missing(name: str) -> str:  # as where onnxruntime-gpu is installed
        raise PackageNotFoundError(name)

    monkeypatch.setattr(Distribution, "from_name", missing)
    on_onnxruntime = replace(spec, engine="onnxruntime")
    remember(on_onnxruntime, {PROBE: 100.0})
    assert recall(on_onnxruntime) == {PROBE: 100.0}
    assert onnxruntime.__version__ in speeds_module.key(on_onnxruntime)


@pytest.mark.parametrize(("reached", "remembered"), [(150.0, 150.0), (50.0, 100.0)])
def test_a_run_faster_than_measured_corrects_the_speed(spec: PoolSpec, reached: float, remembered: float) -> None:
    remember(spec, {(256, 1): 100.0, (512, 1): 90.0})
    correct(spec, (256, 1), reached)
    assert recall(spec) == {(256, 1): remembered, (512, 1): 90.0}


def test_a_speed_that_was_never_measured_is_not_corrected(spec: PoolSpec) -> None:
    correct(spec, (256, 1), 5.0)
    assert recall(spec) == {}


def test_speeds_of_one_device_or_network_are_not_used_for_another(spec: PoolSpec) -> None:
    others = [
        replace(spec, sha256="0" * 64),
        replace(spec, device="cpu,cpu"),
        replace(spec, engine="openvino"),
        replace(spec, precision="bfloat16"),
        replace(spec, probabilities=True),
        replace(spec, uncertainty=True),
        replace(spec, channels_last=False),
    ]
    assert len({speeds_module.key(one) for one in (spec, *others)}) == 1 + len(others)
    assert speeds_module.key(spec) == speeds_module.key(replace(spec, batch=7, model="elsewhere", tta="all"))


def test_sizes_fit_a_gpu_by_its_memory_which_processes_share_and_by_the_values_of_a_tensor(
    spec: PoolSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, free = read_model_info(spec.model).network, dict[str, int]()
    monkeypatch.setattr(PoolSpec, "devices", property(lambda spec: tuple(spec.device.split(","))))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device], 10**12))
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: free["mps"] + 1000)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 1000)

    def fits(device: str, share: float, size: Size = (1024, 4), **changes: int) -> bool:
        """Whether it fits, with so much of the memory that one replica and lane takes."""
        need = spec.tensor_bytes(network, size[0] + SMALL.margin, size[1])
        free.update(dict.fromkeys(["cuda:0", "cuda:1", "mps"], int(share * need / speeds_module.DEVICE_SHARE) + 1))
        return fits_device(replace(spec, device=device, **changes), network, size)

    assert fits("cpu", 0.0)
    assert [fits("cuda:0", share) for share in (1.9, 2.0)] == [False, True], "two lanes"
    assert [fits("cuda:0,cuda:1", share) for share in (1.9, 2.0)] == [False, True]
    assert [fits("cuda:0,cuda:0", share) for share in (3.9, 4.0)] == [False, True]
    assert [fits("cuda:0", share, per_gpu=3) for share in (5.9, 6.0)] == [False, True]
    assert [fits("mps", share) for share in (0.9, 1.0)] == [False, True]
    most = (2**31 - 1) / (2 * 2)  # the joined tensor of the first level has twice the base's channels
    side = int(most**0.5) - SMALL.margin - 4
    assert [fits("cuda:0", 1e3, (size, 1)) for size in (side, side + 8)] == [True, False]
    assert [fits("mps", 1e3, (size, 1)) for size in (side // 2, side)] == [True, False]
    assert [fits("cuda:0", 1e3, (1024, batch)) for batch in (256, 512)] == [True, False]


def test_one_pass_is_measured_and_all_of_them_are_worth_measuring_for(spec: PoolSpec, clock: Clock) -> None:
    remember(spec, {PROBE: clock.speed})
    size, passes = (512, 1), 4
    worth = (
        int(REPEATS * (512 + SMALL.margin) ** 2 / speeds_module.MOST_SHARE) + passes
    )  # pixels, passes taken together
    assert measure(spec, SMALL, [size], "uint8", pixels=worth // passes).seconds == 0
    speeds = measure(replace(spec, tta="flips"), SMALL, [size], "uint8", pixels=worth // passes)
    assert speeds.by_size[size] == pytest.approx(clock.speed)
    assert clock.predicted == [size] * REPEATS


def test_a_real_device_is_measured(spec: PoolSpec) -> None:
    speeds = measure(spec, SMALL, [(32, 2)], "uint16", pixels=10**9)
    assert (32, 2) in speeds.by_size
    assert all(speed > 0 for speed in speeds.by_size.values())


@pytest.mark.parametrize(
    ("cores", "most", "together", "chosen"),
    [
        (32, 64, {2: 1.5, 4: 2.0, 8: 2.02}, (4, 0.5)),  # eight are hardly faster, and not worth their memory
        (32, 2, {2: 1.5}, (2, 0.75)),
        (32, 64, {2: 1.0}, (1, 1.0)),
        (3, 64, {2: 1.5}, (2, 0.75)),  # four would not have a core each
        (1, 64, {}, (1, 1.0)),
    ],
)
def test_replicas_share_the_cores_where_that_is_faster(
    spec: PoolSpec,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    most: int,
    together: dict[int, float],
    chosen: tuple[int, float],
) -> None:
    measured = list[int]()

    def speed_together(replicas: list[str], _tiles: object, *, seconds: float) -> float:
        assert seconds > 0
        measured.append(len(replicas))
        return together[len(replicas)] * 1e7

    monkeypatch.setattr(speeds_module, "CPU_COUNT", cores)
    monkeypatch.setattr(speeds_module, "load_replicas", lambda _, devices: devices)
    monkeypatch.setattr(speeds_module, "noise", lambda *_: [])
    monkeypatch.setattr(speeds_module, "speed_together", speed_together)
    for _ in range(2):  # the second time they are remembered
        count, speed = best_replicas(spec, (1024, 1), "uint8", pixels=10**10, alone=1e7, most=most)
        assert (count, speed / 1e7) == chosen
    assert measured == list(together)


def test_replicas_that_would_take_long_to_measure_are_not_tried(
    spec: PoolSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speeds_module, "CPU_COUNT", 32)
    monkeypatch.setattr(speeds_module, "load_replicas", lambda *_: pytest.fail("measured"))
    assert best_replicas(spec, (1024, 1), "uint8", pixels=10**7, alone=1e6, most=64) == (1, 1e6)


def test_replicas_that_cannot_compute_together_are_not_chosen(spec: PoolSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MachineError("out of memory")

    monkeypatch.setattr(speeds_module, "CPU_COUNT", 32)
    monkeypatch.setattr(speeds_module, "load_replicas", fail)
    assert best_replicas(spec, (1024, 1), "uint8", pixels=10**10, alone=1e7, most=64) == (1, 1e7)


def test_a_replica_that_is_fast_computes_as_long_as_the_others_are_measured(
    spec: PoolSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas, predicted, often = (
        load_replicas(replace(spec, device="cpu,cpu"), ("cpu", "cpu")),
        list[Replica](),
        threading.Event(),
    )
    predict = Replica.predict

    def one_waits_for_the_other(replica: Replica, tiles: list[Pixels]) -> Prediction:
        predicted.append(replica)
        if replica is replicas[1] and predicted.count(replica) > 1:
            assert often.wait(30), "the other one ended"
        elif predicted.count(replicas[0]) > 2 * REPEATS:
            often.set()
        return predict(replica, tiles)

    monkeypatch.setattr(Replica, "predict", one_waits_for_the_other)
    assert speed_together(replicas, noise(replicas[0], (32, 2), "uint16"), seconds=0.5) > 0
    assert set(predicted[:2]) == set(replicas), "all are warm before one is measured"


@pytest.mark.parametrize("warm", [0, 2])
def test_an_error_of_a_replica_ends_the_others_and_is_the_one_that_is_seen(
    spec: PoolSpec, monkeypatch: pytest.MonkeyPatch, warm: int
) -> None:
    replicas, done = load_replicas(replace(spec, device="cpu,cpu"), ("cpu", "cpu")), list[Replica]()
    predict = Replica.predict

    def fail(replica: Replica, tiles: list[Pixels]) -> Prediction:
        done.append(replica)
        if replica is replicas[1] and done.count(replica) > warm:
            raise MachineError("out of memory")
        return predict(replica, tiles)

    monkeypatch.setattr(Replica, "predict", fail)
    with pytest.raises(MachineError, match="out of memory"):
        speed_together(replicas, noise(replicas[0], (32, 1), "uint8"), seconds=60)


def test_replicas_all_get_work_at_once_however_few_tiles_a_block_has(
    tiny_model: Path, tmp_path: Path, write_slide: WriteSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each replica waits within its first tile until all of them have one."""
    predict, count = Replica.predict, 4
    all_at_work, waited = threading.Barrier(count), set[str]()

    def wait_for_the_others(replica: Replica, tiles: list[Pixels]) -> Prediction:
        name = threading.current_thread().name
        if name.startswith("wsipipe-cpu") and name not in waited:
            waited.add(name)
            all_at_work.wait(30)
        return predict(replica, tiles)

    monkeypatch.setattr(Replica, "predict", wait_for_the_others)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = RunConfig(
        str(tmp_path / "out"), str(tiny_model), device=",".join(["cpu"] * count), tile=32, block=32, tissue="off"
    )
    (done,) = run([write_slide(tmp_path / "s.tif")], config).slides
    assert (done.status, len(waited)) == ("done", count), done.message


def test_a_run_with_the_replicas_that_it_chose_gives_the_labels_of_one(
    tiny_model: Path, tmp_path: Path, write_slide: WriteSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(speeds_module, "CPU_COUNT", 2)
    monkeypatch.setattr(speeds_module, "is_worth", lambda *_, **__: True)
    monkeypatch.setattr(speeds_module, "speed_together", lambda replicas, *_, **__: 1e12 * len(replicas))
    slide, events, labels = write_slide(tmp_path / "s.tif"), list[Event](), []
    for device in ("auto", "cpu"):
        config = RunConfig(str(tmp_path / device), str(tiny_model), device=device, tile=32, block=64, tissue="off")
        (done,) = run([slide], config, events.append).slides
        assert done.status == "done", done.message
        labels.append(zarr.open_array(f"{done.store}/0", mode="r")[:])
    assert [event.devices for event in events if isinstance(event, SizesChosen)] == [2, 1]
    np.testing.assert_array_equal(*labels)
