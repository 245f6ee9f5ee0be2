"""ONNX files: what is written, what is read, and what is refused."""

from __future__ import annotations

import logging
import random
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from wsipipe.errors import ModelError
from wsipipe.model.exporting import INPUT_NAME, export_free, output_names_of
from wsipipe.model.onnx_export import export_onnx
from wsipipe.model.onnx_file import (
    GRAPH_NODES,
    MODEL_GRAPH,
    NODE_DOMAIN,
    check_onnx,
    is_quantized,
    ports,
    read_network,
    read_onnx_metadata,
    write_onnx_metadata,
)
from wsipipe.model.port import Port
from wsipipe.model.protobuf import text_field

onnx = pytest.importorskip("onnx", reason="needs the package onnx, in the extra of that name")
pytest.importorskip("onnxscript", reason="needs the package onnxscript, in the extra onnx")
TensorProto, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper

MUTANTS = 60


class Small(nn.Module):
    """A skip, sizes that are asked for, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.heads = nn.ModuleList([nn.Conv2d(4, 2, 1), nn.Conv2d(4, 1, 3)])

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = self.conv(images)
        coarse = nn.functional.interpolate(nn.functional.max_pool2d(fine, 2), size=fine.shape[2:], mode="nearest")
        return {"classes": self.heads[0](fine + coarse), "distance": self.heads[1](coarse)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Small, Path]:
    """A network, and its file, which is written in silence: torch's exporter warns that torchvision is missing."""
    torch.manual_seed(3)
    network, path = Small().eval(), tmp_path_factory.mktemp("onnx") / "small.onnx"
    said = QueueHandler(SimpleQueue())
    logging.getLogger("torch.onnx").addHandler(said)
    export_onnx(network, path, channels=3, side=16, step=8)
    logging.getLogger("torch.onnx").removeHandler(said)
    assert said.queue.empty()
    return network, path


def graph_of(*nodes: Any, initializers: list[Any] | None = None, inputs: list[Any] | None = None) -> Any:
    """A model of ``nodes``, which make ``y`` of ``x``."""
    values = inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, None, None])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(list(nodes), "graph", values, outputs, initializers or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("other", 1)])


def weights(name: str = "w") -> Any:
    return numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), name)


def external(name: str = "w") -> Any:
    """Weights that are in another file."""
    tensor = weights(name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def written(path: Path, model: Any) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


ADD = helper.make_node("Add", ["x", "w"], ["y"], name="sum")


def test_an_exported_network_gives_what_torch_gives_at_any_size(exported: tuple[Small, Path]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime, in the extra onnx")
    network, path = exported
    images = torch.rand(3, 3, 32, 40)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(images)
    for name, given in zip(expected, session.run(list(expected), {"image": images.numpy()}), strict=True):
        np.testing.assert_allclose(given, expected[name].numpy(), atol=1e-6)


def test_ports_have_the_names_that_the_network_gives(exported: tuple[Small, Path]) -> None:
    assert ports(exported[1]) == (
        [Port("image", "float32", (None, 3, None, None))],
        [Port("classes", "float32", (None, 2, None, None)), Port("distance", "float32", (None, 1, None, None))],
    )


def test_an_exported_file_is_valid_and_one_and_names_none_of_this_machine(exported: tuple[Small, Path]) -> None:
    check_onnx(exported[1])
    assert Path(__file__).name.encode() not in exported[1].read_bytes()
    onnx.checker.check_model(onnx.load(exported[1]), full_check=True)
    assert [path.name for path in exported[1].parent.iterdir()] == ["small.onnx"]


def test_metadata_come_back_and_all_else_stays(exported: tuple[Small, Path], tmp_path: Path) -> None:
    model = onnx.load(exported[1])
    model.metadata_props.add(key="author", value="somebody")
    path = written(tmp_path / "net.onnx", model)
    assert read_onnx_metadata(path) is None
    write_onnx_metadata(path, path, "first")
    write_onnx_metadata(path, path, '{"name": "Drüse"}')
    assert read_onnx_metadata(path) == '{"name": "Drüse"}'
    model.metadata_props.add(key="wsipipe", value='{"name": "Drüse"}')
    assert onnx.load(path) == model


def test_a_network_that_asks_for_values_of_sides_is_refused(tmp_path: Path) -> None:
    class Asks(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images + 1 if images.shape[2] == 64 else images

    with pytest.raises(ModelError, match=r"multiples of 32 px: .*; a larger multiple may do"):
        export_onnx(Asks(), tmp_path / "net.onnx", channels=3, side=64, step=32)
    assert list(tmp_path.iterdir()) == []


def test_weights_in_other_files_are_refused_wherever_they_are(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["w"], value=external())
    sparse = helper.make_node(
        "Constant", [], ["w"], sparse_value=helper.make_sparse_tensor(external(), weights("indices"), [1, 3, 1, 1])
    )
    function = helper.make_function("local", "Two", ["x"], ["y"], [constant, ADD], [helper.make_opsetid("", 20)])
    with_function = graph_of(helper.make_node("Two", ["x"], ["y"], domain="local"))
    with_function.functions.append(function)
    unlabelled = external()
    unlabelled.ClearField("data_location")
    for model in (
        graph_of(ADD, initializers=[external()]),
        graph_of(ADD, initializers=[unlabelled]),
        graph_of(constant, ADD),
        graph_of(sparse, ADD),
        with_function,
    ):
        with pytest.raises(ModelError, match=r"weights 'w' are in another file; put all into one"):
            check_onnx(written(tmp_path / "net.onnx", model))


def test_what_the_message_says_puts_all_weights_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    large = numpy_helper.from_array(np.ones((1000, 3, 1, 1), np.float32), "w")
    onnx.save(graph_of(ADD, initializers=[large]), path, save_as_external_data=True, size_threshold=0)
    with pytest.raises(ModelError, match="in another file"):
        check_onnx(path)
    onnx.save(onnx.load(path), tmp_path / "one.onnx")
    check_onnx(tmp_path / "one.onnx")


def test_operators_of_one_engine_are_refused_by_name(tmp_path: Path) -> None:
    for domain, operator in (("com.microsoft", "EPContext"), ("other", "Add")):
        model = graph_of(helper.make_node(operator, ["x"], ["y"], domain=domain, name="odd"))
        with pytest.raises(
            ModelError, match=f"node 'odd': {domain}.{operator} is not an operator of the ONNX standard"
        ):
            check_onnx(written(tmp_path / "net.onnx", model))


def test_functions_of_the_file_itself_are_allowed(tmp_path: Path) -> None:
    model = graph_of(helper.make_node("Two", ["x"], ["y"], domain="local"))
    twice = helper.make_node("Add", ["x", "x"], ["y"])
    model.functions.append(helper.make_function("local", "Two", ["x"], ["y"], [twice], [helper.make_opsetid("", 20)]))
    check_onnx(written(tmp_path / "net.onnx", model))


def test_the_standard_has_one_name_in_what_engines_are_given(tmp_path: Path) -> None:
    def calls(standard: str, other: str) -> Any:
        """A graph with an operator of ``standard`` and a function of ``other``, which has one of ``standard``, too."""
        twice = helper.make_node("Add", ["x", "x"], ["y"], domain=standard)
        function = helper.make_function(other, "Two", ["x"], ["y"], [twice], [helper.make_opsetid(standard, 20)])
        model = graph_of(
            helper.make_node("Neg", ["x"], ["z"], domain=standard), helper.make_node("Two", ["z"], ["y"], domain=other)
        )
        model.opset_import[0].domain = standard
        model.functions.append(function)
        return model

    for other in ("local", "ai.onnx.ml"):
        path = written(tmp_path / "net.onnx", calls("ai.onnx", other))
        assert onnx.load_from_string(read_network(path)) == onnx.load_from_string(calls("", other).SerializeToString())
    plain = written(tmp_path / "net.onnx", calls("", "local"))
    assert read_network(plain) == plain.read_bytes()


def test_an_alias_hides_no_operator_of_an_engine(tmp_path: Path) -> None:
    """Of a text that a message has twice, the last counts."""
    odd = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft").SerializeToString()
    twice = odd + text_field(NODE_DOMAIN, b"ai.onnx")
    graph = text_field(GRAPH_NODES, twice)
    path = tmp_path / "net.onnx"
    path.write_bytes(text_field(MODEL_GRAPH, graph))
    (node,) = onnx.load_from_string(read_network(path)).graph.node
    assert (node.op_type, node.domain) == ("EPContext", "")


def test_operators_of_integers_tell_a_quantised_network(tmp_path: Path) -> None:
    for operator, domain, expected in [
        ("QLinearConv", "", True),
        ("DequantizeLinear", "ai.onnx", True),
        ("MatMulInteger", "", True),
        ("Conv", "", False),
        ("QLinearConv", "local", False),
    ]:
        node = helper.make_node(operator, ["x"], ["y"], domain=domain)
        assert is_quantized(written(tmp_path / "net.onnx", graph_of(node))) == expected
    within = graph_of(helper.make_node("Two", ["x"], ["y"], domain="local"))
    node = helper.make_node("QuantizeLinear", ["x", "x"], ["y"])
    within.functions.append(helper.make_function("local", "Two", ["x"], ["y"], [node], [helper.make_opsetid("", 20)]))
    assert is_quantized(written(tmp_path / "net.onnx", within))


def test_control_flow_is_refused(tmp_path: Path) -> None:
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "branch", [], [])
    chosen = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch, else_branch=branch)
    with pytest.raises(ModelError, match="node 'choice': If chooses at run time"):
        check_onnx(written(tmp_path / "net.onnx", graph_of(chosen)))


def test_inputs_that_are_weights_are_none_and_several_are_refused(tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 3, -1, 512])
    other = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 3, 1, 1])
    listed = written(tmp_path / "listed.onnx", graph_of(ADD, initializers=[weights()], inputs=[image, other]))
    assert ports(listed)[0] == [Port("x", "uint8", (None, 3, None, 512))]
    with pytest.raises(ModelError, match=r"has 2 inputs \(x uint8 \(\*, 3, \*, 512\); w float32 \(1, 3, 1, 1\)\)"):
        ports(written(tmp_path / "two.onnx", graph_of(ADD, inputs=[image, other])))


def test_a_damaged_file_is_refused(exported: tuple[Small, Path], tmp_path: Path) -> None:
    content, path = exported[1].read_bytes(), tmp_path / "net.onnx"
    for wrong in (b"", b"\x00", b"hello, world", content[: len(content) // 2], content[:-1], content + b"\x0b"):
        path.write_bytes(wrong)
        for read in (check_onnx, ports, read_onnx_metadata, lambda path: write_onnx_metadata(path, path, "x")):
            with pytest.raises(ModelError, match=r"net\.onnx is truncated or not an ONNX file"):
                read(path)
        assert path.read_bytes() == wrong
    with pytest.raises(ModelError, match="cannot be read"):
        ports(tmp_path / "missing.onnx")


def test_a_mutant_is_read_or_refused(exported: tuple[Small, Path], tmp_path: Path) -> None:
    content, path, chance = exported[1].read_bytes(), tmp_path / "net.onnx", random.Random(5)
    refused = 0
    for _ in range(MUTANTS):
        mutant = bytearray(content)
        mutant[chance.randrange(len(mutant))] = chance.randrange(256)
        path.write_bytes(mutant)
        try:
            ports(path)
        except ModelError:
            refused += 1
    assert 0 < refused < MUTANTS


def test_no_output_has_the_name_of_a_weight_or_of_the_input() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classes = nn.Parameter(torch.ones(1))

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"classes": images * self.classes, INPUT_NAME: images + 1, "more": images + 2}

    program = export_free(Named().eval(), channels=3, side=8, step=8)
    assert output_names_of(program) == ["classes_output", f"{INPUT_NAME}_output", "more"]
