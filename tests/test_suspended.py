"""A runner that was suspended, as by a laptop's lid or `scontrol suspend`, goes on, or leaves what another took."""

from __future__ import annotations

import json
import signal
import time
from functools import partial
from pathlib import Path

import pytest

import wsipipe
from tests.faults import PATIENCE_SECONDS, assert_same_bytes, picture, start, wait_until, write_model, write_slide
from wsipipe.leases.leases import Leases
from wsipipe.pipeline import block_tasks, dispatcher
from wsipipe.pipeline.dispatcher import Limits
from wsipipe.pipeline.run import run

SOON = partial(Leases, patience=1.5, beat=0.3)


def slow_with_leases_of_seconds() -> None:
    """Have a process lose its leases soon, and take a while for each block."""
    predict = block_tasks.predict_block

    def slow(*given: object) -> object:
        time.sleep(0.3)
        return predict(*given)  # type: ignore[arg-type]

    dispatcher.Leases = SOON  # type: ignore[misc, assignment]
    block_tasks.predict_block = slow  # type: ignore[assignment]


@pytest.mark.soak  # the tests of leases show when a slide is taken over
def test_a_runner_goes_on_with_the_slide_that_is_its_own_and_leaves_the_one_that_was_taken_over_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (write_slide(tmp_path / f"{name}.tif", picture((200, 300), seed)) for seed, name in enumerate("ab"))
    model, out = write_model(tmp_path / "m.safetensors"), tmp_path / "out"
    given = ["-m", model, "-o", out, "--block", 128, "--tile", 128, "--device", "cpu", "--engine", "torch"]
    given += ["--threads", 4, "--tissue", "off", "--json"]
    process = start("run", a, b, *given, first=slow_with_leases_of_seconds, log=tmp_path / "log")
    assert wait_until(lambda: len(list(out.glob("*.partial"))) == 2, process), "both have begun"
    process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(dispatcher, "Leases", SOON)
    config = wsipipe.RunConfig(
        out=str(out), model=str(model), device="cpu", engine="torch", block=128, tile=128, tissue="off"
    )
    assert [slide.status for slide in run([a], config, limits=Limits(stay=True)).slides] == ["done"]
    process.send_signal(signal.SIGCONT)
    stdout, _ = process.communicate(timeout=PATIENCE_SECONDS)
    first, second = json.loads(stdout)["slides"]
    assert (process.returncode, first["status"], second["status"]) == (0, "taken", "done"), stdout
    assert first["message"] == "taken over by another runner while this one was suspended"
    assert "a.tif: taken over by another runner" in (tmp_path / "log").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["a.zarr", "b.zarr"]
    config = wsipipe.RunConfig(**{**vars(config), "overwrite": True, "out": str(tmp_path / "undisturbed")})
    assert run([a, b], config).exit_code == 0
    for name in ("a.zarr", "b.zarr"):
        assert_same_bytes(out / name, tmp_path / "undisturbed" / name)
    config = wsipipe.RunConfig(**{**vars(config), "out": str(out)})
    assert run([a, b], config).exit_code == 0, "both can be replaced"
