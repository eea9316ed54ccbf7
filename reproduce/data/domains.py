"""Domains as values: by name, as in suites, and as data read from a folder."""

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
    """A domain by name, as in suites; a run replaces it by a stand-in or a real data set."""

    name: str
    """Name, such as "market" or "duke"."""
    variant: str = ""
    """One of the variants of the set, by default the usual one; "" if there is only one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", usual(self.name, self.variant))


@dataclass(frozen=True)
class Real(Source):
    """A domain read from a folder, identified by its content, not by its location."""

    name: str
    """Name, such as "market"."""
    digest: str
    """Fingerprint of the whole set (`reproduce.data.manifests.digest`)."""
    subset: int | None = None
    """Number of identities used; None for all."""
    variant: str = ""
    """Variant of the set, such as "train+val" of MSMT17."""

    @property
    def label(self) -> str:
        usual = self.variant in ("", Domain(self.name).variant)
        return self.name if usual else f"{self.name} {self.variant}"

    def open(self, env: Env) -> Dataset:
        whole = read(env.place(self.digest), self.name, variant=self.variant)
        env.verify(whole, self.digest)
        return replace(whole if self.subset is None else part(whole, self.subset), digest=self.digest)

    def describe(self) -> dict[str, Any]:
        """Describe it as an unchecked folder; `Setting` adds the results of its checks."""
        return {"kind": FOLDER, "digest": self.digest, **({"variant": self.variant} if self.variant else {})}
