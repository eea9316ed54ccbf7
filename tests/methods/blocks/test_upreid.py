"""Patches, patch loss and distances of similarity matrices against slow loops in float64."""

from __future__ import annotations

import math
import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn import functional as F

from methods.blocks.backbones import build
from methods.blocks.moco import Encoder, Queues
from methods.blocks.norm import GroupedBatchNorm, group_batch_norm, larger_groups
from methods.blocks.upreid import BANDWIDTHS, consistency, cut, distance, encode_patches, patch_loss


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def cosine(first: list[float], second: list[float]) -> float:
    return sum(map(operator.mul, first, second))


@given(stripes=st.integers(1, 4), rows=st.integers(1, 5), columns=st.integers(1, 4))
def test_even_patches_are_put_together_again(stripes: int, rows: int, columns: int) -> None:
    images = torch.rand(2, 3, stripes * rows, 2 * columns)
    patches = cut(images, 2 * stripes)
    assert patches.shape == (2, 2 * stripes, 3, rows, columns)
    halves = [torch.cat([patches[:, 2 * at], patches[:, 2 * at + 1]], 3) for at in range(stripes)]
    assert torch.equal(torch.cat(halves, 2), images)


@pytest.mark.parametrize(
    ("count", "size"), [(4, (128, 64)), (8, (64, 64)), (12, (43, 64))], ids=["large", "printed", "uneven"]
)
def test_published_patches(count: int, size: tuple[int, int]) -> None:
    images = torch.arange(256.0)[None, None, :, None].expand(1, 3, 256, 128)
    patches = cut(images, count)
    assert patches.shape == (1, count, 3, *size)
    stripes = count // 2
    for stripe in range(stripes):
        first, end = round(stripe * 256 / stripes), round((stripe + 1) * 256 / stripes)
        for half in range(2):
            patch = patches[0, 2 * stripe + half, 0, :, 0]
            assert patch[0] == first
            assert patch[-1] == end - 1
            if end - first == size[0]:
                assert torch.equal(patch, torch.arange(float(first), end))


def test_an_odd_width_is_cut_too() -> None:
    assert cut(torch.rand(2, 3, 7, 5), 6).shape == (2, 6, 3, 3, 3)


def test_patches_of_a_group_of_images_share_statistics() -> None:
    net = group_batch_norm(Encoder(build("narrow", seed=1), 8, seed=1), 2).double().train()
    images = torch.randn(4, 3, 32, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = encode_patches(net, images, 4)
    assert whole.shape == (4, 4, 8)
    apart = torch.cat([encode_patches(net, images[:2], 4), encode_patches(net, images[2:], 4)])
    torch.testing.assert_close(whole, apart)
    assert {layer.group for layer in net.modules() if isinstance(layer, GroupedBatchNorm)} == {2}
    with pytest.raises(RuntimeError), larger_groups(net, 3):
        raise RuntimeError
    assert {layer.group for layer in net.modules() if isinstance(layer, GroupedBatchNorm)} == {2}


@pytest.mark.parametrize("mirrored", [True, False])
def test_patch_loss(mirrored: bool) -> None:
    queries, keys, queues = units(3, 4, 5), units(3, 4, 5, seed=1), Queues(5, 6, 5).double()
    queues.enqueue(units(5, 6, 5, seed=2))
    total = 0.0
    for image in range(3):
        for place in range(4):
            partner = {0: 1, 1: 0, 2: 3, 3: 2}[place]
            query = queries[image, place].tolist()
            near = [keys[image, at].tolist() for at in ((place, partner) if mirrored else (place,))]
            far = queues.keys[1 + place].tolist()
            own, others = (sum(math.exp(cosine(query, key) / 0.3) for key in each) for each in (near, far))
            total -= math.log(own / (own + others))
    loss = patch_loss(queries, keys, queues, 0.3, mirrored=mirrored)
    assert loss.item() == pytest.approx(total / 12, rel=1e-9)


def slow_distance(first: list[list[float]], second: list[list[float]], kind: str) -> float:
    def squared(a: list[float], b: list[float]) -> float:
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    if kind == "entries":
        return sum(map(squared, first, second)) / (len(first) * len(first[0]))
    if kind == "linear":
        return sum(
            cosine(a, b) * sign / (len(left) * len(right))
            for left, right, sign in ((first, first, 1), (second, second, 1), (first, second, -2))
            for a in left
            for b in right
        )
    rows = first + second
    pairs = [squared(a, b) for at, a in enumerate(rows) for other, b in enumerate(rows) if at != other]
    width = sum(pairs) / len(pairs)

    def kernel(a: list[float], b: list[float]) -> float:
        return sum(math.exp(-squared(a, b) / (factor * width)) for factor in (0.25, 0.5, 1, 2, 4))

    def mean(left: list[list[float]], right: list[list[float]]) -> float:
        return sum(kernel(a, b) for a in left for b in right) / (len(left) * len(right))

    return mean(first, first) + mean(second, second) - 2 * mean(first, second)


@pytest.mark.parametrize("kind", ["gaussian", "linear", "entries"])
@given(seed=st.integers(0, 999), rows=st.integers(2, 5))
def test_distance(kind: str, seed: int, rows: int) -> None:
    first, second = units(rows, 3, seed=seed), units(rows, 3, seed=seed + 1)
    expected = slow_distance(first.tolist(), second.tolist(), kind)
    assert distance(first, second, kind).item() == pytest.approx(expected, rel=1e-8, abs=1e-12)  # type: ignore[arg-type]
    assert distance(first, first, kind).item() == pytest.approx(0, abs=1e-12)  # type: ignore[arg-type]


def test_the_gaussian_distance_ignores_the_order_of_rows_and_the_entries_do_not() -> None:
    first, second = units(5, 3), units(5, 3, seed=1)
    moved = second[[1, 2, 3, 4, 0]]
    torch.testing.assert_close(distance(first, second, "gaussian"), distance(first, moved, "gaussian"))
    assert not torch.isclose(distance(first, second, "entries"), distance(first, moved, "entries"))
    assert distance(torch.zeros(3, 2), torch.zeros(3, 2), "gaussian") == 0
    assert BANDWIDTHS == (0.25, 0.5, 1, 2, 4)


@pytest.mark.parametrize("group", [None, 3])
def test_consistency(group: int | None) -> None:
    given = [units(6, 4, seed=seed).requires_grad_() for seed in range(4)]
    loss = consistency(*given, group, "entries")
    total = 0.0
    for start in range(0, 6, group or 6):
        q, k, q_plain, k_plain = ([row.tolist() for row in each[start : start + (group or 6)]] for each in given)
        views, plain = (
            [[cosine(a, b) for b in keys] for a in queries] for queries, keys in ((q, k), (q_plain, k_plain))
        )
        total += slow_distance(views, plain, "entries") / (6 // (group or 6))
    assert loss.item() == pytest.approx(total, rel=1e-9)
    loss.backward()
    assert [each.grad is not None for each in given] == [True, False, False, False]


def test_consistency_gradient() -> None:
    """The bandwidth gets no gradient, so only the linear distance and that of entries have numerical ones."""
    rest = [units(4, 3, seed=seed) for seed in (1, 2, 3)]
    for kind in ("linear", "entries"):
        assert gradcheck(
            lambda given, kind=kind: consistency(given, *rest, None, kind), (units(4, 3).requires_grad_(),)
        )
    moved = units(4, 3).requires_grad_()
    consistency(moved, *rest, None, "gaussian").backward()
    assert moved.grad is not None
    assert moved.grad.isfinite().all()
    assert moved.grad.abs().sum() > 0
