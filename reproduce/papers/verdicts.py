"""Decide whether a result is comparable with the printed number, and its verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reproduce import metrics
from reproduce.data import sources
from reproduce.papers.records import Identity, Numbers, Result, Spread
from reproduce.papers.statistics import half_width
from reproduce.papers.tables import Printed
from reproduce.scales import SCALES
from reproduce.weights import DRAWN

ROUNDING = 1e-6
"""Tolerance, in percentage points, within which two numbers are equal."""

SEEDS_FOR_A_REPRODUCTION = 3

FREEDOM_TO_POOL = 10
"""Degrees of freedom from which a table's pooled spread replaces a row's own."""

LIKE_ITS_TABLE = 2.0
"""Largest ratio of a row's own spread to the table's for which the table's is used."""

PASSING = ("reproduced", "consistent", "above", "not comparable")


def reasons_against(identity: Identity) -> list[str]:
    """List the reasons why a result is not comparable with the printed number; none if it is."""
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


def unlike_starts(identities: Iterable[Identity]) -> str:
    """Say that a claim compares initial weights that no published ones are behind; empty if it does not.

    A training on drawn people may start better than one on drawn objects, or worse, because of how we drew both.

    Args:
        identities: of the claim's cells.
    """
    cells = list(identities)
    named = [set(cell.weights.split(", ")) - {"scratch"} for cell in cells]
    trained = {bool(starts) and all(start.startswith("those of ") for start in starts) for starts in named}
    if len(trained) == 1 or any(SCALES[cell.scale].published for cell in cells):
        return ""
    starts = " and ".join(sorted({cell.weights for cell in cells}))
    return f"which start is better depends on what we drew for it: {starts}"


def void(identity: Identity) -> str:
    """Say why it supports nothing that a cell is lower than another; empty if it may.

    Networks that make images, such as translators, learn from photographs; on drawn images they may fail in ways of
    their own.
    """
    entries = identity.data.values()
    makers = sorted({entry["by"] for entry in entries if entry["kind"] == sources.MADE})
    drawn = any(entry["kind"] == sources.STAND_IN for entry in entries)
    return f"learns from images made by {', '.join(makers)} of drawn ones" if makers and drawn else ""


def _unlike_published(entry: Mapping[str, Any]) -> str:
    """Describe the images of an identity's entry that is not a published set."""
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
    """Compare seed means with comparable printed numbers (both in percent).

    Each metric has a 90 % t interval of its mean: inside the band, it passes two one-sided tests at 5 % (Schuirmann,
    1987). mAP and rank-1 are judged, or every printed metric of a row that prints neither.

    Args:
        printed: The row's numbers by metric.
        measured: Measured numbers by training seed, none of which collapsed.
        band: Percentage points around a printed number.
        pooled: The table's spread, as computed by `pool`. The interval uses it if it has `FREEDOM_TO_POOL` degrees of
            freedom and the row's own is at most twice as wide, else the row's own.

    Returns:
        "reproduced": three seeds or more, numbered from 1, every interval inside the band, no row's own spread more
        than twice the table's. "below" or "above": an interval wholly outside. Else "consistent": every mean inside the
        band, and every standard deviation at most as large. Else "inconclusive".
    """
    names = [metric for metric in metrics.names(judged=True) if printed.get(metric) is not None]
    names = names or [metric for metric in metrics.printed() if printed.get(metric) is not None]
    seeds = list(measured.values())
    gaps = []
    for metric in names:
        differences = [seed[metric] - value for seed in seeds if (value := printed[metric]) is not None]
        gaps.append(_Gap.of(differences, (pooled or {}).get(metric)))
    if any(gap.high < -band for gap in gaps):
        return "below"
    if any(gap.low > band for gap in gaps):
        return "above"
    in_turn = sorted(map(int, measured)) == list(range(1, len(seeds) + 1))
    inside = all(-band <= gap.low and gap.high <= band and gap.ordinary for gap in gaps)
    if gaps and inside and in_turn and len(seeds) >= SEEDS_FOR_A_REPRODUCTION:
        return "reproduced"
    near = all(abs(gap.mean) <= band + ROUNDING and gap.own <= band for gap in gaps)
    return "consistent" if gaps and near else "inconclusive"


@dataclass(frozen=True)
class _Gap:
    """Measured minus printed, in percentage points."""

    mean: float
    low: float
    """Lower end of the 90 % interval of the mean."""
    high: float
    """Upper end of the same interval."""
    own: float
    """The row's own standard deviation between seeds."""
    ordinary: bool
    """Whether that is at most `LIKE_ITS_TABLE` times the table's, or the table has too few degrees of freedom."""

    @classmethod
    def of(cls, gaps: Sequence[float], pooled: Spread | None) -> _Gap:
        count, mean = len(gaps), statistics.fmean(gaps)
        own = statistics.stdev(gaps) if count > 1 else 0.0
        wide = pooled if pooled and pooled.freedom >= FREEDOM_TO_POOL else None
        ordinary = not wide or own <= LIKE_ITS_TABLE * wide.sd
        sd, freedom = (wide.sd, wide.freedom) if wide and ordinary else (own, count - 1)
        reach = half_width(sd / math.sqrt(count), freedom, 0.9) if freedom else math.inf
        return cls(mean, mean - reach, mean + reach, own, ordinary)


def pool(rows: Sequence[Sequence[Numbers]]) -> dict[str, Spread]:
    """Pool the standard deviation between training seeds over rows, with its degrees of freedom, by metric.

    Args:
        rows: Numbers of each row's seeds, in percent.
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
    """Return whether a case's test passes.

    A result that is not comparable with the printed number may collapse, and so may a row that the paper reports as
    collapsing.
    """
    may_collapse = bool(result.reasons) or result.collapses
    return result.verdict in PASSING or (result.verdict == "collapsed" and may_collapse)
