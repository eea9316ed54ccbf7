from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.blocks.jvtc import (
    SIGMA,
    Bank,
    Classifier,
    Embedding,
    Moments,
    global_loss,
    histogram,
    joint_distance,
    local_loss,
    mean_of_views,
    offsets,
    placed,
    probabilities,
    sequence_by_sequence,
)
from reproduce.data.sampling import normal
from reproduce.data.world import FPS, Person, named, network, walk
from reproduce.dataset import Sightings
from reproduce.evaluation import evaluate_ranking


def views(count: int = 4, images: int = 5, width: int = 6) -> list[torch.Tensor]:
    return [normal((images, width), 1, "view", number) for number in range(count)]


def length(row: Any) -> float:
    return math.sqrt(sum(value**2 for value in row))


def dot(one: Any, other: Any) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def negative_log(values: list[float], at: int) -> float:
    return math.log(sum(math.exp(value) for value in values)) - values[at]


def slow_means(shown: list[torch.Tensor]) -> list[list[float]]:
    rows = [[sum(column) / len(shown) for column in zip(*image, strict=True)] for image in zip(*shown, strict=True)]
    return [[float(value) / length(row) for value in row] for row in rows]


def test_local_loss_equals_a_slow_loop() -> None:
    shown = views()
    means = slow_means(shown)
    losses = [
        negative_log([dot(row.tolist(), mean) / length(row.tolist()) / 0.1 for mean in means], own)
        for view in shown
        for own, row in enumerate(view)
    ]
    assert float(local_loss(shown)) == pytest.approx(sum(losses) / 20, rel=1e-12)


def test_local_loss_moves_the_means_too() -> None:
    first, second = (view.requires_grad_() for view in views(2))
    local_loss([first, second]).backward()
    assert first.grad is not None
    numeric = torch.zeros_like(first)
    for at in np.ndindex(*first.shape):
        shift = torch.zeros_like(first)
        shift[at] = 1e-6
        ends = [float(local_loss([(first + sign * shift).detach(), second.detach()])) for sign in (1, -1)]
        numeric[at] = (ends[0] - ends[1]) / 2e-6
    torch.testing.assert_close(first.grad, numeric, rtol=1e-5, atol=1e-7)


def test_global_loss_equals_a_slow_loop() -> None:
    shown, entries = views(), normal((7, 6), 2, "entries")
    positives = torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) < 0.4
    positives[:, 2] = True
    losses = []
    for view in shown:
        for row, same in zip(view.tolist(), positives.tolist(), strict=True):
            values = [dot(row, entry) / length(row) / 0.05 for entry in entries.tolist()]
            every = [negative_log(values, at) for at, holds in enumerate(same) if holds]
            losses.append(sum(every) / len(every))
    assert float(global_loss(shown, entries, positives)) == pytest.approx(sum(losses) / 20, rel=1e-12)


@pytest.mark.parametrize("unit", [False, True])
def test_visits_move_entries_in_order(unit: bool) -> None:
    bank = Bank(4, 6, seed=1)
    assert bank.entries.dtype == torch.float64
    assert 0 <= float(bank.entries.min()) < float(bank.entries.max()) < 1
    expected, means = bank.entries.tolist(), slow_means(views())
    indices = [2, 0, 2, 2, 1]
    for index, mean in zip(indices, means, strict=True):
        row = [0.3 * old + 0.7 * new for old, new in zip(expected[index], mean, strict=True)]
        expected[index] = [value / length(row) for value in row] if unit else row
    bank.visit(torch.tensor(indices), mean_of_views(views()), 0.3, unit=unit)
    torch.testing.assert_close(bank.entries, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_embedding_and_classifier_start_as_published() -> None:
    embedding, classifier = Embedding(64, 512, seed=1), Classifier(512, 7, seed=1)
    assert float(embedding[0].weight.detach().std()) == pytest.approx(math.sqrt(2 / 512), rel=0.02)
    assert float(classifier.weight.detach().std()) == pytest.approx(0.001, rel=0.1)
    assert not embedding[0].bias.any()
    assert not classifier.bias.any()
    rows = normal((3, 512), 1, "rows")
    torch.testing.assert_close(classifier(rows), rows.clamp(min=0) @ classifier.weight.T)


# -- time --------------------------------------------------------------------------------------------------------------


def slow_histogram(camids: list[int], frames: list[int], labels: list[int], cameras: int, width: int) -> Any:
    """The definition, image by image; bins that smoothing cannot reach are left out by the caller."""
    bins = (max(frames) - min(frames)) // width + 3 * SIGMA + 1
    counted = np.zeros((cameras, cameras, bins))
    for label in set(labels):
        seen = {
            camera: [f for f, c, own in zip(frames, camids, labels, strict=True) if (c, own) == (camera, label)]
            for camera in range(cameras)
        }
        for one in range(cameras):
            for other in range(one + 1, cameras):
                if seen[one] and seen[other]:
                    gap = sum(seen[one]) / len(seen[one]) - sum(seen[other]) / len(seen[other])
                    later, earlier = (one, other) if gap > 0 else (other, one)
                    counted[later, earlier, int(abs(gap) / width)] += 1
        for camera, own in seen.items():
            for frame in own if len(own) > 1 else []:
                counted[camera, camera, int((frame - min(own)) / width)] += len(own)
    smooth = np.zeros_like(counted)
    for at in range(bins):
        for other in range(max(0, at - 3 * SIGMA), min(bins, at + 3 * SIGMA + 1)):
            smooth[:, :, at] += counted[:, :, other] * math.exp(-((at - other) ** 2) / 2 / SIGMA**2)
    sums = smooth.sum(2, keepdims=True)
    return np.where(sums > 0, smooth / np.where(sums > 0, sums, 1), 0)


def moments(camids: Any, frames: Any, sequences: Any = None) -> Moments:
    camids, frames = np.asarray(camids), np.asarray(frames)
    return Moments(camids, frames, np.zeros_like(camids) if sequences is None else np.asarray(sequences))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 900), st.integers(0, 3)), min_size=2, max_size=14),
    st.sampled_from([1, 7, 100]),
)
def test_histogram_equals_a_slow_loop(images: list[tuple[int, int, int]], width: int) -> None:
    camids, frames, labels = (list(column) for column in zip(*images, strict=True))
    numbers = sorted(set(labels))
    labels = [numbers.index(label) for label in labels]
    ours = histogram(moments(camids, frames), np.array(labels), 3, width)
    np.testing.assert_allclose(ours, slow_histogram(camids, frames, labels, 3, width), rtol=1e-9, atol=1e-15)


def test_pairs_of_cameras_are_ordered() -> None:
    """Two people walk from camera 0 to 1 in 300 and 320 frames, one back in 900."""
    times = histogram(moments([0, 1, 0, 1, 1, 0], [0, 300, 50, 370, 100, 1000]), np.array([0, 0, 1, 1, 2, 2]), 2, 10)
    assert times[1, 0].argmax() in (30, 31, 32)
    assert times[0, 1].argmax() == 90
    assert not times[0, 0].any()
    here, there = moments([1], [2000]), moments([0, 0, 1], [1690, 2310, 1995])
    found = probabilities(times, 10, here, there)
    assert found[0].tolist() == [times[1, 0, 31], times[0, 1, 31], times[1, 1, 0]]


def test_gaps_of_market_s_frames_fit() -> None:
    """Market-1501's shifted frames run from 1 to 427,421, so a gap may lie in bin 4,274; beyond the last nothing is."""
    seen = moments([0, 1, 0, 1], [1, 427_421, 5, 300])
    times = histogram(seen, np.array([0, 0, 1, 1]), 2, 100)
    assert times.shape[2] > 4274
    assert times[1, 0, 4274] == pytest.approx(times[1, 0, 2] * 0.5 / 0.5, rel=0.5)
    far = probabilities(times, 100, moments([1], [900_000]), moments([0], [1]))
    assert far.tolist() == [[0.0]]
    assert np.isfinite(joint_distance(np.array([[0.5]]), far)).all()


def test_unknown_cameras_and_sequences_apart_have_no_probability() -> None:
    times = histogram(moments([0, 1], [0, 300]), np.array([0, 0]), 2, 100)
    here = moments([1, 1, 5], [300, 300, 300], [1, 2, 1])
    found = probabilities(times, 100, here, moments([0], [0], [1]))
    assert found[0] > 0
    assert found[1:].tolist() == [[0.0], [0.0]]


@settings(max_examples=20, deadline=None)
@given(st.floats(-1, 1), st.floats(0, 1))
def test_joint_distance_is_the_formula(similarity: float, chance: float) -> None:
    expected = 1 - 1 / (1 + math.exp(-5 * similarity)) * 1 / (1 + 2 * math.exp(-5 * chance))
    assert float(joint_distance(np.array([similarity]), np.array([chance]))[0]) == pytest.approx(expected, rel=1e-12)


def test_sequences_of_a_camera_follow_each_other() -> None:
    camids, sequences, frames = [0, 0, 0, 1, 1, 0], [1, 1, 2, 1, 3, 4], [5, 90, 7, 30, 2, 1]
    known = Sightings(*(np.array(column) for column in (camids, frames, sequences)))
    begins = offsets(known)
    assert placed(known, begins).tolist() == [5, 90, 97, 30, 32, 98]
    test = Sightings(np.array([0, 1]), np.array([100, 3]), np.array([2, 2]))
    assert placed(test, begins).tolist() == [190, 33], "by the training images' last frames"


def test_labels_never_join_two_sequences() -> None:
    def halves(own: Any) -> Any:
        return np.arange(len(own)) % 2

    labels = sequence_by_sequence(np.array([3, 1, 3, 1, 1, 9]), halves)
    assert labels.tolist() == [2, 0, 3, 1, 0, 4]


def test_histogram_recovers_the_transit_times_of_the_world() -> None:
    """Each person's first way between two cameras: the mean gap is the way's time and what they stay in both views."""
    people, roads = 1500, network("duke", 1)
    ways: dict[tuple[int, int], list[float]] = {}
    seen: list[tuple[int, int, int]] = []
    for number in range(people):
        way = walk(Person("duke", "train", number), 1, roads)
        before, after = np.split(way.frame, np.flatnonzero(np.diff(way.camera)) + 1)[:2]
        earlier, later = int(way.camera[0]), int(way.camera[len(before)])
        ways.setdefault((later, earlier), []).append((before[-1] - before.mean()) + (after.mean() - after[0]))
        for camera, frames in ((earlier, before), (later, after)):
            seen += [(camera, int(frame - before[0]), number) for frame in frames]
    camids, frames, labels = (np.array(column) for column in zip(*seen, strict=True))
    times = histogram(moments(camids, frames), labels, 8, 1)
    often = {place: float(np.mean(stays)) for place, stays in ways.items() if len(stays) >= 30}
    assert len(often) >= 10
    for (later, earlier), stay in often.items():
        measured = float(times[later, earlier] @ np.arange(times.shape[2]))
        assert measured - stay == pytest.approx(FPS * roads.transit[earlier, later], rel=0.08)


def sightings_of(role: str, people: int, time: float) -> tuple[Sightings, Any]:
    """Where and when people of the drawn Market-1501 are seen, and who they are."""
    roads = network("market", 1)
    cast = [Person("market", role, number) for number in range(people)]
    ways = [named(person, 1, walk(person, 1, roads), time) for person in cast]
    columns = [np.concatenate([getattr(way, name) for way in ways]) for name in ("camera", "frame", "sequence")]
    who = np.repeat(np.arange(people), [len(way.frame) for way in ways])
    return Sightings(*(column.astype(np.int64) for column in columns)), who


@pytest.mark.parametrize(("time", "least", "most"), [(1.0, 5.0, 100.0), (0.0, -1.0, 1.0)])
def test_joint_distance_gains_by_times_alone(time: float, least: float, most: float) -> None:
    """With the world's dial of time at 0, or frames shuffled, it changes nothing beyond noise."""
    known, people = sightings_of("train", 54, time)
    test, who = sightings_of("test", 108, time)
    begins = offsets(known)
    embeddings = normal((108, 32), 1, "people")[who] + normal((len(who), 32), 2, "spread")
    similar = torch.nn.functional.normalize(embeddings).numpy()
    similar = similar @ similar.T
    half = np.arange(len(who)) % 2 == 0

    def score(far: Any) -> float:
        cameras = test.camids
        return evaluate_ranking(far[half][:, ~half], who[half], who[~half], cameras[half], cameras[~half]).mAP

    gains = []
    for shuffled in (False, True):
        order = [
            np.random.default_rng(1).permutation(len(of)) if shuffled else np.arange(len(of)) for of in (people, who)
        ]
        learnt, seen = (
            moments(of.camids, placed(of, begins)[own]) for of, own in zip((known, test), order, strict=True)
        )
        times = histogram(learnt, people, 6, 100)
        jointly = joint_distance(similar, probabilities(times, 100, seen, seen))
        gains.append(score(jointly) - score(1 - similar))
    assert least < gains[0] < most
    assert abs(gains[1]) < 1
