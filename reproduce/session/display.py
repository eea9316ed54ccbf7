"""Show running stages while a session runs, and tables of measured numbers at its end."""

from __future__ import annotations

import io
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from reproduce import metrics
from reproduce.data.sources import ImageStage, Source
from reproduce.metrics import METRICS
from reproduce.papers.baselines import describe
from reproduce.papers.records import ClaimRecord, Result
from reproduce.papers.statistics import beside_verdict
from reproduce.running.engine import Engine, Job
from reproduce.stage import Stage, walk
from reproduce.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

ROOMY = 110
"""Terminal width, in columns, from which the summary also shows rank-5 and rank-10."""

STEPS = 18
"""Columns kept for the steps of a running job, such as "iteration 100/2000", however long its label is."""

SPEAK_EVERY = 10.0
"""Seconds between two lines of one stage if the output is not a terminal."""


def label(stage: Stage[Any]) -> str:
    """Describe a stage in a few words, such as `supervised.Train market, seed 1`."""
    return _named(stage, _words(stage))


def kind(stage: Stage[Any]) -> str:
    """Describe a stage without training seeds and drawn worlds; stages of one kind take equally long."""
    return _named(stage, _words(stage, bare=True))


def _named(stage: Stage[Any], words: list[str]) -> str:
    several = ", ".join(dict.fromkeys(filter(None, words)))
    return f"{stage.name} {several}" if several else stage.name


def _words(stage: Stage[Any], *, bare: bool = False) -> list[str]:
    if not isinstance(stage, ImageStage) and isinstance(stage, Source):
        return [stage.label, _detail(stage, bare=bare)]
    words: list[str] = []
    for name, value in vars(stage).items():
        on = "on " if name == "on" else ""
        named = value if isinstance(value, tuple) else (value,)
        for part in walk((value,)):
            match part:
                case ImageStage():
                    words += [*_words(part, bare=bare), f"{on}images made by {part.label}"]
                case Source():
                    words += [on + part.label, _detail(part, bare=bare)]
                case Stage() if part in named:
                    words += _words(part, bare=bare)
        if name == "seed" and isinstance(value, int) and not bare:
            words.append(f"seed {value}")
    return [*words, stage.detail]


def _detail(source: Source, *, bare: bool) -> str:
    return "" if bare and source.drawn else source.detail


def clock(seconds: float) -> str:
    """Format seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def progress(job: Job) -> list[str]:
    """Describe a running job's progress: steps, last logged values, images per second, time left."""
    logged = job.progress
    words = [job.place] if job.place else []
    if logged.get("count"):
        words.append(f"{logged['unit']} {logged['done']}/{logged['count']}")
    for name, form in metrics.live().items():
        if name in logged:
            words.append(form.format(logged[name]))
    if "images_per_s" in logged:
        words.append(f"{logged['images_per_s']:.0f} images/s")
    own = logged.get("done", 0) - logged.get("restored", 0)
    if own and logged["done"] < logged["count"]:
        words.append(f"{clock(job.seconds / own * (logged['count'] - logged['done']))} left")
    return words


def fitting(words: Sequence[str], room: int) -> list[str]:
    """Drop words of a running job's progress until they fit: speed first, then values from the last, time left, steps.

    Args:
        words: Those of `progress`.
        room: Columns for them, with two between words.
    """
    kept = list(words)
    while kept and len("  ".join(kept)) > room:
        kept.pop(-2 if len(kept) > 2 else -1)
    return kept


def table(running: Sequence[Job], waiting: int, width: int, queued: Sequence[Job] = ()) -> Table:
    """Lay out the live lines, one for each running job.

    Args:
        running: The running jobs.
        waiting: Number of jobs that wait.
        width: Columns of the terminal; what does not fit is dropped or cut.
        queued: Jobs that wait in the queue of a cluster.
    """
    from rich.table import Table

    lines = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        lines.add_column(no_wrap=True)
    names = [label(job.stage) for job in running]
    clocks = [clock(job.seconds) for job in running]
    left = width - max(map(len, clocks), default=0) - 2
    longest = min(max(map(len, names), default=0), left - STEPS - 2)
    for job, seconds, name in zip(running, clocks, names, strict=True):
        shown = name if len(name) <= longest else f"{name[: longest - 1]}…"
        lines.add_row(seconds, shown, "  ".join(fitting(progress(job), left - longest - 2)))
    for place, count in Counter(job.place.partition(",")[0] for job in queued).items():
        lines.add_row("", f"{counted(count, 'stage')} {place}")
    if waiting:
        lines.add_row("", f"and {waiting} waiting")
    return lines


class Display:
    """Show an engine's jobs: redrawn lines on a terminal, else one line per change.

    Args:
        live: Whether the output is a terminal whose lines can be redrawn.
        say: Prints one line.
        new_line: Ends a line that other output has begun.
    """

    def __init__(self, live: bool, say: Callable[[str], None], new_line: Callable[[], None] = lambda: None) -> None:
        self._live_wanted, self._say, self._new_line = live, say, new_line
        self._live: Any = None
        self._spoke: dict[str, float] = {}

    def changed(self, job: Job) -> None:
        """Show that a job has started, progressed, told something or ended."""
        name = label(job.stage)
        if job.told:
            self._print(f"note    {name}: {job.told}")
        elif job.status == "queued":
            if not self._live_wanted:
                self._print(f"queued  {name} ({job.place})")
        elif job.status == "running" and not job.progress:
            self._spoke[job.stage.key] = time.monotonic()
            if not self._live_wanted:
                self._print(f"start   {name} {job.place}".rstrip())
        elif job.status == "running" and not self._live_wanted:
            if time.monotonic() - self._spoke[job.stage.key] >= SPEAK_EVERY:
                self._spoke[job.stage.key] = time.monotonic()
                self._print(f"        {name}: {', '.join(progress(job))}")
        elif job.status == "done":
            self._print(f"done    {name} in {clock(job.seconds)}")
        elif job.status == "failed":
            self._print(f"FAILED  {name}: {job.error}")

    def refresh(self, engine: Engine) -> None:
        """Redraw the live lines."""
        if not self._live_wanted:
            return
        if self._live is None:
            from rich.live import Live

            self._new_line()
            self._live = Live(transient=True, refresh_per_second=4)
            self._live.start()
        waiting = sum(job.status == "waiting" for job in engine.jobs.values())
        queued = [job for job in engine.jobs.values() if job.status == "queued"]
        self._live.update(table(engine.running(), waiting, self._live.console.width, queued))

    def stop(self) -> None:
        """Clear the live lines."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            self._say(line)


def summary(results: list[Result], width: int, *, colour: bool) -> str:
    """Format results as a table: a line of measured numbers and a line of printed ones for each."""
    from rich.console import Console
    from rich.table import Table

    out = io.StringIO()
    console = Console(file=out, width=max(width, 60), force_terminal=colour, no_color=not colour)
    stand_ins = any("stand-in data" in result.reasons for result in results)
    table = Table(box=None, pad_edge=False)
    table.add_column("in percent", min_width=14)
    table.add_column(no_wrap=True)
    names = {name for result in results for name in result.printed} | set(metrics.printed())
    declared = [METRICS[name] for name in metrics.measured() if name in names]
    shown = {metric.name: metric.short for metric in declared if width >= ROOMY or not metric.roomy}
    for head in shown.values():
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("verdict", min_width=14)
    several = len({result.identity.drawn for result in results}) > 1
    columns = {(it.paper, it.table, it.row, it.task, it.column) for it in (result.case for result in results)}
    alike = Counter(place[:-1] for place in columns)
    for result in results:
        case = result.case
        numbers = [spread(result, name) for name in shown]
        printed = ["-" if (value := result.printed.get(name)) is None else f"{value:.1f}" for name in shown]
        name = f"{case.paper} {case.table} {case.label}, {case.task}"
        name += f" {case.column}" if alike[case.paper, case.table, case.row, case.task] > 1 else ""
        name += f" ({result.identity.drawn})" if several and result.identity.drawn else ""
        name += f" on {' and '.join(own)}" if (own := result.identity.folders) else ""
        table.add_row(name, "measured", *numbers, result.verdict)
        table.add_row("", "printed", *printed, "", style="dim")
    console.print(table)
    if stand_ins:
        console.print("Stand-in data: not comparable with the paper.", style="bold")
    return out.getvalue()


def recorded_summary(results: list[Result]) -> list[str]:
    """Count the results that equal the recorded ones, and list those outside the band or not judged."""
    compared = [(result.case, result.baseline) for result in results if result.baseline]
    moved = [
        (case, base) for case, base in compared if any(metric.old != metric.new for metric in base.metrics.values())
    ]
    listed = [(case, base) for case, base in moved if base.outside or base.unjudged]
    cases, equal, within = counted(len(compared), "case"), len(compared) - len(moved), len(moved) - len(listed)
    lines = [f"{cases} recorded: {equal} equal, {within} within the band, {len(listed)} outside it or not judged"]
    if missing := sum(bool(result.measured) and result.baseline is None for result in results):
        lines.append(f"{counted(missing, 'case')} without a record in this setting")
    for case, base in listed:
        lines.append(f"  {case.paper} {case.table} {case.label}, {case.task}: {describe(base)}")
    if elsewhere := {text for _, base in compared if not base.same_machine for text in base.recorded_on}:
        lines.append(f"recorded on another processor: {'; '.join(sorted(elsewhere))}")
    return lines


def claims_summary(tried: list[ClaimRecord], width: int, *, colour: bool) -> str:
    """Format claims as a table: the stated value, the measured one with its interval, and the verdict."""
    from rich.console import Console
    from rich.table import Table

    out = io.StringIO()
    console = Console(file=out, width=max(width, 60), force_terminal=colour, no_color=not colour)
    table = Table(box=None, pad_edge=False)
    for head, justify in (
        ("claim", "left"),
        ("", "left"),
        ("stated", "right"),
        ("measured", "right"),
        ("verdict", "left"),
    ):
        table.add_column(head, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for record in tried:
        name = f"{record.claim.paper} {record.claim.id} {record.world}".strip()
        first = {"name": name, "verdict": ", ".join([record.verdict, *beside_verdict(record)])}
        for gap in record.compared:
            stated = "" if gap.stated is None else f"{gap.stated:+.1f}"
            measured = f"{gap.difference:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}]"
            metric = metrics.short(gap.metric)
            table.add_row(first.pop("name", ""), metric, stated, measured, first.pop("verdict", ""))
        if not record.compared:
            table.add_row(first["name"], "", "", "-", first["verdict"])
    console.print(table, markup=False)
    return out.getvalue()


def spread(result: Result, name: str) -> str:
    """Format the mean of a metric over seeds, in percent, with the standard deviation if there are several."""
    values = [seed[name] for seed in result.measured.values() if name in seed]
    if not values:
        return "-"
    return f"{statistics.fmean(values):.1f}" + (f" ±{statistics.stdev(values):.1f}" if len(values) > 1 else "")
