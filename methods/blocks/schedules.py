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
    """Multiplier of the base rate: a linear warm-up, then steps (Luo et al., Bag of Tricks, CVPRW 2019, equation 1).

    The defaults are those of the published configuration, which MMT shares; the paper's text starts at 0.1. Both
    trainers step the scheduler when an epoch begins, after its constructor has done so once (from torch 1.1 on): the
    first epoch trains at 0.109, the tenth at 1.

    Args:
        epoch: counted from 1.
        warmup: length of the warm-up; the multiplier rises from `factor`, which no epoch has, to 1 at this epoch.
        factor: where the warm-up starts.
        milestones: epochs from which on the rate is `gamma` times what it was; one inside the warm-up counts too.
        gamma: that factor.
    """
    rise = factor + (1 - factor) * min(epoch / warmup, 1) if warmup else 1.0
    return rise * gamma ** sum(milestone <= epoch for milestone in milestones)


def one_cycle(done: float, *, rise: float = 0.3, start: float = 0.04, end: float = 4e-6) -> float:
    """Multiplier of the highest rate: half a cosine up, half a cosine down (Smith and Topin, 2019).

    The defaults are those of torch's OneCycleLR.

    Args:
        done: fraction of the training that is over.
        rise: fraction of the training in which the rate rises.
        start: multiplier at the beginning.
        end: multiplier at the end.
    """
    low, part = (start, done / rise) if done < rise else (end, (1 - done) / (1 - rise))
    return low + (1 - low) * (1 - cos(pi * part)) / 2
