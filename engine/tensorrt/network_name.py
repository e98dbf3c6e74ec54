"""The spec, and what the network takes, as a network's name, in which they travel inside a plan."""

import json
from dataclasses import asdict, replace
from typing import Any

from ..._json import decode, parse, short
from ...errors import ArtifactError
from ...frontend.frontend_spec import FRONTENDS
from ...spec import METADATA_KEY, Spec, check_version
from ..network_input import LOG_MEL, NetworkInput

# How a name begins, and what is looked for in a plan's bytes.
PREFIX = f'{{"{METADATA_KEY}":'
_INPUT_KEY = "input"  # comes after the other one
# TensorRT drops names above 4095 characters, with a line in its log.
MAX_BYTES = 4000


def encode_name(spec: Spec, network_input: NetworkInput = LOG_MEL) -> str:
    """Canonical compact JSON in ASCII: sorted keys, no spaces.

    The frontend is its preset's name, what differs from that preset, and the SHA-256 of all its
    settings; the rest is the spec as it is. The input is left out where it is log-mel in FP32.

    Raises:
        ArtifactError: more than 4000 bytes.
    """
    data = asdict(spec)
    settings = data["frontend"]
    preset = FRONTENDS.get(spec.frontend.preset)
    known = {} if preset is None else asdict(preset)
    data["frontend"] = {
        "preset": settings.pop("preset"),
        "overrides": {
            name: value
            for name, value in settings.items()
            # As they are written: 0.0 and -0.0 are equal.
            if name not in known or repr(known[name]) != repr(value)
        },
        "sha256": spec.frontend.sha256(),
    }
    content = {METADATA_KEY: data}
    if network_input != LOG_MEL:
        content[_INPUT_KEY] = asdict(network_input)
    name = json.dumps(content, sort_keys=True, separators=(",", ":"))
    if len(name) > MAX_BYTES:
        raise ArtifactError(
            f"the spec takes {len(name)} bytes, and a plan holds {MAX_BYTES}: export fewer layers "
            f"than {len(spec.layers)}, or submodules with shorter names"
        )
    return name


def decode_name(name: str, *, where: str) -> tuple[Spec, NetworkInput]:
    """The spec in a network's name, and what the network takes.

    Args:
        name: what ``encode_name`` gave.
        where: the plan, for errors.

    Raises:
        ArtifactError: another name, damaged, or a frontend preset whose settings are other ones in
            this version.
    """
    if not name.startswith(PREFIX):
        raise ArtifactError(
            f"{where}: no spec in its network's name, so it was not built by fusion_engine. "
            "Build it with `fusion-engine build`."
        )
    try:
        content = parse(name, most=MAX_BYTES)
        data = content[METADATA_KEY]
        if isinstance(data, dict):
            check_version(data, where)
        front = data["frontend"]
        preset, digest = front["preset"], front["sha256"]
        known = asdict(FRONTENDS[preset]) if preset in FRONTENDS else {}
        data["frontend"] = known | front["overrides"] | {"preset": preset}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{where}: the spec in its network's name is damaged ({short(error)}). Build it again "
            "with `fusion-engine build`."
        ) from None
    spec = Spec.from_json(json.dumps(data), where=where)
    if spec.frontend.sha256() != digest:
        raise ArtifactError(
            f"{where}: its frontend {preset!r} has other settings in this fusion_engine (SHA-256 "
            f"{spec.frontend.sha256()[:12]}…, expected {short(digest)[:13]}…). Use the version "
            f"that wrote it ({spec.producer_version}), or export and build again."
        )
    return spec, _decode_input(content.get(_INPUT_KEY, asdict(LOG_MEL)), spec, where)


def _decode_input(data: Any, spec: Spec, where: str) -> NetworkInput:
    try:
        network_input: NetworkInput = decode(NetworkInput, data, "input")
        network_input.values(spec.frontend.n_mels)
    except ArtifactError as error:
        raise ArtifactError(
            f"{where}: what its network takes is damaged ({error}). Build it again with "
            "`fusion-engine build`."
        ) from None
    return network_input


def plan_spec(spec: Spec, precision: Any, max_frames: int) -> Spec:
    """The spec of a plan built from the artifact with ``spec``.

    The fewest frames stay the model's own: a profile that begins higher is the plan's affair. An
    8-bit artifact's plan is an 8-bit one, whatever the rest of it is in.
    """
    if spec.quantization is not None:
        precision = spec.precision
    return replace(spec, precision=precision, max_frames=max_frames)
