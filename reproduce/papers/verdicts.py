"""What a result may be compared with, and how it compares: the verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reproduce import metrics
from reproduce.data import sources
from reproduce.papers.records import Identity, Numbers, Result, Spread
from reproduce.papers.tables import Printed
from reproduce.weights import DRAWN

ROUNDING = 1e-6
"""Percentage points by which a number that is the same may differ."""

SEEDS_FOR_A_REPRODUCTION = 3

FREEDOM_TO_POOL = 10
"""Degrees of freedom from which the spread between seeds is that of a whole table."""

LIKE_ITS_TABLE = 2.0
"""The most times the table's spread that a row's own may be."""

PASSING = ("reproduced", "consistent", "above", "not comparable")


def reasons_against(identity: Identity) -> list[str]:
    """Why a result cannot be set against the printed number; none where it can."""
    unpublished = [entry for entry in identity.data.values() if entry["kind"] != sources.REAL]
    reasons = list(dict.fromkeys(map(_unlike_published, unpublished)))
    if not identity.data:
        reasons.append("no data that its stages name")
    if identity.scale != "paper":
        reasons.append(f"scale {identity.scale}")
    if "scratch" in identity.weights.split(", "):
        reasons.append("trained from scratch")
    if any(start.startswith(f"drawn {DRAWN} ") for start in identity.weights.split(", ")):
        reasons.append("drawn-object weights")
    if files := identity.unpublished_weights:
        reasons += [f"weights that are not the published file (sha256 {sha[:12]})" for sha in files.split(", ")]
    if identity.subset is not None:
        reasons.append(f"a subset of {identity.subset} identities")
    if identity.rounds:
        reasons.append(f"at most {identity.rounds} rounds of labelling and training")
    if precision := identity.precision:
        reasons.append(f"{precision} precision")
    return reasons


def _unlike_published(entry: Mapping[str, Any]) -> str:
    """What the images of an identity's entry are, if not a published set."""
    match entry:
        case {"kind": sources.STAND_IN}:
            return "stand-in data"
        case {"kind": sources.FOLDER}:
            return "a folder that was not checked against the published data set"
        case {"kind": sources.MADE, "by": stage}:
            return f"images made by {stage}"
        case {"by": package}:
            return f"a data set of {package}"
    return f"data of another kind ({entry['kind']})"


def judge(
    printed: Printed,
    measured: Mapping[str, Numbers],
    band: float,
    pooled: Mapping[str, Spread] | None = None,
) -> str:
    """Compare seed means with printed numbers (both in percent) that they are comparable with.

    Each metric has a 90 % t interval of its mean: inside the band, it passes two one-sided tests at 5 % (Schuirmann,
    1987). Judged are mAP and rank-1, or what a row prints that prints neither.

    Args:
        printed: the row's numbers by metric.
        measured: by training seed, what it measured; none collapsed.
        band: percent points around a printed number.
        pooled: the spread of the table, as `pool` has it. The interval takes it where it has the degrees of freedom and
            the row's own is at most twice as wide, else the row's own.

    Returns:
        "reproduced": three seeds or more, numbered from 1, every interval inside the band, no row's own spread more
        than twice the table's. "below" or "above": an interval wholly outside. Else "consistent": every mean inside the
        band, and every standard deviation at most as large. Else "inconclusive".
    """
    names = [metric for metric in metrics.names(judged=True) if printed.get(metric) is not None]
    names = names or [metric for metric in metrics.printed() if printed.get(metric) is not None]
    seeds = list(measured.values())
    found = []
    for metric in names:
        gaps = [seed[metric] - value for seed in seeds if (value := printed[metric]) is not None]
        found.append(_Gap.of(gaps, (pooled or {}).get(metric)))
    if any(gap.high < -band for gap in found):
        return "below"
    if any(gap.low > band for gap in found):
        return "above"
    in_turn = sorted(map(int, measured)) == list(range(1, len(seeds) + 1))
    inside = all(-band <= gap.low and gap.high <= band and gap.ordinary for gap in found)
    if found and inside and in_turn and len(seeds) >= SEEDS_FOR_A_REPRODUCTION:
        return "reproduced"
    near = all(abs(gap.mean) <= band + ROUNDING and gap.own <= band for gap in found)
    return "consistent" if found and near else "inconclusive"


@dataclass(frozen=True)
class _Gap:
    """Measured less printed: the mean, its 90 % interval, the row's own spread, and whether the table's is like it."""

    mean: float
    low: float
    high: float
    own: float
    ordinary: bool

    @classmethod
    def of(cls, gaps: Sequence[float], pooled: Spread | None) -> _Gap:
        from scipy import stats

        count, mean = len(gaps), statistics.fmean(gaps)
        own = statistics.stdev(gaps) if count > 1 else 0.0
        wide = pooled if pooled and pooled.freedom >= FREEDOM_TO_POOL else None
        ordinary = not wide or own <= LIKE_ITS_TABLE * wide.sd
        sd, freedom = (wide.sd, wide.freedom) if wide and ordinary else (own, count - 1)
        reach = float(stats.t.ppf(0.95, freedom)) * sd / math.sqrt(count) if freedom else math.inf
        return cls(mean, mean - reach, mean + reach, own, ordinary)


def pool(rows: Sequence[Sequence[Numbers]]) -> dict[str, Spread]:
    """The standard deviation between training seeds that rows share, and its degrees of freedom, by metric.

    Args:
        rows: what the seeds of each row measured, in percent.
    """
    several = [row for row in rows if len(row) > 1]
    freedom = sum(len(row) - 1 for row in several)
    if not freedom:
        return {}
    squares = {
        metric: sum(statistics.variance([seed[metric] for seed in row]) * (len(row) - 1) for row in several)
        for metric in metrics.printed()
    }
    return {metric: Spread(sd=math.sqrt(total / freedom), freedom=freedom) for metric, total in squares.items()}


def passes(result: Result) -> bool:
    """Whether a case's test passes.

    What is not comparable with the printed number cannot fail by it, and what the paper says collapses may.
    """
    may_collapse = bool(result.reasons) or result.collapses
    return result.verdict in PASSING or (result.verdict == "collapsed" and may_collapse)
