"""The pytest plugin: options, scheduling of all selected cases' stages, verdicts and the summary."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from reproduce import results
from reproduce.data.domains import WITHDRAWN
from reproduce.display import SHOWN, Display, label, means, summary
from reproduce.engine import Engine, Job, Lease, lease_gpus, visible_gpus
from reproduce.results import Result
from reproduce.runner import Site, Store
from reproduce.scales import SCALES
from reproduce.setting import SCRATCH, Blocked, Setting, data_root, given_folders
from reproduce.stage import Stage, UserError, closure
from reproduce.tables import Case

STATE = pytest.StashKey["Campaign"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reproduce", "reproducing published tables (suites/)")
    group.addoption(
        "--scale", choices=list(SCALES), help="paper with real data; else small on a GPU and smoke without one"
    )
    group.addoption(
        "--seeds", default="1", metavar="1,2,3", help="training seeds; a row waits for all of them (default 1)"
    )
    group.addoption(
        "--gpus", type=int, metavar="N", help="lease N of the visible GPUs; 0 for the CPU (default: all visible)"
    )
    group.addoption(
        "--jobs",
        type=int,
        metavar="J",
        help="stages at once on each GPU (default 1) or on the CPU (default: its cores)",
    )
    group.addoption(
        "--data-root", metavar="DIR", help="where the real data sets lie; REID_DATA says the same (`reproduce doctor`)"
    )
    group.addoption(
        "--domain",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a folder that stands for market, duke, ...; its counts are not checked, only said",
    )
    group.addoption(
        "--accept-counts",
        action="store_true",
        help="go on where what --data-root holds has other counts than the published set",
    )
    group.addoption("--stand-ins", action="store_true", help="drawn stand-in data: the default without real data")
    group.addoption("--world-seed", type=int, default=1, metavar="S", help="seed of the stand-in world (default 1)")
    group.addoption("--subset", type=int, metavar="N", help="keep N identities of real data, always the same")
    group.addoption(
        "--weights",
        metavar="DIR|scratch",
        help="folder of published weights (default: ours and torch's cache), or scratch to do without",
    )
    group.addoption(
        "--store", default=os.environ.get("REPRODUCE_STORE"), metavar="DIR", help="finished stages (default OUT/store)"
    )
    group.addoption("--out", default="build", metavar="DIR", help="results, logs and report (default build)")
    group.addoption(
        "--plan", action="store_true", help="list the distinct stages of the selected cases, and run nothing"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With suites, xdist's -n N means --jobs N: its workers would queue long cases behind each other."""
    workers = config.getoption("numprocesses", None)
    if workers is None or not _asks_for_suites(config):
        return
    if config.option.jobs is None and isinstance(workers, int):
        config.option.jobs = workers
    config.option.numprocesses, config.option.dist, config.option.tx = None, "no", []


def _asks_for_suites(config: pytest.Config) -> bool:
    paths = (Path(argument.split("::")[0]).resolve() for argument in config.args)
    return any("suites" in (path.name, path.parent.name) for path in paths)


def pytest_configure(config: pytest.Config) -> None:
    names = " or ".join(WITHDRAWN.values())
    config.addinivalue_line("markers", f'withdrawn: needs {names}, which its makers withdrew; -m "not withdrawn"')
    config.stash[STATE] = Campaign(config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Show what is wrong in a table as one line, without the way there."""
    report = yield
    if report.failed and report.call and report.call.excinfo and isinstance(report.call.excinfo.value, UserError):
        report.longrepr = str(report.call.excinfo.value)
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    with _usage():
        session.config.stash[STATE].begin(session.items)


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """Say how many cases need data that nobody can get any more, where cases are listed or these left out."""
    names = " or ".join(WITHDRAWN.values())
    cases = [item for item in items if isinstance(_case_of(item), Case)]
    withdrawn = sum(item.get_closest_marker("withdrawn") is not None for item in cases)
    if withdrawn and config.option.collectonly:
        rest = f'-m "not withdrawn" leaves {len(cases) - withdrawn} cases'
        return [f"{withdrawn} of {len(cases)} cases need {names}, which its makers withdrew: {rest}"]
    if not withdrawn and "withdrawn" in config.option.markexpr:
        return [f"{len(cases)} cases remain without {names}, which its makers withdrew"]
    return []


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Stop before the tests under --plan."""
    return True if session.config.option.plan else None


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Callable[[Case], None]:
    """Wait for a case's stages, record its result, and fail where the verdict says so."""
    return request.config.stash[STATE].judge


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    config.stash[STATE].summarise(terminalreporter)


def pytest_unconfigure(config: pytest.Config) -> None:
    if state := config.stash.get(STATE, None):
        state.close()


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise pytest.UsageError(str(error)) from error


@dataclass
class Campaign:
    """The cases of one pytest session, their stages, and what came out."""

    config: pytest.Config
    seeds: tuple[int, ...] = ()
    plans: dict[Case, dict[int, Stage[Any]]] = field(default_factory=dict)
    blocked: dict[Case, Blocked] = field(default_factory=dict)
    results: dict[Path, Result] = field(default_factory=dict)
    engine: Engine | None = None
    report: Path | None = None

    def begin(self, items: list[pytest.Item]) -> None:
        """Resolve all selected cases; show the plan, or submit their stages."""
        cases = [case for item in items if isinstance(case := _case_of(item), Case) and case.recipe]
        if not cases:
            return
        option = self.config.option
        self.suites = next(item.path.parent for item in items if isinstance(_case_of(item), Case))
        self.seeds = _seeds(option.seeds)
        leases = [] if option.plan else self._leases()
        self.setting = _setting(
            option, on_gpu=bool(leases) or (option.plan and option.gpus != 0 and bool(visible_gpus()))
        )
        self.out = Path(option.out)
        site = Site(Path(option.store or self.out / "store").resolve())
        for case in cases:
            assert case.recipe
            try:
                self.plans[case] = {
                    seed: self.setting.resolve(case.recipe(case.task, seed), case.world) for seed in self.seeds
                }
            except Blocked as blocked:
                self.blocked[case] = blocked
        final = [stage for plan in self.plans.values() for stage in plan.values()]
        if option.plan:
            self._show_plan(Store(site.store), final)
            return
        site = Site(site.store, folders=self.setting.paths(), weights=self.setting.files)
        jobs = option.jobs or (1 if leases else len(os.sched_getaffinity(0)))
        reporter: Any = self.config.pluginmanager.getplugin("terminalreporter")
        live = sys.stdout.isatty() and reporter.isatty and reporter.verbosity >= 0
        self.display = Display(live, lambda line: self._say(reporter, line), reporter.ensure_newline)
        self.engine = Engine(site, leases=leases, jobs=jobs, logs=self.out / "logs", on_change=self.display.changed)
        self.engine.submit(final)
        self._introduce(reporter, leases, jobs)

    def _leases(self) -> list[Lease]:
        wanted = self.config.option.gpus
        return [] if wanted == 0 else lease_gpus(wanted)

    def _say(self, reporter: Any, line: str) -> None:
        reporter.ensure_newline()
        reporter.write_line(line)

    def _introduce(self, reporter: Any, leases: list[Lease], jobs: int) -> None:
        assert self.engine
        queued = list(self.engine.jobs.values())
        cached = sum(job.status == "cached" for job in queued)
        on_gpus = f"{_count(len(leases), 'GPU')}, {_count(jobs, 'stage')} at once on each"
        where = on_gpus if leases else f"the CPU, {jobs} at once"
        self._say(
            reporter,
            f"scale {self.setting.scale} ({SCALES[self.setting.scale].does}); "
            f"seeds {', '.join(map(str, self.seeds))}; on {where}",
        )
        for domain, found in sorted(self.setting.located.items(), key=lambda item: (item[0].name, item[0].variant)):
            known = (
                "the published counts"
                if found.kind == "real"
                else "not the published set: results are not comparable with the paper"
            )
            told = ", ".join(filter(None, (found.version, domain.variant, f"digest {found.real.digest[:12]}", known)))
            self._say(reporter, f"{domain.name} is {found.folder} ({told})")
        if self.setting.on_stand_ins:
            self._say(reporter, "stand-in data, drawn here: results are not comparable with the paper")
        self._say(
            reporter,
            f"{_count(len(self.plans), 'row')}: {_count(len(queued), 'stage')}, "
            f"{cached} of them in the store {self.engine.store.root}",
        )

    def _show_plan(self, store: Store, final: list[Stage[Any]]) -> None:
        reporter: Any = self.config.pluginmanager.getplugin("terminalreporter")
        stages = closure(final)
        self._say(
            reporter,
            f"{_count(len(self.plans), 'row')} at scale {self.setting.scale}: {_count(len(stages), 'distinct stage')}",
        )
        for stage in stages:
            users = sum(any(stage.key == it.key for it in closure(plan.values())) for plan in self.plans.values())
            status = "in store" if store.has(stage) else "to run"
            self._say(reporter, f"  {stage.key}  {status:8}  {users} row{'s' * (users != 1):1}  {label(stage)}")
        for case, blocked in self.blocked.items():
            self._say(reporter, f"  blocked({blocked.want})  {case.paper} table {case.table} {case.id}: {blocked}")

    def judge(self, case: Case) -> None:
        """Wait for a case, record and judge it."""
        if case.recipe is None:
            pytest.skip(f"the method of {case.row.label!r} does not exist here yet")
        if (blocked := self.blocked.get(case)) and blocked.want == "world":
            pytest.skip(str(blocked))
        if blocked:
            verdict = f"blocked({blocked.want})"
            self._keep({**self._blank(case, self.setting.identity([])), "verdict": verdict, "reasons": [str(blocked)]})
            message = f"{verdict}: {blocked}"
            if self.config.option.strict:
                pytest.fail(message, pytrace=False)
            pytest.skip(message)
        jobs = {seed: self._wait(stage) for seed, stage in self.plans[case].items()}
        result = self._result(case, jobs)
        self._keep(result)
        if not results.passes(result):
            message = result.get("error") or self._compared(case, result)
            tail = result.get("log_tail")
            pytest.fail(message + (f"\n\nthe end of its log:\n{tail}" if tail else ""), pytrace=False)

    def _keep(self, result: Result) -> None:
        self.results[results.write(result, self.out / "results")] = result

    def _blank(self, case: Case, identity: Mapping[str, Any]) -> Result:
        """A result as far as it is known before anything ran."""
        return {
            "format": results.FORMAT,
            "case": results.describe(case),
            "identity": dict(identity),
            "printed": dict(case.printed),
            "band": case.row.band,
            "measured": {},
            "reasons": [],
            "deviations": [],
            "stages": [],
            "command": self._command(case),
        }

    def _wait(self, stage: Stage[Any]) -> Job:
        assert self.engine
        engine = self.engine
        capture: Any = self.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            try:
                return engine.wait(stage, lambda: self.display.refresh(engine))
            finally:
                self.display.stop()

    def _result(self, case: Case, jobs: Mapping[int, Job]) -> Result:
        assert self.engine
        store = self.engine.store
        stages = [job.stage for job in jobs.values()]
        identity = self.setting.identity(stages)
        reasons = results.reasons_against(identity)
        result = self._blank(case, identity) | {
            "reasons": reasons,
            "deviations": sorted({line for stage in closure(stages) for line in deviations(stage)}),
            "stages": [_stage_entry(stage, store) for stage in closure(stages) if store.has(stage)],
        }
        if failed := [job for job in jobs.values() if job.status == "failed"]:
            return {**result, "verdict": "error", "error": failed[0].error, "log_tail": failed[0].tail}
        try:
            scores = {seed: store.load(job.stage) for seed, job in jobs.items()}
        except UserError as error:
            return {**result, "verdict": "error", "error": str(error)}
        measured = {str(seed): found.numbers for seed, found in scores.items()}
        verdict = "not comparable" if reasons else results.judge(case.printed, list(measured.values()), case.row.band)
        if collapsed := [f"seed {seed}: {found.collapsed}" for seed, found in scores.items() if found.collapsed]:
            verdict = "collapsed"
        return {**result, "measured": measured, "verdict": verdict, "collapsed": collapsed}

    def _compared(self, case: Case, result: Result) -> str:
        measured = means(result)
        if result["verdict"] == "collapsed":
            return f"collapsed: {result['collapsed'][0]}"
        pairs = [
            f"{SHOWN[name]} {measured[name]:.1f} (printed {value:.1f})"
            for name, value in case.printed.items()
            if value is not None
        ]
        return f"{result['verdict']}: {', '.join(pairs)}; band {case.row.band}"

    def _command(self, case: Case) -> str:
        option = self.config.option
        words = [
            f"pytest 'suites/test_{case.paper}.py::{case.test}[{case.id}]'",
            f"--scale {self.setting.scale}",
        ]
        words.append(f"--seeds {','.join(map(str, self.seeds))}")
        words += ["--data-root DIR"] if self.setting.root else []
        words += [f"--domain {name}=DIR" for name in self.setting.folders]
        words += ["--accept-counts"] if self.setting.accept_counts else []
        if self.setting.on_stand_ins and self.setting.world_seed != 1:
            words.append(f"--world-seed {self.setting.world_seed}")
        if option.subset is not None:
            words.append(f"--subset {option.subset}")
        if option.weights is not None:
            words.append(f"--weights {SCRATCH if option.weights == SCRATCH else 'DIR'}")
        return " ".join(words)

    def summarise(self, reporter: Any) -> None:
        """Render the reports and print the table of what was measured."""
        found = list(self.results.values())
        if not found:
            return
        for hook in entry_points(group="reproduce.finish"):
            self.report = hook.load()(found, self.suites, self.out)
        reporter.section("measured beside printed", sep="-")
        reporter.write(summary(found, shutil.get_terminal_size().columns, colour=reporter.hasmarkup))
        if self.report:
            reporter.write_line(f"report:  {self.report}")
        reporter.write_line(f"next:    {self._next()}")

    def _next(self) -> str:
        if any(result["verdict"] == "error" for result in self.results.values()):
            return f"mend the cause ({self.out / 'logs'} tells more), then the same command: finished stages are kept"
        if not self.setting.on_stand_ins:
            return "reproduce results --record     (keeps these results under reports/results)"
        if self.setting.scale == "smoke":
            return "the same command with --scale small: numbers instead of wiring"
        if len(self.seeds) < results.SEEDS_FOR_A_REPRODUCTION:
            return "the same command with --seeds 1,2,3: how much the numbers wobble"
        return "reproduce doctor --data-root DIR     (which of your own copies of the data sets can be used)"

    def close(self) -> None:
        if self.engine:
            self.engine.close()


def deviations(stage: Stage[Any]) -> list[str]:
    """The entries under `Deviates:` in the docstring of the module that defines a stage."""
    text = (sys.modules[type(stage).__module__].__doc__ or "").partition("\nDeviates:\n")[2]
    entries = [" ".join(entry.split()) for entry in text.split("\n    - ")]
    return [entry.removeprefix("- ") for entry in entries if entry]


def _stage_entry(stage: Stage[Any], store: Store) -> dict[str, Any]:
    record = store.record(stage)
    return {
        "key": stage.key,
        "name": stage.name,
        "label": label(stage),
        "seed": record["provenance"]["seed"],
        "spec": record["spec"],
        "provenance": record["provenance"],
        "history": store.history(stage),
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _case_of(item: pytest.Item) -> object:
    return item.callspec.params.get("case") if hasattr(item, "callspec") else None


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
    for name, least in (("jobs", 1), ("gpus", 0)):
        value = getattr(option, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: give at least {least}")
    scale = option.scale or ("paper" if real else "small" if on_gpu else "smoke")
    return Setting(
        scale, folders, option.world_seed, option.weights, option.subset, root, accept_counts=option.accept_counts
    )
