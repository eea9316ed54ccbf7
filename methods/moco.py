"""Momentum contrast: pre-train on images without labels, as for LUPerson.

Paper: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning" (CVPR 2020); Chen et al.,
    "Improved Baselines with Momentum Contrastive Learning" (2020), called MoCo v2; Fu et al., "Unsupervised
    Pre-training for Person Re-identification" (CVPR 2021), called LUPerson.
Code: facebookresearch/moco; DengpanFu/LUPerson (lup_moco).
Deviates:
    - Keys count as negatives once they are in the queue; the published code starts with a queue of random vectors.
    - The devices of the published code are groups of batch normalisation here. The keys' groups hold other images than
      the queries', as with its shuffled BN.
    - It runs in float32; LUPerson's code in mixed precision.
    - Images are resized once, before the random crop, so the crop's aspect refers to the resized image. Values are not
      rounded between transforms.
    - The blur is an exact Gaussian up to three standard deviations; PIL's is an approximation by boxes.
    - Random erasing tries at most 20 rectangles per image; the published code tries up to 100.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from reproduce.artifacts import Training, snapshot
from reproduce.data.transforms import LUPERSON, Augment, Colour, Erase, Reframe
from reproduce.evaluation import Trained
from reproduce.stage import Env, added, role

if TYPE_CHECKING:
    from torch import nn


ERASE = Erase(area=(0.02, 0.6), fill=(0, 0, 0))
"""Half of the images lose up to six tenths, set to the mean colour."""

VIEWS = Reframe(colour=Colour(p=0.0), erase=ERASE, pixels=LUPERSON)
"""LUPerson's augmentation: no jitter, but erasing."""


@dataclass(frozen=True)
class Pretrain(Trained):
    """InfoNCE of two views of an image against a queue of keys."""

    version: ClassVar[int] = 1

    domain: Any
    """The domain to train on; its labels are not used."""
    seed: int = 1
    """Seeds initial weights, batches, augmentation and the keys' order."""
    backbone: str = role("backbone", "resnet50")
    """Either "resnet50" or "resnet50_ibn_a"."""
    weights: str | Trained | None = role("weights", None)
    """Initial weights of the backbone; None for scratch."""
    stem_relu: bool = True
    """Whether the stem of the backbone ends in a ReLU."""
    last_stride: int = 2
    """Stride of the backbone's last layer."""
    width: int = role("width", 128)
    """Length of the projections."""
    input: tuple[int, int] = role("input", (256, 128))
    """Height and width in pixels."""
    batch: int = role("images", 2560)
    """Images per batch."""
    K: int = role("queue", 65_536)
    """Keys in the queue."""
    m: float = role("momentum", 0.999)
    """Momentum of the key encoder."""
    temperature: float = 0.1
    """Divisor of the cosines; 0.2 in MoCo v2."""
    epochs: int = role("epochs", 200)
    """Passes over the images."""
    lr: float = role("rate", 0.3)
    """Highest learning rate of SGD, which falls every epoch along half a cosine towards 0; 0.03 for 256 images in MoCo
    v2."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of SGD."""
    augment: Augment = VIEWS
    """Augmentation of both views."""
    bn_group: int | None = 320
    """Images that share batch statistics; None for the whole batch. 320 is the batch on each of LUPerson's eight
    GPUs."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""
    block: int | None = added(None)
    """Consecutive images that stay near each other in the random order of a pass, so that a disk or file server reads
    them in a row (`reproduce.data.sampling.shuffled_batches`); None to shuffle all."""

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        return ((self.batch, self.bn_group),)

    @property
    def work(self) -> float:
        return 100_000.0 * self.epochs

    @property
    def detail(self) -> str:
        return "MoCo v2"

    def run(self, env: Env) -> Training:
        import torch

        from methods.blocks.moco import Queues, encoder, info_nce, shuffled
        from methods.blocks.momentum import follow
        from methods.blocks.precision import dtype_of
        from methods.blocks.schedules import cosine
        from reproduce.data.sampling import generator, in_step, shuffled_batches
        from reproduce.data.transforms import augment

        images, dtype = self.images(env.open(self.domain), env.device), dtype_of(self.precision)
        per_epoch = len(images) // self.batch
        count = self.epochs * per_epoch
        batches = shuffled_batches(len(images), self.batch, seed=self.seed, epoch=0, iterations=count, block=self.block)
        net = encoder(self, env).to(env.device).train()
        mean = deepcopy(net).requires_grad_(False)
        queues = Queues(1, self.K, self.width).to(env.device, dtype)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        losses = torch.zeros(per_epoch, dtype=dtype, device=env.device)
        state = SimpleNamespace(net=net, mean=mean, queues=queues, optimizer=optimizer, losses=losses)

        for step, pixels in in_step(env.steps(count, state), lambda first: images.batches(batches[first:])):
            epoch, at = divmod(step, per_epoch)
            lr = self.lr * cosine(epoch / self.epochs, end=0.0)
            for group in optimizer.param_groups:
                group["lr"] = lr
            first, second = (
                augment(pixels, self.augment, generator(self.seed, "augment", step, view)).to(dtype) for view in (0, 1)
            )
            queries = net(first)
            follow(mean, net, self.m)
            keys = shuffled(mean, second, self.seed, step)
            loss = info_nce(queries, keys[:, None], queues.negatives(0), self.temperature)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            queues.enqueue(keys[None])
            state.losses[at] = loss.detach()
            if at == per_epoch - 1:
                env.log(epoch + 1, loss=state.losses, lr=lr, images=2 * per_epoch * self.batch)

        return Training({"last": snapshot(net)})

    def embedder(self, training: Training, at: str) -> nn.Module:
        from methods.blocks.moco import encoder

        net = encoder(self)
        net.load_state_dict(training.checkpoints[at])
        return net.eval()
