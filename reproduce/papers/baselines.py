"""Compare a result with its baseline, the recorded result of the same case on this or another processor."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from reproduce import metrics
from reproduce.papers.records import Beside, Elsewhere, Identity, Moved, Numbers, Result, StageEntry
from reproduce.papers.statistics import half_width
from reproduce.papers.verdicts import ROUNDING

UNSTABLE = 4.0
"""Standard deviation between training seeds, in mAP, above which a row is too noisy to detect a change of code."""

OWN = 5
"""Degrees of freedom from which a row uses its own spread, such as three seeds on two processors give."""

LEVEL = 0.99
"""Level of the interval that a difference may lie in by chance."""

ROWS_OWN = ("data", "selection", "recipe", "rounds")
"""Parts of the identity in which two rows of a table may differ while their seeds spread alike."""

OLDER = "recorded for an older recipe"


@dataclass(frozen=True)
class Runs:
    """The training seeds of one case on one machine."""

    on: frozenset[str]
    """The arithmetics that its stages were computed with (`provenance.arithmetic`)."""
    every: Mapping[str, Numbers]
    """Numbers by seed."""
    collapsed: frozenset[str]
    """Seeds that collapsed."""

    @property
    def measured(self) -> Mapping[str, Numbers]:
        """The numbers of seeds that did not collapse; of all seeds if every one did."""
        return {seed: numbers for seed, numbers in self.every.items() if seed not in self.collapsed} or self.every

    @classmethod
    def of(cls, side: Result | Elsewhere) -> Runs:
        """Return the runs of a result, or of the same case on another processor."""
        return cls(frozenset(side.on), side.measured, frozenset(side.collapsed.keys() & side.measured.keys()))


def compare(result: Result, recorded: Sequence[Result], *, must_hold: bool = False) -> Beside | None:
    """Compare a result with the recorded one of the same cell in the same setting.

    On the recorded processor the shared seeds are compared, on any other the means of all seeds that did not collapse.
    The band is a 99 % t interval for the difference of two means, without collapsed seeds. Its variance is the row's
    own if that has `OWN` degrees of freedom; else the median of the table's row variances, each divided by the median
    of the distribution of such a variance if the true one is 1.

    A difference outside the band is drift, unless the row is not judged: its seeds spread by more than `UNSTABLE` or
    some of them collapse; or, on another processor, it learns from pseudo labels, which turn rounding into other
    clusters, or its spread over two processors was never recorded.

    Args:
        result: The result of this run.
        recorded: Recorded results to search.
        must_hold: Whether the records must hold on this machine even if another processor made them.

    Returns:
        None if nothing was recorded or measured. A record of another recipe is not judged; with `must_hold` it is
        drift.
    """
    own = [_beginning(old, result) for old in recorded if old.case.place == result.case.place]
    own = [old for old in own if old.measured and old.identity.setting == result.identity.setting]
    if not own or not result.measured:
        return None
    old = max(own, key=lambda old: old.identity.recipe == result.identity.recipe)
    older = old.identity.recipe != result.identity.recipe
    now, sides = Runs.of(result), _sides(old)
    here = next((side for side in sides if side.on == now.on), None)
    before = [side.measured for side in ([here] if here else sides)]
    after = [now.measured]
    if here and (shared := _shared(here, now)):
        before, after = [_of(here, shared)], [_of(now, shared)]
    rows = [_sides(row) for row in recorded if row.measured and _alike(row, result)]
    moved: dict[str, Moved] = {}
    for name in metrics.names(judged=True):
        was, is_ = _values(before, name), _values(after, name)
        if was and is_:
            band = _band(_sound(sides, name), [_sound(row, name) for row in rows], len(was), len(is_))
            moved[name] = Moved(
                old=statistics.fmean(was),
                new=statistics.fmean(is_),
                band=result.band if band is None else band,
                before=len(was),
                after=len(is_),
            )
    unjudged = OLDER if older else _unstable(sides)
    if not unjudged and not here and not must_hold:
        unjudged = _elsewhere(sides, steady=result.steady)
    if not unjudged and any(metric.band is None for metric in moved.values()):
        unjudged = "too few seeds were recorded to estimate its spread"
    outside = any(map(beyond, moved.values()))
    return Beside(
        commit=old.stages[-1].provenance.commit if old.stages else None,
        recorded_on=sorted({text for side in sides for text in side.on}),
        same_machine=here is not None,
        recorded_seeds=sorted({int(seed) for numbers in before for seed in numbers}),
        seeds=sorted({int(seed) for numbers in after for seed in numbers}),
        metrics=moved,
        unjudged=unjudged,
        outside=outside and not older,
        drift=(outside and not unjudged) or (older and must_hold),
    )


def beyond(metric: Moved) -> bool:
    """Return whether old and new value of a metric differ by more than its band or, without one, at all."""
    return abs(metric.new - metric.old) > (metric.band or 0.0) + ROUNDING


def describe(beside: Beside) -> str:
    """Describe a comparison in one sentence: drifted or not judged, old, new, band, and the commit that recorded it."""
    changes = []
    for metric, moved in beside.metrics.items():
        band = "" if moved.band is None else f" (band {moved.band:.1f})"
        changes.append(f"{metric} was {moved.old:.1f} and is {moved.new:.1f}{band}")
    numbers = ", ".join(changes)
    if beside.drift and beside.unjudged == OLDER:
        return f"drifted: {OLDER}; {numbers}; pass --update-baselines"
    if beside.drift:
        commit = (beside.commit or "unknown")[:12]
        return f"drifted: {numbers}; recorded by commit {commit}; if intended, pass --update-baselines"
    return f"{numbers}; not judged: {beside.unjudged}" if beside.unjudged else numbers


def _beginning(old: Result, result: Result) -> Result:
    """A record as it would be after as few rounds as a result had: its mAP and rank-1 at the end of that round."""
    rounds = result.identity.rounds
    if not rounds or old.identity.rounds:
        return old
    cut = structs.replace(old, identity=structs.replace(old.identity, rounds=rounds))
    kept = {stage.key for stage in old.stages}
    if old.identity.selection != "last" or _trained(result).keys() <= kept:
        return cut
    measured: dict[str, Numbers] = {}
    for stage in _trained(old).values():
        tested = [entry for entry in stage.history if "mAP" in entry]
        if len(tested) >= rounds and str(stage.seed) in old.measured:
            numbers = tested[rounds - 1]
            measured[str(stage.seed)] = {name: numbers[name] for name in metrics.names(judged=True) if name in numbers}
    return structs.replace(cut, measured=measured, collapsed={}, elsewhere=[])


def _trained(record: Result) -> dict[str, StageEntry]:
    """The trainings that a record evaluates, by key."""
    by_key = {stage.key: stage for stage in record.stages}
    keys = ((stage.spec.get("train") or {}).get("key") for stage in record.stages)
    return {key: by_key[key] for key in keys if key in by_key}


def _unstable(sides: Sequence[Runs]) -> str:
    """Say why a row is too noisy to be judged; empty if it is not."""
    collapsed, seeds = sum(len(side.collapsed) for side in sides), sum(len(side.every) for side in sides)
    if 0 < collapsed < seeds:
        return f"unstable, {collapsed} of its {seeds} recorded seeds collapsed"
    values = _sound(sides, "mAP")
    if len(values) > 1 and (deviation := statistics.stdev(values)) > UNSTABLE:
        return f"unstable, its recorded seeds spread by {deviation:.1f} mAP"
    return ""


def _elsewhere(sides: Sequence[Runs], *, steady: bool) -> str:
    """Say why a row is not judged on a processor that it was not recorded on; empty if it is judged."""
    if not steady:
        return "it learns from pseudo labels and was recorded on another processor"
    if len(sides) < 2:
        return "it was recorded on only one other processor"
    return ""


def _band(own: Sequence[float], rows: Iterable[Sequence[float]], before: int, now: int) -> float | None:
    """Compute how far the means of so many seeds may lie apart; None if no row has two seeds."""
    from scipy import stats

    if len(own) > OWN:
        variance, freedom = statistics.variance(own), len(own) - 1
    else:
        several = [(statistics.variance(row), len(row) - 1) for row in rows if len(row) > 1]
        if not several:
            return None
        variance = statistics.median(value * free / stats.chi2.ppf(0.5, free) for value, free in several)
        freedom = sum(free for _, free in several)
    return half_width(math.sqrt(variance * (1 / before + 1 / now)), freedom, LEVEL)


def _shared(one: Runs, other: Runs) -> list[str]:
    """Return the seeds that both have, except those that collapsed in only one of them."""
    seeds = one.every.keys() & other.every.keys()
    return sorted(seeds - (one.collapsed ^ other.collapsed))


def _of(runs: Runs, seeds: Sequence[str]) -> Mapping[str, Numbers]:
    return {seed: runs.every[seed] for seed in seeds}


def _sound(sides: Iterable[Runs], metric: str) -> list[float]:
    return _values([side.measured for side in sides], metric)


def _values(measured: Iterable[Mapping[str, Numbers]], metric: str) -> list[float]:
    """Collect a metric over all seeds that have it."""
    return [numbers[metric] for runs in measured for numbers in runs.values() if metric in numbers]


def _sides(record: Result) -> list[Runs]:
    """Return a record's runs, one per machine that recorded it."""
    return [Runs.of(record), *map(Runs.of, record.elsewhere)]


def _alike(one: Result, other: Result) -> bool:
    """Return whether two records are rows of one table in one setting, apart from data sets, selection and recipe."""
    if (one.case.paper, one.case.table) != (other.case.paper, other.case.table):
        return False
    return _shared_setting(one.identity) == _shared_setting(other.identity)


def _shared_setting(identity: Identity) -> tuple[dict[str, Any], set[str]]:
    """Return what rows whose seeds spread alike share: the setting without `ROWS_OWN`, and the worlds of their data."""
    setting = {name: value for name, value in identity.setting.items() if name not in ROWS_OWN}
    worlds = [[entry.get(name) for name in ("kind", "world", "seed", "dials")] for entry in identity.data.values()]
    return setting, {json.dumps(world, sort_keys=True) for world in worlds}
