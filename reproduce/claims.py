"""Claims tried: differences between rows, how sure they are, and what that says about what a paper concludes.

A difference is measured with several training seeds on a set of queries, and both are samples. Its variance is that of
a two-way layout: that of the seeds' means, plus that of the queries' means, less the residual that both contain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reproduce.tables import Claim

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reproduce.artifacts import Scores

ALPHA = 0.05
FEWEST_SEEDS = 3
"""With fewer nothing is decided."""

DRAWS = 2000
"""Of the bootstrap over queries."""

RANKS = {"rank1": 1, "rank5": 5, "rank10": 10}


@dataclass(frozen=True)
class Difference:
    """A mean difference in percent points.

    Attributes:
        mean: left minus right.
        low, high: its 95 % interval.
        above, below: one-sided p-values against a difference that is not above zero, and not below it.
        kind: of the interval, in words.
    """

    mean: float
    low: float
    high: float
    above: float
    below: float
    kind: str


def by_query(scores: Scores, metric: str) -> NDArray[Any]:
    """A metric in percent for each query (Q,), NaN where it has none, or the one number (1,) that belongs to no query.

    Empty where nothing measured it.
    """
    import numpy as np

    if metric == "mAP":
        return np.asarray(100 * scores.ap)
    if metric in RANKS:
        return np.where(np.isnan(scores.ap), np.nan, 100.0 * (scores.first <= RANKS[metric]))
    if metric in scores.by_query:
        return np.asarray(scores.by_query[metric])
    return np.array([scores.numbers[metric]], float) if metric in scores.numbers else np.empty(0)


def difference(left: NDArray[Any], right: NDArray[Any], *, paired: bool) -> Difference:
    """Left minus right.

    Args:
        left: (S, Q) one row a training seed, a column a query; Q = 1 where there are no queries.
        right: (S, R), the same seeds.
        paired: whether the queries are the same ones; seeds always are paired then, and else neither.

    Returns:
        With several seeds a t interval with Satterthwaite's degrees of freedom. With one seed the interval of a
        bootstrap over queries, which speaks of this training alone, and p-values of 1.
    """
    samples = [left - right] if paired else [left, right]
    mean = float(left.mean() - right.mean())
    if len(left) == 1:
        low, high = _bootstrap(samples)
        return Difference(mean, low, high, 1.0, 1.0, "95 % query bootstrap, this training only")
    from scipy import stats

    parts = [part for sample in samples for part in _variance(sample)]
    variance = sum(value for value, _ in parts)
    spread = sum(value**2 / freedom for value, freedom in parts)
    counted = f"{len(left)} seeds" + (" and the queries" if left.shape[1] > 1 else "")
    kind = f"95 % t interval over {counted}"
    if variance <= 0:
        sign = (mean > 0) - (mean < 0)
        above, below = (0.0 if sign > 0 else 1.0), (0.0 if sign < 0 else 1.0)
        return Difference(mean, mean, mean, above, below, kind)
    error, freedom = math.sqrt(variance), variance**2 / spread
    reach = float(stats.t.ppf(1 - ALPHA / 2, freedom)) * error
    t = mean / error
    return Difference(
        mean, mean - reach, mean + reach, float(stats.t.sf(t, freedom)), float(stats.t.sf(-t, freedom)), kind
    )


def _variance(values: NDArray[Any]) -> list[tuple[float, float]]:
    """The variance of the mean of values (S, Q) as one number with its degrees of freedom."""
    seeds, queries = values.shape
    of_seeds = float(values.mean(1).var(ddof=1)) / seeds
    if queries == 1:
        return [(of_seeds, seeds - 1.0)]
    of_queries = float(values.mean(0).var(ddof=1)) / queries
    rest = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    both = float((rest**2).sum()) / ((seeds - 1) * (queries - 1)) / (seeds * queries)
    total = max(of_seeds + of_queries - both, of_seeds, of_queries)
    spread = of_seeds**2 / (seeds - 1) + of_queries**2 / (queries - 1) + both**2 / ((seeds - 1) * (queries - 1))
    return [(total, total**2 / spread)] if spread else [(0.0, 1.0)]


def _bootstrap(samples: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """The interval of the first sample's mean less the second's, if there is one, over queries drawn anew."""
    import numpy as np

    from reproduce.data.sampling import numpy_generator

    drawn = np.zeros(DRAWS)
    for number, sample in enumerate(samples):
        random = numpy_generator(1, "bootstrap", number)
        means = [sample[0, random.integers(0, sample.shape[1], sample.shape[1])].mean() for _ in range(DRAWS)]
        drawn += np.array(means) if number == 0 else -np.array(means)
    low, high = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Compared:
    """One cell and metric that a claim compares."""

    right: str
    metric: str
    stated: float | None
    by_seed: Mapping[int, float]
    difference: Difference


def compare(
    claim: Claim, left: Mapping[int, Scores], rights: Sequence[Mapping[int, Scores]], *, paired: bool
) -> list[Compared]:
    """Everything that a claim of kind "order" or "gain" compares; nothing where no query has a value of a metric.

    Args:
        claim: the claim.
        left: the scores of its left cell by training seed.
        rights: the same of each cell on its right.
        paired: whether all are scored on the same queries.
    """
    import numpy as np

    found = []
    for cell, right in zip(claim.right, rights, strict=True):
        for metric in claim.metrics:
            ours, theirs = (np.stack([by_query(scores, metric) for scores in side.values()]) for side in (left, right))
            told = [~np.isnan(values).any(0) for values in (ours, theirs)]
            if paired:
                told = [told[0] & told[1]] * 2
            ours, theirs = ours[:, told[0]], theirs[:, told[1]]
            if not ours.size or not theirs.size:
                return []
            by_seed = {
                seed: float(one.mean() - other.mean()) for seed, one, other in zip(left, ours, theirs, strict=True)
            }
            stated = (claim.stated or {}).get(metric)
            measured = difference(ours, theirs, paired=paired)
            found.append(Compared(cell, metric, stated, by_seed, measured))
    return found


def p_value(compared: Sequence[Compared]) -> tuple[float, str]:
    """The two-sided p-value of a claim, and what it would speak for.

    A claim holds if every comparison goes its way (the largest p-value counts), and fails if any goes the other way
    (the smallest, by Bonferroni).
    """
    ways = [-1 if one.stated is not None and one.stated < 0 else 1 for one in compared]
    for_it = max(_p(one.difference, way) for one, way in zip(compared, ways, strict=True))
    against = min(1.0, len(compared) * min(_p(one.difference, -way) for one, way in zip(compared, ways, strict=True)))
    return min(1.0, 2 * min(for_it, against)), "supported" if for_it <= against else "contradicted"


def _p(difference: Difference, way: int) -> float:
    return difference.above if way > 0 else difference.below


def holm(p_values: Sequence[float], family: int) -> list[float]:
    """Holm's adjusted p-values.

    Args:
        p_values: of the hypotheses that were tested.
        family: how many there are, tested or not; the others count as hopeless.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (family - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(direction: str, p_adjusted: float, seeds: int) -> tuple[str, list[str]]:
    """Supported, contradicted or undecided, and why it is undecided."""
    if seeds < FEWEST_SEEDS:
        return "undecided", [f"{seeds} seed{'s' * (seeds != 1)}: nothing is decided below {FEWEST_SEEDS}"]
    if p_adjusted >= ALPHA:
        return "undecided", [f"p = {p_adjusted:.2g} after Holm's correction"]
    return direction, []


def as_json(compared: Compared) -> dict[str, Any]:
    """A comparison as a claim's record keeps it."""
    found = compared.difference
    return {
        "right": compared.right,
        "metric": compared.metric,
        "stated": compared.stated,
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "interval": found.kind,
        "by_seed": {str(seed): value for seed, value in compared.by_seed.items()},
        "p": min(1.0, 2 * min(found.above, found.below)),
    }
