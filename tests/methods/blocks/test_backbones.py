"""Backbones match the published ones; initial weights depend only on seed and names."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from methods.blocks.backbones import IBN, NAMES, Backbone, Bottleneck, ResNet50, build, initialise
from reproduce.errors import UserError


def published_keys(*, ibn: bool) -> set[str]:
    """torchvision's keys, or those of IBN-Net's file: `bn1` of the bottlenecks in layers 1 to 3 split in two."""
    with torch.device("meta"):
        keys = set(torchvision.models.resnet50(weights=None).state_dict())
    for key in list(keys):
        layer, *_, norm, kind = key.split(".") if key.count(".") == 3 else ("", "", "")
        if ibn and layer in ("layer1", "layer2", "layer3") and norm == "bn1":
            stem = key.removesuffix(kind)
            keys.remove(key)
            keys |= {f"{stem}BN.{kind}"} | ({f"{stem}IN.{kind}"} if kind in ("weight", "bias") else set())
    return {key for key in keys if not key.startswith("fc.")}


@pytest.mark.parametrize("ibn", [False, True])
def test_resnet50_has_the_published_keys(ibn: bool) -> None:
    with torch.device("meta"):
        assert set(ResNet50(ibn=ibn).state_dict()) == published_keys(ibn=ibn)


@pytest.mark.parametrize("last_stride", [1, 2])
def test_resnet50_computes_what_torchvision_does(last_stride: int) -> None:
    ours = build("resnet50", seed=3, last_stride=last_stride).double()
    theirs = torchvision.models.resnet50(weights=None)
    theirs.layer4[0].conv2.stride = theirs.layer4[0].downsample[0].stride = (last_stride, last_stride)
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    trunk = nn.Sequential(*list(theirs.double().children())[:-2])
    images = torch.rand(3, 3, 64, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for mode in (True, False):  # training first: it moves the running statistics that evaluation reads
        ours.train(mode)
        trunk.train(mode)
        with torch.no_grad():
            expected = trunk(images)
            computed = ours(images.contiguous(memory_format=torch.channels_last))
        assert computed.shape == (3, 2048, 4 // last_stride, 2 // last_stride)
        torch.testing.assert_close(computed, expected, rtol=1e-10, atol=1e-10)


def test_ibn_normalises_one_half_per_image_and_the_other_per_batch() -> None:
    layer = IBN(7).double()
    maps = torch.randn(4, 7, 3, 2, dtype=torch.float64)
    normalised = layer(maps)
    for channel in range(7):
        parts = maps[:, channel].split(1 if channel < 3 else 4)
        expected = torch.cat([(part - part.mean()) / (part.var(unbiased=False) + 1e-5).sqrt() for part in parts])
        torch.testing.assert_close(normalised[:, channel], expected)


@pytest.mark.parametrize("name", ["narrow", "narrow_ibn_a"])
@pytest.mark.parametrize(("last_stride", "size"), [(1, (16, 8)), (2, (8, 4))])
def test_narrow_maps_a_quarter_of_the_input_like_resnet50(name: str, last_stride: int, size: tuple[int, int]) -> None:
    net = build(name, seed=1, last_stride=last_stride)
    maps = net(torch.zeros(2, 3, 64, 32))
    assert maps.shape == (2, net.channels, *size)
    assert net.channels == 128
    assert net(torch.zeros(2, 3, 96, 32)).shape[2:] == (24 // last_stride, 8 // last_stride)
    assert maps.is_contiguous(memory_format=torch.channels_last)


def test_ibn_is_in_layers_1_to_3_only() -> None:
    net = build("narrow_ibn_a", seed=1)
    kinds = [type(part.bn1) for part in net.modules() if isinstance(part, Bottleneck)]
    assert kinds == [IBN, IBN, IBN, nn.BatchNorm2d]


@pytest.mark.parametrize("name", ["resnet50", "narrow_ibn_a"])
def test_stem_relu_can_be_omitted(name: str) -> None:
    images = torch.randn(2, 3, 32, 16)
    plain, quirk = (build(name, seed=1, stem_relu=stem_relu) for stem_relu in (True, False))
    assert plain.state_dict().keys() == quirk.state_dict().keys()
    stem = quirk.bn1(quirk.conv1(images))
    torch.testing.assert_close(quirk(images), after_stem(quirk, stem))
    torch.testing.assert_close(plain(images), after_stem(plain, F.relu(stem)))


def after_stem(net: Backbone, stem: torch.Tensor) -> torch.Tensor:
    return net.layer4(net.layer3(net.layer2(net.layer1(net.maxpool(stem)))))


def test_initial_weights_do_not_touch_the_global_generator() -> None:
    torch.manual_seed(1)
    first = build("narrow_ibn_a", seed=5).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = build("narrow_ibn_a", seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = build("narrow_ibn_a", seed=6).state_dict()
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_initial_weights_do_not_depend_on_other_modules() -> None:
    plain, ibn = build("narrow", seed=5), build("narrow_ibn_a", seed=5)
    for name, parameter in plain.named_parameters():
        if "conv" in name or "downsample.0" in name:
            assert torch.equal(parameter, ibn.get_parameter(name)), name

    extended = build("narrow", seed=5)
    extended.extra = nn.Conv2d(3, 3, 3)
    extended._modules = dict(reversed(extended._modules.items()))
    initialise(extended, 5)
    assert all(torch.equal(parameter, extended.get_parameter(name)) for name, parameter in plain.named_parameters())


def test_layers_of_one_shape_differ() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1))
    initialise(net, 1)
    assert not torch.equal(net[0].weight, net[1].weight)


def test_where_distinguishes_branches() -> None:
    first, second = (nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))
    initialise(first, 1, "first")
    initialise(second, 1, "second")
    assert not torch.equal(first[0].weight, second[0].weight)
    assert not first[0].bias.any()
    with pytest.raises(TypeError, match=r"initial weights of 0 \(Bilinear\)"):
        initialise(nn.Sequential(nn.Bilinear(2, 3, 4)), 1)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Linear(50, 40),
        lambda: nn.Linear(50, 40, bias=False),
    ],
)
def test_linear_layers_have_the_range_of_torch(layer: Callable[[], nn.Module]) -> None:
    ours, theirs = nn.Sequential(layer()), layer()
    initialise(ours, 3)
    for name, parameter in theirs.named_parameters():
        own = ours[0].get_parameter(name)
        assert own.abs().max().item() == pytest.approx(parameter.abs().max().item(), rel=0.2)
        assert abs(own.mean().item()) < parameter.abs().max().item() / 4
    again = nn.Sequential(layer())
    initialise(again, 3)
    assert all(torch.equal(*both) for both in zip(ours.parameters(), again.parameters(), strict=True))


def test_grouped_convolutions_have_the_variance_of_torchvision() -> None:
    net = nn.Sequential(nn.Conv2d(64, 128, 3, groups=32), nn.GroupNorm(4, 128))
    initialise(net, 1)
    expected = nn.init.kaiming_normal_(torch.empty_like(net[0].weight), mode="fan_out", nonlinearity="relu").std()
    assert net[0].weight.std().item() == pytest.approx(expected.item(), rel=0.1)


def test_a_given_deviation_holds_for_all_convolutions_and_for_them_alone() -> None:
    layers = [nn.Conv2d(16, 64, 3), nn.ConvTranspose2d(64, 32, 4, 2), nn.BatchNorm2d(32), nn.Linear(50, 40)]
    net, other = nn.Sequential(*layers), nn.Sequential(*layers[:1], nn.Identity(), *layers[2:])
    initialise(net, 1, std=0.02)
    for layer in net[:2]:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert not layer.bias.any()
    linear = net[3].weight.clone()
    initialise(other, 1)
    assert torch.equal(other[3].weight, linear)
    assert torch.equal(net[2].weight, torch.ones(32))
    with pytest.raises(TypeError, match=r"initial weights of 1 \(ConvTranspose2d\)"):
        initialise(net, 1)


def test_initial_weights_have_the_variance_of_the_fan_out() -> None:
    net = build("resnet50", seed=1)
    for name, fan_out in [("conv1", 64 * 49), ("layer2.0.conv2", 128 * 9), ("layer4.2.conv3", 2048)]:
        weight = net.get_submodule(name).weight
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
        assert abs(weight.mean().item()) < 4 * (2 / fan_out / weight.numel()) ** 0.5
    assert {name for name, value in net.named_buffers() if name.endswith("running_mean") and value.any()} == set()
    assert all(
        torch.equal(value, torch.ones_like(value)) for name, value in net.named_buffers() if "running_var" in name
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_published_files_load_without_classifier_and_counters(tmp_path: Path, suffix: str) -> None:
    published = build("narrow_ibn_a", seed=9).state_dict()
    weights = {key: value.contiguous() for key, value in published.items() if "num_batches_tracked" not in key}
    weights |= {"fc.weight": torch.zeros(5, 128), "fc.bias": torch.zeros(5)}
    path = tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    loaded = build("narrow_ibn_a", seed=1, weights=path).state_dict()
    assert all(torch.equal(loaded[key], published[key]) for key in published)


def test_weights_of_another_net_raise(tmp_path: Path) -> None:
    path = tmp_path / "narrow.safetensors"
    state = {key: value.contiguous() for key, value in build("narrow", seed=1).state_dict().items()}
    save_file(state, path)
    with pytest.raises(UserError, match=r"weights of narrow_ibn_a \(18 missing, such as layer1.0.bn1.BN.bias; 15 unkn"):
        build("narrow_ibn_a", seed=1, weights=path)
    save_file(state | {"conv1.weight": torch.zeros(16, 3, 7, 7)}, path)
    with pytest.raises(UserError, match=r"\(1 of another shape, such as conv1.weight\)"):
        build("narrow", seed=1, weights=path)


@pytest.mark.parametrize("content", ["absent", "rubbish", "code", "checkpoint"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_unreadable_weights_raise(tmp_path: Path, content: str, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if content == "rubbish":
        path.write_bytes(b"rubbish" * 100)
    elif content == "code":
        path.write_bytes(pickle.dumps({"conv1.weight": Path("x")}, protocol=2))
    elif content == "checkpoint":
        torch.save({"state_dict": {}, "epoch": 3}, path)
    with pytest.raises(UserError, match=f"weights{suffix}"):
        build("narrow", seed=1, weights=path)


def test_unknown_name_raises_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=f"'resnet51'.*{', '.join(NAMES)}"):
        build("resnet51", seed=1)
