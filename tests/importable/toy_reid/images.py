"""Images that a stage makes of others."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from reproduce.artifacts import Folder
from reproduce.data.sources import ImageStage
from reproduce.stage import Env


@dataclass(frozen=True)
class Darker(ImageStage):
    """The training images of a domain, darker; its test images as they are."""

    domain: Any
    """Where the images come from."""
    share: float = 0.6
    """Of their brightness that is left."""

    def run(self, env: Env) -> Folder:
        import PIL.Image

        data = env.open(self.domain)
        for image in (*data.train, *data.query, *data.gallery):
            path = env.folder / image.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if image in data.train:
                with PIL.Image.open(data.root / image.path) as shown:
                    shown.point(lambda value: round(self.share * value)).save(path)
            else:
                shutil.copyfile(data.root / image.path, path)
        return Folder(env.folder)
