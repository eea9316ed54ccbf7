"""A method with two outputs and a memory that starts from another training and carries a guest.

Paper: none; it shows what a method outside the project needs.
Code: none.
Deviates:
    - From nothing, since there is no paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from methods.guests import Guest
from reproduce.artifacts import Training, snapshot
from reproduce.data.transforms import Augment
from reproduce.dataset import Sightings
from reproduce.evaluation import Trained
from reproduce.stage import Env, role

if TYPE_CHECKING:
    from torch import nn


class Pair(NamedTuple):
    """What the network gives in training."""

    shared: Any
    """Features, embedding and logits, as `methods.blocks.heads.Output`."""
    own: Any
    """(B, width) of the second branch."""


@dataclass(frozen=True)
class TwoBranches(Trained):
    """Train the network of another training on two branches, beside a guest on target images."""

    test_views: ClassVar[tuple[str, ...]] = ("own",)

    init: Trained
    """Whose last network is continued."""
    source: Any
    """Labelled images."""
    target: Any
    """Images for the guest."""
    guest: Guest
    seed: int = 1
    width: int = role("width", 512)
    epochs: int = role("epochs", 10)
    iterations: int = role("iterations", 28)
    lr: float = role("lr", 3.5e-4)
    P: int = role("batch", 8)
    K: int = 2
    kept: float = 0.9
    """Of the mean of each class at each visit."""
    augment: Augment = Augment()
    input: tuple[int, int] = role("input", (256, 128))
    precision: str = role("precision", "float32")

    @property
    def work(self) -> float:
        return 4.0 * self.epochs * self.iterations * self.P * self.K

    def network(self, body: Any) -> Any:
        """The network of the training around the one that it starts from."""
        import torch

        from methods.blocks.backbones import initialise
        from methods.blocks.dropout import Dropout
        from methods.blocks.heads import pool

        class Branches(torch.nn.Module):
            def __init__(self, body: Any, width: int) -> None:
                super().__init__()
                self.body = body
                self.own = torch.nn.Sequential(Dropout(0.2), torch.nn.Linear(body.channels, width))

            def forward(self, images: Any) -> Any:
                shared = self.body(images)
                features = shared.features if self.training else pool(self.body.maps(images))
                return Pair(shared, self.own(features)) if self.training else shared

        net = Branches(body, self.width)
        initialise(net.own, self.seed, "own")
        return net.to(body.classifier.weight)

    def run(self, env: Env) -> Training:
        import torch

        from methods.blocks.dropout import address
        from methods.blocks.heads import detached, in_precision, together
        from methods.blocks.losses import smoothed_cross_entropy
        from methods.blocks.precision import dtype_of
        from reproduce.data.images import Images
        from reproduce.data.sampling import generator, identity_batches, shuffled_batches
        from reproduce.data.transforms import augment, normalise
        from reproduce.evaluation import embed

        data, target = env.open(self.source), env.open(self.target)
        images, others = (Images(of.root, of.train, self.input, env.device) for of in (data, target))
        known, dtype = Sightings.of(target.train), dtype_of(self.precision)
        labels, classes = torch.from_numpy(data.train_labels), len(data.train_pids)

        body = in_precision(self.init.start_at(env.get(self.init), "last"), self.precision)
        body.renew_classifier(classes, seed=self.seed)
        net = self.network(body.to(env.device)).to(env.device)
        head = self.guest.start(net.body, known, self.seed)
        optimizers = {
            "body": torch.optim.Adam([*net.body.parameters(), *head.parameters()], lr=self.lr),
            "own": torch.optim.SGD(net.own.parameters(), lr=self.lr, momentum=0.9),
        }
        memory = torch.zeros(classes, self.width, dtype=dtype, device=env.device)
        state = SimpleNamespace(net=net, head=head, optimizers=optimizers, memory=memory)

        for epoch in env.epochs(self.epochs, state):
            place = {"seed": self.seed, "epoch": epoch, "iterations": self.iterations}
            batches = identity_batches(labels.tolist(), self.P, self.K, **place)
            unlabelled = shuffled_batches(len(others), self.P * self.K, **place)
            self.guest.relabel(head, epoch, lambda: embed(net.body.eval(), others, pixels=self.pixels), known)
            losses = []
            net.train()
            both = zip(batches, images.batches(batches), unlabelled, others.batches(unlabelled), strict=True)
            for step, (batch, pixels, indices, seen) in enumerate(both):
                address(net, self.seed, epoch, step)
                groups = [augment(pixels, self.augment, generator(self.seed, "augment", epoch, step))]
                for number, view in enumerate(self.guest.views):
                    draws = generator(self.seed, "augment target", epoch, step, number)
                    plain = view == "plain"
                    groups.append(normalise(seen, self.pixels) if plain else augment(seen, self.augment, draws))
                own, *shown = together(net, [group.to(dtype) for group in groups])
                identities, which = labels[batch].to(env.device), torch.tensor(indices, device=env.device)
                pull = (own.own - state.memory[identities]).square().mean()
                views = [pair.shared for pair in shown]
                loss = smoothed_cross_entropy(own.shared.logits, identities, 0.1) + 0.1 * pull
                loss = loss + self.guest.loss(head, views, which)
                for optimizer in state.optimizers.values():
                    optimizer.zero_grad()
                loss.backward()
                for optimizer in state.optimizers.values():
                    optimizer.step()
                self.guest.update(head, detached(views), which)
                visited, fresh = identities[:: self.K], own.own.detach().unflatten(0, (-1, self.K)).mean(1)
                state.memory[visited] = state.memory[visited].lerp(fresh, 1 - self.kept)
                losses.append(loss.detach())
            env.log(epoch + 1, loss=torch.stack(losses), lr=self.lr, images=len(batches) * self.P * self.K)
        return Training({"last": snapshot(net)})

    def start(self, training: Training, at: str) -> nn.Module:
        """The body alone: what another training would continue from."""
        from methods.blocks.heads import continued

        weights = training.checkpoints[at]
        body = {name.removeprefix("body."): tensor for name, tensor in weights.items() if name.startswith("body.")}
        return continued(self.init, Training({at: body}), at, self.precision)

    def embedder(self, training: Training, at: str) -> nn.Module:
        return self.start(training, at).eval()

    def viewed(self, training: Training, at: str, view: str) -> nn.Module:
        """The second branch."""
        from methods.blocks.heads import pool

        net = self.network(self.start(training, at))
        net.load_state_dict(training.checkpoints[at])
        net.forward = lambda images: net.own(pool(net.body.maps(images)))
        return net.eval()
