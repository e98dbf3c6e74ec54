"""What a decoded file is, and which of its channels become it."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Channel = Literal["mix", "first", "all"] | int

# Beyond this nothing is audio in [-1, 1]: integers saved as floats, or damage in a lossy stream.
LOUDEST = 16.0


@dataclass(frozen=True, eq=False)
class Recording:
    """A decoded file.

    Attributes:
        samples: float32 [N] at the rate asked for; [C, N] of ``channel="all"``.
        partial: the file contradicts itself or is damaged; these are the samples that are there.
        silent: every sample is zero before resampling; channels that cancel out are, too.
        clipped_scale: a sample is beyond ±16: integers saved as floats, or damage.
    """

    samples: NDArray[np.float32]
    partial: bool = False
    silent: bool = False
    clipped_scale: bool = False


def check_channel(channel: Any) -> Channel:
    """``channel``, if it is one that ``load`` takes.

    Raises:
        TypeError: neither a string nor an integer.
        ValueError: another word, or an integer below 1.
    """
    if isinstance(channel, bool | np.bool_) or not isinstance(channel, str | int | np.integer):
        raise TypeError(f'channel is {channel!r}, expected "mix", "first", "all" or an integer')
    if isinstance(channel, str):
        if channel in ("mix", "first", "all"):
            return channel  # type: ignore[return-value]
    elif channel >= 1:
        return int(channel)
    raise ValueError(
        f'channel is {channel!r}, expected "mix", "first", "all" or a number from 1 on'
    )


def select(samples: NDArray[np.float32], channel: Channel) -> NDArray[np.float32]:
    """The channels asked for, of [n, C]: [n, C] for "all", else [n, 1]."""
    if channel == "all":
        return samples
    if channel != "mix":
        index = 0 if channel == "first" else int(channel) - 1
        return samples[:, index : index + 1]
    if samples.shape[1] == 1:
        return samples
    # Column by column is 6× faster than `mean`.
    total = samples[:, 0].astype(np.float64)
    for column in range(1, samples.shape[1]):
        total += samples[:, column]
    total /= samples.shape[1]
    return total.astype(np.float32)[:, np.newaxis]
