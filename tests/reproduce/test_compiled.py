"""The compiled loops against plain ones, and the kernels without them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from reproduce import neighbours

compiled = pytest.importorskip("reproduce.compiled", reason="numba is not installed", exc_type=ImportError)


def matrix(seed: int, rows: int, columns: int, density: float) -> sparse.csr_array:
    """Draw a sparse matrix (rows, columns) of positive float32 numbers, many of them equal."""
    draw = np.random.default_rng(seed)
    cells = np.where(draw.random((rows, columns)) < density, draw.integers(1, 9, (rows, columns)) / 8, 0)
    return sparse.csr_array(cells.astype(np.float32))


@settings(max_examples=200)
@given(seed=st.integers(0, 10**6), sizes=st.tuples(*[st.integers(1, 12)] * 3), density=st.sampled_from([0, 0.3, 1]))
def test_overlaps_equal_dense_minima(seed: int, sizes: tuple[int, int, int], density: float) -> None:
    rows, others, columns = sizes
    codes, lists = matrix(seed, rows, columns, density), matrix(seed + 1, others, columns, density)
    expected = np.minimum(codes.toarray()[:, None], lists.toarray()[None]).sum(2)
    by_column = lists.tocsc()
    start = by_column.indptr[codes.indices]
    terms = int((by_column.indptr[codes.indices + 1] - start).sum())
    indptr, indices, data = compiled.overlaps(
        codes.indptr, codes.indices, codes.data, start, by_column.indptr[1:], by_column.indices, by_column.data, others,
        terms, 0.25,
    )  # fmt: skip
    overlaps = sparse.csr_array((data, indices, indptr), shape=(rows, others)).toarray()
    np.testing.assert_array_equal(overlaps, np.where(expected >= 0.25, expected, 0))


def test_closeness_of_the_stored_pairs() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 33), np.float32)
    pairs = matrix(0, 50, 50, 0.2)
    half = ((rows**2).sum(1) / 2).astype(np.float32)
    order = np.random.default_rng(1).permutation(50).astype(np.int32)
    close = compiled.closeness(rows, half, order, pairs.indptr, pairs.indices)
    first, second = pairs.nonzero()
    expected = -((rows[first].astype(float) - rows[second]) ** 2).sum(1) / 2
    np.testing.assert_allclose(close, expected, atol=1e-4)


def test_few_images_load_no_compiler() -> None:
    code = (
        "import sys, numpy; from reproduce.neighbours import jaccard_graph;"
        "jaccard_graph(numpy.random.default_rng(0).random((300, 8))); assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scipy_is_used_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: Any = np.random.default_rng(0).random((60, 8))
    with neighbours.using(compiled=True):
        assert neighbours._loops(1) is compiled
        expected = neighbours.jaccard_graph(rows, 10, 3)
        monkeypatch.delattr("reproduce.compiled")
        monkeypatch.delitem(sys.modules, "reproduce.compiled")
        monkeypatch.setitem(sys.modules, "numba", None)
        assert neighbours._loops(1) is None
        assert abs(neighbours.jaccard_graph(rows, 10, 3) - expected).max() < 1e-6


def test_loops_compile_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = compiled.numba.njit

    def refuse(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("no locator available")
        return njit(**options)

    monkeypatch.setattr(compiled.numba, "njit", refuse)
    assert compiled._compiled(lambda number: number + 1)(2) == 3
