"""Slurm itself: workers that are its jobs, and slides that an array of jobs shares; the same bytes, whoever computes.

Skipped where no Slurm answers. On Debian, as root, one that is all of this machine is set up and ended by::

    export SLURM_CONF=$(tests/slurm/start.sh /tmp/slurm)
    python -m pytest tests/test_slurm.py
    tests/slurm/stop.sh /tmp/slurm
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import (
    PATIENCE_SECONDS,
    SCRIPT,
    assert_same_bytes,
    finish,
    picture,
    shards,
    start,
    wait_until,
    write_model,
    write_slide,
    wsipipe,
)
from wsipipe import RunConfig, run

WORKFLOWS = Path(__file__).parent.parent / "workflows"
SMALL = ("--block", 128, "--tile", 128, "--device", "cpu", "--engine", "torch")
NAMES = ("a", "b", "c", "d")
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(SCRIPT).parent}{os.pathsep}{os.environ['PATH']}",
    "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1s",  # not 15: how long a job may be gone before it is replaced
}
WORKER = """
cores = 1
memory = "2GB"
interface = "lo"
shared_temp_directory = "{folder}/shared"
log_directory = "{folder}/workers"
local_directory = "{folder}/scratch"
scheduler_options = {{dashboard_address = "127.0.0.1:0"}}
"""
SLOWLY = """#!{python}
import time
from wsipipe.cli import main
from wsipipe.pipeline import block_tasks

predict = block_tasks.predict_block
block_tasks.predict_block = lambda *args: time.sleep(0.2) or predict(*args)
main()
"""
NIGHT = """
inbox = ["{made}/slides"]
out = "{out}"
model = "{made}/b.safetensors"
settle = "0s"
[run]
device = "cpu"
engine = "torch"
tile = 128
block = 128
"""


def slurm(*command: object) -> str:
    """The output of one of Slurm's commands."""
    ended = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS, env=ENVIRONMENT
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def queued(name: str) -> str:
    """Jobs of that name that wait or run."""
    return slurm("squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%i %T %r", f"--name={name}")


def submit(script: str, more: list[str], arguments: list[object]) -> str:
    """Submit one of the workflows, small, and return the job's number."""
    return slurm("sbatch", "--parsable", "--cpus-per-task=1", "--mem=4G", *more, WORKFLOWS / script, *arguments)


def slowly(folder: Path) -> str:
    """Option that has each block of a job take 0.2 s, by a script in ``folder``: a signal comes before the last."""
    folder.mkdir()
    script = folder / "wsipipe"
    script.write_text(SLOWLY.format(python=sys.executable))
    script.chmod(0o755)
    return f"--export=ALL,PATH={folder}{os.pathsep}{ENVIRONMENT['PATH']}"


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` is true: `sbatch --wait` asks ever more rarely, and gives up a job that is requeued."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for never came"
        time.sleep(0.1)


@pytest.fixture(scope="module", autouse=True)
def _slurm() -> Iterator[None]:
    """A Slurm with an idle node; no job of these tests outlives them."""
    set_up = "set one up with tests/slurm/start.sh, see tests/test_slurm.py"
    pytest.importorskip("dask_jobqueue", reason="no dask-jobqueue; pip install '.[slurm]'")
    if shutil.which("sinfo") is None:
        pytest.skip(f"no Slurm here (sinfo is not found); {set_up}")
    try:
        asked = subprocess.run(
            ["sinfo", "--noheader", "--states=idle,mixed", "--format=%D"], capture_output=True, text=True, timeout=10
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"Slurm does not answer; {set_up}")
    if asked.returncode or not asked.stdout.strip():
        pytest.skip(f"no node of Slurm is idle; {set_up}")
    yield
    slurm("scancel", "--quiet", "--name=wsipipe,wsipipe-test")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with slides, a model, and in ``out`` the stores that one process makes."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "slides").mkdir()
    for seed, name in enumerate(NAMES):
        write_slide(folder / "slides" / f"{name}.tif", picture((200 + 150 * seed, 400), seed=seed))
    write_model(folder / "b.safetensors")
    config = RunConfig(
        str(folder / "out"), str(folder / "b.safetensors"), block=128, tile=128, device="cpu", engine="torch"
    )
    assert run([folder / "slides"], config).exit_code == 0
    return folder


def options(made: Path, out: Path, *more: object) -> list[object]:
    return [made / "slides", "-m", made / "b.safetensors", "-o", out, *SMALL, "--json", *more]


def on_slurm(made: Path, folder: Path, *more: object, worker: str = "") -> list[object]:
    """Options of a run into ``folder``/out, by workers that are jobs."""
    config = folder / "worker.toml"
    config.write_text(worker + f'job_name = "wsipipe-test"{WORKER.format(folder=folder)}')
    return options(made, folder / "out", "--cluster-config", config, *more)


def assert_same_stores(made: Path, out: Path) -> None:
    for name in NAMES:
        assert_same_bytes(out / f"{name}.zarr", made / "out" / f"{name}.zarr")


def test_jobs_make_the_same_bytes(made: Path, tmp_path: Path) -> None:
    ended = wsipipe("run", *on_slurm(made, tmp_path, "--cluster", "slurm:2"), env=ENVIRONMENT)
    assert ended.returncode == 0, ended.stderr
    assert_same_stores(made, tmp_path / "out")
    assert not queued("wsipipe-test"), "the workers ended with the run"


@pytest.mark.soak  # it waits for Slurm
def test_there_are_as_many_jobs_as_work_and_one_that_slurm_ends_is_replaced(made: Path, tmp_path: Path) -> None:
    given = on_slurm(made, tmp_path, "--cluster", "slurm", "--adapt", "0:2")
    process = start("run", *given, env=ENVIRONMENT, log=tmp_path / "log")
    assert wait_until(lambda: any(shards(store) for store in (tmp_path / "out").glob("*.partial")), process)
    (certificates,) = (tmp_path / "shared").iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (certificates, *certificates.iterdir())] == [
        0o700,
        *3 * [0o600],
    ]
    slurm("scancel", "--name=wsipipe-test", "--state=RUNNING")
    finish(process)
    assert list((tmp_path / "shared").iterdir()) == [], "the certificates ended with the run"
    assert "at tls://127.0.0.1:" in (tmp_path / "log").read_text()
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert_same_stores(made, tmp_path / "out")
    assert not queued("wsipipe-test"), "the workers ended with the run"


def test_a_job_that_slurm_refuses_is_an_environment_error_and_says_why(made: Path, tmp_path: Path) -> None:
    given = on_slurm(made, tmp_path, "--cluster", "slurm:2", worker='queue = "nowhere"\n')
    refused = wsipipe("run", *given, env=ENVIRONMENT)
    assert refused.returncode == 3
    assert "Invalid partition name" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.soak  # it waits for Slurm
def test_an_array_shares_the_slides_and_a_task_whose_time_is_up_is_requeued(made: Path, tmp_path: Path) -> None:
    """SIGTERM as --signal sends it. Slurm has a requeued job wait for two minutes, of which it needs one second."""
    out, log = tmp_path / "out", [f"--output={tmp_path}/%a.json", f"--error={tmp_path}/%a.log"]
    job = submit("slurm-array.sbatch", ["--array=1-2", slowly(tmp_path / "bin"), *log], options(made, out))
    wait_for(lambda: f"{job}_1.0" in slurm("squeue", "--steps", "--noheader", "--format=%i"))
    wait_for(lambda: any(shards(begun) for begun in out.glob("*.partial")))
    slurm("scancel", "--signal=TERM", f"{job}_1")
    wait_for(lambda: "BeginTime" in queued("wsipipe"))
    slurm("scontrol", "update", f"JobId={job}_1", "StartTime=now+2")
    wait_for(lambda: not queued("wsipipe"))
    assert_same_stores(made, out)
    documents = [json.loads((tmp_path / f"{task}.json").read_text()) for task in (1, 2)]
    assert [document["exit_code"] for document in documents] == [0, 0]
    rows = [slide for document in documents for slide in document["slides"]]
    assert sorted(Path(row["slide"]).stem for row in rows if row["status"] == "done") == list(NAMES), "each by one task"
    assert not list(out.glob("*.lease*"))


@pytest.mark.soak  # the array shows it of `wsipipe run`
def test_a_night_is_a_job(made: Path, tmp_path: Path) -> None:
    night = tmp_path / "night.toml"
    night.write_text(NIGHT.format(made=made, out=tmp_path / "out"))
    submit("slurm.sbatch", [f"--output={tmp_path}/log"], ["nightly", night])
    wait_for(lambda: not queued("wsipipe"))
    assert_same_stores(made, tmp_path / "out")
    assert (tmp_path / "out" / "reports" / "report.html").exists()
