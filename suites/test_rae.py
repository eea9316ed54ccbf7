"""RAE: what produces each row of its tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from methods import cyclegan, jvtc, mmcl, rae
from methods.guests import Labeller
from reproduce.clustering import DBSCAN, MostClusters, Rho, Tuned
from reproduce.data.domains import Domain
from reproduce.evaluation import Evaluate, Trained
from reproduce.figures import Decoded, Draw, RankLists
from reproduce.papers.cases import AnyCase, Recipe, Suite, SweepRecipe
from reproduce.papers.tables import Task, read

PAPER = read(Path(__file__).with_name("rae.toml"))

IMAGES = {"market": 12936, "duke": 16522, "msmt17": 32621}
"""Training images of the published sets, which UDAP's share of neighbours is taken for."""


def source_alone(task: Task, seed: int) -> rae.Source:
    return rae.Source(task.source, seed=seed)


def on_target(train: Trained, task: Task, view: str = "") -> Evaluate:
    """On the target, without fusion also with its own statistics: those of training mix both domains."""
    return Evaluate(train, on=task.target, view=view, statistics="" if view else "target")


def supervised(task: Task, seed: int) -> Evaluate:
    return Evaluate(rae.Source(task.target, seed=seed), on=task.target)


def direct_transfer(task: Task, seed: int) -> Evaluate:
    return on_target(source_alone(task, seed), task)


def adapted(task: Task, seed: int, **changes: Any) -> rae.Adapt:
    cluster = DBSCAN(Tuned(Rho(of=IMAGES[task.target.name])))
    fields: dict[str, Any] = {"source": task.source, "target": task.target, "cluster": cluster, "seed": seed}
    return rae.Adapt(source_alone(task, seed), **(fields | changes))


def row(*, feature: bool = False, pixel: bool = False, view: str = "") -> Recipe:
    """The row of some modules, tested with or without fusion, which is trained beside both."""
    both = feature and pixel

    def recipe(task: Task, seed: int) -> Evaluate:
        return on_target(adapted(task, seed, feature=feature, pixel=pixel, fuse=both), task, view)

    return recipe


def pre_row(view: str = "", *, feature: bool) -> Recipe:
    """The row of pixel transfer before training: source images translated to the target's style, fused with all images
    translated to the source's. Both directions of a pair of domains share one translation.
    """

    def recipe(task: Task, seed: int) -> Evaluate:
        first, second = sorted((task.source, task.target), key=lambda domain: domain.name)
        gan = cyclegan.CycleGAN(first, second, seed=seed)

        def to(style: Domain, domain: Any) -> cyclegan.Translated:
            return cyclegan.Translated(gan, domain, back=style == first)

        source = to(task.target, task.source)
        restyled = (to(task.source, source), to(task.source, task.target)) if feature else None
        ticks = {"feature": feature, "pixel": False, "fuse": feature}
        train = adapted(task, seed, source=source, restyled=restyled, **ticks)
        return on_target(train, task, view)

    return recipe


def mmcl_alone(task: Task, seed: int) -> Evaluate:
    """MMCL's own training: a pass over the target's images per epoch, as published."""
    images = IMAGES[task.target.name]
    memory, iterations = mmcl.MultiLabel(hardest_of=images), images // mmcl.Adapt.batch
    return on_target(mmcl.Adapt(task.source, task.target, memory, iterations=iterations, seed=seed), task)


SLOTS = 12
"""Parts of days in which MSMT17 was recorded."""


def jvtc_losses(task: Task) -> jvtc.LocalGlobal:
    """JVTC's losses with what its code sets for a target. Its clusters are single links without outliers; on other data
    as many as possible have the four images that the other rows ask of a cluster.
    """

    def links(share: Rho) -> DBSCAN:
        return DBSCAN(Tuned(share, MostClusters(size=DBSCAN.min_samples)), min_samples=1)

    name = task.target.name
    images = IMAGES[name]
    if name == "msmt17":
        visual, joint = links(Rho(of=images, factor=0.8)), links(Rho(4.8e-3, of=images // SLOTS))
        clock = jvtc.Clock(bin=1, sequences="apart")
        return jvtc.LocalGlobal(visual, joint, clock, unit=True, joint_lambda=0.3)
    return jvtc.LocalGlobal(links(Rho(of=images)), clock=jvtc.Clock(sequences="joined" if name == "market" else ""))


def jvtc_alone(task: Task, seed: int) -> Evaluate:
    """JVTC's own training: a pass over the source's images per epoch, as published, tested by visual similarity."""
    iterations = IMAGES[task.source.name] // jvtc.Adapt.batch
    return on_target(jvtc.Adapt(task.source, task.target, jvtc_losses(task), iterations=iterations, seed=seed), task)


def mmcl_guest(task: Task) -> mmcl.MultiLabel:
    return mmcl.MultiLabel(epochs=rae.Adapt.epochs, neck=True, hardest_of=IMAGES[task.target.name])


def jvtc_guest(task: Task) -> jvtc.LocalGlobal:
    return replace(jvtc_losses(task), epochs=rae.Adapt.epochs, neck=True)


def with_guest(guest: Callable[[Task], Labeller]) -> Recipe:
    """The full method with another method's loss on target images."""
    return lambda task, seed: Evaluate(adapted(task, seed, guest=guest(task)), on=task.target, view="fused")


FULL = row(feature=True, pixel=True, view="fused")

STATE_OF_THE_ART = {
    "mmcl": mmcl_alone,
    "jvtc": jvtc_alone,
    "rae": FULL,
    "mmcl_rae": with_guest(mmcl_guest),
    "jvtc_rae": with_guest(jvtc_guest),
}

TABLES = {
    "2": STATE_OF_THE_ART,
    "3": STATE_OF_THE_ART,
    "4": {
        "supervised": supervised,
        "direct": direct_transfer,
        "baseline": row(),
        "ft": row(feature=True),
        "pt": row(pixel=True),
        "ft_pt": row(feature=True, pixel=True),
        "rae": FULL,
        "ft_again": row(feature=True),
        "pre_pt": pre_row(feature=False),
        "ft_pre_pt": pre_row(feature=True),
        "ft_pre_pt_f": pre_row("fused", feature=True),
    },
}


def weighted(name: str) -> SweepRecipe:
    """The points of a sweep over the weight of a loss."""
    return lambda task, seed, value: Evaluate(adapted(task, seed, **{name: value}), on=task.target, view="fused")


SWEEPS = {
    "6": {
        "lambda_tri": weighted("lambda_tri"),
        "lambda_feat_gan": weighted("lambda_feat"),
        "lambda_pix_gan": weighted("lambda_pix"),
    }
}


def with_similarities(**fields: Any) -> RankLists:
    """Rank lists as the paper prints them."""
    return RankLists(similarities=True, **fields)


DRAWS: dict[str, Draw] = {"2": Decoded, "4": with_similarities, "5": with_similarities}
"""Figure 2 sketches the paths of images; ours shows what the decoder makes of them. For figures 4 and 5 the paper picks
queries that succeed and queries that fail; here both show the same, chosen by the seed.
"""

COMPARED = ("direct", "baseline", "ft", "pt", "ft+pt", "rae")
"""Rows that a claim says another is better than, and that start from a source model of the source's own images."""

SUITE = Suite(PAPER, TABLES, draws=DRAWS, sweeps=SWEEPS, baselines=dict.fromkeys(COMPARED, source_alone))


@pytest.mark.parametrize("case", SUITE.cases())
def test(case: AnyCase, judge: Callable[[AnyCase], None]) -> None:
    judge(case)
