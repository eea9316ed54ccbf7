"""Queues against a list, InfoNCE against slow loops in float64."""

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
from methods.blocks.moco import Encoder, Queues, info_nce, shuffled
from methods.blocks.norm import group_batch_norm


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def cosine(first: list[float], second: list[float]) -> float:
    return sum(map(operator.mul, first, second))


@given(
    seed=st.integers(0, 999),
    images=st.integers(1, 4),
    positives=st.integers(1, 3),
    negatives=st.integers(0, 6),
    temperature=st.sampled_from([0.1, 0.5]),
)
def test_info_nce(seed: int, images: int, positives: int, negatives: int, temperature: float) -> None:
    queries, own, others = units(images, 5, seed=seed), units(images, positives, 5, seed=seed + 1), units(negatives, 5)
    total = 0.0
    for query, keys in zip(queries.tolist(), own.tolist(), strict=True):
        near = sum(math.exp(cosine(query, key) / temperature) for key in keys)
        far = sum(math.exp(cosine(query, key) / temperature) for key in others.tolist())
        total -= math.log(near / (near + far))
    loss = info_nce(queries, own, others, temperature)
    assert loss.item() == pytest.approx(total / images, rel=1e-9, abs=1e-12)


def test_info_nce_with_one_positive_is_cross_entropy_of_class_0() -> None:
    queries, keys, others = units(4, 5), units(4, 5, seed=1), units(9, 5, seed=2)
    logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ others.T], 1) / 0.2
    expected = F.cross_entropy(logits, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(info_nce(queries, keys[:, None], others, 0.2), expected)


def test_info_nce_gradient_and_overflow() -> None:
    others = units(6, 4, seed=2)
    assert gradcheck(
        lambda *given: info_nce(*given, others, 0.5), (units(3, 4).requires_grad_(), units(3, 2, 4, seed=1))
    )
    near = torch.tensor([[1.0, 0.0]]).requires_grad_()
    loss = info_nce(near, -near.detach()[:, None], near.detach(), 1e-3)
    loss.backward()
    assert loss.item() == pytest.approx(2000)
    assert near.grad is not None
    assert near.grad.isfinite().all()


@given(size=st.integers(1, 7), batches=st.lists(st.integers(1, 9), max_size=6), count=st.integers(1, 3))
def test_queues_hold_the_last_keys(size: int, batches: list[int], count: int) -> None:
    queues, seen = Queues(count, size, 2), []
    number = 0.0
    for batch in batches:
        keys = torch.stack([number + torch.arange(batch) + 100 * queue for queue in range(count)])
        queues.enqueue(keys[:, :, None].expand(-1, -1, 2))
        seen += keys.T.tolist()
        number += batch
        for queue in range(count):
            kept = queues.negatives(queue)
            assert kept.shape == (min(len(seen), size), 2)
            assert sorted(kept[:, 0].tolist()) == sorted(keys[queue] for keys in seen[-size:])


def test_the_oldest_keys_are_overwritten_first() -> None:
    queues = Queues(1, 5, 1)
    for start in (0, 3, 6):
        queues.enqueue(torch.arange(start, start + 3.0)[None, :, None])
    assert queues.keys.flatten().tolist() == [5, 6, 7, 8, 4]
    assert int(queues.at) == 4


def test_queues_keep_no_gradient() -> None:
    queues, keys = Queues(1, 4, 3), torch.ones(1, 2, 3, requires_grad=True)
    queues.enqueue(keys * 2)
    assert not queues.negatives(0).requires_grad


def test_shuffled_keys_are_in_the_images_order_and_their_groups_are_not() -> None:
    images = torch.arange(12.0)[:, None]
    assert torch.equal(shuffled(lambda given: 2 * given, images, 1, 3), 2 * images)
    orders = []
    shuffled(lambda given: orders.append(given.flatten().tolist()) or given, images, 1, 3)  # type: ignore[func-returns-value]
    shuffled(lambda given: orders.append(given.flatten().tolist()) or given, images, 1, 4)  # type: ignore[func-returns-value]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(12))

    net = group_batch_norm(Encoder(build("narrow", seed=1), 8, seed=1), 4).double().train()
    pictures = torch.randn(12, 3, 32, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain, mixed = net(pictures), shuffled(net, pictures, 1, 3)
    assert not torch.allclose(plain, mixed, atol=1e-3)
    alone = shuffled(net.eval(), pictures, 1, 3)
    torch.testing.assert_close(alone, net(pictures))


def test_encoder() -> None:
    net = Encoder(build("narrow", seed=1, last_stride=2), 8, seed=1)
    images = torch.randn(4, 3, 32, 16, generator=torch.Generator().manual_seed(1))
    projected = net.train()(images)
    features = net.backbone(images).mean((2, 3))
    expected = F.normalize(net.head[2](net.head[0](features).relu()), dim=1)
    torch.testing.assert_close(projected, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.eval()(images), net.backbone(images).mean((2, 3)))
