"""Toy: what produces each row of its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from methods import supervised
from reproduce.evaluation import Evaluate
from reproduce.papers.tables import Case, Task, read
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


@pytest.mark.parametrize("case", PAPER.cases("1", shared=shared, own=own, again=again))
def test_table1(case: Case, judge: Callable[[Case], None]) -> None:
    judge(case)
