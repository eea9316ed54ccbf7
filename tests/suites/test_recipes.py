"""What the rows of suites run at paper scale."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from reproduce.clustering import DBSCAN, MostClusters, Rho, Tuned
from reproduce.papers.tables import Task
from reproduce.session.setting import Setting

ROOT = Path(__file__).parents[2]
MSPLR = runpy.run_path(str(ROOT / "suites" / "test_msplr.py"))
TASK = Task("m2d")


@pytest.mark.parametrize("row", ["da", "pl", "selection", "ours"])
def test_the_printed_eps_is_of_normalised_features_alone(row: str) -> None:
    train = MSPLR["TABLES"]["3"][row](TASK, 1).train
    assert train.by_camera == (row == "ours")
    assert train.cluster == DBSCAN(Tuned(0.35 if row == "ours" else Rho(of=12936)))
    assert Setting("small").resolve(train).cluster == DBSCAN(MostClusters()), "one rule for all rows, elsewhere"
