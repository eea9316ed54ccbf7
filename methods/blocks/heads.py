"""The re-identification network: a backbone, pooling, a batch-normalisation neck and a classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from torch import nn

from methods.blocks import backbones
from methods.blocks.norm import group_batch_norm
from methods.blocks.precision import dtype_of
from reproduce.artifacts import Training
from reproduce.data.sampling import normal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from methods.blocks.backbones import Backbone
    from reproduce.evaluation import Trained
    from reproduce.stage import Env


def pool(maps: torch.Tensor) -> torch.Tensor:
    """Global average pooling: maps (B, C, h, w) -> features (B, C)."""
    # The mean over a channels-last view has a channels-last gradient; `maps.mean((2, 3))` has not, and the layer before
    # then takes forty times as long in its backward pass on a CPU.
    return maps.permute(0, 2, 3, 1).flatten(1, 2).mean(1)


class Output(NamedTuple):
    """What a network gives in training."""

    features: torch.Tensor
    """(B, D) before the neck: for metric losses."""
    embedding: torch.Tensor
    """(B, D) after the neck: compared at test."""
    logits: torch.Tensor
    """(B, classes) of the embedding."""


Outputs = TypeVar("Outputs", bound=tuple[Any, ...])


def together(net: Callable[[torch.Tensor], Outputs], groups: Sequence[torch.Tensor]) -> list[Outputs]:
    """Pass groups of images through a network in one batch; what it gives in training for each group.

    Args:
        net: gives a named tuple of tensors whose first dimension is the batch's, or of such tuples.
        groups: images (B, 3, H, W) each.
    """
    sizes = [len(group) for group in groups]

    def cut(output: Any) -> list[Any]:
        if isinstance(output, torch.Tensor):
            return list(torch.split(output, sizes))
        return [type(output)(*parts) for parts in zip(*map(cut, output), strict=True)]

    return cut(net(torch.cat(list(groups))))


def detached(outputs: Iterable[Outputs]) -> list[Outputs]:
    """What a network gave, without gradient."""

    def cut(output: Any) -> Any:
        return output.detach() if isinstance(output, torch.Tensor) else type(output)(*map(cut, output))

    return [cut(output) for output in outputs]


class ReID(nn.Module):
    """Backbone, global average pooling, neck and classifier (Luo et al., Bag of Tricks, CVPRW 2019, BNNeck).

    The neck is a batch normalisation without bias, the classifier linear without bias.

    Args:
        backbone: maps images (B, 3, H, W) to (B, channels, h, w).
        classes: outputs of the classifier.
        seed: of the classifier's initial weights.
        neck: False leaves the neck out; features and embedding are then the same.
    """

    def __init__(self, backbone: Backbone, classes: int, *, seed: int, neck: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.mixed = False
        self.channels = backbone.channels
        self.neck = nn.BatchNorm1d(self.channels) if neck else nn.Identity()
        if isinstance(self.neck, nn.BatchNorm1d):
            self.neck.bias.requires_grad_(False)
        self.renew_classifier(classes, seed=seed)

    def renew_classifier(self, classes: int, *, seed: int) -> None:
        """Put a fresh classifier, N(0, 0.001), in place of the old one; optimisers made before do not know it."""
        weight = 0.001 * normal((classes, self.channels), seed, "init", "classifier.weight")
        self.classifier = nn.Linear(self.channels, classes, bias=False, device="meta")
        self.classifier.weight = nn.Parameter(weight.to(next(self.backbone.parameters())))

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """What the backbone makes of images (B, 3, H, W): (B, C, h, w), before pooling."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed):
            maps: torch.Tensor = self.backbone(images)
        return maps.to(images.dtype)

    def freeze_body(self, frozen: bool = True) -> None:
        """Let the classifier alone learn, the rest keeping its batch statistics, or let everything learn again.

        To be called after `train()`, which wakes all batch statistics.
        """
        for part in (self.backbone, self.neck):
            part.train(self.training and not frozen).requires_grad_(not frozen)
        if isinstance(self.neck, nn.BatchNorm1d):
            self.neck.bias.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> Output | torch.Tensor:
        """Images (B, 3, H, W) -> `Output` in training, the embedding (B, D), not L2-normalised, in evaluation."""
        features = pool(self.maps(images))
        embedding = self.neck(features)
        return Output(features, embedding, self.classifier(embedding)) if self.training else embedding


class BeforeNeck(nn.Module):
    """A network's features before its neck, not L2-normalised: images (B, 3, H, W) -> (B, D)."""

    def __init__(self, net: ReID) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pool the maps of (B, 3, H, W)."""
        return pool(self.net.maps(images))


def network(recipe: Any, classes: int, env: Env | None = None, *, neck: bool = True) -> ReID:
    """The network of a training with its initial weights.

    Args:
        recipe: the stage, with the fields `backbone`, `weights` (published ones by name, a training that made them, or
            None for scratch), `stem_relu`, `last_stride`, `seed`, `bn_group` and `precision`.
        classes: outputs of the classifier.
        env: knows the weights; None to do without, where a training is put back anyway.
        neck: whether there is one before the classifier.
    """
    weights: Path | Mapping[str, torch.Tensor] | None = None
    if env and isinstance(recipe.weights, str):
        weights = env.weights(recipe.weights)
    elif env and recipe.weights is not None:
        weights = recipe.weights.backbone_weights(env.get(recipe.weights))
    backbone = backbones.build(
        recipe.backbone, last_stride=recipe.last_stride, stem_relu=recipe.stem_relu, seed=recipe.seed, weights=weights
    )
    net = ReID(backbone, classes, seed=recipe.seed, neck=neck)
    return in_precision(group_batch_norm(net, recipe.bn_group), recipe.precision)


def restored(recipe: Any, training: Training, at: str, *, neck: bool = True) -> ReID:
    """The network of one moment of a training in evaluation mode."""
    net = network(recipe, training.facts["classes"], neck=neck)
    net.load_state_dict(training.checkpoints[at])
    return net.eval()


def in_precision(net: ReID, precision: str) -> ReID:
    """Let a network compute in a precision; "mixed" runs its backbone in bfloat16 wherever torch's autocast does.

    Pooling, neck, classifier and losses stay in float32, and so do all weights. bfloat16 has the range of float32, so
    no loss is scaled.

    Args:
        net: changed in place.
        precision: "float32", "mixed" or "float64".
    """
    net.mixed = precision == "mixed"
    return net.to(dtype_of(precision))


def continued(source: Trained, training: Training, at: str, precision: str) -> ReID:
    """As `restored`, of a training that went on from the network of `source` with other classes and precision."""
    weights = training.checkpoints[at]
    own = Training({at: weights}, {"classes": len(weights["classifier.weight"])})
    return in_precision(cast("ReID", source.start(own, at)), precision)
