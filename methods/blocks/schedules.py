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


def staircase(
    epoch: int, *, warmup: int, steps: int = 10, milestones: Sequence[int] = (200, 300), gamma: float = 0.1
) -> float:
    """Compute BDB's multiplier of the highest rate: a warm-up in equal steps, then milestones.

    Args:
        epoch: counted from 1.
        warmup: the first epoch at 1; the multiplier before is 1 / steps, 2 / steps, ... for equally many epochs each.
        steps: number of steps.
        milestones: epochs from which on the rate is multiplied by `gamma`.
        gamma: the factor at each milestone.
    """
    rise = (steps * epoch // warmup + 1) / steps if epoch < warmup else 1.0
    return rise * gamma ** sum(milestone <= epoch for milestone in milestones)


def warmup_iterations(iteration: int, *, warmup: int, factor: float = 0.1) -> float:
    """Compute the multiplier of the base rate in fast-reid's warm-up: linear, by iteration.

    Args:
        iteration: counted from 0.
        warmup: iterations until the multiplier reaches 1.
        factor: the multiplier of the first iteration.
    """
    return factor + (1 - factor) * min(iteration / warmup, 1.0) if warmup else 1.0


def epochs_since_warmup(epoch: int, per_epoch: int, *, warmup: int, delay: int = 0) -> int:
    """Count the epochs on which fast-reid's schedule has moved before an epoch.

    It moves after an epoch that ends after the warm-up and is not one of the first `delay`; so milestones come later
    than configured, with 202 iterations per epoch by nine epochs.

    Args:
        epoch: counted from 0.
        per_epoch: iterations of an epoch.
        warmup: iterations of the warm-up.
        delay: epochs before the schedule may move.
    """
    return max(0, epoch - max(warmup // per_epoch, delay))


def cosine(done: float, *, end: float) -> float:
    """Compute the multiplier of the base rate along half a cosine, from 1 to `end`.

    Args:
        done: fraction completed.
        end: the last multiplier.
    """
    return end + (1 - end) * (1 + cos(pi * done)) / 2


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
