"""The available memory, according to the kernel's cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsipipe.pipeline import machine
from wsipipe.pipeline.machine import cgroup_limits, default_limit_bytes

GB = 10**9


def groups(tmp_path: Path, own: str, limits: dict[str, str]) -> tuple[Path, Path]:
    (tmp_path / "cgroup").write_text(own)
    for path, limit in limits.items():
        file = tmp_path / "fs" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit)
    return tmp_path / "cgroup", tmp_path / "fs"


@pytest.mark.parametrize(
    ("own", "limits", "found"),
    [
        ("0::/slurm/job_7/step_0\n", {"slurm/job_7/memory.max": "4000000000\n", "slurm/memory.max": "max\n"}, [4 * GB]),
        ("0::/a/b\n", {"a/b/memory.max": "3000000000", "a/memory.max": "2000000000"}, [3 * GB, 2 * GB]),
        ("0::/\n", {"memory.max": "1000000000"}, [GB]),
        ("4:memory:/job\n2:cpu:/x\n", {"memory/job/memory.limit_in_bytes": "5000000000"}, [5 * GB]),
        ("0::/a\n", {"a/memory.max": "max\n"}, []),
        ("0::/gone\n", {"other/memory.max": "1"}, []),
    ],
)
def test_the_limits_of_all_cgroups_around_the_process_count(
    tmp_path: Path, own: str, limits: dict[str, str], found: list[int]
) -> None:
    assert list(cgroup_limits(*groups(tmp_path, own, limits))) == found


def test_without_cgroups_there_are_no_limits(tmp_path: Path) -> None:
    assert list(cgroup_limits(tmp_path / "none", tmp_path)) == []


def test_the_least_limit_is_what_a_run_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cgroup_limits", lambda: [3 * GB, 2 * GB])
    assert default_limit_bytes() == pytest.approx(0.9 * 2 * GB)
