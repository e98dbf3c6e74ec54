"""A corpus of short recordings, and the table that the command line makes of one."""

import pyarrow.parquet as pq
import pytest
import soundfile

from .. import signals
from ..cli.in_process import run_command

RATE = 16_000
FILES = 24


@pytest.fixture(scope="package")
def corpus(tmp_path_factory):
    """24 recordings of 0.5 to 3 s in two folders, one of them silent, and one that is no audio."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "more").mkdir()
    for number in range(FILES):
        make = signals.silence if number == 7 else signals.speech_like
        clip = make(0.5 + number % 6 * 0.5, RATE, seed=number)
        soundfile.write(folder / ("more" if number % 3 == 0 else "") / f"{number}.wav", clip, RATE)
    (folder / "broken.wav").write_bytes(b"RIFF, or so it says")
    return folder


@pytest.fixture(scope="package")
def of_one_process(cnn14_artifact, tmp_path_factory):
    """``of_one_process(folder, "--window", "1")`` is the table of ``fusion-engine embed``."""

    def run(*arguments):
        output = tmp_path_factory.mktemp("one") / "table.parquet"
        run_command("embed", cnn14_artifact, "-o", output, *arguments)
        return pq.read_table(output)

    return run


@pytest.fixture(scope="package")
def windows_of_corpus(of_one_process, corpus):
    """Many rows of the corpus: ``--window 0.5 --hop 0.04``."""
    return of_one_process(corpus, "--window", "0.5", "--hop", "0.04")
