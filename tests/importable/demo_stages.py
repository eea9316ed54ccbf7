"""Small stages for the tests of runner, engine and plugin; importable by their child processes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from reproduce.artifacts import Folder, Scores, Training
from reproduce.errors import UserError
from reproduce.evaluation import Trained
from reproduce.stage import Env, Stage, role


@dataclass(frozen=True)
class Number(Stage[Scores]):
    """Scores that are the number itself plus those of the stages before it."""

    value: float = 1.0
    before: tuple[Stage[Any], ...] = ()
    sleep: float = 0.0
    trouble: str = ""
    seed: int = 1

    def run(self, env: Env) -> Scores:
        import numpy as np

        total = self.value + sum(env.get(stage).mAP for stage in self.before)
        time.sleep(self.sleep)
        match self.trouble:
            case "user":
                raise UserError("mend the thing")
            case "bug":
                raise ValueError("a bug")
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stranger":
                env.get(Number(12345.0))
            case "nan":
                import torch

                env.log(3, loss=torch.tensor([1.0, float("nan"), 2.0]))
        env.log(1, loss=total)
        told = {"health": {"clusters": 1.0, "portion": 12.5}, "collapsed": "1 clusters were left at step 1"}
        scores = Scores(
            total, total, total, total, total, np.array([total / 100, np.nan]), np.array([1, 0]), 2, 1, np.array([1, 2])
        )
        return replace(scores, **told) if self.trouble == "collapsed" else scores


@dataclass(frozen=True)
class Counted(Stage[Scores]):
    """Scores that are the number of a domain's training images."""

    domain: Any
    seed: int = 1

    def run(self, env: Env) -> Scores:
        import numpy as np

        images = len(env.open(self.domain).train)
        return Scores(
            images,
            images,
            images,
            images,
            images,
            np.array([images / 100, np.nan]),
            np.array([1, 0]),
            2,
            1,
            np.array([1, 2]),
        )


@dataclass(frozen=True)
class Timed(Stage[Scores]):
    """A stage that takes half a second of processor time an epoch."""

    epochs: int = role("epochs", 90)

    @property
    def work(self) -> float:
        return float(self.epochs)

    def run(self, env: Env) -> Scores:
        import numpy as np

        end = time.process_time() + 0.5 * self.epochs
        while time.process_time() < end:
            pass
        return Scores(1.0, 1.0, 1.0, 1.0, 1.0, np.array([0.01]), np.array([1]), 1, 0, np.array([1]))


@dataclass(frozen=True)
class Tree(Stage[Folder]):
    """A folder with one file."""

    text: str = "hello"

    def run(self, env: Env) -> Folder:
        (env.folder / "deep").mkdir()
        (env.folder / "deep" / "file.txt").write_text(self.text)
        return Folder(env.folder, {"letters": len(self.text)})


@dataclass(frozen=True)
class Descent(Stage[Training]):
    """A little training whose state holds every kind of thing that a state may hold."""

    epochs: int = 6
    seed: int = 1
    pause: float = 0.0
    version: ClassVar[int] = 1

    @property
    def work(self) -> float:
        return 4.0 * self.epochs

    def run(self, env: Env) -> Training:
        import torch

        from reproduce.artifacts import snapshot
        from reproduce.data.sampling import generator

        net = torch.nn.Linear(3, 2)
        with torch.no_grad():
            net.weight.fill_(0.1)
            net.bias.zero_()
        state = SimpleNamespace(
            net=net,
            optimizer=torch.optim.Adam(net.parameters(), 0.1),
            queue=torch.zeros(2),
            best={"loss": 1e9},
            notes=["start"],
        )
        for epoch in env.epochs(self.epochs, state):
            time.sleep(self.pause)
            inputs = torch.rand(4, 3, generator=generator(self.seed, "inputs", epoch))
            loss = (state.net(inputs) - state.queue).square().mean()
            state.optimizer.zero_grad()
            loss.backward()
            state.optimizer.step()
            state.queue = torch.cat([state.queue[1:], loss.detach()[None]])
            state.best = {"loss": min(state.best["loss"], loss.item())}
            state.notes.append(f"epoch {epoch}")
            env.log(epoch + 1, loss=loss.detach(), images=4)
        return Training(
            {"last": {**snapshot(net), "queue": state.queue}}, {"best": state.best["loss"], "notes": state.notes}
        )


@dataclass(frozen=True)
class After(Stage[Scores]):
    """Scores after a training."""

    training: Descent
    seed: int = 1

    def run(self, env: Env) -> Scores:
        env.get(self.training)
        return Number().run(env)


@dataclass(frozen=True)
class Following(Stage[Scores]):
    """A training that continues another."""

    before: Stage[Training]
    seed: int = 1
    work = 10.0

    def run(self, env: Env) -> Scores:
        env.get(self.before)
        return Number().run(env)


@dataclass(frozen=True)
class Broken(Stage[Training]):
    """A training that fails."""

    seed: int = 1
    work = 10.0

    def run(self, env: Env) -> Training:
        raise ValueError("a bug")


@dataclass(frozen=True)
class Walk(Stage[Training]):
    """A little pre-training that is counted in steps: four to a pass over nine images, a queue, an optimiser a net."""

    steps: int = 10
    seed: int = 1

    def run(self, env: Env) -> Training:
        import torch

        from reproduce.artifacts import snapshot
        from reproduce.data.sampling import in_step, normal, shuffled_batches

        images = normal((9, 3), self.seed, "images").float()
        nets = {"query": torch.nn.Linear(3, 2), "key": torch.nn.Linear(3, 2)}
        for name, net in nets.items():
            with torch.no_grad():
                net.weight.copy_(normal((2, 3), self.seed, name))
                net.bias.zero_()
        state = SimpleNamespace(
            nets=nets,
            optimizers={name: torch.optim.Adam(net.parameters(), 0.1) for name, net in nets.items()},
            queue=normal((5, 2), self.seed, "queue").float(),
            seen=[],
        )
        batches = shuffled_batches(len(images), 2, seed=self.seed, epoch=0, iterations=self.steps)
        for step, batch in in_step(env.steps(self.steps, state), lambda first: batches[first:]):
            query, key = (net(images[batch]) for net in nets.values())
            loss = (query - key.detach()).square().mean() + (query @ state.queue.T).exp().mean()
            loss = loss + (key - query.detach()).square().mean()
            for optimizer in state.optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            for optimizer in state.optimizers.values():
                optimizer.step()
            state.queue = torch.cat([state.queue, key.detach()])[2:]
            state.seen.append(tuple(batch))
            env.log(step + 1, loss=loss.detach(), images=2)
        return Training({"last": {**snapshot(nets["query"]), "queue": state.queue}}, {"seen": state.seen})


@dataclass(frozen=True)
class Arithmetic(Stage[Folder]):
    """What the process of a stage may compute in TF32, after the settings were read in every way that torch has."""

    def run(self, env: Env) -> Folder:
        import torch

        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        with cudnn.flags(enabled=cudnn.enabled, allow_tf32=False):
            pass
        precisions = [operation.fp32_precision for operation in (cudnn.conv, cudnn.rnn, matmul, torch.backends)]  # type: ignore[attr-defined]
        (env.folder / "settled").touch()
        return Folder(env.folder, {"tf32": [cudnn.allow_tf32, matmul.allow_tf32], "precisions": precisions})


@dataclass(frozen=True)
class Twice(Stage[Training]):
    """A stage that wants two loops resumed."""

    def run(self, env: Env) -> Training:
        state = SimpleNamespace(done=0)
        for unit in (env.epochs, env.steps):
            for _ in unit(2, state):
                state.done += 1
        return Training({"last": {}})


def touch_and_wait(path: Path, seconds: float) -> None:
    """For tests that need a process which lives for a while."""
    path.touch()
    time.sleep(seconds)


@dataclass(frozen=True)
class Untrained(Trained):
    """A fixed network whose embedding is a random projection of the image, `maps` two coarse channels of it."""

    seed: int = 1
    domains: tuple[Any, ...] = ()
    input: tuple[int, int] = (32, 16)
    looks: bool = True

    def run(self, env: Env) -> Training:
        for domain in self.domains:
            env.open(domain)
        return Training({"last": {}})

    def embedder(self, training: Training, at: str) -> Any:
        import torch

        from reproduce.data.sampling import normal

        class Net(torch.nn.Module):
            def __init__(self, seed: int, pixels: int) -> None:
                super().__init__()
                self.weight = torch.nn.Parameter(normal((8, 3 * pixels), seed, "untrained").float())

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return images.flatten(1) @ self.weight.T

        class Looking(Net):
            def maps(self, images: torch.Tensor) -> torch.Tensor:
                return torch.nn.functional.avg_pool2d(images, 8)[:, :2]

        return (Looking if self.looks else Net)(self.seed, self.input[0] * self.input[1]).eval()


@dataclass(frozen=True)
class Learned(Untrained):
    """As `Untrained`, for one that says what it learned from; where it is blind, it sees one pixel alone."""

    domain: Any = None
    blind: bool = False

    @property
    def labelled(self) -> Any:
        return self.domain

    def embedder(self, training: Training, at: str) -> Any:
        net = super().embedder(training, at)
        if self.blind:
            net.weight.data[:, 1:] = 0
        return net


@dataclass(frozen=True)
class Shared(Stage[Training]):
    """A little training whose every epoch adds up what its ranks have, and in which one of them may have trouble."""

    divisible: ClassVar[bool] = True

    epochs: int = 6
    pause: float = 0.0
    trouble: str = ""
    """What happens to rank 1 in the second epoch: "user" or "other" errors, or it is "killed"; or an error at its end,
    when the stage no longer needs it: "late"."""

    def run(self, env: Env) -> Training:
        import torch

        from reproduce import ranks

        state = SimpleNamespace(total=torch.zeros(1, dtype=torch.float64))
        for epoch in env.epochs(self.epochs, state):
            time.sleep(self.pause)
            if epoch == 1 and ranks.own() == 1:
                self.fail()
            own = torch.tensor([float(epoch + ranks.own())], dtype=torch.float64)
            state.total = state.total + (ranks.summed(own) if ranks.count() > 1 else own)
            env.log(epoch + 1, total=float(state.total))
        if self.trouble == "late":
            if ranks.own() == 1:
                raise ValueError("rank 1 cannot tidy up")
            time.sleep(0.3)
        return Training({"last": {"total": state.total}}, {"ranks": ranks.count()})

    def fail(self) -> None:
        """Have the trouble."""
        if self.trouble == "user":
            raise UserError("rank 1 found no images: copy them again")
        if self.trouble == "other":
            raise ValueError("rank 1 is confused")
        if self.trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
