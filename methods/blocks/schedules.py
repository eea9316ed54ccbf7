"""Learning-rate schedules as pure functions of the epoch."""

from __future__ import annotations

from math import cos, pi
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def warmup_steps(
    epoch: int,
    *,
    warmup: int = 10,
    factor: float = 0.01,
    milestones: Sequence[int] = (40, 70),
    gamma: float = 0.1,
) -> float:
    """Compute the multiplier of the base rate: linear warm-up, then steps (Luo et al., CVPRW 2019, equation 1).

    The defaults are those of the published Bag of Tricks configuration, which MMT shares; the paper's text starts at
    0.1. Both trainers step the scheduler at the start of an epoch, and its constructor steps it once before (torch 1.1
    and later): the first epoch trains at 0.109, the tenth at 1.

    Args:
        epoch: counted from 1.
        warmup: last epoch of the warm-up; the multiplier rises to 1 there from `factor` at epoch 0, which never trains.
        factor: start of the warm-up.
        milestones: epochs from which on the rate is multiplied by `gamma`; one inside the warm-up counts too.
        gamma: the factor at each milestone.
    """
    rise = factor + (1 - factor) * min(epoch / warmup, 1) if warmup else 1.0
    return rise * gamma ** sum(milestone <= epoch for milestone in milestones)


def one_cycle(done: float, *, rise: float = 0.3, start: float = 0.04, end: float = 4e-6) -> float:
    """Compute the multiplier of the peak rate: half a cosine up, half a cosine down (Smith and Topin, 2019).

    The defaults are those of torch's OneCycleLR.

    Args:
        done: fraction of the training completed.
        rise: fraction of the training over which the rate rises.
        start: multiplier at the start.
        end: multiplier at the end.
    """
    low, part = (start, done / rise) if done < rise else (end, (1 - done) / (1 - rise))
    return low + (1 - low) * (1 - cos(pi * part)) / 2
