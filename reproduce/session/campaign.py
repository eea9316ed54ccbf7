"""A campaign: the cases of one pytest session, their stages, and what came out."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest

from reproduce.errors import UserError
from reproduce.evaluation import OnSource, Trained, source_models
from reproduce.papers import baselines, claims, results
from reproduce.papers.results import Result
from reproduce.papers.tables import ON_DRAWN, Case, ClaimCase, FigureCase, full_label
from reproduce.running.engine import Engine, Job, Lease, lease_gpus, visible_gpus
from reproduce.running.runner import Site, Store
from reproduce.scales import SCALES
from reproduce.session.display import SHOWN, Display, claims_summary, counted, label, means, recorded_summary, summary
from reproduce.session.planning import plan
from reproduce.session.setting import SCRATCH, Blocked, Setting, data_root, given_folders
from reproduce.stage import Stage, closure

if TYPE_CHECKING:
    from reproduce.artifacts import Scores
    from reproduce.figures import Figure

SUITES = "suites"
"""The folder that holds what papers print, and what produces it."""

STAGE_ERROR = 6
"""Exit code where a stage ended with an error; 1 where all ended and a number is not what it should be."""


@dataclass
class Campaign:
    """The cases of one pytest session, their stages, and what came out."""

    config: pytest.Config
    seeds: tuple[int, ...] = ()
    plans: dict[Case, dict[int, Stage[Any]]] = field(default_factory=dict)
    drawings: dict[FigureCase, Figure] = field(default_factory=dict)
    blocked: dict[Case | FigureCase, Blocked] = field(default_factory=dict)
    sources: dict[Case, tuple[list[OnSource], list[OnSource]]] = field(default_factory=dict)
    claim_cases: list[ClaimCase] = field(default_factory=list)
    results: dict[Path, Result] = field(default_factory=dict)
    tried: dict[Path, Result] = field(default_factory=dict)
    drawn: dict[Path, Result] = field(default_factory=dict)
    measured: dict[Case, Result] = field(default_factory=dict)
    compared: dict[ClaimCase, list[claims.Compared]] = field(default_factory=dict)
    spreads: dict[tuple[str, str], dict[str, dict[str, float]]] = field(default_factory=dict)
    recorded: list[Result] = field(default_factory=list)
    engine: Engine | None = None
    report: Path | None = None

    def begin(self, items: list[pytest.Item]) -> None:
        """Resolve all selected cases; show the plan, or submit their stages."""
        selected = [(item, case_of(item)) for item in items]
        self.claim_cases = [case for _, case in selected if isinstance(case, ClaimCase)]
        cases = [case for _, case in selected if isinstance(case, Case) and case.recipe]
        cases += [cell for claim in self.claim_cases for cell in claim.cells]
        figures = [case for _, case in selected if isinstance(case, FigureCase)]
        if not cases and not figures:
            return
        option = self.config.option
        chosen = [(item.path, case) for item, case in selected if isinstance(case, (Case, ClaimCase, FigureCase))]
        root = self.config.rootpath
        self.files = {
            case.paper: path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
            for path, case in chosen
        }
        self.suites = next((path.parent for path, _ in chosen if path.parent.name == SUITES), chosen[0][0].parent)
        self.seeds = _seeds(option.seeds)
        leases = [] if option.plan else self._leases()
        self.setting = _setting(
            option, on_gpu=bool(leases) or (option.plan and option.gpus != 0 and bool(visible_gpus()))
        )
        self.out = Path(option.out)
        self.baselines = Path(option.baselines or self.suites.parent / "reports" / "results")
        if self.baselines.is_dir() or (option.baselines and not option.update_baselines):
            self.recorded = results.read(self.baselines)
        site = Site(Path(option.store or self.out / "store").resolve())
        for claim in self.claim_cases:
            if set(claim.claim.metrics) & set(ON_DRAWN) and not self.setting.on_stand_ins:
                unknown = Blocked("world", "asks where people are in images, which is known of drawn ones alone")
                self.blocked |= dict.fromkeys(claim.cells, unknown)
        held = dict(pair for claim in self.claim_cases for pair in claim.baselines)
        for case in cases:
            if case in self.blocked:
                continue
            assert case.recipe
            try:
                self.plans[case] = {
                    seed: self.setting.resolve(case.recipe(case.task, seed), case.world) for seed in self.seeds
                }
                if supervised := held.get(case):
                    own = [model for stage in self.plans[case].values() for model in source_models(stage)]
                    trained = [supervised(case.task, seed) for seed in self.seeds]
                    others = [OnSource(cast("Trained", self.setting.resolve(each, case.world))) for each in trained]
                    self.sources[case] = own, others
            except Blocked as blocked:
                self.blocked[case] = blocked
        for figure in figures:
            try:
                drawing = cast("Figure", self.setting.resolve(figure.stage(self.seeds[0])))
                self.drawings[figure] = replace(drawing, pictures=option.pictures or drawing.shows_nobody)
            except Blocked as blocked:
                self.blocked[figure] = blocked
        final = [*(stage for case in self.plans for stage in self._needed(case)), *self.drawings.values()]
        if option.plan:
            self._show_plan(Store(site.store))
            return
        site = Site(site.store, folders=self.setting.paths(), weights=self.setting.files)
        jobs = option.jobs or (1 if leases else len(os.sched_getaffinity(0)))
        reporter: Any = self.config.pluginmanager.getplugin("terminalreporter")
        live = sys.stdout.isatty() and reporter.isatty and reporter.verbosity >= 0
        self.display = Display(live, lambda line: self._say(reporter, line), reporter.ensure_newline)
        self.engine = Engine(site, leases=leases, jobs=jobs, logs=self.out / "logs", on_change=self.display.changed)
        self.engine.submit(final)
        self._introduce(reporter, leases, jobs)

    @property
    def errors(self) -> bool:
        """Whether a stage ended with an error."""
        kept = (*self.results.values(), *self.tried.values(), *self.drawn.values())
        return any(record["verdict"] == "error" for record in kept)

    @property
    def _selected(self) -> str:
        counts = {"row": len(self.plans), "figure": len(self.drawings)}
        return " and ".join(counted(count, noun) for noun, count in counts.items() if count) or "0 rows"

    def _leases(self) -> list[Lease]:
        wanted = self.config.option.gpus
        return [] if wanted == 0 else lease_gpus(wanted)

    def _needed(self, case: Case) -> list[Stage[Any]]:
        """The final stages of a row: what evaluates it, and what tells whether a baseline was trained."""
        return [*self.plans[case].values(), *(stage for stages in self.sources.get(case, ()) for stage in stages)]

    def _say(self, reporter: Any, line: str) -> None:
        reporter.ensure_newline()
        reporter.write_line(line)
        reporter.flush()

    def _introduce(self, reporter: Any, leases: list[Lease], jobs: int) -> None:
        assert self.engine
        queued = list(self.engine.jobs.values())
        cached = sum(job.status == "cached" for job in queued)
        on_gpus = f"{counted(len(leases), 'GPU')}, {counted(jobs, 'stage')} at once on each"
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
        stages = f"{counted(len(queued), 'stage')}, {cached} of them in the store {self.engine.store.root}"
        self._say(reporter, f"{self._selected}: {stages}")

    def _show_plan(self, store: Store) -> None:
        reporter: Any = self.config.pluginmanager.getplugin("terminalreporter")
        rows = [self._needed(case) for case in self.plans]
        here = self.out / "results"
        earlier = [*self.recorded, *(results.read(here) if here.is_dir() else ())]
        earlier += [*results.read_figures(self.baselines), *results.read_figures(self.out / "figures")]
        lines = list(plan(rows, list(self.drawings.values()), store, self.setting, earlier))
        distinct = counted(len(lines) - 1, "distinct stage")
        self._say(reporter, f"{self._selected} at scale {self.setting.scale}: {distinct}")
        for line in lines:
            self._say(reporter, line)
        for case, blocked in self.blocked.items():
            table = f" table {case.table}" if isinstance(case, Case) else ""
            self._say(reporter, f"  blocked({blocked.want})  {case.paper}{table} {case.id}: {blocked}")

    def judge(self, case: Case | ClaimCase | FigureCase, properties: list[tuple[str, object]]) -> None:
        """Wait for a case, record and judge it.

        Args:
            case: a row, a claim or a figure.
            properties: of its test; verdict and numbers are added.
        """
        if isinstance(case, ClaimCase):
            self._try(case, properties)
            return
        if isinstance(case, FigureCase):
            self._draw(case)
            return
        if case.recipe is None:
            pytest.skip(f"the method of {case.row.label!r} does not exist here yet")
        if blocked := self.blocked.get(case):
            verdict = f"blocked({blocked.want})"
            self._keep({**self._blank(case, self.setting.identity([])), "verdict": verdict, "reasons": [str(blocked)]})
            self._skip(blocked)
        result = self._measure(case)
        properties += [("verdict", result["verdict"]), *means(result).items()]
        if not results.passes(result):
            message = result.get("error") or self._compared(case, result)
            tail = result.get("log_tail")
            pytest.fail(message + (f"\n\nthe end of its log:\n{tail}" if tail else ""), pytrace=False)

    def _skip(self, blocked: Blocked) -> None:
        message = f"blocked({blocked.want}): {blocked}"
        if self.config.option.strict and blocked.want != "world":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)

    def _measure(self, case: Case, command: str = "") -> Result:
        """The result of a row, waited for and kept."""
        if case in self.measured:
            return self.measured[case]
        jobs = {seed: self._wait(stage) for seed, stage in self.plans[case].items()}
        result = self._result(case, jobs) | ({"command": command} if command else {})
        self._keep(result)
        self.measured[case] = result
        return result

    def _try(self, case: ClaimCase, properties: list[tuple[str, object]]) -> None:
        """Try a claim, together with the selected others about its table, in its world."""
        for cell in case.cells:
            if blocked := self.blocked.get(cell):
                self._skip(blocked)
        family = [
            claim
            for claim in self.claim_cases
            if (claim.claim.table, claim.paper, claim.world) == (case.claim.table, case.paper, case.world)
            and not any(cell in self.blocked for cell in claim.cells)
        ]
        measured = {
            cell: self._measure(cell, self._command(claim, "test_claims") if case.world else "")
            for claim in family
            for cell in claim.cells
        }
        sound = [claim for claim in family if all(measured[cell]["measured"] for cell in claim.cells)]
        if case not in sound:
            broken = next(measured[cell] for cell in case.cells if not measured[cell]["measured"])
            self._break(case, broken["error"], properties)
        try:
            untrained = [text for cell in case.right if (text := self._untrained(cell))]
        except UserError as error:
            self._break(case, str(error), properties)
        compared = {claim: several for claim in sound if (several := self._differences(claim))}
        if case not in compared:
            reasons = [f"no query here has a value of {' and '.join(case.claim.metrics)}"]
            self._keep_claim({**self._described(case), "verdict": "undecided", "reasons": reasons})
            properties.append(("verdict", "undecided"))
            return
        found = {claim: claims.p_value(several) for claim, several in compared.items()}
        adjusted = claims.holm([p for p, _ in found.values()], case.family)
        p, direction = found[case]
        p_adjusted = adjusted[list(found).index(case)]
        verdict, reasons = claims.verdict(direction, p_adjusted, len(self.seeds))
        described = self._described(case)
        if verdict == "undecided":
            reasons += claims.fallen(case.claim, compared[case])
        comparable = not results.reasons_against(described["identity"]) and len(self.seeds) >= claims.FEWEST_SEEDS
        size = claims.beside_stated(compared[case]) if comparable and verdict != "contradicted" else ""
        collapsed = [
            f"{cell.table}/{cell.row.id}, {text}" for cell in case.cells for text in measured[cell]["collapsed"]
        ]
        self._keep_claim(
            {
                **described,
                "verdict": verdict,
                "second": [word for word in (size, "baseline untrained" if untrained else "") if word],
                "reasons": [*reasons, *untrained],
                "compared": [claims.as_json(one) for one in compared[case]],
                "p": p,
                "p_adjusted": p_adjusted,
                "family": f"{counted(case.family, 'claim')} of table {case.claim.table} (Holm)",
                "collapsed": collapsed,
            }
        )
        properties += [("verdict", verdict), ("p", p_adjusted)]

    def _untrained(self, cell: Case) -> str:
        """That a baseline's source model stays behind supervised training on its source; empty where it does not.

        Raises:
            UserError: a stage that would tell has failed.
        """
        assert self.engine
        if not (models := self.sources.get(cell)) or not all(models):
            return ""
        jobs = [self._wait(stage) for stages in models for stage in stages]
        if failed := [job for job in jobs if job.status == "failed"]:
            raise UserError(failed[0].error)
        own, supervised = (fmean(self.engine.store.load(stage).mAP for stage in stages) for stages in models)
        if own >= claims.TRAINED * supervised:
            return ""
        place = f"mAP {own:.1f} on {cell.task.source.name}, supervised training {supervised:.1f}"
        return f"the source model of {cell.row.label!r} reaches {place}"

    def _break(self, case: ClaimCase, error: str, properties: list[tuple[str, object]]) -> NoReturn:
        """Keep a claim, and fail its test, for a stage that has failed."""
        self._keep_claim({**self._described(case), "verdict": "error", "reasons": [error]})
        properties.append(("verdict", "error"))
        pytest.fail(error, pytrace=False)

    def _draw(self, case: FigureCase) -> None:
        """Wait for a figure and keep what it shows."""
        assert self.engine
        if blocked := self.blocked.get(case):
            self._skip(blocked)
        stage = self.drawings[case]
        job, store = self._wait(stage), self.engine.store
        told = {name: getattr(case.figure, name) for name in ("id", "where", "shows")}
        record = {
            "format": results.FORMAT,
            "figure": {
                "paper": case.paper,
                **told,
                "task": case.task.name,
                "rows": [full_label(cell.row) for cell in case.cells],
            },
            "identity": self.setting.identity([stage]),
            "seed": stage.seed,
            **_made_of([stage], store, histories=False),
            "command": self._command(case, "test_figures"),
        }
        folder = self.out / "figures"
        try:
            if job.status == "failed":
                raise UserError(job.error)
            drawing = store.load(stage)
        except UserError as error:
            record |= {"verdict": "error", "error": str(error)}
            self.drawn[results.write_figure(record, None, folder)] = record
            pytest.fail(f"{error}\n\nthe end of its log:\n{job.tail}" if job.tail else str(error), pytrace=False)
        record |= {"verdict": "drawn", "drawing": dict(drawing.facts)}
        path = results.write_figure(record, drawing.pictures, folder)
        self.drawn[path] = results.read_figure(path)

    def _differences(self, case: ClaimCase) -> list[claims.Compared]:
        if case not in self.compared:
            left, *rights = (self._scores(cell) for cell in case.cells)
            self.compared[case] = claims.compare(case.claim, left, rights, paired=case.paired)
        return self.compared[case]

    def _scores(self, case: Case) -> dict[int, Scores]:
        assert self.engine
        return {seed: self.engine.store.load(stage) for seed, stage in self.plans[case].items()}

    def _described(self, case: ClaimCase) -> Result:
        """A claim's record as far as it is known before anything ran."""
        claim = case.claim
        told = {name: getattr(claim, name) for name in ("id", "table", "kind", "where", "says", "left", "cause", "why")}
        return {
            "format": results.FORMAT,
            "claim": {"paper": case.paper, **told, "right": list(claim.right), "testable": claim.testable},
            "world": str(case.world or ""),
            "identity": self.setting.identity(
                [stage for cell in case.cells for stage in self.plans[cell].values()], cells=len(case.cells)
            ),
            "seeds": list(self.seeds),
            "compared": [],
            "collapsed": [],
            "command": self._command(case, "test_claims"),
        }

    def _keep_claim(self, record: Result) -> None:
        self.tried[results.write_claim(record, self.out / "claims")] = record

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
            "band_why": case.row.band_why,
            "collapses": case.row.collapses,
            "measured": {},
            "reasons": [],
            "deviations": [],
            "stages": [],
            "command": self._command(case, f"test_table{case.table}"),
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
        reasons += ["a row that the paper quotes, run here for reference"] * case.quoted
        result = self._blank(case, identity) | {
            "reasons": reasons,
            **_made_of(stages, store),
            "steady": all(stage.steady for stage in closure(stages) if isinstance(stage, Trained)),
        }
        if failed := [job for job in jobs.values() if job.status == "failed"]:
            return {**result, "verdict": "error", "error": failed[0].error, "log_tail": failed[0].tail}
        try:
            scores = {seed: store.load(job.stage) for seed, job in jobs.items()}
        except UserError as error:
            return {**result, "verdict": "error", "error": str(error)}
        measured = {str(seed): found.numbers for seed, found in scores.items()}
        verdict = "not comparable"
        result = {**result, "measured": measured}
        if not reasons:
            result["table_spread"] = self._spread_of_table(case)
            verdict = results.judge(case.printed, measured, case.row.band, result["table_spread"])
        if collapsed := [f"seed {seed}: {found.collapsed}" for seed, found in scores.items() if found.collapsed]:
            verdict = "collapsed"
        result = {**result, "collapsed": collapsed}
        option = self.config.option
        if beside := baselines.compare(result, self.recorded, must_hold=option.baselines is not None):
            result["baseline"] = beside
            verdict = "drifted" if beside["drift"] and not option.update_baselines else verdict
        return {**result, "verdict": verdict}

    def _spread_of_table(self, case: Case) -> dict[str, dict[str, float]]:
        """The spread between seeds that the selected rows of a case's table share, all of them waited for."""
        assert self.engine
        table = case.paper, case.table
        if table not in self.spreads:
            plans = {
                (cell.row.id, cell.column): list(plan.values())
                for cell, plan in self.plans.items()
                if (cell.paper, cell.table, cell.world) == (*table, None) and len(plan) > 1
            }
            rows = []
            for stages in plans.values():
                ended = [self._wait(stage).status != "failed" for stage in stages]
                if not all(ended) or results.reasons_against(self.setting.identity(stages)):
                    continue
                with contextlib.suppress(UserError):  # what is damaged is told where its own row is judged
                    scores = [self.engine.store.load(stage) for stage in stages]
                    rows += [] if any(seed.collapsed for seed in scores) else [[seed.numbers for seed in scores]]
            self.spreads[table] = results.pool(rows)
        return self.spreads[table]

    def _compared(self, case: Case, result: Result) -> str:
        measured = means(result)
        if result["verdict"] == "collapsed":
            return f"collapsed: {result['collapsed'][0]}"
        if result["verdict"] == "drifted":
            return baselines.told(result["baseline"])
        pairs = [
            f"{SHOWN[name]} {measured[name]:.1f} (printed {value:.1f})"
            for name, value in case.printed.items()
            if value is not None
        ]
        more = "; more seeds may tell" if result["verdict"] == "inconclusive" else ""
        return f"{result['verdict']}: {', '.join(pairs)}; band {case.row.band}{more}"

    def _command(self, case: Case | ClaimCase | FigureCase, test: str) -> str:
        option = self.config.option
        words = [
            f"pytest '{self.files[case.paper]}::{test}[{case.id}]'",
            f"--scale {self.setting.scale}",
        ]
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
        if option.weights is not None:
            words.append(f"--weights {SCRATCH if option.weights == SCRATCH else 'DIR'}")
        return " ".join(words)

    def summarise(self, reporter: Any) -> None:
        """Render the reports and print the table of what was measured."""
        found, tried, drawn = (list(kept.values()) for kept in (self.results, self.tried, self.drawn))
        if not found and not drawn:
            return
        for hook in entry_points(group="reproduce.finish"):
            self.report = hook.load()(found, self.suites, self.out, claims=tried, figures=drawn)
        width = shutil.get_terminal_size().columns
        if found:
            reporter.section("measured beside printed", sep="-")
            reporter.write(summary(found, width, colour=reporter.hasmarkup))
        if any("baseline" in result for result in found):
            reporter.section("beside recorded results", sep="-")
            reporter.write("".join(f"{line}\n" for line in recorded_summary(found)))
        if tried:
            reporter.section("claims", sep="-")
            reporter.write(claims_summary(tried, width, colour=reporter.hasmarkup))
        for record in drawn:
            figure = record["figure"]
            outcome = record.get("error") or record["verdict"]
            reporter.write_line(f"figure:  {figure['paper']} {figure['id']}, {figure['task']}: {outcome}")
        if self.config.option.update_baselines:
            for line in results.update(found, tried, drawn, self.baselines):
                reporter.write_line(line)
        if self.report:
            reporter.write_line(f"report:  {self.report}")
        reporter.write_line(f"next:    {self._next()}")

    def _next(self) -> str:
        if self.errors:
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
    """The entries under `Deviates:` in the docstrings of the modules that define a stage and the values it holds."""
    values = [stage, *(value for value in vars(stage).values() if is_dataclass(value) and not isinstance(value, Stage))]
    texts = [sys.modules[name].__doc__ or "" for name in dict.fromkeys(type(value).__module__ for value in values)]
    listed = [entry for text in texts for entry in text.partition("\nDeviates:\n")[2].split("\n    - ")]
    entries = [" ".join(entry.split()) for entry in listed]
    return [entry.removeprefix("- ") for entry in entries if entry]


def _made_of(stages: Sequence[Stage[Any]], store: Store, *, histories: bool = True) -> dict[str, Any]:
    """The part of a record that says what stages did: with or without what each of them logged."""
    reached = closure(stages)
    entries = [_stage_entry(stage, store) for stage in reached if store.has(stage)]
    return {
        "deviations": sorted({line for stage in reached for line in deviations(stage)}),
        "stages": entries if histories else [{**entry, "history": []} for entry in entries],
    }


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


def case_of(item: pytest.Item) -> object:
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
        scale,
        folders,
        option.world_seed,
        option.weights,
        option.subset,
        root,
        accept_counts=option.accept_counts,
        precision=option.precision,
    )
