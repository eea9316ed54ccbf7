"""Joint visual and temporal consistency: one-hot labels in a batch, clusters over a memory, and times between cameras.

Paper: Li and Zhang, "Joint Visual and Temporal Consistency for Unsupervised Domain Adaptive Person Re-Identification"
    (ECCV 2020), called JVTC here; RAE quotes it and carries its losses.
Code: ljn114514/JVTC.
Deviates:
    - No camera-style images unless `styles` names them: the four views of a target image are four augmentations of the
      image itself. The published code translates it to four random cameras by a CycleGAN first.
    - Distances for clustering are averaged over both directions; the published code divides each row by its own largest
      distance, reads eps from the upper triangle and follows rows. Pairs without common neighbours are at distance 1.
    - The histogram has as many bins as the training images need, and the probability beyond them is 0. The published
      code has 3,000 bins and stops with an index error on Market-1501, whose gaps reach bin 4,274.
    - An epoch has a fixed number of iterations, a pass over the source. As published, target batches go on from epoch
      to epoch, pass after pass.
    - On MSMT17 an image has as many near images in each part of a day as in one of average size. Its published code is
      a fragment, without its test by joint similarity; here images of different parts of a day have a probability of 0.
    - On other data than the published, the rows search the eps with the most clusters of at least four images at each
      clustering; images left alone stay clusters of their own.
    - Networks are tested by visual similarity, as in the row that RAE quotes. The training also logs its test by joint
      similarity, with clusters of plain distances, as published, but of embeddings of the images as they are.
    - With fewer than two clusters training stops as collapsed, which the published code does not cover.
    - Random erasing tries at most 20 rectangles per image; the published code tries up to 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from methods.guests import Labeller, View
from reproduce.artifacts import Training, snapshot
from reproduce.clustering import DBSCAN, Rho
from reproduce.data.transforms import Augment, Erase
from reproduce.dataset import Sightings
from reproduce.errors import UserError
from reproduce.evaluation import Seen, Trained
from reproduce.stage import Env, added, role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from methods.blocks.heads import Output, ReID
    from methods.blocks.jvtc import Bank, Moments
    from reproduce.data.images import Resample

BLOCK = 64
"""Rows of joint distances that are computed at a time."""


@dataclass(frozen=True)
class Clock:
    """How the frame numbers of a data set tell the time."""

    bin: int = 100
    """Frames per bin of the histogram."""
    sequences: Literal["", "joined", "apart"] = ""
    """How numbered sequences relate: "joined" if those of a camera follow each other and frames restart in each
    (Market-1501); "apart" if times in two of them cannot be compared (parts of days, MSMT17); empty to ignore them."""

    def offsets(self, known: Sightings) -> NDArray[np.int64]:
        """Compute the first frames (cameras, sequences + 1) of sequences from training images.

        Raises:
            UserError: an image has no frame number, or no sequence where sequences matter.
        """
        import numpy as np

        from methods.blocks.jvtc import offsets

        self.check(known, "training")
        return offsets(known) if self.sequences == "joined" else np.zeros((int(known.camids.max()) + 1, 1), np.int64)

    def moments(self, seen: Sightings | Seen, begins: NDArray[np.int64]) -> Moments:
        """Place images in time, by the `offsets` of the training images."""
        import numpy as np

        from methods.blocks.jvtc import Moments, placed

        apart = seen.sequences if self.sequences == "apart" else np.zeros_like(seen.sequences)
        return Moments(seen.camids, placed(seen, begins), apart)

    def check(self, seen: Sightings | Seen, what: str) -> None:
        """Raise a `UserError` if an image has no time."""
        missing = (seen.frames < 0) | ((seen.sequences < 0) & bool(self.sequences))
        if missing.any():
            number = "frame number or sequence" if self.sequences else "frame number"
            raise UserError(
                f"{int(missing.sum()):,} of {len(missing):,} {what} images have no {number} in their names, which "
                "joint similarity needs: take Market-1501, DukeMTMC-reID or MSMT17 with their published names, or "
                "clock=None for visual similarity alone"
            )


@dataclass(frozen=True)
class LocalGlobal(Labeller):
    """Classify four views of every target image within the batch, and among the clusters of a memory of all images."""

    views: ClassVar[tuple[View, ...]] = ("augmented",) * 4

    cluster: DBSCAN = DBSCAN(Rho(), min_samples=1)
    """Clusters k-reciprocal distances of the memory; eps is computed anew each time."""
    joint_cluster: DBSCAN | None = None
    """The same while times are used; None for `cluster`."""
    clock: Clock | None = Clock()
    """How frames tell the time; None to use visual similarity alone."""
    epochs: int = role("epochs", 100)
    """Epochs of the host's training."""
    every: int = role("epochs", 5)
    """Epochs between two clusterings."""
    first: float = 0.09
    """Fraction of the training before the first clustering, at least an epoch; the global loss starts there."""
    joint: float = 0.3
    """Fraction of the training from which clusters are of visual and temporal similarity."""
    local_temperature: float = 0.1
    """Temperature of the local loss."""
    global_temperature: float = 0.05
    """Temperature of the global loss."""
    weight: float = 0.2
    """Weight of the global loss."""
    most: float = 0.8
    """Largest fraction of itself that an entry of the memory keeps at a visit; up to it the fraction is the age of the
    training, epoch / `epochs`."""
    unit: bool = False
    """Whether entries are scaled to length 1 after each visit, as in the code for MSMT17."""
    k1: int = 20
    """k1 of the distances; see `reproduce.neighbours.reciprocal_graph`."""
    k2: int = 6
    """k2 of the distances."""
    visual_lambda: float = 0.3
    """Weight of the original distance where it is visual."""
    joint_lambda: float = 0.5
    """Weight of the original distance where it is joint."""
    neck: bool = added(False)
    """Whether to normalise features over the views of a batch first, for a host whose network has no neck."""

    @property
    def detail(self) -> str:
        return "JVTC" if self.clock else "JVTC, visual"

    @property
    def begins(self) -> int:
        """Return the epoch of the first clustering, counted from 1: the bank is filled before."""
        return 1 + max(1, round(self.first * self.epochs))

    def start(self, net: ReID, target: Sightings, seed: int) -> nn.Module:
        """Make the memory bank, as wide as the network's embedding."""
        from methods.blocks.jvtc import Bank

        if self.clock:
            self.clock.check(target, "training")
        like = net.classifier.weight
        bank = Bank(target.images, net.channels, seed=seed)
        bank.entries = bank.entries.to(like)
        return bank.to(like.device)

    def relabel(self, head: nn.Module, epoch: int, embed: Callable[[], Tensor], target: Sightings) -> None:
        """Cluster the memory in the epochs `begins`, `begins` + `every`, and so on."""
        import torch

        bank: Bank = head  # type: ignore[assignment]
        bank.epoch.fill_(epoch + 1)
        since = epoch + 1 - self.begins
        if since >= 0 and since % self.every == 0:
            labels = self.guess(bank.entries, target, joint=epoch + 1 >= round(self.joint * self.epochs))
            bank.labels = torch.from_numpy(labels).to(bank.labels.device)

    def guess(self, entries: Tensor, target: Sightings, *, joint: bool) -> NDArray[np.int64]:
        """Cluster entries (N, D) by visual or joint similarity; the labels (N,) have no outliers."""
        import numpy as np

        from methods.blocks.jvtc import histogram, joint_distance, probabilities, sequence_by_sequence
        from reproduce.neighbours import distances, reciprocal_graph

        rows = entries.float().cpu()

        def visual(own: NDArray[np.int64], cluster: DBSCAN) -> NDArray[np.int64]:
            far = np.concatenate(list(distances(rows[own], rows[own], "euclidean")))
            return cluster.labels(reciprocal_graph(far, self.k1, self.k2, self.visual_lambda))

        if not joint or self.clock is None:
            return visual(np.arange(len(rows)), self.cluster)
        clock, cluster = self.clock, self.joint_cluster or self.cluster
        begins = clock.offsets(target)
        moments = clock.moments(target, begins)

        def jointly(own: NDArray[np.int64]) -> NDArray[np.int64]:
            mine = type(moments)(*(values[own] for values in moments))
            times = histogram(mine, visual(own, cluster), len(begins), clock.bin)
            times = times.astype(np.float32)
            far = (rows[own] @ rows[own].T).numpy()
            for at in range(0, len(own), BLOCK):
                part = type(mine)(*(values[at : at + BLOCK] for values in mine))
                far[at : at + BLOCK] = joint_distance(far[at : at + BLOCK], probabilities(times, clock.bin, part, mine))
            return cluster.labels(reciprocal_graph(far, self.k1, self.k2, self.joint_lambda))

        return sequence_by_sequence(moments.sequences, jointly)

    def share(self, head: nn.Module, other: nn.Module) -> None:
        """Copy clusters and epoch."""
        first: Bank = head  # type: ignore[assignment]
        second: Bank = other  # type: ignore[assignment]
        second.epoch.copy_(first.epoch)
        second.labels.copy_(first.labels)

    def positives(self, head: nn.Module, indices: Tensor) -> Tensor:
        """Return the images of the same cluster."""
        bank: Bank = head  # type: ignore[assignment]
        same: Tensor = bank.labels[indices, None] == bank.labels
        return same

    def shown(self, outputs: Sequence[Output]) -> Sequence[Tensor]:
        """Return the embeddings (B, D) of each view."""
        import torch
        from torch.nn import functional as F

        views = [output.embedding for output in outputs]
        if not self.neck:
            return views
        return F.batch_norm(torch.cat(views), None, None, training=True).chunk(len(views))

    def loss(
        self, head: nn.Module, outputs: Sequence[Output], indices: Tensor, positives: Tensor | None = None
    ) -> Tensor:
        """Compute the local loss and, once there are clusters, the weighted global one."""
        from methods.blocks.jvtc import global_loss, local_loss

        bank: Bank = head  # type: ignore[assignment]
        views = self.shown(outputs)
        loss = local_loss(views, self.local_temperature)
        if int(bank.epoch) < self.begins:
            return loss
        if positives is None:
            positives = self.positives(head, indices)
        return loss + self.weight * global_loss(views, bank.entries, positives, self.global_temperature)

    def update(self, head: nn.Module, outputs: Sequence[Output], indices: Tensor) -> None:
        """Move the entries of the batch towards the means of its views, those of the pass before the step."""
        from methods.blocks.jvtc import mean_of_views

        bank: Bank = head  # type: ignore[assignment]
        kept = min(int(bank.epoch) / self.epochs, self.most)
        bank.visit(indices, mean_of_views(self.shown(outputs)), kept, unit=self.unit)

    def health(self, head: nn.Module, pids: Sequence[int]) -> dict[str, float]:
        """Measure the clusters; empty before the first clustering."""
        from methods.blocks.labels import health

        bank: Bank = head  # type: ignore[assignment]
        labels = bank.labels.cpu().numpy()
        return health(labels, labels, pids) if int(bank.epoch) >= self.begins else {}


@dataclass(frozen=True)
class Joint:
    """A test distance from visual similarity and the time between two images, for `Evaluate(distance=...)`."""

    clock: Clock = Clock()
    """How frames tell the time, as in the training."""

    def blocks(self, training: Training, query: Seen, gallery: Seen) -> Iterator[NDArray[Any]]:
        """Yield joint distances (B, G) by the histogram that the training kept.

        Raises:
            UserError: test images have no times.
        """
        import numpy as np

        from methods.blocks.jvtc import joint_distance, probabilities

        for seen, what in ((query, "query"), (gallery, "gallery")):
            self.clock.check(seen, what)
        times, begins = (training.checkpoints["last"][f"times.{name}"].numpy() for name in ("histogram", "offsets"))
        there = self.clock.moments(gallery, begins)
        here = self.clock.moments(query, begins)
        for at in range(0, len(here.frames), BLOCK):
            own = type(here)(*(values[at : at + BLOCK] for values in here))
            similarities = (query.embeddings[at : at + BLOCK] @ gallery.embeddings.T).float().cpu().numpy()
            yield joint_distance(similarities, probabilities(times, self.clock.bin, own, there)).astype(np.float32)


@dataclass(frozen=True)
class Adapt(Trained):
    """Train with labels on the source and by local and global losses on the target, from published weights."""

    version: ClassVar[int] = 2

    source: Any
    """The labelled domain."""
    target: Any
    """The domain to adapt to. Its training labels only measure purity."""
    memory: LocalGlobal = LocalGlobal()
    """The losses on target images."""
    seed: int = 1
    """Seeds initial weights, batches and augmentation."""
    backbone: str = role("backbone", "resnet50")
    """Either "resnet50" or "resnet50_ibn_a"."""
    weights: str | Trained | None = role("weights", "imagenet")
    """Initial weights of the backbone: published ones by name, a training that made them, or None for scratch."""
    stem_relu: bool = True
    """Whether the stem of the backbone ends in a ReLU."""
    last_stride: int = 1
    """Stride of the backbone's last layer."""
    width: int = role("width", 512)
    """Width of the embedding."""
    input: tuple[int, int] = role("input", (256, 128))
    """Height and width in pixels."""
    resample: Resample = "bilinear"
    """How images are resized to `input`."""
    batch: int = role("images", 128)
    """Source images per batch."""
    target_batch: int = role("images", 32)
    """Target images per batch, each in four views."""
    epochs: int = role("epochs", 100)
    """Epochs in total, as in `memory`."""
    iterations: int = role("iterations", 101)
    """Batches per epoch; a pass over Market-1501 has 101."""
    milestones: tuple[int, ...] = role("milestones", (40, 80))
    """Epochs, counted from 1, from which the learning rates are multiplied by 0.1."""
    backbone_lr: float = role("lr", 0.01)
    """Learning rate of the backbone, by SGD with Nesterov's momentum of 0.9."""
    head_lr: float = role("lr", 0.1)
    """Learning rate of embedding and classifier."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    augment: Augment = Augment(pad=0, erase=Erase(area=(0.02, 0.2), aspect=(0.3, 3.0)))
    """Augmentation of all training images."""
    bn_group: int | None = 64
    """Images that share batch statistics; None for all of a pass. 64 is the batch on each of the published code's two
    GPUs."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""
    styles: tuple[Any, ...] = added(())
    """The target's training images in the style of each camera (`cyclegan.camera_styles`), of which each view shows
    another; empty to show images as they are."""
    eval_every: int = role("period", 20)
    """Epochs between two evaluations on the target, for the curve alone."""

    @property
    def labelled(self) -> Any:
        return self.source

    @property
    def images_an_epoch(self) -> int:
        """Count the images that pass through the network in an epoch, every view included."""
        return self.iterations * (self.batch + len(self.memory.views) * self.target_batch)

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        return ((self.batch, self.bn_group), (self.target_batch * len(self.memory.views), self.bn_group))

    @property
    def work(self) -> float:
        return float(self.epochs * self.images_an_epoch)

    def run(self, env: Env) -> Training:
        import torch

        from methods.blocks.heads import detached, in_views
        from methods.blocks.losses import smoothed_cross_entropy
        from methods.blocks.precision import dtype_of
        from methods.blocks.schedules import warmup_steps
        from methods.blocks.steps import descend, set_rates
        from methods.blocks.styles import in_styles
        from reproduce.data.sampling import generator, ongoing_batches, shuffled_batches
        from reproduce.data.transforms import augment
        from reproduce.evaluation import Retrieval, embed

        data = [env.open(domain) for domain in (self.source, self.target)]
        images = [self.images(domain, env.device) for domain in data]
        styles = [self.images(env.open(style), env.device) for style in self.styles]
        retrieval = Retrieval.of(self, data[1], env.device)
        labels, classes = torch.from_numpy(data[0].train_labels), len(data[0].train_pids)
        pids = [image.pid for image in data[1].train]
        sightings, dtype = Sightings.of(data[1].train), dtype_of(self.precision)

        def embeddings() -> Tensor:
            return embed(net.eval(), images[1], pixels=self.pixels)

        net = self.network(classes, env).to(env.device)
        head = self.memory.start(net, sightings, self.seed)
        optimizer = self.optimizer(net)
        state = SimpleNamespace(net=net, head=head, optimizer=optimizer, health={})

        for epoch in env.epochs(self.epochs, state):
            done = epoch + 1
            self.memory.relabel(head, epoch, embeddings, sightings)
            state.health = self.memory.health(head, pids)
            env.log(done, **state.health)
            if state.health.get("clusters", 2) < 2:
                state.health["collapsed"] = f"one cluster of {len(pids)} images at epoch {done}"
                break
            rate = warmup_steps(done, warmup=0, milestones=self.milestones)
            set_rates([optimizer], rate)
            place: Any = {"seed": self.seed, "iterations": self.iterations}
            batches = [
                shuffled_batches(len(images[0]), self.batch, epoch=2 * epoch, **place),
                ongoing_batches(len(images[1]), self.target_batch, stream=1, epoch=epoch, **place),
            ]
            net.train()
            losses, parts = [], []
            count = len(self.memory.views)
            shown: Iterator[list[Tensor]] = ([seen] * count for seen in images[1].batches(batches[1]))
            if styles:
                shown = in_styles(styles, batches[1], views=count, seed=self.seed, epoch=epoch)
            for step, (known, several) in enumerate(zip(images[0].batches(batches[0]), shown, strict=True)):
                draws = generator(self.seed, "augment", 0, epoch, step)
                logits = net(augment(known, self.augment, draws).to(dtype)).logits
                views = [
                    augment(seen, self.augment, generator(self.seed, "augment", 1, epoch, step, number)).to(dtype)
                    for number, seen in enumerate(several)
                ]
                outputs = in_views(net, views)
                indices = torch.tensor(batches[1][step], device=env.device)
                part = self.memory.loss(head, outputs, indices)
                own = labels[batches[0][step]].to(env.device)
                loss = smoothed_cross_entropy(logits, own, 0.0) + part
                descend(loss, optimizer)
                self.memory.update(head, detached(outputs), indices)
                losses.append(loss.detach())
                parts.append(part.detach())

            lr = rate * self.backbone_lr
            env.log(done, loss=torch.stack(losses), objective=torch.stack(parts), lr=lr, images=self.images_an_epoch)
            if done % self.eval_every == 0 or done == self.epochs:
                scores = retrieval.score(net.eval())
                env.log(done, mAP=scores.mAP, rank1=scores.rank1)

        kept = dict(snapshot(net))
        if clock := self.memory.clock:
            kept |= self.times(clock, embeddings(), sightings)
            ways: Any = {"flip": False, "rerank": None, "distance": Joint(clock)}
            scores = retrieval.score_distances(retrieval.ranking(net, Training({"last": kept}), **ways))
            env.log(done, joint_mAP=scores.mAP, joint_rank1=scores.rank1)
        return Training({"last": kept}, {"classes": classes, "health": {"last": state.health}})

    def times(self, clock: Clock, embeddings: Tensor, target: Sightings) -> dict[str, Tensor]:
        """Learn the times between cameras from clusters of embeddings (N, D) of length 1, for tests by `Joint`."""
        import torch

        from methods.blocks.jvtc import histogram, sequence_by_sequence
        from reproduce.neighbours import cosine_graph

        cluster = self.memory.joint_cluster or self.memory.cluster

        def clustered(own: NDArray[np.int64]) -> NDArray[np.int64]:
            return cluster.labels(cosine_graph(embeddings[own], **cluster.reach(len(own))))

        begins = clock.offsets(target)
        moments = clock.moments(target, begins)
        labels = sequence_by_sequence(moments.sequences, clustered)
        learnt = histogram(moments, labels, len(begins), clock.bin)
        return {"times.histogram": torch.from_numpy(learnt).float(), "times.offsets": torch.from_numpy(begins)}

    def network(self, classes: int, env: Env | None = None) -> ReID:
        """Build the network; `env` provides initial weights."""
        from methods.blocks.heads import network
        from methods.blocks.jvtc import Classifier, Embedding
        from methods.blocks.norm import group_batch_norm

        net = network(self, classes, env, neck=False)
        embedding = group_batch_norm(Embedding(net.channels, self.width, seed=self.seed), self.bn_group)
        net.neck = embedding.to(net.classifier.weight)
        net.classifier = Classifier(self.width, classes, seed=self.seed).to(net.classifier.weight)
        net.channels = self.width
        return net

    def optimizer(self, net: ReID) -> Optimizer:
        """Make the optimiser: SGD with Nesterov's momentum of 0.9."""
        import torch

        from methods.blocks.steps import at_rates

        heads = [*net.neck.parameters(), *net.classifier.parameters()]
        groups = at_rates((self.backbone_lr, net.backbone.parameters()), (self.head_lr, heads))
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=self.weight_decay, nesterov=True)

    def embedder(self, training: Training, at: str) -> nn.Module:
        net = self.network(training.facts["classes"])
        weights = training.checkpoints[at]
        net.load_state_dict({name: weight for name, weight in weights.items() if not name.startswith("times.")})
        return net.eval()
