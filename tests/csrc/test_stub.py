"""The type stub against the module, parameter by parameter.

pybind11 writes signatures into docstrings alone, where stubtest does not look.
"""

import ast
from pathlib import Path
from typing import Any

import pytest

import fusion_engine
from fusion_engine import _core

STUB = ast.parse((Path(fusion_engine.__file__).parent / "_core.pyi").read_text())


def functions() -> dict[str, ast.FunctionDef]:
    """What the stub defines, methods and properties by ``Class.name``."""
    found = {}
    for node in STUB.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            methods = [method for method in node.body if isinstance(method, ast.FunctionDef)]
            found |= {f"{node.name}.{method.name}": method for method in methods}
    return found


def runtime(name: str) -> ast.FunctionDef:
    """The first line of a docstring of pybind11, as a definition."""
    value: Any = _core
    for part in name.split("."):
        value = getattr(value, part)
    text = (value.fget if isinstance(value, property) else value).__doc__.splitlines()[0]
    text = text if not text.startswith("(") else f"{name.rpartition('.')[2]}{text}"
    (node,) = ast.parse(f"def {text}: ...").body
    assert isinstance(node, ast.FunctionDef)
    return node


def parameters(node: ast.FunctionDef) -> tuple[list[str], dict[str, str | None]]:
    """Positional names, and keywords with their defaults; ``self`` has no name in a property."""
    args = node.args
    names = [arg.arg.replace("arg0", "self") for arg in (*args.posonlyargs, *args.args)]
    assert not args.defaults
    defaults = [None if value is None else ast.unparse(value) for value in args.kw_defaults]
    return names, dict(zip((arg.arg for arg in args.kwonlyargs), defaults, strict=True))


@pytest.mark.parametrize("name", functions())
def test_parameters(name: str) -> None:
    """The same names in the same order, keyword or not, with the same defaults."""
    stub, module = parameters(functions()[name]), parameters(runtime(name))
    assert stub == module
    assert list(stub[1]) == list(module[1])


def test_all_functions_are_in_the_stub() -> None:
    callables = {name for name, value in vars(_core).items() if callable(value) and name[0] != "_"}
    assert callables == {name.partition(".")[0] for name in functions()}
