"""MSPLR, "Learn by Guessing": what produces each row of its tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from methods import supervised
from reproduce.data.domains import Domain
from reproduce.data.transforms import Augment
from reproduce.evaluation import Evaluate
from reproduce.tables import Case, Task, read

PAPER = read(Path(__file__).with_name("msplr.toml"))


def baseline(domain: Domain, seed: int) -> supervised.Train:
    """Section 3.6.1; random erasing is off, as the direct-transfer numbers suggest."""
    return supervised.Train(
        domain, seed=seed, backbone="resnet50_ibn_a", epochs=90, centre_weight=0.005, augment=Augment(erase=None)
    )


def supervised_row(task: Task, seed: int) -> Evaluate:
    return Evaluate(baseline(task.target, seed), on=task.target)


def direct_transfer(task: Task, seed: int) -> Evaluate:
    return Evaluate(baseline(task.source, seed), on=task.target)


@pytest.mark.parametrize("case", PAPER.cases("1", supervised=supervised_row, direct=direct_transfer))
def test_table1(case: Case, judge: Callable[[Case], None]) -> None:
    judge(case)


@pytest.mark.parametrize("case", PAPER.cases("2"))
def test_table2(case: Case, judge: Callable[[Case], None]) -> None:
    judge(case)


@pytest.mark.parametrize("case", PAPER.cases("3"))
def test_table3(case: Case, judge: Callable[[Case], None]) -> None:
    judge(case)


@pytest.mark.parametrize("case", PAPER.cases("4"))
def test_table4(case: Case, judge: Callable[[Case], None]) -> None:
    judge(case)
