"""Which of the state dicts in a file is meant, and what its names begin with."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..._words import listed
from ...errors import ExportError
from .pickles import StoredTensor, shown

logger = logging.getLogger(__name__)

_DEPTH = 4
# What training code calls a model's weights, and an average of them over the training.
_PLAIN = ("model", "state_dict", "model_state_dict", "net", "module", "weights")
_AVERAGED = re.compile(r"(?:.*_)?ema(?:_.*)?")
# What wrappers put before a model's names: DataParallel, compile, Lightning, PANNs' transfer
# models, transformers' classifiers.
_WRAPPERS = ("module", "_orig_mod", "model", "net", "base", "audio_spectrogram_transformer")
_WRAPPED = re.compile(rf"(?:(?:{'|'.join(_WRAPPERS)})\.)*")


class _Found(NamedTuple):
    start: tuple[str, ...]  # as asked for
    key: tuple[str, ...]  # from there
    tensors: dict[str, Any]

    @property
    def name(self) -> str:
        return ".".join((*self.start, *self.key))

    @property
    def averaged(self) -> bool:
        return any(_AVERAGED.fullmatch(part) for part in self.key)

    @property
    def usual(self) -> bool:
        return all(part in _PLAIN or _AVERAGED.fullmatch(part) for part in self.key)


def choose_state(content: Any, key: str | None) -> dict[str, Any]:
    """The state dict that is meant: the entry ``key``, or else the one there is.

    Args:
        content: what the file holds.
        key: the entry's name, with dots between the names of entries in entries.

    Returns:
        Names and tensors, as they are in ``content``.

    Raises:
        ExportError: there is none, or more than one; lists what there is.
    """
    start: tuple[str, ...] = ()
    if key is not None:
        start, content = _entry(content, key)
    found = [_Found(start, path, tensors) for path, tensors in _state_dicts(content, (), set())]
    where = f"the entry {shown(key)}" if key else "it"
    if not found:
        raise ExportError(
            f"{where} holds no state dict (names and tensors) but {_described(content)}. Expected "
            f"one, bare or as an entry called {', '.join(_PLAIN[:3])}; where its entry has another "
            "name, give that with --key"
        )
    # A model's few loose tensors beside a state dict of its own are not the model.
    nested = [one for one in found if one.key]
    if any(one.usual for one in nested):
        found = nested
    if len(found) > 1:
        usual = [one for one in found if one.usual]
        plain = [one for one in usual if not one.averaged]
        found, others = plain or usual or found, [one for one in usual if one.averaged]
        if len(found) == 1 and plain and others:
            logger.warning(
                "the checkpoint holds plain weights (%s) and averaged ones (%s): the plain ones "
                "are used, --key %s takes the others",
                shown(found[0].name) or "at its top",
                _names(one.name for one in others),
                shown(others[0].name),
            )
    if len(found) > 1:
        raise ExportError(
            f"{where} holds {len(found)} state dicts: {_names(one.name for one in found)}. Say "
            f"which is meant, for example with --key {shown(found[0].name)}"
        )
    (only,) = found
    if key is None and (only.averaged or not only.usual):
        logger.warning(
            "the checkpoint's entry %s is used, the only state dict in it%s",
            shown(only.name),
            ": averaged weights" if only.averaged else "",
        )
    return only.tensors


def strip_prefix(
    state: Mapping[str, Any], prefix: str | None, anchors: Iterable[str]
) -> dict[str, Any]:
    """The tensors under a prefix of their names, by the rest of the names.

    Args:
        state: names and tensors.
        prefix: what is meant; ``None``: what wrappers put there, found by ``anchors``.
        anchors: one name for every way in which the model's tensors may be called.

    Raises:
        ExportError: nothing is there, or the model is there more than once.
    """
    if prefix is not None:
        # `net` means `net.`, unless no name has a dot there.
        start = f"{prefix}." if any(name.startswith(f"{prefix}.") for name in state) else prefix
        kept = {n[len(start) :]: t for n, t in state.items() if n.startswith(start) and n != start}
        if not kept:
            raise ExportError(
                f"no name of a tensor begins with {shown(prefix)!r} (--prefix). The names are "
                f"{_names(state)}"
            )
        return kept
    before = {
        name[: len(name) - len(anchor)]
        for name in state
        for anchor in anchors
        if name == anchor or name.endswith(f".{anchor}")
    }
    usual = sorted(one for one in before if _WRAPPED.fullmatch(one))
    if len(usual) > 1 or (before and not usual):
        places = usual or sorted(before)
        raise ExportError(
            f"the model's tensors are there under {_names(one or 'no prefix' for one in places)}: "
            f"say which are meant, for example with --prefix {shown(places[-1])}"
        )
    if usual:
        others = sorted(before.difference(usual))
        if others:
            logger.warning(
                "the model's tensors are in the checkpoint %s and under %s: the first are used, "
                "--prefix %s takes the others",
                f"under {shown(usual[0])}" if usual[0] else "without a prefix",
                _names(others),
                shown(others[0]),
            )
        return {n.removeprefix(usual[0]): t for n, t in state.items() if n.startswith(usual[0])}
    shared = min((_WRAPPED.match(name)[0] for name in state), key=len)  # type: ignore[index]
    if shared and all(name.startswith(shared) for name in state):
        return {name.removeprefix(shared): tensor for name, tensor in state.items()}
    return dict(state)


def _entry(content: Any, key: str) -> tuple[tuple[str, ...], Any]:
    """The entry ``key`` and the names on the way to it; an entry's own name may hold dots."""
    path: tuple[str, ...] = ()
    rest = key
    while rest:
        if not isinstance(content, Mapping):
            names = []
        else:
            names = [name for name in content if isinstance(name, str)]
        name = max(
            (name for name in names if name and f"{rest}.".startswith(f"{name}.")),
            key=len,
            default=None,
        )
        if name is None:
            where = f"the entry {shown('.'.join(path))}" if path else "the file"
            raise ExportError(
                f"{where} has no entry {shown(rest)!r} (--key); it holds {_described(content)}"
            )
        content = content[name]
        path = (*path, name)
        rest = rest[len(name) + 1 :]
    return path, content


def _state_dicts(
    content: Any, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every mapping in ``content`` that holds tensors by name; what is there twice counts once."""
    if not isinstance(content, Mapping) or len(path) > _DEPTH or id(content) in seen:
        return
    seen.add(id(content))
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and is_tensor(v)}
    if tensors:
        yield path, tensors
    for name, value in content.items():
        if isinstance(name, str):
            yield from _state_dicts(value, (*path, name), seen)


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a tensor, read or not."""
    if isinstance(value, StoredTensor):
        return True
    import torch

    return isinstance(value, torch.Tensor)


def _described(content: Any) -> str:
    """What ``content`` is, with the first of its entries."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if not content:
        return "nothing"

    def entry(item: tuple[Any, Any]) -> str:
        kind = "tensor" if is_tensor(item[1]) else type(item[1]).__name__
        return f"{shown(str(item[0])[:200])} ({kind})"

    return listed(content.items(), entry)


def _names(names: Iterable[str]) -> str:
    return listed(list(names), lambda name: shown(name) or "the top")
