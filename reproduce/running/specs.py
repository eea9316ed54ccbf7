"""Write what a job on another node is to build as JSON, and check there that the node can build it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import json
import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from reproduce.errors import UserError
from reproduce.files import replacing
from reproduce.running.runner import Site, Store
from reproduce.stage import Stage, closure, parents, walk

FOLDER = ".jobs"
"""Folder of the store for jobs of other nodes."""

LAG = 60.0
"""Seconds for which a network file system may hide a new file: NFS's acdirmax."""


class Node(Struct):
    """The fields of a `Site` that do not depend on the store."""

    device: str
    threads: int
    folders: dict[str, str]
    weights: dict[str, str]
    save_every: float
    neighbours: Literal["torch", "faiss"]
    ranks: int

    def at(self, store: Path) -> Site:
        """Return the whole `Site`."""
        return Site(
            store,
            device=self.device,
            threads=self.threads,
            folders={digest: Path(folder) for digest, folder in self.folders.items()},
            weights={sha256: Path(file) for sha256, file in self.weights.items()},
            save_every=self.save_every,
            neighbours=self.neighbours,
            ranks=self.ranks,
        )


class Spec(Struct):
    """What a job builds, and what its node must have for that."""

    store: str
    """Path of the store."""
    store_id: str
    """Its random id, so that another store at the same path, such as a node's own, is noticed."""
    build: list[str]
    """Keys of the stages to build, upstream ones first."""
    given: list[str]
    """Keys of the upstream stages that the store must hold."""
    stages: dict[str, Any]
    """Class and fields of these stages and of all upstream ones, by key, upstream ones first."""
    site: Node
    source: str
    """Digest of the source of all packages of the stages."""
    versions: dict[str, str]
    """Expected versions; empty where the job's Python is not this one, as in a container."""
    path: list[str]
    """Where Python looks for modules besides its own folders."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:8]


def spec(build: Iterable[Stage[Any]], given: Iterable[Stage[Any]], store: Store, site: Site, *, same: bool) -> Spec:
    """Describe a job.

    Args:
        build: Stages to build, upstream ones first.
        given: Upstream stages that are built before.
        store: The store.
        site: Settings of the stages.
        same: Whether the job runs under this Python, so that versions must be equal.
    """
    build = list(build)
    needed = closure(build)
    described = {stage.key: _class_and_fields(stage) for stage in needed}
    text = json.dumps(described)

    def used(paths: Mapping[str, Path]) -> dict[str, str]:
        """Keep the paths of digests that a stage names: another run of the same stages describes them equally."""
        return {digest: str(path) for digest, path in sorted(paths.items()) if digest in text}

    return Spec(
        store=str(store.root),
        store_id=store_id(store.root),
        build=[stage.key for stage in build],
        given=sorted({stage.key for stage in given}),
        stages=described,
        site=Node(
            device=site.device,
            threads=site.threads,
            folders=used(site.folders),
            weights=used(site.weights),
            save_every=site.save_every,
            neighbours=site.neighbours,
            ranks=site.ranks,
        ),
        source=_source_at_start(frozenset(_packages(needed))),
        versions=_versions() if same else {},
        path=_own_path(),
    )


def read(path: Path) -> Spec:
    """Read a job's description.

    Raises:
        UserError: It is missing, as where the store is not shared between nodes, or damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Spec)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{node()} cannot read {path} ({error}): the store must lie on a file system that all nodes share"
        ) from None


def write(described: Spec, path: Path) -> None:
    """Write a job's description, atomically."""
    with replacing(path) as draft:
        draft.write_bytes(msgspec.json.encode(described))


def stages(described: Spec) -> dict[str, Stage[Any]]:
    """Rebuild the stages of a description, by key.

    Raises:
        UserError: A class cannot be imported, or a stage has another key here.
    """
    built: dict[str, Stage[Any]] = {}
    for key, value in described.stages.items():
        stage = _decoded(value, built)
        if not isinstance(stage, Stage) or stage.key != key:
            raise UserError(f"{value['class']} has another key than {key} on {node()}: {_AGAIN}")
        built[key] = stage
    return built


def check(described: Spec) -> None:
    """Check that this node is what a description says.

    Raises:
        UserError: Store, versions, source or data differ; the message names the node and what differs.
    """
    root = Path(described.store)
    if _read_id(root) != described.store_id:
        raise UserError(
            f"{root} on {node()} is not the store of this run, but another folder of that name: "
            "give --store on a file system that all nodes share"
        )
    here = _versions()
    for name, wanted in described.versions.items():
        if here.get(name) != wanted:
            raise UserError(f"{node()} has {name} {here.get(name, 'not at all')} and this run {wanted}: {_PYTHON}")
    for what, paths in (("data", described.site.folders), ("weights", described.site.weights)):
        for path in paths.values():
            if not Path(path).exists():
                raise UserError(f"{node()} has no {path}, where this run found its {what}: is it mounted there?")
    sys.path += [entry for entry in described.path if entry not in sys.path]
    packages = {value["class"].partition(":")[0].partition(".")[0] for value in _classes(described.stages)}
    if source_digest(packages) != described.source:
        raise UserError(
            f"the source of {', '.join(sorted({'reproduce', *packages}))} on {node()} is not that of this "
            f"run, or was edited since the job was submitted: {_AGAIN}"
        )


def check_given(described: Spec, built: Mapping[str, Stage[Any]], store: Store, patience: float = LAG) -> None:
    """Check that the store holds what a job continues from, and wait where a file system may hide that for a while.

    Raises:
        UserError: Something is missing.
    """
    deadline = time.monotonic() + patience
    for key in described.given:
        while not there(store, built[key]):
            if time.monotonic() > deadline:
                raise UserError(f"{store.root} has no {built[key].name} {key}, from which this job continues: {_AGAIN}")
            time.sleep(1)


def there(store: Store, stage: Stage[Any]) -> bool:
    """Return whether a stage is finished; listing a folder makes a network file system look anew."""
    folder = store.folder(stage)
    try:
        return any(path.name == folder.name for path in folder.parent.iterdir()) and store.has(stage)
    except OSError:
        return False


def store_id(root: Path) -> str:
    """Return the random id of a store, which appears with its folder of jobs, by one rename."""
    folder = root / FOLDER
    if not (folder / "id").exists():
        draft = root / f"{FOLDER}.{secrets.token_hex(4)}"
        draft.mkdir()
        (draft / "id").write_text(secrets.token_hex(8))
        try:
            draft.replace(folder)
        except OSError:  # another process was faster
            shutil.rmtree(draft)
    return _read_id(root)


def source_digest(packages: Iterable[str]) -> str:
    """Compute a digest of the Python files of packages or modules and of this package.

    Raises:
        UserError: One cannot be found.
    """
    digest = hashlib.sha256()
    for name in sorted({"reproduce", *packages}):
        found = importlib.util.find_spec(name)
        if found is None:
            raise UserError(f"{node()} has no Python package {name}: {_PYTHON}")
        roots = [Path(root) for root in found.submodule_search_locations or ()]
        files = [(path.relative_to(root).as_posix(), path) for root in roots for path in root.rglob("*.py")]
        for relative, path in sorted(files) or [("", Path(found.origin or ""))]:
            digest.update(json.dumps([name, relative]).encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


@cache
def _source_at_start(packages: frozenset[str]) -> str:
    """Compute the digest of packages once, as this process has imported them once."""
    return source_digest(packages)


def node() -> str:
    """Return this node's name in Slurm, or this machine's."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


_AGAIN = "run the same command again"
_PYTHON = "give the nodes' own Python with --slurm-python, or load the same environment with --prologue"


def _read_id(root: Path) -> str:
    try:
        return (root / FOLDER / "id").read_text()
    except OSError:
        return ""


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": version("torch")}


def _own_path() -> list[str]:
    """List where Python looks for modules, except in its installation, where other nodes look by themselves."""
    own = [Path(prefix).resolve() for prefix in {sys.prefix, sys.base_prefix}]
    entries = [str(Path(entry).resolve()) for entry in sys.path]
    return [entry for entry in entries if not any(Path(entry).is_relative_to(prefix) for prefix in own)]


def _packages(needed: Iterable[Stage[Any]]) -> set[str]:
    values = (value for stage in needed for value in (stage, *walk(stage)) if dataclasses.is_dataclass(value))
    return {type(value).__module__.partition(".")[0] for value in values}


def _classes(value: object) -> Iterable[dict[str, Any]]:
    """Yield every description of a dataclass inside decoded JSON."""
    if isinstance(value, dict):
        if "class" in value:
            yield value
        for item in value.values():
            yield from _classes(item)
    elif isinstance(value, list):
        for item in value:
            yield from _classes(item)


def _class_and_fields(value: Any) -> dict[str, Any]:
    kind = type(value)
    fields = {field.name: _encoded(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    return {"class": f"{kind.__module__}:{kind.__qualname__}", "fields": fields}


def _encoded(value: object) -> Any:
    if isinstance(value, Stage):
        return {"key": value.key}
    if dataclasses.is_dataclass(value):
        return _class_and_fields(value)
    return [_encoded(item) for item in value] if isinstance(value, tuple) else value


def _decoded(value: Any, built: Mapping[str, Stage[Any]]) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(item, built) for item in value)
    if not isinstance(value, dict):
        return value
    if "key" in value:
        return built[value["key"]]
    fields = {name: _decoded(field, built) for name, field in value["fields"].items()}
    return _imported(value["class"])(**fields)


def _imported(name: str) -> Any:
    """Import a frozen dataclass by module and name.

    Raises:
        UserError: There is none.
    """
    module, _, qualname = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{node()} cannot import {name} ({error}): {_PYTHON}") from None
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise UserError(f"{name} is no stage and no value of one: {_AGAIN}")
    return found


def missing(build: Collection[Stage[Any]]) -> list[Stage[Any]]:
    """List the stages that some stages name and that are not among them."""
    keys = {stage.key for stage in build}
    named = {parent.key: parent for stage in build for parent in parents(stage) if parent.key not in keys}
    return list(named.values())
