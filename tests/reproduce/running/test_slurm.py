from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from demo_stages import Number
from hypothesis import given
from hypothesis import strategies as st

from reproduce.errors import UserError
from reproduce.running import job, slurm
from reproduce.running.cluster import Cluster
from reproduce.running.runner import Site
from reproduce.running.slurm import Bundle, Slurm, bundles, is_training
from reproduce.stage import Env, Stage, closure, parents


@dataclass(frozen=True)
class Part(Stage[Any]):
    """A stage, cheap or a training."""

    number: int
    training: bool = False
    before: tuple[Stage[Any], ...] = ()

    @property
    def work(self) -> float:
        return 100.0 if self.training else 1.0

    def run(self, env: Env) -> Any:
        raise NotImplementedError


DRAWN = Part(0)
SOURCE = Part(1, True, (DRAWN,))
DIRECT = Part(2, False, (SOURCE, DRAWN))
ADAPTED = Part(3, True, (SOURCE,))
TESTED = Part(4, False, (ADAPTED,))
BOTH = Part(5, False, (DIRECT, TESTED))
OTHER = Part(6, True, (DRAWN,))
COMPARED = Part(7, False, (TESTED, OTHER))


def test_evaluations_run_in_the_job_of_their_training() -> None:
    found = {bundle.stages[0]: bundle for bundle in bundles(closure([BOTH, COMPARED]))}
    assert found[SOURCE] == Bundle(SOURCE.key, (SOURCE, DIRECT), (DRAWN,))
    assert found[ADAPTED] == Bundle(ADAPTED.key, (ADAPTED, TESTED, BOTH), ())
    assert found[OTHER] == Bundle(OTHER.key, (OTHER,), (DRAWN,))
    assert found[COMPARED] == Bundle(COMPARED.key, (COMPARED,), ())
    assert len(found) == 4


def test_an_evaluation_alone_has_the_name_of_its_stored_training() -> None:
    assert bundles([TESTED, BOTH]) == [Bundle(ADAPTED.key, (TESTED, BOTH), ())]


def test_what_needs_no_training_is_a_job() -> None:
    assert bundles([DRAWN]) == [Bundle(DRAWN.key, (DRAWN,), ())]
    assert bundles([DRAWN, Part(9, False, (DRAWN,))]) == [
        Bundle(Part(9, False, (DRAWN,)).key, (Part(9, False, (DRAWN,)),), (DRAWN,))
    ]


@st.composite
def graphs(draw: st.DrawFn) -> list[Part]:
    stages: list[Part] = []
    for number in range(draw(st.integers(1, 9))):
        before = draw(st.lists(st.sampled_from(stages), max_size=3, unique=True)) if stages else []
        stages.append(Part(number, draw(st.booleans()), tuple(before)))
    return stages


@given(graphs(), st.data())
def test_jobs_build_everything_once_and_wait_for_none_that_waits_for_them(
    graph: list[Part], data: st.DataObject
) -> None:
    stored = set(data.draw(st.lists(st.sampled_from(graph), unique=True)))
    wanted = [stage for stage in graph if stage not in stored]
    made = bundles(wanted)
    built = [stage for bundle in made for stage in bundle.stages]
    assert len(built) == len(set(built))
    assert {*built, *(stage for bundle in made for stage in bundle.carried)} >= {*wanted}
    assert len({bundle.name for bundle in made}) == len(made)
    for bundle in made:
        assert sum(is_training(stage) for stage in bundle.build) <= 1
        order = [stage.key for stage in bundle.build]
        for stage in bundle.build:
            inside = [order.index(parent.key) for parent in parents(stage) if parent.key in order]
            assert all(place < order.index(stage.key) for place in inside)
    done = {stage.key for stage in stored}
    waiting = list(made)
    while waiting:
        ready = [
            bundle
            for bundle in waiting
            if {parent.key for stage in bundle.build for parent in parents(stage)}
            <= done | {stage.key for stage in bundle.build}
        ]
        assert ready, "jobs wait for each other"
        done |= {stage.key for bundle in ready for stage in bundle.build}
        waiting = [bundle for bundle in waiting if bundle not in ready]


def test_options_reach_sbatch_as_they_are() -> None:
    options = slurm.check_options(["account=lab x", "gres=gpu:h200:1", "p=gpu", "exclusive", "--qos=long"])
    bundle = Bundle(SOURCE.key, (SOURCE, DIRECT))
    words = slurm.words(bundle, "name", Path("/s/a.sh"), Path("/o/100%"), Slurm(options), ["7", "8"])
    assert words[-6:] == ["--account=lab x", "--gres=gpu:h200:1", "-pgpu", "--exclusive", "--qos=long", "/s/a.sh"]
    assert "--dependency=singleton,afterok:7:8" in words
    assert f"--output=/o/100%%/test_slurm.Part-{SOURCE.key}-%j.log" in words
    assert not any(word.startswith("--time") for word in words)


@pytest.mark.parametrize("option", ["output=x", "--signal=TERM", "J=x", "", "=x", "a b=c", "wrap=rm"])
def test_options_that_jobs_need_are_refused(option: str) -> None:
    with pytest.raises(UserError, match="--sbatch"):
        slurm.check_options([option])


@pytest.mark.parametrize(
    ("option", "gpu"),
    [("gres=gpu:1", True), ("gpus=2", True), ("G=1", True), ("gpus-per-node=1", True), ("gres=shard:1", False)],
)
def test_asking_for_a_gpu(option: str, gpu: bool) -> None:
    assert Slurm((option,)).gpu == gpu


@pytest.mark.parametrize(("seconds", "minutes"), [(10.0, 30), (900.0, 30), (901.0, 31), (36_000.0, 1200)])
def test_time_limits_are_twice_the_recorded_time(seconds: float, minutes: int) -> None:
    assert Slurm(seconds={SOURCE.key: seconds}).minutes(Bundle("", (SOURCE, DIRECT))) == minutes


def test_an_unknown_training_has_the_limit_of_its_partition() -> None:
    assert Slurm(seconds={DIRECT.key: 5.0}).minutes(Bundle("", (SOURCE, DIRECT))) is None


def test_a_script_quotes_its_paths_and_starts_with_the_prologue() -> None:
    text = slurm.script(
        Bundle(SOURCE.key, (SOURCE,)),
        Path("/a b/$x.json"),
        Path("/l"),
        Slurm(prologue="module load x\n", python=("run", "py")),
    )
    assert text.splitlines()[-2:] == ["module load x", "exec run py -P -m reproduce.running.job '/a b/$x.json' /l"]


def answers(monkeypatch: pytest.MonkeyPatch, code: int, out: str = "", error: str = "") -> None:
    done = subprocess.CompletedProcess([], code, out, error)
    monkeypatch.setattr(slurm.subprocess, "run", lambda *_, **__: done)


def test_answers_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "12|name|FAILED|NonZeroExitCode|n1|768|/s/with |bar.sh|\n"
    answers(monkeypatch, 0, line)
    states = slurm.ask()
    assert states
    assert (states["12"].over, str(states["12"])) == (True, "FAILED on n1 with exit code 3")
    assert states["12"].script == Path("/s/with |bar.sh")
    answers(monkeypatch, 1, line, "Socket timed out")
    assert slurm.ask() is None
    answers(monkeypatch, 0, "welcome\n41;cluster\n")
    assert slurm.submit(["sbatch"]) == "41"
    for busy in ("Socket timed out on send/recv", "AssocMaxSubmitJobLimit", "Unable to contact slurm controller"):
        answers(monkeypatch, 1, error=f"sbatch: error: {busy}")
        assert slurm.submit(["sbatch"]) is None
    answers(monkeypatch, 1, error="sbatch: error: invalid partition specified: nope")
    with pytest.raises(UserError, match="invalid partition"):
        slurm.submit(["sbatch"])


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_times_of_slurm(days: int, hours: int, minutes: int, rest: int) -> None:
    total = days * 86400 + hours * 3600 + minutes * 60 + rest
    assert job.seconds(f"{days}-{hours:02}:{minutes:02}:{rest:02}") == total
    if not days:
        assert job.seconds(f"{hours}:{minutes:02}:{rest:02}") == total
        if not hours:
            assert job.seconds(f"{minutes}:{rest:02}") == total
    assert job.seconds("UNLIMITED") == float("inf")
    for text in ("", "INVALID", "1:2:3:4", "NOT_SET"):
        with pytest.raises(ValueError, match=r".*"):
            job.seconds(text)


@pytest.mark.parametrize(
    ("left", "progressed", "earlier", "says"),
    [
        ("1-00:00:00", False, 9, ""),
        ("2:00", True, 0, ""),
        ("2:00", True, 4, ""),
        ("2:00", True, 5, "reached its time limit 6 times"),
        ("2:00", False, 0, "no progress"),
        ("UNLIMITED", False, 0, ""),
    ],
)
def test_a_job_that_runs_out_of_time_goes_on_five_times_while_it_gets_somewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, left: str, progressed: bool, earlier: int, says: str
) -> None:
    for restart in range(earlier):
        job.Report(tmp_path, "7", restart).say("timeout")
    job.Report(tmp_path, "71", 0).say("timeout")
    report, words = job.Report(tmp_path, "7", earlier), list[list[str]]()

    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        words.append(command)
        return subprocess.CompletedProcess(command, 0, f"{left}|\n", "")

    monkeypatch.setattr(slurm.subprocess, "run", answer)
    why = job._go_on(report, "7", progressed=progressed)
    assert says in why
    assert bool(why) == bool(says)
    assert (["scontrol", "requeue", "7"] in words) == (not says)
    assert report.count("timeout") == earlier + (left == "2:00" and not says)


def test_a_job_that_slurm_does_not_requeue_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = subprocess.CompletedProcess([], 1, "1-00:00:00|", "Requested operation is presently disabled")
    monkeypatch.setattr(slurm.subprocess, "run", lambda *_, **__: done)
    assert "presently disabled" in job._go_on(job.Report(tmp_path, "7", 0), "7", progressed=True)


def test_a_cluster_whose_squeue_fails_gives_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(slurm, "submit", lambda _: "5")
    monkeypatch.setattr(slurm, "ask", dict)
    heard: list[str] = []
    site = Site(tmp_path / "store")
    pool = Cluster(site, Slurm(), logs=tmp_path, on_change=lambda each: heard.append(each.told), ask_every=0, lag=0.2)
    stage = Number()
    pool.submit([stage])
    pool._start_ready()
    monkeypatch.setattr(slurm, "ask", lambda: None)
    for _ in range(15):
        pool._start_ready()
        pool._listen(0.1)
    assert (pool.jobs[stage.key].status, pool.unfinished) == ("queued", 1)
    assert sum("squeue fails" in text for text in heard) == 1
    monkeypatch.setattr(slurm, "ask", dict)
    ended = pool.wait(stage)
    assert "job 5 of demo_stages.Number is not known to Slurm any more" in ended.error
    assert "a file system that all nodes share" in ended.error
    pool.close()


def test_refused_jobs_fail_and_others_wait_for_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[float] = []
    answers = iter([None, UserError("sbatch refuses the job: no such account")])

    def submit(_: object) -> str | None:
        asked.append(time.monotonic())
        answer = next(answers)
        if answer:
            raise answer
        return None

    monkeypatch.setattr(slurm, "submit", submit)
    monkeypatch.setattr(slurm, "ask", dict)
    pool = Cluster(Site(tmp_path / "store"), Slurm(), logs=tmp_path, ask_every=0.5)
    pool.submit([Number()])
    pool._start_ready()
    assert pool.jobs[Number().key].status == "waiting"
    assert pool.wait(Number()).error == "sbatch refuses the job: no such account"
    assert asked[1] - asked[0] >= 0.5
    pool.close()


@given(graph=graphs())
def test_detached_jobs_are_submitted_after_those_that_they_need(
    tmp_path_factory: pytest.TempPathFactory, graph: list[Part]
) -> None:
    folder = tmp_path_factory.mktemp("detached")
    commands: list[list[str]] = []

    def submit(command: list[str]) -> str:
        commands.append(command)
        return str(len(commands))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm, "submit", submit)
        patch.setattr(slurm, "ask", dict)
        pool = Cluster(Site(folder / "store"), Slurm(), logs=folder)
        pool.submit(graph)
        made = {pool._name(bundle): bundle for bundle in pool._bundles}
        assert pool.detach() == (len(made), 0)
        pool.close()
    done: dict[str, set[str]] = {}
    for number, command in enumerate(commands, 1):
        bundle = made[command[2].partition("=")[2]]
        after = command[3].removeprefix("--dependency=singleton").removeprefix(",afterok:").split(":")
        needed = {parent.key for stage in bundle.build for parent in parents(stage)} - {
            stage.key for stage in bundle.build
        }
        assert needed <= set().union(*(done[each] for each in after if each))
        done[str(number)] = {stage.key for stage in bundle.build}
