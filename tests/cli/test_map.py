"""``fusion-engine map``."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ..map.tables import write_table
from .conftest import command, on_a_terminal, write_clip
from .test_main import examples

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("_here")]

PATHS = [f"clips/{bird}/{n}.wav" for bird in ("jay", "owl") for n in range(10)]
PCA = "PCA, the first two components with 100 % of the variance"


@pytest.fixture(autouse=True)
def table(tmp_path, monkeypatch):
    # Installed or not, the command says the same.
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr("fusion_engine.map.projection._installed", lambda: False)
    embeddings = np.random.default_rng(1).standard_normal((len(PATHS), 2))
    for path in PATHS:
        write_clip(tmp_path / path, seconds=0.1)
    return write_table(tmp_path / "clips.npz", PATHS, embeddings)


@pytest.fixture
def kinds(tmp_path):
    rows = [f"{path},{path.split('/')[1]}\n" for path in PATHS[:-1]]
    (tmp_path / "kinds.csv").write_text("".join(["path,kind\n", *rows]))


def test_a_page(cli, tmp_path):
    result = cli("map", "clips.npz", "-o", "map.html")
    assert (result.status, result.stdout) == (0, "")
    message, advice = result.stderr.splitlines()
    assert message == f"map.html: 20 points in 2 colour groups by folder; {PCA}"
    assert advice.startswith("UMAP shows more of the neighbourhoods: pip install")
    assert (tmp_path / "map.html").read_text().startswith("<!doctype html>")


@pytest.mark.usefixtures("kinds")
def test_the_examples_run(cli):
    for args in examples(cli, "map"):
        assert cli("map", *args).status == 0


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize("option", ["--colour-by", "--color-by"])
def test_colours_of_a_column(cli, option):
    result = cli(
        *("map", "clips.npz", "-o", "map.html", "--method", "pca"),
        *(option, "kind", "--labels", "kinds.csv"),
    )
    assert result.status == 0
    assert result.stderr.splitlines() == [
        f"map.html: 20 points in 2 colour groups by kind; {PCA}",
        "1 row without a label in kinds.csv",
    ]


def test_recordings_that_are_missing(cli, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    args = ["map", "../clips.npz", "-o", "map.html", "--method", "pca"]
    assert cli(*args).stderr.splitlines()[1] == (
        "warning: 20 of 20 recordings not found, and not played by the page; --audio-root names "
        "the folder in which the table's relative paths begin"
    )
    assert "warning" not in cli(*args, "--audio-root", "..").stderr


def test_recordings_in_the_page(cli, tmp_path):
    args = ["map", "clips.npz", "-o", "map.html", "--method", "pca"]
    cli(*args)
    without = (tmp_path / "map.html").stat().st_size
    assert cli(*args, "--embed-audio").status == 0
    sizes = sum((tmp_path / path).stat().st_size for path in PATHS)
    assert (tmp_path / "map.html").stat().st_size - without >= sizes * 4 / 3


def test_umap_by_name(cli, monkeypatch):
    double = SimpleNamespace(fit_transform=lambda scores: scores)
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=lambda **_: double))
    result = cli("map", "clips.npz", "-o", "map.html", "--method", "umap")
    assert result.stderr == (
        "map.html: 20 points in 2 colour groups by folder; UMAP of 2 principal components with "
        "100 % of the variance\n"
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no.parquet", "-o", "m.html"], "no.parquet: no such table"),
        (["clips/jay/0.wav", "-o", "m.html"], "not a table that `fusion-engine embed` writes"),
        (["clips.npz", "-o", "no/m.html"], "create the folder first"),
        (
            ["clips.npz", "-o", "m.html", "--method", "umap"],
            "umap-learn cannot be imported",
        ),
        (
            ["clips.npz", "-o", "m.html", "--labels", "no.csv", "--colour-by", "x"],
            "no.csv: No such file",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors(cli, tmp_path, args, message):
    before = sorted(tmp_path.iterdir())
    result = cli("map", *args)
    assert (result.status, result.stdout) == (1, "")
    assert message in result.stderr
    assert "bug" not in result.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-o", "m.html"], "Missing argument 'TABLE'"),
        (["t.npz"], "Missing option '--output' / '-o'"),
        (["t.npz", "-o", "m.gif"], "m.gif must end in .html or .png or .pdf or .svg"),
        (["t.npz", "-o", "m.html", "--colour-by", "x"], "--colour-by COLUMN and --labels FILE go"),
        (["t.npz", "-o", "m.html", "--labels", "x.csv"], "--colour-by COLUMN and --labels FILE go"),
        (["t.npz", "-o", "m.png", "--embed-audio"], "--embed-audio is for an .html page"),
        (["t.npz", "-o", "m.html", "--seed", "-1"], "'--seed'"),
        (["t.npz", "-o", "m.html", "--method", "tsne"], "'tsne' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(cli, args, message):
    result = cli("map", *args)
    assert (result.status, result.stdout) == (2, "")
    assert message in result.stderr


def test_the_labels_are_not_written_over(cli, tmp_path):
    for name in ("t.html", "l.html"):
        (tmp_path / name).write_text("path,x\n")
    args = ["map", "clips.npz", "-o", "l.html", "--colour-by", "x", "--labels", "l.html"]
    assert "it is the input l.html; choose another path" in cli(*args).stderr
    assert (tmp_path / "l.html").read_text() == "path,x\n"


def test_on_a_terminal_the_bar_goes_away():
    args = command("map", "clips.npz", "-o", "map.html", "--method", "pca")
    status, shown = on_a_terminal(args)
    assert status == 0
    assert "Projecting" in shown
    assert shown.rstrip().endswith(PCA)
    assert shown.rstrip().rpartition("\r")[2].startswith("map.html: 20 points")


def test_piped_there_is_no_bar(shell):
    result = shell("map", "clips.npz", "-o", "map.html", "--method", "pca")
    assert result.stderr == f"map.html: 20 points in 2 colour groups by folder; {PCA}\n"
