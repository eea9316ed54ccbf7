"""DBSCAN and its rules on graphs against dense matrices, sklearn and slow loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.cluster
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from reproduce.clustering import DBSCAN, KMeans, MostClusters, Rho, TopP
from reproduce.errors import UserError
from reproduce.neighbours import cosine_graph, jaccard_graph


def dense(graph: Any) -> Any:
    """All distances of a graph, as float32."""
    full = np.ones(graph.shape, np.float32)
    rows = np.repeat(np.arange(len(full)), np.diff(graph.indptr))
    full[rows, graph.indices] = graph.data
    return full


def published_eps(distances: Any, share: float) -> float:
    """Compute the rule like published code: upper triangle, zeros dropped, sorted, mean of the lowest."""
    upper = np.triu(distances, 1)
    upper = np.sort(upper[np.nonzero(upper)].astype(np.float64), axis=None)
    return float(upper[: max(1, np.round(share * upper.size).astype(int))].mean())


def clusters(n: int, seed: int = 0) -> Any:
    draw = np.random.default_rng(seed)
    people = draw.standard_normal((max(1, n // 12), 16))
    rows = people[draw.integers(0, len(people), n)] + 0.7 * draw.standard_normal((n, 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@st.composite
def graphs(draw: st.DrawFn) -> sparse.csr_array:
    """Small symmetric graphs on few levels, the diagonal stored."""
    n = draw(st.integers(1, 12))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    levels = draw(st.sampled_from([2, 8]))
    stored = random.random((n, n)) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    distances = random.integers(0, levels, (n, n)) / levels
    stored, distances = np.triu(stored, 1), np.triu(distances, 1)
    stored, distances = stored | stored.T | np.eye(n, dtype=bool), distances + distances.T
    rows, columns = np.nonzero(stored)
    indptr = np.concatenate([[0], np.cumsum(stored.sum(1))])
    return sparse.csr_array((distances[rows, columns].astype(np.float32), columns, indptr), shape=(n, n))


@settings(max_examples=1500)
@given(graph=graphs(), eps=st.integers(0, 20), min_samples=st.integers(1, 6))
def test_labels_equal_those_of_the_dense_matrix(graph: sparse.csr_array, eps: int, min_samples: int) -> None:
    expected = sklearn.cluster.DBSCAN(
        eps=max(eps / 8, 1e-9), min_samples=min_samples, metric="precomputed"
    ).fit_predict(dense(graph))
    np.testing.assert_array_equal(DBSCAN(eps / 8, min_samples).labels(graph), expected)


@pytest.mark.parametrize("variant", ["spcl", "mmt"])
def test_labels_of_jaccard_graphs(variant: str) -> None:
    graph = jaccard_graph(clusters(500), 20, 6, variant=variant)
    for eps in (0.3, 0.5, 0.6, 0.7):
        expected = sklearn.cluster.DBSCAN(eps=eps, min_samples=4, metric="precomputed").fit_predict(dense(graph))
        assert expected.max() > 3
        np.testing.assert_array_equal(DBSCAN(eps, 4).labels(graph), expected)
    again = DBSCAN(Rho(), 4).settled(graph)
    np.testing.assert_array_equal(again.labels(graph), DBSCAN(Rho(), 4).labels(graph))
    assert again.eps == pytest.approx(published_eps(dense(graph), 1.6e-3), rel=1e-6)


@settings(max_examples=1000)
@given(graph=graphs(), share=st.sampled_from([1e-3, 0.01, 0.1, 0.3, 0.7, 1.0]))
def test_rules_count_absent_pairs_at_their_value(graph: sparse.csr_array, share: float) -> None:
    upper = dense(graph).astype(np.float64)[np.triu_indices(graph.shape[0], 1)]
    for rule, values in ((Rho(share), upper[upper > 0]), (TopP(share), upper)):
        if not len(values):
            with pytest.raises(UserError, match="too few, or all zero"):
                rule.eps(graph)
        else:
            lowest = np.sort(values)[: max(1, round(share * len(values)))]
            assert rule.eps(graph) == pytest.approx(lowest.mean(), abs=1e-6)


def test_rules_differ_by_zeros_only() -> None:
    graph = jaccard_graph(np.repeat(clusters(100), 2, axis=0), 10, 3)
    assert TopP(0.01).eps(graph) < Rho(0.01).eps(graph)
    graph = jaccard_graph(clusters(200), 10, 3)
    assert published_eps(dense(graph), 0.02) == pytest.approx(Rho(0.02).eps(graph), rel=1e-6)


@pytest.mark.parametrize("rule", [Rho, TopP])
def test_share_for_another_number_of_images(rule: type[Rho] | type[TopP]) -> None:
    """An image has as many neighbours on average within the share: p (of - 1)."""
    assert rule(1.6e-3).share(50) == 1.6e-3
    assert rule(1.6e-3, of=12936).share(12936) == 1.6e-3
    assert rule(1.6e-3, of=12936).share(925) * 924 == pytest.approx(1.6e-3 * 12935)
    assert rule(6.4e-3, of=12936).share(20) == 1.0
    graph = jaccard_graph(clusters(100), 10, 3)
    assert rule(0.01, of=397).eps(graph) == rule(0.04).eps(graph)
    assert DBSCAN(rule(0.01, of=397)).reach(100) == DBSCAN(rule(0.04)).reach(100)


def test_a_factor_multiplies_the_mean_not_the_share() -> None:
    graph = jaccard_graph(clusters(100), 10, 3)
    usual, less = Rho(0.02), Rho(0.02, factor=0.8)
    assert less.share(100) == usual.share(100)
    assert less.eps(graph) == pytest.approx(0.8 * usual.eps(graph))


def test_a_plain_matrix_is_a_graph_whose_absent_pairs_have_distance_one() -> None:
    graph = jaccard_graph(clusters(200), 10, 3)
    plain = sparse.csr_matrix(graph)
    for rule in (0.6, 1.0, Rho(), TopP(0.9)):
        np.testing.assert_array_equal(DBSCAN(rule).labels(plain), DBSCAN(rule).labels(graph))


def test_single_image_and_unlimited_eps() -> None:
    one = jaccard_graph(clusters(1))
    assert DBSCAN(0.6, 4).labels(one).tolist() == [-1]
    assert DBSCAN(0.6, 1).labels(one).tolist() == [0]
    graph = jaccard_graph(clusters(60), 5, 2)
    assert set(DBSCAN(1.0, 4).labels(graph)) == {0}
    assert set(DBSCAN(1.0, 61).labels(graph)) == {-1}


def test_rule_is_fixed_once() -> None:
    graph = jaccard_graph(clusters(200), 10, 3)
    settled = DBSCAN(Rho()).settled(graph)
    assert isinstance(settled.eps, float)
    assert settled.settled(jaccard_graph(clusters(100), 10, 3)) is settled


def most_clusters_slowly(rows: Any, min_samples: int, least: int) -> tuple[float, int]:
    """Find the smallest eps of the grid that leaves most clusters of at least `least` images, and their number."""
    distances = dense(cosine_graph(rows)).astype(np.float64)
    n = len(rows)
    pairs = sorted(distances[i, j] for i in range(n) for j in range(i))
    best = (-1.0, -1)
    for neighbours in (0.5 * 1.1**k for k in range(42)):
        eps = pairs[min(max(round(neighbours * n / 2), 1), len(pairs)) - 1]
        dbscan = sklearn.cluster.DBSCAN(eps=max(eps, 1e-12), min_samples=min_samples, metric="precomputed")
        labels = dbscan.fit_predict(distances)
        left = sum((labels == label).sum() >= least for label in set(labels) - {-1})
        if left > best[1]:
            best = (eps, left)
    return best


def of_at_least(least: int) -> Any:
    def kept(labels: Any) -> Any:
        large = [label for label in np.unique(labels[labels >= 0]) if (labels == label).sum() >= least]
        return np.array([large.index(label) if label in large else -1 for label in labels])

    return kept


@settings(max_examples=60, deadline=None)
@given(n=st.integers(4, 90), seed=st.integers(0, 10**6), copies=st.integers(1, 2), least=st.integers(1, 8))
def test_most_clusters_is_the_best_of_its_grid(n: int, seed: int, copies: int, least: int) -> None:
    rows = np.repeat(clusters(n, seed), copies, axis=0)
    rule = DBSCAN(MostClusters(), 3)
    graph = cosine_graph(rows, **rule.reach(len(rows)))
    eps, left = most_clusters_slowly(rows, 3, least)
    kept = of_at_least(least)
    assert rule.radius(graph, kept) == eps
    assert kept(DBSCAN(eps, 3).labels(graph)).max() + 1 == left
    links = DBSCAN(MostClusters(size=least), 1)
    assert links.radius(graph) == most_clusters_slowly(rows, 1, least)[0], "images left alone do not count"


def test_clusterings_of_several_core_sizes_can_share_an_eps() -> None:
    graph = cosine_graph(clusters(90))
    found = {least: DBSCAN(MostClusters(), least).radius(graph) for least in (2, 4, 9)}
    assert len(set(found.values())) == 3
    assert {DBSCAN(MostClusters(min_samples=4), least).radius(graph) for least in (2, 4, 9)} == {found[4]}


def test_most_clusters_finds_people_without_chaining_them() -> None:
    draw = np.random.default_rng(5)
    people = np.repeat(draw.standard_normal((40, 32)), 20, axis=0)
    rows = people + 0.6 * draw.standard_normal(people.shape)
    rule = DBSCAN(MostClusters(), 4)
    graph = cosine_graph(rows, **rule.reach(len(rows)))
    labels = DBSCAN(rule.radius(graph), 4).labels(graph)
    truth = np.arange(len(rows)) // 20
    assert all(len(np.unique(truth[labels == label])) == 1 for label in range(labels.max() + 1))
    assert len(np.unique(truth[labels >= 0])) > 35


@pytest.mark.parametrize(("eps", "again"), [(Rho(0.2), 0.25), (TopP(0.2), 0.25), (0.5, 0.25), (MostClusters(), None)])
def test_an_earlier_eps_stays_unless_it_is_searched_every_time(eps: Any, again: float | None) -> None:
    rule = DBSCAN(eps, 2)
    graph = cosine_graph(clusters(40))
    assert rule.radius(graph, before=0.25) == (rule.radius(graph) if again is None else again)
    assert rule.radius(graph, before=None) == rule.radius(graph) != 0.25


def test_most_clusters_without_near_images_raises() -> None:
    with pytest.raises(UserError, match="no two are near each other: give eps as a number"):
        DBSCAN(MostClusters()).radius(cosine_graph(clusters(1)))


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (DBSCAN(-0.1), "eps is -0.1"),
        (DBSCAN(float("nan")), "eps is nan"),
        (DBSCAN(0.5, 0), "min_samples 0"),
        (DBSCAN(Rho(0.0)), "share of distances is 0.0"),
        (DBSCAN(TopP(1.5)), "share of distances is 1.5"),
    ],
)
def test_invalid_parameters_raise(cluster: DBSCAN, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cluster.labels(jaccard_graph(clusters(30), 5, 2))


def test_k_means_finds_clear_clusters() -> None:
    truth = np.arange(120) % 6
    rows = np.eye(6, 8, dtype=np.float32)[truth] + 0.01 * np.random.default_rng(0).standard_normal((120, 8))
    for cluster in (KMeans(6), KMeans(images_per_cluster=20), KMeans(images_per_cluster=18.5)):
        labels = cluster.labels(rows)
        assert labels.dtype == np.int64
        assert len(set(zip(labels, truth, strict=True))) == 6
    np.testing.assert_array_equal(KMeans(6, seed=3).labels(rows), KMeans(6, seed=3).labels(rows))


def test_k_means_with_invalid_input_raises() -> None:
    for options in ({}, {"k": 3, "images_per_cluster": 4}):
        with pytest.raises(UserError, match="either k or images_per_cluster"):
            KMeans(**options)
    with pytest.raises(UserError, match="k is 9 and there are 5 images"):
        KMeans(9).labels(clusters(5))
    with pytest.raises(UserError, match="row 0 of embeddings holds NaN"):
        KMeans(2).labels(np.full((5, 3), np.nan))
