"""Planning and reporting the difficulty of the drawn world, without training."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loading import suite
from scipy import stats

from methods.calibration import NETS, PAIR, TESTED, Result, Run, causes, difficulty, main, read, stage, tables, write
from methods.classify import SHIPPED
from reproduce.data.domains import Domain
from reproduce.data.standins import StandIn
from reproduce.data.world import CAUSES, WORLD_VERSION
from reproduce.papers.tables import Task, read_all
from reproduce.session.setting import Setting

ROOT = Path(__file__).parents[2]
WORLDS, SEEDS = (1, 2), (1, 2, 3)
M2D, D2M, M2M, D2D = ("market", "duke"), ("duke", "market"), ("market", "market"), ("duke", "duke")


def measured(net: str = "IBN", off: str = "pose", seeds: tuple[int, ...] = SEEDS) -> dict[Run, Result]:
    """Make up results: mAP is about 40 between domains and 80 within, with noise."""
    numbers = np.random.default_rng(5)
    results = {}
    for world, seed, task, dial in itertools.product(WORLDS, seeds, (M2D, D2M, M2M, D2D), ("", off)):
        own = task[0] == task[1]
        mAP = (80.0 if own else 40.0) + (0.0 if not dial else 2.0 if own else 9.0) + numbers.normal()
        results[Run(net, world, seed, *task, dial)] = Result(float(mAP), 99.0)
    return results


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def split(values: dict[Run, Result]) -> tuple[list[str], list[str]]:
    """Split the output into the lines of its two tables."""
    lines = list(tables(values))
    at = lines.index("")
    return lines[:at], lines[at + 1 :]


def test_tables_show_mean_and_spread_by_task_net_and_world() -> None:
    values = measured() | {run: Result(mAP + 5, 0.0) for run, (mAP, _) in measured("plain").items()}
    first, _ = split(values)
    assert cells(first[0]) == ["task", "IBN, world 1", "IBN, world 2", "plain, world 1", "plain, world 2"]
    rows = {cells(line)[0]: cells(line)[1:] for line in first[2:]}
    assert list(rows) == ["supervised, market", "supervised, duke", "market to duke", "duke to market"]
    for name, task in zip(rows, (M2M, D2D, M2D, D2M), strict=True):
        for cell, (net, world) in zip(rows[name], itertools.product(("IBN", "plain"), WORLDS), strict=True):
            seeds = [values[Run(net, world, seed, *task)][0] for seed in SEEDS]
            assert cell == f"{np.mean(seeds):.1f} ± {np.std(seeds, ddof=1):.1f}"


def test_share_of_a_cause_has_students_interval() -> None:
    """There are six differences, one per world and seed: the gain of direct transfer less that of training."""
    values = measured()
    _, second = split(values)
    assert len(second) == 3, "the other causes were not measured"
    net, off, direct, labelled, difference, enough = cells(second[2])
    assert (net, off) == ("IBN", "pose")

    def gains(tasks: list[tuple[str, str]]) -> np.ndarray:
        return np.array(
            [
                np.mean(
                    [values[Run("IBN", *at, *task, "pose")][0] - values[Run("IBN", *at, *task)][0] for task in tasks]
                )
                for at in itertools.product(WORLDS, SEEDS)
            ]
        )

    across, own = gains([M2D, D2M]), gains([M2M, D2D])
    assert [direct, labelled] == [f"{across.mean():.1f}", f"{own.mean():.1f}"]
    interval: Any = stats.ttest_1samp(across - own, 0).confidence_interval(0.95)
    assert difference == f"{(across - own).mean():.1f}, {interval.low:.1f} to {interval.high:.1f}"
    assert interval.low < 7 < interval.high, "7 was made up"
    assert enough == "yes"


@pytest.mark.parametrize(("gain", "spread", "enough"), [(3.0, 0.1, "yes"), (1.5, 0.1, "no"), (3.0, 20.0, "no")])
def test_cause_is_enough_at_two_points_significantly_above_zero(gain: float, spread: float, enough: str) -> None:
    noise = spread * np.random.default_rng(3).normal(size=6)
    values = {}
    for (world, seed), more in zip(itertools.product(WORLDS, SEEDS), noise - noise.mean(), strict=True):
        for task, dial in itertools.product((M2D, D2M, M2M, D2D), ("", "pose")):
            raised = (gain + more) * (dial == "pose" and task[0] != task[1])
            values[Run("IBN", world, seed, *task, dial)] = Result(50.0 + float(raised), 99.0)
    assert cells(split(values)[1][2])[-1] == enough


def test_share_of_a_cause_needs_all_its_runs() -> None:
    """A world and seed that lacks one of its eight runs is ignored; below two there is no interval."""
    values = measured()
    del values[Run("IBN", 2, 3, *D2D, "pose")]
    kept = {run: value for run, value in values.items() if (run.world, run.seed) != (2, 3)}
    assert split(values)[1] == split(kept)[1] != split(measured())[1]
    alone = {run: value for run, value in values.items() if (run.world, run.seed) == (1, 1)}
    assert len(split(alone)[1]) == 2, "headers only"
    assert "±" not in "".join(split(alone)[0])


def test_unmeasured_task_leaves_an_empty_cell() -> None:
    values = {
        run: value for run, value in measured().items() if not (run.world == 2 and (run.source, run.target) == M2D)
    }
    rows = {cells(line)[0]: cells(line)[1:] for line in split(values)[0][2:]}
    assert rows["market to duke"][1] == ""
    assert all(cell for name, row in rows.items() for cell in row if name != "market to duke")


def test_all_lines_of_a_table_have_the_same_number_of_cells() -> None:
    values = measured() | measured("plain", "camera")
    for table in split(values):
        assert len({line.count("|") for line in table}) == 1
        assert all(line.startswith("|") and line.endswith("|") for line in table)


def test_difficulty_covers_every_printed_task() -> None:
    tables = (table for paper in read_all(ROOT / "suites").values() for table in paper.tables.values())
    names = {column for table in tables for row in table.rows for column in row.printed}
    tasks = [Task(name) for name in names if re.fullmatch("[a-z]2[a-z]", name)]
    printed = {(task.source.name, task.target.name) for task in tasks if not task.unsupervised}
    planned = {(source, target) for source, targets in TESTED.items() for target in targets}
    assert {task for task in planned if task[0] != task[1]} == {task for task in printed if task[0] != task[1]}
    assert {source for source, target in planned if source == target} == set(TESTED)
    runs = difficulty(NETS, WORLDS, SEEDS)
    assert len(runs) == len(set(runs)) == 2 * 2 * 3 * sum(map(len, TESTED.values()))
    assert {run.off for run in runs} == {""}


def test_causes_are_measured_across_and_within_the_pair() -> None:
    runs = causes(["IBN"], [1], [1])
    assert len(runs) == len(set(runs)) == 4 * len(CAUSES)
    assert {run.off for run in runs} == set(CAUSES)
    assert {(run.source, run.target) for run in runs} == set(itertools.product(PAIR, PAIR))


@pytest.mark.parametrize(("net", "backbone"), [("plain", "narrow"), ("IBN", "narrow_ibn_a")])
def test_stage_trains_and_tests_in_the_world_of_the_run(net: str, backbone: str) -> None:
    made: Any = stage(Run(net, 2, 3, "market", "msmt17", "camera"), Setting("small"))
    assert (made.train.backbone, made.train.weights, made.train.seed) == (backbone, SHIPPED[backbone], 3)
    assert [(domain.domain, domain.seed, domain.dials.camera) for domain in (made.train.domain, made.on)] == [
        ("market", 2, 0.0),
        ("msmt17", 2, 0.0),
    ]
    assert isinstance(made.on, StandIn)
    plain: Any = stage(Run(net, 1, 3, "market", "market"), Setting("small"))
    assert plain.on == plain.train.domain, "supervised training is tested on the domain that it learned"
    assert set(vars(plain.on.dials).values()) == {1.0}


def test_results_survive_a_round_trip(tmp_path: Path) -> None:
    write(measured(), tmp_path / "numbers.json", weights="drawn objects 123")
    assert read(tmp_path / "numbers.json") == measured()
    assert json.loads((tmp_path / "numbers.json").read_text())["world"] == WORLD_VERSION


def test_page_matches_the_measured_numbers() -> None:
    page, numbers = (ROOT / "docs" / f"calibration.{ending}" for ending in ("md", "json"))
    kept = json.loads(numbers.read_text())
    assert kept["world"] == WORLD_VERSION, "the world has changed: measure again"
    shipped = Setting("small")
    run = next(iter(read(numbers)))
    assert kept["weights"] == shipped.identity([stage(run, shipped)]).weights
    for line in filter(None, tables(read(numbers))):
        assert line in page.read_text(), f"the page should hold:\n{line}"


def test_training_equals_the_msplr_baseline() -> None:
    """It differs only in the net, and in evaluations during training, which are unused here."""
    theirs = suite("msplr").baseline(Domain("market"), 3)
    setting = Setting("small")
    ours: Any = stage(Run("IBN", 1, 3, "market", "duke"), setting)
    resolved: Any = setting.resolve(theirs)
    assert dataclasses.replace(ours.train, eval_every=resolved.eval_every) == resolved


def test_bad_weights_exit_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--weights", str(tmp_path), "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "python -m methods.weights" in capsys.readouterr().err
