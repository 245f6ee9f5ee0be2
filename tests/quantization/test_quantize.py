"""Models in int8: what is calibrated and compared on, what is written, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tifffile
import torch
from onnx import TensorProto, helper, numpy_helper

import wsipipe
from tests.conftest import Call, WriteSlide
from tests.faults import PATIENCE_SECONDS
from tests.importing.onnx_networks import write_network
from tests.importing.whole import whole_labels
from wsipipe.arrays import Labels
from wsipipe.errors import ChannelError, MachineError, ModelError, ResolutionError, SlideFormatError, UsageError
from wsipipe.geometry.grid import boxes
from wsipipe.importing import import_model
from wsipipe.importing.import_model import NetworkRequest, import_file, named_classes
from wsipipe.inference.replica import Prediction
from wsipipe.model.model_file import Model, load_model, read_model_info
from wsipipe.model.network import ForeignNetwork
from wsipipe.model.spec import ModelSpec
from wsipipe.model.unet_onnx import unet_as_onnx
from wsipipe.pipeline.plausible import light_of
from wsipipe.quantization import quantize
from wsipipe.quantization.agreement import agreement
from wsipipe.quantization.graph import first_convolutions, float_network, make_unsigned, with_names
from wsipipe.quantization.nncf_int8 import nncf_version
from wsipipe.quantization.quantize import QuantizeRequest, quantize_model
from wsipipe.quantization.tiles import CORE_PX, TissueTile, tissue_tiles
from wsipipe.slides.open import open_slide

needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="no nncf (pip install 'wsipipe[quantize]')")
NAMES = ("background", "tumour", "stroma")
ANY_DICE = QuantizeRequest(tiles=2, least_dice=0.0)


@pytest.fixture(autouse=True)
def _no_measuring_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is measured in processes of their own, which take seconds to start."""
    for module in (quantize, import_model):
        monkeypatch.setattr(module, "measure_bytes", lambda _path, engines: dict.fromkeys(engines, 900.0))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A U-Net of random weights, of which every class wins somewhere."""
    torch.manual_seed(3)
    network = wsipipe.UNet(3, 3, base_channels=4, depth=2, convs_per_level=1)
    path = tmp_path / "net.safetensors"
    spec = ModelSpec(
        named_classes(NAMES),
        mpp=0.5,
        mean=(0.4, 0.5, 0.6),
        std=(0.2,),
        name="net",
        licence="CC0-1.0",
        training={"steps": 7},
        min_area_um2=2.0,
    )
    wsipipe.save_model(path, network, spec)
    return path


@pytest.fixture
def slide(tmp_path: Path, write_slide: WriteSlide) -> Path:
    return write_slide(tmp_path / "slide.tif", (CORE_PX + 70, 2 * CORE_PX - 30))


def imported(path: Path, **made: object) -> Path:
    target = path.with_name("imported.onnx")
    spec = ModelSpec(named_classes(NAMES), mpp=0.5, mean=(0.5,), std=(0.2,))
    import_file(
        write_network(path, **made), target, spec, NetworkRequest(channels_last=bool(made.get("channels_last")))
    )
    return target


OUTWARD = """
import sys

import numpy.testing  # of numpy 2.0, which asks lscpu as it is imported
import torch.utils.cpp_extension  # of torch for CUDA, which asks where nvcc is

seen = []
outward = {"os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "socket.sendto"}
sys.addaudithook(lambda event, _: seen.append(event) if event in outward else None)

import numpy as np
import torch
from wsipipe.inference.engines.start import start_engine
from wsipipe.model.model_file import load_model
from wsipipe.quantization.graph import float_network
from wsipipe.quantization.nncf_int8 import quantized

model = load_model(sys.argv[1])
side = model.info.receptive.margin + 8 * model.info.receptive.stride
quantized(*float_network(model), [np.zeros((side, side, 3), np.uint8)], model.spec)
start_engine("openvino", model, torch.device("cpu"), threads=1)
print(seen)
"""
"""Quantises a model, computes it with OpenVINO, and prints what reached for a network or another process."""


@needs_nncf
def test_no_telemetry_is_sent(model: Path, tmp_path: Path) -> None:
    """In a process of its own: NNCF sends none where pytest is, and OpenVINO none where CI is."""
    home = tmp_path / "home"
    home.mkdir()
    hints = ("CI", "TF_BUILD", "JENKINS_URL", "NNCF_CI", "NNCF_DEV")
    env = {name: value for name, value in os.environ.items() if name not in hints} | {"HOME": str(home)}
    command = [sys.executable, "-c", OUTWARD, str(model)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert ended.stdout == "[]\n", ended.stderr
    assert not (home / "intel").exists(), "the telemetry's folder"


@needs_nncf
def test_a_unet_becomes_int8_with_its_description(model: Path, slide: Path, tmp_path: Path) -> None:
    info, agreed = quantize_model(model, tmp_path / "int8.onnx", [slide], ANY_DICE)
    original = read_model_info(model)
    assert isinstance(info.network, ForeignNetwork)
    assert (info.receptive, info.network.head, info.network.exact) == (original.receptive, original.network.head, True)
    assert info.network.bytes_per_pixel == {"openvino": 1024.0, "onnxruntime": 1024.0}
    record = info.spec.training["int8"]
    assert info.spec == replace(original.spec, name="net-int8", training={"steps": 7, "int8": record})
    assert record["of"] == {"name": "net", "sha256": original.sha256}
    assert (record["by"], record["slides"], record["tiles"]) == (f"nncf {nncf_version()}", ["slide.tif"], 2)
    assert record["compared"]["differing"] == agreed.differing > 0
    graph = onnx.load(info.path).graph
    weights = [one for one in graph.initializer if one.name.endswith("weight_1") and "q_output" in one.name]
    assert {one.data_type for one in weights} == {onnx.TensorProto.INT8}
    assert len(weights) == sum(node.op_type in ("Conv", "ConvTranspose") for node in graph.node) - 1  # but the first
    quantize_model(model, tmp_path / "again.onnx", [slide], ANY_DICE)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "int8.onnx").read_bytes()
    loaded = load_model(info.path)
    for engine in ("openvino", "onnxruntime"):
        labels = wsipipe.segment(slide, loaded, block=128, tile=64, device="cpu", engine=engine)
        np.testing.assert_array_equal(
            labels.compute(scheduler="synchronous"), whole_labels(loaded, slide, engine), err_msg=engine
        )
    with pytest.raises(ModelError, match=r"int8\.onnx is quantised already"):
        quantize_model(info.path, tmp_path / "twice.onnx", [slide])


@needs_nncf
def test_an_imported_network_becomes_int8(slide: Path, tmp_path: Path) -> None:
    source = imported(tmp_path / "net.onnx", channels_last=True)
    info, agreed = quantize_model(source, tmp_path / "int8.onnx", [slide], ANY_DICE)
    assert info.receptive == read_model_info(source).receptive
    assert light_of(info) is None, "it is not known what it was trained on"
    assert agreed.dice["stroma"] > 0.9  # of random weights, whose logits are nearly even in many pixels


@needs_nncf
def test_the_command_says_how_far_it_agrees_and_refuses_too_little(
    model: Path, slide: Path, call: Call, tmp_path: Path
) -> None:
    words = ["model", "quantize", model, "-o", tmp_path / "int8.onnx", "--on", slide, "--tiles", 1]
    refused = call(*words, "--least-dice", 1)
    assert refused.code == 2
    assert "would have a Dice coefficient of 0." in refused.err
    assert "and --least-dice is 1; calibrate on more tiles (--tiles)" in refused.err
    assert not (tmp_path / "int8.onnx").exists()
    ended = call(*words, "--least-dice", 0)
    assert ended.code == 0, ended.err
    for text in ("tiles give what the whole image would", "labels that differ", "tumour 0.", "lost", "times that of"):
        assert text in ended.out
    assert "Statistics" not in ended.out + ended.err
    shown = json.loads(call("model", "show", tmp_path / "int8.onnx").out)
    assert shown["training"]["int8"]["slides"] == ["slide.tif"]
    assert "already exists" in call(*words).err


def test_what_cannot_become_int8_is_refused(model: Path, slide: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x\.pt2: the model becomes ONNX; give a name that ends in \.onnx"):
        quantize_model(model, tmp_path / "x.pt2", [slide])
    loaded = load_model(model)
    program = replace(loaded, network=torch.nn.Identity())
    with pytest.raises(ModelError, match=r"only ONNX becomes int8; write the network as ONNX: wsipipe\.save_model"):
        float_network(program)
    old = onnx.load(imported(tmp_path / "net.onnx"))
    old.opset_import[0].version = 12
    with pytest.raises(ModelError, match="operators of version 12, and int8 needs 13 or later"):
        float_network(Model(load_model(tmp_path / "imported.onnx").info, old.SerializeToString()))
    for tiles, dice, message in ((0, 0.9, "--tiles must be 1 or more"), (1, 2.0, "--least-dice must be from 0 to 1")):
        with pytest.raises(UsageError, match=message):
            QuantizeRequest(tiles, None, dice)


@needs_nncf
def test_what_nncf_cannot_quantise_is_an_error_of_the_model(
    model: Path, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_model(model).network
    assert isinstance(network, wsipipe.UNet)
    broken = unet_as_onnx(network)
    broken.graph.node[0].input[1] = "missing"
    described = float_network(load_model(model))[1]
    monkeypatch.setattr(quantize, "float_network", lambda _: (broken, described))
    with pytest.raises(ModelError, match="NNCF cannot make int8 of the network of model 'net': "):
        quantize_model(model, tmp_path / "x.onnx", [slide])
    assert not (tmp_path / "x.onnx").exists()


def test_without_nncf_the_extra_is_named(
    model: Path, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsipipe.extras.find_spec", lambda _: None)
    with pytest.raises(MachineError, match=r"not installed; pip install 'wsipipe\[quantize\]'"):
        quantize_model(model, tmp_path / "x.onnx", [slide])


def test_slides_that_do_not_suit_the_model_are_refused(model: Path, tmp_path: Path, write_slide: WriteSlide) -> None:
    info = read_model_info(model)
    unknown = write_slide(tmp_path / "unknown.tif", mpp=None)
    with pytest.raises(ResolutionError, match=r"unknown\.tif has no micrometres per pixel .*give --mpp"):
        tissue_tiles(info, [unknown], 4)
    with pytest.raises(SlideFormatError, match=r"unknown\.tif has tissue for one tile .* give more slides \(--on\)"):
        tissue_tiles(info, [unknown], 4, mpp=0.5)
    grey, black = tmp_path / "grey.tif", tmp_path / "black.tif"
    resolution = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(grey, np.full((300, 300), 90, np.uint8), **resolution)
    tifffile.imwrite(black, np.zeros((300, 300, 3), np.uint8), photometric="rgb", **resolution)
    with pytest.raises(ChannelError, match=r"grey\.tif has 1 channels, model 'net' takes 3"):
        tissue_tiles(info, [grey], 4)
    with pytest.raises(SlideFormatError, match=r"black\.tif: no tissue was found"):
        tissue_tiles(info, [black], 4)


def test_tiles_are_spread_over_slides_and_none_is_used_twice(
    model: Path, tmp_path: Path, write_slide: WriteSlide
) -> None:
    info = read_model_info(model)
    sides = {"a": (2 * CORE_PX, 3 * CORE_PX), "b": (CORE_PX, 2 * CORE_PX), "c": (90, 60), "d": (60, 90)}
    slides = [write_slide(tmp_path / f"{name}.tif", shape) for name, shape in sides.items()]
    calibrating, comparing = tissue_tiles(info, slides, 4)
    assert (calibrating, comparing) == tissue_tiles(info, slides, 4)
    assert {tile.slide for tile in calibrating} == {"a.tif", "b.tif", "c.tif"}
    assert {tile.slide for tile in comparing} == {"a.tif", "b.tif", "d.tif"}
    assert len({(tile.slide, tile.core) for tile in (*calibrating, *comparing)}) == 8
    tile = next(tile for tile in calibrating if tile.slide == "c.tif")
    half, image = info.receptive.margin // 2, tifffile.imread(slides[2])
    around = np.pad(image, ((half, half + 2), (half, half), (0, 0)), mode="symmetric")  # 90 px are 92 on the grid of 4
    np.testing.assert_array_equal(tile.pixels(info.receptive), around)


class _Drawn:
    """In place of a replica: gives ``labels`` for any tile."""

    def __init__(self, model: Model, labels: Labels) -> None:
        self.info, self.receptive, self._labels = model.info, model.info.receptive, labels

    def lane(self) -> object:
        return torch.inference_mode()

    def predict(self, tiles: list[np.ndarray]) -> Prediction:
        assert len(tiles) == 1
        return Prediction(self._labels[None], None)


def test_agreement_counts_labels_and_objects(model: Path, tmp_path: Path, write_slide: WriteSlide) -> None:
    slide = open_slide(write_slide(tmp_path / "slide.tif", (40, 40)))
    original, new = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    original[2:8, 2:8] = new[2:8, 2:8] = 1  # the same
    original[2:8, 20:26] = 1  # lost
    original[20:26, 2:8], new[20:26, 2:11] = 2, 2  # the same, larger by half
    new[30:36, 30:36] = 2  # appeared
    original[38, 0] = new[0, 38] = 1  # below 2 um2, which are 8 px
    (level,) = slide.levels
    (box,) = boxes(level.shape, CORE_PX)
    loaded = load_model(model)
    found = agreement(_Drawn(loaded, original), _Drawn(loaded, new), [TissueTile("slide.tif", level, box)])  # type: ignore[arg-type]
    assert (found.tiles, found.labels, found.differing) == (1, 1600, 36 + 18 + 36 + 2)
    assert (found.objects, found.lost, found.appeared) == (3, 1, 1)
    assert found.dice == pytest.approx({"tumour": 2 * 36 / (73 + 37), "stroma": 2 * 36 / (36 + 90)})


def test_int8_activations_become_uint8_of_the_same_values() -> None:
    constants = [
        numpy_helper.from_array(np.float32(0.1), "scale"),
        numpy_helper.from_array(np.int8(-70), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model)
    x = np.linspace(-30, 30, 1001, dtype=np.float32)

    def computed() -> np.ndarray:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"x": x})
        return np.asarray(found)

    before = computed()
    make_unsigned(model)
    assert {one.name: one.data_type for one in model.graph.initializer}["zero"] == TensorProto.UINT8
    np.testing.assert_array_equal(computed(), before)


def test_first_convolutions_are_those_that_see_the_image() -> None:
    model = unet_as_onnx(wsipipe.UNet(3, 2, base_channels=2, depth=1))
    assert first_convolutions(model, "image") == ["down.0.0"]
    for node in model.graph.node:
        node.name = ""
    named = with_names(model)
    assert len({node.name for node in named.graph.node}) == len(model.graph.node)
    assert first_convolutions(named, "image") == ["Conv.0"]
