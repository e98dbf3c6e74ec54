"""Recordings as requests carry them."""

import base64
import io

from .. import signals

RATE = 16_000


def wav(seconds=1.0, seed=0, rate=RATE, make=signals.noise):
    """A file's bytes, in float32, so that its samples are those that were made."""
    import soundfile  # a bare machine collects what needs none

    file = io.BytesIO()
    soundfile.write(file, make(seconds, rate, seed), rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def uri(data, media="audio/wav"):
    """A data URI."""
    return f"data:{media};base64,{base64.b64encode(data).decode()}"
