"""Store finished artifacts, and run one stage into the store: locked, resumable, atomic, with provenance."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
from filelock import FileLock, Timeout
from msgspec import Struct

from reproduce.artifacts import Artifact
from reproduce.data.manifests import Manifest, glance, take
from reproduce.data.sources import Source, enter, sources
from reproduce.errors import Diverged, UserError
from reproduce.files import replacing, sha256
from reproduce.running import processes
from reproduce.running.provenance import Provenance, device_name, machine
from reproduce.stage import A, Stage, closure, full_spec

if TYPE_CHECKING:
    from reproduce.dataset import Dataset
    from reproduce.neighbours import Backend

FORMAT = 1
SAVE_EVERY = 10.0
"""Seconds of training between two saved states; times s after a save that took s > 1 seconds."""

LARGE = 20 * 2**20
"""Bytes of a saved state from which the next comes later, in proportion: a long training would write terabytes."""

STOPPED = 75
"""Exit code of a stage that was asked to stop and can go on later."""

SHOW_EVERY = 0.1
"""Seconds between two progress messages."""

ELSEWHERE = "give another folder with --store"

Report = Callable[[Mapping[str, Any]], None]
T = TypeVar("T")


class Described(Struct):
    """The description of an artifact that the store keeps beside its files."""

    format: int
    kind: str
    """Class of the artifact."""
    stage: str
    key: str
    spec: dict[str, Any]
    provenance: Provenance
    files: dict[str, str]
    """SHA-256 by path."""


class _Label(Struct):
    """The content of `store.json`."""

    format: int


class Store:
    """Keep artifacts by key; `<root>/<Stage>/<key>/` appears atomically."""

    def __init__(self, root: Path) -> None:
        self.root = root
        label = root / "store.json"
        try:
            if not label.exists():
                others = root.is_dir() and any(not path.name.startswith(".store.json.") for path in root.iterdir())
                if others and not label.exists():  # another process may have created it meanwhile
                    raise UserError(f"{root} is not empty and not a store: give another folder with --store")
                with replacing(label) as draft:
                    draft.write_text(json.dumps({"format": FORMAT}) + "\n")
            stored = msgspec.json.decode(label.read_bytes(), type=_Label).format
        except OSError as error:
            raise UserError(f"{root} cannot be used as a store ({error.strerror}): {ELSEWHERE}") from None
        except ValueError as error:
            raise UserError(
                f'{label} is damaged ({error}): write {{"format": {FORMAT}}} into it if nothing else is, or {ELSEWHERE}'
            ) from None
        if stored != FORMAT:
            raise UserError(
                f"{root} is a store of format {stored} and this version writes format {FORMAT}: "
                f"{ELSEWHERE}, or delete this one"
            )

    def folder(self, stage: Stage[Any]) -> Path:
        return self.root / stage.name / stage.key

    def has(self, stage: Stage[Any]) -> bool:
        return (self.folder(stage) / "artifact.json").exists()

    def described(self, stage: Stage[Any]) -> Described:
        """Read the description of a finished stage.

        Raises:
            UserError: It is damaged.
        """
        label = self.folder(stage) / "artifact.json"
        content = self._read(stage, label.name, dict[str, Any])
        written = content.pop("checksum", "")  # missing in artifacts of earlier versions
        if written and written != _checksum(content):
            raise _damaged(label, "its checksum does not match")
        try:
            return msgspec.convert(content, Described)
        except ValueError as error:
            raise _damaged(label, error) from None

    def history(self, stage: Stage[Any]) -> list[dict[str, float | int]]:
        """Read the values that a stage logged, one entry per step.

        Raises:
            UserError: They are damaged.
        """
        return self._read(stage, "history.json", list[dict[str, float | int]])

    def _read(self, stage: Stage[Any], name: str, kind: type[T]) -> T:
        path = self.folder(stage) / name
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from None

    def load(self, stage: Stage[A]) -> A:
        """Load the artifact of a finished stage, after checking the checksums of its files.

        Raises:
            UserError: It is damaged.
        """
        folder = self.folder(stage)
        described = self.described(stage)
        for name, checksum in described.files.items():
            path = folder / name
            if not path.is_file() or sha256(path) != checksum:
                raise _damaged(path, "its checksum does not match", folder)
        label = folder / "artifact.json"
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if not path.is_dir()}
        if added := sorted(there - described.files.keys() - {label.name}):
            raise _damaged(folder / added[0], "the stage did not write it", folder)
        if described.kind not in Artifact.kinds:
            raise _damaged(label, f"{described.kind!r} is no kind of artifact")
        try:
            artifact: A = Artifact.kinds[described.kind].load(folder)  # type: ignore[assignment]
        except FileNotFoundError as error:
            raise _damaged(label, f"it does not list {Path(error.filename or '').name}") from None
        return artifact

    def lock(self, stage: Stage[Any]) -> FileLock:
        """Return the lock to hold while a stage is built; the system releases it if the holder dies."""
        return self._lock(stage.key)

    @contextlib.contextmanager
    def lock_key(self, key: str) -> Iterator[bool]:
        """Try to take a key's lock, and yield whether that succeeded."""
        lock = self._lock(key)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _lock(self, key: str) -> FileLock:
        path = self.root / ".locks" / f"{key}.lock"
        path.parent.mkdir(exist_ok=True)
        return FileLock(path)

    def scratch(self, stage: Stage[Any]) -> Path:
        """Return the folder for the state of an unfinished training."""
        return self.root / ".scratch" / stage.key

    @contextlib.contextmanager
    def used(self, purpose: str) -> Iterator[None]:
        """Let other processes know that this one uses the store for a "run", of which there may be several, or "gc".

        It needs no locks, which a file system may lack or ignore: each leaves a note, then looks for others.

        Raises:
            UserError: The other purpose is, or may be, pursued now.
        """
        notes = self.root / ".users"
        own = notes / f"{purpose}@{processes.this_process()}@{secrets.token_hex(4)}"
        try:
            notes.mkdir(exist_ok=True)
            own.touch()
        except OSError as error:
            raise UserError(f"{self.root} cannot be used as a store ({error.strerror}): {ELSEWHERE}") from None
        try:
            for other in sorted(notes.glob("[!.]*")):
                what, _, process = other.name.rpartition("@")[0].partition("@")
                if (over := processes.ended(process)) is True:
                    other.unlink(missing_ok=True)
                elif what != purpose or (what == "gc" and other != own):
                    doubt = f"; if that has ended, delete {other}" if over is None else ""
                    raise UserError(
                        f"{self.root} is used by {processes.described(process)}, for {what}: wait for its end{doubt}"
                    )
            yield
        finally:
            own.unlink(missing_ok=True)

    @contextlib.contextmanager
    def draft(self, stage: Stage[Any]) -> Iterator[Path]:
        """Yield a new folder of this process, deleted at the end unless `publish` moved it, and delete dead ones."""
        drafts = self.root / ".drafts"
        for other in drafts.glob("*@*"):
            if processes.ended(other.name.partition("@")[2]):
                shutil.rmtree(other, ignore_errors=True)
        draft = drafts / f"{stage.key}@{processes.this_process()}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def publish(
        self, stage: Stage[Any], draft: Path, artifact: Artifact, history: object, provenance: Provenance
    ) -> None:
        """Write an artifact into its draft, then move the draft into place by one rename, unless one is there."""
        artifact.save(draft)
        (draft / "history.json").write_text(json.dumps(history) + "\n")
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        described = Described(
            format=FORMAT,
            kind=type(artifact).__name__,
            stage=stage.name,
            key=stage.key,
            spec=full_spec(stage),
            provenance=provenance,
            files={path.relative_to(draft).as_posix(): sha256(path) for path in files},
        )
        label = draft / "artifact.json"
        content = msgspec.to_builtins(described)
        label.write_text(json.dumps(content | {"checksum": _checksum(content)}, indent=1) + "\n")
        for path in [*files, label]:
            _flush(path)
        final = self.folder(stage)
        final.parent.mkdir(exist_ok=True)
        if final.exists() and not self.has(stage):
            shutil.rmtree(final)
        try:
            draft.replace(final)
        except OSError:
            if not self.has(stage):  # else another builder was faster, and its artifact has the same bits
                raise
        _flush(final.parent)
        shutil.rmtree(self.scratch(stage), ignore_errors=True)


@dataclass(frozen=True)
class Site:
    """Settings of a run that must not affect the numbers of a stage."""

    store: Path
    """Root of the store."""
    device: str = "cpu"
    """"cpu" or "cuda:0"."""
    threads: int = 1
    """Processor threads per stage."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Folders of real domains, by manifest digest."""
    weights: Mapping[str, Path] = field(default_factory=dict)
    """Files of weights, by SHA-256."""
    save_every: float = SAVE_EVERY
    """Seconds between two saved states; 0 saves after every epoch."""
    gpu: str | None = None
    """Value of CUDA_VISIBLE_DEVICES in the stage's process; None leaves it unchanged."""
    neighbours: Backend = "torch"
    """Backend of neighbour search; see `reproduce.neighbours.using`."""
    ranks: int = 1
    """Processes that compute a stage together; see `reproduce.ranks`."""
    rank: int = 0
    """Number of this process among them. Rank 0 keeps state and artifact; the others only help."""
    meeting: Path | None = None
    """File where they find each other."""


class Seconds(NamedTuple):
    """Wall time, and time of the device: processor seconds on a CPU, wall time on a GPU."""

    wall: float
    device: float

    @classmethod
    def now(cls, device: str) -> Seconds:
        """Read the clocks, whose differences count."""
        wall = time.monotonic()
        return cls(wall, time.process_time() if device == "cpu" else wall)


class StageEnv:
    """The `Env` that the runner passes to a stage."""

    def __init__(
        self,
        stage: Stage[Any],
        store: Store,
        site: Site,
        draft: Path,
        report: Report,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.device = site.device
        self.folder = draft / "tree"
        self.folder.mkdir()
        self.history: list[dict[str, float]] = []
        self.data: dict[str, str] = {}
        self._manifests: dict[str, Manifest] = {}
        self._reachable = {upstream.key for upstream in closure([stage])} - {stage.key}
        self._sources = sources([stage])
        self._stage, self._store, self._site, self._report, self._stopping = stage, store, site, report, stopping
        self.spent = Seconds(0.0, 0.0)
        """What earlier, killed runs of this stage spent on the state from which it continues."""
        self._began = Seconds.now(site.device)
        self._last_log = time.monotonic()
        self._shown = 0.0
        self._looped = False
        self._restored = 0

    def get(self, stage: Stage[A]) -> A:
        if stage.key not in self._reachable:
            raise LookupError(f"{self._stage.name} asked for {stage.name} {stage.key}, which none of its fields names")
        return self._store.load(stage)

    def open(self, source: object) -> Dataset:
        if not isinstance(source, Source) or source not in self._sources:
            raise LookupError(f"{self._stage.name} opened {source!r}, which is no source that its fields name")
        data = source.open(self)
        digest = data.digest
        if digest not in self._manifests:
            manifest = glance(data) if digest else take(data)
            digest = digest or manifest.digest
            self._manifests.setdefault(digest, manifest)
        enter(self.data, source.label, digest)
        return data

    def verify(self, dataset: Dataset, digest: str) -> None:
        self._manifests.setdefault(digest, take(dataset, wanted=digest))

    def changed(self) -> Path | None:
        """Return the first file of the opened images that has changed, or None."""
        return next(filter(None, (manifest.changed() for manifest in self._manifests.values())), None)

    def place(self, digest: str) -> Path:
        return self._site.folders[digest]

    def weights(self, name: str) -> Path:
        return self._site.weights[name]

    def epochs(self, count: int, state: object) -> Iterator[int]:
        return self._resumable(count, state, "epoch")

    def steps(self, count: int, state: object) -> Iterator[int]:
        return self._resumable(count, state, "step")

    def _resumable(self, count: int, state: object, unit: str) -> Iterator[int]:
        from reproduce.running.resume import anchors, load_last, save_next

        if self._looped:
            raise RuntimeError(f"{self._stage.name} starts a second loop, over env.{unit}s: only one can be resumed")
        self._looped = True
        folder = self._store.scratch(self._stage)
        start, fresh = 0, anchors(state)
        if progress := load_last(folder, state, self.tell):
            start, self.history, wall = progress["done"], progress["history"], progress["spent"]
            self.spent = Seconds(wall, progress.get("device", wall))  # earlier versions kept wall time alone
            self._restored = start
        self._last_log = time.monotonic()
        keeps = self._site.rank == 0
        due = self._last_log + self._site.save_every
        self.progress(start, count, unit)
        for index in range(start, count):
            if unit == "epoch":
                self._align(state)
            yield index
            now, stopping = time.monotonic(), self._stopping()
            if keeps and index + 1 < count and (stopping or now >= due):
                spent = self.seconds()
                reached = {"done": index + 1, "history": self.history, "spent": spent.wall, "device": spent.device}
                size = save_next(folder, state, reached, fresh)
                if stopping:
                    print(f"stopped after {unit} {index + 1} of {count}; the state is saved", flush=True)
                    sys.exit(STOPPED)
                saved = time.monotonic()
                due = saved + self._site.save_every * max(1.0, saved - now, size / LARGE)
            self.progress(index + 1, count, unit)

    def _align(self, state: object) -> None:
        """Make the state of all ranks that of rank 0: a GPU's sums may differ in their last bits."""
        if self._site.ranks > 1:
            from reproduce.ranks import follow_first
            from reproduce.running.resume import tensors

            follow_first(tensors(state))

    def log(self, step: int, *, images: int = 0, **values: Any) -> None:
        if not self.history or self.history[-1]["step"] != step:
            self.history.append({"step": step})
        entry = self.history[-1]
        for name, value in values.items():
            numbers = value.flatten().tolist() if hasattr(value, "flatten") else [value]
            for position, number in enumerate(numbers):
                if not math.isfinite(number):
                    where = f"step {step}" + (f", iteration {position + 1}" if len(numbers) > 1 else "")
                    raise Diverged(
                        f"{name} is {number} at {where} of {self._stage.name}: "
                        "training diverged; lower its lr or look at its input images"
                    )
            entry[name] = math.fsum(numbers) / len(numbers)
        now = time.monotonic()
        rate = {"images_per_s": images / max(now - self._last_log, 1e-9)} if images else {}
        self._last_log = now
        self._report({"event": "log", **entry, **rate})

    def tell(self, says: str) -> None:
        """Show a message to the user, and keep it in the log."""
        print(says, flush=True)
        self._report({"event": "told", "told": says})

    def seconds(self) -> Seconds:
        """Return what this run and killed ones before it have spent."""
        now = Seconds.now(self._site.device)
        return Seconds(
            self.spent.wall + now.wall - self._began.wall, self.spent.device + now.device - self._began.device
        )

    def progress(self, done: int, count: int, unit: str) -> None:
        now = time.monotonic()
        if done == count or now - self._shown >= SHOW_EVERY:
            self._shown = now
            counted = {"unit": unit, "restored": self._restored, "done": done, "count": count}
            self._report({"event": "progress", **counted})


def build(stage: Stage[Any], site: Site, report: Report, stopping: Callable[[], bool] = lambda: False) -> None:
    """Run one stage into the store, unless it is there already or another process finishes it first.

    With `site.ranks`, as many processes call this, each with its `rank`; that of rank 0 decides when all are done.

    Args:
        stage: The stage.
        site: Where it runs.
        report: Called with progress and messages.
        stopping: Whether a training is to save its state and exit at its next epoch or step.
    """
    store = Store(site.store)
    if site.rank:
        _help(stage, store, site)
        return
    with _alone(stage, store, report, stopping):
        if store.has(stage):
            return
        with _explained(stage, store), store.draft(stage) as draft:
            env = StageEnv(stage, store, site, draft, report, stopping)
            started = datetime.now(UTC)
            with _on_the_same_images(stage, store, env), _neighbours_by(site.neighbours), _together(site):
                artifact = stage.run(env)
            spent = env.seconds()
            provenance = Provenance(
                **machine(),
                device=device_name(site.device),
                threads=site.threads,
                neighbours=site.neighbours,
                started=started.isoformat(timespec="seconds"),
                wall_s=round(spent.wall, 3),
                device_s=round(site.ranks * spent.device, 3),
                seed=getattr(stage, "seed", None),
                data=env.data,
                resumed=env.spent.wall > 0,
                ranks=site.ranks,
            )
            if not any(env.folder.iterdir()):
                env.folder.rmdir()
            store.publish(stage, draft, artifact, env.history, provenance)


def _help(stage: Stage[Any], store: Store, site: Site) -> None:
    """Compute a stage together with rank 0, and keep nothing."""
    with tempfile.TemporaryDirectory() as draft, _neighbours_by(site.neighbours), _together(site):
        stage.run(StageEnv(stage, store, site, Path(draft), lambda _: None))


def _together(site: Site) -> contextlib.AbstractContextManager[None]:
    """Join the other ranks; a single one imports nothing."""
    if site.ranks == 1:
        return contextlib.nullcontext()
    from reproduce.ranks import joined

    return joined(site.rank, site.ranks, site.meeting, site.device)


@contextlib.contextmanager
def _alone(stage: Stage[Any], store: Store, report: Report, stopping: Callable[[], bool]) -> Iterator[None]:
    """Hold the stage's lock; whoever waits says for whom, and that its own time starts only then."""
    lock, told = store.lock(stage), False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1 if told else 0)
        except Timeout:
            if stopping():
                sys.exit(STOPPED)
            if not told:
                drafts = sorted(store.root.glob(f".drafts/{stage.key}@*"))
                owner = processes.described(drafts[0].name.partition("@")[2]) if drafts else "another run"
                report({"event": "told", "told": f"waits for {owner}, which is building it"})
                told = True
    try:
        if told:
            report({"event": "began"})
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _on_the_same_images(stage: Stage[Any], store: Store, env: StageEnv) -> Iterator[None]:
    """Discard an artifact, an error and the saved state if images changed during the run.

    Raises:
        UserError: Images changed.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    if changed := env.changed():
        shutil.rmtree(store.scratch(stage), ignore_errors=True)
        raise UserError(
            f"{changed} changed while {stage.name} ran, and nothing of that was kept: run the same command again"
        ) from error
    if error:
        raise error


def _neighbours_by(backend: Backend) -> contextlib.AbstractContextManager[None]:
    """Select the run's backend of neighbour search; the default imports nothing."""
    if backend == "torch":
        return contextlib.nullcontext()
    from reproduce.neighbours import using

    return using(backend=backend)


@contextlib.contextmanager
def _explained(stage: Stage[Any], store: Store) -> Iterator[None]:
    """Turn the errors of a full disk and of a file server into messages that say what to do."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error):
            raise UserError(
                f"the disk of {store.root} is full while storing {stage.name}: "
                "free some room (`reproduce gc` lists what can go) or give another folder with --store, then run again"
            ) from error
        if isinstance(error, OSError) and error.errno == errno.ESTALE:
            raise UserError(
                f"the file server of {store.root} lost a file while storing {stage.name} ({error}): "
                "run the same command again to continue from the last saved state"
            ) from error
        raise


def _damaged(path: Path, why: object, folder: Path | None = None) -> UserError:
    return UserError(f"{path} is damaged ({why}): delete {folder or path.parent} and run again")


def _checksum(content: dict[str, Any]) -> str:
    """Compute the SHA-256 of what JSON says, however it is written."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
