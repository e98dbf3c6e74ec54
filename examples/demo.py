"""A first look at fusion_engine: the clips beside this file, from audio to a search and a map."""

import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from fusion_engine import Engine, WeightsError
from fusion_engine.weights import pretrained_path

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("build/demo")
ARTIFACT, TABLE, MAP = OUT / "cnn14_3_6.onnx", OUT / "clips.parquet", OUT / "map.html"

console = Console(highlight=False)


def find_weights() -> str:
    """The published weights, or random ones where they cannot be had."""
    try:
        pretrained_path("cnn14_16k")
        return "pretrained"
    except WeightsError:
        console.print(
            "The published weights (330 MB, from zenodo.org) cannot be had here: random ones stand "
            "in, and which clips are alike means little.",
            style="yellow",
            soft_wrap=True,
        )
        return "random:0"


def run(*arguments: str | Path) -> None:
    """Type a command."""
    words = [str(argument) for argument in arguments]
    line = f"\n$ fusion-engine {shlex.join(words)}"
    console.print(line, style="bold", markup=False, soft_wrap=True)
    subprocess.run([sys.executable, "-m", "fusion_engine", *words], cwd=ROOT, check=True)


def time_clips() -> None:
    """Say how long an engine that is open takes for the clips."""
    clips = sorted(Path(__file__).parent.glob("*.wav"))
    engine = Engine(ROOT / ARTIFACT)
    engine.embed(clips)
    before, start = engine.stats.audio_seconds, time.perf_counter()
    engine.embed(clips)
    took = time.perf_counter() - start
    speed = (engine.stats.audio_seconds - before) / took
    line = f"{took / len(clips):.2f} s per clip, {speed:.0f} × real time"
    console.print(f"\nFrom Python, on {engine.device}: {line}.", soft_wrap=True)


def main() -> None:
    """Export, embed, search, and draw a map."""
    weights = find_weights()
    (ROOT / OUT).mkdir(parents=True, exist_ok=True)
    run("export", "cnn14", "--layers", "3", "6", "--weights", weights, "-o", ARTIFACT)
    run("embed", ARTIFACT, "examples", "--window", "1", "--hop", "0.5", "-o", TABLE, "--overwrite")
    run("search", TABLE, "examples/dog.wav@0-1", "--engine", ARTIFACT, "-k", "5")
    labels = ("--labels", "examples/kinds.csv", "--colour-by", "kind")
    run("map", TABLE, *labels, "--embed-audio", "-o", MAP)
    time_clips()
    console.print(f"\nOpen {(ROOT / MAP).as_uri()} in a browser.", style="green", soft_wrap=True)


if __name__ == "__main__":
    main()
