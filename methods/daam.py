"""Domain adaptive attention: divide maps into a domain-shared and a domain-specific part, learn soft pseudo labels.

Paper: Huang et al., "Domain Adaptive Attention Learning for Unsupervised Person Re-Identification" (AAAI 2020), called
    DAAM here.
Code: none found.
Deviates:
    - The attention ends in a sigmoid. The paper has a ReLU after every convolution, and attention in (0, 1).
    - The learning rates of the ResNet and of the other layers are exchanged: 3e-5 and 1.5e-4. The paper prints the
      larger one for the pre-trained layers. Both are constant for 60 epochs and divided by 10 after every 60; the paper
      also speaks of "the first 20 epochs".
    - The pre-training on the source has the schedule, batch size and rates of an iteration; the paper names none.
    - Six iterations, the last of the figure; the paper stops "when a stopping criterion is met".
    - A batch is 16 source and 16 target images, and an epoch is a pass over the target images that have a label. The
      paper says 32 images. Each domain passes through the network by itself, with batch statistics of its own, as in
      ECN; the paper does not say, and `joint` passes both at once. The loss of equation 7 is the mean over all 32.
    - UDAP, which the paper follows, gives p = 1.6e-3, M = 4, k1 = 20 and k2 = 6; the paper does not name those of its
      tables. On other data eps is the one that leaves most clusters with M = 4, in each iteration, whatever M the rows
      cluster with; where p is swept, it is the share that gives an image as many neighbours. A share sets eps in the
      first iteration. We cluster Jaccard distances alone, of features that are not normalised.
    - Outliers of DBSCAN are left out of training until the next iteration, as in UDAP.
    - Centres of equation 4 are means of the members' features. Squared distances are at least 1 % of their mean, since
      an image at a centre would have an infinite weight. They count as if there were 2,048 channels, whatever the
      network. Weights stay fixed within an iteration.
    - LSR spreads 0.1 evenly; the paper does not say how much.
    - The attention has a 3x3 convolution per channel with stride 2, followed by a 1x1 one to half the channels. The
      last stride of the ResNet is 1.
    - Rows without the attention ("supervised", "direct transfer" and those of pseudo labels alone) have neither
      attention nor specific branch. "DSH+DSP" has two branches on the same maps, "DSH+DAAM" attention without the
      specific branch, whatever the text says of it.
    - Random cropping pads by 10 pixels. At most a fifth of an image is erased, as in SSG. The paper gives no
      parameters.
    - Weight decay is 5e-4, as in ECN and SSG; the paper names none.
    - Classifiers are linear without bias. That of the clusters is renewed in every iteration.
    - With fewer labelled images than a target batch has, a batch holds all of them; with fewer than two clusters,
      training stops as collapsed. The paper covers neither case.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from reproduce.artifacts import Training, snapshot
from reproduce.clustering import DBSCAN, OUTLIER, TopP
from reproduce.data.transforms import Augment, Erase
from reproduce.evaluation import Trained
from reproduce.stage import Env, role

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from methods.blocks.daam import Branches
    from methods.blocks.labels import PseudoLabels
    from reproduce.data.images import Resample

AUGMENT = Augment(erase=Erase(area=(0.02, 0.2), fill=(0.4914, 0.4822, 0.4465)))
"""Flip, crop and erasing with the area and fill of UDAP and SSG."""

MILESTONES = (61, 121, 181, 241)
"""First epochs after every 60."""


@dataclass(frozen=True)
class Smoothed:
    """Cross-entropy with the pseudo label, smoothed evenly (LSR)."""

    smoothing: float = 0.1
    """The fraction that is spread over all clusters; 0 for hard labels."""

    @property
    def detail(self) -> str:
        return f"LSR {self.smoothing:g}" if self.smoothing else "hard labels"

    def weights(self, features: Tensor, labels: NDArray[np.int64]) -> Tensor:
        """Compute weights (N, K); features (N, D) are not compared."""
        from methods.blocks.daam import smoothed_weights

        return smoothed_weights(labels, self.smoothing, features)


@dataclass(frozen=True)
class Soft:
    """Cross-entropy with weights that fall with the distance to each cluster's centre (equations 4 and 5)."""

    epsilon: float = 0.9
    """Smallest weight of the assigned cluster."""
    floor: float = 0.01
    """Smallest squared distance, as a fraction of the mean one."""
    unit: bool = False
    """Whether an image's weights are divided by their sum; as printed they depend on the features' scale instead."""
    channels: int = 2048
    """Squared distances count as if features had this many channels, those of ResNet-50: a narrow net's are sums of
    fewer, and would give other clusters a larger part of the weight."""

    @property
    def detail(self) -> str:
        return "soft labels"

    def weights(self, features: Tensor, labels: NDArray[np.int64]) -> Tensor:
        """Compute weights (N, K) of features (N, D), not normalised, with labels (N,); outliers have zeros."""
        from torch.nn.functional import normalize

        from methods.blocks.daam import soft_weights

        features = features * (self.channels / features.shape[1]) ** 0.5
        weights = soft_weights(features, labels, epsilon=self.epsilon, floor=self.floor)
        return normalize(weights, p=1) if self.unit else weights


@dataclass(frozen=True)
class Pretrain(Trained):
    """Train the shared branch on labelled images by cross-entropy alone (algorithm 1, step 1)."""

    source: Any
    """The labelled domain."""
    attention: bool = True
    """Whether there is an attention; the shared branch has all of the maps without."""
    seed: int = 1
    """Seeds initial weights, batches and augmentation."""
    backbone: str = role("backbone", "resnet50")
    """Either "resnet50" or "resnet50_ibn_a"."""
    weights: str | Trained | None = role("weights", "imagenet")
    """Initial weights of the backbone: published ones by name, a training that made them, or None for scratch."""
    stem_relu: bool = True
    """Whether the stem of the backbone ends in a ReLU."""
    last_stride: int = 1
    """Stride of the backbone's last layer; the paper does not say, and SSG and UDAP have 2."""
    input: tuple[int, int] = role("input", (384, 128))
    """Height and width in pixels."""
    resample: Resample = "bilinear"
    """How images are resized to `input`; bilinear in the code of ECN and SSG."""
    batch: int = role("images", 32)
    """Images per batch."""
    epochs: int = role("slow epochs", 260)
    """Epochs in total; those of an iteration, since the paper gives no number."""
    milestones: tuple[int, ...] = role("slow milestones", MILESTONES)
    """Epochs, counted from 1, from which the learning rates are multiplied by 0.1."""
    base_lr: float = role("slow lr", 3e-5)
    """Learning rate of the backbone (SGD); 1.5e-4 as printed."""
    lr: float = role("slow lr", 1.5e-4)
    """Learning rate of all other layers; 3e-5 as printed."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    augment: Augment = AUGMENT
    """Augmentation of the training images."""
    bn_group: int | None = None
    """Images that share batch statistics; None for the whole batch."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""
    eval_every: int = role("period", 20)
    """Epochs between two evaluations on the source."""

    @property
    def steady(self) -> bool:
        return True

    @property
    def labelled(self) -> Any:
        return self.source

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        return ((self.batch, self.bn_group),)

    @property
    def work(self) -> float:
        return 1000.0 * self.epochs

    @property
    def detail(self) -> str:
        return "attention" if self.attention else "no attention"

    def run(self, env: Env) -> Training:
        import torch
        from torch.nn.functional import cross_entropy

        from methods.blocks.daam import network
        from methods.blocks.precision import dtype_of
        from methods.blocks.schedules import warmup_steps
        from methods.blocks.steps import set_rates
        from reproduce.data.sampling import generator, shuffled_batches
        from reproduce.data.transforms import augment
        from reproduce.evaluation import Retrieval

        data = env.open(self.source)
        images, labels = self.images(data, env.device), torch.from_numpy(data.train_labels)
        retrieval = Retrieval.of(self, data, env.device)
        net = network(self, len(data.train_pids), env).to(env.device)
        dtype = dtype_of(self.precision)
        state = SimpleNamespace(net=net, optimizer=sgd(net, self))

        for epoch in env.epochs(self.epochs, state):
            rate = warmup_steps(epoch + 1, warmup=0, milestones=self.milestones)
            set_rates([state.optimizer], rate)
            batches = shuffled_batches(len(images), self.batch, seed=self.seed, epoch=epoch)
            losses, passed = [], []
            net.train()
            for step, (batch, pixels) in enumerate(zip(batches, images.batches(batches), strict=True)):
                inputs = augment(pixels, self.augment, generator(self.seed, "augment", epoch, step)).to(dtype)
                output = net(inputs)
                loss = cross_entropy(net.classifier(output.shared), labels[batch].to(env.device))
                state.optimizer.zero_grad()
                torch.autograd.backward(loss)
                state.optimizer.step()
                losses.append(loss.detach())
                passed.append(output.passed.mean())

            done = epoch + 1
            env.log(done, loss=torch.stack(losses), lr=self.lr * rate, images=len(batches) * self.batch)
            if self.attention:
                env.log(done, attention=torch.stack(passed))
            if done % self.eval_every == 0 or done == self.epochs:
                scores = retrieval.score(net.eval())
                env.log(done, mAP=scores.mAP, rank1=scores.rank1)

        return Training({"last": snapshot(net)}, {"classes": len(data.train_pids)})

    def embedder(self, training: Training, at: str) -> nn.Module:
        from methods.blocks.daam import network

        net = network(self, training.facts["classes"])
        net.load_state_dict(training.checkpoints[at])
        return net.eval()


@dataclass(frozen=True)
class Adapt(Trained):
    """Cluster the target, train both branches on both domains, repeat (algorithm 1, steps 2 to 6)."""

    version: ClassVar[int] = 2
    test_views: ClassVar[tuple[str, ...]] = ("specific",)

    init: Pretrain
    """The source model, whose domain stays labelled."""
    target: Any
    """The domain to adapt to. Its training labels only measure purity."""
    cluster: DBSCAN
    """DBSCAN on Jaccard distances; its rule `TopP` has the paper's p, its `min_samples` is M. With `MostClusters` eps
    is set again in every step."""
    loss: Smoothed | Soft = Soft()
    """How pseudo labels weigh clusters in the target's cross-entropy."""
    specific: bool = True
    """Whether the specific branch learns to tell the domains apart (L_DSP)."""
    individual: bool = False
    """Whether the specific branch has an attention of its own (IA) instead of what the shared one leaves."""
    seed: int = 1
    """Seeds classifiers, batches and augmentation."""
    k1: int = 20
    """k1 of the Jaccard distances; see `reproduce.neighbours.jaccard_graph`."""
    k2: int = 6
    """k2 of the Jaccard distances."""
    renew_eps: bool = False
    """Whether eps is set again in every step, not only in the first."""
    steps: int = role("rounds", 6)
    """Rounds of clustering and training, the paper's iterations."""
    epochs: int = role("slow epochs", 260)
    """Epochs of a step."""
    milestones: tuple[int, ...] = role("slow milestones", MILESTONES)
    """Epochs of a step, counted from 1, from which the learning rates are multiplied by 0.1."""
    source_batch: int = role("images", 16)
    """Source images per batch."""
    target_batch: int = role("images", 16)
    """Target images per batch."""
    base_lr: float = role("slow lr", 3e-5)
    """Learning rate of the backbone (SGD, re-created at each step); 1.5e-4 as printed."""
    lr: float = role("slow lr", 1.5e-4)
    """Learning rate of all other layers; 3e-5 as printed."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    augment: Augment = AUGMENT
    """Augmentation of both domains' training images."""
    joint: bool = False
    """Whether both domains pass through the network in one batch, source images first."""
    bn_group: int | None = None
    """Images that share batch statistics; None for those of `init`. With `joint`, running statistics are those of the
    first group, so with 16 of the source alone."""
    input: tuple[int, int] = role("input", (384, 128))
    """Height and width in pixels."""
    resample: Resample = "bilinear"
    """How images are resized to `input`."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""

    def __post_init__(self) -> None:
        """Reject a second attention where there is none, or nothing to attend to."""
        if self.individual and not (self.specific and self.init.attention):
            raise ValueError("an individual attention needs the specific branch, and a source model with an attention")

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        group = self.bn_group or self.init.bn_group
        if self.joint:
            return ((self.source_batch + self.target_batch, group),)
        return (self.source_batch, group), (self.target_batch, group)

    @property
    def work(self) -> float:
        return 2000.0 * self.steps * self.epochs

    @property
    def detail(self) -> str:
        rule = self.cluster.eps
        p = f", p {rule.p:g}" if isinstance(rule, TopP) else ""
        parts = ["specific branch"] * self.specific + ["IA"] * self.individual
        return f"{', '.join([self.loss.detail, *parts])}, M {self.cluster.min_samples}{p}"

    def run(self, env: Env) -> Training:
        import numpy as np
        import torch
        from torch.nn.functional import cross_entropy

        from methods.blocks.daam import Branches, domain_cross_entropy, soft_label_cross_entropy
        from methods.blocks.heads import in_precision, together
        from methods.blocks.labels import by_step, health
        from methods.blocks.norm import group_batch_norm
        from methods.blocks.precision import dtype_of
        from methods.blocks.schedules import warmup_steps
        from methods.blocks.steps import set_rates
        from reproduce.data.sampling import generator, shuffled_batches
        from reproduce.data.transforms import augment
        from reproduce.evaluation import Retrieval, embed

        source, target = env.open(self.init.source), env.open(self.target)
        images, others = self.images(source, env.device), self.images(target, env.device)
        identities, pids = torch.from_numpy(source.train_labels), [image.pid for image in target.train]
        retrieval = Retrieval.of(self, target, env.device)
        net = self.init.start_at(env.get(self.init), "last")
        assert isinstance(net, Branches)
        in_precision(net, self.precision).to(env.device)
        net.extend(individual=self.individual, seed=self.seed)
        group_batch_norm(net, self.bn_group or self.init.bn_group)
        dtype = dtype_of(self.precision)
        state = SimpleNamespace(net=net, optimizer=sgd(net, self), health={}, mAP={}, kept={}, eps=None)
        state.labels, state.weights = np.full(len(others), OUTLIER), torch.zeros(0, device=env.device)

        for at in env.epochs(self.steps * self.epochs, state):
            step, epoch = divmod(at, self.epochs)
            moment, done = f"step {step + 1}", at + 1
            if epoch == 0:
                before = state.labels if step else None
                features = embed(net.eval(), others, unit=False, pixels=self.pixels)
                guessed = self.guess(features, None if self.renew_eps else state.eps)
                state.labels, state.eps = guessed.kept, guessed.eps
                state.health[moment] = health(guessed.raw, guessed.kept, pids, before=before, eps=guessed.eps)
                env.log(done, **state.health[moment])
                if state.labels.max() < 1:
                    break
                state.weights = self.loss.weights(guessed.embeddings, state.labels)
                state.health[moment]["tail"] = tail(state.weights, state.labels)
                env.log(done, tail=state.health[moment]["tail"])
                net.renew_clusters(state.weights.shape[1], seed=self.seed)
                state.optimizer = sgd(net, self)
            rate = warmup_steps(epoch + 1, warmup=0, milestones=self.milestones)
            set_rates([state.optimizer], rate)
            labelled = np.flatnonzero(state.labels != OUTLIER)
            drawn = shuffled_batches(len(labelled), min(self.target_batch, len(labelled)), seed=self.seed, epoch=2 * at)
            guesses = [labelled[batch].tolist() for batch in drawn]
            batches = shuffled_batches(
                len(images), self.source_batch, seed=self.seed, epoch=2 * at + 1, iterations=len(guesses)
            )
            parts: list[dict[str, Tensor]] = []
            net.train()
            both = zip(batches, images.batches(batches), guesses, others.batches(guesses), strict=True)
            for iteration, (batch, pixels, guess, seen) in enumerate(both):
                inputs = augment(pixels, self.augment, generator(self.seed, "augment", at, iteration))
                views = augment(seen, self.augment, generator(self.seed, "augment target", at, iteration))
                domains = [inputs.to(dtype), views.to(dtype)]
                own, other = together(net, domains) if self.joint else map(net, domains)
                people = identities[batch].to(env.device)
                known = cross_entropy(net.classifier(own.shared), people, reduction="none")
                soft = soft_label_cross_entropy(net.clusters(other.shared), state.weights[guess])
                loss = torch.cat([known, soft]).mean()
                part = {"source": known.mean(), "target": soft.mean()}
                if self.specific:
                    part["domain"] = domain_cross_entropy(net.domains(own.specific), net.domains(other.specific)).mean()
                    loss = loss + part["domain"]
                if self.init.attention:
                    part |= {"attention": own.passed.mean(), "attention_target": other.passed.mean()}
                state.optimizer.zero_grad()
                torch.autograd.backward(loss)
                state.optimizer.step()
                parts.append({name: value.detach() for name, value in {"loss": loss, **part}.items()})

            means = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
            passes = len(guesses) * (self.source_batch + len(guesses[0]))
            env.log(done, **means, lr=self.lr * rate, images=passes)
            if epoch == self.epochs - 1:
                scores = retrieval.score(net.eval())
                env.log(done, mAP=scores.mAP, rank1=scores.rank1)
                state.mAP[moment], state.kept[moment] = scores.mAP, snapshot(net)

        return by_step(state, self.steps)

    def guess(self, features: Tensor, eps: float | None) -> PseudoLabels:
        """Cluster the shared features of the target's training images.

        Args:
            features: (N, C), not normalised.
            eps: DBSCAN's, from an earlier step; None to set it by the rule.
        """
        from methods.blocks.labels import PseudoLabels
        from reproduce.neighbours import jaccard_graph

        graph = jaccard_graph(features, self.k1, self.k2, variant="udap")
        eps = self.cluster.radius(graph, before=eps)
        labels = replace(self.cluster, eps=eps).labels(graph)
        return PseudoLabels(features, labels, labels, eps)

    def embedder(self, training: Training, at: str) -> nn.Module:
        return self._restored(training, at)

    def viewed(self, training: Training, at: str, view: str) -> nn.Module:
        from methods.blocks.daam import Specific

        return Specific(self._restored(training, at)).eval()

    def _restored(self, training: Training, at: str) -> Branches:
        """Restore the network of one moment with all of its classifiers, in evaluation mode."""
        from methods.blocks.daam import network
        from methods.blocks.heads import in_precision

        weights = training.checkpoints[at]
        net = network(self.init, len(weights["classifier.weight"]))
        net.extend(individual=self.individual, seed=self.seed)
        net.renew_clusters(len(weights["clusters.weight"]), seed=self.seed)
        in_precision(net, self.precision).load_state_dict(weights)
        return net.eval()


def tail(weights: Tensor, labels: NDArray[np.int64]) -> float:
    """Compute the percentage of all weights (N, K) that lies on other clusters than the labels (N,)."""
    import torch

    own = torch.from_numpy(labels.clip(0)).to(weights.device)
    return 100 * (1 - float(weights.gather(1, own[:, None]).sum() / weights.sum()))


def sgd(net: Branches, recipe: Pretrain | Adapt) -> Optimizer:
    """Make the optimiser: the backbone's parameters, then all others."""
    import torch

    from methods.blocks.steps import at_rates

    others = [parameter for name, parameter in net.named_parameters() if not name.startswith("backbone.")]
    groups = at_rates((recipe.base_lr, net.backbone.parameters()), (recipe.lr, others))
    return torch.optim.SGD(groups, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
