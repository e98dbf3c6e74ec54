"""Small tables as ``embed`` writes them."""

from dataclasses import replace

import numpy as np

from fusion_engine.output import Row, open_writer

from ..test_output import SPEC

# Where clips may hide from a page, or break it.
HOSTILE = [
    "a/</script><script>hit=1</script>.wav",
    "a/<!--<script>.wav",
    "a/<img src=x onerror=hit=1>.wav",
    """a/quotes " ' ` &amp; {{data}}.wav""",
    "a/two\nlines\r\t.wav",
    "a/\u202egpj.wav",  # right to left
    "a/\u2028line.wav",
    "a/caf\udce9 100%#?.wav",  # bytes that are no text
    "b/ünïcödé 音.wav",
    "javascript:alert(1).wav",
    "b/=1+1,comma.wav",
]


def write_table(path, paths, embeddings, *, start=None, end=None, channels=None, dtype="float32"):
    """A table of n rows; each is a second from ``start`` on."""
    embeddings = np.asarray(embeddings, np.float32)
    start = np.zeros(len(paths)) if start is None else np.asarray(start, float)
    end = start + 1 if end is None else np.asarray(end, float)
    dim = embeddings.shape[1]
    layer = replace(SPEC.layers[0], channels=dim, freq=1)
    spec = replace(SPEC, embedding_dim=dim, layers=(layer,))
    rows = [
        Row(
            path=name.encode("utf-8", "backslashreplace").decode(),
            start=start[n],
            end=end[n],
            duration=9.0,
            channel=None if channels is None else channels[n],
        )
        for n, name in enumerate(paths)
    ]
    with open_writer(path, spec, channels=channels is not None, dtype=dtype) as writer:
        writer.write(rows, embeddings)
    return path
