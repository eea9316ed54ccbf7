"""The plan of a campaign: its distinct stages, what needs them, and how long they take, as earlier runs tell."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reproduce.errors import UserError
from reproduce.papers.records import FigureRecord, Result
from reproduce.running.runner import Store
from reproduce.scales import SCALES, at_scale
from reproduce.session.display import clock, counted, kind, label
from reproduce.session.setting import Setting
from reproduce.stage import Stage, closure, rewrite

TRIAL = "trial"
"""The scale whose times tell what `paper` will take."""

NOUNS = ("row", "figure", "claim")
"""What a stage is needed for, in the order in which it is told."""


def collected(suites: Path) -> list[object]:
    """Every case of a folder of suites and of those that other packages bring, run or not, as pytest collects them.

    Raises:
        UserError: they cannot be collected; the message is pytest's.
    """
    import contextlib
    import io

    import pytest

    class Collector:
        def __init__(self) -> None:
            self.cases: list[object] = []

        def pytest_collection_finish(self, session: pytest.Session) -> None:
            params = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
            self.cases = [found["case"] for found in params if "case" in found]

    collector, told = Collector(), io.StringIO()
    arguments = [str(suites), "--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    with contextlib.redirect_stdout(told):
        ended = pytest.main(arguments, plugins=[collector])
    if ended != pytest.ExitCode.OK:
        raise UserError(f"{suites} cannot be collected:\n{told.getvalue()}")
    return collector.cases


def plan(
    needed: Sequence[tuple[str, Sequence[Stage[Any]]]],
    store: Store,
    setting: Setting,
    earlier: Iterable[Result | FigureRecord],
) -> Iterator[str]:
    """A line a distinct stage, then what is to run in all.

    Args:
        needed: what each case is ("row", "figure" or "claim"), and its final stages.
        store: where finished stages lie.
        setting: of the run.
        earlier: results and figures whose stages tell how long they took.
    """
    earlier = list(earlier)
    took, tried = (_seconds(earlier, setting, scale) for scale in (setting.scale, TRIAL))
    users = [(noun, {stage.key for stage in closure(stages)}) for noun, stages in needed]
    expected, unknown, projected = 0.0, 0, 0
    for stage in closure(stage for _, stages in needed for stage in stages):
        of_its_kind = kind(stage)
        seconds, here, guessed = took.get(of_its_kind), store.has(stage), False
        if seconds is None and setting.scale == "paper" and of_its_kind in tried:
            cut = rewrite(stage, by_role=at_scale(SCALES[TRIAL]))
            seconds, guessed = tried[of_its_kind] * stage.work / cut.work, True
        if not here:
            expected, unknown, projected = expected + (seconds or 0), unknown + (seconds is None), projected + guessed
        nouns = Counter(noun for noun, keys in users if stage.key in keys)
        noun = next(noun for noun in NOUNS if nouns[noun])
        time = clock(seconds) if seconds is not None else "?"
        where = "in store" if here else "to run"
        yield f"  {stage.key}  {where:8}  {time:>7}  {counted(nouns[noun], noun):7}  {label(stage)}"
    others = f" (projected from scale {TRIAL} for {counted(projected, 'stage')})" if projected else ""
    others += f", and {counted(unknown, 'stage')} that no recorded run tells of" if unknown else ""
    yield f"to run: {clock(expected)} of stage time, as recorded runs took{others}"


def _seconds(earlier: Iterable[Result | FigureRecord], setting: Setting, scale: str) -> dict[str, float]:
    """Median seconds of each kind of stage at a scale, on as much data and in the precision of this setting."""
    own = setting.identity([])
    seconds: dict[str, list[float]] = {}
    for record in earlier:
        identity = record.identity
        settings = [(it.subset, it.precision, it.rounds) for it in (identity, own)]
        if identity.scale == scale and settings[0] == settings[1]:
            for stage in record.stages:
                seconds.setdefault(stage.kind, []).append(stage.provenance.wall_s)
    return {kind: statistics.median(several) for kind, several in seconds.items()}
