"""UP-ReID: momentum contrast of whole images and of patches, and consistency with the original images.

Paper: Yang et al., "Unleashing Potential of Unsupervised Pre-Training with Intra-Identity Regularization for Person
    Re-Identification" (CVPR 2022), called UP-ReID here.
Code: none was released.
Deviates:
    - The key encoder keeps 0.999 of itself, as in MoCo and LUPerson; the paper prints 0.9, which may be SGD's momentum
      (`m=0.9` is as printed).
    - The paper names no kernel. The consistency loss is the squared MMD of the rows of both matrices, with five
      Gaussian kernels; the root in its equation 4 has no bounded gradient near 0. `distance` has two alternatives.
    - Similarity matrices are over the images that share a device, here a group of batch normalisation; the paper does
      not say.
    - Weight decay, SGD's momentum, 200 epochs, cosine schedule, projections of 128 and random initial weights are
      LUPerson's; the paper names none of them.
    - Views, patches and original images pass in separate batches, and all move the running statistics. Patches keep
      their size; only if stripes are uneven (M = 12) are they resized to the largest.
    - Keys count as negatives once they are in their queue; what else deviates in MoCo v2 (`methods/moco.py`) does here.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from reproduce.artifacts import Training, snapshot
from reproduce.data.transforms import LUPERSON, Augment, Colour, Erase, Reframe
from reproduce.evaluation import Trained
from reproduce.stage import Env, added, role

if TYPE_CHECKING:
    from torch import nn

    from methods.blocks.upreid import Distance

VIEWS = Reframe(colour=Colour(p=0.0), erase=Erase(area=(0.02, 0.6), fill=(0, 0, 0)), pixels=LUPERSON)
"""LUPerson's augmentation."""


@dataclass(frozen=True)
class Pretrain(Trained):
    """InfoNCE of images and of their patches, and MMD between similarities of views and of original images."""

    domain: Any
    """The domain to train on; its labels are not used."""
    M: int = 8
    """Patches per view, two in each horizontal stripe."""
    lambda_g: float = 0.8
    """Weight of the loss of whole images."""
    lambda_p: float = 0.2
    """Weight of the loss of patches; 0 leaves the intrinsic contrastive constraint (ICC) out."""
    mirrored: bool = True
    """Whether a patch has its mirrored place as another positive (hard mining, HM)."""
    consistent: bool = True
    """Whether there is a consistency loss (CC)."""
    distance: Distance = "gaussian"
    """Distance of the similarity matrices."""
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
    batch: int = role("images", 800)
    """Images per batch."""
    N: int = role("queue", 65_536)
    """Keys in each of the 1 + M queues."""
    m: float = role("momentum", 0.999)
    """Momentum of the key encoder; 0.9 as printed."""
    temperature: float = 0.1
    """Divisor of the cosines, tau_1 and tau_2."""
    epochs: int = role("epochs", 200)
    """Passes over the images."""
    lr: float = role("rate", 0.1)
    """Highest learning rate of SGD, which falls every epoch along half a cosine towards 0."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of SGD."""
    augment: Augment = VIEWS
    """Augmentation of both views."""
    bn_group: int | None = 100
    """Images that share batch statistics and similarity matrices; None for the whole batch. 100 is the batch on each of
    the eight GPUs."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""
    block: int | None = added(None)
    """Consecutive images that stay near each other in the random order of a pass, so that a disk or file server reads
    them in a row (`reproduce.data.sampling.shuffled_batches`); None to shuffle all."""

    def __post_init__(self) -> None:
        """Reject a number of patches that makes no pairs."""
        if self.M < 2 or self.M % 2:
            raise ValueError(f"M = {self.M} patches: give an even number, two for each stripe")

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        return ((self.batch, self.bn_group),)

    @property
    def work(self) -> float:
        return 100_000.0 * self.epochs * (1 + bool(self.lambda_p) + self.consistent)

    @property
    def detail(self) -> str:
        words = {f"M = {self.M}": self.lambda_p and self.M != 8, "no HM": self.lambda_p and not self.mirrored}
        words |= {"no CC": not self.consistent, "no ICC": not self.lambda_p}
        return ", ".join(["UP-ReID", *(word for word, holds in words.items() if holds)])

    def run(self, env: Env) -> Training:
        import torch

        from methods.blocks.moco import Queues, encoder, info_nce, shuffled
        from methods.blocks.momentum import follow
        from methods.blocks.precision import dtype_of
        from methods.blocks.schedules import cosine
        from methods.blocks.upreid import consistency, encode_patches, patch_loss
        from reproduce.data.sampling import generator, in_step, shuffled_batches
        from reproduce.data.transforms import augment, normalise

        images, dtype = self.images(env.open(self.domain), env.device), dtype_of(self.precision)
        per_epoch = len(images) // self.batch
        count = self.epochs * per_epoch
        batches = shuffled_batches(len(images), self.batch, seed=self.seed, epoch=0, iterations=count, block=self.block)
        net = encoder(self, env).to(env.device).train()
        mean = deepcopy(net).requires_grad_(False)
        patches = self.M if self.lambda_p else 0
        queues = Queues(1 + patches, self.N, self.width).to(env.device, dtype)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        passes = 2 * (1 + bool(patches) + self.consistent)
        losses = torch.zeros(4, per_epoch, dtype=dtype, device=env.device)
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
            new = [keys[:, None]]
            whole = info_nce(queries, keys[:, None], queues.negatives(0), self.temperature)
            local = consist = torch.zeros_like(whole)
            if patches:
                parts = encode_patches(net, first, self.M)
                new.append(shuffled(lambda views: encode_patches(mean, views, self.M), second, self.seed, step))
                local = patch_loss(parts, new[1], queues, self.temperature, mirrored=self.mirrored)
            if self.consistent:
                plain = normalise(pixels, self.pixels).to(dtype)
                with torch.no_grad():
                    originals = net(plain)
                plain_keys = shuffled(mean, plain, self.seed, step)
                consist = consistency(queries, keys, originals, plain_keys, self.bn_group, self.distance)
            loss = self.lambda_g * whole + self.lambda_p * local + consist
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            queues.enqueue(torch.cat(new, 1).transpose(0, 1))
            state.losses[:, at] = torch.stack([loss, whole, local, consist]).detach()
            if at == per_epoch - 1:
                means = dict(zip(("loss", "global", "patches", "consistency"), state.losses, strict=True))
                env.log(epoch + 1, **means, lr=lr, images=passes * per_epoch * self.batch)

        return Training({"last": snapshot(net)})

    def embedder(self, training: Training, at: str) -> nn.Module:
        from methods.blocks.moco import encoder

        net = encoder(self)
        net.load_state_dict(training.checkpoints[at])
        return net.eval()
