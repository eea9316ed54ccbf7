from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import history, in_styles, run

from methods import jvtc
from methods.blocks.heads import Output
from methods.blocks.jvtc import Bank, global_loss
from methods.blocks.labels import health
from reproduce.artifacts import Training
from reproduce.clustering import DBSCAN, Rho
from reproduce.data.domains import Domain
from reproduce.data.sampling import normal
from reproduce.data.transforms import Augment
from reproduce.dataset import Image, Sightings
from reproduce.errors import UserError
from reproduce.evaluation import Evaluate, Seen
from reproduce.scales import SCALES, at_scale
from reproduce.session.setting import Setting
from reproduce.stage import rewrite

GOLDEN = [2.1615030653936644, 4.979880305986554, 3.412537043218163]
"""Losses of three epochs in float64: alone, with visual clusters, with joint ones."""

MARKET, DUKE = Domain("market"), Domain("duke")

MEMORY = jvtc.LocalGlobal(
    DBSCAN(Rho(0.1), 1), clock=jvtc.Clock(1, "joined"), epochs=3, every=1, first=0.34, joint=1.0, k1=5, k2=2
)


def tiny(**changes: Any) -> jvtc.Adapt:
    stage = jvtc.Adapt(
        MARKET,
        DUKE,
        MEMORY,
        backbone="narrow",
        weights=None,
        width=8,
        input=(32, 16),
        batch=12,
        target_batch=6,
        epochs=3,
        iterations=3,
        milestones=(3,),
        bn_group=12,
        eval_every=2,
        augment=Augment(pad=0),
    )
    return replace(stage, **changes)


def sightings(frames: Any, sequences: Any = None, camids: Any = None) -> Sightings:
    frames = np.asarray(frames)
    none = np.zeros_like(frames)
    return Sightings(none if camids is None else np.asarray(camids), frames, none if sequences is None else sequences)


def start(guest: jvtc.LocalGlobal, images: int = 6) -> Bank:
    head = guest.start(tiny(precision="float64").network(4), sightings(np.arange(images)), 1)
    assert isinstance(head, Bank)
    return head


def test_golden(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(precision="float64")
    run(stage, setting, tmp_path)
    values = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert values == pytest.approx(GOLDEN, rel=1e-6), "numbers changed: raise version or undo"


def test_target_batches_go_on_from_epoch_to_epoch(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else images that an epoch leaves out would have no memory when the first clusters are formed."""
    visits: list[list[int]] = []
    counts: set[int] = set()

    def visit(self: Bank, indices: torch.Tensor, *_: Any, **__: Any) -> None:
        visits.append(indices.tolist())
        counts.add(len(self.entries))

    monkeypatch.setattr(Bank, "visit", visit)
    run(tiny(iterations=2, epochs=7), setting, tmp_path)
    (images,) = counts
    assert len(visits) == 14 > images // 6 > 2, "more than a pass, which is more than an epoch"
    whole = [index for batch in visits[: images // 6] for index in batch]
    assert len(set(whole)) == len(whole)


def test_history_has_labels_and_both_tests(setting: Setting, tmp_path: Path) -> None:
    training = run(tiny(), setting, tmp_path)
    entries = history(tiny(), setting, tmp_path)
    assert ["clusters" in entry for entry in entries] == [False, True, True]
    assert all(entry["outliers"] == 0 for entry in entries[1:])
    assert [entry["lr"] for entry in entries] == pytest.approx([0.01, 0.01, 0.001])
    assert training.facts["health"]["last"]["clusters"] == entries[2]["clusters"]
    visual = run(Evaluate(tiny(), DUKE), setting, tmp_path)
    jointly = run(Evaluate(tiny(), DUKE, distance=jvtc.Joint(jvtc.Clock(1, "joined"))), setting, tmp_path)
    assert visual.mAP == pytest.approx(entries[2]["mAP"])
    assert jointly.mAP == pytest.approx(entries[2]["joint_mAP"])
    assert jointly.rank1 == pytest.approx(entries[2]["joint_rank1"])
    assert not np.array_equal(visual.by_query["separation"], jointly.by_query["separation"])


def test_the_embedding_is_normalised_and_classified_by_its_positive_part() -> None:
    net = tiny(precision="float64", bn_group=None).network(4)
    images = normal((5, 3, 32, 16), 1, "images")
    output = net.train()(images)
    torch.testing.assert_close(output.embedding.mean(0), torch.zeros(8, dtype=torch.float64), rtol=0, atol=1e-9)
    expected = output.embedding.clamp(min=0) @ net.classifier.weight.T + net.classifier.bias
    torch.testing.assert_close(output.logits, expected)
    assert net.channels == net.classifier.in_features == 8


def test_labels_are_renewed_from_a_tenth_and_joint_from_three_tenths() -> None:
    guest = jvtc.LocalGlobal()
    asked: list[tuple[int, bool]] = []

    def guess(self: Any, entries: Any, target: Any, *, joint: bool) -> Any:
        asked.append((int(head.epoch), joint))
        return np.zeros(6, np.int64)

    head = start(guest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jvtc.LocalGlobal, "guess", guess)
        for epoch in range(100):
            guest.relabel(head, epoch, lambda: pytest.fail("the memory is clustered"), sightings(np.arange(6)))
            assert bool(guest.health(head, [1] * 6)) == (epoch >= 9)
    assert asked == [(epoch, epoch >= 30) for epoch in range(10, 101, 5)]


@pytest.mark.parametrize(
    ("scale", "begins", "every", "rates"),
    [("smoke", 2, 2, (0.1, 1.0)), ("small", 4, 2, (0.1, 1.0)), ("paper", 10, 5, (0.01, 0.1))],
)
def test_scales_cut_the_clock_of_the_memory_too(
    scale: str, begins: int, every: int, rates: tuple[float, float]
) -> None:
    stage = rewrite(jvtc.Adapt(MARKET, DUKE), lambda value: value, at_scale(SCALES[scale]))
    assert (stage.memory.begins, stage.memory.every) == (begins, every)
    assert stage.memory.epochs == stage.epochs
    assert stage.memory.most == 0.8
    assert (stage.backbone_lr, stage.head_lr) == rates


def test_global_loss_starts_with_the_first_clusters() -> None:
    guest = jvtc.LocalGlobal()
    head = start(guest)
    outputs = [Output(*[normal((3, 8), 1, "view", number)] * 3) for number in range(4)]
    losses = []
    for epoch in (9, 10):
        head.epoch.fill_(epoch)
        losses.append(float(guest.loss(head, outputs, torch.arange(3))))
    views = [output.embedding for output in outputs]
    alone = global_loss(views, head.entries, torch.eye(6, dtype=torch.bool)[:3])
    assert losses[1] - losses[0] == pytest.approx(0.2 * float(alone))


def test_entries_keep_as_much_as_the_training_is_old() -> None:
    guest = jvtc.LocalGlobal(epochs=100)
    head = start(guest)
    outputs = [Output(*[torch.eye(6, 8, dtype=torch.float64)] * 3)] * 4
    old = head.entries.clone()
    for epoch, kept in ((1, 0.01), (37, 0.37), (80, 0.8), (100, 0.8)):
        head.epoch.fill_(epoch)
        head.entries = old.clone()
        guest.update(head, outputs, torch.arange(6))
        torch.testing.assert_close(head.entries, kept * old + (1 - kept) * torch.eye(6, 8, dtype=torch.float64))


def test_a_neck_normalises_over_all_views_of_a_batch() -> None:
    views = [3 + 2 * normal((5, 8), 1, "view", number) for number in range(4)]
    rows = torch.cat(views)
    centred = (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()
    guests = jvtc.LocalGlobal(neck=True), jvtc.LocalGlobal()
    heads = [start(guest) for guest in guests]
    losses = []
    for guest, head, shown in zip(guests, heads, (views, centred.chunk(4)), strict=True):
        head.epoch.fill_(50)
        outputs = [Output(*[view] * 3) for view in shown]
        losses.append(float(guest.loss(head, outputs, torch.arange(5))))
        guest.update(head, outputs, torch.arange(5))
    assert losses[0] == pytest.approx(losses[1])
    torch.testing.assert_close(heads[0].entries, heads[1].entries)


def people(count: int, images: int, spread: float) -> tuple[torch.Tensor, Any]:
    """Entries (count * images, 32) around a centre for each person, and who they are."""
    centres = normal((count, 32), 1, "people").repeat_interleave(images, 0)
    entries = torch.nn.functional.normalize(centres + spread * normal(tuple(centres.shape), 2, "spread"))
    return entries, np.repeat(np.arange(count), images)


@pytest.mark.parametrize("joint", [False, True])
def test_clusters_find_people_who_differ(joint: bool) -> None:
    entries, who = people(20, 8, 0.2)
    labels = jvtc.LocalGlobal(DBSCAN(Rho(0.02), 1)).guess(entries, sightings(np.arange(160) * 10), joint=joint)
    measured = health(labels, labels, who.tolist())
    assert measured["purity"] == 100
    assert measured["outliers"] == 0
    assert 20 <= measured["clusters"] < 100


def test_sequences_apart_are_clustered_apart() -> None:
    entries, _ = people(10, 8, 0.2)
    halves = np.arange(80) % 2
    guest = jvtc.LocalGlobal(DBSCAN(Rho(0.05), 1), clock=jvtc.Clock(1, "apart"))
    labels = guest.guess(entries, sightings(np.arange(80), halves), joint=True)
    assert not set(labels[halves == 0]) & set(labels[halves == 1])
    assert labels.min() == 0


def test_joint_clusters_use_times() -> None:
    """Two people who look alike are seen at different times."""
    entries, _ = people(8, 10, 0.3)
    frames = np.tile([0, 10, 20, 30, 40, 500_000, 500_010, 500_020, 500_030, 500_040], 8)
    guest = jvtc.LocalGlobal(DBSCAN(Rho(0.05), 1), k1=6, k2=2)
    visual = guest.guess(entries, sightings(frames), joint=False)
    jointly = guest.guess(entries, sightings(frames), joint=True)
    assert not np.array_equal(visual, jointly)


@pytest.mark.parametrize("clock", [jvtc.Clock(), jvtc.Clock(1, "apart")])
def test_images_without_time_raise(clock: jvtc.Clock) -> None:
    frames = np.array([5, -1, -1]) if not clock.sequences else np.arange(3)
    known = sightings(frames, np.array([1, -1, -1]))
    with pytest.raises(UserError, match=r"2 of 3 training images have no frame number.*clock=None"):
        jvtc.LocalGlobal(clock=clock).start(tiny().network(4), known, 1)
    jvtc.LocalGlobal(clock=None).start(tiny().network(4), known, 1)


def test_test_images_without_time_raise() -> None:
    training = Training(
        {"last": {"times.histogram": torch.zeros(1, 1, 3), "times.offsets": torch.zeros(1, 1, dtype=torch.int64)}}
    )
    seen = Seen.of(torch.eye(2), [Image("a", 1, 0, 3), Image("b", 1, 0)])
    with pytest.raises(UserError, match=r"1 of 2 query images have no frame number"):
        list(jvtc.Joint().blocks(training, seen, seen))


def test_joint_test_is_the_formula() -> None:
    """With the probability of Market-1501's joined sequences, query by query."""
    times = torch.rand(2, 2, 40, generator=torch.Generator().manual_seed(1))
    training = Training({"last": {"times.histogram": times, "times.offsets": torch.tensor([[0, 0, 100], [0, 0, 200]])}})
    images = [Image(str(number), 1, number % 2, 37 * number % 90, 1 + number // 3 % 2) for number in range(70)]
    embeddings = torch.nn.functional.normalize(normal((70, 5), 1, "embeddings"))
    seen = Seen.of(embeddings, images)
    far = np.concatenate(list(jvtc.Joint(jvtc.Clock(10, "joined")).blocks(training, seen, seen)))
    for i, one in enumerate(images):
        for j, other in enumerate(images):
            moments = [(image.frame or 0) + (100 + 100 * image.camid) * (image.sequence == 2) for image in (one, other)]
            later, earlier = (one, other) if moments[0] > moments[1] else (other, one)
            at = abs(moments[0] - moments[1]) // 10
            chance = float(times[later.camid, earlier.camid, at]) if at < 40 else 0.0
            similar = float(embeddings[i] @ embeddings[j])
            expected = 1 - 1 / (1 + math.exp(-5 * similar)) / (1 + 2 * math.exp(-5 * chance))
            assert far[i, j] == pytest.approx(expected, abs=1e-6)


def test_collapse_is_recorded(setting: Setting, tmp_path: Path) -> None:
    one = replace(MEMORY, cluster=DBSCAN(1.0, 1))
    scores = run(Evaluate(tiny(memory=one), DUKE), setting, tmp_path)
    assert scores.collapsed == "one cluster of 36 images at epoch 2"


def test_styles_replace_the_images_shown(setting: Setting, tmp_path: Path) -> None:
    """Three cameras whose style is that of the images themselves change nothing; other styles do."""
    plain, same, other = in_styles(tiny(), setting, tmp_path)
    assert all(torch.equal(weight, same[name]) for name, weight in plain.items())
    assert any(not torch.equal(weight, other[name]) for name, weight in plain.items())


def test_loss_falls(setting: Setting, tmp_path: Path) -> None:
    stage = tiny(epochs=4, iterations=12, milestones=(), memory=replace(MEMORY, first=1.0, epochs=100))
    run(stage, setting, tmp_path)
    losses = [entry["loss"] for entry in history(stage, setting, tmp_path)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("epoch", "later"), [(2, 0.01), (3, 0.0)])
def test_killed_equals_uncut(
    setting: Setting, killed_equals_uncut: Callable[..., None], epoch: int, later: float
) -> None:
    killed_equals_uncut(setting.resolve(tiny(epochs=4)), setting.paths(), epoch, later)
