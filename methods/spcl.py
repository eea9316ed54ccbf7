"""Self-paced contrastive learning with a memory of classes, clusters and single images, without a source model.

Paper: Ge et al., "Self-paced Contrastive Learning with Hybrid Memory for Domain Adaptive Object Re-ID" (NeurIPS 2020),
    called SpCL here. With `memory=Clusters()`, Dai et al., "Cluster Contrast for Unsupervised Person Re-Identification"
    (ACCV 2022).
Code: yxgeee/SpCL; a variant in open-mmlab/OpenUnReID; alibaba/cluster-contrast-reid.
Deviates:
    - A slot of a source class moves after each image of it, as in the published code; the paper moves it by the batch
      mean of the class.
    - The losses of both domains are computed before any slot moves. In the published code the source's gradient
      already sees the slots that the target's moved.
    - With too few labels to fill a batch of P x K, a batch takes as many of them as fill whole normalisation groups,
      and the source's as many; with fewer than two, training stops as collapsed. Neither the paper nor the published
      code covers these cases.
    - If the first labels contain no cluster, the threshold of independence is set by the first that do; the published
      code fails.
    - The best on the target is kept, as in the published code; the last, which uses no test image for selection, is
      kept as well.
    - Random erasing tries at most 20 rectangles per image; the published code tries up to 100.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from reproduce.artifacts import Training, snapshot
from reproduce.clustering import DBSCAN, OUTLIER
from reproduce.data.transforms import Augment, Erase
from reproduce.evaluation import Trained
from reproduce.scales import Released
from reproduce.stage import Env, role

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from methods.blocks.memory import Embedder

    Labels = NDArray[np.int64]


CLUSTER = DBSCAN(0.6, 4)
"""The same for all published targets, so not tuned."""


@dataclass(frozen=True)
class Hybrid:
    """Remember every source class and every target image, outliers included (SpCL)."""

    momentum: float = 0.2
    """Fraction of itself that a slot keeps when it moves towards an image."""
    gap: float | None = 0.02
    """How much tighter and looser eps is to see which clusters are reliable; None trusts all."""
    share: float = 0.9
    """Fraction of the first epoch's clusters that are independent enough; see `methods.blocks.labels.reliable`."""


@dataclass(frozen=True)
class Clusters:
    """Remember one vector per cluster, renewed at every clustering; outliers are not trained on (Cluster-Contrast)."""

    momentum: float = 0.1
    """Fraction of itself that a vector keeps when it moves towards an image."""
    hardest: bool = False
    """Whether a vector moves towards the least similar image of its cluster in the batch only, instead of each."""


class Guessed(NamedTuple):
    """Pseudo labels of N target images."""

    raw: Labels
    """(N,) labels as clustered."""
    kept: Labels
    """(N,) labels of reliable clusters; all other images are outliers."""
    eps: float
    """DBSCAN's eps."""
    threshold: float | None
    """Threshold of independence, for later epochs."""


@dataclass(frozen=True)
class Adapt(Trained):
    """Cluster what is remembered of the target, contrast images of both domains with the memory, repeat."""

    target: Any
    """The domain to learn. Its training labels only measure purity."""
    source: Any = None
    """The labelled domain, whose images then have batch normalisations of their own; None to learn without labels."""
    memory: Hybrid | Clusters = Hybrid()
    """What is remembered, and which images are trained on."""
    cluster: DBSCAN = CLUSTER
    """DBSCAN on Jaccard distances."""
    k1: int = 30
    """k1 of the Jaccard distances; see `reproduce.neighbours.jaccard_graph`."""
    k2: int = 6
    """k2 of the Jaccard distances."""
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
    pooling: Literal["average", "gem"] = "average"
    """Pooling of the maps; OpenUnReID and Cluster-Contrast learn its exponent ("gem")."""
    free_bias: bool = True
    """Whether the biases of the neck learn if each domain has its own, as the published conversion has it; without a
    source, and in OpenUnReID, they stay 0."""
    joint: bool = False
    """Whether the loss is one mean over the images of both domains, as in OpenUnReID, instead of the sum of two."""
    temperature: float = 0.05
    """Divisor of the cosines."""
    P: int = role("batch", 16)
    """Identities per batch and domain."""
    K: int = 4
    """Images per identity."""
    epochs: int = role("epochs", 50)
    """Rounds of clustering and training."""
    iterations: int = role("iterations", 400)
    """Batches per epoch; 800 on MSMT17."""
    step: int = role("milestones", 20)
    """Epochs after which the learning rate is multiplied by 0.1, again and again."""
    lr: float = role("lr", 3.5e-4)
    """Learning rate of Adam."""
    weight_decay: float = 5e-4
    """Weight decay of Adam."""
    augment: Augment = Augment(erase=Erase(when="after"))
    """Augmentation of the training images."""
    bn_group: int | None = 16
    """Images of a domain that share batch statistics; None for all of a batch. 16 is the batch on each of the published
    code's four GPUs."""
    input: tuple[int, int] = role("input", (256, 128))
    """Height and width in pixels."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""
    eval_every: int = role("period", 10)
    """Epochs between two evaluations on the target."""

    def __post_init__(self) -> None:
        """Reject a source with a memory that has no place for its classes."""
        if self.source is not None and isinstance(self.memory, Clusters):
            raise ValueError("a memory of clusters has no slots for source classes: use Hybrid, or no source")

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        return ((self.P * self.K, self.bn_group),)

    @property
    def work(self) -> float:
        return float(self.epochs * self.iterations * self.P * self.K * (1 if self.source is None else 2))

    @property
    def detail(self) -> str:
        words = {"one vector per cluster": isinstance(self.memory, Clusters), "GeM": self.pooling == "gem"}
        words |= {"hardest": isinstance(self.memory, Clusters) and self.memory.hardest}
        return ", ".join(word for word, holds in words.items() if holds)

    def run(self, env: Env) -> Training:
        import numpy as np
        import torch

        from methods.blocks.labels import alone, batch_identities, cluster_means, health, renumbered
        from methods.blocks.memory import STEADY, slot_contrast, update_each, update_hardest
        from methods.blocks.precision import dtype_of
        from reproduce.data.sampling import camera_aware_batches, generator
        from reproduce.data.transforms import augment
        from reproduce.evaluation import Retrieval, embed

        data = env.open(self.target)
        images = sources = self.images(data, env.device)
        retrieval = Retrieval.of(self, data, env.device)
        camids, pids = [image.camid for image in data.train], [image.pid for image in data.train]
        people, cameras, classes = np.zeros(0, np.int64), [], 0
        if self.source is not None:
            known = env.open(self.source)
            sources = self.images(known, env.device)
            people = known.train_labels
            cameras, classes = [image.camid for image in known.train], len(known.train_pids)

        hybrid, dtype = isinstance(self.memory, Hybrid), dtype_of(self.precision)
        update = update_hardest if isinstance(self.memory, Clusters) and self.memory.hardest else update_each
        net = self.network(env, split=self.source is not None).to(env.device)
        learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(learning, lr=self.lr, weight_decay=self.weight_decay)
        state = SimpleNamespace(net=net, optimizer=optimizer, threshold=None, health={}, best={})
        state.labels, state.slots = np.full(len(images), OUTLIER), torch.zeros(0, device=env.device)

        for epoch in env.epochs(self.epochs, state):
            done, before = epoch + 1, state.labels if epoch else None
            if epoch == 0 or not hybrid:
                features = embed(net.eval(), images, pixels=self.pixels)
            if epoch == 0 and hybrid:
                state.slots = features
                if classes:
                    centres = cluster_means(embed(net, sources, pixels=self.pixels), people)
                    state.slots = torch.cat([torch.nn.functional.normalize(centres), features])
            guessed = self.guess(state.slots[classes:] if hybrid else features, state.threshold)
            state.labels, state.threshold = guessed.kept, guessed.threshold
            state.health = health(guessed.raw, guessed.kept, pids, before=before, eps=guessed.eps)
            env.log(done, **state.health)
            labels = renumbered(alone(guessed.kept)) if hybrid else guessed.kept
            P = batch_identities(labels, self.P, self.K, self.bn_group)
            if P < 2:
                state.health["collapsed"] = (
                    f"{state.health['clusters']:.0f} clusters at epoch {done}, "
                    f"{state.health['outliers']:.0f} of {len(images)} images outliers: they fill no batch"
                )
                break
            at, of_slot = labels, np.arange(labels.max() + 1)
            if hybrid:
                at, of_slot = classes + np.arange(len(images)), np.concatenate([np.arange(classes), classes + labels])
            else:
                state.slots = torch.nn.functional.normalize(cluster_means(features, labels))
            owner = torch.from_numpy(of_slot).to(env.device)

            rate = 0.1 ** (epoch // self.step)
            for group in optimizer.param_groups:
                group["lr"] = self.lr * rate
            count = self.iterations
            batches = camera_aware_batches(
                labels.tolist(), camids, P, self.K, seed=self.seed, epoch=2 * epoch, iterations=count
            )
            others: list[list[int]] = [[]] * count  # without a source its batches are empty
            if classes:
                others = camera_aware_batches(
                    people.tolist(), cameras, P, self.K, seed=self.seed, epoch=2 * epoch + 1, iterations=count
                )
            both = zip(others, sources.batches(others), batches, images.batches(batches), strict=True)
            parts: list[Tensor] = []
            net.train()
            for step, (other, shown, batch, pixels) in enumerate(both):
                views = [augment(pixels, self.augment, generator(self.seed, "augment target", epoch, step))]
                places = [at[batch]]
                if classes:
                    views.insert(0, augment(shown, self.augment, generator(self.seed, "augment", epoch, step)))
                    places.insert(0, people[other])
                outputs = net(torch.cat(views).to(dtype)).chunk(len(views))
                moved = [torch.from_numpy(place).to(env.device) for place in places]
                losses = torch.stack(
                    [
                        slot_contrast(
                            output, state.slots, owner, owner[slot], self.temperature, steady=STEADY if hybrid else 0
                        )
                        for output, slot in zip(outputs, moved, strict=True)
                    ]
                )
                optimizer.zero_grad()
                torch.autograd.backward(losses.mean() if self.joint else losses.sum())
                optimizer.step()
                for output, slot in zip(outputs, moved, strict=True):
                    update(state.slots, slot, output.detach(), self.memory.momentum)
                parts.append(losses.detach())

            means = torch.stack(parts)
            logged = {"loss": means.mean(1) if self.joint else means.sum(1), "target": means[:, -1]}
            logged |= {"source": means[:, 0]} if classes else {}
            logged |= {} if state.threshold is None else {"threshold": state.threshold}
            env.log(done, **logged, lr=self.lr * rate, images=count * P * self.K * len(views))
            if done % self.eval_every == 0 or done == self.epochs:
                scores = retrieval.score(net.eval())
                env.log(done, mAP=scores.mAP, rank1=scores.rank1)
                if scores.mAP > state.best.get("mAP", -1):
                    state.best = {"mAP": scores.mAP, "weights": snapshot(net), "health": state.health}

        last = {"weights": snapshot(net), "health": state.health}
        kept = {"last": last, "best on target": state.best or last}
        health_of = {moment: each["health"] for moment, each in kept.items()}
        return Training({moment: each["weights"] for moment, each in kept.items()}, {"health": health_of})

    def guess(self, features: Tensor, threshold: float | None) -> Guessed:
        """Cluster target images by features (N, D) of length 1; `threshold` is that of an earlier epoch, or None."""
        from methods.blocks.labels import reliable, renumbered
        from reproduce.neighbours import jaccard_graph

        graph = jaccard_graph(features, self.k1, self.k2, variant="spcl")
        eps = self.cluster.radius(graph)
        raw = replace(self.cluster, eps=eps).labels(graph)
        gap = self.memory.gap if isinstance(self.memory, Hybrid) else None
        if gap is None:
            return Guessed(raw, renumbered(raw), eps, None)
        tight, loose = (replace(self.cluster, eps=each).labels(graph) for each in (max(0.0, eps - gap), eps + gap))
        assert isinstance(self.memory, Hybrid)
        chosen = reliable(raw, tight, loose, threshold, self.memory.share)
        return Guessed(raw, chosen.labels, eps, chosen.threshold)

    def network(self, env: Env | None = None, *, split: bool = False) -> Embedder:
        """Build the network with its initial weights, or without them for weights that are restored anyway.

        Args:
            env: provides the weights.
            split: whether each domain has its own normalisations.
        """
        from methods.blocks.heads import body, in_precision
        from methods.blocks.memory import Embedder
        from methods.blocks.norm import group_batch_norm, split_batch_norm

        net = group_batch_norm(Embedder(body(self, env), gem=self.pooling == "gem"), self.bn_group)
        if split:
            for norm in split_batch_norm(net).neck.children():
                norm.bias.requires_grad_(self.free_bias)
        return in_precision(net, self.precision)

    def embedder(self, training: Training, at: str) -> nn.Module:
        from methods.blocks.memory import of_target

        net = self.network()
        net.load_state_dict(of_target(training.checkpoints[at]))
        return net.eval()
