"""Supervised training on one domain: the source model of every method, and the upper bound beside it.

Paper: Luo et al., "A Strong Baseline and Batch Normalization Neck for Deep Person Re-identification" (TMM 2020), called
    BoT here; MSPLR section 3.6.1 trains with it.
Code: michuanhaohao/reid-strong-baseline.
Deviates:
    - The stem has its ReLU; the published code of the plain ResNet-50 has none (`stem_relu=False` gives that).
    - Images are resized once, before augmentation, and cropped from zero padding as whole batches on the device.
    - Random erasing draws at most 20 rectangles for an image, the published code at most 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from reproduce.artifacts import Training, snapshot
from reproduce.data.transforms import Augment, Erase
from reproduce.evaluation import Trained
from reproduce.stage import Env, added, role

if TYPE_CHECKING:
    from torch import nn

    from reproduce.data.images import Resample


@dataclass(frozen=True)
class Train(Trained):
    """Cross-entropy, batch-hard triplet and centre loss on P x K batches of labelled images.

    Attributes:
        domain: what to train on.
        seed: of initial weights, batches and augmentation.
        backbone: "resnet50" or "resnet50_ibn_a".
        weights: what the backbone starts from: published weights by name, a training that made some, None for scratch.
        stem_relu: whether the stem of the backbone ends in a ReLU.
        last_stride: stride of the backbone's last layer.
        input: height and width in pixels.
        resample: how images are brought to that size.
        P, K: identities in a batch, images of each.
        epochs, milestones, warmup: learning rate times 0.1 from each milestone on (epochs count from 1), after a linear
            rise to epoch `warmup`.
        lr, weight_decay: of Adam.
        smoothing: of the labels.
        margin: of the triplet loss, on features before the neck.
        centre_weight, centre_lr: of the centre loss, on the same features.
        augment: of the training images.
        bn_group: images that share batch statistics; None for the whole batch.
        precision: "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons.
        eval_every: epochs between two evaluations on the domain itself.
    """

    version: ClassVar[int] = 2

    domain: Any
    seed: int = 1
    backbone: str = role("backbone", "resnet50")
    weights: str | Trained | None = role("weights", "imagenet")
    stem_relu: bool = True
    last_stride: int = 1
    input: tuple[int, int] = role("input", (256, 128))
    resample: Resample = added("bicubic", "bilinear")
    P: int = role("batch", 16)
    K: int = 4
    epochs: int = role("epochs", 120)
    milestones: tuple[int, ...] = role("milestones", (40, 70))
    warmup: int = role("milestones", 10)
    lr: float = role("lr", 3.5e-4)
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    margin: float = 0.3
    centre_weight: float = 5e-4
    centre_lr: float = 0.5
    augment: Augment = Augment(erase=Erase())
    bn_group: int | None = None
    precision: str = role("precision", "float32")
    eval_every: int = role("period", 10)

    @property
    def steady(self) -> bool:
        return True

    @property
    def labelled(self) -> Any:
        return self.domain

    @property
    def work(self) -> float:
        return 1000.0 * self.epochs

    def run(self, env: Env) -> Training:
        import torch

        from methods.blocks.heads import network
        from methods.blocks.losses import CentreLoss, batch_hard_triplet, smoothed_cross_entropy
        from methods.blocks.precision import dtype_of
        from methods.blocks.schedules import warmup_steps
        from reproduce.data.images import Images
        from reproduce.data.sampling import generator, identity_batches
        from reproduce.data.transforms import augment
        from reproduce.evaluation import Retrieval

        data = env.open(self.domain)
        images = Images(data.root, data.train, self.input, env.device, resample=self.resample)
        retrieval = Retrieval.of(self, data, env.device)
        classes = {pid: label for label, pid in enumerate(data.train_pids)}
        labels = torch.tensor([classes[image.pid] for image in data.train])

        dtype = dtype_of(self.precision)
        net = network(self, len(classes), env).to(env.device)
        centres = CentreLoss(len(classes), net.channels, seed=self.seed).to(env.device, dtype)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        state = SimpleNamespace(net=net, centres=centres, optimizer=optimizer, best=-1.0, best_weights={})

        for epoch in env.epochs(self.epochs, state):
            rate = warmup_steps(epoch + 1, warmup=self.warmup, milestones=self.milestones)
            for group in optimizer.param_groups:
                group["lr"] = self.lr * rate
            batches = identity_batches(labels.tolist(), self.P, self.K, seed=self.seed, epoch=epoch)
            losses = []
            net.train()
            for step, (batch, pixels) in enumerate(zip(batches, images.batches(batches), strict=True)):
                inputs = augment(pixels, self.augment, generator(self.seed, "augment", epoch, step)).to(dtype)
                target = labels[batch].to(env.device)
                features, _, logits = net(inputs)
                loss = (
                    smoothed_cross_entropy(logits, target, self.smoothing)
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

        return Training({"last": snapshot(net), "best on source": state.best_weights}, {"classes": len(classes)})

    def embedder(self, training: Training, at: str) -> nn.Module:
        from methods.blocks.heads import restored

        return restored(self, training, at)
