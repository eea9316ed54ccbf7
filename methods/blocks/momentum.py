"""Mean nets: networks whose parameters are running averages of a student's."""

from __future__ import annotations

import torch
from torch import nn


def warmed(step: int, alpha: float = 0.999) -> float:
    """What a mean net keeps of itself at a step, min(1 - 1 / (step + 1), alpha).

    At first this is the plain mean of all students so far; at step 0 nothing is kept (Tarvainen and Valpola, "Mean
    teachers are better role models", NeurIPS 2017, and their published code).

    Args:
        step: 0-based optimiser step.
        alpha: what it rises to.
    """
    return min(1 - 1 / (step + 1), alpha)


@torch.no_grad()
def follow(mean: nn.Module, student: nn.Module, kept: float) -> None:
    """Move a mean net towards its student: theta <- kept * theta + (1 - kept) * the student's theta.

    Buffers, such as the running statistics of batch normalisation, are left alone.

    Args:
        mean: changed in place.
        student: a network with the same parameters.
        kept: between 0, which copies the student, and 1.
    """
    for own, new in zip(mean.parameters(), student.parameters(), strict=True):
        own.lerp_(new, 1 - kept)
