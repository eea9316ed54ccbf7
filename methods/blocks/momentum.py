"""Mean nets: networks whose parameters are a running average of a student's."""

from __future__ import annotations

import torch
from torch import nn


def warmed(step: int, alpha: float = 0.999) -> float:
    """Compute the momentum of a mean net at a step, min(1 - 1 / (step + 1), alpha).

    At first the mean net is thus the plain mean of all students so far; at step 0 it keeps nothing of itself (Tarvainen
    and Valpola, "Mean teachers are better role models", NeurIPS 2017, and their published code).

    Args:
        step: optimiser step, counted from 0.
        alpha: the highest momentum.
    """
    return min(1 - 1 / (step + 1), alpha)


@torch.no_grad()
def follow(mean: nn.Module, student: nn.Module, kept: float) -> None:
    """Move a mean net towards its student: theta <- kept * theta + (1 - kept) * the student's theta.

    Buffers, such as the running statistics of batch normalisation, do not change.

    Args:
        mean: changed in place.
        student: a network with the same parameters.
        kept: the momentum, 0 to 1; 0 copies the student.
    """
    for own, new in zip(mean.parameters(), student.parameters(), strict=True):
        own.lerp_(new, 1 - kept)
