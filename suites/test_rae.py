"""RAE: what produces each row of its tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reproduce.papers.cases import AnyCase, Suite
from reproduce.papers.tables import read

SUITE = Suite(read(Path(__file__).with_name("rae.toml")))


@pytest.mark.parametrize("case", SUITE.cases())
def test(case: AnyCase, judge: Callable[[AnyCase], None]) -> None:
    judge(case)
