"""Classify drawn objects: initial weights for the scales that cannot use ImageNet's.

Source: our own, in place of torchvision's ResNet-50 trained on ImageNet.
Deviates:
    - From that training in all but the loss, cross-entropy over classes. Scale paper never starts from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from reproduce.artifacts import Training, snapshot
from reproduce.data.objects import Objects
from reproduce.evaluation import Trained, embed
from reproduce.stage import Env, role
from reproduce.weights import DRAWN, file_name

if TYPE_CHECKING:
    import torch
    from torch import nn

    from methods.blocks.backbones import Backbone
    from methods.blocks.heads import ReID
    from reproduce.data.images import Images


@dataclass(frozen=True)
class Classify(Trained):
    """Train with cross-entropy over the identities of a domain; for drawn objects these are their kinds."""

    domain: Any = Objects()
    """The domain to train on."""
    seed: int = 1
    """Seeds initial weights and batches."""
    backbone: str = role("backbone", "resnet50")
    """Either "resnet50" or "resnet50_ibn_a"."""
    weights: str | Trained | None = None
    """Initial weights of the backbone; None for scratch."""
    stem_relu: bool = True
    """Whether the stem of the backbone ends in a ReLU."""
    last_stride: int = 2
    """Stride of the backbone's last layer; classifiers use 2."""
    input: tuple[int, int] = role("input", (192, 192))
    """Height and width in pixels."""
    batch: int = 128
    """Images per batch."""
    epochs: int = 8
    """Passes over the images."""
    lr: float = 3e-3
    """Peak learning rate of AdamW; the rate rises over the first three tenths of training, then falls to nearly 0."""
    weight_decay: float = 0.02
    """Weight decay of AdamW."""
    smoothing: float = 0.1
    """Label smoothing."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" or "float64"."""

    version: ClassVar[int] = 1
    bn_group: ClassVar[None] = None
    """Always None: the whole batch shares its statistics."""

    @property
    def steady(self) -> bool:
        return True

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        return ((self.batch, None),)

    @property
    def work(self) -> float:
        return 20_000.0 * self.epochs

    def run(self, env: Env) -> Training:
        import torch

        from methods.blocks.heads import network
        from methods.blocks.losses import smoothed_cross_entropy
        from methods.blocks.precision import dtype_of
        from methods.blocks.schedules import one_cycle
        from reproduce.data.images import Images
        from reproduce.data.sampling import shuffled_batches
        from reproduce.data.transforms import normalise

        data = env.open(self.domain)
        classes = {pid: label for label, pid in enumerate(data.train_pids)}
        labels = torch.from_numpy(data.train_labels)
        images = Images(data.root, data.train, self.input, env.device, resample=self.resample)
        net, dtype = network(self, len(classes), env, neck=False).to(env.device), dtype_of(self.precision)
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        state = SimpleNamespace(net=net, optimizer=optimizer)

        for epoch in env.epochs(self.epochs, state):
            batches = shuffled_batches(len(images), self.batch, seed=self.seed, epoch=epoch)
            losses = []
            net.train()
            for step, (batch, pixels) in enumerate(zip(batches, images.batches(batches), strict=True)):
                for group in optimizer.param_groups:
                    done = (epoch * len(batches) + step) / (self.epochs * len(batches))
                    group["lr"] = self.lr * one_cycle(done)
                output = net(normalise(pixels).to(dtype))
                loss = smoothed_cross_entropy(output.logits, labels[batch].to(env.device), self.smoothing)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.detach())
            env.log(epoch + 1, loss=torch.stack(losses), images=len(batches) * self.batch)

        held_out = [image for image in data.gallery if image.pid in classes]
        unseen = Images(data.root, held_out, self.input, env.device, resample=self.resample)
        expected = torch.tensor([classes[image.pid] for image in held_out])
        facts = {"classes": len(classes)} | ({"accuracy": accuracy(net, unseen, expected)} if held_out else {})
        return Training({"last": snapshot(net)}, facts)

    def embedder(self, training: Training, at: str) -> nn.Module:
        from methods.blocks.heads import restored

        return restored(self, training, at, neck=False)


def accuracy(net: ReID, images: Images, labels: torch.Tensor) -> float:
    """Compute the percentage of images whose label (N,) the classifier predicts."""
    import torch

    net.eval()
    features = embed(net, images, unit=False)
    with torch.inference_mode():
        right = net.classifier(features).argmax(1).cpu() == labels
    return 100 * int(right.sum()) / len(labels)


UNSEEN = range(100, 120)
"""Kinds of objects that no training sees: `Objects` has a hundred."""


def nearest_mean(backbone: Backbone) -> float:
    """Compute the nearest-mean accuracy of a backbone's features on kinds it was not trained on, in percent.

    For each of twenty kinds, the pooled features of ten pictures of 48 x 48 pixels are averaged; ten more pictures are
    classified by the mean of highest cosine. Guessing gives 5.
    """
    import torch
    from torch.nn.functional import normalize

    from methods.blocks.heads import pool
    from reproduce.data.objects import pictures
    from reproduce.data.transforms import normalise

    backbone.eval()
    features = []
    with torch.inference_mode():
        for kind in UNSEEN:
            pixels = torch.from_numpy(pictures(kind, 20, 48)).permute(0, 3, 1, 2)
            features.append(normalize(pool(backbone(normalise(pixels)))))
    kinds = torch.stack(features)
    means = normalize(kinds[:, :10].mean(1), dim=1)
    right = (kinds[:, 10:] @ means.T).argmax(2) == torch.arange(len(UNSEEN))[:, None]
    return 100 * int(right.sum()) / right.numel()


SHIPPED = {
    "narrow": "1aacc2be2683a0db55e9221ced36e4183a7f9855ee2181f0f955f6ec38ad5062",
    "narrow_ibn_a": "e04e8e3b8416cef394ef2f2a39c6756a3713a9497cadc31e11b2aca0f8817022",
}
"""SHA-256 of the files in `methods/weights`, by backbone; `python -m methods.weights` trained them."""


def start(backbone: str) -> tuple[Path, str] | Classify:
    """Return the stand-in for a backbone's ImageNet weights: a shipped file and its SHA-256, else a training."""
    if backbone in SHIPPED:
        return Path(__file__).with_name("weights") / file_name(backbone, DRAWN), SHIPPED[backbone]
    return Classify(backbone=backbone)
