"""Self-supervised pre-training on the target domain: a source model that also learns from unlabelled target images.

Paper: Zhang et al., "Self-Supervised Pre-training on the Target Domain for Cross-Domain Person Re-identification"
    (ACM MM 2021), section 3. SPTD here.
Code: none was found; where the paper refers to MMT, yxgeee/MMT.
Deviates:
    - Network, source loss and schedule are MMT's, since "details are consistent with MMT": ImageNet weights, the stem
      without ReLU, a neck, label smoothing, softmax-triplet, 100 iterations an epoch, a warm-up over 10 epochs.
    - A target batch is 64 images drawn evenly, each at most once a pass; the paper samples them "from T".
    - The original image is resized and normalised only. Strengths of the four augmentations are not given: flip,
      crop and erasing are MMT's, colour distortion is SimCLR's at strength 0.5.
    - Nothing says whether the original's distribution R is learnt through; it is not (`Index(detach=False)` does).
    - L_idx has no label smoothing, although the paper writes it as the source's cross-entropy.
    - Source images pass the network in one batch and both target views in another, as algorithm 1 feeds them; `joint`
      puts all in one. Batch statistics are those of 16 images, of which MMT's four devices have each.
    - The index classifier is linear without bias on the embedding, from N(0, 0.001) like MMT's, and dropped at the end.
    - Kept are the last network and the best on the source, as MMT keeps it; the paper names no selection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from methods.guests import Guest, View
from reproduce.artifacts import Training, snapshot
from reproduce.data.transforms import Augment, Colour, Distort, Erase
from reproduce.dataset import Sightings
from reproduce.evaluation import Trained
from reproduce.stage import Env, role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from methods.blocks.heads import Output, ReID


@dataclass(frozen=True)
class Index(Guest):
    """Every target image is a class of its own, and an augmented image is classified as its original is.

    Attributes:
        original: whether the original learns its index (L_idx, equation 1).
        consistency: whether the augmented image follows the original (L_SPTD, equation 2).
        smoothing: of the labels in L_idx.
        detach: whether the original is left alone by L_SPTD, so that only the augmented image learns from it.
    """

    views: ClassVar[tuple[View, ...]] = ("plain", "augmented")

    original: bool = True
    consistency: bool = True
    smoothing: float = 0.0
    detach: bool = True

    def __post_init__(self) -> None:
        """Refuse a loss of nothing."""
        if not (self.original or self.consistency):
            raise ValueError("an index objective without both its losses is none: give objective=None instead")

    @property
    def detail(self) -> str:
        return " + ".join(["idx"] * self.original + ["SPTD"] * self.consistency)

    def start(self, net: ReID, target: Sightings, seed: int) -> nn.Module:
        """The index classifier, one row an image."""
        from methods.blocks.contrast import index_classifier

        return index_classifier(net, target.images, seed=seed)

    def loss(self, head: nn.Module, outputs: Sequence[Output], indices: Tensor) -> Tensor:
        """Equations 1 and 2, as far as they are asked for."""
        from methods.blocks.contrast import divergence
        from methods.blocks.losses import smoothed_cross_entropy

        first, second = outputs
        logits = head(first.embedding)
        losses = []
        if self.original:
            losses.append(smoothed_cross_entropy(logits, indices, self.smoothing))
        if self.consistency:
            losses.append(divergence(logits.detach() if self.detach else logits, head(second.embedding)))
        return sum(losses[1:], losses[0])


@dataclass(frozen=True)
class Views:
    """Which augmentations an augmented view has (table 6)."""

    flip: bool = True
    """RF, for posture."""
    crop: bool = True
    """RC, for imperfect detection."""
    erase: bool = True
    """RE, for occlusion."""
    colour: bool = True
    """CD, for illumination."""

    def of(self, full: Distort) -> Distort:
        """What is left of the full recipe."""
        return replace(
            full,
            flip=full.flip if self.flip else 0.0,
            pad=full.pad if self.crop else 0,
            erase=full.erase if self.erase else None,
            colour=full.colour if self.colour else None,
        )

    @property
    def detail(self) -> str:
        ticks = {"RF": self.flip, "RE": self.erase, "CD": self.colour, "RC": self.crop}
        return " ".join(name for name, ticked in ticks.items() if ticked)


FULL = Distort(erase=Erase(), colour=Colour())
"""All four augmentations: p 0.5, padding 10, and the defaults of erasing and colour distortion."""


@dataclass(frozen=True)
class Pretrain(Trained):
    """Cross-entropy and softmax-triplet on labelled source images, plus an objective on unlabelled target images.

    Attributes:
        source: the labelled domain.
        target: the unlabelled one; None for a model of the source alone, whatever the objective.
        objective: of the target images: `Index`, another `methods.guests.Guest`, or None.
        views: which augmentations the objective's augmented views have.
        strengths: all four of them.
        bn_target: whether target images, augmented like the source's, also pass the network without a loss, after the
            source's and before the update. MMT's own source models are `objective=None, bn_target=True`.
        seed: of initial weights, batches and augmentation. MMT takes two models, of seeds 1 and 2.
        backbone: "resnet50" or "resnet50_ibn_a".
        weights: what the backbone starts from: published weights by name, a training that made some, None for scratch.
        stem_relu: whether the stem of the backbone ends in a ReLU; None as in MMT, whose IBN variant alone has it.
        last_stride: stride of the backbone's last layer.
        input: height and width in pixels.
        P, K: identities in a source batch, images of each, from other cameras first.
        target_batch: images in a target batch; the paper gives no number, this is the source's.
        epochs, iterations: how many epochs, of how many batches; the paper gives no iterations, MMT's script 100.
        milestones, warmup: as in `supervised.Train`.
        lr, weight_decay: of Adam, index classifier included.
        smoothing: of the source's labels.
        augment: of the source images; no erasing.
        joint: whether source and target images pass together. Running statistics, which follow the first group of a
            pass, are then of the source alone; with `bn_group=None` all images share their batch statistics.
        bn_group: images that share batch statistics; None for all that pass together.
        precision: "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons.
        eval_every: epochs between two evaluations on the source.
    """

    version: ClassVar[int] = 2

    source: Any
    target: Any = None
    objective: Guest | None = Index()
    views: Views = Views()
    strengths: Distort = FULL
    bn_target: bool = False
    seed: int = 1
    backbone: str = role("backbone", "resnet50")
    weights: str | Trained | None = role("weights", "imagenet")
    stem_relu: bool | None = None
    last_stride: int = 1
    input: tuple[int, int] = role("input", (256, 128))
    P: int = role("batch", 16)
    K: int = 4
    target_batch: int = role("images", 64)
    epochs: int = role("epochs", 80)
    iterations: int = role("iterations", 100)
    milestones: tuple[int, ...] = role("milestones", (40, 70))
    warmup: int = role("milestones", 10)
    lr: float = role("lr", 3.5e-4)
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    augment: Augment = Augment()
    joint: bool = False
    bn_group: int | None = 16
    precision: str = role("precision", "float32")
    eval_every: int = role("period", 40)

    def __post_init__(self) -> None:
        """Refuse target images of no domain."""
        if self.bn_target and self.target is None:
            raise ValueError("bn_target passes target images through the network: name a target")

    @property
    def labelled(self) -> Any:
        return self.source

    @property
    def guest(self) -> Guest | None:
        """The objective, if there is a target to have one."""
        return None if self.target is None else self.objective

    @property
    def steady(self) -> bool:
        return self.guest is None

    @property
    def images_an_epoch(self) -> int:
        """How many images pass the network in an epoch, each view of one counted."""
        passes = (len(self.guest.views) if self.guest else 0) + self.bn_target
        return self.iterations * (self.P * self.K + self.target_batch * passes)

    @property
    def work(self) -> float:
        return float(self.epochs * self.images_an_epoch)

    @property
    def detail(self) -> str:
        if self.guest is None:
            return "target statistics" if self.bn_target else "source only"
        return f"{self.guest.detail}, {self.views.detail or 'no augmentation'}{', target statistics' * self.bn_target}"

    def run(self, env: Env) -> Training:
        import torch

        from methods.blocks.heads import detached, network, together
        from methods.blocks.losses import batch_hard_triplet, smoothed_cross_entropy
        from methods.blocks.precision import dtype_of
        from methods.blocks.schedules import warmup_steps
        from reproduce.data.images import Images
        from reproduce.data.sampling import camera_aware_batches, generator, shuffled_batches
        from reproduce.data.transforms import augment
        from reproduce.evaluation import Retrieval, embed

        data = env.open(self.source)
        images = unlabelled = Images(data.root, data.train, self.input, env.device)
        retrieval = Retrieval.of(self, data, env.device)
        classes = {pid: label for label, pid in enumerate(data.train_pids)}
        labels = torch.tensor([classes[image.pid] for image in data.train])
        camids = [image.camid for image in data.train]
        guest = self.guest
        if guest or self.bn_target:
            target = env.open(self.target)
            unlabelled = Images(target.root, target.train, self.input, env.device)
            known = Sightings.of(target.train)

        dtype = dtype_of(self.precision)
        net = network(self, len(classes), env).to(env.device)
        head = guest.start(net, known, self.seed) if guest else torch.nn.Module()
        learning = [*net.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(learning, lr=self.lr, weight_decay=self.weight_decay)
        state = SimpleNamespace(net=net, head=head, optimizer=optimizer, best=-1.0, best_weights={})

        for epoch in env.epochs(self.epochs, state):
            rate = warmup_steps(epoch + 1, warmup=self.warmup, milestones=self.milestones)
            for group in optimizer.param_groups:
                group["lr"] = self.lr * rate
            count, place = self.iterations, {"seed": self.seed, "epoch": epoch}
            batches = camera_aware_batches(labels.tolist(), camids, self.P, self.K, **place, iterations=count)
            others: Sequence[list[int]] = [[]] * count  # without use for target images their batches are empty
            if guest or self.bn_target:
                others = shuffled_batches(len(unlabelled), self.target_batch, **place, iterations=count)
            both = zip(batches, images.batches(batches), others, unlabelled.batches(others), strict=True)
            losses, parts = [], []
            if guest:
                guest.relabel(head, epoch, lambda: embed(net.eval(), unlabelled, pixels=self.pixels), known)
            net.train()
            for step, (batch, pixels, indices, seen) in enumerate(both):
                inputs = augment(pixels, self.augment, generator(self.seed, "augment", epoch, step)).to(dtype)
                identities = labels[batch].to(env.device)
                views = self.shown(guest, seen, epoch, step) if guest else []
                groups = [[inputs, *views]] if self.joint else [[inputs], views]
                labelled, *seen_views = [output for group in groups if group for output in together(net, group)]
                if self.bn_target:
                    draws = generator(self.seed, "augment target", epoch, step, "statistics")
                    with torch.no_grad():
                        net(augment(seen, self.augment, draws).to(dtype))
                loss = smoothed_cross_entropy(labelled.logits, identities, self.smoothing)
                loss = loss + batch_hard_triplet(labelled.features, identities, "soft")
                if guest:
                    own = torch.tensor(indices, device=env.device)
                    part = guest.loss(head, seen_views, own)
                    parts.append(part.detach())
                    loss = loss + part
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                if guest:
                    guest.update(head, detached(seen_views), own)
                losses.append(loss.detach())

            done = epoch + 1
            env.log(done, loss=torch.stack(losses), lr=self.lr * rate, images=self.images_an_epoch)
            if guest:
                env.log(done, objective=torch.stack(parts))
            if done % self.eval_every == 0 or done == self.epochs:
                scores = retrieval.score(net.eval())
                env.log(done, mAP=scores.mAP, rank1=scores.rank1)
                if scores.mAP > state.best:
                    state.best, state.best_weights = scores.mAP, snapshot(net)

        return Training({"last": snapshot(net), "best on source": state.best_weights}, {"classes": len(classes)})

    def shown(self, guest: Guest, images: Tensor, epoch: int, step: int) -> list[Tensor]:
        """Target images (B, 3, H, W) of 0 .. 255 in each of the guest's views."""
        from methods.blocks.precision import dtype_of
        from reproduce.data.sampling import generator
        from reproduce.data.transforms import augment, normalise

        recipe = self.views.of(self.strengths)
        shown = []
        for number, view in enumerate(guest.views):
            draws = generator(self.seed, "augment target", epoch, step, number)
            shown.append(normalise(images, recipe.pixels) if view == "plain" else augment(images, recipe, draws))
        return [view.to(dtype_of(self.precision)) for view in shown]

    def embedder(self, training: Training, at: str) -> nn.Module:
        from methods.blocks.heads import restored

        return restored(self, training, at)
