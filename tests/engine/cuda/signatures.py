"""What our sources call of TensorRT, against the names and signatures in its bindings.

pybind11 writes a function's signatures into its docstring, one a line.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from fusion_engine.engine.cuda import tensorrt_network
from fusion_engine.engine.tensorrt import library, monitor, runtime_cache, serialize, timing_cache

# Parameters of a function: their names, and whether they have defaults.
Signature = list[tuple[str, bool]]

# Not in TensorRT itself: what asks for them asks first whether they are there.
RTX_ONLY = {
    "BuilderFlag.REQUIRE_USER_ALLOCATION",
    "ComputeCapability",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "IExecutionContext.is_stream_capturable",
    "IRuntimeCache",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.cuda_graph_strategy",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IRuntimeConfig.set_runtime_cache",
}
# The expressions of each of our modules, and the names in TensorRT of what they are.
OWNERS: dict[ModuleType, dict[str, str]] = {
    tensorrt_network: {
        "trt": "",
        "trt.ExecutionContextAllocationStrategy": "ExecutionContextAllocationStrategy",
        "trt.CudaGraphStrategy": "CudaGraphStrategy",
        "trt.DynamicShapesKernelSpecializationStrategy": (
            "DynamicShapesKernelSpecializationStrategy"
        ),
        "library.module": "",
        "runtime": "Runtime",
        "self._engine": "ICudaEngine",
        "engine": "ICudaEngine",
        "self._context": "IExecutionContext",
        "config": "IRuntimeConfig",
    },
    serialize: {
        "trt": "",
        "trt.BuilderFlag": "BuilderFlag",
        "trt.DataType": "DataType",
        "trt.NetworkDefinitionCreationFlag": "NetworkDefinitionCreationFlag",
        "trt.PreviewFeature": "PreviewFeature",
        "trt.TensorFormat": "TensorFormat",
        "library.module": "",
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "error": "ParserError",
        "tensor": "ITensor",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
    },
    timing_cache: {"config": "IBuilderConfig", "config.get_timing_cache()": "ITimingCache"},
    runtime_cache: {"config": "IRuntimeConfig", "self._cache": "IRuntimeCache"},
    library: {"module": "", "severity": "ILogger.Severity"},
    monitor: {"module": ""},
}
# Names that are looked for by their text.
ASKED = {
    "IExecutionContext": ["is_stream_capturable"],
    "TensorFormat": ["LINEAR", *tensorrt_network._CHANNELS_LAST],
    "DataType": list(tensorrt_network._DTYPES),
    "TilingOptimizationLevel": ["NONE", "FAST", "MODERATE", "FULL"],
}


def signatures(function: Any) -> list[Signature]:
    """Of a function of pybind11, without ``self``."""
    found = re.findall(r"^(?:\d+\. )?\w+\((.*)\) -> ", function.__doc__ or "", re.MULTILINE)
    return [_parameters(text) for text in found]


def _parameters(text: str) -> Signature:
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "([{<") - (sign in ")]}>")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    named = [part.strip() for part in parts if part.strip()]
    parameters = [(part.partition(":")[0].strip(), " = " in part) for part in named]
    return parameters[1:] if parameters and parameters[0][0] == "self" else parameters


def takes(signature: Signature, positional: int, keywords: set[str]) -> bool:
    """Whether a call with so many arguments, and these by name, fits."""
    rest = dict(signature[positional:])
    return (
        positional <= len(signature)
        and keywords <= set(rest)
        and all(default or name in keywords for name, default in rest.items())
    )


def problems(trt: ModuleType) -> Iterator[str]:
    """What our sources use that a TensorRT library has not, or takes in another way."""
    for module, owners in OWNERS.items():
        tree = ast.parse(inspect.getsource(module))
        for owner, name in owners.items():
            used = [node for node in ast.walk(tree) if _is_of(node, owner)]
            if not used:
                yield f"{module.__name__} does not use {owner}: it has changed"
            for attribute in sorted({node.attr for node in used}):
                if _find(trt, name, attribute) is None:
                    yield f"missing: {_missing(trt, name, attribute)}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                if owner in owners:
                    yield from _call_problems(trt, owners[owner], node)
            if isinstance(node, ast.ClassDef):
                yield from _override_problems(trt, node)
    for name, attributes in ASKED.items():
        for attribute in attributes:
            if _find(trt, name, attribute) is None:
                yield f"missing: {_missing(trt, name, attribute)}"


def _is_of(node: ast.AST, owner: str) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node.value) == owner


def _find(trt: ModuleType, name: str, attribute: str) -> Any:
    found: Any = trt
    for part in [*filter(None, name.split(".")), attribute]:
        found = getattr(found, part, None)
    return found


def _missing(trt: ModuleType, name: str, attribute: str) -> str:
    """The attribute, or its class where that is missing."""
    if not name or not hasattr(trt, name.partition(".")[0]):
        return name or attribute
    return f"{name}.{attribute}"


def _call_problems(trt: ModuleType, name: str, node: ast.Call) -> Iterator[str]:
    function = _find(trt, name, node.func.attr)
    if function is None:
        return
    if isinstance(function, type):
        function = function.__init__
    known = signatures(function)
    # `*values` stand for any number: those that are there are checked.
    starred = any(isinstance(argument, ast.Starred) for argument in node.args)
    positional = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
    keywords = {keyword.arg for keyword in node.keywords}
    if not known:
        yield f"{ast.unparse(node)}: no signature in the docstring of {function}"
    elif starred:
        if not any(len(positional) < len(signature) for signature in known):
            yield f"{ast.unparse(node)}: {known}"
    elif not any(takes(signature, len(positional), keywords) for signature in known):
        yield f"{ast.unparse(node)}: {known}"


def _override_problems(trt: ModuleType, node: ast.ClassDef) -> Iterator[str]:
    """Methods that TensorRT calls, in a class that derives from one of its."""
    for base in node.bases:
        if not _is_of(base, "module"):
            continue
        for method in node.body:
            if not isinstance(method, ast.FunctionDef) or method.name.startswith("_"):
                continue
            original = _find(trt, base.attr, method.name)
            if original is None:
                yield f"missing: {base.attr}.{method.name}"
            elif len(method.args.args) - 1 not in map(len, signatures(original)):
                yield f"{node.name}.{method.name}: {signatures(original)}"
