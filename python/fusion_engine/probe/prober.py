"""An artifact that is open for probing: any choice of its layers from one pass over the audio."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .._cache import cache_folder
from ..engine import Engine
from ..errors import ArtifactError
from ..spec import Head
from .cache import mapped
from .embeddings import extract, layer_columns, open_engine
from .linear import MAX_EPOCHS, SEEDS
from .protocol import check_trainable, evaluate, row_blocks
from .records import ProbeRecord, System
from .tasks import Task

Show = Callable[[str, int, int], None]
"""Called with a few words for what goes on, what of it is done, and what there is."""


@dataclass(frozen=True, kw_only=True)
class Prober:
    """An artifact, and how it is probed.

    Attributes:
        engine: the artifact's.
        identity: of the engine, for the cache.
        cache: the folder for embeddings.
        head: pooling over time; ``None``: the artifact's.
        normalization: mean and standard deviation of the log-mel that the engine was opened with;
            ``None``: the artifact's.
        seeds: of the probes.
        max_epochs: the most passes over the training set.
        train_device: where the probes are trained, ``cpu`` or a CUDA device of torch's.
        show: told about progress.
    """

    engine: Engine
    identity: str
    cache: Path
    head: Head | None = None
    normalization: tuple[float, float] | None = None
    seeds: Sequence[int] = SEEDS
    max_epochs: int = MAX_EPOCHS
    train_device: str = "cpu"
    show: Show = field(default=lambda what, done, total: None, repr=False)

    @classmethod
    def open(
        cls,
        artifact: str | os.PathLike[str],
        *,
        cache: str | os.PathLike[str] | None = None,
        device: str = "auto",
        threads: int | None = None,
        normalization: tuple[float, float] | None = None,
        head: Head | None = None,
        seeds: Sequence[int] = SEEDS,
        max_epochs: int = MAX_EPOCHS,
        train_device: str = "cpu",
        show: Show | None = None,
    ) -> Self:
        """Open an artifact.

        Args:
            artifact: what ``fusion-engine export`` or ``build`` wrote.
            cache: the folder for embeddings; ``None``: ``probe_cache()``.
            device, threads, normalization: as for ``Engine``.
            head, seeds, max_epochs, train_device, show: as the attributes.

        Raises:
            FusionEngineError, ValueError: as ``Engine``.
        """
        engine, identity = open_engine(
            artifact, device=device, threads=threads, normalization=normalization
        )
        options = {} if show is None else {"show": show}
        return cls(
            engine=engine,
            identity=identity,
            cache=cache_folder() / "probe" if cache is None else Path(cache),
            head=head,
            normalization=normalization,
            seeds=tuple(seeds),
            max_epochs=max_epochs,
            train_device=train_device,
            **options,
        )

    def probe(
        self, task: Task, choices: Iterable[Sequence[int]] | None = None
    ) -> Iterator[ProbeRecord]:
        """Embed a task's clips once, and evaluate choices of layers.

        The embedding of a choice is that of an artifact with just these layers: the columns of the
        whole embedding that are theirs.

        Args:
            task: its examples.
            choices: lists of layers, each in the artifact's order; ``None``: all of them, fused.

        Yields:
            A record for each choice, as soon as it is there.

        Raises:
            ArtifactError: a layer that the artifact does not hold.
            FusionEngineError, ValueError: as ``extract`` and ``evaluate``.
        """
        columns = layer_columns(self.engine.spec)
        wanted = [tuple(columns)] if choices is None else [tuple(choice) for choice in choices]
        absent = sorted({layer for choice in wanted for layer in choice} - columns.keys())
        if absent:
            raise ArtifactError(
                f"the artifact has layers {', '.join(map(str, columns))}, and layers "
                f"{', '.join(map(str, absent))} were asked for; export one that holds them"
            )
        check_trainable(task)
        embeddings = extract(
            self.engine,
            task,
            identity=self.identity,
            cache=self.cache,
            head=self.head,
            progress=partial(self.show, f"{task.title}: embedding"),
        )
        for choice in wanted:
            what = f"{task.title}: training on {' + '.join(map(str, choice))}"
            result = evaluate(
                task,
                self._columns(embeddings, [columns[layer] for layer in choice]),
                identity=self.identity,
                seeds=self.seeds,
                max_epochs=self.max_epochs,
                device=self.train_device,
                progress=partial(self.show, what),
            )
            own = self.normalization
            system = System.of(self.engine.spec, choice, self.head, normalized=own is not None)
            if own is not None:
                note = f"{system.label}: log-mel normalised with mean {own[0]:g} and std {own[1]:g}"
                result = replace(result, notes=(*result.notes, note))
            yield ProbeRecord(
                system=system,
                title=task.title,
                folds=_folds(task),
                result=result,
            )

    def _columns(
        self, embeddings: NDArray[np.float32], parts: Sequence[slice]
    ) -> NDArray[np.float32]:
        """Some columns of the embeddings; what lies apart is put together in a file, not memory."""
        if all(a.stop == b.start for a, b in pairwise(parts)):
            return embeddings[:, parts[0].start : parts[-1].stop]
        shape = (len(embeddings), sum(part.stop - part.start for part in parts))
        blocks = row_blocks(embeddings)
        chosen = (np.concatenate([rows[:, part] for part in parts], axis=1) for rows in blocks)
        return mapped(chosen, shape, self.cache)


def _folds(task: Task) -> tuple[int, ...] | None:
    folds = tuple(example.fold for example in task.examples if example.fold is not None)
    return folds or None
