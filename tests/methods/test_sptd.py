from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import history, pretraining, run
from torch.autograd import gradcheck
from torch.nn.functional import linear

from methods import jvtc, mmcl, simclr, sptd
from methods.blocks import losses
from methods.blocks.backbones import build as backbone
from methods.blocks.heads import Output, ReID, network
from methods.guests import Labeller
from reproduce.clustering import DBSCAN, Rho
from reproduce.data import transforms
from reproduce.data.domains import Domain
from reproduce.data.transforms import Augment, Colour, Distort, Erase
from reproduce.dataset import Sightings
from reproduce.errors import UserError
from reproduce.evaluation import Evaluate
from reproduce.scales import SCALES, at_scale
from reproduce.session.setting import Setting
from reproduce.stage import rewrite, spec

GOLDEN = [6.380123174906291, 6.188625634361262]
"""Losses of two epochs of two iterations in float64."""


def differing(left: Any, right: Any) -> set[str]:
    """Return the names of tensors that differ between the last networks of two trainings."""
    first, second = left.checkpoints["last"], right.checkpoints["last"]
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def test_golden(setting: Setting, tmp_path: Path) -> None:
    stage = pretraining(precision="float64")
    run(stage, setting, tmp_path)
    logged = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert logged == pytest.approx(GOLDEN, rel=1e-6), "numbers changed: raise version or undo"


def outputs(images: int, channels: int, seed: int) -> Output:
    draw = torch.randn(images, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Output(draw + 1, draw.requires_grad_(), draw)


def log_softmax(row: list[float]) -> list[float]:
    total = math.log(sum(math.exp(value) for value in row))
    return [value - total for value in row]


SEVEN = Sightings(*[np.arange(7)] * 3)


@pytest.mark.parametrize(
    ("original", "consistency", "smoothing"), [(True, True, 0.0), (True, False, 0.1), (False, True, 0.0)]
)
def test_objective_equals_slow_loops(original: bool, consistency: bool, smoothing: float) -> None:
    net = ReID(backbone("narrow", seed=1), 5, seed=1).double()
    objective = sptd.Index(original, consistency, smoothing)
    head = objective.start(net, SEVEN, 1)
    assert head.weight.shape == (7, net.channels)
    head.weight.data *= 300
    first, second = outputs(3, net.channels, 1), outputs(3, net.channels, 2)
    indices = torch.tensor([6, 0, 3])
    computed = objective.loss(head, (first, second), indices)

    expected = 0.0
    rows = head.weight.tolist()
    for one, other, index in zip(first.embedding.tolist(), second.embedding.tolist(), indices.tolist(), strict=True):
        R, Q = (
            log_softmax([sum(a * b for a, b in zip(view, row, strict=True)) for row in rows]) for view in (one, other)
        )
        if original:
            expected -= (1 - smoothing) * R[index] / 3 + smoothing * sum(R) / 7 / 3
        if consistency:
            expected += sum(math.exp(r) * (r - q) for r, q in zip(R, Q, strict=True)) / 3
    assert computed.item() == pytest.approx(expected, rel=1e-9)

    def loss(one: torch.Tensor, other: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        views = first._replace(embedding=one), second._replace(embedding=other)
        return replace(objective, detach=False).loss(partial(linear, weight=weight), views, indices)

    parts = [part.detach()[:, :4].clone() for part in (first.embedding, second.embedding, head.weight)]
    assert gradcheck(loss, [part.requires_grad_() for part in parts])


@pytest.mark.parametrize("detach", [True, False])
def test_detach_stops_the_gradient_to_the_original(detach: bool) -> None:
    net = ReID(backbone("narrow", seed=1), 5, seed=1).double()
    objective = sptd.Index(original=False, detach=detach)
    first, second = outputs(3, net.channels, 1), outputs(3, net.channels, 2)
    head = objective.start(net, SEVEN, 1)
    objective.loss(head, (first, second), torch.arange(3)).backward()
    assert second.embedding.grad.any()
    assert (first.embedding.grad is None) == detach


def test_keeps_last_and_best_on_source(setting: Setting, tmp_path: Path) -> None:
    stage = pretraining(epochs=3)
    training = run(stage, setting, tmp_path)
    assert set(training.checkpoints) == {"last", "best on source"}
    assert training.facts == {"classes": 6}
    for weights in training.checkpoints.values():
        assert set(weights) == set(network(stage, 6).state_dict())
        assert weights["classifier.weight"].shape[0] == 6
    entries = history(stage, setting, tmp_path)
    best = max(entry["mAP"] for entry in entries)
    scores = {at: run(Evaluate(stage, Domain("market"), at=at), setting, tmp_path).mAP for at in training.checkpoints}
    assert scores == pytest.approx({"last": entries[-1]["mAP"], "best on source": best})


@pytest.mark.parametrize("objective", [sptd.Index(), None], ids=["index", "source"])
def test_loss_falls(objective: Any, setting: Setting, tmp_path: Path) -> None:
    """A constant loss would pass every other test."""
    stage = pretraining(
        target=Domain("duke") if objective else None,
        objective=objective,
        epochs=12,
        iterations=4,
        target_batch=18,
        milestones=(),
        lr=3e-3,
        eval_every=12,
        augment=Augment(flip=0.0, pad=0),
        views=sptd.Views(erase=False, colour=False),
    )
    run(stage, setting, tmp_path)
    entries = history(stage, setting, tmp_path)
    assert entries[-1]["loss"] < 0.7 * entries[0]["loss"]
    if objective:
        assert entries[-1]["objective"] < 0.8 * entries[0]["objective"]
    else:
        assert all("objective" not in entry for entry in entries)


def test_schedule(setting: Setting, tmp_path: Path) -> None:
    stage = pretraining(epochs=5, iterations=1, warmup=2, milestones=(3, 4), lr=1.0e-3)
    run(stage, setting, tmp_path)
    rates = [entry["lr"] for entry in history(stage, setting, tmp_path)]
    assert rates == pytest.approx([5.05e-4, 1e-3, 1e-4, 1e-5, 1e-5])


def test_defaults_are_the_paper_recipe() -> None:
    stage = sptd.Pretrain(Domain("market"), Domain("duke"))
    assert (stage.P, stage.K, stage.target_batch, stage.bn_group) == (16, 4, 64, 16)
    assert (stage.epochs, stage.iterations, stage.eval_every) == (80, 100, 40)
    assert (stage.lr, stage.weight_decay, stage.milestones, stage.warmup) == (3.5e-4, 5e-4, (40, 70), 10)
    assert stage.augment.erase is None
    assert stage.stem_relu is None
    assert stage.views.of(stage.strengths) == Distort(0.5, 10, Erase(), colour=Colour())


@pytest.mark.parametrize(
    ("backbone", "given", "relu"),
    [("narrow", None, False), ("narrow_ibn_a", None, True), ("narrow", True, True), ("narrow_ibn_a", False, False)],
)
def test_stem_relu_defaults_to_that_of_the_published_backbone(backbone: str, given: bool | None, relu: bool) -> None:
    net = network(pretraining(backbone=backbone, **({} if given is None else {"stem_relu": given})), 5)
    assert isinstance(net.backbone.relu, torch.nn.ReLU) == relu


def test_bn_target_changes_only_running_statistics(setting: Setting, tmp_path: Path) -> None:
    alone = run(pretraining(target=None), setting, tmp_path)
    mixed = run(pretraining(objective=None, bn_target=True), setting, tmp_path)
    changed = differing(alone, mixed)
    assert changed == {name for name in alone.checkpoints["last"] if "running_" in name or "num_batches" in name}
    both = differing(run(pretraining(), setting, tmp_path), run(pretraining(bn_target=True), setting, tmp_path))
    assert both == changed
    stages = pretraining(target=None), pretraining(objective=None, bn_target=True)
    without, with_target = ([entry["loss"] for entry in history(stage, setting, tmp_path)] for stage in stages)
    assert without == with_target


def test_objective_has_no_effect_without_a_target(setting: Setting, tmp_path: Path) -> None:
    one = run(pretraining(target=None), setting, tmp_path)
    for other in (
        pretraining(target=None, objective=None),
        pretraining(objective=None),
        pretraining(target=None, objective=simclr.NTXent()),
    ):
        assert not differing(one, run(other, setting, tmp_path))


TABLE5 = {
    "baseline": pretraining(objective=None, bn_target=True),
    "idx": pretraining(objective=sptd.Index(consistency=False)),
    "idx + SPTD": pretraining(),
    "SPTD": pretraining(objective=sptd.Index(original=False)),
}


def test_table_5(setting: Setting, tmp_path: Path) -> None:
    """All rows share the source's first loss and end in different networks."""
    trained = [run(stage, setting, tmp_path) for stage in TABLE5.values()]
    assert all(differing(first, second) for first, second in itertools.combinations(trained, 2))
    firsts = {}
    for row, stage in TABLE5.items():
        first = replace(stage, epochs=1, iterations=1)
        run(first, setting, tmp_path)
        firsts[row] = history(first, setting, tmp_path)[0]
    source = firsts["baseline"]["loss"]
    for row in ("idx", "SPTD", "idx + SPTD"):
        assert firsts[row]["loss"] - firsts[row]["objective"] == pytest.approx(source, rel=1e-5)
    assert firsts["idx"]["objective"] == pytest.approx(math.log(36), rel=0.01)
    parts = firsts["idx"]["objective"] + firsts["SPTD"]["objective"]
    assert firsts["idx + SPTD"]["objective"] == pytest.approx(parts, rel=1e-5)


TABLE6 = {
    "RF": sptd.Views(crop=False, erase=False, colour=False),
    "RF RE": sptd.Views(crop=False, colour=False),
    "RF RE CD": sptd.Views(crop=False),
    "RF RE CD RC": sptd.Views(),
}


def shown(stage: sptd.Pretrain, images: torch.Tensor) -> list[torch.Tensor]:
    assert stage.guest
    return stage.shown(stage.guest, images, 0, 0)


def test_table_6() -> None:
    images = torch.randint(0, 256, (8, 3, 32, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    full = pretraining().strengths
    recipes = {row: views.of(full) for row, views in TABLE6.items()}
    assert recipes["RF"] == Distort(flip=0.5, pad=0)
    assert recipes["RF RE"] == Distort(flip=0.5, pad=0, erase=Erase())
    assert recipes["RF RE CD"] == Distort(flip=0.5, pad=0, erase=Erase(), colour=Colour())
    assert recipes["RF RE CD RC"] == full
    assert sptd.Views(False, False, False, False).of(full) == Distort(flip=0, pad=0)
    seen = {row: shown(pretraining(views=views), images) for row, views in TABLE6.items()}
    for row, (first, second) in seen.items():
        assert torch.equal(first, transforms.normalise(images)), row
        assert not torch.equal(first, second)
        assert pretraining(views=TABLE6[row]).detail == f"idx + SPTD, {row}"
    still = pretraining(views=sptd.Views(False, False, False, False))
    assert torch.equal(*shown(still, images))
    assert "no augmentation" in still.detail
    first, second = shown(pretraining(objective=simclr.NTXent()), images)
    assert torch.equal(second, seen["RF RE CD RC"][1])
    assert not torch.equal(first, transforms.normalise(images))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    "changes",
    [
        {"views": sptd.Views(colour=False)},
        {"joint": True},
        {"bn_group": 4},
        {"stem_relu": True},
        {"objective": sptd.Index(detach=False)},
        {"objective": simclr.NTXent(temperature=0.5)},
        {"target_batch": 12},
        {"seed": 2},
    ],
    ids=str,
)
def test_every_field_changes_the_network(changes: dict[str, Any], setting: Setting, tmp_path: Path) -> None:
    plain = pretraining(precision="float64", epochs=1)
    changed = replace(plain, **changes)
    assert spec(plain) != spec(changed)
    assert "backbone.layer4.0.conv3.weight" in differing(run(plain, setting, tmp_path), run(changed, setting, tmp_path))


def test_source_loss_ignores_the_target_unless_joint(setting: Setting, tmp_path: Path) -> None:
    """The source's loss at the first step depends on the target only if they share a batch."""
    first = {"epochs": 1, "iterations": 1, "precision": "float64"}
    values = {}
    for row, changes in {"alone": {"target": None}, "apart": {}, "joint": {"joint": True}}.items():
        stage = pretraining(**first, **changes)
        run(stage, setting, tmp_path)
        entry = history(stage, setting, tmp_path)[0]
        values[row] = entry["loss"] - entry.get("objective", 0.0)
    assert values["apart"] == pytest.approx(values["alone"], rel=1e-12)
    assert abs(values["joint"] - values["alone"]) > 1e-6


def test_source_loss_is_the_soft_triplet(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    def triplet(features: torch.Tensor, labels: torch.Tensor, margin: Any) -> torch.Tensor:
        heard.append((margin, sorted(labels.tolist())))
        return features.sum() * 0

    monkeypatch.setattr(losses, "batch_hard_triplet", triplet)
    run(pretraining(epochs=1, iterations=1), setting, tmp_path)
    assert heard == [("soft", sorted(4 * list(range(6))))]


@pytest.mark.parametrize(("epoch", "later"), [(1, 0.02), (2, 0.0), (3, 0.0), (3, 0.007)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    stage = setting.resolve(pretraining(epochs=4, bn_target=True))
    killed_equals_uncut(stage, setting.paths(), epoch, later)


def test_invalid_fields_raise(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name a target"):
        pretraining(target=None, bn_target=True)
    with pytest.raises(ValueError, match="objective=None"):
        sptd.Index(original=False, consistency=False)
    with pytest.raises(UserError, match="36 images do not fill a batch of 64"):
        run(pretraining(target_batch=64), setting, tmp_path)


def test_scale_small_shrinks_the_recipe() -> None:
    stage = rewrite(sptd.Pretrain(Domain("market"), Domain("duke")), by_role=at_scale(SCALES["small"]))
    assert (stage.input, stage.epochs, stage.milestones, stage.warmup) == ((64, 32), 27, (13, 23), 3)
    assert (stage.strengths.pad, stage.augment.pad, stage.eval_every, stage.weights) == (2, 2, 13, "imagenet")
    assert stage.iterations == 21
    assert isinstance(stage.strengths, Distort)


def test_import_needs_no_torch() -> None:
    code = "import sys, methods.sptd, methods.simclr; print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize(
    "guest",
    [
        mmcl.MultiLabel(epochs=2, single=0.5),
        jvtc.LocalGlobal(DBSCAN(Rho(0.02), 1), clock=jvtc.Clock(1, "joined"), epochs=2, every=1, joint=1.0, k1=5, k2=2),
    ],
    ids=["mmcl", "jvtc"],
)
def test_labellers_are_guests(setting: Setting, tmp_path: Path, guest: Labeller) -> None:
    stage = pretraining(objective=guest)
    run(stage, setting, tmp_path)
    without = pretraining(objective=None)
    run(without, setting, tmp_path)
    for entry, other in zip(history(stage, setting, tmp_path), history(without, setting, tmp_path), strict=True):
        assert entry["objective"] > 0
        assert entry["loss"] != other["loss"]
