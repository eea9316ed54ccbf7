"""Train with labels on one domain, dropping the same stripe from a whole group of feature maps.

Paper: Dai et al., "Batch DropBlock Network for Person Re-identification and Beyond" (ICCV 2019), called BDB here;
    UP-ReID fine-tunes with it.
Code: daizuozhuo/batch-dropblock-network.
Deviates:
    - The extra bottleneck starts from He's normal initialisation, like a ResNet; the published code has torch's uniform
      default.
    - The last network is tested. The published code keeps the one with the best rank-1 on the test images, which is
      "best on source" here.
    - With fewer identities than a batch takes, it takes as many as fill whole normalisation groups. Only small
      stand-ins have so few.
    - The mAP averages the precision over all matches; the published code cuts rankings at 50, so its mAP is lower.
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

    from methods.blocks.bdb import BDB
    from reproduce.data.images import Resample

CUTOUT = Erase(area=(1 / 12, 1 / 12), aspect=(1, 1), fill=(0, 0, 0))
"""64 x 64 of 384 x 128 pixels, set to 0 after normalisation."""


@dataclass(frozen=True)
class Train(Trained):
    """Cross-entropy and soft-margin triplet loss on a global feature and on one with a stripe dropped."""

    domain: Any
    """The domain to train on."""
    seed: int = 1
    """Seeds initial weights, batches, augmentation and dropped stripes."""
    backbone: str = role("backbone", "resnet50")
    """Either "resnet50" or "resnet50_ibn_a"."""
    weights: str | Trained | Released | None = role("weights", "imagenet")
    """Initial weights of the backbone: published ones by name, a training that made them, or None for scratch."""
    stem_relu: bool = True
    """Whether the stem of the backbone ends in a ReLU."""
    last_stride: int = 1
    """Stride of the backbone's last layer."""
    widths: tuple[int, int] = role("width", (512, 1024))
    """Lengths of the features of the global branch and the drop branch."""
    dropped: float = 0.33
    """Height of the dropped stripe, a fraction of the maps'; it has their full width."""
    input: tuple[int, int] = role("input", (384, 128))
    """Height and width in pixels."""
    resample: Resample = "bilinear"
    """How images are resized to `input`."""
    P: int = role("batch", 32)
    """Identities per batch."""
    K: int = 4
    """Images per identity."""
    epochs: int = role("epochs", 400)
    """Epochs in total, each of which draws every identity once."""
    warmup: int = role("milestones", 50)
    """Epochs over which the learning rate rises in ten equal steps."""
    milestones: tuple[int, ...] = role("milestones", (200, 300))
    """Epochs, counted from 1, from which the learning rate is multiplied by 0.1."""
    lr: float = role("lr", 1e-3)
    """Highest learning rate of Adam."""
    weight_decay: float = 5e-4
    """Weight decay of Adam."""
    smoothing: float = 0.1
    """Label smoothing."""
    augment: Augment = Augment(pad=0, erase=CUTOUT)
    """Augmentation of the training images."""
    bn_group: int | None = 32
    """Images that share batch statistics and a dropped stripe; None for the whole batch. 32 is the batch on each of the
    published code's four GPUs."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""
    eval_every: int = role("period", 30)
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
        return 1000.0 * self.epochs

    @property
    def detail(self) -> str:
        return "BDB"

    def run(self, env: Env) -> Training:
        import torch

        from methods.blocks.batches import identities_once
        from methods.blocks.labels import batch_identities
        from methods.blocks.losses import batch_hard_triplet, smoothed_cross_entropy
        from methods.blocks.precision import dtype_of
        from methods.blocks.schedules import staircase
        from reproduce.data.sampling import generator
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

        P = batch_identities(labels.numpy(), self.P, self.K, self.bn_group) or self.P
        for epoch in env.epochs(self.epochs, state):
            done = epoch + 1
            rate = staircase(done, warmup=self.warmup, milestones=self.milestones)
            for group in optimizer.param_groups:
                group["lr"] = self.lr * rate
            batches = identities_once(labels.tolist(), P, self.K, seed=self.seed, epoch=epoch)
            losses = []
            net.train()
            for step, (batch, pixels) in enumerate(zip(batches, images.batches(batches), strict=True)):
                inputs = augment(pixels, self.augment, generator(self.seed, "augment", epoch, step)).to(dtype)
                target = labels[batch].to(env.device)
                outputs = net(inputs, self.places(len(batch), epoch, step), self.dropped)
                parts = [smoothed_cross_entropy(logits, target, self.smoothing) for logits in outputs.logits]
                parts += [batch_hard_triplet(features, target, "soft") for features in outputs.features]
                loss = torch.stack(parts).sum()
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                losses.append(loss.detach())

            env.log(done, loss=torch.stack(losses), lr=self.lr * rate, images=len(batches) * P * self.K)
            if done % self.eval_every == 0 or done == self.epochs:
                scores = retrieval.score(net.eval(), metric="euclidean")
                env.log(done, mAP=scores.mAP, rank1=scores.rank1)
                if scores.rank1 > state.best:
                    state.best, state.best_weights = scores.rank1, snapshot(net)

        return Training({"last": snapshot(net), "best on source": state.best_weights}, {"classes": classes})

    def places(self, images: int, epoch: int, step: int) -> list[float]:
        """Draw the place of each group's stripe in a batch; see `methods.blocks.bdb.drop_rows`."""
        from reproduce.data.sampling import uniform

        groups = max(1, images // (self.bn_group or images))
        places: list[float] = uniform((groups,), self.seed, "stripes", epoch, step).tolist()
        return places

    def network(self, classes: int, env: Env | None = None) -> BDB:
        """Build the network; without `env` it lacks its initial weights, which are restored anyway."""
        from methods.blocks.bdb import BDB
        from methods.blocks.heads import body, in_precision
        from methods.blocks.norm import group_batch_norm

        net = group_batch_norm(BDB(body(self, env), classes, self.widths, seed=self.seed), self.bn_group)
        return in_precision(net, self.precision)

    def embedder(self, training: Training, at: str) -> nn.Module:
        net = self.network(training.facts["classes"])
        net.load_state_dict(training.checkpoints[at])
        return net.eval()
