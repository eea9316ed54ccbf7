"""UP-ReID: what produces each row of its tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reproduce.papers.tables import Case, read

PAPER = read(Path(__file__).with_name("upreid.toml"))


@pytest.mark.parametrize("case", PAPER.cases("1a"))
def test_table1a(case: Case, judge: Callable[[Case], None]) -> None:
    judge(case)


@pytest.mark.parametrize("case", PAPER.cases("1b"))
def test_table1b(case: Case, judge: Callable[[Case], None]) -> None:
    judge(case)


@pytest.mark.parametrize("case", PAPER.cases("1c"))
def test_table1c(case: Case, judge: Callable[[Case], None]) -> None:
    judge(case)


@pytest.mark.parametrize("case", PAPER.cases("1d"))
def test_table1d(case: Case, judge: Callable[[Case], None]) -> None:
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


@pytest.mark.parametrize("case", PAPER.cases("5"))
def test_table5(case: Case, judge: Callable[[Case], None]) -> None:
    judge(case)


@pytest.mark.parametrize("case", PAPER.cases("6"))
def test_table6(case: Case, judge: Callable[[Case], None]) -> None:
    judge(case)
