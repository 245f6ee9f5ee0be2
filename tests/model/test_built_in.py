"""The models that come with wsipipe, by name."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import wsipipe
from tests.conftest import Call, WriteSlide
from wsipipe.inference.engines.start import start_engine
from wsipipe.model.built_in import BUILT_IN, DEFAULT_MODEL
from wsipipe.model.model_file import load_model, read_model_info
from wsipipe.model.usual_objects import usual_of
from wsipipe.nightly.config import read_night
from wsipipe.training.pretrained import pretrained_path


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_name_stands_for_a_file_that_comes_with_wsipipe(name: str) -> None:
    info = read_model_info(name)
    assert Path(info.path) == BUILT_IN[name]
    assert info == read_model_info(BUILT_IN[name])
    assert (info.spec.mpp, info.spec.licence) == (0.5, "CC-BY-4.0")
    assert usual_of(info.sha256) is not None


def test_int8_is_described_as_float32_is() -> None:
    float32, int8 = (read_model_info(name) for name in (DEFAULT_MODEL, "nuclei-int8"))
    assert int8.receptive == float32.receptive
    assert int8.network.exact
    for field in ("classes", "mpp", "mean", "std", "licence", "min_area_um2"):
        assert getattr(int8.spec, field) == getattr(float32.spec, field)
    record = int8.spec.training["int8"]
    assert record["of"] == {"name": float32.spec.name, "sha256": float32.sha256}
    assert {key: value for key, value in int8.spec.training.items() if key != "int8"} == float32.spec.training


def test_names_work_wherever_a_model_is_named(write_slide: WriteSlide, call: Call, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "slide.tif")
    shown = call("run", slide, "-m", "nuclei-int8", "-o", tmp_path / "out", "--tissue", "off", "--json")
    assert shown.code == 0, shown.err
    assert call("model", "show", "nuclei-int8").code == 0
    (tmp_path / "slides").mkdir()
    (tmp_path / "night.toml").write_text('inbox = ["slides"]\nout = "out"\nmodel = "nuclei-int8"\n')
    assert read_night(tmp_path / "night.toml").run_config().model == "nuclei-int8"
    assert pretrained_path(DEFAULT_MODEL, [tmp_path]) == BUILT_IN[DEFAULT_MODEL]
    assert pretrained_path("mine.safetensors", [tmp_path]) == tmp_path / "mine.safetensors"


def test_results_in_int8_name_their_engine_for_each_has_its_own(write_slide: WriteSlide, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "slide.tif")
    config = wsipipe.RunConfig(str(tmp_path / "out"), "nuclei-int8", device="cpu", tissue="off")
    (done,) = wsipipe.run([slide], config).slides
    assert done.status == "done", done.message
    (refused,) = wsipipe.run([slide], replace(config, engine="onnxruntime")).slides
    assert "precision float32 by openvino (now float32 by onnxruntime)" in refused.message


def logits(engine: str, x: torch.Tensor, threads: int = 1) -> np.ndarray:
    compute = start_engine(engine, load_model("nuclei-int8"), torch.device("cpu"), threads=threads)
    return compute(x).numpy().copy()


@torch.inference_mode()
def test_tiles_in_int8_give_the_whole_to_the_last_bit() -> None:
    sizes = read_model_info("nuclei-int8").receptive
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 1024 + sizes.margin, 512 + sizes.margin)))
    image = torch.nn.functional.avg_pool2d(image.float(), 5, 1, 2) * 3  # so that it looks like more than noise
    whole = logits("openvino", image)
    assert 0.02 < (whole[:, 1] > whole[:, 0]).mean() < 0.98
    for core, threads in ((512, 1), (256, 2)):
        corners = list(product(range(0, 1024, core), range(0, 512, core)))
        tiles = [image[..., y : y + core + sizes.margin, x : x + core + sizes.margin] for y, x in corners]
        found = logits("openvino", torch.cat(tiles), threads)
        for tile, (y, x) in zip(found, corners, strict=True):
            side = tile.shape[-1]
            np.testing.assert_array_equal(tile, whole[0, :, y : y + side, x : x + side])


@torch.inference_mode()
def test_both_engines_compute_it_and_agree_with_float32() -> None:
    sizes = read_model_info("nuclei-int8").receptive
    generator = np.random.default_rng(1)
    image = torch.from_numpy(generator.standard_normal((1, 3, 160 + sizes.margin, 160 + sizes.margin))).float()
    image = torch.nn.functional.avg_pool2d(image, 5, 1, 2) * 3
    float32 = load_model(DEFAULT_MODEL).network
    assert isinstance(float32, wsipipe.UNet)
    expected = float32(image).argmax(1).numpy()
    for engine in ("openvino", "onnxruntime"):
        assert (logits(engine, image).argmax(1) != expected).mean() < 0.03
