"""Lower precisions: which engine computes in them, that tiles change no bit, and what is said of their gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import wsipipe
from tests.importing.onnx_networks import write_network
from wsipipe.errors import MachineError, MemoryLimitError, ModelError, UsageError
from wsipipe.events import Event, PrecisionGain
from wsipipe.importing import import_model
from wsipipe.importing.import_model import NetworkRequest, import_file
from wsipipe.inference import devices, gains, speeds
from wsipipe.inference.devices import multiplies_bfloat16, resolve_engine
from wsipipe.inference.engines.start import start_engine
from wsipipe.inference.gains import measure_gain
from wsipipe.inference.pool import PoolSpec, load_replicas
from wsipipe.inference.replica import Replica
from wsipipe.model.file_kind import FileKind
from wsipipe.model.model_file import Model, load_model, save_unet
from wsipipe.model.spec import ModelSpec, default_classes
from wsipipe.model.unet import UNet
from wsipipe.slides.slide import Level

needs_bfloat16 = pytest.mark.skipif(not multiplies_bfloat16(), reason="OpenVINO does not multiply in bfloat16 here")
CPU = torch.device("cpu")


def test_bfloat16_on_a_cpu_is_openvinos_whatever_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: True)
    for kind in (FileKind.SAFETENSORS, FileKind.ONNX):
        assert resolve_engine("auto", ("cpu",), "bfloat16", kind) == "openvino"
    assert resolve_engine("auto", ("cpu",), "bfloat16", FileKind.PT2) == "torch"
    assert resolve_engine("auto", ("cuda:0",), "bfloat16") == "torch"
    assert resolve_engine("torch", ("cpu",), "bfloat16") == "torch"
    monkeypatch.setattr(devices, "is_installed", lambda engine: engine == "torch")
    with pytest.raises(MachineError, match=r"in bfloat16 need openvino, .* pip install 'wsipipe\[openvino\]'"):
        resolve_engine("auto", ("cpu",), "bfloat16")


@pytest.mark.parametrize("wish", ["auto", "openvino"])
def test_a_cpu_that_does_not_multiply_in_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: False)
    with pytest.raises(MachineError, match=r"neither AVX512_BF16 nor AMX.*use --precision float32"):
        resolve_engine(wish, ("cpu",), "bfloat16")
    assert resolve_engine(wish, ("cpu",), "float32") == "openvino"


def test_engines_refuse_precisions_that_they_lack() -> None:
    with pytest.raises(UsageError, match=r"openvino computes in float32 and bfloat16 only; .* needs --engine torch"):
        resolve_engine("openvino", ("cpu",), "float16")
    with pytest.raises(UsageError, match=r"onnxruntime computes in float32 only; .*bfloat16 needs --engine openvino"):
        resolve_engine("onnxruntime", ("cpu",), "bfloat16", FileKind.ONNX)
    with pytest.raises(UsageError, match=r"no engine computes .* in float16; use float32"):
        resolve_engine("auto", ("cpu",), "float16", FileKind.ONNX)


def unet(folder: Path, **sizes: int) -> Model:
    torch.manual_seed(len(sizes))
    path = folder / "unet.safetensors"
    save_unet(path, UNet(3, 2, **sizes).eval(), ModelSpec(default_classes(2)))
    return load_model(path)


def onnx(folder: Path) -> Model:
    with pytest.MonkeyPatch.context() as patch:  # memory is measured in a process of its own, which takes seconds
        patch.setattr(import_model, "measure_bytes", lambda _path, engines: dict.fromkeys(engines, 1000.0))
        source = write_network(folder / "net.onnx", classes=2)
        spec = ModelSpec(default_classes(2), mpp=0.5, mean=(0.5,), std=(0.25,))
        import_file(source, folder / "m.onnx", spec, NetworkRequest())
    return load_model(folder / "m.onnx")


MODELS: dict[str, Callable[[Path], Model]] = {
    "depth 4": lambda folder: unet(folder, base_channels=16, depth=4),
    "depth 3": lambda folder: unet(folder, base_channels=16, depth=3, convs_per_level=2),
    "one conv": lambda folder: unet(folder, base_channels=4, depth=2, convs_per_level=1),
    "onnx": onnx,
}


@needs_bfloat16
@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_in_bfloat16_tiles_give_the_bits_of_the_whole_pass(name: str, tmp_path: Path) -> None:
    model = MODELS[name](tmp_path)
    receptive = model.info.receptive
    step, margin, crop = receptive.stride, receptive.margin, receptive.crop
    height, width = 9 * step, 14 * step
    image = torch.rand(1, 3, height + margin, width + margin)
    engines = {count: start_engine("openvino", model, CPU, threads=count, precision="bfloat16") for count in (1, 2)}

    def cores(tiles: Tensor, threads: int) -> Tensor:
        found = engines[threads](tiles).clone()
        return found[..., crop : found.shape[-2] - crop, crop : found.shape[-1] - crop]

    whole = cores(image, 1)
    assert whole.shape[-2:] == (height, width)
    exact = start_engine("openvino", model, CPU, threads=1)(image)
    assert not torch.equal(whole, exact[..., crop : crop + height, crop : crop + width]), "it is another precision"
    assert torch.equal(whole, cores(image, 2))
    for rows, cols in ((1, 1), (3, 2), (7, 11)):
        tiles, expected = [], []
        for y0, x0 in ((0, 0), (height - rows * step, 0), (step, width - cols * step), (2 * step, 3 * step)):
            here = np.s_[y0 : y0 + rows * step + margin, x0 : x0 + cols * step + margin]
            tiles.append(image[0, :, *here])
            expected.append(whole[0, :, y0 : y0 + rows * step, x0 : x0 + cols * step])
        for threads, batch in ((1, 1), (2, 4)):
            found = torch.cat([cores(torch.stack(tiles[i : i + batch]), threads) for i in range(0, 4, batch)])
            assert torch.equal(found, torch.stack(expected)), f"{rows} x {cols}, {threads} threads, batches of {batch}"


@needs_bfloat16
def test_a_store_in_bfloat16_does_not_depend_on_tiles_and_names_the_engine(tmp_path: Path, write_slide: Any) -> None:
    slide = write_slide(tmp_path / "s.tif", (200, 300))
    model = unet(tmp_path, base_channels=8, depth=2).info.path
    config = wsipipe.RunConfig(model=model, precision="bfloat16", device="cpu", tissue="off")
    files = []
    for tile in (64, 32):
        out = tmp_path / str(tile)
        (done,) = wsipipe.run([slide], replace(config, out=str(out), tile=tile, block=64)).slides
        assert done.status == "done", done.message
        files.append({p.relative_to(out): p.read_bytes() for p in (out / "s.zarr" / "0").rglob("*") if p.is_file()})
    assert files[0] == files[1]
    again = replace(config, out=str(tmp_path / "64"), engine="torch", block=64)
    (refused,) = wsipipe.run([slide], again).slides
    assert "precision bfloat16 by openvino (now bfloat16)" in refused.message


@needs_bfloat16
def test_the_gain_of_bfloat16_is_measured_once_and_remembered(
    tmp_path: Path, write_slide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(gains, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(speeds, "MOST_SECONDS", 10**4)  # however busy this machine is
    info = unet(tmp_path, base_channels=16, depth=2).info
    spec = PoolSpec(info.path, info.sha256, "cpu", "openvino", "float32", 1, False, info.receptive)
    level = wsipipe.open_slide(write_slide(tmp_path / "s.tif", (300, 400))).levels[0]
    read: list[Level] = []
    busiest = gains.busiest_tile
    monkeypatch.setattr(gains, "busiest_tile", lambda *given: read.append(given[0]) or busiest(*given))

    def measured(**more: Any) -> Any:
        return measure_gain(replace(spec, **more), level, 128, pixels=10**13, bare=1e7)

    gain = measured()
    labels = []
    for precision in ("float32", "bfloat16"):
        (replica,) = load_replicas(replace(spec, precision=precision), ("cpu",))
        labels.append(replica.predict([busiest(level, info.receptive, 128)]).labels)
    assert (gain.precision, gain.differing) == ("bfloat16", (labels[0] != labels[1]).mean())
    assert 0 < gain.differing < 0.1
    assert gain.speed > 0
    assert measured() == gain
    assert len(read) == 1, "it is remembered"
    assert measured(engine="torch") is None
    assert measured(precision="bfloat16") is None
    assert measure_gain(spec, level, 128, pixels=10**6, bare=1e7) is None, "the run is too short"
    monkeypatch.setattr(gains, "LEAST_GAIN", gain.speed * 2)
    assert measured() is None, "it is no gain"


@needs_bfloat16
def test_what_goes_before_the_gain_is_measured_counts_as_well(
    tmp_path: Path, write_slide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading the networks takes longer than the run may wait, which is known the next time without doing it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loaded, load, now = list[PoolSpec](), gains.load_replicas, [0.0]

    def slowly(spec: PoolSpec, named: tuple[str, ...]) -> list[Replica]:
        loaded.append(spec)
        now[0] += speeds.MOST_SECONDS
        return load(spec, named)

    monkeypatch.setattr(gains, "load_replicas", slowly)
    monkeypatch.setattr(gains, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    info = unet(tmp_path, base_channels=4, depth=1).info
    spec = PoolSpec(info.path, info.sha256, "cpu", "openvino", "float32", 1, False, info.receptive)
    level = wsipipe.open_slide(write_slide(tmp_path / "s.tif")).levels[0]
    for _ in range(2):
        assert measure_gain(spec, level, 128, pixels=10**12, bare=1e9) is None
    assert [spec.precision for spec in loaded] == ["float32", "bfloat16"]


@needs_bfloat16
def test_a_run_in_float32_says_once_what_bfloat16_would_gain(
    tmp_path: Path, write_slide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(gains, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(gains, "is_worth", lambda *_, **__: True)
    slides = [write_slide(tmp_path / name, (200, 300)) for name in ("a.tif", "b.tif")]
    model = unet(tmp_path, base_channels=8, depth=2).info.path
    config = wsipipe.RunConfig(str(tmp_path / "out"), model, device="cpu", engine="openvino", overwrite=True)
    for changes, said in (({}, 1), ({"tile": 64}, 0), ({"precision": "bfloat16"}, 0), ({"engine": "torch"}, 0)):
        events: list[Event] = []
        summary = wsipipe.run(slides, replace(config, **changes), events.append)
        gain = [event for event in events if isinstance(event, PrecisionGain)]
        assert gain == [summary.lower_precision] * said, changes
        assert (summary.lower_precision is not None) == bool(said)


@needs_bfloat16
@pytest.mark.parametrize("err", [MemoryLimitError("no room"), MemoryError(), ModelError("no such operation")], ids=repr)
def test_a_run_goes_on_where_the_gain_cannot_be_measured(
    tmp_path: Path, write_slide: Any, monkeypatch: pytest.MonkeyPatch, err: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise err

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(gains, "is_worth", lambda *_, **__: True)
    monkeypatch.setattr(gains, "load_replicas", fail)
    model = unet(tmp_path, base_channels=4, depth=1).info.path
    config = wsipipe.RunConfig(str(tmp_path / "out"), model, device="cpu", engine="openvino", tissue="off")
    summary = wsipipe.run([write_slide(tmp_path / "s.tif", (50, 60))], config)
    assert (summary.exit_code, summary.lower_precision) == (0, None)


def test_tissue_is_found_where_pixels_vary_most(tmp_path: Path) -> None:
    import tifffile

    pixels = np.full((500, 700, 3), 240, np.uint8)
    pixels[240:280, 470:520] = np.random.default_rng(0).integers(0, 255, (40, 50, 3))
    tifffile.imwrite(tmp_path / "s.tif", pixels, tile=(64, 64), photometric="rgb")
    level = wsipipe.open_slide(tmp_path / "s.tif").levels[0]
    receptive = UNet(3, 2, base_channels=2, depth=1, convs_per_level=1).receptive
    tile = gains.busiest_tile(level, receptive, 64)
    assert tile.shape == (64 + receptive.margin, 64 + receptive.margin, 3)
    assert (tile < 240).mean() > 0.3
