"""Describe what a number was measured on: scale, data, drawn worlds and their dials, but not its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from reports.words import NOTHING, flatten, scalar
from reproduce.data.catalogue import CATALOGUE
from reproduce.papers.baselines import OLDER
from reproduce.papers.records import Identity as Kept
from reproduce.papers.tables import Task, is_task
from reproduce.wording import listing

DIGEST_SHOWN = 12

SCALES = ("paper", "trial", "medium", "small", "smoke")
"""Scales, the most informative first."""

KINDS = {
    "stand-in": "stand-in, drawn",
    "real": "real, published",
    "folder": "folder, not the published set",
    "made": "made by a stage",
    "outside": "set of another package",
}


@dataclass(frozen=True)
class Folder:
    """A user's folder that was used as a domain."""

    name: str
    digest: str

    @property
    def text(self) -> str:
        """Badge of pages with numbers from it."""
        shown = f" (digest {self.digest[:DIGEST_SHOWN]})" if self.digest else ""
        return f"data: folder {self.name}{shown} {NOTHING} not the published set"


@dataclass(frozen=True)
class DataLine:
    """The origin of one domain's images."""

    domain: str
    kind: str
    facts: str


class Identity:
    """The identity of a result or of a claim's trial, read for display."""

    def __init__(self, record: Kept) -> None:
        self.record = record
        self.scale = record.scale
        self.data: Mapping[str, Mapping[str, Any]] = record.data

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Kind of each domain's images: "stand-in", "real" (the published set), "folder", "made" or others.

        "folder" is one of the user's own, whose counts are not the published ones; "made" are images by a stage.
        """
        return {domain: str(entry.get("kind") or "unknown") for domain, entry in sorted(self.data.items())}

    @property
    def shared(self) -> tuple[object, ...]:
        """Everything but scale and data that results of one grid share."""
        record = self.record
        return record.scale_version, record.subset, record.weights, record.precision, record.rounds

    def agrees_on_data(self, other: Identity) -> bool:
        """Return whether another has the same scale and, among its data, all of these."""
        return self.scale == other.scale and all(entry == other.data.get(name) for name, entry in self.data.items())

    @property
    def on_stand_ins(self) -> bool:
        """Whether any of its images were drawn."""
        return "stand-in" in self.kinds.values()

    @property
    def drawn(self) -> bool:
        """Whether all of its images were drawn, or made of drawn ones."""
        return self.on_stand_ins and {*self.kinds.values()} <= {"stand-in", "made"}

    @property
    def published(self) -> bool:
        """Whether all of its images are those of published sets."""
        return {*self.kinds.values()} <= {"real"}

    @cached_property
    def folders(self) -> tuple[Folder, ...]:
        """The user's own folders among its domains."""
        return tuple(
            Folder(str(self.data[domain].get("folder") or domain), str(self.data[domain].get("digest") or ""))
            for domain, kind in self.kinds.items()
            if kind == "folder"
        )

    @property
    def older(self) -> bool:
        """Whether its recipe is unknown, since it was recorded before identities held one."""
        return not self.record.recipe and bool(self.record.data)

    @property
    def turned(self) -> tuple[str, ...]:
        """The dials of its drawn worlds that are not at 1, such as "camera dial at 0"."""
        dials = {
            f"{name} dial at {scalar(value)}"
            for entry in self.data.values()
            for name, value in (entry.get("dials") or {}).items()
            if value != 1
        }
        return tuple(sorted(dials))

    @property
    def rank(self) -> tuple[int, bool, tuple[str, ...], str]:
        """Sort key: the most informative scale first, older recipes and worlds with a turned dial last."""
        place = SCALES.index(self.scale) if self.scale in SCALES else len(SCALES)
        return place, self.older, self.turned, self.where

    @property
    def where(self) -> str:
        """Scale and kind of data in a few words, for pages that show several settings."""
        drawn = [self.data[domain] for domain, kind in self.kinds.items() if kind == "stand-in"]
        worlds = listing(sorted({scalar(entry.get("seed")) for entry in drawn}))
        kind = f"stand-ins, world seed {worlds}" if drawn else "own folder" if self.folders else ""
        return ", ".join(part for part in (self.scale and f"scale {self.scale}", kind, *self.turned) if part)

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """Scale, weights, selection and the like, as (name, value)."""
        names = {"bn_group": "images per BN group"}
        return tuple(
            (
                names.get(name, name.replace("_", " ")),
                "; ".join(f"{path}: {text}" if path else text for path, text in flatten(value)),
            )
            for name, value in msgspec.to_builtins(self.record).items()
            if name != "data"
        )

    def data_lines(self, pixels: Mapping[str, list[str]]) -> tuple[DataLine, ...]:
        """Describe the origin of the images, one line per domain.

        Args:
            pixels: Digests of each domain's images, as recorded by the stages.
        """
        lines = []
        for domain, kind in self.kinds.items():
            entry = self.data[domain]
            facts = [_fact(str(name), part) for name, part in entry.items() if name != "kind"]
            facts += [f"pixels {digest}" for digest in pixels.get(domain, ()) if digest != entry.get("digest")]
            lines.append(DataLine(domain, KINDS.get(kind, kind), "; ".join(facts)))
        return tuple(lines)


def _fact(name: str, value: Any) -> str:
    """Format an entry: `seed 1`, or `size: height 64, width 32`."""
    words = name.replace("_", " ")
    if not isinstance(value, Mapping):
        return f"{words} {scalar(value)}"
    return f"{words}: " + ", ".join(f"{path.replace('_', ' ')} {text}" for path, text in flatten(value))


def folders_of(task: str, identities: Iterable[Identity]) -> str:
    """Title a task by the user's folders that stood for its domains, such as "cattle → sheep"; empty without any.

    Args:
        task: Task, such as "m2d".
        identities: Identities of results that agree on their data.
    """
    named = {
        domain.partition(" ")[0]: str(identity.data[domain].get("folder") or domain)
        for identity in identities
        for domain, kind in identity.kinds.items()
        if kind == "folder"
    }
    if not is_task(task):
        return ""
    run = Task(task)
    domains = [run.target.name] if run.unsupervised else [run.source.name, run.target.name]
    if named.keys().isdisjoint(domains):
        return ""
    return " → ".join(dict.fromkeys(named.get(domain) or CATALOGUE[domain].title for domain in domains))


def setting_words(identities: Sequence[Identity]) -> str:
    """Describe what grouped runs share: scale, data, subset, precision, weights."""
    parts = [f"scale {scale}" for scale in dict.fromkeys(identity.scale for identity in identities) if scale]
    parts.append(data_words(identities))
    subsets = {identity.record.subset for identity in identities} - {None}
    parts += [f"{subset} identities" for subset in sorted(subsets, key=str)]
    parts += sorted({f"{it.record.rounds} rounds of labelling" for it in identities if it.record.rounds})
    parts += sorted({f"{found} precision" for identity in identities if (found := identity.record.precision)})
    weights = dict.fromkeys(str(found) for identity in identities if (found := identity.record.weights))
    if weights:
        parts.append(f"weights {', '.join(weights)}")
    if any(identity.older for identity in identities):
        parts.append(OLDER)
    return ", ".join(part for part in parts if part)


def data_words(identities: Sequence[Identity]) -> str:
    """Describe the images in a few words, those that a stage made only if all runs use some."""
    found: dict[str, set[str]] = {}
    worlds: set[tuple[str, str, tuple[str, ...]]] = set()
    for identity in identities:
        for domain, kind in identity.kinds.items():
            found.setdefault(kind, set()).add(domain)
            if kind == "stand-in":
                entry = identity.data[domain]
                worlds.add((scalar(entry.get("world")), scalar(entry.get("seed")), identity.turned))
    parts = []
    if "stand-in" in found:
        parts.append(f"drawn stand-ins for {listing(sorted(found['stand-in']))} ({_worlds(worlds)})")
    if "folder" in found:
        own = {
            f"{identity.data[domain].get('folder') or 'a folder'} as {domain}"
            for identity in identities
            for domain, kind in identity.kinds.items()
            if kind == "folder"
        }
        parts.append(f"the user's own {'folders' if len(own) > 1 else 'folder'} {listing(sorted(own))}")
    if "real" in found:
        parts.append(f"the published images of {listing(sorted(found['real']))}")
    if "made" in found and all("made" in identity.kinds.values() for identity in identities):
        parts.append(f"images made by {listing(sorted(found['made']))}")
    others = {name for kind in found.keys() - {"stand-in", "folder", "real", "made"} for name in found[kind]}
    if others:
        parts.append(f"other images ({listing(sorted(others))})")
    return "; ".join(parts)


def _worlds(found: Iterable[tuple[str, str, tuple[str, ...]]]) -> str:
    """Name drawn worlds, given as (version, seed, turned dials), each version and seed once for all of its dials."""
    seeds: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for version, seed, turned in sorted(found):
        seeds.setdefault((version, turned), []).append(seed)
    dials: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (version, turned), drawn in seeds.items():
        dials.setdefault((version, tuple(drawn)), []).append(", ".join(turned))
    parts = []
    for (version, several), variants in dials.items():
        world = f"world {version}, world seed{'s' * (len(several) > 1)} {listing(several)}"
        parts += [world] * ("" in variants)
        if others := [variant for variant in variants if variant]:
            parts.append(f"{world}, {' or '.join(others)}")
    return "; ".join(parts)
