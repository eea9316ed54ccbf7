"""The setting of a run, scale, data and weights, and how it turns a suite's stages into the ones that run."""

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
from reproduce.data.reading import describe, differences, read
from reproduce.data.sources import FOLDER, OUTSIDE, REAL, Source, enter, sources
from reproduce.data.standins import StandIn
from reproduce.data.world import Dials
from reproduce.errors import UserError
from reproduce.papers.cases import World
from reproduce.papers.records import Identity
from reproduce.running import recipe
from reproduce.scales import PRECISION, ROUNDS, SCALES, STEMS, VERSION, WEIGHTS, at_scale, stand_in_size
from reproduce.stage import Stage, closure, rewrite

SCRATCH = "scratch"


def data_root(given: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that --data-root or, without it, REID_DATA names.

    Raises:
        UserError: there is no such folder.
    """
    option, root = ("--data-root", given) if given else ("REID_DATA", environ.get("REID_DATA"))
    if not root:
        return None
    if not Path(root).expanduser().is_dir():
        raise UserError(f"{option} {root} is no folder: give the one that holds your data sets")
    return Path(root).expanduser().absolute()


def given_folders(given: Iterable[str]) -> dict[str, Path]:
    """The folders of --domain NAME=DIR by name.

    Raises:
        UserError: one is not spelled so, unknown, given twice or not there.
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
    """A case that cannot run here, for want of "data", "weights" or a drawn "world"."""

    def __init__(self, want: str, reason: str) -> None:
        super().__init__(reason)
        self.want = want


@dataclass(frozen=True)
class Located:
    """A real data set that was found and read.

    Attributes:
        kind: "real" where version and counts are the published ones, else "folder".
        version: "V1" or "V2" of MSMT17, where its folder tells.
    """

    folder: Path
    real: Real
    kind: str
    version: str

    @property
    def facts(self) -> dict[str, str]:
        """What an identity says of it beyond the digest."""
        return {"kind": self.kind, "folder": self.folder.name, **({"version": self.version} if self.version else {})}


@dataclass(frozen=True)
class Setting:
    """What the user asked for, apart from where it runs.

    Attributes:
        scale: a name of `reproduce.scales.SCALES`.
        folders: folders of single domains by name; their counts are not checked, only said.
        root: where all others are looked for, and must be the published ones. Without folders and root, stand-ins are
            drawn.
        world_seed: of the stand-ins.
        weights: "scratch", a folder of weights, or None for published ones where they usually lie and, at scales that
            use none, for those that stand in for them.
        subset: identities kept of real data sets; None for all.
        accept_counts: go on where what lies under the root has other counts than the published set.
        precision: of all trainings; None for what each recipe says.
        rounds: at most this many rounds of labelling and training; None for what each recipe says.
    """

    scale: str
    folders: Mapping[str, Path] = field(default_factory=dict)
    world_seed: int = 1
    weights: str | None = None
    subset: int | None = None
    root: Path | None = None
    accept_counts: bool = False
    precision: str | None = None
    rounds: int | None = None
    located: dict[Domain, Located] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The real data sets that were needed so far."""
    files: dict[str, Path] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The files of weights that were needed so far, by SHA-256."""
    unpublished: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """Those that are not known to be the published ones."""
    drawn: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """Those of nets that were trained on drawn objects."""
    uncut: dict[str, Stage[Any]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Stages as their recipes have them, by the keys that they have with fewer rounds."""
    starts: dict[tuple[str, str], Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What stands in for weights of a name and a backbone, where it was needed so far."""

    @property
    def on_stand_ins(self) -> bool:
        """Whether domains become drawn ones; of a run's domains all are drawn or all are real."""
        return not self.folders and self.root is None

    def resolve(self, stage: Stage[Any], world: World | None = None) -> Stage[Any]:
        """The stage at this scale, on this data or, where a change of the drawn world is given, in that world.

        Raises:
            Blocked: it needs data or weights that are not here, or a drawn world and the data are real.
            UserError: they are here, but not what they should be.
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

        resolved: Stage[Any] = rewrite(stage, leaf, by_role)
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
        """Whether all data of a resolved stage are the published sets."""
        return all(self._described(source)["kind"] == REAL for source in sources([stage]))

    def _described(self, source: Source) -> dict[str, Any]:
        """What an identity says of a source, and of one that was located what was found.

        Raises:
            UserError: it says of itself what only a check can tell.
        """
        described = {"kind": OUTSIDE, **source.describe()}
        for found in self.located.values():
            if found.real == source:
                return described | found.facts
        if described["kind"] == REAL:
            raise UserError(f"{source.label} describes itself as {REAL}, and nobody has checked it: give another kind")
        return described

    def locate(self, domain: Domain) -> Located:
        """Find and read a domain's real data set, once.

        Raises:
            Blocked: it is not here.
            UserError: it is broken or, under the root, not the published one.
        """
        if domain in self.located:
            return self.located[domain]
        name, given = domain.name, self.folders.get(domain.name)
        folder = given or (find(self.root, name) if self.root else None)
        if folder is None:
            where = f"{self.root} does not hold {name}" if self.root else f"no folder of {name} was given"
            mend = (
                f'{withdrawn()[name]} was withdrawn by its makers; -m "not withdrawn" leaves such cases out'
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
                f"{name}: {folder} is not the published set: {'; '.join(gaps)}. "
                "Copy it again, or go on with --accept-counts"
            )
        kind = REAL if counts and not gaps and whole.version != "V2" else FOLDER
        real = Real(name, digest(whole), self.subset, domain.variant)
        self.located[domain] = Located(whole.root, real, kind, whole.version)
        return self.located[domain]

    def paths(self) -> dict[str, Path]:
        """Where each data set that is needed lies, by digest."""
        return {found.real.digest: found.folder.resolve() for found in self.located.values()}

    def _weights(self, name: str, backbone: str) -> str | None:
        """The SHA-256 of a file of weights."""
        if self.weights == SCRATCH:
            return None
        places = weights.folders() if self.weights is None else [Path(self.weights)]
        found = weights.fitting(name, backbone, places)
        if len(found) == 1:
            path = found[0].resolve()
            known = {file: sha256 for sha256, file in self.files.items()}  # each is read once
            sha256 = known.get(path) or weights.sha256(found[0])
            self.files[sha256] = path
            if not weights.is_published(name, backbone, weights.source_sha256(path, sha256)):
                self.unpublished.add(sha256)
            return sha256
        marks = weights.marks(name, backbone) if name == "imagenet" else []
        wanted = f"{backbone}-{marks[0]}.pth" if marks else f"{backbone}-{name}.safetensors"
        what = f"{len(found)} files might be the" if found else "there are no"
        raise Blocked(
            "weights",
            f"{what} {name} weights of {backbone} in {' or '.join(map(str, places))}: put {wanted} there, "
            f"give --weights DIR, or --weights {SCRATCH} to do without",
        )

    def _stand_in(self, name: str, backbone: str) -> str | Stage[Any] | None:
        """What a net of a smaller scale starts from: the SHA-256 of a file of weights, or a stage that trains them."""
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

    def _told(self, start: Stage[Any] | str) -> str:
        """What an identity calls a training that others start from, or a file of weights."""
        if isinstance(start, Stage):
            on_objects = any(isinstance(source, Objects) for source in sources([start]))
            return f"drawn {weights.DRAWN} by {start.name}" if on_objects else f"those of {start.name}"
        return f"drawn {weights.DRAWN} {start[:12]}" if start in self.drawn else start

    def identity(self, stages: Iterable[Stage[Any]], *, cells: int = 1) -> Identity:
        """What makes results of one cell comparable with each other: everything but the training seed.

        Args:
            stages: the resolved stages of one case, one a seed; or of several, one after the other.
            cells: how many cases they are of. Of each the first stage tells the recipe, which has its training seed
                in fields of that name alone.
        """
        final = list(stages)
        reached = closure(final)
        started = {getattr(stage, "weights", None) for stage in reached}
        named = {self._told(start) for start in started if start}
        named |= {SCRATCH} if self.weights == SCRATCH or not named else set()
        unpublished = named & self.unpublished
        precisions = {getattr(stage, "precision", "float32") for stage in reached} | {self.precision or "float32"}
        precisions -= {"float32"}
        groups = {getattr(stage, "bn_group", None) for stage in reached if hasattr(stage, "bn_group")}
        behind = (source for source in sources(final) if not isinstance(source, Objects))  # told by the weights
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
