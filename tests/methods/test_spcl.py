from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import contrasted, history, run, source
from torch import nn

from methods import spcl
from methods.blocks import memory
from methods.blocks.norm import DomainBatchNorm
from reproduce.clustering import DBSCAN, OUTLIER
from reproduce.data.domains import Domain
from reproduce.data.reading import read
from reproduce.data.transforms import Augment
from reproduce.evaluation import Evaluate, embed
from reproduce.session.setting import Setting

GOLDEN = {
    "both": [10.601387621479063, 13.487926106337966],
    "target": [1.9813213277840924, 6.008863862285537],
    "clusters": [4.00558675358259, 3.935533443602117],
}
"""Losses of two epochs of two iterations in float64."""

WAYS: dict[str, dict[str, Any]] = {
    "both": {},
    "target": {"source": None},
    "clusters": {"source": None, "memory": spcl.Clusters(hardest=True), "pooling": "gem"},
}


@pytest.mark.parametrize("way", WAYS)
def test_golden(way: str, setting: Setting, tmp_path: Path) -> None:
    stage = contrasted(epochs=2, precision="float64", **WAYS[way])
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses == pytest.approx(GOLDEN[way], rel=1e-6), "numbers changed: raise version or undo"


def slots_of(
    stage: spcl.Adapt, setting: Setting, root: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[torch.Tensor, list[int]]]:
    """Run a training and return its slots before each loss, and the labels of the slots."""
    seen: list[tuple[torch.Tensor, list[int]]] = []
    contrast = memory.slot_contrast

    def listening(features: torch.Tensor, slots: torch.Tensor, of_slot: torch.Tensor, *rest: Any, **more: Any) -> Any:
        seen.append((slots.clone(), of_slot.tolist()))
        return contrast(features, slots, of_slot, *rest, **more)

    monkeypatch.setattr(memory, "slot_contrast", listening)
    run(stage, setting, root)
    return seen


def test_memory_starts_with_class_means_and_images(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = contrasted(iterations=1)
    (first, of_slot), (second, _) = slots_of(stage, setting, tmp_path, monkeypatch)
    assert torch.equal(first, second), "both losses see the slots as they were"
    resolved: Any = setting.resolve(stage)
    data = read(setting.paths()[resolved.target.digest], "duke")
    features = embed(stage.network().eval(), stage.images(data, "cpu"))
    torch.testing.assert_close(first[6:], features)
    pids = np.array([image.pid for image in data.train])
    for number, pid in enumerate(np.unique(pids)):
        mean = features[pids == pid].mean(0)
        torch.testing.assert_close(first[number], mean / mean.norm())
    assert of_slot[:6] == list(range(6))
    assert sorted(set(of_slot)) == list(range(max(of_slot) + 1)), "source classes, then clusters and outliers"
    assert min(of_slot[6:]) == 6


def test_every_slot_of_a_batch_moves_and_no_other(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = slots_of(contrasted(source=None), setting, tmp_path, monkeypatch)
    moved = (seen[0][0] != seen[1][0]).any(1)
    assert 1 < moved.sum() <= 8, "a batch has eight images"
    torch.testing.assert_close(seen[1][0].norm(dim=1), torch.ones(36))


def test_cluster_memory_is_renewed_and_outliers_are_left_out(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.array([0, 0, 0, 1, 1, OUTLIER] * 6)
    given = lambda self, features, threshold: spcl.Guessed(labels, labels, 0.5, None)  # noqa: E731
    monkeypatch.setattr(spcl.Adapt, "guess", given)
    stage = contrasted(epochs=2, P=2, K=4, iterations=1, lr=0.01, **WAYS["clusters"])
    (first, of_slot), (second, _) = slots_of(stage, setting, tmp_path, monkeypatch)
    assert of_slot == [0, 1]
    assert first.shape == second.shape
    resolved: Any = setting.resolve(stage)
    data = read(setting.paths()[resolved.target.digest], "duke")
    features = embed(stage.network().eval(), stage.images(data, "cpu"))
    for label in (0, 1):
        mean = features[labels == label].mean(0)
        torch.testing.assert_close(first[label], mean / mean.norm())


def test_outliers_are_classes_of_their_own(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.array([0, 0, 0, 1, 1, OUTLIER] * 6)
    given = lambda self, features, threshold: spcl.Guessed(labels, labels, 0.5, 0.0)  # noqa: E731
    monkeypatch.setattr(spcl.Adapt, "guess", given)
    seen = slots_of(contrasted(source=None, P=2), setting, tmp_path, monkeypatch)
    of_slot = np.array(seen[0][1])
    assert [len(set(of_slot[labels == label])) for label in (0, 1, OUTLIER)] == [1, 1, 6]
    assert len(set(of_slot)) == 8


def test_the_first_threshold_is_kept(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guess, thresholds = spcl.Adapt.guess, []

    def listening(self: spcl.Adapt, features: torch.Tensor, threshold: float | None) -> spcl.Guessed:
        thresholds.append(threshold)
        return guess(self, features, threshold)

    monkeypatch.setattr(spcl.Adapt, "guess", listening)
    stage = contrasted(epochs=3, source=None)
    run(stage, setting, tmp_path)
    entries = history(stage, setting, tmp_path)
    assert thresholds[0] is None
    assert thresholds[1] == thresholds[2] == entries[0]["threshold"]


def people(count: int = 200) -> torch.Tensor:
    """Embeddings of 20 people."""
    draw = np.random.default_rng(1)
    rows = 3 * draw.standard_normal((20, 16))[draw.integers(0, 20, count)] + 1.2 * draw.standard_normal((count, 16))
    return nn.functional.normalize(torch.from_numpy(rows).float())


def test_reliability_compares_three_eps() -> None:
    stage = contrasted(cluster=DBSCAN(0.5, 4), k1=12, k2=3, memory=spcl.Hybrid(gap=0.06))
    guessed = stage.guess(people(), None)
    trusted = replace(stage, memory=spcl.Hybrid(gap=None)).guess(people(), None)
    np.testing.assert_array_equal(guessed.raw, trusted.raw)
    np.testing.assert_array_equal(trusted.kept, trusted.raw)
    assert (guessed.kept == OUTLIER).sum() > (guessed.raw == OUTLIER).sum() > 0
    assert trusted.threshold is None
    assert guessed.threshold is not None
    assert guessed.eps == 0.5


def test_rates_fall_every_few_epochs(setting: Setting, tmp_path: Path) -> None:
    stage = contrasted(epochs=5, step=2, lr=1e-3, iterations=1, eval_every=9)
    run(stage, setting, tmp_path)
    entries = history(stage, setting, tmp_path)
    assert [entry["lr"] for entry in entries] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5])
    assert ["mAP" in entry for entry in entries] == [False] * 4 + [True]


@pytest.mark.parametrize("free", [False, True])
def test_biases_of_the_neck(free: bool, setting: Setting, tmp_path: Path) -> None:
    """The published conversion frees them; plain normalisation, as without a source, freezes them."""
    weights = run(contrasted(free_bias=free, lr=0.01), setting, tmp_path).checkpoints["last"]
    assert all((weights[f"neck.{domain}.bias"] != 0).any() == free for domain in ("source", "target"))
    alone = run(contrasted(source=None, free_bias=free, lr=0.01), setting, tmp_path).checkpoints["last"]
    assert not (alone["neck.bias"] != 0).any()
    assert not any(isinstance(part, DomainBatchNorm) for part in contrasted(source=None).network().modules())


def test_joint_loss_is_half_the_sum(setting: Setting, tmp_path: Path) -> None:
    losses = {}
    for joint in (False, True):
        stage = contrasted(joint=joint, iterations=1, precision="float64")
        run(stage, setting, tmp_path)
        (entry,) = history(stage, setting, tmp_path)
        losses[joint] = entry["loss"]
        assert entry["source"] + entry["target"] == pytest.approx((1 + joint) * entry["loss"])
    assert losses[True] == pytest.approx(losses[False] / 2)


def test_keeps_last_and_best_on_target(setting: Setting, tmp_path: Path) -> None:
    stage = contrasted(epochs=3, lr=0.01)
    training = run(stage, setting, tmp_path)
    entries = history(stage, setting, tmp_path)
    scores = {at: run(Evaluate(stage, Domain("duke"), at=at), setting, tmp_path) for at in training.checkpoints}
    measured = {at: each.mAP for at, each in scores.items()}
    assert measured == pytest.approx({"last": entries[-1]["mAP"], "best on target": max(e["mAP"] for e in entries)})
    assert scores["last"].numbers["clusters"] == entries[-1]["clusters"]


def test_another_training_continues_the_target_s_backbone(setting: Setting, tmp_path: Path) -> None:
    stage = contrasted(lr=0.01)
    weights = run(stage, setting, tmp_path).checkpoints["last"]
    after = run(source(weights=stage, backbone="narrow", epochs=1, lr=0.0), setting, tmp_path).checkpoints["last"]
    for name in ("layer4.0.conv1.weight", "layer4.0.bn1.weight"):
        assert torch.equal(after[f"backbone.{name}"], weights[f"backbone.{name.replace('bn1.', 'bn1.target.')}"])


def test_loss_falls(setting: Setting, tmp_path: Path) -> None:
    plain = Augment(flip=0.0, pad=0)
    stage = contrasted(P=6, K=4, bn_group=None, epochs=8, iterations=4, lr=3e-3, eval_every=8, augment=plain)
    run(stage, setting, tmp_path)
    entries = history(stage, setting, tmp_path)
    assert all(entries[-1][part] < 0.3 * entries[0][part] for part in ("source", "target"))


def test_one_cluster_of_everything_collapses(setting: Setting, tmp_path: Path) -> None:
    stage = contrasted(source=None, cluster=DBSCAN(1.0, 2), memory=spcl.Hybrid(gap=None))
    scores = run(Evaluate(stage, Domain("duke")), setting, tmp_path)
    assert scores.collapsed == "1 clusters at epoch 1, 0 of 36 images outliers: they fill no batch"
    nothing = contrasted(cluster=DBSCAN(0.0, 30))
    assert run(Evaluate(nothing, Domain("duke")), setting, tmp_path).collapsed == "", "outliers are trained on"
    clusters = contrasted(cluster=DBSCAN(0.0, 30), **WAYS["clusters"])
    assert "36 of 36 images outliers" in run(Evaluate(clusters, Domain("duke")), setting, tmp_path).collapsed


def test_a_memory_of_clusters_has_no_source() -> None:
    with pytest.raises(ValueError, match="a memory of clusters has no slots for source classes"):
        contrasted(memory=spcl.Clusters())


@pytest.mark.parametrize(("way", "epoch", "later"), [("both", 2, 0.0), ("both", 3, 0.01), ("clusters", 3, 0.0)])
def test_killed_equals_uncut(
    way: str, setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    stage = contrasted(epochs=4, lr=0.01, **WAYS[way])
    killed_equals_uncut(setting.resolve(stage), setting.paths(), epoch, later)
