"""Drawn domains as stages: they replace a suite's `Domain` if no real data set is given."""

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
    """Draw a domain of the stand-in world in the layout of the data set it replaces."""

    domain: str
    """The data set it replaces, such as "market"."""
    size: Size
    """Identities and pixels."""
    seed: int = 1
    """Seed of the world, independent of training seeds."""
    dials: Dials = Dials()
    """Strength of each disturbance."""
    version: ClassVar[int] = WORLD_VERSION

    def __post_init__(self) -> None:
        if self.dials.time < 1:  # whose frames differ from those of version 4; nothing else does
            object.__setattr__(self, "version", WORLD_VERSION + 1)

    @property
    def label(self) -> str:
        return self.domain

    @property
    def detail(self) -> str:
        """Describe its world if it is not the usual one."""
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
        """Compute the shares of each pixel that show the person and occluders: (N, 2, height, width), fractions."""
        from reproduce.data.world import cover

        paths = [image.path for image in images]
        return cover(self.domain, paths, height, width, seed=self.seed, size=self.size, dials=self.dials)
