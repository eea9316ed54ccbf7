"""Batches that single methods draw; those of several are in `reproduce.data.sampling`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reproduce.data.sampling import Batches, numpy_generator
from reproduce.errors import UserError


def identities_once(pids: Sequence[int], P: int, K: int, *, seed: int, epoch: int) -> Batches:
    """Draw batches of P identities with K images each, every identity at most once; an incomplete last one is dropped.

    An identity with fewer than K images gives K drawn with replacement.

    Args:
        pids: identity of each image.
        P: identities per batch.
        K: images per identity.
        seed: the draw depends on `seed` and `epoch` only.
        epoch: see `seed`.

    Returns:
        Batches of P * K positions in `pids`, identity by identity.

    Raises:
        UserError: there are fewer than P identities.
    """
    owners = np.asarray(pids)
    people = np.unique(owners)
    if len(people) < P:
        raise UserError(f"{len(people)} identities, but a batch takes P = {P}: lower P or bring more identities")
    random = numpy_generator(seed, "identities once", epoch)
    images = {pid: np.flatnonzero(owners == pid) for pid in people.tolist()}
    order = random.permutation(people).tolist()
    drawn = np.stack([random.choice(images[pid], K, replace=len(images[pid]) < K) for pid in order])
    batches: Batches = drawn[: len(drawn) // P * P].reshape(-1, P * K).tolist()
    return batches
