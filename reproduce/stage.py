"""Stages are values: frozen dataclasses whose fields describe an experiment, with one method, `run`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from reproduce.dataset import Dataset

A = TypeVar("A")
T = TypeVar("T")

KEY_LENGTH = 20


class Env(Protocol):
    """Where a stage runs. It affects speed and rounding, never what is computed."""

    device: str
    folder: Path
    """An empty folder, for a stage whose artifact is a tree of files."""

    def get(self, stage: Stage[A]) -> A:
        """Load the artifact of a stage reachable from the running stage's fields."""
        ...

    def open(self, source: object) -> Dataset:
        """Open the images of a `reproduce.data.sources.Source` named by the running stage or one upstream of it."""
        ...

    def place(self, digest: str) -> Path:
        """Return the folder of the data set with this digest."""
        ...

    def verify(self, dataset: Dataset, digest: str) -> None:
        """Check that a data set still has its digest, now and again before the stage's artifact is kept.

        Raises:
            UserError: the digest differs; the message names what changed.
        """
        ...

    def weights(self, name: str) -> Path:
        """Return the file of a `Weights` value's digest."""
        ...

    def epochs(self, count: int, state: object) -> Iterator[int]:
        """Yield the epochs still to do of 0 .. count - 1; `state` is saved between epochs, and restored on resume."""
        ...

    def steps(self, count: int, state: object) -> Iterator[int]:
        """Yield steps like `epochs`, for long runs counted in iterations (`sampling.in_step` adds their images)."""
        ...

    def progress(self, done: int, count: int, unit: str) -> None:
        """Show the progress of a stage that is not a training."""
        ...

    def log(self, step: int, *, images: int = 0, **values: Any) -> None:
        """Record values of one step in the stage's history. Several calls for one step are merged.

        Args:
            step: the epoch or iteration just finished, counted from 1.
            images: images it passed through the network, for the display only.
            values: numbers, or 1-D tensors whose mean is recorded.

        Raises:
            Diverged: a value is not finite.
        """
        ...


class Stage(Generic[A]):
    """Base class of stages: frozen dataclasses whose fields are the recipe in the paper's symbols."""

    version: ClassVar[int] = 1
    """Increase it when the same fields give different numbers."""
    divisible: ClassVar[bool] = False
    """Whether several devices can share it (`reproduce.ranks`)."""

    def run(self, env: Env) -> A:
        """Compute the artifact."""
        raise NotImplementedError

    @property
    def work(self) -> float:
        """Estimate the work, in images passed through a network; longer stages start first."""
        return 1.0

    @property
    def detail(self) -> str:
        """Describe in a few words how it differs from others of its kind on the same data and seed; may be empty."""
        return ""

    @property
    def name(self) -> str:
        """Return module and class, such as `supervised.Train`; this names its folder in the store."""
        if "type_name" in vars(type(self)):
            return ".".join(type_name(type(self)).split(".")[-2:])
        return f"{type(self).__module__.rsplit('.', 1)[-1]}.{type(self).__qualname__}"

    @cached_property
    def key(self) -> str:
        """Compute the Merkle hash of type name, version, field values and the keys of upstream stages."""
        text = json.dumps(full_spec(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def role(name: str, default: T) -> T:
    """Declare a dataclass field that `reproduce.scales` may rewrite: `epochs: int = role("epochs", 90)`."""
    value: T = dataclasses.field(default=default, metadata={"role": name})
    return value


def added(was: T, default: Any = dataclasses.MISSING, *, role: str | None = None) -> T:
    """Declare a dataclass field that was added later: `view: str = added("")`.

    Args:
        was: the value that equals the behaviour before the field existed. With it, a stage keeps the key that it had
            without the field; it never changes, even if the default does.
        default: of the field; `was` if not given.
        role: see `role`.
    """
    metadata = {"added": was} | ({"role": role} if role else {})
    value: T = dataclasses.field(default=was if default is dataclasses.MISSING else default, metadata=metadata)
    return value


_NAMED: dict[str, tuple[str, str]] = {}
"""Module and class of every type name used so far."""


def type_name(kind: type) -> str:
    """Return the name of a class in keys: module and class, such as `methods.supervised.Train`.

    A class that moves or is renamed keeps its keys by declaring its old name:
    `type_name: ClassVar[str] = "methods.supervised.Train"`. Subclasses do not inherit it.

    Raises:
        TypeError: another class has this name.
    """
    place = (kind.__module__, kind.__qualname__)
    name = str(vars(kind).get("type_name") or ".".join(place))
    other = _NAMED.setdefault(name, place)
    if other != place:
        raise TypeError(f"{'.'.join(place)} and {'.'.join(other)} are both called {name}: change the type_name of one")
    return name


def spec(value: object) -> Any:
    """Convert a value to plain JSON: upstream stages by name and key; added fields only if they change anything."""
    if isinstance(value, Stage):
        return {"stage": value.name, "key": value.key}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, tuple):
        return [spec(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} cannot be part of a stage: fields hold numbers, strings, tuples and frozen dataclasses")


def full_spec(stage: Stage[Any]) -> Any:
    """Convert a stage's own fields to plain JSON, the input of its key (`spec` gives only its name and key)."""
    return _fields(stage)


def _fields(value: Any) -> dict[str, Any]:
    if not value.__dataclass_params__.frozen:
        raise TypeError(f"{type(value).__qualname__} must be a frozen dataclass to be part of a stage")
    described: dict[str, Any] = {"type": type_name(type(value))}
    if isinstance(value, Stage):
        described["version"] = value.version
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        if "added" in field.metadata and content == field.metadata["added"]:
            continue
        try:
            described[field.name] = spec(content)
        except TypeError as error:
            raise TypeError(f"{type(value).__qualname__}.{field.name}: {error}") from None
    return described


def walk(value: object) -> Iterator[object]:
    """Yield everything inside a value, at any depth: items of tuples, fields of dataclasses, but not of stages."""
    children: Iterable[object] = ()
    if isinstance(value, tuple):
        children = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        children = (getattr(value, field.name) for field in dataclasses.fields(value))
    for child in children:
        yield child
        if not isinstance(child, Stage):
            yield from walk(child)


def parents(value: object) -> Iterator[Stage[Any]]:
    """Yield the stages that a value's fields name directly."""
    return (part for part in walk(value) if isinstance(part, Stage))


def closure(stages: Iterable[Stage[Any]]) -> list[Stage[Any]]:
    """List the distinct stages that `stages` need, themselves included, dependencies first."""
    ordered: dict[str, Stage[Any]] = {}

    def visit(stage: Stage[Any]) -> None:
        if stage.key not in ordered:
            for parent in parents(stage):
                visit(parent)
            ordered[stage.key] = stage

    for stage in stages:
        visit(stage)
    return list(ordered.values())


def rewrite(
    value: Any,
    leaf: Callable[[Any], Any] = lambda value: value,
    by_role: Callable[[str, Any, Any], Any] = lambda _, value, __: value,
) -> Any:
    """Rebuild a value bottom-up.

    Args:
        value: a stage or any part of one.
        leaf: applied to every dataclass after its fields were rewritten.
        by_role: applied to every field with a role: (name of the role, value of the field, the dataclass).
    """
    if isinstance(value, tuple):
        return tuple(rewrite(item, leaf, by_role) for item in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        old = getattr(value, field.name)
        new = rewrite(old, leaf, by_role)
        if "role" in field.metadata:
            new = by_role(field.metadata["role"], new, value)
        if new is not old:
            changes[field.name] = new
    return leaf(dataclasses.replace(value, **changes) if changes else value)
