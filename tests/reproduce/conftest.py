"""Fixtures for tests of several kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reproduce import neighbours


@pytest.fixture(scope="module", params=["scipy", "compiled"])
def loops(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the sparse work with scipy, then with compiled loops."""
    if request.param == "compiled":
        pytest.importorskip("numba", reason="numba is not installed")
    with neighbours.using(compiled=request.param == "compiled"):
        yield request.param
