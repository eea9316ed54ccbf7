"""DAAM: what produces each row of its tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from methods import daam, supervised
from reproduce.clustering import DBSCAN, MostClusters, TopP, Tuned
from reproduce.evaluation import Evaluate
from reproduce.figures import AttentionMaps
from reproduce.papers.cases import AnyCase, Recipe, Suite
from reproduce.papers.tables import Task, read

PAPER = read(Path(__file__).with_name("daam.toml"))

IMAGES = {"market": 12936, "duke": 16522, "msmt17": 32621}
"""Training images of the published sets, which the share p belongs to."""

UDAP_M = 4
"""`min_samples` of UDAP, which DAAM extends."""


def source_model(task: Task, seed: int, *, attention: bool = True) -> daam.Pretrain:
    return daam.Pretrain(task.source, attention=attention, seed=seed)


def adapted(
    task: Task, seed: int, *, attention: bool = True, p: float | None = None, M: int = UDAP_M, **changes: Any
) -> daam.Adapt:
    """The full method, with UDAP's p on the published data unless p is given, and UDAP's M, from which eps is set."""
    rule = partial(TopP, of=IMAGES[task.target.name])
    cluster = DBSCAN(rule(p) if p else Tuned(rule(), MostClusters(min_samples=UDAP_M)), M)
    return daam.Adapt(source_model(task, seed, attention=attention), task.target, cluster, seed=seed, **changes)


def on_target(train: daam.Pretrain | daam.Adapt, task: Task) -> Evaluate:
    """On the target, also with its own statistics: those of training are of both domains together."""
    return Evaluate(train, on=task.target, statistics="target")


def row(**changes: Any) -> Recipe:
    return lambda task, seed: on_target(adapted(task, seed, **changes), task)


def pseudo_labels(loss: daam.Smoothed | daam.Soft) -> Recipe:
    """A row with neither attention nor specific branch."""
    return row(attention=False, specific=False, loss=loss)


def direct_transfer(task: Task, seed: int) -> Evaluate:
    return on_target(source_model(task, seed, attention=False), task)


def supervised_row(task: Task, seed: int) -> Evaluate:
    return on_target(daam.Pretrain(task.target, attention=False, seed=seed), task)


def share(task: Task, seed: int, value: float) -> Evaluate:
    return on_target(adapted(task, seed, p=value), task)


def min_points(task: Task, seed: int, value: float) -> Evaluate:
    return on_target(adapted(task, seed, M=int(value)), task)


ours = row()

TABLES = {
    "1": {"ours": ours},
    "2": {"ours_d": direct_transfer, "ours_u": ours},
    "3": {"ours": ours},
    "4": {
        "supervised": supervised_row,
        "direct": direct_transfer,
        "hard": pseudo_labels(daam.Smoothed(0.0)),
        "lsr": pseudo_labels(daam.Smoothed()),
        "soft": pseudo_labels(daam.Soft()),
        "dsh_dsp": row(attention=False),
        "dsh_daam": row(specific=False),
        "dsh_dsp_ia": row(individual=True),
        "ours": ours,
    },
}


def both_parts(**fields: Any) -> AttentionMaps:
    """What the attention gives to the shared and to the specific branch of each network."""
    rows = [part for network in fields.pop("rows") for part in (network, replace(network, view="specific"))]
    return AttentionMaps(rows=tuple(rows), **fields)


def source_alone(task: Task, seed: int) -> supervised.Train:
    """What the source models of baselines are held against."""
    return supervised.Train(task.source, seed=seed)


COMPARED = ("direct", "ours-d", "hard", "lsr", "soft", "dsh+dsp", "dsh+daam", "dsh+dsp+ia")
"""Rows that a claim says another is better than."""

SUITE = Suite(
    PAPER,
    TABLES,
    draws={"1": both_parts},
    sweeps={"5": {"p": share}, "6": {"M": min_points}},
    baselines=dict.fromkeys(COMPARED, source_alone),
)


@pytest.mark.parametrize("case", SUITE.cases())
def test(case: AnyCase, judge: Callable[[AnyCase], None]) -> None:
    judge(case)
