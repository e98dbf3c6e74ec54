"""Mutated audio files against ``load``: ``python -m tests.fuzz.audio --count N --seed S``.

Each mutant either raises ``AudioError`` or gives at least the samples of the whole file; what is
shorter without a word, crashes, hangs or raises anything else fails the run.
"""

import argparse
import io
import multiprocessing
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

FORMATS = [
    *(("WAV", "PCM_16"), ("WAV", "IMA_ADPCM"), ("WAV", "FLOAT"), ("RF64", "PCM_16")),
    *(("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16")),
    *(("NIST", "PCM_16"), ("IRCAM", "PCM_16"), ("VOC", "PCM_16"), ("FLAC", "PCM_16")),
    *(("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
]
RATE, FRAMES = 16_000, 3_200
HANG = 5.0
BAD = ("crash", "hang", "raw exception", "shortened")


def corpus() -> list[tuple[str, bytes]]:
    """One short file of each format."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, FRAMES)
    files = []
    for kind, subtype in FORMATS:
        file = io.BytesIO()
        soundfile.write(file, samples, RATE, format=kind, subtype=subtype)
        files.append((f"{kind}/{subtype}", file.getvalue()))
    return files


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Damage a file in one of eight ways, half of them near its header."""
    size = len(data)
    near = int(random.integers(1, min(size, 200) if random.random() < 0.5 else size))
    span = int(random.integers(1, 1 + min(2_000, size - near + 1)))
    out = bytearray(data)
    match int(random.integers(8)):
        case 0:
            out[near] ^= 1 << int(random.integers(8))
        case 1:
            return data[:near]
        case 2:
            del out[near : near + span]
        case 3:
            out[near:near] = random.bytes(span)
        case 4:
            out[near:near] = out[near : near + span]
        case 5:
            out[near : near + 4] = random.choice([bytes(4), b"\xff" * 4, random.bytes(4)])
        case 6:
            out[near : near + span] = bytes(len(out[near : near + span]))
        case _:
            for at in random.integers(0, min(size, 100), 3):
                out[at] = int(random.integers(256))
    return bytes(out)


def _format(file) -> str:
    """The rate, channels and encoding that the header states: samples of another kind."""
    try:
        sound = soundfile.SoundFile(file.fileno(), closefd=False)
        return f"{sound.samplerate} {sound.channels} {sound.subtype}"
    except soundfile.SoundFileError:
        return "?"


def _work(connection, folder: str) -> None:
    from fusion_engine.audio import load
    from fusion_engine.errors import AudioError

    path = Path(folder, f"{multiprocessing.current_process().pid}")
    while (data := connection.recv_bytes()) != b"":
        path.write_bytes(data)
        try:
            frames = len(load(path, RATE).samples)
            with path.open("rb") as file:
                answer = f"{frames} {_format(file)}"
        except AudioError:
            answer = "error"
        except BaseException as error:
            answer = f"raw {error!r}"
        connection.send(answer)


class _Worker:
    """A process that loads files, replaced where it dies or hangs."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, self.folder), daemon=True)
        self.process.start()
        other.close()

    def ask(self, data: bytes) -> str:
        """The count of samples, "error", "raw …", "hang" or "crash"."""
        self.pipe.send_bytes(data)
        try:
            if self.pipe.poll(HANG):
                return str(self.pipe.recv())
            answer = "hang"
        except EOFError:
            answer = "crash"
        self.process.kill()
        self.process.join()
        self.start()
        return answer

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def run(count: int, seed: int, keep: Path | None = None) -> Counter[str]:
    """Outcomes of ``count`` mutants; those that fail are kept in a folder."""
    files, outcomes = corpus(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        worker = _Worker(folder)
        whole = [worker.ask(data).split(" ", 1) for _, data in files]
        for i in range(count):
            random = np.random.default_rng((seed, i))
            which = int(random.integers(len(files)))
            name, data = files[which]
            mutant = mutate(data, random)
            answer = worker.ask(mutant) if mutant else "error"
            if answer[0].isdigit():
                frames, stated = answer.split(" ", 1)
                if int(frames) >= int(whole[which][0]):
                    outcome = "same or longer"
                elif name.startswith("IRCAM"):
                    outcome = "shorter, of a format without a length"
                elif stated != whole[which][1] and stated != "?":
                    outcome = "as many as its other rate, channels or encoding give"
                else:
                    outcome = "shortened"
            else:
                outcome = "raw exception" if answer.startswith("raw") else answer
            outcomes[outcome] += 1
            if outcome in BAD:
                outcomes[f"{outcome} {name}"] += 1
                if keep is not None:
                    (keep / f"{i}-{outcome}-{name.replace('/', '-')}").write_bytes(mutant)
        worker.stop()
    return outcomes


def main() -> int:
    """Run from the command line; 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the files that fail")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    outcomes = run(options.count, options.seed, options.keep)
    for name, number in sorted(outcomes.items()):
        print(f"{number:8} {name}")
    return int(any(outcomes[name] for name in BAD))


if __name__ == "__main__":
    sys.exit(main())
