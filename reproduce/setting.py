"""The setting of a run, scale, data and weights, and how it turns a suite's stages into the ones that run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from reproduce.data.domains import PUBLISHED, Domain, Real, describe, read
from reproduce.data.standins import StandIn
from reproduce.data.world import Dials
from reproduce.scales import SCALES, WEIGHTS, at_scale, stand_in_size
from reproduce.stage import Stage, closure, rewrite

SCRATCH = "scratch"


class Blocked(Exception):
    """A case that cannot run here, for want of "data" or "weights"."""

    def __init__(self, want: str, reason: str) -> None:
        super().__init__(reason)
        self.want = want


@dataclass(frozen=True)
class Setting:
    """What the user asked for, apart from where it runs.

    Attributes:
        scale: a name of `reproduce.scales.SCALES`.
        folders: real data sets by domain name; none means that stand-ins are drawn.
        world_seed: of the stand-ins.
        weights: "scratch", a folder of published weights, or None.
        subset: identities kept of real data sets; None for all.
    """

    scale: str
    folders: Mapping[str, Path] = field(default_factory=dict)
    world_seed: int = 1
    weights: str | None = None
    subset: int | None = None

    def resolve(self, stage: Stage[Any]) -> Stage[Any]:
        """The stage at this scale, on this data.

        Raises:
            Blocked: it needs data or weights that are not here.
        """
        scale = SCALES[self.scale]
        by_scale = at_scale(scale)

        def by_role(role: str, value: Any, owner: Any) -> Any:
            value = by_scale(role, value, owner)
            return self._weights(value, owner.backbone) if role == WEIGHTS and value else value

        def leaf(value: Any) -> Any:
            if not isinstance(value, Domain):
                return value
            if not self.folders:
                return StandIn(value.name, stand_in_size(value.name, scale), self.world_seed, Dials())
            if value.name not in self.folders:
                raise Blocked("data", f"no folder of {value.name} was given: add --domain {value.name}=DIR")
            return self.real[value.name][0]

        resolved: Stage[Any] = rewrite(stage, leaf, by_role)
        return resolved

    @cached_property
    def real(self) -> dict[str, tuple[Real, str]]:
        """The given folders by name: value, and "real" where the counts are the published ones, else "folder"."""
        from reproduce.data.manifests import digest

        found: dict[str, tuple[Real, str]] = {}
        for name, folder in self.folders.items():
            whole = read(folder, name)
            kind = "real" if describe(whole) == PUBLISHED.get(name) else "folder"
            found[name] = Real(name, digest(whole), self.subset), kind
        return found

    def paths(self) -> dict[str, Path]:
        """Where each given folder lies, by digest."""
        return {real.digest: self.folders[name].resolve() for name, (real, _) in self.real.items()}

    def weight_files(self) -> dict[str, Path]:
        """Where each weights file lies, by sha256."""
        if self.weights in (None, SCRATCH):
            return {}
        return {_sha256(path): path.resolve() for path in _weight_paths(Path(str(self.weights)))}

    def _weights(self, name: str, backbone: str) -> str | None:
        if self.weights == SCRATCH:
            return None
        if self.weights is not None:
            folder = Path(self.weights)
            fitting = [path for path in _weight_paths(folder) if re.match(rf"{backbone}[-.]", path.name)]
            if len(fitting) == 1:
                return _sha256(fitting[0])
            what = "no file" if not fitting else f"{len(fitting)} files"
            raise Blocked(
                "weights",
                f"{folder} holds {what} named {backbone}-*.pth or {backbone}.safetensors: exactly one is needed",
            )
        raise Blocked(
            "weights",
            f"{name} weights of {backbone} are needed: give --weights DIR, or --weights {SCRATCH} to do without",
        )

    def identity(self, stages: Iterable[Stage[Any]]) -> dict[str, Any]:
        """What makes results of one cell comparable with each other: everything but the training seed.

        Args:
            stages: the resolved stages of one case, one a seed.
        """
        final = list(stages)
        reached = closure(final)
        fields = [value for stage in reached for value in vars(stage).items()]
        named = {getattr(stage, "weights", None) for stage in reached if hasattr(stage, "weights")}
        groups = {getattr(stage, "bn_group", None) for stage in reached if hasattr(stage, "bn_group")}
        data: dict[str, Any] = {}
        for _, value in fields:
            if isinstance(value, StandIn):
                data[value.domain] = {
                    "kind": "stand-in",
                    "world": value.version,
                    "seed": value.seed,
                    "size": asdict(value.size),
                    "dials": asdict(value.dials),
                }
            elif isinstance(value, Real):
                data[value.name] = {
                    "kind": self.real[value.name][1],
                    "folder": self.folders[value.name].name,
                    "digest": value.digest,
                }
        return {
            "scale": self.scale,
            "data": dict(sorted(data.items())),
            "weights": ", ".join(sorted(name for name in named if name)) or SCRATCH,
            "selection": getattr(final[0], "at", "last") if final else "last",
            "bn_group": next(iter(groups - {None}), None),
            "subset": self.subset,
        }


def _weight_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in (".pth", ".safetensors"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
