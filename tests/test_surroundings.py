"""What a shell, a user or a parent has set does not change a run: settings of libraries, homes, folders, forks."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import wsipipe
from tests.conftest import WriteSlide
from tests.faults import PATIENCE_SECONDS, SITE, assert_same_bytes
from wsipipe.pipeline import run as runs


@pytest.fixture
def slide(tmp_path: Path, write_slide: WriteSlide) -> Path:
    return write_slide(tmp_path / "in" / "a.tif", (130, 140))


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path) -> wsipipe.RunConfig:
    return wsipipe.RunConfig(
        out=str(tmp_path / "out"), model=str(tiny_model), device="cpu", engine="torch", block=64, tile=64
    )


HOMELESS = """
import pwd

def nobody(*_):
    raise KeyError("uid not found")

pwd.getpwuid = nobody
from wsipipe.cli import main

main()
"""


@pytest.mark.slow
def test_a_user_without_home_and_passwd_entry_at_a_site_with_odd_settings_gets_the_same_bytes_and_no_home(
    tmp_path: Path, slide: Path, config: wsipipe.RunConfig
) -> None:
    home = ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME")
    env = {name: value for name, value in os.environ.items() if name not in home} | SITE
    folder = tmp_path / "work"
    folder.mkdir()
    words = [sys.executable, "-c", HOMELESS, "run", slide, "-m", config.model, "-o", "out"]
    words += ["--block", 64, "--tile", "auto", "--device", "cpu", "--engine", "torch"]
    ended = subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        check=False,
        env=env,
        cwd=folder,
        timeout=PATIENCE_SECONDS,
    )
    assert ended.returncode == 0, ended.stderr
    assert wsipipe.run([slide], config).exit_code == 0
    assert_same_bytes(folder / "out" / "a.zarr", tmp_path / "out" / "a.zarr")
    assert [path.name for path in folder.iterdir()] == ["out"]


def test_a_finished_folder_that_cannot_be_written_is_skipped_and_not_refused(
    slide: Path, config: wsipipe.RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wsipipe.run([slide], config).exit_code == 0
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert [row.status for row in wsipipe.run([slide], config).slides] == ["skipped"]
    with pytest.raises(wsipipe.WsipipeError, match="no permission to write"):
        wsipipe.run([slide], replace(config, overwrite=True))


# --- forks ----------------------------------------------------------------------------------------------------


def test_a_run_in_a_process_that_was_forked_after_a_run_is_refused_in_one_sentence(
    slide: Path, config: wsipipe.RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "RAN_IN", {os.getppid()})
    with pytest.raises(wsipipe.WsipipeError, match=r"forked from one that had run before, .* method spawn"):
        wsipipe.run([slide], config)
    assert not Path(config.out).exists()
    monkeypatch.setattr(runs, "RAN_IN", {os.getppid(), os.getpid()})
    assert wsipipe.run([slide], config).exit_code == 0


FORKING = """
import os
import wsipipe

def status(out):
    try:
        config = wsipipe.RunConfig(out=out, model={model!r}, device="cpu", engine="torch", block=64, tile=64)
        return wsipipe.run([{slide!r}], config).slides[0].status
    except wsipipe.WsipipeError as err:
        return str(err)

def in_a_child(out):
    pid = os.fork()
    if pid == 0:
        print(status(out), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)

in_a_child({out!r} + "/first")
print(status({out!r} + "/parent"), flush=True)
in_a_child({out!r} + "/second")
"""


@pytest.mark.soak
def test_a_forked_child_can_run_unless_its_parent_had_run(
    tmp_path: Path, slide: Path, config: wsipipe.RunConfig
) -> None:
    text = FORKING.format(out=config.out, model=config.model, slide=str(slide))
    ended = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert ended.returncode == 0, ended.stderr
    first, parent, second = ended.stdout.splitlines()
    assert (first, parent) == ("done", "done")
    assert "forked from one that had run before" in second
    assert_same_bytes(tmp_path / "out" / "first" / "a.zarr", tmp_path / "out" / "parent" / "a.zarr")
    assert not (tmp_path / "out" / "second").exists()
