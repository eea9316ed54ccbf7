from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import sklearn.cluster
import torch
from runs import history, run, source

from methods import msplr
from methods.blocks import schedules
from methods.blocks.heads import in_precision
from methods.blocks.labels import STEADY, normalised_by_camera
from reproduce.clustering import DBSCAN, KMeans, Rho
from reproduce.data.domains import Domain
from reproduce.data.images import Images
from reproduce.data.reading import read
from reproduce.data.transforms import Augment, normalise
from reproduce.evaluation import Evaluate
from reproduce.session.setting import Setting
from reproduce.session.trials import deviations

GOLDEN = [2.1179119410217973, 1.9873145113719264]
"""Losses of two epochs in float64, one frozen and one not."""


def tiny(**changes: Any) -> msplr.Adapt:
    stage = msplr.Adapt(
        source(),
        Domain("duke"),
        KMeans(k=4, n_init=2),
        P=6,
        K=2,
        steps=2,
        frozen=1,
        epochs=1,
        milestones=(2,),
        warmup=0,
        input=(32, 16),
        augment=Augment(pad=2),
    )
    return replace(stage, **changes)


def one_camera(folder: Path) -> Path:
    """Write a domain whose training images all come from one camera."""
    random = np.random.default_rng(0)
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        (folder / split).mkdir(parents=True)
        for pid in range(1, 7) if "train" in split else range(11, 15):
            for frame in range(4):
                camera = 1 if split == "bounding_box_train" else 1 + (split == "query")
                pixels = random.integers(0, 256, (32, 16, 3), np.uint8)
                PIL.Image.fromarray(pixels).save(folder / split / f"{pid:04}_c{camera}s1_{frame:06}_00.png")
    return folder


def test_golden(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(init=source(precision="float64"), steps=1, precision="float64")
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses == pytest.approx(GOLDEN, rel=1e-6), "numbers changed: raise version or undo"


@pytest.mark.parametrize("by_camera", [True, False])
def test_labels_equal_slow_loops(by_camera: bool) -> None:
    """Check normalisation, cosine distances, the rule's eps, DBSCAN and selection against float64 loops over pairs."""
    draw = np.random.default_rng(1)
    people, cameras = 3 * draw.standard_normal((20, 16)), 0.5 * draw.standard_normal((4, 16))
    pids, camids = draw.integers(0, 20, 260), draw.integers(0, 4, 260)
    rows = people[pids] + cameras[camids] + draw.standard_normal((260, 16))
    features = torch.from_numpy(rows.astype(np.float32))
    stage = tiny(cluster=DBSCAN(Rho(1e-2)), by_camera=by_camera, K=4)
    guessed = stage.guess(features, camids.tolist(), None)

    if by_camera:
        own = [rows[camids == camera] for camera in camids]
        rows = np.stack([(row - same.mean(0)) / same.std(0) for row, same in zip(rows, own, strict=True)])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances = np.maximum(1 - rows @ rows.T, 0)
    lowest = np.sort(distances[np.triu_indices(260, 1)])[: round(1e-2 * 260 * 259 / 2)]
    assert guessed.eps == pytest.approx(lowest.mean(), rel=1e-4)
    expected = sklearn.cluster.DBSCAN(eps=lowest.mean(), min_samples=4, metric="precomputed").fit_predict(distances)
    np.testing.assert_array_equal(guessed.raw, expected)
    members = [expected == label for label in range(expected.max() + 1)]
    good = [own for own in members if own.sum() >= 4 and len(set(camids[own])) > 1]
    assert len(good) > 2
    assert guessed.kept.max() + 1 == len(good)
    for label, own in enumerate(good):
        np.testing.assert_array_equal(guessed.kept == label, own)
    later = stage.guess(features, camids.tolist(), guessed.eps)
    np.testing.assert_array_equal(later.raw, guessed.raw)
    unselected = replace(stage, select=False).guess(features, camids.tolist(), None)
    np.testing.assert_array_equal(unselected.kept, guessed.raw)


def test_kmeans_clusters_the_same_vectors() -> None:
    features, camids = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), [0, 1, 2] * 20
    guessed = tiny(cluster=KMeans(images_per_cluster=15)).guess(features, camids, None)
    vectors = torch.nn.functional.normalize(normalised_by_camera(features, camids))
    np.testing.assert_array_equal(guessed.raw, KMeans(k=4).labels(vectors))
    assert guessed.eps is None


@pytest.mark.parametrize("precision", ["float32", "mixed", "float64"])
def test_clusters_features_before_the_neck(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """At first these are the source model's features for the triplet loss, pooled here from its maps."""
    guess, seen = msplr.Adapt.guess, []

    def listening(self: msplr.Adapt, features: torch.Tensor, *arguments: Any) -> Any:
        seen.append(features)
        return guess(self, features, *arguments)

    monkeypatch.setattr(msplr.Adapt, "guess", listening)
    stage = tiny(steps=1, precision=precision)
    run(stage, setting, tmp_path)
    net = in_precision(source().embedder(run(source(), setting, tmp_path), "last"), precision)
    data = setting.locate(Domain("duke"))
    images = Images(data.folder, read(data.folder, "duke").train, stage.input)
    [pixels] = images.batches([range(len(images))])
    with torch.no_grad():
        expected = net.maps(normalise(pixels).to(seen[0].dtype)).mean((2, 3))
    assert seen[0].min() >= 0, "the last layer ends in a ReLU, the neck does not"
    torch.testing.assert_close(seen[0], expected)


def test_every_step_is_kept_and_evaluated_separately(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(select=False)
    training = run(stage, setting, tmp_path)
    assert set(training.checkpoints) == {"step 1", "step 2", "last", "best on target"}
    entries = history(stage, setting, tmp_path)
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4]
    assert [entry["clusters"] for entry in entries if "clusters" in entry] == [4, 4]
    assert "agreement" not in entries[0]
    assert -1 <= entries[2]["agreement"] <= 1
    measured = {at: run(Evaluate(stage, Domain("duke"), at=at), setting, tmp_path) for at in training.checkpoints}
    by_step = [entry["mAP"] for entry in entries if "mAP" in entry]
    assert [measured["step 1"].mAP, measured["step 2"].mAP] == pytest.approx(by_step)
    assert measured["last"].mAP == measured["step 2"].mAP
    assert measured["best on target"].mAP == pytest.approx(max(by_step))
    assert measured["last"].numbers["portion"] == 100
    assert measured["last"].numbers["clusters"] == 4
    assert not measured["last"].collapsed


def test_frozen_layers_stay_fixed_and_the_rest_learns(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run(source(), setting, tmp_path).checkpoints["last"]
    after = run(tiny(steps=1), setting, tmp_path).checkpoints["last"]
    learnt = [name for name in before if name.endswith("weight") or "running" in name]
    assert not any(torch.equal(before[name], after[name]) for name in learnt if name != "classifier.weight")
    assert torch.equal(after["neck.bias"], before["neck.bias"])

    monkeypatch.setattr(schedules, "warmup_steps", lambda *_, **__: 0.0)  # so only the frozen epochs learn
    frozen = run(tiny(steps=1, frozen=2), setting, tmp_path).checkpoints["last"]
    moved = [name for name in learnt if "running" not in name and not torch.equal(before[name], frozen[name])]
    assert moved == ["classifier.weight"]
    net = tiny().embedder(run(tiny(steps=1, frozen=2), setting, tmp_path), "last")
    net.renew_classifier(4, seed=1)
    assert not torch.equal(frozen["classifier.weight"], net.classifier.weight)


def test_schedule_restarts_at_each_step(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(frozen=2, epochs=3, warmup=2, milestones=(3,), lr=1e-3)
    run(stage, setting, tmp_path)
    rates = [entry["lr"] for entry in history(stage, setting, tmp_path)]
    assert rates == pytest.approx([1e-3, 1e-3, 5.05e-4, 1e-3, 1e-4] * 2)


def test_unspecified_details_are_listed_as_deviations() -> None:
    listed = " ".join(deviations(msplr.Adapt(source(), Domain("duke"), KMeans(4))))
    assert msplr.Adapt.augment.erase is None
    assert "not erased at random" in listed
    assert STEADY == 1e-6
    assert "standard deviations of equation 4 have 1e-6 added" in listed
    assert "without camera normalisation" in listed.lower()
    assert "features that are clustered" not in listed


def test_loss_falls(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(steps=1, epochs=12, milestones=(), lr=3e-3, augment=Augment(flip=0.0, pad=0))
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses[-1] < 0.7 * losses[0]


def test_stops_when_labels_agree(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(lr=0.0, steps=5, until=1.0, init=source(epochs=1))
    training = run(stage, setting, tmp_path)
    entries = history(stage, setting, tmp_path)
    assert max(entry["step"] for entry in entries) < 10
    assert entries[-1]["agreement"] == 1
    weights = training.checkpoints
    assert all(torch.equal(weights["step 5"][name], weights["last"][name]) for name in weights["last"])


@pytest.mark.parametrize("cluster", [DBSCAN(0.3), DBSCAN(0.0, 3), KMeans(k=4, n_init=1)])
def test_collapse_is_recorded_with_counts(cluster: Any, tmp_path: Path) -> None:
    folder = one_camera(tmp_path / "data")
    setting = Setting("paper", {"market": folder, "duke": folder}, weights="scratch")
    stage = tiny(cluster=cluster)
    scores = run(Evaluate(stage, Domain("duke")), setting, tmp_path / "store")
    assert re.search(r"0 of \d+ clusters left at step 1, \d+ of 24 images outliers", scores.collapsed)
    assert scores.numbers["clusters"] == 0
    assert scores.numbers["portion"] == 0
    direct = run(Evaluate(source(), Domain("duke")), setting, tmp_path / "store")
    assert scores.mAP == direct.mAP
    first = run(Evaluate(stage, Domain("duke"), at="step 1"), setting, tmp_path / "store")
    assert first.collapsed


def test_trains_with_fewer_clusters_than_P(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(cluster=KMeans(k=2, n_init=2), P=16, steps=1)
    run(stage, setting, tmp_path)
    assert history(stage, setting, tmp_path)[0]["clusters"] == 2


@pytest.mark.parametrize(("epoch", "later"), [(0, 0.05), (1, 0.01), (2, 0.0), (2, 0.02), (3, 0.0), (3, 0.01)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    """Kill it in frozen and other epochs, and between steps with different numbers of clusters."""
    stage = setting.resolve(tiny(cluster=DBSCAN(Rho(0.1), 2), select=False))
    killed_equals_uncut(stage, setting.paths(), epoch, later)
