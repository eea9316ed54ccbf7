"""Mutual Mean-Teaching: two networks learn from pseudo labels of the target and from each other's mean net.

Paper: Ge, Chen and Li, "Mutual Mean-Teaching: Pseudo Label Refinery for Unsupervised Domain Adaptation on Person
    Re-identification" (ICLR 2020), section 3. MMT here.
Code: yxgeee/MMT.
Deviates:
    - An epoch has 400 iterations, as in the published scripts; the paper has 800.
    - With DBSCAN the classifier has a row for each cluster; the published one has a row for each image, of which only
      those of the clusters count.
    - A row of the classifier is the mean of the images that k-means ends with in a cluster; the published one is
      scikit-learn's centre, from which these images were assigned. A cluster without images gets no row.
    - With fewer clusters than P, or very many of one image, a batch holds as many as fill it in whole normalisation
      groups; with fewer than two there is nothing to train on, and the method ends as collapsed. The paper and the
      published code speak of neither.
    - Both mean nets are compared on the target after every epoch, and the best of all is kept, as in the published
      code; beside it, mean net 1 after the last epoch is kept, which no test image has chosen.
    - Random erasing draws at most 20 rectangles for an image, the published code at most 100.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from reproduce.artifacts import Training, snapshot
from reproduce.clustering import DBSCAN, OUTLIER, KMeans
from reproduce.data.transforms import Augment, Erase
from reproduce.evaluation import Trained
from reproduce.stage import Env, role

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn


@dataclass(frozen=True)
class Adapt(Trained):
    """Fine-tune two source models on pseudo labels of the target, each with the other's mean net as a teacher.

    Attributes:
        init: what trained the two source models: students 1 and 2, and their mean nets, start as their networks.
        target: the domain to adapt to; its training labels are read to measure pseudo labels alone: their purity, and
            `first_labels`, the adjusted Rand index in percent of the first epoch's, each outlier a cluster of its own.
        cluster: DBSCAN on Jaccard distances (its eps is settled at the first epoch) or k-means.
        seed: of batches, augmentation and k-means.
        at: the moment of `init` whose networks are taken.
        k1, k2: of the Jaccard distances, as in `reproduce.neighbours.jaccard_graph`.
        epochs: how often images are clustered and trained on.
        iterations: batches of an epoch.
        lr, weight_decay: of Adam, one for both students and made anew every epoch; the rate is constant.
        P, K: pseudo identities in a batch, images of each.
        smoothing: of the pseudo labels.
        soft_ce, soft_triplet: the share of the other mean net's soft labels in either loss.
        alpha: what a mean net keeps of itself, once warm. 0, with no share of soft labels, is the paper's baseline.
        bn_group: images that share batch statistics, whatever it was in `init`; None for the whole batch. 16 are what
            each of the published code's four GPUs had.
        augment: of the training images, drawn twice for each.
        input: height and width in pixels.
        precision: "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons.
    """

    version: ClassVar[int] = 2

    init: tuple[Any, Any]
    target: Any
    cluster: DBSCAN | KMeans
    seed: int = 1
    at: str = "best on source"
    k1: int = 20
    k2: int = 6
    epochs: int = role("epochs", 40)
    iterations: int = role("iterations", 400)
    lr: float = role("lr", 3.5e-4)
    weight_decay: float = 5e-4
    P: int = role("batch", 16)
    K: int = 4
    smoothing: float = 0.1
    soft_ce: float = 0.5
    soft_triplet: float = 0.8
    alpha: float = role("momentum", 0.999)
    bn_group: int | None = 16
    augment: Augment = Augment(erase=Erase(when="after"))
    input: tuple[int, int] = role("input", (256, 128))
    precision: str = role("precision", "float32")

    @property
    def work(self) -> float:
        return 4.0 * self.epochs * self.iterations * self.P * self.K

    @property
    def detail(self) -> str:
        k = self.cluster.k if isinstance(self.cluster, KMeans) else None
        return f"{type(self.cluster).__name__}{f' {k}' if k else ''}{'' if self.alpha else ' without mean nets'}"

    def run(self, env: Env) -> Training:
        from copy import deepcopy

        import numpy as np
        import torch

        from methods.blocks.heads import in_precision
        from methods.blocks.labels import agreement, alone, health
        from methods.blocks.losses import batch_hard_triplet, smoothed_cross_entropy, soft_cross_entropy, soft_triplet
        from methods.blocks.momentum import follow, warmed
        from methods.blocks.norm import group_batch_norm
        from methods.blocks.precision import dtype_of
        from reproduce.data.images import Images
        from reproduce.data.sampling import camera_aware_batches, generator
        from reproduce.data.transforms import augment
        from reproduce.evaluation import Retrieval, embed

        data = env.open(self.target)
        images = Images(data.root, data.train, self.input, env.device)
        retrieval = Retrieval.of(self, data, env.device)
        camids = [image.camid for image in data.train]
        dtype = dtype_of(self.precision)
        nets = [in_precision(source.start_at(env.get(source), self.at), self.precision) for source in self.init]
        students = [group_batch_norm(net.to(env.device), self.bn_group or self.P * self.K) for net in nets]
        state = SimpleNamespace(students=students, means=deepcopy(students), health={}, best={})
        state.labels, state.eps, state.first = np.full(len(images), OUTLIER), None, {}
        pids = np.array([image.pid for image in data.train])

        for epoch in env.epochs(self.epochs, state):
            done, before = epoch + 1, state.labels if epoch else None
            rows, state.labels, state.eps = self.guess(
                [embed(net.eval(), images, pixels=self.pixels) for net in state.means], state.eps
            )
            state.health = health(state.labels, state.labels, pids.tolist(), before=before, eps=state.eps)
            env.log(done, **state.health)
            if epoch == 0 and pids.min() >= 0:
                state.first = {"first_labels": 100 * agreement(alone(state.labels), pids)}
            state.health |= state.first
            P = self.identities(state.labels)
            if P < 2:
                state.health["collapsed"] = (
                    f"{state.health['clusters']:.0f} clusters at epoch {done}, "
                    f"{state.health['outliers']:.0f} of {len(images)} images outliers: they fill no batch"
                )
                break
            self.classify([*state.students, *state.means], rows, state.labels)
            parameters = [parameter for net in state.students for parameter in net.parameters()]
            optimizer = torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)
            batches = camera_aware_batches(
                state.labels, camids, P, self.K, seed=self.seed, epoch=epoch, iterations=self.iterations
            )
            losses = []
            for net in (*state.students, *state.means):
                net.train()
            for iteration, (batch, pixels) in enumerate(zip(batches, images.batches(batches), strict=True)):
                draws = [generator(self.seed, "augment", epoch, iteration, view) for view in (1, 2)]
                views = [augment(pixels, self.augment, draw).to(dtype) for draw in draws]
                target = torch.from_numpy(state.labels[batch]).to(env.device)
                with torch.no_grad():
                    teachers = [net(view) for net, view in zip(state.means, views, strict=True)]
                loss: Any = 0.0
                for net, view, other in zip(state.students, views, reversed(teachers), strict=True):
                    features, _, logits = net(view)
                    loss += (
                        (1 - self.soft_ce) * smoothed_cross_entropy(logits, target, self.smoothing)
                        + self.soft_ce * soft_cross_entropy(logits, other.logits)
                        + (1 - self.soft_triplet) * batch_hard_triplet(features, target, "soft")
                        + self.soft_triplet * soft_triplet(features, other.features, target)
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                for mean, net in zip(state.means, state.students, strict=True):
                    follow(mean, net, warmed(epoch * self.iterations + iteration, self.alpha))
                losses.append(loss.detach())

            env.log(done, loss=torch.stack(losses), lr=self.lr, images=len(batches) * P * self.K)
            one, two = (retrieval.score(net.eval()) for net in state.means)
            env.log(done, mAP=one.mAP, rank1=one.rank1, mAP2=two.mAP)
            for number, scores in enumerate((one, two)):
                if scores.mAP > state.best.get("mAP", -1):
                    weights = snapshot(state.means[number])
                    state.best = {"mAP": scores.mAP, "net": number, "weights": weights, "health": state.health}

        last = {"net": 0, "weights": snapshot(state.means[0]), "health": state.health}
        kept = {"last": last, "best on target": state.best or last}
        facts = {name: {moment: net[name] for moment, net in kept.items()} for name in ("net", "health")}
        return Training({moment: net["weights"] for moment, net in kept.items()}, facts)

    def guess(self, embeddings: list[Tensor], eps: float | None) -> tuple[Tensor, NDArray[np.int64], float | None]:
        """Cluster the embeddings of both mean nets into what was clustered (N, D), labels (N,) and DBSCAN's eps.

        Args:
            embeddings: of the target's training images, (N, D) of length 1, from each.
            eps: what the first epoch settled; None at the first epoch.
        """
        from torch.nn.functional import normalize

        from methods.blocks.labels import renumbered
        from reproduce.neighbours import jaccard_graph

        rows = (embeddings[0] + embeddings[1]) / 2
        if isinstance(self.cluster, KMeans):
            return rows, renumbered(self.cluster.labels(rows, self.seed)), eps
        rows = normalize(rows)
        graph = jaccard_graph(rows, self.k1, self.k2, variant="mmt")
        eps = self.cluster.radius(graph) if eps is None else eps
        return rows, replace(self.cluster, eps=eps).labels(graph), eps

    def identities(self, labels: NDArray[np.int64]) -> int:
        """How many pseudo identities of labels (N,) a batch takes: at most P; 0 where no two fill a batch."""
        import numpy as np

        counts = np.bincount(labels[labels != OUTLIER])
        images = int(np.where(counts > 1, self.K, 1).sum())
        group = self.bn_group or self.P * self.K
        most = min(self.P, len(counts), images // self.K)
        return next((P for P in range(most, 1, -1) if group >= P * self.K or P * self.K % group == 0), 0)

    def classify(self, nets: list[Any], rows: Tensor, labels: NDArray[np.int64]) -> None:
        """Give networks a classifier whose rows are the normalised means of the clusters of rows (N, D)."""
        import torch
        from torch.nn.functional import normalize

        own = torch.from_numpy(labels).to(rows.device)
        centres = normalize(torch.stack([rows[own == label].mean(0) for label in range(int(labels.max()) + 1)]))
        for net in nets:
            net.renew_classifier(len(centres), seed=self.seed)
            with torch.no_grad():
                net.classifier.weight.copy_(centres)

    def embedder(self, training: Training, at: str) -> nn.Module:
        from methods.blocks.heads import continued

        return continued(self.init[training.facts.get("net", {}).get(at, 0)], training, at, self.precision)
