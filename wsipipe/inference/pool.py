"""The worker pool: one replica of the network per device, and a thread or two for it, fed from one bounded queue.

Whoever has pixels submits tiles. The tiles of all blocks in flight share the queue, and each device takes as many
of one shape as its batch holds, without waiting for more. A process has one pool per `PoolSpec`.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from wsipipe.arrays import Pixels
from wsipipe.errors import MachineError, ModelError
from wsipipe.geometry.network import Receptive
from wsipipe.geometry.symmetry import SYMMETRIES, TTA_OFF
from wsipipe.inference import allocator
from wsipipe.inference.devices import (
    TF32,
    forget_free_memory,
    is_cpu,
    resolve_devices,
    threads_per_replica,
    value_bytes,
)
from wsipipe.inference.replica import Prediction, Replica
from wsipipe.model.footprint import FLOAT32_BYTES
from wsipipe.model.model_file import NetworkInfo, load_model


@dataclass(frozen=True)
class PoolSpec:
    """Everything that defines a pool; it is small, so tasks carry it instead of the weights."""

    model: str
    """Path of the model."""
    sha256: str
    """Digest of the model's file, by which a file replaced meanwhile is noticed."""
    device: str
    """The value of ``--device``, which each process resolves to its own `devices`."""
    engine: str
    """The engine that computes on them, as `wsipipe.inference.devices.resolve_engine` returns it."""
    precision: str
    """The precision of convolutions: ``float32``, ``tf32``, ``bfloat16`` or ``float16``."""
    batch: int
    """Tiles that go through the network at once, 1 or more."""
    probabilities: bool
    """Whether predictions carry probabilities."""
    receptive: Receptive
    """The sizes of its tiles."""
    processes: int = 1
    """Processes that share the cores of one machine."""
    per_gpu: int = 1
    """Processes that share one GPU."""
    tta: str = TTA_OFF
    """The symmetries over which probabilities are averaged: ``off``, ``flips`` or ``all``."""
    uncertainty: bool = False
    """Whether predictions carry the uncertainty."""
    channels_last: bool = True
    """Whether the channels of a pixel lie together in memory, within the network."""

    @property
    def passes(self) -> int:
        """Passes of the network over each tile: 1, 4 or 8."""
        return len(SYMMETRIES[self.tta])

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of this process, one replica each."""
        return resolve_devices(self.device)

    @property
    def threads(self) -> int:
        """CPU cores for each replica."""
        return threads_per_replica(self.devices, self.processes)

    def tensor_bytes(self, network: NetworkInfo, side: int, batch: int) -> int:
        """The most bytes that a replica holds for tiles of ``side`` px, ``batch`` of them, weights apart.

        Averaging adds the turned tiles and the running sum.
        """
        averages = self.passes > 1
        shares = self.probabilities or self.uncertainty or averages
        tensors = network.tensor_bytes(
            side,
            batch,
            engine=self.engine,
            value_bytes=value_bytes(self.engine, self.precision),
            probabilities=shares,
        )
        return tensors + averages * FLOAT32_BYTES * batch * side * side * (network.in_channels + network.classes)


@dataclass(frozen=True, eq=False)
class _Request:
    """A tile to predict, and the future of its prediction."""

    tile: Pixels
    result: Future[Prediction]

    @property
    def kind(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of the tile: a batch holds one kind."""
        return self.tile.shape, self.tile.dtype


class _Queue:
    """Requests that wait for a device, at most ``size`` of them; closing the queue wakes everyone up."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._requests: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed_by: BaseException | None = None

    def put(self, request: _Request) -> None:
        """Add ``request``, waiting for room; raise a MachineError once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed_by or len(self._requests) < self._size)
            if self._closed_by:
                raise MachineError(f"the worker pool takes no more tiles: {self._closed_by}") from self._closed_by
            self._requests.append(request)
            self._changed.notify_all()

    def take(self, most: int) -> list[_Request]:
        """The oldest request, and others of its kind, wherever they stand; none once closed.

        They are ``most`` in all, or else a power of two: a GPU plans its convolutions for every number anew, 23 ms.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed_by or self._requests)
            if not self._requests:
                return []
            oldest = self._requests[0]
            alike = [request for request in self._requests if request.kind == oldest.kind]
            batch = alike[: most if len(alike) >= most else 1 << len(alike).bit_length() - 1]
            for request in batch:
                self._requests.remove(request)
            self._changed.notify_all()
        return batch

    def close(self, reason: BaseException) -> None:
        """Refuse new requests, and fail those that wait with ``reason``; only the first reason counts."""
        with self._changed:
            self._closed_by = self._closed_by or reason
            waiting = wanted(self._requests)
            self._requests.clear()
            self._changed.notify_all()
        for request in waiting:
            request.result.set_exception(self._closed_by)

    @property
    def closed(self) -> bool:
        """Whether it refuses new requests."""
        return self._closed_by is not None


class _Clock:
    """The seconds in which a device computes, for one of its lanes or for several."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._computing, self._since, self._seconds = 0, 0.0, 0.0

    def start(self) -> None:
        """Count a lane that begins to compute."""
        self._tick(1)

    def stop(self) -> float:
        """Count a lane that ended; return the seconds of computing since one last ended."""
        return self._tick(-1)

    def _tick(self, change: int) -> float:
        with self._lock:
            now = time.perf_counter()
            if self._computing:
                self._seconds += now - self._since
            self._computing, self._since = self._computing + change, now
            if change > 0:
                return 0.0
            seconds, self._seconds = self._seconds, 0.0
            return seconds


def wanted(requests: Iterable[_Request]) -> list[_Request]:
    """The requests not cancelled; marks them running, so that they cannot be cancelled any more."""
    return [request for request in requests if request.result.set_running_or_notify_cancel()]


class Pool:
    """Replicas at work. Use it as a context manager, or `close` it."""

    def __init__(self, replicas: Sequence[Replica], *, batch: int = 1) -> None:
        self._batch = batch
        self._queue = _Queue(2 * batch * len(replicas))
        self._threads = [
            threading.Thread(
                target=self._work, args=(replica, clock), name=f"wsipipe-{replica.device}-{i}-{lane}", daemon=True
            )
            for i, replica in enumerate(replicas)
            for clock in [_Clock()]
            for lane in range(replica.lanes)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, tile: Pixels) -> Future[Prediction]:
        """Submit ``tile`` (core + margin, core + margin, channel), uint8 or uint16; waits while the queue is full.

        Raises
        ------
        MachineError
            If the pool was closed, or a device failed.
        """
        request = _Request(tile, Future())
        self._queue.put(request)
        return request.result

    @property
    def closed(self) -> bool:
        """Whether it accepts no more tiles, because it was closed or a device failed."""
        return self._queue.closed

    def close(self) -> None:
        """End the threads; tiles that still wait fail with a MachineError."""
        self._queue.close(MachineError("the worker pool was closed"))
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self, replica: Replica, clock: _Clock) -> None:
        """Run one lane of a device: predict batches until the queue is closed. The first failure closes it for all."""
        try:
            self._predict_all(replica, clock)
        except BaseException as err:  # an error of the lane itself; whoever waits would never hear of it
            self._queue.close(MachineError(f"device {replica.device} failed: {err}"))

    def _predict_all(self, replica: Replica, clock: _Clock) -> None:
        with replica.lane():
            while batch := self._queue.take(self._batch):
                if not (batch := wanted(batch)):
                    continue
                clock.start()
                try:
                    prediction = replica.predict([request.tile for request in batch])
                except BaseException as err:
                    self._queue.close(err)
                    for request in batch:
                        request.result.set_exception(err)
                else:
                    seconds = clock.stop() / len(batch)
                    for i, request in enumerate(batch):
                        request.result.set_result(replace(prediction[i], seconds=seconds))


def load_replicas(spec: PoolSpec, devices: Sequence[str]) -> list[Replica]:
    """Load the network of ``spec`` onto each of ``devices``, which are some of its own.

    Raises
    ------
    ModelError
        If the model cannot be read, or was replaced since the run began.
    MachineError
        If a device cannot hold the network, or another pool of this process is open and rounds otherwise.
    """
    _check_rounding(spec)
    allocator.settle()
    model = load_model(sent_models.get(spec.sha256, spec.model))
    if model.info.sha256 != spec.sha256:
        raise ModelError(f"model {spec.model} was replaced while in use; start again")
    try:
        return [
            Replica(
                model,
                device,
                engine=spec.engine,
                precision=spec.precision,
                threads=spec.threads,
                probabilities=spec.probabilities,
                receptive=spec.receptive,
                uncertainty=spec.uncertainty,
                tta=spec.tta,
                channels_last=spec.channels_last,
            )
            for device in devices
        ]
    except (RuntimeError, MemoryError) as err:
        reason = str(err) or "out of memory"
        raise MachineError(
            f"cannot load the network onto {', '.join(devices)}: {reason}; use another --device"
        ) from err


def _check_rounding(spec: PoolSpec) -> None:
    """Raise a MachineError if a pool is open that computes in TF32 and ``spec`` does not, or the other way round.

    Whether a GPU's convolutions round to TF32 is one setting of the whole process.
    """
    on_gpus = [other for other, pool in list(_resident.items()) if not pool.closed and not is_cpu(other.devices)]
    for other in on_gpus if not is_cpu(spec.devices) else ():
        if (other.precision == TF32) != (spec.precision == TF32):
            raise MachineError(
                f"--precision {spec.precision} and {other.precision} cannot be used in one process at the same time; "
                "use another process"
            )


sent_models: dict[str, str] = {}
"""Paths of the models that were sent to this process, by sha256: it may not see the path in `PoolSpec.model`."""
_resident: dict[PoolSpec, Pool] = {}
_resident_lock = threading.Lock()


def resident_pool(spec: PoolSpec) -> Pool:
    """The pool of this process for ``spec``; the first caller loads the weights, and the others wait for it.

    Raises
    ------
    ModelError, MachineError
        As `load_replicas`.
    """
    with _resident_lock:
        if spec not in _resident or _resident[spec].closed:
            _resident[spec] = Pool(load_replicas(spec, spec.devices), batch=spec.batch)
        return _resident[spec]


def load_pool(spec: PoolSpec) -> None:
    """Have this process load its pool for ``spec`` now.

    Raises
    ------
    ModelError, MachineError
        As `load_replicas`.
    """
    resident_pool(spec)


def release_pool(spec: PoolSpec) -> None:
    """End the threads of this process's pool for ``spec``, if there is one, and release its weights."""
    with _resident_lock:
        pool = _resident.pop(spec, None)
    if pool is not None:
        pool.close()
        forget_free_memory()


@atexit.register
def close_resident_pools() -> None:
    """End the threads of every pool of this process, and release the weights."""
    for spec in list(_resident):
        release_pool(spec)


if hasattr(os, "register_at_fork"):  # a child inherits the dictionary, but none of the threads
    os.register_at_fork(after_in_child=_resident.clear)
