"""Objectives on two views against slow loops, in float64, with their gradients."""

from __future__ import annotations

import math
import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from methods.blocks.backbones import build
from methods.blocks.contrast import Projection, divergence, index_classifier, nt_xent
from methods.blocks.heads import ReID


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


@given(seed=st.integers(0, 999), images=st.integers(1, 5), classes=st.integers(1, 6))
def test_divergence(seed: int, images: int, classes: int) -> None:
    target, prediction = 3 * normal(images, classes, seed=seed), 3 * normal(images, classes, seed=seed + 1)
    total = 0.0
    for one, other in zip(target.tolist(), prediction.tolist(), strict=True):
        total += sum(r * math.log(r / q) for r, q in zip(softmax(one), softmax(other), strict=True))
    assert divergence(target, prediction).item() == pytest.approx(total / images, rel=1e-9, abs=1e-12)
    assert divergence(target, target).item() == pytest.approx(0, abs=1e-12)
    assert divergence(target, prediction) >= -1e-12


def test_divergence_gradient_and_overflow() -> None:
    assert gradcheck(divergence, (normal(3, 5).requires_grad_(), normal(3, 5, seed=1).requires_grad_()))
    far = torch.tensor([[1e4, -1e4]]).requires_grad_()
    loss = divergence(far, torch.tensor([[-1e4, 1e4]]).requires_grad_())
    loss.backward()
    assert loss == 2e4
    assert far.grad.isfinite().all()


def loop_nt_xent(first: list[list[float]], second: list[list[float]], temperature: float) -> float:
    views = [[value / math.hypot(*row) for value in row] for row in first + second]
    total = 0.0
    for at, row in enumerate(views):
        partner = (at + len(first)) % len(views)
        similar = [math.exp(sum(map(operator.mul, row, other)) / temperature) for other in views]
        total -= math.log(similar[partner] / sum(similar[:at] + similar[at + 1 :]))
    return total / len(views)


@given(seed=st.integers(0, 999), images=st.integers(1, 5), temperature=st.sampled_from([0.1, 0.5, 2.0]))
def test_nt_xent(seed: int, images: int, temperature: float) -> None:
    first, second = normal(images, 3, seed=seed), normal(images, 3, seed=seed + 1)
    loss = nt_xent(first, second, temperature)
    assert loss.item() == pytest.approx(loop_nt_xent(first.tolist(), second.tolist(), temperature), rel=1e-9, abs=1e-9)
    assert nt_xent(second, first, temperature).item() == pytest.approx(loss.item(), rel=1e-12, abs=1e-12)
    assert nt_xent(5 * first, second, temperature).item() == pytest.approx(loss.item(), rel=1e-12, abs=1e-12)


def test_nt_xent_is_half_the_published_sum() -> None:
    """The published code adds the mean over first views to that over second views."""
    views = [normal(6, 5, seed=seed) for seed in (1, 2)]
    rows = torch.nn.functional.normalize(torch.cat(views), dim=1)
    logits = (rows @ rows.T / 0.3).fill_diagonal_(-torch.inf)
    chance = logits.log_softmax(1)
    first, second = -chance[range(6), range(6, 12)].mean(), -chance[range(6, 12), range(6)].mean()
    assert nt_xent(*views, 0.3).item() == pytest.approx((first + second).item() / 2, rel=1e-9)


def test_nt_xent_gradient() -> None:
    views = normal(4, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    assert gradcheck(lambda *given: nt_xent(*given, 0.5), views)
    nt_xent(*views, 0.5).backward()
    assert all(view.grad.abs().sum() > 0 for view in views)


def test_nt_xent_is_lowest_for_the_right_pairs() -> None:
    rows = torch.eye(4)
    assert nt_xent(rows, rows, 0.1).item() == pytest.approx(math.log(1 + 6 * math.exp(-10)), abs=1e-6)
    assert nt_xent(rows, rows.roll(1, 0), 0.1) > 9


def test_heads() -> None:
    net = ReID(build("narrow", seed=1), 5, seed=1).double()
    index = index_classifier(net, 300, seed=1)
    assert index.weight.shape == (300, net.channels)
    assert index.bias is None
    assert index.weight.dtype == torch.float64
    assert index.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert torch.equal(index.weight, index_classifier(net, 300, seed=1).weight)
    assert not torch.equal(index.weight, index_classifier(net, 300, seed=2).weight)

    head, other = Projection(64, 16, seed=1), Projection(64, 16, seed=2)
    assert head(torch.zeros(3, 64)).shape == (3, 16)
    assert [tuple(parameter.shape) for parameter in head.parameters()] == [(64, 64), (64,), (16, 64), (16,)]
    for name, parameter in head.named_parameters():
        assert parameter.abs().max() <= 1 / 8
        assert not torch.equal(parameter, other.get_parameter(name))
        assert torch.equal(parameter, Projection(64, 16, seed=1).get_parameter(name))
    assert head[0].weight.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.05)
