"""Hand stages to Slurm: what one job builds, its script, submitting it, and asking what became of it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproduce.errors import UserError
from reproduce.evaluation import Trained
from reproduce.stage import Stage, closure, parents

SIGNAL = "B:USR2@120"
"""Slurm's notice before it ends a job: the signal, to the job's first process, and the seconds before the end."""

SHORTEST = 30
"""Minutes of the shortest time limit."""

LEAST = 2
"""Time limit in multiples of the recorded time."""

OURS = {"array", "begin", "chdir", "dependency", "error", "export", "job-name", "kill-on-invalid-dep", "no-requeue"}
OURS |= {"open-mode", "output", "parsable", "requeue", "signal", "test-only", "wait", "wrap", *"JabdeoDW"}
"""Options of sbatch that the engine sets itself, or that change what a submission means."""

OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
OVER |= {"REVOKED", "TIMEOUT"}
"""States of jobs that have ended; one that is requeued leaves them again."""

BUSY = ("timed out", "unable to contact slurm", "submit job limit", "submitlimit", "maxsubmit", "temporarily")
"""Words by which sbatch says that it may accept the same job later."""


@dataclass(frozen=True)
class Bundle:
    """The stages of one job: a training, and what needs that training and no other."""

    name: str
    """Key of the training, or of the first stage if there is none or several."""
    stages: tuple[Stage[Any], ...]
    """What it must build, upstream ones first."""
    carried: tuple[Stage[Any], ...] = ()
    """Upstream stages that need no training, such as drawn domains: each job that lacks them builds them."""

    @property
    def build(self) -> tuple[Stage[Any], ...]:
        return (*self.carried, *self.stages)


@dataclass(frozen=True)
class State:
    """What Slurm says about a job."""

    id: str
    name: str
    state: str
    reason: str
    nodes: str
    exit_code: str
    script: Path
    """Script that was submitted."""

    @property
    def over(self) -> bool:
        return self.state in OVER

    def __str__(self) -> str:
        return f"{self.state}{f' on {self.nodes}' if self.nodes else ''}{_exit(self.exit_code)}"


@dataclass(frozen=True)
class Slurm:
    """The user's choices for jobs."""

    sbatch: tuple[str, ...] = ()
    """Options of sbatch, as `NAME=VALUE` or `NAME`."""
    prologue: str = ""
    """Shell commands that run first, such as `module load`."""
    python: tuple[str, ...] = ()
    """Command in place of this Python, such as a container's; empty for this Python."""
    max_jobs: int = 50
    """Jobs in Slurm's queue at once."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Recorded seconds of stages, by key."""

    @property
    def gpu(self) -> bool:
        """Whether jobs ask for a GPU."""
        words = [option.partition("=") for option in self.sbatch]
        return any(
            name in ("G", "gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task")
            or (name in ("gres", "tres-per-task") and "gpu" in value)
            for name, _, value in words
        )

    def minutes(self, bundle: Bundle) -> int | None:
        """Compute a time limit: twice the recorded time, at least 30 minutes; None if a training has no record."""
        known = [self.seconds.get(stage.key) for stage in bundle.build if is_training(stage)]
        if not known or None in known:
            return None
        total = sum(self.seconds.get(stage.key, 0.0) for stage in bundle.build)
        return max(SHORTEST, -int(-LEAST * total // 60))


def check_options(options: Iterable[str]) -> tuple[str, ...]:
    """Check options for sbatch.

    Raises:
        UserError: One is set by the engine.
    """
    checked = tuple(option.lstrip("-") for option in options)
    for option in checked:
        name = option.partition("=")[0]
        if not name or name in OURS or any(space in name for space in " \t\n"):
            raise UserError(
                f"--sbatch {option}: give an option of sbatch as NAME=VALUE, but none of "
                f"{', '.join(sorted(name for name in OURS if len(name) > 1))}, which jobs need as they are"
            )
    return checked


def is_training(stage: Stage[Any]) -> bool:
    """Return whether a stage has a job of its own: a training, or any that says how much work it is."""
    return isinstance(stage, Trained) or stage.work > 1


def bundles(wanted: Collection[Stage[Any]]) -> list[Bundle]:
    """Group stages into jobs, upstream ones first.

    A stage belongs to the training that it needs last. What compares trainings is a job of its own; what needs no
    training is carried by each job that needs it, or is a job of its own if none does.

    Args:
        wanted: Stages to build, with all upstream ones that are to be built.
    """
    keys, ordered = {stage.key for stage in wanted}, closure(wanted)
    last = _last_trainings(ordered)
    named = {parent.key for stage in wanted for parent in parents(stage)}
    groups: dict[object, list[Stage[Any]]] = {}
    for stage in ordered:
        if stage.key in keys and (last[stage.key] or stage.key not in named):
            groups.setdefault(last[stage.key] or stage.key, []).append(stage)
    free = {stage.key for stage in wanted if not last[stage.key]}

    def carried(stages: Iterable[Stage[Any]]) -> Iterator[Stage[Any]]:
        for stage in stages:
            for parent in parents(stage):
                if parent.key in free:
                    yield from (*carried([parent]), parent)

    def bundle(home: object, own: list[Stage[Any]]) -> Bundle:
        name = min(home) if isinstance(home, frozenset) and len(home) == 1 else own[0].key
        return Bundle(name, tuple(own), tuple(dict.fromkeys(carried(own))))

    return [bundle(home, own) for home, own in groups.items()]


def _last_trainings(ordered: Iterable[Stage[Any]]) -> dict[str, frozenset[str]]:
    """Find the trainings that a stage is or needs and that no other of them needs, by the stage's key.

    Args:
        ordered: Stages with all upstream ones, upstream ones first.
    """
    last: dict[str, frozenset[str]] = {}
    before: dict[str, frozenset[str]] = {}  # all trainings that a stage needs
    for stage in ordered:
        above = [parent.key for parent in parents(stage)]
        before[stage.key] = frozenset().union(*(before[key] | last[key] for key in above))
        nearest = frozenset().union(*(last[key] for key in above))
        further = frozenset().union(*(before[key] for key in nearest))
        last[stage.key] = frozenset({stage.key}) if is_training(stage) else nearest - further
    return last


def script(bundle: Bundle, spec: Path, logs: Path, slurm: Slurm) -> str:
    """Return the text of a job's script."""
    python = slurm.python or (sys.executable,)
    command = [*python, "-P", "-m", "reproduce.running.job", str(spec), str(logs)]
    prologue = f"{slurm.prologue.rstrip()}\n" if slurm.prologue else ""
    names = "".join(f"# {stage.name} {stage.key}\n" for stage in bundle.build)
    return f"#!/bin/bash\n{names}{prologue}exec {shlex.join(command)}\n"


def words(bundle: Bundle, name: str, script: Path, logs: Path, slurm: Slurm, after: Sequence[str] = ()) -> list[str]:
    """Return the command that submits a job.

    Args:
        bundle: Its stages.
        name: Its name; Slurm runs one job of a name and user at a time.
        script: Its script.
        logs: Folder of logs.
        slurm: The user's choices.
        after: Ids of jobs that must succeed before it.
    """
    head = next((stage for stage in bundle.stages if is_training(stage)), bundle.stages[0])
    log = str(logs / f"{head.name}-{head.key}-").replace("%", "%%") + "%j.log"
    minutes = slurm.minutes(bundle)
    return [
        *("sbatch", "--parsable", f"--job-name={name}"),
        "--dependency=" + ",".join(["singleton", *(["afterok:" + ":".join(after)] if after else [])]),
        *("--kill-on-invalid-dep=yes", f"--signal={SIGNAL}", "--requeue", "--open-mode=append", f"--output={log}"),
        *([f"--time={minutes}"] if minutes else []),
        *map(_option, slurm.sbatch),
        str(script),
    ]


def check_present() -> None:
    """Check that Slurm's commands are there.

    Raises:
        UserError: One is not.
    """
    for command in ("sbatch", "squeue", "scancel"):
        if not shutil.which(command):
            raise UserError(f"--slurm needs {command}, which is not on the path: run on a login node of the cluster")


def submit(command: Sequence[str]) -> str | None:
    """Submit a job and return its id, or None if Slurm is too busy now.

    Raises:
        UserError: Slurm refuses it.
    """
    done = run(command)
    if done.returncode == 0:
        return done.stdout.split()[-1].partition(";")[0]
    says = done.stderr.strip()
    if any(word in says.lower() for word in BUSY):
        return None
    raise UserError(f"sbatch refuses the job: {says}")


def ask() -> dict[str, State] | None:
    """Ask Slurm for all jobs of this user, also ended ones, by id; None if it does not answer."""
    fields = ("JobID", "Name", "State", "Reason", "NodeList", "exit_code", "Command")
    form = ",".join(f"{name}:|" for name in fields)
    done = run(["squeue", "--me", "--states=all", "--noheader", f"--Format={form}"])
    if done.returncode:
        return None
    states = {}
    for line in done.stdout.splitlines():
        id, name, state, reason, nodes, code, command = line.removesuffix("|").split("|", len(fields) - 1)
        states[id] = State(id, name, state, reason, nodes, code, Path(command.strip()))
    return states


def cancel(names: Iterable[str]) -> None:
    """Cancel this user's jobs of some names."""
    for name in names:
        run(["scancel", "--me", f"--name={name}"])


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm; one that hangs or cannot be started has failed."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _option(option: str) -> str:
    name, _, value = option.partition("=")
    return f"-{name}{value}" if len(name) == 1 else f"--{option}"


def _exit(status: str) -> str:
    """Describe the status of wait(2)."""
    if not status.isdecimal():
        return ""
    code = os.waitstatus_to_exitcode(int(status) & 0xFFFF)
    return f" by signal {-code}" if code < 0 else f" with exit code {code}"
