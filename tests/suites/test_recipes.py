"""What the rows of suites run at paper scale."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from reproduce.clustering import DBSCAN, Rho, Tuned
from reproduce.setting import Setting
from reproduce.tables import Task

ROOT = Path(__file__).parents[2]
MSPLR = runpy.run_path(str(ROOT / "suites" / "test_msplr.py"))
TASK = Task("m2d")


@pytest.mark.parametrize(
    ("row", "eps"), [("da", Rho(of=12936)), ("pl", Rho(of=12936)), ("selection", Rho(of=12936)), ("ours", Tuned(0.35))]
)
def test_the_printed_eps_is_of_normalised_features_alone(row: str, eps: Rho | Tuned) -> None:
    train = MSPLR["TABLES"]["3"][row](TASK, 1).train
    assert train.by_camera == (row == "ours")
    assert train.cluster == DBSCAN(eps)
    assert Setting("small").resolve(train).cluster == DBSCAN(Rho(of=12936)), "the rule, where nothing was tuned"
