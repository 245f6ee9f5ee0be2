"""Real `wsipipe` processes to kill, real files to damage, and what must be left of both."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from tests.warm import First, Warm
from wsipipe.demo import noise
from wsipipe.model.model_file import save_unet
from wsipipe.model.spec import ModelSpec, default_classes
from wsipipe.model.unet import UNet

SCRIPT = str(Path(sys.executable).with_name("wsipipe"))
PATIENCE_SECONDS = 240
"""Time that anything may take before a test gives up; nothing here takes a tenth of it."""

SITE = {
    "DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION": "1s",
    "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    "ZARR_ARRAY__ORDER": "F",
    "ZARR_JSON_INDENT": "7",
    "ZARR_DEFAULT_ZARR_FORMAT": "2",
}
"""Settings of a site, made for other programs, that must not count for wsipipe."""

Process = subprocess.Popen[str] | Warm


def start(
    *arguments: object,
    log: Path | None = None,
    first: First | None = None,
    before: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Process:
    """A `wsipipe` process, which calls ``first`` before all else; what it says on stderr goes to ``log``.

    It starts from scratch where something is put ``before`` it. ``env`` goes over the environment of this process; what
    libraries read of it as they are imported they read from scratch only.
    """
    if not before:
        return Warm("wsipipe.cli", list(map(str, arguments)), log or Path(os.devnull), first=first, environment=env)
    assert first is None
    with (log or Path(os.devnull)).open("w") as stderr:
        return subprocess.Popen(
            [*before, SCRIPT, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **(env or {})},
        )


def finish(process: Process) -> str:
    """Wait for the end of ``process``; return its stdout."""
    stdout, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return stdout


def wsipipe(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """A `wsipipe` process from start to end; see `start`."""
    with tempfile.TemporaryDirectory(prefix="wsipipe-log-") as folder:
        log = Path(folder, "log")
        process = start(*arguments, log=log, **options)
        stdout = finish(process)
        assert process.returncode is not None
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, log.read_text())


def summary(stdout: str) -> dict[str, Any]:
    """The document that ``--json`` printed."""
    document: dict[str, Any] = json.loads(stdout)
    return document


def wait_until(condition: Callable[[], bool], process: Process, pause: Callable[[], float] = lambda: 0.002) -> bool:
    """Whether ``condition`` came true before ``process`` ended by itself."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return True
        if process.poll() is not None:
            return condition()
        time.sleep(pause())
    process.kill()
    raise AssertionError("what the test waits for never came")


def processor_seconds(process: Process) -> float:
    """Seconds that ``process`` has computed; a clock that a busy machine does not distort."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def files(folder: Path) -> dict[str, bytes]:
    """Every file under ``folder`` by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def shards(store: Path, level: int | str = 0) -> dict[str, tuple[int, int]]:
    """Inode and time of last change of every shard of a level; files still being written are left out."""
    found = {}
    for path in (store / str(level)).glob("c/**/*"):
        if path.is_file() and path.suffix != ".partial":
            there = path.stat()
            found[str(path.relative_to(store))] = (there.st_ino, there.st_mtime_ns)
    return found


def store_files(store: Path) -> dict[str, bytes]:
    """Every file of a finished store, without when and how fast it was made, and when its slide was written."""
    found = files(store)
    root = json.loads(found["zarr.json"])
    assert root["attributes"]["wsipipe"].pop("run")["finished"] > "2026"
    root["attributes"]["wsipipe"].get("slide_seen", {}).pop("state", None)
    return found | {"zarr.json": json.dumps(root).encode()}


def assert_same_bytes(store: Path, reference: Path) -> None:
    """Assert that both stores hold the same files, with the same bytes; say which do not."""
    made, wanted = store_files(store), store_files(reference)
    assert sorted(made) == sorted(wanted)
    assert [name for name in wanted if made[name] != wanted[name]] == []


def picture(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth noise (y, x, 3), uint8, never 0: no two blocks of it are alike."""
    rng = np.random.default_rng(seed)
    planes = [noise(rng, shape, scale) for scale in (40, 12, 4)]
    return np.clip(128 + 40 * np.stack(planes, -1), 1, 255).astype(np.uint8)


def write_slide(path: Path, image: np.ndarray, *, mpp: float | None = 0.5) -> Path:
    """Write ``image`` (y, x) or (y, x, 3) as a pyramidal TIFF of two levels."""
    with tifffile.TiffWriter(path) as tiff:
        for down in (1, 2):
            tiff.write(
                image[::down, ::down],
                tile=(256, 256),
                photometric="rgb" if image.ndim == 3 else "minisblack",
                compression="zlib",
                subfiletype=0 if down == 1 else 1,
                resolution=(1e4 / mpp / down,) * 2 if mpp else None,
                resolutionunit="CENTIMETER" if mpp else None,
                metadata=None,
                software=False,
            )
    return path


def write_model(path: Path, *, seed: int = 0, mpp: float | None = 0.5) -> Path:
    """Write a small network of three classes, each of which wins in a part of `picture`."""
    torch.manual_seed(seed)
    network = UNet(3, 3, base_channels=2, depth=2)
    sample = torch.from_numpy(picture((network.receptive.margin + 512,) * 2)).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = network((sample / 255 - 0.5) / 0.25)
        spread = logits.std((0, 2, 3))
        network.head.weight /= spread.view(-1, 1, 1, 1)
        network.head.bias.copy_((network.head.bias - logits.mean((0, 2, 3))) / spread)  # type: ignore[union-attr]
    save_unet(path, network, ModelSpec(classes=default_classes(3), mpp=mpp, name=path.stem))
    return path


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A disk that is full once a file has ``size`` bytes: the kernel refuses what is written beyond."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
