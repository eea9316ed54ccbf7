"""Re-ranking, and evaluation from embeddings, against dense definitions in float64."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reproduce import evaluation, neighbours
from reproduce.errors import UserError
from reproduce.evaluation import Rerank, evaluate_embeddings, evaluate_ranking
from reproduce.neighbours import distances, rerank


def people(count: int, columns: int = 24, seed: int = 0) -> Any:
    """Draw embeddings of unit length, about 8 per identity."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((max(1, count // 8), columns))
    rows = centres[draw.integers(0, len(centres), count)] + 0.7 * draw.standard_normal((count, columns))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def slow(query: Any, gallery: Any, k1: int, k2: int, lambda_: float) -> Any:
    """Compute the definition on dense matrices; neighbours are the image itself, then by distance, then by index."""
    rows = np.concatenate([query, gallery]).astype(np.float64)
    n = len(rows)
    squared = ((rows[:, None] - rows[None]) ** 2).sum(2)
    largest = squared.max(1, keepdims=True)
    original = squared / np.where(largest > 0, largest, 1)
    ranks = np.array([sorted(range(n), key=lambda j: (j != i, squared[i, j], j)) for i in range(n)])

    def reciprocal(i: int, k: int) -> list[int]:
        return [j for j in ranks[i, : k + 1] if i in ranks[j, : k + 1]]

    codes = np.zeros((n, n))
    for i in range(n):
        members = reciprocal(i, k1)
        expanded = list(members)
        for j in members:
            theirs = reciprocal(j, int(np.around(k1 / 2)))
            if len(np.intersect1d(theirs, members)) > 2 / 3 * len(theirs):
                expanded += theirs
        expanded = np.unique(expanded)
        codes[i, expanded] = np.exp(-original[i, expanded])
        codes[i] /= codes[i].sum()
    if k2 > 1:
        codes = np.stack([codes[ranks[i, :k2]].mean(0) for i in range(n)])
    shared = np.minimum(codes[: len(query), None], codes[None, len(query) :]).sum(2)
    return (1 - lambda_) * (1 - shared / (2 - shared)) + lambda_ * original[: len(query), len(query) :]


def whole(blocks: Any) -> Any:
    parts = list(blocks)
    assert {part.dtype for part in parts} == {np.dtype(np.float32)}
    return np.concatenate(parts)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(("k1", "k2", "lambda_"), [(20, 6, 0.3), (7, 1, 0.0), (5, 5, 1.0), (500, 6, 0.3)])
def test_equals_the_dense_definition(k1: int, k2: int, lambda_: float) -> None:
    query, gallery = people(30, seed=1), people(130)
    expected = slow(query, gallery, k1, k2, lambda_)
    np.testing.assert_allclose(whole(rerank(query, gallery, k1, k2, lambda_)), expected, atol=2e-6)


@pytest.mark.usefixtures("loops")
@settings(max_examples=400)
@given(data=st.data())
def test_equals_the_dense_definition_with_ties(data: st.DataObject) -> None:
    queries, images, columns = (data.draw(st.integers(1, most)) for most in (4, 10, 3))
    levels = data.draw(st.sampled_from([1, 2, 6]))
    rows = np.random.default_rng(data.draw(st.integers(0, 10**6))).integers(
        -levels, levels + 1, (queries + images, columns)
    )
    rows = rows.astype(np.float32)
    k1 = data.draw(st.integers(1, 12))
    k2, lambda_ = data.draw(st.integers(1, k1)), data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    expected = slow(rows[:queries], rows[queries:], k1, k2, lambda_)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_CELLS", data.draw(st.sampled_from([1, 30, 10**6])))
        computed = whole(rerank(rows[:queries], rows[queries:], k1, k2, lambda_))
    np.testing.assert_allclose(computed, expected, atol=3e-6)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
def test_tiles_change_nothing(low: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = people(200, seed=1), people(900)
    expected = whole(rerank(query, gallery))
    monkeypatch.setattr(neighbours, "_TILE", 192)
    with neighbours.using(bfloat16=low):
        np.testing.assert_allclose(whole(rerank(query, gallery)), expected, atol=2e-6)


def test_cosine_rescales_and_euclidean_does_not() -> None:
    query, gallery = people(10, seed=1), people(60)
    longer = 3 * query, gallery * np.linspace(1, 4, 60)[:, None]
    expected = whole(rerank(query, gallery))
    np.testing.assert_allclose(whole(rerank(*longer, metric="cosine")), expected, atol=1e-5)
    assert abs(whole(rerank(*longer)) - expected).max() > 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lambda_": 1.5}, "lambda is 1.5"),
        ({"k1": 3, "k2": 4}, "k1 is 3 and k2 4"),
        ({"metric": "cos"}, "metric is 'cos'; choose cosine or euclidean"),
        ({"query": people(3, 7)}, "7 dimensions do not compare with 24"),
        ({"query": np.full((3, 24), np.nan)}, "row 0 of the queries' embeddings holds NaN"),
        ({"gallery": people(3)[:0]}, r"the gallery's embeddings have shape \(0, 24\)"),
        ({"query": people(3)[:0]}, r"the queries' embeddings have shape \(0, 24\)"),
    ],
)
def test_invalid_input_raises_before_any_computation(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rerank(**{"query": people(3), "gallery": people(9), **arguments})


# Evaluation from embeddings


def labelled(queries: int, images: int, seed: int = 0) -> tuple[Any, ...]:
    draw = np.random.default_rng(seed)
    pids = draw.integers(1, images // 6 + 2, queries + images)
    cams = draw.integers(0, 3, queries + images)
    rows = draw.standard_normal((images // 6 + 3, 24))[pids] + draw.standard_normal((queries + images, 24))
    rows, pids = rows.astype(np.float32), np.where(draw.random(queries + images) < 0.1, -1, pids)
    pids[:queries] = np.abs(pids[:queries])
    return rows[:queries], rows[queries:], pids[:queries], pids[queries:], cams[:queries], cams[queries:]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("rule", [None, Rerank(), Rerank(8, 3, 0.5)])
def test_scores_equal_those_of_the_matrix(metric: Any, rule: Rerank | None, monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery, *labels = labelled(40, 300)
    rows = query.astype(np.float64), gallery.astype(np.float64)
    if metric == "cosine":
        rows = tuple(part / np.linalg.norm(part, axis=1, keepdims=True) for part in rows)
    if rule is None:
        matrix = ((rows[0][:, None] - rows[1][None]) ** 2).sum(2)
    else:
        matrix = slow(*rows, rule.k1, rule.k2, rule.lambda_)
    expected = evaluate_ranking(matrix, *labels)
    monkeypatch.setattr(neighbours, "_CELLS", 2000)
    scores = evaluate_embeddings(query, gallery, *labels, metric=metric, rerank=rule)
    np.testing.assert_allclose(scores.ap, expected.ap, atol=1e-3)
    assert scores.numbers == pytest.approx(expected.numbers, rel=1e-3)


def test_distances_come_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = people(20, seed=1), 2 * people(30)
    monkeypatch.setattr(neighbours, "_CELLS", 100)
    unit = gallery / 2
    np.testing.assert_allclose(whole(distances(query, gallery)), 1 - query @ unit.T, atol=1e-6)
    squared = ((query[:, None] - gallery[None]) ** 2).sum(2)
    np.testing.assert_allclose(whole(distances(query, gallery, "euclidean")), squared, atol=1e-5)
    assert max(len(block) for block in distances(query, gallery)) == 3


def test_tensors_and_arrays_score_alike() -> None:
    query, gallery, *labels = labelled(20, 100)
    expected = evaluate_embeddings(query, gallery, *labels)
    for kind in (torch.float32, torch.float64):
        tensors = torch.tensor(query, dtype=kind, requires_grad=True), torch.tensor(gallery, dtype=kind)
        assert evaluate_embeddings(*tensors, *labels).numbers == expected.numbers
    with torch.inference_mode():
        inferred = torch.tensor(query), torch.tensor(gallery)
        assert evaluate_embeddings(*inferred, *labels).numbers == expected.numbers


def test_memory_does_not_grow_with_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_CELLS", 1 << 14)
    monkeypatch.setattr(evaluation, "_CELLS", 1 << 14)
    query, gallery, *labels = labelled(1000, 4000)
    tracemalloc.start()
    try:
        evaluate_embeddings(query, gallery, *labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1000 * 4000 / 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: people(2, 7)}, "7 dimensions do not compare with 24"),
        ({0: np.full((2, 24), np.nan)}, "row 0 of the queries' embeddings holds NaN"),
        ({1: people(4)}, r"gallery_pids have shape \(3,\) where the distances need \(4,\)"),
        ({2: [1]}, r"query_pids have shape \(1,\)"),
        ({3: ["a", "b", "c"]}, "gallery_pids are of type <U1; give integers"),
        ({2: [7, 8]}, "no query has a match"),
    ],
)
def test_invalid_rankings_raise(changes: dict[int, Any], message: str) -> None:
    case: list[Any] = [people(2), people(3), [1, 2], [1, 2, 3], [0, 0], [1, 1, 1]]
    evaluate_embeddings(*case)
    for position, value in changes.items():
        case[position] = value
    with pytest.raises(UserError, match=message):
        evaluate_embeddings(*case)
