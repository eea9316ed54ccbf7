"""Fields added later: with the value listed here, stages keep the keys that they had before."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import methods
import reproduce
from reproduce.stage import spec

ADDED: dict[tuple[str, str], Any] = {
    ("methods.cyclegan.CycleGAN", "cameras"): None,
    ("methods.jvtc.Adapt", "styles"): [],
    ("methods.jvtc.LocalGlobal", "neck"): False,
    ("methods.mmcl.Adapt", "styles"): [],
    ("methods.mmcl.MultiLabel", "hardest_of"): None,
    ("methods.moco.Pretrain", "block"): None,
    ("methods.msplr.Adapt", "resample"): "bicubic",
    ("methods.rae.Adapt", "guest"): None,
    ("methods.supervised.Train", "resample"): "bicubic",
    ("methods.supervised.Train", "by_iteration"): None,
    ("methods.supervised.Train", "smoothed_over"): "all",
    ("methods.supervised.Train", "classifier_std"): 0.001,
    ("methods.upreid.Pretrain", "block"): None,
    ("reproduce.clustering.MostClusters", "min_samples"): None,
    ("reproduce.clustering.MostClusters", "size"): 1,
    ("reproduce.clustering.Rho", "factor"): 1.0,
    ("reproduce.clustering.TopP", "of"): None,
    ("reproduce.evaluation.Evaluate", "view"): "",
    ("reproduce.evaluation.Evaluate", "distance"): None,
    ("reproduce.evaluation.Evaluate", "statistics"): "",
    ("reproduce.evaluation.Evaluate", "metric"): "cosine",
    ("reproduce.figures.Network", "view"): "",
    ("reproduce.figures.Network", "distance"): None,
    ("reproduce.figures.RankLists", "similarities"): False,
}
"""The value each field had implicitly before it existed. An entry never changes."""


def dataclasses_here() -> Iterator[type[Any]]:
    for package in (methods, reproduce):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name not in ("reproduce.__main__", "reproduce.compiled"):  # runs on import; needs numba
                module = importlib.import_module(info.name)
                yield from (value for value in vars(module).values() if dataclasses.is_dataclass(value))


def test_every_added_field_is_listed() -> None:
    marked = {
        (f"{kind.__module__}.{kind.__qualname__}", field.name): field.metadata["added"]
        for kind in dataclasses_here()
        if isinstance(kind, type)
        for field in dataclasses.fields(kind)
        if "added" in field.metadata
    }
    assert {place: spec(was) for place, was in marked.items()} == ADDED
