"""Build the stages of a job on the node where Slurm runs it: python -m reproduce.running.job SPEC LOGS."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reproduce.errors import UserError
from reproduce.running import slurm, specs
from reproduce.running.engine import Engine, Job, Stopped, heard, visible_gpus
from reproduce.running.runner import STOPPED, Store
from reproduce.running.slurm import is_training
from reproduce.stage import Stage

GRACE = 90.0
"""Seconds of Slurm's 120 s notice in which a training may reach its next epoch or step."""

NEAR = 200.0
"""Seconds before the time limit in which a notice, which may be 60 s early, means the limit; else preemption."""

TIMEOUTS = 5
"""Times that a job may run into its time limit and go on."""

SAY_EVERY = 2.0
"""Seconds between two reports of a stage's progress."""


class Report:
    """What a job says to the run that waits for it, line by line, in a file beside its description.

    Each start of a requeued job has its own file. A file is opened for each line, so that a network file system passes
    it on; where that fails, the stage goes on.
    """

    def __init__(self, folder: Path, number: str, restart: int) -> None:
        self._path = folder / f"{number}-{restart:04}.jsonl"
        self._said: dict[str, float] = {}

    def say(self, event: str, **message: Any) -> None:
        with contextlib.suppress(OSError), self._path.open("a") as file:
            file.write(json.dumps({"event": event, **message}) + "\n")

    def count(self, event: str) -> int:
        """Count the reports of an event at all starts of this job."""
        starts = self._path.parent.glob(f"{self._path.name.partition('-')[0]}-*.jsonl")
        return sum(
            line.startswith(json.dumps({"event": event})[:-1])
            for path in starts
            for line in path.read_text().splitlines()
        )

    def changed(self, job: Job) -> None:
        """Report a stage that has started, progressed, told something or ended."""
        key = job.stage.key
        if job.told:
            self.say("told", key=key, told=job.told)
        elif job.status == "running" and time.monotonic() - self._said.get(key, float("-inf")) >= SAY_EVERY:
            self._said[key] = time.monotonic()
            self.say("running", key=key, seconds=job.seconds, progress=job.progress)
        elif job.status == "done":
            self.say("done", key=key)
        elif job.status == "failed":
            self.say("failed", key=key, error=f"{job.error} (on {specs.node()})", tail=job.tail)


class Node(Engine):
    """Run stages in one job, with one log for all."""

    log: Path

    def log_of(self, stage: Stage[Any]) -> Path:
        return self.log


def main(arguments: Sequence[str]) -> int:
    """Build the stages of a job.

    Args:
        arguments: Path of the description, and folder of logs.

    Returns:
        The exit code: 0 even if an evaluation failed, so that Slurm starts the jobs that continue from the training.
    """
    path, logs = map(Path, arguments)
    signals: list[int] = []
    for each in heard():
        signal.signal(each, lambda number, _: signals.append(number))
    number = os.environ["SLURM_JOB_ID"]
    report = Report(path.parent, number, int(os.environ.get("SLURM_RESTART_COUNT") or 0))
    log = next(logs.glob(f"*-{number}.log"), logs / f"{number}.log")
    report.say("began", node=specs.node(), log=str(log))
    try:
        described = specs.read(path)
        wanted = _checked(described)
        engine = Node(described.site.at(Path(described.store)), logs=logs, on_change=report.changed, grace=GRACE)
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        print(error, flush=True)
        report.say("refused", error=str(error))
        return 1
    engine.log = log

    def stop(number: int, _: object) -> None:
        signals.append(number)
        engine.stop(number)

    for each in heard():
        signal.signal(each, stop)
    if signals:
        engine.stop(signals[0])
    reached = _reached(wanted, engine.store)
    try:
        failed = _build(engine, wanted, report)
    except Stopped as stopped:
        print(stopped, flush=True)
        engine.close()
        if set(signals) == {signal.SIGUSR2}:  # else Slurm has cancelled the job, or requeues it by itself
            why = _go_on(report, number, progressed=_reached(wanted, engine.store) != reached)
            for stage in (stage for stage in wanted if why and not engine.store.has(stage)):
                report.say("failed", key=stage.key, error=why, tail="")
        return STOPPED
    finally:
        engine.close()
    decisive = [stage for stage in wanted if is_training(stage)] or wanted
    return int(any(stage in failed for stage in decisive))


def _checked(described: specs.Spec) -> list[Stage[Any]]:
    """Return the stages to build, after checking that this node can build them.

    Raises:
        UserError: It cannot; the message names the node and what differs.
    """
    specs.check(described)
    stages = specs.stages(described)
    specs.check_given(described, stages, Store(Path(described.store)))
    if described.site.device != "cpu" and not visible_gpus():
        raise UserError(f"{specs.node()} gives this job no GPU: ask for one, as with --sbatch gres=gpu:1")
    return [stages[key] for key in described.build]


def _build(engine: Engine, wanted: Sequence[Stage[Any]], report: Report) -> list[Stage[Any]]:
    """Build stages, report those that are there already, and return those that failed."""
    engine.submit(wanted)
    jobs = [engine.wait(stage) for stage in wanted]
    for job in jobs:
        if job.status == "cached":
            report.say("done", key=job.stage.key)
    return [job.stage for job in jobs if job.status == "failed"]


def _reached(wanted: Sequence[Stage[Any]], store: Store) -> set[str]:
    """List finished stages and saved states, whose names tell how far a training is."""
    states = (path for stage in wanted for path in store.scratch(stage).glob("state-*"))
    return {path.name for path in states} | {stage.key for stage in wanted if store.has(stage)}


def _go_on(report: Report, number: str, *, progressed: bool) -> str:
    """Put a job that was told to stop back into the queue, and return why that cannot be."""
    if _seconds_left(number) <= NEAR:
        more = "give a longer limit with --sbatch time=MINUTES; the same command continues from the saved state"
        if not progressed:
            return f"job {number} reached its time limit and had made no progress: {more}"
        if report.count("timeout") >= TIMEOUTS:
            return f"job {number} reached its time limit {TIMEOUTS + 1} times: {more}"
        report.say("timeout")
    done = slurm.run(["scontrol", "requeue", number])
    if done.returncode == 0:
        return ""
    says = done.stderr.strip()
    return f"job {number} was stopped, and Slurm does not requeue it ({says}): run the same command again to continue"


def _seconds_left(number: str) -> float:
    """Ask Slurm how long a job may still run, in seconds; 0 if it does not answer."""
    done = slurm.run(["squeue", "--noheader", f"--jobs={number}", "--Format=TimeLeft:|"])
    with contextlib.suppress(ValueError):
        return seconds(done.stdout.strip().rstrip("|"))
    return 0.0


def seconds(text: str) -> float:
    """Convert Slurm's days-hours:minutes:seconds, such as 1-02:03:04 or 3:04, to seconds; no limit is infinite.

    Raises:
        ValueError: It is no such time.
    """
    if text == "UNLIMITED":
        return float("inf")
    days, _, clock = text.rpartition("-")
    hours, minutes, rest = [0] * (2 - clock.count(":")) + [int(part) for part in clock.split(":")]
    return float(((24 * int(days or 0) + hours) * 60 + minutes) * 60 + rest)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
