"""Images as a package outside the project may bring them: a set of its own, and images that a stage makes of others."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from reproduce.artifacts import Folder, Scores, Training
from reproduce.data.sources import ImageStage, Source
from reproduce.stage import Env, Stage


@dataclass(frozen=True)
class Corridor(Source):
    """A laboratory's own images, which lie where the environment says."""

    year: int = 2026

    @property
    def label(self) -> str:
        return f"corridor {self.year}"

    def open(self, env: Env) -> Any:
        from reproduce.data.reading import read

        return read(Path(os.environ["CORRIDOR"]), "corridor")


@dataclass(frozen=True)
class Mix(Source):
    """Training images of several sources, as of one; tested on the first."""

    parts: tuple[Any, ...]

    @property
    def label(self) -> str:
        return "market"

    def open(self, env: Env) -> Any:
        first, *others = (env.open(part) for part in self.parts)
        below = [
            replace(image, path=os.path.relpath(other.root / image.path, first.root))
            for other in others
            for image in other.train
        ]
        return replace(first, train=(*first.train, *below), digest="")


@dataclass(frozen=True)
class Mirror(ImageStage):
    """The training images of a domain as a mirror shows them."""

    domain: Any
    seed: int = 1

    def run(self, env: Env) -> Folder:
        import PIL.Image
        import PIL.ImageOps

        data = env.open(self.domain)
        for split in (data.train, data.query, data.gallery):
            for image in split:
                path = env.folder / image.path
                path.parent.mkdir(parents=True, exist_ok=True)
                if split is data.train:
                    PIL.ImageOps.mirror(PIL.Image.open(data.root / image.path)).save(path)
                else:
                    shutil.copyfile(data.root / image.path, path)
        return Folder(env.folder)


@dataclass(frozen=True)
class Pooled(Stage[Scores]):
    """Scores that are the number of the training images of several domains."""

    domains: Any
    seed: int = 1

    def run(self, env: Env) -> Scores:
        import numpy as np

        found = [env.open(domain) for domain in self.domains]
        images = float(sum(len(data.train) for data in found))
        return Scores(
            images, images, images, images, images, np.array([images / 100]), np.array([1]), 1, 0, np.array([1])
        )


@dataclass(frozen=True)
class Visited(Stage[Training]):
    """A training of three epochs on images where somebody may run a command (`VISIT`) in the second."""

    domain: Any
    seed: int = 1

    def run(self, env: Env) -> Training:
        import torch

        state = SimpleNamespace(seen=torch.zeros(3))
        images = len(env.open(self.domain).train)
        for epoch in env.epochs(3, state):
            state.seen[epoch] = images
            if epoch == 1 and os.environ.get("VISIT"):
                subprocess.run(os.environ["VISIT"], shell=True, check=True)
        return Training({"last": {"seen": state.seen}})


@dataclass(frozen=True)
class Stray(Stage[Scores]):
    """Opens images that none of its fields names."""

    def run(self, env: Env) -> Scores:
        env.open(Corridor())
        raise AssertionError
