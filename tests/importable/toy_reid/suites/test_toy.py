"""Toy: what produces each row of its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from methods import supervised
from reproduce.evaluation import Evaluate
from reproduce.papers.cases import AnyCase, Suite
from reproduce.papers.tables import Task, read
from toy_reid.guest import Remember
from toy_reid.images import Darker
from toy_reid.method import TwoBranches

PAPER = read(Path(__file__).with_name("toy.toml"))


def training(task: Task, seed: int) -> TwoBranches:
    source = Darker(task.source)
    return TwoBranches(supervised.Train(source, seed=seed), source, task.target, Remember(), seed=seed)


def shared(task: Task, seed: int) -> Evaluate:
    return Evaluate(training(task, seed), on=task.target)


def own(task: Task, seed: int) -> Evaluate:
    return replace(shared(task, seed), view="own")


def again(task: Task, seed: int) -> Evaluate:
    """Supervised training on the target, started from the backbone that the method left."""
    return Evaluate(supervised.Train(task.target, seed=seed, weights=training(task, seed)), on=task.target)


def direct(task: Task, seed: int) -> Evaluate:
    """The row that the paper quotes, run here for reference."""
    return Evaluate(supervised.Train(task.source, seed=seed), on=task.target)


def kept(task: Task, seed: int, value: float) -> Evaluate:
    return Evaluate(replace(training(task, seed), kept=value), on=task.target)


SUITE = Suite(
    PAPER,
    {"1": {"shared": shared, "own": own, "again": again, "direct": direct}},
    sweeps={"2": {"kept": kept}},
)


@pytest.mark.parametrize("case", SUITE.cases())
def test(case: AnyCase, judge: Callable[[AnyCase], None]) -> None:
    judge(case)
