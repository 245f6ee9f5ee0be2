"""Promise 1: the tiled result equals one pass of the network over the whole mirror-padded slide."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import tifffile
import torch
import zarr
from dask.distributed import Client, LocalCluster

import wsipipe
from tests.faults import store_files
from tests.real_data import data, needs_data
from tests.soak import each_value_once, in_soak, rounds
from tests.test_tissue import LEFT_OUT, share_left_out
from tests.warm import CONTEXT
from wsipipe.geometry.grid import Box
from wsipipe.geometry.network import round_up
from wsipipe.inference import replica
from wsipipe.inference.pool import close_resident_pools
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.spec import default_classes
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.slide import choose_level

Image = np.ndarray[Any, np.dtype[np.uint8]]
Labels = np.ndarray[Any, np.dtype[np.uint8]]
FLOAT32_EXACT = 2**24
ENGINES = ["torch", "openvino"]


def write_slide(path: Path, image: Image) -> str:
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 48), compression="deflate", metadata=None)
    return str(path)


def make_model(path: Path, *, mpp: float | None = None, **sizes: int) -> str:
    """A model whose weights, and so whose logits, are whole numbers, and whose labels are balanced."""
    generator = torch.Generator().manual_seed(sum(sizes.values()))
    network = wsipipe.UNet(**sizes).eval()
    with torch.no_grad():
        for weight in network.parameters():  # mostly zeros, so that no sum leaves the whole numbers of float32
            draw = torch.rand(weight.shape, generator=generator)
            weight.copy_((draw < 0.15).float() - (draw > 0.9).float())
        pixels = torch.from_numpy(random_image((128, 128))).permute(2, 0, 1)[None].float()
        side = network.sizes.nearest_legal(110)[0]
        logits = network(pixels[..., :side, :side])
        network.head.bias -= logits.mean((0, 2, 3)).round()
    # mean 0 and std 1/255 give back the pixel, see whole_numbers()
    spec = wsipipe.ModelSpec(classes=default_classes(network.classes), mpp=mpp, mean=(0.0,), std=(1 / 255,))
    wsipipe.save_model(path, network, spec)
    return str(path)


def whole_numbers() -> Image:
    """The pixel values that normalisation by 1/255 maps to themselves, to the last bit, up to 8."""
    pixels = np.arange(9, dtype=np.float32)
    back = torch.from_numpy(pixels).div(255.0).sub(0.0).div(torch.tensor(1 / 255)).numpy()
    exact: Image = pixels[back == pixels].astype(np.uint8)
    return exact


def test_enough_pixel_values_are_whole_numbers_to_the_network() -> None:
    assert len(whole_numbers()) >= 5


def random_image(shape: tuple[int, int]) -> Image:
    """An image (y, x, 3) of `whole_numbers`."""
    return np.random.default_rng(shape).choice(whole_numbers(), (*shape, 3))


def whole_logits(model: str, image: Image) -> torch.Tensor:
    """One pass of the network over the whole mirror-padded image, (class, y, x)."""
    loaded = wsipipe.load_model(model)
    receptive, spec = loaded.network.receptive, loaded.spec
    half = receptive.margin // 2
    pads = [(half, half + round_up(side, receptive.stride) - side) for side in image.shape[:2]]
    padded = np.pad(image, [*pads, (0, 0)], mode="symmetric")
    x = torch.from_numpy(padded)[None].permute(0, 3, 1, 2).float().div(255.0)
    x = (x - torch.tensor(spec.mean).view(1, -1, 1, 1)) / torch.tensor(spec.std).view(1, -1, 1, 1)
    with torch.inference_mode():
        logits = loaded.network(x)[0]
    crop, (height, width) = receptive.crop, image.shape[:2]
    return logits[:, crop : crop + height, crop : crop + width]


def whole_labels(model: str, image: Image) -> Labels:
    """The reference: labels of `whole_logits`."""
    logits = whole_logits(model, image)
    winner = logits.argmax(0) if len(logits) > 1 else (logits[0] > 0).long()
    return winner.numpy().astype(np.uint8)


PAPER_LIKE = {"base_channels": 4, "depth": 2, "convs_per_level": 2}
SIDES = [(1, 1), (127, 211), (97, 95), *in_soak((40, 401), (5, 3), (96, 96), (191, 193), (192, 288))]


NETWORKS = [PAPER_LIKE, {"base_channels": 4, "depth": 3, "convs_per_level": 1}, {"base_channels": 3, "depth": 0}]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("shape", "sizes"), each_value_once(SIDES, NETWORKS), ids=str)
def test_segment_equals_the_whole_pass(
    tmp_path: Path, shape: tuple[int, int], sizes: dict[str, int], engine: str
) -> None:
    image = random_image(shape)
    slide = write_slide(tmp_path / "s.tif", image)
    model = make_model(tmp_path / "b.safetensors", classes=3, **sizes)
    expected = whole_labels(model, image)
    for block, tile in ((96, 96), (96, 32), (192, 48), (None, None)):
        labels = wsipipe.segment(slide, model, block=block, tile=tile, device="cpu", engine=engine)
        assert labels.shape == shape
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels.compute(scheduler="synchronous"), expected)
    if min(shape) > 90:
        assert len(np.unique(expected)) > 1, "a constant result would prove nothing"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler for CPUs needs g++, which is not installed")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, within torch.compile
@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # in Python 3.13.0
@pytest.mark.soak  # compiling takes long
def test_compiled_the_labels_are_those_of_the_whole_pass(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters as dynamo_counters  # a second, for this test alone

    image = random_image((288, 288))
    slide = write_slide(tmp_path / "s.tif", image)
    model = make_model(tmp_path / "b.safetensors", classes=3, base_channels=3, depth=1, convs_per_level=1)
    labels = wsipipe.segment(slide, model, block=96, tile=96, device="cpu", engine="compile")
    before = dynamo_counters["stats"]["unique_graphs"]
    np.testing.assert_array_equal(labels.compute(scheduler="synchronous"), whole_labels(model, image))
    assert dynamo_counters["stats"]["unique_graphs"] > before, "of 9 tiles of one shape the last ones are compiled"


@pytest.mark.parametrize(
    ("scheduler", "device", "batch"),
    each_value_once(["synchronous", "distributed", "threads"], ["cpu", "cpu,cpu,cpu"], [1, 3]),
)
def test_segment_is_the_same_under_any_scheduler_batch_and_pool(
    tmp_path: Path, device: str, batch: int, scheduler: str
) -> None:
    image = random_image((203, 331))
    slide = write_slide(tmp_path / "s.tif", image)
    model = make_model(tmp_path / "b.safetensors", classes=1, **PAPER_LIKE)
    labels = wsipipe.segment(slide, model, block=96, tile=48, batch=batch, device=device)
    if scheduler == "distributed":
        with LocalCluster(processes=False, dashboard_address="127.0.0.1:0") as cluster, Client(cluster):
            result = labels.compute()
            close_resident_pools()
    else:
        result = labels.compute(scheduler=scheduler)
    np.testing.assert_array_equal(result, whole_labels(model, image))


@pytest.mark.slow
def test_segment_is_the_same_in_other_processes(tmp_path: Path) -> None:
    image = random_image((203, 331))
    slide = write_slide(tmp_path / "s.tif", image)
    model = make_model(tmp_path / "b.safetensors", classes=2, **PAPER_LIKE)
    labels = wsipipe.segment(slide, model, block=96, tile=48, device="cpu")
    assert CONTEXT.get_start_method() == "forkserver"  # that of `tests.warm`, where torch is imported already
    with dask.config.set({"multiprocessing.context": "forkserver"}):
        result = labels.compute(scheduler="processes", num_workers=2)
    np.testing.assert_array_equal(result, whole_labels(model, image))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(127, 211), (193, 96), (7, 300)], ids=str)
def test_whole_number_logits_are_equal_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], engine: str
) -> None:
    image = random_image(shape)
    slide = write_slide(tmp_path / "s.tif", image)
    model = make_model(tmp_path / "b.safetensors", classes=3, base_channels=4, depth=2)
    logits = whole_logits(model, image)
    assert logits.abs().max() < FLOAT32_EXACT
    assert torch.equal(logits, logits.round())
    assert len(logits.unique()) > 50

    def digest(values: torch.Tensor, *_: object) -> torch.Tensor:
        """One byte of all logits of a pixel, in place of its label."""
        weights = torch.tensor([1.0, 31.0, 101.0]).view(-1, 1, 1)
        return (values * weights).sum(-3).long() % 256

    monkeypatch.setattr(replica, "winner", digest)
    monkeypatch.setattr(
        replica.Replica, "label_values", property(lambda _: torch.arange(256).byte(), lambda *_: None), raising=False
    )
    labels = wsipipe.segment(slide, model, block=96, tile=32, device="cpu", engine=engine)
    np.testing.assert_array_equal(labels.compute(scheduler="synchronous"), digest(logits).numpy())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mpp", [0.2482, 0.53, *in_soak(0.25, 0.06)], ids=lambda mpp: f"{mpp} to 0.5")
@pytest.mark.parametrize("shape", [(5, 3), (193, 96), *in_soak((1, 1), (331, 403))], ids=str)
def test_a_resampled_slide_equals_the_whole_pass_over_it(
    tmp_path: Path, mpp: float, shape: tuple[int, int], engine: str
) -> None:
    image = np.kron(random_image(shape), np.ones((2, 2, 1), np.uint8))[: shape[0], : shape[1]]
    slide = write_slide(tmp_path / "s.tif", image)
    model = make_model(tmp_path / "b.safetensors", classes=3, mpp=0.5, **PAPER_LIKE)
    level = choose_level(wsipipe.open_slide(slide, mpp=mpp), 0.5)
    assert level.mpp == 0.5
    expected = whole_labels(model, read_box(level, Box(0, level.shape[0], 0, level.shape[1])))
    for block, tile in ((96, 96), (96, 32), (192, 48), (None, None)):
        labels = wsipipe.segment(slide, model, block=block, tile=tile, device="cpu", engine=engine, mpp=mpp)
        np.testing.assert_array_equal(labels.compute(scheduler="synchronous"), expected)
    if min(level.shape) > 90:
        assert len(np.unique(expected)) > 1, "a constant result would prove nothing"


def test_run_writes_the_whole_pass_over_a_resampled_slide(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tif", random_image((401, 307)))
    model = make_model(tmp_path / "b.safetensors", classes=2, mpp=0.5, **PAPER_LIKE)
    level = choose_level(wsipipe.open_slide(slide, mpp=0.2482), 0.5)
    expected = whole_labels(model, read_box(level, Box(0, level.shape[0], 0, level.shape[1])))
    config = {"model": model, "device": "cpu,cpu", "batch": 2, "threads": 3, "mpp": 0.2482, "tissue": "off"}
    for name, sizes in {"a": {}, "b": {"block": 96, "tile": 48}, "c": {"block": 96, "tile": 16}}.items():
        summary = wsipipe.run([slide], wsipipe.RunConfig(out=str(tmp_path / name), **config, **sizes))
        assert summary.exit_code == 0
        np.testing.assert_array_equal(zarr.open_array(tmp_path / name / "s.zarr" / "0")[:], expected)
    files = {name: store_files(tmp_path / name / "s.zarr") for name in ("b", "c")}
    assert files["b"] == files["c"], "the tile changes speed only"


@torch.inference_mode()
def differing(core: int, margin: int) -> float:
    """Share of pixels in which 5 tiles of core + margin px, side by side, are not the whole pass.

    Not by a rounding error, that is: oneDNN adds up in another order where channels are few and tiles tiny.
    """
    torch.manual_seed(0)
    network = wsipipe.UNet(in_channels=3, classes=2, base_channels=4, depth=4).eval()
    width, height, crop = 5 * core + margin, core + margin, margin // 2 - network.receptive.halo
    image = torch.rand(1, 3, height, width)
    whole = network(image)[..., crop : crop + core, crop : crop + 5 * core]
    tiles = torch.empty_like(whole)
    for x in range(0, 5 * core, core):
        tile = network(image[..., x : x + core + margin])
        tiles[..., x : x + core] = tile[..., crop : crop + core, crop : crop + core]
    return ((tiles - whole).abs() > 1e-4 * whole.abs().mean()).float().mean().item()


def test_cores_off_the_pooling_grid_do_not_equal_the_whole_pass() -> None:
    """The trap: at the natural output width (4 mod 16, as the paper's 388) each tile pools in another phase."""
    assert differing(core=100, margin=184) > 0.05
    assert differing(core=96, margin=188) == 0.0


@pytest.mark.parametrize(
    ("shape", "engine"),
    each_value_once([(97, 95), (191, 193), *in_soak((1, 1), (192, 288), (401, 307))], ENGINES),
    ids=str,
)
def test_run_writes_the_whole_pass(tmp_path: Path, shape: tuple[int, int], engine: str) -> None:
    image = random_image(shape)
    slide = write_slide(tmp_path / "s.tif", image)
    model = make_model(tmp_path / "b.safetensors", classes=2, **PAPER_LIKE)
    expected = whole_labels(model, image)
    config = {"model": model, "device": "cpu,cpu", "engine": engine, "batch": 2, "threads": 3, "tissue": "off"}
    for name, sizes in {"a": {}, "b": {"block": 96, "tile": 48}, "c": {"block": 96, "tile": 16}}.items():
        summary = wsipipe.run([slide], wsipipe.RunConfig(out=str(tmp_path / name), **config, **sizes))
        assert summary.exit_code == 0
        np.testing.assert_array_equal(zarr.open_array(tmp_path / name / "s.zarr" / "0")[:], expected)
    files = {name: store_files(tmp_path / name / "s.zarr") for name in ("b", "c")}
    assert files["b"] == files["c"], "the tile changes speed only"


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("box", "sizes", "pairs"),
    rounds(
        (Box(669, 1053, 1424, 1936), {"tile": 128, "block": 256}, zip),  # tissue, nuclei beside its edge, and glass
        (Box(533, 1093, 1424, 2124), {"tile": 256, "block": 512}, product),
        (Box(0, 2967, 0, 2220), {"tile": 512, "block": 1024}, product),
    ),
    ids=["a part", "a larger part", "all"],
)
def test_trained_model_on_a_real_slide_differs_in_no_label(
    tmp_path: Path, box: Box, sizes: dict[str, int], pairs: type[zip[Any] | product[Any]]
) -> None:
    """With each engine for one of two ways to choose sizes, or for both."""
    path = data("slides/CMU-1-Small-Region.svs")
    level = wsipipe.open_slide(path).levels[0]
    image = read_box(level, box)
    part = write_slide(tmp_path / "part.tif", image)
    expected = whole_labels(str(DEFAULT_MODEL), image)
    assert 0.01 < (expected > 0).mean() < 0.5
    for engine, given in pairs(ENGINES, (sizes, {})):
        out = tmp_path / f"{engine} {len(given)}"
        slide = part if box.shape != level.shape else str(path)
        config = wsipipe.RunConfig(out=str(out), device="cpu", engine=engine, tissue="off", mpp=level.mpp, **given)
        wsipipe.run([slide], config)
        (store,) = out.glob("*.zarr")
        np.testing.assert_array_equal(zarr.open_array(store / "0")[:], expected)
    assert share_left_out(path, expected, box) <= LEFT_OUT
