"""Self-supervised pre-training on the target domain: train a source model with unlabelled target images as well.

Paper: Zhang et al., "Self-Supervised Pre-training on the Target Domain for Cross-Domain Person Re-identification"
    (ACM MM 2021), section 3, called SPTD here.
Code: none found; where the paper refers to MMT, yxgeee/MMT.
Deviates:
    - Network, source loss and schedule are MMT's, since "details are consistent with MMT": ImageNet weights, a stem
      without ReLU, a neck, label smoothing, softmax-triplet, 100 iterations per epoch, 10 epochs of warm-up.
    - A target batch is 64 images drawn uniformly, each at most once per pass; the paper samples them "from T".
    - The original image is only resized and normalised. The paper gives no strengths for the four augmentations: flip,
      crop and erasing are MMT's, colour distortion is SimCLR's at strength 0.5.
    - The paper does not say whether gradients flow through the original's distribution R; here they do not
      (`Index(detach=False)` lets them).
    - L_idx has no label smoothing, although the paper writes it as the source's cross-entropy.
    - Source images pass through the network in one batch and both target views in another, as in algorithm 1; `joint`
      puts all in one. Batch statistics are over 16 images, the batch on each of MMT's four devices.
    - The index classifier is linear without bias on the embedding, from N(0, 0.001) like MMT's, and dropped at the end.
    - The last network and the best on the source are kept, as in MMT; the paper names no selection.
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
    """Classify every target image as its own class, and its augmented view like the original."""

    views: ClassVar[tuple[View, ...]] = ("plain", "augmented")

    original: bool = True
    """Whether the original learns its index (L_idx, equation 1)."""
    consistency: bool = True
    """Whether the augmented image follows the original (L_SPTD, equation 2)."""
    smoothing: float = 0.0
    """Label smoothing of L_idx."""
    detach: bool = True
    """Whether L_SPTD sends no gradient to the original, so that only the augmented image learns from it."""

    def __post_init__(self) -> None:
        """Require at least one of the two losses."""
        if not (self.original or self.consistency):
            raise ValueError("an index objective needs at least one of its two losses; for none, pass objective=None")

    @property
    def detail(self) -> str:
        return " + ".join(["idx"] * self.original + ["SPTD"] * self.consistency)

    def start(self, net: ReID, target: Sightings, seed: int) -> nn.Module:
        """Make the index classifier, one class per image."""
        from methods.blocks.contrast import index_classifier

        return index_classifier(net, target.images, seed=seed)

    def loss(self, head: nn.Module, outputs: Sequence[Output], indices: Tensor) -> Tensor:
        """Compute equations 1 and 2, whichever are enabled."""
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
    """Select the augmentations of an augmented view (table 6)."""

    flip: bool = True
    """RF, for posture."""
    crop: bool = True
    """RC, for imperfect detection."""
    erase: bool = True
    """RE, for occlusion."""
    colour: bool = True
    """CD, for illumination."""

    def of(self, full: Distort) -> Distort:
        """Drop the deselected augmentations from the full recipe."""
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
    """Cross-entropy and softmax-triplet on labelled source images, plus an objective on unlabelled target images."""

    version: ClassVar[int] = 2

    source: Any
    """The labelled domain."""
    target: Any = None
    """The unlabelled domain; None trains on the source alone, whatever the objective."""
    objective: Guest | None = Index()
    """Loss on target images: `Index`, another `methods.guests.Guest`, or None."""
    views: Views = Views()
    """Augmentations of the objective's augmented views."""
    strengths: Distort = FULL
    """Strengths of all four augmentations."""
    bn_target: bool = False
    """Whether target images, augmented like the source's, also pass through the network without a loss, after the
    source's and before the update. MMT's own source models are `objective=None, bn_target=True`."""
    seed: int = 1
    """Seeds initial weights, batches and augmentation. MMT takes two models, of seeds 1 and 2."""
    backbone: str = role("backbone", "resnet50")
    """Either "resnet50" or "resnet50_ibn_a"."""
    weights: str | Trained | None = role("weights", "imagenet")
    """Initial weights of the backbone: published ones by name, a training that made them, or None for scratch."""
    stem_relu: bool | None = None
    """Whether the stem of the backbone ends in a ReLU; None as in MMT, where only the IBN variant has one."""
    last_stride: int = 1
    """Stride of the backbone's last layer."""
    input: tuple[int, int] = role("input", (256, 128))
    """Height and width in pixels."""
    P: int = role("batch", 16)
    """Identities per source batch."""
    K: int = 4
    """Images per identity, from different cameras first."""
    target_batch: int = role("images", 64)
    """Images per target batch; the paper gives no number, so this is the source's."""
    epochs: int = role("epochs", 80)
    """Epochs in total."""
    iterations: int = role("iterations", 100)
    """Batches per epoch; the paper gives no number, MMT's script 100."""
    milestones: tuple[int, ...] = role("milestones", (40, 70))
    """As in `supervised.Train`."""
    warmup: int = role("milestones", 10)
    """As in `supervised.Train`."""
    lr: float = role("lr", 3.5e-4)
    """Learning rate of Adam, index classifier included."""
    weight_decay: float = 5e-4
    """Weight decay of Adam."""
    smoothing: float = 0.1
    """Label smoothing on the source."""
    augment: Augment = Augment()
    """Augmentation of the source images; no erasing."""
    joint: bool = False
    """Whether source and target images pass through in one batch. Running statistics follow the first group of a pass,
    which then holds source images only; with `bn_group=None` all images share batch statistics."""
    bn_group: int | None = 16
    """Images that share batch statistics; None for all of a pass."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""
    eval_every: int = role("period", 40)
    """Epochs between two evaluations on the source."""

    def __post_init__(self) -> None:
        """Require a target where target images are used."""
        if self.bn_target and self.target is None:
            raise ValueError("bn_target passes target images through the network: name a target")

    @property
    def labelled(self) -> Any:
        return self.source

    @property
    def guest(self) -> Guest | None:
        """Return the objective; None without a target."""
        return None if self.target is None else self.objective

    @property
    def steady(self) -> bool:
        return self.guest is None

    @property
    def images_an_epoch(self) -> int:
        """Count the images that pass through the network in an epoch, every view included."""
        passes = (len(self.guest.views) if self.guest else 0) + self.bn_target
        return self.iterations * (self.P * self.K + self.target_batch * passes)

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        images, seen = self.P * self.K, self.target_batch * (len(self.guest.views) if self.guest else 0)
        counts = [images + seen] if self.joint else [images, seen]
        return tuple((count, self.bn_group) for count in (*counts, self.target_batch * self.bn_target) if count)

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
        labels, classes = torch.from_numpy(data.train_labels), len(data.train_pids)
        camids = [image.camid for image in data.train]
        guest = self.guest
        if guest or self.bn_target:
            target = env.open(self.target)
            unlabelled = Images(target.root, target.train, self.input, env.device)
            sightings = Sightings.of(target.train)

        dtype = dtype_of(self.precision)
        net = network(self, classes, env).to(env.device)
        head = guest.start(net, sightings, self.seed) if guest else torch.nn.Module()
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
                guest.relabel(head, epoch, lambda: embed(net.eval(), unlabelled, pixels=self.pixels), sightings)
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

        return Training({"last": snapshot(net), "best on source": state.best_weights}, {"classes": classes})

    def shown(self, guest: Guest, images: Tensor, epoch: int, step: int) -> list[Tensor]:
        """Make the guest's views of target images (B, 3, H, W), values 0 .. 255."""
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
