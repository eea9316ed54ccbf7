"""Hold the setting of a run (scale, data, weights) and resolve a suite's stages in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from reproduce import weights
from reproduce.clustering import Tuned
from reproduce.data.catalogue import CATALOGUE, published, withdrawn
from reproduce.data.domains import Domain, Real
from reproduce.data.layouts import find
from reproduce.data.manifests import digest
from reproduce.data.objects import Objects
from reproduce.data.reading import describe, differences, oddities, part, read
from reproduce.data.sources import FOLDER, MADE, OUTSIDE, REAL, Source, enter, sources
from reproduce.data.standins import StandIn
from reproduce.data.world import Dials
from reproduce.errors import UserError
from reproduce.files import printable
from reproduce.papers.cases import World
from reproduce.papers.records import Identity
from reproduce.running import recipe
from reproduce.scales import PRECISION, ROUNDS, SCALES, STEMS, VERSION, WEIGHTS, at_scale, stand_in_size, started
from reproduce.stage import Stage, closure, rewrite

SCRATCH = "scratch"


def data_root(given: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder that --data-root or, without it, REID_DATA names.

    Raises:
        UserError: The folder does not exist.
    """
    option, root = ("--data-root", given) if given else ("REID_DATA", environ.get("REID_DATA"))
    if not root:
        return None
    if not Path(root).expanduser().is_dir():
        raise UserError(f"{option} {root} is no folder: give the one that holds your data sets")
    return Path(root).expanduser().absolute()


def given_folders(given: Iterable[str]) -> dict[str, Path]:
    """Parse the values NAME=DIR of --domain into folders by name.

    Raises:
        UserError: A value is malformed, its name is unknown or duplicate, or its folder does not exist.
    """
    folders: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or name not in CATALOGUE:
            raise UserError(f"--domain {text}: give NAME=DIR, where NAME is one of {', '.join(CATALOGUE)}")
        if name in folders:
            raise UserError(f"--domain {name} is given twice")
        if not Path(folder).expanduser().is_dir():
            raise UserError(f"--domain {text}: there is no folder {folder}; give the one that holds {name}")
        folders[name] = Path(folder)
    return folders


class Blocked(Exception):
    """Signal that a case cannot run here because it lacks "data", "weights" or a drawn "world"."""

    def __init__(self, want: str, reason: str) -> None:
        super().__init__(reason)
        self.want = want


@dataclass(frozen=True)
class Located:
    """A real data set that was located and read."""

    folder: Path
    real: Real
    kind: str
    """"real" if version and counts are the published ones, else "folder"."""
    version: str
    """"V1" or "V2" of MSMT17, if its folder shows it; else empty."""
    odd: tuple[str, ...] = ()
    """What limits training and tests on it (`reading.oddities`)."""

    @property
    def facts(self) -> dict[str, str]:
        """Return its entries in an identity, beyond the digest."""
        return {
            "kind": self.kind,
            "folder": printable(self.folder.name),
            **({"version": self.version} if self.version else {}),
        }


@dataclass(frozen=True)
class Setting:
    """The user's choices, apart from devices."""

    scale: str
    """A name of `reproduce.scales.SCALES`."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Folders of single domains by name; their counts are reported, not enforced."""
    world_seed: int = 1
    """Seed of the stand-in world."""
    weights: str | None = None
    """"scratch", a folder of weights, or None for published ones in their usual places and, at scales without published
    weights, for their stand-ins."""
    subset: int | None = None
    """Identities kept of real data sets; None for all."""
    root: Path | None = None
    """Folder of all other data sets, which must be the published ones; without folders and root, all are stand-ins."""
    accept_counts: bool = False
    """Whether data sets under the root may have other counts than the published ones."""
    precision: str | None = None
    """Precision of all trainings; None for each recipe's own."""
    rounds: int | None = None
    """Largest number of rounds of labelling and training; None for each recipe's own."""
    pretrain: bool = False
    """Whether to train what was released, or never was, instead of reading its file."""
    located: dict[Domain, Located] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Real data sets needed so far."""
    files: dict[str, Path] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Files of weights needed so far, by SHA-256."""
    unpublished: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """SHA-256 of those not known to be the published ones."""
    drawn: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """SHA-256 of those of nets trained on drawn objects."""
    uncut: dict[str, Stage[Any]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Stages with all rounds of their recipes, by the keys that they have with fewer rounds."""
    starts: dict[tuple[str, str], Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Stand-ins for weights needed so far, by the weights' name and the backbone."""

    @property
    def on_stand_ins(self) -> bool:
        """Whether the domains are drawn; the domains of a run are all drawn or all real."""
        return not self.folders and self.root is None

    def resolve(self, stage: Stage[Any], world: World | None = None) -> Stage[Any]:
        """Return the stage at this scale, on this data or, if `world` is given, in that changed drawn world.

        Raises:
            Blocked: Data or weights are missing, or the stage needs a drawn world and the data are real.
            UserError: Data or weights are not what they should be.
        """
        whole = self._resolved(stage, world, None)
        if self.rounds is None:
            return whole
        cut = self._resolved(stage, world, self.rounds)
        self.uncut[cut.key] = whole
        return cut

    def _resolved(self, stage: Stage[Any], world: World | None, rounds: int | None) -> Stage[Any]:
        scale = SCALES[self.scale]
        by_scale = at_scale(scale, scratch=self.weights == SCRATCH)
        seed, dials = self.world_seed, Dials()
        not_drawn = Blocked("world", "needs stand-in data, and these data are real")
        if world:
            if not self.on_stand_ins:
                raise not_drawn
            seed, dials = world.seed or seed, replace(dials, **({world.off: 0.0} if world.off else {}))

        def by_role(role: str, value: Any, owner: Any) -> Any:
            value = by_scale(role, value, owner)
            if role == PRECISION:
                return self.precision or value
            if role == ROUNDS and rounds is not None:
                return min(value, rounds)
            if role != WEIGHTS or not isinstance(value, str):
                return value
            if scale.published:
                return self._weights(value, owner.backbone)
            wanted = value, by_scale("backbone", owner.backbone, owner)
            if wanted not in self.starts:
                self.starts[wanted] = self._stand_in(*wanted)
            return rewrite(self.starts[wanted], leaf, by_role)

        def leaf(value: Any) -> Any:
            if not isinstance(value, Domain):
                return value
            if not self.on_stand_ins:
                return self.locate(value).real
            if value != Domain(value.name):
                raise Blocked("data", f"no stand-in is drawn for the {value.variant} variant of {value.name}")
            return StandIn(value.name, stand_in_size(value.name, scale), seed, dials)

        resolved: Stage[Any] = rewrite(started(stage, scale, pretrain=self.pretrain), leaf, by_role)
        if world and not all(source.drawn for source in sources([resolved])):
            raise not_drawn
        published = scale.published and self.subset is None and self._published(resolved)

        def tuned(value: Any) -> Any:
            if isinstance(value, Tuned):
                return value.printed if published else value.elsewhere
            return value

        settled: Stage[Any] = rewrite(resolved, tuned)
        return settled

    def _published(self, stage: Stage[Any]) -> bool:
        """Return whether what a resolved stage clusters is published: all of its data are published sets, or are made
        of them and no training's target.
        """
        targets = {target for each in closure([stage]) if isinstance(target := getattr(each, "target", None), Source)}
        fine = {REAL, MADE} if targets else {REAL}
        kinds = [(self._described(source)["kind"], source in targets) for source in sources([stage])]
        return all(kind == REAL if is_target else kind in fine for kind, is_target in kinds)

    def _described(self, source: Source) -> dict[str, Any]:
        """Describe a source for an identity, with the facts of a located data set.

        Raises:
            UserError: The source describes itself as real, which only a check can establish.
        """
        described = {"kind": OUTSIDE, **source.describe()}
        for located in self.located.values():
            if located.real == source:
                return described | located.facts
        if described["kind"] == REAL:
            raise UserError(f"{source.label} describes itself as {REAL}, which was not checked: give another kind")
        return described

    def locate(self, domain: Domain) -> Located:
        """Find and read a domain's real data set, once.

        Raises:
            Blocked: The data set is missing.
            UserError: It is broken or, under the root, not the published one.
        """
        if domain in self.located:
            return self.located[domain]
        name, given = domain.name, self.folders.get(domain.name)
        folder = given or (find(self.root, name) if self.root else None)
        if folder is None:
            where = f"{self.root} does not hold {name}" if self.root else f"no folder of {name} was given"
            mend = (
                f'{withdrawn()[name]} was withdrawn by its makers; -m "not withdrawn" skips such cases'
                if name in withdrawn()
                else f"add --domain {name}=DIR, or see `reproduce doctor`"
            )
            raise Blocked("data", f"{where}: {mend}")
        whole = read(folder, name, variant=domain.variant)
        counts = published(name, domain.variant)
        gaps = differences(describe(whole), counts) if counts else []
        if given is None and whole.version == "V2":
            raise UserError(
                f"{name}: {folder} is MSMT17_V2, whose faces are blurred, and the papers print numbers of V1: "
                f"put V1 there, or ask for this one with --domain {name}={folder}"
            )
        if given is None and gaps and not self.accept_counts:
            raise UserError(
                f"{name}: {folder} is not the published set: {'; '.join(gaps)}. Copy it again, or pass --accept-counts"
            )
        kind = REAL if counts and not gaps and whole.version != "V2" else FOLDER
        real = Real(name, digest(whole), self.subset, domain.variant)
        odd = oddities(whole if self.subset is None else part(whole, self.subset))
        self.located[domain] = Located(whole.root, real, kind, whole.version, tuple(odd))
        return self.located[domain]

    def paths(self) -> dict[str, Path]:
        """Return the folder of each needed data set, by digest."""
        return {located.real.digest: located.folder.resolve() for located in self.located.values()}

    def _weights(self, name: str, backbone: str) -> str | None:
        """Find a published file of weights and return its SHA-256, or None for "scratch".

        Raises:
            Blocked: No file fits, or several do.
        """
        if self.weights == SCRATCH:
            return None
        places = weights.folders() if self.weights is None else [Path(self.weights)]
        candidates = weights.fitting(name, backbone, places)
        if len(candidates) == 1:
            path = candidates[0].resolve()
            digests = {file: sha256 for sha256, file in self.files.items()}  # each file is hashed once
            sha256 = digests.get(path) or weights.sha256(candidates[0])
            self.files[sha256] = path
            if not weights.is_published(name, backbone, weights.source_sha256(path, sha256)):
                self.unpublished.add(sha256)
            return sha256
        marks = weights.marks(name, backbone) if name == "imagenet" else []
        wanted = f"{backbone}-{marks[0]}.pth" if marks else f"{backbone}-{name}.safetensors"
        what = f"{len(candidates)} files might be the" if candidates else "there are no"
        raise Blocked(
            "weights",
            f"{what} {name} weights of {backbone} in {' or '.join(map(str, places))}: put {wanted} there, "
            f"give --weights DIR, or --weights {SCRATCH} to start without weights",
        )

    def _stand_in(self, name: str, backbone: str) -> str | Stage[Any] | None:
        """Return what a net of a smaller scale starts from: the SHA-256 of a weights file, or a stage that trains it.

        Raises:
            Blocked: No package provides a stand-in, or the file is missing.
            UserError: The file is damaged.
        """
        if self.weights == SCRATCH:
            return None
        starts = entry_points(group="reproduce.starts", name=name)
        if not starts:
            mend = "see `reproduce.starts` in CONTRIBUTING.md, or install reproduce-reid again (`make setup`)"
            raise Blocked("weights", f"nothing stands in for the {name} weights at scale {self.scale}: {mend}")
        if self.weights is not None:
            path = Path(self.weights) / weights.file_name(backbone, weights.DRAWN)
            if not path.is_file():
                trains = f"`python -m methods.weights {self.weights}` trains it"
                mend = trains if backbone in STEMS.values() else "without --weights a run trains its own"
                raise Blocked("weights", f"{path} is not there: {mend}")
            sha256 = weights.sha256(path)
        else:
            start: Stage[Any] | tuple[Path, str] = next(iter(starts)).load()(backbone)
            if isinstance(start, Stage):
                return start
            path, sha256 = start
            if weights.sha256(path) != sha256:
                raise UserError(f"{path} is damaged: install the package that brings it again")
        self.files[sha256] = path.resolve()
        self.drawn.add(sha256)
        return sha256

    def _start_name(self, start: Stage[Any] | str) -> str:
        """Return the name in an identity of initial weights: a training or a file."""
        if isinstance(start, Stage):
            on_objects = any(isinstance(source, Objects) for source in sources([start]))
            return f"drawn {weights.DRAWN} by {start.name}" if on_objects else f"those of {start.name}"
        return f"drawn {weights.DRAWN} {start[:12]}" if start in self.drawn else start

    def identity(self, stages: Iterable[Stage[Any]], *, cells: int = 1) -> Identity:
        """Return the identity shared by comparable results of one cell: everything but the training seed.

        Args:
            stages: Resolved stages of one case, one per seed; or of several cases, one after the other.
            cells: Number of cases. The recipe is taken from the first stage of each, whose training seed is only in
                fields named `seed`.
        """
        final = list(stages)
        reached = closure(final)
        started = {getattr(stage, "weights", None) for stage in reached}
        named = {self._start_name(start) for start in started if start}
        named |= {SCRATCH} if self.weights == SCRATCH or not named else set()
        unpublished = named & self.unpublished
        precisions = {getattr(stage, "precision", "float32") for stage in reached} | {self.precision or "float32"}
        precisions -= {"float32"}
        groups = {getattr(stage, "bn_group", None) for stage in reached if hasattr(stage, "bn_group")}
        behind = (source for source in sources(final) if not isinstance(source, Objects))  # named by the weights
        entries = [(source.label, self._described(source)) for source in behind]
        data: dict[str, Any] = {}
        for label, entry in sorted(entries, key=lambda item: (item[0], json.dumps(item[1], sort_keys=True))):
            enter(data, label, entry)
        return Identity(
            scale=self.scale,
            scale_version=0 if SCALES[self.scale].published else VERSION,
            data=dict(sorted(data.items())),
            weights=", ".join(sorted(named)),
            selection=getattr(final[0], "at", "last") if final else "last",
            bn_group=next(iter(groups - {None}), None),
            subset=self.subset,
            precision=", ".join(sorted(precisions)),
            unpublished_weights=", ".join(sorted(unpublished)),
            rounds=self.rounds or 0,
            recipe=recipe.digest(self.uncut.get(stage.key, stage) for stage in final[:: len(final) // cells])
            if final
            else "",
        )
