"""The warm-up and steps of Bag of Tricks and MMT."""

from __future__ import annotations

import pytest

from methods.blocks.schedules import warmup_steps

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
"""What both trainers have in an epoch: the scheduler steps as it begins, and once before all (torch 1.1 and up)."""


@pytest.mark.parametrize("epoch", RATES)
def test_published_schedule(epoch: int) -> None:
    assert 3.5e-4 * warmup_steps(epoch) == pytest.approx(RATES[epoch], rel=1e-12)


def test_milestones_inside_the_warm_up_count() -> None:
    assert warmup_steps(5, milestones=(3,)) == pytest.approx(0.0505)


def test_without_a_warm_up() -> None:
    assert [warmup_steps(epoch, warmup=0, milestones=(2,), gamma=0.5) for epoch in range(1, 5)] == [1, 0.5, 0.5, 0.5]


def test_without_milestones() -> None:
    assert warmup_steps(10**6, milestones=()) == 1
