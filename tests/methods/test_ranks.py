"""Several processes that share a training compute what one does: losses, gradients, running statistics.

Every training of `methods` is here by being registered (`runs.trainings`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from ranked import Pool, Seen, together
from runs import tiny, trainings

from reproduce.evaluation import Trained
from reproduce.running.runner import Site, Store, build
from reproduce.session.setting import Setting
from reproduce.stage import closure, rewrite

CLOSE = 1e-10
KINDS = {f"{kind.__module__.removeprefix('methods.')}.{kind.__name__}": kind for kind in trainings()}


def divided(kind: type[Trained], group: int | None) -> Any:
    """A training in float64 that four processes can share, in groups of images or with one group for the batch."""

    def changed(value: Any) -> Any:
        names = {field.name for field in fields(value)}
        changes = {"precision": "float64", "bn_group": group}
        return replace(value, **{name: change for name, change in changes.items() if name in names})

    sizes: dict[str, Any] = {"P": 4, "K": 2, "batch": 8, "source_batch": 8, "target_batch": 8}
    sizes |= {"decoder_widths": (16, 8), "feature_widths": (16, 8, 8), "pixel_widths": (8, 8, 8), "d": 16, "hidden": 16}
    stage = tiny(kind)
    names = {field.name for field in fields(stage)}  # type: ignore[arg-type]
    return rewrite(replace(stage, **{name: size for name, size in sizes.items() if name in names}), changed)


def test_numbers_that_do_not_divide_the_groups_are_refused() -> None:
    stage = runs.source(P=16, K=4, bn_group=16)
    assert [stage.undivided(count) for count in (1, 2, 4)] == [""] * 3
    assert stage.undivided(3) == "supervised.Train normalises 64 images in 4 groups of 16, which 3 GPUs do not divide"
    assert stage.undivided(8), "a group stays on one device"
    whole = replace(stage, bn_group=None)
    assert [whole.undivided(count) for count in (2, 4, 8)] == [""] * 3
    assert whole.undivided(3) == "supervised.Train normalises 64 images together, which 3 GPUs do not divide"
    views = runs.pretraining(P=16, K=4, target_batch=4, bn_group=8)
    assert views.undivided(2) == ""
    assert "8 images together" not in views.undivided(4)
    assert replace(views, bn_target=True).undivided(8) == (
        "sptd.Pretrain normalises 4 images together, which 8 GPUs do not divide"
    )


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Pool]]:
    made: dict[int, Pool] = {}

    def pool(ranks: int) -> Pool:
        return made.setdefault(ranks, made.get(ranks) or Pool(ranks, tmp_path_factory.mktemp(f"ranks-{ranks}")))

    yield pool
    for each in made.values():
        each.close()


def assert_gradients_close(given: Seen, expected: Seen) -> None:
    assert len(given.gradients) == len(expected.gradients) > 0
    for own, others in zip(given.gradients, expected.gradients, strict=True):
        scale = max(float(gradient.abs().max()) for gradient in others if gradient is not None)
        for gradient, other in zip(own, others, strict=True):
            assert (gradient is None) == (other is None)
            if gradient is not None and other is not None:
                assert float((gradient - other).abs().max()) <= CLOSE * max(1.0, scale)


def cases() -> Iterator[Any]:
    """Each training in groups on two and four processes, and with one group, which spans processes, on two."""
    for name, kind in KINDS.items():
        grouped, whole = divided(kind, 2), divided(kind, None)
        if grouped != whole:
            yield pytest.param(grouped, (2, 4), id=name)
        yield pytest.param(whole, (2,) if grouped != whole else (2, 4), id=f"{name}, one group")


@pytest.mark.parametrize(("stage", "counts"), list(cases()))
def test_ranks_compute_what_one_process_does(
    stage: Any, counts: tuple[int, ...], setting: Setting, tmp_path: Path, pools: Callable[[int], Pool]
) -> None:
    stage = setting.resolve(stage)
    assert stage.undivided(4) == "", "declare `passes`, the images and groups of each pass through the network"
    alone = Site(tmp_path / "store", folders=setting.paths(), weights=setting.files)
    upstream = closure([stage])[:-1]
    for needed in upstream:
        build(needed, alone, lambda _: None)
    expected = together(stage, alone)
    store = Store(alone.store)
    training, history = store.load(stage), store.history(stage)
    for ranks in counts:
        final = store.folder(stage)
        final.rename(tmp_path / f"before-{ranks}")
        for seen in pools(ranks).build(stage, alone):
            assert seen.images * ranks == expected.images > 0
            assert_gradients_close(seen, expected)
        assert store.described(stage).provenance.ranks == ranks
        assert len(store.history(stage)) == len(history)
        for entry, other in zip(store.history(stage), history, strict=True):
            assert entry == pytest.approx(other, abs=CLOSE, rel=CLOSE)
        shared = store.load(stage)
        assert shared.facts == training.facts
        for moment, weights in training.checkpoints.items():
            for part, weight in weights.items():
                torch.testing.assert_close(
                    shared.checkpoints[moment][part], weight, atol=CLOSE, rtol=CLOSE, msg=lambda m, p=part: f"{p}: {m}"
                )
