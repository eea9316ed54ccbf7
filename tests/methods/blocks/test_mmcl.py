from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.blocks.memory import update_each
from methods.blocks.mmcl import Memory, multi_label_loss, predict
from reproduce.data.sampling import normal


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.nn.functional.normalize(normal(shape, seed, "test"))


def crowd(images: int, people: int, spread: float, seed: int) -> torch.Tensor:
    """Slots (N, 16) around the centre of each person."""
    centres = drawn(people, 16, seed=seed)[torch.arange(images) % people]
    return torch.nn.functional.normalize(centres + spread * normal((images, 16), seed, "spread"))


def slow_labels(slots: Any, own: int, threshold: float, least: int) -> set[int]:
    """MPLP for one image, as the published code walks it."""

    def ranking(image: int) -> list[int]:
        similar = [sum(a * b for a, b in zip(slots[image], other, strict=True)) for other in slots]
        similar[image] = math.inf
        return sorted(range(len(slots)), key=lambda other: -similar[other])

    mine = ranking(own)
    products = [sum(a * b for a, b in zip(slots[own], other, strict=True)) for other in slots]
    above = sum(product > threshold for product in products)
    k = min(max(above, least), len(slots))
    length = 1
    for place, candidate in enumerate(mine[:k]):
        if ranking(candidate).index(own) > k:
            break
        length = max(length, place)
    return {own, *mine[: min(length + 1, above)]}


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 30), st.integers(1, 8), st.sampled_from([0.1, 0.25, 0.4]), st.integers(1, 12), st.integers(0, 10**6)
)
def test_predicted_labels_equal_a_slow_loop(images: int, people: int, spread: float, least: int, seed: int) -> None:
    slots = crowd(images, people, spread, seed)
    indices = torch.randperm(images, generator=torch.Generator().manual_seed(seed))[: images // 2 + 1]
    labels = predict(slots, indices, 0.6, least)
    for row, own in zip(labels, indices.tolist(), strict=True):
        assert set(row.nonzero().flatten().tolist()) == slow_labels(slots.tolist(), own, 0.6, least)


def test_prediction_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    slots, indices = crowd(40, 5, 0.2, 1), torch.arange(40)
    whole = predict(slots, indices)
    monkeypatch.setattr("methods.blocks.mmcl.CELLS", 100)
    assert torch.equal(predict(slots, indices), whole)


def test_an_image_is_its_own_label_before_the_first_visit() -> None:
    assert torch.equal(predict(torch.zeros(5, 4), torch.tensor([3, 1])), torch.eye(5, dtype=torch.bool)[[3, 1]])


@pytest.mark.parametrize("images", [3, 40, 250])
def test_loss_equals_a_slow_loop(images: int) -> None:
    similarities = 2 * torch.rand(6, images, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1
    positives = torch.rand(6, images, generator=torch.Generator().manual_seed(2)) < 0.1
    positives[:, 0] = True
    positives[1] = True  # no negatives
    values = []
    for row, labels in zip(similarities.tolist(), positives.tolist(), strict=True):
        pull = [(1 - s) ** 2 for s, label in zip(row, labels, strict=True) if label]
        negatives = sorted((s for s, label in zip(row, labels, strict=True) if not label), reverse=True)
        count = min(len(negatives), max(1, int(0.01 * len(negatives))))
        push = [(1 + s) ** 2 for s in negatives[:count]]
        values.append(5 * sum(pull) / len(pull) + (sum(push) / len(push) if push else 0))
    similarities.requires_grad_()
    loss = multi_label_loss(similarities, positives)
    assert float(loss.detach()) == pytest.approx(sum(values) / 6, rel=1e-12)
    loss.backward()
    assert similarities.grad is not None
    assert bool(similarities.grad.isfinite().all())
    assert int((similarities.grad != 0)[1].sum()) == images


def test_first_visit_overwrites() -> None:
    memory = Memory(2, 3, neck=False)
    update_each(memory.slots, torch.tensor([1]), drawn(1, 3).float(), 0.0)
    torch.testing.assert_close(memory.slots[1], drawn(1, 3).float()[0])
    assert not memory.slots[0].any()


def test_own_neck_normalises_over_the_batch() -> None:
    features = 3 + 2 * normal((8, 5), 1, "features")
    centred = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(
        Memory(4, 5, neck=True).embed(features), torch.nn.functional.normalize(centred), rtol=1e-6, atol=1e-9
    )
