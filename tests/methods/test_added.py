"""Fields that came later: at the value written here stages have the keys that they had before."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import methods
import reproduce
from reproduce.stage import spec

ADDED = {
    ("methods.msplr.Adapt", "resample"): "bicubic",
    ("methods.supervised.Train", "resample"): "bicubic",
    ("reproduce.evaluation.Evaluate", "view"): "",
    ("reproduce.evaluation.Evaluate", "distance"): None,
    ("reproduce.evaluation.Evaluate", "statistics"): "",
    ("reproduce.figures.Network", "view"): "",
    ("reproduce.figures.Network", "distance"): None,
}
"""What each stood for before it was a field. An entry never changes."""


def dataclasses_here() -> Iterator[type[Any]]:
    for package in (methods, reproduce):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name not in ("reproduce.__main__", "reproduce.compiled"):  # runs; needs numba, and holds none
                module = importlib.import_module(found.name)
                yield from (each for each in vars(module).values() if dataclasses.is_dataclass(each))


def test_every_field_that_was_added_is_written_down() -> None:
    marked = {
        (f"{each.__module__}.{each.__qualname__}", field.name): field.metadata["added"]
        for each in dataclasses_here()
        if isinstance(each, type)
        for field in dataclasses.fields(each)
        if "added" in field.metadata
    }
    assert {place: spec(was) for place, was in marked.items()} == ADDED
