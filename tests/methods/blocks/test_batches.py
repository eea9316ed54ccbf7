from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.blocks.batches import identities_once
from reproduce.errors import UserError


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=12),
    P=st.integers(1, 4),
    K=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_every_identity_comes_once_with_as_many_images(sizes: list[int], P: int, K: int, seed: int) -> None:
    pids = [10 * owner for owner, size in enumerate(sizes) for _ in range(size)]
    if len(sizes) < P:
        with pytest.raises(UserError, match=f"{len(sizes)} identities, but a batch takes P = {P}"):
            identities_once(pids, P, K, seed=seed, epoch=0)
        return
    batches = identities_once(pids, P, K, seed=seed, epoch=0)
    assert len(batches) == len(sizes) // P
    owners = [[pids[image] for image in batch] for batch in batches]
    seen = Counter(pid for batch in owners for pid in batch)
    assert set(seen.values()) <= {K}
    for batch, own in zip(batches, owners, strict=True):
        for start in range(0, P * K, K):
            assert len(set(own[start : start + K])) == 1, "identity by identity"
            images = batch[start : start + K]
            assert len(set(images)) == K or sizes[own[start] // 10] < K, "without replacement where there are enough"


def test_epochs_and_seeds_draw_other_batches() -> None:
    pids = [image // 5 for image in range(60)]
    first = identities_once(pids, 3, 4, seed=1, epoch=0)
    assert first == identities_once(pids, 3, 4, seed=1, epoch=0)
    assert first != identities_once(pids, 3, 4, seed=1, epoch=1)
    assert first != identities_once(pids, 3, 4, seed=2, epoch=0)
