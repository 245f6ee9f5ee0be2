"""The worker pool: one replica of the network per device, and a thread or two for it, fed from one bounded queue.

Whoever has pixels submits tiles; the tiles of all blocks in flight share the queue, and each device takes
as many of one shape as its batch holds, without waiting for more. A process has one pool for one network.
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
from typing import Self

from wsipipe.arrays import Pixels
from wsipipe.errors import MachineError, ModelError
from wsipipe.inference import allocator
from wsipipe.inference.devices import forget_free_memory, resolve_devices, threads_per_replica
from wsipipe.inference.replica import Prediction, Replica
from wsipipe.model.model_file import load_model


@dataclass(frozen=True)
class PoolSpec:
    """Everything that makes a pool; small, so that tasks carry this and never the weights."""

    model: str
    """Path of the model."""
    sha256: str
    """Of the model, so that a file replaced meanwhile is noticed."""
    device: str
    """What each process makes its `devices` of, as ``--device`` says it."""
    engine: str
    """What computes on them, as `wsipipe.inference.devices.resolve_engine` gives it."""
    precision: str
    """What convolutions compute in."""
    batch: int
    """Tiles that go through the network at once, 1 or more."""
    probabilities: bool
    """Whether predictions carry them."""
    processes: int = 1
    """How many of them share the cores of one machine."""

    @property
    def devices(self) -> tuple[str, ...]:
        """Those of this process: one replica each."""
        return resolve_devices(self.device)

    @property
    def threads(self) -> int:
        """Cores for each replica on the CPU."""
        return threads_per_replica(self.devices, self.processes)


@dataclass(frozen=True, eq=False)
class _Request:
    tile: Pixels
    result: Future[Prediction]


class _Queue:
    """Jobs that wait for a device, at most ``size`` of them; closing it wakes everyone up."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed_by: BaseException | None = None

    def put(self, job: _Request) -> None:
        """Add ``job``, waiting for room; raises MachineError once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed_by or len(self._jobs) < self._size)
            if self._closed_by:
                raise MachineError(f"the worker pool takes no more tiles: {self._closed_by}") from self._closed_by
            self._jobs.append(job)
            self._changed.notify_all()

    def take(self, most: int) -> list[_Request]:
        """The oldest job, and up to ``most`` - 1 others of its shape, wherever they stand; none once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed_by or self._jobs)
            if not self._jobs:
                return []
            like = self._jobs[0].tile
            jobs = [job for job in self._jobs if (job.tile.shape, job.tile.dtype) == (like.shape, like.dtype)][:most]
            for job in jobs:
                self._jobs.remove(job)
            self._changed.notify_all()
        return jobs

    def close(self, reason: BaseException) -> None:
        """Refuse what comes, and fail what waits with ``reason``; only the first reason counts."""
        with self._changed:
            self._closed_by = self._closed_by or reason
            waiting = wanted(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for job in waiting:
            job.result.set_exception(self._closed_by)

    @property
    def closed(self) -> bool:
        """Whether nothing is taken any more."""
        return self._closed_by is not None


class _Clock:
    """The seconds in which a device computes, for one of its lanes or for several."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._computing, self._since, self._seconds = 0, 0.0, 0.0

    def start(self) -> None:
        """A lane begins."""
        self._tick(1)

    def stop(self) -> float:
        """A lane ended; the seconds since a lane last asked."""
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


def wanted(jobs: Iterable[_Request]) -> list[_Request]:
    """Those of ``jobs`` that nobody cancelled, and that from now on nobody can."""
    return [job for job in jobs if job.result.set_running_or_notify_cancel()]


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
        """The prediction to come for ``tile`` (core + margin, core + margin, channel); waits while the queue is full.

        Raises
        ------
        MachineError
            If the pool was closed, or a device failed for good.
        """
        job = _Request(tile, Future())
        self._queue.put(job)
        return job.result

    @property
    def closed(self) -> bool:
        """Whether it takes no more tiles: it was closed, or a device failed."""
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
        """One lane of a device: batches until the queue is closed; the first failure closes it for all."""
        try:
            self._predict_all(replica, clock)
        except BaseException as err:  # of the lane itself; nobody else would tell those who wait
            self._queue.close(MachineError(f"device {replica.device} failed: {err}"))

    def _predict_all(self, replica: Replica, clock: _Clock) -> None:
        with replica.lane():
            while jobs := self._queue.take(self._batch):
                if not (jobs := wanted(jobs)):
                    continue
                clock.start()
                try:
                    prediction = replica.predict([job.tile for job in jobs])
                except BaseException as err:
                    self._queue.close(err)
                    for job in jobs:
                        job.result.set_exception(err)
                else:
                    seconds = clock.stop() / len(jobs)
                    for i, job in enumerate(jobs):
                        job.result.set_result(replace(prediction[i], seconds=seconds))


def load_replicas(spec: PoolSpec, devices: Sequence[str]) -> list[Replica]:
    """A replica of the network of ``spec`` on each of ``devices``, which are some of its own.

    Raises
    ------
    ModelError
        If the model is no longer the one that the run began with.
    MachineError
        If a device can not take the network.
    """
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
            )
            for device in devices
        ]
    except (RuntimeError, MemoryError) as err:
        reason = str(err) or "no memory"
        raise MachineError(f"{', '.join(devices)} can not take the network: {reason}; use another --device") from err


sent_models: dict[str, str] = {}
"""Where this process finds models that were sent to it, by their sha256: it does not see the path that others do."""
_resident: dict[PoolSpec, Pool] = {}
_resident_lock = threading.Lock()


def resident_pool(spec: PoolSpec) -> Pool:
    """The pool of this process for ``spec``; the first to ask loads the weights, the others wait for that.

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
    """End the threads of this process's pool for ``spec``, if there is one, and let go of its weights."""
    with _resident_lock:
        pool = _resident.pop(spec, None)
    if pool is not None:
        pool.close()
        forget_free_memory()


@atexit.register
def close_resident_pools() -> None:
    """End the threads of every pool of this process and let go of the weights."""
    for spec in list(_resident):
        release_pool(spec)


if hasattr(os, "register_at_fork"):  # a child has the dictionary, and none of the threads
    os.register_at_fork(after_in_child=_resident.clear)
