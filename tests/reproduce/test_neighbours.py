"""Neighbours and Jaccard distances against slow float64 loops, on small problems full of ties and duplicates."""

from __future__ import annotations

import importlib.util
import math
import sys
import types
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from reproduce import neighbours
from reproduce.clustering import DBSCAN, Rho
from reproduce.errors import UserError
from reproduce.neighbours import jaccard_graph, nearest, reciprocal_graph, rerank

VARIANTS = ["spcl", "mmt", "udap"]


def clustered(n: int, columns: int = 32, seed: int = 0, *, identities: int | None = None, signed: bool = False) -> Any:
    """Embeddings of unit length (n, columns) of identities of about 17 images, in groups that look alike."""
    draw = np.random.default_rng(seed)
    count = identities or max(1, n // 17)
    people = (
        draw.standard_normal((count, columns))
        + 0.8 * draw.standard_normal((count // 5 + 1, columns))[draw.integers(0, count // 5 + 1, count)]
    )
    rows = people[draw.integers(0, count, n)] + 0.6 * draw.standard_normal((n, columns))
    rows = rows if signed else np.maximum(rows, 0)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def dense(graph: sparse.csr_array) -> Any:
    """All distances of a graph."""
    full = np.ones(graph.shape)
    rows = np.repeat(np.arange(len(full)), np.diff(graph.indptr))
    full[rows, graph.indices] = graph.data
    return full


def slow_ranks(embeddings: Any) -> list[list[int]]:
    """List every image's neighbours: itself, then the others by squared distance, then by index."""
    rows = np.asarray(embeddings, np.float64)
    squared = (rows[:, None] - rows[None]) ** 2
    return [
        sorted(range(len(rows)), key=lambda j: (j != i, distance[j], j))
        for i, distance in enumerate(squared.sum(2).tolist())
    ]


def slow_jaccard(
    embeddings: Any,
    k1: int,
    k2: int,
    variant: str,
    ranks: Any,
) -> Any:
    """Compute the definition, set by set and weight by weight."""
    rows = np.asarray(embeddings, np.float64)
    squared = ((rows[:, None] - rows[None]) ** 2).sum(2)
    if variant != "spcl":
        squared = np.array([far / (far.max() or 1) for far in squared])
    return slow_jaccard_of(squared, k1, k2, variant, ranks)


def slow_jaccard_of(far: Any, k1: int, k2: int, variant: str, ranks: Any) -> Any:
    """The same from all distances (N, N)."""
    n = len(far)
    listed = k1 if variant == "spcl" else k1 + 1
    half = int(np.around(k1 / 2)) + 1

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in ranks[i][:k] if i in ranks[j][:k]}

    codes = np.zeros((n, n))
    for i in range(n):
        members = reciprocal(i, listed)
        expanded = set(members)
        for j in members:
            theirs = reciprocal(j, min(half, listed))
            if len(theirs & members) > 2 / 3 * len(theirs):
                expanded |= theirs
        for j in expanded:
            codes[i, j] = math.exp(-far[i, j])
        codes[i] /= codes[i].sum() or 1
    if k2 > 1:
        codes = np.array([np.mean([codes[j] for j in ranks[i][: min(k2, listed)]], axis=0) for i in range(n)])
    found = np.ones((n, n))
    for i in range(n):
        for j in range(n):
            shared = np.minimum(codes[i], codes[j]).sum()
            found[i, j] = max(0.0, 1 - shared / (2 - shared))
    return found


@st.composite
def grids(draw: st.DrawFn, most: int = 14, unit: bool = False) -> Any:
    """Small embeddings on a grid, where float32 is exact, so with many ties and duplicates."""
    n, columns = draw(st.integers(1, most)), draw(st.integers(1, 3))
    levels = draw(st.sampled_from([1, 2, 5]))
    cells = draw(st.lists(st.integers(-levels, levels), min_size=n * columns, max_size=n * columns))
    rows = np.array(cells, np.float32).reshape(n, columns)
    if not unit:
        return rows
    rows[(rows == 0).all(1), 0] = 1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@st.composite
def lists(draw: st.DrawFn, n: int) -> Any:
    """Lists of all n images, each beginning with its own; or not even that."""
    seed = draw(st.integers(0, 10**6))
    order = np.random.default_rng(seed).random((n, n))
    if draw(st.booleans()):
        order[np.arange(n), np.arange(n)] = -1
    if draw(st.booleans()):
        order = order + order.T  # many are each other's neighbours
        order[np.arange(n), np.arange(n)] = -1
    return np.argsort(order, axis=1)


# Nearest neighbours


@settings(max_examples=500)
@given(rows=grids(), k=st.integers(1, 20))
def test_neighbours_equal_slow_loops_with_ties(rows: Any, k: int) -> None:
    expected = [ranks[:k] for ranks in slow_ranks(rows)]
    assert nearest(rows, k).tolist() == expected


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@settings(max_examples=60)
@given(data=st.data())
def test_tiles_equal_whole_rows(low: bool, data: st.DataObject) -> None:
    """In both precisions the tiled search equals comparing everything, on grids including all ties."""
    n, k = data.draw(st.integers(40, 90)), data.draw(st.integers(1, 5))
    levels, columns = data.draw(st.sampled_from([1, 3, 40])), data.draw(st.integers(1, 6))
    seed = data.draw(st.integers(0, 10**6))
    rows = np.random.default_rng(seed).integers(-levels, levels + 1, (n, columns)).astype(np.float32)
    points = neighbours._points(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_TILE", data.draw(st.sampled_from([16, 20, 39])))
        patch.setattr(neighbours, "_BLOCK", data.draw(st.sampled_from([6, 10, 512])))
        patch.setattr(neighbours, "_CANDIDATES", data.draw(st.sampled_from([3, 12, 1000])))
        patch.setattr(neighbours, "_HELD", data.draw(st.sampled_from([1, 6, 1000])))
        found, farthest = neighbours._tiled(points, k, True, low)
    expected, largest = neighbours._plain(points, np.arange(n), k)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(farthest, largest, rtol=1e-6)


REGIMES = {
    "usual": lambda: clustered(900, 64),
    "signed": lambda: clustered(900, 64, signed=True),
    "crowded": lambda: _unit(clustered(900, 64) + 4),
    "very crowded": lambda: _unit(clustered(900, 64) + 40),
    "duplicates": lambda: np.repeat(clustered(300, 64), 3, axis=0),
    "all lengths": lambda: clustered(900, 64) * np.random.default_rng(1).lognormal(0, 2, (900, 1)).astype(np.float32),
    "large": lambda: 1e6 * clustered(900, 64),
    "small": lambda: 1e-6 * clustered(900, 64),
}


def _unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("regime", REGIMES)
def test_bfloat16_error_stays_within_its_bound_and_candidates_complete(
    regime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = REGIMES[regime]().astype(np.float32)
    monkeypatch.setattr(neighbours, "_TILE", 256)
    points = neighbours._points(rows)
    tiles = np.array_split(np.arange(len(rows)), 4)
    matrix = neighbours._Matrix(points, tiles, low=True)
    exact = torch.from_numpy(rows).double()
    centred = exact - exact.mean(0)
    for a, tile in enumerate(tiles):
        for b, other in enumerate(tiles):
            true = -(torch.cdist(centred[tile], centred[other]) ** 2) / 2
            off = (matrix.products(a, b).double() - true).abs()
            assert (off <= matrix.error[tile, None]).all()
    lists, farthest = neighbours._tiled(points, 8, True, True)
    expected, largest = neighbours._tiled(points, 8, True, False)
    rounding = 2e-6 * float(points.half.max())
    np.testing.assert_allclose(farthest, largest, atol=2 * rounding)
    close = points.closeness(slice(None))
    got, wanted = (close.gather(1, torch.from_numpy(each)) for each in (lists, expected))
    assert (got - wanted).abs().max() <= rounding  # the same lists, but for what float32 cannot tell apart


def test_lists_hold_whole_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clustered(200)
    expected = nearest(rows, 9)
    monkeypatch.setattr(neighbours, "_CELLS", 1000)
    np.testing.assert_array_equal(nearest(rows, 9), expected)


# Jaccard distances


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=250)
@given(data=st.data())
def test_jaccard_equals_slow_loops(variant: str, data: st.DataObject) -> None:
    rows = data.draw(grids(unit=variant != "udap"))
    k1 = data.draw(st.integers(1, 18))
    k2 = data.draw(st.integers(1, k1))
    ranks = data.draw(st.one_of(st.none(), lists(len(rows))))
    if ranks is None and variant != "udap":
        ranks = nearest(rows, len(rows))  # on the unit circle float32 decides ties
    expected = slow_jaccard(rows, k1, k2, variant, slow_ranks(rows) if ranks is None else ranks)
    graph = jaccard_graph(rows, k1, k2, variant=variant, ranks=ranks)
    np.testing.assert_allclose(dense(graph), expected, atol=1e-5)
    assert graph.data.dtype == np.float32
    assert (graph.data < 1).all()


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("variant", VARIANTS)
def test_jaccard_equals_slow_loops_on_clusters(variant: str) -> None:
    rows = clustered(150)
    ranks = nearest(rows, 60)
    expected = slow_jaccard(rows, 20, 6, variant, ranks)
    np.testing.assert_allclose(dense(jaccard_graph(rows, 20, 6, variant=variant, ranks=ranks)), expected, atol=2e-6)
    np.testing.assert_allclose(dense(jaccard_graph(rows, 20, 6, variant=variant)), expected, atol=2e-6)


@pytest.mark.usefixtures("loops")
def test_a_share_of_exactly_two_thirds_is_not_enough() -> None:
    # 0, 1, 2 are mutual within 2; 3 is the third mutual neighbour of 1. R(1, half) has two of its three in R(0, k1).
    ranks = np.array([[0, 1, 2, 4, 3], [1, 0, 3, 2, 4], [2, 0, 4, 1, 3], [3, 1, 4, 0, 2], [4, 2, 3, 0, 1]])
    rows = np.eye(5, dtype=np.float32)
    graph = jaccard_graph(rows, 3, 1, ranks=ranks)
    expected = slow_jaccard(rows, 3, 1, "spcl", ranks)
    np.testing.assert_allclose(dense(graph), expected, atol=1e-6)
    assert len(set(ranks[1, :3]) & set(ranks[0, :3])) == 2
    codes = neighbours._codes(neighbours._points(rows), ranks[:, :3], 3, 1, None)
    assert 3 not in codes[[0]].indices


@pytest.mark.usefixtures("loops")
def test_jaccard_is_symmetric_and_holds_the_diagonal() -> None:
    graph = jaccard_graph(clustered(400))
    np.testing.assert_array_equal(graph.toarray(), graph.toarray().T)
    np.testing.assert_array_equal(graph.diagonal(), 0)
    assert (dense(graph).diagonal() == 0).all()


@pytest.mark.usefixtures("loops")
def test_duplicates_have_distance_zero() -> None:
    rows = np.repeat(clustered(40), 4, axis=0)
    graph = dense(jaccard_graph(rows, 12, 4))
    assert (graph[np.arange(160), np.arange(160) // 4 * 4] < 0.5).all()
    everyone = jaccard_graph(np.ones((50, 3)), 60, 6)
    assert everyone.nnz == 2500
    assert everyone.data.max() < 1e-6


@pytest.mark.usefixtures("loops")
def test_share_of_zeros_among_equal_codes_matches_the_published_code() -> None:
    """That code also computes in single precision, and its rule for eps drops zeros: 61 to 64 % of such pairs."""
    draw = np.random.default_rng(0)
    people = draw.standard_normal((107, 32))[np.arange(640) % 107]
    graph = jaccard_graph((people + 0.8 * draw.standard_normal((640, 32))).astype(np.float32), 20, 6, variant="mmt")
    upper = dense(graph)[np.triu_indices(640, 1)]
    equal = upper < 1e-6
    assert equal.sum() > 300
    assert 0.5 < (upper == 0).sum() / equal.sum() < 0.75
    assert 0 < Rho().eps(graph) < 0.6 * np.sort(upper[~equal])[: round(1.6e-3 * (~equal).sum())].mean()
    assert (dense(graph).diagonal() == 0).all()


def test_order_of_images_is_irrelevant() -> None:
    rows = clustered(300)
    order = np.random.default_rng(0).permutation(300)
    moved = dense(jaccard_graph(rows[order]))
    np.testing.assert_allclose(moved, dense(jaccard_graph(rows))[np.ix_(order, order)], atol=1e-6)


@pytest.mark.usefixtures("loops")
def test_large_problems_use_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clustered(3000, 16)
    expected = jaccard_graph(rows)
    monkeypatch.setattr(neighbours, "_TILE", 512)
    for low in (False, True):
        with neighbours.using(bfloat16=low):
            assert abs(jaccard_graph(rows) - expected).max() < 1e-6
            assert abs(jaccard_graph(rows, 20, variant="mmt") - jaccard_graph(rows, 20, variant="mmt")).max() < 1e-6


def test_all_kernels_give_equal_labels() -> None:
    rows = clustered(3000, 64)
    ranks = neighbours._plain(neighbours._points(rows), np.arange(len(rows)), 30)[0]
    expected = DBSCAN().labels(jaccard_graph(rows, ranks=ranks))
    assert len(np.unique(expected)) > 100
    for low in (False, True):
        for compiled in (False, True):
            with neighbours.using(bfloat16=low, compiled=compiled):
                np.testing.assert_array_equal(DBSCAN().labels(jaccard_graph(rows)), expected)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The multiplications of each product, by a process that has not asked about bfloat16 yet."""
    counted: list[int] = []
    multiply = torch.mm

    def count(one: Any, other: Any, **out: Any) -> Any:
        counted.append(one.shape[0] * one.shape[1] * other.shape[1])
        return multiply(one, other, **out)

    monkeypatch.setattr(torch, "mm", count)
    neighbours.bfloat16_is_fast.cache_clear()
    yield counted
    neighbours.bfloat16_is_fast.cache_clear()


def support(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    """Have torch say that the processor has bfloat16, or has not."""
    operations = SimpleNamespace(mkldnn=SimpleNamespace(_is_mkldnn_bf16_supported=lambda: supported))
    monkeypatch.setattr(torch, "ops", operations)


def test_bfloat16_speed_is_tested_once_on_small_products(products: list[int]) -> None:
    neighbours.bfloat16_is_fast()
    assert sum(products) <= 6 * 512**3
    neighbours.bfloat16_is_fast.cache_clear()
    rows = clustered(2100, 64)
    nearest(rows[:2000], 5)
    assert neighbours.bfloat16_is_fast.cache_info().misses == 0
    for _ in range(2):
        nearest(rows, 5)
    assert neighbours.bfloat16_is_fast.cache_info().misses == 1


def test_unsupported_bfloat16_is_not_tested(products: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    support(monkeypatch, False)
    assert not neighbours.bfloat16_is_fast()
    assert products == []


@pytest.mark.parametrize(("slowdown", "fast"), [(0.5, True), (0.9, False), (3, False)])
def test_slow_bfloat16_is_not_used(
    slowdown: float, fast: bool, products: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    support(monkeypatch, True)
    clock = [0.0]

    def multiply(one: Any, other: Any) -> Any:
        clock[0] += slowdown if one.dtype == torch.bfloat16 else 1

    monkeypatch.setattr(torch, "mm", multiply)
    monkeypatch.setattr(neighbours.time, "thread_time", lambda: clock[0])
    assert neighbours.bfloat16_is_fast() is fast


# Input of every kind


def views(rows: Any) -> dict[str, Any]:
    padded = np.full((2 * len(rows), 3 * rows.shape[1]), np.nan, rows.dtype)
    padded[::2, ::3] = rows
    frozen = rows.copy()
    frozen.flags.writeable = False
    return {
        "strided": padded[::2, ::3],
        "fortran": np.asfortranarray(rows),
        "backwards": rows[::-1].copy()[::-1],
        "frozen": frozen,
        "float64": rows.astype(np.float64),
        "tensor": torch.from_numpy(rows),
        "transposed": torch.from_numpy(rows.T.copy()).T,
        "with gradient": torch.tensor(rows, requires_grad=True),
        "lists": rows.tolist(),
    }


@pytest.mark.parametrize("kind", views(np.zeros((1, 1), np.float32)))
def test_layouts_and_types(kind: str) -> None:
    rows = clustered(60)
    expected = dense(jaccard_graph(rows, 10, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(dense(jaccard_graph(views(rows)[kind], 10, 3)), expected, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_accepted(kind: torch.dtype) -> None:
    rows = torch.from_numpy(clustered(60)).to(kind)
    np.testing.assert_array_equal(nearest(rows, 9), nearest(rows.float(), 9))


def test_arguments_are_left_alone() -> None:
    rows = clustered(60)
    ranks = nearest(rows, 40)
    before = rows.copy(), ranks.copy()
    jaccard_graph(rows, ranks=ranks)
    jaccard_graph(2 * rows)
    for part, copy in zip((rows, ranks), before, strict=True):
        np.testing.assert_array_equal(part, copy)


def test_rows_of_other_lengths_are_rescaled_where_cosines_are_meant() -> None:
    rows = clustered(80)
    longer = rows * np.linspace(0.5, 9, 80)[:, None]
    for variant in ("spcl", "mmt"):
        np.testing.assert_allclose(
            dense(jaccard_graph(longer, 10, 3, variant=variant)),
            dense(jaccard_graph(rows, 10, 3, variant=variant)),
            atol=1e-5,
        )
    assert abs(jaccard_graph(longer, 10, 3, variant="udap") - jaccard_graph(rows, 10, 3, variant="udap")).max() > 0.01


@pytest.mark.parametrize("variant", VARIANTS)
def test_fewer_images_than_k1(variant: str) -> None:
    for n in (1, 2, 5):
        rows = clustered(n, 8)
        graph = jaccard_graph(rows, 30, 6, variant=variant)
        np.testing.assert_allclose(dense(graph), slow_jaccard(rows, 30, 6, variant, slow_ranks(rows)), atol=2e-6)
    assert nearest(clustered(4), 100).shape == (4, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_embeddings() -> None:
    rows = clustered(3000)
    ranks = nearest(rows, 31)
    for variant in VARIANTS:
        expected = jaccard_graph(rows, variant=variant, ranks=ranks)
        assert (
            abs(jaccard_graph(torch.tensor(rows, device="cuda"), variant=variant, ranks=ranks) - expected).max() < 1e-5
        )


BAD = {
    "nan": (lambda rows: np.where(np.arange(20)[:, None] == 7, np.nan, rows), "row 7 of embeddings holds NaN"),
    "infinity": (
        lambda rows: np.where(np.arange(20)[:, None] == 3, np.inf, rows),
        "row 3 of embeddings holds NaN, inf",
    ),
    "too large": (lambda rows: rows * 1e30, "too large to square"),
    "none": (lambda rows: rows[:0], r"embeddings have shape \(0, 32\)"),
    "no columns": (lambda rows: rows[:, :0], r"embeddings have shape \(20, 0\)"),
    "vector": (lambda rows: rows[0], r"embeddings have shape \(32,\)"),
    "complex": (lambda rows: rows.astype(complex), "embeddings are of type complex128; give real numbers"),
    "complex tensor": (lambda rows: torch.from_numpy(rows.astype(complex)), "of type torch.complex128"),
    "booleans": (lambda rows: rows > 0, "embeddings are of type bool"),
    "words": (lambda rows: rows.astype(str), "embeddings are of type <U"),
    "zero": (lambda rows: rows * (np.arange(20) != 5)[:, None], "row 5 of embeddings is zero"),
}


@pytest.mark.parametrize("kind", BAD)
def test_invalid_embeddings_raise(kind: str) -> None:
    change, message = BAD[kind]
    with pytest.raises(UserError, match=message):
        jaccard_graph(change(clustered(20)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k1": 0}, "k1 is 0 and k2 6"),
        ({"k2": 0}, "k2 0"),
        ({"k1": 5, "k2": 6}, "k1 is 5 and k2 6"),
        ({"variant": "udapt"}, "variant is 'udapt'; choose spcl, mmt or udap"),
        ({"ranks": np.zeros((19, 30), int)}, r"ranks are int64 of shape \(19, 30\); give integers, \(20, 20\)"),
        ({"ranks": np.zeros((20, 9), int)}, r"ranks are int64 of shape \(20, 9\)"),
        ({"ranks": np.zeros((20, 20))}, "ranks are float64"),
        ({"ranks": np.zeros((20, 20), int)}, "one image twice"),
        ({"ranks": np.tile(np.arange(1, 21), (20, 1))}, r"not in 0..19"),
        ({"ranks": np.tile(np.arange(-1, 19), (20, 1))}, r"not in 0..19"),
    ],
)
def test_invalid_parameters_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        jaccard_graph(clustered(20), **arguments)


def test_lists_have_at_least_one_neighbour() -> None:
    with pytest.raises(UserError, match="k is 0"):
        nearest(clustered(5), 0)


# faiss: neighbours that it looks for are those that torch finds, also where it errs as it may


class StandIn(types.ModuleType):
    """As much of faiss as is asked for: another formula, ties to the higher index."""

    def __init__(self, noise: float = 0.0, lost: int = 0) -> None:
        super().__init__("faiss")
        self.noise, self.lost = noise, lost
        self.threads = 0

    def omp_set_num_threads(self, count: int) -> None:
        self.threads = count

    def IndexFlatL2(self, columns: int) -> StandInIndex:
        return StandInIndex(self)


class StandInIndex:
    def __init__(self, faiss: StandIn) -> None:
        self.faiss = faiss

    def add(self, rows: Any) -> None:
        self.rows = rows

    def search(self, rows: Any, k: int) -> tuple[Any, Any]:
        n = len(self.rows)
        squared = ((rows[:, None] - self.rows[None]) ** 2).sum(2)
        squared += self.faiss.noise * np.random.default_rng(0).standard_normal(squared.shape)
        squared = squared.astype(np.float32)
        found = np.lexsort([np.broadcast_to(-np.arange(n), squared.shape), squared], axis=1)[:, :k]
        squared = np.take_along_axis(squared, found, 1)
        found[: self.faiss.lost, -1] = -1
        return squared, found


REAL = pytest.param("faiss", marks=pytest.mark.skipif(not importlib.util.find_spec("faiss"), reason="no faiss here"))


@pytest.fixture(scope="module", params=["stand-in", "noisy", "lossy", REAL])
def faiss(request: pytest.FixtureRequest) -> Iterator[str]:
    """Faiss itself, and what gives candidates as it does, with wrong distances or with too few."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "faiss":
            made = {"stand-in": StandIn(), "noisy": StandIn(noise=0.3), "lossy": StandIn(lost=5)}[request.param]
            patch.setitem(sys.modules, "faiss", made)
        yield request.param


def by_faiss(rows: Any, k: int) -> Any:
    with neighbours.using(backend="faiss"):
        return nearest(rows, k)


@pytest.mark.usefixtures("faiss")
@settings(max_examples=300)
@given(rows=grids(), k=st.integers(1, 20), spare=st.sampled_from([0, 1, 3, 32]))
def test_lists_equal_slow_loops_whatever_the_ties(rows: Any, k: int, spare: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_SPARE", spare)
        found = by_faiss(rows, k)
    assert found.tolist() == [ranks[:k] for ranks in slow_ranks(rows)]


@pytest.mark.usefixtures("faiss", "loops")
@settings(max_examples=100)
@given(data=st.data())
def test_lists_equal_those_of_torch_on_grids(data: st.DataObject) -> None:
    """Where float32 is exact, with ties and duplicates, to the last one."""
    n, k = data.draw(st.integers(40, 150)), data.draw(st.integers(1, 12))
    levels, columns = data.draw(st.sampled_from([1, 3, 40])), data.draw(st.integers(1, 40))
    draw = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    rows = draw.integers(-levels, levels + 1, (n, columns)).astype(np.float32)
    rows = rows[draw.integers(0, data.draw(st.integers(2, n)), n)]
    found = by_faiss(rows, k)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, nearest(rows, k))


def assert_equal_but_for_rounding(rows: Any, found: Any, expected: Any) -> None:
    """Each list holds every image once, itself first, and differs only where float32 cannot tell distances apart."""
    exact = torch.from_numpy(rows).double()
    squared = torch.cdist(exact, exact, compute_mode="donot_use_mm_for_euclid_dist").square()
    got, wanted = (squared.gather(1, torch.from_numpy(lists)) for lists in (found, expected))
    assert (got - wanted).abs().max() <= 1e-5 * exact.square().sum(1).max()
    assert (found[:, 0] == np.arange(len(rows))).all()
    assert all(len(set(one)) == len(one) for one in found.tolist())


@pytest.mark.usefixtures("faiss", "loops")
@settings(max_examples=50)
@given(
    n=st.integers(2, 120),
    columns=st.integers(1, 70),
    k=st.integers(1, 40),
    copies=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_lists_equal_those_of_torch_on_floats(n: int, columns: int, k: int, copies: int, seed: int) -> None:
    rows = np.repeat(clustered(n, columns, seed, signed=True), copies, axis=0)
    assert_equal_but_for_rounding(rows, by_faiss(rows, k), nearest(rows, k))


@pytest.mark.usefixtures("faiss")
@pytest.mark.parametrize("regime", REGIMES)
def test_lists_equal_those_of_torch_in_all_regimes(regime: str) -> None:
    rows = REGIMES[regime]().astype(np.float32)[:400]
    found, expected = by_faiss(rows, 8), nearest(rows, 8)
    assert_equal_but_for_rounding(rows, found, expected)
    if regime in ("usual", "signed"):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("faiss")
def test_tiled_search_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clustered(600)
    monkeypatch.setattr(neighbours, "_TILE", 128)
    np.testing.assert_array_equal(by_faiss(rows, 10), nearest(rows, 10))


def test_few_rows_are_compared_with_every_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidates of faiss suffice, as a rule; otherwise it would save nothing."""
    monkeypatch.setitem(sys.modules, "faiss", StandIn())
    compared: list[int] = []
    plain = neighbours._plain

    def count(points: Any, rows: Any, k: int) -> Any:
        compared.append(len(rows))
        return plain(points, rows, k)

    monkeypatch.setattr(neighbours, "_plain", count)
    by_faiss(clustered(500, 64), 30)
    assert sum(compared) < 25
    monkeypatch.setitem(sys.modules, "faiss", StandIn(noise=0.1))
    by_faiss(clustered(500, 64), 30)
    assert compared[-1] == 500


@pytest.mark.usefixtures("faiss", "loops")
@pytest.mark.parametrize("variant", VARIANTS)
def test_jaccard_distances_are_the_same(variant: Any) -> None:
    rows = clustered(200)
    expected = dense(jaccard_graph(rows, 20, 6, variant=variant))
    with neighbours.using(backend="faiss"):
        found = dense(jaccard_graph(rows, 20, 6, variant=variant))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.usefixtures("faiss")
def test_reranked_distances_are_the_same() -> None:
    rows = clustered(200)
    expected = np.concatenate(list(rerank(rows[:40], rows[40:])))
    with neighbours.using(backend="faiss"):
        found = np.concatenate(list(rerank(rows[:40], rows[40:])))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_as_many_threads_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    made = StandIn()
    monkeypatch.setitem(sys.modules, "faiss", made)
    by_faiss(clustered(20), 5)
    assert made.threads == torch.get_num_threads()


def test_long_lists_are_found_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(neighbours, "_LONGEST", 9)
    assert by_faiss(clustered(30), 10).shape == (30, 10)


@pytest.mark.parametrize("has_gpu", [True, False])
def test_embeddings_on_a_gpu_are_searched_there_where_faiss_can(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = StandIn()
    moved: list[int] = []
    if has_gpu:
        made.StandardGpuResources = object
        made.index_cpu_to_gpu = lambda resources, device, index: moved.append(device) or index
    monkeypatch.setitem(sys.modules, "faiss", made)

    class OnGPU:
        shape = (20, 32)
        device = torch.device("cuda", 1)

        def cpu(self) -> torch.Tensor:
            return torch.from_numpy(clustered(20))

    points: Any = types.SimpleNamespace(rows=OnGPU())
    assert neighbours._candidates(points, 5)[1].shape == (20, 5)
    assert moved == [1] * has_gpu


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'reproduce-reid\[faiss-cpu\]'"):
        by_faiss(clustered(5), 2)
    assert nearest(clustered(5), 2).shape == (5, 2)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 24),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(0, 999),
    st.booleans(),
)
def test_reciprocal_distances_equal_a_slow_loop(
    n: int, k1: int, k2: int, lambda_: float, seed: int, ties: bool
) -> None:
    """From distances that differ between both directions, and where some image is farther from itself than others."""
    draw = np.random.default_rng(seed)
    far = draw.random((n, n)) + draw.random((n, n)).T
    far = np.round(4 * far) if ties else far
    own = reciprocal_graph(far, k1, min(k1, k2), lambda_)
    scaled = np.zeros((n, n))
    for i in range(n):
        least, most = far[:, i].min(), (far[:, i] - far[:, i].min()).max()
        scaled[i] = (far[:, i] - least) / (most or 1)
    np.fill_diagonal(scaled, 0)
    ranks = [sorted(range(n), key=lambda j, i=i: (j != i, scaled[i, j])) for i in range(n)]  # type: ignore[misc]
    jaccard = slow_jaccard_of(scaled, k1, min(k1, k2), "mmt", ranks)
    stored = np.zeros((n, n), bool)
    stored[np.repeat(np.arange(n), np.diff(own.indptr)), own.indices] = True
    assert (stored == (jaccard < 1 - 1e-12)).all()
    mixed = (1 - lambda_) * jaccard + lambda_ * (scaled + scaled.T) / 2
    np.testing.assert_allclose(own.toarray()[stored], mixed[stored], atol=2e-6)
