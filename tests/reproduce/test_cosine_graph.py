"""Near pairs by cosine distance, and DBSCAN on them, against dense matrices in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.cluster
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from reproduce import neighbours
from reproduce.clustering import DBSCAN, Rho, Tuned
from reproduce.errors import UserError
from reproduce.neighbours import cosine_graph


def dense(graph: sparse.csr_array) -> Any:
    full = np.ones(graph.shape)
    rows = np.repeat(np.arange(len(full)), np.diff(graph.indptr))
    full[rows, graph.indices] = graph.data
    return full


def slow(rows: Any) -> Any:
    """Compute cosine distances pair by pair; 1 from a row of zeros to any other, 0 to itself."""
    rows = np.asarray(rows, np.float64)
    n = len(rows)
    found = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            lengths = np.linalg.norm(rows[i]) * np.linalg.norm(rows[j])
            if i != j:
                found[i, j] = 1 - rows[i] @ rows[j] / lengths if lengths else 1.0
    return found


@st.composite
def embeddings(draw: st.DrawFn) -> Any:
    """Few dimensions and few levels: copies, multiples, zeros and ties."""
    n, columns = draw(st.integers(1, 14)), draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    return random.integers(-2, 3, (n, columns)) * random.choice([0.5, 1.0, 3.0], (n, 1))


@settings(max_examples=1000)
@given(rows=embeddings(), radius=st.sampled_from([0.0, 0.3, 0.77, 1.0]), cells=st.sampled_from([1, 20, 10**6]))
def test_all_pairs_within_the_radius_and_no_others(rows: Any, radius: float, cells: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_CELLS", cells)
        graph = cosine_graph(rows, radius=radius)
    expected = slow(rows)
    found = dense(graph)
    near = expected <= radius - 1e-6
    np.testing.assert_allclose(found[near], expected[near], atol=2e-6)
    assert (found[expected > radius + 1e-6] == 1).all()
    np.testing.assert_array_equal(found, found.T)
    assert (found.diagonal() == 0).all()
    assert graph.nnz == len(set(zip(*graph.tocoo().coords, strict=True)))


@settings(max_examples=500)
@given(rows=embeddings(), pairs=st.integers(1, 30), cells=st.sampled_from([1, 20, 10**6]))
def test_the_nearest_pairs(rows: Any, pairs: int, cells: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_CELLS", cells)
        graph = cosine_graph(rows, pairs=pairs)
    upper = np.triu(np.ones_like(graph.todense(), bool), 1)
    everything, found = np.sort(dense(cosine_graph(rows))[upper]), np.sort(dense(graph)[upper])
    copies = int((everything == 0).sum())
    np.testing.assert_allclose(found[: copies + pairs], everything[: copies + pairs], atol=2e-6)


@pytest.mark.parametrize("rule", [Rho(2e-2), Rho(1.6e-3, of=12936), Rho(of=100)])
def test_dbscan_by_a_rule_gets_the_pairs_it_needs(rule: Rho) -> None:
    draw = np.random.default_rng(3)
    people = draw.standard_normal((12, 24))
    rows = people[draw.integers(0, 12, 300)] + 0.5 * draw.standard_normal((300, 24))
    rows[7] = rows[8]
    distances = slow(rows)
    upper = np.sort(distances[np.triu_indices(300, 1)])
    upper = upper[upper > 1e-6]
    expected = upper[: max(1, round(rule.share(300) * len(upper)))].mean()
    cluster = DBSCAN(rule)
    graph = cosine_graph(rows, **cluster.reach(300))
    assert graph.nnz < 300**2 / 2
    assert cluster.radius(graph) == pytest.approx(expected, rel=1e-5)
    labels = sklearn.cluster.DBSCAN(eps=expected, min_samples=4, metric="precomputed").fit_predict(distances)
    np.testing.assert_array_equal(cluster.labels(graph), labels)
    settled = cluster.settled(graph)
    again = cosine_graph(rows, **settled.reach(300))
    np.testing.assert_array_equal(settled.labels(again), labels)


def test_share_for_another_number_of_images_keeps_pairs_per_image() -> None:
    rule = Rho(1.6e-3, of=12936)
    assert rule.share(12936) == 1.6e-3
    for n in (200, 1106, 32621):
        assert rule.share(n) * (n - 1) / 2 == pytest.approx(1.6e-3 * 12935 / 2)
    assert rule.share(2) == 1


def test_invalid_input_raises() -> None:
    rows = np.eye(3)
    with pytest.raises(UserError, match=r"radius is 1\.5"):
        cosine_graph(rows, radius=1.5)
    with pytest.raises(UserError, match="at least one pair"):
        cosine_graph(rows, pairs=0)
    with pytest.raises(UserError, match="NaN"):
        cosine_graph(rows * np.nan)
    with pytest.raises(UserError, match=r"Tuned.*resolved"):
        DBSCAN(Tuned(0.4)).labels(cosine_graph(rows))
