"""Suites as modules, for tests that compare something with what they say."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@cache
def suite(paper: str) -> Any:
    """The suite of a paper, as a module."""
    spec = importlib.util.spec_from_file_location(f"suite_of_{paper}", ROOT / "suites" / f"test_{paper}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
