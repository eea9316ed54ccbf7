"""Processes that build stages together on the CPU, and what each of them computed."""

from __future__ import annotations

import multiprocessing as mp
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from reproduce.running.runner import Site, build
from reproduce.stage import Stage


@dataclass
class Seen:
    """What a process computed."""

    gradients: list[list[torch.Tensor | None]] = field(default_factory=list)
    """Of each optimiser's parameters, at its first step."""
    images: int = 0
    """Images that passed through backbones in training."""


@contextmanager
def watched() -> Iterator[Seen]:
    """Watch the trainings of this process; a backbone has one maximum pooling."""
    optimizers: list[Any] = []
    seen = Seen()

    def hook(optimizer: Any, *_: object) -> None:
        if not any(each is optimizer for each in optimizers):
            optimizers.append(optimizer)
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            seen.gradients.append([None if weight.grad is None else weight.grad.clone() for weight in weights])

    def pooled(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.MaxPool2d) and module.training:
            seen.images += len(given[0])

    handles = register_optimizer_step_pre_hook(hook), register_module_forward_pre_hook(pooled)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def together(stage: Stage[Any], site: Site) -> Seen:
    """Build a stage whose upstream stages are there, as one of its ranks."""
    with watched() as seen:
        build(stage, site, lambda _: None)
    return seen


class Pool:
    """As many processes as ranks, which wait for stages to build.

    They have the start method "spawn", since this process may have used threads.
    """

    def __init__(self, ranks: int, folder: Path) -> None:
        self.ranks, self._folder, self._count = ranks, folder, 0
        context = mp.get_context("spawn")
        self._pipes, self._processes = [], []
        for _ in range(ranks):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there,), daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)

    def build(self, stage: Stage[Any], site: Site) -> list[Seen]:
        """Build a stage; return what each rank computed."""
        self._count += 1
        site = replace(site, ranks=self.ranks, meeting=self._folder / f"meeting-{self._count}")
        for rank, pipe in enumerate(self._pipes):
            pipe.send((stage, replace(site, rank=rank)))
        answers = [pipe.recv() for pipe in self._pipes]
        assert not (errors := [answer for answer in answers if isinstance(answer, str)]), "\n".join(errors)
        return [torch.load(path, weights_only=False) for path in answers]

    def close(self) -> None:
        for process in self._processes:
            process.kill()


def _work(pipe: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        stage, site = pipe.recv()
        try:
            path = site.meeting.with_suffix(f".{site.rank}")
            torch.save(together(stage, site), path)
            pipe.send(path)
        except BaseException:
            pipe.send(traceback.format_exc())
