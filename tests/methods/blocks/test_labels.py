"""Feature normalisation before clustering and cluster selection after it, against slow loops."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.blocks.labels import (
    agreement,
    health,
    health_of_positives,
    normalised_by_camera,
    reliable,
    renumbered,
    selected,
)
from reproduce.clustering import OUTLIER


@st.composite
def labelled(draw: st.DrawFn) -> tuple[Any, list[int]]:
    n = draw(st.integers(1, 25))
    labels = draw(st.lists(st.integers(-1, 5), min_size=n, max_size=n))
    return np.array(labels), draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))


@settings(max_examples=300)
@given(n=st.integers(1, 20), columns=st.integers(1, 4), cameras=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_normalisation_by_camera_equals_slow_loops(n: int, columns: int, cameras: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows, camids = draw.integers(-3, 4, (n, columns)).astype(float), draw.integers(0, cameras, n).tolist()
    normalised = normalised_by_camera(torch.from_numpy(rows), camids)
    for i in range(n):
        for d in range(columns):
            own = [rows[j][d] for j in range(n) if camids[j] == camids[i]]
            mean = sum(own) / len(own)
            deviation = (sum((value - mean) ** 2 for value in own) / len(own)) ** 0.5
            assert normalised[i, d].item() == pytest.approx((rows[i][d] - mean) / (deviation + 1e-6), abs=1e-9)


def test_single_image_or_constant_feature_becomes_zero() -> None:
    rows = torch.tensor([[1.0, 5.0], [3.0, 5.0], [9.0, 2.0]])
    normalised = normalised_by_camera(rows, [0, 0, 1])
    assert normalised[:, 1].tolist() == [0, 0, 0]
    assert normalised[2].tolist() == [0, 0]
    assert normalised[0, 0] == pytest.approx(-1, abs=1e-5)
    assert normalised.dtype == torch.float32


@settings(max_examples=500)
@given(case=labelled(), least=st.integers(1, 5))
def test_selection_equals_slow_loops(case: tuple[Any, list[int]], least: int) -> None:
    labels, camids = case
    kept = selected(labels, camids, least)
    names: dict[int, int] = {}
    for label in sorted(set(labels.tolist()) - {-1}):
        members = [i for i in range(len(labels)) if labels[i] == label]
        if len(members) >= least and len({camids[i] for i in members}) > 1:
            names[label] = len(names)
    assert kept.tolist() == [names.get(label, -1) for label in labels.tolist()]


def test_selection_drops_one_camera_clusters() -> None:
    assert selected(np.array([0, 0, 0, 0, 1, 1, 1, 1]), [2] * 8, 4).tolist() == [-1] * 8


@settings(max_examples=200)
@given(case=labelled())
def test_health_counts(case: tuple[Any, list[int]]) -> None:
    raw, pids = case
    kept = renumbered(np.where(raw == 0, -1, raw))
    values = health(raw, kept, [pid - 1 for pid in pids])
    named = [label for label in kept.tolist() if label >= 0]
    assert values["outliers"] == raw.tolist().count(-1)
    assert values["found"] == len(set(raw.tolist()) - {-1})
    assert values["clusters"] == len(set(named))
    assert values["largest"] == max((named.count(label) for label in named), default=0)
    assert values["portion"] == pytest.approx(100 * len(named) / len(raw))
    pairs = [(label, pid - 1) for label, pid in zip(kept.tolist(), pids, strict=True) if label >= 0 and pid >= 1]
    if pairs:
        commonest = sum(max(pairs.count((label, pid)) for pid in range(4)) for label in {label for label, _ in pairs})
        assert values["purity"] == pytest.approx(100 * commonest / len(pairs))
    else:
        assert "purity" not in values
    of_one = [(one, two) for one, two in combinations(pairs, 2) if one[1] == two[1]]
    if of_one:
        assert values["together"] == pytest.approx(100 * sum(one == two for one, two in of_one) / len(of_one))
    else:
        assert "together" not in values


def test_agreement() -> None:
    one = np.array([0, 0, 1, 1, -1])
    assert agreement(one, np.array([3, 3, 2, 2, 2])) == 1
    assert agreement(one, np.array([0, 1, 0, 1, 0])) < 0.01
    assert agreement(one, np.full(5, -1)) == 0


def slowly_reliable(labels: list[int], tight: list[int], loose: list[int], threshold: float | None) -> Any:
    """The images that stay, and the threshold, by sets."""
    people = range(len(labels))

    def mates(of: list[int], i: int) -> set[int]:
        return {i} if of[i] == OUTLIER else {j for j in people if of[j] == of[i]}

    def apart(of: list[int], i: int) -> float:
        return 1 - len(mates(labels, i) & mates(of, i)) / len(mates(labels, i) | mates(of, i))

    clusters = [[i for i in people if labels[i] == label] for label in sorted(set(labels) - {OUTLIER})]
    if threshold is None:
        distances = sorted(min(apart(loose, i) for i in own) for own in clusters if len(own) > 1)
        if not distances:
            return [], None
        threshold = distances[min(len(distances) - 1, round(0.9 * len(distances)))]
    stay = []
    for own in clusters:
        if min(apart(loose, i) for i in own) <= threshold:
            kept = [i for i in own if apart(tight, i) == min(apart(tight, j) for j in own)]
            stay += kept if len(kept) > 1 else []
    return sorted(stay), threshold


@settings(max_examples=300)
@given(st.lists(st.tuples(*[st.integers(-1, 4)] * 3), min_size=1, max_size=25), st.sampled_from([None, 0.0, 0.4]))
def test_reliability_equals_sets(rows: list[tuple[int, int, int]], threshold: float | None) -> None:
    columns = [renumbered(np.array(column)) for column in zip(*rows, strict=True)]
    labels, tight, loose = (column.tolist() for column in columns)
    chosen = reliable(columns[0], columns[1], columns[2], threshold)
    stay, expected = slowly_reliable(labels, tight, loose, threshold)
    assert np.flatnonzero(chosen.labels != OUTLIER).tolist() == stay
    assert chosen.threshold == (pytest.approx(expected) if expected is not None else None)
    for i in stay:
        assert {j for j in stay if chosen.labels[j] == chosen.labels[i]} == {j for j in stay if labels[j] == labels[i]}


def test_the_threshold_is_at_nine_tenths_of_the_clusters() -> None:
    """Of ten clusters of four, cluster i shares its images with i others when eps is looser: position 9 is the last."""
    labels = np.repeat(np.arange(10), 4)
    loose = [
        np.concatenate([np.full(own, 0), np.arange(1, 5 - own)]) + 10 * i
        for i, own in enumerate([4, 3, 2, 1] + [4] * 6)
    ]
    chosen = reliable(labels, labels, np.concatenate(loose))
    assert chosen.threshold == 0.75
    six = reliable(labels[:24], labels[:24], np.concatenate(loose)[:24])
    assert six.threshold == 0.75, "round(0.9 * 6) = 5"
    eleven = reliable(
        np.append(labels, [10, 10]), np.append(labels, [10, 10]), np.append(np.concatenate(loose), [999, 998])
    )
    assert eleven.threshold == 0.75, "round(0.9 * 11) = 10, and one cluster reaches 0.75"


def test_health_of_positives() -> None:
    positives = torch.tensor([[True, True, False, False], [False, True, True, True]])
    values = health_of_positives(positives, torch.tensor([0, 2]), torch.tensor([7, 7, 8, 8]))
    assert values["positives"] == 2.5
    assert values["purity"] == pytest.approx(80.0)
    assert "purity" not in health_of_positives(positives, torch.tensor([0, 2]), torch.tensor([-1, -1, -1, -1]))
