"""The plan of a campaign: its distinct stages, what needs them, and how long they take, as earlier runs tell."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reproduce.data.world import Dials
from reproduce.errors import UserError
from reproduce.papers.results import Result
from reproduce.running.runner import Store
from reproduce.scales import SCALES, at_scale
from reproduce.session.display import clock, counted, label
from reproduce.session.setting import Setting
from reproduce.stage import Stage, closure, rewrite

TRIAL = "trial"
"""The scale whose times tell what `paper` will take."""


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
    rows: Sequence[Sequence[Stage[Any]]],
    figures: Sequence[Stage[Any]],
    store: Store,
    setting: Setting,
    earlier: Iterable[Result],
) -> Iterator[str]:
    """A line a distinct stage, then what is to run in all.

    Args:
        rows: the final stages of each row, one a training seed.
        figures: the stage of each figure.
        store: where finished stages lie.
        setting: of the run.
        earlier: results and figures whose stages tell how long they took.
    """
    earlier = list(earlier)
    took, tried = (_seconds(earlier, setting, scale) for scale in (setting.scale, TRIAL))
    needed = [{stage.key for stage in closure(several)} for several in rows]
    drawn = [{stage.key for stage in closure([figure])} for figure in figures]
    expected, unknown, projected = 0.0, 0, 0
    for stage in closure([*(stage for several in rows for stage in several), *figures]):
        kind = _kind(label(stage))
        seconds, here, guessed = took.get(kind), store.has(stage), False
        if seconds is None and setting.scale == "paper" and kind in tried:
            cut = rewrite(stage, by_role=at_scale(SCALES[TRIAL]))
            seconds, guessed = tried[kind] * stage.work / cut.work, True
        if not here:
            expected, unknown, projected = expected + (seconds or 0), unknown + (seconds is None), projected + guessed
        by_rows, by_figures = (sum(stage.key in keys for keys in all_of) for all_of in (needed, drawn))
        users = counted(by_rows, "row") if by_rows or not by_figures else counted(by_figures, "figure")
        time = clock(seconds) if seconds is not None else "?"
        yield f"  {stage.key}  {'in store' if here else 'to run':8}  {time:>7}  {users:7}  {label(stage)}"
    others = f" (projected from scale {TRIAL} for {counted(projected, 'stage')})" if projected else ""
    others += f", and {counted(unknown, 'stage')} that no recorded run tells of" if unknown else ""
    yield f"to run: {clock(expected)} of stage time, as recorded runs took{others}"


def _seconds(earlier: Iterable[Result], setting: Setting, scale: str) -> dict[str, float]:
    """Median seconds of each kind of stage at a scale, on as much data and in the precision of this setting."""
    alike = {name: setting.identity([]).get(name) for name in ("subset", "precision")} | {"scale": scale}
    found: dict[str, list[float]] = {}
    for result in earlier:
        if all(result["identity"].get(name) == value for name, value in alike.items()):
            for entry in result["stages"]:
                found.setdefault(_kind(entry["label"]), []).append(entry["provenance"]["wall_s"])
    return {kind: statistics.median(several) for kind, several in found.items()}


def _kind(label: str) -> str:
    """The label of a stage without its seeds and its world."""
    return re.sub(rf",? (seed|world) \d+|,? no ({'|'.join(vars(Dials()))})\b", "", label)
