"""Plan a campaign: list its distinct stages, the cases that need them, and their times in earlier runs."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reproduce.errors import UserError
from reproduce.papers.records import FigureRecord, Result, StageEntry
from reproduce.running.runner import Store
from reproduce.scales import SCALES, at_scale
from reproduce.session.display import clock, kind, label
from reproduce.session.setting import Blocked, Setting
from reproduce.stage import Stage, closure, parents, rewrite
from reproduce.wording import counted

TRIAL = "trial"
"""Scale whose times are extrapolated to `paper`."""

OTHERS = "other stages"
"""What times are projected from for stages of a kind that no run timed."""

SHOWN = 3
"""Cases that the plan names for each reason that blocks some."""

NOUNS = ("case", "figure", "claim")
"""What needs a stage: cases of rows, figures, claims; the plan counts the first kind that does."""


def collected(suites: Path) -> list[object]:
    """Collect every case of a folder of suites and of other packages with pytest, runnable or not.

    Raises:
        UserError: Collection fails; the message is pytest's.
    """
    import contextlib
    import io

    import pytest

    class Collector:
        def __init__(self) -> None:
            self.cases: list[object] = []

        def pytest_collection_finish(self, session: pytest.Session) -> None:
            params = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
            self.cases = [values["case"] for values in params if "case" in values]

    collector, output = Collector(), io.StringIO()
    arguments = [str(suites), "--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    with contextlib.redirect_stdout(output):
        code = pytest.main(arguments, plugins=[collector])
    if code != pytest.ExitCode.OK:
        raise UserError(f"{suites} cannot be collected:\n{output.getvalue()}")
    return collector.cases


def plan(
    needed: Sequence[tuple[str, Sequence[Stage[Any]]]],
    store: Store,
    setting: Setting,
    earlier: Iterable[Result | FigureRecord],
    *,
    on_gpu: bool,
) -> Iterator[str]:
    """Yield a line for each distinct stage, then the total time to run.

    Args:
        needed: Kind ("case", "figure" or "claim") and final stages of each case.
        store: Store of finished stages.
        setting: Setting of the run.
        earlier: Results and figures whose stages recorded their times.
        on_gpu: Whether the stages would run on GPUs; times recorded on the other kind of device are ignored.
    """
    users = [(noun, {stage.key for stage in closure(stages)}) for noun, stages in needed]
    expected: list[Time] = []
    unknown = 0
    distinct = closure(stage for _, stages in needed for stage in stages)
    known = times(distinct, earlier, setting, on_gpu=on_gpu)
    for stage in distinct:
        here, time = store.has(stage), known.get(stage.key)
        if not here and time:
            expected.append(time)
        unknown += not (here or time)
        nouns = Counter(noun for noun, keys in users if stage.key in keys)
        noun = next(noun for noun in NOUNS if nouns[noun])
        takes = ("~" if time.projected else "") + clock(time.seconds) if time else "?"
        where = "in store" if here else "to run"
        yield f"  {stage.key}  {where:8}  {takes:>8}  {counted(nouns[noun], noun):7}  {label(stage)}"
    first = ": run --scale trial first" if setting.scale == "paper" else ""
    if unknown and not expected:
        yield f"to run: {counted(unknown, 'stage')} that no recorded run timed{first}"
        return
    total = sum(time.seconds for time in expected)
    kind_of_time = "GPU time" if on_gpu else f"processor time ({total:,.0f} core-seconds)"
    others = _projections(expected)
    others += f", and {counted(unknown, 'stage')} that none of them timed{first}" if unknown else ""
    yield f"to run: {clock(total)} of {kind_of_time}, as recorded runs took{others}"


class Time(NamedTuple):
    """How long a stage takes."""

    seconds: float
    """Of a GPU, or of a processor."""
    projected: str = ""
    """What they are projected from by its work: `TRIAL` or `OTHERS`; empty if stages of its kind were timed."""


def _projections(known: Iterable[Time]) -> str:
    """Say in parentheses how many times are projected, and from what; empty if none is."""
    counts = Counter(time.projected for time in known)
    names = {TRIAL: f"scale {TRIAL}", OTHERS: OTHERS}
    parts = [f"from {names[source]} for {counted(counts[source], 'stage')}" for source in names if counts[source]]
    return f" (projected {' and '.join(parts)})" if parts else ""


def times(
    stages: Iterable[Stage[Any]], earlier: Iterable[Result | FigureRecord], setting: Setting, *, on_gpu: bool
) -> dict[str, Time]:
    """Look up how long stages and all upstream ones took, by key.

    The time of a stage whose kind was never timed is projected by its work: at `paper` from the same kind at `trial`,
    else from stages of the same name, else from all that train. Those without any of these are left out.
    """
    earlier = list(earlier)
    timed, at_trial = (list(_timed(earlier, setting, scale, on_gpu=on_gpu)) for scale in (setting.scale, TRIAL))
    took, tried = ({own: statistics.median(each) for own, each in _by_kind(them)} for them in (timed, at_trial))
    rates = _rates([*timed, *at_trial] if setting.scale == "paper" else timed)
    known: dict[str, Time] = {}
    for stage in closure(stages):
        own = kind(stage)
        rate = rates.get(stage.name) or (rates.get("") if stage.work > 1 else None)
        if own in took:
            known[stage.key] = Time(took[own])
        elif setting.scale == "paper" and own in tried:
            cut = rewrite(stage, by_role=at_scale(SCALES[TRIAL]))
            known[stage.key] = Time(tried[own] * stage.work / cut.work, TRIAL)
        elif rate:
            known[stage.key] = Time(rate * stage.work, OTHERS)
    return known


class Needed(NamedTuple):
    """A case, and what it takes to decide its printed numbers."""

    cells: int
    """Printed numbers."""
    stages: Sequence[Stage[Any]]
    """Final stages."""


class Chosen(NamedTuple):
    """A step of a campaign."""

    stages: list[Stage[Any]]
    """Stages to add, upstream ones first."""
    cases: int
    """Cases that are complete after it."""
    cells: int
    """Their printed numbers."""


def choose(
    cases: Iterable[Needed], there: Collection[str], seconds: Mapping[str, float], budget: float
) -> Iterator[Chosen]:
    """Yield the steps that decide most printed numbers for each second that they add, while they fit.

    This is greedy: a stage that several cases share counts fully for the first of them.

    Args:
        cases: Cases whose stages all have a time.
        there: Keys of finished stages.
        seconds: Times of stages, by key.
        budget: Seconds for all steps.
    """
    left = [(case.cells, _missing(case.stages, there)) for case in cases]
    spent, complete, cells = 0.0, 0, 0
    while left:
        costs = [sum(seconds[stage.key] for stage in lacks) for _, lacks in left]
        fitting = [place for place, cost in enumerate(costs) if spent + cost <= budget]
        if not fitting:
            return
        best = max(fitting, key=lambda place: (not left[place][1], left[place][0] / max(costs[place], 1e-9)))
        added, spent = left[best][1], spent + costs[best]
        new = {stage.key for stage in added}
        left = [(own, [stage for stage in lacks if stage.key not in new]) for own, lacks in left]
        complete += sum(not lacks for _, lacks in left)
        cells += sum(own for own, lacks in left if not lacks)
        left = [(own, lacks) for own, lacks in left if lacks]
        yield Chosen(added, complete, cells)


def within(cases: Sequence[Needed], store: Store, known: Mapping[str, Time], budget: float) -> Iterator[str]:
    """Yield a line for each stage that fits a budget, in the order of `choose`, then what they decide.

    Cases with a stage that no run timed are counted, not ordered.

    Args:
        cases: Cases to choose from.
        store: Store of finished stages.
        known: Times of stages, by key.
        budget: Seconds.
    """
    there = {stage.key for stage in closure(stage for case in cases for stage in case.stages) if store.has(stage)}
    timed = [case for case in cases if all(stage.key in known for stage in _missing(case.stages, there))]
    seconds = {key: time.seconds for key, time in known.items()}
    run: list[Stage[Any]] = []
    spent, step = 0.0, Chosen([], 0, 0)
    for step in choose(timed, there, seconds, budget):
        for stage in step.stages:
            spent += seconds[stage.key]
            decided = counted(step.cells, "cell") if stage is step.stages[-1] else ""
            yield f"  {stage.key}  {clock(spent):>9}  {decided:>10}  {label(stage)}"
        run += step.stages
    guessed = _projections(known[stage.key] for stage in run)
    cells = counted(sum(case.cells for case in cases), "cell")
    yield (
        f"within {clock(budget)}: {step.cases} of {counted(len(cases), 'case')} and {step.cells} of {cells}, "
        f"by {counted(len(run), 'stage')} in {clock(spent)}{guessed}"
    )
    if late := len(timed) - step.cases:
        yield f"{counted(late, 'case')} would not fit"
    if unknown := len(cases) - len(timed):
        yield f"{counted(unknown, 'case')} of unknown cost: some stage was never timed: run --scale trial first"


def _missing(stages: Iterable[Stage[Any]], there: Collection[str]) -> list[Stage[Any]]:
    """List the stages to run, upstream ones first; what only stored ones need is not run."""
    ordered: dict[str, Stage[Any]] = {}
    for stage in stages:
        if stage.key not in there:
            ordered |= {each.key: each for each in (*_missing(parents(stage), there), stage)}
    return list(ordered.values())


def blocked(trials: Iterable[tuple[str, Blocked]]) -> Iterator[str]:
    """Yield a line for each reason that blocks cases.

    Args:
        trials: Name and reason of each blocked case.
    """
    names: dict[tuple[str, str], list[str]] = {}
    for name, reason in trials:
        names.setdefault((reason.want, str(reason)), []).append(name)
    for (want, text), cases in names.items():
        shown = ", ".join(cases[:SHOWN]) + (f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else "")
        yield f"  blocked({want})  {counted(len(cases), 'case')}: {text} [{shown}]"


def _timed(
    earlier: Iterable[Result | FigureRecord], setting: Setting, scale: str, *, on_gpu: bool
) -> Iterator[StageEntry]:
    """Yield the stages of recorded runs at a scale with this setting's subset, precision and rounds."""
    own = setting.identity([])
    for record in earlier:
        identity = record.identity
        settings = [(it.subset, it.precision, it.rounds) for it in (identity, own)]
        if identity.scale == scale and settings[0] == settings[1]:
            for stage in record.stages:
                if (stage.provenance.device != "cpu") == on_gpu:
                    yield stage


def _by_kind(entries: Iterable[StageEntry]) -> Iterable[tuple[str, list[float]]]:
    seconds: dict[str, list[float]] = {}
    for entry in entries:
        seconds.setdefault(entry.kind, []).append(entry.provenance.device_s)
    return seconds.items()


def _rates(entries: Iterable[StageEntry]) -> dict[str, float]:
    """Compute the median seconds per work of the stages of each name and, under "", of the names that train."""
    ratios: dict[str, list[float]] = {}
    trains = set()
    for entry in entries:
        if entry.work:
            ratios.setdefault(entry.name, []).append(entry.provenance.device_s / entry.work)
            if entry.work > 1:
                trains.add(entry.name)
    rates = {name: statistics.median(several) for name, several in ratios.items()}
    return rates | ({"": statistics.median(rates[name] for name in trains)} if trains else {})
