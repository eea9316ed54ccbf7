"""Resolve and judge each kind of case: the stages that it needs, and its verdict once they have ended."""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, cast

import pytest
from msgspec import structs

from reproduce import metrics
from reproduce.errors import UserError
from reproduce.evaluation import Evaluate, OnSource, Trained, source_models
from reproduce.metrics import METRICS
from reproduce.papers import baselines, statistics, verdicts
from reproduce.papers.cases import AnyCase, Case, ClaimCase, FigureCase
from reproduce.papers.records import (
    Claimed,
    ClaimRecord,
    FigureRecord,
    Identity,
    Record,
    Result,
    Shown,
    Spread,
    StageEntry,
)
from reproduce.running.engine import Job
from reproduce.running.runner import Store
from reproduce.session.display import kind, label
from reproduce.session.setting import Blocked, Setting
from reproduce.stage import Stage, closure
from reproduce.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from reproduce.artifacts import Scores
    from reproduce.figures import Figure

C = TypeVar("C", bound=AnyCase)
Properties = list[tuple[str, object]]
"""Properties of a test, to which verdict and numbers are added."""


class Session(Protocol):
    """The interface that the trials of a session share."""

    config: pytest.Config
    setting: Setting
    seeds: tuple[int, ...]
    store: Store
    recorded: list[Result]
    """Recorded results to compare with."""

    def row(self, case: Case) -> RowTrial:
        """Return the trial of a row, one per cell and world."""
        ...

    def claims_beside(self, trial: ClaimTrial) -> Iterable[ClaimTrial]:
        """Return the selected claims about the same table in the same world, including the given one."""
        ...

    def spread_of_table(self, case: Case) -> dict[str, Spread]:
        """Pool the spread between seeds over the rows of a case's table that run in this session."""
        ...

    def wait(self, stage: Stage[Any]) -> Job:
        """Wait until a stage has ended and return its job."""
        ...

    def keep(self, record: Record, pictures: NDArray[np.uint8] | None = None) -> None:
        """Write a record, and a figure's pictures, under the output."""
        ...

    def command(self, case: AnyCase) -> str:
        """Return the command that runs a case alone, in the same setting."""
        ...


class Trial(ABC, Generic[C]):
    """Resolve, run and judge one case in a session."""

    noun: ClassVar[str]
    """Name of this kind of case in the plan and the summary."""

    def __init__(self, session: Session, case: C) -> None:
        self.session = session
        self.case = case
        self.stages: list[Stage[Any]] = []
        """Its final stages, resolved."""
        self.blocked: Blocked | None = None
        """Why it cannot run here; None if it can."""

    @abstractmethod
    def resolve(self) -> list[Stage[Any]]:
        """Return the final stages that it needs.

        Raises:
            Blocked: It cannot run here.
        """

    @abstractmethod
    def judge(self, properties: Properties) -> None:
        """Wait for its stages, write a record, and fail or skip its test if needed."""

    def prepare(self) -> None:
        """Resolve its stages, or note why it cannot run here."""
        try:
            self.stages = self.resolve()
        except Blocked as blocked:
            self.blocked = blocked

    def skip_blocked(self) -> None:
        """Skip the test if the case cannot run here; fail it under --strict."""
        if self.blocked:
            message = f"blocked({self.blocked.want}): {self.blocked}"
            if self.session.config.option.strict and self.blocked.want != "world":
                pytest.fail(message, pytrace=False)
            pytest.skip(message)


class RowTrial(Trial[Case]):
    """A row on one task, or a point of a sweep."""

    noun = "case"

    def __init__(self, session: Session, case: Case) -> None:
        super().__init__(session, case)
        self.by_seed: dict[int, Stage[Any]] = {}
        self._result: Result | None = None

    def resolve(self) -> list[Stage[Any]]:
        resolve, recipe, world = self.session.setting.resolve, self.case.recipe, self.case.world
        assert recipe, "a case without one is skipped"
        self.by_seed = {seed: resolve(recipe(self.case.task, seed), world) for seed in self.session.seeds}
        return list(self.by_seed.values())

    def judge(self, properties: Properties) -> None:
        if self.blocked:
            verdict, identity = f"blocked({self.blocked.want})", self.session.setting.identity([])
            self.session.keep(self._blank(identity, verdict=verdict, reasons=[str(self.blocked)]))
        self.skip_blocked()
        result = self.result()
        properties += [("verdict", result.verdict), *_printable(result.means).items()]
        if not verdicts.passes(result):
            message = result.error or self._failure(result)
            tail = f"\n\nthe end of its log:\n{result.log_tail}" if result.log_tail else ""
            pytest.fail(message + tail, pytrace=False)
        option = self.session.config.option
        if option.baselines and not option.update_baselines and result.measured and not result.baseline:
            pytest.fail(
                f"{option.baselines} holds no result of this case in this setting: record it with --update-baselines",
                pytrace=False,
            )

    def result(self) -> Result:
        """Wait for the row's stages, keep its result and return it."""
        if self._result is None:
            self._result = self._measured()
            self.session.keep(self._result)
        return self._result

    @property
    def void(self) -> str:
        """Why it supports nothing that this row is lower than another; empty if it may."""
        return verdicts.void(self.session.setting.identity(self.by_seed.values()))

    def scores(self, *, curves: bool = False) -> dict[int, Scores]:
        """Load the scores of each training seed, with what its learning curve says if `curves`.

        Raises:
            UserError: An artifact in the store is damaged.
        """
        store = self.session.store
        scores: dict[int, Scores] = {seed: store.load(stage) for seed, stage in self.by_seed.items()}
        if not curves:
            return scores
        early = {
            seed: statistics.early(store.history(stage.train)) if isinstance(stage, Evaluate) else {}
            for seed, stage in self.by_seed.items()
        }
        return {seed: replace(each, health=dict(each.health) | early[seed]) for seed, each in scores.items()}

    def _blank(self, identity: Identity, **fields: Any) -> Result:
        """Return a result without numbers, with further fields as given."""
        case = self.case
        return Result(
            case=case.cell,
            identity=identity,
            printed=dict(case.printed),
            band=case.row.band,
            band_why=case.row.band_why,
            collapses=case.row.collapses,
            command=self.session.command(case),
            **fields,
        )

    def _measured(self) -> Result:
        session, stages = self.session, list(self.by_seed.values())
        jobs = [session.wait(stage) for stage in stages]
        identity = session.setting.identity(stages)
        reasons = verdicts.reasons_against(identity)
        reasons += ["a row that the paper quotes, run here for reference"] * self.case.quoted
        reasons += ["a point of a sweep, of which no number is printed"] * (self.case.point is not None)
        steady = all(stage.steady for stage in closure(stages) if isinstance(stage, Trained))
        result = self._blank(identity, reasons=reasons, steady=steady, verdict="error")
        try:
            result = structs.replace(result, **_made_of(stages, session.store))
            if failed := [job for job in jobs if job.status == "failed"]:
                return structs.replace(result, error=failed[0].error, log_tail=failed[0].tail)
            scores = self.scores()
        except UserError as error:
            return structs.replace(result, error=str(error))
        measured = {str(seed): score.numbers for seed, score in scores.items()}
        result = structs.replace(result, measured=measured, verdict="not comparable")
        if not reasons:
            spread = session.spread_of_table(self.case)
            verdict = verdicts.judge(self.case.printed, measured, self.case.row.band, spread)
            result = structs.replace(result, table_spread=spread, verdict=verdict)
        if collapsed := {str(seed): score.collapsed for seed, score in scores.items() if score.collapsed}:
            result = structs.replace(result, collapsed=collapsed, verdict="collapsed")
        option = session.config.option
        beside = baselines.compare(result, session.recorded, must_hold=option.baselines is not None)
        drifted = beside and beside.drift and not option.update_baselines
        return structs.replace(result, baseline=beside, verdict="drifted" if drifted else result.verdict)

    def _failure(self, result: Result) -> str:
        """Say why its test fails."""
        if result.verdict == "collapsed":
            seed, why = next(iter(result.collapsed.items()))
            return f"collapsed: seed {seed}: {why}"
        if result.verdict == "drifted" and result.baseline:
            return baselines.describe(result.baseline)
        pairs = [
            f"{METRICS[name].short} {result.means[name]:.1f} (printed {value:.1f})"
            for name, value in self.case.printed.items()
            if value is not None
        ]
        more = "; more seeds may decide" if result.verdict == "inconclusive" else ""
        return f"{result.verdict}: {', '.join(pairs)}; band {self.case.row.band}{more}"


class ClaimTrial(Trial[ClaimCase]):
    """Test a claim in one world, on rows of the session, selected or not."""

    noun = "claim"

    def __init__(self, session: Session, case: ClaimCase) -> None:
        super().__init__(session, case)
        self.rows = [session.row(cell) for cell in case.cells]
        self.sources: dict[Case, tuple[list[OnSource], list[OnSource]]] = {}
        """Source models of the rows on its right, and supervised training on their source."""
        self._differences: list[statistics.Compared] | None = None

    def resolve(self) -> list[Stage[Any]]:
        setting = self.session.setting
        if any(METRICS[name].drawn for name in self.case.claim.metrics) and not setting.on_stand_ins:
            raise Blocked("world", "needs the positions of people in images, which are known only in stand-in data")
        for row in self.rows:
            if row.blocked:
                raise row.blocked
        for cell, supervised in self.case.baselines.items():
            row = self.session.row(cell)
            own = [model for stage in row.stages for model in source_models(stage)]
            trained = [supervised(cell.task, seed) for seed in self.session.seeds]
            others = [OnSource(cast("Trained", setting.resolve(stage, cell.world))) for stage in trained]
            self.sources[cell] = own, others
        models = [stage for pair in self.sources.values() for stages in pair for stage in stages]
        return [*(stage for row in self.rows for stage in row.stages), *models]

    def judge(self, properties: Properties) -> None:
        self.skip_blocked()
        record = self._tried()
        self.session.keep(record)
        properties.append(("verdict", record.verdict))
        if record.verdict == "error":
            pytest.fail(record.reasons[0], pytrace=False)
        if record.p_adjusted is not None:
            properties.append(("p", record.p_adjusted))

    def _tried(self) -> ClaimRecord:
        """Test the claim, adjusting p over the selected claims about its table in its world."""
        claim, seeds = self.case.claim, len(self.session.seeds)
        family = [trial for trial in self.session.claims_beside(self) if not trial.blocked]
        for row in dict.fromkeys(row for trial in family for row in trial.rows):
            row.result()
        if broken := [row.result() for row in self.rows if not row.result().measured]:
            return self._record("error", reasons=[broken[0].error])
        try:
            untrained = [text for cell in self.case.right if (text := self._untrained(cell))]
        except UserError as error:
            return self._record("error", reasons=[str(error)])
        sound = [trial for trial in family if all(row.result().measured for row in trial.rows)]
        compared = {trial: several for trial in sound if (several := trial.differences())}
        if self not in compared:
            return self._record("undecided", reasons=[f"no query here has a value of {' and '.join(claim.metrics)}"])
        p_values = {trial: statistics.p_value(several) for trial, several in compared.items()}
        adjusted = dict(
            zip(p_values, statistics.holm([p for p, _ in p_values.values()], self.case.family), strict=True)
        )
        p, direction = p_values[self]
        verdict, reasons = statistics.verdict(direction, adjusted[self], seeds)
        if verdict == "undecided":
            reasons += statistics.fallen(claim, compared[self])
        setting = self.session.setting
        if unlike := verdicts.unlike_starts(setting.identity(row.stages) for row in self.rows):
            verdict, reasons = "undecided", [unlike, *reasons]
        where = claim.table if claim.kind == "sweep" else f"table {claim.table}"
        comparable = not verdicts.reasons_against(self._identity) and seeds >= statistics.FEWEST_SEEDS
        size = statistics.beside_stated(compared[self]) if comparable and verdict != "contradicted" else ""
        return self._record(
            verdict,
            second=[
                word
                for word in (size, "baseline untrained" if untrained else "", "starts are drawn" if unlike else "")
                if word
            ],
            reasons=[*reasons, *untrained],
            compared=[statistics.as_record(comparison) for comparison in compared[self]],
            p=p,
            p_adjusted=adjusted[self],
            family=f"{counted(self.case.family, 'claim')} of {where} (Holm)",
            collapsed=[
                f"{row.case.table}/{row.case.row.id}, seed {seed}: {why}"
                for row in self.rows
                for seed, why in row.result().collapsed.items()
            ],
        )

    def differences(self) -> list[statistics.Compared]:
        """Return every comparison of the claim, computed once."""
        if self._differences is None:
            claim = self.case.claim
            left, *rights = (row.scores(curves="early" in claim.metrics) for row in self.rows)
            voids = {cell: row.void for cell, row in zip((claim.left, *claim.right), self.rows, strict=True)}
            self._differences = statistics.compare(claim, left, rights, paired=self.case.paired, voids=voids)
        return self._differences

    @property
    def _identity(self) -> Identity:
        stages = [stage for row in self.rows for stage in row.stages]
        return self.session.setting.identity(stages, cells=len(self.rows))

    def _record(self, verdict: str, **fields: Any) -> ClaimRecord:
        claim = self.case.claim
        described = {name: getattr(claim, name) for name in Claimed.__struct_fields__ if name not in ("paper", "right")}
        return ClaimRecord(
            claim=Claimed(paper=self.case.paper, right=list(claim.right), **described),
            world=str(self.case.world or ""),
            identity=self._identity,
            seeds=list(self.session.seeds),
            verdict=verdict,
            command=self.session.command(self.case),
            **fields,
        )

    def _untrained(self, cell: Case) -> str:
        """Say that a baseline's source model stays behind supervised training on its source; empty if it does not.

        Raises:
            UserError: A stage needed for this check failed.
        """
        if not (models := self.sources.get(cell)) or not all(models):
            return ""
        jobs = [self.session.wait(stage) for stages in models for stage in stages]
        if failed := [job for job in jobs if job.status == "failed"]:
            raise UserError(failed[0].error)
        own, supervised = (fmean(self.session.store.load(stage).mAP for stage in stages) for stages in models)
        if own >= statistics.TRAINED * supervised:
            return ""
        place = f"mAP {own:.1f} on {cell.task.source.name}, supervised training {supervised:.1f}"
        return f"the source model of {cell.row.label!r} reaches {place}"


class FigureTrial(Trial[FigureCase]):
    """Draw a figure that shows images, on one task."""

    noun = "figure"

    def resolve(self) -> list[Stage[Any]]:
        session = self.session
        drawing = cast("Figure", session.setting.resolve(self.case.stage(session.seeds[0])))
        return [replace(drawing, pictures=session.config.option.pictures or drawing.shows_nobody)]

    def judge(self, properties: Properties) -> None:
        self.skip_blocked()
        session, figure = self.session, self.case.figure
        stage = cast("Figure", self.stages[0])
        job = session.wait(stage)
        record = FigureRecord(
            figure=Shown(
                paper=self.case.paper,
                id=figure.id,
                where=figure.where,
                shows=figure.shows,
                task=self.case.task.name,
                rows=self.case.labels(stage),
            ),
            identity=session.setting.identity([stage]),
            seed=stage.seed,
            verdict="drawn",
            command=session.command(self.case),
        )
        try:
            record = structs.replace(record, **_made_of([stage], session.store, histories=False))
            if job.status == "failed":
                raise UserError(job.error)
            drawing = session.store.load(stage)
        except UserError as error:
            session.keep(structs.replace(record, verdict="error", error=str(error)))
            pytest.fail(f"{error}\n\nthe end of its log:\n{job.tail}" if job.tail else str(error), pytrace=False)
        session.keep(structs.replace(record, drawing=dict(drawing.facts)), drawing.pictures)


KINDS: Mapping[type, type[Trial[Any]]] = {Case: RowTrial, ClaimCase: ClaimTrial, FigureCase: FigureTrial}
"""Trial class of each kind of case."""


def deviations(stage: Stage[Any]) -> list[str]:
    """Collect the `Deviates:` entries from the docstrings of the modules that define a stage and its field values."""
    values = [stage, *(value for value in vars(stage).values() if is_dataclass(value) and not isinstance(value, Stage))]
    texts = [sys.modules[name].__doc__ or "" for name in dict.fromkeys(type(value).__module__ for value in values)]
    listed = [entry for text in texts for entry in text.partition("\nDeviates:\n")[2].split("\n    - ")]
    entries = [" ".join(entry.split()) for entry in listed]
    return [entry.removeprefix("- ") for entry in entries if entry]


def _made_of(stages: Sequence[Stage[Any]], store: Store, *, histories: bool = True) -> dict[str, Any]:
    """Return the part of a record that describes its stages, with or without their histories."""
    reached = closure(stages)
    return {
        "deviations": sorted({line for stage in reached for line in deviations(stage)}),
        "stages": [_entry(stage, store, histories=histories) for stage in reached if store.has(stage)],
    }


def _entry(stage: Stage[Any], store: Store, *, histories: bool) -> StageEntry:
    described = store.described(stage)
    return StageEntry(
        key=stage.key,
        name=stage.name,
        label=label(stage),
        kind=kind(stage),
        work=stage.work,
        seed=described.provenance.seed,
        spec=described.spec,
        provenance=described.provenance,
        history=store.history(stage) if histories else [],
    )


def _printable(means: Mapping[str, float]) -> dict[str, float]:
    return {name: means[name] for name in metrics.measured() if name in means}


def pooled(rows: Iterable[RowTrial], session: Session) -> dict[str, Spread]:
    """Wait for rows and pool the spread between seeds over the comparable ones."""
    sound = []
    for row in rows:
        ended = [session.wait(stage).status != "failed" for stage in row.stages]
        if not all(ended) or verdicts.reasons_against(session.setting.identity(row.stages)):
            continue
        with contextlib.suppress(UserError):  # a damaged artifact is reported when its own row is judged
            scores = row.scores().values()
            sound += [] if any(seed.collapsed for seed in scores) else [[seed.numbers for seed in scores]]
    return verdicts.pool(sound)
