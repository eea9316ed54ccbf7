from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import history, in_styles, run

from methods import mmcl
from methods.blocks.heads import Output, ReID
from methods.blocks.mmcl import Memory
from reproduce.data.domains import Domain
from reproduce.data.transforms import Augment
from reproduce.dataset import Sightings
from reproduce.evaluation import Evaluate
from reproduce.scales import SCALES, at_scale
from reproduce.session.setting import Setting
from reproduce.stage import rewrite

GOLDEN = [8.411880311254906, 6.918051948600699, 6.043580490819782]
"""Losses of three epochs in float64, the last with predicted labels."""

MARKET, DUKE = Domain("market"), Domain("duke")


def tiny(**changes: Any) -> mmcl.Adapt:
    stage = mmcl.Adapt(
        MARKET,
        DUKE,
        mmcl.MultiLabel(epochs=3, single=0.5),
        backbone="narrow",
        weights=None,
        input=(32, 16),
        batch=12,
        epochs=3,
        iterations=3,
        milestones=(3,),
        eval_every=2,
        augment=Augment(pad=2),
    )
    return replace(stage, **changes)


def start(guest: mmcl.MultiLabel, images: int = 6) -> tuple[Memory, ReID]:
    net = tiny(precision="float64").network(4)
    none = np.full(images, -1)
    head = guest.start(net, Sightings(none, none, none), 1)
    assert isinstance(head, Memory)
    return head, net


def test_golden(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(precision="float64")
    run(stage, setting, tmp_path)
    values = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert values == pytest.approx(GOLDEN, rel=1e-6), "numbers changed: raise version or undo"


def test_history_has_labels_and_their_purity(setting: Setting, tmp_path: Path) -> None:
    training = run(tiny(), setting, tmp_path)
    entries = history(tiny(), setting, tmp_path)
    assert [entry["positives"] == 1 for entry in entries] == [True, True, False]
    assert all(0 < entry["purity"] <= 100 for entry in entries)
    assert {"mAP", "rank1"} <= entries[2].keys()
    assert [entry["lr"] for entry in entries] == pytest.approx([0.01, 0.01, 0.001])
    assert training.facts["health"]["last"] == pytest.approx(
        {name: entries[2][name] for name in ("positives", "purity")}
    )
    assert run(Evaluate(tiny(), DUKE), setting, tmp_path).mAP == pytest.approx(entries[2]["mAP"])


def test_the_network_is_tested_before_its_neck(setting: Setting, tmp_path: Path) -> None:
    training = run(tiny(), setting, tmp_path)
    net, tested = tiny().start(training, "last"), tiny().embedder(training, "last")
    images = torch.randn(2, 3, 32, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = tested(images)
        torch.testing.assert_close(net.neck(features), net(images))
    assert bool(net.neck.bias.any()), "the neck's bias learns"


def test_slots_keep_more_of_themselves_as_training_goes_on() -> None:
    guest = mmcl.MultiLabel(epochs=60)
    head, _ = start(guest)
    outputs = [Output(*[torch.eye(6, 64, dtype=torch.float64)] * 3)]
    indices = torch.arange(6)
    old = torch.eye(6, 64, dtype=torch.float64).roll(1, 1)
    for epoch, kept in ((0, 0.0), (30, 0.25), (59, 0.5 * 59 / 60)):
        guest.relabel(head, epoch, lambda: pytest.fail("labels need no embeddings"), None)  # type: ignore[arg-type]
        head.slots = old.clone()
        guest.update(head, outputs, indices)
        mixed = kept * old + (1 - kept) * outputs[0].embedding
        torch.testing.assert_close(head.slots, torch.nn.functional.normalize(mixed))


def test_labels_are_predicted_after_a_tenth_of_the_training() -> None:
    guest = mmcl.MultiLabel(epochs=60)
    head, _ = start(guest)
    head.slots = torch.ones(6, 64, dtype=torch.float64) / 8
    counts = []
    for epoch in (0, 5, 6):
        head.epoch.fill_(epoch)
        counts.append(int(guest.positives(head, torch.tensor([2])).sum()))
    assert counts == [1, 1, 6]
    assert mmcl.MultiLabel(epochs=2).positives(start(guest)[0], torch.tensor([2])).sum() == 1, "the memory is empty"


def test_given_positives_replace_predicted_ones() -> None:
    guest = mmcl.MultiLabel()
    head, _ = start(guest)
    head.slots = torch.eye(6, 64, dtype=torch.float64)
    outputs = [Output(*[torch.eye(2, 64, dtype=torch.float64)] * 3)]
    every = torch.ones(2, 6, dtype=torch.bool)
    assert float(guest.loss(head, outputs, torch.arange(2))) == pytest.approx(1.0)
    assert float(guest.loss(head, outputs, torch.arange(2), every)) == pytest.approx(5 * 5 / 6)


@pytest.mark.parametrize(("images", "negatives"), [(None, 1), (101, 1), (201, 2), (1001, 10), (10**6, 100)])
def test_as_many_hardest_negatives_as_the_fraction_was_chosen_for(images: int | None, negatives: int) -> None:
    """Of 100 other slots one equals the image, which costs 4, and the others are at right angles, which costs 1."""
    guest = mmcl.MultiLabel(hardest_of=images)
    head, _ = start(guest, 101)
    own = torch.eye(64, dtype=torch.float64)[:1]
    head.slots = torch.cat([own, own, torch.eye(64, dtype=torch.float64)[1:2].expand(99, 64)])
    alone = torch.arange(101)[None] == 0
    measured = float(guest.loss(head, [Output(*[own] * 3)], torch.arange(1), alone))
    assert measured == pytest.approx((4 + (negatives - 1)) / negatives)


def test_scales_cut_the_clock_of_the_memory_too() -> None:
    for scale, rates in {"smoke": (0.1, 1.0), "small": (0.1, 1.0), "paper": (0.01, 0.1)}.items():
        stage = rewrite(mmcl.Adapt(MARKET, DUKE), lambda value: value, at_scale(SCALES[scale]))
        assert stage.memory.epochs == stage.epochs
        assert stage.memory.alpha == 0.5
        assert (stage.backbone_lr, stage.head_lr) == rates


def test_styles_replace_the_images_shown(setting: Setting, tmp_path: Path) -> None:
    """Three cameras whose style is that of the images themselves change nothing; other styles do."""
    plain, same, other = in_styles(tiny(), setting, tmp_path)
    assert all(torch.equal(weight, same[name]) for name, weight in plain.items())
    assert any(not torch.equal(weight, other[name]) for name, weight in plain.items())


def test_loss_falls(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(epochs=4, iterations=12, milestones=(), augment=Augment(flip=0.0, pad=0))
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("epoch", "later"), [(2, 0.0), (3, 0.01)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    killed_equals_uncut(setting.resolve(tiny(epochs=4)), setting.paths(), epoch, later)
