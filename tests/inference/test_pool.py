from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wsipipe
from tests.soak import each_value_once
from wsipipe.arrays import Pixels
from wsipipe.errors import MachineError, MemoryLimitError, ModelError
from wsipipe.inference import devices
from wsipipe.inference import pool as pools
from wsipipe.inference.engines.torch import CompiledNetwork
from wsipipe.inference.pool import Pool, PoolSpec, close_resident_pools, resident_pool
from wsipipe.inference.replica import Prediction, Replica
from wsipipe.model.model_file import Model, load_model, save_unet
from wsipipe.model.spec import LabelClass, ModelSpec
from wsipipe.model.unet import UNet

PATIENCE = 120
"""Seconds after which a test that hangs fails; none waits that long, and none passes by waiting."""

THREE = (LabelClass("background", 0, "#000000"), LabelClass("gland", 7, "#ff0000"), LabelClass("fat", 200, "#00ff00"))
ONE = (LabelClass("nucleus", 9, "#ff0000"),)
NO_BACKGROUND = (LabelClass("gland", 200, "#ff0000"), LabelClass("fat", 7, "#00ff00"))

MakeModel = Callable[..., Model]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """``make_model(classes, in_channels)``: random weights whose classes all win somewhere; halo 10, grid 4 px."""

    def make(classes: tuple[LabelClass, ...] = THREE, in_channels: int = 3, *, depth: int = 2, **spec: Any) -> Model:
        path = tmp_path / f"{len(classes)}-{in_channels}.safetensors"
        torch.manual_seed(3)
        network = UNet(in_channels, len(classes), base_channels=4, depth=depth, convs_per_level=1).eval()
        with torch.no_grad():
            logits = network(torch.randn(1, in_channels, 122, 122))
            network.head.bias -= logits.mean((0, 2, 3))
        save_unet(path, network, ModelSpec(classes, **spec))
        return load_model(path)

    return make


def tiles_of(model: Model, count: int, dtype: type = np.uint8, seed: int = 0) -> list[Pixels]:
    """Random tiles of many shapes."""
    rng, receptive = np.random.default_rng(seed), model.info.receptive
    sides = receptive.stride * rng.integers(1, 6, (count, 2)) + receptive.margin
    channels = model.network.in_channels
    return [rng.integers(0, np.iinfo(dtype).max, (h, w, channels), dtype, endpoint=True) for h, w in sides]


def direct(model: Model, tile: Pixels) -> Prediction:
    """The expected prediction for ``tile``: one pass of the network over it alone, decided in numpy."""
    spec, crop = model.spec, model.info.receptive.crop
    pixels = np.moveaxis(tile.astype(np.float32) / np.iinfo(tile.dtype).max, -1, 0)
    pixels = (pixels - np.reshape(spec.mean, (-1, 1, 1))) / np.reshape(spec.std, (-1, 1, 1))
    with torch.no_grad():
        logits = model.network(torch.from_numpy(pixels.astype(np.float32))[None])[0].double().numpy()
    logits = logits[:, crop : logits.shape[1] - crop, crop : logits.shape[2] - crop]
    labels = np.array([c.label for c in spec.classes])
    if len(labels) == 1:
        p = 1 / (1 + np.exp(-logits))
        chosen = np.where(p[0] > 0.5, labels[0], 0)
    else:
        p = np.exp(logits) / np.exp(logits).sum(0)
        chosen = labels[p.argmax(0)]
    return Prediction(chosen.astype(np.uint8), 255 * p)  # not rounded


def assert_is(prediction: Prediction, wanted: Prediction) -> None:
    """Assert that labels are equal, and probabilities within one rounding of those wanted."""
    assert prediction.labels.dtype == np.uint8
    assert prediction.labels.shape == wanted.labels.shape
    assert np.array_equal(prediction.labels, wanted.labels)
    if prediction.probabilities is not None:
        assert prediction.probabilities.dtype == np.uint8
        assert prediction.probabilities.shape == wanted.probabilities.shape
        assert np.abs(prediction.probabilities - wanted.probabilities).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("batch", "replicas"), each_value_once([1, 2, 3, 4], [2, 3, 1]))
def test_pool_gives_every_thread_the_answers_to_its_own_tiles(make_model: MakeModel, replicas: int, batch: int) -> None:
    model = make_model()
    tiles = [tiles_of(model, 6, seed=thread) for thread in range(4)]
    with Pool([Replica(model, "cpu") for _ in range(replicas)], batch=batch) as pool, ThreadPoolExecutor(4) as threads:

        def submit_all(mine: list[Pixels]) -> list[Prediction]:
            futures = [pool.submit(tile) for tile in mine]
            return [future.result(PATIENCE) for future in futures]

        answers = list(threads.map(submit_all, tiles))
    for mine, predictions in zip(tiles, answers, strict=True):
        for tile, prediction in zip(mine, predictions, strict=True):
            assert_is(prediction, direct(model, tile))
            assert prediction.probabilities is None


@pytest.mark.parametrize("classes", [THREE, ONE, NO_BACKGROUND], ids=["softmax", "sigmoid", "no background"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pool_labels_and_probabilities_are_those_of_a_direct_computation(
    make_model: MakeModel, classes: tuple[LabelClass, ...], dtype: type
) -> None:
    model = make_model(classes, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    seen: set[int] = set()
    with Pool([Replica(model, "cpu", probabilities=True)], batch=3) as pool:
        for tile in tiles_of(model, 5, dtype):
            prediction = pool.submit(tile).result(PATIENCE)
            assert prediction.probabilities is not None
            assert_is(prediction, direct(model, tile))
            seen |= set(prediction.labels.ravel().tolist())
    assert seen == ({0, 9} if classes is ONE else {c.label for c in classes})


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pool_takes_as_many_channels_as_the_network(make_model: MakeModel, channels: int) -> None:
    model = make_model(THREE, channels)
    with Pool([Replica(model, "cpu")]) as pool:
        for tile in tiles_of(model, 3):
            assert_is(pool.submit(tile).result(PATIENCE), direct(model, tile))


@pytest.mark.parametrize("tta", ["off", "flips"])
@pytest.mark.parametrize("classes", [THREE, ONE], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_values_that_mean_nothing_are_noticed_even_where_a_class_wins(
    make_model: MakeModel, value: float, classes: tuple[LabelClass, ...], tta: str
) -> None:
    """Infinities do where they overflow; in float32 only those of which a softmax makes no probabilities."""
    model = make_model(classes)
    bias = model.network.head.bias.data
    sound = Replica(model, "cpu", tta=tta)
    bias[-1] = value
    overflown, in_float32 = Replica(model, "cpu", tta=tta, precision="float16"), Replica(model, "cpu", tta=tta)
    (tile,) = tiles_of(model, 1)
    assert sound.predict([tile, tile]).undefined == (False, False)
    assert overflown.predict([tile, tile]).undefined == (True, True)
    found = in_float32.predict([tile, tile])
    numbers = classes is ONE if value > 0 else value < 0
    assert found.undefined == (not numbers,) * 2
    if numbers and tta == "off":
        assert_is(found[0], direct(model, tile))


@pytest.mark.parametrize(("precision", "way_out"), [("float16", "bfloat16 or float32"), ("bfloat16", "float32")])
def test_overflow_is_said_with_the_precisions_that_reach_farther(
    tmp_path: Path, write_slide: Callable[..., None], make_model: MakeModel, precision: str, way_out: str
) -> None:
    """A number that float32 has and float16 does not: 1e38 at the end of the network is beyond both."""
    model = make_model()
    model.network.head.weight.data.mul_(1e38)
    path = tmp_path / "large.safetensors"
    save_unet(path, model.network, model.spec)
    write_slide(tmp_path / "s.tif", (100, 100))
    asked = {"out": str(tmp_path / "out"), "model": str(path), "tissue": "off", "engine": "torch", "device": "cpu"}
    (outcome,) = wsipipe.run([tmp_path / "s.tif"], wsipipe.RunConfig(precision=precision, **asked)).slides
    assert outcome.status == "failed"
    assert (
        f"not finite in rows 0 to 100 and columns 0 to 100 of what is segmented; use --precision {way_out}, another"
        in (outcome.message)
    )


def test_pool_does_not_change_the_tiles_it_is_given(make_model: MakeModel) -> None:
    model = make_model()
    (tile,) = tiles_of(model, 1)
    before = tile.copy()
    with Pool([Replica(model, "cpu")]) as pool:
        pool.submit(tile).result(PATIENCE)
    assert np.array_equal(tile, before)


def test_pool_takes_views_of_a_larger_array(make_model: MakeModel) -> None:
    model = make_model()
    pixels = tiles_of(model, 1)[0][:30, :30].repeat(4, 0).repeat(4, 1)
    margin = model.info.receptive.margin
    with Pool([Replica(model, "cpu")], batch=2) as pool:
        views = [pixels[y : y + 16 + margin, x : x + 16 + margin] for y in (0, 8) for x in (4, 12)]
        futures = [pool.submit(view) for view in views]
        for view, future in zip(views, futures, strict=True):
            assert_is(future.result(PATIENCE), direct(model, view.copy()))


class Gated(Replica):
    """A replica that waits at a gate before each batch, and keeps the tiles that it was given."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        super().__init__(model, device)
        self.entered, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.batches: list[list[Pixels]] = []

    def predict(self, tiles: list[Pixels]) -> Prediction:
        self.batches.append(tiles)
        self.entered.release()
        assert self.gate.acquire(timeout=PATIENCE)
        return super().predict(tiles)


class Announcing(threading.Condition):
    """A condition that tells when the thread named ``submitter`` begins to wait on it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        if threading.current_thread().name == "submitter":
            self.waits.set()
        return super().wait(timeout)


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Announcing:
    """The condition of the next pool's queue."""
    condition = Announcing()
    made = pools._Queue.__init__

    def announcing(self: pools._Queue, size: int) -> None:
        made(self, size)
        self._changed = condition

    monkeypatch.setattr(pools._Queue, "__init__", announcing)
    return condition


def begin(function: Callable[[], Any]) -> tuple[threading.Thread, Future[Any]]:
    """A thread named ``submitter`` that runs ``function``, and the future of its result."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as err:
            outcome.set_exception(err)

    thread = threading.Thread(target=run, name="submitter")
    thread.start()
    return thread, outcome


@pytest.mark.parametrize("batch", [1, 2])
def test_submit_waits_while_the_queue_is_full(make_model: MakeModel, announced: Announcing, batch: int) -> None:
    model = make_model()
    replica = Gated(model)
    (tile,) = tiles_of(model, 1)
    with Pool([replica], batch=batch) as pool:
        futures = [pool.submit(tile)]
        assert replica.entered.acquire(timeout=PATIENCE)  # the device has one tile, and the queue is empty
        futures += [pool.submit(tile) for _ in range(2 * batch)]
        thread, outcome = begin(lambda: pool.submit(tile))
        assert announced.waits.wait(PATIENCE)
        assert not outcome.done()
        for _ in range(8):
            replica.gate.release()
        futures.append(outcome.result(PATIENCE))
        for future in futures:
            assert_is(future.result(PATIENCE), direct(model, tile))
        thread.join()
    assert max(map(len, replica.batches)) == batch


def test_batches_hold_one_shape_and_no_tile_is_left_behind(make_model: MakeModel) -> None:
    model = make_model()
    replica = Gated(model)
    first, wide, tall = (np.zeros((*shape, 3), np.uint8) for shape in ((34, 34), (26, 30), (30, 26)))
    deep = wide.astype(np.uint16)
    with Pool([replica], batch=3) as pool:
        futures = [pool.submit(first)]
        assert replica.entered.acquire(timeout=PATIENCE)
        futures += [pool.submit(tile) for tile in (wide, tall, wide, deep, wide, tall)]
        for _ in range(4):
            replica.gate.release()
        for future in futures:
            future.result(PATIENCE)
    assert [[(t.shape, t.dtype) for t in batch] for batch in replica.batches] == [
        [(first.shape, first.dtype)],
        [(wide.shape, np.uint8)] * 3,
        [(tall.shape, np.uint8)] * 2,
        [(wide.shape, np.uint16)],
    ]


@pytest.mark.parametrize(
    ("waiting", "taken"), [(1, [1]), (3, [2, 1]), (5, [4, 1]), (6, [6]), (7, [6, 1]), (12, [6, 6])]
)
def test_batches_are_full_or_a_power_of_two(waiting: int, taken: list[int]) -> None:
    queue, tile = pools._Queue(waiting), np.zeros((26, 26, 3), np.uint8)
    requests = [pools._Request(tile, Future()) for _ in range(waiting)]
    for request in requests:
        queue.put(request)
    batches = [queue.take(6) for _ in taken]
    assert [len(batch) for batch in batches] == taken
    assert [request for batch in batches for request in batch] == requests, "the oldest first"


class Failing(Gated):
    """A replica whose device fails once the gate opens."""

    def _forward(self, tiles: np.ndarray) -> Prediction:  # noqa: ARG002
        raise RuntimeError("CUDA error: unspecified launch failure")


def test_the_first_failure_fails_waiting_tiles_and_closes_the_pool(
    make_model: MakeModel, announced: Announcing
) -> None:
    model = make_model()
    replica = Failing(model)
    (tile,) = tiles_of(model, 1)
    with Pool([replica], batch=1) as pool:
        futures = [pool.submit(tile)]
        assert replica.entered.acquire(timeout=PATIENCE)
        futures += [pool.submit(tile) for _ in range(2)]
        thread, outcome = begin(lambda: pool.submit(tile))
        assert announced.waits.wait(PATIENCE)
        replica.gate.release()
        for future in futures:
            with pytest.raises(MachineError, match=r"device cpu failed: CUDA error: unspecified launch failure"):
                future.result(PATIENCE)
        with pytest.raises(MachineError, match="launch failure"):  # the one that waited for room
            outcome.result(PATIENCE)
        with pytest.raises(MachineError, match="launch failure"):
            pool.submit(tile)
        thread.join()
    assert len(replica.batches) == 1


def test_an_unexpected_failure_surfaces_too(make_model: MakeModel) -> None:
    model = make_model()
    with Pool([Replica(model, "cpu")]) as pool:
        future = pool.submit(np.zeros((26, 27, 3), np.uint8))  # not a legal side
        with pytest.raises(ValueError, match="27 px is not legal"):
            future.result(PATIENCE)
        with pytest.raises(MachineError, match="27 px is not legal"):
            pool.submit(np.zeros((26, 26, 3), np.uint8))


def test_a_failing_replica_stops_the_others_too(make_model: MakeModel) -> None:
    model = make_model()
    good, bad = Gated(model), Failing(model)
    (tile,) = tiles_of(model, 1)
    with Pool([good, bad], batch=1) as pool:
        futures = [pool.submit(tile) for _ in range(2)]
        assert good.entered.acquire(timeout=PATIENCE)
        assert bad.entered.acquire(timeout=PATIENCE)
        waiting = pool.submit(tile)
        bad.gate.release()
        with pytest.raises(MachineError, match="launch failure"):
            waiting.result(PATIENCE)
        good.gate.release()
        ended = [future.exception(PATIENCE) for future in futures]
    assert sorted(type(e).__name__ for e in ended) == ["MachineError", "NoneType"]


class WithoutLane(Replica):
    """A replica of a device that has no stream to give."""

    def lane(self) -> Any:
        raise RuntimeError("CUDA error: out of streams")


def test_a_device_without_a_lane_fails_waiting_tiles(make_model: MakeModel) -> None:
    model = make_model()
    (tile,) = tiles_of(model, 1)
    with (
        Pool([WithoutLane(model, "cpu")]) as pool,
        pytest.raises(MachineError, match="cpu failed: CUDA error"),
    ):
        pool.submit(tile).result(PATIENCE)


def test_close_ends_the_threads_and_fails_whoever_waits(make_model: MakeModel, announced: Announcing) -> None:
    model = make_model()
    replica = Gated(model)
    (tile,) = tiles_of(model, 1)
    pool = Pool([replica], batch=1)
    running = pool.submit(tile)
    assert replica.entered.acquire(timeout=PATIENCE)
    queued = [pool.submit(tile) for _ in range(2)]
    thread, waiting = begin(lambda: pool.submit(tile))
    assert announced.waits.wait(PATIENCE)
    closer = threading.Thread(target=pool.close)
    closer.start()
    for future in queued:
        with pytest.raises(MachineError, match="was closed"):
            future.result(PATIENCE)
    with pytest.raises(MachineError, match="was closed"):
        waiting.result(PATIENCE)
    replica.gate.release()
    closer.join(PATIENCE)
    thread.join(PATIENCE)
    assert_is(running.result(0), direct(model, tile))  # what the device had begun is finished
    assert not any(t.is_alive() for t in (*pool._threads, closer, thread))
    with pytest.raises(MachineError, match="was closed"):
        pool.submit(tile)
    pool.close()  # closing twice does nothing


def test_a_cancelled_future_does_not_stop_the_pool(make_model: MakeModel) -> None:
    model = make_model()
    replica = Gated(model)
    (tile,) = tiles_of(model, 1)
    with Pool([replica], batch=1) as pool:
        running = pool.submit(tile)
        assert replica.entered.acquire(timeout=PATIENCE)
        unwanted, wanted = pool.submit(tile), pool.submit(tile)
        assert unwanted.cancel()
        for _ in range(3):
            replica.gate.release()
        running.result(PATIENCE)
        assert_is(wanted.result(10), direct(model, tile))


def test_pool_leaves_no_thread_behind_when_its_context_fails(make_model: MakeModel) -> None:
    model = make_model()
    pool = Pool([Replica(model, "cpu") for _ in range(3)])

    def leave() -> None:
        with pool:
            raise KeyError("something else")

    with pytest.raises(KeyError, match="something else"):
        leave()
    assert not any(thread.is_alive() for thread in pool._threads)


class Small(Replica):
    """A replica on a device with memory for ``room`` pixels of input at once."""

    room = 0

    def __init__(self, model: Model, *, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        super().__init__(model, "cpu", probabilities=True)
        self.error = error
        self.fitted: list[tuple[int, ...]] = []
        self.refused: list[tuple[int, ...]] = []

    def _forward(self, tiles: np.ndarray) -> Prediction:
        if tiles.shape[0] * tiles.shape[1] * tiles.shape[2] > self.room:
            self.refused.append(tiles.shape[:3])
            raise self.error("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nsecond line")
        self.fitted.append(tiles.shape[:3])
        return super()._forward(tiles)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError], ids=["cuda", "cpu"])
@pytest.mark.parametrize("room", [5 * 64**2, 3 * 64**2, 2 * 64**2, 64**2, 64**2 - 1, 44 * 64, 44 * 44, 32 * 32, 24**2])
def test_out_of_memory_halves_the_batch_then_the_tile_and_changes_nothing(
    make_model: MakeModel, room: int, error: type[RuntimeError]
) -> None:
    model = make_model()
    margin = model.info.receptive.margin
    assert margin == 20 + 2  # the numbers above were chosen for it: 64 = 42 + 22 is not legal, 62 = 40 + 22 is
    tiles = [np.random.default_rng(i).integers(0, 256, (62, 62, 3), np.uint8) for i in range(5)]
    small = Small(model, error=error)
    small.room = max(room, 26 * 26)
    whole, parts = Replica(model, "cpu", probabilities=True).predict(tiles), small.predict(tiles)
    assert np.array_equal(parts.labels, whole.labels)
    assert np.array_equal(parts.probabilities, whole.probabilities)
    assert all(n * h * w <= small.room for n, h, w in small.fitted)
    assert all(model.network.sizes.is_legal(side) for _, h, w in small.fitted for side in (h, w))
    assert sum(n for n, h, w in small.fitted if (h, w) == (62, 62)) == (5 if small.room >= 62 * 62 else 0)


@pytest.mark.parametrize("shape", [(62, 26), (26, 62), (26, 46), (38, 122)])
def test_a_tile_that_does_not_fit_is_cut_along_its_longer_side(make_model: MakeModel, shape: tuple[int, int]) -> None:
    model = make_model()
    small = Small(model)
    small.room = shape[0] * shape[1] - 1
    tile = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    whole, parts = Replica(model, "cpu", probabilities=True).predict([tile]), small.predict([tile])
    assert np.array_equal(parts.labels, whole.labels)
    assert np.array_equal(parts.probabilities, whole.probabilities)
    assert {min(h, w) for _, h, w in small.fitted} == {min(shape)} if max(shape) > 46 else True
    assert len(small.fitted) == 2


def test_a_size_that_did_not_fit_is_not_tried_again(make_model: MakeModel) -> None:
    small = Small(make_model())
    small.room = 2 * 62 * 62
    tiles = [np.random.default_rng(i).integers(0, 256, (62, 62, 3), np.uint8) for i in range(4)]
    for _ in range(3):
        small.predict(tiles)
    assert small.refused == [(4, 62, 62)]
    assert [n for n, _, _ in small.fitted] == [2] * 6


def test_a_batch_whose_tensors_would_have_too_many_values_is_halved_before_it_is_tried(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    tiles = [np.random.default_rng(i).integers(0, 256, (62, 62, 3), np.uint8) for i in range(4)]
    whole = Replica(model, "cpu", probabilities=True).predict(tiles)
    per_pixel = 2 * 4  # of skip and decoder, joined in the first level
    monkeypatch.setattr(devices, "MOST_VALUES", {"cpu": 2 * 62 * 62 * per_pixel + 1})
    small = Small(model)
    small.room = 4 * 62 * 62
    parts = small.predict(tiles)
    assert np.array_equal(parts.labels, whole.labels)
    assert (small.refused, [shape[0] for shape in small.fitted]) == ([], [2, 2])


def test_too_little_memory_for_any_tile_is_an_error_that_says_what_to_do(make_model: MakeModel) -> None:
    model = make_model()
    small = Small(model)
    with Pool([small], batch=2) as pool:
        future = pool.submit(np.zeros((62, 62, 3), np.uint8))
        with pytest.raises(
            MemoryLimitError, match=r"device cpu has too little memory for a tile of 26 wide x 26 high .*--device"
        ):
            future.result(PATIENCE)
        assert "second line" not in str(future.exception())
        with pytest.raises(MachineError, match="too little memory"):
            pool.submit(np.zeros((62, 62, 3), np.uint8))


def test_an_error_that_is_not_about_memory_is_not_mistaken_for_one(make_model: MakeModel) -> None:
    with pytest.raises(MachineError, match="device cpu failed") as failed:
        Failing.predict(ungated(Failing(make_model())), [np.zeros((26, 26, 3), np.uint8)] * 4)
    assert not isinstance(failed.value, MemoryLimitError)
    assert isinstance(failed.value.__cause__, RuntimeError)


def ungated(replica: Gated) -> Gated:
    replica.gate.release()
    return replica


def test_two_lanes_keep_one_device_busy_and_its_time_is_counted_once(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "lanes", lambda _: 2)
    model = make_model()
    replica = Gated(model)
    tiles = tiles_of(model, 8)
    with Pool([replica], batch=1) as pool, ThreadPoolExecutor(8) as threads:
        started = time.perf_counter()
        waiting = [threads.submit(lambda tile: pool.submit(tile).result(PATIENCE), tile) for tile in tiles]
        for _ in range(2):
            assert replica.entered.acquire(timeout=PATIENCE)  # both compute at the same time
        for _ in tiles:
            replica.gate.release()
        predictions = [future.result(PATIENCE) for future in waiting]
        elapsed = time.perf_counter() - started
    for tile, prediction in zip(tiles, predictions, strict=True):
        assert_is(prediction, direct(model, tile))
    assert 0 < sum(prediction.seconds for prediction in predictions) <= elapsed


def test_a_lower_precision_gives_nearly_the_same_labels(make_model: MakeModel) -> None:
    model = make_model()
    (tile,) = [np.random.default_rng(0).integers(0, 256, (142, 142, 3), np.uint8)]
    exact = Replica(model, "cpu").predict([tile]).labels
    for precision, most in (("bfloat16", 0.05), ("float16", 0.01)):
        labels = Replica(model, "cpu", precision=precision).predict([tile]).labels
        assert labels.dtype == np.uint8
        assert 0 < (labels != exact).mean() < most


def test_only_shapes_that_come_often_are_compiled(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.Size] = []

    def compile_(network: UNet, *, dynamic: bool) -> Callable[[torch.Tensor], torch.Tensor]:
        assert not dynamic
        return lambda x: (compiled.append(x.shape), network(x))[1]

    monkeypatch.setattr(torch, "compile", compile_)
    model = make_model()
    replica = Replica(model, "cpu", engine="compile")
    often, seldom = np.zeros((42, 42, 3), np.uint8), np.zeros((26, 42, 3), np.uint8)
    for tile in [often, seldom] * 3 + [often] * 2:
        assert_is(replica.predict([tile])[0], direct(model, tile))
    assert compiled == [(1, 3, 42, 42)] * 2


@pytest.mark.filterwarnings("ignore")  # torch's compiler has deprecations of its own
def test_more_than_eight_shapes_are_compiled(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its code generator, which takes seconds for each."""
    compile_, compiled = torch.compile, list[torch.Size]()

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        compiled.append(next(x.shape for x in inputs if x.ndim == 4 and x.shape[1] == 3 and x.shape[2] > 3))
        return graph.forward

    monkeypatch.setattr(
        torch, "compile", lambda network, *, dynamic: compile_(network, dynamic=dynamic, backend=backend)
    )
    replica = Replica(make_model(depth=0), "cpu", engine="compile")
    shapes = [(26 + 4 * i, 26) for i in range(9)]
    for shape in shapes:
        for _ in range(CompiledNetwork.OFTEN + 1):
            replica.predict([np.zeros((*shape, 3), np.uint8)])
    assert compiled == [(1, 3, *shape) for shape in shapes]


def test_the_layout_in_memory_is_that_which_is_asked_for_and_changes_no_label(make_model: MakeModel) -> None:
    model = make_model()
    model.network.down[0][0].register_forward_hook(
        lambda layer, _, output: laid_out.append((layer.weight.stride(1) == 1, output.stride(1) == 1))
    )
    for last in (True, False):
        laid_out: list[tuple[bool, bool]] = []
        replica = Replica(model, "cpu", channels_last=last)
        for tile in tiles_of(model, 2):
            assert_is(replica.predict([tile])[0], direct(model, tile))
        assert laid_out[::2] == [(last, last)] * 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler has deprecations of its own
@pytest.mark.soak  # g++ takes seconds for each kernel; tests/test_exactness.py shows it of a depth of 1
@pytest.mark.parametrize("depth", [0, 2])
def test_the_compiled_network_gives_the_same_labels(make_model: MakeModel, depth: int) -> None:
    model = make_model(depth=depth)
    replica = Replica(model, "cpu", engine="compile")
    side = model.network.sizes.nearest_legal(142)[0]
    for seed in range(5):
        tile = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
        assert_is(replica.predict([tile])[0], direct(model, tile))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Paths of the models loaded for pools, in order."""
    loaded: list[str] = []

    def counting(path: str) -> Model:
        loaded.append(path)
        return load_model(path)

    monkeypatch.setattr(pools, "load_model", counting)
    return loaded


def spec_of(model: Model, **changes: Any) -> PoolSpec:
    values = {
        "device": "cpu,cpu",
        "engine": "torch",
        "precision": "float32",
        "batch": 1,
        "probabilities": False,
        "receptive": model.info.receptive,
    } | changes
    return PoolSpec(model.info.path, model.info.sha256, **values)


def test_weights_are_loaded_once_per_process_however_many_threads_ask(make_model: MakeModel, loads: list[str]) -> None:
    model = make_model()
    together = threading.Barrier(8)

    def ask(_: int) -> Pool:
        together.wait(PATIENCE)
        return resident_pool(spec_of(model))

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(8)))
    assert len(set(map(id, found))) == 1
    assert len(found[0]._threads) == 2
    assert loads == [model.info.path]
    (tile,) = tiles_of(model, 1)
    assert_is(found[0].submit(tile).result(PATIENCE), direct(model, tile))


@pytest.mark.parametrize(
    ("there", "asked", "refused"),
    [
        (("cuda:0", "float32"), ("cuda:1", "tf32"), True),
        (("cuda:0", "tf32"), ("cuda:0", "bfloat16"), True),
        (("cuda:0", "tf32"), ("cuda:0", "tf32"), False),
        (("cuda:0", "tf32"), ("cpu", "float32"), False),
        (("cpu", "float32"), ("cuda:0", "tf32"), False),
    ],
)
def test_pools_that_round_differently_are_not_open_together(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, there: Any, asked: Any, refused: bool
) -> None:
    model = make_model()
    monkeypatch.setattr(pools, "resolve_devices", lambda device: (device,))
    monkeypatch.setattr(pools, "Replica", lambda model, device, **_: device)  # noqa: ARG005
    open_, wanted = (spec_of(model, device=device, precision=precision) for device, precision in (there, asked))
    with Pool([]) as pool:
        monkeypatch.setattr(pools, "_resident", {open_: pool})
        if refused:
            with pytest.raises(
                MachineError, match=f"{asked[1]} and {there[1]} cannot be used in one process at the same"
            ):
                pools.load_replicas(wanted, wanted.devices)
        else:
            assert pools.load_replicas(wanted, wanted.devices) == [asked[0]]
    assert pools.load_replicas(wanted, wanted.devices) == [asked[0]], "the other pool is closed"


def test_another_spec_has_another_pool(make_model: MakeModel, loads: list[str]) -> None:
    model = make_model()
    one, other = resident_pool(spec_of(model)), resident_pool(spec_of(model, probabilities=True))
    (tile,) = tiles_of(model, 1)
    assert one.submit(tile).result(PATIENCE).probabilities is None
    assert other.submit(tile).result(PATIENCE).probabilities is not None
    assert len(loads) == 2


def test_closing_resident_pools_ends_their_threads_and_the_next_to_ask_gets_a_new_one(
    make_model: MakeModel, loads: list[str]
) -> None:
    model = make_model()
    first = resident_pool(spec_of(model))
    close_resident_pools()
    assert not any(thread.is_alive() for thread in first._threads)
    second = resident_pool(spec_of(model))
    (tile,) = tiles_of(model, 1)
    assert_is(second.submit(tile).result(PATIENCE), direct(model, tile))
    assert len(loads) == 2


def test_a_resident_pool_that_failed_is_not_handed_out_again(make_model: MakeModel) -> None:
    model = make_model()
    failed = resident_pool(spec_of(model))
    assert failed.submit(np.zeros((3, 3, 3), np.uint8)).exception(PATIENCE) is not None
    (tile,) = tiles_of(model, 1)
    assert_is(resident_pool(spec_of(model)).submit(tile).result(PATIENCE), direct(model, tile))


def test_a_model_replaced_since_the_run_began_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    spec = spec_of(model)
    save_unet(spec.model, model.network, ModelSpec(THREE, licence="another"))
    with pytest.raises(ModelError, match=r"3-3\.safetensors was replaced while in use"):
        resident_pool(spec)
