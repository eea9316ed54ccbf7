from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import history, pretraining, run

from methods import simclr, sptd
from methods.blocks.backbones import build as backbone
from methods.blocks.heads import Output, ReID, network
from reproduce.data.domains import Domain
from reproduce.data.transforms import Augment
from reproduce.dataset import Sightings
from reproduce.session.setting import Setting
from reproduce.stage import spec

GOLDEN = [5.199209098845769, 4.97925902111476]
"""Losses of two epochs of two iterations in float64, as the objective of SPTD's pre-training."""


def tiny(**changes: Any) -> sptd.Pretrain:
    return pretraining(**{"objective": simclr.NTXent(), **changes})


def test_golden(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(precision="float64")
    run(stage, setting, tmp_path)
    logged = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert logged == pytest.approx(GOLDEN, rel=1e-6), "numbers changed: raise version or undo"


def test_loss_equals_slow_loops() -> None:
    """Compare head and loss, on features before the neck, with float64 loops over single numbers."""
    net = ReID(backbone("narrow", seed=1), 5, seed=1).double()
    objective = simclr.NTXent(temperature=0.3, width=6)
    head = objective.start(net, Sightings(*[np.arange(99)] * 3), 1)
    features = torch.randn(8, net.channels, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    first, second = (Output(part, torch.empty(0), torch.empty(0)) for part in features.split(4))
    computed = objective.loss(head, (first, second), torch.arange(4))

    weights = [parameter.tolist() for parameter in head.parameters()]
    views = []
    for row in features.tolist():
        for matrix, bias in (weights[:2], weights[2:]):
            row = [sum(a * b for a, b in zip(row, line, strict=True)) + c for line, c in zip(matrix, bias, strict=True)]
            row = [max(value, 0) for value in row] if matrix is weights[0] else row
        views.append([value / math.hypot(*row) for value in row])
    total = 0.0
    for at, view in enumerate(views):
        similar = [math.exp(sum(a * b for a, b in zip(view, other, strict=True)) / 0.3) for other in views]
        total -= math.log(similar[(at + 4) % 8] / (sum(similar) - similar[at]))
    assert computed.item() == pytest.approx(total / 8, rel=1e-9)


def test_loss_falls_and_the_head_is_dropped(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(
        epochs=12,
        iterations=4,
        target_batch=18,
        milestones=(),
        lr=3e-3,
        eval_every=12,
        augment=Augment(flip=0.0, pad=0),
        views=sptd.Views(erase=False, colour=False),
    )
    training, entries = run(stage, setting, tmp_path), history(stage, setting, tmp_path)
    assert entries[-1]["loss"] < 0.7 * entries[0]["loss"]
    assert entries[-1]["objective"] < 0.8 * entries[0]["objective"]
    assert set(training.checkpoints["last"]) == set(network(stage, 6).state_dict())


def test_fields_change_the_objective_alone(setting: Setting, tmp_path: Path) -> None:
    """Temperature and width change the objective from the first step on, and not the source's loss."""
    losses = {}
    for objective in (simclr.NTXent(), simclr.NTXent(temperature=0.5), simclr.NTXent(width=16)):
        stage = tiny(objective=objective, epochs=1, iterations=1, precision="float64")
        run(stage, setting, tmp_path)
        (entry,) = history(stage, setting, tmp_path)
        losses[spec(stage)["key"]] = entry["objective"], round(entry["loss"] - entry["objective"], 9)
    assert len({objective for objective, _ in losses.values()}) == 3
    assert len({source for _, source in losses.values()}) == 1
    assert tiny().detail == "SimCLR 0.1, RF RE CD RC"


@pytest.mark.parametrize(("epoch", "later"), [(2, 0.0), (3, 0.01)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    stage = setting.resolve(tiny(epochs=4))
    killed_equals_uncut(stage, setting.paths(), epoch, later)


def test_docstring_lists_every_deviation() -> None:
    text = simclr.__doc__ or ""
    assert re.search(r"^Paper: ", text, re.MULTILINE)
    assert re.search(r"^Code: ", text, re.MULTILINE)
    listed = [
        " ".join(entry.split()) for entry in text.partition("\nDeviates:\n")[2].removeprefix("    - ").split("\n    - ")
    ]
    assert len(listed) == 3
    assert any("which is twice that" in line for line in listed)
    assert all(line[0].isupper() and line.endswith(".") for line in listed)


def test_guest_deviations_are_listed_after_those_of_the_host() -> None:
    from reproduce.session.trials import deviations

    alone = deviations(sptd.Pretrain(Domain("market"), Domain("duke")))
    guest = deviations(sptd.Pretrain(Domain("market"), Domain("duke"), objective=simclr.NTXent()))
    listed = (simclr.__doc__ or "").partition("Deviates:")[2].count("\n    - ")
    assert listed
    assert guest[: len(alone)] == alone
    assert len(guest) == len(alone) + listed
