"""Compute exact nearest neighbours, Jaccard distances and re-ranking without a dense N x N matrix.

`reciprocal_graph` alone takes one.

Distances between embeddings are squared Euclidean; the kernels work with closeness, minus half of that:
x_i . x_j - |x_i|^2 / 2 - |x_j|^2 / 2, symmetric and largest for the nearest. A list of neighbours begins with the image
itself, and ties go to the lower index. Products are computed on the embeddings' device, the sparse rest on the CPU, for
many images by compiled loops if numba is installed. A run can search neighbours with faiss instead.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor

from reproduce.errors import UserError

Array: TypeAlias = NDArray[Any]
Embeddings: TypeAlias = NDArray[Any] | Tensor
Variant: TypeAlias = Literal["spcl", "mmt", "udap"]
Backend: TypeAlias = Literal["torch", "faiss"]
"""Library that searches nearest neighbours; it affects speed, not the lists."""

Metric: TypeAlias = Literal["cosine", "euclidean"]

_TILE = 1024
"""Rows and columns of a tile of products."""

_BLOCK = 512
"""Rows and columns that a CPU multiplies at a time."""

_CELLS = 1 << 22
"""Products, or terms of a sparse sum, held at a time."""

_CANDIDATES = 4096
"""Candidates of one row above which comparing it with every other row is cheaper."""

_HELD = 64
"""Candidates per row held before those out of reach are dropped."""

_SPARE = 32
"""Candidates per row requested from faiss beyond the k neighbours."""

_LONGEST = 1024
"""Longest lists requested from faiss, whose index on a GPU returns up to 2,048."""

_COMPILED = 8192
"""Number of images from which compiled loops save more time than loading them takes."""

_LEAST = 2.0**-23
"""Overlap of two codes below which their distance would round to 1."""

_ROUNDING = 1e-6
"""Distances to oneself and cosine distances below this are set to zero, since they are rounding errors."""


def nearest(embeddings: Embeddings, k: int) -> Array:
    """Find the k nearest neighbours of each embedding, itself first.

    Args:
        embeddings: (N, D).
        k: Length of the lists, at most N.

    Returns:
        Indices (N, k), nearest first by the float32 products as computed, ties by index.

    Raises:
        UserError: Embeddings are empty, not a matrix of real numbers, or not finite; k is below 1; faiss was chosen and
            is not installed.
    """
    points = _points(embeddings)
    if k < 1:
        raise UserError(f"k is {k}; a list of neighbours has at least one")
    return _neighbours(points, k)[0]


def jaccard_graph(
    embeddings: Embeddings,
    k1: int = 30,
    k2: int = 6,
    *,
    variant: Variant = "spcl",
    ranks: Array | Tensor | None = None,
) -> sparse.csr_array:
    """Compute the k-reciprocal Jaccard distances below 1.

    The k-reciprocal set R(i, k) holds the images in i's list that have i in theirs. R(i, k1) is joined by R(j, k1 / 2)
    of each member j if more than two thirds of that lie in it. V_i spreads a weight of 1 over the result, proportional
    to exp(-d), and is then averaged over the k2 nearest of i, including i. With s the sum of the element-wise minima of
    V_i and V_j, the distance is 1 - s / (2 - s). Zhong et al., "Re-ranking Person Re-identification with k-reciprocal
    Encoding" (CVPR 2017).

    | variant | lists for R(i, k1) | d | embeddings |
    |---|---|---|---|
    | spcl | k1, itself included | squared Euclidean | of unit length |
    | mmt | k1 + 1 | squared Euclidean over the largest from i | of unit length |
    | udap | k1 + 1 | squared Euclidean over the largest from i | unchanged |

    Lists for R(j, k1 / 2) have round(k1 / 2) + 1 entries, halves rounded to even, in all three. The variants are the
    published code of SpCL, of MMT, and of UDAP (in single precision instead of half).

    Args:
        embeddings: (N, D).
        k1, k2: As above; lists longer than N hold all N.
        variant: As above; "spcl" and "mmt" rescale rows that are not of unit length.
        ranks: Neighbours (N, k1 + 1 or more; k1 for "spcl") of each image, nearest first, itself included; computed if
            not given.

    Returns:
        Float32 (N, N) with the pairs whose distance is below 1; zeros are stored, including the diagonal. Rounding
        leaves some pairs with equal V at a distance of 1e-7, as in the published codes, whose rule for eps omits only
        zeros.

    Raises:
        UserError: Embeddings as for `nearest`; k2 above k1; ranks that are no lists of images.
    """
    if variant not in ("spcl", "mmt", "udap"):
        raise UserError(f"variant is {variant!r}; choose spcl, mmt or udap")
    _check(k1, k2)
    scaled = variant != "spcl"
    points = _points(embeddings, unit=variant != "udap")
    k = k1 + scaled
    farthest = None
    if ranks is None:
        lists, farthest = _neighbours(points, k, farthest=scaled)
    else:
        lists = _lists(ranks, len(points), k)
        if scaled:
            farthest = _neighbours(points, 1, farthest=True)[1]
    codes = _codes(points, lists, k1, k2, farthest)
    del lists
    return _jaccard(codes)


def reciprocal_graph(distances: NDArray[Any], k1: int = 20, k2: int = 6, lambda_: float = 0.3) -> sparse.csr_array:
    """Compute k-reciprocal distances of images from any distances: (1 - lambda) Jaccard + lambda d.

    d are the distances less an image's smallest, over its largest. Weights of the Jaccard distances are proportional to
    exp(-d), lists have k1 + 1 entries with the image itself first, as in `jaccard_graph`. d is averaged over both
    directions.

    Args:
        distances: (N, N), nearly symmetric.
        k1, k2: Lengths of the lists for the k-reciprocal sets and for the average; longer ones than N hold all.
        lambda_: Weight of d, in 0..1.

    Returns:
        Float32 (N, N), symmetric, with the pairs whose Jaccard distance is below 1, and zeros on the diagonal. The
        others are farther than 1 - lambda; users take them to be at distance 1.

    Raises:
        UserError: k2 above k1; lambda outside 0..1.
    """
    _check(k1, k2)
    if not 0 <= lambda_ <= 1:
        raise UserError(f"lambda is {lambda_}; give a number in 0..1")
    far = distances - distances.min(0)
    far /= np.where(far.max(0) > 0, far.max(0), 1)
    far = far.T
    np.fill_diagonal(far, -1)
    strips = _strips(len(far), len(far))
    k = min(k1 + 1, len(far))
    lists = np.concatenate([_closest(torch.from_numpy(-far[rows]), k) for rows in strips])
    members = _members(lists, k1)
    graph = _jaccard(_spread(lists, members, far[_cells(members)].astype(np.float32), k2))
    rows, columns = _cells(graph)
    both = (far[rows, columns] + far[columns, rows]) / 2
    graph.data = ((1 - lambda_) * graph.data + lambda_ * np.where(rows == columns, 0, both)).astype(np.float32)
    return graph


def rerank(
    query: Embeddings,
    gallery: Embeddings,
    k1: int = 20,
    k2: int = 6,
    lambda_: float = 0.3,
    *,
    metric: Metric = "euclidean",
) -> Iterator[NDArray[np.float32]]:
    """Compute re-ranked distances between queries and gallery, a block of queries at a time.

    They are (1 - lambda) Jaccard + lambda d, with d the squared distance over the query's largest to any image.
    The k-reciprocal sets are those of queries and gallery together, with lists of k1 + 1 and weights proportional to
    exp(-d). Zhong et al. (CVPR 2017) and their published code, which squares Euclidean distances.

    Args:
        query: (Q, D).
        gallery: (G, D).
        k1, k2: Lengths of the lists for the k-reciprocal sets and for the average; longer ones than Q + G hold all.
        lambda_: Weight of the original distance, in 0..1.
        metric: "euclidean" uses embeddings unchanged, "cosine" rescales them to unit length first.

    Returns:
        An iterator over float32 blocks (B, G) of rows, in the order of the queries.

    Raises:
        UserError: Embeddings as for `nearest`, or of different dimensions; k2 above k1; lambda outside 0..1.
    """
    _check(k1, k2)
    if not 0 <= lambda_ <= 1:
        raise UserError(f"lambda is {lambda_}; give a number in 0..1")
    queries, images = _pair(query, gallery, metric)
    return _reranked(_Points(torch.cat([queries.rows, images.rows])), len(queries), k1, k2, lambda_)


def _reranked(points: _Points, queries: int, k1: int, k2: int, lambda_: float) -> Iterator[NDArray[np.float32]]:
    n = len(points)
    lists, farthest = _neighbours(points, k1 + 1, farthest=True)
    assert farthest is not None
    codes = _codes(points, lists, k1, k2, farthest)
    del lists
    theirs = codes[queries:].tocsc()
    share = np.float32(1 - lambda_)
    scale = (2 * lambda_ / np.where(farthest > 0, farthest, 1)).astype(np.float32)
    for rows in _strips(queries, n - queries):
        block: NDArray[np.float32] = points.closeness(rows, slice(queries, n)).clamp_(max=0).cpu().numpy()
        block *= -scale[rows, None]
        block += share
        own = codes[rows]
        for part, shared in _overlaps(own, theirs, theirs.indptr[own.indices]):
            cells = np.repeat(np.arange(part.start, part.stop), np.diff(shared.indptr)), shared.indices
            block[cells] -= share * (shared.data / (2 - shared.data))
        yield block


def distances(query: Embeddings, gallery: Embeddings, metric: Metric = "cosine") -> Iterator[NDArray[np.float32]]:
    """Compute distances between queries and gallery, a block of queries at a time.

    Args:
        query: (Q, D).
        gallery: (G, D).
        metric: "cosine", 1 minus the cosine; or "euclidean", squared.

    Returns:
        An iterator over float32 blocks (B, G) of rows, in the order of the queries.

    Raises:
        UserError: Embeddings as for `nearest`, or of different dimensions; another metric.
    """
    queries, images = _pair(query, gallery, metric)

    def blocks() -> Iterator[NDArray[np.float32]]:
        for rows in _strips(len(queries), len(images)):
            block = _product(queries.rows[rows], images.rows)
            if metric == "cosine":
                block.neg_().add_(1)
            else:
                block.sub_(images.half).sub_(queries.half[rows, None]).mul_(-2).clamp_(min=0)
            yield block.cpu().numpy()

    return blocks()


def cosine_graph(embeddings: Embeddings, *, radius: float = 1.0, pairs: int | None = None) -> sparse.csr_array:
    """Compute the cosine distances of near pairs.

    Args:
        embeddings: (N, D); a row of zeros is at distance 1 from all others.
        radius: Largest stored distance, at most 1.
        pairs: Number of nearest pairs to store, not counting pairs at distance 0; None for all within the radius.

    Returns:
        Float32 (N, N), symmetric; zeros are stored, including the diagonal. Users take pairs that are not stored to be
        at distance 1.

    Raises:
        UserError: Embeddings as for `nearest`; a radius outside 0..1; pairs below 1.
    """
    if not 0 <= radius <= 1 or (pairs is not None and pairs < 1):
        raise UserError(f"radius is {radius} and pairs {pairs}; give a radius in 0..1 and at least one pair")
    points = _points(embeddings)
    unit = points.rows / (2 * points.half).sqrt().clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    n = len(unit)
    indices: list[Tensor] = []
    values = torch.empty(0)
    for rows in _strips(n, n):
        far = 1 - _product(unit[rows], unit[rows.start :])
        far[far < _ROUNDING] = 0
        at = torch.nonzero((far <= radius).triu(1))
        indices.append(torch.stack([at[:, 0] + rows.start, at[:, 1] + rows.start]).cpu())
        values = torch.cat([values, far[at[:, 0], at[:, 1]].cpu()])
        if pairs is not None and (values > 0).sum() > pairs:
            radius = float(values[values > 0].kthvalue(pairs).values)
            near = values <= radius
            indices, values = [torch.cat(indices, dim=1)[:, near]], values[near]
    first, second = torch.cat(indices, dim=1).numpy()
    own = np.arange(n)
    return sparse.csr_array(
        (
            np.concatenate([values.numpy(), values.numpy(), np.zeros(n, np.float32)]),
            (np.concatenate([first, second, own]), np.concatenate([second, first, own])),
        ),
        shape=(n, n),
    )


# Processors


@functools.cache
def bfloat16_is_fast() -> bool:
    """Measure whether this processor supports bfloat16 and multiplies it over 1.5 times as fast as float32.

    Support alone is not enough: some processors convert bfloat16 and multiply float32.
    """
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (available and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False

    def seconds(matrix: Tensor) -> float:
        spent = []
        for _ in range(3):
            start = time.thread_time()
            torch.mm(matrix, matrix)
            spent.append(time.thread_time() - start)
        return min(spent)

    matrix = torch.ones(512, 512)
    return 1.5 * seconds(matrix.bfloat16()) < seconds(matrix)


_forced: dict[str, Any] = {}


@contextlib.contextmanager
def using(
    *, bfloat16: bool | None = None, compiled: bool | None = None, backend: Backend | None = None
) -> Iterator[None]:
    """Choose the backend of neighbour search, and override choices made by processor and number of images.

    Args:
        bfloat16: Whether products on a CPU may be in bfloat16.
        compiled: Whether compiled loops are used, if numba is installed.
        backend: "torch", or "faiss" if installed: its exact index, on the embeddings' device if possible, else on the
            CPU. Lists are equal, see `_with_faiss`. Largest distances, which `rerank` and two variants of Jaccard
            distances need too, are still computed by torch.

    Arguments that are None change nothing.
    """
    before = dict(_forced)
    choice = {"bfloat16": bfloat16, "compiled": compiled, "backend": backend}
    _forced.update({name: value for name, value in choice.items() if value is not None})
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)


# Embeddings


class _Points:
    """Embeddings in the form that the kernels use.

    Attributes:
        rows: Embeddings (N, D), float32.
        half: Half their squared lengths (N,).
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        step = 128 if rows.device.type == "cpu" else len(rows)  # in a CPU's cache
        self.half = rows.new_empty(len(rows))
        for at in range(0, len(rows), step):
            torch.sum(rows[at : at + step].square(), 1, out=self.half[at : at + step])
        self.half /= 2

    def __len__(self) -> int:
        return len(self.rows)

    def closeness(self, rows: Any, columns: Any = slice(None)) -> Tensor:
        """Compute minus half the squared distances (R, C) between some rows and others."""
        return _product(self.take(rows), self.take(columns)).sub_(self.half[columns]).sub_(self.half[rows, None])

    def take(self, rows: Any) -> Tensor:
        """Return some rows (R, D): a view for a slice, a copy for listed rows."""
        if isinstance(rows, slice):
            return self.rows[rows]
        return self.rows.index_select(0, torch.as_tensor(rows, device=self.rows.device))  # faster than self.rows[rows]


def checked(embeddings: Embeddings, name: str = "embeddings") -> Tensor:
    """Convert embeddings (N, D) of any real type and layout to a float32 tensor on their own device.

    Raises:
        UserError: They are empty, not a matrix of real numbers, or not finite.
    """
    return _points(embeddings, name=name).rows


def _points(embeddings: Embeddings, *, unit: bool = False, name: str = "embeddings") -> _Points:
    """Check embeddings; with `unit`, rescale rows unless they are of unit length already."""
    if isinstance(embeddings, Tensor):
        rows = embeddings.detach()
    else:
        array = np.asarray(embeddings)
        if array.dtype.kind not in "fiu":
            raise UserError(f"{name} are of type {array.dtype}; give real numbers")
        rows = torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
    if rows.is_complex() or rows.dtype == torch.bool:
        raise UserError(f"{name} are of type {rows.dtype}; give real numbers")
    if rows.ndim != 2 or 0 in rows.shape:
        raise UserError(f"{name} have shape {tuple(rows.shape)}; give a row per image, (N, D), and at least one")
    points = _Points(rows.float().contiguous())
    if not bool(points.half.isfinite().all()):
        at = int(torch.nonzero(~points.half.isfinite())[0, 0])
        raise UserError(f"row {at} of {name} holds NaN, infinity or numbers too large to square")
    if unit and bool(((2 * points.half - 1).abs() > 1e-4).any()):
        if not bool(points.half.all()):
            at = int(torch.nonzero(points.half == 0)[0, 0])
            raise UserError(f"row {at} of {name} is zero and has no direction")
        points = _Points(points.rows / (2 * points.half).sqrt()[:, None])
    return points


def _pair(query: Embeddings, gallery: Embeddings, metric: Metric) -> tuple[_Points, _Points]:
    """Check queries and gallery, and move the queries to the gallery's device."""
    if metric not in ("cosine", "euclidean"):
        raise UserError(f"metric is {metric!r}; choose cosine or euclidean")
    images = _points(gallery, unit=metric == "cosine", name="the gallery's embeddings")
    queries = _points(query, unit=metric == "cosine", name="the queries' embeddings")
    _same_space(queries, images)
    if queries.rows.device != images.rows.device:
        queries = _Points(queries.rows.to(images.rows.device))
    return queries, images


def _product(rows: Tensor, columns: Tensor) -> Tensor:
    """Compute inner products (R, C); float32 on a CPU in blocks of the fastest size."""
    if rows.device.type != "cpu" or rows.dtype != torch.float32:
        return rows @ columns.T
    product = rows.new_empty(len(rows), len(columns))
    for at in range(0, len(rows), _BLOCK):
        for to in range(0, len(columns), _BLOCK):
            block = product[at : at + _BLOCK, to : to + _BLOCK]
            torch.mm(rows[at : at + _BLOCK], columns[to : to + _BLOCK].T, out=block)
    return product


def _own_product(rows: Tensor) -> Tensor:
    """Compute inner products (R, R) of rows with each other, multiplying most pairs once."""
    product = rows.new_empty(len(rows), len(rows))
    step = _BLOCK // 2
    for at in range(0, len(rows), step):
        end = at + step
        torch.mm(rows[at:end], rows[at:].T, out=product[at:end, at:])
        product[end:, at:end] = product[at:end, end:].T
    return product


def _same_space(one: _Points, other: _Points) -> None:
    if one.rows.shape[1] != other.rows.shape[1]:
        raise UserError(f"embeddings of {one.rows.shape[1]} dimensions do not compare with {other.rows.shape[1]}")


def _check(k1: int, k2: int) -> None:
    if not 1 <= k2 <= k1:
        raise UserError(f"k1 is {k1} and k2 {k2}; they have to be at least 1, and k2 at most k1")


def _strips(count: int, columns: int) -> list[slice]:
    """Split rows of so many columns into strips of at most `_CELLS` cells."""
    step = max(1, _CELLS // columns)
    return [slice(at, min(at + step, count)) for at in range(0, count, step)]


# Nearest neighbours


def _neighbours(points: _Points, k: int, *, farthest: bool = False) -> tuple[Array, NDArray[np.float32] | None]:
    """Return nearest neighbours (N, min(k, N)) and, if wanted, the largest squared distance from each row (N,)."""
    n = len(points)
    k = min(k, n)
    if _forced.get("backend") == "faiss" and 1 < k <= _LONGEST:
        return _with_faiss(points, k), _neighbours(points, 1, farthest=True)[1] if farthest else None
    if points.rows.device.type != "cpu" or n <= 2 * _TILE or 8 * k > _TILE:
        lists, largest = _plain(points, np.arange(n), k)
        return lists, largest if farthest else None
    low = _forced["bfloat16"] if "bfloat16" in _forced else bfloat16_is_fast()
    return _tiled(points, k, farthest, low)


def _plain(points: _Points, rows: Array, k: int) -> tuple[Array, NDArray[np.float32]]:
    """Compute lists (R, k) and largest squared distances (R,) of some rows by comparing each with every other."""
    lists, farthest = [], []
    for strip in _strips(len(rows), len(points)):
        part = rows[strip]
        close = points.closeness(part)
        farthest.append(-2 * close.amin(1))
        close[torch.arange(len(part)), part] = torch.inf
        lists.append(_closest(close, k))
    return np.concatenate(lists), torch.cat(farthest).clamp_(min=0).cpu().numpy()


def _closest(close: Tensor, k: int) -> Array:
    """Return the columns (R, k) of each row's largest values, the largest first and equal ones by index."""
    best, at, tied = _best(close, k)
    for row in torch.nonzero(tied)[:, 0].tolist():
        last = best[row, -1]
        above, equal = torch.nonzero(close[row] > last)[:, 0], torch.nonzero(close[row] == last)[:, 0]
        at[row] = torch.cat([above, equal[: k - len(above)]])
        best[row] = close[row, at[row]]
    return _in_order(best, at)


def _best(close: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k largest values of each row, their columns, and whether ties made the choice ambiguous."""
    best, at = close.topk(min(k + 1, close.shape[1]))
    tied = best[:, k - 1] == best[:, k] if best.shape[1] > k else torch.zeros(len(best), dtype=torch.bool)
    return best[:, :k], at[:, :k], tied


def _in_order(close: Tensor, at: Tensor) -> Array:
    """Sort neighbours (R, k) by decreasing closeness, then by index."""
    at, by_index = at.sort(1)
    by_closeness = close.gather(1, by_index).argsort(dim=1, descending=True, stable=True)
    return at.gather(1, by_closeness).cpu().numpy()


def _loops(images: int) -> Any:
    """Return the module of compiled loops, or None with few images or without numba."""
    if not _forced.get("compiled", images >= _COMPILED):
        return None
    try:
        from reproduce import compiled
    except ImportError:
        return None
    return compiled


def _tiled(points: _Points, k: int, farthest: bool, low: bool) -> tuple[Array, NDArray[np.float32] | None]:
    """Do the work of `_plain` for all rows, multiplying each pair once, in bfloat16 if `low`.

    Rows are sorted so that neighbours are mostly in one tile of the diagonal. The neighbours found there give a bound
    that few pairs of other tiles reach. In bfloat16 the bound allows for the error of the products, and pairs that
    reach it are multiplied again in float32.
    """
    n = len(points)
    order = _by_pivot(points, low)
    tiles = np.split(order, range(_TILE, n - 4 * k, _TILE))
    matrix = _Matrix(points, tiles, low)
    near, far = _Search(matrix, k, 1), _Search(matrix, 1, -1)
    searches = [near, far] if farthest else [near]
    for a in range(len(tiles)):
        close = matrix.products(a, a).fill_diagonal_(torch.inf)
        for search in searches:
            search.begin(a, close)
    for a in range(len(tiles)):
        for b in range(a + 1, len(tiles)):
            close = matrix.products(a, b)
            for search in searches:
                search.add(a, b, close)
        for search in searches:
            search.end(a)
    best, columns, unsure = near.result()
    lists = _in_order(best, columns)
    largest = np.zeros(n, np.float32)
    if farthest:
        best, _, crowded = far.result()
        largest = (-2 * best[:, 0]).clamp(min=0).numpy()
        unsure |= crowded
    if unsure.any():
        rows = np.flatnonzero(unsure.numpy())
        lists[rows], largest[rows] = _plain(points, rows, k)
    return lists, largest if farthest else None


def _by_pivot(points: _Points, low: bool) -> Array:
    """Sort all rows by their nearest pivot.

    With c the centre of the pivots, this is the p with the largest x.(p - c) - (p - c).(p + c) / 2.
    """
    n, columns = points.rows.shape
    dtype = torch.bfloat16 if low else torch.float32
    pivots = points.rows[:: math.isqrt(n)]
    centre = pivots.mean(0)
    at = pivots - centre
    half = (at * (pivots + centre)).sum(1) / 2
    at = at.to(dtype)
    nearest = [((points.rows[part].to(dtype) @ at.T).float() - half).argmax(1) for part in _strips(n, columns)]
    return np.argsort(torch.cat(nearest).numpy(), kind="stable").astype(np.int32)


class _Matrix:
    """Compute the closeness of all pairs, tile by tile, in float32 or approximately by products in bfloat16.

    For bfloat16 rows are centred first, which keeps distances and makes products, and so their errors, smaller.

    Attributes:
        points: The embeddings.
        tiles: Their indices, tile by tile.
        low: Whether products are approximations.
        error: Bound (N,) of the error of each row's closeness.
    """

    def __init__(self, points: _Points, tiles: list[Array], low: bool) -> None:
        self.points, self.tiles, self.low = points, tiles, low
        self.half, self.error = points.half, torch.zeros(len(points))
        if not low:
            self._rows = [points.take(rows) for rows in tiles]
            return
        self._rows = []
        length, lost = torch.empty(len(points)), torch.empty(len(points))
        centre = points.rows.mean(0)
        for rows in tiles:
            exact = points.take(rows).sub_(centre)
            self._rows.append(exact.bfloat16())
            length[rows] = torch.linalg.vector_norm(exact, dim=1)
            lost[rows] = torch.linalg.vector_norm(exact.sub_(self._rows[-1]), dim=1)
        self.half = length.square() / 2
        self.error = _error(length, lost, points.rows.shape[1])

    def products(self, a: int, b: int) -> Tensor:
        """Compute the closeness (A, B) of the rows of two tiles."""
        rows, columns = self._rows[a], self._rows[b]
        close = (_own_product(rows) if a == b else _product(rows, columns)).float()
        return close.sub_(self.half[self.tiles[a], None]).sub_(self.half[self.tiles[b]])

    def reach(self, a: int, best: Tensor) -> Tensor:
        """Lower `best` (A,) to what an approximate entry must reach for its exact closeness to reach `best`."""
        return best - 2 * self.error[self.tiles[a]]


def _error(length: Tensor, lost: Tensor, columns: int) -> Tensor:
    """Bound the error (N,) of closeness from bfloat16 products.

    With x' = x - r for the rounded rows, x.y - x'.y' = r.y + x'.s, at most |r| |y| + |x'| |s|. A product is summed in
    float32, with at most one rounding per term, and rounded to bfloat16; halves of squared lengths are float32.

    Args:
        length: Lengths (N,) of the rows.
        lost: Lengths (N,) of their rounding errors r.
        columns: Terms of a product.
    """
    longest = length + lost
    largest = longest * longest.max()
    return lost * length.max() + longest * lost.max() + largest * (2.0**-9 + (columns + 8) * 2.0**-23)


class _Search:
    """Search the k closest (sign 1) or farthest (sign -1) of each row in the tiles of a matrix."""

    def __init__(self, matrix: _Matrix, k: int, sign: int) -> None:
        self.matrix, self.k, self.sign = matrix, k, sign
        self.reach: list[Tensor] = []
        self.count = [np.zeros(len(rows), np.int64) for rows in matrix.tiles]
        self.candidates: list[list[tuple[Array, Array, Array]]] = [[] for _ in matrix.tiles]
        self.held = [0] * len(matrix.tiles)
        self.full = [_HELD * len(rows) for rows in matrix.tiles]
        self.kept: list[tuple[Array, Array, Array]] = []

    def begin(self, a: int, close: Tensor) -> None:
        """Take a tile of the diagonal; all of these come before any other."""
        best = _reached_by(close, self.k) if self.sign > 0 else -close.amin(1)
        self.reach.append(self.matrix.reach(a, best))
        self._keep(a, a, close, transposed=False)

    def add(self, a: int, b: int, close: Tensor) -> None:
        """Take a tile off the diagonal, for its rows and, transposed, for its columns."""
        self._keep(a, b, close, transposed=False)
        self._keep(b, a, close, transposed=True)

    def _keep(self, a: int, b: int, close: Tensor, *, transposed: bool) -> None:
        values, reach = close.numpy(), self.reach[a].numpy()  # which compares faster than torch
        reach = reach[None] if transposed else reach[:, None]
        hits = np.flatnonzero(values >= reach if self.sign > 0 else values <= -reach)
        rows, columns = np.divmod(hits, close.shape[1])
        if transposed:
            rows, columns = columns, rows
        self.count[a] += np.bincount(rows, minlength=len(self.count[a]))
        self.reach[a][torch.from_numpy(self.count[a] > _CANDIDATES)] = torch.inf
        self.candidates[a].append(
            (rows.astype(np.uint16), self.matrix.tiles[b][columns], self.sign * values.ravel()[hits])
        )
        self.held[a] += len(hits)
        if self.held[a] > self.full[a]:
            self._thin(a)
            self.full[a] = 2 * self.held[a] + _HELD * len(self.count[a])

    def _thin(self, a: int) -> None:
        """Sort the candidates of a tile's rows, and drop those that cannot be among the k best."""
        rows, columns, close = (np.concatenate(part) for part in zip(*self.candidates[a], strict=True))
        crowded = self.count[a] > _CANDIDATES
        kept = np.argsort(rows, kind="stable")
        kept = kept[~crowded[rows[kept]]]
        rows, columns, close = rows[kept], columns[kept], close[kept]
        best = _reached_by(_ragged(np.bincount(rows, minlength=len(crowded)), close, self.k), self.k)
        self.reach[a] = torch.maximum(self.reach[a], self.matrix.reach(a, best))
        kept = close >= self.reach[a].numpy()[rows]
        self.candidates[a] = [(rows[kept], columns[kept], close[kept])]
        self.held[a] = int(kept.sum())
        self.count[a] = np.where(crowded, self.count[a], np.bincount(rows[kept], minlength=len(crowded)))

    def end(self, a: int) -> None:
        """Keep the remaining candidates of a tile's rows, after its last tile."""
        self._thin(a)
        ((rows, columns, close),) = self.candidates[a]
        self.candidates[a] = []
        self.kept.append((self.matrix.tiles[a][rows], columns, close))

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return closeness and columns of the k best (N, k), and which rows (N,) must be computed again."""
        n = len(self.matrix.points)
        rows, columns, close = (np.concatenate(part) for part in zip(*self.kept, strict=True))
        table = sparse.csr_array((close, (rows, columns)), shape=(n, n))
        if self.matrix.low:
            table.data = self.sign * _closeness(self.matrix.points, table)
            if self.sign > 0:
                table.setdiag(np.inf)
        parts = []
        for start in range(0, n, _TILE):
            part = table[start : start + _TILE]
            sizes = np.diff(part.indptr)
            best, at, tied = _best(_ragged(sizes, part.data, self.k + 1), self.k)
            parts.append(
                (best, _ragged(sizes, part.indices, self.k + 1).gather(1, at), tied | torch.from_numpy(sizes < self.k))
            )
        closest, near, unsure = (torch.cat(part) for part in zip(*parts, strict=True))
        return self.sign * closest, near.long(), unsure


def _reached_by(close: Tensor, k: int) -> Tensor:
    """Return a value that at least k entries of each row reach: about the k-th largest, from maxima over columns."""
    together = min(8, close.shape[1] // (3 * k))
    if together > 1:
        width = close.shape[1] // together
        close = close[:, : together * width].reshape(-1, together, width).amax(1)
    return close.topk(k).values[:, -1]


def _ragged(sizes: Array, values: Array, width: int) -> Tensor:
    """Arrange concatenated rows of sizes (R,) as a matrix (R, width or more), padded with -inf or 0."""
    rows = np.repeat(np.arange(len(sizes)), sizes)
    at = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    matrix = np.full((len(sizes), max(width, sizes.max())), -np.inf if values.dtype.kind == "f" else 0, values.dtype)
    matrix[rows, at] = values
    return torch.from_numpy(matrix)


def _closeness(points: _Points, pairs: sparse.csr_array) -> NDArray[np.float32]:
    """Compute the closeness of the pairs stored in a matrix (N, N), in its order.

    Rows are visited so that successive ones need similar columns; without compiled loops, a few rows at a time are
    multiplied with all columns that any of them needs.
    """
    mutual = sparse.csr_array((np.ones(pairs.nnz, bool), pairs.indices, pairs.indptr), shape=pairs.shape)
    mutual = mutual.multiply(mutual.T).tocsr()
    order = reverse_cuthill_mckee(mutual, symmetric_mode=True).copy()
    if points.rows.device.type == "cpu" and (loops := _loops(len(points))):
        close: NDArray[np.float32] = loops.closeness(
            points.rows.numpy(), points.half.numpy(), order, pairs.indptr, pairs.indices
        )
        return close
    numbered = sparse.csr_array((np.arange(pairs.nnz), pairs.indices, pairs.indptr), shape=pairs.shape)[order]
    close = np.empty(pairs.nnz, np.float32)
    step = 32 if points.rows.device.type == "cpu" else 1024
    for start in range(0, len(order), step):
        ends = numbered.indptr[start : start + step + 1]
        part = slice(ends[0], ends[-1])
        union, columns = np.unique(numbered.indices[part], return_inverse=True)
        block = points.closeness(order[start : start + step], union).cpu().numpy()
        close[numbered.data[part]] = block[np.repeat(np.arange(len(ends) - 1), np.diff(ends)), columns]
    return close


def _with_faiss(points: _Points, k: int) -> Array:
    """Do the work of `_plain` for all rows, from candidates that faiss finds.

    faiss rounds differently, so it may swap near neighbours, and it breaks ties arbitrarily. We therefore request more
    than k candidates, compute their closeness again, as after products in bfloat16, and order by that. A row is
    compared with every other if its last candidate is not clearly farther than its k-th neighbour, or if a distance
    from faiss is off by more than rounding. So lists are equal except where float32 cannot distinguish distances.
    """
    n, columns = points.rows.shape
    count = min(k + _SPARE, n)
    squared, found = _candidates(points, count)
    own = np.arange(n)[:, None]
    unsure = torch.from_numpy(~(found == own).any(1) | (found < 0).any(1))
    found[unsure.numpy()] = np.arange(count)
    by_index = np.argsort(found, axis=1)
    found, squared = (np.take_along_axis(values, by_index, 1) for values in (found, squared))
    table = sparse.csr_array(
        (np.ones(n * count, bool), found.ravel(), np.arange(0, n * count + 1, count)), shape=(n, n)
    )
    close = torch.from_numpy(_closeness(points, table)).view(n, count)

    far = torch.from_numpy(squared)
    length = (2 * points.half.cpu()).sqrt()
    rounding = (columns + 8) * 2.0**-23 * (length + length.max()).square()  # of faiss's distance and ours, added
    unsure |= ((far + 2 * close).abs() > rounding[:, None]).any(1)
    close[torch.from_numpy(found == own)] = torch.inf
    order = close.argsort(dim=1, descending=True, stable=True)[:, :k]
    if count < n:
        unsure |= far.amax(1) - rounding <= -2 * close.gather(1, order[:, -1:])[:, 0]
    lists: Array = np.take_along_axis(found, order.numpy(), 1)
    if unsure.any():
        rows = np.flatnonzero(unsure.numpy())
        lists[rows] = _plain(points, rows, k)[0]
    return lists


def _candidates(points: _Points, count: int) -> tuple[NDArray[np.float32], Array]:
    """Search squared distances and indices (N, count) of each row's nearest with faiss; -1 if it finds none."""
    try:
        import faiss
    except ImportError:
        raise UserError("faiss is not installed: pip install 'reproduce-reid[faiss-cpu]'") from None
    index: Any = faiss.IndexFlatL2(points.rows.shape[1])
    device = points.rows.device
    if device.type == "cuda" and hasattr(faiss, "StandardGpuResources"):
        resources = faiss.StandardGpuResources()  # must outlive the index
        index = faiss.index_cpu_to_gpu(resources, device.index or 0, index)
    faiss.omp_set_num_threads(torch.get_num_threads())
    rows = points.rows.cpu().numpy()
    index.add(rows)
    squared, found = index.search(rows, count)
    return squared, found


# k-reciprocal encoding and Jaccard distances


def _lists(ranks: Array | Tensor, n: int, k: int) -> Array:
    """Check given lists and return their first k columns."""
    lists = torch.as_tensor(ranks).cpu().numpy()
    if lists.ndim != 2 or lists.dtype.kind not in "iu" or len(lists) != n or lists.shape[1] < min(k, n):
        raise UserError(
            f"ranks are {lists.dtype} of shape {lists.shape}; give integers, ({n}, {min(k, n)}) or more columns"
        )
    lists = lists[:, : min(k, n)].astype(np.int64)
    ordered = np.sort(lists, axis=1)
    if ordered[:, 0].min() < 0 or ordered[:, -1].max() >= n or (ordered[:, 1:] == ordered[:, :-1]).any():
        raise UserError(f"ranks hold images that are not in 0..{n - 1}, or one image twice in a list")
    return lists


def _codes(points: _Points, lists: Array, k1: int, k2: int, farthest: NDArray[np.float32] | None) -> sparse.csr_array:
    """Compute the vectors V (N, N): weights over k-reciprocal neighbours, averaged over the k2 nearest.

    Args:
        points: The images.
        lists: Neighbours (N, k), all of which are used for R(i, k1).
        k1, k2: Parameters of R(i, k1 / 2) and of the average.
        farthest: Largest squared distances (N,), by which those from i are divided.
    """
    members = _members(lists, k1)
    far = -2 * _closeness(points, members)
    if farthest is not None:
        far /= np.where(farthest > 0, farthest, 1)[_cells(members)[0]]
    return _spread(lists, members, far, k2)


def _members(lists: Array, k1: int) -> sparse.csr_array:
    """Compute the expanded k-reciprocal sets (N, N) of lists (N, k)."""
    k = lists.shape[1]
    full = _reciprocal(lists)
    half = _reciprocal(lists[:, : min(round(k1 / 2) + 1, k)])
    common = (full @ half.T).multiply(full).tocsr()
    common.data = (common.data > 2 / 3 * np.diff(half.indptr)[common.indices]).astype(np.int32)
    common.eliminate_zeros()
    return (full + common @ half).tocsr()


def _cells(graph: sparse.csr_array) -> tuple[Array, Array]:
    """Return rows and columns of the stored entries of a graph."""
    return np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr)), graph.indices


def _spread(lists: Array, members: sparse.csr_array, far: NDArray[np.float32], k2: int) -> sparse.csr_array:
    """Spread a weight of 1 over members (N, N) by their distances, and average over the k2 nearest."""
    n, k = lists.shape
    rows = _cells(members)[0]
    weights = np.exp(-np.maximum(far, 0))
    weights /= np.bincount(rows, weights, minlength=n)[rows]
    codes = sparse.csr_array((weights, members.indices, members.indptr), shape=(n, n))
    if k2 == 1:
        return codes
    codes = _indicator(lists[:, :k2], np.float32(1)) @ codes
    codes.data /= min(k2, k)  # the reciprocal is rounded, and rows would sum to more than 1
    return codes


def _reciprocal(lists: Array) -> sparse.csr_array:
    """Compute R (N, N): 1 if two images have each other in their lists."""
    named = _indicator(lists, np.int32(1))
    return named.multiply(named.T).tocsr()


def _indicator(lists: Array, value: Any) -> sparse.csr_array:
    """Build a matrix (N, N) with `value` for each image in another's list."""
    n, k = lists.shape
    return sparse.csr_array(
        (np.full(n * k, value), lists.ravel().astype(np.int32), np.arange(0, n * k + 1, k, dtype=np.int32)),
        shape=(n, n),
    )


def _jaccard(codes: sparse.csr_array) -> sparse.csr_array:
    """Compute the distances (N, N) below 1, summing each pair once."""
    numbered = sparse.csr_array((np.arange(codes.nnz), codes.indices, codes.indptr), shape=codes.shape).tocsc()
    lists = sparse.csc_array((codes.data[numbered.data], numbered.indices, numbered.indptr), shape=codes.shape)
    own = np.empty(codes.nnz, np.int32)
    own[numbered.data] = np.arange(codes.nnz)
    upper = sparse.vstack([shared for _, shared in _overlaps(codes, lists, own)], format="csr")
    image = np.repeat(np.arange(codes.shape[0], dtype=np.int32), np.diff(upper.indptr))
    upper.data[(upper.indices == image) & (upper.data > 1 - _ROUNDING)] = 1
    del image
    shared = (upper + sparse.triu(upper, 1).T).tocsr()
    shared.data = 1 - shared.data / (2 - shared.data)
    np.maximum(shared.data, 0, out=shared.data)
    return shared


def _overlaps(
    codes: sparse.csr_array, lists: sparse.csc_array, start: Array
) -> Iterator[tuple[slice, sparse.csr_array]]:
    """Sum the element-wise minima of codes (R, N) and others, some rows of codes at a time.

    Args:
        codes: The rows.
        lists: The others (M, N), by column.
        start: For each stored entry of codes, the first entry to use in its column of `lists`.

    Yields:
        A slice of rows and their sums (B, M).
    """
    counts = lists.indptr[codes.indices + 1] - start
    ends = np.concatenate([[0], np.cumsum(counts)])
    identity = sparse.eye_array(
        lists.shape[0], dtype=np.float32, format="csr"
    )  # multiplying by it sums duplicate entries of a row
    loops = _loops(codes.shape[1])
    terms = ends[codes.indptr]
    row = 0
    while row < codes.shape[0]:
        stop = max(row + 1, int(np.searchsorted(terms, terms[row] + _CELLS, side="right")) - 1)
        part = slice(codes.indptr[row], codes.indptr[stop])
        shape = stop - row, lists.shape[0]
        if loops:
            pointers, indices, sums = loops.overlaps(
                codes.indptr[row : stop + 1] - codes.indptr[row], codes.indices[part], codes.data[part], start[part],
                lists.indptr[1:], lists.indices, lists.data, shape[1], terms[stop] - terms[row], _LEAST,
            )  # fmt: skip
            yield slice(row, stop), sparse.csr_array((sums, indices, pointers), shape=shape)
        else:
            first = (start[part] - (ends[:-1][part] - terms[row])).astype(np.int32)
            at = np.repeat(first, counts[part]) + np.arange(terms[stop] - terms[row], dtype=np.int32)
            least = np.minimum(lists.data[at], np.repeat(codes.data[part], counts[part]))
            pointers = (terms[row : stop + 1] - terms[row]).astype(np.int32)
            summed = sparse.csr_array((least, lists.indices[at], pointers), shape=shape) @ identity
            summed.data[summed.data < _LEAST] = 0
            summed.eliminate_zeros()
            yield slice(row, stop), summed
        row = stop
