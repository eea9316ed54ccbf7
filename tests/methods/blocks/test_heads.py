"""The network returns features, embedding and logits in training, the embedding in evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from methods import supervised
from methods.blocks import heads
from methods.blocks.backbones import build
from methods.blocks.heads import Output, ReID, detached, in_views, part, pool, together
from methods.blocks.losses import smoothed_cross_entropy
from methods.blocks.norm import group_batch_norm
from reproduce.artifacts import Training
from reproduce.data.domains import Domain
from reproduce.errors import UserError
from reproduce.stage import parents


def network(*, seed: int = 1, neck: bool = True) -> ReID:
    return ReID(build("narrow", seed=seed), 10, seed=seed, neck=neck)


IMAGES = torch.randn(6, 3, 32, 16, generator=torch.Generator().manual_seed(0))


def test_pool_is_the_mean_with_a_channels_last_gradient() -> None:
    maps = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(pool(maps), maps.mean((2, 3)))
    torch.testing.assert_close(pool(maps.contiguous(memory_format=torch.channels_last)), maps.mean((2, 3)))
    assert torch.autograd.gradcheck(pool, maps)
    strides: list[tuple[int, ...]] = []
    shifted = maps.contiguous(memory_format=torch.channels_last) + 1
    shifted.register_hook(lambda gradient: strides.append(gradient.stride()))
    pool(shifted).square().sum().backward()
    assert strides == [shifted.stride()]


def test_training_returns_features_embedding_and_logits() -> None:
    net = network()
    output = net(IMAGES)
    assert isinstance(output, Output)
    features = net.backbone(IMAGES).mean((2, 3))
    torch.testing.assert_close(output.features, features)
    normalised = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(output.embedding, normalised, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.logits, output.embedding @ net.classifier.weight.T)
    assert output.logits.shape == (6, 10)


def test_evaluation_embeds_each_image_independently() -> None:
    net = network()
    net(IMAGES)
    net.eval()
    with torch.no_grad():
        whole, alone = net(IMAGES), torch.cat([net(image[None]) for image in IMAGES])
    assert whole.shape == (6, net.channels)
    torch.testing.assert_close(whole, alone)


def test_neck_bias_is_frozen_at_zero() -> None:
    net = network()
    smoothed_cross_entropy(net(IMAGES).logits, torch.arange(6)).backward()
    trained = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert "neck.weight" in trained
    assert trained == {name for name, parameter in net.named_parameters() if name != "neck.bias"}
    assert not net.neck.bias.any()


def test_features_equal_the_embedding_without_a_neck() -> None:
    net = network(neck=False)
    output = net(IMAGES)
    assert torch.equal(output.features, output.embedding)
    assert not any(name.startswith("neck") for name in net.state_dict())


def test_renewed_classifier_depends_only_on_its_seed() -> None:
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


def test_freeze_body_stops_weights_and_batch_statistics() -> None:
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


class Branches(NamedTuple):
    shared: Output
    mask: torch.Tensor


def test_together_splits_any_outputs_by_group() -> None:
    net = network()
    mask = torch.rand(6, 1)

    def two(images: torch.Tensor) -> Branches:
        return Branches(net(images), mask * images.mean((1, 2, 3))[:, None])

    whole = two(IMAGES)
    parts = together(two, [IMAGES[:4], IMAGES[4:]])
    assert [type(part) for part in parts] == [Branches, Branches]
    assert torch.equal(torch.cat([part.mask for part in parts]), whole.mask)
    assert all(len(part.shared.logits) == length for part, length in zip(parts, (4, 2), strict=True))
    torch.testing.assert_close(torch.cat([part.shared.features for part in parts]), whole.shared.features)
    free = detached(parts)
    assert parts[0].shared.logits.requires_grad
    assert not free[0].shared.logits.requires_grad
    assert isinstance(free[1].shared, Output)


def test_views_of_an_image_share_groups_of_normalisation() -> None:
    net = group_batch_norm(network(), 4)
    views = [IMAGES[:4], IMAGES[2:].flip(0)]
    first, second = in_views(net, views)
    for start in (0, 2):  # two images of two views are a group
        group = torch.cat([view[start : start + 2] for view in views])
        expected = network()(group[[0, 2, 1, 3]])
        torch.testing.assert_close(first.embedding[start : start + 2], expected.embedding[[0, 2]])
        torch.testing.assert_close(second.embedding[start : start + 2], expected.embedding[[1, 3]])


def test_training_without_a_neck() -> None:
    """It is restored without one, with the same bits."""
    recipe = supervised.Train(Domain("market"), weights=None, backbone="narrow")
    net = heads.network(recipe, 4, neck=False)
    output = net(IMAGES)
    assert torch.equal(output.embedding, output.features)
    torch.testing.assert_close(output.logits, output.features @ net.classifier.weight.T)
    kept = Training({"last": net.state_dict()}, {"classes": 4})
    again = heads.restored(recipe, kept, "last", neck=False)
    assert not again.training
    assert torch.equal(again(IMAGES), net.eval()(IMAGES))
    with pytest.raises(RuntimeError, match=r"neck\.weight"):
        heads.restored(recipe, kept, "last")


def test_network_starts_from_scratch_a_file_or_a_training(tmp_path: Path) -> None:
    pretrained = supervised.Train(Domain("market"), weights=None, backbone="narrow", seed=7)
    left = {name: value + 1 for name, value in heads.network(pretrained, 3).state_dict().items()}
    files, trainings = {}, {pretrained: Training({"last": left}, {"classes": 3})}
    path = tmp_path / "narrow-x.safetensors"
    save_file({name: (value + 2).contiguous() for name, value in build("narrow", seed=1).state_dict().items()}, path)
    files["abc"] = path
    env: Any = SimpleNamespace(get=trainings.__getitem__, weights=files.get)

    recipe = replace(pretrained, seed=1)
    scratch = heads.network(recipe, 5, env).backbone.state_dict()
    assert all(torch.equal(value, scratch[name]) for name, value in build("narrow", seed=1).state_dict().items())
    published = heads.network(replace(recipe, weights="abc"), 5, env).backbone.state_dict()
    assert all(torch.equal(value, scratch[name] + 2) for name, value in published.items())
    after = heads.network(replace(recipe, weights=pretrained), 5, env)
    assert all(torch.equal(value, left[f"backbone.{name}"]) for name, value in after.backbone.state_dict().items())
    assert after.classifier.weight.shape[0] == 5
    assert list(parents(replace(recipe, weights=pretrained))) == [pretrained]
    with pytest.raises(UserError, match="the training to start from does not hold the weights of narrow_ibn_a"):
        heads.network(replace(recipe, weights=pretrained, backbone="narrow_ibn_a"), 5, env)


def test_part_of_a_checkpoint_has_the_part_s_own_names() -> None:
    parts = torch.nn.ModuleDict({"one": torch.nn.Linear(2, 2), "one_more": torch.nn.Linear(2, 3)})
    for name, own in parts.items():
        selected = part(parts.state_dict(), name)
        assert selected.keys() == own.state_dict().keys()
        own.load_state_dict(selected)
    assert part(parts.state_dict(), "none") == {}
