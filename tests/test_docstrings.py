"""Public docstrings say what a caller has to know: what is raised, and the shape, dtype and axes of arrays."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import wsipipe
from wsipipe import errors

ROOT = Path(wsipipe.__file__).parent
Function = ast.FunctionDef | ast.AsyncFunctionDef

AXES = re.compile(r"\([a-z_0-9]+(?: [+*/-] [a-z_0-9]+)*,(?: ?[a-z_0-9.]+(?: [+*/-] [a-z_0-9]+)*,?)*\)|\(\)|\.\.\.")
"""``(y, x)``, ``(height, width, 3)``, ``(pixels,)``, ``(n + 1, ...)``: the names of axes, or any."""
DTYPE = re.compile(r"\b(u?int(8|16|32|64)|float(16|32|64)|bool(ean)?s?|dtype|integers?|floats?)\b")
SHARED = {"Labels", "Mask"}
"""Types whose definition, in `wsipipe.arrays`, says dtype and axes for everybody."""


class Public(NamedTuple):
    """A public function or method."""

    name: str
    node: Function
    docstring: str


def is_command(function: Function) -> bool:
    """Whether it is a command of click, whose docstring is what ``--help`` prints."""
    return any(re.search(r"\.(command|group)\(", ast.unparse(decorator)) for decorator in function.decorator_list)


def public_functions(path: Path) -> Iterator[Public]:
    """The public functions of a file, and the public methods of its public classes."""
    module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, Function) and not node.name.startswith("_") and not is_command(node):
            yield Public(f"{module}.{node.name}", node, ast.get_docstring(node) or "")
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            about = ast.get_docstring(node) or ""
            for method in node.body:
                if isinstance(method, Function) and (not method.name.startswith("_") or method.name == "__init__"):
                    # What makes an object is described with its class.
                    said = about if method.name == "__init__" else ast.get_docstring(method) or ""
                    yield Public(f"{module}.{node.name}.{method.name}", method, said)


@cache
def every_public_function() -> tuple[Public, ...]:
    return tuple(public for path in sorted(ROOT.rglob("*.py")) for public in public_functions(path))


@cache
def array_types() -> frozenset[str]:
    """The names that annotations call arrays and tensors by."""
    found = {"NDArray", "Tensor"}
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if (
                isinstance(node, ast.Assign)
                and "NDArray[" in ast.unparse(node.value)
                and "Callable" not in ast.unparse(node)
            ):
                found.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return frozenset(found)


def raised_in(function: Function) -> set[str]:
    """The names of the errors that are raised in a function's own body."""
    inner = {
        id(below)
        for node in ast.walk(function)
        if isinstance(node, Function | ast.Lambda) and node is not function
        for below in ast.walk(node)
    }
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and id(node) not in inner and isinstance(node.exc, ast.Call):
            called = node.exc.func
            if isinstance(called, ast.Name) and called.id[0].isupper():
                found.add(called.id)
    return found - {"AssertionError", "NotImplementedError"}


def names_of(error: str) -> set[str]:
    """An error's name, and those of its bases within wsipipe: to name one of them is to name it."""
    kind = getattr(errors, error, None)
    return (
        {error} if kind is None else {base.__name__ for base in kind.__mro__ if issubclass(base, errors.WsipipeError)}
    )


def unnamed_errors(public: Public) -> list[str]:
    words = set(re.findall(r"\w+", public.docstring))
    return [error for error in sorted(raised_in(public.node)) if not names_of(error) & words]


def annotations_of(function: Function) -> Iterator[str]:
    arguments = function.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        if argument.annotation is not None:
            yield ast.unparse(argument.annotation)
    if function.returns is not None:
        yield ast.unparse(function.returns)


def handles_arrays(function: Function) -> bool:
    """Whether a function takes or gives arrays of a type that does not say all there is to say."""
    words = {word for text in annotations_of(function) for word in re.findall(r"\w+", text)}
    return bool(words & (array_types() - SHARED))


def test_public_functions_name_what_they_raise() -> None:
    silent = {public.name: missing for public in every_public_function() if (missing := unnamed_errors(public))}
    assert silent == {}


def test_public_functions_say_shape_dtype_and_axes_of_arrays() -> None:
    silent = []
    for public in every_public_function():
        if handles_arrays(public.node):
            missing = [what for what, said in (("axes", AXES), ("dtype", DTYPE)) if not said.search(public.docstring)]
            silent += [f"{public.name}: {', '.join(missing)}"] if missing else []
    assert silent == []


@pytest.mark.parametrize(
    ("docstring", "passes"),
    [
        ("Mean of ``a`` (y, x), float32.", True),
        ("Mean of ``a``, float32.", False),
        ("Mean of ``a`` (y, x).", False),
        ("Any shape (..., 3), uint8.", True),
    ],
)
def test_what_docstrings_of_arrays_have_to_say(docstring: str, passes: bool) -> None:
    assert bool(AXES.search(docstring) and DTYPE.search(docstring)) == passes


def test_what_is_raised_is_found() -> None:
    source = "def f():\n    if x:\n        raise SlideReadError('a')\n    raise\n"
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    assert unnamed_errors(Public("f", node, "Read it.")) == ["SlideReadError"]
    assert unnamed_errors(Public("f", node, "Raise a SlideError unless it can be read.")) == []
