"""Export CNN14-Fusion, embed the clips beside this file, and compare them."""

import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import fusion_engine as fe
from fusion_engine.export import export

CLIPS = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in {".wav", ".flac"})

console = Console(width=None if sys.stdout.isatty() else 110)


def export_cnn14(folder: Path) -> Path:
    """CNN14-Fusion with the pretrained weights, or with random ones where they cannot be had."""
    artifact = folder / "cnn14_3_6.onnx"
    console.print("Exporting CNN14 with layers 3 and 6, pretrained weights (PANNs, 330 MB) …")
    try:
        report = export("cnn14", artifact, layers=[3, 6], weights="pretrained")
    except fe.WeightsError as error:
        console.print(f"\n[bold yellow]{'!' * 80}[/]")
        console.print("[bold yellow]The pretrained weights cannot be had here:[/]")
        console.print(str(error), markup=False)
        console.print(
            "[bold yellow]Going on with seeded RANDOM weights: everything runs as it would, but "
            "the similarities below mean little.[/]"
        )
        console.print(f"[bold yellow]{'!' * 80}[/]\n")
        report = export("cnn14", artifact, layers=[3, 6], weights="random:0")
    console.print(
        f"Exported in {report.seconds:.1f} s, {report.bytes / 1e6:.0f} MB; largest error against "
        f"PyTorch {max(report.max_error.values()):.1e}"
    )
    return artifact


def main() -> None:
    """Show the cosine similarities of the example clips' embeddings."""
    with tempfile.TemporaryDirectory() as folder:
        engine = fe.Engine(export_cnn14(Path(folder)))
        console.print(f"Embedding {len(CLIPS)} clips on {engine.device}, {engine.backend}")
        embeddings = engine.embed(CLIPS)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = unit @ unit.T
    names = [path.stem for path in CLIPS]
    table = Table("", *names, title=f"Cosine similarity of the {engine.embedding_dim}-d embeddings")
    for name, row in zip(names, similarity, strict=True):
        table.add_row(name, *(f"{value:.3f}" for value in row))
    console.print(table)


if __name__ == "__main__":
    main()
