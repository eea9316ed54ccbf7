"""Plan a campaign: list its distinct stages, the cases that need them, and their times in earlier runs."""

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
from reproduce.session.setting import Blocked, Setting
from reproduce.stage import Stage, closure, rewrite

TRIAL = "trial"
"""Scale whose times are extrapolated to `paper`."""

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
    earlier = list(earlier)
    took, tried = (_seconds(earlier, setting, scale, on_gpu=on_gpu) for scale in (setting.scale, TRIAL))
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
    first = ": run --scale trial first" if setting.scale == "paper" else ""
    if unknown and not expected:
        yield f"to run: {counted(unknown, 'stage')} that no recorded run timed{first}"
        return
    kind_of_time = "GPU time" if on_gpu else f"processor time ({expected:,.0f} core-seconds)"
    others = f" (projected from scale {TRIAL} for {counted(projected, 'stage')})" if projected else ""
    others += f", and {counted(unknown, 'stage')} that none of them timed{first}" if unknown else ""
    yield f"to run: {clock(expected)} of {kind_of_time}, as recorded runs took{others}"


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


def _seconds(
    earlier: Iterable[Result | FigureRecord], setting: Setting, scale: str, *, on_gpu: bool
) -> dict[str, float]:
    """Compute the median processor or GPU seconds of each kind of stage at a scale.

    Only runs with this setting's subset, precision and rounds count.
    """
    own = setting.identity([])
    seconds: dict[str, list[float]] = {}
    for record in earlier:
        identity = record.identity
        settings = [(it.subset, it.precision, it.rounds) for it in (identity, own)]
        if identity.scale == scale and settings[0] == settings[1]:
            for stage in record.stages:
                if (stage.provenance.device != "cpu") == on_gpu:
                    seconds.setdefault(stage.kind, []).append(stage.provenance.device_s)
    return {kind: statistics.median(several) for kind, several in seconds.items()}
