"""Run stages on leased devices, in children of a fork server, longest chain first; failures are isolated."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import multiprocessing as mp
import os
import resource
import secrets
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import connection, forkserver, reduction, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from reproduce.errors import UserError
from reproduce.files import printable
from reproduce.running import processes
from reproduce.running.provenance import settle_arithmetic
from reproduce.running.runner import STOPPED, Site, Store, build
from reproduce.stage import Stage, parents

PRELOAD = (
    "torch",
    "torchvision.io",
    "numpy",
    "safetensors.torch",
    "PIL.Image",
    "scipy.sparse.csgraph",
    "reproduce.evaluation",
    "reproduce.neighbours",
    "reproduce.running.runner",
    "reproduce.running.resume",
)
GRACE = 5.0
"""Seconds that a child has to end by itself before it is killed."""

NOTICE = 1.0
"""Seconds within which the end of a killed rank is known, of which the others fail at once."""

STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Signals by which batch systems announce the end of a job, to the run alone or to each of its processes."""

_LONGEST = 60
"""Letters of a folder in which a socket can still be made: its path has 107 at most."""

_NOW = signal.SIGALRM
"""Signal by which a run ends a child at once; the others ask it to save its state first."""

TICK = 0.1
TAIL_LINES = 25


def heard() -> list[signal.Signals]:
    """Return the signals among `STOPPING` that are not ignored, as SIGHUP is under nohup."""
    return [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]


class Stopped(Exception):
    """Signal that a batch system ended the run."""


class Lease:
    """A device held by one run; the system frees its lock when the run and all its children have ended."""

    def __init__(self, descriptor: int, gpu: str) -> None:
        self.descriptor = descriptor
        self.gpu = gpu

    @classmethod
    def take(cls, gpu: str, folder: Path) -> Lease | None:
        """Lease a device, or return None if another run holds it."""
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / f"gpu-{gpu}.lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(descriptor, gpu)

    def release(self) -> None:
        os.close(self.descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return {"gpu": self.gpu, "descriptor": reduction.DupFd(self.descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.gpu = state["gpu"]
        self.descriptor = state["descriptor"].detach()


def lease_folder() -> Path:
    """Return the folder of this machine's leases, one per user.

    Raises:
        UserError: It belongs to somebody else.
    """
    return _private(f"reproduce-leases-{os.getuid()}")


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """List the devices that the caller may use, as named in CUDA_VISIBLE_DEVICES, without importing torch."""
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = [name.strip() for name in listed.split(",")]
        unusable = next((place for place, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:unusable]
    import pynvml

    gpus: list[str] = []
    with contextlib.suppress(pynvml.NVMLError):  # such as: no driver
        pynvml.nvmlInit()
        try:
            gpus = [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
        finally:
            pynvml.nvmlShutdown()
    return gpus


def lease_gpus(wanted: int | None, folder: Path | None = None, *, ranks: int = 1) -> list[Lease]:
    """Lease `wanted` of the visible devices, or all that are free; a multiple of `ranks`, which share a training.

    Raises:
        UserError: Fewer devices are visible or free than wanted.
    """
    visible = visible_gpus()
    if wanted is not None and wanted > len(visible):
        shown = ", ".join(visible) or "none"
        raise UserError(
            f"--gpus {wanted} asks for more devices than are visible ({len(visible)}: {shown}): "
            f"give --gpus {len(visible)}"
        )
    if ranks > 1 and wanted is not None and (wanted == 0 or wanted % ranks):
        raise UserError(f"--gpus {wanted} is no multiple of --gpus-per-stage {ranks}: give {ranks}, {2 * ranks}, ...")
    if ranks > len(visible) and ranks > 1:
        shown = ", ".join(visible) or "none"
        raise UserError(f"--gpus-per-stage {ranks} needs as many GPUs; visible are {len(visible)} ({shown})")
    leases: list[Lease] = []
    for gpu in visible:
        if wanted is not None and len(leases) == wanted:
            break
        if lease := Lease.take(gpu, folder or lease_folder()):
            leases.append(lease)
    if wanted is None and len(leases) >= ranks:
        while len(leases) % ranks:
            leases.pop().release()
    if len(leases) < (wanted if wanted is not None else min(ranks, len(visible))):
        free = len(leases)
        for lease in leases:
            lease.release()
        raise UserError(
            f"{free} of {len(visible)} devices are free, other runs hold the rest: wait for them, or give --gpus {free}"
        )
    return leases


@dataclass
class Job:
    """The state of a queued stage."""

    stage: Stage[Any]
    status: str = "waiting"
    """"waiting", "queued" (for another node), "running", "done", "cached" (already in the store) or "failed"."""
    error: str = ""
    """Message for the user."""
    tail: str = ""
    """End of the stage's log."""
    progress: dict[str, Any] = field(default_factory=dict)
    """Last progress and log values that the child sent."""
    told: str = ""
    """Message that the child sent for the user; empty after `on_change` has shown it."""
    started: float = 0.0
    ended: float = 0.0
    priority: float = 0.0
    """Work of the stage and of its longest chain downstream; higher runs first."""
    turn: int = 0
    """Position in the queue, which decides between equal priorities."""
    missing: int = 0
    """Upstream stages that have not finished."""
    place: str = ""
    """Where it is queued or runs, if not here."""

    @property
    def finished(self) -> bool:
        return self.status in ("done", "cached", "failed")

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.started if self.started else 0.0


@dataclass
class _Child:
    job: Job
    process: Any
    messages: Connection
    slot: tuple[Lease, ...]
    """Its devices; none on the CPU."""
    helpers: list[tuple[Any, Connection]] = field(default_factory=list)
    """Living processes of the other ranks, with their messages."""
    errors: list[tuple[float, str]] = field(default_factory=list)
    """Errors of all ranks, with their times."""
    lost: str = ""
    """How one of the other ranks was killed."""

    @property
    def processes(self) -> list[Any]:
        return [self.process, *(process for process, _ in self.helpers)]


class Engine:
    """Run stages and their upstream stages. Work advances only inside `wait`, so there are no threads.

    Args:
        site: Store, data folders, weights, threads, and the ranks of a training; the device is set for each child.
        leases: GPUs; without any, stages run on the CPU.
        jobs: Stages run in parallel, on each GPU or on the CPU.
        logs: Folder of the stages' logs.
        on_change: Called with a job whenever it starts, progresses or ends.
        grace: Seconds in which `stop` lets trainings reach their next epoch or step.
    """

    def __init__(
        self,
        site: Site,
        *,
        leases: Sequence[Lease] = (),
        jobs: int = 1,
        logs: Path,
        on_change: Callable[[Job], None] = lambda job: None,
        grace: float = 25.0,
    ) -> None:
        if site.ranks > 1 and site.device != "cpu" and not leases and len(visible_gpus()) < site.ranks:
            raise UserError(f"--gpus-per-stage {site.ranks}, but {len(visible_gpus())} GPUs are visible: ask for more")
        self.store = Store(site.store)
        self._grace = grace
        self._stopped: signal.Signals | None = None
        self.jobs: dict[str, Job] = {}
        self._site, self._leases, self._logs, self._on_change = site, list(leases), logs, on_change
        shared = [tuple(self._leases[at : at + site.ranks]) for at in range(0, len(self._leases), site.ranks)]
        self._slots: list[tuple[Lease, ...]] = shared * jobs or [()] * jobs
        self._children: list[_Child] = []
        self._ready: dict[str, Job] = {}
        self._below: dict[str, list[Job]] = {}
        logs.mkdir(parents=True, exist_ok=True)
        self._use = contextlib.ExitStack()
        self._use.enter_context(self.store.used("run"))

    def submit(self, stages: Iterable[Stage[Any]]) -> None:
        """Queue stages and their upstream stages, except finished ones and those that only finished ones need."""
        for stage in stages:
            self._queue(stage, 0.0)

    def _queue(self, stage: Stage[Any], downstream: float) -> None:
        job = self.jobs.get(stage.key)
        if is_new := job is None:
            status = "cached" if self.store.has(stage) else "waiting"
            job = self.jobs[stage.key] = Job(stage, status, turn=len(self.jobs))
        raised = stage.work + downstream > job.priority
        job.priority = max(job.priority, stage.work + downstream)
        if job.status == "waiting" and (is_new or raised):
            for parent in parents(stage):
                self._queue(parent, job.priority)
            if is_new:
                self._connect(job)

    def _connect(self, job: Job) -> None:
        """Let a new job wait for its upstream stages."""
        upstream = {parent.key: self.jobs[parent.key] for parent in parents(job.stage)}
        for key, needed in upstream.items():
            if not needed.finished:
                job.missing += 1
                self._below.setdefault(key, []).append(job)
        if not job.missing:
            self._ready[job.stage.key] = job
        if failed := [needed for needed in upstream.values() if needed.status == "failed"]:
            self._fail_below(job, failed[0])

    def wait(self, stage: Stage[Any], on_tick: Callable[[], None] = lambda: None) -> Job:
        """Run the pool until a stage has finished, calling `on_tick` about ten times a second.

        Raises:
            Stopped: `stop` was called, and trainings have saved their states if the grace was enough.
        """
        job = self.jobs[stage.key]
        while not job.finished:
            if self._stopped:
                self._wind_down(self._stopped, on_tick)
            self._start_ready()
            self._listen(TICK)
            on_tick()
        return job

    def stop(self, number: int, _: object = None) -> None:
        """Let `wait` stop all stages in an orderly way: a signal handler."""
        self._stopped = signal.Signals(number)

    def _wind_down(self, why: signal.Signals, on_tick: Callable[[], None]) -> None:
        deadline = time.monotonic() + self._grace
        self._send(signal.SIGTERM)
        while self._children and time.monotonic() < deadline:
            self._listen(TICK)
            on_tick()
        late = len(self._children)
        self._send(signal.SIGKILL)
        cut = f"; {late} stages did not reach an epoch within --grace {self._grace:g}" if late else ""
        raise Stopped(f"{why.name} ended this run{cut}: the same command goes on from the saved states")

    def _send(self, number: signal.Signals) -> None:
        for process in (process for child in self._children for process in child.processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def running(self) -> list[Job]:
        """Return the jobs that have a process now."""
        return [child.job for child in self._children]

    def _start_ready(self) -> None:
        free = list(self._slots)
        for child in self._children:
            free.remove(child.slot)
        first = heapq.nsmallest(len(free), self._ready.values(), key=lambda job: (-job.priority, job.turn))
        for job, slot in zip(first, free, strict=False):
            del self._ready[job.stage.key]
            try:
                self._children.append(self._start(job, slot))
            except (EOFError, OSError) as error:
                self._end(job, "failed", f"no process could be started for {job.stage.name} ({error}){_limits()}")
                continue
            job.status, job.started = "running", time.monotonic()
            self._on_change(job)

    def _start(self, job: Job, slot: tuple[Lease, ...]) -> _Child:
        ranks = self._site.ranks if job.stage.divisible else 1
        meeting = Path(_temporary_folder()) / f"ranks-{secrets.token_hex(8)}" if ranks > 1 else None
        started: list[tuple[Any, Connection]] = []
        try:
            for rank in range(ranks):
                site = replace(self._site, ranks=ranks, rank=rank, meeting=meeting)
                started.append(self._start_rank(job, slot, site))
        except (EOFError, OSError):
            for process, _ in started:
                process.kill()
            raise
        return _Child(job, *started[0], slot, started[1:])

    def _start_rank(self, job: Job, slot: tuple[Lease, ...], site: Site) -> tuple[Any, Connection]:
        lease = slot[site.rank] if slot else None
        if lease:
            site = replace(site, device="cuda:0", gpu=lease.gpu)
        elif site.ranks > 1 and site.device != "cpu":  # a batch system has given this run its devices
            site = replace(site, gpu=visible_gpus()[site.rank])
        receiving, sending = mp.Pipe(duplex=False)
        process = _fork_server().Process(
            target=_child_main, args=(job.stage, site, lease, sending, self.log_of(job.stage)), daemon=True
        )
        with _without_main():
            process.start()
        sending.close()
        return process, receiving

    def log_of(self, stage: Stage[Any]) -> Path:
        """Return the path of a stage's log."""
        return self._logs / f"{stage.name}-{stage.key}.log"

    def _listen(self, timeout: float) -> None:
        """Receive messages of children, and remove those that have ended."""
        waitable: dict[Any, _Child] = {}
        for child in self._children:
            waitable |= dict.fromkeys((process.sentinel for process in child.processes), child)
            waitable |= dict.fromkeys((child.messages, *(messages for _, messages in child.helpers)), child)
        for child in {id(waitable[it]): waitable[it] for it in connection.wait(list(waitable), timeout)}.values():
            self._hear_helpers(child)
            ended = not child.process.is_alive()
            if (child.errors or child.lost) and not ended and not child.messages.poll():
                self._await_loss(child)
                if not child.messages.poll():  # the first rank may have ended the stage in the meantime
                    self._fail(child)
                    child.process.kill()
            with contextlib.suppress(EOFError, OSError):
                while not child.job.finished and child.messages.poll():
                    self._take(child, child.messages.recv())
            if ended or child.job.finished:
                self._remove(child)

    def _hear_helpers(self, child: _Child) -> None:
        """Collect the errors of ranks that help a stage, and forget those that have ended."""
        for process, messages in list(child.helpers):
            ended = not process.is_alive()
            with contextlib.suppress(EOFError, OSError):
                while messages.poll():
                    message = messages.recv()
                    if message["event"] == "failed":
                        child.errors.append((message["at"], message["error"]))
            if ended:
                if process.exitcode:
                    child.lost = self._lost(process)
                messages.close()
                child.helpers.remove((process, messages))

    def _fail(self, child: _Child) -> None:
        """End a stage with the first error of its ranks, from which the others' follow."""
        first = min(child.errors, default=(0.0, ""))[1]
        lost = f" ({child.lost})" if first and child.lost else child.lost
        self._end(child.job, "failed", f"{first}{lost}", self._tail(child.job.stage))

    def _await_loss(self, child: _Child) -> None:
        """Wait a moment for the end of a rank that was killed: the others say that they lost it before it is known."""
        until = time.monotonic() + (NOTICE if self._site.ranks > 1 else 0)
        while True:
            living = child.helpers or child.process.is_alive()
            self._hear_helpers(child)
            if self._site.ranks > 1 and (child.process.exitcode or 0) < 0:
                child.lost = self._lost(child.process)
            left = until - time.monotonic()
            if child.lost or not living or left <= 0:
                return
            connection.wait([process.sentinel for process in child.processes if process.is_alive()], left)

    def _lost(self, process: Any) -> str:
        return f"one of its {self._site.ranks} processes {_ending(process.exitcode)}"

    def _take(self, child: _Child, message: dict[str, Any]) -> None:
        match message.pop("event"):
            case "done":
                self._end(child.job, "done")
            case "failed":
                child.errors.append((message["at"], message["error"]))
                self._await_loss(child)
                self._fail(child)
            case "began":
                child.job.started = time.monotonic()
            case "told":
                child.job.told = message["told"]
                self._on_change(child.job)
                child.job.told = ""
            case _:
                child.job.progress.update(message)
                self._on_change(child.job)

    def _remove(self, child: _Child) -> None:
        child.process.join(GRACE)
        if child.errors and not child.job.finished:
            self._await_loss(child)
            self._fail(child)
        for process, messages in child.helpers:
            process.kill()
            process.join(GRACE)
            messages.close()
        child.messages.close()
        self._children.remove(child)
        code = child.process.exitcode
        if code == STOPPED:
            child.job.status = "waiting"
            self._ready[child.job.stage.key] = child.job
        elif not child.job.finished:
            hint = "; out of memory is the usual cause: try fewer --jobs" if code == -signal.SIGKILL else _limits()
            mend = "run the same command again to continue where it stopped"
            message = f"the process of {child.job.stage.name} {_ending(code)}{hint}; {mend}"
            self._end(child.job, "failed", message, self._tail(child.job.stage))

    def _end(self, job: Job, status: str, error: str = "", tail: str = "") -> None:
        job.status, job.error, job.tail, job.ended = status, printable(error), printable(tail), time.monotonic()
        self._on_change(job)
        for below in self._below.pop(job.stage.key, ()):
            below.missing -= 1
            if status == "failed":
                self._fail_below(below, job)
            elif not below.missing and below.status == "waiting":
                self._ready[below.stage.key] = below

    def _fail_below(self, job: Job, cause: Job) -> None:
        if job.status in ("waiting", "queued"):
            self._ready.pop(job.stage.key, None)
            self._end(job, "failed", f"{cause.stage.name} failed, which it needs: {cause.error}", cause.tail)

    def _tail(self, stage: Stage[Any]) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log_of(stage).read_text(errors="replace").splitlines()[-TAIL_LINES:])
        return ""

    def close(self) -> None:
        """End every child, by force if necessary, and free the devices."""
        _continue_fork_server()
        self._send(_NOW)
        self._send(signal.SIGCONT)
        deadline = time.monotonic() + (0 if self._stopped else GRACE)
        for child in self._children:
            for process in child.processes:
                process.join(max(0.0, deadline - time.monotonic()))
                if process.is_alive():
                    process.kill()
                    process.join(GRACE)
            child.messages.close()
        self._children.clear()
        for lease in self._leases:
            lease.release()
        self._leases.clear()
        self._use.close()


def _fork_server() -> Any:
    """Return the context of a fork server with torch loaded, started once per process with one thread per library."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    _continue_fork_server()
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    before = {name: os.environ.get(name) for name in one_thread}
    os.environ.update(one_thread)
    own_temporary, tempfile.tempdir = tempfile.tempdir, _temporary_folder()
    resource_tracker.ensure_running()  # which would change the mask
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # the server inherits it, or it would end all stages
    try:
        with _without_main():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        tempfile.tempdir = own_temporary
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return context


def _continue_fork_server() -> None:
    """Let the fork server go on if somebody stopped it: nothing starts or ends without it."""
    pid = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@cache
def _temporary_folder() -> str:
    """Make a folder for the fork server's socket, and delete those of killed runs."""
    parent = _private(f"reproduce-{os.getuid()}")
    if len(str(parent)) > _LONGEST:
        return tempfile.gettempdir()
    for other in parent.iterdir():
        with contextlib.suppress(OSError):
            if any(processes.ended(note.name) for note in other.iterdir()):
                shutil.rmtree(other)
    folder = Path(tempfile.mkdtemp(dir=parent))
    (folder / processes.this_process()).touch()
    after_its_own = -200
    Finalize(None, shutil.rmtree, [folder], {"ignore_errors": True}, exitpriority=after_its_own)
    return str(folder)


def _private(name: str) -> Path:
    """Return a folder of this user in the folder of temporary files.

    Raises:
        UserError: It cannot be made, or belongs to somebody else.
    """
    try:
        folder = Path(tempfile.gettempdir()) / name
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat()
    except OSError as error:
        raise UserError(f"no folder for temporary files can be used ({error}): set TMPDIR to one") from None
    if owner.st_uid != os.getuid() or not stat.S_ISDIR(owner.st_mode) or owner.st_mode & stat.S_IWOTH:
        raise UserError(f"{folder} is not a folder of this user alone: remove it, or set TMPDIR to another folder")
    return folder


def _ending(code: int | None) -> str:
    """Say how a process ended."""
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _limits() -> str:
    """Name a limit on memory that the shell has set, which libraries report in many ways; empty if there is none."""
    bytes_, _ = resource.getrlimit(resource.RLIMIT_AS)
    if bytes_ == resource.RLIM_INFINITY:
        return ""
    return f"; this shell limits memory to {bytes_ >> 20} MiB (ulimit -v), which may be the cause"


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module from children: they would run pytest's start script a second time."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _child_main(stage: Stage[Any], site: Site, lease: Lease | None, messages: Connection, log: Path) -> None:
    """Run one stage in its process. `lease` is only held: its lock lasts until the last process that holds it ends."""
    _die_with_parent()
    asked: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(_NOW, lambda *_: sys.exit(128 + signal.SIGTERM))
    for number in heard():
        signal.signal(number, lambda *_: asked.append(1))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    with log.open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    if site.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = site.gpu
    _keep_freed_memory()
    import torch

    torch.set_num_threads(site.threads)
    settle_arithmetic()
    try:
        build(stage, site, messages.send, lambda: bool(asked))
        messages.send({"event": "done"})
    except UserError as error:
        print(f"{type(error).__name__}: {error}")
        messages.send({"event": "failed", "at": time.time(), "error": str(error)})
    except Exception as error:
        traceback.print_exc()
        messages.send({"event": "failed", "at": time.time(), "error": f"{type(error).__name__}: {error}{_limits()}"})


def _keep_freed_memory() -> None:
    """Make glibc reuse large blocks instead of returning them to the system: saves 3 to 8 % of a CPU training step."""
    mmap_threshold, trim_threshold = -3, -1
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 1 << 30)
        library.mallopt(trim_threshold, (1 << 31) - 1)


def _die_with_parent() -> None:
    """End this process when the run that started it has ended, even if it was killed."""
    run = mp.parent_process()
    assert run is not None

    def watch() -> None:
        connection.wait([run.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform == "linux":
        kill_me_when_the_fork_server_ends = 1
        ctypes.CDLL(None).prctl(kill_me_when_the_fork_server_ends, signal.SIGKILL)
