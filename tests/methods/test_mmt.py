from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.cluster
import torch
from runs import history, run, source
from sklearn.metrics import adjusted_rand_score

from methods import mmt, supervised
from methods.blocks import losses, momentum
from methods.blocks.heads import network
from methods.blocks.labels import batch_identities
from methods.blocks.norm import GroupedBatchNorm
from reproduce.clustering import DBSCAN, KMeans, Rho
from reproduce.data import transforms
from reproduce.data.domains import Domain
from reproduce.data.transforms import Augment, Erase
from reproduce.evaluation import Evaluate
from reproduce.neighbours import jaccard_graph
from reproduce.running.runner import Site, build
from reproduce.session.setting import Setting
from reproduce.stage import closure

GOLDEN = {
    KMeans(k=4, n_init=2): [4.230528202240164, 4.78944231762469],
    DBSCAN(Rho(0.1), 2): [5.43418933281798, 5.597329463753722],
}
"""Losses of two epochs in float64."""


def pair(**changes: Any) -> tuple[supervised.Train, supervised.Train]:
    return source(seed=1, **changes), source(seed=2, **changes)


def tiny(**changes: Any) -> mmt.Adapt:
    stage = mmt.Adapt(
        pair(),
        Domain("duke"),
        KMeans(k=4, n_init=2),
        P=4,
        K=2,
        epochs=2,
        iterations=2,
        bn_group=4,
        input=(32, 16),
        augment=Augment(pad=2, erase=Erase()),
    )
    return replace(stage, **changes)


@pytest.mark.parametrize("cluster", GOLDEN)
def test_golden(setting: Setting, tmp_path: Path, cluster: Any) -> None:
    stage = tiny(init=pair(precision="float64"), cluster=cluster, precision="float64")
    run(stage, setting, tmp_path)
    values = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert values == pytest.approx(GOLDEN[cluster], rel=1e-6), "numbers changed: raise version or undo"


def embeddings(groups: int = 20, images: int = 260) -> list[torch.Tensor]:
    """Draw two sets (N, 16) of unit vectors: noisy views of the same people."""
    draw = np.random.default_rng(1)
    people = 3 * draw.standard_normal((groups, 16))[draw.integers(0, groups, images)]
    rows = [torch.from_numpy(people + draw.standard_normal((images, 16))).float() for _ in range(2)]
    return [torch.nn.functional.normalize(row) for row in rows]


def loop_centres(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    centres = []
    for label in range(labels.max() + 1):
        members = [row for row, own in zip(rows, labels, strict=True) if own == label]
        mean = sum(members) / len(members)
        centres.append(mean / np.sqrt((mean**2).sum()))
    return np.stack(centres)


def test_dbscan_uses_jaccard_distances_of_the_normalised_mean_and_keeps_its_eps() -> None:
    one, two = embeddings()
    stage = tiny(cluster=DBSCAN(Rho(1e-2)))
    guessed = stage.guess([one, two], None)

    average = (one.double().numpy() + two.double().numpy()) / 2
    average = np.stack([row / np.sqrt((row**2).sum()) for row in average])
    np.testing.assert_allclose(guessed.embeddings.numpy(), average, atol=1e-6)
    graph = jaccard_graph(guessed.embeddings, 20, 6, variant="mmt").tocoo()  # rounding decides which pairs are zero
    distances = np.ones((260, 260))
    distances[graph.row, graph.col] = graph.data
    apart = distances[np.triu_indices(260, 1)]
    apart = np.sort(apart[apart > 0])
    lowest = apart[: round(1e-2 * len(apart))].mean()
    assert guessed.eps == pytest.approx(lowest, rel=1e-4)
    expected = sklearn.cluster.DBSCAN(eps=lowest, min_samples=4, metric="precomputed").fit_predict(distances)
    np.testing.assert_array_equal(guessed.kept, expected)
    assert guessed.kept.max() > 2
    later = stage.guess([two, two], 0.0)
    assert later.eps == 0
    assert not np.array_equal(later.kept, guessed.kept)


def test_kmeans_clusters_the_unnormalised_mean() -> None:
    one, two = embeddings()
    guessed = tiny(cluster=KMeans(k=12)).guess([one, two], None)
    torch.testing.assert_close(guessed.embeddings, (one + two) / 2)
    assert guessed.embeddings.norm(dim=1).max() < 0.9999
    np.testing.assert_array_equal(guessed.kept, KMeans(k=12).labels((one + two) / 2))
    assert guessed.eps is None


@pytest.mark.parametrize("own", [None, 4])
def test_kmeans_uses_the_training_seed_unless_it_has_its_own(own: int | None) -> None:
    one, two = embeddings()
    stages = [tiny(cluster=KMeans(k=40, n_init=1, seed=own), seed=seed) for seed in (1, 2)]
    by_seed = [stage.guess([one, two], None).kept for stage in stages]
    for labels, seed in zip(by_seed, (1, 2), strict=True):
        start = sklearn.cluster.KMeans(40, n_init=1, random_state=own or seed).fit(((one + two) / 2).numpy())
        np.testing.assert_array_equal(labels, start.labels_)
    assert np.array_equal(*by_seed) == (own is not None)


@pytest.mark.parametrize("cluster", [KMeans(k=12), DBSCAN(Rho(1e-2))])
def test_all_four_classifiers_start_as_normalised_cluster_means(cluster: Any) -> None:
    stage = tiny(cluster=cluster)
    nets = [network(source(seed=seed), 7) for seed in range(1, 5)]
    wide = nets[0].channels
    one, two = (torch.nn.functional.pad(rows, (0, wide - 16)) for rows in embeddings())
    guessed = stage.guess([one, two], None)
    stage.classify(nets, guessed.embeddings, guessed.kept)
    expected = loop_centres(guessed.embeddings.double().numpy(), guessed.kept)
    for net in nets:
        np.testing.assert_allclose(net.classifier.weight.detach().numpy(), expected, atol=1e-6)
        assert net.classifier.weight.requires_grad
    assert len({net.classifier.weight.data_ptr() for net in nets}) == 4


def test_empty_clusters_get_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KMeans, "labels", lambda *_: np.array([0, 3, 3, 1]))
    assert tiny().guess([torch.eye(4), torch.eye(4)], None).kept.tolist() == [0, 2, 2, 1]


@pytest.mark.parametrize(
    ("sizes", "P", "K", "group", "expected"),
    [
        ([5] * 20, 16, 4, 16, 16),
        ([5] * 19, 16, 4, None, 16),
        ([5] * 7, 16, 4, 16, 4),  # 28 images are no whole groups of 16
        ([5] * 7, 16, 4, None, 7),
        ([5] * 3, 16, 4, 16, 3),
        ([5] * 3 + [1] * 5, 16, 4, 16, 4),  # 17 images
        ([1] * 6, 16, 4, 16, 0),
        ([9], 16, 4, 16, 0),
        ([], 16, 4, 16, 0),
    ],
)
def test_identities_per_batch(sizes: list[int], P: int, K: int, group: int | None, expected: int) -> None:
    labels = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), [-1, -1]]).astype(np.int64)
    assert batch_identities(labels, P, K, group) == expected


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record the calls of `follow`, in order, with copies of the weights before and after."""
    heard: list[dict[str, Any]] = []
    original = momentum.follow

    def listening(mean: Any, student: Any, kept: float) -> None:
        before = {name: tensor.clone() for name, tensor in mean.state_dict().items()}
        original(mean, student, kept)
        after, taught = ({name: t.clone() for name, t in net.state_dict().items()} for net in (mean, student))
        heard.append({"kept": kept, "before": before, "after": after, "student": taught, "mean": mean})

    monkeypatch.setattr(momentum, "follow", listening)
    return heard


def test_mean_nets_average_parameters_but_not_batch_statistics(
    setting: Setting, tmp_path: Path, steps: list[dict[str, Any]]
) -> None:
    run(tiny(), setting, tmp_path)
    assert [step["kept"] for step in steps] == pytest.approx([0, 0, 1 / 2, 1 / 2, 2 / 3, 2 / 3, 3 / 4, 3 / 4])
    first, second = steps[0]["mean"], steps[1]["mean"]
    assert first is not second
    assert [step["mean"] is first for step in steps] == [True, False] * 4
    for step in steps:
        assert step["mean"].classifier.weight.grad is None
        for name, after in step["after"].items():
            if "running" in name or "tracked" in name:
                assert torch.equal(after, step["before"][name])
            else:
                wanted = step["kept"] * step["before"][name] + (1 - step["kept"]) * step["student"][name]
                torch.testing.assert_close(after, wanted)
    running = [name for name in steps[0]["after"] if "running_mean" in name]
    last = steps[-2]
    assert any(not torch.equal(last["after"][name], steps[0]["after"][name]) for name in running)
    assert any(not torch.equal(last["after"][name], last["student"][name]) for name in running)
    tracked = next(name for name in last["after"] if name.endswith("neck.num_batches_tracked"))
    assert last["after"][tracked] == last["student"][tracked]


def test_each_student_learns_from_the_other_mean_net_with_weighted_losses(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: dict[str, list[Any]] = {}

    def listen(name: str) -> None:
        original = getattr(losses, name)

        def listening(*arguments: Any) -> Any:
            value = original(*arguments)
            called.setdefault(name, []).append((*arguments, value.item()))
            return value

        monkeypatch.setattr(losses, name, listening)

    for name in ("smoothed_cross_entropy", "soft_cross_entropy", "batch_hard_triplet", "soft_triplet"):
        listen(name)
    stage = setting.resolve(tiny(epochs=1, iterations=1))
    *before, last = closure([stage])
    site = Site(tmp_path, folders=setting.paths())
    for needed in before:
        build(needed, site, lambda _: None)
    called.clear()
    build(last, site, lambda _: None)

    # At the first step a mean net equals its student, so student 2 on the same view gives student 1's soft labels.
    for name in ("soft_cross_entropy", "soft_triplet"):
        (own, taught, *_), (other, by, *_) = called[name]
        assert own.requires_grad
        assert not taught.requires_grad
        assert torch.equal(taught, other)
        assert torch.equal(by, own)
        assert not torch.allclose(own, other)
    assert all(arguments[2] == 0.1 for arguments in called["smoothed_cross_entropy"])
    assert all(arguments[2] == "soft" for arguments in called["batch_hard_triplet"])
    ce, soft_ce, triplet, soft_triplet = (
        sum(value for *_, value in called[name])
        for name in ("smoothed_cross_entropy", "soft_cross_entropy", "batch_hard_triplet", "soft_triplet")
    )
    logged = history(stage, setting, tmp_path)[0]["loss"]
    assert logged == pytest.approx(0.5 * ce + 0.5 * soft_ce + 0.2 * triplet + 0.8 * soft_triplet, rel=1e-6)


def test_each_image_is_augmented_twice(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = setting.resolve(tiny(epochs=1, iterations=2))
    *before, last = closure([stage])
    site = Site(tmp_path, folders=setting.paths())
    for needed in before:
        build(needed, site, lambda _: None)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    original = transforms.augment

    def watched(pixels: torch.Tensor, *arguments: Any) -> torch.Tensor:
        seen.append((pixels.clone(), original(pixels, *arguments)))
        return seen[-1][1]

    monkeypatch.setattr(transforms, "augment", watched)
    build(last, site, lambda _: None)
    assert len(seen) == 4
    for (pixels, one), (same, two) in (seen[:2], seen[2:]):
        assert torch.equal(pixels, same)
        assert not torch.equal(one, two)


def test_keeps_mean_net_1_as_last_and_the_best_of_both_nets_and_all_epochs(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(epochs=3, lr=1e-3)
    training = run(stage, setting, tmp_path)
    assert set(training.checkpoints) == {"last", "best on target"}
    entries = history(stage, setting, tmp_path)
    assert [entry["step"] for entry in entries] == [1, 2, 3]
    assert all({"mAP", "mAP2", "loss", "lr", "clusters", "portion", "purity"} <= set(entry) for entry in entries)
    assert ["agreement" in entry for entry in entries] == [False, True, True]
    measured = {at: run(Evaluate(stage, Domain("duke"), at=at), setting, tmp_path) for at in training.checkpoints}
    assert measured["last"].mAP == pytest.approx(entries[-1]["mAP"])
    best = max(entries, key=lambda entry: max(entry["mAP"], entry["mAP2"]))
    assert measured["best on target"].mAP == pytest.approx(max(best["mAP"], best["mAP2"]))
    assert training.facts["net"] == {"last": 0, "best on target": int(best["mAP2"] > best["mAP"])}
    assert measured["last"].numbers["clusters"] == 4
    assert measured["last"].numbers["portion"] == 100
    assert not measured["last"].collapsed


def test_eps_is_fixed_at_the_first_epoch(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(cluster=DBSCAN(Rho(0.1), 2), epochs=4, lr=1e-3)
    run(stage, setting, tmp_path)
    assert len({entry["eps"] for entry in history(stage, setting, tmp_path)}) == 1


@pytest.mark.parametrize(("inherited", "group", "expected"), [(None, 4, 4), (2, 4, 4), (None, None, 8), (4, None, 8)])
def test_bn_group_overrides_that_of_the_source_models(
    setting: Setting,
    tmp_path: Path,
    steps: list[dict[str, Any]],
    inherited: int | None,
    group: int | None,
    expected: int,
) -> None:
    run(tiny(init=pair(bn_group=inherited), bn_group=group, epochs=1, iterations=1), setting, tmp_path)
    for step in steps:
        layers = [layer for layer in step["mean"].modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
        assert len(layers) > 3
        assert all(isinstance(layer, GroupedBatchNorm) and layer.group == expected for layer in layers)


def test_mean_nets_of_the_baseline_equal_the_students(
    setting: Setting, tmp_path: Path, steps: list[dict[str, Any]]
) -> None:
    stage = tiny(soft_ce=0.0, soft_triplet=0.0, alpha=0.0)
    run(stage, setting, tmp_path)
    for step in steps:
        weights = [name for name in step["after"] if "running" not in name and "tracked" not in name]
        assert all(torch.equal(step["after"][name], step["student"][name]) for name in weights)
    assert stage.detail == "KMeans 4 without mean nets"
    assert tiny(cluster=DBSCAN()).detail == "DBSCAN"


def test_loss_falls(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(epochs=6, iterations=8, lr=3e-3, alpha=0.9, augment=Augment(flip=0.0, pad=0))
    run(stage, setting, tmp_path)
    values = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize("cluster", [DBSCAN(0.0, 30), DBSCAN(1.0), KMeans(k=1, n_init=1)])
def test_collapse_keeps_the_network_and_counts(setting: Setting, tmp_path: Path, cluster: Any) -> None:
    stage = tiny(cluster=cluster)
    scores = run(Evaluate(stage, Domain("duke")), setting, tmp_path)
    assert re.search(r"^[01] clusters at epoch 1, \d+ of 36 images outliers", scores.collapsed)
    assert scores.numbers["clusters"] <= 1
    direct = run(Evaluate(source(), Domain("duke"), at="best on source"), setting, tmp_path)
    assert scores.mAP == direct.mAP
    assert run(Evaluate(stage, Domain("duke"), at="best on target"), setting, tmp_path).collapsed


def test_later_collapse_keeps_the_best_network_so_far(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guess = mmt.Adapt.guess
    calls: list[int] = []

    def failing(self: mmt.Adapt, *arguments: Any) -> Any:
        calls.append(1)
        guessed = guess(self, *arguments)
        none = np.full_like(guessed.kept, -1)
        return guessed if len(calls) < 3 else guessed._replace(raw=none, kept=none)

    monkeypatch.setattr(mmt.Adapt, "guess", failing)
    training = run(tiny(epochs=5), setting, tmp_path)
    assert training.facts["health"]["last"]["collapsed"].startswith("0 clusters at epoch 3, 36 of 36 images outliers")
    assert "collapsed" not in training.facts["health"]["best on target"]


def test_first_labels_are_the_rand_index_of_the_first_epoch(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every moment reports it. Of six identities with six images, the first epoch confuses two and drops two."""
    guess = mmt.Adapt.guess
    first = np.repeat(range(6), 6)
    first[[0, 6, 12, 35]] = 1, 0, -1, -1
    given: list[Any] = [first, np.repeat(range(6), 6)]

    def made_up(self: mmt.Adapt, *arguments: Any) -> Any:
        labels = given.pop(0)
        return guess(self, *arguments)._replace(raw=labels, kept=labels)

    monkeypatch.setattr(mmt.Adapt, "guess", made_up)
    training = run(tiny(epochs=2), setting, tmp_path)
    first[[12, 35]] = 6, 7
    expected = 100 * adjusted_rand_score(first, np.repeat(range(6), 6))
    assert 0 < expected < 100
    assert [kept["first_labels"] for kept in training.facts["health"].values()] == pytest.approx([expected] * 2)
    assert training.facts["health"]["last"]["purity"] == 100


@pytest.mark.parametrize(("epoch", "later"), [(1, 0.05), (2, 0.0), (2, 0.03), (3, 0.0), (3, 0.02)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    """Kill it within and between epochs with different numbers of clusters."""
    stage = setting.resolve(tiny(cluster=DBSCAN(Rho(0.1), 2), epochs=4, lr=1e-3))
    killed_equals_uncut(stage, setting.paths(), epoch, later)
