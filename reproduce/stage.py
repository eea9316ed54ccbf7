"""Stages are values: a frozen dataclass whose fields are the experiment, with one verb, `run`."""

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
    """Where a stage runs. Nothing in it changes what is computed, only how fast and with what rounding."""

    device: str
    folder: Path
    """An empty folder for a stage whose artifact is a tree of files."""

    def get(self, stage: Stage[A]) -> A:
        """The artifact of a stage that is reachable from the running stage's own fields."""
        ...

    def open(self, source: object) -> Dataset:
        """The images of a `reproduce.data.sources.Source` that the running stage or one upstream of it names."""
        ...

    def place(self, digest: str) -> Path:
        """The folder of the data set with this digest."""
        ...

    def verify(self, dataset: Dataset, digest: str) -> None:
        """Look whether a data set still has its digest, now and before the stage's artifact is kept.

        Raises:
            UserError: it has another; the message names what changed.
        """
        ...

    def weights(self, name: str) -> Path:
        """The file behind a `Weights` value's digest."""
        ...

    def epochs(self, count: int, state: object) -> Iterator[int]:
        """Yield 0 .. count - 1, from where a killed run stopped; `state` is saved between epochs and read back."""
        ...

    def steps(self, count: int, state: object) -> Iterator[int]:
        """As `epochs`, for long runs that are counted in iterations (`sampling.in_step` adds their images)."""
        ...

    def progress(self, done: int, count: int, unit: str) -> None:
        """Show how far a stage is that is not a training."""
        ...

    def log(self, step: int, *, images: int = 0, **values: Any) -> None:
        """Record values of one step (1-based) in the stage's history. Several calls for one step add up.

        Args:
            step: the epoch or iteration just finished.
            images: how many images it passed through the network (for the display only).
            values: numbers, or 1-D tensors, of which the mean is kept.

        Raises:
            Diverged: a value is not finite.
        """
        ...


class Stage(Generic[A]):
    """One step of an experiment: a frozen dataclass whose fields are the recipe in the paper's symbols."""

    version: ClassVar[int] = 1
    """Raised when the same fields should give other numbers."""

    def run(self, env: Env) -> A:
        """Compute the artifact."""
        raise NotImplementedError

    @property
    def work(self) -> float:
        """Rough size of the work, in images passed through a network; longer stages start first."""
        return 1.0

    @property
    def detail(self) -> str:
        """What tells it from others of its kind on the same data and seed, in a few words; may be empty."""
        return ""

    @property
    def name(self) -> str:
        """Module and class, such as `supervised.Train`: the folder in the store."""
        if "type_name" in vars(type(self)):
            return ".".join(type_name(type(self)).split(".")[-2:])
        return f"{type(self).__module__.rsplit('.', 1)[-1]}.{type(self).__qualname__}"

    @cached_property
    def key(self) -> str:
        """Merkle hash of type name, version, field values and the keys of upstream stages."""
        text = json.dumps(full_spec(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def role(name: str, default: T) -> T:
    """A dataclass field that `reproduce.scales` may rewrite: `epochs: int = role("epochs", 90)`."""
    value: T = dataclasses.field(default=default, metadata={"role": name})
    return value


def added(was: T, default: Any = dataclasses.MISSING, *, role: str | None = None) -> T:
    """A dataclass field that its class did not always have: `view: str = added("")`.

    Args:
        was: what stages did before the field was there. It stays as it is when the default changes: a value with this
            field equal to it has the key that it had without the field.
        default: of the field; `was` if not given.
        role: as `role` has it.
    """
    metadata = {"added": was} | ({"role": role} if role else {})
    value: T = dataclasses.field(default=was if default is dataclasses.MISSING else default, metadata=metadata)
    return value


_NAMED: dict[str, tuple[str, str]] = {}
"""Where each class stands whose name was asked for."""


def type_name(kind: type) -> str:
    """What keys call a class of stages or of values in them: module and class, such as `methods.supervised.Train`.

    A class that moves or is renamed keeps its keys by writing down the name that it had:
    `type_name: ClassVar[str] = "methods.supervised.Train"`. Subclasses do not inherit it.

    Raises:
        TypeError: another class has this name.
    """
    place = (kind.__module__, kind.__qualname__)
    name = str(vars(kind).get("type_name") or ".".join(place))
    other = _NAMED.setdefault(name, place)
    if other != place:
        raise TypeError(f"{'.'.join(place)} and {'.'.join(other)} are both called {name}: give one another type_name")
    return name


def spec(value: object) -> Any:
    """A value as plain JSON: upstream stages by name and key, added fields only where they change anything."""
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
    """A stage's own fields as plain JSON, which its key is made of (`spec` of a stage is only its name and key)."""
    return _fields(stage)


def _fields(value: Any) -> dict[str, Any]:
    if not value.__dataclass_params__.frozen:
        raise TypeError(f"{type(value).__qualname__} must be a frozen dataclass to be part of a stage")
    described: dict[str, Any] = {"type": type_name(type(value))}
    if isinstance(value, Stage):
        described["version"] = value.version
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        if "added" in field.metadata and held == field.metadata["added"]:
            continue
        try:
            described[field.name] = spec(held)
        except TypeError as error:
            raise TypeError(f"{type(value).__qualname__}.{field.name}: {error}") from None
    return described


def walk(value: object) -> Iterator[object]:
    """Everything inside a value, at any depth: items of tuples, fields of dataclasses; of upstream stages no fields."""
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
    """The stages that the fields of a value name directly."""
    return (part for part in walk(value) if isinstance(part, Stage))


def closure(stages: Iterable[Stage[Any]]) -> list[Stage[Any]]:
    """The distinct stages needed for `stages`, each after everything it depends on."""
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
        by_role: applied to every field that declares a role: (the role's name, the field's value, the dataclass).
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
