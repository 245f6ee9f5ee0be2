"""A network made from the JSON of a ``.pt2`` file, out of a fixed set of operators and nothing else.

What the JSON can do here is to choose among the operators of `wsipipe.model.pt2_operators`, and to wire them. No text
of it is evaluated, imported, or becomes a name in Python: sizes come from the tensors themselves, as the graph asks for
them by ``sym_size``, and expressions are parsed (`Side`) for the sides that the network takes.

Source: ``torch/_export/serde/schema.py`` of torch 2.13.
"""

from __future__ import annotations

import ast
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from wsipipe.errors import GeometryError, ModelError
from wsipipe.model.exporting import output_names
from wsipipe.model.port import Port, check_one_input
from wsipipe.model.pt2_operators import ASSERTIONS, resolve

DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""Types of elements, by their number in ``ScalarType``."""
MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
STRIDED = 7
"""The one ``Layout`` that is loaded."""
LONGEST_EXPRESSION = 300
"""Characters of a side's expression; Python's parser takes what is nested much deeper for an attack on its stack."""

TRAINING_FLAGS = {"training", "train"}
"""Arguments by which batch normalisation and dropout know that they are being trained."""


@dataclass(frozen=True)
class Side:
    """The lengths that an axis of the input may have: ``factor * n + offset``, n from ``lowest`` to ``highest``."""

    factor: int
    offset: int
    symbol: str
    """The name of n; axes that share it are of one n."""
    lowest: int = 0
    highest: int | None = None

    def count(self, length: int) -> int | None:
        """The n of ``length``, None if there is none."""
        n, rest = divmod(length - self.offset, self.factor)
        return None if rest or n < self.lowest or (self.highest is not None and n > self.highest) else n

    def __str__(self) -> str:
        """As people read it: ``32 n + 4 from 68``, or ``any`` for all that there are."""
        n = "n" if self.factor == 1 else f"{self.factor} n"
        lengths = f"{n} + {self.offset}" if self.offset else n
        first = self.factor * self.lowest + self.offset
        up_to = "" if self.highest is None else f" to {self.factor * self.highest + self.offset}"
        return "any" if (lengths, first, up_to) == ("n", 0, "") else f"{lengths} from {first}{up_to}"


class ExportedNetwork(nn.Module):
    """A network out of a file, which takes the sizes that the file allows."""

    def __init__(self, graph: fx.GraphModule, axes: tuple[Side | int, ...]) -> None:
        super().__init__()
        self.graph = graph
        self.axes = axes

    def forward(self, images: torch.Tensor) -> Any:
        """The outputs for ``images`` (n, channel, y, x) of the dtype of the file's input: a tensor, or several.

        Raises
        ------
        GeometryError
            If ``images`` is of a shape that the network was not exported for.
        """
        if not self._takes(images.shape):
            allowed = ", ".join(map(str, self.axes))
            raise GeometryError(
                f"the network does not take images of shape {tuple(images.shape)}; allowed: ({allowed})"
            )
        return self.graph(images)

    def _takes(self, shape: torch.Size) -> bool:
        """Whether each axis has a length that it may have, and axes of one symbol have the same."""
        if len(shape) != len(self.axes):
            return False
        counts: dict[str, int] = {}
        for length, axis in zip(shape, self.axes, strict=True):
            if isinstance(axis, int):
                if length != axis:
                    return False
                continue
            n = axis.count(length)
            if n is None or counts.setdefault(axis.symbol, n) != n:
                return False
        return True


def build_network(program: dict[str, Any], tensors: dict[str, torch.Tensor], *, what: str) -> ExportedNetwork:
    """The network that ``program`` describes, with weights and constants ``tensors`` (...) of any dtype by name.

    Raises
    ------
    ModelError
        If it is not one that takes images and gives tensors, or uses an operator that is not loaded; the message
        begins with ``what``.
    KeyError, TypeError, ValueError, RuntimeError
        And the like, if ``program`` has another structure.
    """
    return _Builder(tensors, what).network(program)


class _Builder:
    """A graph of `torch.fx`, made node by node; no name of the file becomes one of the graph."""

    def __init__(self, tensors: dict[str, torch.Tensor], what: str) -> None:
        self.tensors = tensors
        self.what = what
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.image = self.graph.placeholder("image")
        self.device = self.graph.call_function(getattr, (self.image, "device"))
        self.values: dict[str, fx.Node] = {}

    def network(self, program: dict[str, Any]) -> ExportedNetwork:
        """The whole of it."""
        signature, graph = program["graph_module"]["signature"], program["graph_module"]["graph"]
        check_one_input(self.what, read_ports(program)[0])
        (image,) = [name for spec in signature["input_specs"] if (name := self._add_input(spec))]
        for node in graph["nodes"]:
            self._add_call(node)
        if any("user_output" not in spec for spec in signature["output_specs"]):
            raise ModelError(f"{self.what} changes its own weights as it runs; export it after network.eval()")
        outputs = [self.values[_name(spec["user_output"]["arg"])] for spec in signature["output_specs"]]
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        if not self.device.users:
            self.graph.erase_node(self.device)
        axes = tuple(_axis(length, program["range_constraints"]) for length in graph["tensor_values"][image]["sizes"])
        return ExportedNetwork(fx.GraphModule(self.root, self.graph), axes)

    def _add_input(self, spec: dict[str, Any]) -> str | None:
        """Bind what the graph takes: a weight, or the image, whose name is returned."""
        ((kind, content),) = spec.items()
        if kind == "user_input":
            name = _name(content["arg"])
            self.values[name] = self.image
            return name
        named_by = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
        if kind not in named_by:
            raise ModelError(f"{self.what} takes a {kind}, which can hold code; export a network of plain tensors")
        attribute = f"weight_{len(self.values)}"
        self.root.register_buffer(attribute, self.tensors[content[named_by[kind]]])
        self.values[content["arg"]["name"]] = self.graph.get_attr(attribute)
        return None

    def _add_call(self, node: dict[str, Any]) -> None:
        """Add one node of the file, unless it computes nothing."""
        target = node["target"]
        if target.rpartition(".")[0].removeprefix("torch.ops.aten.") in ASSERTIONS:
            return
        function = resolve(target)
        if function is None:
            raise ModelError(
                f"{self.what} uses {target}, which is not among the operators that are loaded from a .pt2 file; "
                "export the network as ONNX"
            )
        if isinstance(function, torch._ops.OpOverload):
            args, kwargs = self._by_schema(function, {given["name"]: given["arg"] for given in node["inputs"]})
        else:
            args, kwargs = tuple(self._argument(given["arg"]) for given in node["inputs"]), {}
        called = self.graph.call_function(function, args, kwargs)
        called.meta["nn_module_stack"] = _modules(node["metadata"])
        self._bind(called, node["outputs"])

    def _by_schema(
        self, function: torch._ops.OpOverload, given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of ``function``: by place up to the first that is left out, and by name from there on."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_place = True
        for declared in function._schema.arguments:
            by_place = by_place and declared.name in given and not declared.kwarg_only
            if declared.name not in given:
                continue
            value = self._argument(given.pop(declared.name))
            if declared.name in TRAINING_FLAGS and value:
                raise ModelError(f"{self.what} was exported for training; export it after network.eval()")
            if by_place:
                args.append(value)
            else:
                kwargs[declared.name] = value
        if given:
            raise ValueError(f"{function} has no arguments {sorted(given)}")
        return tuple(args), kwargs

    def _argument(self, argument: dict[str, Any]) -> Any:
        """The value of an argument: a node of the graph, a number, a choice, or a list of them."""
        ((kind, value),) = argument.items()
        match kind:
            case "as_none":
                return None
            case "as_int" | "as_bool" | "as_float":
                return _number(value)
            case "as_string":
                return str(value)
            case "as_ints" | "as_bools" | "as_floats":
                return [_number(one) for one in value]
            case "as_tensor":
                return self.values[value["name"]]
            case "as_tensors":
                return [self.values[one["name"]] for one in value]
            case "as_optional_tensors" | "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
                return [self._argument(one) for one in value]
            case "as_optional_tensor" | "as_sym_int" | "as_sym_float" | "as_sym_bool":
                return self._argument(value)
            case "as_name":
                return self.values[value]
            case "as_scalar_type":
                return DTYPES[value]
            case "as_memory_format":
                return MEMORY_FORMATS[value]
            case "as_layout" if value == STRIDED:
                return torch.strided
            case "as_device":
                return self.device  # where the images are, wherever it was exported
        raise ModelError(f"{self.what} has an argument {kind}, which is not loaded; export the network as ONNX")

    def _bind(self, result: fx.Node, outputs: list[dict[str, Any]]) -> None:
        """Bind the names of what a node returns: one value, a list of tensors, or several of these."""
        if len(outputs) == 1:
            self._bind_one(result, outputs[0])
            return
        for place, output in enumerate(outputs):
            if "as_none" not in output:
                self._bind_one(self.graph.call_function(operator.getitem, (result, place)), output)

    def _bind_one(self, result: fx.Node, output: dict[str, Any]) -> None:
        """Bind the names of one value."""
        ((kind, value),) = output.items()
        if kind == "as_tensor":
            self.values[value["name"]] = result
        elif kind == "as_tensors":
            for place, one in enumerate(value):
                self.values[one["name"]] = self.graph.call_function(operator.getitem, (result, place))
        elif kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            self.values[value["as_name"]] = result
        else:
            raise ValueError(f"an operator that returns {kind}")


def _modules(metadata: dict[str, str]) -> dict[str, tuple[str, str]]:
    """(path, class) of each module that a node is in, outermost first, as `torch.export` has it but by name."""
    entries = [entry.split(",", 2) for entry in metadata.get("nn_module_stack", "").split(";")]
    return {entry[0]: (entry[1], entry[2]) for entry in entries if len(entry) == 3}


def _number(value: Any) -> float | int | bool:
    """A number of the JSON, which writes those that are not finite as text."""
    if value in ("Infinity", "-Infinity", "NaN"):
        return float(value)
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value


def _axis(length: dict[str, Any], ranges: dict[str, Any]) -> Side | int:
    """The lengths that an axis of the input may have."""
    if "as_int" in length:
        return int(length["as_int"])
    factor, offset, symbol = _linear(ast.parse(length["as_expr"]["expr_str"][:LONGEST_EXPRESSION], mode="eval").body)
    limits = ranges.get(symbol, {})
    if factor < 1:
        raise ValueError(f"a side is a multiple of {factor} px")
    return Side(factor, offset, symbol, limits.get("min_val") or 0, limits.get("max_val"))


def _linear(node: ast.expr) -> tuple[int, int, str]:
    """(factor, offset, symbol) of ``Add(Mul(Integer(32), Symbol('s0', ...)), Integer(4))`` and what it is made of."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        values = [one.value for one in node.args if isinstance(one, ast.Constant)]
        match node.func.id, values, node.args:
            case "Integer", [int(value)], [_]:
                return 0, value, ""
            case "Symbol", [str(name)], [_]:
                return 1, 0, name
            case ("Add" | "Mul") as kind, [], [first, second]:
                one, other = sorted((_linear(first), _linear(second)))
                if one[0] == 0:
                    return (
                        (other[0], one[1] + other[1], other[2])
                        if kind == "Add"
                        else (other[0] * one[1], other[1] * one[1], other[2])
                    )
    raise ValueError(f"a side is {ast.unparse(node)}, which is not a multiple of one number")


def read_ports(program: dict[str, Any]) -> tuple[list[Port], list[Port]]:
    """The inputs and the outputs that ``program`` declares."""
    signature, graph = program["graph_module"]["signature"], program["graph_module"]["graph"]
    entries = program["graph_module"]["module_call_graph"]
    out_spec = next(entry["signature"]["out_spec"] for entry in entries if entry["fqn"] == "")
    inputs = [spec["user_input"]["arg"] for spec in signature["input_specs"] if "user_input" in spec]
    outputs = [spec["user_output"]["arg"] for spec in signature["output_specs"] if "user_output" in spec]
    names = [[_name(argument) for argument in inputs], output_names(out_spec)]
    found = [
        [_port(name, graph["tensor_values"][_name(argument)]) for name, argument in zip(of, arguments, strict=True)]
        for of, arguments in zip(names, (inputs, outputs), strict=True)
    ]
    return found[0], found[1]


def _name(argument: dict[str, Any]) -> str:
    """The name of a tensor among the values of the graph."""
    return str(argument["as_tensor"]["name"])


def _port(name: str, meta: dict[str, Any]) -> Port:
    """The tensor that ``meta`` describes."""
    return Port(
        name, str(DTYPES[meta["dtype"]]).removeprefix("torch."), tuple(length.get("as_int") for length in meta["sizes"])
    )
