"""How well a ranking retrieves people: CMC, mAP and mINP of single queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from reproduce.artifacts import Scores, Training
from reproduce.data.domains import JUNK
from reproduce.stage import Env, Stage, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from reproduce.data.domains import Dataset
    from reproduce.data.images import Images

    Labels: TypeAlias = NDArray[Any] | Tensor | Sequence[int]

_BLOCK = 1 << 21
"""Distances copied at a time: 8 MiB in single precision."""

_MANY = 256
"""Matches of one query from which sorting its row is cheaper than counting once for each match."""


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

    The matrix is read once, in blocks of queries, and is not changed. It is not sorted either: the rank of a match is a
    count of the images in front of it.

    Args:
        distances: (Q, G), smaller is nearer; an array, or a tensor on any device, of any real number type.
        query_pids: (Q,) identities.
        gallery_pids: (G,) identities, -1 for junk.
        query_camids: (Q,) cameras.
        gallery_camids: (G,) cameras.

    Returns:
        mAP, rank-1, -5, -10 and mINP in percent, and the AP of each query as a fraction. Rank-k of a gallery with fewer
        than k images takes them all.

    Raises:
        UserError: a shape, a number type or a value that does not make a ranking, or no query with a match.
    """
    import numpy as np

    shape = tuple(distances.shape)
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"distances have shape {shape}; give a row per query and a column per gallery image, (Q, G)")
    queries, images = shape
    of_query = _labels(query_pids, "query_pids", queries), _labels(query_camids, "query_camids", queries)
    gallery_ids = _labels(gallery_pids, "gallery_pids", images)
    gallery_cams = _labels(gallery_camids, "gallery_camids", images)

    junk = np.flatnonzero(gallery_ids == JUNK)
    people = np.flatnonzero(gallery_ids != JUNK)
    people = people[np.argsort(gallery_ids[people], kind="stable")]
    start = np.searchsorted(gallery_ids[people], of_query[0], side="left")
    stop = np.searchsorted(gallery_ids[people], of_query[0], side="right")

    ap = np.full(queries, np.nan)
    inp = np.full(queries, np.nan)
    first = np.full(queries, images)
    for query, row in enumerate(_rows(distances)):
        same = people[start[query] : stop[query]]
        own = gallery_cams[same] == of_query[1][query]
        matches = same[~own]
        if matches.size:
            row[junk] = np.inf
            row[same[own]] = np.inf
            ranks = _ranks(row, matches)
            ap[query] = np.mean(np.arange(1, matches.size + 1) / ranks)
            inp[query] = matches.size / ranks[-1]
            first[query] = ranks[0]

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
        queries=queries,
        unmatched=int(queries - matched.sum()),
    )


def _ranks(row: NDArray[Any], matches: NDArray[np.intp]) -> NDArray[np.intp]:
    """The ranks, from 1, ascending, of some images (M,) in a row of distances (G,); a tie goes to the lower index."""
    import numpy as np

    if matches.size >= _MANY:
        return 1 + np.flatnonzero(np.isin(np.argsort(row, kind="stable"), matches))
    count = np.count_nonzero
    ahead = [count(row[:at] <= row[at]) + count(row[at:] < row[at]) for at in matches.tolist()]
    return 1 + np.sort(np.array(ahead, np.intp))


def _rows(distances: NDArray[Any] | Tensor) -> Iterator[NDArray[Any]]:
    """Each row of a matrix (Q, G) as a float32 or float64 array (G,) that may be written to."""
    import numpy as np

    queries, images = distances.shape
    step = max(1, _BLOCK // images)
    for start in range(0, queries, step):
        block = _array(distances[start : start + step])
        if block.dtype.kind not in "fiub":
            raise UserError(f"distances are of type {block.dtype}; give real numbers")
        small = block.dtype.kind == "f" and block.dtype.itemsize <= 4
        block = np.array(block, np.float32 if small else np.float64, order="C")
        if not (np.isfinite(block.min()) and np.isfinite(block.max())):
            at = start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            raise UserError(f"the distances of query {at} hold NaN or infinity; look at the features behind them")
        yield from block


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

    def embedder(self, training: Training, at: str) -> nn.Module:
        """The network of one moment, in evaluation mode: normalised images (B, 3, H, W) to embeddings (B, D)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Evaluate(Stage[Scores]):
    """Rank the gallery of a domain by the cosine distance of embeddings, for every query.

    Attributes:
        train: what trained the network.
        on: the domain whose query and gallery are used.
        at: the moment of the training: "last", "best on source", "best on target" or "step N".
        flip: whether the embeddings of an image and its mirror image are added.
    """

    train: Trained
    on: Any
    at: str = "last"
    flip: bool = False

    def run(self, env: Env) -> Scores:
        dataset = env.open(self.on)
        training = env.get(self.train)
        if self.at not in training.checkpoints:
            kept = ", ".join(training.checkpoints)
            raise UserError(f"{self.train.name} kept no network of {self.at!r}; it kept {kept}")
        return score(
            self.train.embedder(training, self.at).to(env.device), dataset, self.train.input, env, flip=self.flip
        )


def score(net: nn.Module, dataset: Dataset, size: tuple[int, int], env: Env, *, flip: bool = False) -> Scores:
    """Score a network in evaluation mode on the query and gallery images of a domain."""
    from reproduce.data.images import Images

    query, gallery = (
        embed(net, Images(dataset.root, split, size, env.device), flip=flip)
        for split in (dataset.query, dataset.gallery)
    )
    return evaluate_ranking(
        1 - query @ gallery.T,
        [image.pid for image in dataset.query],
        [image.pid for image in dataset.gallery],
        [image.camid for image in dataset.query],
        [image.camid for image in dataset.gallery],
    )


def embed(net: nn.Module, images: Images, *, flip: bool = False, batch: int = 128) -> Tensor:
    """Embed images with a network in evaluation mode.

    Returns:
        (N, D) on the images' device, each row of length 1; with `flip` the sum of image and mirror image, rescaled.
    """
    import torch
    from torch.nn.functional import normalize

    from reproduce.data.transforms import normalise

    dtype = next(net.parameters()).dtype
    blocks = [range(start, min(start + batch, len(images))) for start in range(0, len(images), batch)]
    rows: list[Tensor] = []
    with torch.inference_mode():
        for pixels in images.batches(blocks):
            inputs = normalise(pixels).to(dtype)
            rows.append(net(inputs) + net(inputs.flip(3)) if flip else net(inputs))
    return normalize(torch.cat(rows))
