"""Recorded results are found again: what runs today has the identities that they were recorded under."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from loading import suite

from reproduce.papers import records
from reproduce.papers.cases import Case, World
from reproduce.running import recipe
from reproduce.session.setting import SCRATCH, Setting

ROOT = Path(__file__).parents[2]
RECORDED = records.read(ROOT / "reports" / "results")


@cache
def cases(paper: str) -> dict[tuple[str, str, str], Case]:
    """The cases of a suite that can be run, by table, row and column."""
    return {(case.table, case.row.id, case.column): case for case in suite(paper).SUITE.rows() if case.recipe}


def asked(identity: records.Identity) -> Setting:
    """What the run asked for that gave an identity; where it names drawn weights, nothing was said of them."""
    return Setting(identity.scale, weights=SCRATCH if identity.weights == SCRATCH else None)


def changed(identity: records.Identity) -> World | None:
    """The change of the drawn world in which a claim had a row run; None for the requested world."""
    drawn = [entry for entry in identity.data.values() if entry["kind"] == "stand-in"]
    (seed,) = {entry["seed"] for entry in drawn}
    off = {name for entry in drawn for name, dial in entry.get("dials", {}).items() if dial == 0}
    return World(seed=seed) if seed != 1 else World(off=off.pop()) if off else None


@pytest.mark.parametrize("result", RECORDED, ids=lambda result: records.path_of(result, Path()).stem)
def test_a_recorded_identity_is_that_of_its_case_today(result: records.Result) -> None:
    told, identity = result.case, result.identity
    case = cases(told.paper)[told.table, told.row, told.column]
    assert case.recipe
    setting = asked(identity)
    stages = [setting.resolve(case.recipe(case.task, int(seed)), changed(identity)) for seed in result.measured]
    today = setting.identity(stages)
    assert today.setting == identity.setting


@pytest.mark.parametrize("result", RECORDED, ids=lambda result: records.path_of(result, Path()).stem)
def test_a_record_tells_its_recipe_by_what_it_keeps(result: records.Result) -> None:
    digest = recipe.digest_of_record({stage.key: stage.spec for stage in result.stages})
    assert result.identity.recipe in ("", digest)


def test_what_make_reproduce_runs_is_recorded_for_today_s_recipe() -> None:
    rows = [it for it in RECORDED if (it.case.table, it.case.task, it.identity.drawn) == ("3", "m2d", "world 1")]
    assert len(rows) == 5
    for result in rows:
        told, identity = result.case, result.identity
        case = cases(told.paper)[told.table, told.row, told.column]
        assert case.recipe
        setting = asked(identity)
        today = setting.identity([setting.resolve(case.recipe(case.task, 1))])
        assert identity == today, "record it again: its recipe has changed"
