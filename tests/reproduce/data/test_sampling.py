"""Batches: composition, determinism, and the guarantees of the original samplers."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pil

from reproduce.data import sampling
from reproduce.data.images import Images
from reproduce.data.sampling import (
    camera_aware_batches,
    generator,
    identity_batches,
    in_step,
    normal,
    numpy_generator,
    ongoing_batches,
    shuffled_batches,
)
from reproduce.dataset import Image
from reproduce.errors import UserError

COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def dataset(counts: list[int], seed: int = 0) -> tuple[list[int], list[int]]:
    """Draw shuffled labels, with gaps and outliers, and cameras of `counts` images per identity."""
    random = np.random.default_rng(seed)
    pids = np.repeat([-1, *(7 * number for number in range(len(counts)))], [3, *counts])
    random.shuffle(pids)
    return pids.tolist(), random.integers(0, 3, len(pids)).tolist()


def test_places_have_separate_streams() -> None:
    places = [(1,), (1, "a"), (1, "a", 2), (1, "a2"), (12,), (1, "1"), (2, 1, "a"), (-1,)]
    for draw in (
        lambda place: torch.rand(4, generator=generator(*place)).tolist(),
        lambda place: numpy_generator(*place).random(4).tolist(),
        lambda place: normal((4,), *place).tolist(),
    ):
        assert len({tuple(draw(place)) for place in places}) == len(places)
        assert all(draw(place) == draw(place) for place in places)
    assert generator(1, "a", np.int64(2)).initial_seed() == generator(1, "a", 2).initial_seed()
    with pytest.raises(TypeError):
        generator(1, 0.5)  # type: ignore[arg-type]


def test_streams_are_pinned() -> None:
    assert torch.randint(1000, (3,), generator=generator(1, "pinned")).tolist() == [208, 88, 52]
    assert numpy_generator(1, "pinned").integers(1000, size=3).tolist() == [966, 165, 62]


@settings(deadline=None)
@given(counts=COUNTS, P=st.integers(1, 6), K=st.integers(1, 5), seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_identity_batches(counts: list[int], P: int, K: int, seed: int, epoch: int) -> None:
    pids, _ = dataset(counts, seed)
    if len(counts) < P:
        with pytest.raises(UserError, match=f"{len(counts)} identities, but a batch takes P = {P}"):
            identity_batches(pids, P, K, seed=seed, epoch=epoch)
        return
    batches = identity_batches(pids, P, K, seed=seed, epoch=epoch)
    assert batches == identity_batches(pids, P, K, seed=seed, epoch=epoch)
    sizes = Counter(pids)
    groups: Counter[int] = Counter()
    for batch in batches:
        owners = [pids[position] for position in batch]
        assert owners == [pid for pid in owners[::K] for _ in range(K)]
        assert len(set(owners)) == P
        assert min(owners) >= 0
        groups.update(owners[::K])
    used = Counter(position for batch in batches for position in batch)
    for position, times in used.items():
        assert times == 1 or sizes[pids[position]] < K
    available = {pid: max(size // K, 1) for pid, size in sizes.items() if pid >= 0}
    assert all(groups[pid] <= available[pid] for pid in groups)
    assert sum(groups[pid] < available[pid] for pid in available) < P  # else another batch was possible


@settings(deadline=None)
@given(counts=COUNTS, P=st.integers(1, 6), K=st.integers(1, 5), seed=st.integers(0, 99))
def test_camera_aware_batches(counts: list[int], P: int, K: int, seed: int) -> None:
    pids, camids = dataset(counts, seed)
    filled = sum(1 if count == 1 else K for count in counts)
    if len(counts) < P or filled < P * K:
        with pytest.raises(UserError, match=f"{len(counts)} identities"):
            camera_aware_batches(pids, camids, P, K, seed=seed, epoch=0)
        return
    batches = camera_aware_batches(pids, camids, P, K, seed=seed, epoch=0)
    assert batches == camera_aware_batches(pids, camids, P, K, seed=seed, epoch=0)
    assert len(batches) == filled // (P * K)
    assert all(len(batch) == P * K for batch in batches)
    line = [position for batch in batches for position in batch]
    members = {pid: [position for position, owner in enumerate(pids) if owner == pid] for pid in set(pids)}
    seen = set()
    while line:
        pid = pids[line[0]]
        assert pid >= 0
        assert pid not in seen  # one pass visits an identity once
        seen.add(pid)
        group, line = line[: K if len(members[pid]) > 1 else 1], line[K if len(members[pid]) > 1 else 1 :]
        anchor, rest = group[0], group[1:]
        assert {pids[position] for position in group} == {pid}
        others = [position for position in members[pid] if camids[position] != camids[anchor]]
        choices = others or [position for position in members[pid] if position != anchor]
        assert set(rest) <= set(choices)
        if len(choices) >= K:
            assert len(set(rest)) == len(rest)


@pytest.mark.parametrize("draw", ["identity", "camera-aware", "shuffled"])
def test_iterations_continue_with_new_passes(draw: str) -> None:
    pids, camids = dataset([4] * 9)

    def batches(iterations: int | None, epoch: int = 3) -> list[list[int]]:
        if draw == "identity":
            return identity_batches(pids, 4, 4, seed=1, epoch=epoch, iterations=iterations)
        if draw == "camera-aware":
            return camera_aware_batches(pids, camids, 4, 4, seed=1, epoch=epoch, iterations=iterations)
        return list(shuffled_batches(36, 16, seed=1, epoch=epoch, iterations=iterations))

    once = batches(None)
    assert len(once) == 2
    assert batches(7)[:2] == once
    assert len(batches(7)) == 7
    assert batches(7)[2:4] != once
    assert batches(1) == once[:1]
    assert batches(0) == []
    assert batches(None, epoch=4) != once


@pytest.mark.parametrize(("draw", "evenness"), [("identity", 0.6), ("camera-aware", 0.2), ("shuffled", 0.7)])
def test_every_image_is_drawn(draw: str, evenness: float) -> None:
    pids, camids = dataset([2, 3, 5, 8, 8])
    seen: Counter[int] = Counter()
    for epoch in range(400):
        if draw == "identity":
            batches = identity_batches(pids, 2, 2, seed=1, epoch=epoch)
        elif draw == "camera-aware":  # an image from a rarer camera is taken more often, so the draw is less even
            batches = camera_aware_batches(pids, camids, 2, 2, seed=1, epoch=epoch)
        else:
            batches = list(shuffled_batches(len(pids), 4, seed=1, epoch=epoch))
        seen.update(position for batch in batches for position in batch)
    for pid in set(pids) - {-1}:
        times = [seen[position] for position, owner in enumerate(pids) if owner == pid]
        assert min(times) > evenness * max(times), (pid, times)


def test_few_images_are_drawn_with_replacement() -> None:
    pids = [0, 1, 1, 1, 1]
    (batch,) = identity_batches(pids, 2, 4, seed=1, epoch=0)
    assert sorted(batch[:4] if batch[0] == 0 else batch[4:]) == [0, 0, 0, 0]


@pytest.mark.parametrize(("images", "repeats"), [(4, True), (5, False)])
def test_camera_aware_draws_without_replacement_given_k_choices(images: int, repeats: bool) -> None:
    pids, camids = [0] * images, list(range(images))
    groups = [camera_aware_batches(pids, camids, 1, 4, seed=1, epoch=epoch)[0] for epoch in range(50)]
    assert any(len(set(group)) < 4 for group in groups) == repeats


def test_labels_may_be_arrays_or_tensors() -> None:
    pids, camids = dataset([4] * 5)
    expected = identity_batches(pids, 3, 2, seed=1, epoch=0)
    assert identity_batches(np.array(pids), 3, 2, seed=1, epoch=0) == expected
    assert identity_batches(torch.tensor(pids), 3, 2, seed=1, epoch=0) == expected
    assert all(type(position) is int for batch in expected for position in batch)
    camera_aware_batches(torch.tensor(pids), torch.tensor(camids), 3, 2, seed=1, epoch=0)


@settings(deadline=None)
@given(count=st.integers(0, 50), size=st.integers(1, 20), epoch=st.integers(0, 9))
def test_shuffled_batches(count: int, size: int, epoch: int) -> None:
    if count < size:
        with pytest.raises(UserError, match=f"{count} images do not fill a batch of {size}"):
            shuffled_batches(count, size, seed=1, epoch=epoch)
        return
    batches = shuffled_batches(count, size, seed=1, epoch=epoch)
    line = [position for batch in batches for position in batch]
    assert len(batches) == count // size
    assert len(set(line)) == len(line)
    assert set(line) <= set(range(count))


@settings(deadline=None)
@given(st.data(), st.integers(1, 30), st.integers(1, 7), st.integers(0, 3), st.none() | st.integers(0, 25))
def test_shuffled_batches_are_drawn_at_any_step(
    data: st.DataObject, images: int, size: int, epoch: int, iterations: int | None
) -> None:
    count = images + size
    whole: list[list[int]] = []
    for number in range(26):
        line = numpy_generator(7, "shuffled batches", epoch, number).permutation(count).tolist()
        whole += [line[start : start + size] for start in range(0, count - size + 1, size)]
    expected = whole[: count // size if iterations is None else iterations]
    batches = shuffled_batches(count, size, seed=7, epoch=epoch, iterations=iterations)
    assert len(batches) == len(expected)
    assert list(batches) == expected
    assert all(type(position) is int for batch in batches for position in batch)
    at = data.draw(st.slices(len(expected)))
    assert list(batches[at]) == expected[at]
    for number in data.draw(st.lists(st.integers(-len(expected), len(expected) - 1), max_size=4)) if expected else ():
        assert batches[number] == expected[number]
    for beyond in (len(expected), -len(expected) - 1):
        with pytest.raises(IndexError):
            batches[beyond]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the passes drawn so far."""
    passes: list[int] = []

    def noted(seed: int, *where: Any) -> np.random.Generator:
        passes.append(where[-1])
        return numpy_generator(seed, *where)

    monkeypatch.setattr(sampling, "numpy_generator", noted)
    return passes


@pytest.mark.parametrize("step", [0, 3, 4, 7999, 10**9])
def test_late_batches_cost_no_more_than_early_ones(drawn: list[int], step: int) -> None:
    batches = shuffled_batches(9, 2, seed=1, epoch=0, iterations=10**9 + 1)
    assert drawn == []
    assert next(iter(batches[step:])) == batches[step]
    assert drawn == [step // 4]


@given(count=st.integers(2, 30), size=st.integers(1, 9), iterations=st.integers(1, 7), epochs=st.integers(1, 5))
def test_ongoing_batches_are_those_of_one_long_epoch(count: int, size: int, iterations: int, epochs: int) -> None:
    size = min(size, count)
    whole = shuffled_batches(count, size, seed=3, epoch=1, iterations=epochs * iterations)
    parts = [
        ongoing_batches(count, size, seed=3, stream=1, epoch=epoch, iterations=iterations) for epoch in range(epochs)
    ]
    assert [len(part) for part in parts] == [iterations] * epochs
    assert [batch for part in parts for batch in part] == list(whole)


def test_each_pass_is_drawn_once_despite_reading_ahead(drawn: list[int], tmp_path: Path) -> None:
    entries = [Image(f"{number}.png", number, 0) for number in range(9)]
    for entry in entries:
        Pil.new("RGB", (4, 8)).save(tmp_path / entry.path)
    batches = shuffled_batches(9, 2, seed=1, epoch=0, iterations=30)
    images = Images(tmp_path, entries, (8, 4))
    assert [len(pixels) for _, pixels in zip(batches, images.batches(batches), strict=True)] == [2] * 30
    assert drawn == list(range(8))


def test_four_million_images_need_one_array() -> None:
    tracemalloc.start()
    batches = shuffled_batches(4_000_000, 2560, seed=1, epoch=0)
    assert len(batches) == 1562
    assert len(batches[1000]) == 2560
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 32e6 < peak < 33e6


def test_stream_starts_at_the_first_step() -> None:
    pairs = in_step(iter(range(5, 9)), lambda first: (f"item {number}" for number in range(first, 9)))
    assert list(pairs) == [(number, f"item {number}") for number in range(5, 9)]
    assert list(in_step(iter(()), lambda first: pytest.fail("nothing is left to do"))) == []
    for end in (8, 10):
        with pytest.raises(ValueError, match="zip"):
            list(in_step(iter(range(5, 9)), lambda first, end=end: range(first, end)))
