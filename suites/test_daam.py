"""DAAM: what produces each row of its tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reproduce.papers.tables import Case, read

PAPER = read(Path(__file__).with_name("daam.toml"))


@pytest.mark.parametrize("case", PAPER.cases("1"))
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
