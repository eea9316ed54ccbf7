"""Train with labels on one domain: whole images and stripes of them in three branches.

Paper: Wang et al., "Learning Discriminative Features with Multiple Granularities for Person Re-Identification" (ACM MM
    2018), called MGN here; UP-ReID fine-tunes with it "in fast-reid".
Code: JDAI-CV/fast-reid (configs/Base-MGN.yml), whose losses, schedule and sizes these are, not the paper's.
Deviates:
    - The tenth of the images that fast-reid augments by AutoAugment as well is not.
    - It runs in float32; fast-reid in mixed precision.
    - The stem pools with padding, so maps lie a pixel beside fast-reid's.
    - Images are resized once, before augmentation; zero padding and cropping run on whole batches on the device.
    - Random erasing tries at most 20 rectangles per image; fast-reid's tries 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from reproduce.artifacts import Training, snapshot
from reproduce.data.transforms import Augment, Erase
from reproduce.evaluation import Trained
from reproduce.scales import Released
from reproduce.stage import Env, role

if TYPE_CHECKING:
    from torch import nn

    from methods.blocks.mgn import MGN
    from reproduce.data.images import Resample

ERASE = Erase(area=(0.02, 0.33), aspect=(0.3, 3.3), log_aspect=True, when="before")
"""torchvision's random erasing, with ImageNet's mean colour."""


@dataclass(frozen=True)
class Train(Trained):
    """Cross-entropy of circle logits on eight features, soft-margin triplet loss on five."""

    domain: Any
    """The domain to train on."""
    seed: int = 1
    """Seeds initial weights, batches and augmentation."""
    backbone: str = role("backbone", "resnet50")
    """Either "resnet50" or "resnet50_ibn_a"."""
    weights: str | Trained | Released | None = role("weights", "imagenet")
    """Initial weights of the backbone and so of all branches: published ones by name, a training that made them, or
    None for scratch."""
    stem_relu: bool = True
    """Whether the stem of the backbone ends in a ReLU."""
    last_stride: int = 1
    """Stride of the last layer of every branch; 2 for the first branch in the paper."""
    width: int = role("width", 256)
    """Length of each of the eight features."""
    input: tuple[int, int] = role("input", (384, 128))
    """Height and width in pixels."""
    resample: Resample = "bicubic"
    """How images are resized to `input`."""
    P: int = role("batch", 4)
    """Identities per batch."""
    K: int = 16
    """Images per identity."""
    epochs: int = role("epochs", 60)
    """Epochs in total, each of as many batches as the images fill."""
    delay: int = role("milestones", 30)
    """Epochs before the learning rate begins to fall along half a cosine."""
    warmup: int = role("updates of epochs", 2000)
    """Iterations over which the learning rate rises linearly from a tenth."""
    frozen: int = role("updates of epochs", 1000)
    """Iterations that train the heads alone."""
    lr: float = role("lr", 3.5e-4)
    """Highest learning rate of Adam."""
    last_lr: float = 0.002
    """Lowest learning rate, as a fraction of the highest."""
    weight_decay: float = 5e-4
    """Weight decay of Adam."""
    scale: float = 64.0
    """Scale of the circle logits."""
    margin: float = 0.35
    """Margin of the circle logits."""
    smoothing: float = 0.1
    """Label smoothing, over all classes but the label."""
    augment: Augment = Augment(erase=ERASE)
    """Augmentation of the training images."""
    bn_group: int | None = None
    """Images that share batch statistics; None for the whole batch."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""
    eval_every: int = role("period", 10)
    """Epochs between two evaluations on `domain` itself."""

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
        return 3000.0 * self.epochs

    @property
    def detail(self) -> str:
        return "MGN"

    def run(self, env: Env) -> Training:
        import torch

        from methods.blocks.losses import batch_hard_triplet, circle_logits, smoothed_cross_entropy
        from methods.blocks.mgn import METRIC
        from methods.blocks.precision import dtype_of
        from reproduce.data.sampling import generator, identity_batches
        from reproduce.data.transforms import augment
        from reproduce.evaluation import Retrieval

        data = env.open(self.domain)
        images = self.images(data, env.device)
        retrieval = Retrieval.of(self, data, env.device)
        labels, classes = torch.from_numpy(data.train_labels), len(data.train_pids)
        net = self.network(classes, env).to(env.device)
        dtype = dtype_of(self.precision)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        state = SimpleNamespace(net=net, optimizer=optimizer, best=-1.0, best_weights={})

        per_epoch = max(1, len(labels) // (self.P * self.K))
        for epoch in env.epochs(self.epochs, state):
            batches = identity_batches(
                labels.tolist(), self.P, self.K, seed=self.seed, epoch=epoch, iterations=per_epoch
            )
            losses = []
            net.train()
            for step, (batch, pixels) in enumerate(zip(batches, images.batches(batches), strict=True)):
                iteration = epoch * per_epoch + step
                if step == 0 or iteration == self.frozen:
                    net.freeze_body(iteration < self.frozen)
                rate = self.rate(epoch, step, per_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * rate
                inputs = augment(pixels, self.augment, generator(self.seed, "augment", epoch, step)).to(dtype)
                target = labels[batch].to(env.device)
                outputs = net(inputs)
                logits = [circle_logits(cosines, target, self.scale, self.margin) for cosines in outputs.cosines]
                known = [smoothed_cross_entropy(each, target, self.smoothing, "rest") for each in logits]
                joined = [torch.cat([outputs.features[number] for number in numbers], 1) for numbers in METRIC]
                metric = [batch_hard_triplet(features, target, "soft") for features in joined]
                loss = torch.stack(known).mean() + torch.stack(metric).mean()
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                losses.append(loss.detach())

            done = epoch + 1
            env.log(done, loss=torch.stack(losses), lr=self.lr * rate, images=per_epoch * self.P * self.K)
            if done % self.eval_every == 0 or done == self.epochs:
                scores = retrieval.score(net.eval())
                env.log(done, mAP=scores.mAP, rank1=scores.rank1)
                if scores.mAP > state.best:
                    state.best, state.best_weights = scores.mAP, snapshot(net)

        return Training({"last": snapshot(net), "best on source": state.best_weights}, {"classes": classes})

    def rate(self, epoch: int, step: int, per_epoch: int) -> float:
        """Compute the multiplier of the learning rate at a step of an epoch, both counted from 0."""
        from methods.blocks.schedules import cosine, epochs_since_warmup, warmup_iterations

        length = self.epochs - max(-(-self.warmup // per_epoch), self.delay)
        moved = epochs_since_warmup(epoch, per_epoch, warmup=self.warmup, delay=self.delay)
        fallen = cosine(moved / length, end=self.last_lr) if moved else 1.0
        return fallen * warmup_iterations(epoch * per_epoch + step, warmup=self.warmup)

    def network(self, classes: int, env: Env | None = None) -> MGN:
        """Build the network; without `env` it lacks its initial weights, which are restored anyway."""
        from methods.blocks.heads import body, in_precision
        from methods.blocks.mgn import MGN
        from methods.blocks.norm import group_batch_norm

        net = group_batch_norm(MGN(body(self, env), classes, self.width, seed=self.seed), self.bn_group)
        return in_precision(net, self.precision)

    def embedder(self, training: Training, at: str) -> nn.Module:
        net = self.network(training.facts["classes"])
        net.load_state_dict(training.checkpoints[at])
        return net.eval()
