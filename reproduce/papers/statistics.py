"""Test claims: differences between rows, their confidence intervals, and the verdict on a paper's conclusion.

A difference is measured with several training seeds on queries of several people, and both are samples. Its variance is
that of a two-way layout: the variance of the seeds' means, plus that of the people's, minus the residual that both
contain. The mean is over queries; the queries of one person form one unit, since they are alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from reproduce.metrics import METRICS
from reproduce.papers.records import ClaimRecord, Comparison
from reproduce.papers.tables import Claim
from reproduce.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reproduce.artifacts import Scores

ALPHA = 0.05
FEWEST_SEEDS = 3
"""Fewer seeds leave every claim undecided."""

TRAINED = 0.8
"""Fraction of supervised training's mAP on its own source that a baseline must reach."""

NO_SPREAD = 1e-100
"""Variance, in squared percentage points, that counts as zero; smaller numbers cannot be squared."""

DRAWS = 2000
"""Samples of the bootstrap over people."""


@dataclass(frozen=True)
class Difference:
    """A mean difference in percentage points."""

    mean: float
    """Left minus right."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end of its 95 % interval."""
    above: float
    """One-sided p-value against a difference that is not above zero."""
    below: float
    """One-sided p-value against a difference that is not below zero."""
    kind: str
    """Kind of the interval, in words."""


def by_query(scores: Scores, metric: str) -> NDArray[Any]:
    """Return a metric in percent per query (Q,), NaN without a value, or its one number (1,) if it has no queries.

    Empty if the metric was not measured.
    """
    import numpy as np

    if metric == "mAP":
        return np.asarray(100 * scores.ap)
    if rank := METRICS[metric].rank:
        return np.where(np.isnan(scores.ap), np.nan, 100.0 * (scores.first <= rank))
    if metric in scores.by_query:
        return np.asarray(scores.by_query[metric])
    return np.array([scores.numbers[metric]], float) if metric in scores.numbers else np.empty(0)


def early(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Compute the mean mAP, in percent, of a training's evaluations in the first third of its epochs, if it has any.

    Args:
        history: What it logged, one entry per epoch with its number under "step".
    """
    third = history[-1]["step"] / 3 if history else 0
    values = [entry["mAP"] for entry in history if entry["step"] <= third and "mAP" in entry]
    return {"early": fmean(values)} if values else {}


def difference(
    left: NDArray[Any], right: NDArray[Any], people: tuple[NDArray[Any], NDArray[Any]], *, paired: bool
) -> Difference:
    """Compute the mean of left minus right with its interval.

    Args:
        left: (S, Q), a row per training seed and a column per query; Q = 1 for a metric without queries.
        right: (S, R), the same seeds.
        people: Identities of the queries, (Q,) and (R,).
        paired: Whether the queries are the same; if so, seeds are paired too, otherwise neither is.

    Returns:
        With several seeds a t interval, whose tails mix those of t with the seeds' and with the people's degrees of
        freedom, weighted by their shares of the variance. With one seed the interval of a bootstrap over people, which
        holds for this training only, and p-values of 1.
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
    parts = [_together(terms) for terms in (seeds, persons) if any(value for value, _ in terms)]

    def tail(t: float) -> float:
        return float(sum(value * stdtr(freedom, -t) for value, freedom in parts) / sum(value for value, _ in parts))

    error, widest = math.sqrt(variance), stdtrit(min(freedom for _, freedom in parts), 1 - ALPHA / 2)
    reach = error * brentq(lambda t: tail(t) - ALPHA / 2, 0, 2 * widest)
    return Difference(mean, mean - reach, mean + reach, tail(mean / error), tail(-mean / error), kind)


def half_width(error: float, freedom: float, level: float) -> float:
    """Compute how far the t interval of a standard error reaches to either side; level is a fraction."""
    from scipy import stats

    return float(stats.t.ppf((1 + level) / 2, freedom)) * error


def by_person(values: NDArray[Any], pids: NDArray[Any]) -> NDArray[Any]:
    """Reduce values of queries (S, Q) to one per person (S, I) whose plain mean is the mean over queries.

    A person's value is that mean plus I / Q times the sum of their queries' deviations from it: the linearised ratio
    of the people's totals to their numbers of queries (Cochran, "Sampling Techniques", 1977, chapter 9A). With one
    query per person the values are unchanged.
    """
    import numpy as np

    person, queries = np.unique(pids, return_inverse=True, return_counts=True)[1:]
    mean = values.mean()
    totals = np.stack([np.bincount(person, seed - mean) for seed in values])
    return np.asarray(mean + totals * (len(queries) / len(pids)))


def _variance(values: NDArray[Any]) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """Estimate the variance of the mean of values (S, I), and its seed and person terms with degrees of freedom."""
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
    """Sum independent variances, with the degrees of freedom of the sum (Welch and Satterthwaite)."""
    whole = sum(value for value, _ in parts)
    return whole, whole**2 / sum(value**2 / freedom for value, freedom in parts)


def _bootstrap(samples: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[float, float]:
    """Bootstrap over people the interval of the first sample's mean minus that of the second, if any.

    Args:
        samples: Values (1, Q) and their identities (Q,).
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


def way(stated: float | None) -> int:
    """Return 1 if a claim that states this difference puts the left cell higher, -1 if lower; None is an order."""
    return -1 if stated is not None and stated < 0 else 1


@dataclass(frozen=True)
class Compared:
    """One comparison of a claim: a cell on the right, in one metric."""

    right: str
    metric: str
    stated: float | None
    """Left minus right in the text; None for an order."""
    by_seed: Mapping[int, float]
    """Measured difference by training seed."""
    difference: Difference
    at_least: bool = False
    """Whether the text states `stated` or more."""
    void: str = ""
    """Why it supports nothing that the cell that the claim puts lower is lower, such as "collapsed"; else empty."""

    @property
    def way(self) -> int:
        """The way that the claim states."""
        return way(self.stated)

    @property
    def size(self) -> str:
        """How the interval excludes the stated size, "smaller" or "larger"; empty if it does not."""
        if self.stated is None:
            return ""
        low, high = sorted(self.way * bound for bound in (self.difference.low, self.difference.high))
        stated, half = abs(self.stated), 0.5 if isinstance(self.stated, int) else 0.0
        if high < stated - half:
            return "smaller"
        return "larger" if low > stated + half and not (self.at_least or self.void) else ""


def compare(
    claim: Claim,
    left: Mapping[int, Scores],
    rights: Sequence[Mapping[int, Scores]],
    *,
    paired: bool,
    voids: Mapping[str, str] | None = None,
) -> list[Compared]:
    """Measure every comparison of a claim of a kind in `tables.COMPARED`; none if no query has a value of some metric.

    Args:
        claim: The claim.
        left: Scores of its left cell by training seed.
        rights: The same for each cell on its right.
        paired: Whether all are scored on the same queries.
        voids: Why it supports nothing that a cell is lower, by cell; any that collapsed at a seed is added.
    """
    import numpy as np

    comparisons = []
    for cell, right in zip(claim.right, rights, strict=True):
        for metric in claim.metrics:
            ours, theirs = (np.stack([by_query(scores, metric) for scores in side.values()]) for side in (left, right))
            valid = [~np.isnan(values).any(0) for values in (ours, theirs)]
            if paired:
                valid = [valid[0] & valid[1]] * 2
            ours, theirs = ours[:, valid[0]], theirs[:, valid[1]]
            if not ours.size or not theirs.size:
                return []
            people = _people(left, valid[0]), _people(right, valid[1])
            by_seed = {
                seed: float(one.mean() - other.mean()) for seed, one, other in zip(left, ours, theirs, strict=True)
            }
            stated = (claim.stated or {}).get(metric)
            measured = difference(ours, theirs, people, paired=paired)
            comparison = Compared(cell, metric, stated, by_seed, measured, claim.at_least)
            place, lower = (cell, right) if comparison.way > 0 else (claim.left, left)
            collapsed = any(scores.collapsed for scores in lower.values())
            comparisons.append(replace(comparison, void="collapsed" if collapsed else (voids or {}).get(place, "")))
    return comparisons


def _people(cell: Mapping[int, Scores], valid: NDArray[Any]) -> NDArray[Any]:
    """Return the identities of the valid queries, or one for a metric without queries."""
    pids = next(iter(cell.values())).pids
    return pids[valid] if len(valid) == len(pids) else pids[:1]


def p_value(compared: Sequence[Compared]) -> tuple[float, str]:
    """Return the two-sided p-value of a claim, and the verdict that it would support.

    A claim holds if every comparison goes its way (the largest p-value counts), and fails if any goes the other way
    (the smallest, by Bonferroni). A void comparison cannot go its way.
    """
    for_it = max(1.0 if one.void else _p(one.difference, one.way) for one in compared)
    against = min(1.0, len(compared) * min(_p(one.difference, -one.way) for one in compared))
    return min(1.0, 2 * min(for_it, against)), "supported" if for_it <= against else "contradicted"


def _p(difference: Difference, way: int) -> float:
    return difference.above if way > 0 else difference.below


def holm(p_values: Sequence[float], family: int) -> list[float]:
    """Compute Holm's adjusted p-values.

    Args:
        p_values: p-values of the tested hypotheses.
        family: Number of hypotheses, tested or not; the others count with p = 1.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (family - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(direction: str, p_adjusted: float, seeds: int) -> tuple[str, list[str]]:
    """Return supported, contradicted or undecided, and the reasons if undecided."""
    if seeds < FEWEST_SEEDS:
        return "undecided", [f"{counted(seeds, 'seed')}: nothing is decided below {FEWEST_SEEDS}"]
    if p_adjusted >= ALPHA:
        return "undecided", [f"p = {p_adjusted:.2g} after Holm's correction"]
    return direction, []


def on_its_own(record: ClaimRecord) -> str:
    """Return the verdict that a claim left undecided by Holm's correction alone would have without it, or nothing."""
    sole = record.verdict == "undecided" and len(record.reasons) == 1
    if record.p is None or not sole or (record.p_adjusted or 0) < ALPHA:
        return ""
    holds = all(one.difference * way(one.stated) > 0 for one in record.compared)
    alone, reasons = verdict("supported" if holds else "contradicted", record.p, len(record.seeds))
    return "" if reasons else alone


def beside_verdict(record: ClaimRecord) -> tuple[str, ...]:
    """Return what stands beside a claim's verdict: "tried in part", second verdicts, what it would be alone."""
    part = ["tried in part"] if record.claim.testable == "part" else []
    alone = on_its_own(record)
    return (*part, *record.second, *([f"{alone} if tried alone"] if alone else []))


def beside_stated(compared: Sequence[Compared]) -> str:
    """Summarise the sizes of comparisons, such as "smaller than stated"; empty if none excludes the stated size."""
    sizes = sorted({one.size for one in compared} - {""})
    return f"{' and '.join(sizes)} than stated" if sizes else ""


def fallen(claim: Claim, compared: Sequence[Compared]) -> list[str]:
    """Say why a claim cannot be supported: cells that it puts lower collapsed, or are void otherwise."""
    cells = {(one.right if one.way > 0 else claim.left): one.void for one in compared if one.void}
    return [f"{cell} {void}: that it is lower supports nothing" for cell, void in cells.items()]


def as_record(compared: Compared) -> Comparison:
    """Convert a comparison to its form in a claim's record."""
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
