"""What the engine says of a clip, as a row of a table."""

import os
from typing import TYPE_CHECKING

from .errors import FusionEngineError
from .output import Row

if TYPE_CHECKING:
    from .engine.recording import Clip


def row_of(clip: "Clip", sample_rate: int) -> Row:
    """Of a clip whose key is its path; what is of the whole file comes at its end."""
    return Row(
        path=os.fspath(clip.key),
        channel=clip.channel,
        start=clip.start / sample_rate,
        end=clip.end / sample_rate,
        duration=0.0,
        silent=clip.silent,
        clipped_scale=clip.clipped_scale,
    )


def of_channel(clip: "Clip", error: FusionEngineError) -> FusionEngineError:
    """``error``, which names the channel where the clip is of one."""
    if clip.channel is None:
        return error
    named = type(error)(f"{error} (channel {clip.channel})")
    named.kind = error.kind
    return named
