from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from demo_stages import After, Broken, Descent, Following, Number
from slurm_box import Box, said, until

from reproduce.errors import UserError
from reproduce.running.cluster import Cluster
from reproduce.running.engine import Engine, Job
from reproduce.running.runner import Site
from reproduce.running.slurm import Slurm

pytestmark = pytest.mark.slurm


@pytest.fixture
def cluster(box: Box, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes engines that hand stages to the box, and cancels what is left."""
    made: list[Cluster] = []

    def make(*sbatch: str, on_change: Callable[[Job], None] = lambda job: None, **choices: Any) -> Cluster:
        site = Site(tmp_path / "store", save_every=0)
        logs = tmp_path / "out" / "logs"
        pool = Cluster(site, Slurm(sbatch, **choices), logs=logs, on_change=on_change, ask_every=1, lag=3)
        made.append(pool)
        return pool

    yield make
    for each in made:
        each.close()
    box.clear()


def finish(pool: Cluster, *stages: Any) -> list[Job]:
    pool.submit(stages)
    return [pool.wait(stage) for stage in stages]


def only(pool: Cluster) -> str:
    """The id of the one job."""
    (run,) = pool._submitted
    return run.id


def step(pool: Cluster, true: Callable[[], object], seconds: float = 90) -> None:
    """Let an engine work until something is true."""

    def worked() -> bool:
        pool._start_ready()
        pool._listen(0.1)
        return bool(true())

    until(worked, seconds)


def bits(training: Any, pool: Engine) -> dict[str, Any]:
    return {name: weights.tolist() for name, weights in pool.store.load(training).checkpoints["last"].items()}


def test_a_failure_stays_with_its_own_cases_and_a_cancelled_job_goes_on(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    pool = cluster()
    bug, fine = Number(trouble="bug"), Number(2.0)
    killed, cancelled = Number(1.0, trouble="killed"), After(Descent(epochs=40, pause=0.3))
    below = Number(4.0, (Number(5.0, (bug,)),))
    pool.submit([bug, fine, killed, cancelled, below])
    training = pool.jobs[cancelled.training.key]
    step(pool, lambda: training.progress.get("done", 0) > 2, 90)
    number = next(run.id for run in pool._submitted if cancelled in run.bundle.stages)
    said("scancel", number)
    found = {stage: pool.wait(stage) for stage in (bug, fine, killed, cancelled, below)}
    assert found[fine].status == "done"
    assert "ValueError: a bug (on n" in found[bug].error
    assert "Traceback" in found[bug].tail
    assert "was killed by SIGKILL" in found[killed].error
    assert "which it needs: ValueError: a bug" in found[below].error
    assert f"job {number} of demo_stages.Descent ended as CANCELLED" in found[cancelled].error
    assert "the state is saved" in found[cancelled].tail
    assert pool.unfinished == 0
    assert list(pool.store.scratch(cancelled.training).glob("state-*"))
    again, unhurried = cluster(), Descent(epochs=40)
    assert [job.status for job in finish(again, cancelled)] == ["done"]
    assert again.store.described(cancelled.training).provenance.resumed
    local = Engine(Site(tmp_path / "local"), logs=tmp_path / "local-logs")
    local.submit([unhurried])
    local.wait(unhurried)
    assert bits(cancelled.training, again) == bits(unhurried, local)
    local.close()


def test_a_preempted_job_and_one_whose_node_is_lost_go_on(
    box: Box, cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    training, unhurried = Descent(epochs=40, pause=0.3), Descent(epochs=40)
    pool = cluster("partition=low", "exclusive")
    pool.submit([training])
    job = pool.jobs[training.key]
    step(pool, lambda: job.progress.get("done", 0) > 2)
    saved, node = job.progress["done"], job.place.removeprefix("on ")
    said("sbatch", "--partition=high", f"--nodelist={node}", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    step(pool, lambda: job.status == "queued")
    assert "queued again" in job.place
    step(pool, lambda: job.status == "running" and job.progress.get("done"))
    assert job.progress["done"] >= saved, "it goes on from its saved state"
    node = job.place.removeprefix("on ")
    box.lose_node(node, only(pool))
    assert pool.wait(training).status == "done"
    assert job.place.startswith("on n")
    assert job.place != f"on {node}"
    assert len(list(pool.store.root.glob(".jobs/*/*-*.jsonl"))) == 3
    local = Engine(Site(tmp_path / "local"), logs=tmp_path / "local-logs")
    local.submit([unhurried])
    local.wait(unhurried)
    assert bits(training, pool) == bits(unhurried, local)
    local.close()
    box.start_node(node)


def test_runs_share_jobs_and_collect_those_that_one_left(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    source, lost = Descent(epochs=20, pause=0.2), Broken()
    stages = After(source), lost
    heard: list[str] = []
    second = cluster(on_change=lambda job: heard.append(f"{job.status} {job.place}") if job.stage == source else None)
    first, third = cluster(), cluster()
    first.submit(stages)
    step(first, lambda: first.unfinished == 2)
    second.submit(stages)
    step(second, lambda: second.unfinished == 2)
    assert {run.id for run in first._submitted} == {run.id for run in second._submitted}
    assert first.leave() == 2
    assert [second.wait(stage).status for stage in stages] == ["done", "failed"]
    assert heard[0].startswith("queued queued before, job ")
    assert heard[1] in ("running on n1", "running on n2")
    third.submit(stages)
    assert third.wait(stages[0]).status == "cached"
    assert "a bug" in third.wait(lost).error, "said by the job that the first run left"
    assert third.unfinished == 0
    logs = {path.name.rpartition("-")[0] for path in (tmp_path / "out" / "logs").iterdir()}
    assert logs == {f"demo_stages.Descent-{source.key}", f"demo_stages.Broken-{lost.key}"}, "a log for each job"


def test_detached_jobs_follow_each_other(cluster: Callable[..., Cluster]) -> None:
    """The second needs the first; the fourth needs the third, which fails, so Slurm never starts it."""
    first, broken = Descent(epochs=2, seed=3), Broken()
    stages = Following(first), Following(broken)
    pool = cluster()
    pool.submit(stages)
    assert pool.detach() == (4, 0)
    again = cluster()
    again.submit(stages)
    assert again.detach() == (0, 4)
    collecting = cluster()
    collecting.submit(stages)
    done, failed = (collecting.wait(stage) for stage in stages)
    assert (done.status, failed.status) == ("done", "failed")
    assert "Broken failed, which it needs: ValueError: a bug" in failed.error
    starts = {path.parent.name.partition("-")[0] for path in pool.store.root.glob(".jobs/*/*-*.jsonl")}
    assert starts == {first.key, broken.key, stages[0].key}
    many = cluster(max_jobs=1)
    many.submit([Number(7.0), Number(8.0)])
    with pytest.raises(UserError, match="2 jobs are more than --max-jobs 1"):
        many.detach()
