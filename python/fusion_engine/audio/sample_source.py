"""What a decoder gives, whichever it is."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# Seconds that a decoder may take for one block. The largest take a hundredth of one.
BLOCK_TIMEOUT = 30
# Samples of all channels in a block.
BLOCK = 2**18


class CannotOpenError(Exception):
    """The decoder does not know the format."""


class BrokenError(Exception):
    """The decoder broke off: damage, a crash, or no answer."""


class SampleSource(Protocol):
    """An open file of samples.

    Attributes:
        rate: in Hz.
        channels: how many.
        announced: samples per channel, as the decoder has them from a header; None if it has not.
    """

    rate: int
    channels: int
    announced: int | None

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """The samples, [n, channels] at a time; a block is overwritten after the next.

        Raises:
            BrokenError: after the last sample that could be decoded.
        """
        ...

    def close(self) -> None:
        """End the decoder, wherever it is."""
        ...


# What ends the decoder that a thread waits for.
_enders: dict[int, Callable[[], None]] = {}


def waiting_for(end: Callable[[], None] | None) -> None:
    """Say what ends the decoder that this thread uses from now on, if it uses one."""
    if end is None:
        _enders.pop(threading.get_ident(), None)
    else:
        _enders[threading.get_ident()] = end


def interrupt(threads: Iterable[threading.Thread]) -> None:
    """End the decoders that these threads wait for; to them they break off."""
    for thread in threads:
        end = _enders.get(thread.ident or 0)
        if end is not None:
            end()
