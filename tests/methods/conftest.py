"""The setting that methods are tested in."""

from __future__ import annotations

from pathlib import Path

import pytest

from reproduce.setting import Setting


@pytest.fixture
def setting(tiny_domain: Path) -> Setting:
    """The tiny domain as source and as target."""
    return Setting("paper", {"market": tiny_domain, "duke": tiny_domain}, weights="scratch")
