"""What only a GPU can show: ``pytest -m gpu``. Everything else of its code is tested on the CPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import wsipipe
from tests.faults import picture, write_slide
from wsipipe.arrays import Labels, Pixels
from wsipipe.inference.pool import close_resident_pools
from wsipipe.inference.replica import Replica
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.model_file import Model

CUDA = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
MPS = ["mps"] if torch.backends.mps.is_available() else []
GPUS = CUDA[:1] + MPS

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # cuDNN and the compiler warn of what they try
ROUNDED = 1e-6
"""Share of labels that may differ in float32. Another device adds up in another order, and so does one for tiles of
another size; the last bit decides about one label in 10^7, and a small slide may have a few more."""
needs_gpu = pytest.mark.skipif(not GPUS, reason="needs a GPU")
needs_cuda = pytest.mark.skipif(not CUDA, reason="needs a CUDA device")


@pytest.fixture(params=GPUS or ["cuda:0"])
def gpu(request: pytest.FixtureRequest) -> str:
    device: str = request.param
    return device


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("gpu") / "s.tif", picture((3100, 4500)))


@pytest.fixture(scope="module")
def model() -> Model:
    return wsipipe.load_model(DEFAULT_MODEL)


@pytest.fixture
def segment(slide: Path, tmp_path: Path) -> Callable[..., tuple[np.ndarray, wsipipe.RunConfig]]:
    """Labels and summary of a run: ``segment(out, device=..., ...)``."""

    def segment(out: str, **options: Any) -> tuple[np.ndarray, Any]:
        summary = wsipipe.run([slide], wsipipe.RunConfig(out=str(tmp_path / out), **options))
        assert summary.exit_code == 0, summary
        return np.asarray(zarr.open_array(tmp_path / out / "s.zarr" / "0", mode="r")[:]), summary

    return segment


def assert_rounded(labels: Labels, expected: Labels, what: str) -> None:
    """Assert that no more labels differ than `ROUNDED`, or one; say how many do."""
    differing = int((labels != expected).sum())
    print(f"{what}: {differing} of {labels.size} labels differ")
    assert differing <= max(1, ROUNDED * labels.size)


def tiles_of(model: Model, count: int, core: int = 512) -> list[Pixels]:
    side = core + model.info.receptive.margin
    return [picture((side, side), seed=seed) for seed in range(count)]


@needs_gpu
def test_labels_do_not_depend_on_sizes_lanes_or_the_device(segment: Callable[..., Any], gpu: str) -> None:
    """Promise 1 on a GPU: tiles of every size, in batches, by two lanes, give one map; and float32 gives the CPU's."""
    expected, _ = segment("cpu", device="cpu", engine="torch", tile=1024)
    assert 0.001 < (expected > 0).mean() < 0.9
    for i, sizes in enumerate([{}, {"tile": 512, "batch": 3, "block": 1024}, {"tile": 2048, "batch": 1}]):
        labels, _ = segment(str(i), device=gpu, **sizes)
        assert_rounded(labels, expected, f"{gpu}, {sizes}, and the CPU")


@needs_gpu
@pytest.mark.parametrize("precision", [*["tf32"] * bool(CUDA), "bfloat16", "float16"])
def test_lower_precisions_change_few_labels_and_how_many_is_printed(
    segment: Callable[..., Any], gpu: str, precision: str
) -> None:
    if precision == "tf32" and gpu == "mps":
        pytest.skip("tf32 is for NVIDIA GPUs")
    exact, _ = segment("exact", device=gpu)
    lower, _ = segment("lower", device=gpu, precision=precision)
    print(f"{gpu}, {precision}: {int((lower != exact).sum())} of {exact.size} labels differ")
    assert (lower != exact).mean() < 0.01


@needs_gpu
def test_the_compiled_network_gives_the_same_labels(model: Model, gpu: str) -> None:
    eager, compiled = Replica(model, gpu), Replica(model, gpu, engine="compile")
    for tile in tiles_of(model, 5):
        assert_rounded(compiled.predict([tile]).labels, eager.predict([tile]).labels, f"{gpu}, compiled")


@needs_gpu
def test_both_layouts_in_memory_give_the_same_labels(model: Model, gpu: str) -> None:
    last, first = Replica(model, gpu), Replica(model, gpu, channels_last=False)
    for tile in tiles_of(model, 3):
        assert_rounded(first.predict([tile]).labels, last.predict([tile]).labels, f"{gpu}, channels first")


@needs_cuda
def test_tiles_travel_from_pinned_memory_on_streams_of_their_own(model: Model) -> None:
    replica, (tile,) = Replica(model, CUDA[0]), tiles_of(model, 1)
    stacked = replica._stack([tile])
    assert torch.from_numpy(stacked).is_pinned()
    np.testing.assert_array_equal(stacked[0], tile)
    assert not torch.from_numpy(replica.predict([tile]).labels).is_pinned(), "a lane has the pinned memory of one batch"
    streams = []
    for _ in range(2):
        with replica.lane():
            streams.append(torch.cuda.current_stream(CUDA[0]))
    assert replica.lanes == 2
    assert torch.cuda.default_stream(CUDA[0]) not in streams
    assert streams[0] != streams[1]


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A fifth of a GiB of the first device."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.2 * 2**30 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@needs_cuda
def test_a_device_that_runs_out_of_memory_gives_the_same_labels(
    segment: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    sizes = {"device": CUDA[0], "tile": 1024, "batch": 8, "block": 2048}
    roomy, _ = segment("roomy", **sizes)
    close_resident_pools()
    request.getfixturevalue("little_memory")
    tight, _ = segment("tight", **sizes)
    assert_rounded(tight, roomy, f"{CUDA[0]}, in little memory")


@needs_cuda
def test_memory_of_the_device_does_not_grow(model: Model) -> None:
    replica, tiles = Replica(model, CUDA[0]), tiles_of(model, 4)
    with replica.lane():
        replica.predict(tiles)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(20):
            replica.predict(tiles)
        assert torch.cuda.memory_allocated() == before


@needs_cuda
def test_the_device_is_busy(segment: Callable[..., Any]) -> None:
    """The target is 97 % of the bare network; a slide as small as this one begins and ends too soon for that."""
    _, warm = segment("warm", device=CUDA[0])
    _, summary = segment("again", device=CUDA[0])
    print(f"{CUDA[0]}: {summary.account()}; before: {warm.account()}")
    assert summary.account().busy > 0.3
    assert summary.peak_bytes <= summary.projected_bytes


@pytest.mark.skipif(len(CUDA) < 2, reason="needs two CUDA devices")
def test_every_device_computes(segment: Callable[..., Any]) -> None:
    one, _ = segment("one", device=CUDA[0])
    all_, summary = segment("all", device="cuda")
    assert summary.devices == len(CUDA)
    assert_rounded(all_, one, f"{CUDA[0]}, and all of {len(CUDA)}")
