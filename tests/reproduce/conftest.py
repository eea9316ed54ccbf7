"""What the tests of several kernels need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reproduce import neighbours


@pytest.fixture(scope="module", params=["scipy", "compiled"])
def loops(request: pytest.FixtureRequest) -> Iterator[str]:
    """The sparse work once by scipy and once by compiled loops."""
    if request.param == "compiled":
        pytest.importorskip("numba", reason="numba is not installed")
    with neighbours.using(compiled=request.param == "compiled"):
        yield request.param
