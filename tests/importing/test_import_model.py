"""Networks of other programs: imported, and then segmented without a seam."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import wsipipe
from tests.conftest import Call
from tests.importing.onnx_networks import write_network
from tests.importing.whole import whole_labels
from tests.real_data import data, needs_data
from tests.soak import each_value_once
from wsipipe.errors import ChannelError, GeometryError, MachineError, ModelError, NoFiniteReachError, UsageError
from wsipipe.geometry.network import Receptive
from wsipipe.importing import import_model, memory
from wsipipe.importing.import_model import NetworkRequest, import_file, named_classes
from wsipipe.importing.margins import margin_shares
from wsipipe.inference import devices
from wsipipe.inference.replica import Replica
from wsipipe.model.file_kind import FileKind
from wsipipe.model.model_file import Model, load_model, read_model_info, write_description
from wsipipe.model.network import ForeignNetwork, Head
from wsipipe.model.pt2_file import export_pt2
from wsipipe.model.spec import ModelSpec
from wsipipe.pipeline.setup import resolve
from wsipipe.quantization.graph import float_network

NAMES = ("background", "tumour", "stroma")
SHAPE = (127, 211)
ENGINES = ["onnxruntime", "openvino"]


@pytest.fixture(autouse=True)
def _no_measuring_of_memory(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Memory is measured in processes of their own, which take seconds to start."""
    if "measures_memory" not in request.keywords:
        monkeypatch.setattr(import_model, "measure_bytes", lambda _path, engines: dict.fromkeys(engines, 1000.0))


def imported(source: Path, names: tuple[str, ...] = NAMES, **request: Any) -> Model:
    target = source.with_name(f"model{source.suffix}")
    spec = ModelSpec(named_classes(names), mpp=0.5, mean=(0.5,), std=(0.2,))
    import_file(source, target, spec, NetworkRequest(**request))
    return load_model(target)


def config_of(model: Model, folder: Path, **changes: Any) -> wsipipe.RunConfig:
    values: dict[str, Any] = {"tissue": "off", "tile": 32, "block": 128, "device": "cpu"} | changes
    return wsipipe.RunConfig(out=str(folder / "out"), model=model.info.path, **values)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), resolution=(20000, 20000), resolutionunit="CENTIMETER")
    return path


NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "softmax": ({}, {}),
    "channels last": ({"channels_last": True}, {"channels_last": True}),
    "valid": ({"valid": True}, {}),
    "quarter": ({"quarter": True}, {}),
    "probabilities": ({"activation": "Softmax"}, {}),
    "sigmoids": ({"activation": "Sigmoid"}, {"head": "sigmoid"}),
    "labels": ({"labels": True}, {}),
    "two outputs": ({"second": True}, {"output": "classes"}),
    "one side": ({"side": 96, "batch": 1}, {}),
    "quantised": ({"quantised": True}, {}),
    "alias": ({"domain": "ai.onnx"}, {}),
}


@pytest.mark.parametrize(("name", "engine"), each_value_once([*NETWORKS], ENGINES))
def test_tiles_of_an_imported_network_give_the_labels_of_one_pass(
    name: str, engine: str, slide: Path, tmp_path: Path
) -> None:
    made, request = NETWORKS[name]
    names = ("gland", "tumour", "stroma") if name == "sigmoids" else NAMES
    model = imported(write_network(tmp_path / "net.onnx", **made), names, **request)
    core = model.info.receptive.largest_core or 32
    labels = wsipipe.segment(slide, model, block=2 * core, tile=core, device="cpu", engine=engine)
    found = labels.compute(scheduler="synchronous")
    assert len(np.unique(found)) > 2
    if name != "one side":  # of which no whole is possible
        np.testing.assert_array_equal(found, whole_labels(model, slide, engine))
    else:
        free = imported(write_network(tmp_path / "free.onnx"))
        np.testing.assert_array_equal(found, whole_labels(free, slide, engine))


def test_what_is_measured_stands_in_the_file(tmp_path: Path) -> None:
    network = imported(write_network(tmp_path / "net.onnx")).info.network
    assert isinstance(network, ForeignNetwork)
    # 3x3 at strides 1, 2, 4, nearest enlargement, 3x3: 1 + 2 + 4 px, and up to 1 px more at each end of a cell
    assert (network.receptive.stride, network.receptive.scale, network.exact) == (4, 1, True)
    assert 7 <= network.receptive.halo <= 11
    assert network.bytes_per_pixel == {"openvino": 1000.0, "onnxruntime": 1000.0}
    quarter = imported(write_network(tmp_path / "net.onnx", quarter=True)).info.receptive
    assert (quarter.stride, quarter.scale) == (4, 4)
    fixed = imported(write_network(tmp_path / "net.onnx", side=96, batch=1)).info
    assert isinstance(fixed.network, ForeignNetwork)
    assert fixed.network.single
    assert fixed.receptive.largest_core == fixed.receptive.stride == 96 - fixed.receptive.margin


def test_run_writes_probabilities_of_an_imported_network(slide: Path, tmp_path: Path) -> None:
    model = imported(write_network(tmp_path / "net.onnx", quarter=True))
    config = config_of(model, tmp_path, block=64, probabilities=True)
    (outcome,) = wsipipe.run([slide], config).slides
    assert (outcome.status, outcome.warnings) == ("done", [])
    assert outcome.compared[0] > 0, "the first block was not computed again"
    assert outcome.compared[1] == 0
    store = tmp_path / "out" / "slide.zarr"
    made = json.loads((store / "zarr.json").read_text())["attributes"]["wsipipe"]
    assert "approximate" not in made["fingerprint"]


@pytest.mark.parametrize("operator", ["InstanceNormalization", "GlobalAveragePool"])
def test_what_looks_at_the_whole_image_is_refused_by_name_or_approximate(
    operator: str, slide: Path, tmp_path: Path
) -> None:
    source = write_network(tmp_path / "net.onnx", operator=operator)
    with pytest.raises(NoFiniteReachError, match=rf"{operator}.* looks at the whole image.*--approximate --margin"):
        imported(source)
    model = imported(source, margin=20)
    assert not model.info.network.exact
    config = config_of(model, tmp_path, engine="torch")
    with pytest.raises(UsageError, match="--engine torch does not compute ONNX models; use openvino or onnxruntime"):
        wsipipe.run([slide], config)
    config = config_of(model, tmp_path)
    (outcome,) = wsipipe.run([slide], config).slides
    assert outcome.status == "done"
    assert outcome.warnings[0].startswith("labels are approximate, by a margin of ")
    assert outcome.compared[0] > 0


def test_a_smaller_margin_is_approximate_and_another_result(slide: Path, tmp_path: Path) -> None:
    model = imported(write_network(tmp_path / "net.onnx"))
    config = config_of(model, tmp_path, margin=4)
    (outcome,) = wsipipe.run([slide], config).slides
    assert "a margin of 6 px around cores of 32 px" in outcome.warnings[0]
    again = config_of(model, tmp_path)
    (refused,) = wsipipe.run([slide], again).slides
    assert "was made with a margin of 6 px around cores of 32 px (now exact tiles; --margin)" in refused.message
    with pytest.raises(GeometryError, match=r"exact tiles have .* px around their cores"):
        model.info.receptive.narrowed(1000)


def test_a_valid_network_keeps_the_margin_that_its_convolutions_need() -> None:
    valid = Receptive(stride=16, halo=92, margin=188, crop=2)
    with pytest.raises(GeometryError, match="takes no fewer than 94"):
        valid.narrowed(50)
    padded = Receptive(stride=16, halo=92, margin=192, crop=96)
    assert padded.narrowed(33) == Receptive(stride=16, halo=48, margin=96, crop=48)


def test_a_network_that_looks_farther_than_its_file_says_is_found_out(slide: Path, tmp_path: Path) -> None:
    model = imported(write_network(tmp_path / "net.onnx"))
    lying = described_anew(model, receptive=Receptive(stride=4, halo=0, margin=0, crop=0))
    config = config_of(load_model(lying), tmp_path, block=64)
    with pytest.raises(ModelError, match=r"labels differ in tiles of two sides: the network looks farther"):
        wsipipe.run([slide], config)


def described_anew(model: Model, names: tuple[str, ...] = NAMES, **changes: Any) -> Path:
    """The file of ``model`` with another description of its network."""
    network, path = model.info.network, Path(model.info.path).with_name("lying.onnx")
    assert isinstance(network, ForeignNetwork)
    spec = replace(model.spec, classes=named_classes(names))
    write_description(Path(model.info.path), path, replace(network, **changes), spec)
    return path


LIES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "channels": ({}, {"in_channels": 1}, r"described as taking .* of 1 channels, but takes image float32"),
    "input": ({}, {"input": "a"}, r"described with the input 'a' .* has the input 'image'"),
    "output": ({}, {"output": "a"}, r"the output 'a', but has .* the outputs 'classes'; import it again"),
    "classes": ({}, {"classes": 2, "names": NAMES[:2]}, r"gives \(\d, 3, \d+, \d+\) .*, not \(\d, 2, "),
    "labels": ({}, {"head": Head("labels")}, r"gives \(\d, 3, \d+, \d+\) .*, not \(\d, 1, "),
    "no labels": ({"labels": True}, {"head": Head("softmax")}, r"gives \(\d, 1, \d+, \d+\) .*, not \(\d, 3, "),
    "few labels": (
        {"labels": True},
        {"classes": 2, "names": NAMES[:2]},
        r"gives classes from 0 to 2, and names 2, from 0 on; import it again",
    ),
    "scale": ({}, {"receptive": Receptive(stride=4, halo=12, margin=24, crop=12, scale=4)}, r"for the cores of"),
    "order of axes": (
        {},
        {"channels_last": True},
        r"does not compute tiles of .* and 3 channels: .*import it again",
    ),
    "batch": ({"batch": 1}, {"single": False}, r"described as taking any number of images .*, but takes image float32"),
}


@pytest.mark.parametrize(("lie", "engine"), each_value_once([*LIES], ENGINES))
def test_a_description_that_does_not_fit_the_network_is_an_error(
    lie: str, engine: str, slide: Path, tmp_path: Path
) -> None:
    made, changes, message = LIES[lie]
    model = described_anew(imported(write_network(tmp_path / "net.onnx", **made)), **changes)
    config = wsipipe.RunConfig(
        out=str(tmp_path / "out"), model=str(model), tissue="off", tile=32, block=128, batch=4, engine=engine
    )
    with pytest.raises(ModelError, match=message):
        wsipipe.run([slide], replace(config, model=load_model(model).info.path))  # some are told by loading alone


class Cut(torch.nn.Module):
    """A network that computes a size of that of the image, and pools with a stride."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        fine = torch.nn.functional.interpolate(torch.nn.functional.max_pool2d(images, 4), scale_factor=4.0)
        return fine[:, :, images.shape[2] // 8 :]


@pytest.mark.parametrize(("operator", "number"), [("_operator.floordiv", 8), ("torch.ops.aten.max_pool2d.default", 4)])
def test_a_program_that_divides_by_nothing_is_an_error(operator: str, number: int, tmp_path: Path) -> None:
    sound, bad = tmp_path / "sound.pt2", tmp_path / "bad.pt2"
    export_pt2(Cut().eval(), sound, channels=3, side=32, step=32)
    with zipfile.ZipFile(sound) as archive, zipfile.ZipFile(bad, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("models/model.json"):
                program = json.loads(content)
                (node,) = (one for one in program["graph_module"]["graph"]["nodes"] if one["target"] == operator)
                kept = json.dumps(node)
                node |= json.loads(kept.replace(f'": {number}', '": 0').replace(f"[{number}, {number}]", "[0, 0]"))
                assert json.dumps(node) != kept
                content = json.dumps(program).encode()
            copy.writestr(name, content)
    network = ForeignNetwork(
        kind=FileKind.PT2,
        in_channels=3,
        classes=3,
        head=Head("softmax"),
        receptive=Receptive(stride=32, halo=16, margin=32, crop=16),
        input="images",
        output="0",
        channels_last=False,
        single=False,
        exact=True,
        bytes_per_pixel={"torch": 100.0},
    )
    write_description(bad, bad, network, ModelSpec(named_classes(NAMES), mean=(0.5,), std=(0.25,)))
    with pytest.raises(ModelError, match=r"bad\.pt2 does not compute tiles of 64 wide x 64 high .*; import it again"):
        Replica(load_model(bad), "cpu").predict([np.zeros((64, 64, 3), np.uint8)])
    with pytest.raises(ModelError, match="takes no square tile"):
        imported(bad)


def test_memory_is_never_planned_below_that_of_input_and_output(tmp_path: Path) -> None:
    model = imported(write_network(tmp_path / "net.onnx"))
    lying = read_model_info(described_anew(model, bytes_per_pixel={"openvino": 0})).network
    assert lying.tensor_bytes(100, 2, engine="openvino", value_bytes=4, probabilities=False) >= 2 * 100**2 * 4 * (3 + 3)


def test_faint_logits_are_not_taken_for_probabilities(tmp_path: Path) -> None:
    for activation in (None, "Sigmoid"):
        source = write_network(tmp_path / "net.onnx", classes=1, faint=True, activation=activation)
        head = imported(source, ("tumour",)).info.network.head
        assert head == Head("sigmoid", activated=activation is not None)


def test_memory_that_cannot_be_measured_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "executable", "/bin/false")
    with pytest.raises(ModelError, match=r"computed by no engine .*: torch: it ended with code 1, perhaps out of mem"):
        memory.measure_bytes(tmp_path / "net.pt2", ["torch"])


@pytest.mark.parametrize(
    ("made", "names", "request_", "error", "message"),
    [
        (
            {"second": True},
            NAMES,
            {},
            UsageError,
            "has 2 outputs: classes .*; features .*; say which with --output NAME",
        ),
        ({}, NAMES, {"output": "logits"}, UsageError, "--output logits: .* has no such output; it has classes"),
        ({}, ("a", "b"), {}, ModelError, "output of 3 channels for 2 --classes"),
        ({"classes": 1}, ("a",), {"head": "softmax"}, UsageError, "one channel; use --head sigmoid"),
        ({"labels": True}, NAMES, {"head": "softmax"}, UsageError, "has whole numbers; use --head labels"),
        ({"labels": True}, NAMES[:2], {}, ModelError, "gives classes from 0 to 2 for 2 --classes"),
        ({"batch": 8}, NAMES, {}, ModelError, "8 images at once; export it for one, or for any number"),
        ({"channels_last": True}, NAMES, {}, ModelError, "add --channels-last"),
    ],
)
def test_what_does_not_fit_is_refused(
    made: dict[str, Any], names: tuple[str, ...], request_: dict[str, Any], error: type, message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        imported(write_network(tmp_path / "net.onnx", **made), names, **request_)
    assert not (tmp_path / "model.onnx").exists()


def test_a_gpu_that_onnxruntime_does_not_compute_on_is_refused_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would compute on the CPU instead, with a warning."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime, in the extra onnx")
    from wsipipe.inference.engines.onnxruntime import CPU, CUDA, OnnxRuntimeEngine

    model = imported(write_network(tmp_path / "net.onnx"))
    gpu = torch.device("cuda:0")
    with pytest.raises(RuntimeError, match="computes on CPUs only; pip install onnxruntime-gpu in its place"):
        OnnxRuntimeEngine(model, gpu, 1)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.warns(UserWarning, match="not in available"), pytest.raises(RuntimeError, match="CUDA's libraries"):
        OnnxRuntimeEngine(model, gpu, 1)


def test_nan_fails_the_slide(slide: Path, tmp_path: Path) -> None:
    network = wsipipe.UNet(3, 2, base_channels=2, depth=1)
    path = tmp_path / "nan.safetensors"
    infinite = ModelSpec(named_classes(NAMES[:2]), std=(1e-45,))  # so that the network adds up infinities of both signs
    wsipipe.save_model(path, network, infinite)
    config = wsipipe.RunConfig(out=str(tmp_path / "out"), model=str(path), tissue="off", engine="torch")
    (outcome,) = wsipipe.run([slide], config).slides
    assert outcome.status == "failed"
    assert "gives values that are not finite in rows 0 to 128 and columns 0 to 212" in outcome.message
    assert "segmented; use another --engine, or another model" in outcome.message


def test_a_slide_of_other_channels_is_refused(slide: Path, tmp_path: Path) -> None:
    model = imported(write_network(tmp_path / "net.onnx", channels=2))
    with pytest.raises(ChannelError, match=r"3 channels \(RGB\), model .* takes 2 channels"):
        wsipipe.segment(slide, model)


def test_an_engine_that_is_not_installed_is_named(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = imported(write_network(tmp_path / "net.onnx"))
    gone: Callable[[str], Any] = lambda name: None if name in ("openvino", "onnxruntime") else find_spec(name)  # noqa: E731
    monkeypatch.setattr(devices, "find_spec", gone)
    with pytest.raises(MachineError, match=r"ONNX models need openvino or onnxruntime.*pip install 'wsipipe\[onnx\]'"):
        wsipipe.segment(slide, model, device="cpu")
    with pytest.raises(MachineError, match=r"--engine onnxruntime is not installed; pip install 'wsipipe\[onnx\]'"):
        wsipipe.segment(slide, model, device="cpu", engine="onnxruntime")


def test_a_file_without_a_description_says_how_to_make_a_model_of_it(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"net\.onnx is an ONNX file, but not a wsipipe model .*wsipipe model import"):
        wsipipe.segment(slide, write_network(tmp_path / "net.onnx"))


@pytest.mark.parametrize(
    "change",
    [
        {"receptive": {"stride": 0}},
        {"receptive": {"margin": 3}},
        {"receptive": {"crop": 400}},
        {"receptive": {"scale": 3}},
        {"head": {"kind": "other"}},
        {"in_channels": "3"},
        {"bytes_per_pixel": {}},
        {"bytes_per_pixel": {"openvino": -1}},
        {"bytes_per_pixel": {"openvino": float("nan")}},
        {"in_channels": 3.0},
        {"classes": 10**400},
        {"classes": True},
        {"receptive": {"halo": float("inf")}},
        {"output": None},
        {"more": 1},
    ],
    ids=str,
)
def test_a_description_that_cannot_be_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    import onnx

    path = Path(imported(write_network(tmp_path / "net.onnx")).info.path)
    model = onnx.load(path)
    (entry,) = model.metadata_props
    header = json.loads(entry.value)
    for key, value in change.items():
        header["network"][key] = header["network"][key] | value if isinstance(value, dict) and value else value
    entry.value = json.dumps(header)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="has an invalid header"):
        read_model_info(path)


def test_a_network_that_others_quantised_is_known_by_its_operators(tmp_path: Path) -> None:
    kinds: dict[str, dict[str, Any]] = {"float": {}, "int8": {"quantised": True}}
    kinds["alias"] = kinds["int8"] | {"domain": "ai.onnx"}
    for name, made in kinds.items():
        (tmp_path / name).mkdir()
        model = imported(write_network(tmp_path / name / "net.onnx", **made))
        config = config_of(model, tmp_path)
        assert (model.info.quantized, resolve(config).labels_by_engine) == (bool(made), bool(made)), name
    for precision in ("bfloat16", "float16"):
        with pytest.raises(UsageError, match=f"{precision}: model 'unnamed' is quantised, .* leave --precision out"):
            resolve(replace(config, precision=precision))


def test_the_other_name_of_the_standard_is_the_same(tmp_path: Path) -> None:
    for name, domain in {"plain": "", "alias": "ai.onnx"}.items():
        (tmp_path / name).mkdir()
        imported(write_network(tmp_path / name / "net.onnx", domain=domain))
    plain, alias = (load_model(tmp_path / name / "model.onnx") for name in ("plain", "alias"))
    assert alias.info.network == plain.info.network
    assert float_network(alias)[0].graph.node == float_network(plain)[0].graph.node


def test_a_network_in_memory_is_saved_and_runs(slide: Path, tmp_path: Path) -> None:
    from tests.importing.small_networks import PaddedUNet, evaluated

    torch.manual_seed(0)
    network = evaluated(PaddedUNet(2))
    spec = ModelSpec(named_classes(NAMES[:2]), mpp=0.5, mean=(0.5,), std=(0.25,))
    path = tmp_path / "net.pt2"
    wsipipe.save_model(path, network, spec, request=NetworkRequest(step=4))
    model = load_model(path)
    assert model.spec.name == "net"
    labels = wsipipe.segment(slide, path, block=64, tile=32, device="cpu").compute(scheduler="synchronous")
    np.testing.assert_array_equal(labels, whole_labels(model, slide, "torch"))
    with pytest.raises(UsageError, match=r"written as \.onnx or \.pt2"):
        wsipipe.save_model(tmp_path / "net.safetensors", network, spec)


@pytest.mark.parametrize("said", [{}, {"mean": (0.5,)}, {"std": (0.25,)}])
def test_how_the_input_is_normalised_is_not_guessed(tmp_path: Path, said: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(UsageError, match=r"say how the input is normalised: mean= and std= of wsipipe.ModelSpec, as"):
        wsipipe.save_model(tmp_path / "net.pt2", torch.nn.Conv2d(3, 2, 1), ModelSpec(named_classes(NAMES[:2]), **said))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [torch.nn.Conv2d(3, 2, 1), torch.nn.GroupNorm(1, 2)],
            "cannot be computed in tiles without seams: .* looks at the whole image; use a network without it; or give "
            r"request=wsipipe.NetworkRequest\(margin=PX\), and its labels",
        ),
        ([torch.nn.Conv2d(3, 4, 1)], "has an output of 4 channels for 2 classes; name one for each"),
    ],
)
def test_a_refusal_names_the_file_to_write_and_speaks_python(
    tmp_path: Path, layers: list[torch.nn.Module], message: str
) -> None:
    spec, path = ModelSpec(named_classes(NAMES[:2]), mean=(0.0,), std=(1.0,)), tmp_path / "net.pt2"
    with pytest.raises(ModelError, match=f"^model {path} {message}"):
        wsipipe.save_model(path, torch.nn.Sequential(*layers), spec)
    assert not path.exists()


def test_the_command_imports_and_shows(call: Call, tmp_path: Path) -> None:
    source, target = write_network(tmp_path / "net.onnx"), tmp_path / "my.onnx"
    words = ["model", "import", source, "-o", target, "--mpp", 0.5, "--classes", ",".join(NAMES)]
    refused = call(*words)
    assert refused.code == 2
    assert "say how the input is normalised by one of --imagenet, --mean and --std" in refused.err
    ended = call(*words, "--imagenet")
    assert ended.code == 0, ended.err
    assert "stride 4 px" in ended.out
    assert "tiles give what the whole image would" in ended.out
    shown = json.loads(call("model", "show", target).out)
    assert (shown["kind"], shown["mpp"], shown["core_multiple_px"]) == ("ONNX", 0.5, 4)
    assert shown["mean"] == [0.485, 0.456, 0.406]
    assert [(c["name"], c["label"]) for c in shown["classes"]] == [("background", 0), ("tumour", 1), ("stroma", 2)]
    assert "already exists" in call(*words, "--imagenet").err
    assert "go together" in call(*words[:4], tmp_path / "x.onnx", *words[5:], "--imagenet", "--approximate").err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--classes": "a,,b"}, "--classes must be names, each of them once (got 'a,,b')"),
        ({"--classes": "a,b,a"}, "--classes must be names, each of them once (got 'a,b,a')"),
        ({"--classes": ",".join(map(str, range(256)))}, "--classes: 256 names besides background; 255 is the most"),
        ({"--mpp": "-1"}, "has -1.0 micrometres per pixel, which is not a positive number"),
        ({"--mpp": "nan"}, "has nan micrometres per pixel, which is not a positive number"),
        ({"--mean": "0.5,0.5", "--std": "0.1"}, "2 means and 1 standard deviations for a network of"),
        ({"--scale": "0"}, "--scale must be a positive number, not 0.0"),
        ({"--scale": "nan"}, "--scale must be a positive number, not nan"),
        ({"--approximate": None, "--margin": "-5"}, "--margin must be from 0 to 8192 (got -5)"),
        ({"--approximate": None, "--margin": "9999"}, "--margin must be from 0 to 8192 (got 9999)"),
        ({"--step": "0"}, "--step must be from 1 to 1024 (got 0)"),
        ({"--channels": "0"}, "--channels must be from 1 to 65536 (got 0)"),
        ({"--min-area": "-1"}, "has a smallest object of -1.0 um2"),
        ({"-o": "net.txt"}, "give a name that ends in .onnx"),
    ],
    ids=str,
)
def test_nonsense_is_refused(options: dict[str, str | None], message: str, call: Call, tmp_path: Path) -> None:
    source = write_network(tmp_path / "net.onnx")
    usual = {"-o": "my.onnx", "--mpp": "0.5", "--classes": ",".join(NAMES)}
    usual |= {} if {"--scale", "--mean"} & options.keys() else {"--scale": "255"}
    chosen = usual | options
    chosen["-o"] = str(tmp_path / str(chosen["-o"]))
    words = [word for pair in chosen.items() for word in pair if word is not None]
    ended = call("model", "import", source, *words)
    assert (ended.code, message in ended.err) == (2, True), ended.err
    assert list(tmp_path.iterdir()) == [source]


def test_what_is_needed_later_is_looked_at_first(call: Call, tmp_path: Path) -> None:
    source = write_network(tmp_path / "net.onnx")
    words = ["--mpp", 0.5, "--classes", ",".join(NAMES), "--scale", 255]
    ended = call("model", "import", source, "-o", tmp_path / "missing" / "my.onnx", *words)
    assert ended.code == 3
    assert "missing is not a folder that can be written to" in ended.err
    assert "measuring" not in ended.err
    ended = call("model", "import", source, "-o", tmp_path / "my.onnx", *words, "--on", source)
    assert ended.code == 1
    assert "measuring" not in ended.err
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.measures_memory
def test_memory_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_model, "is_installed", lambda engine: engine == "onnxruntime")
    network = imported(write_network(tmp_path / "net.onnx")).info.network
    assert isinstance(network, ForeignNetwork)
    per_pixel = network.bytes_per_pixel["onnxruntime"]
    assert 6 * 4 <= per_pixel < 6 * 4 * 20, "six channels of float32 at the least"
    one, two = (network.tensor_bytes(1000, n, engine="onnxruntime", value_bytes=4, probabilities=False) for n in (1, 2))
    assert two == pytest.approx(2 * one)
    assert one >= 1000**2 * per_pixel


def test_classes_are_numbered_in_their_order() -> None:
    found = named_classes(["tumour", "background", "stroma"])
    assert [(c.name, c.label) for c in found] == [("tumour", 1), ("background", 0), ("stroma", 2)]


@needs_data
def test_what_smaller_margins_change_is_told_of_real_tissue(tmp_path: Path) -> None:
    model = imported(write_network(tmp_path / "net.onnx"))
    wide, *_, narrow = margin_shares(model.info.path, str(data("slides/CMU-1-Small-Region.svs")))
    assert wide.px > narrow.px >= 0
    assert wide.cost > narrow.cost >= 1
    assert 0 <= wide.share <= narrow.share < 0.5
    assert narrow.share > 0
