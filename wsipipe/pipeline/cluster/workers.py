"""The workers of a run: what each of them has and sees, and whether it can do the work."""

from __future__ import annotations

import logging
import platform
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distributed import Client, Worker
from distributed.diagnostics.plugin import WorkerPlugin

from wsipipe.errors import MachineError, ModelError, OutputError, WsipipeError
from wsipipe.extras import DISTRIBUTION
from wsipipe.files import locate
from wsipipe.inference.devices import ENGINES_OF, identities, is_cpu
from wsipipe.inference.pool import PoolSpec, load_pool, release_pool, sent_models
from wsipipe.model.model_file import ModelInfo, read_model_info
from wsipipe.pipeline.cluster.patience import Patience
from wsipipe.pipeline.config import ComputeRequest
from wsipipe.pipeline.machine import RESERVE, loaded_bytes
from wsipipe.pipeline.setup import Site, site_of_this_process
from wsipipe.store.zarr_settings import own_zarr_settings
from wsipipe.urls import signatures

SAME = (DISTRIBUTION, "zarr")
"""Packages whose version must be the same on every worker: they read and write the same stores."""
ANSWER_SECONDS, RELEASE_SECONDS = 300.0, 10.0
"""How long a worker may take to say what it has, which it may have to import first, and to release the network."""
WORKER_CHECK_SECONDS = 5.0
"""Time between two checks for new workers."""


@dataclass(frozen=True)
class WorkerFacts:
    """Resources of one worker, and the files that it sees."""

    host: str
    threads: int
    site: Site
    gpus: frozenset[str]
    """The GPUs that it computes on, by names that it shares with the other workers on its host."""
    own_limit: bool
    """Whether the limit is its own, not one that it shares with the other workers on its host."""
    sees_model: bool
    """Whether it can read the model at its path."""


class Workers:
    """The workers of a run, each of which is examined before it gets work, also those that come later.

    Parameters
    ----------
    client
        A client of their scheduler.
    request
        What each of them is asked for.
    model
        The model that they will load.
    seconds
        How long tasks may wait without a worker that works; None: as `Patience` has it.
    """

    def __init__(self, client: Client, request: ComputeRequest, model: ModelInfo, seconds: float | None = None) -> None:
        self.patience = Patience(client, seconds)
        self.client, self._request, self._model = client, request, model
        self.address: str = client.scheduler_info(n_workers=0)["address"]
        self.dashboard: str = client.dashboard_link
        self._facts: dict[str, WorkerFacts] = {}
        self._examined = float("-inf")
        self._sent = False
        self._shared: list[str] = []  # paths that every worker has to see

    def site(self) -> Site:
        """The resources of every worker: the least memory of all, and devices of the kind that takes most of it.

        Raises
        ------
        MachineError
            If one cannot do the work; the message names it and says why.
        """
        self._examine(self._addresses())
        facts = list(self._facts.values())
        if not facts:
            raise MachineError(f"all workers of {self.address} left while being examined; check their logs")
        hosts = Counter(fact.host for fact in facts)
        gpus = Counter((fact.host, gpu) for fact in facts for gpu in fact.gpus)
        first = next((fact for fact in facts if is_cpu(fact.site.devices)), facts[0]).site
        order = ENGINES_OF[self._request.kind]
        return Site(
            device=self._request.device,
            devices=first.devices,
            engine=max((fact.site.engine for fact in facts), key=order.index),  # what all of them have
            limit_bytes=min(f.site.limit_bytes // (1 if f.own_limit else hosts[f.host]) for f in facts),
            processes=len(facts),
            per_machine=max(hosts.values()),
            per_gpu=max(gpus.values(), default=1),
            loaded_bytes=max(fact.site.loaded_bytes or 0 for fact in facts),
            threads=max(fact.threads for fact in facts),
            names=first.names,
            fallback=first.fallback,
        )

    def check_paths(self, slides: Sequence[str], out: str) -> None:
        """Raise a MachineError unless every worker sees ``slides`` and ``out``.

        Raises
        ------
        MachineError
            Naming a worker, and a path that it does not see.
        OutputError
            If ``out`` cannot be written to from here.
        """
        if signatures:
            self.client.register_plugin(SentSignatures(dict(signatures)))
        token = locate(out) / f".seen-{secrets.token_hex(4)}"
        try:
            token.write_bytes(b"")
            self._refuse_blind([*slides, str(token)], list(self._facts))
            self._shared = [*slides[:1], out]
        except OSError as err:
            raise OutputError(f"-o {out} cannot be written: {err.strerror}; give another -o") from err
        finally:
            with suppress(OSError):
                token.unlink()

    def count_threads(self) -> int:
        """The threads of all workers now; new ones are examined, and sent away if they cannot do the work."""
        if time.monotonic() > self._examined + WORKER_CHECK_SECONDS:
            addresses = self._addresses()
            for new in [address for address in addresses if address not in self._facts]:
                try:
                    self._examine([new])
                    self._refuse_blind(self._shared, [new])
                except MachineError as err:
                    logging.getLogger(__name__).warning("%s; it is sent away", err)
                    self.client.retire_workers([new])
            self._facts = {address: fact for address, fact in self._facts.items() if address in addresses}
        return sum(fact.threads for fact in self._facts.values())

    def load(self, spec: PoolSpec) -> None:
        """Have every worker load the network."""
        loading = [
            self.client.submit(load_pool, spec, workers=[w], allow_other_workers=True, pure=False)  # it may have gone
            for w in self._facts
        ]
        self.patience.results(loading)

    def release(self, spec: PoolSpec) -> None:
        """Have every worker release the network; one that hangs keeps it."""
        with suppress(TimeoutError):
            self.client.run(release_pool, spec, on_error="ignore", callback_timeout=RELEASE_SECONDS)

    def ask(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The result of ``function``, called in one of the workers."""
        return self.patience.results([self.client.submit(function, *args, **options, pure=False)])[0]

    def _addresses(self) -> list[str]:
        self._examined = time.monotonic()
        return sorted(self.client.scheduler_info(n_workers=-1)["workers"])

    def _run(self, function: Callable[..., Any], *args: Any, workers: Sequence[str]) -> Mapping[str, Any]:
        """The result of ``function`` in each of ``workers`` that is still there."""
        given: dict[str, Any] = {"workers": list(workers), "on_error": "return", "callback_timeout": ANSWER_SECONDS}
        try:
            found: Mapping[str, Any] = self.client.run(function, *args, **given)
        except TimeoutError as err:
            raise MachineError(
                f"one of the workers {', '.join(workers)} has not answered for {ANSWER_SECONDS:.0f} s; "
                "check the worker logs; the same command resumes"
            ) from err
        return {address: result for address, result in found.items() if not isinstance(result, OSError)}

    def _examine(self, addresses: Sequence[str]) -> None:
        """Find out what the workers at ``addresses`` have, and send the model to those that do not see it."""
        here = versions()()
        for address, there in self._run(versions(), workers=addresses).items():
            if there != here:
                raise MachineError(f"worker {address} {_difference(there, here)}; install the same there")
        for address, fact in self._run(worker_facts, self._request, self._model, workers=addresses).items():
            if isinstance(fact, WsipipeError):
                raise MachineError(f"worker {address}: {fact}") from fact
            if isinstance(fact, BaseException):
                raise fact
            self._facts[address] = fact
            if not fact.sees_model and not self._sent:
                blob = Path(self._model.path).read_bytes()
                self.client.register_plugin(SentModel(self._model.sha256, blob))
                self._sent = True

    def _refuse_blind(self, paths: Sequence[str], workers: Sequence[str]) -> None:
        for address, unseen in self._run(paths_not_seen, list(paths), workers=workers).items():
            if isinstance(unseen, BaseException):
                raise unseen
            if unseen:
                more = f", and {len(unseen) - 1} more" if len(unseen) > 1 else ""
                raise MachineError(
                    f"worker {address} on {self._facts[address].host} does not see {unseen[0]}{more}; "
                    "slides and results must be in a folder that all workers share, or in a bucket"
                )


class SentSignatures(WorkerPlugin):
    """The query strings of URLs, sent to each worker, also to those that come later: no task and no path has them."""

    name = "wsipipe-signatures"

    def __init__(self, sent: dict[str, str]) -> None:
        self._sent = sent

    def setup(self, worker: Worker) -> None:  # noqa: ARG002
        """Add them to those that the worker's process knows."""
        signatures.update(self._sent)


class SentModel(WorkerPlugin):
    """A model that workers do not see, sent to each of them once, also to those that come later."""

    idempotent = True

    def __init__(self, sha256: str, blob: bytes) -> None:
        self.name = f"wsipipe-model-{sha256}"
        self._sha256, self._blob = sha256, blob

    def setup(self, worker: Worker) -> None:
        """Write it into the worker's own folder, which is removed with the worker."""
        path = Path(worker.local_directory) / self._sha256
        path.write_bytes(self._blob)
        sent_models[self._sha256] = str(path)


def versions() -> Callable[[], dict[str, str | None]]:
    """A function that returns the versions of `SAME`; sent by value, it works where wsipipe is not installed."""
    names = SAME

    def installed() -> dict[str, str | None]:
        from importlib.metadata import PackageNotFoundError, version

        found: dict[str, str | None] = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
        return found

    return installed


def _difference(there: Any, here: Mapping[str, str | None]) -> str:
    if isinstance(there, BaseException):
        return f"cannot say what it has ({type(there).__name__}: {there})"
    words = [f"{name} {there[name]} (here {here[name]})" for name in SAME if there[name] != here[name] and there[name]]
    words += [f"no {name} (here {here[name]})" for name in SAME if there[name] is None]
    return "has " + " and ".join(words)


def worker_facts(request: ComputeRequest, model: ModelInfo, dask_worker: Worker) -> WorkerFacts:
    """The facts of the worker that calls it, which from now on reads and writes with wsipipe's settings of zarr."""
    own_zarr_settings()
    site, limit = site_of_this_process(request), dask_worker.memory_manager.memory_limit
    if request.max_memory_bytes is None and limit:
        pauses = dask_worker.memory_manager.memory_pause_fraction or 1.0  # beyond that it takes no more tasks
        site = replace(site, limit_bytes=int(limit * min(pauses, 1 - RESERVE)))
    try:
        sees_model = read_model_info(model.path).sha256 == model.sha256
    except ModelError:
        sees_model = False
    site = replace(site, loaded_bytes=loaded_bytes(site.engine, site.devices))
    own, gpus = request.max_memory_bytes is not None or bool(limit), identities(site.devices)
    return WorkerFacts(platform.node(), dask_worker.state.nthreads, site, gpus, own, sees_model)


def paths_not_seen(paths: Sequence[str]) -> list[str]:
    """The ``paths`` that the worker that calls it does not see."""
    return [path for path in paths if not _sees(path)]


def _sees(path: str) -> bool:
    try:
        return locate(path).exists()
    except (OSError, ValueError):  # no permission, or not a path
        return False
