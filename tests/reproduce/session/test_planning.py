from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import made
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from reproduce.errors import UserError
from reproduce.papers.records import StageEntry
from reproduce.running.runner import Store
from reproduce.session.campaign import _budget
from reproduce.session.display import kind
from reproduce.session.planning import OTHERS, TRIAL, Needed, Time, choose, plan, times, within
from reproduce.session.setting import Setting
from reproduce.stage import Env, Stage, closure


@dataclass(frozen=True)
class Part(Stage[Any]):
    """A stage."""

    number: int
    before: tuple[Stage[Any], ...] = ()

    def run(self, env: Env) -> Any:
        raise NotImplementedError


SOURCE = Part(0)
DIRECT, ADAPTED, LONG = (Part(number, (SOURCE,)) for number in (1, 2, 3))
ROWS = [Needed(2, [LONG]), Needed(1, [DIRECT]), Needed(4, [ADAPTED]), Needed(3, [SOURCE])]
SECONDS = {SOURCE.key: 10.0, DIRECT.key: 1.0, ADAPTED.key: 20.0, LONG.key: 100.0}


def test_most_cells_an_hour_come_first() -> None:
    steps = list(choose(ROWS, (), SECONDS, 1000))
    assert [step.stages for step in steps] == [[SOURCE], [DIRECT], [ADAPTED], [LONG]]
    assert [(step.cases, step.cells) for step in steps] == [(1, 3), (2, 4), (3, 8), (4, 10)]


def test_finished_stages_cost_nothing() -> None:
    assert [step.stages for step in choose(ROWS, {SOURCE.key}, SECONDS, 0)] == [[]]
    assert next(choose(ROWS[:3], {SOURCE.key}, SECONDS, 1000)).stages == [DIRECT]


def test_what_does_not_fit_gives_way_to_what_does() -> None:
    assert [step.stages for step in choose(ROWS, (), SECONDS, 12)] == [[SOURCE], [DIRECT]]


@st.composite
def campaigns(draw: st.DrawFn) -> tuple[list[Needed], dict[str, float], float]:
    stages: list[Part] = []
    for number in range(draw(st.integers(1, 6))):
        before = draw(st.lists(st.sampled_from(stages), max_size=2, unique=True)) if stages else []
        stages.append(Part(number, tuple(before)))
    rows = draw(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(stages)), min_size=1, max_size=5))
    seconds = {stage.key: draw(st.integers(1, 9)) * 1.0 for stage in stages}
    return [Needed(cells, [stage]) for cells, stage in rows], seconds, draw(st.integers(0, 40)) * 1.0


@given(campaigns())
def test_a_budget_is_kept_and_each_step_is_the_best_one(campaign: tuple[list[Needed], dict[str, float], float]) -> None:
    """Each step is compared with all rows that could have been next."""
    rows, seconds, budget = campaign
    there: set[str] = set()
    spent = 0.0
    for step in choose(rows, (), seconds, budget):
        options = []
        for row in rows:
            needed = {stage.key for stage in closure(row.stages)}
            cost = sum(seconds[key] for key in needed - there)
            if needed - there and spent + cost <= budget:
                options.append(row.cells / cost)
        cost = sum(seconds[stage.key] for stage in step.stages)
        finals = [row.cells / cost for row in rows if step.stages and row.stages[0] == step.stages[-1]]
        assert max(finals) == pytest.approx(max(options))
        there |= {stage.key for stage in step.stages}
        spent += cost
        complete = [row for row in rows if {stage.key for stage in closure(row.stages)} <= there]
        assert (step.cases, step.cells) == (len(complete), sum(row.cells for row in complete))
    assert spent <= budget
    for row in rows:
        left = {stage.key for stage in closure(row.stages)} - there
        assert not left or spent + sum(seconds[key] for key in left) > budget


def best(rows: list[Needed], seconds: dict[str, float], budget: float) -> int:
    """The most cells that any selection of rows decides within a budget."""
    subsets = chain.from_iterable(combinations(rows, size) for size in range(len(rows) + 1))
    return max(
        sum(row.cells for row in subset)
        for subset in subsets
        if sum(seconds[stage.key] for stage in closure(stage for row in subset for stage in row.stages)) <= budget
    )


@given(campaigns())
def test_no_selection_beats_all_rows_if_they_fit(campaign: tuple[list[Needed], dict[str, float], float]) -> None:
    rows, seconds, budget = campaign
    steps = list(choose(rows, (), seconds, budget))
    cells = steps[-1].cells if steps else 0
    assert cells <= best(rows, seconds, budget)
    if sum(seconds.values()) <= budget:
        assert cells == best(rows, seconds, budget)


def test_unknown_costs_are_counted_and_projections_named(tmp_path: Path) -> None:
    known = {key: Time(value, TRIAL if key == DIRECT.key else "") for key, value in SECONDS.items() if key != LONG.key}
    *_, total, late, unknown = within(ROWS, Store(tmp_path / "store"), known, 15)
    assert total == (
        "within 0:15: 2 of 4 cases and 4 of 10 cells, by 2 stages in 0:11 (projected from scale trial for 1 stage)"
    )
    assert late == "1 case would not fit"
    assert unknown.startswith("1 case of unknown cost: some stage was never timed")


@dataclass(frozen=True)
class Long(Stage[Any]):
    """A training."""

    epochs: int

    @property
    def work(self) -> float:
        return self.epochs * 100.0

    @property
    def detail(self) -> str:
        return f"{self.epochs} epochs"

    def run(self, env: Env) -> Any:
        raise NotImplementedError


class Longer(Long):
    """A training of another name."""


def took(seconds: float, stage: Stage[Any], **changes: Any) -> StageEntry:
    """The entry of a stage in a record."""
    where = made.provenance(device_s=seconds, **changes)
    return made.stage(stage.key, name=stage.name, kind=kind(stage), work=stage.work, provenance=where)


def test_what_was_never_timed_is_projected_by_its_work(tmp_path: Path) -> None:
    """Stages of the same name take 0.1 s for each unit of work, and those that train 0.2 s; one test takes 3 s."""
    test = Part(1)
    stages = [took(10, Long(1)), took(20, Long(2)), took(3, test), took(500, Long(3), device="cuda:0")]
    named_else = made.stage("x", name="toy.Else", kind="toy.Else", work=10.0, provenance=made.provenance(device_s=3.0))
    earlier = [made.result(stages=[*stages, named_else], identity=made.identity(weights="drawn objects"))]
    setting = Setting("small")
    wanted = [Long(2), Long(3), Longer(3), test]
    known = times(wanted, earlier, setting, on_gpu=False)
    assert [known[stage.key] for stage in wanted] == [Time(20), Time(30, OTHERS), Time(60, OTHERS), Time(3)]
    assert times([Longer(1)], earlier, Setting("medium"), on_gpu=False) == {}
    old = [made.result(stages=[structs.replace(stage, work=0.0) for stage in stages])]
    assert set(times(wanted, old, setting, on_gpu=False)) == {Long(2).key, test.key}, "records without work"
    *lines, total = plan([("case", wanted)], Store(tmp_path / "store"), setting, earlier, on_gpu=False)
    assert [line.split()[3] for line in lines] == ["0:20", "~0:30", "~1:00", "0:03"]
    took_so_long = "1:53 of processor time (113 core-seconds), as recorded runs took"
    assert total == f"to run: {took_so_long} (projected from other stages for 2 stages)"


@pytest.mark.parametrize(("text", "seconds"), [("200h", 720_000.0), ("90m", 5400.0), ("1.5d", 129_600.0)])
def test_budgets(text: str, seconds: float) -> None:
    assert _budget(text) == seconds


@pytest.mark.parametrize("text", ["200", "h", "-1h", "1e3h", "1.h", "2 h", ""])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="such as 200h"):
        _budget(text)
