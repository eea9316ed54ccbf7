"""How tests of methods run a stage in their own process, and the small source model that several adapt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from methods import sptd, supervised
from reproduce.data.domains import Domain
from reproduce.data.transforms import Augment, Colour, Distort, Erase
from reproduce.running.runner import Site, Store, build
from reproduce.session.setting import Setting
from reproduce.stage import closure


def run(stage: Any, setting: Setting, root: Path, **site: Any) -> Any:
    """The artifact of a stage; all it needs is built into the store at `root`."""
    stage = setting.resolve(stage)
    for needed in closure([stage]):
        build(needed, Site(root, folders=setting.paths(), weights=setting.files, **site), lambda _: None)
    return Store(root).load(stage)


def history(stage: Any, setting: Setting, root: Path) -> list[dict[str, float]]:
    """What a stage logged."""
    return Store(root).history(setting.resolve(stage))


def source(**changes: Any) -> supervised.Train:
    """A training on the tiny domain that takes no time."""
    stage = supervised.Train(
        Domain("market"),
        backbone="narrow_ibn_a",
        weights=None,
        input=(32, 16),
        P=6,
        epochs=2,
        milestones=(2,),
        warmup=0,
        eval_every=2,
        augment=Augment(pad=2),
    )
    return replace(stage, **changes)


def pretraining(**changes: Any) -> sptd.Pretrain:
    """A pre-training on the tiny domain, as source and as target, that takes no time."""
    stage = sptd.Pretrain(
        Domain("market"),
        Domain("duke"),
        backbone="narrow",
        weights=None,
        input=(32, 16),
        P=6,
        K=4,
        target_batch=8,
        epochs=2,
        iterations=2,
        milestones=(2,),
        warmup=0,
        bn_group=None,
        eval_every=1,
        augment=Augment(pad=2),
        strengths=Distort(pad=2, erase=Erase(), colour=Colour()),
    )
    return replace(stage, **changes)
