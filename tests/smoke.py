"""``python -m tests.smoke``: an installed package with the extra ``cpu`` embeds a file.

For wheels, where nothing of the extra ``test`` is installed. Run it from the repository's root.
"""

import subprocess
import sysconfig
import tempfile
from pathlib import Path

import numpy as np

import fusion_engine as fe

from .engine.cuda.artifacts import SPECS, write_artifact

CLIP = Path(__file__).parents[1] / "examples" / "bell.wav"
COMMAND = Path(sysconfig.get_path("scripts")) / "fusion-engine"


def main() -> None:
    """Raise unless the command and the engine give the same finite embedding."""
    for args in (["--help"], ["doctor"]):
        subprocess.run([COMMAND, *args], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        for name, spec in SPECS.items():
            path = write_artifact(Path(folder) / f"{name}.onnx", spec)
            table = path.with_suffix(".npz")
            subprocess.run([COMMAND, "embed", path, CLIP, "-o", table], check=True)
            (row,) = np.load(table)["embeddings"]
            assert row.shape == (spec.embedding_dim,)
            assert np.isfinite(row).all()
            np.testing.assert_array_equal(row, fe.Engine(path, device="cpu").embed(CLIP))
    print(f"{fe.__file__}: version {fe.__version__} embeds")


if __name__ == "__main__":
    main()
