from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from methods.blocks.momentum import follow, warmed


def net(seed: int) -> nn.Module:
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2, bias=False)).double()
    draw = torch.Generator().manual_seed(seed)
    for tensor in [*made.parameters(), *made.buffers()]:
        if tensor.is_floating_point():
            tensor.data.copy_(torch.rand(tensor.shape, generator=draw, dtype=torch.float64))
    return made


@pytest.mark.parametrize(("step", "kept"), [(0, 0.0), (1, 0.5), (3, 0.75), (998, 998 / 999), (10**6, 0.999)])
def test_momentum_rises_to_alpha(step: int, kept: float) -> None:
    assert warmed(step) == pytest.approx(kept, rel=1e-12)
    assert warmed(step, 0.0) == 0


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999, 1.0])
def test_parameters_move_and_buffers_do_not(kept: float) -> None:
    mean, student = net(1), net(2)
    before = copy.deepcopy(mean)
    follow(mean, student, kept)
    for own, old, new in zip(mean.parameters(), before.parameters(), student.parameters(), strict=True):
        expected = [kept * a + (1 - kept) * b for a, b in zip(old.flatten(), new.flatten(), strict=True)]
        torch.testing.assert_close(own.flatten(), torch.stack(expected), rtol=1e-14, atol=0)
        assert own.requires_grad
        assert own.grad_fn is None
    assert all(torch.equal(own, old) for own, old in zip(mean.buffers(), before.buffers(), strict=True))
    if kept == 0:
        assert all(torch.equal(*both) for both in zip(mean.parameters(), student.parameters(), strict=True))


def test_mean_net_is_the_mean_of_all_students_during_warm_up() -> None:
    mean, students = net(0), [net(seed) for seed in range(1, 8)]
    for step, student in enumerate(students):
        follow(mean, student, warmed(step))
    for number, own in enumerate(mean.parameters()):
        average = torch.stack([list(student.parameters())[number] for student in students]).mean(0)
        torch.testing.assert_close(own, average, rtol=1e-12, atol=0)
