"""Shared by all tests: a tiny model, slides of a few kilobytes, and no pool left behind."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from hypothesis import settings

from tests.soak import PUSH_EXAMPLES

CACHE = tempfile.TemporaryDirectory(prefix="wsipipe-cache-")
os.environ["XDG_CACHE_HOME"] = CACHE.name  # measurements of tests are not kept
os.environ["OMP_WAIT_POLICY"] = "passive"  # read as torch loads: a team that waits would keep cores from other tests
with suppress(ImportError):  # tests of readers run without
    import torch

    torch.set_num_threads(1)  # tensors this small take longer to share between cores than to compute

# No deadline: a machine that is busy with something else is not a failure of the code.
settings.register_profile("push", deadline=None, max_examples=PUSH_EXAMPLES)
settings.register_profile("deep", deadline=None, max_examples=20 * PUSH_EXAMPLES)
settings.load_profile("push")

WriteSlide = Callable[..., Path]


def pytest_configure(config: pytest.Config) -> None:
    """Try more examples of each property with ``-m soak``."""
    if asks_for_soak(config):
        settings.load_profile("deep")


def asks_for_soak(config: pytest.Config) -> bool:
    """Whether ``-m`` names the tests that repeat what the default ones do once."""
    return "soak" in config.option.markexpr


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Leave out what is marked ``soak`` unless ``-m`` asks for it, and begin with the files that take long."""
    if asks_for_soak(config):
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker("soak")
    else:
        left_out = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
    yield
    items[:] = longest_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of each later look of the garbage collector."""
    gc.collect()
    gc.freeze()


def longest_first(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """The tests in ``workers`` equal shares, each of which begins with files of slow tests.

    With ``--dist worksteal`` a worker begins with its share, and later takes from the end of another's. A file stays
    together, for the sake of what its tests share.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)

    def slow_tests(path: Path) -> int:
        return sum(item.get_closest_marker("slow") is not None for item in files[path])

    slow = sorted(filter(slow_tests, files), key=slow_tests, reverse=True)
    shares = [[item for path in slow[worker::workers] for item in files[path]] for worker in range(workers)]
    quick = [item for path in files if path not in slow for item in files[path]]
    for number, share in enumerate(shares):
        room = max(0, len(items) * (number + 1) // workers - len(items) * number // workers - len(share))
        share += quick[:room] if number + 1 < workers else quick
        del quick[:room]
    return [item for share in shares for item in share]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net of 2 poolings and random weights, for RGB slides of any resolution: halo 10, grid 4 px."""
    from wsipipe.model.model_file import save_unet
    from wsipipe.model.spec import ModelSpec, default_classes
    from wsipipe.model.unet import UNet

    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    torch.manual_seed(20)
    network = UNet(3, 2, base_channels=2, depth=2, convs_per_level=1)
    save_unet(path, network, ModelSpec(default_classes(2), name="tiny"))
    return path


@pytest.fixture(scope="session")
def write_slide() -> WriteSlide:
    """Write a tiled RGB TIFF of random pixels: ``write_slide(path, shape, mpp=..., seed=...)``."""

    def write(path: Path, shape: tuple[int, int] = (96, 128), *, mpp: float | None = 0.5, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(1, 255, (*shape, 3), np.uint8)
        resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), metadata=None, **resolution)
        return path

    return write


class Ended(NamedTuple):
    """The outcome of a command."""

    code: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """``wsipipe ...`` within this process: exit code, stdout and stderr, without a traceback."""
    from wsipipe.cli import main

    handler = signal.getsignal(signal.SIGTERM)

    def called(*words: object) -> Ended:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["wsipipe", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        ended = Ended(int(end.value.code or 0), *capfd.readouterr())
        assert "Traceback" not in ended.out + ended.err
        return ended

    yield called
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(autouse=True)
def _no_pool_stays() -> Iterator[None]:
    """Close the worker pools of this process after each test."""
    yield
    if "wsipipe.inference.pool" in sys.modules:
        from wsipipe.inference.pool import close_resident_pools

        close_resident_pools()
