"""Recurrent auto-encoder: bring features and pixels of the target close to the source's, and fuse both.

Paper: Yang et al., "Pixel and Feature Transfer Fusion for Unsupervised Cross-Dataset Person Re-Identification",
    section III, called RAE here.
Code: none found; where the paper is silent, wangguanan/AlignGAN of its co-first author.
Deviates:
    - Equations 8, 13 and 16 are unbounded as printed, since discriminators minimise the logarithm of what they should
      raise. All signs are reversed, which gives the usual non-saturating losses; with those of the discriminators alone
      encoder and decoder would have saturating ones. Equation 13 names the encoder where the discriminator must be
      meant.
    - The triplet losses have their hinge and a margin of 0.3, and the minus before equations 22 and 23 belongs to the
      logarithm alone. Positives and negatives are the hardest of the batch.
    - The printed rates (SGD, 0.05 and 0.5, weight decay 5e-5) are `PRINTED`. By default encoder and classifiers have
      AlignGAN's (0.02 and 0.2, 5e-4), and decoder, discriminators, fusion, and the encoder in the step down equation
      17, its Adam of 2e-4 without weight decay.
    - Equations 12 and 15 are norms per image. Multiplied by the root of 98,304 / values they weigh the same at any
      input size, and are the printed ones at 256 x 128.
    - The decoder's three layers have strides 4, 2 and 2, whose product must be the encoder's: the paper names three
      layers only, and three of stride 2 end at half the size. Widths and kernels are ours. Decoder and discriminators
      start from N(0, 0.02), as AlignGAN's; the paper names no initial weights.
    - The encoder is trained on the source for 5,000 iterations first; the paper gives no number. Direct transfer and
      supervised training take all 20,000, as the whole model.
    - An epoch, after which images are labelled again, has 200 iterations; a pass over Market-1501 has 179, over
      DukeMTMC-reID 229. The training has the printed 20,000.
    - Images are clustered by UDAP's Jaccard distances (k1 20, k2 6), without its source term, of pooled features of
      length 1, which UDAP leaves as they are, and DBSCAN, with UDAP's eps, fixed at the first epoch; on other data than
      the published with the eps that leaves most clusters, at each epoch. Target classifiers start anew at each
      labelling.
    - An iteration takes one step down equation 9, one down 17 and one down 21. The first two move the encoder; the
      third moves the fusion and its classifiers alone, on the maps that algorithm 2 computes at test. So FT + PT and
      FT + PT + F are one training, tested without and with fusion.
    - Each domain passes through encoder and decoder by itself. Batch statistics are over all of its images; the paper
      trains on four GPUs and does not say whether over those of each.
    - Bilinear pooling works per position, with 1,024 dimensions between and as many channels after it as before. The
      paper gives neither number, and its U lacks a dimension.
    - Images are flipped and cropped, not erased, since they are reconstructed; the paper names no augmentation.
    - The paper says only that any clustering can learn the labels of MMCL + RAE and JVTC + RAE. Here the loss of either
      (`guest`) replaces both losses on clusters of the target (equations 5 and 23), from the first epoch. Fused
      features have a memory of their own and the labels of pooled ones. Both guests take pooled features, normalised
      over the batch without learnt parameters; JVTC's layer to 512 dimensions is absent.
      Target batches are drawn uniformly, as many images as for clusters, views included.
    - With pixel transfer before training (PT^), the encoder's own training still sees the source's images as they are.
    - The sweep of lambda_tri in figure 6 leaves the encoder's own training (equation 2) at 1.
    - With fewer clusters than P a batch holds all of them; with fewer than two, or a loss that is not finite, training
      stops as collapsed. The paper covers neither.
    - The last network is kept; the paper names no selection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from methods.guests import Labeller, View
from reproduce.artifacts import Training, snapshot
from reproduce.clustering import DBSCAN, OUTLIER
from reproduce.data.transforms import Augment
from reproduce.dataset import Sightings
from reproduce.errors import UserError
from reproduce.evaluation import Trained
from reproduce.stage import Env, added, role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from methods.blocks.heads import Output, ReID
    from methods.blocks.labels import PseudoLabels
    from methods.blocks.rae import RAE, Classifier
    from reproduce.data.images import Resample


@dataclass(frozen=True)
class Rates:
    """How parts learn: SGD with momentum 0.9, or Adam."""

    encoder: float = role("rate", 0.02)
    """Learning rate of the encoder."""
    heads: float = role("rate", 0.2)
    """Learning rate of classifiers."""
    others: float = role("rate", 2e-4)
    """Learning rate of decoder, discriminators and fusion."""
    adam: bool = True
    """Whether these, and the encoder where it learns with the decoder, take Adam (0.5, 0.999) of rate `others` and
    without weight decay, in place of SGD."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""

    def sgd(self, parameters: Iterable[Tensor], rate: float) -> Optimizer:
        """Make the SGD of some parameters."""
        import torch

        from methods.blocks.steps import at_rates

        groups = at_rates((rate, parameters))
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=self.weight_decay)

    def other(self, parameters: Iterable[Tensor], encoder: Iterable[Tensor] = ()) -> Optimizer:
        """Make the optimiser of decoder, discriminator or fusion, and of the encoder with it."""
        import torch

        from methods.blocks.steps import at_rates

        groups = at_rates((self.others, parameters), (self.others if self.adam else self.encoder, encoder))
        if self.adam:
            return torch.optim.Adam(groups, betas=(0.5, 0.999))
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=self.weight_decay)


STABLE = Rates()
"""AlignGAN's values, in the printed proportion of encoder to classifiers."""

PRINTED = Rates(encoder=0.05, heads=0.5, others=0.5, adam=False, weight_decay=5e-5)
"""As printed (section IV.B), for all parts; it may diverge."""


@dataclass(frozen=True)
class Source(Trained):
    """Train the encoder on labelled images by cross-entropy and the triplet loss (equation 2)."""

    bn_group: ClassVar[None] = None

    domain: Any
    """The domain to train on."""
    seed: int = 1
    """Seeds initial weights, batches, dropout and augmentation."""
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
    resample: Resample = "bilinear"
    """How images are resized to `input`."""
    P: int = role("batch", 18)
    """Identities per batch."""
    K: int = 4
    """Images per identity."""
    epochs: int = role("epochs", 100)
    """Epochs in total."""
    warm: int = role("epochs", 25)
    """Epochs after which the network is also kept as "warm-up", where `Adapt` starts."""
    iterations: int = role("iterations", 200)
    """Batches per epoch."""
    milestones: tuple[int, ...] = role("milestones", (41, 81))
    """Epochs, counted from 1, from which the learning rate is multiplied by 0.1."""
    rates: Rates = STABLE
    """Learning rates."""
    lambda_tri: float = 1.0
    """Weight of the triplet loss."""
    margin: float = 0.3
    """Margin m of the triplet loss."""
    dropout: float = 0.5
    """Dropout in the classifier."""
    hidden: int = role("width", 256)
    """Width of the classifier's hidden layer."""
    augment: Augment = Augment()
    """Augmentation of the training images."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""
    eval_every: int = role("period", 20)
    """Epochs between two evaluations on `domain` itself."""

    @property
    def steady(self) -> bool:
        return True

    @property
    def labelled(self) -> Any:
        return self.domain

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        return ((self.P * self.K, None),)

    @property
    def work(self) -> float:
        return float(self.epochs * self.iterations * self.P * self.K)

    def run(self, env: Env) -> Training:
        import torch

        from methods.blocks.dropout import address
        from methods.blocks.precision import dtype_of
        from methods.blocks.rae import recognition
        from methods.blocks.schedules import warmup_steps
        from methods.blocks.steps import descend, set_rates
        from reproduce.data.sampling import generator, identity_batches
        from reproduce.data.transforms import augment
        from reproduce.evaluation import Retrieval

        data = env.open(self.domain)
        images = self.images(data, env.device)
        retrieval = Retrieval.of(self, data, env.device)
        labels, classes = torch.from_numpy(data.train_labels), len(data.train_pids)

        net = self.network(classes, env).to(env.device)
        optimizers = {
            "encoder": self.rates.sgd(net.backbone.parameters(), self.rates.encoder),
            "heads": self.rates.sgd(net.classifier.parameters(), self.rates.heads),
        }
        state = SimpleNamespace(net=net, optimizers=optimizers, warm={})

        for epoch in env.epochs(self.epochs, state):
            rate = warmup_steps(epoch + 1, warmup=0, milestones=self.milestones)
            set_rates(optimizers.values(), rate)
            place: Any = {"seed": self.seed, "epoch": epoch, "iterations": self.iterations}
            batches = identity_batches(labels.tolist(), self.P, self.K, **place)
            losses = []
            net.train()
            for step, (batch, pixels) in enumerate(zip(batches, images.batches(batches), strict=True)):
                address(net, self.seed, epoch, step)
                inputs = augment(pixels, self.augment, generator(self.seed, "augment", epoch, step))
                features, _, logits = net(inputs.to(dtype_of(self.precision)))
                own = labels[batch].to(env.device)
                loss = recognition(features, logits, own, self.lambda_tri, self.margin)
                descend(loss, *optimizers.values())
                losses.append(loss.detach())

            done = epoch + 1
            env.log(done, loss=torch.stack(losses), lr=rate * self.rates.encoder, images=len(batches) * self.P * self.K)
            if done == self.warm:
                state.warm = snapshot(net)
            if done % self.eval_every == 0 or done == self.epochs:
                scores = retrieval.score(net.eval())
                env.log(done, mAP=scores.mAP, rank1=scores.rank1)

        last = snapshot(net)
        return Training({"last": last, "warm-up": state.warm or last}, {"classes": classes})

    def network(self, classes: int, env: Env | None = None) -> ReID:
        """Build the encoder with its classifier; `env` provides initial weights."""
        from methods.blocks.heads import network
        from methods.blocks.rae import Classifier

        net = network(self, classes, env, neck=False)
        head = Classifier(net.channels, self.hidden, classes, self.dropout, seed=self.seed, name="classifier")
        net.classifier = head.to(net.classifier.weight)
        return net

    def embedder(self, training: Training, at: str) -> nn.Module:
        net = self.network(training.facts["classes"])
        net.load_state_dict(training.checkpoints[at])
        return net.eval()


class Batch(NamedTuple):
    """Images of one domain in one iteration."""

    images: Tensor
    """(B, 3, H, W), augmented and normalised; the views of an image are next to each other."""
    labels: Tensor
    """(B,) identities or pseudo labels, from 0; for a guest the positions (B / views,) of the images."""
    restyled: Tensor | None = None
    """(B, 3, H, W) translations of the images, augmented alike; None if the decoder restyles."""
    positives: Tensor | None = None
    """(B / views, N) which images a guest labels like those of the batch; None without a guest."""


@dataclass(frozen=True)
class Adapt(Trained):
    """Train on labelled source and clustered target images, with transfer of features and pixels and their fusion."""

    version: ClassVar[int] = 3
    test_views: ClassVar[tuple[str, ...]] = ("fused",)

    init: Any
    """The training of the encoder on the source."""
    source: Any
    """The labelled domain: that of `init` or, for pixel transfer before training, its images translated."""
    target: Any
    """The domain to adapt to. Its training labels only measure purity."""
    cluster: DBSCAN
    """Clusters Jaccard distances, with eps fixed at the first epoch (except for `MostClusters`)."""
    feature: bool = True
    """Whether the encoder makes target features look like the source's (FT, equation 8)."""
    pixel: bool = True
    """Whether a decoder reconstructs images in the source's style (PT, equation 17)."""
    fuse: bool = True
    """Whether a fusion is trained (F, equation 21), for the view "fused"; it changes no other part."""
    restyled: tuple[Any, Any] | None = None
    """Translations of the training images of `source` and `target` to the source's style, two `cyclegan.Translated`,
    that are fused in place of the decoder's reconstructions."""
    seed: int = 1
    """Seeds initial weights, batches, dropout and augmentation."""
    at: str = "warm-up"
    """The moment of `init` to start from."""
    k1: int = 20
    """k1 of the Jaccard distances; see `reproduce.neighbours.jaccard_graph`."""
    k2: int = 6
    """k2 of the Jaccard distances."""
    epochs: int = role("epochs", 100)
    """Rounds of labelling and training."""
    iterations: int = role("iterations", 200)
    """Iterations per epoch."""
    milestones: tuple[int, ...] = role("milestones", (41, 81))
    """Epochs, counted from 1, from which all learning rates are multiplied by 0.1."""
    rates: Rates = STABLE
    """Learning rates: `STABLE` or `PRINTED`."""
    P: int = role("batch", 18)
    """Identities per batch of each domain."""
    K: int = 4
    """Images per identity."""
    lambda_tri: float = 1.0
    """Weight of the triplet losses."""
    lambda_feat: float = 10.0
    """Weight of the encoder's adversarial loss (lambda_feat^gan, equation 9)."""
    lambda_pix: float = 10.0
    """Weight of the decoder's adversarial losses (lambda_pix^gan, equations 11 and 14)."""
    margin: float = 0.3
    """Margin m of the triplet losses."""
    dropout: float = 0.5
    """Dropout in the classifiers."""
    hidden: int = role("width", 256)
    """Width of the classifiers' hidden layers."""
    decoder_widths: tuple[int, int] = role("width", (512, 128))
    """Channels between the layers of the decoder."""
    feature_widths: tuple[int, int, int] = role("width", (512, 256, 128))
    """Channels of the discriminator of maps."""
    pixel_widths: tuple[int, int, int] = role("width", (64, 128, 256))
    """Channels of the discriminator of images."""
    d: int = role("width", 1024)
    """Dimension between the two factors of the bilinear pooling."""
    augment: Augment = Augment()
    """Augmentation of the training images."""
    input: tuple[int, int] = role("input", (256, 128))
    """Height and width in pixels."""
    resample: Resample = "bilinear"
    """How images are resized to `input`."""
    precision: str = role("precision", "float32")
    """One of "float32", "mixed" (see `methods.blocks.precision`), or "float64" for exact comparisons."""
    eval_every: int = role("period", 20)
    """Epochs between two evaluations on the target, without fusion, for the curve alone."""
    guest: Labeller | None = added(None)
    """Loss on target images in place of those on clusters, such as `mmcl.MultiLabel`; None for these. With a guest
    `cluster`, k1 and k2 are not used."""

    def __post_init__(self) -> None:
        """Require a second style to fuse, and only one."""
        if self.fuse and self.pixel == (self.restyled is not None):
            raise ValueError("fusion takes the decoder's images or translated ones: give either pixel or restyled")

    @property
    def labelled(self) -> Any:
        return self.source

    @property
    def passes(self) -> tuple[tuple[int, int | None], ...]:
        group = getattr(self.init, "bn_group", None)
        return (self.P * self.K, group), (self.P * self.K // self.shown * self.shown, group)

    @property
    def work(self) -> float:
        passes = 2 * (1 + self.pixel) + 2 * self.fuse
        return float(self.epochs * self.iterations * self.P * self.K * passes)

    @property
    def detail(self) -> str:
        ticks = {"FT": self.feature, "PT": self.pixel, "F": self.fuse}
        changed = {"tri": self.lambda_tri, "feat": self.lambda_feat, "pix": self.lambda_pix}
        usual = {"tri": Adapt.lambda_tri, "feat": Adapt.lambda_feat, "pix": Adapt.lambda_pix}
        words = [name for name, ticked in ticks.items() if ticked] or ["baseline"]
        if self.guest:
            words.append(f"with {self.guest.detail}")
        return " ".join([*words, *(f"{name} {value:g}" for name, value in changed.items() if value != usual[name])])

    def run(self, env: Env) -> Training:
        import numpy as np
        import torch

        from methods.blocks.dropout import address
        from methods.blocks.labels import health_of_positives
        from methods.blocks.schedules import warmup_steps
        from methods.blocks.steps import set_rates
        from reproduce.data.sampling import identity_batches
        from reproduce.evaluation import Retrieval, embed

        data = [env.open(domain) for domain in (self.source, self.target)]
        retrieval = Retrieval.of(self, data[1], env.device)
        images = [self.images(domain, env.device) for domain in data]
        others = [self.images(env.open(domain), env.device) for domain in self.restyled or ()]
        labels, classes = data[0].train_labels, len(data[0].train_pids)
        pids = [image.pid for image in data[1].train]

        encoder: Any = self.init.start_at(env.get(self.init), self.at)
        if encoder.classifier.out_features != classes:
            raise UserError(
                f"the encoder was trained on {encoder.classifier.out_features} identities and the source has "
                f"{classes}: train `init` on the same ones"
            )
        sightings, people = Sightings.of(data[1].train), torch.tensor(pids, device=env.device)

        def embeddings() -> Tensor:
            return embed(net.encoder.eval(), images[1], pixels=self.pixels)

        net = self.network(encoder).to(env.device)
        if self.restyled:
            net.restyle.load_state_dict(self.restyled[1].learnt(env))
        if self.guest:
            net.clusters = self.guest.start(net.encoder, sightings, self.seed)
            net.fused_clusters = self.guest.start(net.encoder, sightings, self.seed) if self.fuse else None
        state = SimpleNamespace(net=net, optimizers=self.optimizers(net), health={}, eps=None, kept=snapshot(net))
        state.labels = np.full(len(images[1]), OUTLIER)

        for epoch in env.epochs(self.epochs, state):
            done = epoch + 1
            self.relabel(state, epoch, embeddings, pids, sightings)
            env.log(done, **state.health)
            if state.health.get("clusters", 2) < 2:
                state.health["collapsed"] = (
                    f"{state.health['clusters']:.0f} clusters at epoch {done}, "
                    f"{state.health['outliers']:.0f} of {len(pids)} images outliers"
                )
                break
            if self.guest is None:
                self.renew(net, int(state.health["clusters"]))
                state.optimizers |= self.target_optimizers(net)
            rate = warmup_steps(done, warmup=0, milestones=self.milestones)
            set_rates(state.optimizers.values(), rate)

            known = [labels, state.labels if self.guest is None else np.arange(len(pids))]
            batches = [
                identity_batches(
                    labels.tolist(), self.P, self.K, seed=self.seed, epoch=2 * epoch, iterations=self.iterations
                ),
                self.target_batches(state.labels, epoch),
            ]
            streams = [shown.batches(batches[at % 2]) for at, shown in enumerate([*images, *others])]
            net.train()
            values: list[dict[str, Tensor]] = []
            for step, pixels in enumerate(zip(*streams, strict=True)):
                address(net, self.seed, epoch, step)
                source, target = (
                    self.batch(domain, epoch, step, pixels, torch.from_numpy(known[domain][batches[domain][step]]))
                    for domain in (0, 1)
                )
                if self.guest:
                    target = target._replace(positives=self.guest.positives(net.clusters, target.labels))
                logged = self.transfer_features(state, source, target)
                if target.positives is not None:
                    measured = health_of_positives(target.positives, target.labels, people)
                    logged |= {name: value for name, value in measured.items() if name not in state.health}
                if self.pixel:
                    logged |= self.transfer_pixels(state, source, target)
                if self.fuse:
                    logged |= self.train_fusion(state, source, target)
                values.append(logged)

            means = {name: torch.stack([each[name] for each in values]) for name in values[0]}
            if not all(bool(mean.isfinite().all()) for mean in means.values()):
                state.health["collapsed"] = f"a loss is not finite at epoch {done}"
                break
            state.health |= {name: float(means[name].mean()) for name in ("positives", "purity") if name in means}
            passed = sum(len(batch) for batch in batches[0]) + sum(len(batch) for batch in batches[1]) * self.shown
            env.log(done, **means, lr=rate * self.rates.encoder, images=passed)
            if done % self.eval_every == 0 or done == self.epochs:
                scores = retrieval.score(net.encoder.eval())
                env.log(done, mAP=scores.mAP, rank1=scores.rank1)
            state.kept = snapshot(net)

        return Training({"last": state.kept}, {"health": {"last": state.health}})

    @property
    def shown(self) -> int:
        """Return the number of views of a target image in a batch."""
        return len(self.guest.views) if self.guest else 1

    def relabel(
        self, state: Any, epoch: int, embeddings: Callable[[], Tensor], pids: list[int], target: Sightings
    ) -> None:
        """Label the target's images for an epoch, by clusters or by the guest, and measure the labels."""
        from methods.blocks.labels import health

        if self.guest:
            self.guest.relabel(state.net.clusters, epoch, embeddings, target)
            if self.fuse:
                self.guest.share(state.net.clusters, state.net.fused_clusters)
            state.health = self.guest.health(state.net.clusters, pids)
            return
        before = state.labels if epoch else None
        guessed = self.guess(embeddings(), state.eps)
        state.labels, state.eps = guessed.kept, guessed.eps
        state.health = health(guessed.raw, guessed.kept, pids, before=before, eps=guessed.eps)

    def target_batches(self, labels: NDArray[np.int64], epoch: int) -> Sequence[list[int]]:
        """Draw the target batches of an epoch: P of the clusters (N,), at most all.

        With a guest as many images drawn uniformly, in passes that go on from epoch to epoch.
        """
        from reproduce.data.sampling import identity_batches, ongoing_batches

        place: Any = {"seed": self.seed, "iterations": self.iterations}
        if self.guest:
            return ongoing_batches(len(labels), self.P * self.K // self.shown, stream=1, epoch=epoch, **place)
        people = min(self.P, int(labels.max()) + 1)
        return identity_batches(labels.tolist(), people, self.K, epoch=2 * epoch + 1, **place)

    def network(self, encoder: ReID, clusters: int = 1) -> RAE:
        """Build the parts of this training around an encoder, with their initial weights; a guest's are not started."""
        from methods.blocks.heads import in_precision
        from methods.blocks.rae import RAE, Decoder, Discriminator, Fusion, size_of_maps, strides

        net = RAE(in_precision(encoder, self.precision))
        seed, channels, size = self.seed, encoder.channels, size_of_maps(encoder, self.input)
        classes = encoder.classifier.out_features
        if self.feature:
            net.of_maps = Discriminator(channels, self.feature_widths, size, seed=seed, name="of maps")
        if self.pixel:
            net.restyle = Decoder(channels, self.decoder_widths, strides(size, self.input), seed=seed)
            net.of_images = Discriminator(3, self.pixel_widths, self.input, seed=seed, name="of images")
        if self.restyled:
            net.restyle = self.restyled[1].network().requires_grad_(False)
        if self.fuse:
            net.fusion = Fusion(channels, self.d, seed=seed)
            net.fused = self.classifier(net, classes, "fused")
        if self.guest is None:
            self.renew(net, clusters)
        return net.to(encoder.classifier.weight)

    def classifier(self, net: RAE, classes: int, name: str) -> Classifier:
        """Make a classifier with fresh weights."""
        from methods.blocks.rae import Classifier

        encoder = net.encoder
        made = Classifier(encoder.channels, self.hidden, classes, self.dropout, seed=self.seed, name=name)
        return made.to(encoder.classifier.weight)

    def renew(self, net: RAE, clusters: int) -> None:
        """Replace the target's classifiers by fresh ones."""
        net.clusters = self.classifier(net, clusters, "clusters")
        if self.fuse:
            net.fused_clusters = self.classifier(net, clusters, "fused clusters")

    def optimizers(self, net: RAE) -> dict[str, Any]:
        """Make the optimiser of each part that learns."""
        rates = self.rates
        made = {"encoder": rates.sgd(net.encoder.backbone.parameters(), rates.encoder)}
        made["heads"] = rates.sgd(net.encoder.classifier.parameters(), rates.heads)
        if self.feature:
            made["of maps"] = rates.other(net.of_maps.parameters())
        if self.pixel:
            made["pixels"] = rates.other(net.restyle.parameters(), net.encoder.backbone.parameters())
            made["of images"] = rates.other(net.of_images.parameters())
        if self.fuse:
            made["fusion"] = rates.other(net.fusion.parameters())
            made["fused"] = rates.sgd(net.fused.parameters(), rates.heads)
        return made | self.target_optimizers(net)

    def target_optimizers(self, net: RAE) -> dict[str, Any]:
        """Make the optimisers of the target's classifiers."""
        classifiers = {"clusters": net.clusters} | ({"fused clusters": net.fused_clusters} if self.fuse else {})
        return {name: self.rates.sgd(made.parameters(), self.rates.heads) for name, made in classifiers.items()}

    def batch(self, domain: int, epoch: int, step: int, pixels: Sequence[Tensor], labels: Tensor) -> Batch:
        """Augment the images of a domain (0 source, 1 target) and, alike, their translations, in all views."""
        import torch

        from methods.blocks.precision import dtype_of
        from reproduce.data.sampling import generator
        from reproduce.data.transforms import augment, normalise

        def view(images: Tensor, kind: View, *number: int) -> Tensor:
            if kind == "plain":
                return normalise(images, self.pixels)
            return augment(images, self.augment, generator(self.seed, "augment", domain, epoch, step, *number))

        def views(images: Tensor) -> Tensor:
            if domain == 0 or self.guest is None:
                return view(images, "augmented")
            every = [view(images, kind, number) for number, kind in enumerate(self.guest.views)]
            return torch.stack(every, 1).flatten(0, 1)

        shown = [views(own).to(dtype_of(self.precision)) for own in pixels[domain::2]]
        return Batch(shown[0], labels.to(shown[0].device), *shown[1:])

    def recognise(self, features: Tensor, classifier: nn.Module, labels: Tensor) -> Tensor:
        """Compute cross-entropy and the triplet loss of pooled features (B, C)."""
        from methods.blocks.rae import recognition

        return recognition(features, classifier(features), labels, self.lambda_tri, self.margin)

    def recognise_target(self, features: Tensor, classifier: nn.Module, target: Batch) -> Tensor:
        """Compute the loss of target features (B, C) on clusters (equations 5 and 23), or the guest's in its place."""
        if self.guest is None:
            return self.recognise(features, classifier, target.labels)
        return self.guest.loss(classifier, self.outputs(features), target.labels, target.positives)

    def remember(self, features: Tensor, classifier: nn.Module, target: Batch) -> None:
        """Update a guest's memory with target features (B, C) after a step."""
        if self.guest:
            self.guest.update(classifier, self.outputs(features.detach()), target.labels)

    def outputs(self, features: Tensor) -> list[Output]:
        """Split features (B, C) by view, as outputs of a network without neck and classifier."""
        from methods.blocks.heads import Output

        views = [features[view :: self.shown] for view in range(self.shown)]
        return [Output(view, view, view[:, :0]) for view in views]

    def transfer_features(self, state: Any, source: Batch, target: Batch) -> dict[str, Tensor]:
        """Take a step down equation 9: of encoder and classifiers, then of the discriminator on the same maps."""
        from methods.blocks.heads import pool
        from methods.blocks.rae import accuracy, log_loss
        from methods.blocks.steps import descend

        net, optimizers = state.net, state.optimizers
        known, seen = (net.encoder.maps(batch.images) for batch in (source, target))
        loss = self.recognise(pool(known), net.encoder.classifier, source.labels)
        loss = loss + self.recognise_target(pool(seen), net.clusters, target)
        logged = {"loss": loss.detach()}
        if self.feature:
            adversarial = log_loss(net.of_maps(seen), real=True)
            loss = loss + self.lambda_feat * adversarial
            logged["feature_gan"] = adversarial.detach()
        descend(loss, optimizers["encoder"], optimizers["heads"], optimizers["clusters"])
        self.remember(pool(seen), net.clusters, target)
        if self.feature:
            real, fake = net.of_maps(known.detach()), net.of_maps(seen.detach())
            descend(log_loss(real, real=True) + log_loss(fake, real=False), optimizers["of maps"])
            logged["feature_accuracy"] = accuracy(real, fake)
        return logged

    def transfer_pixels(self, state: Any, source: Batch, target: Batch) -> dict[str, Tensor]:
        """Take a step down equation 17: of encoder and decoder, then of the discriminator on the source's images."""
        from methods.blocks.rae import accuracy, log_loss, reconstruction, to_range
        from methods.blocks.steps import descend

        net, optimizers = state.net, state.optimizers
        images = [to_range(batch.images, self.pixels) for batch in (source, target)]
        decoded = [net.restyle(net.encoder.maps(batch.images)) for batch in (source, target)]
        rebuilt = reconstruction(images[0], decoded[0]) + reconstruction(images[1], decoded[1])
        adversarial = log_loss(net.of_images(decoded[0]), real=True) + log_loss(net.of_images(decoded[1]), real=True)
        descend(rebuilt + self.lambda_pix * adversarial, optimizers["pixels"])
        real, fake = net.of_images(images[0]), net.of_images(decoded[0].detach())
        descend(log_loss(real, real=True) + log_loss(fake, real=False), optimizers["of images"])
        return {
            "reconstruction": rebuilt.detach() / 2,
            "pixel_gan": adversarial.detach() / 2,
            "pixel_accuracy": accuracy(real, fake),
        }

    def train_fusion(self, state: Any, source: Batch, target: Batch) -> dict[str, Tensor]:
        """Take a step down equation 21: of the fusion and its classifiers, on maps computed as at test."""
        import torch

        from methods.blocks.steps import descend

        net, optimizers = state.net, state.optimizers
        with torch.no_grad(), net.frozen():
            pairs = [net.pair(batch.images, self.pixels, batch.restyled) for batch in (source, target)]
        known, seen = (net.fusion(*pair) for pair in pairs)
        loss = self.recognise(known, net.fused, source.labels)
        loss = loss + self.recognise_target(seen, net.fused_clusters, target)
        descend(loss, optimizers["fusion"], optimizers["fused"], optimizers["fused clusters"])
        self.remember(seen, net.fused_clusters, target)
        return {"fusion": loss.detach()}

    def guess(self, embeddings: Tensor, eps: float | None) -> PseudoLabels:
        """Cluster embeddings (N, D) of length 1 of the target's training images.

        Args:
            embeddings: pooled features.
            eps: of the epoch before; None at the first epoch.
        """
        from methods.blocks.labels import PseudoLabels
        from reproduce.neighbours import jaccard_graph

        graph = jaccard_graph(embeddings, self.k1, self.k2, variant="udap")
        eps = self.cluster.radius(graph, before=eps)
        labels = replace(self.cluster, eps=eps).labels(graph)
        return PseudoLabels(embeddings, labels, labels, eps)

    def start(self, training: Training, at: str) -> nn.Module:
        """Restore the encoder, with the classifier of the source."""
        from methods.blocks.heads import continued, part

        return continued(self.init, Training({at: part(training.checkpoints[at], "encoder")}), at, self.precision)

    def embedder(self, training: Training, at: str) -> nn.Module:
        return self.start(training, at).eval()

    def viewed(self, training: Training, at: str, view: str) -> nn.Module:
        """Restore the fused view (algorithm 2)."""
        from methods.blocks.rae import Fused

        encoder: Any = self.start(training, at)
        weights = training.checkpoints[at]
        if self.guest:  # whose memories no test needs
            weights = {name: value for name, value in weights.items() if "clusters" not in name.partition(".")[0]}
        net = self.network(encoder, len(weights.get("clusters.weight", [0])))
        net.load_state_dict(weights)
        return Fused(net, self.pixels).eval()
