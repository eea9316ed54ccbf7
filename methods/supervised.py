"""Train with labels on one domain: the source model of every method, and the supervised upper bound.

Paper: Luo et al., "A Strong Baseline and Batch Normalization Neck for Deep Person Re-identification" (TMM 2020), called
    BoT here; MSPLR section 3.6.1 trains with it.
Code: michuanhaohao/reid-strong-baseline; with `by_iteration`, BOT as JDAI-CV/fast-reid trains it.
Deviates:
    - The stem has a ReLU; the plain ResNet-50 of the published code has none (`stem_relu=False` matches it).
    - Images are resized once, before augmentation; zero padding and cropping run on whole batches on the device.
    - Random erasing tries at most 20 rectangles per image; the published code tries up to 100, fast-reid's 10.
    - The recipe of fast-reid runs in float32 instead of mixed precision, and pools after the stem with padding, so its
      maps lie a pixel beside fast-reid's.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from reproduce.artifacts import Training, snapshot
from reproduce.data.transforms import Augment, Erase
from reproduce.evaluation import Trained
from reproduce.scales import Released
from reproduce.stage import Env, added, role

if TYPE_CHECKING:
    from torch import nn

    from reproduce.data.images import Resample


@dataclass(frozen=True)
class ByIteration:
    """Count epochs and warm-up in iterations, as fast-reid does.

    An epoch has as many batches as the images fill, whatever the batches hold, and milestones are counted from the end
    of the epoch before the one in which the warm-up ends (`methods.blocks.schedules.epochs_since_warmup`).
    """

    warmup: int = role("updates of epochs", 2000)
    """Iterations over which the learning rate first rises linearly; replaces the field of the training."""
    factor: float = 0.1
    """Multiplier of the learning rate in the first iteration."""


@dataclass(frozen=True)
class Train(Trained):
    """Cross-entropy, batch-hard triplet and centre loss on P x K batches of labelled images."""

    version: ClassVar[int] = 2

    domain: Any
    """The domain to train on."""
    seed: int = 1
    """Seeds initial weights, batches and augmentation."""
    backbone: str = role("backbone", "resnet50")
    """Either "resnet50" or "resnet50_ibn_a"."""
    weights: str | Trained | Released | None = role("weights", "imagenet")
    """Initial weights of the backbone: published ones by name, a training that made them, or None for scratch."""
    stem_relu: bool = True
    """Whether the stem of the backbone ends in a ReLU."""
    last_stride: int = 1
    """Stride of the backbone's last layer."""
    input: tuple[int, int] = role("input", (256, 128))
    """Height and width in pixels."""
    resample: Resample = added("bicubic", "bilinear")
    """How images are resized to `input`."""
    P: int = role("batch", 16)
    """Identities per batch."""
    K: int = 4
    """Images per identity."""
    epochs: int = role("epochs", 120)
    """Epochs in total."""
    milestones: tuple[int, ...] = role("milestones", (40, 70))
    """Epochs, counted from 1, from which the learning rate is multiplied by 0.1."""
    warmup: int = role("milestones", 10)
    """Epochs over which the learning rate first rises linearly."""
    lr: float = role("lr", 3.5e-4)
    """Learning rate of Adam."""
    weight_decay: float = 5e-4
    """Weight decay of Adam."""
    smoothing: float = 0.1
    """Label smoothing."""
    margin: float = 0.3
    """Margin of the triplet loss, on features before the neck."""
    centre_weight: float = 5e-4
    """Weight of the centre loss, on features before the neck."""
    centre_lr: float = 0.5
    """Learning rate of the centres."""
    augment: Augment = Augment(erase=Erase())
    """Augmentation of the training images."""
    bn_group: int | None = None
    """Images that share batch statistics; None for the whole batch."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""
    eval_every: int = role("period", 10)
    """Epochs between two evaluations on `domain` itself."""
    by_iteration: ByIteration | None = added(None)
    """How fast-reid counts epochs and warm-up; None for an epoch of one pass over the identities."""
    smoothed_over: Literal["all", "rest"] = added("all")
    """Classes that label smoothing spreads over; fast-reid spares the label itself ("rest")."""
    classifier_std: float = added(0.001)
    """Standard deviation of the classifier's initial weights; 0.01 in fast-reid."""

    @property
    def steady(self) -> bool:
        return True

    @property
    def labelled(self) -> Any:
        return self.domain

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        return ((self.P * self.K, self.bn_group),)

    @property
    def work(self) -> float:
        return 1000.0 * self.epochs

    @property
    def detail(self) -> str:
        return "by iteration" if self.by_iteration else ""

    def run(self, env: Env) -> Training:
        import torch

        from methods.blocks.heads import network
        from methods.blocks.losses import CentreLoss, batch_hard_triplet, smoothed_cross_entropy
        from methods.blocks.precision import dtype_of
        from reproduce.data.images import Images
        from reproduce.data.sampling import generator, identity_batches
        from reproduce.data.transforms import augment
        from reproduce.evaluation import Retrieval

        data = env.open(self.domain)
        images = Images(data.root, data.train, self.input, env.device, resample=self.resample)
        retrieval = Retrieval.of(self, data, env.device)
        labels, classes = torch.from_numpy(data.train_labels), len(data.train_pids)

        dtype = dtype_of(self.precision)
        net = network(self, classes, env).to(env.device)
        with torch.no_grad():
            net.classifier.weight.mul_(self.classifier_std / 0.001)
        centres = CentreLoss(classes, net.channels, seed=self.seed).to(env.device, dtype)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        state = SimpleNamespace(net=net, centres=centres, optimizer=optimizer, best=-1.0, best_weights={})

        per_epoch = max(1, len(labels) // (self.P * self.K)) if self.by_iteration else None
        for epoch in env.epochs(self.epochs, state):
            batches = identity_batches(
                labels.tolist(), self.P, self.K, seed=self.seed, epoch=epoch, iterations=per_epoch
            )
            losses = []
            net.train()
            for step, (batch, pixels) in enumerate(zip(batches, images.batches(batches), strict=True)):
                rate = self.rate(epoch, step, len(batches))
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * rate
                inputs = augment(pixels, self.augment, generator(self.seed, "augment", epoch, step)).to(dtype)
                target = labels[batch].to(env.device)
                features, _, logits = net(inputs)
                loss = (
                    smoothed_cross_entropy(logits, target, self.smoothing, self.smoothed_over)
                    + batch_hard_triplet(features, target, self.margin)
                    + self.centre_weight * centres(features, target)
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                centres.step(features.detach(), target, self.centre_lr)
                losses.append(loss.detach())

            done = epoch + 1
            env.log(done, loss=torch.stack(losses), lr=self.lr * rate, images=len(batches) * self.P * self.K)
            if done % self.eval_every == 0 or done == self.epochs:
                scores = retrieval.score(net.eval())
                env.log(done, mAP=scores.mAP, rank1=scores.rank1)
                if scores.mAP > state.best:
                    state.best, state.best_weights = scores.mAP, snapshot(net)

        return Training({"last": snapshot(net), "best on source": state.best_weights}, {"classes": classes})

    def rate(self, epoch: int, step: int, per_epoch: int) -> float:
        """Compute the multiplier of the learning rate at a step of an epoch, both counted from 0."""
        from methods.blocks.schedules import epochs_since_warmup, warmup_iterations, warmup_steps

        if self.by_iteration is None:
            return warmup_steps(epoch + 1, warmup=self.warmup, milestones=self.milestones)
        counting = self.by_iteration
        moved = epochs_since_warmup(epoch, per_epoch, warmup=counting.warmup)
        rise = warmup_iterations(epoch * per_epoch + step, warmup=counting.warmup, factor=counting.factor)
        return rise * warmup_steps(moved, warmup=0, milestones=self.milestones)

    def embedder(self, training: Training, at: str) -> nn.Module:
        from methods.blocks.heads import restored

        return restored(self, training, at)
