"""Run stages as Slurm jobs on a store that the nodes share."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproduce.errors import UserError
from reproduce.files import printable, replacing
from reproduce.running import slurm, specs
from reproduce.running.engine import TAIL_LINES, Engine, Job, Stopped
from reproduce.running.runner import Site
from reproduce.running.slurm import Bundle, Slurm, State
from reproduce.stage import Stage

LOOK_EVERY = 1.0
"""Seconds between two looks at what jobs wrote."""

ASK_EVERY = 30.0
"""Seconds between two questions to Slurm, each about all jobs."""


@dataclass
class _Submitted:
    """A job of Slurm that this run waits for."""

    bundle: Bundle
    id: str
    name: str
    spec: Path
    """Its description; what the job says lies beside it."""
    log: Path | None = None
    attempt: Path | None = None
    """What the job's last start said."""
    read: int = 0
    """Bytes of that which were read."""
    over: float | None = None
    """Since when Slurm has called it ended."""
    state: State | None = None
    done: set[str] = field(default_factory=set)
    """Keys that it says are in the store."""

    def said(self) -> Iterator[dict[str, Any]]:
        """Yield what the job has said since the last call; what an earlier start of a requeued job says is ignored."""
        attempts = sorted(path for path in self.spec.parent.iterdir() if path.name.startswith(f"{self.id}-"))
        if not attempts:
            return
        if attempts[-1] != self.attempt:
            self.attempt, self.read = attempts[-1], 0
        with self.attempt.open("rb") as file:
            file.seek(self.read)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self.read += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):  # cut by a full disk
                yield json.loads(line)


class Cluster(Engine):
    """Run stages as Slurm jobs.

    A stage has ended if its artifact is there, or if its job says that it failed, or if Slurm says that the job has
    ended and neither appears within the lag of a network file system.

    Args:
        site: As for `Engine`; its paths are those of the nodes.
        choices: The user's choices for jobs.
        logs: Folder of logs.
        on_change: As for `Engine`.
        ask_every: Seconds between two questions to Slurm.
        lag: Seconds for which a network file system may hide a new file.
    """

    def __init__(
        self,
        site: Site,
        choices: Slurm,
        *,
        logs: Path,
        on_change: Callable[[Job], None] = lambda job: None,
        ask_every: float = ASK_EVERY,
        lag: float = specs.LAG,
    ) -> None:
        super().__init__(site, logs=logs.resolve(), on_change=on_change)
        self._slurm, self._ask_every, self._lag = choices, ask_every, lag
        self._bundles: list[Bundle] = []
        """Jobs that are not submitted yet."""
        self._submitted: list[_Submitted] = []
        self._states: dict[str, State] | None = None
        self._asked = self._looked = float("-inf")
        self._full = float("-inf")
        """When Slurm last accepted no more jobs."""
        self._adopted = self._told = False

    def submit(self, stages: Iterable[Stage[Any]]) -> None:
        super().submit(stages)
        self._bundles = slurm.bundles([job.stage for job in self.jobs.values() if job.status == "waiting"])
        longest = {
            bundle.name: max(self.jobs[stage.key].priority for stage in bundle.stages) for bundle in self._bundles
        }
        self._bundles.sort(key=lambda bundle: -longest[bundle.name])

    def scripts(self) -> Iterator[str]:
        """Yield the command and the script of each job, without writing or submitting anything but the store's id."""
        for bundle in self._bundles:
            _, path = self._described(bundle)
            command = slurm.words(bundle, self._name(bundle), path.with_suffix(".sh"), self._logs, self._slurm)
            after = ", ".join(self._name(other) for other in self._before(bundle))
            text = slurm.script(bundle, path, self._logs, self._slurm)
            yield "\n".join([f"# {shlex.join(command)}", *([f"# after {after}"] if after else []), text])

    def detach(self) -> tuple[int, int]:
        """Submit all jobs, each after those that it needs; return how many were submitted, and were there before.

        Raises:
            UserError: Slurm does not answer, or refuses a job; or there are more than `max_jobs`.
        """
        self._ask()
        if self._states is None:
            raise UserError("Slurm does not answer (squeue failed): nothing was submitted, try again")
        self._adopt()
        if len(self._bundles) > self._slurm.max_jobs:
            raise UserError(
                f"{len(self._bundles)} jobs are more than --max-jobs {self._slurm.max_jobs}: select fewer cases, or "
                f"give --max-jobs {len(self._bundles)}"
            )
        found, count = len(self._submitted), len(self._bundles)
        try:
            while self._bundles:
                bundle = next(each for each in self._bundles if not {*self._before(each)} & {*self._bundles})
                before = self._before(bundle)
                after = [run.id for run in self._submitted if run.bundle in before]
                if not self._submit(bundle, after):
                    raise UserError("Slurm accepts no more jobs now: the same command submits the rest later")
        finally:
            self.leave()
        return count, found

    def leave(self) -> int:
        """Note the unfinished jobs beside their descriptions, so that the same command collects them; count them."""
        for run in self._submitted:
            with contextlib.suppress(OSError), replacing(run.spec.with_suffix(".left")) as draft:
                draft.write_text(run.id)
        count = len(self._submitted)
        self._submitted.clear()
        return count

    def cancel(self) -> int:
        """Cancel the unfinished jobs by name, and count them."""
        slurm.cancel(sorted({run.name for run in self._submitted}))
        count = len(self._submitted)
        self._submitted.clear()
        return count

    @property
    def unfinished(self) -> int:
        """Number of jobs that are queued or run."""
        return len(self._submitted)

    def running(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.status == "running"]

    def close(self) -> None:
        self.leave()
        super().close()

    def _wind_down(self, why: Any, on_tick: Callable[[], None]) -> None:
        raise Stopped(
            f"{why.name} ended this run; jobs in the queue ({self.leave()}) go on: the same command collects them"
        )

    def _start_ready(self) -> None:
        if time.monotonic() - self._asked >= self._ask_every:
            self._ask()
        if self._states is None:
            return
        self._adopt()
        if time.monotonic() - self._full < self._ask_every:
            return
        for bundle in list(self._bundles):
            if all(self.jobs[stage.key].finished for stage in bundle.stages):
                self._bundles.remove(bundle)
            elif len(self._submitted) < self._slurm.max_jobs and self._startable(bundle):
                try:
                    if not self._submit(bundle):
                        self._full = time.monotonic()
                        break
                except (UserError, OSError) as error:
                    self._bundles.remove(bundle)
                    self._fail_all(bundle, str(error))

    def _startable(self, bundle: Bundle) -> bool:
        needed = [self.jobs.get(stage.key) for stage in specs.missing(bundle.build)]
        return all(job is None or job.status in ("done", "cached") for job in needed)

    def _before(self, bundle: Bundle) -> list[Bundle]:
        """List the jobs that build what a job continues from."""
        keys = {stage.key for stage in specs.missing(bundle.build)}
        known = [*self._bundles, *(run.bundle for run in self._submitted)]
        return [other for other in known if keys & {stage.key for stage in other.stages}]

    def _name(self, bundle: Bundle) -> str:
        """Return a job's name: the key of its training, and the store's id, as a user may have two stores."""
        return f"{bundle.name}-{specs.store_id(self.store.root)[:6]}"

    def _described(self, bundle: Bundle) -> tuple[specs.Spec, Path]:
        """Describe a job, and say where its description lies."""
        given, same = specs.missing(bundle.build), not self._slurm.python
        described = specs.spec(bundle.build, given, self.store, self._site, same=same)
        return described, self.store.root / specs.FOLDER / self._name(bundle) / f"{described.digest}.json"

    def _submit(self, bundle: Bundle, after: Sequence[str] = ()) -> bool:
        """Submit a job, and return whether Slurm had room for it."""
        described, path = self._described(bundle)
        specs.write(described, path)
        batch = path.with_suffix(".sh")
        with replacing(batch) as draft:
            draft.write_text(slurm.script(bundle, path, self._logs, self._slurm))
        name = self._name(bundle)
        number = slurm.submit(slurm.words(bundle, name, batch, self._logs, self._slurm, after))
        if number is None:
            return False
        self._bundles.remove(bundle)
        self._watch(_Submitted(bundle, number, name, path), "queued")
        return True

    def _watch(self, run: _Submitted, place: str) -> None:
        self._submitted.append(run)
        for stage in run.bundle.stages:
            job = self.jobs[stage.key]
            if job.status == "waiting":
                job.status, job.place = "queued", f"{place}, job {run.id}"
        self._on_change(self.jobs[run.bundle.stages[0].key])

    def _adopt(self) -> None:
        """Wait for jobs of earlier or parallel runs that build the same, in place of jobs of this run."""
        if self._adopted:
            return
        self._adopted = True
        live = [state for state in (self._states or {}).values() if not state.over]
        for bundle in list(self._bundles):
            name = self._name(bundle)
            folder = self.store.root / specs.FOLDER / name
            queued = [(state.script, state.id) for state in live if state.name == name]
            left = [(path, path.read_text()) for path in sorted(folder.glob("[!.]*.left"))]
            for path, number in (*queued, *left):
                described = path.with_suffix(".json")
                if path.parent == folder and self._builds(described, bundle):
                    path.with_suffix(".left").unlink(missing_ok=True)
                    self._bundles.remove(bundle)
                    self._watch(_Submitted(bundle, number, name, described), "queued before")
                    break

    def _builds(self, path: Path, bundle: Bundle) -> bool:
        """Return whether a submitted job builds all that this run would let it build, with the same code and data."""
        try:
            other, (own, _) = specs.read(path), self._described(bundle)
        except UserError:
            return False
        same = (other.source, other.versions, other.site) == (own.source, own.versions, own.site)
        return same and {stage.key for stage in bundle.stages} <= set(other.build)

    def _ask(self) -> None:
        self._asked, states = time.monotonic(), slurm.ask()
        if states is None:
            if not self._told:
                self._tell("squeue fails; asking again, as jobs go on without it")
            self._told = True
            return
        self._states, self._told = states, False
        for run in self._submitted:
            run.state = states.get(run.id, run.state)
            if run.id in states and not states[run.id].over:
                run.over = None
                self._place_jobs(run, states[run.id])
            elif run.over is None:
                run.over = time.monotonic()

    def _tell(self, says: str) -> None:
        if job := next((job for job in self.jobs.values() if not job.finished), None):
            job.told = says
            self._on_change(job)
            job.told = ""

    def _place_jobs(self, run: _Submitted, state: State) -> None:
        """Show where the stages of a job are: waiting in the queue, perhaps again, or on a node."""
        for stage in run.bundle.stages:
            job = self.jobs[stage.key]
            if state.state == "PENDING" and not job.finished:
                again, job.status = job.status == "running", "queued"
                job.place = f"queued{' again' if again else ''} ({state.reason}), job {run.id}"
                if again:
                    job.progress.clear()
                    self._on_change(job)

    def _listen(self, timeout: float) -> None:
        time.sleep(timeout)
        if time.monotonic() - self._looked < LOOK_EVERY:
            return
        self._looked = time.monotonic()
        for run in list(self._submitted):
            with contextlib.suppress(FileNotFoundError):
                for message in run.said():
                    self._hear(run, message)
            over = run.over is not None
            for stage in (stage for stage in run.bundle.build if not self.jobs[stage.key].finished):
                settled = over or stage.key in run.done
                if specs.there(self.store, stage) if settled else self.store.has(stage):
                    self._end(self.jobs[stage.key], "done")
            if run.over is not None and time.monotonic() - run.over > self._lag:
                self._fail_all(run.bundle, self._verdict(run), self._end_of_log(run))
            if all(self.jobs[stage.key].finished for stage in run.bundle.stages):
                self._submitted.remove(run)

    def _hear(self, run: _Submitted, message: dict[str, Any]) -> None:
        job = self.jobs.get(message.get("key", ""))
        match message["event"]:
            case "began":
                run.log, node = Path(message["log"]), message["node"]
                for stage in run.bundle.stages:
                    if not self.jobs[stage.key].finished:
                        self.jobs[stage.key].place = f"on {node}"
            case "refused":
                self._fail_all(run.bundle, message["error"])
            case "done":
                run.done.add(message["key"])
            case "failed" if job and not job.finished:
                self._end(job, "failed", message["error"], message["tail"])
            case "told" if job and not job.finished:
                job.told = message["told"]
                self._on_change(job)
                job.told = ""
            case "running" if job and not job.finished:
                if job.status != "running":
                    job.status = "running"
                    job.progress.clear()
                    self._on_change(job)
                job.started = time.monotonic() - message["seconds"]
                job.progress.update(message["progress"])
                if job.progress:
                    self._on_change(job)

    def _fail_all(self, bundle: Bundle, error: str, tail: str = "") -> None:
        for stage in bundle.stages:
            if not self.jobs[stage.key].finished:
                self._end(self.jobs[stage.key], "failed", error, tail)

    def _verdict(self, run: _Submitted) -> str:
        says = f"ended as {run.state}" if run.state else "is not known to Slurm any more"
        hint = (
            ""
            if run.attempt
            else ("; it wrote nothing beside its description: the store must lie on a file system that all nodes share")
        )
        mend = "run the same command again to continue where it stopped"
        return f"job {run.id} of {run.bundle.stages[0].name} {says}, without artifact or error{hint}; {mend}"

    def _end_of_log(self, run: _Submitted) -> str:
        head = run.bundle.stages[0]
        log = run.log or self._logs / f"{head.name}-{head.key}-{run.id}.log"
        with contextlib.suppress(OSError):
            return printable("\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:]))
        return ""


def queued(root: Path) -> list[specs.Spec]:
    """Read the descriptions of a store's jobs that are in Slurm's queue, or that were left there and not collected yet.

    Raises:
        UserError: One cannot be read.
    """
    folder = root.resolve() / specs.FOLDER
    left = {note.with_suffix(".json") for note in folder.glob("*/[!.]*.left")}
    states = (slurm.ask() or {}).values() if folder.is_dir() else ()
    scripts = (state.script.resolve() for state in states if not state.over)
    return [
        specs.read(path)
        for path in sorted(left | {script.with_suffix(".json") for script in scripts if script.is_relative_to(folder)})
    ]
