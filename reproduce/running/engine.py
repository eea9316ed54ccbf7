"""Run stages on leased devices, in children of a fork server, longest chain first; failures are isolated."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import multiprocessing as mp
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection, forkserver, reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reproduce.errors import UserError
from reproduce.running.provenance import settle_arithmetic
from reproduce.running.runner import Site, Store, build
from reproduce.stage import Stage, parents

PRELOAD = (
    "torch",
    "torchvision.io",
    "numpy",
    "safetensors.torch",
    "PIL.Image",
    "reproduce.running.runner",
    "reproduce.running.resume",
)
GRACE = 5.0
"""Seconds that a child has to end by itself before it is killed."""

TICK = 0.1
TAIL_LINES = 25


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
    """Return the folder of this machine's leases, one per user."""
    return Path(tempfile.gettempdir()) / f"reproduce-leases-{os.getuid()}"


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


def lease_gpus(wanted: int | None, folder: Path | None = None) -> list[Lease]:
    """Lease `wanted` of the visible devices, or all that are free.

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
    leases: list[Lease] = []
    for gpu in visible:
        if wanted is not None and len(leases) == wanted:
            break
        if lease := Lease.take(gpu, folder or lease_folder()):
            leases.append(lease)
    if len(leases) < (wanted if wanted is not None else min(1, len(visible))):
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
    """"waiting", "running", "done", "cached" (already in the store) or "failed"."""
    error: str = ""
    """Message for the user."""
    tail: str = ""
    """End of the stage's log."""
    progress: dict[str, Any] = field(default_factory=dict)
    """Last progress and log values that the child sent."""
    started: float = 0.0
    ended: float = 0.0
    priority: float = 0.0
    """Work of the stage and of its longest chain downstream; higher runs first."""

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
    slot: Lease | None


class Engine:
    """Run stages and their upstream stages. Work advances only inside `wait`, so there are no threads.

    Args:
        site: Store, data folders, weights and threads; the device is set for each child.
        leases: GPUs; without any, stages run on the CPU.
        jobs: Stages run in parallel, on each GPU or on the CPU.
        logs: Folder of the stages' logs.
        on_change: Called with a job whenever it starts, progresses or ends.
    """

    def __init__(
        self,
        site: Site,
        *,
        leases: Sequence[Lease] = (),
        jobs: int = 1,
        logs: Path,
        on_change: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self.store = Store(site.store)
        self.jobs: dict[str, Job] = {}
        self._site, self._leases, self._logs, self._on_change = site, list(leases), logs, on_change
        self._slots: list[Lease | None] = [*self._leases] * jobs or [None] * jobs
        self._children: list[_Child] = []
        logs.mkdir(parents=True, exist_ok=True)

    def submit(self, stages: Iterable[Stage[Any]]) -> None:
        """Queue stages and their upstream stages, except finished ones and those that only finished ones need."""
        for stage in stages:
            self._queue(stage, 0.0)

    def _queue(self, stage: Stage[Any], downstream: float) -> None:
        job = self.jobs.get(stage.key)
        if job is None:
            job = self.jobs[stage.key] = Job(stage, "cached" if self.store.has(stage) else "waiting")
        job.priority = max(job.priority, stage.work + downstream)
        if job.status == "waiting":
            for parent in parents(stage):
                self._queue(parent, job.priority)

    def wait(self, stage: Stage[Any], on_tick: Callable[[], None] = lambda: None) -> Job:
        """Run the pool until a stage has finished, calling `on_tick` about ten times a second."""
        job = self.jobs[stage.key]
        while not job.finished:
            self._start_ready()
            self._listen(TICK)
            on_tick()
        return job

    def running(self) -> list[Job]:
        """Return the jobs that have a process now."""
        return [child.job for child in self._children]

    def _start_ready(self) -> None:
        for job in self.jobs.values():
            failed = [self.jobs[parent.key] for parent in parents(job.stage) if self._upstream(parent) == "failed"]
            if job.status == "waiting" and failed:
                cause = failed[0]
                self._end(job, "failed", f"{cause.stage.name} failed, which it needs: {cause.error}", cause.tail)
        ready = [
            job
            for job in self.jobs.values()
            if job.status == "waiting"
            and all(self._upstream(parent) in ("done", "cached") for parent in parents(job.stage))
        ]
        busy = [child.slot for child in self._children]
        free = list(self._slots)
        for slot in busy:
            free.remove(slot)
        for job, slot in zip(sorted(ready, key=lambda job: -job.priority), free, strict=False):
            self._children.append(self._start(job, slot))
            job.status, job.started = "running", time.monotonic()
            self._on_change(job)

    def _upstream(self, stage: Stage[Any]) -> str:
        job = self.jobs.get(stage.key)
        return job.status if job else "cached"

    def _start(self, job: Job, slot: Lease | None) -> _Child:
        site = self._site if slot is None else replace(self._site, device="cuda:0", gpu=slot.gpu)
        receiving, sending = mp.Pipe(duplex=False)
        process = _fork_server().Process(
            target=_child_main, args=(job.stage, site, slot, sending, self.log_of(job.stage)), daemon=True
        )
        with _without_main():
            process.start()
        sending.close()
        return _Child(job, process, receiving, slot)

    def log_of(self, stage: Stage[Any]) -> Path:
        """Return the path of a stage's log."""
        return self._logs / f"{stage.name}-{stage.key}.log"

    def _listen(self, timeout: float) -> None:
        """Receive messages of children, and remove those that have ended."""
        waitable = {child.messages: child for child in self._children} | {
            child.process.sentinel: child for child in self._children
        }
        for child in {id(waitable[it]): waitable[it] for it in connection.wait(list(waitable), timeout)}.values():
            ended = not child.process.is_alive()
            with contextlib.suppress(EOFError, OSError):
                while child.messages.poll():
                    self._take(child, child.messages.recv())
            if ended or child.job.finished:
                self._remove(child)

    def _take(self, child: _Child, message: dict[str, Any]) -> None:
        match message.pop("event"):
            case "done":
                self._end(child.job, "done")
            case "failed":
                self._end(child.job, "failed", message["error"], self._tail(child.job.stage))
            case _:
                child.job.progress.update(message)
                self._on_change(child.job)

    def _remove(self, child: _Child) -> None:
        child.process.join(GRACE)
        child.messages.close()
        self._children.remove(child)
        if not child.job.finished:
            code = child.process.exitcode
            how = (
                f"was killed by {signal.Signals(-code).name}"
                if code is not None and code < 0
                else f"ended with exit code {code}"
            )
            hint = "; out of memory is the usual cause: try fewer --jobs" if code == -signal.SIGKILL else ""
            mend = "run the same command again to continue where it stopped"
            message = f"the process of {child.job.stage.name} {how}{hint}; {mend}"
            self._end(child.job, "failed", message, self._tail(child.job.stage))

    def _end(self, job: Job, status: str, error: str = "", tail: str = "") -> None:
        job.status, job.error, job.tail, job.ended = status, error, tail, time.monotonic()
        self._on_change(job)

    def _tail(self, stage: Stage[Any]) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log_of(stage).read_text(errors="replace").splitlines()[-TAIL_LINES:])
        return ""

    def close(self) -> None:
        """End every child, by force if necessary, and free the devices."""
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for child in self._children:
            child.process.join(max(0.0, deadline - time.monotonic()))
            if child.process.is_alive():
                child.process.kill()
                child.process.join()
            child.messages.close()
        self._children.clear()
        for lease in self._leases:
            lease.release()
        self._leases.clear()


def _fork_server() -> Any:
    """Return the context of a fork server with torch loaded, started once per process with one thread per library."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    before = {name: os.environ.get(name) for name in one_thread}
    os.environ.update(one_thread)
    try:
        with _without_main():
            forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return context


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
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
        build(stage, site, messages.send)
        messages.send({"event": "done"})
    except UserError as error:
        print(f"{type(error).__name__}: {error}")
        messages.send({"event": "failed", "error": str(error)})
    except Exception as error:
        traceback.print_exc()
        messages.send({"event": "failed", "error": f"{type(error).__name__}: {error}"})


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
