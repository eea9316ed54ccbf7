"""How tests of methods run a stage in their own process, and the small source model that several adapt."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import methods
from methods import (
    bdb,
    classify,
    cyclegan,
    daam,
    jvtc,
    mgn,
    mmcl,
    mmt,
    moco,
    msplr,
    rae,
    spcl,
    sptd,
    supervised,
    upreid,
)
from reproduce.clustering import DBSCAN, KMeans, TopP
from reproduce.data.domains import Domain
from reproduce.data.objects import Objects
from reproduce.data.transforms import Augment, Colour, Distort, Erase
from reproduce.evaluation import Trained
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


def in_styles(stage: Any, setting: Setting, root: Path) -> list[dict[str, Any]]:
    """The last weights of a training on Duke without camera styles, with styles that are the images, and translated."""
    market, duke = Domain("market"), Domain("duke")
    gan = cyclegan.CycleGAN(market, duke, input=(32, 16), width=4, blocks=1, widths=(4, 4, 4), epochs=1)
    choices: list[tuple[Any, ...]] = [(), (duke,) * 3, (cyclegan.Translated(gan, duke, back=True),)]
    return [run(replace(stage, styles=styles), setting, root).checkpoints["last"] for styles in choices]


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


def separated(**changes: Any) -> daam.Pretrain:
    """A source training of DAAM on the tiny domain that takes no time."""
    stage = daam.Pretrain(
        Domain("market"),
        backbone="narrow",
        weights=None,
        input=(32, 16),
        batch=8,
        epochs=1,
        milestones=(),
        eval_every=1,
        augment=Augment(pad=2),
    )
    return replace(stage, **changes)


def contrasted(**changes: Any) -> spcl.Adapt:
    """A training of SpCL on the tiny domain that takes no time."""
    stage = spcl.Adapt(
        Domain("duke"),
        Domain("market"),
        cluster=DBSCAN(0.5, 2),
        k1=6,
        k2=2,
        backbone="narrow",
        weights=None,
        P=4,
        K=2,
        epochs=1,
        iterations=2,
        bn_group=4,
        augment=Augment(pad=2),
        input=(32, 16),
        eval_every=1,
    )
    return replace(stage, **changes)


def dropping(**changes: Any) -> bdb.Train:
    """A training of BDB on the tiny domain that takes no time."""
    stage = bdb.Train(
        Domain("market"),
        backbone="narrow",
        weights=None,
        widths=(16, 24),
        P=4,
        K=3,
        epochs=1,
        warmup=0,
        milestones=(),
        bn_group=6,
        input=(48, 16),
        augment=Augment(pad=0, erase=bdb.CUTOUT),
        eval_every=1,
    )
    return replace(stage, **changes)


def granular(**changes: Any) -> mgn.Train:
    """A training of MGN on the tiny domain that takes no time."""
    stage = mgn.Train(
        Domain("market"),
        backbone="narrow",
        weights=None,
        width=16,
        P=3,
        K=4,
        epochs=1,
        delay=1,
        warmup=0,
        frozen=0,
        input=(48, 16),
        augment=Augment(pad=2),
        eval_every=1,
    )
    return replace(stage, **changes)


def momentum_contrast(**changes: Any) -> moco.Pretrain:
    """A pre-training by MoCo on the tiny domain that takes no time."""
    stage = moco.Pretrain(
        Domain("market"),
        backbone="narrow",
        weights=None,
        width=16,
        input=(32, 16),
        batch=8,
        K=20,
        m=0.9,
        epochs=1,
        bn_group=4,
    )
    return replace(stage, **changes)


def intra_identity(**changes: Any) -> upreid.Pretrain:
    """A pre-training by UP-ReID on the tiny domain that takes no time."""
    stage = upreid.Pretrain(
        Domain("market"),
        M=4,
        backbone="narrow",
        weights=None,
        width=16,
        input=(32, 16),
        batch=8,
        N=20,
        m=0.9,
        epochs=1,
        bn_group=4,
    )
    return replace(stage, **changes)


def trainings() -> list[type[Trained]]:
    """Find every training stage of `methods`."""
    for module in pkgutil.iter_modules(methods.__path__, "methods."):
        if not module.ispkg:
            importlib.import_module(module.name)
    kinds = [kind for kind in Trained.__subclasses__() if kind.__module__.startswith("methods.")]
    return sorted(kinds, key=lambda kind: kind.__module__)


def tiny(kind: type[Trained]) -> Trained:
    """A training of this kind that takes no time: one epoch, a handful of small images."""
    short: dict[str, Any] = {"P": 2, "K": 2, "input": (32, 16), "augment": Augment(pad=2), "epochs": 1}
    each = {name: value for name, value in short.items() if name not in ("P", "K")}
    before = pretraining(epochs=1, milestones=())
    encoder = rae.Source(Domain("market"), backbone="narrow", weights=None, iterations=2, milestones=(), **short)
    objects = Objects(kinds=4, images=8, held_out=2, side=24)
    few: dict[str, Any] = {"epochs": 1, "milestones": (), "input": (32, 16), "augment": Augment(pad=2)}
    every: dict[type[Trained], Trained] = {
        classify.Classify: classify.Classify(objects, backbone="narrow", input=(32, 16), batch=16, epochs=1),
        supervised.Train: source(epochs=1),
        sptd.Pretrain: before,
        msplr.Adapt: msplr.Adapt(source(), Domain("duke"), KMeans(4), steps=1, frozen=1, **short),
        mmt.Adapt: mmt.Adapt((before, replace(before, seed=2)), Domain("duke"), KMeans(4), iterations=2, **short),
        rae.Source: encoder,
        rae.Adapt: rae.Adapt(encoder, Domain("market"), Domain("duke"), DBSCAN(0.6, 2), iterations=2, **short),
    }
    every |= {
        daam.Pretrain: separated(),
        daam.Adapt: daam.Adapt(separated(), Domain("duke"), DBSCAN(TopP(0.1), 2), k1=4, k2=2, steps=1, **few),
    }
    every |= {spcl.Adapt: contrasted(), bdb.Train: dropping(), mgn.Train: granular()}
    every |= {moco.Pretrain: momentum_contrast(), upreid.Pretrain: intra_identity()}
    every[mmcl.Adapt] = mmcl.Adapt(
        Domain("market"), Domain("duke"), backbone="narrow", weights=None, batch=8, iterations=2, **each
    )
    every[jvtc.Adapt] = jvtc.Adapt(
        Domain("market"), Domain("duke"), backbone="narrow", weights=None, batch=8, target_batch=4, iterations=2, **each
    )
    assert kind in every, f"add a tiny {kind.__module__}.{kind.__qualname__} here: tests of all methods then take it"
    return every[kind]
