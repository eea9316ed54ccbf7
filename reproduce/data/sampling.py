"""Random streams without global state, and the batches of an epoch as pure functions of (seed, epoch)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from operator import index
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar, overload

from reproduce.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

    Ints: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

Batches: TypeAlias = "list[list[int]]"

WINDOW = 16
"""Blocks that are shuffled together by `shuffled_batches`."""

T = TypeVar("T")


def generator(seed: int, *where: str | int) -> torch.Generator:
    """Make the CPU generator of one place in an experiment.

    Args:
        seed: the experiment's seed.
        where: the place, such as `("augment", epoch, iteration, view)`; different places get unrelated streams.
            (torch seeds its CPU generator with 32 bits, so two places share a stream with probability 1 in 4e9.)
    """
    import torch

    return torch.Generator().manual_seed(int.from_bytes(_hash(seed, where)[:8], "big"))


def numpy_generator(seed: int, *where: str | int) -> np.random.Generator:
    """Make the numpy generator of one place, like `generator`; the two streams of a place are unrelated."""
    import numpy as np

    return np.random.default_rng(int.from_bytes(_hash(seed, where), "big"))


def normal(shape: Sequence[int], seed: int, *where: str | int) -> torch.Tensor:
    """Draw standard normal numbers of one place, on the CPU.

    They are float64, because torch draws float32 ones by another formula on processors with AVX2.
    """
    import torch

    return torch.randn(tuple(shape), generator=generator(seed, *where), dtype=torch.float64)


def uniform(shape: Sequence[int], seed: int, *where: str | int) -> torch.Tensor:
    """Draw uniform numbers between 0 and 1 of one place, on the CPU, in float64."""
    import torch

    return torch.rand(tuple(shape), generator=generator(seed, *where), dtype=torch.float64)


def _hash(seed: int, where: tuple[str | int, ...]) -> bytes:
    place = [part if isinstance(part, str) else index(part) for part in (seed, *where)]
    return hashlib.sha256(json.dumps(place).encode()).digest()


def identity_batches(
    pids: Sequence[int], P: int, K: int, *, seed: int, epoch: int, iterations: int | None = None
) -> Batches:
    """Draw batches of P identities with K images each, like RandomIdentitySampler of Bag of Tricks.

    A pass splits every identity's shuffled images into groups of K (the remainder is dropped; an identity with fewer
    than K images gives one group, drawn with replacement), then combines groups of P random identities while P of them
    have groups left.

    Args:
        pids: identity or pseudo label of each image; images with a negative one are skipped.
        P: identities per batch.
        K: images per identity.
        seed: the draw depends on `seed` and `epoch` only.
        epoch: see `seed`.
        iterations: number of batches, over as many passes as needed; None for one pass.

    Returns:
        Batches of P * K positions in `pids`, identity by identity.

    Raises:
        UserError: there are fewer than P identities.
    """
    import numpy as np

    kept, owner, counts = _identities(pids, P)
    starts = np.cumsum(counts) - counts
    groups = np.maximum(counts // K, 1)
    first = np.cumsum(groups) - groups
    of = np.repeat(np.arange(len(counts)), groups)
    short = counts[of] < K

    def one_pass(random: np.random.Generator) -> Batches:
        images = kept[np.lexsort((random.random(len(kept)), owner))]
        places = (np.arange(len(of)) - first[of])[:, None] * K + np.arange(K)
        places[short] = random.random((short.sum(), K)) * counts[of[short], None]
        members = images[starts[of, None] + places]
        following, end = first.copy(), first + groups
        available = np.arange(len(counts))
        batches = []
        while len(available) >= P:
            chosen = available[random.choice(len(available), P, replace=False)]
            batches.append(members[following[chosen]].ravel().tolist())
            following[chosen] += 1
            available = available[following[available] < end[available]]
        return batches

    return _passes(one_pass, seed, ("identity batches", epoch), iterations)


def camera_aware_batches(
    pids: Sequence[int], camids: Sequence[int], P: int, K: int, *, seed: int, epoch: int, iterations: int | None = None
) -> Batches:
    """Draw batches of P identities with K images each, other cameras first, like MMT's RandomMultipleGallerySampler.

    SpCL has the same sampler. A pass visits every identity once, in random order: one random image, then K - 1 of its
    images from other cameras, or of its other images if all are from one camera. These are drawn without replacement if
    there are at least K to choose from. An identity with one image gives only that image, so a pass is split into
    batches by position; if every identity has two images or more, each batch is P x K. An incomplete last batch is
    dropped.

    Args:
        pids: identity or pseudo label of each image; images with a negative one are skipped.
        camids: camera of each image.
        P: identities per batch.
        K: images per identity.
        seed: the draw depends on `seed` and `epoch` only.
        epoch: see `seed`.
        iterations: number of batches, over as many passes as needed; None for one pass.

    Returns:
        Batches of P * K positions in `pids`.

    Raises:
        UserError: there are fewer than P identities, or a pass does not fill one batch.
    """
    import numpy as np

    kept, owner, counts = _identities(pids, P)
    cameras = np.asarray(camids)[kept]
    starts = np.cumsum(counts) - counts
    filled = int(np.where(counts > 1, K, 1).sum())
    if filled < P * K:
        raise UserError(
            f"a pass over {len(counts)} identities gives {filled} images, as identities with one image give only that;"
            f" a batch takes P x K = {P} x {K}: lower P or K"
        )

    def one_pass(random: np.random.Generator) -> Batches:
        keys = random.random(len(kept))
        anchors = np.lexsort((keys, owner))[starts]
        other = cameras != cameras[anchors][owner]
        other_cameras = np.bincount(owner, other, len(counts)) > 0
        eligible = np.where(other_cameras[owner], other, True)
        eligible[anchors] = False
        choices = np.bincount(owner, eligible, len(counts)).astype(np.int64)
        places = np.broadcast_to(np.arange(K - 1), (len(counts), K - 1)).copy()
        few = choices < K
        places[few] = random.random((few.sum(), K - 1)) * choices[few, None]
        ordered = np.lexsort((keys, ~eligible, owner))
        rows = np.column_stack([anchors, ordered[starts[:, None] + places]])
        rows[choices == 0, 1:] = -1
        line = rows[random.permutation(len(rows))].ravel()
        return _cut(kept[line[line >= 0]], P * K)

    return _passes(one_pass, seed, ("camera-aware batches", epoch), iterations)


def shuffled_batches(
    count: int, size: int, *, seed: int, epoch: int, iterations: int | None = None, block: int | None = None
) -> ShuffledBatches:
    """Draw batches of the positions 0 .. count - 1, each at most once per pass; an incomplete last one is dropped.

    Args:
        count: number of images.
        size: images per batch.
        seed: the draw depends on `seed` and `epoch` only.
        epoch: see `seed`.
        iterations: number of batches, over as many passes as needed; None for one pass.
        block: consecutive positions that stay near each other, so that disks read them in a row: blocks come in random
            order, and each `WINDOW` of them are shuffled together. None to shuffle all positions.

    Raises:
        UserError: there are fewer images than a batch needs.
    """
    if count < size:
        raise UserError(f"{count} images do not fill a batch of {size}: lower the batch size or bring more images")

    @lru_cache(2)  # batches are read ahead across the end of a pass
    def one_pass(number: int) -> Ints:
        random = numpy_generator(seed, "shuffled batches", epoch, number)
        return random.permutation(count) if block is None else _by_blocks(random, count, block)

    return ShuffledBatches(one_pass, count // size, size, range(count // size if iterations is None else iterations))


def ongoing_batches(count: int, size: int, *, seed: int, stream: int, epoch: int, iterations: int) -> ShuffledBatches:
    """Draw an epoch's batches of passes that go on from epoch to epoch.

    Args:
        count: number of images.
        size: images per batch.
        seed: see `shuffled_batches`, whose `epoch` is `stream`, the same for the whole training.
        stream: see `seed`.
        epoch: counted from 0.
        iterations: batches of every epoch.
    """
    return shuffled_batches(count, size, seed=seed, epoch=stream, iterations=(epoch + 1) * iterations)[
        epoch * iterations :
    ]


def _by_blocks(random: np.random.Generator, count: int, block: int) -> Ints:
    """Permute the positions 0 .. count - 1 as `shuffled_batches` does."""
    import numpy as np

    blocks = random.permutation(-(-count // block))
    order = (blocks[:, None] * block + np.arange(block)).ravel()
    order = order[order < count]
    for window in np.split(order, range(WINDOW * block, count, WINDOW * block)):
        random.shuffle(window)
    return order


class ShuffledBatches(Sequence[list[int]]):
    """Batches drawn on demand: batch t is a function of t, so `batches[t:]` continues at step t.

    A pass is one permutation, 8 bytes per image, drawn when one of its batches is requested; two are cached.
    """

    def __init__(self, one_pass: Callable[[int], Ints], per_pass: int, size: int, steps: range) -> None:
        self._one_pass, self._per_pass, self._size, self._steps = one_pass, per_pass, size, steps

    def __len__(self) -> int:
        return len(self._steps)

    @overload
    def __getitem__(self, at: int) -> list[int]: ...

    @overload
    def __getitem__(self, at: slice) -> ShuffledBatches: ...

    def __getitem__(self, at: int | slice) -> list[int] | ShuffledBatches:
        if isinstance(at, slice):
            return ShuffledBatches(self._one_pass, self._per_pass, self._size, self._steps[at])
        number, place = divmod(self._steps[at], self._per_pass)
        batch: list[int] = self._one_pass(number)[place * self._size : (place + 1) * self._size].tolist()
        return batch


def in_step(steps: Iterator[int], stream: Callable[[int], Iterable[T]]) -> Iterator[tuple[int, T]]:
    """Pair steps with a stream that starts at the first of them, which in a resumed run is not 0.

        batches = shuffled_batches(len(images), 256, seed=1, epoch=0, iterations=count)
        for step, pixels in in_step(env.steps(count, state), lambda first: images.batches(batches[first:])):
            ...

    Args:
        steps: from `Env.steps` or `Env.epochs`.
        stream: returns the items from a given step on.

    Raises:
        ValueError: stream and steps differ in length.
    """
    for first in steps:
        yield from zip(chain([first], steps), stream(first), strict=True)


class _Identities(NamedTuple):
    """The images that have a label, by identity."""

    kept: Ints
    """Positions of these images."""
    owner: Ints
    """Number of their identity, 0 .. n - 1."""
    counts: Ints
    """(n,) images per identity."""


def _identities(pids: Sequence[int], P: int) -> _Identities:
    """Group the images that have a label by identity."""
    import numpy as np

    labels = np.asarray(pids)
    kept = np.flatnonzero(labels >= 0)
    _, owner, counts = np.unique(labels[kept], return_inverse=True, return_counts=True)
    if len(counts) < P:
        raise UserError(f"{len(counts)} identities, but a batch takes P = {P}: lower P or bring more identities")
    return _Identities(kept, owner, counts)


def _cut(line: Ints, size: int) -> Batches:
    batches: Batches = line[: len(line) // size * size].reshape(-1, size).tolist()
    return batches


def _passes(
    one_pass: Callable[[np.random.Generator], Batches], seed: int, where: tuple[str | int, ...], iterations: int | None
) -> Batches:
    batches = one_pass(numpy_generator(seed, *where, 0))
    if iterations is None:
        return batches
    number = 0
    while len(batches) < iterations:
        number += 1
        batches += one_pass(numpy_generator(seed, *where, number))
    return batches[:iterations]
