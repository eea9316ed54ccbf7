"""Multi-label classification with a memory: every target image is a class, and similar images share their classes.

Paper: Wang and Zhang, "Unsupervised Person Re-identification via Multi-label Classification" (CVPR 2020), called MMCL
    here; RAE quotes it and carries its loss.
Code: kennethwdk/MLCReID, which has no labelled source.
Deviates:
    - The published code trains on the target alone. Here source images, drawn uniformly, add a cross-entropy of weight
      1 on a classifier behind the same neck, in a batch of their own; running batch statistics follow both domains.
    - No camera-style images unless `styles` names them: the published code shows each image as translated to a random
      camera by a CycleGAN.
    - A crop after padding by 10 pixels replaces the crop of 64 to 100 % of the area, and no image is rotated.
    - An incomplete last batch of a pass is dropped; the published code keeps it.
    - The rows use as many hardest negatives as the printed fraction gives on the published set, on other data too.
    - The hardest negatives are at least one; the published code has none among fewer than 100 and is then undefined.
    - The last network is kept; the published code keeps the best on the target's test images.
    - The mAP averages the precision at each match; the published code takes the area by trapezoids, which is lower.
    - Random erasing tries at most 20 rectangles per image; the published code tries up to 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from methods.guests import Labeller, View
from reproduce.artifacts import Training, snapshot
from reproduce.data.transforms import Augment, Colour, Distort, Erase
from reproduce.dataset import Sightings
from reproduce.evaluation import Trained
from reproduce.stage import Env, added, role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from methods.blocks.heads import Output, ReID
    from methods.blocks.mmcl import Memory


@dataclass(frozen=True)
class MultiLabel(Labeller):
    """Classify every target image as itself and as the images that it is predicted to show the same person as."""

    views: ClassVar[tuple[View, ...]] = ("augmented",)

    epochs: int = role("epochs", 60)
    """Epochs of the host's training."""
    single: float = 0.1
    """Fraction of the training, at least an epoch, in which an image has only its own label."""
    alpha: float = 0.5
    """Fraction of itself that a slot keeps at a visit: it rises linearly from 0 to this at the end of the training."""
    threshold: float = 0.6
    """Similarity t above which images may share labels."""
    least: int = 10
    """Fewest candidates of label prediction; not in the paper, from its code."""
    delta: float = 5.0
    """Weight of the positives."""
    hardest: float = 0.01
    """Fraction r of the negatives that are used."""
    neck: bool = False
    """Whether to normalise features over the batch first, for a host whose network has no neck."""
    hardest_of: int | None = added(None)
    """Number of images `hardest` was chosen for, so that as many negatives are used for any number; None to use it
    unchanged."""

    @property
    def detail(self) -> str:
        return "MMCL"

    def start(self, net: ReID, target: Sightings, seed: int) -> nn.Module:
        """Make the memory."""
        from methods.blocks.mmcl import Memory

        like = net.classifier.weight
        memory = Memory(target.images, net.channels, neck=self.neck)
        memory.slots = memory.slots.to(like)
        return memory.to(like.device)

    def relabel(self, head: nn.Module, epoch: int, embed: Callable[[], Tensor], target: Sightings) -> None:
        """Remember the epoch; labels are predicted at each step."""
        memory: Memory = head  # type: ignore[assignment]
        memory.epoch.fill_(epoch)

    def share(self, head: nn.Module, other: nn.Module) -> None:
        """Copy the epoch."""
        first: Memory = head  # type: ignore[assignment]
        second: Memory = other  # type: ignore[assignment]
        second.epoch.copy_(first.epoch)

    def positives(self, head: nn.Module, indices: Tensor) -> Tensor:
        """Predict labels from the memory as it is before the step."""
        import torch

        from methods.blocks.mmcl import predict

        memory: Memory = head  # type: ignore[assignment]
        if int(memory.epoch) >= max(1, round(self.single * self.epochs)):
            return predict(memory.slots, indices, self.threshold, self.least)
        images = torch.arange(len(memory.slots), device=indices.device)
        return images == indices[:, None]

    def loss(
        self, head: nn.Module, outputs: Sequence[Output], indices: Tensor, positives: Tensor | None = None
    ) -> Tensor:
        """Compute the loss on embeddings; the memory gets no gradient."""
        from methods.blocks.mmcl import multi_label_loss
        from reproduce.clustering import of_pairs

        memory: Memory = head  # type: ignore[assignment]
        if positives is None:
            positives = self.positives(head, indices)
        similarities = memory.embed(outputs[0].embedding) @ memory.slots.T.clone()
        hardest = of_pairs(self.hardest, self.hardest_of, len(memory.slots))
        return multi_label_loss(similarities, positives, self.delta, hardest)

    def update(self, head: nn.Module, outputs: Sequence[Output], indices: Tensor) -> None:
        """Move the slots of the batch towards its embeddings, those of the pass before the step."""
        from methods.blocks.memory import update_each

        memory: Memory = head  # type: ignore[assignment]
        kept = self.alpha * int(memory.epoch) / self.epochs
        update_each(memory.slots, indices, memory.embed(outputs[0].embedding), kept)


@dataclass(frozen=True)
class Adapt(Trained):
    """Train with labels on the source and by multi-label classification on the target, from published weights."""

    bn_group: ClassVar[None] = None

    source: Any
    """The labelled domain."""
    target: Any
    """The domain to adapt to. Its training labels only measure predicted ones."""
    memory: MultiLabel = MultiLabel()
    """The loss on target images."""
    source_weight: float = 1.0
    """Weight of the cross-entropy on the source; not in the paper."""
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
    input: tuple[int, int] = role("input", (256, 128))
    """Height and width in pixels."""
    batch: int = role("images", 128)
    """Images per batch of each domain."""
    epochs: int = role("epochs", 60)
    """Epochs in total, as in `memory`."""
    iterations: int = role("iterations", 101)
    """Batches per epoch; a pass over Market-1501 has 101."""
    milestones: tuple[int, ...] = role("milestones", (41,))
    """Epochs, counted from 1, from which the learning rates are multiplied by 0.1."""
    backbone_lr: float = role("lr", 0.01)
    """Learning rate of the backbone, by SGD with Nesterov's momentum of 0.9."""
    head_lr: float = role("lr", 0.1)
    """Learning rate of neck and classifier."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    augment: Augment = Distort(
        erase=Erase(area=(0.02, 0.2), aspect=(0.3, 3.0)), colour=Colour(1.0, 0.2, 0.2, 0.2, hue=0.0, grey=0.0)
    )
    """Augmentation of all training images."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""
    styles: tuple[Any, ...] = added(())
    """The target's training images in the style of each camera (`cyclegan.camera_styles`), of which a random one is
    shown; empty to show images as they are."""
    eval_every: int = role("period", 20)
    """Epochs between two evaluations on the target, for the curve alone."""

    @property
    def labelled(self) -> Any:
        return self.source

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        return ((self.batch, None),)

    @property
    def work(self) -> float:
        return float(self.epochs * self.iterations * 2 * self.batch)

    def run(self, env: Env) -> Training:
        import numpy as np
        import torch

        from methods.blocks.heads import BeforeNeck, detached
        from methods.blocks.labels import health_of_positives
        from methods.blocks.losses import smoothed_cross_entropy
        from methods.blocks.precision import dtype_of
        from methods.blocks.schedules import warmup_steps
        from methods.blocks.steps import descend, set_rates
        from methods.blocks.styles import in_styles
        from reproduce.data.sampling import generator, shuffled_batches
        from reproduce.data.transforms import augment
        from reproduce.evaluation import Retrieval, embed

        data = [env.open(domain) for domain in (self.source, self.target)]
        images = [self.images(domain, env.device) for domain in data]
        styles = [self.images(env.open(style), env.device) for style in self.styles]
        retrieval = Retrieval.of(self, data[1], env.device)
        labels, classes = torch.from_numpy(data[0].train_labels), len(data[0].train_pids)
        pids = torch.from_numpy(np.array([image.pid for image in data[1].train])).to(env.device)
        sightings, dtype = Sightings.of(data[1].train), dtype_of(self.precision)

        net = self.network(classes, env).to(env.device)
        head = self.memory.start(net, sightings, self.seed)
        optimizer = self.optimizer(net)
        state = SimpleNamespace(net=net, head=head, optimizer=optimizer, health={})

        for epoch in env.epochs(self.epochs, state):
            done = epoch + 1
            rate = warmup_steps(done, warmup=0, milestones=self.milestones)
            set_rates([optimizer], rate)
            self.memory.relabel(head, epoch, lambda: embed(net.eval(), images[1], pixels=self.pixels), sightings)
            place: Any = {"seed": self.seed, "iterations": self.iterations}
            batches = [
                shuffled_batches(len(of), self.batch, epoch=2 * epoch + at, **place) for at, of in enumerate(images)
            ]
            net.train()
            values: list[dict[str, Tensor]] = []
            streams = [of.batches(batch) for of, batch in zip(images, batches, strict=True)]
            if styles:
                shown = in_styles(styles, batches[1], views=1, seed=self.seed, epoch=epoch)
                streams[1] = (view for [view] in shown)
            for step, pixels in enumerate(zip(*streams, strict=True)):
                known, seen = (
                    net(augment(shown, self.augment, generator(self.seed, "augment", at, epoch, step)).to(dtype))
                    for at, shown in enumerate(pixels)
                )
                indices = torch.tensor(batches[1][step], device=env.device)
                positives = self.memory.positives(head, indices)
                part = self.memory.loss(head, [seen], indices, positives)
                own = labels[batches[0][step]].to(env.device)
                loss = self.source_weight * smoothed_cross_entropy(known.logits, own, 0.0) + part
                descend(loss, optimizer)
                self.memory.update(head, detached([seen]), indices)
                values.append(
                    {"loss": loss.detach(), "objective": part.detach(), **health_of_positives(positives, indices, pids)}
                )

            means = {name: torch.stack([each[name] for each in values]) for name in values[0]}
            env.log(done, **means, lr=rate * self.backbone_lr, images=2 * self.iterations * self.batch)
            state.health = {name: float(mean.mean()) for name, mean in means.items() if name in ("positives", "purity")}
            if done % self.eval_every == 0 or done == self.epochs:
                scores = retrieval.score(BeforeNeck(net.eval()))
                env.log(done, mAP=scores.mAP, rank1=scores.rank1)

        return Training({"last": snapshot(net)}, {"classes": classes, "health": {"last": state.health}})

    def network(self, classes: int, env: Env | None = None) -> ReID:
        """Build the network, whose neck has a bias that learns; `env` provides initial weights."""
        from methods.blocks.heads import network

        net = network(self, classes, env)
        return net.requires_grad_(True)

    def optimizer(self, net: ReID) -> Optimizer:
        """Make the optimiser: SGD with Nesterov's momentum of 0.9."""
        import torch

        from methods.blocks.steps import at_rates

        heads = [*net.neck.parameters(), *net.classifier.parameters()]
        groups = at_rates((self.backbone_lr, net.backbone.parameters()), (self.head_lr, heads))
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=self.weight_decay, nesterov=True)

    def start(self, training: Training, at: str) -> nn.Module:
        from methods.blocks.heads import restored

        return restored(self, training, at)

    def embedder(self, training: Training, at: str) -> nn.Module:
        """Restore the network up to its neck."""
        from methods.blocks.heads import BeforeNeck

        net: Any = self.start(training, at)
        return BeforeNeck(net).eval()
