"""A drawn domain as a stage: what a suite's `Domain` becomes when no real data set is given for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from reproduce.artifacts import Folder
from reproduce.data.reading import read
from reproduce.data.sources import STAND_IN, Source
from reproduce.data.world import WORLD_VERSION, Dials, Size
from reproduce.dataset import Dataset
from reproduce.stage import Env, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from reproduce.dataset import Image


@dataclass(frozen=True)
class StandIn(Stage[Folder], Source):
    """Draw a domain of the stand-in world in the layout of the data set that it stands for.

    Attributes:
        domain: the data set it stands for, such as "market".
        size: identities and pixels.
        seed: of the world; training seeds do not touch it.
        dials: strength of each disturbance.
    """

    domain: str
    size: Size
    seed: int = 1
    dials: Dials = Dials()
    version: ClassVar[int] = WORLD_VERSION

    @property
    def label(self) -> str:
        return self.domain

    @property
    def detail(self) -> str:
        """Its world, where that is not the usual one."""
        world = [f"world {self.seed}"] if self.seed != 1 else []
        return ", ".join([*world, *(f"no {cause}" for cause, dial in vars(self.dials).items() if not dial)])

    @property
    def drawn(self) -> bool:
        return True

    def run(self, env: Env) -> Folder:
        from reproduce.data.world import draw

        def progress(done: int, count: int) -> None:
            env.progress(done, count, "image")

        pixels = draw(env.folder, self.domain, seed=self.seed, size=self.size, dials=self.dials, progress=progress)
        return Folder(env.folder, {"pixels": pixels})

    def open(self, env: Env) -> Dataset:
        folder = env.get(self)
        return replace(read(folder.path, self.domain), digest=folder.facts["pixels"])

    def describe(self) -> dict[str, Any]:
        drawn = {"world": self.version, "seed": self.seed, "size": asdict(self.size), "dials": asdict(self.dials)}
        return {"kind": STAND_IN, **drawn}

    def cover(self, images: Sequence[Image], height: int, width: int) -> Tensor:
        """How much of each pixel shows the person, and how much what is in their way: (N, 2, height, width)."""
        from reproduce.data.world import cover

        paths = [image.path for image in images]
        return cover(self.domain, paths, height, width, seed=self.seed, size=self.size, dials=self.dials)
