"""`.pt2` files: what is written, what is read, and that nothing of a file is executed."""

from __future__ import annotations

import io
import json
import pickle
import random
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from wsipipe.errors import GeometryError, ModelError, OutputError
from wsipipe.model.port import Port
from wsipipe.model.pt2_file import export_pt2, load_pt2, ports, read_pt2_metadata, write_pt2_metadata

JSON = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"
MUTANTS = 30
Edit = Callable[[Any], object]


class Small(nn.Module):
    """Pooling, a skip, sizes that are asked for, a list of tensors, work in place, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout())
        self.heads = nn.ModuleList([nn.Conv2d(4, 2, 1), nn.Conv2d(4, 1, 3)])
        self.register_buffer("offset", torch.tensor(0.5), persistent=False)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = self.conv(images - self.offset)
        coarse = nn.functional.interpolate(nn.functional.max_pool2d(fine, 2), size=fine.shape[2:], mode="bilinear")
        first, second = (fine + coarse).split(2, 1)
        joined = torch.cat([second, first], 1) + torch.arange(fine.shape[3], device=fine.device)
        return {"classes": self.heads[0](joined), "distance": self.heads[1](joined)}


def small() -> Small:
    torch.manual_seed(3)
    return Small().eval()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good file."""
    path = tmp_path_factory.mktemp("pt2") / "sound.pt2"
    export_pt2(small(), path, channels=3, side=16, step=8)
    return path


@pytest.fixture
def tampered(sound: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the good file with JSON edited (``edit_name=function``) or files replaced (a dict)."""

    def write(edits: dict[str, Edit] | None = None, files: dict[str, bytes] | None = None) -> Path:
        target = tmp_path / "tampered.pt2"
        with zipfile.ZipFile(sound) as archive, zipfile.ZipFile(target, "w") as copy:
            folder = archive.namelist()[0].partition("/")[0]
            content = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()} | (files or {})
            for name, edit in (edits or {}).items():
                parsed = json.loads(content[name])
                edit(parsed)
                content[name] = json.dumps(parsed).encode()
            for name, blob in content.items():
                copy.writestr(f"{folder}/{name}", blob)
        return target

    return write


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def pickled(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save((Bomb(marker),), buffer)
    return buffer.getvalue()


def test_a_network_is_loaded_to_the_last_bit_at_any_size(sound: Path) -> None:
    loaded, images = load_pt2(sound), torch.rand(3, 3, 32, 40)
    with torch.no_grad():
        expected, given = small()(images), loaded(images)
    assert [torch.equal(one, other) for one, other in zip(expected.values(), given, strict=True)] == [True, True]
    assert not loaded.training
    assert not any(weight.requires_grad for weight in loaded.state_dict().values())


def test_sides_that_it_was_not_exported_for_are_refused(sound: Path) -> None:
    loaded = load_pt2(sound)
    for shape in ((1, 3, 32, 36), (1, 4, 32, 32), (3, 32, 32)):
        with pytest.raises(GeometryError, match=r"of shape .*; allowed: \(any, 3, 8 n from 16, 8 n from 16\)"):
            loaded(torch.zeros(shape))


def test_ports_have_the_names_that_the_network_gives(sound: Path) -> None:
    assert ports(sound) == (
        [Port("images", "float32", (None, 3, None, None))],
        [Port("classes", "float32", (None, 2, None, None)), Port("distance", "float32", (None, 1, None, None))],
    )


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11, about its own reader
def test_metadata_come_back_and_torch_opens_the_file(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.pt2"
    assert read_pt2_metadata(sound) is None
    write_pt2_metadata(sound, path, "first")
    write_pt2_metadata(path, path, '{"name": "Drüse"}')
    assert read_pt2_metadata(path) == '{"name": "Drüse"}'
    extra = {"wsipipe": ""}
    program, images = torch.export.load(path, extra_files=extra), torch.rand(2, 3, 24, 16)
    assert extra["wsipipe"] == '{"name": "Drüse"}'
    with torch.no_grad():
        assert torch.equal(program.module()(images)["classes"], load_pt2(path)(images)[0])


def test_what_is_written_holds_no_pickle(sound: Path) -> None:
    with zipfile.ZipFile(sound) as archive:
        assert [name for name in archive.namelist() if archive.read(name).startswith(b"\x80")] == []
        assert [archive.read(name) for name in archive.namelist() if "sample_inputs" in name] == [b""]


def test_what_is_written_names_no_file_of_this_machine_and_is_the_same_each_time(sound: Path, tmp_path: Path) -> None:
    assert Path(__file__).name.encode() not in sound.read_bytes()
    export_pt2(small(), tmp_path / "again.pt2", channels=3, side=16, step=8)
    assert (tmp_path / "again.pt2").read_bytes() == sound.read_bytes()


def test_operators_know_the_modules_that_they_are_in(sound: Path) -> None:
    graph = load_pt2(sound).graph.graph
    convolutions = graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
    assert [list(node.meta["nn_module_stack"].values())[-1] for node in convolutions] == [
        (path, "torch.nn.modules.conv.Conv2d") for path in ("conv.0", "heads.0", "heads.1")
    ]


def test_the_network_that_is_exported_stays_as_it_is(tmp_path: Path) -> None:
    network = nn.Conv2d(1, 2, 3).double().train()
    export_pt2(network, tmp_path / "net.pt2", channels=1, side=8, step=1)
    assert network.training
    assert network.weight.dtype == torch.float64
    with torch.no_grad():
        given = load_pt2(tmp_path / "net.pt2")(torch.ones(1, 1, 9, 8))
    assert given.shape == (1, 2, 7, 6)


def test_a_network_that_asks_for_values_of_sides_is_refused(tmp_path: Path) -> None:
    class Asks(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images + 1 if images.shape[2] == 64 else images

    with pytest.raises(ModelError, match=r"multiples of 32 px: .*; a larger multiple may do"):
        export_pt2(Asks(), tmp_path / "net.pt2", channels=3, side=64, step=32)
    assert list(tmp_path.iterdir()) == []


# What torch.export.load would execute


def test_pickled_sample_inputs_are_not_unpickled(tampered: Callable[..., Path], tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = tampered(files={SAMPLES: pickled(marker)})
    load_pt2(path)
    write_pt2_metadata(path, path, "kept out")
    assert not marker.exists()
    torch.load(io.BytesIO(pickled(marker)), weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize(("config", "folder"), [(WEIGHTS, "weights"), (CONSTANTS, "constants")])
def test_pickled_tensors_are_refused(tampered: Callable[..., Path], tmp_path: Path, config: str, folder: str) -> None:
    marker = tmp_path / "executed"

    def edit(content: Any) -> None:
        payload = next(iter(content["config"].values()))
        payload.update(use_pickle=True, path_name="bomb")

    path = tampered({config: edit}, {f"data/{folder}/bomb": pickled(marker)})
    with pytest.raises(ModelError, match="pickled, and unpickling executes code"):
        load_pt2(path)
    assert not marker.exists()


def test_weights_of_older_files_are_not_unpickled(tampered: Callable[..., Path], tmp_path: Path) -> None:
    path = tampered(files={"data/weights/model.pt": pickled(tmp_path / "executed")})
    load_pt2(path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "old.pt2", "w") as copy:
        for name in archive.namelist():
            if not name.endswith(WEIGHTS):
                copy.writestr(name, archive.read(name))
    with pytest.raises(ModelError, match="its weights are pickled, as older torch did"):
        load_pt2(tmp_path / "old.pt2")
    assert not (tmp_path / "executed").exists()


def test_opaque_objects_are_refused(tampered: Callable[..., Path], tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    def edit(content: Any) -> None:
        content["config"]["object"] = {"path_name": "opaque_obj_0", "use_pickle": False, "tensor_meta": None}

    path = tampered({CONSTANTS: edit}, {"data/constants/opaque_obj_0": pickle.dumps(Bomb(marker))})
    with pytest.raises(ModelError, match="pickled"):
        load_pt2(path)
    assert not marker.exists()


def image_size(content: Any) -> Any:
    return content["graph_module"]["graph"]["tensor_values"]["images"]["sizes"][2]["as_expr"]


def test_sizes_are_not_evaluated(tampered: Callable[..., Path], tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    for code in (
        f"__import__('pathlib').Path({str(marker)!r}).touch()",
        "Mul(Integer(8), Integer(8).__class__)",
        "f'{0}'",
    ):
        with pytest.raises(ModelError, match="not a multiple of one number"):
            load_pt2(tampered({JSON: lambda content, code=code: image_size(content).update(expr_str=code)}))

    def edit(content: Any) -> None:
        for size in content["graph_module"]["graph"]["sym_int_values"].values():
            size["as_expr"]["expr_str"] = f"__import__('pathlib').Path({str(marker)!r}).touch()"
        content["guards_code"] = [f"__import__('pathlib').Path({str(marker)!r}).touch()"]

    path = tampered({JSON: edit})
    load_pt2(path)(torch.zeros(1, 3, 16, 16))  # nobody reads these
    assert not marker.exists()
    with suppress(Exception):
        torch.export.load(path)
    assert marker.exists()


def test_sides_in_steps_of_nothing_are_refused(tampered: Callable[..., Path]) -> None:
    def edit(content: Any) -> None:
        size = image_size(content)
        size["expr_str"] = size["expr_str"].replace("Integer(8)", "Integer(0)")

    with pytest.raises(ModelError, match="a side is a multiple of 0 px"):
        load_pt2(tampered({JSON: edit}))


def test_texts_do_not_become_code(tampered: Callable[..., Path], tmp_path: Path) -> None:
    code = f"x'\"\n    __import__('pathlib').Path({str(tmp_path / 'executed')!r}).touch()\n    y"

    def edit(content: Any) -> None:
        graph = content["graph_module"]["graph"]
        for node in graph["nodes"]:
            node.update(name=code, metadata={"stack_trace": code, "nn_module_stack": f"{code},{code},{code}"})
        convolution = next(node for node in graph["nodes"] if node["target"] == "torch.ops.aten.conv2d.default")
        convolution["inputs"].append({"name": "padding", "arg": {"as_string": code}, "kind": 1})
        renamed = json.dumps(graph).replace('"relu_"', json.dumps(code))
        assert renamed.count("executed") > json.dumps(graph).count("executed")
        content["graph_module"]["graph"] = json.loads(renamed)

    network = load_pt2(tampered({JSON: edit}))
    with pytest.raises(RuntimeError, match="padding"):
        network(torch.zeros(1, 3, 16, 16))
    assert not (tmp_path / "executed").exists()


def test_modules_that_output_structures_name_are_not_imported(tampered: Callable[..., Path]) -> None:
    def edit(content: Any) -> None:
        signature = content["graph_module"]["module_call_graph"][0]["signature"]
        spec = json.loads(signature["out_spec"])
        spec[1]["context"] = json.dumps([{"__enum__": True, "fqn": "antigravity:x", "name": "y"}, "distance"])
        signature["out_spec"] = json.dumps(spec)

    ports(tampered({JSON: edit}))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub.load",
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.aten.save.default",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.empty.out",
        "torch.ops.aten.as_strided.default",
        "torch.ops.aten.add.__class__",
        "torch.ops.higher_order.cond",
        "torch.ops.prims.convert_element_type.default",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "math.__loader__.load_module",
        "builtins.eval",
        "#extension:x",
    ],
)
def test_other_functions_are_refused_by_name(tampered: Callable[..., Path], target: str) -> None:
    def edit(content: Any) -> None:
        content["graph_module"]["graph"]["nodes"][0]["target"] = target

    with pytest.raises(ModelError, match="not among the operators that are loaded"):
        load_pt2(tampered({JSON: edit}))


# What is damaged, or of another kind


def test_a_network_that_was_exported_for_training_is_refused(tmp_path: Path) -> None:
    for network in (nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout()), nn.BatchNorm2d(1)):
        torch.export.save(torch.export.export(network.train(), (torch.zeros(1, 1, 8, 8),)), tmp_path / "net.pt2")
        with pytest.raises(ModelError, match=r"export it after network.eval\(\)"):
            load_pt2(tmp_path / "net.pt2")


def test_several_inputs_are_refused(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return one + other

    torch.export.save(torch.export.export(Two(), (torch.zeros(1), torch.zeros(1))), tmp_path / "net.pt2")
    for read in (load_pt2, ports):
        with pytest.raises(ModelError, match="has 2 inputs"):
            read(tmp_path / "net.pt2")


def test_weights_beyond_their_bytes_are_refused(tampered: Callable[..., Path]) -> None:
    def edit(content: Any) -> None:
        next(iter(content["config"].values()))["tensor_meta"]["sizes"][0]["as_int"] = 10**6

    with pytest.raises(ModelError, match="truncated or not"):
        load_pt2(tampered({WEIGHTS: edit}))


def test_files_that_overlap_are_refused(sound: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(sound) as archive, zipfile.ZipFile(tmp_path / "net.pt2", "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name))
        largest = max(copy.infolist(), key=lambda info: info.file_size)
        copy.filelist += [largest] * 50
    with pytest.raises(ModelError, match="its files overlap"):
        load_pt2(tmp_path / "net.pt2")


def test_compressed_files_are_refused(sound: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(sound) as archive, zipfile.ZipFile(tmp_path / "net.pt2", "w", zipfile.ZIP_DEFLATED) as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name))
    with pytest.raises(ModelError, match="compressed"):
        load_pt2(tmp_path / "net.pt2")


def places(node: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in some JSON."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    return [place for key in keys for place in [(node, key), *places(node[key])]]


@pytest.mark.parametrize("name", [JSON, WEIGHTS])
def test_a_mutant_is_loaded_or_refused(tampered: Callable[..., Path], name: str) -> None:
    chance = random.Random(5)
    refused = 0
    for _ in range(MUTANTS):

        def edit(content: Any) -> None:
            container, key = chance.choice(places(content))
            container[key] = chance.choice([None, [], {}, "", "x", -1, 2**70, 0.5, True, [[[]]], {"as_int": "1"}])

        try:
            load_pt2(tampered({name: edit}))
        except ModelError:
            refused += 1
    assert 0 < refused < MUTANTS


def test_a_truncated_file_is_refused(sound: Path, tmp_path: Path) -> None:
    content, path = sound.read_bytes(), tmp_path / "net.pt2"
    for length in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        for read in (load_pt2, ports, read_pt2_metadata):
            with pytest.raises(ModelError, match=r"net\.pt2"):
                read(path)
    with pytest.raises(ModelError, match="cannot be read"):
        load_pt2(tmp_path / "missing.pt2")


def test_a_target_that_cannot_be_written_is_what_the_error_names(sound: Path, tmp_path: Path) -> None:
    target = tmp_path / "missing" / "net.pt2"
    with pytest.raises(OutputError, match=r"missing/net\.pt2 cannot be written: No such file"):
        write_pt2_metadata(sound, target, "{}")
