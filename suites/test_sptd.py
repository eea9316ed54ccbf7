"""SPTD: what produces each row of its tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from methods import mmt, simclr, sptd, supervised
from reproduce.clustering import DBSCAN, KMeans, Rho
from reproduce.evaluation import Evaluate
from reproduce.figures import ActivationMaps, Projection, RankLists
from reproduce.papers.cases import AnyCase, Recipe, Suite
from reproduce.papers.tables import Task, read

PAPER = read(Path(__file__).with_name("sptd.toml"))

IMAGES = {"market": 12936, "duke": 16522, "msmt17": 32621}
"""Training images of the published sets, which the printed k and the share of neighbours belong to."""

CLUSTERS = {"market": 500, "duke": 700, "msmt17": 1500}
"""k of k-means by target (section 4.2)."""


def pretrained(task: Task, seed: int, **changes: Any) -> sptd.Pretrain:
    return sptd.Pretrain(task.source, task.target, seed=seed, **changes)


def baseline(task: Task, seed: int) -> sptd.Pretrain:
    """MMT's own pre-training."""
    return pretrained(task, seed, objective=None, bn_target=True)


def by_kmeans(target: str) -> KMeans:
    """As many clusters for the images as the paper has; half of one more keeps the floor at its k."""
    return KMeans(images_per_cluster=IMAGES[target] / (CLUSTERS[target] + 0.5))


def by_dbscan(target: str) -> DBSCAN:
    return DBSCAN(Rho(of=IMAGES[target]))


def scored(pretrain: Callable[[Task, int], sptd.Pretrain]) -> Recipe:
    """The row of a pre-trained model."""
    return lambda task, seed: Evaluate(pretrain(task, seed), on=task.target, at="best on source", statistics="target")


def adapted(pretrain: Callable[[Task, int], sptd.Pretrain], cluster: Callable[[str], KMeans | DBSCAN]) -> Recipe:
    """The row of two pre-trained models, fine-tuned by MMT; a run of seed s trains networks 2s - 1 and 2s."""

    def recipe(task: Task, seed: int) -> Evaluate:
        init = (pretrain(task, 2 * seed - 1), pretrain(task, 2 * seed))
        train = mmt.Adapt(init, task.target, cluster(task.target.name), seed=seed)
        return Evaluate(train, on=task.target, at="best on target", statistics="target")

    return recipe


def views(*names: str) -> Recipe:
    """The row of a pre-training with some of the augmentations."""
    chosen = sptd.Views(**{name: name in names for name in ("flip", "crop", "erase", "colour")})
    return scored(lambda task, seed: pretrained(task, seed, views=chosen))


ADAPTED = {
    "mmt_dbscan": adapted(baseline, by_dbscan),
    "sptd_kmeans": adapted(pretrained, by_kmeans),
    "sptd_dbscan": adapted(pretrained, by_dbscan),
}

TABLES = {
    "1": ADAPTED,
    "2": ADAPTED,
    "3": ADAPTED,
    "4": ADAPTED,
    "5": {
        "baseline": scored(baseline),
        "sptd_idx": scored(lambda task, seed: pretrained(task, seed, objective=sptd.Index(consistency=False))),
        "sptd_rf_re_cd_rc": scored(pretrained),
    },
    "6": {
        "baseline": scored(baseline),
        "sptd_rf": views("flip"),
        "sptd_rf_re": views("flip", "erase"),
        "sptd_rf_re_cd": views("flip", "erase", "colour"),
        "sptd_rf_re_cd_rc": scored(pretrained),
        **ADAPTED,
    },
    "7": {
        "baseline": scored(baseline),
        "simclr": scored(lambda task, seed: pretrained(task, seed, objective=simclr.NTXent())),
        "sptd_rf_re_cd_rc": scored(pretrained),
    },
}


def source_alone(task: Task, seed: int) -> supervised.Train:
    """What the source models of baselines are held against."""
    return supervised.Train(task.source, seed=seed)


BASELINES = {"baseline": source_alone, "mmt-dbscan": source_alone}

SUITE = Suite(PAPER, TABLES, draws={"4": ActivationMaps, "5": Projection, "6": RankLists}, baselines=BASELINES)


@pytest.mark.parametrize("case", SUITE.cases())
def test(case: AnyCase, judge: Callable[[AnyCase], None]) -> None:
    judge(case)
