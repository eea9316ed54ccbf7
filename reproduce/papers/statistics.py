"""Claims tried: differences between rows, how sure they are, and what that says about what a paper concludes.

A difference is measured with several training seeds on queries of several people, and both are samples. Its variance is
that of a two-way layout: that of the seeds' means, plus that of the people's, less the residual that both contain. The
mean is over queries; a person counts with all of theirs together, since queries of one person are alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reproduce.metrics import METRICS
from reproduce.papers.records import Comparison
from reproduce.papers.tables import Claim

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reproduce.artifacts import Scores

ALPHA = 0.05
FEWEST_SEEDS = 3
"""With fewer nothing is decided."""

TRAINED = 0.8
"""The share of supervised training's mAP on its own source that a baseline must reach."""

NO_SPREAD = 1e-100
"""Variance, in squared percent points, that is none; smaller numbers cannot be squared."""

DRAWS = 2000
"""Of the bootstrap over people."""


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
    if rank := METRICS[metric].rank:
        return np.where(np.isnan(scores.ap), np.nan, 100.0 * (scores.first <= rank))
    if metric in scores.by_query:
        return np.asarray(scores.by_query[metric])
    return np.array([scores.numbers[metric]], float) if metric in scores.numbers else np.empty(0)


def difference(
    left: NDArray[Any], right: NDArray[Any], people: tuple[NDArray[Any], NDArray[Any]], *, paired: bool
) -> Difference:
    """Left minus right.

    Args:
        left: (S, Q) one row a training seed, a column a query; Q = 1 where there are no queries.
        right: (S, R), the same seeds.
        people: the identities of the queries, (Q,) and (R,).
        paired: whether the queries are the same ones; seeds always are paired then, and else neither.

    Returns:
        With several seeds a t interval, whose tails are those of t with the seeds' and with the people's degrees of
        freedom, weighted by their shares of the variance. With one seed the interval of a bootstrap over people, which
        speaks of this training alone, and p-values of 1.
    """
    samples = [(left - right, people[0])] if paired else [(left, people[0]), (right, people[1])]
    mean = float(left.mean() - right.mean())
    if len(left) == 1:
        low, high = _bootstrap(samples)
        return Difference(mean, low, high, 1.0, 1.0, "95 % bootstrap over identities, this training only")
    from scipy.optimize import brentq
    from scipy.special import stdtr, stdtrit

    layouts = [by_person(values, pids) for values, pids in samples]
    variances, seeds, persons = zip(*map(_variance, layouts), strict=True)
    counted = f"{len(left)} seeds" + (" and the queries' identities" if layouts[0].shape[1] > 1 else "")
    kind = f"95 % t interval over {counted}"
    if (variance := sum(variances)) <= NO_SPREAD:
        sign = (mean > 0) - (mean < 0)
        above, below = (0.0 if sign > 0 else 1.0), (0.0 if sign < 0 else 1.0)
        return Difference(mean, mean, mean, above, below, kind)
    parts = [_together(each) for each in (seeds, persons) if any(value for value, _ in each)]

    def tail(t: float) -> float:
        return float(sum(value * stdtr(freedom, -t) for value, freedom in parts) / sum(value for value, _ in parts))

    error, widest = math.sqrt(variance), stdtrit(min(freedom for _, freedom in parts), 1 - ALPHA / 2)
    reach = error * brentq(lambda t: tail(t) - ALPHA / 2, 0, 2 * widest)
    return Difference(mean, mean - reach, mean + reach, tail(mean / error), tail(-mean / error), kind)


def by_person(values: NDArray[Any], pids: NDArray[Any]) -> NDArray[Any]:
    """Values of queries (S, Q) as one of each person (S, I), whose plain mean is the mean over queries.

    A person's is that mean plus I / Q times the sum of what their queries lie above it: the linearised ratio of the
    people's totals to their numbers of queries (Cochran, "Sampling Techniques", 1977, chapter 9A). Where everybody has
    one query, the values stay as they are.
    """
    import numpy as np

    person, queries = np.unique(pids, return_inverse=True, return_counts=True)[1:]
    mean = values.mean()
    totals = np.stack([np.bincount(person, seed - mean) for seed in values])
    return np.asarray(mean + totals * (len(queries) / len(pids)))


def _variance(values: NDArray[Any]) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """The variance of the mean of values (S, I), and those of the means of seeds and people with degrees of freedom."""
    seeds, people = values.shape
    of_seeds = float(values.mean(1).var(ddof=1)) / seeds
    if people == 1:
        return of_seeds, (of_seeds, seeds - 1.0), (0.0, 1.0)
    of_people = float(values.mean(0).var(ddof=1)) / people
    rest = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    both = float((rest**2).sum()) / ((seeds - 1) * (people - 1)) / (seeds * people)
    total = max(of_seeds + of_people - both, of_seeds, of_people)
    return total, (of_seeds, seeds - 1.0), (of_people, people - 1.0)


def _together(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The sum of independent variances with its degrees of freedom (Welch and Satterthwaite)."""
    whole = sum(value for value, _ in parts)
    return whole, whole**2 / sum(value**2 / freedom for value, freedom in parts)


def _bootstrap(samples: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[float, float]:
    """The interval of the first sample's mean less the second's, if there is one, over people drawn anew.

    Args:
        samples: values (1, Q) and the identities (Q,) that they belong to.
    """
    import numpy as np

    from reproduce.data.sampling import numpy_generator

    drawn = np.zeros(DRAWS)
    for number, (values, pids) in enumerate(samples):
        random = numpy_generator(1, "bootstrap", number)
        person, queries = np.unique(pids, return_inverse=True, return_counts=True)[1:]
        totals = np.bincount(person, values[0])
        people = random.integers(0, len(queries), (DRAWS, len(queries)))
        means = totals[people].sum(1) / queries[people].sum(1)
        drawn += means if number == 0 else -means
    low, high = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Compared:
    """One cell and metric that a claim compares.

    Attributes:
        stated: left minus right in the text; None for an order. At least that much with `at_least`.
        collapsed: whether the cell that the claim puts lower collapsed at a seed: that it is lower supports nothing.
    """

    right: str
    metric: str
    stated: float | None
    by_seed: Mapping[int, float]
    difference: Difference
    at_least: bool = False
    collapsed: bool = False

    @property
    def way(self) -> int:
        """1 where the claim puts the left cell higher, -1 where it puts it lower."""
        return -1 if self.stated is not None and self.stated < 0 else 1

    @property
    def size(self) -> str:
        """How the difference is where its interval excludes the stated size: "smaller" or "larger"; else empty."""
        if self.stated is None:
            return ""
        low, high = sorted(self.way * bound for bound in (self.difference.low, self.difference.high))
        stated, half = abs(self.stated), 0.5 if isinstance(self.stated, int) else 0.0
        if high < stated - half:
            return "smaller"
        return "larger" if low > stated + half and not (self.at_least or self.collapsed) else ""


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
            people = _people(left, told[0]), _people(right, told[1])
            by_seed = {
                seed: float(one.mean() - other.mean()) for seed, one, other in zip(left, ours, theirs, strict=True)
            }
            stated = (claim.stated or {}).get(metric)
            measured = difference(ours, theirs, people, paired=paired)
            one = Compared(cell, metric, stated, by_seed, measured, claim.at_least)
            lower = right if one.way > 0 else left
            found.append(replace(one, collapsed=any(scores.collapsed for scores in lower.values())))
    return found


def _people(cell: Mapping[int, Scores], told: NDArray[Any]) -> NDArray[Any]:
    """The identities of the queries that are told, or one for the number that belongs to no query."""
    pids = next(iter(cell.values())).pids
    return pids[told] if len(told) == len(pids) else pids[:1]


def p_value(compared: Sequence[Compared]) -> tuple[float, str]:
    """The two-sided p-value of a claim, and what it would speak for.

    A claim holds if every comparison goes its way (the largest p-value counts), and fails if any goes the other way
    (the smallest, by Bonferroni). A collapsed comparison cannot go its way.
    """
    for_it = max(1.0 if one.collapsed else _p(one.difference, one.way) for one in compared)
    against = min(1.0, len(compared) * min(_p(one.difference, -one.way) for one in compared))
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


def beside_stated(compared: Sequence[Compared]) -> str:
    """The sizes of comparisons in words, such as "smaller than stated"; empty where none excludes the stated one."""
    sizes = sorted({one.size for one in compared} - {""})
    return f"{' and '.join(sizes)} than stated" if sizes else ""


def fallen(claim: Claim, compared: Sequence[Compared]) -> list[str]:
    """Why a claim cannot be supported: the cells that it puts lower and that collapsed."""
    cells = dict.fromkeys(one.right if one.way > 0 else claim.left for one in compared if one.collapsed)
    return [f"{cell} collapsed: that it is lower supports nothing" for cell in cells]


def as_record(compared: Compared) -> Comparison:
    """A comparison as a claim's record keeps it."""
    difference = compared.difference
    return Comparison(
        right=compared.right,
        metric=compared.metric,
        stated=compared.stated,
        difference=difference.mean,
        low=difference.low,
        high=difference.high,
        interval=difference.kind,
        by_seed={str(seed): value for seed, value in compared.by_seed.items()},
        p=min(1.0, 2 * min(difference.above, difference.below)),
    )
