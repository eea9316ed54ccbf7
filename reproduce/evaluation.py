"""Score rankings of people: CMC, mAP and mINP over single queries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias

from reproduce.artifacts import Scores, Training
from reproduce.data.sources import Covered
from reproduce.data.transforms import IMAGENET, Pixels
from reproduce.dataset import JUNK, Sightings
from reproduce.errors import Diverged, UserError
from reproduce.stage import Env, Stage, added, closure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from reproduce.data.images import Images, Resample
    from reproduce.dataset import Dataset, Image
    from reproduce.neighbours import Embeddings, Metric

    Labels: TypeAlias = NDArray[Any] | Tensor | Sequence[int]

TEST_SHARE = 0.25
"""Fraction of the memory for decoded images that each test split may take; training needs the rest."""

FINER = 4
"""The cover of a drawn image is computed at this multiple of an activation map's height and width."""

IN_THE_WAY = 0.05
"""Fraction of an image from which occluders count."""

_CELLS = 1 << 20
"""Distances per block: 4 MiB in single precision."""

_NOTHING = 1e-6
"""Largest mean distance that rounding alone can give equal embeddings."""

_SORTED = 200
"""Images up to the last match, per match, above which one count per match is cheaper than sorting."""


@dataclass(frozen=True)
class Rerank:
    """Parameters of k-reciprocal re-ranking; see `reproduce.neighbours.rerank`."""

    k1: int = 20
    """Length of the first neighbour lists."""
    k2: int = 6
    """Length of the neighbour lists for query expansion."""
    lambda_: float = 0.3
    """Weight of the original distance."""


def evaluate_ranking(
    distances: NDArray[Any] | Tensor,
    query_pids: Labels,
    gallery_pids: Labels,
    query_camids: Labels,
    gallery_camids: Labels,
) -> Scores:
    """Score the rankings of a gallery by several queries.

    A query ranks the gallery by distance, ties by index. Gallery images of its identity and camera are ignored, and so
    is junk (identity -1); the other images of its identity are its matches, and everything else, including distractors,
    is wrong. Queries without a match are counted but not scored. With the ranks r_1 < ... < r_m of the matches, from 1:

        CMC at k = [r_1 <= k]        AP = mean over i of i / r_i        INP = m / r_m

    Each score is the mean over the queries that have a match. CMC and AP follow Zheng et al., "Scalable Person
    Re-identification: A Benchmark" (ICCV 2015), with AP as the plain mean of the precision at each match; INP follows
    Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook" (TPAMI 2021).

    The separation of a query is 1 - (mean distance of its matches) / (mean distance of images of other identities): at
    most 1, and 0 if those images are as near as the matches, nearer than 1e-6 or absent.

    The matrix is read in blocks of queries and not changed. Only images no farther than a query's last match are
    sorted.

    Args:
        distances: (Q, G), smaller is nearer; an array, or a tensor on any device, of any real type.
        query_pids: (Q,) identities.
        gallery_pids: (G,) identities, -1 for junk.
        query_camids: (Q,) cameras.
        gallery_camids: (G,) cameras.

    Returns:
        mAP, rank-1, -5, -10 and mINP in percent; and per query its AP as a fraction, the rank of its first match and
        its separation in percent. Rank-k of a gallery with fewer than k images takes all of them.

    Raises:
        UserError: a shape, type or value is invalid, or no query has a match.
    """
    shape = tuple(distances.shape)
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"distances have shape {shape}; give a row per query and a column per gallery image, (Q, G)")
    people = _People(query_pids, gallery_pids, query_camids, gallery_camids, shape)
    step = max(1, _CELLS // shape[1])
    return _scores(people, (_real(distances[start : start + step]) for start in range(0, shape[0], step)))


def evaluate_embeddings(
    query: Embeddings,
    gallery: Embeddings,
    query_pids: Labels,
    gallery_pids: Labels,
    query_camids: Labels,
    gallery_camids: Labels,
    *,
    metric: Metric = "cosine",
    rerank: Rerank | None = None,
) -> Scores:
    """Score the ranking of a gallery by the distances of embeddings, without holding all distances at once.

    Args:
        query: (Q, D), an array or a tensor; products are computed on the gallery's device where it supports them.
        gallery: (G, D).
        query_pids: (Q,) identities.
        gallery_pids: (G,) identities, -1 for junk.
        query_camids: (Q,) cameras.
        gallery_camids: (G,) cameras.
        metric: "cosine" or "euclidean".
        rerank: how to re-rank the distances first; None for no re-ranking.

    Returns:
        As `evaluate_ranking`.

    Raises:
        UserError: embeddings, labels or parameters are invalid, or no query has a match.
    """
    blocks = ranked(query, gallery, metric=metric, rerank=rerank)
    shape = len(query), len(gallery)
    return _scores(_People(query_pids, gallery_pids, query_camids, gallery_camids, shape), blocks)


def ranked(
    query: Embeddings, gallery: Embeddings, *, metric: Metric = "cosine", rerank: Rerank | None = None
) -> Iterable[NDArray[Any]]:
    """Yield blocks of distances (B, G) from queries to a gallery; see `evaluate_embeddings`."""
    from reproduce import neighbours

    if rerank is None:
        return neighbours.distances(query, gallery, metric)
    return neighbours.rerank(query, gallery, rerank.k1, rerank.k2, rerank.lambda_, metric=metric)


class _People:
    """Identities and cameras of queries (Q,) and gallery images (G,)."""

    query: NDArray[np.intp]
    """(Q,) identity and camera as one number."""
    gallery: NDArray[np.intp]
    """(G,) identity and camera as one number; -1 for junk."""
    by_pid: NDArray[np.intp]
    """Gallery images except junk, sorted by identity."""
    start: NDArray[np.intp]
    """(Q,) first entry of `by_pid` with the identity of each query."""
    stop: NDArray[np.intp]
    """(Q,) end of these entries."""
    people: NDArray[np.float64]
    """(G,) 0 for junk, else 1."""
    query_pids: NDArray[np.int64]
    """(Q,) identities."""
    gallery_pids: NDArray[np.int64]
    """(G,) identities."""

    def __init__(
        self,
        query_pids: Labels,
        gallery_pids: Labels,
        query_camids: Labels,
        gallery_camids: Labels,
        shape: tuple[int, int],
    ) -> None:
        import numpy as np

        queries, images = shape
        self.query_pids = _labels(query_pids, "query_pids", queries)
        self.gallery_pids = _labels(gallery_pids, "gallery_pids", images)
        cameras = [_labels(query_camids, "query_camids", queries), _labels(gallery_camids, "gallery_camids", images)]
        seen = np.stack([np.concatenate([self.query_pids, self.gallery_pids]), np.concatenate(cameras)])
        number = np.unique(seen, axis=1, return_inverse=True)[1].ravel()
        junk = self.gallery_pids == JUNK
        self.query, self.gallery = number[:queries], np.where(junk, -1, number[queries:])
        people = np.flatnonzero(~junk)
        self.people = (~junk).astype(np.float64)
        self.by_pid = people[np.argsort(self.gallery_pids[people], kind="stable")]
        pids = self.gallery_pids[self.by_pid]
        self.start = np.searchsorted(pids, self.query_pids, side="left")
        self.stop = np.searchsorted(pids, self.query_pids, side="right")

    def same(self, query: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the gallery images of a query's identity, and those of them that are its matches."""
        same = self.by_pid[self.start[query] : self.stop[query]]
        return same, same[self.gallery[same] != self.query[query]]

    def separation(self, query: int, row: NDArray[Any], total: float) -> float:
        """Compute the separation of a query with a match, from its distances (G,) and their sum without junk."""
        same, matches = self.same(query)
        others = len(self.by_pid) - len(same)
        between = (total - float(row[same].sum(dtype=float))) / others if others else 0.0
        within = max(0.0, float(row[matches].mean(dtype=float)))
        return 1 - within / between if between > _NOTHING else 0.0

    def ranks(self, query: int, row: NDArray[Any]) -> NDArray[np.intp]:
        """Compute the ranks of a query's matches, from 1, ascending, from its distances (G,)."""
        import numpy as np

        seen = self.query[query]
        _, matches = self.same(query)
        if not matches.size:
            return matches
        ahead = np.flatnonzero(row <= row[matches].max())
        if ahead.size <= _SORTED * matches.size:
            kept = self.gallery[ahead]
            ahead = ahead[(kept >= 0) & (kept != seen)]
            ahead = ahead[np.argsort(row[ahead], kind="stable")]
            return 1 + np.flatnonzero(self.gallery_pids[ahead] == self.query_pids[query])
        row = np.where((self.gallery < 0) | (self.gallery == seen), row.dtype.type(np.inf), row)
        count = np.count_nonzero
        ranks = [1 + count(row[:at] <= row[at]) + count(row[at:] < row[at]) for at in matches.tolist()]
        return np.sort(np.array(ranks, np.intp))


def _scores(people: _People, blocks: Iterable[NDArray[Any]]) -> Scores:
    """Score blocks of distances (B, G), float32 or float64, that together hold all queries in order."""
    import numpy as np

    queries, images = len(people.query), len(people.gallery)
    (ap, inp, separation), first = np.full((3, queries), np.nan), np.full(queries, images)
    query = 0
    for block in blocks:
        if not np.isfinite(block.sum(axis=1)).all() and not (finite := np.isfinite(block).all(axis=1)).all():
            at = query + int(np.flatnonzero(~finite)[0])
            raise UserError(f"the distances of query {at} hold NaN or infinity; check the features they come from")
        totals = block @ people.people.astype(block.dtype)
        for row, total in zip(block, totals, strict=True):
            ranks = people.ranks(query, row)
            if ranks.size:
                ap[query] = np.mean(np.arange(1, ranks.size + 1) / ranks)
                inp[query] = ranks.size / ranks[-1]
                first[query] = ranks[0]
                separation[query] = people.separation(query, row, float(total))
            query += 1

    matched = ~np.isnan(ap)
    if not matched.any():
        raise UserError("no query has a match in the gallery: a match shows the same identity from another camera")

    def percent(values: NDArray[Any]) -> float:
        return 100 * float(np.mean(values[matched]))

    return Scores(
        mAP=percent(ap),
        rank1=percent(first <= 1),
        rank5=percent(first <= 5),
        rank10=percent(first <= 10),
        mINP=percent(inp),
        ap=ap,
        by_query={"separation": 100 * separation},
        first=np.where(matched, first, 0),
        queries=queries,
        unmatched=int(queries - matched.sum()),
        pids=people.query_pids,
    )


def _real(block: Any) -> NDArray[Any]:
    """Convert distances of any real type to float32 or float64."""
    import numpy as np

    block = _array(block)
    if block.dtype.kind not in "fiub":
        raise UserError(f"distances are of type {block.dtype}; give real numbers")
    small = block.dtype.kind == "f" and block.dtype.itemsize <= 4
    return np.ascontiguousarray(block, np.float32 if small else np.float64)


def _labels(values: Labels, name: str, length: int) -> NDArray[np.int64]:
    """Convert identities or cameras to an integer array and check its length."""
    import numpy as np

    array = _array(values)
    if array.shape != (length,):
        raise UserError(f"{name} have shape {array.shape} where the distances need ({length},)")
    if array.dtype.kind not in "iu":
        raise UserError(f"{name} are of type {array.dtype}; give integers, numbering names if need be")
    return array.astype(np.int64)


def _array(values: Any) -> NDArray[Any]:
    """Convert an array, a tensor on any device or a sequence to an array; types that numpy lacks become float32."""
    import numpy as np

    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
        values = values.numpy()
    array: NDArray[Any] = np.asarray(values)
    return array


class Trained(Stage[Training]):
    """Base class of stages that train a network to embed images of people."""

    input: tuple[int, int]
    """Height and width of its input, in pixels."""

    resample: Resample = "bicubic"
    """How images are resized to `input`; MMT's way, unless it is a field."""

    divisible: ClassVar[bool] = True

    test_views: ClassVar[tuple[str, ...]] = ()
    """Other ways to test the network, for `Evaluate(view=...)`, such as with the fused features of two encoders."""

    @property
    def pixels(self) -> Pixels:
        """Return the pixel statistics of its input: those of its `augment`, else ImageNet's."""
        pixels = getattr(getattr(self, "augment", None), "pixels", IMAGENET)
        assert isinstance(pixels, Pixels)
        return pixels

    @property
    def steady(self) -> bool:
        """Whether rounding barely changes its accuracy, because it learns from given labels, not pseudo labels."""
        return False

    @property
    def labelled(self) -> Any:
        """Return the domain whose labels it learns; None if it learns without."""
        return None

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        """Return the passes through the network in training: images, and images per normalisation group, None for all.

        Several devices divide the groups, or the images of the one group.
        """
        return ()

    def undivided(self, ranks: int) -> str:
        """Say why so many devices cannot share this training; empty if they can."""
        if not self.passes:
            return f"{self.name} does not say how its batches can be divided (`passes`)"
        for images, group in self.passes:
            groups = max(1, images // (group or images))
            how = f"in {groups} groups of {group}" if groups > 1 else "together"
            if (groups if groups > 1 else images) % ranks:
                return f"{self.name} normalises {images} images {how}, which {ranks} GPUs do not divide"
        return ""

    def images(self, dataset: Dataset, device: str) -> Images:
        """Load the training images of a domain in the network's input size."""
        from reproduce.data.images import Images

        return Images(dataset.root, dataset.train, self.input, device, resample=self.resample)

    def embedder(self, training: Training, at: str) -> nn.Module:
        """Restore the network of one moment, in evaluation mode: normalised images (B, 3, H, W) to embeddings (B, D).

        If it has a method `maps`, images to (B, C, h, w), activation maps are computed from that.
        """
        raise NotImplementedError

    def viewed(self, training: Training, at: str, view: str) -> nn.Module:
        """Restore the network like `embedder`, in one of the `test_views`."""
        raise NotImplementedError

    def start(self, training: Training, at: str) -> nn.Module:
        """Restore the network of one moment that another training continues from.

        Override it if that is not the network under test: a method that continues it needs the interface of
        `methods.blocks.heads.ReID`.
        """
        return self.embedder(training, at)

    def backbone_weights(self, training: Training) -> Mapping[str, Tensor]:
        """Return the last backbone's weights under published names, for a training with these as its `weights`."""
        backbone: nn.Module = self.start(training, "last").get_submodule("backbone")
        return backbone.state_dict()

    def at_moment(self, training: Training, at: str, view: str = "") -> nn.Module:
        """Restore the network with `embedder` or, given a view, with `viewed`.

        Raises:
            UserError: the training has no network of that moment, or no such view.
        """
        self._check(training, at)
        if not view:
            return self.embedder(training, at)
        if view not in self.test_views:
            raise UserError(f"{self.name} has no view {view!r}; it has {', '.join(self.test_views) or 'none'}")
        return self.viewed(training, at, view)

    def start_at(self, training: Training, at: str) -> nn.Module:
        """Restore the network with `start`.

        Raises:
            UserError: the training has no network of that moment.
        """
        self._check(training, at)
        return self.start(training, at)

    def _check(self, training: Training, at: str) -> None:
        if at not in training.checkpoints:
            raise UserError(f"{self.name} kept no network of {at!r}; it kept {', '.join(training.checkpoints)}")


class Seen(NamedTuple):
    """Test images as input to a `Distance`, without identities."""

    embeddings: Tensor
    """(N, D) of length 1."""
    camids: NDArray[np.int64]
    """(N,) cameras, -1 where unknown."""
    frames: NDArray[np.int64]
    """(N,) frame numbers, -1 where unknown."""
    sequences: NDArray[np.int64]
    """(N,) video sequences, -1 where unknown."""

    @classmethod
    def of(cls, embeddings: Tensor, images: Sequence[Image]) -> Seen:
        """Combine embeddings with the cameras, frames and sequences of their images."""
        return cls(embeddings, *Sightings.of(images))


class Distance(Protocol):
    """A distance from more than embeddings, such as times and cameras: a frozen dataclass in `Evaluate.distance`."""

    def blocks(self, training: Training, query: Seen, gallery: Seen) -> Iterable[NDArray[Any]]:
        """Yield distances (B, G), all queries in order; `training` holds what was learned of cameras and times."""
        ...


@dataclass(frozen=True)
class Evaluate(Stage[Scores]):
    """Rank the gallery of a domain by the distance of embeddings, by default the cosine distance, for every query."""

    version: ClassVar[int] = 4

    train: Trained
    """The training of the network."""
    on: Any
    """The domain whose query and gallery are used."""
    at: str = "last"
    """The moment of the training: "last", "best on source", "best on target", "step N", or RAE's "warm-up"."""
    flip: bool = False
    """Whether to add the embedding of the mirror image."""
    rerank: Rerank | None = None
    """How to re-rank distances; None for no re-ranking."""
    view: str = added("")
    """The one of the training's `test_views` to test; empty for its embedder."""
    distance: Distance | None = added(None)
    """Replacement for the cosine distance; None for none."""
    metric: Metric = added("cosine")
    """Pass "euclidean" to rank by the distance of embeddings as they are, not of length 1."""
    statistics: str = added("")
    """Pass "target" to rank once more with batch statistics of the domain's training images, which separates the effect
    of features from that of statistics. As that adapts, its mAP is reported separately, as "renewed". Empty for no
    second ranking."""

    def __post_init__(self) -> None:
        """Reject two ways of ranking at once, and unknown statistics."""
        if self.rerank and self.distance:
            raise ValueError("re-ranking uses cosine distances: give rerank or distance, not both")
        if self.distance and self.metric != "cosine":
            raise ValueError("a distance replaces the metric: give one of them")
        if self.statistics not in ("", "target"):
            raise ValueError(f'statistics are "target" or, as trained, empty; not {self.statistics!r}')

    @property
    def detail(self) -> str:
        words = {self.at: self.at != "last", "flipped": self.flip, "re-ranked": self.rerank is not None}
        words |= {self.metric: self.metric != "cosine", self.view: bool(self.view)}
        words |= {f"by {type(self.distance).__name__}": self.distance is not None}
        return " ".join(word for word, holds in words.items() if holds)

    def run(self, env: Env) -> Scores:
        dataset = env.open(self.on)
        training = env.get(self.train)
        net = self.train.at_moment(training, self.at, self.view).to(env.device)
        retrieval = Retrieval.of(self.train, dataset, env.device)

        def score() -> Scores:
            ways: Any = {"flip": self.flip, "rerank": self.rerank, "distance": self.distance, "metric": self.metric}
            return retrieval.score_distances(retrieval.ranking(net, training, **ways))

        scores = score()
        more: dict[str, NDArray[Any]] = {}
        if isinstance(self.on, Covered) and hasattr(net, "maps"):
            more |= retrieval.looks(net, self.on)
        if self.statistics:
            renew_statistics(net, self.train.images(dataset, env.device), self.train.pixels)
            more["renewed"] = 100 * score().ap
        scores = replace(scores, by_query={**scores.by_query, **more})
        health = dict(training.facts.get("health", {}).get(self.at, {}))
        return replace(scores, collapsed=health.pop("collapsed", ""), health=health)


@dataclass(frozen=True)
class OnSource(Stage[Scores]):
    """Test a network on the domain whose labels it learned, with batch statistics of that domain's training images.

    Only these statistics show how well it learned: those of a target, or of a mixture, are no fault of the training.
    """

    train: Trained
    """The training of the network."""
    at: str = "last"
    """The moment of the training."""

    def run(self, env: Env) -> Scores:
        train = self.train
        data = env.open(train.labelled)
        net = train.at_moment(env.get(train), self.at).to(env.device)
        renew_statistics(net, train.images(data, env.device), train.pixels)
        return Retrieval.of(train, data, env.device).score(net)


def source_models(evaluated: Stage[Any]) -> list[OnSource]:
    """List source tests of the supervised trainings that an evaluation's network starts from, or that made it.

    Trainings that continue another one, also with the source's labels, are left out. Empty for other stages.
    """
    if not isinstance(evaluated, Evaluate):
        return []
    train = evaluated.train
    at = getattr(train, "at", "last")
    trainings = [stage for stage in closure([train]) if isinstance(stage, Trained) and stage.labelled is not None]
    first = [stage for stage in trainings if not any(it in trainings for it in closure([stage]) if it != stage)]
    return [OnSource(stage, evaluated.at if stage == train else at) for stage in first]


def renew_statistics(net: nn.Module, images: Images, pixels: Pixels = IMAGENET, *, batch: int = 64) -> None:
    """Replace a network's running batch statistics by means over batches of images.

    Args:
        net: in evaluation mode, before and after.
        images: batches are drawn uniformly from them, each image at most once.
        pixels: statistics to normalise images by.
        batch: images per batch.
    """
    from functools import partial

    from torch.nn.modules.batchnorm import _BatchNorm

    from reproduce.data.sampling import shuffled_batches

    norms: list[Any] = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain mean over batches
        norm.forward = partial(_BatchNorm.forward, norm)  # over whole batches, whatever the groups in training
        norm.train()
    blocks = shuffled_batches(len(images), min(batch, len(images)), seed=1, epoch=0)
    _passed(net, images, lambda inputs: net(inputs)[:0], pixels, blocks)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        del norm.forward
        norm.eval()


class Retrieval:
    """Query and gallery images of a domain, decoded once to test any number of networks.

    Args:
        dataset: the domain.
        size: height and width in pixels.
        device: the networks' device.
        pixels: statistics to normalise images by; those of the training.
        resample: how images are resized to `size`; as in the training.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: tuple[int, int],
        device: str,
        pixels: Pixels = IMAGENET,
        resample: Resample = "bicubic",
    ) -> None:
        from reproduce.data.images import Images

        self._dataset, self._pixels = dataset, pixels
        splits = dataset.query, dataset.gallery
        self._splits = [
            Images(dataset.root, split, size, device, share=TEST_SHARE, resample=resample) for split in splits
        ]

    @classmethod
    def of(cls, train: Trained, dataset: Dataset, device: str) -> Retrieval:
        """Set up the test of a training's networks."""
        return cls(dataset, train.input, device, train.pixels, train.resample)

    def embed(self, net: nn.Module, *, flip: bool = False, unit: bool = True) -> tuple[Tensor, Tensor]:
        """Embed query (Q, D) and gallery (G, D) with `embed`."""
        query, gallery = (embed(net, images, flip=flip, unit=unit, pixels=self._pixels) for images in self._splits)
        return query, gallery

    def ranking(
        self,
        net: nn.Module,
        training: Training,
        *,
        flip: bool,
        rerank: Rerank | None,
        distance: Distance | None,
        metric: Metric = "cosine",
    ) -> Iterable[NDArray[Any]]:
        """Yield the distances (B, G) by which a network ranks the gallery; arguments as in `Evaluate`."""
        embeddings = self.embed(net, flip=flip, unit=metric == "cosine")
        if distance is None:
            return ranked(*embeddings, metric=metric, rerank=rerank)
        query, gallery = map(Seen.of, embeddings, (self._dataset.query, self._dataset.gallery))
        return distance.blocks(training, query, gallery)

    def score(
        self, net: nn.Module, *, flip: bool = False, rerank: Rerank | None = None, metric: Metric = "cosine"
    ) -> Scores:
        """Score a network in evaluation mode; arguments as in `Evaluate`."""
        embeddings = self.embed(net, flip=flip, unit=metric == "cosine")
        return self.score_distances(ranked(*embeddings, metric=metric, rerank=rerank))

    def looks(self, net: Any, drawn: Covered) -> dict[str, NDArray[np.float64]]:
        """Measure how much of a network's activation maps of drawn query images lies on people, in percent (Q,).

        Returns:
            "on_person" and "on_others" (occluding people and things); see `looked_at`.
        """
        shares = looked_at(activation(net, self._splits[0], self._pixels), drawn, self._dataset.query)
        return {"on_person": shares.person, "on_others": shares.others}

    def score_distances(self, blocks: Iterable[NDArray[Any]]) -> Scores:
        """Score distances (B, G) from `ranked` or `ranking`."""
        query, gallery = self._dataset.query, self._dataset.gallery
        people = _People(
            [image.pid for image in query],
            [image.pid for image in gallery],
            [image.camid for image in query],
            [image.camid for image in gallery],
            (len(query), len(gallery)),
        )
        return _scores(people, blocks)


def activation(net: Any, images: Images, pixels: Pixels = IMAGENET) -> Tensor:
    """Compute activation maps (N, h, w): the sum over channels of a network's squared `maps`.

    Zagoruyko and Komodakis, "Paying More Attention to Attention" (ICLR 2017).
    """
    return _passed(net, images, lambda inputs: net.maps(inputs).float().square().sum(1), pixels)


def attention(net: Any, images: Images, pixels: Pixels = IMAGENET) -> Tensor:
    """Compute attention maps (N, h, w) between 0 and 1: what a network's method `passing` returns."""
    return _passed(net, images, net.passing, pixels)


class Shares(NamedTuple):
    """How much of the activation maps of N drawn images lies on what."""

    person: NDArray[np.float64]
    """(N,) percent on the person."""
    others: NDArray[np.float64]
    """(N,) percent on occluders; NaN where they cover less than a twentieth of the image."""


def looked_at(maps: Tensor, drawn: Covered, images: Sequence[Image]) -> Shares:
    """Measure how much of activation maps (N, h, w) of drawn images lies on the person and on occluders."""
    import torch

    maps, shown = maps.double().cpu(), _shown(maps, drawn, images)
    whole = maps.sum((1, 2)).clamp(min=torch.finfo(maps.dtype).tiny)
    person, others = (100 * (maps[:, None] * shown).sum((2, 3)) / whole[:, None]).T.numpy()
    others[shown[:, 1].mean((1, 2)).numpy() < IN_THE_WAY] = float("nan")
    return Shares(person, others)


def weighed_at(
    maps: Tensor, drawn: Covered, images: Sequence[Image]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the means of maps (N, h, w) of drawn images on the person (N,) and elsewhere (N,), in percent."""
    maps, person = maps.double().cpu(), _shown(maps, drawn, images)[:, 0]
    on, off = (100 * (maps * part).sum((1, 2)) / part.sum((1, 2)) for part in (person, 1 - person))
    return on.numpy(), off.numpy()


def _shown(maps: Tensor, drawn: Covered, images: Sequence[Image]) -> Tensor:
    """Compute how much of each place of maps (N, h, w) shows the person and occluders (N, 2, h, w), 0 to 1."""
    from torch.nn.functional import avg_pool2d

    height, width = maps.shape[1:]
    return avg_pool2d(drawn.cover(images, FINER * height, FINER * width), FINER).double()


def embed(
    net: nn.Module, images: Images, *, flip: bool = False, unit: bool = True, pixels: Pixels = IMAGENET
) -> Tensor:
    """Embed images, normalised by the statistics `pixels`, with a network in evaluation mode.

    Returns:
        (N, D) on the images' device, with `flip` the sum over image and mirror image; of length 1 with `unit`, else as
        the network returns them.

    Raises:
        Diverged: with `unit`, an embedding is zero or not finite.
    """
    from torch.nn.functional import normalize

    embeddings = _passed(net, images, lambda inputs: net(inputs) + net(inputs.flip(3)) if flip else net(inputs), pixels)
    if not unit:
        return embeddings
    sound = embeddings.isfinite().all(1) & embeddings.any(1)
    if lost := int((~sound).sum()):
        raise Diverged(
            f"embeddings of {lost:,} of {len(images):,} images are zero or not finite: "
            "training diverged; lower its lr or look at its input images"
        )
    return normalize(embeddings)


def _passed(
    net: nn.Module,
    images: Images,
    what: Callable[[Tensor], Tensor],
    pixels: Pixels,
    blocks: Sequence[Sequence[int]] = (),
    *,
    batch: int = 128,
) -> Tensor:
    """Apply a function to normalised images in the network's type, batch by batch; to all in order without blocks."""
    import torch

    from reproduce.data.transforms import normalise

    dtype = next(net.parameters()).dtype
    blocks = blocks or [range(start, min(start + batch, len(images))) for start in range(0, len(images), batch)]
    with torch.inference_mode():
        outputs = [what(normalise(shown, pixels).to(dtype)) for shown in images.batches(blocks)]
    return torch.cat(outputs)
