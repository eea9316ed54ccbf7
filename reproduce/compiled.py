"""Compile the two loops of the neighbourhood kernels that are much faster than numpy and scipy.

Importing this module needs numba, which is optional: `reproduce.neighbours` works without it, and does not load it for
few images. The loops use one thread. Compiled code is cached on disk, beside this file or in the user's cache.
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
    """Compile a loop on its first run; sums may be reordered."""
    options: Any = {"fastmath": {"reassoc", "contract", "nsz"}, "nogil": True}
    try:
        return cast(Loop, numba.njit(cache=True, **options)(loop))
    except RuntimeError:  # no writable cache
        return cast(Loop, numba.njit(**options)(loop))


@_compiled
def closeness(
    rows: NDArray[np.float32], half: NDArray[np.float32], order: Array, indptr: Array, indices: Array
) -> NDArray[np.float32]:
    """Compute minus half the squared distances of the pairs stored in a CSR matrix (N, N), in its order.

    Args:
        rows: Vectors (N, D).
        half: Half their squared lengths (N,).
        order: Order (N,) in which rows are visited: rows with common neighbours together, to hit the processor's cache.
        indptr, indices: Pointers and columns of the matrix.
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
    """Sum the element-wise minima of vectors (R, N) and others (M, N).

    Args:
        indptr, columns, data: The vectors, as a CSR matrix.
        start: For each stored entry of the vectors, the first entry of the others in its column.
        ends: End (N,) of the others' entries in each column.
        indices, others: Indices and data of the others, as in a CSC matrix.
        count: M.
        terms: Total number of minima.
        least: Smallest sum that is kept.

    Returns:
        indptr, indices and data of the sums, a CSR matrix (R, M).
    """
    total = np.zeros(count, np.float32)
    row_of = np.full(count, -1, np.int32)
    named = np.empty(count, np.int32)
    pointers = np.zeros(len(indptr), np.int32)
    kept = np.empty(terms, np.int32)
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
                kept[size] = j
                sums[size] = total[j]
                size += 1
        pointers[row + 1] = size
    return pointers, kept[:size].copy(), sums[:size].copy()
