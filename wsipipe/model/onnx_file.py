"""Networks as ONNX files: writing them, what they declare, and what is refused.

A file is read here field by field, so that a description of a network of 2 GB costs no memory, and needs no package.
What engines compute is what `check_onnx` let through: standard operators, whose weights are inside the file.
Nothing that an engine would open, load or execute besides is possible then:

- *External data* names a file beside the model, and so could name any file of the machine.
- Operators outside the standard come from libraries that somebody has to load; ``com.microsoft``'s ``EPContext``, for
  one, is a compiled program inside the model, or in a file that it names.
- Control flow can make what the network computes, and how far it looks, depend on the pixels.

Source: `onnx.proto <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>`_ (the numbers of the fields).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from wsipipe.errors import ModelError
from wsipipe.files import appearing
from wsipipe.model.port import Port, check_one_input
from wsipipe.model.protobuf import fields, submessages, text, text_field, whole_number

METADATA_KEY = "wsipipe"
"""Where the description is among the metadata."""
MOST_BYTES = 2**31 - 1
"""The longest message of protobuf, and thus the largest file with its weights inside."""
ALIAS = "ai.onnx"
"""The other name of the domain ``""``."""
STANDARD_DOMAINS = {"", ALIAS}
"""Where operators of the standard are; those of other domains are an engine's own."""
OF_INTEGERS = {
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
}
"""Operators of the standard that only networks have that are quantised."""
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
"""Types of elements, as numpy calls them, by their number in TensorProto.DataType."""

# Numbers of the fields of each message.
MODEL_GRAPH, MODEL_IMPORTS, MODEL_METADATA, MODEL_FUNCTIONS = 7, 8, 14, 25
GRAPH_NODES, GRAPH_INITIALIZERS, GRAPH_INPUTS, GRAPH_OUTPUTS, GRAPH_SPARSE_INITIALIZERS = 1, 5, 11, 12, 15
FUNCTION_NAME, FUNCTION_NODES, FUNCTION_IMPORTS, FUNCTION_DOMAIN, FUNCTION_ATTRIBUTES = 1, 7, 9, 10, 11
NODE_NAME, NODE_OPERATOR, NODE_ATTRIBUTES, NODE_DOMAIN = 3, 4, 5, 7
ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE_TENSORS = (5, 10), (6, 11), (22, 23)
SPARSE_TENSOR_PARTS = (1, 2)
TENSOR_NAME, TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 8, 13, 14
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_ELEMENTS, TENSOR_SHAPE, SHAPE_AXES, AXIS_LENGTH = 1, 2, 1, 1, 2, 1, 1
ENTRY_KEY, ENTRY_VALUE, IMPORT_DOMAIN = 1, 2, 1
Places = Mapping[int, "Places | None"]
"""Fields of a message: in each either fields of a submessage, or, where it is None, a text."""
DOMAINS: Places = {
    MODEL_GRAPH: {GRAPH_NODES: {NODE_DOMAIN: None}},
    MODEL_IMPORTS: {IMPORT_DOMAIN: None},
    MODEL_FUNCTIONS: {
        FUNCTION_NODES: {NODE_DOMAIN: None},
        FUNCTION_IMPORTS: {IMPORT_DOMAIN: None},
        FUNCTION_DOMAIN: None,
    },
}
"""Where the domains of operators are."""


def read_onnx_metadata(path: Path) -> str | None:
    """The text under ``wsipipe`` among the metadata of the ONNX file at ``path``; None if there is none.

    Raises
    ------
    ModelError
        If the file cannot be read, or is not an ONNX file.
    """
    with _opened(path) as model:
        found = [entry for entry in submessages(model, MODEL_METADATA) if text(entry, ENTRY_KEY) == METADATA_KEY]
        return text(found[-1], ENTRY_VALUE) if found else None


def write_onnx_metadata(source: Path, target: Path, content: str) -> None:
    """Copy the ONNX file ``source`` to ``target``, with ``content`` under ``wsipipe`` among its metadata.

    All else is copied as it is. ``target`` may be ``source``; it appears whole.

    Raises
    ------
    ModelError
        If ``source`` cannot be read, or is not an ONNX file.
    OutputError
        If ``target`` cannot be written.
    """
    entry = text_field(ENTRY_KEY, METADATA_KEY.encode()) + text_field(ENTRY_VALUE, content.encode())
    with (
        _opened(source) as model,
        appearing(target, kind="model ", way_out="give another path") as partial,
        partial.open("wb") as file,
    ):
        for field in fields(model):
            entry_there = field.value if field.number == MODEL_METADATA else None
            if not isinstance(entry_there, memoryview) or text(entry_there, ENTRY_KEY) != METADATA_KEY:
                file.write(field.record)
        file.write(text_field(MODEL_METADATA, entry))


def ports(path: Path) -> tuple[list[Port], list[Port]]:
    """The inputs and the outputs that the ONNX file at ``path`` declares, once it has passed `check_onnx`.

    Raises
    ------
    ModelError
        If the file cannot be read, is not an ONNX file, or is refused.
    """
    check_onnx(path)
    with _opened(path) as model:
        weights = {text(weight, TENSOR_NAME) for weight in _in_graphs(model, GRAPH_INITIALIZERS)}
        inputs, outputs = (
            [_port(path, value) for value in _in_graphs(model, number)] for number in (GRAPH_INPUTS, GRAPH_OUTPUTS)
        )
    inputs = [port for port in inputs if port.name not in weights]  # older files list weights as inputs
    check_one_input(f"model {path}", inputs)
    return inputs, outputs


def check_onnx(path: Path) -> None:
    """Refuse an ONNX file that needs more than standard operators and the weights inside it.

    Raises
    ------
    ModelError
        If it has weights in other files, operators outside the standard, control flow, or more than 2 GB; or is not
        an ONNX file.
    """
    with _opened(path) as model:
        if len(model) > MOST_BYTES:
            raise ModelError(f"model {path} has {len(model):,} bytes; ONNX files have 2 GB at most; export it as .pt2")
        functions = list(submessages(model, MODEL_FUNCTIONS))
        known = {(text(one, FUNCTION_DOMAIN), text(one, FUNCTION_NAME)) for one in functions}
        attributes = list(chain.from_iterable(submessages(one, FUNCTION_ATTRIBUTES) for one in functions))
        for node in _nodes(model):
            _check_operator(path, node, known)
            attributes += submessages(node, NODE_ATTRIBUTES)
        for tensor in chain(_weights(model), chain.from_iterable(map(_tensors, attributes))):
            _check_inside(path, tensor)


def is_quantized(path: Path) -> bool:
    """Whether the network in the ONNX file at ``path`` computes in whole numbers, such as int8.

    Raises
    ------
    ModelError
        If the file cannot be read, or is not an ONNX file.
    """
    with _opened(path) as model:
        return any(
            text(node, NODE_OPERATOR) in OF_INTEGERS and text(node, NODE_DOMAIN) in STANDARD_DOMAINS
            for node in _nodes(model)
        )


def read_network(path: Path) -> bytes:
    """The ONNX file at ``path`` as engines take it: the standard's domain is called ``""``, not by its alias.

    OpenVINO does not know the alias.

    Raises
    ------
    ModelError
        If the file cannot be read, or is not an ONNX file.
    """
    with _opened(path) as model:
        content = bytes(model)
        return _without_alias(model, DOMAINS) if ALIAS.encode() in content else content


def is_onnx(path: Path) -> bool:
    """Whether the file at ``path`` is an ONNX file as far as its outermost fields tell, or a message much like one."""
    model = _mapped(path)
    try:
        return _has_graph(model)
    except ValueError:
        return False


def _check_operator(path: Path, node: memoryview, known: set[tuple[str, str]]) -> None:
    """Refuse an operator outside the standard that is not among the functions of the file, and control flow."""
    name, operator, domain = text(node, NODE_NAME), text(node, NODE_OPERATOR), text(node, NODE_DOMAIN)
    if domain not in STANDARD_DOMAINS and (domain, operator) not in known:
        raise ModelError(
            f"model {path}, node {name!r}: {domain}.{operator} is not an operator of the ONNX standard, and only "
            "some engines have it; export the network again, without optimising it for one engine"
        )
    if any(field.number in ATTRIBUTE_GRAPHS for one in submessages(node, NODE_ATTRIBUTES) for field in fields(one)):
        raise ModelError(
            f"model {path}, node {name!r}: {operator} chooses at run time what is computed, so that how far the "
            "network looks cannot be known; export it again from PyTorch with torch.onnx.export(..., dynamo=True), "
            "or fold what is constant with onnxsim"
        )


def _check_inside(path: Path, tensor: memoryview) -> None:
    """Refuse a tensor whose values are in another file."""
    if any(field.number == TENSOR_EXTERNAL_DATA for field in fields(tensor)) or whole_number(
        tensor, TENSOR_DATA_LOCATION
    ):
        raise ModelError(
            f"model {path}: the weights {text(tensor, TENSOR_NAME)!r} are in another file; put all into one: "
            "onnx.save(onnx.load('IN.onnx'), 'OUT.onnx') in Python"
        )


def _weights(model: memoryview) -> Iterator[memoryview]:
    """Each tensor among the initializers."""
    yield from _in_graphs(model, GRAPH_INITIALIZERS)
    for sparse in _in_graphs(model, GRAPH_SPARSE_INITIALIZERS):
        yield from _several(sparse, SPARSE_TENSOR_PARTS)


def _tensors(attribute: memoryview) -> Iterator[memoryview]:
    """Each tensor in an attribute of an operator."""
    yield from _several(attribute, ATTRIBUTE_TENSORS)
    for sparse in _several(attribute, ATTRIBUTE_SPARSE_TENSORS):
        yield from _several(sparse, SPARSE_TENSOR_PARTS)


def _several(message: memoryview, numbers: tuple[int, ...]) -> Iterator[memoryview]:
    """The submessages of ``message`` in the fields ``numbers``."""
    return chain.from_iterable(submessages(message, number) for number in numbers)


def _in_graphs(model: memoryview, number: int) -> Iterator[memoryview]:
    """The submessages in field ``number`` of the graph; protobuf joins graphs where there are several."""
    return chain.from_iterable(submessages(graph, number) for graph in submessages(model, MODEL_GRAPH))


def _nodes(model: memoryview) -> Iterator[memoryview]:
    """Each node of the graph and of the functions of the file."""
    yield from _in_graphs(model, GRAPH_NODES)
    for function in submessages(model, MODEL_FUNCTIONS):
        yield from submessages(function, FUNCTION_NODES)


def _without_alias(message: memoryview, domains: Places) -> bytes:
    """``message``, with an empty text wherever ``domains`` name the standard by its alias."""
    parts: list[bytes | memoryview] = []
    for field in fields(message):
        if field.number not in domains or not isinstance(field.value, memoryview):
            parts.append(field.record)
        elif (within := domains[field.number]) is not None:
            parts.append(text_field(field.number, _without_alias(field.value, within)))
        else:
            parts.append(text_field(field.number, b"") if field.value == ALIAS.encode() else field.record)
    return b"".join(parts)


def _port(path: Path, value: memoryview) -> Port:
    """What a ValueInfoProto declares."""
    name = text(value, VALUE_NAME)
    for kind in submessages(value, VALUE_TYPE):
        for tensor in submessages(kind, TYPE_TENSOR):
            dtype = whole_number(tensor, TENSOR_ELEMENTS)
            if dtype not in DTYPES:
                raise ModelError(f"model {path}: {name!r} has elements of type {dtype}, which are not numbers")
            axes = chain.from_iterable(submessages(shape, SHAPE_AXES) for shape in submessages(tensor, TENSOR_SHAPE))
            lengths = (whole_number(axis, AXIS_LENGTH) for axis in axes)
            return Port(name, DTYPES[dtype], tuple(length if length and length < 2**31 else None for length in lengths))
    raise ModelError(f"model {path}: {name!r} is not declared as a tensor; networks take and give one tensor each")


@contextmanager
def _opened(path: Path) -> Iterator[memoryview]:
    """The bytes of the ONNX file at ``path``; a ModelError if they are none of an ONNX file."""
    model = _mapped(path)
    try:
        if not _has_graph(model):
            raise ValueError("it has no graph")
        yield model
    except ModelError:
        raise
    except ValueError as err:
        raise ModelError(f"model {path} is truncated or not an ONNX file ({err}); copy it again") from err


def _has_graph(model: memoryview) -> bool:
    """Whether ``model``, read to its end, has a graph."""
    return len(list(submessages(model, MODEL_GRAPH))) > 0


def _mapped(path: Path) -> memoryview:
    """The bytes of the file at ``path``, read from it where they are looked at."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as err:
        raise ModelError(f"model {path} cannot be read: {err.strerror or err}") from err
    return memoryview(mapped)
