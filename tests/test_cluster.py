"""Workers in other processes: the same bytes, whoever computes; what cannot do the work is refused by name."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import dask
import pytest
from distributed import Client, Worker
from distributed.security import Security

from tests.conftest import Call
from tests.faults import (
    PATIENCE_SECONDS,
    SITE,
    Process,
    assert_same_bytes,
    picture,
    shards,
    start,
    summary,
    wait_until,
    write_model,
    write_slide,
    wsipipe,
)
from tests.soak import rounds
from tests.warm import First, Warm
from wsipipe.errors import UsageError
from wsipipe.model.file_kind import FileKind
from wsipipe.pipeline import machine
from wsipipe.pipeline.cluster import connect, local
from wsipipe.pipeline.cluster.workers import WorkerFacts, Workers
from wsipipe.pipeline.config import ClusterConfig, ComputeRequest, RunConfig, parse_cluster
from wsipipe.pipeline.run import run as run_slides
from wsipipe.pipeline.setup import Site, resolve

SMALL = ("--block", 128, "--tile", 128, "--device", "cpu", "--engine", "torch")


@dataclass
class Dask:
    """A scheduler, and plain ``dask worker`` processes, on loopback."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    """Of the scheduler and of the workers."""
    processes: dict[str, Process] = field(default_factory=dict)
    address: str = ""

    def start_scheduler(self) -> None:
        """Start it, on the port that it had before if it ran already."""
        file = self.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        port = self.address.rpartition(":")[2] or "0"
        options = ["--host", "127.0.0.1", "--port", port, "--dashboard-address", "127.0.0.1:0", *self.options]
        process = self._start("scheduler", "dask_scheduler", *options, "--scheduler-file", str(file))
        wait_until(lambda: file.exists() and file.stat().st_size > 0, process)
        self.address = json.loads(file.read_text())["address"]

    def start_worker(
        self,
        name: str,
        *options: str,
        first: First | None = None,
        fresh: bool = False,
        nanny: bool = False,
        **settings: str,
    ) -> None:
        """Start one of one thread, which calls ``first`` before all else; from scratch, with a nanny, if ``fresh``."""
        given = [
            "--nthreads",
            "1",
            "--name",
            name,
            "--dashboard-address",
            "127.0.0.1:0",
            "--no-dashboard",
            *self.options,
            *options,
        ]
        given += ["--local-directory", str(self.folder / name), *(() if fresh or nanny else ("--no-nanny",))]
        self._start(name, "dask_worker", self.address, *given, first=first, fresh=fresh, **settings)

    def _start(
        self,
        name: str,
        program: str,
        *arguments: str,
        first: First | None = None,
        fresh: bool = False,
        **settings: str,
    ) -> Process:
        log, settings = self.folder / f"{name}.log", {**self.settings, **settings}
        process: Process
        if fresh:
            with log.open("a") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", f"distributed.cli.{program}", *arguments],
                    stdout=file,
                    stderr=file,
                    env={**os.environ, **settings},
                    text=True,
                    start_new_session=True,  # a nanny and its worker are ended together
                )
        else:
            process = Warm(f"distributed.cli.{program}", arguments, log, first=first, environment=settings)
        self.processes[name] = process
        return process

    def wait_for_rest(self) -> None:
        """Wait until no worker computes; those of a client that is gone still finish what they were in the midst of."""

        def computing(dask_worker: Worker) -> int:
            return dask_worker.state.executing_count

        with Client(self.address) as client:
            # One that was killed may still be listed; it does not answer.
            answers = partial(client.run, computing, on_error="ignore")
            wait_until(lambda: not any(answers().values()), self.processes["scheduler"])

    def kill(self, name: str) -> None:
        """End a process, and the worker of a nanny with it, as a power cut would."""
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):  # it has no group of its own, or has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()


@contextmanager
def dask_cluster(folder: Path, *, workers: int = 0, options: tuple[str, ...] = (), **settings: str) -> Iterator[Dask]:
    folder.mkdir(exist_ok=True)
    dask = Dask(folder, settings, options)
    try:
        dask.start_scheduler()
        for i in range(workers):
            dask.start_worker(f"worker-{i}")
        yield dask
    finally:
        for name in list(dask.processes):
            dask.kill(name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two slides, a model, and in ``out`` the stores that this process makes."""
    folder = tmp_path_factory.mktemp("made")
    write_slide(folder / "a.tif", picture((380, 500)))
    write_slide(folder / "b.tif", picture((130, 200), seed=1))
    write_model(folder / "b.safetensors")
    config = RunConfig(
        str(folder / "out"), str(folder / "b.safetensors"), block=128, tile=128, device="cpu", engine="torch"
    )
    assert run_slides([folder / "a.tif", folder / "b.tif"], config).exit_code == 0
    return folder


def command(made: Path, out: Path, *options: object) -> list[object]:
    return ["run", made / "a.tif", made / "b.tif", "-m", made / "b.safetensors", "-o", out, *SMALL, "--json", *options]


def run(made: Path, out: Path, *options: object) -> subprocess.CompletedProcess[str]:
    return wsipipe(*command(made, out, *options))


def assert_same_stores(made: Path, out: Path) -> None:
    for name in ("a.zarr", "b.zarr"):
        assert_same_bytes(out / name, made / "out" / name)


def test_local_workers_make_the_same_bytes_whatever_the_site_has_set(made: Path, tmp_path: Path) -> None:
    ended = wsipipe(*command(made, tmp_path, "--cluster", "local:2", "--threads", 1), env=SITE)
    assert ended.returncode == 0, ended.stderr
    assert summary(ended.stdout)["threads"] == 2
    assert "2 workers with 2 blocks in flight at tls://127.0.0.1:" in ended.stderr
    assert "dashboard: http://127.0.0.1:" in ended.stderr
    assert_same_stores(made, tmp_path)


@pytest.mark.soak  # tests below show it of workers that are killed, or see no model
def test_plain_dask_workers_make_the_same_bytes(made: Path, tmp_path: Path) -> None:
    with dask_cluster(tmp_path / "dask") as dask:
        dask.start_worker("a", fresh=True)
        dask.start_worker("b")
        ended = run(made, tmp_path / "out", "--scheduler", dask.address)
        assert ended.returncode == 0, ended.stderr
        assert_same_stores(made, tmp_path / "out")
        again = summary(run(made, tmp_path / "out", "--scheduler", dask.address).stdout)
        assert again["skipped"] == 2, "the workers are still there, and all is done"


def hide(folder: Path) -> None:
    """Have this process see nothing in ``folder``: it has a file system of its own there."""
    new_namespace, private = 0x20000, 0x44000
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private, None):
        raise OSError(ctypes.get_errno(), "no mount namespace")
    if libc.mount(b"none", bytes(folder), b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), "no mount")


def test_a_model_that_workers_do_not_see_is_sent_and_a_slide_that_they_do_not_see_is_refused(
    made: Path, tmp_path: Path, call: Call
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no permission for a mount namespace, which hides a folder from a process")
    model = models / "b.safetensors"
    model.write_bytes((made / "b.safetensors").read_bytes())
    slides = [made / "a.tif", made / "b.tif"]
    with dask_cluster(tmp_path / "dask") as dask:
        dask.start_worker("blind", first=partial(hide, models))
        given = ["-m", model, *SMALL, "--json", "--scheduler", dask.address]
        ended = call("run", *slides, "-o", tmp_path / "out", *given)
        assert ended.code == 0, ended.err
        assert_same_stores(made, tmp_path / "out")
        hers = write_slide(models / "c.tif", picture((200, 200)))
        refused = call("run", hers, "-o", tmp_path / "out", *given)
        assert refused.code == 3
        assert f"does not see {hers}" in refused.err
        assert not (tmp_path / "out" / "c.zarr.partial").exists(), "nothing was begun"


def find_first(folder: Path) -> None:
    """Have this process look for distributions in ``folder`` before anywhere else."""
    sys.path.insert(0, str(folder))


def test_a_worker_with_another_version_is_refused_by_name(made: Path, tmp_path: Path, call: Call) -> None:
    other = tmp_path / "other" / "zarr-2.18.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: zarr\nVersion: 2.18.0\n")
    with dask_cluster(tmp_path / "dask") as dask:
        dask.start_worker("old", first=partial(find_first, other.parent))
        refused = call(*command(made, tmp_path / "out", "--scheduler", dask.address))
    assert refused.code == 3
    assert "worker tcp://127.0.0.1:" in refused.err
    assert "has zarr 2.18.0 (here " in refused.err
    assert not list((tmp_path / "out").glob("*"))


DEADLY = """
import os, signal
from wsipipe.pipeline import block_tasks

if not hasattr(block_tasks, "harmless"):  # a preload may be loaded twice
    block_tasks.harmless = block_tasks.predict_block

def deadly(work, index, rows, cols, mask):
    if index == (1, 2) and work.level.path.endswith("a.tif"):
        with open({deaths!r}, "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return block_tasks.harmless(work, index, rows, cols, mask)

block_tasks.predict_block = deadly
"""


@pytest.mark.soak  # tests/pipeline/test_dispatcher.py shows it without workers that die
def test_a_block_that_kills_its_workers_is_set_aside_and_named_and_all_others_are_done(
    made: Path, tmp_path: Path
) -> None:
    deadly = tmp_path / "deadly.py"
    deadly.write_text(DEADLY.format(deaths=str(tmp_path / "deaths")))
    with dask_cluster(tmp_path / "dask", DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="2") as dask:
        dask.start_worker("worker", "--preload", str(deadly), nanny=True)
        ended = run(made, tmp_path / "out", "--scheduler", dask.address)
    document = summary(ended.stdout)
    assert ended.returncode == 1, ended.stderr
    assert (document["done"], document["failed"]) == (1, 1)
    failed = document["slides"][0]
    assert "the worker died each time that it computed (1, 2): 1 of 12 blocks set aside" in failed["message"]
    assert failed["blocks_computed"] == failed["blocks"] - 1 == 11
    assert_same_bytes(tmp_path / "out" / "b.zarr", made / "out" / "b.zarr")
    assert len((tmp_path / "deaths").read_text()) == 6, "three times among others, and three times alone"
    mended = run(made, tmp_path / "out")
    assert summary(mended.stdout)["slides"][0]["blocks_computed"] == 1
    assert_same_stores(made, tmp_path / "out")


WORKERS = ["worker-0", "worker-1"]
VICTIMS = [["worker-0"], ["scheduler"], [*WORKERS, "scheduler"], []]
"""Who is killed before the client, which is killed each time."""


@pytest.mark.slow
@pytest.mark.parametrize("kills", rounds(1, 20))
def test_killed_at_random_whoever_it_is_the_same_command_ends_in_the_same_bytes(
    made: Path, tmp_path: Path, call: Call, kills: int
) -> None:
    """Workers, the scheduler, the client, or all of them at once; each block that was written stays as it is.

    But for those in flight: what a worker wrote and was killed before it could say so is computed by another.
    """
    rng, out = random.Random(kills), tmp_path / "out"
    slide = write_slide(tmp_path / "large.tif", picture((500, 760), seed=2))
    options = ["run", slide, "-m", made / "b.safetensors", *SMALL]
    assert call(*options, "-o", tmp_path / "undisturbed").code == 0
    blocks = len(shards(tmp_path / "undisturbed" / "large.zarr"))
    begun = out / "large.zarr.partial"
    with dask_cluster(tmp_path / "dask", workers=2) as dask:
        for kill in range(kills):
            before = shards(begun) if begun.exists() else {}
            process = start(*options, "-o", out, "--scheduler", dask.address, "--json", log=tmp_path / "log")
            share = (blocks - len(before)) // (kills - kill + 1)
            victims = VICTIMS[kill] if kill < len(VICTIMS) else rng.choice(VICTIMS)

            def wait_for(more: int, of: Process = process, before: int = len(before)) -> None:
                assert wait_until(lambda: begun.exists() and len(shards(begun)) >= before + more, of)

            wait_for(rng.randint(0, max(0, share - 1)))
            for victim in victims:
                dask.kill(victim)
            if victims == ["worker-0"]:
                dask.start_worker("worker-0")
                wait_for(share)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=PATIENCE_SECONDS)
            if "scheduler" in victims:
                for name in set(WORKERS) & dask.processes.keys():  # they end with it, sooner or later
                    dask.kill(name)
                dask.start_scheduler()
            for name in set(WORKERS) - dask.processes.keys():
                dask.start_worker(name)
            dask.wait_for_rest()
            after = shards(begun)
            assert {name: after[name] for name in before} == before, "a block that was written is not computed again"
        ended = call(*options, "-o", out, "--scheduler", dask.address, "--json")
    assert ended.code == 0, ended.err
    assert_same_bytes(out / "large.zarr", tmp_path / "undisturbed" / "large.zarr")


@pytest.mark.parametrize(
    ("device", "count", "adapt", "seen", "later"),
    [
        ("cuda", 1, (1, 8), ["4"], "5"),
        *rounds(
            ("cuda", 2, None, ["4,6", "5"], "4,6"),
            ("cuda", None, None, ["4", "5", "6"], "4"),
            ("cuda", 1, None, ["4,5,6"], "4,5,6"),
            ("cuda:2,cuda:1", None, None, ["6", "5"], "6"),
            ("cuda:0,cuda:0", None, None, ["4", "4"], "4"),
            ("cpu", 2, None, [None, None], None),
        ),
    ],
)
def test_workers_here_share_the_gpus_out(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    count: int | None,
    adapt: tuple[int, int] | None,
    seen: list[str | None],
    later: str | None,
) -> None:
    """Three of a machine, of which this process was given those numbers; workers do not look for them before a run."""

    def resolved(wish: str) -> tuple[str, ...]:
        return ("cuda:0", "cuda:1", "cuda:2") if wish == "cuda" else tuple(wish.split(","))

    def of_worker() -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    monkeypatch.setattr(local, "resolve_devices", resolved)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    asked = ClusterConfig(kind="local", workers=count, adapt=adapt)
    if device == "cpu":
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    workers, request = local.local_cluster(
        asked, ComputeRequest(device, "auto", "float32", None, FileKind.SAFETENSORS), None
    )
    assert request.device == ("cpu" if device == "cpu" else "cuda")
    with workers, Client(workers) as client:
        client.wait_for_workers(len(seen), timeout=PATIENCE_SECONDS)
        assert sorted(map(str, client.run(of_worker).values())) == sorted(map(str, seen))
        ((_, spec),) = workers.new_worker_spec().items()
        assert spec["options"]["env"].get("CUDA_VISIBLE_DEVICES") == later


@pytest.mark.parametrize(
    ("device", "count", "shares", "asked", "threads"),
    [
        ("cuda:1,cpu", None, ["5"], "cuda,cpu", 4),
        ("cpu,cuda:2,cuda:0", 2, ["6", "4"], "cuda,cpu", 4),
        ("cpu,cuda:2,cuda:0", 1, ["6,4"], "cuda,cpu", 6),
        ("cpu,cpu", 2, [], "cpu,cpu", 4),
    ],
)
def test_workers_that_compute_on_other_devices_too_number_their_gpus_from_0(
    monkeypatch: pytest.MonkeyPatch, device: str, count: int | None, shares: list[str], asked: str, threads: int
) -> None:
    started: list[tuple[int, int, list[str]]] = []
    monkeypatch.setattr(local, "resolve_devices", lambda wish: tuple(wish.split(",")))
    monkeypatch.setattr(local, "LocalWorkers", lambda *given: started.append(given))
    monkeypatch.setattr(machine, "CPU_COUNT", 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    cluster = ClusterConfig(kind="local", workers=count)
    _, request = local.local_cluster(
        cluster, ComputeRequest(device, "auto", "float32", None, FileKind.SAFETENSORS), None
    )
    assert request.device == asked
    assert started == [(count or 1, threads, shares)]


def test_processes_that_share_a_gpu_are_counted_and_the_largest_of_them_is_planned_for() -> None:
    """Four workers on two hosts: of the first, two see GPU a, one of these b as well; numbers tell nothing."""
    seen = [("one", "a"), ("one", "ab"), ("one", ""), ("two", "a")]
    workers = object.__new__(Workers)
    workers._request = ComputeRequest("cuda", "auto", "float32", None, FileKind.SAFETENSORS)
    workers._facts = {
        str(i): WorkerFacts(
            host, 2, Site("cuda", ("cuda:0",), "torch", 10**9, loaded_bytes=i), frozenset(gpus), True, sees_model=True
        )
        for i, (host, gpus) in enumerate(seen)
    }
    workers._addresses = list  # type: ignore[method-assign]
    workers._examine = lambda _: None  # type: ignore[method-assign]
    site = workers.site()
    assert (site.processes, site.per_machine, site.per_gpu, site.loaded_bytes) == (4, 3, 2, 3)
    workers._facts = {"0": workers._facts["2"]}
    assert workers.site().per_gpu == 1


@pytest.mark.parametrize(
    ("text", "said"), [("local", ("local", None)), ("local:", ("local", None)), ("slurm:40", ("slurm", 40))]
)
def test_what_a_cluster_is_and_how_many(text: str, said: tuple[str, int | None]) -> None:
    assert parse_cluster(text) == said


@pytest.mark.parametrize("text", ["", "local:0", "local:x", "slurm:-1", "ssh", "Local"])
def test_what_is_no_cluster_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="choose local, slurm or kubernetes"):
        parse_cluster(text)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (ClusterConfig(adapt=(0, 2)), "--adapt applies to a cluster that the run starts"),
        (ClusterConfig(options={"queue": "gpu"}), "--cluster-config applies to the kinds slurm and kubernetes"),
        (ClusterConfig(kind="local", options={"queue": "gpu"}), "--cluster-config applies to the kinds slurm"),
        (ClusterConfig(kind="ssh"), "choose local, slurm or kubernetes"),
    ],
)
def test_what_would_be_of_no_use_is_refused_by_a_run_and_a_dry_run(cluster: ClusterConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_slides(["slide.tif"], RunConfig(cluster=cluster))
    with pytest.raises(UsageError, match=message):
        resolve(RunConfig(cluster=cluster))


def test_a_scheduler_that_is_not_there_is_an_environment_error(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr(connect, "WORKER_PATIENCE_SECONDS", 2.0)  # half of it is for this
    refused = call(*command(made, tmp_path, "--scheduler", "tcp://127.0.0.1:9"))
    assert refused.code == 3
    assert "no scheduler answers at tcp://127.0.0.1:9" in refused.err


def certificates(folder: Path) -> tuple[str, str]:
    """A certificate that is its own authority, and its key, as files in ``folder``."""
    made, cert, key = Security.temporary(), folder / "cert.pem", folder / "key.pem"
    folder.mkdir(exist_ok=True)
    cert.write_text(made.tls_client_cert)
    key.write_text(made.tls_client_key)
    return str(cert), str(key)


def of_client(cert: str, key: str) -> dict[str, str]:
    """The settings of a client that has these."""
    files = {"ca-file": cert, "client.cert": cert, "client.key": key}
    return {f"distributed.comm.tls.{name}": file for name, file in files.items()}


def test_a_tls_scheduler_takes_the_users_own_certificates_and_nobody_without_them(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    cert, key = certificates(tmp_path / "mine")
    options = ("--protocol", "tls", "--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key)
    with dask_cluster(tmp_path / "dask", workers=1, options=options) as cluster:
        assert cluster.address.startswith("tls://127.0.0.1:")
        given = command(made, tmp_path / "out", "--scheduler", cluster.address)
        mine = {f"DASK_{k.replace('.', '__').replace('-', '_')}".upper(): v for k, v in of_client(cert, key).items()}
        ended = wsipipe(*given, env=mine)
        assert ended.returncode == 0, ended.stderr
        assert_same_stores(made, tmp_path / "out")
        refused = call(*given)
        assert refused.code == 2
        assert "set it there, or in DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in refused.err
        monkeypatch.setattr(connect, "WORKER_PATIENCE_SECONDS", 4.0)
        other, its_key = certificates(tmp_path / "other")
        with dask.config.set(of_client(other, its_key)):
            refused = call(*given)
        assert refused.code == 3
        assert "no scheduler answers at tls://127.0.0.1:" in refused.err
        with dask.config.set(of_client(other, str(tmp_path / "none.pem"))):
            refused = call(*given)
        assert refused.code == 2
        assert f"is not a file: {tmp_path / 'none.pem'}" in refused.err


def test_a_scheduler_and_a_cluster_at_once_are_refused(made: Path, tmp_path: Path, call: Call) -> None:
    refused = call(*command(made, tmp_path, "--scheduler", "tcp://127.0.0.1:9", "--cluster", "local:2"))
    assert refused.code == 2
    assert "give one of the two" in refused.err
