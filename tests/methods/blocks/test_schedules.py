"""The warm-up and steps of Bag of Tricks and MMT."""

from __future__ import annotations

import pytest

from methods.blocks.schedules import warmup_steps


@pytest.mark.parametrize(
    ("epoch", "multiplier"),
    [(0, 0.01), (1, 0.109), (5, 0.505), (9, 0.901), (10, 1), (39, 1), (40, 0.1), (69, 0.1), (70, 0.01), (500, 0.01)],
)
def test_published_schedule(epoch: int, multiplier: float) -> None:
    assert warmup_steps(epoch) == pytest.approx(multiplier, rel=1e-12)


def test_milestones_inside_the_warm_up_count() -> None:
    assert warmup_steps(5, milestones=(3,)) == pytest.approx(0.0505)


def test_without_a_warm_up() -> None:
    assert [warmup_steps(epoch, warmup=0, milestones=(2,), gamma=0.5) for epoch in range(4)] == [1, 1, 0.5, 0.5]


def test_without_milestones() -> None:
    assert warmup_steps(10**6, milestones=()) == 1
