"""Nearest neighbours, k-reciprocal Jaccard distances and re-ranking: exact, without ever holding an N x N matrix.

Distances between embeddings are squared Euclidean; the kernels work with closeness, minus half of that:
x_i . x_j - |x_i|^2 / 2 - |x_j|^2 / 2, symmetric and largest for the nearest. A list of neighbours begins with the image
itself, and a tie goes to the lower index. Products are computed on the embeddings' device, the sparse rest on the CPU,
of many images by compiled loops where numba is installed. A run can have faiss look for neighbours instead.
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
"""What looks for neighbours; which changes how fast they are found, and not which."""

Metric: TypeAlias = Literal["cosine", "euclidean"]

_TILE = 1024
"""Rows and columns of a tile of products."""

_BLOCK = 512
"""Rows and columns that a CPU multiplies at a time."""

_CELLS = 1 << 22
"""Products, or terms of a sparse sum, that are held at a time."""

_CANDIDATES = 4096
"""Candidates of one row from which comparing it with every other is cheaper."""

_HELD = 64
"""Candidates of a row that are held before those out of reach are dropped."""

_SPARE = 32
"""Candidates of a row that faiss gives beyond its k neighbours."""

_LONGEST = 1024
"""The longest lists that faiss is asked for; its index on a GPU gives up to 2,048."""

_COMPILED = 8192
"""Images from which compiled loops save more than it takes to load them."""

_LEAST = 2.0**-23
"""Overlap of two codes below which their distance would round to 1."""

_ROUNDING = 1e-6
"""Distances from oneself and cosine distances below this are zero but for rounding."""


def nearest(embeddings: Embeddings, k: int) -> Array:
    """The k nearest neighbours of each embedding, itself first.

    Args:
        embeddings: (N, D).
        k: length of the lists; N if that is less.

    Returns:
        (N, k) indices, nearest first by the float32 products as computed, the lower of equally near ones first.

    Raises:
        UserError: embeddings that are empty, not a matrix of real numbers, or not finite; k below 1; no faiss where it
            was chosen.
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
    """The k-reciprocal Jaccard distances that are below 1.

    The k-reciprocal set R(i, k) holds those in i's list that have i in theirs. R(i, k1) is joined by the R(j, k1 / 2)
    of each member j of which more than two thirds lie in it. V_i spreads a weight of 1 over the result, proportional to
    exp(-d), and is then averaged over the k2 nearest of i, itself among them. With s the sum of the element-wise minima
    of V_i and V_j the distance is 1 - s / (2 - s). Zhong et al., "Re-ranking Person Re-identification with k-reciprocal
    Encoding" (CVPR 2017).

    | variant | lists for R(i, k1) | d | embeddings |
    |---|---|---|---|
    | spcl | k1, itself included | squared Euclidean | of unit length |
    | mmt | k1 + 1 | squared Euclidean over the largest from i | of unit length |
    | udap | k1 + 1 | squared Euclidean over the largest from i | as they are |

    Lists for R(j, k1 / 2) have round(k1 / 2) + 1 entries, halves rounded to even, in all three. The variants are the
    published code of SpCL, of MMT, and of UDAP (in single where that is in half precision).

    Args:
        embeddings: (N, D).
        k1, k2: as above; lists longer than N hold all N.
        variant: as above; "spcl" and "mmt" rescale rows that are not of unit length.
        ranks: (N, k1 + 1 or more; k1 for "spcl") neighbours of each image, nearest first, itself included; found if
            not given.

    Returns:
        (N, N) float32, the pairs whose distance is below 1; zeros are stored, the diagonal among them. Rounding leaves
        some pairs with equal V a distance of 1e-7, as in the published codes, whose rule for eps leaves out zeros
        alone.

    Raises:
        UserError: embeddings as for `nearest`; k2 beyond k1; ranks that are no lists of images.
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


def rerank(
    query: Embeddings,
    gallery: Embeddings,
    k1: int = 20,
    k2: int = 6,
    lambda_: float = 0.3,
    *,
    metric: Metric = "euclidean",
) -> Iterator[NDArray[np.float32]]:
    """Re-ranked distances between queries and gallery, a block of queries at a time.

    (1 - lambda) Jaccard + lambda d, where d is the squared distance divided by the largest of that query to any image.
    The k-reciprocal sets are those of queries and gallery together, with lists of k1 + 1 and weights proportional to
    exp(-d). Zhong et al. (CVPR 2017) and their published code, which squares Euclidean distances.

    Args:
        query: (Q, D).
        gallery: (G, D).
        k1, k2: of the k-reciprocal sets and of the average; lists longer than Q + G hold all.
        lambda_: the share of the original distance, in 0..1.
        metric: "euclidean" takes embeddings as they are, "cosine" rescales them to unit length first.

    Returns:
        An iterator over float32 blocks (B, G), which make up all rows in the order of the queries.

    Raises:
        UserError: embeddings as for `nearest`, or of different dimensions; k2 beyond k1; a lambda outside 0..1.
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
    """Distances between queries and gallery, a block of queries at a time.

    Args:
        query: (Q, D).
        gallery: (G, D).
        metric: "cosine", 1 minus the cosine; or "euclidean", squared.

    Returns:
        An iterator over float32 blocks (B, G), which make up all rows in the order of the queries.

    Raises:
        UserError: embeddings as for `nearest`, or of different dimensions; another metric.
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
    """The cosine distances of near pairs.

    Args:
        embeddings: (N, D); a row of zeros is at distance 1 from all others.
        radius: the largest distance that is stored, at most 1.
        pairs: store only so many of the nearest pairs, pairs at distance 0 not counted; None for all within the radius.

    Returns:
        (N, N) float32, symmetric; zeros are stored, the diagonal among them. A pair that is not stored is taken to be
        at distance 1, whatever it is.

    Raises:
        UserError: embeddings as for `nearest`; a radius outside 0..1; pairs below 1.
    """
    if not 0 <= radius <= 1 or (pairs is not None and pairs < 1):
        raise UserError(f"radius is {radius} and pairs {pairs}; give a radius in 0..1 and at least one pair")
    points = _points(embeddings)
    unit = points.rows / (2 * points.half).sqrt().clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    n = len(unit)
    found: list[Tensor] = []
    values = torch.empty(0)
    for rows in _strips(n, n):
        far = 1 - _product(unit[rows], unit[rows.start :])
        far[far < _ROUNDING] = 0
        at = torch.nonzero((far <= radius).triu(1))
        found.append(torch.stack([at[:, 0] + rows.start, at[:, 1] + rows.start]).cpu())
        values = torch.cat([values, far[at[:, 0], at[:, 1]].cpu()])
        if pairs is not None and (values > 0).sum() > pairs:
            radius = float(values[values > 0].kthvalue(pairs).values)
            near = values <= radius
            found, values = [torch.cat(found, dim=1)[:, near]], values[near]
    first, second = torch.cat(found, dim=1).numpy()
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
    """Whether this processor has bfloat16 and multiplies it over 1.5 times as fast as float32, by trial.

    Support alone does not tell: there are processors that convert bfloat16 and multiply float32.
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
    """Choose what looks for neighbours, and override what the processor and the number of images decide.

    Args:
        bfloat16: whether a CPU's products may be in it.
        compiled: whether loops are, where numba is installed.
        backend: "torch", or "faiss" where that is installed: its exact index, on the embeddings' device if it can be,
            else on the CPU. Lists are equal: see `_with_faiss`. Largest distances, which `rerank` and two variants of
            Jaccard distances need as well, are still found by torch.

    What is not given is left alone.
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
    """Embeddings as the kernels take them.

    Attributes:
        rows: (N, D), float32.
        half: (N,), half their squared lengths.
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
        """Minus half the squared distances (R, C) between some rows and others."""
        return _product(self.take(rows), self.take(columns)).sub_(self.half[columns]).sub_(self.half[rows, None])

    def take(self, rows: Any) -> Tensor:
        """Some rows (R, D): a view of a slice, a copy of those listed."""
        if isinstance(rows, slice):
            return self.rows[rows]
        return self.rows.index_select(0, torch.as_tensor(rows, device=self.rows.device))  # faster than self.rows[rows]


def checked(embeddings: Embeddings, name: str = "embeddings") -> Tensor:
    """Embeddings (N, D) of any real type and layout as a float32 tensor on their own device.

    Raises:
        UserError: they are empty, not a matrix of real numbers, or not finite.
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
    """Queries and gallery, on the device of the gallery."""
    if metric not in ("cosine", "euclidean"):
        raise UserError(f"metric is {metric!r}; choose cosine or euclidean")
    images = _points(gallery, unit=metric == "cosine", name="the gallery's embeddings")
    queries = _points(query, unit=metric == "cosine", name="the queries' embeddings")
    _same_space(queries, images)
    if queries.rows.device != images.rows.device:
        queries = _Points(queries.rows.to(images.rows.device))
    return queries, images


def _product(rows: Tensor, columns: Tensor) -> Tensor:
    """Inner products (R, C); in float32 a CPU takes a block at a time, which it multiplies fastest."""
    if rows.device.type != "cpu" or rows.dtype != torch.float32:
        return rows @ columns.T
    product = rows.new_empty(len(rows), len(columns))
    for at in range(0, len(rows), _BLOCK):
        for to in range(0, len(columns), _BLOCK):
            block = product[at : at + _BLOCK, to : to + _BLOCK]
            torch.mm(rows[at : at + _BLOCK], columns[to : to + _BLOCK].T, out=block)
    return product


def _own_product(rows: Tensor) -> Tensor:
    """Inner products (R, R) of some rows with each other, most pairs multiplied once."""
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
    """Some rows at a time, of so many columns."""
    step = max(1, _CELLS // columns)
    return [slice(at, min(at + step, count)) for at in range(0, count, step)]


# Nearest neighbours


def _neighbours(points: _Points, k: int, *, farthest: bool = False) -> tuple[Array, NDArray[np.float32] | None]:
    """Lists of nearest neighbours (N, min(k, N)) and, if asked for, the largest squared distance from each row (N,)."""
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
    """Lists (R, k) and largest squared distances (R,) of some rows, comparing each with every other."""
    lists, farthest = [], []
    for strip in _strips(len(rows), len(points)):
        part = rows[strip]
        close = points.closeness(part)
        farthest.append(-2 * close.amin(1))
        close[torch.arange(len(part)), part] = torch.inf
        best, at, tied = _best(close, k)
        for row in torch.nonzero(tied)[:, 0].tolist():
            last = best[row, -1]
            above, equal = torch.nonzero(close[row] > last)[:, 0], torch.nonzero(close[row] == last)[:, 0]
            at[row] = torch.cat([above, equal[: k - len(above)]])
            best[row] = close[row, at[row]]
        lists.append(_in_order(best, at))
    return np.concatenate(lists), torch.cat(farthest).clamp_(min=0).cpu().numpy()


def _best(close: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest of each row, where they are, and whether the choice was not unique."""
    best, at = close.topk(min(k + 1, close.shape[1]))
    tied = best[:, k - 1] == best[:, k] if best.shape[1] > k else torch.zeros(len(best), dtype=torch.bool)
    return best[:, :k], at[:, :k], tied


def _in_order(close: Tensor, at: Tensor) -> Array:
    """Neighbours (R, k) by falling closeness, then by index."""
    at, by_index = at.sort(1)
    by_closeness = close.gather(1, by_index).argsort(dim=1, descending=True, stable=True)
    return at.gather(1, by_closeness).cpu().numpy()


def _loops(images: int) -> Any:
    """The module of compiled loops, if there are images enough for it, and numba; None otherwise."""
    if not _forced.get("compiled", images >= _COMPILED):
        return None
    try:
        from reproduce import compiled
    except ImportError:
        return None
    return compiled


def _tiled(points: _Points, k: int, farthest: bool, low: bool) -> tuple[Array, NDArray[np.float32] | None]:
    """As `_plain` for all rows, with each pair multiplied once, in bfloat16 if `low`.

    Rows are sorted so that neighbours are mostly in one tile of the diagonal. The neighbours found there bound what any
    other must reach, and few pairs of other tiles do. In bfloat16 the bound allows for the error of the products, and
    the pairs that reach it are multiplied again in float32.
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
    """All rows, sorted by which of some pivots is nearest.

    With c the centre of the pivots, that is the p for which x.(p - c) - (p - c).(p + c) / 2 is largest.
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
    """The closeness of all pairs, tile by tile, in float32 or approximated by products in bfloat16.

    In bfloat16 rows are centred first, which leaves distances as they are and makes products, and so their errors,
    smaller.

    Attributes:
        points: the embeddings.
        tiles: their indices, tile by tile.
        low: whether products are approximations.
        error: (N,), by how much a closeness of each row can be off.
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
        """The closeness (A, B) of the rows of two tiles."""
        rows, columns = self._rows[a], self._rows[b]
        close = (_own_product(rows) if a == b else _product(rows, columns)).float()
        return close.sub_(self.half[self.tiles[a], None]).sub_(self.half[self.tiles[b]])

    def reach(self, a: int, best: Tensor) -> Tensor:
        """What an entry of a row of tile a must reach for its exact closeness to be that of `best` (A,) or more."""
        return best - 2 * self.error[self.tiles[a]]


def _error(length: Tensor, lost: Tensor, columns: int) -> Tensor:
    """A bound (N,) of the error of closeness from bfloat16 products.

    With x' = x - r for the rounded rows, x.y - x'.y' = r.y + x'.s, at most |r| |y| + |x'| |s|. A product is summed in
    float32, with at most one rounding a term, and rounded to bfloat16; the halves of the squared lengths are float32.

    Args:
        length: (N,) lengths of the rows.
        lost: (N,) lengths of what rounding took from them.
        columns: terms of a product.
    """
    longest = length + lost
    largest = longest * longest.max()
    return lost * length.max() + longest * lost.max() + largest * (2.0**-9 + (columns + 8) * 2.0**-23)


class _Search:
    """The k closest (sign 1) or the k farthest (sign -1) of each row, from the tiles of a matrix."""

    def __init__(self, matrix: _Matrix, k: int, sign: int) -> None:
        self.matrix, self.k, self.sign = matrix, k, sign
        self.reach: list[Tensor] = []
        self.count = [np.zeros(len(rows), np.int64) for rows in matrix.tiles]
        self.found: list[list[tuple[Array, Array, Array]]] = [[] for _ in matrix.tiles]
        self.held = [0] * len(matrix.tiles)
        self.full = [_HELD * len(rows) for rows in matrix.tiles]
        self.kept: list[tuple[Array, Array, Array]] = []

    def begin(self, a: int, close: Tensor) -> None:
        """Take a tile of the diagonal, of which there must be all before any other."""
        best = _reached_by(close, self.k) if self.sign > 0 else -close.amin(1)
        self.reach.append(self.matrix.reach(a, best))
        self._keep(a, a, close, transposed=False)

    def add(self, a: int, b: int, close: Tensor) -> None:
        """Take a tile beside the diagonal, for its rows and, mirrored, for its columns."""
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
        self.found[a].append((rows.astype(np.uint16), self.matrix.tiles[b][columns], self.sign * values.ravel()[hits]))
        self.held[a] += len(hits)
        if self.held[a] > self.full[a]:
            self._thin(a)
            self.full[a] = 2 * self.held[a] + _HELD * len(self.count[a])

    def _thin(self, a: int) -> None:
        """Sort what was found for the rows of a tile, and drop what the k best so far put out of reach."""
        rows, columns, close = (np.concatenate(part) for part in zip(*self.found[a], strict=True))
        crowded = self.count[a] > _CANDIDATES
        kept = np.argsort(rows, kind="stable")
        kept = kept[~crowded[rows[kept]]]
        rows, columns, close = rows[kept], columns[kept], close[kept]
        best = _reached_by(_ragged(np.bincount(rows, minlength=len(crowded)), close, self.k), self.k)
        self.reach[a] = torch.maximum(self.reach[a], self.matrix.reach(a, best))
        kept = close >= self.reach[a].numpy()[rows]
        self.found[a] = [(rows[kept], columns[kept], close[kept])]
        self.held[a] = int(kept.sum())
        self.count[a] = np.where(crowded, self.count[a], np.bincount(rows[kept], minlength=len(crowded)))

    def end(self, a: int) -> None:
        """Keep what was found for the rows of a tile, after its last."""
        self._thin(a)
        ((rows, columns, close),) = self.found[a]
        self.found[a] = []
        self.kept.append((self.matrix.tiles[a][rows], columns, close))

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Closeness and columns of the k best (N, k), and which rows (N,) have to be done over."""
        n = len(self.matrix.points)
        rows, columns, close = (np.concatenate(part) for part in zip(*self.kept, strict=True))
        table = sparse.csr_array((close, (rows, columns)), shape=(n, n))
        if self.matrix.low:
            table.data = self.sign * _closeness(self.matrix.points, table)
            if self.sign > 0:
                table.setdiag(np.inf)
        found = []
        for start in range(0, n, _TILE):
            part = table[start : start + _TILE]
            sizes = np.diff(part.indptr)
            best, at, tied = _best(_ragged(sizes, part.data, self.k + 1), self.k)
            found.append(
                (best, _ragged(sizes, part.indices, self.k + 1).gather(1, at), tied | torch.from_numpy(sizes < self.k))
            )
        closest, near, unsure = (torch.cat(part) for part in zip(*found, strict=True))
        return self.sign * closest, near.long(), unsure


def _reached_by(close: Tensor, k: int) -> Tensor:
    """What at least k entries of each row reach: about the k-th largest, from the maxima of a few columns each."""
    together = min(8, close.shape[1] // (3 * k))
    if together > 1:
        width = close.shape[1] // together
        close = close[:, : together * width].reshape(-1, together, width).amax(1)
    return close.topk(k).values[:, -1]


def _ragged(sizes: Array, values: Array, width: int) -> Tensor:
    """Rows of several sizes (R,), one after the other, as a matrix (R, width or more) filled up with -inf or 0."""
    rows = np.repeat(np.arange(len(sizes)), sizes)
    at = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    matrix = np.full((len(sizes), max(width, sizes.max())), -np.inf if values.dtype.kind == "f" else 0, values.dtype)
    matrix[rows, at] = values
    return torch.from_numpy(matrix)


def _closeness(points: _Points, pairs: sparse.csr_array) -> NDArray[np.float32]:
    """The closeness of the pairs that a matrix (N, N) stores, in its order.

    Rows are taken in an order in which they ask for much the same columns; where no loop is compiled, a few at a time,
    multiplied with all that any of them asks for.
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
    """As `_plain` for all rows, from candidates that faiss finds.

    faiss rounds in another way, so it may swap near ones, and it breaks ties as it likes. It is therefore asked for
    more than k, and the closeness of these is computed again, as after products in bfloat16, and decides. A row is
    compared with every other where its last candidate is not clearly farther than its k-th neighbour, and where a
    distance of faiss's is off by more than rounding. So lists are equal but for what float32 cannot tell apart.
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
    rounding = (columns + 8) * 2.0**-23 * (length + length.max()).square()  # of faiss's distance and ours together
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
    """Squared distances and indices (N, count) of the nearest of each row, by faiss; -1 where it finds none."""
    try:
        import faiss
    except ImportError:
        raise UserError("faiss is not installed: pip install 'reproduce-reid[faiss-cpu]'") from None
    index: Any = faiss.IndexFlatL2(points.rows.shape[1])
    device = points.rows.device
    if device.type == "cuda" and hasattr(faiss, "StandardGpuResources"):
        resources = faiss.StandardGpuResources()  # which have to outlive the index
        index = faiss.index_cpu_to_gpu(resources, device.index or 0, index)
    faiss.omp_set_num_threads(torch.get_num_threads())
    rows = points.rows.cpu().numpy()
    index.add(rows)
    squared, found = index.search(rows, count)
    return squared, found


# k-reciprocal encoding and Jaccard distances


def _lists(ranks: Array | Tensor, n: int, k: int) -> Array:
    """The first k of injected lists, checked."""
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
    """The vectors V (N, N): weights over k-reciprocal neighbours, averaged over the k2 nearest.

    Args:
        points: the images.
        lists: (N, k) neighbours; all of them count for R(i, k1).
        k1, k2: for R(i, k1 / 2) and for the average.
        farthest: (N,) largest squared distances, by which those from i are divided.
    """
    n, k = lists.shape
    full = _reciprocal(lists)
    half = _reciprocal(lists[:, : min(round(k1 / 2) + 1, k)])
    common = (full @ half.T).multiply(full).tocsr()
    common.data = (common.data > 2 / 3 * np.diff(half.indptr)[common.indices]).astype(np.int32)
    common.eliminate_zeros()
    members = (full + common @ half).tocsr()
    del common, half

    rows = np.repeat(np.arange(n), np.diff(members.indptr))
    far = -2 * _closeness(points, members)
    if farthest is not None:
        far /= np.where(farthest > 0, farthest, 1)[rows]
    weights = np.exp(-np.maximum(far, 0))
    weights /= np.bincount(rows, weights, minlength=n)[rows]
    codes = sparse.csr_array((weights, members.indices, members.indptr), shape=(n, n))
    if k2 == 1:
        return codes
    codes = _indicator(lists[:, :k2], np.float32(1)) @ codes
    codes.data /= min(k2, k)  # the reciprocal is rounded, and rows would sum to more than 1
    return codes


def _reciprocal(lists: Array) -> sparse.csr_array:
    """R (N, N): 1 where two images have each other in their lists."""
    named = _indicator(lists, np.int32(1))
    return named.multiply(named.T).tocsr()


def _indicator(lists: Array, value: Any) -> sparse.csr_array:
    """(N, N), holding a value where an image has another in its list."""
    n, k = lists.shape
    return sparse.csr_array(
        (np.full(n * k, value), lists.ravel().astype(np.int32), np.arange(0, n * k + 1, k, dtype=np.int32)),
        shape=(n, n),
    )


def _jaccard(codes: sparse.csr_array) -> sparse.csr_array:
    """The distances (N, N) below 1; of each pair only one half is summed."""
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
    """Sums of the element-wise minima of codes (R, N) and others, some rows of codes at a time.

    Args:
        codes: the rows.
        lists: (M, N), the others by column.
        start: for each stored entry of codes, where to begin in the list of its column.

    Yields:
        Some rows and their sums (B, M).
    """
    counts = lists.indptr[codes.indices + 1] - start
    ends = np.concatenate([[0], np.cumsum(counts)])
    identity = sparse.eye_array(lists.shape[0], dtype=np.float32, format="csr")  # adds up what a row names twice
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
