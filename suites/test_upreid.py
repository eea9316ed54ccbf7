"""UP-ReID: what produces each row of its tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from methods import bdb, mgn, spcl, supervised
from reproduce.data.transforms import Augment, Erase
from reproduce.evaluation import Evaluate
from reproduce.papers.cases import AnyCase, Recipe, Recipes, Suite
from reproduce.papers.tables import Task, read

PAPER = read(Path(__file__).with_name("upreid.toml"))


def bot(task: Task, seed: int) -> Evaluate:
    """BOT as fast-reid trains it: configs/Base-bagtricks.yml."""
    erase = Erase(area=(0.02, 0.33), aspect=(0.3, 3.3), log_aspect=True, when="before")
    train = supervised.Train(
        task.source,
        seed=seed,
        resample="bicubic",
        milestones=(40, 90),
        by_iteration=supervised.ByIteration(),
        smoothed_over="rest",
        centre_weight=0.0,
        classifier_std=0.01,
        augment=Augment(erase=erase),
        eval_every=30,
    )
    return Evaluate(train, on=task.target)


def drop_block(task: Task, seed: int) -> Evaluate:
    return Evaluate(bdb.Train(task.source, seed=seed), on=task.target, metric="euclidean")


def granular(task: Task, seed: int) -> Evaluate:
    return Evaluate(mgn.Train(task.source, seed=seed), on=task.target)


def unlabelled(task: Task, seed: int) -> Evaluate:
    """SpCL as published; the paper says OpenUnReID but prints the original's numbers."""
    source = None if task.unsupervised else task.source
    return Evaluate(spcl.Adapt(task.target, source, seed=seed), on=task.target, at="best on target")


SUPERVISED: dict[str, Recipe] = {"bdb": drop_block, "bot": bot, "mgn": granular}

TABLES: Recipes = {
    **{table: {"insup": SUPERVISED} for table in ("1a", "1b", "1c", "1d")},
    "2": {"insup": unlabelled},
}

SUITE = Suite(PAPER, TABLES)


@pytest.mark.parametrize("case", SUITE.cases())
def test(case: AnyCase, judge: Callable[[AnyCase], None]) -> None:
    judge(case)
