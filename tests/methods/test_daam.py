from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.cluster
import torch
from runs import history, run, separated

from methods import daam
from methods.blocks import steps
from methods.blocks.backbones import build
from methods.blocks.daam import Branches, soft_weights
from methods.blocks.labels import PseudoLabels
from reproduce.clustering import DBSCAN, OUTLIER, MostClusters, TopP
from reproduce.data import sampling
from reproduce.data.domains import Domain
from reproduce.data.reading import read
from reproduce.data.transforms import Augment
from reproduce.evaluation import Evaluate, embed
from reproduce.neighbours import jaccard_graph
from reproduce.session.setting import Setting

PRETRAINED = 1.7921251308074422
"""Loss of an epoch on the source in float64."""

JOINT = [3.7602304546526617, 3.8475951154153396]
"""Losses of two steps of an epoch each in float64, with soft labels and all parts, both domains in one batch."""

GOLDEN = [3.760261320067626, 3.338756619143577]
"""The same with a batch of each domain."""


def tiny(**changes: Any) -> daam.Adapt:
    stage = daam.Adapt(
        separated(),
        Domain("duke"),
        DBSCAN(TopP(0.1), 2),
        k1=4,
        k2=2,
        steps=2,
        epochs=1,
        milestones=(),
        source_batch=8,
        target_batch=8,
        input=(32, 16),
        augment=Augment(pad=2),
    )
    return replace(stage, **changes)


@pytest.mark.parametrize(("joint", "golden"), [(False, GOLDEN), (True, JOINT)])
def test_golden(setting: Setting, tmp_path: Path, joint: bool, golden: list[float]) -> None:
    init = separated(precision="float64")
    stage = tiny(init=init, joint=joint, precision="float64")
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for one in (init, stage) for entry in history(one, setting, tmp_path)]
    assert losses == pytest.approx([PRETRAINED, *golden], rel=1e-6), "numbers changed: raise version or undo"


def people(count: int = 200) -> torch.Tensor:
    """Features of 20 people, of different lengths."""
    draw = np.random.default_rng(1)
    rows = 3 * draw.standard_normal((20, 16))[draw.integers(0, 20, count)] + 0.6 * draw.standard_normal((count, 16))
    return torch.from_numpy(rows * draw.uniform(0.9, 1.1, (count, 1))).float()


def test_labels_equal_dense_dbscan() -> None:
    """Check features as they are, k1 and k2, the mean of the lowest p of all distances, and M."""
    stage = tiny(cluster=DBSCAN(TopP(2e-2), 5), k1=12, k2=3)
    guessed = stage.guess(people(), None)
    graph = jaccard_graph(people(), 12, 3, variant="udap")
    distances = np.ones(graph.shape)
    distances[np.repeat(np.arange(200), np.diff(graph.indptr)), graph.indices] = graph.data
    lowest = np.sort(distances[np.triu_indices(200, 1)])[: round(2e-2 * 200 * 199 / 2)]
    assert guessed.eps == pytest.approx(lowest.mean(), rel=1e-6)
    expected = sklearn.cluster.DBSCAN(eps=lowest.mean(), min_samples=5, metric="precomputed").fit_predict(distances)
    assert expected.max() > 3
    np.testing.assert_array_equal(guessed.kept, expected)
    np.testing.assert_array_equal(guessed.raw, expected)
    assert torch.equal(guessed.embeddings, people())
    later = stage.guess(2 * people(150), guessed.eps)
    assert later.eps == guessed.eps


@pytest.mark.parametrize("renew", [False, True])
def test_eps_is_set_once_or_in_every_step(renew: bool, setting: Setting, tmp_path: Path) -> None:
    stage = tiny(renew_eps=renew, steps=3, lr=1e-2, base_lr=1e-2)
    run(stage, setting, tmp_path)
    eps = [entry["eps"] for entry in history(stage, setting, tmp_path) if "eps" in entry]
    assert len(eps) == 3
    assert len(set(eps)) == (3 if renew else 1)
    searched = tiny(cluster=DBSCAN(MostClusters(), 2))
    assert searched.guess(people(), 0.99).eps == searched.guess(people(), None).eps < 0.99, "in every step"


def test_clusters_the_shared_features(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At first these are the source model's, pooled and not normalised."""
    guess, seen = daam.Adapt.guess, []

    def listening(self: daam.Adapt, features: torch.Tensor, eps: float | None) -> Any:
        seen.append(features)
        return guess(self, features, eps)

    monkeypatch.setattr(daam.Adapt, "guess", listening)
    stage = setting.resolve(tiny(steps=1))
    run(tiny(steps=1), setting, tmp_path)
    net = separated().embedder(run(separated(), setting, tmp_path), "last")
    data = read(setting.paths()[stage.target.digest], "duke")  # type: ignore[attr-defined]
    torch.testing.assert_close(seen[0], embed(net, tiny().images(data, "cpu"), unit=False))
    assert (seen[0].norm(dim=1) - 1).abs().min() > 1e-3


def test_every_step_is_kept_and_evaluated_separately(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(epochs=2)
    training = run(stage, setting, tmp_path)
    assert set(training.checkpoints) == {"step 1", "step 2", "last", "best on target"}
    entries = history(stage, setting, tmp_path)
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4]
    assert ["clusters" in entry for entry in entries] == ["mAP" not in entry for entry in entries]
    wanted = {"loss", "source", "target", "domain", "attention", "attention_target", "lr"}
    assert all(0 < entry["tail"] < 100 for entry in entries if "clusters" in entry)
    assert all(wanted <= set(entry) for entry in entries)
    assert all(0 < entry[name] < 1 for entry in entries for name in ("attention", "attention_target"))
    for entry in entries:
        expected = (entry["source"] + entry["target"]) / 2 + entry["domain"]
        assert entry["loss"] == pytest.approx(expected, rel=1e-5), "equation 7, the mean over as many of both domains"
    measured = {at: run(Evaluate(stage, Domain("duke"), at=at), setting, tmp_path) for at in training.checkpoints}
    by_step = [entry["mAP"] for entry in entries if "mAP" in entry]
    assert [measured["step 1"].mAP, measured["step 2"].mAP] == pytest.approx(by_step)
    assert measured["last"].mAP == measured["step 2"].mAP
    assert measured["last"].numbers["clusters"] >= 2


ROWS: dict[str, dict[str, Any]] = {
    "plain": {"init": separated(attention=False), "specific": False},
    "two branches": {"init": separated(attention=False)},
    "attention": {"specific": False},
    "individual": {"individual": True},
    "residual": {},
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_train_their_own_parts(name: str, setting: Setting, tmp_path: Path) -> None:
    stage = tiny(steps=1, **ROWS[name])
    weights = run(stage, setting, tmp_path).checkpoints["last"]
    before = run(stage.init, setting, tmp_path).checkpoints["last"]
    parts = {key.partition(".")[0] for key in weights}
    wanted = {"backbone", "classifier", "clusters", "domains"}
    wanted |= {"attention"} if stage.init.attention else set()
    wanted |= {"individual"} if stage.individual else set()
    assert parts == wanted
    assert all(not torch.equal(weights[key], before[key]) for key in before if key.endswith("weight"))
    fresh = separated().embedder(run(separated(), setting, tmp_path), "last")
    assert isinstance(fresh, Branches)
    fresh.extend(individual=stage.individual, seed=1)
    assert torch.equal(weights["domains.weight"], fresh.domains.weight) != stage.specific
    logged = history(stage, setting, tmp_path)[0]
    assert ("domain" in logged) == stage.specific
    assert ("attention" in logged) == stage.init.attention
    scores = run(Evaluate(stage, Domain("duke")), setting, tmp_path)
    other = run(Evaluate(stage, Domain("duke"), view="specific"), setting, tmp_path)
    separations = [each.by_query["separation"] for each in (scores, other)]
    assert np.array_equal(*separations) == (not stage.init.attention), "then both branches have the same features"


def test_restored_branches_are_those_that_were_trained(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(steps=1, individual=True)
    training = run(stage, setting, tmp_path)
    net = stage.embedder(training, "last")
    assert not net.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, training.checkpoints["last"][name]), name
    images = torch.randn(2, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(net(images), net.maps(images).mean((2, 3)))  # type: ignore[operator]
        specific = stage.viewed(training, "last", "specific")
        torch.testing.assert_close(specific(images), specific.maps(images).mean((2, 3)))  # type: ignore[operator]


def test_batches_hold_labelled_images_and_as_many_of_the_source(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, sizes = sampling.shuffled_batches, []

    def listening(count: int, size: int, **place: Any) -> Any:
        sizes.append((count, size, place.get("iterations")))
        return draw(count, size, **place)

    labels = np.array([0, 0, 0, 1, 1, OUTLIER] * 6)
    monkeypatch.setattr(sampling, "shuffled_batches", listening)
    given = lambda self, features, eps: PseudoLabels(features, labels, labels, 0.5)  # noqa: E731
    monkeypatch.setattr(daam.Adapt, "guess", given)
    run(separated(), setting, tmp_path)
    sizes.clear()
    run(tiny(steps=1, target_batch=4), setting, tmp_path)
    assert sizes == [(30, 4, None), (36, 8, 7)]
    sizes.clear()
    run(tiny(steps=1, target_batch=64), setting, tmp_path)
    assert sizes == [(30, 30, None), (36, 8, 1)], "fewer labelled images than a batch has"


def test_both_learning_rates_follow_the_schedule(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_rates, seen = steps.set_rates, []

    def listening(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
        set_rates(optimizers, rate)
        seen.extend([group["lr"] for group in optimizer.param_groups] for optimizer in optimizers)

    run(separated(), setting, tmp_path)
    monkeypatch.setattr(steps, "set_rates", listening)
    stage = tiny(epochs=3, milestones=(2, 3), base_lr=1e-3, lr=5e-3)
    run(stage, setting, tmp_path)
    assert [rate for rates in seen for rate in rates] == pytest.approx([1e-3, 5e-3, 1e-4, 5e-4, 1e-5, 5e-5] * 2)
    assert [entry["lr"] for entry in history(stage, setting, tmp_path)] == pytest.approx([5e-3, 5e-4, 5e-5] * 2)


def test_optimiser_separates_the_backbone() -> None:
    net = Branches(build("narrow", seed=1), 3, seed=1, attention=True)
    net.extend(individual=True, seed=1)
    base, others = daam.sgd(net, tiny(base_lr=1.0, lr=2.0)).param_groups
    assert (base["lr"], others["lr"]) == (1.0, 2.0)
    assert {id(p) for p in base["params"]} == {id(p) for p in net.backbone.parameters()}
    everything = {id(p) for p in net.parameters()}
    assert {id(p) for p in (*base["params"], *others["params"])} == everything


def test_batch_statistics_are_of_each_domain_or_of_both(setting: Setting, tmp_path: Path) -> None:
    """Groups apply to the second attention as well; by default they are those of the source model."""
    losses = {}
    for joint, own, before in ((True, None, None), (True, 8, None), (True, None, 8), (True, 8, 8), (False, None, None)):
        stage = tiny(steps=1, individual=True, joint=joint, bn_group=own, init=separated(bn_group=before))
        run(stage, setting, tmp_path)
        losses[joint, own, before] = history(stage, setting, tmp_path)[0]["loss"]
    apart = losses.pop((False, None, None))
    assert losses.pop((True, None, None)) != pytest.approx(apart, rel=1e-6)
    assert list(losses.values()) == pytest.approx([apart] * 3, rel=1e-6), "a batch of a domain is one group of 8"


def test_weights_that_sum_to_one() -> None:
    labels = np.array([0, 1, 2, OUTLIER] * 5)
    features = people(20)
    plain, unit = (daam.Soft(unit=unit).weights(features, labels) for unit in (False, True))
    torch.testing.assert_close(unit.sum(1), torch.tensor([1.0, 1.0, 1.0, 0.0] * 5))
    torch.testing.assert_close(unit * plain.sum(1, keepdim=True), plain)
    hard = daam.Smoothed(0.0).weights(features, labels)
    assert set(hard.flatten().tolist()) == {0.0, 1.0}


def test_weights_do_not_depend_on_the_number_of_channels() -> None:
    """Of a net with as many features again: squared distances are sums over channels."""
    labels = np.array([0, 1, 2, OUTLIER] * 5)
    narrow, wide = (daam.Soft(channels=64).weights(people(20).repeat(1, times), labels) for times in (1, 2))
    torch.testing.assert_close(narrow, wide)
    published = people(20).repeat(1, 2048 // people(20).shape[1])
    torch.testing.assert_close(daam.Soft().weights(published, labels), soft_weights(published, labels))


def test_loss_falls(setting: Setting, tmp_path: Path) -> None:
    init = separated(epochs=12, lr=0.05, base_lr=0.05, augment=Augment(flip=0.0, pad=0))
    stage = tiny(init=init, steps=1, epochs=12, lr=0.05, base_lr=0.05, augment=Augment(flip=0.0, pad=0))
    run(stage, setting, tmp_path)
    for one in (init, stage):
        entries = history(one, setting, tmp_path)
        assert entries[-1]["loss"] < 0.7 * entries[0]["loss"]
        assert entries[-1].get("target", 0) < 0.7 * entries[0].get("target", 1)


@pytest.mark.parametrize("cluster", [DBSCAN(1.0, 2), DBSCAN(0.0, 5)], ids=["one cluster", "none"])
def test_collapse_is_recorded_with_counts(cluster: DBSCAN, setting: Setting, tmp_path: Path) -> None:
    stage = tiny(cluster=cluster)
    scores = run(Evaluate(stage, Domain("duke")), setting, tmp_path)
    assert "clusters left at step 1" in scores.collapsed
    direct = run(Evaluate(stage.init, Domain("duke")), setting, tmp_path)
    assert scores.mAP == direct.mAP
    assert run(Evaluate(stage, Domain("duke"), at="step 2"), setting, tmp_path).collapsed


def test_an_individual_attention_without_a_branch_raises() -> None:
    for changes in ({"specific": False}, {"init": separated(attention=False)}):
        with pytest.raises(ValueError, match="an individual attention needs the specific branch"):
            tiny(individual=True, **changes)


def test_images_are_resized_like_ecn_s(setting: Setting) -> None:
    assert setting.resolve(tiny()).resample == setting.resolve(separated()).resample == "bilinear"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("epoch", "later"), [(1, 0.02), (4, 0.0), (5, 0.02), (6, 0.0)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    """Kill it in the first three of four steps, whose numbers of clusters differ."""
    stage = tiny(steps=4, epochs=2, individual=True, renew_eps=True, base_lr=1e-2, lr=1e-2)
    killed_equals_uncut(setting.resolve(stage), setting.paths(), epoch, later)
