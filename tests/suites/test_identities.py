"""Recorded results are found again: what runs today has the identities that they were recorded under."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from loading import suite

from reproduce.papers import results
from reproduce.papers.tables import Case
from reproduce.running import recipe
from reproduce.session.setting import SCRATCH, Setting

ROOT = Path(__file__).parents[2]
RECORDED = results.read(ROOT / "reports" / "results")


@cache
def cases(paper: str) -> dict[tuple[str, str, str], Case]:
    """The cases of a suite that can be run, by table, row and task."""
    module = suite(paper)
    found = [
        each.values[0] for table, recipes in module.TABLES.items() for each in module.PAPER.cases(table, **recipes)
    ]
    return {(case.table, case.row.id, case.task.name): case for case in found if case.recipe}


def asked(identity: dict[str, Any]) -> Setting:
    """What the run asked for that gave an identity; where it names drawn weights, nothing was said of them."""
    return Setting(identity["scale"], weights=SCRATCH if identity["weights"] == SCRATCH else None)


@pytest.mark.parametrize("result", RECORDED, ids=results.file_name)
def test_a_recorded_identity_is_that_of_its_case_today(result: results.Result) -> None:
    told, identity = result["case"], result["identity"]
    case = cases(told["paper"])[told["table"], told["row"], told["task"]]
    assert case.recipe
    setting = asked(identity)
    stages = [setting.resolve(case.recipe(case.task, int(seed))) for seed in result["measured"]]
    today = setting.identity(stages)
    assert today | {"recipe": None} == identity | {"recipe": None}


@pytest.mark.parametrize("result", RECORDED, ids=results.file_name)
def test_a_record_tells_its_recipe_by_what_it_keeps(result: results.Result) -> None:
    told = result["identity"].get("recipe")
    digest = recipe.digest_of_record(result)
    assert told in (None, digest)


def test_what_make_reproduce_runs_is_recorded_for_today_s_recipe() -> None:
    found = [each for each in RECORDED if each["case"]["table"] == "3" and each["case"]["task"] == "m2d"]
    assert len(found) == 5
    for result in found:
        told, identity = result["case"], result["identity"]
        case = cases(told["paper"])[told["table"], told["row"], told["task"]]
        assert case.recipe
        setting = asked(identity)
        today = setting.identity([setting.resolve(case.recipe(case.task, 1))])
        assert identity == today, "record it again: its recipe has changed"
