"""Multi-step pseudo-label refinement: cluster the target's images, keep reliable clusters, fine-tune, repeat.

Paper: Pereira and de Campos, "Learn by Guessing: Multi-step Pseudo-label Refinement for Person Re-Identification"
    (VISAPP 2022), section 3, called MSPLR here.
Code: none found.
Deviates:
    - The number of steps is fixed (10); the paper iterates "until convergence", which needs test labels to detect.
      `until` stops once the labels of two consecutive steps agree.
    - The paper does not name DBSCAN's distance; we use the cosine distance. k-means clusters the same unit vectors.
    - The printed eps were tuned for the full method on the published data, and so for one spread of the features. On
      that data, rows without camera normalisation take eps from UDAP's rule. On other data every row takes the eps
      that leaves the most clusters after the full method's selection, searched again at each step.
    - The 20 frozen epochs precede the 90 of the schedule, which has its own warm-up. Frozen layers keep their batch
      statistics, and the learning rate meanwhile is the schedule's highest. The paper specifies none of this.
    - Images are not erased at random, nor in the baseline; the paper does not say. Bag of Tricks erases, but the paper
      quotes its rows without erasing, and its supervised rows lie far below those with erasing.
    - The standard deviations of equation 4 have 1e-6 added, so a constant feature becomes 0.
    - With fewer clusters than P a batch holds all of them; with fewer than two, training stops as collapsed. The paper
      covers neither case.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from reproduce.artifacts import Training, snapshot
from reproduce.clustering import DBSCAN, OUTLIER, KMeans
from reproduce.data.transforms import Augment
from reproduce.evaluation import Trained
from reproduce.stage import Env, added, role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from methods.blocks.labels import PseudoLabels
    from reproduce.data.images import Resample


@dataclass(frozen=True)
class Adapt(Trained):
    """Fine-tune a source model on pseudo labels of the target, step by step."""

    version: ClassVar[int] = 2

    init: Any
    """The training of the source model, whose last network is fine-tuned."""
    target: Any
    """The domain to adapt to. Its training labels only measure purity."""
    cluster: DBSCAN | KMeans
    """DBSCAN, with eps fixed at the first step (except for `MostClusters`), or k-means."""
    seed: int = 1
    """Seeds classifiers, centres, batches, augmentation and k-means."""
    by_camera: bool = True
    """Whether features are normalised per camera before clustering (CN)."""
    select: bool = True
    """Whether small clusters (fewer than K images) and one-camera clusters are dropped."""
    steps: int = role("rounds", 10)
    """Rounds of clustering and fine-tuning."""
    until: float | None = None
    """Stop once the labels of two steps agree this much (adjusted Rand index); None to never stop early."""
    frozen: int = role("epochs", 20)
    """Epochs at the start of a step that train the classifier alone."""
    epochs: int = role("epochs", 90)
    """Remaining epochs of a step."""
    milestones: tuple[int, ...] = role("milestones", (40, 70))
    """As in `supervised.Train`, counted within `epochs`."""
    warmup: int = role("milestones", 10)
    """As in `supervised.Train`, counted within `epochs`."""
    lr: float = role("lr", 3.5e-4)
    """Learning rate of Adam, which is re-created for both parts of a step."""
    weight_decay: float = 5e-4
    """Weight decay of Adam."""
    P: int = role("batch", 16)
    """Pseudo identities per batch."""
    K: int = 4
    """Images per pseudo identity."""
    smoothing: float = 0.1
    """Label smoothing of the loss (equation 5)."""
    margin: float = 0.3
    """Margin of the triplet loss."""
    centre_weight: float = 0.005
    """Weight of the centre loss."""
    centre_lr: float = 0.5
    """Learning rate of the centres."""
    augment: Augment = Augment(erase=None)
    """Augmentation of the training images."""
    input: tuple[int, int] = role("input", (256, 128))
    """Height and width in pixels."""
    resample: Resample = added("bicubic", "bilinear")
    """How images are resized to `input`."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        return ((self.P * self.K, getattr(self.init, "bn_group", None)),)

    @property
    def work(self) -> float:
        return 1000.0 * self.steps * (self.frozen + self.epochs)

    @property
    def detail(self) -> str:
        kept = "selected" if self.select else "raw"
        return f"{type(self.cluster).__name__} {kept}{' by camera' if self.by_camera else ''}"

    def run(self, env: Env) -> Training:
        import numpy as np
        import torch

        from methods.blocks.heads import BeforeNeck, in_precision
        from methods.blocks.labels import by_step, health
        from methods.blocks.losses import CentreLoss, batch_hard_triplet, smoothed_cross_entropy
        from methods.blocks.precision import dtype_of
        from methods.blocks.schedules import warmup_steps
        from reproduce.data.images import Images
        from reproduce.data.sampling import generator, identity_batches
        from reproduce.data.transforms import augment
        from reproduce.evaluation import Retrieval, embed

        data = env.open(self.target)
        images = Images(data.root, data.train, self.input, env.device, resample=self.resample)
        retrieval = Retrieval.of(self, data, env.device)
        camids = [image.camid for image in data.train]
        net = in_precision(self.init.start_at(env.get(self.init), "last"), self.precision).to(env.device)
        dtype = dtype_of(self.precision)

        def new_optimizer() -> torch.optim.Optimizer:
            return torch.optim.Adam(net.parameters(), lr=self.lr, weight_decay=self.weight_decay)

        def new_centres(classes: int) -> CentreLoss:
            return CentreLoss(classes, net.channels, seed=self.seed).to(env.device, dtype)

        state = SimpleNamespace(net=net, centres=new_centres(1), optimizer=new_optimizer(), health={}, mAP={}, kept={})
        state.labels, state.eps = np.full(len(images), OUTLIER), None

        per_step = self.frozen + self.epochs
        for at in env.epochs(self.steps * per_step, state):
            step, epoch = divmod(at, per_step)
            moment, done = f"step {step + 1}", at + 1
            if epoch == 0:
                before = state.labels if step else None
                features = embed(BeforeNeck(net.eval()), images, unit=False, pixels=self.pixels)
                guessed = self.guess(features, camids, state.eps)
                state.labels, state.eps = guessed.kept, guessed.eps
                pids = [image.pid for image in data.train]
                state.health[moment] = health(guessed.raw, guessed.kept, pids, before=before, eps=guessed.eps)
                env.log(done, **state.health[moment])
                if state.labels.max() < 1 or (step and self.until and state.health[moment]["agreement"] >= self.until):
                    break
                net.renew_classifier(state.labels.max() + 1, seed=self.seed)
                state.centres = new_centres(state.labels.max() + 1)
            frozen = epoch < self.frozen
            if epoch in (0, self.frozen):
                state.optimizer = new_optimizer()
            own = epoch - self.frozen + 1
            rate = 1.0 if frozen else warmup_steps(own, warmup=self.warmup, milestones=self.milestones)
            for group in state.optimizer.param_groups:
                group["lr"] = self.lr * rate
            P = min(self.P, state.labels.max() + 1)
            batches = identity_batches(state.labels, P, self.K, seed=self.seed, epoch=at)
            losses = []
            net.train()
            net.freeze_body(frozen)
            for iteration, (batch, pixels) in enumerate(zip(batches, images.batches(batches), strict=True)):
                inputs = augment(pixels, self.augment, generator(self.seed, "augment", at, iteration)).to(dtype)
                target = torch.from_numpy(state.labels[batch]).to(env.device)
                features, _, logits = net(inputs)
                loss = (
                    smoothed_cross_entropy(logits, target, self.smoothing)
                    + batch_hard_triplet(features, target, self.margin)
                    + self.centre_weight * state.centres(features, target)
                )
                state.optimizer.zero_grad()
                loss.backward()
                state.optimizer.step()
                state.centres.step(features.detach(), target, self.centre_lr)
                losses.append(loss.detach())

            env.log(done, loss=torch.stack(losses), lr=self.lr * rate, images=len(batches) * P * self.K)
            if epoch == per_step - 1:
                scores = retrieval.score(net.eval())
                env.log(done, mAP=scores.mAP, rank1=scores.rank1)
                state.mAP[moment], state.kept[moment] = scores.mAP, snapshot(net)

        return by_step(state, self.steps)

    def guess(self, features: Tensor, camids: Sequence[int], eps: float | None) -> PseudoLabels:
        """Cluster the features of the target's training images and select clusters to train on.

        Args:
            features: (N, D), the f of section 3.6: before the neck, not normalised.
            camids: (N,) cameras.
            eps: DBSCAN's, from the previous step; None at the first step.
        """
        from torch.nn.functional import normalize

        from methods.blocks.labels import PseudoLabels, normalised_by_camera, renumbered, selected
        from reproduce.neighbours import cosine_graph

        vectors = normalize(normalised_by_camera(features, camids) if self.by_camera else features)
        if isinstance(self.cluster, KMeans):
            raw = self.cluster.labels(vectors, self.seed)
        else:
            settled = None if self.cluster.searched else eps
            cluster = self.cluster if settled is None else replace(self.cluster, eps=settled)
            graph = cosine_graph(vectors, **cluster.reach(len(vectors)))
            eps = cluster.radius(graph, partial(selected, camids=camids, least=self.K))
            raw = replace(cluster, eps=eps).labels(graph)
        kept = selected(raw, camids, self.K) if self.select else renumbered(raw)
        return PseudoLabels(vectors, raw, kept, eps)

    def embedder(self, training: Training, at: str) -> nn.Module:
        from methods.blocks.heads import continued

        return continued(self.init, training, at, self.precision)
