"""Compare each loss and its gradient with the slowest obvious loop, in float64."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from methods.blocks.losses import (
    CentreLoss,
    batch_hard_triplet,
    circle_logits,
    distances,
    hardest,
    smoothed_cross_entropy,
    soft_cross_entropy,
    soft_triplet,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop_smoothed(logits: list[list[float]], labels: list[int], smoothing: float, others: str) -> float:
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        classes = len(row)
        log_sum = math.log(sum(math.exp(value) for value in row))
        for number, value in enumerate(row):
            if others == "all":
                target = smoothing / classes + (1 - smoothing) * (number == label)
            else:
                target = 1 - smoothing if number == label else smoothing / (classes - 1)
            total -= target * (value - log_sum)
    return total / len(labels)


@pytest.mark.parametrize("others", ["all", "rest"])
@settings(deadline=None)
@given(seed=st.integers(0, 999), smoothing=st.sampled_from([0.0, 0.1, 0.5]), classes=st.integers(2, 6))
def test_smoothed_cross_entropy(seed: int, smoothing: float, classes: int, others: Literal["all", "rest"]) -> None:
    logits = 3 * normal(5, classes, seed=seed)
    labels = torch.randint(classes, (5,), generator=torch.Generator().manual_seed(seed))
    loss = smoothed_cross_entropy(logits, labels, smoothing, others)
    assert loss.item() == pytest.approx(loop_smoothed(logits.tolist(), labels.tolist(), smoothing, others), rel=1e-12)


@pytest.mark.parametrize("others", ["all", "rest"])
def test_smoothed_cross_entropy_gradient(others: Literal["all", "rest"]) -> None:
    labels = torch.tensor([0, 3, 3, 1])
    assert gradcheck(lambda logits: smoothed_cross_entropy(logits, labels, 0.1, others), normal(4, 4).requires_grad_())


@pytest.mark.parametrize("others", ["all", "rest"])
def test_loss_of_one_class_is_zero(others: Literal["all", "rest"]) -> None:
    assert smoothed_cross_entropy(normal(3, 1), torch.zeros(3, dtype=torch.int64), 0.1, others) == 0


@pytest.mark.parametrize("label", [-100, -1, 4])
def test_labels_out_of_range_raise(label: int) -> None:
    labels = torch.tensor([0, label, 3])
    with pytest.raises(ValueError, match=rf"label {label} is out of range: there are 4 classes, 0 .. 3"):
        smoothed_cross_entropy(normal(3, 4), labels)
    with pytest.raises(ValueError, match=rf"label {label} is out of range: there are 4 classes"):
        CentreLoss(4, 2, seed=1)(normal(3, 2), labels)


def loop_triplet(features: list[list[float]], labels: list[int], margin: float | str) -> float:
    total = 0.0
    for anchor, label in zip(features, labels, strict=True):
        lengths = [max(math.dist(anchor, other), 1e-6) for other in features]
        positive = max(length for length, other in zip(lengths, labels, strict=True) if other == label)
        negative = min((length for length, other in zip(lengths, labels, strict=True) if other != label), default=None)
        if negative is not None:
            excess = positive - negative
            total += math.log1p(math.exp(excess)) if margin == "soft" else max(0.0, float(margin) + excess)
    return total / len(labels)


@pytest.mark.parametrize("margin", [0.0, 0.3, "soft"])
@settings(deadline=None)
@given(seed=st.integers(0, 999), labels=st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_batch_hard_triplet(seed: int, labels: list[int], margin: float | Literal["soft"]) -> None:
    features = normal(len(labels), 3, seed=seed)
    loss = batch_hard_triplet(features, torch.tensor(labels), margin)
    assert loss.item() == pytest.approx(loop_triplet(features.tolist(), labels, margin), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("margin", [0.3, 5.0, "soft"])
@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 2, 2], [0, 0, 0, 0, 0, 0]])
def test_batch_hard_triplet_gradient(labels: list[int], margin: float | Literal["soft"]) -> None:
    assert gradcheck(
        lambda features: batch_hard_triplet(features, torch.tensor(labels), margin), normal(6, 3).requires_grad_()
    )


@pytest.mark.parametrize("margin", [0.3, "soft"])
def test_batches_without_triplets_have_finite_gradients(margin: float | Literal["soft"]) -> None:
    for features, labels in [
        (normal(4, 3), torch.zeros(4, dtype=torch.int64)),  # one identity: no negatives
        (normal(4, 3), torch.arange(4)),  # singletons: no positives
        (torch.ones(4, 3), torch.tensor([0, 0, 1, 1])),  # collapsed: every distance ties
        (torch.zeros(1, 3), torch.tensor([0])),
    ]:
        features = features.clone().requires_grad_()
        loss = batch_hard_triplet(features, labels, margin)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(features.grad).all()
        if len(labels.unique()) == 1:
            assert loss == 0
            assert not features.grad.any()


def test_hardest_pairs_of_a_line() -> None:
    features = torch.tensor([[0.0], [1.0], [5.0], [7.0]])
    pairs = hardest(distances(features), torch.tensor([0, 0, 1, 1]))
    assert pairs.positive.tolist() == [1, 1, 2, 2]
    assert pairs.negative.tolist() == [5, 4, 4, 6]
    assert pairs.positive_index.tolist() == [1, 0, 3, 2]
    assert pairs.negative_index.tolist() == [2, 2, 1, 1]
    alone = hardest(distances(features), torch.zeros(4))
    assert alone.positive.tolist() == [7, 6, 5, 7]
    assert (alone.negative == torch.inf).all()


@settings(deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_distances(seed: int, scale: float) -> None:
    features = scale * normal(6, 4, seed=seed)
    computed = distances(features)
    expected = torch.tensor([[max(math.dist(a, b), 1e-6) for b in features.tolist()] for a in features.tolist()])
    torch.testing.assert_close(computed, expected.double(), rtol=1e-6, atol=1e-6)
    assert (computed.diagonal() == 1e-6).all()


def softmax(values: list[float]) -> list[float]:
    raised = [math.exp(value) for value in values]
    return [value / sum(raised) for value in raised]


@settings(deadline=None)
@given(seed=st.integers(0, 999), classes=st.integers(1, 6))
def test_soft_cross_entropy(seed: int, classes: int) -> None:
    logits, reference = 3 * normal(5, classes, seed=seed), 3 * normal(5, classes, seed=seed + 1000)
    total = 0.0
    for row, other in zip(logits.tolist(), reference.tolist(), strict=True):
        total -= sum(q * math.log(p) for p, q in zip(softmax(row), softmax(other), strict=True))
    assert soft_cross_entropy(logits, reference).item() == pytest.approx(total / 5, rel=1e-12, abs=1e-12)


def loop_soft_triplet(features: list[list[float]], reference: list[list[float]], labels: list[int]) -> float:
    total = 0.0
    for anchor, label in enumerate(labels):
        lengths = [max(math.dist(features[anchor], other), 1e-6) for other in features]
        others = [max(math.dist(reference[anchor], other), 1e-6) for other in reference]
        same = [at for at, other in enumerate(labels) if other == label]
        rest = [at for at, other in enumerate(labels) if other != label]
        if rest:
            far, near = max(same, key=lengths.__getitem__), min(rest, key=lengths.__getitem__)
            own, wanted = softmax([lengths[far], lengths[near]]), softmax([others[far], others[near]])
            total -= sum(q * math.log(p) for p, q in zip(own, wanted, strict=True))
    return total / len(labels)


@settings(deadline=None)
@given(seed=st.integers(0, 999), labels=st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_soft_triplet(seed: int, labels: list[int]) -> None:
    features, reference = normal(len(labels), 3, seed=seed), normal(len(labels), 5, seed=seed + 1000)
    loss = soft_triplet(features, reference, torch.tensor(labels))
    expected = loop_soft_triplet(features.tolist(), reference.tolist(), labels)
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 2, 2], [0, 0, 0, 0, 0, 0]])
def test_soft_losses_send_no_gradient_to_the_reference(labels: list[int]) -> None:
    reference, wanted = normal(6, 3, seed=1).requires_grad_(), torch.tensor(labels)
    for loss in (
        lambda features, other: soft_cross_entropy(features, other),
        lambda features, other: soft_triplet(features, other, wanted),
    ):
        features = normal(6, 3).requires_grad_()
        assert gradcheck(lambda features, loss=loss: loss(features, reference), features)
        loss(features, reference).backward()
        assert torch.isfinite(features.grad).all()
    assert reference.grad is None


def test_soft_triplet_equals_the_hard_one_for_a_certain_reference() -> None:
    features, labels = normal(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    reference = 1000.0 * torch.nn.functional.one_hot(labels).double()
    hard = batch_hard_triplet(features, labels, "soft")
    assert soft_triplet(features, reference, labels).item() == pytest.approx(hard.item(), rel=1e-12)


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 1]])
def test_soft_triplet_of_collapsed_features_has_finite_gradients(labels: list[int]) -> None:
    features = torch.ones(4, 3, requires_grad=True)
    loss = soft_triplet(features, torch.zeros(4, 3), torch.tensor(labels))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2) if labels[-1] else 0)
    assert torch.isfinite(features.grad).all()


def test_centre_loss_sends_its_gradient_to_features_alone() -> None:
    loss = CentreLoss(5, 3, seed=1).double()
    features, labels = normal(4, 3).requires_grad_(), torch.tensor([0, 4, 4, 2])
    expected = sum(
        sum((f - c) ** 2 for f, c in zip(row, loss.centres[label].tolist(), strict=True))
        for row, label in zip(features.tolist(), labels.tolist(), strict=True)
    )
    assert loss(features, labels).item() == pytest.approx(expected / 4, rel=1e-12)
    assert gradcheck(lambda features: loss(features, labels), features)
    assert list(loss.parameters()) == []


@pytest.mark.parametrize("weight", [0.0005, 0.005, 1.0])
def test_centres_move_like_separate_sgd_without_the_loss_weight(weight: float) -> None:
    loss = CentreLoss(5, 3, seed=1).double()
    centres = loss.centres.clone().requires_grad_()
    optimiser = torch.optim.SGD([centres], lr=0.5)
    for step in range(3):
        features, labels = (
            normal(8, 3, seed=step),
            torch.randint(5, (8,), generator=torch.Generator().manual_seed(step)),
        )
        optimiser.zero_grad()
        (weight * (features - centres[labels]).square().sum(1).mean()).backward()
        centres.grad /= weight
        optimiser.step()
        loss.step(features, labels)
        torch.testing.assert_close(loss.centres, centres.detach(), rtol=1e-12, atol=1e-12)


def test_centres_start_standard_normal() -> None:
    state = torch.get_rng_state()
    centres = CentreLoss(300, 64, seed=1).centres
    assert torch.equal(torch.get_rng_state(), state)
    assert centres.dtype == torch.float32
    assert torch.equal(centres, CentreLoss(300, 64, seed=1).centres)
    assert not torch.equal(centres, CentreLoss(300, 64, seed=2).centres)
    assert abs(centres.mean()) < 0.03
    assert abs(centres.std() - 1) < 0.03


@settings(deadline=None)
@given(seed=st.integers(0, 999), margin=st.sampled_from([0.0, 0.25, 0.35, 1.0]), scale=st.sampled_from([1.0, 64.0]))
def test_circle_logits_equal_loops(seed: int, margin: float, scale: float) -> None:
    cosines = normal(4, 5, seed=seed).tanh().requires_grad_()
    labels = torch.randint(5, (4,), generator=torch.Generator().manual_seed(seed))
    logits = circle_logits(cosines, labels, scale, margin)
    logits.sum().backward()
    assert cosines.grad is not None
    for i in range(4):
        for j in range(5):
            s = cosines[i, j].item()
            own = labels[i] == j
            factor = max(0.0, 1 + margin - s) if own else max(0.0, s + margin)
            assert logits[i, j].item() == pytest.approx(scale * factor * (s - (1 - margin if own else margin)))
            assert cosines.grad[i, j].item() == pytest.approx(scale * factor), "the factor is constant"
