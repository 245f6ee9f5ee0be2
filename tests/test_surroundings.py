"""What a site, a shell or a user has set does not change a run: dask's and zarr's settings, streams, homes, scripts."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dask
import pytest
import zarr
from distributed import Client, LocalCluster

from tests.faults import PATIENCE_SECONDS, SCRIPT, assert_same_bytes, picture, write_model, write_slide
from wsipipe.errors import MachineError
from wsipipe.pipeline.cluster import patience
from wsipipe.pipeline.cluster.patience import LOOK_SECONDS, Patience
from wsipipe.pipeline.cluster.settings import ONE_MACHINE, inherited, own_settings
from wsipipe.store.zarr_settings import own_zarr_settings

HOSTILE = {
    "DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION": "1s",
    "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    "ZARR_ARRAY__ORDER": "F",
    "ZARR_JSON_INDENT": "7",
    "ZARR_DEFAULT_ZARR_FORMAT": "2",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a slide, a model, and in ``out`` the store that an undisturbed run makes."""
    folder = tmp_path_factory.mktemp("made")
    folder.chmod(0o755)
    write_slide(folder / "a.tif", picture((300, 400)))
    write_model(folder / "m.safetensors")
    ended = command(folder, folder / "out")
    assert ended.returncode == 0, ended.stderr
    return folder


def command(made: Path, out: Path, *options: object, env: Mapping[str, str] | None = None, **more: Any) -> Any:
    """``wsipipe run`` of the slide, in a new process, for what libraries read as they are imported."""
    words = [SCRIPT, "run", made / "a.tif", "-m", made / "m.safetensors", "-o", out]
    words += ["--block", "128", "--tile", "128", "--device", "cpu", "--engine", "torch", *options]
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run(
        list(map(str, words)),
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, **(env or {})},
        **given,
    )


# --- settings of dask and zarr --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [(), ("--cluster", "local:2", "--threads", 1)], ids=["here", "local"])
def test_settings_of_the_site_change_no_byte_and_hang_nothing(
    made: Path, tmp_path: Path, cluster: tuple[object, ...]
) -> None:
    ended = command(made, tmp_path, *cluster, env=HOSTILE)
    assert ended.returncode == 0, ended.stderr
    assert_same_bytes(tmp_path / "a.zarr", made / "out" / "a.zarr")


def test_within_its_own_settings_dask_has_its_defaults_and_after_them_what_was_set() -> None:
    theirs = {"distributed.worker.lifetime.duration": "1s", "jobqueue.slurm.queue": "long", "temporary-directory": "/x"}
    with dask.config.set(theirs):
        with own_settings(ONE_MACHINE):
            assert dask.config.get("distributed.worker.lifetime.duration") is None
            assert dask.config.get("distributed.scheduler.worker-ttl") is None
            assert dask.config.get("jobqueue.slurm.queue") == "long"
            assert dask.config.get("temporary-directory") == "/x"
            (handed_over,) = inherited().values()
        assert dask.config.deserialize(handed_over)["distributed"]["worker"]["lifetime"]["duration"] is None
        assert dask.config.get("distributed.worker.lifetime.duration") == "1s"


def test_within_its_own_settings_zarr_has_its_defaults_and_after_them_what_was_set() -> None:
    with zarr.config.set({"array.order": "F", "json_indent": 7}):
        with own_zarr_settings():
            assert (zarr.config.get("array.order"), zarr.config.get("json_indent")) == ("C", 2)
        assert (zarr.config.get("array.order"), zarr.config.get("json_indent")) == ("F", 7)


# --- waits that end -------------------------------------------------------------------------------------------


class Scheduler:
    """A client whose scheduler says what a test wants it to say."""

    def __init__(self) -> None:
        self.workers: dict[str, Any] = {}

    def scheduler_info(self, **_: object) -> dict[str, Any]:
        return {"workers": self.workers}


def looks(client: Scheduler, count: int, *, seconds: float = 60.0) -> Iterator[Patience]:
    """A `Patience` of ``seconds`` after each of ``count`` looks."""
    now = [0.0]
    watch = Patience(client, seconds, clock=lambda: now[0])  # type: ignore[arg-type]
    for _ in range(count):
        now[0] += LOOK_SECONDS
        watch.look()
        yield watch


def test_a_wait_without_a_worker_ends_with_the_reason() -> None:
    with pytest.raises(MachineError, match=r"there was no worker for 60 s; .*the same command resumes"):
        list(looks(Scheduler(), 13))
    assert len(list(looks(Scheduler(), 11))) == 11


@pytest.mark.parametrize(
    ("seen", "counts"), [(True, {"ready": 4}), (False, {"executing": 4})], ids=["paused", "silent"]
)
def test_a_wait_for_workers_that_do_not_work_ends(seen: bool, counts: dict[str, int]) -> None:
    client, at = Scheduler(), [0.0]

    def wait() -> None:
        for _ in looks(client, 20):
            at[0] += seen
            client.workers = {"tcp://w": {"last_seen": at[0], "metrics": {"task_counts": counts}}}

    with pytest.raises(MachineError, match="none of the 1 workers has worked for 60 s"):
        wait()


def test_a_wait_for_a_worker_that_works_or_for_tasks_that_end_goes_on() -> None:
    client = Scheduler()
    for i, _ in enumerate(looks(client, 100)):
        client.workers = {"tcp://w": {"last_seen": float(i), "metrics": {"task_counts": {"executing": 1}}}}
    for watch in looks(Scheduler(), 100):
        watch.reset()


def test_a_process_that_was_suspended_for_hours_has_not_waited() -> None:
    now = [0.0]
    watch = Patience(Scheduler(), 60.0, clock=lambda: now[0])  # type: ignore[arg-type]
    for _ in range(5):
        now[0] += 3600
        watch.look()


@pytest.mark.slow
def test_a_run_whose_workers_left_ends_with_the_reason_and_the_same_command_resumes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wsipipe
    from wsipipe.events import BlockDone, Event

    monkeypatch.setattr(patience, "IDLE_SECONDS", 0.4)
    monkeypatch.setattr(patience, "LOOK_SECONDS", 0.2)
    with LocalCluster(1, processes=False, threads_per_worker=1, dashboard_address=None) as cluster:
        config = wsipipe.RunConfig(
            out=str(tmp_path),
            model=str(made / "m.safetensors"),
            device="cpu",
            engine="torch",
            block=128,
            tile=128,
            cluster=wsipipe.ClusterConfig(scheduler=cluster.scheduler_address),
        )

        def leave(event: Event) -> None:
            if isinstance(event, BlockDone) and cluster.workers:
                cluster.scale(0)

        with Client(cluster):
            summary = wsipipe.run([made / "a.tif"], config, leave)
    assert summary.exit_code == 3
    assert "tasks wait, but there was no worker" in summary.stopped
    ended = command(made, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert_same_bytes(tmp_path / "a.zarr", made / "out" / "a.zarr")


# --- streams --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("json_too", [(), ("--json",)], ids=["text", "json"])
def test_a_run_goes_on_where_stderr_is_on_a_full_disk_and_says_so(
    made: Path, tmp_path: Path, json_too: tuple[str, ...]
) -> None:
    with Path("/dev/full").open("w") as full:
        ended = command(made, tmp_path, *json_too, stderr=full)
    assert ended.returncode == 0
    said = json.loads(ended.stdout)["untold"] if json_too else ended.stdout.splitlines()[-1]
    assert said == "stderr cannot be written: No space left on device; the work went on"
    assert_same_bytes(tmp_path / "a.zarr", made / "out" / "a.zarr")


@pytest.mark.slow
def test_a_run_goes_on_where_stderr_is_closed_and_says_so(made: Path, tmp_path: Path) -> None:
    ended = command(made, tmp_path, stderr=None, preexec_fn=lambda: os.close(2))
    assert ended.returncode == 0
    assert "stderr cannot be written: " in ended.stdout
    assert_same_bytes(tmp_path / "a.zarr", made / "out" / "a.zarr")


@pytest.mark.slow
def test_a_run_whose_stdout_is_on_a_full_disk_is_done_and_ends_in_exit_code_3(made: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = command(made, tmp_path, stdout=full)
    assert ended.returncode == 3
    assert "wsipipe: stdout cannot be written: No space left on device; the work is done" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert_same_bytes(tmp_path / "a.zarr", made / "out" / "a.zarr")


# --- suspended ------------------------------------------------------------------------------------------------

SOON = """
import os, sys, time
from pathlib import Path
from wsipipe.cli import main
from wsipipe.leases import leases
from wsipipe.pipeline import block_tasks, dispatcher

patience, beat, begun = 1.5, 0.3, Path(sys.argv.pop(1))
dispatcher.Leases = lambda: leases.Leases(patience=patience, beat=beat)
predict = block_tasks.predict_block
def slow(*given):
    begun.touch()
    time.sleep(0.3)
    return predict(*given)
block_tasks.predict_block = slow
main()
"""


def suspended(made: Path, folder: Path) -> subprocess.Popen[str]:
    """A run with leases of 1.5 s that is stopped while its first blocks are computed."""
    begun = folder / "begun"
    words = [
        sys.executable,
        "-c",
        SOON,
        begun,
        "run",
        made / "a.tif",
        "-m",
        made / "m.safetensors",
        "-o",
        folder / "out",
    ]
    words += ["--block", 128, "--tile", 128, "--device", "cpu", "--engine", "torch", "--threads", 2, "--json"]
    process = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not begun.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    return process


@pytest.mark.slow
def test_a_lone_runner_that_was_suspended_goes_on_when_it_wakes(made: Path, tmp_path: Path) -> None:
    process = suspended(made, tmp_path)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["slides"][0]["status"] == "done"
    assert_same_bytes(tmp_path / "out" / "a.zarr", made / "out" / "a.zarr")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.zarr"]


@pytest.mark.slow
def test_a_runner_that_was_taken_over_while_suspended_leaves_no_trace_and_is_no_failure(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wsipipe
    from wsipipe.leases.leases import Leases
    from wsipipe.pipeline import dispatcher
    from wsipipe.pipeline.dispatcher import Limits
    from wsipipe.pipeline.run import run

    monkeypatch.setattr(dispatcher, "Leases", lambda: Leases(patience=1.5, beat=0.3))
    process = suspended(made, tmp_path)
    config = wsipipe.RunConfig(
        out=str(tmp_path / "out"), model=str(made / "m.safetensors"), device="cpu", engine="torch", block=128, tile=128
    )
    other = run([made / "a.tif"], config, limits=Limits(stay=True))
    assert [slide.status for slide in other.slides] == ["done"]
    process.send_signal(signal.SIGCONT)
    stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    (slide,) = json.loads(stdout)["slides"]
    assert (process.returncode, slide["status"]) == (0, "taken"), stderr
    assert slide["message"] == "taken over by another runner while this one was suspended"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.zarr"]
    assert_same_bytes(tmp_path / "out" / "a.zarr", made / "out" / "a.zarr")
    again = command(made, tmp_path / "out", "--overwrite")
    assert again.returncode == 0, again.stderr


# --- users and scripts ----------------------------------------------------------------------------------------


HOMELESS = """
import pwd

def nobody(*_):
    raise KeyError("uid not found")

pwd.getpwuid = nobody
from wsipipe.cli import main

main()
"""


@pytest.mark.slow
def test_a_user_without_home_and_passwd_entry_can_run_and_gets_no_folder_of_a_home(made: Path, tmp_path: Path) -> None:
    home = ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME")
    env = {name: value for name, value in os.environ.items() if name not in home}
    words = [sys.executable, "-c", HOMELESS, "run", made / "a.tif", "-m", made / "m.safetensors", "-o", "out"]
    words += ["--block", 128, "--tile", 128, "--device", "cpu", "--engine", "torch"]
    ended = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, check=False, env=env, cwd=tmp_path, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    assert_same_bytes(tmp_path / "out" / "a.zarr", made / "out" / "a.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_finished_folder_that_cannot_be_written_is_skipped_and_not_refused(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wsipipe

    config = wsipipe.RunConfig(
        out=str(made / "out"), model=str(made / "m.safetensors"), device="cpu", engine="torch", block=128, tile=128
    )
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert [slide.status for slide in wsipipe.run([made / "a.tif"], config).slides] == ["skipped"]
    with pytest.raises(wsipipe.WsipipeError, match="no permission to write"):
        wsipipe.run([made / "a.tif"], dataclasses.replace(config, overwrite=True))


SCRIPT_TEXT = """
import wsipipe
{guard}
    config = wsipipe.RunConfig(
        out={out!r}, model={model!r}, device="cpu", engine="torch", block=128, tile=128, threads=1,
        cluster=wsipipe.ClusterConfig(kind="local", workers=2),
    )
    print([slide.status for slide in wsipipe.run([{slide!r}], config).slides])
"""


@pytest.mark.slow
@pytest.mark.parametrize("guard", ["if True:", 'if __name__ == "__main__":', "def main():"])
def test_a_script_without_a_guard_is_refused_in_one_sentence(made: Path, tmp_path: Path, guard: str) -> None:
    text = SCRIPT_TEXT.format(
        guard=guard, out=str(tmp_path / "out"), model=str(made / "m.safetensors"), slide=str(made / "a.tif")
    )
    script = tmp_path / "script.py"
    script.write_text(text + ("\n\nmain()\n" if guard.startswith("def") else ""))
    ended = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    if "__name__" in guard:
        assert (ended.returncode, ended.stdout) == (0, "['done']\n"), ended.stderr
        return
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert f"{script}, line " in last
    assert 'below `if __name__ == "__main__":`' in last
    assert not (tmp_path / "out").exists()


FORKING = """
import os, sys
import wsipipe

def status(out):
    try:
        config = wsipipe.RunConfig(out=out, model={model!r}, device="cpu", engine="torch", block=128, tile=128)
        return wsipipe.run([{slide!r}], config).slides[0].status
    except wsipipe.WsipipeError as err:
        return str(err)

if "after" in sys.argv:
    assert status({out!r} + "/parent") == "done"
pid = os.fork()
if pid == 0:
    print(status({out!r} + "/child"), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_forked_child_can_run_unless_its_parent_had_run(made: Path, tmp_path: Path, when: str) -> None:
    text = FORKING.format(out=str(tmp_path), model=str(made / "m.safetensors"), slide=str(made / "a.tif"))
    ended = subprocess.run(
        [sys.executable, "-c", text, when], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert ended.returncode == 0, ended.stderr
    if when == "before":
        assert ended.stdout == "done\n"
        assert_same_bytes(tmp_path / "child" / "a.zarr", made / "out" / "a.zarr")
    else:
        assert "forked from one that had run before" in ended.stdout
        assert not (tmp_path / "child").exists()
