"""Multi-step pseudo-label refinement: cluster the target's images, keep the clusters worth it, fine-tune, and again.

Paper: Pereira and de Campos, "Learn by Guessing: Multi-step Pseudo-label Refinement for Person Re-Identification"
    (VISAPP 2022), section 3. MSPLR here.
Code: none was found.
Deviates:
    - The number of steps is fixed (10); the paper goes on "until convergence", which takes test labels to see. `until`
      ends the steps when the clusters of two agree.
    - The distance of DBSCAN is not named; it is the cosine distance. k-means clusters the same vectors, of length 1.
    - The printed eps were tuned for one spread of the data, that of the full method on the published sets. There,
      rows without camera normalisation take eps from UDAP's rule. On other data every row takes the eps that leaves the
      most clusters after the full method's selection, searched again at each step.
    - The 20 frozen epochs come before the 90 of the schedule, which has a warm-up of its own. What is frozen keeps its
      batch statistics, and the rate meanwhile is the schedule's highest. The text leaves all this open.
    - Images are not erased at random, in the baseline either; the text does not say. Bag of Tricks erases, but the rows
      quoted beside are its rows without, and the supervised rows lie far below those with.
    - The standard deviations of equation 4 have 1e-6 added, so that a constant feature becomes 0.
    - With fewer clusters than P a batch holds all of them; with fewer than two there is nothing to train on, and the
      method ends as collapsed. The paper speaks of neither.
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

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from reproduce.data.images import Resample


@dataclass(frozen=True)
class Adapt(Trained):
    """Fine-tune a source model on pseudo labels of the target, step by step.

    Attributes:
        init: what trained the source model; its last network is fine-tuned.
        target: the domain to adapt to; its training labels are read for the purity alone.
        cluster: DBSCAN (but for `MostClusters`, its eps is settled at the first step) or k-means.
        seed: of classifiers, centres, batches, augmentation and k-means.
        by_camera: whether features are normalised by camera before clustering (CN).
        select: whether small and one-camera clusters are left out; small is less than K images.
        steps: how often images are clustered and the network fine-tuned.
        until: stop when the labels of two steps agree this much (adjusted Rand index); None for never.
        frozen: epochs of a step in which the classifier alone learns.
        epochs, milestones, warmup: of the rest of a step, as in `supervised.Train`.
        lr, weight_decay: of Adam, made anew for both parts of a step.
        P, K: pseudo identities in a batch, images of each.
        smoothing, margin, centre_weight, centre_lr: of the loss, as in `supervised.Train` (equation 5).
        augment: of the training images.
        input: height and width in pixels.
        resample: how images are brought to that size.
        precision: "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons.
    """

    version: ClassVar[int] = 2

    init: Any
    target: Any
    cluster: DBSCAN | KMeans
    seed: int = 1
    by_camera: bool = True
    select: bool = True
    steps: int = role("rounds", 10)
    until: float | None = None
    frozen: int = role("epochs", 20)
    epochs: int = role("epochs", 90)
    milestones: tuple[int, ...] = role("milestones", (40, 70))
    warmup: int = role("milestones", 10)
    lr: float = role("lr", 3.5e-4)
    weight_decay: float = 5e-4
    P: int = role("batch", 16)
    K: int = 4
    smoothing: float = 0.1
    margin: float = 0.3
    centre_weight: float = 0.005
    centre_lr: float = 0.5
    augment: Augment = Augment(erase=None)
    input: tuple[int, int] = role("input", (256, 128))
    resample: Resample = added("bicubic", "bilinear")
    precision: str = role("precision", "float32")

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
        from methods.blocks.labels import health
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

        each = self.frozen + self.epochs
        for at in env.epochs(self.steps * each, state):
            step, epoch = divmod(at, each)
            moment, done = f"step {step + 1}", at + 1
            if epoch == 0:
                before = state.labels if step else None
                features = embed(BeforeNeck(net.eval()), images, unit=False, pixels=self.pixels)
                raw, state.labels, state.eps = self.guess(features, camids, state.eps)
                pids = [image.pid for image in data.train]
                state.health[moment] = health(raw, state.labels, pids, before=before, eps=state.eps)
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
            if epoch == each - 1:
                scores = retrieval.score(net.eval())
                env.log(done, mAP=scores.mAP, rank1=scores.rank1)
                state.mAP[moment], state.kept[moment] = scores.mAP, snapshot(net)

        return self.finished(state)

    def guess(
        self, features: Tensor, camids: Sequence[int], eps: float | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], float | None]:
        """Cluster features (N, D) into labels as clustered and labels to train on, each (N,); and DBSCAN's eps.

        Args:
            features: of the target's training images, the f of section 3.6: before the neck, of any length.
            camids: (N,) cameras.
            eps: of the step before; None at the first step.
        """
        from torch.nn.functional import normalize

        from methods.blocks.labels import normalised_by_camera, renumbered, selected
        from reproduce.neighbours import cosine_graph

        rows = normalize(normalised_by_camera(features, camids) if self.by_camera else features)
        if isinstance(self.cluster, KMeans):
            raw = self.cluster.labels(rows, self.seed)
        else:
            settled = None if self.cluster.searched else eps
            cluster = self.cluster if settled is None else replace(self.cluster, eps=settled)
            graph = cosine_graph(rows, **cluster.reach(len(rows)))
            eps = cluster.radius(graph, partial(selected, camids=camids, least=self.K))
            raw = replace(cluster, eps=eps).labels(graph)
        return raw, selected(raw, camids, self.K) if self.select else renumbered(raw), eps

    def finished(self, state: Any) -> Training:
        """The network after each step, and with the steps that did not come, once the loop has ended early."""
        best = max(state.mAP, key=state.mAP.get, default="last")
        moments = [f"step {step + 1}" for step in range(self.steps)]
        reached = list(state.health)[-1]
        ended = dict(state.health[reached])
        if state.labels.max() < 1:
            ended["collapsed"] = (
                f"{ended['clusters']:.0f} of {ended['found']:.0f} clusters left at {reached}, "
                f"{ended['outliers']:.0f} of {len(state.labels)} images outliers"
            )
        weights = snapshot(state.net)
        checkpoints = {moment: state.kept.get(moment, weights) for moment in moments}
        health = {moment: state.health[moment] if moment in state.kept else ended for moment in moments}
        checkpoints |= {"last": weights, "best on target": checkpoints.get(best, weights)}
        health |= {"last": health[moments[-1]], "best on target": health.get(best, ended)}
        return Training(checkpoints, {"health": health})

    def embedder(self, training: Training, at: str) -> nn.Module:
        from methods.blocks.heads import continued

        return continued(self.init, training, at, self.precision)
