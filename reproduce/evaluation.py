"""How well a ranking retrieves people: CMC, mAP and mINP of single queries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias

from reproduce.artifacts import Scores, Training
from reproduce.data.sources import Covered
from reproduce.data.transforms import IMAGENET, Pixels
from reproduce.dataset import JUNK, Sightings
from reproduce.errors import UserError
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
"""Of the memory that decoded images may take, for each test split: training needs the rest."""

FINER = 4
"""What a drawn image shows is worked out on this many times the rows and columns of an activation map."""

IN_THE_WAY = 0.05
"""Share of an image from which others count as in the way."""

_CELLS = 1 << 20
"""Distances checked together: 4 MiB in single precision."""

_NOTHING = 1e-6
"""A mean distance that rounding alone may give to equal embeddings."""

_SORTED = 200
"""Images up to the last match, for each match, from which counting once a match is cheaper than sorting them."""


@dataclass(frozen=True)
class Rerank:
    """k-reciprocal re-ranking, as `reproduce.neighbours.rerank` does it.

    Attributes:
        k1, k2: lengths of neighbour lists.
        lambda_: the share of the original distance.
    """

    k1: int = 20
    k2: int = 6
    lambda_: float = 0.3


def evaluate_ranking(
    distances: NDArray[Any] | Tensor,
    query_pids: Labels,
    gallery_pids: Labels,
    query_camids: Labels,
    gallery_camids: Labels,
) -> Scores:
    """Score the ranking of a gallery for each of several queries.

    A query ranks the gallery by distance, ties by index. Gallery images of its identity and its camera are left out,
    and so is junk (identity -1); the other images of its identity are its matches, and everything else, distractors
    as well, is wrong. A query without a match is counted and plays no other part. With the ranks r_1 < ... < r_m of
    the matches, counted from 1:

        CMC at k = [r_1 <= k]        AP = mean over i of i / r_i        INP = m / r_m

    and each score is the mean over the queries that have a match. CMC and AP follow Zheng et al., "Scalable Person
    Re-identification: A Benchmark" (ICCV 2015), with AP as the plain mean of the precision at each match; INP follows
    Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook" (TPAMI 2021).

    Beside the ranking, the separation of a query is 1 - (mean distance of its matches) / (mean distance of the images
    of other identities): at most 1, and 0 where these are as near as the matches, nearer than 1e-6 or not there.

    The matrix is read in blocks of queries and not changed. Of a row only what is no farther than the last match is
    sorted.

    Args:
        distances: (Q, G), smaller is nearer; an array, or a tensor on any device, of any real number type.
        query_pids: (Q,) identities.
        gallery_pids: (G,) identities, -1 for junk.
        query_camids: (Q,) cameras.
        gallery_camids: (G,) cameras.

    Returns:
        mAP, rank-1, -5, -10 and mINP in percent; and for each query its AP as a fraction, the rank of its first match
        and its separation in percent. Rank-k of a gallery with fewer than k images takes them all.

    Raises:
        UserError: a shape, a number type or a value that does not make a ranking, or no query with a match.
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
    """Score the ranking of a gallery by the distances of embeddings, without ever holding all of them.

    Args:
        query: (Q, D), an array or a tensor; what the gallery's device can multiply is multiplied there.
        gallery: (G, D).
        query_pids: (Q,) identities.
        gallery_pids: (G,) identities, -1 for junk.
        query_camids: (Q,) cameras.
        gallery_camids: (G,) cameras.
        metric: "cosine" or "euclidean".
        rerank: re-rank the distances first; None for not.

    Returns:
        As `evaluate_ranking`.

    Raises:
        UserError: embeddings, labels or parameters that do not make a ranking, or no query with a match.
    """
    blocks = ranked(query, gallery, metric=metric, rerank=rerank)
    shape = len(query), len(gallery)
    return _scores(_People(query_pids, gallery_pids, query_camids, gallery_camids, shape), blocks)


def ranked(
    query: Embeddings, gallery: Embeddings, *, metric: Metric = "cosine", rerank: Rerank | None = None
) -> Iterable[NDArray[Any]]:
    """The distances (B, G) by which each of several queries ranks a gallery; see `evaluate_embeddings`."""
    from reproduce import neighbours

    if rerank is None:
        return neighbours.distances(query, gallery, metric)
    return neighbours.rerank(query, gallery, rerank.k1, rerank.k2, rerank.lambda_, metric=metric)


class _People:
    """Who and where queries (Q,) and gallery images (G,) were seen.

    Attributes:
        query, gallery: identity and camera as one number, -1 for junk in the gallery.
        by_pid: gallery images that are not junk, by identity.
        start, stop: (Q,), which of these have the identity of each query.
        people: (G,), 1 for images that are not junk, else 0.
        query_pids, gallery_pids: identities.
    """

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
        """The images of a query's identity, and those of them that are its matches."""
        same = self.by_pid[self.start[query] : self.stop[query]]
        return same, same[self.gallery[same] != self.query[query]]

    def separation(self, query: int, row: NDArray[Any], total: float) -> float:
        """That of a query with a match, by its distances (G,) and their sum over images that are not junk."""
        same, matches = self.same(query)
        others = len(self.by_pid) - len(same)
        between = (total - float(row[same].sum(dtype=float))) / others if others else 0.0
        within = max(0.0, float(row[matches].mean(dtype=float)))
        return 1 - within / between if between > _NOTHING else 0.0

    def ranks(self, query: int, row: NDArray[Any]) -> NDArray[np.intp]:
        """The ranks of a query's matches, from 1, ascending, by its distances (G,)."""
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
    """Score blocks of distances (B, G), float32 or float64, which make up all queries in order."""
    import numpy as np

    queries, images = len(people.query), len(people.gallery)
    (ap, inp, separation), first = np.full((3, queries), np.nan), np.full(queries, images)
    query = 0
    for block in blocks:
        if not np.isfinite(block.sum(axis=1)).all() and not (finite := np.isfinite(block).all(axis=1)).all():
            at = query + int(np.flatnonzero(~finite)[0])
            raise UserError(f"the distances of query {at} hold NaN or infinity; look at the features behind them")
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
        raise UserError("no query has a match in the gallery: its identity must be there, seen by another camera")

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
    """Distances of any real type as float32 or float64."""
    import numpy as np

    block = _array(block)
    if block.dtype.kind not in "fiub":
        raise UserError(f"distances are of type {block.dtype}; give real numbers")
    small = block.dtype.kind == "f" and block.dtype.itemsize <= 4
    return np.ascontiguousarray(block, np.float32 if small else np.float64)


def _labels(values: Labels, name: str, length: int) -> NDArray[np.int64]:
    """Identities or cameras as an integer array of the given length."""
    import numpy as np

    array = _array(values)
    if array.shape != (length,):
        raise UserError(f"{name} have shape {array.shape} where the distances need ({length},)")
    if array.dtype.kind not in "iu":
        raise UserError(f"{name} are of type {array.dtype}; give integers, numbering what is named otherwise")
    return array.astype(np.int64)


def _array(values: Any) -> NDArray[Any]:
    """An array, a tensor of any device or a sequence as an array; types that numpy lacks become float32."""
    import numpy as np

    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
        values = values.numpy()
    array: NDArray[Any] = np.asarray(values)
    return array


class Trained(Stage[Training]):
    """A stage that trains a network which embeds images of people."""

    input: tuple[int, int]
    """Height and width of its input, in pixels."""

    resample: Resample = "bicubic"
    """How images are brought to that size; MMT's, unless it is a field."""

    test_views: ClassVar[tuple[str, ...]] = ()
    """Other ways to test its network, for `Evaluate(view=...)`, such as with the features of two encoders fused."""

    @property
    def pixels(self) -> Pixels:
        """Statistics by which its input is normalised; those of its `augment`, else ImageNet's."""
        found = getattr(getattr(self, "augment", None), "pixels", IMAGENET)
        assert isinstance(found, Pixels)
        return found

    @property
    def steady(self) -> bool:
        """Whether rounding barely moves its accuracy: the labels it learns from are given, none are guessed."""
        return False

    @property
    def labelled(self) -> Any:
        """The domain whose labels it learns; None where it goes on from another training."""
        return None

    def images(self, dataset: Dataset, device: str) -> Images:
        """The training images of a domain, as its network takes them."""
        from reproduce.data.images import Images

        return Images(dataset.root, dataset.train, self.input, device, resample=self.resample)

    def embedder(self, training: Training, at: str) -> nn.Module:
        """The network of one moment, in evaluation mode: normalised images (B, 3, H, W) to embeddings (B, D).

        What it has under the name `maps`, images to (B, C, h, w), is shown as where it looks.
        """
        raise NotImplementedError

    def viewed(self, training: Training, at: str, view: str) -> nn.Module:
        """As `embedder`, in another of its `test_views`."""
        raise NotImplementedError

    def start(self, training: Training, at: str) -> nn.Module:
        """The network of one moment that another training continues from.

        Where that is not the network of the test, it is overridden: a method that continues needs what
        `methods.blocks.heads.ReID` has.
        """
        return self.embedder(training, at)

    def backbone_weights(self, training: Training) -> Mapping[str, Tensor]:
        """Weights of the last backbone under published names, for a training that takes them as its `weights`."""
        backbone: nn.Module = self.start(training, "last").get_submodule("backbone")
        return backbone.state_dict()

    def at_moment(self, training: Training, at: str, view: str = "") -> nn.Module:
        """As `embedder` or, where a view is named, `viewed`.

        Raises:
            UserError: the training kept no network of that moment, or has no such view.
        """
        self._check(training, at)
        if not view:
            return self.embedder(training, at)
        if view not in self.test_views:
            raise UserError(f"{self.name} has no view {view!r}; it has {', '.join(self.test_views) or 'none'}")
        return self.viewed(training, at, view)

    def start_at(self, training: Training, at: str) -> nn.Module:
        """As `start`.

        Raises:
            UserError: the training kept no network of that moment.
        """
        self._check(training, at)
        return self.start(training, at)

    def _check(self, training: Training, at: str) -> None:
        if at not in training.checkpoints:
            raise UserError(f"{self.name} kept no network of {at!r}; it kept {', '.join(training.checkpoints)}")


class Seen(NamedTuple):
    """Test images as a `Distance` sees them, without their identities."""

    embeddings: Tensor
    """(N, D) of length 1."""
    camids: NDArray[np.int64]
    """(N,) cameras, -1 where unknown."""
    frames: NDArray[np.int64]
    """(N,) frame numbers, -1 where unknown."""

    @classmethod
    def of(cls, embeddings: Tensor, images: Sequence[Image]) -> Seen:
        """The embeddings of images, with what may be known of them."""
        known = Sightings.of(images)
        return cls(embeddings, known.camids, known.frames)


class Distance(Protocol):
    """How query and gallery are compared where embeddings are not all, such as with times and cameras.

    A frozen value in `Evaluate.distance`.
    """

    def blocks(self, training: Training, query: Seen, gallery: Seen) -> Iterable[NDArray[Any]]:
        """Distances (B, G) that make up all queries in order; `training` holds what was learnt of cameras and times."""
        ...


@dataclass(frozen=True)
class Evaluate(Stage[Scores]):
    """Rank the gallery of a domain by the cosine distance of embeddings, for every query.

    Attributes:
        train: what trained the network.
        on: the domain whose query and gallery are used.
        at: the moment of the training: "last", "best on source", "best on target" or "step N".
        flip: whether the embeddings of an image and its mirror image are added.
        rerank: how distances are re-ranked; None for not.
        view: which of the training's `test_views` is tested; empty for its embedder.
        distance: what takes the place of the cosine distance; None for nothing.
        statistics: "target" to rank once more with batch statistics of the domain's training images, which tells
            features from statistics. As that adapts, its mAP is kept beside the others, as "renewed". Empty for not.
    """

    version: ClassVar[int] = 4

    train: Trained
    on: Any
    at: str = "last"
    flip: bool = False
    rerank: Rerank | None = None
    view: str = added("")
    distance: Distance | None = added(None)
    statistics: str = added("")

    def __post_init__(self) -> None:
        """Refuse two ways to rank, and statistics of nothing known."""
        if self.rerank and self.distance:
            raise ValueError("re-ranking takes cosine distances: give rerank or distance, not both")
        if self.statistics not in ("", "target"):
            raise ValueError(f"statistics are those of the target or, empty, as trained; not {self.statistics!r}")

    @property
    def detail(self) -> str:
        told = {self.at: self.at != "last", "flipped": self.flip, "re-ranked": self.rerank is not None}
        told |= {self.view: bool(self.view), f"by {type(self.distance).__name__}": self.distance is not None}
        return " ".join(word for word, holds in told.items() if holds)

    def run(self, env: Env) -> Scores:
        dataset = env.open(self.on)
        training = env.get(self.train)
        net = self.train.at_moment(training, self.at, self.view).to(env.device)
        retrieval = Retrieval.of(self.train, dataset, env.device)

        def score() -> Scores:
            ways: Any = {"flip": self.flip, "rerank": self.rerank, "distance": self.distance}
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

    How well it learned them shows only so: statistics that follow a target, or a mixture, are no fault of the training.

    Attributes:
        train: what trained the network.
        at: the moment of the training.
    """

    train: Trained
    at: str = "last"

    def run(self, env: Env) -> Scores:
        train = self.train
        data = env.open(train.labelled)
        net = train.at_moment(env.get(train), self.at).to(env.device)
        renew_statistics(net, train.images(data, env.device), train.pixels)
        return Retrieval.of(train, data, env.device).score(net)


def source_models(evaluated: Stage[Any]) -> list[OnSource]:
    """The tests, where they learned, of the trainings on labels behind an evaluation; none for another stage."""
    if not isinstance(evaluated, Evaluate):
        return []
    train = evaluated.train
    if train.labelled is not None:
        return [OnSource(train, evaluated.at)]
    at = getattr(train, "at", "last")
    behind = [stage for stage in closure([train]) if isinstance(stage, Trained) and stage.labelled is not None]
    return [OnSource(stage, at) for stage in behind]


def renew_statistics(net: nn.Module, images: Images, pixels: Pixels = IMAGENET, *, batch: int = 64) -> None:
    """Put means over batches of images in place of a network's batch statistics.

    Args:
        net: in evaluation mode, and left in it.
        images: the batches are drawn evenly from them, each image at most once.
        pixels: statistics by which images are normalised.
        batch: images that are normalised together.
    """
    from functools import partial

    from torch.nn.modules.batchnorm import _BatchNorm

    from reproduce.data.sampling import shuffled_batches

    norms: list[Any] = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
        norm.forward = partial(_BatchNorm.forward, norm)  # of whole batches, whatever its groups were in training
        norm.train()
    blocks = shuffled_batches(len(images), min(batch, len(images)), seed=1, epoch=0)
    _passed(net, images, lambda inputs: net(inputs)[:0], pixels, blocks)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        del norm.forward
        norm.eval()


class Retrieval:
    """The search that tests a network: query and gallery images of a domain, decoded once for all evaluations.

    Args:
        dataset: the domain.
        size: height and width in pixels.
        device: where networks are.
        pixels: statistics by which images are normalised: those of the training.
        resample: how images are brought to that size: the training's.
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
        """The search that tests the networks of a training."""
        return cls(dataset, train.input, device, train.pixels, train.resample)

    def embed(self, net: nn.Module, *, flip: bool = False) -> tuple[Tensor, Tensor]:
        """Embed query (Q, D) and gallery (G, D), as `embed` does it."""
        query, gallery = (embed(net, images, flip=flip, pixels=self._pixels) for images in self._splits)
        return query, gallery

    def ranking(
        self, net: nn.Module, training: Training, *, flip: bool, rerank: Rerank | None, distance: Distance | None
    ) -> Iterable[NDArray[Any]]:
        """The distances (B, G) by which a network of a training ranks the gallery, as `Evaluate` has it."""
        rows = self.embed(net, flip=flip)
        if distance is None:
            return ranked(*rows, rerank=rerank)
        query, gallery = map(Seen.of, rows, (self._dataset.query, self._dataset.gallery))
        return distance.blocks(training, query, gallery)

    def score(self, net: nn.Module, *, flip: bool = False, rerank: Rerank | None = None) -> Scores:
        """Score a network in evaluation mode by cosine distances."""
        return self.score_distances(ranked(*self.embed(net, flip=flip), rerank=rerank))

    def looks(self, net: Any, drawn: Covered) -> dict[str, NDArray[np.float64]]:
        """Where in the query images of a drawn domain a network looks: shares of its activation map, in percent (Q,).

        Returns:
            "on_person" and "on_others" (people and things in the way), as `looked_at` has them.
        """
        person, others = looked_at(activation(net, self._splits[0], self._pixels), drawn, self._dataset.query)
        return {"on_person": person, "on_others": others}

    def score_distances(self, blocks: Iterable[NDArray[Any]]) -> Scores:
        """Score the distances (B, G) that `ranked` gives of what `embed` gave."""
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
    """Activation maps (N, h, w): the sum over channels of a network's squared `maps` of images.

    Zagoruyko and Komodakis, "Paying More Attention to Attention" (ICLR 2017).
    """
    return _passed(net, images, lambda inputs: net.maps(inputs).float().square().sum(1), pixels)


def looked_at(maps: Tensor, drawn: Covered, images: Sequence[Image]) -> tuple[NDArray[np.float64], ...]:
    """How much of activation maps (N, h, w) of drawn images lies on the person, and on what is in their way.

    Returns:
        Percent (N,) each; the second NaN where others take less than a twentieth of the image.
    """
    import torch
    from torch.nn.functional import avg_pool2d

    maps = maps.double().cpu()
    height, width = maps.shape[1:]
    shown = avg_pool2d(drawn.cover(images, FINER * height, FINER * width), FINER).double()
    whole = maps.sum((1, 2)).clamp(min=torch.finfo(maps.dtype).tiny)
    person, others = (100 * (maps[:, None] * shown).sum((2, 3)) / whole[:, None]).T.numpy()
    others[shown[:, 1].mean((1, 2)).numpy() < IN_THE_WAY] = float("nan")
    return person, others


def embed(
    net: nn.Module, images: Images, *, flip: bool = False, unit: bool = True, pixels: Pixels = IMAGENET
) -> Tensor:
    """Embed images, normalised by the statistics `pixels`, with a network in evaluation mode.

    Returns:
        (N, D) on the images' device, with `flip` the sum of image and mirror image; rows of length 1 with `unit`, else
        as the network gives them.
    """
    from torch.nn.functional import normalize

    embeddings = _passed(net, images, lambda inputs: net(inputs) + net(inputs.flip(3)) if flip else net(inputs), pixels)
    return normalize(embeddings) if unit else embeddings


def _passed(
    net: nn.Module,
    images: Images,
    what: Callable[[Tensor], Tensor],
    pixels: Pixels,
    blocks: Sequence[Sequence[int]] = (),
    *,
    batch: int = 128,
) -> Tensor:
    """What is made of normalised images in the network's type, batch by batch; of all in turn without blocks."""
    import torch

    from reproduce.data.transforms import normalise

    dtype = next(net.parameters()).dtype
    blocks = blocks or [range(start, min(start + batch, len(images))) for start in range(0, len(images), batch)]
    with torch.inference_mode():
        found = [what(normalise(shown, pixels).to(dtype)) for shown in images.batches(blocks)]
    return torch.cat(found)
