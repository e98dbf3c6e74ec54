"""A first look at fusion_engine: the clips beside this file, from audio to a search and a map."""

import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from fusion_engine import WeightsError
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
        )
        return "random:0"


def run(*arguments: str | Path) -> None:
    """Type a command."""
    words = [str(argument) for argument in arguments]
    console.print(f"\n$ fusion-engine {shlex.join(words)}", style="bold", markup=False)
    subprocess.run([sys.executable, "-m", "fusion_engine", *words], cwd=ROOT, check=True)


def main() -> None:
    """Export, embed, search, and draw a map."""
    weights = find_weights()
    (ROOT / OUT).mkdir(parents=True, exist_ok=True)
    run("export", "cnn14", "--layers", "3", "6", "--weights", weights, "-o", ARTIFACT)
    TABLE_PATH = ROOT / TABLE
    TABLE_PATH.unlink(missing_ok=True)
    run("embed", ARTIFACT, "examples", "-o", TABLE)
    run("search", TABLE, "examples/speech_man.wav", "--engine", ARTIFACT, "-k", "3")
    run("map", TABLE, "-o", MAP, "--embed-audio")
    console.print(f"\nOpen {(ROOT / MAP).as_uri()} in a browser.", style="green", soft_wrap=True)


if __name__ == "__main__":
    main()
