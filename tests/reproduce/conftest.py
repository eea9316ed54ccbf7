"""Fixtures for tests of several kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from slurm_box import Box, absent

from reproduce import neighbours


@pytest.fixture(scope="module", params=["scipy", "compiled"])
def loops(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the sparse work with scipy, then with compiled loops."""
    if request.param == "compiled":
        pytest.importorskip("numba", reason="numba is not installed")
    with neighbours.using(compiled=request.param == "compiled"):
        yield request.param


@pytest.fixture(scope="session")
def box() -> Iterator[Box]:
    """Bring up a Slurm of two nodes; where CI is set, a machine without Slurm is a failure."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("runs without xdist: pytest tests/ -m slurm")
    if missing := absent():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"this machine has no {', '.join(missing)}")
    made = Box()
    yield made
    made.stop()
