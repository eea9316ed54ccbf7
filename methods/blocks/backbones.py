"""Backbones: ResNet-50 and its IBN-a variant under their published key names, and a narrow net of the same shape."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from methods.blocks.shares import in_shares
from reproduce.data.sampling import normal, uniform
from reproduce.errors import UserError
from reproduce.weights import COUNTER, mismatch, named_tensors

if TYPE_CHECKING:
    from pathlib import Path


class IBN(nn.Module):
    """Normalise the first half of the channels per instance and the second half per batch.

    IBN-a of Pan et al. (ECCV 2018); the instance half has an affine map and no running statistics.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.IN = nn.InstanceNorm2d(channels // 2, affine=True)
        self.BN = nn.BatchNorm2d(channels - channels // 2)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, h, w)."""
        instance, batch = torch.split(maps, [self.IN.num_features, self.BN.num_features], 1)
        # Instance normalisation returns the default layout; the layers after it are faster channels-last.
        return torch.cat([self.IN(instance), self.BN(batch)], 1).contiguous(memory_format=torch.channels_last)


class Strided(nn.Conv2d):
    """A 3x3 convolution without bias that computes maps one column wide in the precision of its weights.

    oneDNN 3.13 (torch 2.15) computes those in bfloat16 on processors with AMX from memory that it never wrote.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__(width, width, 3, stride, 1, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) to (B, C, h / stride, w / stride)."""
        if maps.shape[3] > self.stride[1]:
            return super().forward(maps)
        with torch.autocast(maps.device.type, enabled=False):
            return super().forward(maps.to(self.weight.dtype))


class Bottleneck(nn.Module):
    """Bottleneck block: 1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, width: int, outputs: int, *, stride: int = 1, ibn: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = IBN(width) if ibn else nn.BatchNorm2d(width)
        self.conv2 = Strided(width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride > 1 or inputs != outputs
            else None
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h / stride, w / stride)."""
        shortcut = maps if self.downsample is None else self.downsample(maps)
        maps = self.bn1(self.conv1(maps)).relu_()
        maps = self.bn2(self.conv2(maps)).relu_()
        maps = self.bn3(self.conv3(maps))
        return maps.add_(shortcut).relu_()


class Backbone(nn.Module):
    """A stem and four layers of bottlenecks: images (B, 3, H, W) -> maps (B, channels, h, w).

    Args:
        stem: the first convolution.
        pool: the pooling after the stem's normalisation and ReLU.
        layers: (blocks, width, outputs, stride) of each of the four layers.
        ibn: replace the first normalisation of every bottleneck in layers 1 to 3 by `IBN` (IBN-a).
        stem_relu: False omits the stem's ReLU, as the ResNet-50 of the MMT and Bag of Tricks code does.
    """

    def __init__(
        self,
        stem: nn.Conv2d,
        pool: nn.MaxPool2d,
        layers: Sequence[tuple[int, int, int, int]],
        *,
        ibn: bool,
        stem_relu: bool,
    ) -> None:
        super().__init__()
        self.conv1 = stem
        self.bn1 = nn.BatchNorm2d(stem.out_channels)
        self.relu = nn.ReLU(inplace=True) if stem_relu else nn.Identity()
        self.maxpool = pool
        self.layer1 = _layer(stem.out_channels, *layers[0], ibn=ibn)
        self.layer2 = _layer(layers[0][2], *layers[1], ibn=ibn)
        self.layer3 = _layer(layers[1][2], *layers[2], ibn=ibn)
        self.layer4 = _layer(layers[2][2], *layers[3], ibn=False)
        self.channels = layers[3][2]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to (B, channels, h, w); ranks of a stage share them."""
        return in_shares(self, self._maps, images)[0]

    def _maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return [self.layer4(self.layer3(self.layer2(self.layer1(maps))))]


def _layer(inputs: int, blocks: int, width: int, outputs: int, stride: int, *, ibn: bool) -> nn.Sequential:
    first = Bottleneck(inputs, width, outputs, stride=stride, ibn=ibn)
    return nn.Sequential(first, *(Bottleneck(outputs, width, outputs, ibn=ibn) for _ in range(1, blocks)))


class ResNet50(Backbone):
    """ResNet-50 without its classifier, under the key names of torchvision and, with IBN-a, of IBN-Net.

    256 x 128 images give maps of 2048 x 16 x 8 with `last_stride` 1.
    """

    def __init__(self, *, last_stride: int = 1, ibn: bool = False, stem_relu: bool = True) -> None:
        super().__init__(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.MaxPool2d(3, 2, 1),
            ((3, 64, 256, 1), (4, 128, 512, 2), (6, 256, 1024, 2), (3, 512, 2048, last_stride)),
            ibn=ibn,
            stem_relu=stem_relu,
        )


class Narrow(Backbone):
    """A net of 0.1 M parameters that a CPU can train, for images of a quarter of the usual height and width.

    Its layers and IBN-a variant mirror `ResNet50`; 64 x 32 images give maps of 128 x 16 x 8 with `last_stride` 1.
    """

    def __init__(self, *, last_stride: int = 1, ibn: bool = False, stem_relu: bool = True) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 5, 2, 2, bias=False),
            nn.MaxPool2d(2),
            ((1, 16, 32, 1), (1, 24, 48, 1), (1, 32, 64, 1), (1, 64, 128, last_stride)),
            ibn=ibn,
            stem_relu=stem_relu,
        )


NAMES = ("resnet50", "resnet50_ibn_a", "narrow", "narrow_ibn_a")

GAN_STD = 0.02
"""Standard deviation of the initial weights of generators, decoders and discriminators: DCGAN's (Radford et al., ICLR
2016), CycleGAN's and AlignGAN's."""


def build(
    name: str,
    *,
    seed: int,
    last_stride: int = 1,
    stem_relu: bool | None = True,
    weights: Path | Mapping[str, torch.Tensor] | None = None,
) -> Backbone:
    """Build a backbone with channels-last weights, from scratch or from published weights.

    Args:
        name: one of `NAMES`.
        seed: seeds the initial weights.
        last_stride: stride of layer 4.
        stem_relu: see `Backbone`; None as in the MMT and Bag of Tricks code, where only the IBN-a variant has the ReLU.
        weights: every weight under torchvision's or IBN-Net's names, or a .safetensors file, or a .pth file of nothing
            but tensors, that holds them; a classifier (`fc.`) is ignored.

    Raises:
        UserError: the name is unknown, or the file cannot be read or belongs to another net.
    """
    if name not in NAMES:
        raise UserError(f"no backbone is called {name!r}: choose one of {', '.join(NAMES)}")
    kind = ResNet50 if name.startswith("resnet50") else Narrow
    ibn = name.endswith("_ibn_a")
    with torch.device("meta"):
        net = kind(last_stride=last_stride, ibn=ibn, stem_relu=ibn if stem_relu is None else stem_relu)
    net.to_empty(device="cpu")
    initialise(net, seed)
    if weights is not None:
        _load(net, name, weights)
    return net.to(memory_format=torch.channels_last)


def initialise(module: nn.Module, seed: int, *where: str, std: float | None = None) -> None:
    """Set the initial weights of a network of convolutions, linear layers and normalisations.

    Every parameter has its own random stream, named after it, so neither the order of construction nor another module
    changes it. Convolutions, grouped ones too: normal, variance 2 / fan out (He et al., ICCV 2015, as torchvision's
    ResNet); their biases 0. Linear layers: weights and biases uniform within the root of 1 / fan in, torch's default.
    Normalisations: 1, 0, and fresh running statistics.

    Args:
        module: changed in place.
        seed: seeds the weights.
        where: distinguishes modules whose parameters have the same names, such as branches.
        std: standard deviation of the weights of all convolutions; transposed ones have no other.

    Raises:
        TypeError: a layer of another kind holds parameters.
    """
    convolutions = (nn.Conv2d,) if std is None else (nn.Conv2d, nn.ConvTranspose2d)
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            reach = part.weight[0].numel() ** -0.5
            for own, parameter in part.named_parameters(recurse=False):
                drawn = uniform(parameter.shape, seed, "init", *where, f"{name}.{own}")
                parameter.data = (reach * (2 * drawn - 1)).to(parameter)
        elif isinstance(part, convolutions):
            he = math.sqrt(2 / (part.out_channels * math.prod(part.kernel_size)))
            with torch.no_grad():
                drawn = normal(part.weight.shape, seed, "init", *where, f"{name}.weight")
                part.weight.copy_((he if std is None else std) * drawn)
                if part.bias is not None:
                    part.bias.zero_()
        elif isinstance(part, (_BatchNorm, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm)):
            part.reset_parameters()
        elif any(True for _ in part.parameters(recurse=False)):
            raise TypeError(f"initial weights of {name} ({type(part).__name__}) are not defined")


def _load(net: nn.Module, name: str, weights: Path | Mapping[str, torch.Tensor]) -> None:
    named = weights if isinstance(weights, Mapping) else named_tensors(weights)
    given = {key: value for key, value in named.items() if not key.startswith("fc.")}
    wanted = net.state_dict()
    counters = {key: value for key, value in wanted.items() if key.endswith(COUNTER)}
    given = counters | given  # files older than the counters lack them
    if wrong := mismatch(given, wanted):
        where = "the training to start from" if isinstance(weights, Mapping) else str(weights)
        raise UserError(
            f"{where} does not hold the weights of {name} ({wrong}): give the file published for this net, "
            "convert other people's weights with `reproduce data weights`, or start from a training of this backbone"
        )
    net.load_state_dict(given)
