"""What a claim about learning curves compares."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import made
import numpy as np
import pytest

from methods import supervised
from reproduce.artifacts import Scores
from reproduce.data.domains import Domain
from reproduce.evaluation import Evaluate
from reproduce.papers.statistics import early
from reproduce.session.trials import ClaimTrial, RowTrial

CURVE = [{"step": epoch, "loss": 1.0} | ({"mAP": 10.0 * epoch} if epoch % 2 == 0 else {}) for epoch in range(1, 13)]
"""Twelve epochs, evaluated after every second."""

SCORES = Scores(
    50.0, 50.0, 50.0, 50.0, 50.0, np.array([0.5]), np.array([1]), 1, 0, np.array([7]), health={"clusters": 3.0}
)


@pytest.mark.parametrize(
    ("history", "expected"),
    [(CURVE, {"early": 30.0}), (CURVE[:6], {"early": 20.0}), (CURVE[:5], {}), ([], {}), ([{"step": 3.0}], {})],
)
def test_the_first_third_of_a_curve(history: list[dict[str, float]], expected: dict[str, float]) -> None:
    assert early(history) == expected


def row(rise: float, seeds: tuple[int, ...] = (1, 2, 3)) -> Any:
    """A row whose network is as good in the end as any other, and gets there sooner or later."""
    market = Domain("market")
    trial = RowTrial.__new__(RowTrial)
    trial.by_seed = {seed: Evaluate(supervised.Train(market, seed=seed), on=market) for seed in seeds}
    history = {stage.train: [*CURVE[:8], {"step": 12, "mAP": 50.0}] for stage in trial.by_seed.values()}  # type: ignore[attr-defined]
    for entries in history.values():
        entries[1] = {"step": 2, "mAP": rise}
    trial.session = SimpleNamespace(  # type: ignore[assignment]
        store=SimpleNamespace(load=lambda stage: SCORES, history=history.__getitem__),
        setting=SimpleNamespace(identity=lambda stages: made.identity()),
    )
    return trial


def test_a_claim_about_convergence_compares_curves_and_no_other_claim_reads_them() -> None:
    claim = SimpleNamespace(
        metrics=("early",), stated={}, left="1/a/m2m", right=("1/b/m2m",), at_least=False, kind="order"
    )
    trial = ClaimTrial.__new__(ClaimTrial)
    trial.rows, trial._differences = [row(30.0), row(10.0)], None
    trial.case = SimpleNamespace(claim=claim, paired=True)  # type: ignore[assignment]
    (found,) = trial.differences()
    assert found.by_seed == {1: 10.0, 2: 10.0, 3: 10.0}, "of two evaluations in the first third, one is 20 higher"
    assert found.difference.kind == "95 % t interval over 3 seeds"
    assert row(30.0).scores() == {1: SCORES, 2: SCORES, 3: SCORES}
    kept = row(30.0).scores(curves=True)[1]
    assert kept.health == {"clusters": 3.0, "early": 35.0}
    assert replace(kept, health=SCORES.health) == SCORES
