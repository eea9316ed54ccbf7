from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from methods.blocks.backbones import build
from methods.blocks.dropout import address
from methods.blocks.heads import ReID
from methods.blocks.rae import (
    RAE,
    Classifier,
    Decoder,
    Discriminator,
    Fused,
    Fusion,
    accuracy,
    from_range,
    log_loss,
    recognition,
    reconstruction,
    size_of_maps,
    strides,
    to_range,
)
from reproduce.data.sampling import normal
from reproduce.data.transforms import IMAGENET, normalise
from reproduce.errors import UserError


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return normal(shape, seed, "test")


@pytest.mark.parametrize(
    ("ratio", "expected"), [(1, (1, 1, 1)), (4, (2, 2, 1)), (8, (2, 2, 2)), (16, (4, 2, 2)), (32, (4, 4, 2))]
)
def test_strides(ratio: int, expected: tuple[int, ...]) -> None:
    assert strides((16, 8), (16 * ratio, 8 * ratio)) == expected


@given(st.integers(0, 6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_strides_reach_the_images(doublings: int, height: int, width: int, layers: int) -> None:
    found = strides((height, width), (height << doublings, width << doublings), layers)
    assert math.prod(found) == 2**doublings
    assert len(found) == layers
    assert list(found) == sorted(found, reverse=True)


@pytest.mark.parametrize(("maps", "images"), [((16, 8), (48, 24)), ((16, 8), (64, 16)), ((16, 8), (65, 33))])
def test_impossible_strides_raise(maps: tuple[int, int], images: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"times a power of two"):
        strides(maps, images)


@pytest.mark.parametrize(
    ("backbone", "last_stride", "size"),
    [("narrow", 1, (64, 32)), ("narrow", 2, (64, 32)), ("resnet50", 1, (128, 64)), ("narrow", 1, (32, 16))],
)
def test_decoder_reaches_the_input_size(backbone: str, last_stride: int, size: tuple[int, int]) -> None:
    encoder = ReID(build(backbone, seed=1, last_stride=last_stride), 3, seed=1, neck=False)
    decoder = Decoder(encoder.channels, (8, 4), strides(size_of_maps(encoder, size), size), seed=1)
    images = decoder(encoder.maps(torch.rand(2, 3, *size)))
    assert images.shape == (2, 3, *size)
    assert images.abs().max() <= 1
    layers = [type(layer) for layer in decoder]
    assert layers == [nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU] * 2 + [nn.ConvTranspose2d, nn.Tanh]


@given(st.integers(1, 20), st.integers(1, 20))
def test_discriminator_takes_maps_of_any_size(height: int, width: int) -> None:
    judge = Discriminator(5, (4, 3, 2), (height, width), seed=1, name="judge")
    assert judge(torch.rand(2, 5, height, width)).shape == (2,)


def test_parts_have_weights_of_their_own() -> None:
    made = [Discriminator(3, (4, 4, 4), (8, 8), seed=seed, name=name) for seed, name in ((1, "a"), (1, "b"), (2, "a"))]
    first = [judge.logit.weight for judge in made]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_decoder_and_discriminators_start_as_aligngans() -> None:
    made = (Decoder(64, (48, 32), (2, 2, 2), seed=1), Discriminator(64, (48, 32, 32), (8, 8), seed=1, name="judge"))
    for part in made:
        weights = [it.weight for it in part.modules() if isinstance(it, (nn.Conv2d, nn.ConvTranspose2d))]
        assert len(weights) == 3
        assert all(weight.std().item() == pytest.approx(0.02, rel=0.1) for weight in weights)


def test_fusion_equals_the_full_bilinear_form() -> None:
    """Check sum over positions of F1^T W_i F2, with W_i put together from U, V and Q, by loops in float64."""
    fusion = Fusion(4, 6, seed=1).double()
    first, second = drawn(2, 4, 3, 2), drawn(2, 4, 3, 2, seed=2)
    fused = fusion(first, second).detach()
    U, V, Q = (layer.weight.detach() for layer in (fusion.U, fusion.V, fusion.Q))
    for image in range(2):
        for output in range(4):
            W = sum(Q[output, d] * torch.outer(U[d], V[d]) for d in range(6))
            places = [first[image, :, y, x] @ W @ second[image, :, y, x] for y in range(3) for x in range(2)]
            assert float(fused[image, output]) == pytest.approx(float(sum(places)) / 6)


def test_reconstruction_is_the_printed_norm_at_the_usual_size() -> None:
    images, decoded = drawn(2, 3, 256, 128), drawn(2, 3, 256, 128, seed=2)
    norms = [math.sqrt(float(((one - other) ** 2).sum())) for one, other in zip(images, decoded, strict=True)]
    assert float(reconstruction(images, decoded)) == pytest.approx(sum(norms) / 2)


@pytest.mark.parametrize("times", [2, 4])
def test_reconstruction_weighs_small_images_the_same(times: int) -> None:
    images, decoded = drawn(2, 3, 16, 8), drawn(2, 3, 16, 8, seed=2)
    large = [part.repeat_interleave(times, 2).repeat_interleave(times, 3) for part in (images, decoded)]
    assert float(reconstruction(*large)) == pytest.approx(float(reconstruction(images, decoded)))


@pytest.mark.parametrize("real", [True, False])
def test_log_loss_equals_logarithms_of_probabilities(real: bool) -> None:
    logits = drawn(7)
    probabilities = [1 / (1 + math.exp(-float(logit))) for logit in logits]
    expected = -sum(math.log(p if real else 1 - p) for p in probabilities) / 7
    assert float(log_loss(logits, real)) == pytest.approx(expected)
    assert math.isfinite(float(log_loss(torch.tensor([-1e4, 1e4]), real)))


def test_accuracy_counts_both_kinds() -> None:
    assert float(accuracy(torch.tensor([1.0, 2.0, -1.0, 3.0]), torch.tensor([1.0, -1.0]))) == pytest.approx(62.5)
    assert float(accuracy(torch.ones(3), -torch.ones(5))) == 100
    assert float(accuracy(torch.zeros(3), torch.zeros(3))) == 50


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_recognition_equals_slow_loops(weight: float) -> None:
    features, logits = drawn(8, 5), drawn(8, 3, seed=2)
    labels = [0, 0, 1, 1, 2, 2, 0, 1]
    entropy = triplet = 0.0
    for at, label in enumerate(labels):
        entropy += math.log(sum(math.exp(float(value)) for value in logits[at])) - float(logits[at, label])
        apart = [float((features[at] - other).norm()) for other in features]
        farthest = max(own for own, its in zip(apart, labels, strict=True) if its == label)
        nearest = min(own for own, its in zip(apart, labels, strict=True) if its != label)
        triplet += max(0.0, 0.3 + farthest - nearest)
    found = recognition(features, logits, torch.tensor(labels), weight, 0.3)
    assert float(found) == pytest.approx((entropy + weight * triplet) / 8, rel=1e-6)


def test_ranges_are_inverse() -> None:
    pixels = torch.randint(0, 256, (2, 3, 8, 4), dtype=torch.uint8)
    images = normalise(pixels)
    centred = to_range(images, IMAGENET)
    torch.testing.assert_close(centred, pixels / 127.5 - 1)
    torch.testing.assert_close(from_range(centred, IMAGENET), images)


def test_classifier_drops_in_training_alone() -> None:
    head, features = Classifier(6, 5, 3, 0.5, seed=1, name="head").double(), drawn(40, 6).abs()
    address(head, 1, 0)
    first = head(features)
    address(head, 1, 0)
    assert torch.equal(first, head(features))
    address(head, 1, 1)
    assert not torch.equal(first, head(features))
    head.eval()
    _, linear, norm, _ = head.hidden
    hidden = norm(features @ linear.weight.T)
    expected = torch.where(hidden > 0, hidden, 0.1 * hidden) @ head.weight.T
    torch.testing.assert_close(head(features), expected)


class Identity(nn.Module):
    """An encoder whose maps are its images, normalised."""

    channels, mixed = 3, False

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        return images


class Perfect(Decoder):
    """Returns the images that it was made with, in -1 .. 1, if it is given the maps that it expects."""

    def __init__(self, images: torch.Tensor, maps: torch.Tensor) -> None:
        super().__init__(maps.shape[1], (8, 4), strides(tuple(maps.shape[2:]), tuple(images.shape[2:])), seed=1)
        self.images, self.expected = to_range(images, IMAGENET), maps

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        assert torch.equal(maps, self.expected)
        return self.images


def test_a_perfect_decoder_encodes_to_the_same_maps() -> None:
    encoder = ReID(build("narrow", seed=1), 3, seed=1, neck=False).eval()
    images = normalise(torch.randint(0, 256, (2, 3, 32, 16), generator=torch.Generator().manual_seed(1)))
    net = RAE(encoder)
    with torch.no_grad():
        net.restyle = Perfect(images, encoder.maps(images))
        maps, again = net.pair(images, IMAGENET)
        torch.testing.assert_close(again, maps, rtol=1e-4, atol=1e-4)
        assert torch.equal(Fused(net, IMAGENET).restyled(images), to_range(images, IMAGENET))


def test_a_translator_is_given_images_and_the_fusion_both_maps() -> None:
    """If maps are images and the translator returns them in -1 .. 1, both maps of a pair are the same."""
    net = RAE(Identity())  # type: ignore[arg-type]
    net.restyle, net.fusion = nn.Identity(), Fusion(3, 4, seed=1)
    images = torch.rand(2, 3, 8, 4)
    maps, again = net.pair(images, IMAGENET)
    torch.testing.assert_close(again, maps)
    torch.testing.assert_close(Fused(net, IMAGENET)(images), net.fusion(images, images))
    given = torch.rand(2, 3, 8, 4)
    assert torch.equal(net.pair(images, IMAGENET, given)[1], given)


def test_decoder_overfits_eight_images() -> None:
    encoder = ReID(build("narrow", seed=1), 3, seed=1, neck=False).eval()
    images = torch.nn.functional.interpolate(
        torch.rand(8, 3, 8, 4, generator=torch.Generator().manual_seed(1)), (32, 16)
    )
    wanted = 2 * images - 1
    with torch.no_grad():
        maps = encoder.maps(from_range(wanted, IMAGENET))
    decoder = Decoder(encoder.channels, (64, 32), strides((8, 4), (32, 16)), seed=1)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=5e-3)
    losses = []
    for _ in range(150):
        loss = reconstruction(wanted, decoder(maps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0], losses[::30]
