"""An end to waiting: tasks wait, and for a while no worker has worked on any."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import distributed
from distributed import Client, Future

from wsipipe.errors import MachineError

IDLE_SECONDS, QUEUE_SECONDS = 120.0, 86400.0
"""How long tasks may wait without a worker that works, and how long where workers are jobs, which wait in a queue."""
LOOK_SECONDS = 5.0
"""Time between two looks at the workers."""


def error_of(future: Future[Any]) -> BaseException | None:
    """What the task of ``future`` raised, which has ended; None if nothing.

    Raises
    ------
    MachineError
        If the scheduler was lost; or if its worker left since then, and no other repeats the task.
    """
    if future.cancelled():
        raise MachineError("the scheduler was lost; the same command resumes")
    try:
        error: BaseException | None = future.exception(timeout=IDLE_SECONDS)
    except TimeoutError as err:
        raise _not_handed_over() from err
    return error


def result_of(future: Future[Any]) -> Any:
    """The result of ``future``, which has ended; the worker that has it may hang since then.

    Raises
    ------
    MachineError
        If that worker does not answer.
    Exception
        Whatever the task raised.
    """
    error = error_of(future)
    if error is not None:
        raise error
    try:
        return future.result(timeout=IDLE_SECONDS)
    except TimeoutError as err:
        raise _not_handed_over() from err


def _not_handed_over() -> MachineError:
    return MachineError(
        f"a worker has not handed over a result for {IDLE_SECONDS:.0f} s; check the worker logs; "
        "the same command resumes"
    )


class Patience:
    """Watches the workers of ``client`` while this process waits for tasks.

    What counts are looks and not the time between the first and the last: a process that was suspended has not waited.

    Parameters
    ----------
    client
        A client of the workers.
    seconds
        How long no worker may work.
    clock
        Seconds since any moment.
    """

    def __init__(
        self, client: Client, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client, self._clock = client, clock
        self._seconds = IDLE_SECONDS if seconds is None else seconds
        self._looked, self._idle_looks = clock(), 0
        self._last_seen: dict[str, float] = {}

    def reset(self) -> None:
        """A task has ended."""
        self._idle_looks = 0

    def look(self) -> None:
        """Look at the workers, if the last look was long enough ago.

        Raises
        ------
        MachineError
            If none has worked for too long.
        """
        if self._clock() < self._looked + LOOK_SECONDS:
            return
        self._looked = self._clock()
        count, working = self._workers()
        self._idle_looks = 0 if working else self._idle_looks + 1
        if self._idle_looks * LOOK_SECONDS >= self._seconds:
            there = f"none of the {count} workers has worked" if count else "there was no worker"
            raise MachineError(
                f"tasks wait, but {there} for {self._seconds:.0f} s; check the worker logs; the same command resumes"
            )

    def results(self, futures: Sequence[Future[Any]]) -> list[Any]:
        """The results of ``futures``.

        Raises
        ------
        MachineError
            If no worker works on them for too long.
        Exception
            Whatever a task raised.
        """
        while True:
            try:
                distributed.wait(futures, timeout=LOOK_SECONDS)
                break
            except TimeoutError:
                self.look()
        return [result_of(future) for future in futures]

    def _workers(self) -> tuple[int, bool]:
        """How many workers there are, and whether one that was heard of since the last look computes something.

        One that fetches what its tasks need does not: the worker that has it may hang.
        """
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, KeyError):  # no scheduler answers
            return 0, False
        before, self._last_seen = self._last_seen, {name: one["last_seen"] for name, one in workers.items()}
        counts = {name: one.get("metrics", {}).get("task_counts", {}) for name, one in workers.items()}
        heard = [name for name, seen in self._last_seen.items() if seen != before.get(name)]
        return len(workers), any(counts[name].get("executing") for name in heard)
