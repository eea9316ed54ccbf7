"""Run a campaign: the cases of one pytest session, their stages and their records."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reproduce.errors import UserError
from reproduce.evaluation import Trained
from reproduce.files import check_writable, printable
from reproduce.papers import records
from reproduce.papers.cases import AnyCase, Case, ClaimCase, FigureCase
from reproduce.papers.installed import RECORDED, SUITES, check_packages, suites_folder
from reproduce.papers.records import ClaimRecord, FigureRecord, Record, Result, Spread
from reproduce.papers.verdicts import SEEDS_FOR_A_REPRODUCTION
from reproduce.running import slurm
from reproduce.running.cluster import Cluster
from reproduce.running.engine import Engine, Job, Lease, Stopped, heard, lease_gpus, visible_gpus
from reproduce.running.provenance import ROOT, is_checkout
from reproduce.running.runner import Site, Store
from reproduce.scales import SCALES
from reproduce.session.display import Display, claims_summary, recorded_summary, summary
from reproduce.session.planning import OTHERS, Needed, blocked, plan, times, within
from reproduce.session.setting import SCRATCH, Setting, data_root, given_folders
from reproduce.session.trials import KINDS, ClaimTrial, FigureTrial, RowTrial, Trial, pooled
from reproduce.stage import Stage, closure
from reproduce.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAGE_ERROR = 6
"""Exit code if a stage failed; 1 if all stages succeeded and a number is off."""

FOLDERS = {Result: "results", ClaimRecord: "claims", FigureRecord: "figures"}
"""Folder of each kind of record, under the output."""


class Campaign:
    """Resolve, run and judge the cases of one pytest session."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.nodes: dict[tuple[str, str], str] = {}
        """Pytest's name for the test of each case, by paper and case."""
        self.suites = suites_folder()
        self.seeds: tuple[int, ...] = ()
        self.trials: list[Trial[Any]] = []
        """Trials of the selected cases."""
        self.rows: dict[object, RowTrial] = {}
        """Trials of all needed rows, by cell and world: selected ones, and those that selected claims compare."""
        self.kept: dict[Path, Record] = {}
        """Records written by this session, by path."""
        self.spreads: dict[tuple[str, str], dict[str, Spread]] = {}
        """Pooled spread between seeds, by paper and table."""
        self.recorded: list[Result] = []
        """Recorded results to compare with."""
        self.engine: Engine | None = None
        self._handlers: dict[int, Any] = {}
        self.report: Path | None = None
        self.stopped = False
        """Whether a signal ended the run."""

    def collected(self, items: Sequence[pytest.Item]) -> None:
        """Remember the test name of every case, selected or not."""
        roots = (ROOT, self.config.invocation_params.dir)
        for item in items:
            if isinstance(case := case_of(item), (Case, ClaimCase, FigureCase)):
                root = next((root for root in roots if item.path.is_relative_to(root)), None)
                path = item.path.relative_to(root) if root else item.path
                test = item.nodeid.partition("::")[2]
                self.nodes.setdefault((case.paper, case.id), f"{path.as_posix()}::{test}")

    def begin(self, items: list[pytest.Item]) -> None:
        """Resolve all selected cases, then show the plan or submit their stages."""
        selected = [(item.path, case) for item in items if (case := case_of(item)) is not None]
        cases = [case for _, case in selected if not isinstance(case, Case) or case.recipe]
        if not cases:
            return
        check_packages()
        option = self.config.option
        self.suites = next((path.parent for path, _ in selected if path.parent.name == SUITES), selected[0][0].parent)
        self.seeds = _seeds(option.seeds)
        self.slurm = _slurm(option)
        if option.budget and not (option.plan and _budget(option.budget)):
            raise UserError("--budget is for a plan: add --plan")
        leases = [] if option.plan or self.slurm else self._leases()
        on_gpu = bool(leases) or (option.plan and not self.slurm and option.gpus != 0 and bool(visible_gpus()))
        on_gpu = on_gpu or bool(self.slurm and self.slurm.gpu)
        self.setting = _setting(option, on_gpu=on_gpu)
        self.out = Path(option.out)
        self.baselines = Path(option.baselines or self.suites.parent / RECORDED)
        if option.update_baselines and not option.baselines and ROOT in self.suites.parents and not is_checkout():
            raise UserError("--update-baselines would change an installed package: name your own --baselines DIR")
        if self.baselines.is_dir() or (option.baselines and not option.update_baselines):
            self.recorded = records.read(self.baselines)
        if option.neighbours == "faiss" and not find_spec("faiss"):
            raise UserError("--neighbours faiss needs faiss: pip install 'reproduce-reid[faiss-cpu]'")
        root = Path(option.store or self.out / "store").resolve()
        if not option.plan:
            check_writable(self.out, "--out")
            check_writable(root, "--store")
        self.store = Store(root)
        for case in cases:
            self._try(case)
        self._check_divisible()
        if option.plan:
            self._show_plan(on_gpu=on_gpu)
            if not self.slurm:
                return
        site = Site(
            self.store.root,
            device="cuda:0" if self.slurm and on_gpu else "cpu",
            folders=self.setting.paths(),
            weights=self.setting.files,
            neighbours=option.neighbours,
            ranks=option.gpus_per_stage,
        )
        jobs = option.jobs or (1 if leases else len(os.sched_getaffinity(0)))
        reporter: Any = self.config.pluginmanager.getplugin("terminalreporter")
        live = sys.stdout.isatty() and reporter.isatty and reporter.verbosity >= 0
        self.display = Display(live, lambda line: self._say(reporter, line), reporter.ensure_newline)
        stages = [stage for trial in (*self.rows.values(), *self._others()) for stage in trial.stages]
        if self.slurm:
            known = times(stages, self._earlier, self.setting, on_gpu=on_gpu)
            seconds = {key: time.seconds for key, time in known.items() if not time.projected}
            choices = replace(self.slurm, seconds=seconds)
            self.engine = Cluster(site, choices, logs=self.out / "logs", on_change=self.display.changed)
        else:
            self.engine = Engine(
                site,
                leases=leases,
                jobs=jobs,
                logs=self.out / "logs",
                on_change=self.display.changed,
                grace=option.grace,
            )
        self.engine.submit(stages)
        if option.plan and isinstance(self.engine, Cluster):
            for script in self.engine.scripts():
                self._say(reporter, f"\n{script}")
            return
        self._handlers = {number: signal.signal(number, self.engine.stop) for number in heard()}
        self._introduce(reporter, leases, jobs)
        if option.detach and isinstance(self.engine, Cluster):
            new, before = self.engine.detach()
            found = f", {before} were submitted before" if before else ""
            self._say(reporter, f"{counted(new, 'job')} submitted{found}: the same command without --detach collects")

    def _try(self, case: AnyCase) -> None:
        if isinstance(case, Case):
            trial: Trial[Any] = self.row(case)
        else:
            trial = KINDS[type(case)](self, case)
            trial.prepare()
        self.trials.append(trial)

    def row(self, case: Case) -> RowTrial:
        """Return the trial of a row, one per cell and world."""
        place = case.cell.place, case.world
        if place not in self.rows:
            self.rows[place] = RowTrial(self, case)
            self.rows[place].prepare()
        return self.rows[place]

    def claims_beside(self, trial: ClaimTrial) -> Iterator[ClaimTrial]:
        """Yield the selected claims about the same table in the same world, including the given one."""
        case = trial.case
        for other in self.trials:
            if isinstance(other, ClaimTrial):
                place = other.case.paper, other.case.claim.table, other.case.world
                if place == (case.paper, case.claim.table, case.world):
                    yield other

    def spread_of_table(self, case: Case) -> dict[str, Spread]:
        """Pool the spread between seeds over the rows of a case's table that run in this session."""
        table = case.paper, case.table
        if table not in self.spreads:
            rows = [row for row in self.rows.values() if (row.case.paper, row.case.table) == table]
            rows = [row for row in rows if row.case.world is None and row.case.point is None and len(row.stages) > 1]
            self.spreads[table] = pooled(rows, self)
        return self.spreads[table]

    @property
    def errors(self) -> bool:
        """Whether any stage failed."""
        return any(record.verdict == "error" for record in self.kept.values())

    def _others(self) -> list[Trial[Any]]:
        return [trial for trial in self.trials if not isinstance(trial, RowTrial)]

    @property
    def _selected(self) -> str:
        figures = sum(isinstance(trial, FigureTrial) and not trial.blocked for trial in self.trials)
        counts = {"case": sum(not row.blocked for row in self.rows.values()), "figure": figures}
        return " and ".join(counted(count, noun) for noun, count in counts.items() if count) or "0 cases"

    def _leases(self) -> list[Lease]:
        wanted = self.config.option.gpus
        ranks = max(1, self.config.option.gpus_per_stage)  # `_setting` refuses others
        return [] if wanted == 0 and ranks == 1 else lease_gpus(wanted, ranks=ranks)

    def _check_divisible(self) -> None:
        """Refuse a number of GPUs that cannot share one of the trainings."""
        ranks = self.config.option.gpus_per_stage
        stages = closure(stage for trial in (*self.rows.values(), *self._others()) for stage in trial.stages)
        for stage in stages if ranks > 1 else ():
            if isinstance(stage, Trained) and not self.store.has(stage) and (why := stage.undivided(ranks)):
                raise UserError(f"--gpus-per-stage {ranks}: {why}; give another number, or 1")

    def _say(self, reporter: Any, line: str) -> None:
        reporter.ensure_newline()
        reporter.write_line(line)
        reporter.flush()

    def _introduce(self, reporter: Any, leases: list[Lease], jobs: int) -> None:
        assert self.engine
        queued = list(self.engine.jobs.values())
        cached = sum(job.status == "cached" for job in queued)
        together = self.config.option.gpus_per_stage
        on_gpus = f"{counted(len(leases), 'GPU')}, {counted(jobs, 'stage')} at once on each"
        on_gpus += f", {together} of them for a training" if together > 1 else ""
        where = on_gpus if leases else f"the CPU, {jobs} at once"
        where = f"Slurm, at most {counted(self.slurm.max_jobs, 'job')} at once" if self.slurm else where
        where += "; neighbours by faiss" if self.config.option.neighbours == "faiss" else ""
        self._say(
            reporter,
            f"scale {self.setting.scale} ({SCALES[self.setting.scale].does}); "
            f"seeds {', '.join(map(str, self.seeds))}; on {where}",
        )
        for domain, located in sorted(self.setting.located.items(), key=lambda item: (item[0].name, item[0].variant)):
            counts = (
                "the published counts"
                if located.kind == "real"
                else "not the published set: results are not comparable with the paper"
            )
            digest = f"digest {located.real.digest[:12]}"
            details = ", ".join(filter(None, (located.version, domain.variant, digest, counts)))
            self._say(reporter, f"{domain.name} is {printable(str(located.folder))} ({details})")
            for odd in located.odd:
                self._say(reporter, f"note: in {domain.name}, {odd}")
        if self.setting.on_stand_ins:
            self._say(reporter, "stand-in data, drawn here: results are not comparable with the paper")
        stages = f"{counted(len(queued), 'stage')}, {cached} of them in the store {self.engine.store.root}"
        self._say(reporter, f"{self._selected}: {stages}")

    @cached_property
    def _earlier(self) -> list[Result | FigureRecord]:
        """Read what earlier runs recorded, in whose records stages have their times."""
        here = self.out / "results"
        earlier = [*self.recorded, *(records.read(here) if here.is_dir() else ())]
        return [*earlier, *records.read_figures(self.baselines), *records.read_figures(self.out / "figures")]

    def _show_plan(self, *, on_gpu: bool) -> None:
        reporter: Any = self.config.pluginmanager.getplugin("terminalreporter")
        trials = [*self.rows.values(), *self._others()]
        needed = [(trial.noun, trial.stages) for trial in trials if not trial.blocked]
        option, earlier = self.config.option, self._earlier
        lines = list(plan(needed, self.store, self.setting, earlier, on_gpu=on_gpu))
        distinct = counted(len(lines) - 1, "distinct stage")
        self._say(reporter, f"{self._selected} at scale {self.setting.scale}: {distinct}")
        if option.budget:
            rows = [
                Needed(row.case.cells if row.case.world is None else 0, row.stages)
                for row in self.rows.values()
                if not row.blocked
            ]
            known = times((stage for row in rows for stage in row.stages), earlier, self.setting, on_gpu=on_gpu)
            sure = {key: time for key, time in known.items() if time.projected != OTHERS}
            lines = list(within(rows, self.store, sure, _budget(option.budget)))
        for line in lines:
            self._say(reporter, line)
        reasons = [(f"{trial.case.paper} {trial.case.id}", trial.blocked) for trial in trials if trial.blocked]
        for line in blocked(reasons):
            self._say(reporter, line)

    def judge(self, case: AnyCase, properties: list[tuple[str, object]]) -> None:
        """Wait for a case, then record and judge it.

        Args:
            case: A row, a claim or a figure.
            properties: Properties of its test, to which verdict and numbers are added.
        """
        if isinstance(case, Case):
            if case.recipe is None:
                pytest.skip(f"the method of {case.row.label!r} is not implemented yet")
            trial: Trial[Any] = self.row(case)
        else:
            trial = next(trial for trial in self.trials if trial.case is case)
        trial.judge(properties)

    def wait(self, stage: Stage[Any]) -> Job:
        """Wait until a stage has ended and return its job."""
        assert self.engine
        engine = self.engine
        capture: Any = self.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            try:
                return engine.wait(stage, lambda: self.display.refresh(engine))
            except Stopped as stopped:
                self.stopped = True
                pytest.exit(str(stopped))
            except KeyboardInterrupt:
                self.stopped = True
                done = sum(job.status in ("done", "cached") for job in engine.jobs.values())
                self.display.stop()
                jobs = _leave_or_cancel(engine) if isinstance(engine, Cluster) else ""
                pytest.exit(f"stopped: {done} of {len(engine.jobs)} stages kept{jobs}; the same command goes on")
            finally:
                self.display.stop()

    def keep(self, record: Record, pictures: NDArray[np.uint8] | None = None) -> None:
        """Write a record, and a figure's pictures, under the output."""
        folder = self.out / FOLDERS[type(record)]
        try:
            if isinstance(record, FigureRecord):
                path = records.write_figure(record, pictures, folder)
                self.kept[path] = records.read_one(path)
            else:
                self.kept[records.write(record, folder)] = record
        except OSError as error:
            mend = "mend that and run the same command again: finished stages are kept"
            pytest.fail(f"no result can be written under {folder} ({error.strerror}): {mend}", pytrace=False)

    def command(self, case: AnyCase) -> str:
        """Return the command that runs a case alone, in the same setting."""
        option = self.config.option
        target: AnyCase = case
        if isinstance(case, Case) and (case.world or (case.paper, case.id) not in self.nodes):
            place = case.cell.place, case.world
            target = next(
                trial.case
                for trial in self.trials
                for row in getattr(trial, "rows", ())
                if (row.case.cell.place, row.case.world) == place
            )
        words = [f"pytest '{self.nodes[target.paper, target.id]}'", f"--scale {self.setting.scale}"]
        words.append(f"--seeds {','.join(map(str, self.seeds))}")
        words += ["--pictures"] if isinstance(case, FigureCase) and option.pictures else []
        words += ["--data-root DIR"] if self.setting.root else []
        words += [f"--domain {name}=DIR" for name in self.setting.folders]
        words += ["--accept-counts"] if self.setting.accept_counts else []
        if self.setting.on_stand_ins and self.setting.world_seed != 1:
            words.append(f"--world-seed {self.setting.world_seed}")
        if option.subset is not None:
            words.append(f"--subset {option.subset}")
        words += [f"--precision {option.precision}"] if option.precision else []
        words += [f"--rounds {option.rounds}"] if option.rounds else []
        words += ["--pretrain"] if option.pretrain else []
        if option.weights is not None:
            words.append(f"--weights {SCRATCH if option.weights == SCRATCH else 'DIR'}")
        return " ".join(words)

    def summarise(self, reporter: Any) -> None:
        """Render the reports and print the tables of measured numbers, claims and figures."""
        kept = self.kept.values()
        results = [record for record in kept if isinstance(record, Result)]
        claims = [record for record in kept if isinstance(record, ClaimRecord)]
        figures = [record for record in kept if isinstance(record, FigureRecord)]
        if not results and not figures:
            return
        for hook in entry_points(group="reproduce.finish"):
            try:
                self.report = hook.load()(results, self.suites, self.out, claims=claims, figures=figures)
            except OSError as error:
                reporter.write_line(f"no report can be written under {self.out} ({error.strerror})")
        width = shutil.get_terminal_size().columns
        if results:
            reporter.section("measured beside printed", sep="-")
            reporter.write(summary(results, width, colour=reporter.hasmarkup))
        if any(result.baseline for result in results):
            reporter.section("beside recorded results", sep="-")
            reporter.write("".join(f"{line}\n" for line in recorded_summary(results)))
        if claims:
            reporter.section("claims", sep="-")
            reporter.write(claims_summary(claims, width, colour=reporter.hasmarkup))
        for record in figures:
            outcome = record.error or record.verdict
            reporter.write_line(f"figure:  {record.figure.paper} {record.figure.id}, {record.figure.task}: {outcome}")
        if self.config.option.update_baselines:
            for line in records.update(results, claims, figures, self.baselines):
                reporter.write_line(line)
        if self.report:
            reporter.write_line(f"report:  {self.report}")
        if not self.stopped:
            reporter.write_line(f"next:    {self._next()}")

    def _next(self) -> str:
        if self.errors:
            return f"fix the cause (see {self.out / 'logs'}) and repeat the command: finished stages are kept"
        if not any(
            isinstance(record, FigureRecord) or getattr(record, "measured", {}) for record in self.kept.values()
        ):
            return "reproduce doctor --data-root DIR     (what is missing, and how to get it)"
        if self.setting.scale == "smoke":
            return "the same command with --scale small: numbers instead of wiring"
        if self.setting.root and self.setting.scale == "paper":
            return "reproduce results --record     (keeps these results under reports/results)"
        if len(self.seeds) < SEEDS_FOR_A_REPRODUCTION:
            return "the same command with --seeds 1,2,3: how much the numbers vary"
        return "reproduce doctor --data-root DIR     (which of your own copies of the data sets can be used)"

    def close(self) -> None:
        if self.engine:
            self.engine.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def case_of(item: pytest.Item) -> AnyCase | None:
    """Return the case of a test, or None for other tests."""
    case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
    return case if isinstance(case, (Case, ClaimCase, FigureCase)) else None


def _budget(text: str) -> float:
    """Convert a budget such as 200h, 90m or 2d to seconds.

    Raises:
        UserError: It is no such time.
    """
    units = {"m": 60.0, "h": 3600.0, "d": 86400.0}
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?[mhd]", text):
        raise UserError(f"--budget {text}: give hours, minutes or days, such as 200h, 90m or 2d")
    return float(text[:-1]) * units[text[-1]]


def _leave_or_cancel(engine: Cluster) -> str:
    """Ask once whether the jobs in Slurm's queue go on, and return what became of them; without a terminal they do."""
    answer = ""
    if engine.unfinished:
        with contextlib.suppress(OSError, KeyboardInterrupt), Path("/dev/tty").open() as terminal:
            if os.tcgetpgrp(terminal.fileno()) == os.getpgrp():
                os.write(1, f"\n{counted(engine.unfinished, 'job')} in Slurm's queue: [l]eave or [c]ancel? ".encode())
                answer = terminal.readline()
    if answer.strip().lower().startswith("c"):
        return f", {counted(engine.cancel(), 'job')} cancelled"
    return f", {counted(engine.leave(), 'job')} left to run"


def _slurm(option: Any) -> slurm.Slurm | None:
    """Return the choices for Slurm, or None without --slurm.

    Raises:
        UserError: Options contradict each other, or Slurm is not here.
    """
    given = {
        "--sbatch": option.sbatch,
        "--prologue": option.prologue,
        "--slurm-python": option.slurm_python,
        "--max-jobs": option.max_jobs is not None,
        "--detach": option.detach,
    }
    if not option.slurm:
        if alone := [name for name, value in given.items() if value]:
            raise UserError(f"{alone[0]} is for jobs of Slurm: add --slurm")
        return None
    for name, value in (("--gpus", option.gpus), ("--jobs", option.jobs)):
        if value is not None:
            raise UserError(f"{name} is for this machine: beside --slurm, give --sbatch gres=gpu:1 or --max-jobs")
    if option.max_jobs is not None and option.max_jobs < 1:
        raise UserError(f"--max-jobs {option.max_jobs}: give at least 1")
    if option.detach and option.plan:
        raise UserError("--plan submits nothing and --detach all: give one of them")
    if not option.plan:
        slurm.check_present()
    try:
        prologue = Path(option.prologue).read_text() if option.prologue else ""
        python = tuple(shlex.split(option.slurm_python or ""))
    except OSError as error:
        raise UserError(f"--prologue {option.prologue} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"--slurm-python {option.slurm_python}: {error}") from None
    choices = slurm.Slurm(slurm.check_options(option.sbatch), prologue, python, option.max_jobs or 50)
    if option.gpus_per_stage > 1 and not choices.gpu:
        raise UserError(
            f"--gpus-per-stage {option.gpus_per_stage} needs jobs with as many GPUs: "
            f"give --sbatch gres=gpu:{option.gpus_per_stage}"
        )
    return choices


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--seeds {text} is not a list of numbers such as 1,2,3") from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 1:
        raise UserError(f"--seeds {text}: give distinct numbers from 1")
    return seeds


def _setting(option: Any, *, on_gpu: bool) -> Setting:
    folders = given_folders(option.domain)
    if (folders or option.data_root) and option.stand_ins:
        raise UserError("--stand-ins asks for drawn data, --data-root and --domain for real: one run never mixes them")
    root = None if option.stand_ins else data_root(option.data_root)
    real = bool(folders) or root is not None
    if option.subset is not None and (not real or option.subset < 1):
        raise UserError("--subset N keeps N >= 1 identities of real data: give --data-root or --domain")
    if option.weights not in (None, SCRATCH) and not Path(option.weights).is_dir():
        raise UserError(
            f"--weights {option.weights} is no folder: give a folder of weights files, or the word {SCRATCH}"
        )
    for name, least in (("jobs", 1), ("gpus", 0), ("gpus_per_stage", 1), ("rounds", 1), ("grace", 0)):
        value = getattr(option, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: give at least {least}")
    scale = option.scale or ("paper" if real else "small" if on_gpu else "smoke")
    return Setting(
        scale,
        folders,
        option.world_seed,
        option.weights,
        option.subset,
        root,
        accept_counts=option.accept_counts,
        precision=option.precision,
        rounds=option.rounds,
        pretrain=option.pretrain,
    )
