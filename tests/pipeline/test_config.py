"""What a run cannot be asked for: Python refuses it as the command line does."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wsipipe
from tests.conftest import Call
from wsipipe.errors import UsageError
from wsipipe.pipeline.config import RunConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "gpu"),
        ("engine", "tensorflow"),
        ("precision", "float8"),
        ("tta", "rotations"),
        ("on_bad_tile", "ignore"),
        ("tile", "512px"),
        ("block", "4k"),
        ("batch", 0),
        ("threads", -1),
        ("margin", "1.5"),
        ("mpp", "fine"),
        ("max_upsample", 0.5),
    ],
)
def test_python_and_the_command_line_refuse_with_the_same_sentence(field: str, value: Any, call: Call) -> None:
    with pytest.raises(UsageError) as refused:
        RunConfig(**{field: value})
    ended = call("run", "x.tif", f"--{field.replace('_', '-')}", str(value))
    assert (ended.code, ended.err) == (2, f"wsipipe: {refused.value}\n")
    if field in inspect.signature(wsipipe.segment).parameters:
        with pytest.raises(UsageError) as segmenting:
            wsipipe.segment("x.tif", **{field: value})
        assert str(segmenting.value) == str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tile": "auto"}, "--tile is 'auto'; allowed: a whole number, or leave it out"),
        ({"tile": True}, "--tile is True; allowed: a whole number, or leave it out"),
        ({"max_memory_bytes": "4GB"}, "max_memory_bytes is '4GB'; allowed: a whole number, or leave it out"),
        ({"planes": "0,1"}, "planes is '0,1'; allowed: Planes"),
        ({"cluster": "local"}, "cluster is 'local'; allowed: ClusterConfig, or leave it out"),
        ({"out": None}, "--out is None; allowed: text"),
        ({"objects": "yes"}, "--objects is 'yes'; allowed: true or false"),
    ],
)
def test_values_of_another_type_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        RunConfig(**given)
    assert str(refused.value) == said


def test_paths_and_numbers_of_numpy_are_taken() -> None:
    given = RunConfig(out=Path("out"), model=Path("a.pt2"), tile=np.int64(64), mpp=np.float32(0.5))  # type: ignore[arg-type]
    assert given == RunConfig(out="out", model="a.pt2", tile=64, mpp=0.5)
    assert [type(value) for value in (given.out, given.tile, given.mpp)] == [str, int, float]
