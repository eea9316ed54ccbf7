"""Compare memories with loops over single numbers and images, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn.functional import normalize

from methods.blocks.backbones import build
from methods.blocks.memory import Embedder, of_target, slot_contrast, update_each, update_hardest
from methods.blocks.norm import group_batch_norm, split_batch_norm
from methods.blocks.pooling import GeM


def unit(*shape: int, seed: int) -> torch.Tensor:
    draws = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(draws, dim=-1)


def places(count: int, below: int, seed: int) -> torch.Tensor:
    return torch.randint(below, (count,), generator=torch.Generator().manual_seed(seed))


def loop_contrast(
    features: list[list[float]],
    slots: list[list[float]],
    of_slot: list[int],
    labels: list[int],
    t: float,
    steady: float,
) -> float:
    total = 0.0
    for feature, label in zip(features, labels, strict=True):
        powers = []
        for each in range(max(of_slot) + 1):
            own = [slot for slot, other in zip(slots, of_slot, strict=True) if other == each]
            similar = [sum(a * b for a, b in zip(feature, slot, strict=True)) / t for slot in own]
            powers.append(math.exp(sum(similar) / len(similar)))
        total -= math.log(powers[label] / (sum(powers) + steady) + steady)
    return total / len(labels)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), steady=st.sampled_from([0.0, 1e-6, 1e-2]), t=st.sampled_from([0.05, 0.5]))
def test_contrast_equals_loops(seed: int, steady: float, t: float) -> None:
    features, slots = unit(3, 4, seed=seed), unit(7, 4, seed=seed + 1)
    of_slot = torch.tensor([0, 1, 2, 2, 3, 1, 2])
    labels = places(3, 4, seed)
    loss = slot_contrast(features, slots, of_slot, labels, t, steady=steady)
    expected = loop_contrast(features.tolist(), slots.tolist(), of_slot.tolist(), labels.tolist(), t, steady)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_contrast_gradient_reaches_features_alone() -> None:
    slots, of_slot, labels = unit(6, 4, seed=1).requires_grad_(), torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([2, 0])
    features = unit(2, 4, seed=2).requires_grad_()
    assert gradcheck(lambda rows: slot_contrast(rows, slots.detach(), of_slot, labels, 0.5), features)
    slot_contrast(features, slots, of_slot, labels, 0.5).backward()
    assert slots.grad is None


def loop_update(slots: torch.Tensor, at: list[int], features: torch.Tensor, kept: float) -> torch.Tensor:
    moved = slots.clone()
    for place, feature in zip(at, features, strict=True):
        moved[place] = kept * moved[place] + (1 - kept) * feature
        moved[place] /= moved[place].norm()
    return moved


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 999), count=st.integers(1, 12), below=st.integers(1, 6))
def test_images_move_their_slots_one_after_the_other(seed: int, count: int, below: int) -> None:
    slots, features, at = unit(6, 3, seed=seed), unit(count, 3, seed=seed + 1), places(count, below, seed)
    expected = loop_update(slots, at.tolist(), features, 0.2)
    update_each(slots, at, features, 0.2)
    torch.testing.assert_close(slots, expected, rtol=1e-12, atol=1e-12)


def test_the_order_of_images_matters() -> None:
    features, at = unit(2, 3, seed=1), torch.tensor([0, 0])
    ends = [unit(1, 3, seed=2) for _ in range(2)]
    update_each(ends[0], at, features, 0.2)
    update_each(ends[1], at, features.flip(0), 0.2)
    assert (ends[0] - ends[1]).abs().max() > 0.1


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 999), count=st.integers(1, 12), below=st.integers(1, 6))
def test_the_hardest_image_moves_its_slot(seed: int, count: int, below: int) -> None:
    slots, features, at = unit(6, 3, seed=seed), unit(count, 3, seed=seed + 1), places(count, below, seed)
    expected = slots.clone()
    for place in set(at.tolist()):
        own = [feature for feature, other in zip(features, at.tolist(), strict=True) if other == place]
        hardest = min(own, key=lambda feature: float(feature @ slots[place]))
        expected = loop_update(expected, [place], hardest[None], 0.1)
    update_hardest(slots, at, features, 0.1)
    torch.testing.assert_close(slots, expected, rtol=1e-12, atol=1e-12)


def test_gem_equals_its_formula_and_learns_p() -> None:
    pool, maps = GeM().double(), torch.rand(2, 3, 4, 2, dtype=torch.float64) - 0.2
    expected = [[sum(max(v, 1e-6) ** 3 / 8 for v in rows.flatten().tolist()) ** (1 / 3) for rows in m] for m in maps]
    torch.testing.assert_close(pool(maps), torch.tensor(expected, dtype=torch.float64))
    pool(maps).sum().backward()
    assert pool.p.grad is not None
    assert pool.p.grad.abs() > 0


def test_target_weights_restore_the_network_that_evaluation_uses() -> None:
    """Source and target images are normalised apart, with groups, and evaluation uses the target's statistics."""
    net = split_batch_norm(group_batch_norm(Embedder(build("narrow_ibn_a", seed=1), gem=True), 4))
    images = torch.randn(16, 3, 32, 16, generator=torch.Generator().manual_seed(1))
    images[:8] *= 3
    together = net.train()(images)
    alone = split_batch_norm(group_batch_norm(Embedder(build("narrow_ibn_a", seed=1), gem=True), 4))
    swapped = alone.train()(torch.cat([images[8:], images[8:]]))
    torch.testing.assert_close(together[8:], swapped[8:])
    plain = group_batch_norm(Embedder(build("narrow_ibn_a", seed=1), gem=True), 4)
    plain.load_state_dict(of_target(net.state_dict()))
    torch.testing.assert_close(plain.eval()(images), net.eval()(images))
    torch.testing.assert_close(plain(images).norm(dim=1), torch.ones(16))
    for name, value in of_target(net.state_dict()).items():
        if name.endswith("running_mean"):
            torch.testing.assert_close(value, of_target(alone.state_dict())[name])
    with pytest.raises(ValueError, match="a batch of 3 images has no halves"):
        net.train()(images[:3])
