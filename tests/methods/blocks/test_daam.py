"""DAAM's attention, branches, soft weights and losses against slow loops, in float64, with their gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn.functional import interpolate, one_hot

from methods.blocks.backbones import build
from methods.blocks.daam import (
    Attention,
    Branches,
    Specific,
    domain_cross_entropy,
    resized,
    smoothed_weights,
    soft_label_cross_entropy,
    soft_weights,
)
from methods.blocks.losses import smoothed_cross_entropy
from methods.blocks.norm import GroupedBatchNorm, group_batch_norm


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def branches(*, attention: bool = True, individual: bool = False) -> Branches:
    net = Branches(build("narrow", seed=1), 6, seed=1, attention=attention).double()
    net.extend(individual=individual, seed=1)
    net.renew_clusters(4, seed=1)
    return net


IMAGES = normal(8, 3, 48, 16)
ODD = normal(2, 3, 41, 23)


@given(h=st.integers(1, 9), w=st.integers(1, 9), height=st.integers(1, 20), width=st.integers(1, 20))
def test_resizing_equals_interpolation(h: int, w: int, height: int, width: int) -> None:
    maps = normal(2, 3, h, w)
    torch.testing.assert_close(resized(maps, height, width), interpolate(maps, (height, width), mode="bilinear"))


def test_resizing_has_a_gradient() -> None:
    assert gradcheck(lambda maps: resized(maps, 5, 4), normal(1, 2, 3, 2).requires_grad_())


@pytest.mark.parametrize("images", [IMAGES, ODD], ids=["even", "odd"])
@pytest.mark.parametrize("training", [True, False])
def test_attention_is_between_0_and_1_and_the_parts_add_up(images: torch.Tensor, training: bool) -> None:
    net = branches().train(training)
    whole = net.backbone(images)
    parts = net.divided(whole)
    weights = net.attention(whole)
    assert weights.shape == whole.shape
    assert 0 < weights.min() < weights.max() < 1
    torch.testing.assert_close(parts.shared, weights * whole)
    torch.testing.assert_close(parts.shared + parts.specific, whole)


def test_attention_has_the_layers_of_figure_3() -> None:
    shapes = {name: tuple(part.shape) for name, part in Attention(128, seed=1, where="x").named_parameters()}
    assert [shape for shape in shapes.values() if len(shape) == 4] == [
        (128, 1, 3, 3),
        (64, 128, 1, 1),
        (8, 64, 1, 1),
        (128, 8, 1, 1),
    ]
    assert not any(
        name.endswith("bias") and shape != (shapes[name[:-4] + "weight"][0],) for name, shape in shapes.items()
    )


def test_initial_weights_depend_on_seed_and_place_alone() -> None:
    first, again = (Attention(32, seed=1, where="a").state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in (Attention(32, seed=2, where="a"), Attention(32, seed=1, where="b")):
        assert not torch.equal(other.spatial[0].weight, first["spatial.0.weight"])  # type: ignore[arg-type]


def test_without_attention_both_branches_have_all_maps() -> None:
    net = branches(attention=False)
    parts = net.parts(IMAGES)
    torch.testing.assert_close(parts.shared, net.backbone(IMAGES))
    assert parts.shared is parts.specific


def test_an_individual_attention_replaces_the_rest() -> None:
    net = branches(individual=True).eval()
    whole = net.backbone(IMAGES)
    assert net.attention
    assert net.individual
    torch.testing.assert_close(net.divided(whole).shared, net.attention(whole) * whole)
    torch.testing.assert_close(net.divided(whole).specific, net.individual(whole) * whole)
    assert (net.attention(whole) - net.individual(whole)).abs().max() > 1e-3


def test_outputs_are_pooled_parts() -> None:
    net = branches()
    output = net.train()(IMAGES)
    parts = net.parts(IMAGES)
    torch.testing.assert_close(output.shared, parts.shared.mean((2, 3)))
    torch.testing.assert_close(output.specific, parts.specific.mean((2, 3)))
    total = (parts.shared + parts.specific).sum((1, 2, 3))
    torch.testing.assert_close(output.passed, parts.shared.sum((1, 2, 3)) / total)
    net.eval()
    torch.testing.assert_close(net(IMAGES), net.maps(IMAGES).mean((2, 3)))
    torch.testing.assert_close(Specific(net)(IMAGES), net.parts(IMAGES).specific.mean((2, 3)))
    torch.testing.assert_close(Specific(net).maps(IMAGES), net.parts(IMAGES).specific)


def test_what_passes_to_the_branches_is_the_mean_weight() -> None:
    """With one attention the branches share 1; one of its own has its own weights; without any all passes."""
    net, own, without = branches().eval(), branches(individual=True).eval(), branches(attention=False).eval()
    assert net.attention
    assert own.individual
    weights = net.attention(net.backbone(IMAGES)).mean(1)
    torch.testing.assert_close(net.passing(IMAGES), weights)
    torch.testing.assert_close(Specific(net).passing(IMAGES), 1 - weights)
    torch.testing.assert_close(Specific(own).passing(IMAGES), own.individual(own.backbone(IMAGES)).mean(1))
    assert (without.passing(IMAGES) == 1).all()


def test_new_parts_join_groups_precision_and_device() -> None:
    net = group_batch_norm(branches(individual=True), 4)
    assert net.individual
    norms = [part for part in net.individual.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, GroupedBatchNorm) for norm in norms)
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float64, torch.int64}
    before = net.clusters.weight
    net.renew_clusters(9, seed=1)
    assert net.clusters.weight.shape == (9, net.channels)
    assert net.clusters.weight.dtype == before.dtype


def losses(net: Branches) -> dict[str, torch.Tensor]:
    """The three losses of a batch of four source and four target images."""
    output = net.train()(IMAGES)
    own, other = output.shared.split(4)
    return {
        "source": torch.nn.functional.cross_entropy(net.classifier(own), torch.arange(4)),
        "target": soft_label_cross_entropy(net.clusters(other), torch.eye(4, dtype=torch.float64)).mean(),
        "domain": domain_cross_entropy(*net.domains(output.specific).split(4)).mean(),
    }


REACHED = {"source": "classifier", "target": "clusters", "domain": "domains"}


@pytest.mark.parametrize("loss", REACHED)
@pytest.mark.parametrize("individual", [False, True])
def test_gradients_reach_both_branches(loss: str, individual: bool) -> None:
    net = branches(individual=individual)
    losses(net)[loss].backward()
    reached = {
        name.partition(".")[0]
        for name, parameter in net.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    attention = "individual" if individual and loss == "domain" else "attention"
    assert reached == {"backbone", attention, REACHED[loss]}


@pytest.mark.parametrize("attention", [True, False])
def test_the_domain_loss_falls_along_its_gradient(attention: bool) -> None:
    """A reversed gradient would raise it: descent on backbone and attention alone makes domains easier to tell."""
    net = branches(attention=attention)
    with torch.no_grad():
        net.domains.weight.mul_(1000)
    body = [parameter for name, parameter in net.named_parameters() if name.startswith(("backbone", "attention"))]
    before = losses(net)["domain"]
    gradients = torch.autograd.grad(before, body)
    steepness = float(sum(gradient.square().sum() for gradient in gradients))
    step = 1e-6 / steepness**0.5
    with torch.no_grad():
        for parameter, gradient in zip(body, gradients, strict=True):
            parameter -= step * gradient
    after = losses(net)["domain"]
    assert (before - after).item() == pytest.approx(step * steepness, rel=1e-2)


@st.composite
def clustered(draw: st.DrawFn) -> tuple[torch.Tensor, np.ndarray[Any, Any]]:
    """Features (N, D), whole numbers so that distances of 0 occur, with labels, every cluster inhabited."""
    clusters = draw(st.integers(2, 5))
    extra = draw(st.lists(st.integers(-1, clusters - 1), max_size=12))
    labels = np.array(draw(st.permutations([*range(clusters), *extra])))
    drawn = np.random.default_rng(draw(st.integers(0, 10**6)))
    rows = drawn.integers(-4, 5, (len(labels), draw(st.integers(1, 4)))).astype(float)
    rows[np.argmax(labels == 0)] += 9  # never all equal
    return torch.from_numpy(rows), labels


def slow_weights(rows: list[list[float]], labels: list[int], epsilon: float, floor: float) -> list[list[float]]:
    clusters = max(labels) + 1
    members = [[row for row, label in zip(rows, labels, strict=True) if label == k] for k in range(clusters)]
    centres = [[sum(column) / len(own) for column in zip(*own, strict=True)] for own in members]
    squares = [[math.dist(row, centre) ** 2 for centre in centres] for row in rows]
    known = [square for row, label in zip(squares, labels, strict=True) if label >= 0 for square in row]
    least = floor * sum(known) / len(known)
    return [
        [
            1 / (clusters * max(square, least)) + epsilon * (k == label) if label >= 0 else 0.0
            for k, square in enumerate(row)
        ]
        for row, label in zip(squares, labels, strict=True)
    ]


@settings(max_examples=200)
@given(data=clustered(), epsilon=st.sampled_from([0.0, 0.9, 1.0]), floor=st.sampled_from([0.01, 0.1, 1.0]))
def test_soft_weights_equal_slow_loops(
    data: tuple[torch.Tensor, np.ndarray[Any, Any]], epsilon: float, floor: float
) -> None:
    features, labels = data
    weights = soft_weights(features, labels, epsilon=epsilon, floor=floor)
    expected = slow_weights(features.tolist(), labels.tolist(), epsilon, floor)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-9, atol=1e-12)
    single = soft_weights(features.float(), labels, epsilon=epsilon, floor=floor)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, weights.float(), rtol=1e-5, atol=0)


@given(data=clustered())
def test_doubled_features_quarter_the_tail(data: tuple[torch.Tensor, np.ndarray[Any, Any]]) -> None:
    """The weights are neither normalised nor free of the features' scale."""
    features, labels = data
    one, two = (soft_weights(scale * features, labels, epsilon=0.9) for scale in (1, 2))
    own = 0.9 * one_hot(torch.from_numpy(labels).clamp(min=0), one.shape[1])
    own[torch.from_numpy(labels) < 0] = 0
    torch.testing.assert_close(4 * (two - own), one - own)


def test_an_image_at_its_centre_has_a_finite_weight() -> None:
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [9.0, 0.0], [9.0, 0.0]])
    weights = soft_weights(features, np.array([0, 0, 0, 1, 1]), floor=0.01)
    squares = torch.tensor([[0, 81], [1, 64], [1, 100], [81, 0], [81, 0]], dtype=torch.float64)
    assert weights[0, 0] == pytest.approx(0.9 + 1 / (2 * 0.01 * squares.mean().item()))
    assert weights[1, 0] == pytest.approx(0.9 + 1 / (2 * max(1, 0.01 * squares.mean().item())))


@given(
    labels=st.lists(st.integers(-1, 3), min_size=1, max_size=9).filter(lambda labels: max(labels) >= 0),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_smoothed_weights_equal_slow_loops(labels: list[int], smoothing: float) -> None:
    clusters = max(labels) + 1
    expected = [
        [0.0] * clusters
        if label < 0
        else [(1 - smoothing) * (k == label) + smoothing / clusters for k in range(clusters)]
        for label in labels
    ]
    weights = smoothed_weights(np.array(labels), smoothing, torch.zeros(0, dtype=torch.float64))
    np.testing.assert_allclose(weights.numpy(), expected, atol=1e-12)


@given(seed=st.integers(0, 999), images=st.integers(1, 4), clusters=st.integers(1, 5))
def test_soft_label_cross_entropy(seed: int, images: int, clusters: int) -> None:
    logits, weights = 3 * normal(images, clusters, seed=seed), normal(images, clusters, seed=seed + 1).square()
    expected = []
    for row, own in zip(logits.tolist(), weights.tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        expected.append(-sum(w * math.log(math.exp(value) / total) for value, w in zip(row, own, strict=True)))
    assert soft_label_cross_entropy(logits, weights).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_soft_label_cross_entropy_of_smoothed_labels_is_label_smoothing() -> None:
    logits, labels = normal(6, 5), np.array([0, 4, 2, 2, 1, 3])
    ours = soft_label_cross_entropy(logits, smoothed_weights(labels, 0.1, logits)).mean()
    torch.testing.assert_close(ours, smoothed_cross_entropy(logits, torch.from_numpy(labels), 0.1))


@given(seed=st.integers(0, 999), source=st.integers(1, 4), target=st.integers(1, 4))
def test_domain_cross_entropy(seed: int, source: int, target: int) -> None:
    logits = 3 * normal(source + target, 2, seed=seed)
    expected = [
        math.log(1 + math.exp(b - a) if place < source else 1 + math.exp(a - b))
        for place, (a, b) in enumerate(logits.tolist())
    ]
    assert domain_cross_entropy(*logits.split([source, target])).tolist() == pytest.approx(expected, rel=1e-9)


def test_gradients_of_the_losses() -> None:
    weights = normal(3, 4, seed=1).square()
    assert gradcheck(lambda logits: soft_label_cross_entropy(logits, weights), normal(3, 4).requires_grad_())
    assert gradcheck(domain_cross_entropy, (normal(2, 2).requires_grad_(), normal(3, 2, seed=1).requires_grad_()))
