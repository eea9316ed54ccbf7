"""Clusterings as values: DBSCAN on a graph of distances, k-means on embeddings. Labels are 0, 1, ...; outliers -1."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from reproduce.errors import UserError
from reproduce.stage import added

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from scipy import sparse

    from reproduce.neighbours import Embeddings

    Kept: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.int64]]

OUTLIER = -1


@dataclass(frozen=True)
class Rho:
    """The eps of UDAP, SSG and MMT: the mean of the lowest share rho of the distances that are not zero."""

    rho: float = 1.6e-3
    """The share, a fraction."""
    of: int | None = None
    """Number of images that rho was chosen for: among N the share is rho (of - 1) / (N - 1), so that an image has the
    same number of neighbours for any N; None to use rho unchanged."""
    factor: float = added(1.0)
    """What the mean is multiplied by."""

    def share(self, n: int) -> float:
        """Compute the share for the pairs of n images."""
        return of_pairs(self.rho, self.of, n)

    def eps(self, graph: sparse.csr_array) -> float:
        """Compute eps from the pairs of a graph (N, N)."""
        return self.factor * _mean_of_lowest(graph, self.share(graph.shape[0]), zeros=False)


@dataclass(frozen=True)
class TopP:
    """The eps of DAAM: the mean of the lowest share p of all distances (section on target domain learning)."""

    p: float = 1.6e-3
    """The share, a fraction."""
    of: int | None = added(None)
    """Number of images that p was chosen for, as in `Rho`."""

    def share(self, n: int) -> float:
        """Compute the share for the pairs of n images."""
        return of_pairs(self.p, self.of, n)

    def eps(self, graph: sparse.csr_array) -> float:
        """Compute eps from the pairs of a graph (N, N)."""
        return _mean_of_lowest(graph, self.share(graph.shape[0]), zeros=True)


@dataclass(frozen=True)
class MostClusters:
    """The eps that leaves the most clusters to train on, searched again at every clustering.

    The grid holds the eps at which an image has `fewest` to `most` neighbours on average, in steps of `factor`; ties go
    to the smallest. MSPLR (section 3.3.2) chose its eps by a grid search in an early step, "to determine a value that
    would balance the number of clusters selected and the number of outliers".
    """

    fewest: float = 0.5
    """Neighbours per image at the smallest eps."""
    most: float = 25.0
    """Neighbours per image at the largest eps."""
    factor: float = 1.1
    """Ratio between consecutive numbers of neighbours."""
    size: int = added(1)
    """Fewest images of a cluster that counts. Without outliers, as with `min_samples` of 1, every image left alone is a
    cluster."""
    min_samples: int | None = added(None)
    """`DBSCAN.min_samples` of the search; None for the clustering's own. With a number, clusterings that differ in
    theirs alone get the same eps."""

    def pairs(self, n: int) -> NDArray[np.int64]:
        """Compute the number of pairs of n images within eps, for each eps of the grid."""
        import numpy as np

        steps = math.floor(math.log(self.most / self.fewest) / math.log(self.factor) + 1e-9)
        pairs = np.round(self.fewest * self.factor ** np.arange(steps + 1) * n / 2).astype(np.int64)
        return np.unique(pairs.clip(1, max(1, n * (n - 1) // 2)))

    def eps(self, graph: sparse.csr_array, left: Callable[[float], NDArray[np.int64]]) -> float:
        """Find the eps for a graph (N, N); `left` gives the labels that an eps leaves to train on.

        Raises:
            UserError: no pair of images has a stored distance.
        """
        import numpy as np
        from scipy import sparse

        near = np.sort(sparse.triu(graph, 1, format="coo").data)
        if not len(near):
            raise UserError(f"of {graph.shape[0]} images no two are near each other: give eps as a number")
        tried = np.unique(near[(self.pairs(graph.shape[0]) - 1).clip(max=len(near) - 1)])
        found = [left(float(eps)) for eps in tried]
        counts = [np.count_nonzero(np.bincount(labels[labels != OUTLIER]) >= self.size) for labels in found]
        return float(tried[np.argmax(counts)])


@dataclass(frozen=True)
class Tuned:
    """An eps, or the share in a rule for it, that suits one target. It holds for that data set and network; elsewhere
    another rule applies.

    `reproduce.session.setting` replaces it by one or the other.
    """

    printed: float | Rho | TopP
    """The paper's eps, or the rule on the published data."""
    elsewhere: MostClusters | Rho = MostClusters()
    """The rule for other data."""


@dataclass(frozen=True)
class DBSCAN:
    """Ester et al., "A Density-Based Algorithm for Discovering Clusters" (KDD 1996), on a graph of distances.

    An image with at least `min_samples` images within eps, itself included, is a core. Cores within eps of each other
    share a cluster; any other image joins the first cluster with a core within eps of it, or is an outlier. Clusters
    are numbered by their first cores.
    """

    eps: float | Rho | TopP | MostClusters | Tuned = 0.6
    """A distance, or a rule for it."""
    min_samples: int = 4
    """Images within eps that make a core."""

    def reach(self, n: int) -> dict[str, Any]:
        """Return which distances of n images it needs, as arguments of `reproduce.neighbours.cosine_graph`."""
        if isinstance(self.eps, (Rho, TopP)):
            return {"pairs": math.ceil(self.eps.share(n) * n * (n - 1) / 2) + 1}
        if isinstance(self.eps, MostClusters):
            return {"pairs": int(self.eps.pairs(n)[-1])}
        return {"radius": self.eps}

    @property
    def searched(self) -> bool:
        """Whether eps is searched at every clustering instead of being fixed once."""
        return isinstance(self.eps, MostClusters)

    def radius(self, graph: sparse.csr_array, kept: Kept | None = None, *, before: float | None = None) -> float:
        """Return eps, or compute it for this graph by its rule.

        Args:
            graph: see `labels`.
            kept: maps labels (N,) as clustered to labels to train on, 0, 1, ...; None if all are trained on.
            before: eps of an earlier clustering, which is returned unless eps is searched at every one.

        Raises:
            UserError: the rule finds no distance to set eps from, or `reproduce.session.setting` has not resolved eps.
        """
        if isinstance(self.eps, Tuned):
            raise UserError(f"eps is {self.eps}, which is not resolved: give its number or its rule")
        if before is not None and not self.searched:
            return before
        if isinstance(self.eps, MostClusters):
            least = self.eps.min_samples or self.min_samples

            def left(eps: float) -> NDArray[np.int64]:
                labels = DBSCAN(eps, least).labels(graph)
                return kept(labels) if kept else labels

            return self.eps.eps(graph, left)
        return self.eps.eps(graph) if isinstance(self.eps, (Rho, TopP)) else self.eps

    def settled(self, graph: sparse.csr_array) -> DBSCAN:
        """Replace the rule for eps by its number for this graph, for methods that set eps once."""
        return self if isinstance(self.eps, float) else dataclasses.replace(self, eps=self.radius(graph))

    def labels(self, graph: sparse.csr_array) -> NDArray[np.int64]:
        """Cluster the images of a graph.

        Args:
            graph: (N, N) distances up to 1, symmetric, with zeros and the diagonal stored. Pairs that are not stored
                have distance 1.

        Returns:
            (N,) labels.

        Raises:
            UserError: eps or min_samples is invalid, or the rule finds no distance to set eps from.
        """
        import numpy as np
        from scipy import sparse
        from scipy.sparse.csgraph import connected_components

        eps = self.radius(graph)
        if not eps >= 0 or self.min_samples < 1:
            raise UserError(f"eps is {eps} and min_samples {self.min_samples}; give a distance and at least 1")
        n = graph.shape[0]
        if eps >= 1:  # which every pair is within, stored or not
            return np.full(n, 0 if n >= self.min_samples else OUTLIER)
        rows = np.repeat(np.arange(n), np.diff(graph.indptr))
        near = graph.data <= np.float32(eps)
        rows, columns = rows[near], graph.indices[near]
        core = np.bincount(rows, minlength=n) >= self.min_samples

        between = core[rows] & core[columns]
        start, end = rows[between], columns[between]
        component = connected_components(sparse.csr_array((np.ones(len(start)), (start, end)), shape=(n, n)), False)[1]
        labels = np.full(n, OUTLIER)
        _, first, number = np.unique(component[core], return_index=True, return_inverse=True)
        labels[core] = np.argsort(np.argsort(first))[number]

        none = len(first)
        joined = np.full(n, none)
        border = core[columns] & ~core[rows]
        np.minimum.at(joined, rows[border], labels[columns[border]])
        labels[~core] = np.where(joined < none, joined, OUTLIER)[~core]
        return labels


@dataclass(frozen=True)
class KMeans:
    """Lloyd's k-means from k-means++ starts, the best of several runs (scikit-learn's)."""

    k: int | None = None
    """Number of clusters; or give `images_per_cluster`."""
    images_per_cluster: float | None = None
    """Average images per cluster: k = floor(N / images_per_cluster) for N images."""
    n_init: int = 10
    """Number of starts."""
    seed: int | None = None
    """Seeds the starts; None for the training's seed."""

    def __post_init__(self) -> None:
        if (self.k is None) == (self.images_per_cluster is None):
            raise UserError("KMeans takes either k or images_per_cluster")

    def labels(self, embeddings: Embeddings, seed: int = 1) -> NDArray[np.int64]:
        """Cluster embeddings (N, D) by Euclidean distance.

        Args:
            embeddings: (N, D).
            seed: the training's.

        Returns:
            (N,) labels in 0..k-1; no outliers.

        Raises:
            UserError: embeddings are empty, not a matrix of finite real numbers, or fewer than clusters.
        """
        import numpy as np
        from sklearn import cluster

        from reproduce.neighbours import checked

        rows = checked(embeddings).cpu().numpy()
        k = self.k or max(1, int(len(rows) // (self.images_per_cluster or 1)))
        if not 1 <= k <= len(rows):
            raise UserError(f"k is {k} and there are {len(rows)} images; give at least 1 and at most as many as images")
        start = seed if self.seed is None else self.seed
        fitted = cluster.KMeans(k, n_init=self.n_init, random_state=start, max_iter=300).fit(rows)
        return np.asarray(fitted.labels_, np.int64)


def of_pairs(share: float, of: int | None, n: int) -> float:
    """Convert a share of the pairs of `of` images to one of n that gives an image as many neighbours; None keeps it."""
    return share if of is None else min(1.0, share * (of - 1) / max(1, n - 1))


def _mean_of_lowest(graph: sparse.csr_array, share: float, *, zeros: bool) -> float:
    """The mean of the lowest share (at least one) of the distances of all pairs; those that are not stored are 1."""
    import numpy as np
    from scipy import sparse

    if not 0 < share <= 1:
        raise UserError(f"the share of distances is {share}; give a number above 0, at most 1")
    n = graph.shape[0]
    stored = np.sort(sparse.triu(graph, 1, format="coo").data.astype(np.float64))
    dropped = 0 if zeros else int(np.searchsorted(stored, 0.0, side="right"))
    pairs = n * (n - 1) // 2 - dropped
    if pairs < 1:
        raise UserError(f"the distances of {n} images are too few, or all zero, to set eps from: give eps as a number")
    lowest = max(1, round(share * pairs))
    last = dropped + lowest - 1
    largest = float(stored[last]) if last < len(stored) else 1.0
    below = int(np.searchsorted(stored, largest))
    total = float(np.cumsum(stored[:below])[-1]) if below else 0.0
    mean: float = (total + (lowest + dropped - below) * largest) / lowest
    return mean
