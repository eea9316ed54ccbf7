"""The warm-up and steps of Bag of Tricks and MMT; one cycle."""

from __future__ import annotations

from math import pi

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.blocks.schedules import epochs_since_warmup, one_cycle, staircase, warmup_iterations, warmup_steps

RATES = {
    1: 3.815e-5,
    2: 7.28e-5,
    5: 1.7675e-4,
    9: 3.1535e-4,
    10: 3.5e-4,
    39: 3.5e-4,
    40: 3.5e-5,
    69: 3.5e-5,
    70: 3.5e-6,
    120: 3.5e-6,
}
"""Rates of both trainers: the scheduler steps at the start of each epoch, and once before (torch 1.1 and later)."""


@pytest.mark.parametrize("epoch", RATES)
def test_published_schedule(epoch: int) -> None:
    assert 3.5e-4 * warmup_steps(epoch) == pytest.approx(RATES[epoch], rel=1e-12)


def test_milestones_inside_the_warm_up_count() -> None:
    assert warmup_steps(5, milestones=(3,)) == pytest.approx(0.0505)


def test_without_a_warm_up() -> None:
    assert [warmup_steps(epoch, warmup=0, milestones=(2,), gamma=0.5) for epoch in range(1, 5)] == [1, 0.5, 0.5, 0.5]


def test_without_milestones() -> None:
    assert warmup_steps(10**6, milestones=()) == 1


def torchs(steps: int) -> list[float]:
    """Return the multipliers of torch's scheduler with its defaults."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < steps:
            scheduler.step()
    return rates


@pytest.mark.parametrize("steps", [4, 10, 37, 1184])
def test_one_cycle_equals_torch(steps: int) -> None:
    """They agree at every step if counted alike: torch peaks at step 0.3 n - 1 and ends at step n - 1."""
    top, end = 0.3 * steps - 1, steps - 1
    ours = [one_cycle(step / end, rise=top / end) for step in range(steps)]
    assert ours == pytest.approx(torchs(steps), abs=1e-12)


@pytest.mark.parametrize("steps", [10, 100, 1184])
def test_one_cycle_by_completed_steps_is_one_step_behind(steps: int) -> None:
    steepest = pi / 2 / 0.3
    ours = [one_cycle(step / steps) for step in range(steps)]
    assert ours == pytest.approx(torchs(steps), abs=1.1 * steepest / steps)


def test_one_cycle_turning_points() -> None:
    assert [one_cycle(done) for done in (0.0, 0.3, 1.0)] == pytest.approx([0.04, 1.0, 4e-6], rel=1e-12)
    assert one_cycle(0.15) == pytest.approx(0.52)
    assert one_cycle(0.2, rise=0.2, start=0.5, end=0.1) == 1.0


@given(st.floats(0, 1), st.floats(0, 1))
def test_one_cycle_rises_and_then_falls(one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert 4e-6 <= one_cycle(low) <= 1
    if high <= 0.3:
        assert one_cycle(low) <= one_cycle(high) + 1e-12
    if low >= 0.3:
        assert one_cycle(low) >= one_cycle(high) - 1e-12


def test_fast_reid_drops_the_rate_later_than_configured() -> None:
    """With 202 iterations per epoch, milestones of 40 and 90 come after 49 and 99 epochs; 115 of CUHK03 after 57."""
    for per_epoch, first, second in ((202, 49, 99), (115, 57, 107), (509, 43, 93), (472, 44, 94)):
        moved = [epochs_since_warmup(epoch, per_epoch, warmup=2000) for epoch in range(120)]
        assert (moved.index(40), moved.index(90)) == (first, second)


@settings(deadline=None)
@given(per_epoch=st.integers(1, 40), warmup=st.integers(0, 120), delay=st.integers(0, 12), epochs=st.integers(1, 30))
def test_fast_reid_schedule_equals_its_loop(per_epoch: int, warmup: int, delay: int, epochs: int) -> None:
    """Move the warm-up after each iteration, the other schedule after each epoch, as the published trainer does."""
    moved = risen = 0
    for epoch in range(epochs):
        assert epochs_since_warmup(epoch, per_epoch, warmup=warmup, delay=delay) == moved
        for step in range(per_epoch):
            done = epoch * per_epoch + step
            expected = 1.0 if risen >= warmup else 0.1 * (1 - risen / warmup) + risen / warmup
            assert warmup_iterations(done, warmup=warmup) == pytest.approx(expected, rel=1e-12)
            risen += done + 1 <= warmup
        moved += (epoch + 1) * per_epoch > warmup and epoch + 1 > delay


def test_the_rate_of_bdb() -> None:
    for epoch in range(1, 401):
        rate = 1e-4 * (epoch // 5 + 1) if epoch < 50 else 1e-3 if epoch < 200 else 1e-4 if epoch < 300 else 1e-5
        assert 1e-3 * staircase(epoch, warmup=50) == pytest.approx(rate, rel=1e-12)
    assert [staircase(epoch, warmup=4, steps=2, milestones=()) for epoch in range(1, 5)] == [0.5, 1, 1, 1]
    assert staircase(1, warmup=0, milestones=(1,)) == 0.1
