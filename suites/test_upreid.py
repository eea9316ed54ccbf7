"""UP-ReID: what produces each row of its tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from methods import bdb, mgn, moco, spcl, supervised, upreid
from reproduce.data.domains import Domain
from reproduce.data.transforms import LUPERSON, Augment, Erase
from reproduce.evaluation import Evaluate
from reproduce.papers.cases import AnyCase, Recipe, Recipes, Suite
from reproduce.papers.tables import Task, read
from reproduce.scales import Released

PAPER = read(Path(__file__).with_name("upreid.toml"))

EPOCHS = 60
"""Of every pre-training that stands in for released weights, 20 at scale small; set by cost before any was run. The
recipe for LUPerson has 200."""


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


def contrast(seed: int) -> Released:
    """MoCo v2: LUPerson's weights or, in their place, a training that differs from UP-ReID's in losses alone."""
    ours = upreid.Pretrain(Domain("luperson"))
    training = moco.Pretrain(ours.domain, seed=seed, batch=ours.batch, lr=ours.lr, bn_group=ours.bn_group)
    return Released("luperson", training, EPOCHS)


def intra_identity(name: str = "upreid", **changes: Any) -> Callable[[int], Released]:
    """UP-ReID or a variant; its weights were never released, so `name` is that of a file of one's own."""
    return lambda seed: Released(name, upreid.Pretrain(Domain("luperson"), seed=seed, **changes), EPOCHS)


def started(recipe: Recipe, start: Callable[[int], Released]) -> Recipe:
    """Start a recipe from a pre-training on LUPerson, whose pixel statistics it keeps."""

    def of(task: Task, seed: int) -> Evaluate:
        row: Any = recipe(task, seed)
        augment = replace(row.train.augment, pixels=LUPERSON)
        moved: Evaluate = replace(row, train=replace(row.train, weights=start(seed), augment=augment))
        return moved

    return of


SUPERVISED: dict[str, Recipe] = {"bdb": drop_block, "bot": bot, "mgn": granular}

STARTS = {
    "moco": contrast,
    "moco_cc": intra_identity("upreid_cc", lambda_g=1.0, lambda_p=0.0),
    "moco_icc": intra_identity("upreid_icc", consistent=False),
    "upreid": intra_identity(),
    "upreid_nohm": intra_identity("upreid_nohm", mirrored=False),
    "upreid_m4": intra_identity("upreid_m4", M=4),
    "upreid_m12": intra_identity("upreid_m12", M=12),
}
"""Pre-trainings on LUPerson, by row."""

BY_METHOD: dict[str, dict[str, Recipe]] = {
    "insup": SUPERVISED,
    **{row: {name: started(recipe, STARTS[row]) for name, recipe in SUPERVISED.items()} for row in ("moco", "upreid")},
}


def ablation(*rows: str) -> dict[str, Recipe]:
    """MGN from the pre-trainings of rows."""
    return {row: started(granular, STARTS[row]) for row in rows}


TABLES: Recipes = {
    **dict.fromkeys(("1a", "1b", "1c", "1d"), BY_METHOD),
    "2": {"insup": unlabelled, **{row: started(unlabelled, STARTS[row]) for row in ("moco", "upreid")}},
    "3": ablation("upreid"),
    "4": ablation("moco", "moco_cc", "moco_icc", "upreid"),
    "5": ablation("upreid_nohm", "upreid"),
    "6": ablation("upreid_m4", "upreid_m12", "upreid"),
}

SUITE = Suite(PAPER, TABLES)


@pytest.mark.parametrize("case", SUITE.cases())
def test(case: AnyCase, judge: Callable[[AnyCase], None]) -> None:
    judge(case)
