from __future__ import annotations

import dataclasses
import io
from typing import Any

import made
import pytest
from demo_sources import Corridor, Mirror, Pooled
from msgspec import structs
from rich.console import Console

from methods import msplr, supervised
from reproduce.clustering import DBSCAN
from reproduce.data.domains import Domain
from reproduce.evaluation import Evaluate, Rerank
from reproduce.papers.cases import World
from reproduce.running.engine import Job
from reproduce.session.display import Display, clock, fitting, label, progress, summary, table
from reproduce.session.setting import Setting

STAGE = Setting("smoke").resolve(Evaluate(supervised.Train(Domain("market"), seed=2), on=Domain("duke")))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00"), (7325, "2:02:05")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_labels() -> None:
    assert label(STAGE) == "evaluation.Evaluate market, seed 2, on duke"
    assert label(STAGE.train) == "supervised.Train market, seed 2"  # type: ignore[attr-defined]
    assert label(STAGE.on) == "standins.StandIn duke"  # type: ignore[attr-defined]


def test_labels_say_each_thing_once_and_what_tells_stages_apart() -> None:
    source = supervised.Train(Domain("market"), seed=2)
    adapted = msplr.Adapt(source, Domain("duke"), DBSCAN(), seed=2)
    evaluated = Evaluate(adapted, Domain("duke"), at="step 1", rerank=Rerank())
    stage = Setting("smoke").resolve(evaluated)
    assert label(stage) == (
        "evaluation.Evaluate market, seed 2, duke, DBSCAN selected by camera, on duke, step 1 re-ranked"
    )
    raw = dataclasses.replace(adapted, select=False, by_camera=False)
    assert label(Setting("smoke").resolve(raw)) == "msplr.Adapt market, seed 2, duke, DBSCAN raw"


@pytest.mark.parametrize(("world", "words"), [(World(seed=2), "world 2"), (World(off="camera"), "no camera")])
def test_labels_say_which_other_world(world: World, words: str) -> None:
    stage = Setting("smoke").resolve(Evaluate(supervised.Train(Domain("market"), seed=2), on=Domain("duke")), world)
    assert label(stage) == f"evaluation.Evaluate market, {words}, seed 2, on duke"
    assert label(stage.on) == f"standins.StandIn duke, {words}"  # type: ignore[attr-defined]


def test_labels_name_sources_wherever_they_lie() -> None:
    market, made, outside = Domain("market"), Mirror(Domain("duke"), seed=3), Corridor()
    stage: Any = Setting("smoke", world_seed=2).resolve(Pooled(((market, outside), made)))
    assert label(stage) == (
        "demo_sources.Pooled market, world 2, corridor 2026, duke, seed 3, images made by demo_sources.Mirror, seed 1"
    )
    made = stage.domains[1]
    assert label(made) == "demo_sources.Mirror duke, world 2, seed 3"
    assert label(Evaluate(supervised.Train(made), on=outside)).endswith("seed 1, on corridor 2026")
    assert label(Evaluate(supervised.Train(outside), on=made)).endswith("on images made by demo_sources.Mirror")


def test_progress_shows_epoch_loss_speed_and_time_left() -> None:
    job = Job(STAGE, "running", started=100.0, ended=110.0)
    job.progress = {"unit": "epoch", "done": 5, "count": 20, "loss": 1.23456, "mAP": 45.67, "images_per_s": 812.3}
    assert progress(job) == ["epoch 5/20", "loss 1.235", "mAP 45.7", "812 images/s", "0:30 left"]
    job.progress |= {"restored": 4}
    assert progress(job)[-1] == "2:30 left"
    job.progress |= {"restored": 5}
    assert progress(job)[-1] == "812 images/s"
    job.progress = {}
    assert progress(job) == []
    job.progress = {"clusters": 31.0, "portion": 56.94, "purity": 80.2, "outliers": 401.0}
    assert progress(job) == ["31 clusters", "57 % kept", "80 % pure"]


def test_the_summary_shows_what_is_kept_where_a_table_prints_it() -> None:
    measured = {"mAP": 25.0, "rank1": 40.0, "rank5": 50.0, "rank10": 60.0, "portion": 57.5}
    two = {"1": measured, "2": {**measured, "portion": 58.5}}
    result = made.result(measured=two, printed={"mAP": 69.3, "rank1": 82.7})
    assert "kept" not in summary([result], 120, colour=False)
    shown = summary([structs.replace(result, printed={**result.printed, "portion": 69.7})], 120, colour=False)
    assert "58.0 ±0.7" in shown
    assert "69.7" in shown


def test_the_summary_names_columns_that_a_task_does_not_tell_apart() -> None:
    result = made.result(measured={"1": {"mAP": 25.0, "rank1": 40.0}})
    other = structs.replace(result, case=structs.replace(result.case, column="mgn"))
    assert f"{result.case.task} {result.case.column} " not in summary([result, result], 120, colour=False)
    shown = summary([result, other], 120, colour=False)
    assert f"{result.case.task} {result.case.column} " in shown
    assert f"{result.case.task} mgn " in shown


def test_a_log_gets_lines_at_start_and_end_and_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("reproduce.session.display.time.monotonic", lambda: now[0])
    monkeypatch.setattr("reproduce.running.engine.time.monotonic", lambda: now[0])
    said: list[str] = []
    display = Display(live=False, say=said.append)
    job = Job(STAGE, "running", started=100.0)
    display.changed(job)
    for second in range(1, 26):
        now[0] = 100.0 + second
        job.progress = {"unit": "epoch", "done": second, "count": 30}
        display.changed(job)
    job.status, job.ended = "done", 126.0
    display.changed(job)
    assert len(said) == 4
    assert said[0].startswith("start")
    assert "epoch 10/30" in said[1]
    assert said[3].endswith("in 0:26")


@pytest.mark.parametrize("width", [60, 80, 110, 160])
def test_a_running_stage_takes_one_line_at_every_width(width: int) -> None:
    adapted = msplr.Adapt(supervised.Train(Domain("market"), seed=2), Domain("duke"), DBSCAN(), seed=2)
    long = Setting("smoke").resolve(Evaluate(adapted, Domain("duke"), at="step 1", rerank=Rerank()))
    jobs = [Job(stage, "running", started=100.0, ended=110.0) for stage in (STAGE, long)]
    jobs[0].progress = {"unit": "epoch", "done": 5, "count": 20, "loss": 1.23456, "mAP": 45.67, "images_per_s": 812.3}
    jobs[1].progress = {"unit": "iteration", "done": 150, "count": 2000, "clusters": 31.0, "portion": 56.94}
    console = Console(width=width, file=io.StringIO())
    console.print(table(jobs, 7, width))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert "epoch 5/20" in lines[0]
    assert "iteration 150/2000" in lines[1]
    assert "and 7 waiting" in lines[2]
    assert ("812 images/s" in lines[0]) == (width == 160)


def test_speed_goes_first_then_values_then_time_left() -> None:
    words = ["epoch 5/20", "loss 1.235", "mAP 45.7", "812 images/s", "0:30 left"]
    dropped = [fitting(words, room) for room in (60, 50, 36, 24, 12, 3)]
    kept = [[0, 1, 2, 3, 4], [0, 1, 2, 4], [0, 1, 4], [0, 4], [0], []]
    assert dropped == [[words[at] for at in places] for places in kept]
