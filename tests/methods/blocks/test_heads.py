"""The network gives features, embedding and logits in training, the embedding in evaluation."""

from __future__ import annotations

import torch

from methods.blocks.backbones import build
from methods.blocks.heads import Output, ReID, pool
from methods.blocks.losses import smoothed_cross_entropy


def network(*, seed: int = 1, neck: bool = True) -> ReID:
    return ReID(build("narrow", seed=seed), 10, seed=seed, neck=neck)


IMAGES = torch.randn(6, 3, 32, 16, generator=torch.Generator().manual_seed(0))


def test_pool_is_the_mean_in_any_layout_with_a_channels_last_gradient() -> None:
    maps = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(pool(maps), maps.mean((2, 3)))
    torch.testing.assert_close(pool(maps.contiguous(memory_format=torch.channels_last)), maps.mean((2, 3)))
    assert torch.autograd.gradcheck(pool, maps)
    strides: list[tuple[int, ...]] = []
    shifted = maps.contiguous(memory_format=torch.channels_last) + 1
    shifted.register_hook(lambda gradient: strides.append(gradient.stride()))
    pool(shifted).square().sum().backward()
    assert strides == [shifted.stride()]


def test_training_gives_features_embedding_and_logits() -> None:
    net = network()
    output = net(IMAGES)
    assert isinstance(output, Output)
    features = net.backbone(IMAGES).mean((2, 3))
    torch.testing.assert_close(output.features, features)
    normalised = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(output.embedding, normalised, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.logits, output.embedding @ net.classifier.weight.T)
    assert output.logits.shape == (6, 10)


def test_evaluation_gives_the_embedding_of_each_image_alone() -> None:
    net = network()
    net(IMAGES)
    net.eval()
    with torch.no_grad():
        together, alone = net(IMAGES), torch.cat([net(image[None]) for image in IMAGES])
    assert together.shape == (6, net.channels)
    torch.testing.assert_close(together, alone)


def test_the_neck_has_a_frozen_bias_of_zero() -> None:
    net = network()
    smoothed_cross_entropy(net(IMAGES).logits, torch.arange(6)).backward()
    trained = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert "neck.weight" in trained
    assert trained == {name for name, parameter in net.named_parameters() if name != "neck.bias"}
    assert not net.neck.bias.any()


def test_without_a_neck_features_are_the_embedding() -> None:
    net = network(neck=False)
    output = net(IMAGES)
    assert torch.equal(output.features, output.embedding)
    assert not any(name.startswith("neck") for name in net.state_dict())


def test_a_renewed_classifier_depends_on_its_seed_alone() -> None:
    net, other = network(seed=1), network(seed=2)
    assert not torch.equal(net.classifier.weight, other.classifier.weight)
    state = torch.get_rng_state()
    net.renew_classifier(700, seed=7)
    other.renew_classifier(700, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(net.classifier.weight, other.classifier.weight)
    assert net(IMAGES).logits.shape == (6, 700)
    assert abs(net.classifier.weight.std().item() / 0.001 - 1) < 0.02
    net.double().renew_classifier(3, seed=1)
    assert net(IMAGES.double()).logits.dtype == torch.float64


def test_a_frozen_body_learns_nothing_and_keeps_its_batch_statistics() -> None:
    net = network().train()
    net.freeze_body()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net(IMAGES).logits.square().sum().backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is not None] == ["classifier.weight"]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    net.train()
    net.freeze_body(False)
    net(IMAGES).logits.square().sum().backward()
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert without == ["neck.bias"]
    assert not torch.equal(before["neck.running_mean"], net.neck.running_mean)
    net.eval()
    net.freeze_body(False)
    assert not any(part.training for part in net.modules())
