"""Domains as values: by name, as suites write them, and as data that were read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from reproduce.data.catalogue import usual
from reproduce.data.reading import part, read
from reproduce.data.sources import FOLDER, Source
from reproduce.dataset import Dataset
from reproduce.stage import Env


@dataclass(frozen=True)
class Domain:
    """A domain by name, as suites write it; running replaces it by what stands for that name.

    Attributes:
        name: such as "market" or "duke".
        variant: one of the ways in which the set is used, by default the usual one; "" where there is one way.
    """

    name: str
    variant: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", usual(self.name, self.variant))


@dataclass(frozen=True)
class Real(Source):
    """A domain that was read from a folder, identified by its content; where the folder is does not matter.

    Attributes:
        name: such as "market".
        digest: fingerprint of the whole set (`reproduce.data.manifests.digest`).
        subset: how many identities of it are used; None for all.
        variant: the way in which it is used, such as "train+val" of MSMT17.
    """

    name: str
    digest: str
    subset: int | None = None
    variant: str = ""

    @property
    def label(self) -> str:
        usual = self.variant in ("", Domain(self.name).variant)
        return self.name if usual else f"{self.name} {self.variant}"

    def open(self, env: Env) -> Dataset:
        whole = read(env.place(self.digest), self.name, variant=self.variant)
        env.verify(whole, self.digest)
        return replace(whole if self.subset is None else part(whole, self.subset), digest=self.digest)

    def describe(self) -> dict[str, Any]:
        """As of a folder that nobody has checked; what was found out about it is added by `Setting`."""
        return {"kind": FOLDER, "digest": self.digest, **({"variant": self.variant} if self.variant else {})}
