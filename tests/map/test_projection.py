import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from fusion_engine import BackendError, FusionEngineError, table_reader
from fusion_engine.map import projection
from fusion_engine.map.projection import principal_components, project
from fusion_engine.table_reader import open_table

from .tables import write_table

RNG = np.random.default_rng(5)


def decaying(rows, dim, offset=0.0):
    """Singular values fall as 1/k, in a basis that is not the axes'."""
    left = np.linalg.qr(RNG.standard_normal((rows, dim)))[0]
    right = np.linalg.qr(RNG.standard_normal((dim, dim)))[0]
    return left / np.arange(1, dim + 1) @ right * 100 + offset


def opened(folder, embeddings, **kwargs):
    paths = [f"{n}.wav" for n in range(len(embeddings))]
    return open_table(write_table(folder / "t.parquet", paths, embeddings, **kwargs))


def clusters(rows_each):
    centres = 20 * RNG.standard_normal((3, 64))
    return np.concatenate([c + RNG.standard_normal((rows_each, 64)) for c in centres])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_components_are_scikit_learns(dtype, offset, tmp_path, monkeypatch):
    monkeypatch.setattr(table_reader, "_BLOCK_BYTES", 4 * 48 * 31)
    table = opened(tmp_path, decaying(300, 48, offset), dtype=dtype)
    kept = np.concatenate(list(table.blocks())).astype(np.float64)
    found = principal_components(table, 2)
    expected = PCA(2, svd_solver="full").fit(kept)
    scores = expected.transform(kept)
    # Up to a sign, which is theirs to choose.
    scores *= np.sign((scores * found.scores).sum(axis=0))
    np.testing.assert_allclose(found.scores, scores, atol=1e-6 * np.abs(scores).max())
    np.testing.assert_allclose(found.share, expected.explained_variance_ratio_, rtol=1e-9)


def test_the_largest_loading_is_positive(tmp_path):
    embeddings = decaying(100, 16)
    for sign in (1, -1):
        table = opened(tmp_path, sign * embeddings)
        scores = principal_components(table, 3).scores
        loadings = np.linalg.lstsq(scores, sign * (embeddings - embeddings.mean(axis=0)))[0]
        assert (loadings[range(3), np.abs(loadings).argmax(axis=1)] > 0).all()


def test_more_components_than_there_are(tmp_path):
    embeddings = decaying(40, 5)
    found = principal_components(opened(tmp_path, embeddings), 50)
    assert found.scores.shape == (40, 5)
    assert found.share.sum() == pytest.approx(1)
    centred = embeddings.astype(np.float32) - embeddings.astype(np.float32).mean(axis=0)
    np.testing.assert_allclose(found.scores @ found.scores.T, centred @ centred.T, atol=1e-2)


def test_the_same_seed_gives_the_same_points(tmp_path):
    table = opened(tmp_path, decaying(200, 32))
    first = project(table, "pca", seed=3)
    np.testing.assert_array_equal(first.points, project(table, "pca", seed=3).points)
    # Another start of the iteration ends in the same place.
    np.testing.assert_allclose(first.points, project(table, "pca", seed=4).points, atol=1e-6)


def test_points_fill_the_square_at_one_scale(tmp_path):
    embeddings = np.zeros((101, 8))
    embeddings[:, 2] = np.linspace(-30, 10, 101)
    embeddings[:, 5] = 5 * np.sin(np.linspace(0, 20, 101))
    made = project(opened(tmp_path, embeddings), "pca")
    assert made.points.dtype == np.float32
    low, high = made.points.min(axis=0), made.points.max(axis=0)
    np.testing.assert_allclose([low[0], high[0]], [-1, 1], atol=1e-6)
    np.testing.assert_allclose(high[1], -low[1], atol=1e-6)
    assert 0.2 < high[1] < 0.3
    assert made.text == "PCA, the first two components with 100 % of the variance"


@pytest.mark.parametrize("dim", [1, 4])
def test_rows_that_are_all_alike_are_one_point(dim, tmp_path):
    made = project(opened(tmp_path, np.full((5, dim), 3.0)), "pca")
    np.testing.assert_array_equal(made.points, np.zeros((5, 2), np.float32))
    assert "0 % of the variance" in made.text


def test_embeddings_of_one_value(tmp_path):
    made = project(opened(tmp_path, [[0.0], [1.0], [4.0]]), "pca")
    np.testing.assert_allclose(made.points, [[-1, 0], [-0.5, 0], [1, 0]], atol=1e-7)


def test_too_few_rows(tmp_path):
    with pytest.raises(FusionEngineError, match="2 rows are too few for a map, expected at least"):
        project(opened(tmp_path, np.eye(2)))
    with pytest.raises(FusionEngineError, match=r"15 rows are too few for UMAP .* least 16; take"):
        project(opened(tmp_path, np.eye(15)), "umap")
    assert project(opened(tmp_path, np.eye(15))).method == "pca"


def test_auto_takes_what_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(projection, "_installed", lambda: False)
    assert project(opened(tmp_path, np.eye(16))).method == "pca"


def test_umap_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(BackendError, match=r"Install it: pip install .*\[map\].* method pca"):
        project(opened(tmp_path, np.eye(16)), "umap")


def test_what_umap_is_given(tmp_path, monkeypatch):
    given = {}

    class Double:
        def __init__(self, **kwargs):
            given.update(kwargs)

        def fit_transform(self, scores):
            given["scores"] = scores
            return scores[:, 1:3]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Double))
    table, phases = opened(tmp_path, decaying(120, 80)), []
    made = project(table, "umap", seed=7, progress=lambda *step: phases.append(step))
    scores = given.pop("scores")
    assert given == {"n_neighbors": 15, "random_state": 7, "n_jobs": 1}
    assert (scores.dtype, scores.shape) == (np.float32, (120, 50))
    np.testing.assert_array_equal(
        scores, principal_components(table, 50, seed=7).scores.astype(np.float32)
    )
    assert made.text.startswith("UMAP of 50 principal components with 100 % of")
    reads = [step for name, step, of in phases if name == "Projecting" and of == 8 * 120]
    assert reads[0] == 0
    assert reads[-1] == 8 * 120
    assert phases[-2:] == [("UMAP", 0, 1), ("UMAP", 1, 1)]


def test_umap_keeps_neighbours(tmp_path):
    pytest.importorskip("umap", reason="umap-learn is not installed")
    embeddings = clusters(20)
    table = opened(tmp_path, embeddings)
    made = project(table)
    assert made.method == "umap"
    assert trustworthiness(embeddings, made.points, n_neighbors=5) > 0.75
    groups = made.points.reshape(3, 20, 2)
    centres = groups.mean(axis=1)
    spread = np.linalg.norm(groups - centres[:, None], axis=-1).max()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(centres[one] - centres[other]) > 2 * spread
    np.testing.assert_array_equal(made.points, project(table).points)
