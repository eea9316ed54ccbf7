"""Every method resizes as its published code does: Bag of Tricks bilinearly, MMT bicubically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import pretraining, run, source

from methods import mmt, msplr
from reproduce.clustering import KMeans
from reproduce.data import images
from reproduce.data.domains import Domain
from reproduce.evaluation import Evaluate, OnSource, Trained
from reproduce.figures import ActivationMaps, Network, Projection, RankLists
from reproduce.session.setting import Setting

TINY: dict[str, Any] = {"P": 4, "K": 2, "epochs": 1, "input": (32, 16)}
LIKE = {"bilinear": source(), "bicubic": pretraining()}
ADAPTED = {
    "bilinear": msplr.Adapt(source(), Domain("duke"), KMeans(4, n_init=1), steps=1, frozen=0, **TINY),
    "bicubic": mmt.Adapt(
        (pretraining(), pretraining(seed=2)), Domain("duke"), KMeans(4, n_init=1), iterations=1, bn_group=4, **TINY
    ),
}


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Record the filters that images are decoded with."""
    filters: set[str] = set()
    decode = images.decode

    def listening(path: Path, size: tuple[int, int], resample: images.Resample = "bicubic") -> Any:
        filters.add(resample)
        return decode(path, size, resample)

    monkeypatch.setattr(images, "decode", listening)
    return filters


@pytest.mark.parametrize("resample", LIKE)
def test_filter_in_training_and_tests(resample: str, setting: Setting, tmp_path: Path, heard: set[str]) -> None:
    for stage in (Evaluate(ADAPTED[resample], Domain("duke")), OnSource(LIKE[resample])):
        run(stage, setting, tmp_path)
    assert heard == {resample}


@pytest.mark.parametrize("figure", [RankLists, ActivationMaps, Projection])
def test_filter_in_figures(figure: Any, setting: Setting, tmp_path: Path, heard: set[str]) -> None:
    train: Trained = LIKE["bilinear"]
    run(train, setting, tmp_path)
    heard.clear()
    run(figure((Network(train, "last"),), Domain("duke")), setting, tmp_path)
    assert heard == {"bilinear"}


def test_images_of_the_input_size_are_not_resampled(tiny_domain: Path) -> None:
    path = next(tiny_domain.glob("bounding_box_train/*"))
    one, other = (images.decode(path, (32, 16), resample) for resample in ("bilinear", "bicubic"))
    np.testing.assert_array_equal(one, other)
    one, other = (images.decode(path, (24, 12), resample) for resample in ("bilinear", "bicubic"))
    assert not np.array_equal(one, other)
