"""The notebook runs, and what it shows is what it gives."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "first_look.ipynb"


def shown(notebook):
    """What each cell prints and shows, with numbers left open."""
    return [
        [
            re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", output.get("text", ""))
            or sorted(output.get("data", {}))
            for output in cell.outputs
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.heavy
def test_the_notebook(tmp_path):
    folder = shutil.copytree(EXAMPLES, tmp_path / "examples")
    committed = nbformat.read(NOTEBOOK, 4)
    notebook = nbformat.read(NOTEBOOK, 4)
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": folder}},
    ).execute()
    assert sum(map(len, shown(committed))) >= 6
    assert shown(notebook) == shown(committed)
