"""The memory that a network takes, measured in a process of its own, as it cannot be computed.

python -m wsipipe.importing.memory MODEL ENGINE
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import torch

from wsipipe.errors import ModelError
from wsipipe.geometry.network import round_up
from wsipipe.inference.devices import COMPILE
from wsipipe.inference.engines.start import start_engine
from wsipipe.model.model_file import load_model

CORE_PX = 768
"""Core of the tile that is measured: large enough that tensors take most of the memory."""
SLACK = 1.1
"""What is added, as allocators leave gaps."""
SAMPLE_SECONDS = 0.002


def measure_bytes(path: Path, engines: Sequence[str]) -> dict[str, float]:
    """Bytes per pixel of a tile that each of ``engines`` takes for the model at ``path``, weights apart.

    Raises
    ------
    ModelError
        If none of them computes the model.
    """
    found, refusals = {}, []
    for engine in engines:
        if engine == COMPILE:
            continue  # as torch, but for what the compiler takes
        command = [sys.executable, "-m", "wsipipe.importing.memory", str(path), engine]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode == 0:
            found[engine] = float(ended.stdout)
        else:
            killed = f"it ended with code {ended.returncode}, perhaps out of memory"
            refusals.append(f"{engine}: {[killed, *ended.stderr.strip().splitlines()][-1]}")
    if not found:
        raise ModelError(f"model {path.name} is computed by no engine that is installed: {'; '.join(refusals)}")
    return found


@torch.inference_mode()
def bytes_per_pixel(path: Path, engine: str) -> float:
    """What this process takes more while ``engine`` computes a tile of the model at ``path``, per pixel of it."""
    model = load_model(path)
    network = model.info.network
    receptive, device = network.receptive, torch.device("cpu")
    compute = start_engine(engine, model, device, threads=torch.get_num_threads())
    core = receptive.largest_core or round_up(CORE_PX, receptive.stride)
    side = core + receptive.margin
    tile = torch.from_numpy(np.random.default_rng(0).random((1, network.in_channels, side, side), np.float32))
    process = psutil.Process()
    before, most, ended = process.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.is_set():
            most = max(most, process.memory_info().rss)
            time.sleep(SAMPLE_SECONDS)

    watcher = threading.Thread(target=watch)
    watcher.start()
    compute(tile)
    ended.set()
    watcher.join()
    return SLACK * float(max(most, process.memory_info().rss) - before) / side**2


if __name__ == "__main__":
    sys.stdout.write(f"{bytes_per_pixel(Path(sys.argv[1]), sys.argv[2])}\n")
