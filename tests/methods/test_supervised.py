from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import run

from methods import supervised
from reproduce.data.domains import Domain
from reproduce.data.transforms import Augment, Erase
from reproduce.errors import UserError
from reproduce.evaluation import Evaluate
from reproduce.running.engine import Engine
from reproduce.running.runner import Site, Store
from reproduce.session.setting import Setting

GOLDEN = [2.5489304930098213, 2.773225063641739]
"""Losses of two iterations in float64, one an epoch."""


def tiny(domain: Any, **changes: Any) -> supervised.Train:
    stage = supervised.Train(
        domain,
        backbone="narrow_ibn_a",
        weights=None,
        input=(32, 16),
        P=6,
        K=4,
        epochs=2,
        milestones=(2,),
        warmup=0,
        eval_every=1,
        augment=Augment(pad=2, erase=Erase()),
    )
    return replace(stage, **changes)


def test_golden(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(Domain("market"), precision="float64")
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in Store(tmp_path).history(setting.resolve(stage))]
    assert losses == pytest.approx(GOLDEN, rel=1e-6), "numbers changed: raise version or undo"


def test_keeps_last_and_best_on_source(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(Domain("market"), epochs=3)
    training = run(stage, setting, tmp_path)
    assert set(training.checkpoints) == {"last", "best on source"}
    history = Store(tmp_path).history(setting.resolve(stage))
    best = max(entry["mAP"] for entry in history)
    scores = {at: run(Evaluate(stage, Domain("market"), at=at), setting, tmp_path).mAP for at in training.checkpoints}
    assert scores == pytest.approx({"last": history[-1]["mAP"], "best on source": best})
    with pytest.raises(UserError, match=r"kept no network of 'step 3'; it kept last, best on source"):
        run(Evaluate(stage, Domain("market"), at="step 3"), setting, tmp_path)


def test_loss_falls(setting: Setting, tmp_path: Path) -> None:
    """A constant loss would pass every other test."""
    stage = tiny(Domain("market"), epochs=12, milestones=(), lr=3e-3, augment=Augment(flip=0.0, pad=0), eval_every=12)
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in Store(tmp_path).history(setting.resolve(stage))]
    assert losses[-1] < 0.7 * losses[0]


def test_schedule(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(Domain("market"), epochs=5, warmup=2, milestones=(3, 4), lr=1.0e-3)
    run(stage, setting, tmp_path)
    rates = [entry["lr"] for entry in Store(tmp_path).history(setting.resolve(stage))]
    assert rates == pytest.approx([5.05e-4, 1e-3, 1e-4, 1e-5, 1e-5])


def test_fast_reid_counts_in_iterations(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """36 images fill two batches of 18, the warm-up ends inside the second epoch, and a milestone waits for it."""
    stage = tiny(
        Domain("market"),
        P=6,
        K=3,
        epochs=4,
        lr=1e-3,
        milestones=(2,),
        by_iteration=supervised.ByIteration(warmup=3),
        smoothed_over="rest",
        classifier_std=0.01,
        centre_weight=0.0,
    )
    rate, seen = supervised.Train.rate, []

    def listening(self: supervised.Train, *place: int) -> float:
        seen.append(rate(self, *place))
        return seen[-1]

    monkeypatch.setattr(supervised.Train, "rate", listening)
    first = run(stage, setting, tmp_path)
    assert seen == pytest.approx([0.1, 0.4, 0.7, 1.0, 1.0, 1.0, 0.1, 0.1])
    weight = first.checkpoints["last"]["classifier.weight"]
    plain = run(replace(stage, classifier_std=0.001), setting, tmp_path).checkpoints["last"]["classifier.weight"]
    assert weight.std() > 3 * plain.std()


def weights_of(store: Store, stage: Any) -> dict[str, torch.Tensor]:
    loaded = store.load(stage)
    return {f"{at}/{name}": tensor for at, weights in loaded.checkpoints.items() for name, tensor in weights.items()}


@pytest.mark.parametrize(("epoch", "later"), [(1, 0.007), (2, 0.0), (3, 0.0), (3, 0.02)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    """Kill it at the start, between epochs, and milliseconds into one, while it trains, evaluates or saves."""
    stage = setting.resolve(tiny(Domain("market"), epochs=4))
    killed_equals_uncut(stage, setting.paths(), epoch, later)


def test_bits_do_not_depend_on_jobs_or_order(setting: Setting, tmp_path: Path) -> None:
    stages = [setting.resolve(tiny(Domain("market"), seed=seed)) for seed in (1, 2)]
    runs = []
    for jobs, order in ((1, stages), (2, stages[::-1])):
        pool = Engine(Site(tmp_path / str(jobs), folders=setting.paths()), jobs=jobs, logs=tmp_path / "logs")
        pool.submit(order)
        assert [pool.wait(stage).status for stage in order] == ["done", "done"]
        runs.append([weights_of(pool.store, stage) for stage in stages])
        pool.close()
    for left, right in zip(*runs, strict=True):
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert not torch.equal(runs[0][0]["last/classifier.weight"], runs[0][1]["last/classifier.weight"])


def test_too_few_identities_raise(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"6 .*16|16.* 6"):
        run(tiny(Domain("market"), P=16), setting, tmp_path)


def test_divergence_names_the_step(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step \d+.* of supervised\.Train"):
        run(tiny(Domain("market"), lr=1e30, epochs=4, eval_every=9), setting, tmp_path)
