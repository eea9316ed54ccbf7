"""The re-identification network: backbone, pooling, batch-normalisation neck and classifier."""

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
    """Average maps (B, C, h, w) over all positions into features (B, C)."""
    # The mean over a channels-last view has a channels-last gradient; that of `maps.mean((2, 3))` is not, and makes the
    # backward pass of the layer before forty times as slow on a CPU.
    return maps.permute(0, 2, 3, 1).flatten(1, 2).mean(1)


class Output(NamedTuple):
    """Training outputs of a network."""

    features: torch.Tensor
    """(B, D) before the neck, for metric losses."""
    embedding: torch.Tensor
    """(B, D) after the neck, compared at test time."""
    logits: torch.Tensor
    """(B, classes) of the embedding."""


Outputs = TypeVar("Outputs", bound=tuple[Any, ...])
Net = TypeVar("Net", bound="Bodied")


def together(net: Callable[[torch.Tensor], Outputs], groups: Sequence[torch.Tensor]) -> list[Outputs]:
    """Pass groups of images through a network in one batch, and return its training outputs per group.

    Args:
        net: returns a named tuple of tensors with the batch as first dimension, or of such tuples.
        groups: images (B, 3, H, W) of each group.
    """
    sizes = [len(group) for group in groups]

    def cut(output: Any) -> list[Any]:
        if isinstance(output, torch.Tensor):
            return list(torch.split(output, sizes))
        return [type(output)(*parts) for parts in zip(*map(cut, output), strict=True)]

    return cut(net(torch.cat(list(groups))))


def detached(outputs: Iterable[Outputs]) -> list[Outputs]:
    """Detach a network's outputs from the gradient."""

    def cut(output: Any) -> Any:
        return output.detach() if isinstance(output, torch.Tensor) else type(output)(*map(cut, output))

    return [cut(output) for output in outputs]


def in_views(net: Callable[[torch.Tensor], Outputs], views: Sequence[torch.Tensor]) -> list[Outputs]:
    """Pass views of images (B, 3, H, W) each through a network in one batch, and return its training outputs per view.

    The views of an image are next to each other, so that they share groups of batch normalisation.
    """

    def cut(output: Any, view: int) -> Any:
        if isinstance(output, torch.Tensor):
            return output[view :: len(views)]
        return type(output)(*(cut(part, view) for part in output))

    output = net(torch.stack(list(views), 1).flatten(0, 1))
    return [cut(output, view) for view in range(len(views))]


class Bodied(nn.Module):
    """A network with a backbone, which may run in bfloat16."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels = backbone.channels
        self.mixed = False

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the backbone's maps (B, C, h, w) of images (B, 3, H, W), before pooling."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed):
            maps: torch.Tensor = self.backbone(images)
        return maps.to(images.dtype)


class ReID(Bodied):
    """Backbone, global average pooling, neck and classifier (Luo et al., Bag of Tricks, CVPRW 2019, BNNeck).

    The neck is a batch normalisation without bias, the classifier linear without bias.

    Args:
        backbone: maps images (B, 3, H, W) to (B, channels, h, w).
        classes: outputs of the classifier.
        seed: seeds the classifier's initial weights.
        neck: False omits the neck; features and embedding are then equal.
    """

    def __init__(self, backbone: Backbone, classes: int, *, seed: int, neck: bool = True) -> None:
        super().__init__(backbone)
        self.neck: nn.Module = nn.BatchNorm1d(self.channels) if neck else nn.Identity()
        if isinstance(self.neck, nn.BatchNorm1d):
            self.neck.bias.requires_grad_(False)
        self.renew_classifier(classes, seed=seed)

    def renew_classifier(self, classes: int, *, seed: int) -> None:
        """Replace the classifier by a fresh one, N(0, 0.001); existing optimisers do not hold its weight."""
        self.classifier = classifier(self, classes, seed, "classifier.weight")

    def freeze_body(self, frozen: bool = True) -> None:
        """Freeze everything but the classifier, batch statistics included, or unfreeze it again.

        Call it after `train()`, which makes all batch statistics move.
        """
        for part in (self.backbone, self.neck):
            part.train(self.training and not frozen).requires_grad_(not frozen)
        if isinstance(self.neck, nn.BatchNorm1d):
            self.neck.bias.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> Output | torch.Tensor:
        """Map images (B, 3, H, W) to `Output` in training, to embeddings (B, D), not L2-normalised, in evaluation."""
        features = pool(self.maps(images))
        embedding = self.neck(features)
        return Output(features, embedding, self.classifier(embedding)) if self.training else embedding


def classifier(net: ReID, classes: int, seed: int, *where: str) -> nn.Linear:
    """Make a linear classifier without bias, N(0, 0.001), of a network's features; `where` names its random stream."""
    weight = 0.001 * normal((classes, net.channels), seed, "init", *where)
    head = nn.Linear(net.channels, classes, bias=False, device="meta")
    head.weight = nn.Parameter(weight.to(next(net.backbone.parameters())))
    return head


class BeforeNeck(nn.Module):
    """A network cut before its neck: images (B, 3, H, W) -> features (B, D), not L2-normalised."""

    def __init__(self, net: ReID) -> None:
        super().__init__()
        self.net, self.mixed = net, net.mixed

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pool the maps of images (B, 3, H, W)."""
        return pool(self.net.maps(images))


def body(recipe: Any, env: Env | None = None) -> Backbone:
    """Build the backbone of a training with its initial weights; arguments as for `network`."""
    weights: Path | Mapping[str, torch.Tensor] | None = None
    if env and isinstance(recipe.weights, str):
        weights = env.weights(recipe.weights)
    elif env and recipe.weights is not None:
        weights = recipe.weights.backbone_weights(env.get(recipe.weights))
    return backbones.build(
        recipe.backbone, last_stride=recipe.last_stride, stem_relu=recipe.stem_relu, seed=recipe.seed, weights=weights
    )


def network(recipe: Any, classes: int, env: Env | None = None, *, neck: bool = True) -> ReID:
    """Build the network of a training with its initial weights.

    Args:
        recipe: the stage, with the fields `backbone`, `weights` (published ones by name, a training that made them, or
            None for scratch), `stem_relu`, `last_stride`, `seed`, `bn_group` and `precision`.
        classes: outputs of the classifier.
        env: provides `weights`; None skips them, for a network whose weights are restored anyway.
        neck: whether the classifier has a neck before it.
    """
    net = ReID(body(recipe, env), classes, seed=recipe.seed, neck=neck)
    return in_precision(group_batch_norm(net, recipe.bn_group), recipe.precision)


def restored(recipe: Any, training: Training, at: str, *, neck: bool = True) -> ReID:
    """Restore the network of one moment of a training, in evaluation mode."""
    net = network(recipe, training.facts["classes"], neck=neck)
    net.load_state_dict(training.checkpoints[at])
    return net.eval()


def in_precision(net: Net, precision: str) -> Net:
    """Set the precision of a network; "mixed" runs its backbone in bfloat16 wherever torch's autocast does.

    Pooling, neck, classifier, losses and all weights stay in float32. bfloat16 has the range of float32, so losses need
    no scaling.

    Args:
        net: changed in place.
        precision: "float32", "mixed" or "float64".
    """
    net.mixed = precision == "mixed"
    return net.to(dtype_of(precision))


def continued(source: Trained, training: Training, at: str, precision: str) -> ReID:
    """Restore a network like `restored`, for a training that continued `source` with its own classes and precision."""
    weights = training.checkpoints[at]
    own = Training({at: weights}, {"classes": len(weights["classifier.weight"])})
    return in_precision(cast("ReID", source.start(own, at)), precision)


def part(weights: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Select the weights of one part of a checkpoint, under the part's own names."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
