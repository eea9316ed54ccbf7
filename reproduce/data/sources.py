"""Where images come from: published sets, drawn domains, images that a stage made, data sets of other packages."""

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
"""Kinds of images: a published set that was checked, drawn, in an unchecked folder, made by a stage, of a package."""


class Source(ABC):
    """Images that a stage reads: a frozen dataclass among its fields, also inside tuples and other dataclasses.

    A package brings a data set of its own by deriving from this; `open` is all that it must say.
    """

    @property
    def label(self) -> str:
        """The name of its images in results and output, such as "market"; other images need another name."""
        return _type_name(self)

    @property
    def detail(self) -> str:
        """What tells it from others with its label, in a few words for output; may be empty."""
        return ""

    @property
    def drawn(self) -> bool:
        """Whether a program drew all of its images, so that they show nobody."""
        return False

    @abstractmethod
    def open(self, env: Env) -> Dataset:
        """Read the images. Their fingerprint is `Dataset.digest` or, if that is left empty, the one of the files."""

    def describe(self) -> dict[str, Any]:
        """What the identity of a result says of it, as JSON: its kind, and what tells its images from others.

        Places, training seeds and keys do not belong there. Only `Setting` says that images are `REAL`, of sets that it
        has checked; results on all others are not comparable with printed numbers.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(cast(Any, self))}
        told = {name: spec(value) for name, value in fields.items() if not any(parents((value,)))}
        return {**told, "kind": OUTSIDE, "by": _type_name(self)}


class ImageStage(Stage[Folder], Source):
    """A stage that makes images for other stages to read, such as source images in the style of the target.

    `run` writes them under `env.folder` and returns `Folder(env.folder)`: `bounding_box_train`, `query` and
    `bounding_box_test`, with identity and camera in the names as Market-1501 spells them (`0002_c1s1_000451_03.png`).
    An image made from one of such a name keeps it; what is not made anew, such as test images, is copied. Other
    layouts that `reading.read` knows by a domain's name take that name as the `label`.
    """

    @property
    def label(self) -> str:
        return self.name

    @property
    def drawn(self) -> bool:
        """Whether it was made of drawn images alone."""
        made_of = [source for source in sources([self]) if source != self]
        return bool(made_of) and all(source.drawn for source in made_of)

    def open(self, env: Env) -> Dataset:
        from reproduce.data.reading import read

        return read(env.get(self).path, self.label)

    def describe(self) -> dict[str, Any]:
        """What made the images; the identity also lists the sources that they were made of."""
        return {"kind": MADE, "by": self.name, "version": self.version}


@runtime_checkable
class Covered(Protocol):
    """A source that knows for every pixel whether it shows the person."""

    def cover(self, images: Sequence[Image], height: int, width: int) -> Tensor:
        """How much of each pixel shows the person, and how much what is in their way: (N, 2, height, width)."""
        ...


def sources(stages: Iterable[Stage[Any]]) -> list[Source]:
    """The distinct sources that stages and all upstream of them name, at whatever depth of their fields."""
    parts = (part for stage in closure(stages) for part in (stage, *walk(stage)))
    return list(dict.fromkeys(part for part in parts if isinstance(part, Source)))


def enter(entries: dict[str, T], name: str, entry: T) -> None:
    """Add an entry under a name or, where another entry has that, under the name and a number."""
    for number in count(1):
        if entries.setdefault(f"{name} ({number})" if number > 1 else name, entry) == entry:
            return


def _type_name(source: Source) -> str:
    """Package and class: a source may move inside its package."""
    kind = type(source)
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"
