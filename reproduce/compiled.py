"""The two loops of the neighbourhood kernels that a compiler makes much faster than numpy and scipy.

Importing this needs numba, which is optional: `reproduce.neighbours` does without it, and does not load it for few
images. The loops use one thread. What is compiled is kept on disk, beside this file or in the user's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Loop = TypeVar("Loop", bound=Callable[..., Any])


def _compiled(loop: Loop) -> Loop:
    """Compile a loop when it first runs; sums may be taken in any order."""
    options: Any = {"fastmath": {"reassoc", "contract", "nsz"}, "nogil": True}
    try:
        return cast(Loop, numba.njit(cache=True, **options)(loop))
    except RuntimeError:  # nowhere to keep it
        return cast(Loop, numba.njit(**options)(loop))


@_compiled
def closeness(
    rows: NDArray[np.float32], half: NDArray[np.float32], order: Array, indptr: Array, indices: Array
) -> NDArray[np.float32]:
    """Minus half the squared distances of the pairs that a CSR matrix (N, N) stores, in its order.

    Args:
        rows: (N, D).
        half: (N,), half their squared lengths.
        order: (N,), in which rows are visited: those with common neighbours together, which are then in the cache.
        indptr, indices: of the matrix.
    """
    close = np.empty(len(indices), np.float32)
    for i in order:
        row = rows[i]
        for at in range(indptr[i], indptr[i + 1]):
            j = indices[at]
            other = rows[j]
            product = np.float32(0)
            for column in range(len(row)):
                product += row[column] * other[column]
            close[at] = product - half[i] - half[j]
    return close


@_compiled
def overlaps(
    indptr: Array,
    columns: Array,
    data: NDArray[np.float32],
    start: Array,
    ends: Array,
    indices: Array,
    others: NDArray[np.float32],
    count: int,
    terms: int,
    least: float,
) -> tuple[Array, Array, NDArray[np.float32]]:
    """Sums of the element-wise minima of some vectors (R, N) and others (M, N).

    Args:
        indptr, columns, data: the vectors, as a CSR matrix.
        start: for each stored entry of these, where to begin in the others of its column.
        ends: (N,), where the others of a column end.
        indices, others: the others, as in a CSC matrix.
        count: M.
        terms: the minima in all.
        least: sums below this are left out.

    Returns:
        indptr, indices and data of the sums, a CSR matrix (R, M).
    """
    total = np.zeros(count, np.float32)
    row_of = np.full(count, -1, np.int32)
    named = np.empty(count, np.int32)
    pointers = np.zeros(len(indptr), np.int32)
    found = np.empty(terms, np.int32)
    sums = np.empty(terms, np.float32)
    size = 0
    for row in range(len(indptr) - 1):
        names = 0
        for entry in range(indptr[row], indptr[row + 1]):
            for at in range(start[entry], ends[columns[entry]]):
                j = indices[at]
                if row_of[j] != row:
                    row_of[j] = row
                    total[j] = 0
                    named[names] = j
                    names += 1
                total[j] += min(data[entry], others[at])
        for j in named[:names]:
            if total[j] >= least:
                found[size] = j
                sums[size] = total[j]
                size += 1
        pointers[row + 1] = size
    return pointers, found[:size].copy(), sums[:size].copy()
