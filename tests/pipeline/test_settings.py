"""What a site has set for dask and zarr changes nothing of what wsipipe starts and writes, and stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dask
import zarr

import wsipipe
from tests.conftest import WriteSlide
from tests.faults import assert_same_bytes
from wsipipe.pipeline.cluster.settings import ONE_MACHINE, inherited, own_settings
from wsipipe.store.zarr_settings import own_zarr_settings

DASK = {
    "distributed.worker.lifetime.duration": "1s",
    "distributed.comm.require-encryption": True,
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.default-task-durations": {},
    "distributed.worker.resources": {"GPU": 1},
}
ZARR = {"array.order": "F", "json_indent": 7, "default_zarr_format": 2, "array.write_empty_chunks": True}


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


def test_a_run_within_them_writes_the_same_bytes(tmp_path: Path, tiny_model: Path, write_slide: WriteSlide) -> None:
    slide = write_slide(tmp_path / "a.tif", (130, 140))
    config = wsipipe.RunConfig(
        out=str(tmp_path / "out"), model=str(tiny_model), device="cpu", engine="torch", block=64, tile=64
    )
    assert wsipipe.run([slide], config).exit_code == 0
    with dask.config.set(DASK), zarr.config.set(ZARR):
        assert wsipipe.run([slide], replace(config, out=str(tmp_path / "there"))).exit_code == 0
    assert_same_bytes(tmp_path / "there" / "a.zarr", tmp_path / "out" / "a.zarr")
