"""Normalisation groups on one device compute what replicas on several devices would."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from methods.blocks.backbones import build
from methods.blocks.heads import Output, ReID
from methods.blocks.losses import batch_hard_triplet, smoothed_cross_entropy
from methods.blocks.norm import GroupedBatchNorm, group_batch_norm

LABELS = torch.arange(8).repeat_interleave(2)


def network() -> ReID:
    return ReID(build("narrow_ibn_a", seed=1), 8, seed=1).double()


def images(count: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, 32, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradients(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}


def test_groups_equal_data_parallel_replicas() -> None:
    def loss(output: Output) -> torch.Tensor:
        return smoothed_cross_entropy(output.logits, LABELS) + batch_hard_triplet(output.features, LABELS, "soft")

    replicas = [network() for _ in range(4)]
    parts = [replica(part) for replica, part in zip(replicas, images().chunk(4), strict=True)]
    expected = loss(Output(*(torch.cat(values) for values in zip(*parts, strict=True))))
    expected.backward()

    net = group_batch_norm(network(), 4)
    grouped = loss(net(images()))
    grouped.backward()
    assert abs(grouped.item() - expected.item()) <= 1e-12
    assert "neck.bias" not in gradients(net)
    for name, gradient in gradients(net).items():
        summed = sum(gradients(replica)[name] for replica in replicas)
        assert (gradient - summed).abs().max() <= 1e-10, name
    for name, value in net.named_buffers():
        torch.testing.assert_close(value, replicas[0].get_buffer(name), rtol=0, atol=1e-12)


def test_groups_equal_replicas_with_averaged_gradients() -> None:
    replicas = [network() for _ in range(4)]
    for replica, part, labels in zip(replicas, images().chunk(4), LABELS.chunk(4), strict=True):
        smoothed_cross_entropy(replica(part).logits, labels).backward()
    net = group_batch_norm(network(), 4)
    smoothed_cross_entropy(net(images()).logits, LABELS).backward()
    for name, gradient in gradients(net).items():
        mean = sum(gradients(replica)[name] for replica in replicas) / 4
        assert (gradient - mean).abs().max() <= 1e-10, name


def test_groups_differ_from_one_batch() -> None:
    together, grouped = network(), group_batch_norm(network(), 4)
    assert (together(images()).features - grouped(images()).features).abs().max() > 0.01


@pytest.mark.parametrize("momentum", [0.1, 0.7])
@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 3, 2)])
def test_running_statistics(shape: tuple[int, ...], momentum: float) -> None:
    plain = nn.BatchNorm1d(5, momentum=momentum) if len(shape) == 2 else nn.BatchNorm2d(5, momentum=momentum)
    layer = GroupedBatchNorm(deepcopy(plain).double(), 4)
    first = deepcopy(plain).double()
    for step in range(3):
        values = torch.randn(shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64) * (step + 1)
        layer(values)
        first(values[:4])
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(layer.get_buffer(name), first.get_buffer(name), rtol=1e-12, atol=1e-12)
    assert layer.num_batches_tracked == 3


def test_evaluation_and_small_batches_use_the_plain_layer() -> None:
    plain, grouped = network(), group_batch_norm(network(), 16)
    for count in (5, 16):
        assert torch.equal(plain(images(count)).logits, grouped(images(count)).logits)
    plain.eval()
    grouped.eval()
    assert torch.equal(plain(images(18)), grouped(images(18)))
    assert all(torch.equal(value, grouped.get_buffer(name)) for name, value in plain.named_buffers())


def test_invalid_groups_raise() -> None:
    with pytest.raises(ValueError, match="batch of 18 images cannot be split into groups of 16"):
        group_batch_norm(network(), 16)(images(18))
    with pytest.raises(ValueError, match="groups of 0 images"):
        group_batch_norm(network(), 0)
    with pytest.raises(ValueError, match="need a momentum"):
        group_batch_norm(nn.BatchNorm2d(3, momentum=None), 4)


def test_conversion_keeps_keys_parameters_and_modes() -> None:
    net = network()
    net.backbone.eval()
    state, parameters = net.state_dict(), dict(net.named_parameters())
    same = group_batch_norm(net, None)
    assert same is net
    assert not any(isinstance(part, GroupedBatchNorm) for part in net.modules())
    grouped = group_batch_norm(net, 4)
    assert grouped is net
    assert list(grouped.state_dict()) == list(state)
    assert all(parameters[name] is parameter for name, parameter in grouped.named_parameters())
    assert grouped.neck.training
    assert not grouped.backbone.bn1.training
    assert not grouped.neck.bias.requires_grad
    norms = [part for part in grouped.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 18
    assert all(isinstance(norm, GroupedBatchNorm) for norm in norms)
    copied = deepcopy(grouped)
    assert torch.equal(copied.train()(images()).logits, grouped.train()(images()).logits)


def test_single_layer_is_replaced() -> None:
    assert isinstance(group_batch_norm(nn.BatchNorm1d(3), 4), GroupedBatchNorm)


def test_gradients_of_a_layer() -> None:
    layer = GroupedBatchNorm(nn.BatchNorm2d(2).double(), 2)
    values = torch.randn(6, 2, 2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, values)
