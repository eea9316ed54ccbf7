"""Sources of images: published sets, drawn domains, images made by a stage, data sets of other packages."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, runtime_checkable

from reproduce.artifacts import Folder
from reproduce.stage import Env, Stage, closure, parents, spec, walk

if TYPE_CHECKING:
    from torch import Tensor

    from reproduce.dataset import Dataset, Image

T = TypeVar("T")

REAL, STAND_IN, FOLDER, MADE, OUTSIDE = "real", "stand-in", "folder", "made", "outside"
"""Kinds of sources: checked published set, drawn, unchecked folder, made by a stage, other package."""


class Source(ABC):
    """Base class of sources: frozen dataclasses in a stage's fields, also inside tuples and other dataclasses.

    A package adds its own data set by a subclass with the method `open`.
    """

    @property
    def label(self) -> str:
        """Return the name of its images in results and output, such as "market"; other images need another name."""
        return _type_name(self)

    @property
    def detail(self) -> str:
        """Describe in a few words what distinguishes it from others with its label, for output; may be empty."""
        return ""

    @property
    def drawn(self) -> bool:
        """Whether a program drew all of its images, so that they show no real people."""
        return False

    @abstractmethod
    def open(self, env: Env) -> Dataset:
        """Read the images. Their fingerprint is `Dataset.digest` or, if that is empty, the digest of the files."""

    def describe(self) -> dict[str, Any]:
        """Describe it for the identity of a result, as JSON: its kind, and what distinguishes its images from others.

        Paths, training seeds and keys do not belong there. Only `Setting` declares images `REAL`, for sets that it has
        checked; results on all others are not comparable with printed numbers.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(cast(Any, self))}
        described = {name: spec(value) for name, value in fields.items() if not any(parents((value,)))}
        return {**described, "kind": OUTSIDE, "by": _type_name(self)}


class ImageStage(Stage[Folder], Source):
    """Base class of stages that make images for other stages, such as source images in the style of the target.

    `run` writes them under `env.folder` and returns `Folder(env.folder)`: `bounding_box_train`, `query` and
    `bounding_box_test`, with identity and camera in Market-1501's grammar of names (`0002_c1s1_000451_03.png`). An
    image made from one with such a name keeps the name; unchanged images, such as test images, are copied. For other
    layouts that `reading.read` knows by a domain's name, use that name as the `label`.
    """

    @property
    def label(self) -> str:
        return self.name

    @property
    def drawn(self) -> bool:
        """Whether all images that it was made from are drawn."""
        made_of = [source for source in sources([self]) if source != self]
        return bool(made_of) and all(source.drawn for source in made_of)

    def open(self, env: Env) -> Dataset:
        from reproduce.data.reading import read

        return read(env.get(self).path, self.label)

    def describe(self) -> dict[str, Any]:
        """Describe the stage that made the images; the identity also lists the sources that it used."""
        return {"kind": MADE, "by": self.name, "version": self.version}


@runtime_checkable
class Covered(Protocol):
    """A source that knows which pixels show the person."""

    def cover(self, images: Sequence[Image], height: int, width: int) -> Tensor:
        """Compute the shares of each pixel that show the person and occluders: (N, 2, height, width), fractions."""
        ...


def sources(stages: Iterable[Stage[Any]]) -> list[Source]:
    """List the distinct sources of stages and all stages upstream, at any depth of their fields."""
    parts = (part for stage in closure(stages) for part in (stage, *walk(stage)))
    return list(dict.fromkeys(part for part in parts if isinstance(part, Source)))


def enter(entries: dict[str, T], name: str, entry: T) -> None:
    """Add an entry under a name; if another entry has the name, append a number."""
    for number in count(1):
        if entries.setdefault(f"{name} ({number})" if number > 1 else name, entry) == entry:
            return


def _type_name(source: Source) -> str:
    """Return package and class, without the module, as a source may move inside its package."""
    kind = type(source)
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"
