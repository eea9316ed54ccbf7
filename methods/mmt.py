"""Mutual Mean-Teaching: train two networks on pseudo labels of the target and on each other's mean net.

Paper: Ge, Chen and Li, "Mutual Mean-Teaching: Pseudo Label Refinery for Unsupervised Domain Adaptation on Person
    Re-identification" (ICLR 2020), section 3, called MMT here.
Code: yxgeee/MMT.
Deviates:
    - An epoch has 400 iterations, as in the published scripts; the paper has 800.
    - With DBSCAN the classifier has one class per cluster; the published one has one per image, and uses only as many
      as there are clusters.
    - With k-means the classifier starts from the means of the final clusters; the published code takes scikit-learn's
      centres, from which these clusters were assigned. An empty cluster gets no class.
    - With fewer clusters than P, or too many clusters of a single image, a batch takes as many clusters as fill whole
      normalisation groups; with fewer than two, training stops as collapsed. Neither the paper nor the published code
      covers these cases.
    - Both mean nets are tested on the target after every epoch and the best is kept, as in the published code; mean
      net 1 after the last epoch, which uses no test image for selection, is kept as well.
    - Random erasing tries at most 20 rectangles per image; the published code tries up to 100.
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

    from methods.blocks.labels import PseudoLabels


@dataclass(frozen=True)
class Adapt(Trained):
    """Fine-tune two source models on pseudo labels of the target, each with the other's mean net as a teacher."""

    version: ClassVar[int] = 2

    init: tuple[Any, Any]
    """The trainings of the two source models; students 1 and 2 and their mean nets start from them."""
    target: Any
    """The domain to adapt to. Its training labels only measure pseudo labels: purity, and `first_labels`, the adjusted
    Rand index in percent of the first epoch's labels, with each outlier as its own cluster."""
    cluster: DBSCAN | KMeans
    """DBSCAN on Jaccard distances, with eps fixed at the first epoch, or k-means."""
    seed: int = 1
    """Seeds batches, augmentation and k-means."""
    at: str = "best on source"
    """The moment of `init` to start from."""
    k1: int = 20
    """k1 of the Jaccard distances; see `reproduce.neighbours.jaccard_graph`."""
    k2: int = 6
    """k2 of the Jaccard distances."""
    epochs: int = role("epochs", 40)
    """Rounds of clustering and training."""
    iterations: int = role("iterations", 400)
    """Batches per epoch."""
    lr: float = role("lr", 3.5e-4)
    """Constant learning rate of Adam; one optimiser trains both students and is re-created every epoch."""
    weight_decay: float = 5e-4
    """Weight decay of Adam."""
    P: int = role("batch", 16)
    """Pseudo identities per batch."""
    K: int = 4
    """Images per pseudo identity."""
    smoothing: float = 0.1
    """Smoothing of the pseudo labels."""
    soft_ce: float = 0.5
    """Weight of the other mean net's soft labels in the cross-entropy, 0 to 1."""
    soft_triplet: float = 0.8
    """Weight of the other mean net's soft labels in the triplet loss, 0 to 1."""
    alpha: float = role("momentum", 0.999)
    """Momentum of the mean nets after warm-up. 0, with no soft labels, is the paper's baseline."""
    bn_group: int | None = 16
    """Images that share batch statistics, whatever `init` used; None for the whole batch. 16 is the batch on each of
    the published code's four GPUs."""
    augment: Augment = Augment(erase=Erase(when="after"))
    """Augmentation of the training images, drawn twice per image."""
    input: tuple[int, int] = role("input", (256, 128))
    """Height and width in pixels."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        return ((self.P * self.K, self.bn_group),)

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
        from methods.blocks.labels import agreement, alone, batch_identities, health
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
            embeddings = [embed(net.eval(), images, pixels=self.pixels) for net in state.means]
            guessed = self.guess(embeddings, state.eps)
            state.labels, state.eps = guessed.kept, guessed.eps
            state.health = health(guessed.raw, guessed.kept, pids.tolist(), before=before, eps=guessed.eps)
            env.log(done, **state.health)
            if epoch == 0 and pids.min() >= 0:
                state.first = {"first_labels": 100 * agreement(alone(state.labels), pids)}
            state.health |= state.first
            P = batch_identities(state.labels, self.P, self.K, self.bn_group)
            if P < 2:
                state.health["collapsed"] = (
                    f"{state.health['clusters']:.0f} clusters at epoch {done}, "
                    f"{state.health['outliers']:.0f} of {len(images)} images outliers: they fill no batch"
                )
                break
            self.classify([*state.students, *state.means], guessed.embeddings, state.labels)
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
            first, second = (retrieval.score(net.eval()) for net in state.means)
            env.log(done, mAP=first.mAP, rank1=first.rank1, mAP2=second.mAP)
            for number, scores in enumerate((first, second)):
                if scores.mAP > state.best.get("mAP", -1):
                    weights = snapshot(state.means[number])
                    state.best = {"mAP": scores.mAP, "net": number, "weights": weights, "health": state.health}

        last = {"net": 0, "weights": snapshot(state.means[0]), "health": state.health}
        kept = {"last": last, "best on target": state.best or last}
        facts = {name: {moment: net[name] for moment, net in kept.items()} for name in ("net", "health")}
        return Training({moment: net["weights"] for moment, net in kept.items()}, facts)

    def guess(self, embeddings: list[Tensor], eps: float | None) -> PseudoLabels:
        """Cluster the mean of both mean nets' embeddings.

        Args:
            embeddings: (N, D) of length 1, of the target's training images, from each mean net.
            eps: DBSCAN's, from the first epoch; None at the first epoch.
        """
        from torch.nn.functional import normalize

        from methods.blocks.labels import PseudoLabels, renumbered
        from reproduce.neighbours import jaccard_graph

        means = (embeddings[0] + embeddings[1]) / 2
        if isinstance(self.cluster, KMeans):
            labels = renumbered(self.cluster.labels(means, self.seed))
        else:
            means = normalize(means)
            graph = jaccard_graph(means, self.k1, self.k2, variant="mmt")
            eps = self.cluster.radius(graph, before=eps)
            labels = replace(self.cluster, eps=eps).labels(graph)
        return PseudoLabels(means, labels, labels, eps)

    def classify(self, nets: list[Any], embeddings: Tensor, labels: NDArray[np.int64]) -> None:
        """Reset the classifiers of networks to the normalised cluster means of embeddings (N, D)."""
        import torch
        from torch.nn.functional import normalize

        from methods.blocks.labels import cluster_means

        centres = normalize(cluster_means(embeddings, labels))
        for net in nets:
            net.renew_classifier(len(centres), seed=self.seed)
            with torch.no_grad():
                net.classifier.weight.copy_(centres)

    def embedder(self, training: Training, at: str) -> nn.Module:
        from methods.blocks.heads import continued

        return continued(self.init[training.facts.get("net", {}).get(at, 0)], training, at, self.precision)
