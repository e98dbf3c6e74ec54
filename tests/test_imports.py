"""What imports what: modules know those below them, and none above."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"fusion_engine": "python/fusion_engine", "fusion_engine.engine": "engine"} | {
    "fusion_engine.export": "export"
}


def modules():
    """Path by dotted name; a package's is that of its ``__init__``."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *parts]).removesuffix(".__init__")
            found[name] = path
    return found


def imported(name, path, known, *, lazy):
    """The modules of the package that one imports when it is loaded; ``lazy``: or later."""
    parents = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for node in statements(ast.parse(path.read_text()), lazy=lazy):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = parents[: len(parents) - node.level + 1]
        module = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{module}.{alias.name}"
            yield inner if inner in known else module


def statements(node, *, lazy):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.FunctionDef) and not lazy:
            continue
        yield child
        yield from statements(child, lazy=lazy)


def graph(*, lazy=False):
    known = modules()
    return {
        name: set(imported(name, path, known, lazy=lazy)) - {name} for name, path in known.items()
    }


def test_modules_do_not_import_in_a_circle():
    edges = graph()
    assert edges["fusion_engine.engine.engine"] > {"fusion_engine.engine.cut"}
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize(
    ("room", "unknown"),
    [
        # Building and reading plans needs no runner; which GPU is there is devices.py.
        (
            "engine.tensorrt",
            ["engine.cuda", "engine.engine", "engine.open", "engine.open_gpu", "engine.runner"],
        ),
        ("engine.precision", ["engine.cuda", "engine.tensorrt", "engine.engine", "engine.runner"]),
        ("engine.cuda", ["engine.engine", "engine.open", "engine.clips", "engine.cpu"]),
        ("engine", ["cli", "probe", "parity", "export", "job", "ray", "serve"]),
        (
            "export",
            ["cli", "probe", "parity", "job", "ray", "serve", "engine.engine", "engine.cuda"],
        ),
        (
            "retrieval",
            ["cli", "job", "journal", "ray", "serve", "export", "parity", "probe", "engine.cuda"],
        ),
        ("serve", ["cli", "probe", "parity", "export", "job", "ray", "engine.cuda"]),
        ("map", ["cli", "job", "ray", "serve", "export", "parity", "probe", "engine.engine"]),
        ("quantization", ["cli", "probe", "export", "job", "ray", "serve", "engine.cuda"]),
        ("audio", ["engine", "export", "spec", "frontend", "cli"]),
        ("frontend", ["engine", "export", "audio", "spec", "cli"]),
    ],
)
def test_a_room_does_not_know_those_above_it(room, unknown):
    def inside(name, other):
        return f"{name}.".startswith(f"fusion_engine.{other}.")

    for name, others in graph(lazy=True).items():
        if inside(name, room):
            above = [other for other in others if any(inside(other, top) for top in unknown)]
            assert not above, f"{name} imports {above}"


def test_one_name_is_one_module_of_the_engine():
    """But for the packages' own: a reader who is told of ``runner.py`` finds one."""
    names = [path.stem for path in (ROOT / "engine").rglob("*.py") if path.stem != "__init__"]
    assert len(names) == len(set(names)), sorted(names)
