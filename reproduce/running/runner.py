"""The store of finished artifacts, and how one stage is run into it: locked, resumable, atomic, with provenance."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from filelock import FileLock, Timeout
from msgspec import Struct

from reproduce.artifacts import Artifact
from reproduce.data.manifests import Manifest, glance, take
from reproduce.data.sources import Source, enter, sources
from reproduce.errors import Diverged, UserError
from reproduce.files import replacing
from reproduce.running.provenance import Provenance, device_name, machine
from reproduce.stage import A, Stage, closure, full_spec

if TYPE_CHECKING:
    from reproduce.dataset import Dataset
    from reproduce.neighbours import Backend

FORMAT = 1
SAVE_EVERY = 10.0
"""Seconds of training between two saved states; after a save of s > 1 seconds, s times as many."""

SHOW_EVERY = 0.1
"""Seconds between two progress messages."""

Report = Callable[[Mapping[str, Any]], None]


class Described(Struct):
    """What the store says of an artifact, beside its files."""

    format: int
    kind: str
    """The class of the artifact."""
    stage: str
    key: str
    spec: dict[str, Any]
    provenance: Provenance
    files: dict[str, str]
    """SHA-256 by path."""


class Store:
    """Artifacts by key: `<root>/<Stage>/<key>/` appears once and whole, or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        label = root / "store.json"
        if label.exists():
            found = json.loads(label.read_text()).get("format")
            if found != FORMAT:
                raise UserError(
                    f"{root} is a store of format {found} and this version writes format {FORMAT}: "
                    "give another folder with --store, or delete this one"
                )
        elif root.is_dir() and any(root.iterdir()):
            raise UserError(f"{root} is not empty and not a store: give another folder with --store")
        else:
            with replacing(label) as draft:
                draft.write_text(json.dumps({"format": FORMAT}) + "\n")

    def folder(self, stage: Stage[Any]) -> Path:
        return self.root / stage.name / stage.key

    def has(self, stage: Stage[Any]) -> bool:
        return (self.folder(stage) / "artifact.json").exists()

    def described(self, stage: Stage[Any]) -> Described:
        """What the store says of a finished stage.

        Raises:
            UserError: its description is damaged.
        """
        path = self.folder(stage) / "artifact.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Described)
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): delete {path.parent} and run again") from None

    def history(self, stage: Stage[Any]) -> list[dict[str, float]]:
        """The values a stage logged, one entry a step."""
        entries: list[dict[str, float]] = json.loads((self.folder(stage) / "history.json").read_text())
        return entries

    def load(self, stage: Stage[A]) -> A:
        """The artifact of a finished stage, its files checked against their checksums."""
        folder = self.folder(stage)
        described = self.described(stage)
        for name, checksum in described.files.items():
            path = folder / name
            if not path.exists() or _checksum(path) != checksum:
                raise UserError(f"{path} is damaged (its checksum does not match): delete {folder} and run again")
        artifact: A = Artifact.kinds[described.kind].load(folder)  # type: ignore[assignment]
        return artifact

    def lock(self, stage: Stage[Any]) -> FileLock:
        """Held while a stage is built; released by the system when its holder dies."""
        return self._lock(stage.key)

    @contextlib.contextmanager
    def lock_key(self, key: str) -> Iterator[bool]:
        """Try to hold a key's lock; says whether nobody else has it."""
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
        """Where an unfinished training keeps its state."""
        return self.root / ".scratch" / stage.key

    @contextlib.contextmanager
    def draft(self, stage: Stage[Any]) -> Iterator[Path]:
        """A folder that vanishes at the end unless `publish` moved it."""
        draft = self.root / ".drafts" / stage.key
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def publish(
        self, stage: Stage[Any], draft: Path, artifact: Artifact, history: object, provenance: Provenance
    ) -> None:
        """Write an artifact into its draft, then move the draft to its place in one step."""
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
            files={path.relative_to(draft).as_posix(): _checksum(path) for path in files},
        )
        label = draft / "artifact.json"
        label.write_text(json.dumps(msgspec.to_builtins(described), indent=1) + "\n")
        for path in [*files, label]:
            _flush(path)
        final = self.folder(stage)
        final.parent.mkdir(exist_ok=True)
        if final.exists():
            shutil.rmtree(final)
        draft.replace(final)
        _flush(final.parent)
        shutil.rmtree(self.scratch(stage), ignore_errors=True)


@dataclass(frozen=True)
class Site:
    """What a run knows that no stage may depend on.

    Attributes:
        store: the store's root.
        device: "cpu" or "cuda:0".
        threads: processor threads for one stage.
        folders: where a real domain with this manifest digest lies.
        weights: where the weights file with this sha256 lies.
        save_every: seconds between two saved states; 0 saves after every epoch.
        gpu: what CUDA_VISIBLE_DEVICES is set to in the stage's process; None leaves it.
        neighbours: what looks for neighbours; see `reproduce.neighbours.using`.
    """

    store: Path
    device: str = "cpu"
    threads: int = 1
    folders: Mapping[str, Path] = field(default_factory=dict)
    weights: Mapping[str, Path] = field(default_factory=dict)
    save_every: float = SAVE_EVERY
    gpu: str | None = None
    neighbours: Backend = "torch"


class StageEnv:
    """The `Env` that the runner hands to a stage."""

    def __init__(self, stage: Stage[Any], store: Store, site: Site, draft: Path, report: Report) -> None:
        self.device = site.device
        self.folder = draft / "tree"
        self.folder.mkdir()
        self.history: list[dict[str, float]] = []
        self.data: dict[str, str] = {}
        self._manifests: dict[str, Manifest] = {}
        self._reachable = {upstream.key for upstream in closure([stage])} - {stage.key}
        self._sources = sources([stage])
        self._stage, self._store, self._site, self._report = stage, store, site, report
        self.spent = 0.0
        """Seconds that killed runs of this stage had already put into the state it continues from."""
        self.began = self._last_log = time.monotonic()
        self._shown = 0.0
        self._looped = False

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
        """The first file of the images that were opened which is another now."""
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
        from reproduce.running.resume import anchors, load_state, save_state

        if self._looped:
            raise RuntimeError(f"{self._stage.name} starts a second loop, over env.{unit}s: only one can be resumed")
        self._looped = True
        path = self._store.scratch(self._stage) / "state.safetensors"
        start, fresh = 0, anchors(state)
        if path.exists():
            progress = load_state(path, state)
            start, self.history, self.spent = progress["done"], progress["history"], progress["spent"]
        self._last_log = time.monotonic()
        due = self._last_log + self._site.save_every
        self.progress(start, count, unit)
        for index in range(start, count):
            yield index
            now = time.monotonic()
            if index + 1 < count and now >= due:
                spent = self.spent + now - self.began
                save_state(path, state, {"done": index + 1, "history": self.history, "spent": spent}, fresh)
                saved = time.monotonic()
                due = saved + self._site.save_every * max(1.0, saved - now)
            self.progress(index + 1, count, unit)

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

    def seconds(self, own: float) -> float:
        """Seconds of this run and of those that were killed before."""
        return round(self.spent + own, 3)

    def progress(self, done: int, count: int, unit: str) -> None:
        now = time.monotonic()
        if done == count or now - self._shown >= SHOW_EVERY:
            self._shown = now
            self._report({"event": "progress", "unit": unit, "done": done, "count": count})


def build(stage: Stage[Any], site: Site, report: Report) -> None:
    """Run one stage into the store, unless it is there already or another process brings it first."""
    store = Store(site.store)
    with store.lock(stage):
        if store.has(stage):
            return
        with _explained(stage, store), store.draft(stage) as draft:
            env = StageEnv(stage, store, site, draft, report)
            started = datetime.now(UTC)
            processor = time.process_time()
            with _on_the_same_images(stage, store, env), _neighbours_by(site.neighbours):
                artifact = stage.run(env)
            provenance = Provenance(
                **machine(),
                device=device_name(site.device),
                threads=site.threads,
                neighbours=site.neighbours,
                started=started.isoformat(timespec="seconds"),
                wall_s=env.seconds(time.monotonic() - env.began),
                device_s=env.seconds(
                    time.process_time() - processor if site.device == "cpu" else time.monotonic() - env.began
                ),
                seed=getattr(stage, "seed", None),
                data=env.data,
                resumed=env.spent > 0,
            )
            if not any(env.folder.iterdir()):
                env.folder.rmdir()
            store.publish(stage, draft, artifact, env.history, provenance)


@contextlib.contextmanager
def _on_the_same_images(stage: Stage[Any], store: Store, env: StageEnv) -> Iterator[None]:
    """Refuse what was computed, and its saved state, where images changed meanwhile; so may what went wrong by it.

    Raises:
        UserError: they did.
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
    """Have neighbours looked for as the run wants it; the default imports nothing."""
    if backend == "torch":
        return contextlib.nullcontext()
    from reproduce.neighbours import using

    return using(backend=backend)


@contextlib.contextmanager
def _explained(stage: Stage[Any], store: Store) -> Iterator[None]:
    """Turn a full disk into a message that says what to do."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error):
            raise UserError(
                f"the disk of {store.root} is full while storing {stage.name}: "
                "free some room (`reproduce gc` lists what can go) or give another folder with --store, then run again"
            ) from error
        raise


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
