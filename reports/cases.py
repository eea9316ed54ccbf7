"""One result, read for display: what it measured, what it may be compared with, where it came from."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from reports.curves import Panel, panels
from reports.words import (
    COMPARED,
    NOTHING,
    Spread,
    Verdict,
    duration,
    flatten,
    is_number,
    listing,
    metric,
    percent,
    scalar,
    spread,
    verdict,
)

Result = Mapping[str, Any]

PER_SEED = ("rank1", "rank5", "rank10", "mAP", "mINP")
DIGEST_SHOWN = 12


@dataclass(frozen=True)
class SeedLine:
    """What one training seed measured: a name, percentages in the order of `PER_SEED`, and how many queries."""

    seed: str
    values: tuple[str, ...]
    queries: str
    unmatched: str


@dataclass(frozen=True)
class StageLine:
    """One stage of a case: what ran, for how long, on what."""

    name: str
    seed: str
    time: str
    device: str
    rate: str
    started: str
    key: str


@dataclass(frozen=True)
class StageGroup:
    """Stages that differ in their seed alone: one specification, and a curve a seed."""

    title: str
    seeds: str
    spec: tuple[tuple[str, str], ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class DataLine:
    """Where the images of one domain came from."""

    domain: str
    kind: str
    facts: str


@dataclass(frozen=True)
class Folder:
    """A folder of the user's own that stood for a domain."""

    name: str
    digest: str

    @property
    def text(self) -> str:
        """The badge of a page that was made on it."""
        shown = f" (digest {self.digest[:DIGEST_SHOWN]})" if self.digest else ""
        return f"data: folder {self.name}{shown} {NOTHING} not the published set"


class Case:
    """A result, read for display. Everything about what may be compared is decided here."""

    def __init__(self, result: Result, order: str = "") -> None:
        self.result = result
        self.order = order
        """A text that sorts cases which nothing else tells apart."""
        case = result["case"]
        self.paper = str(case["paper"])
        self.table = str(case["table"])
        self.row = str(case["row"])
        self.column = str(case["column"])
        self.label = str(case.get("label") or self.row)
        self.task = str(case.get("task") or self.column)
        self.anchor = ""
        self.place = ""
        self.column_label = self.column
        self.printed_now: Mapping[str, Any] = {}
        self.band: object = result.get("band")
        """Set by the table: a unique anchor, "Table 1", the column's heading, what it prints now, the band."""
        self.printed: Mapping[str, Any] = result.get("printed") or {}
        self.measured: dict[str, Mapping[str, Any]] = {
            str(seed): numbers for seed, numbers in sorted((result.get("measured") or {}).items(), key=_by_seed)
        }
        self.identity: Mapping[str, Any] = result.get("identity") or {}
        self.scale = str(self.identity.get("scale") or "")
        self.data: Mapping[str, Mapping[str, Any]] = self.identity.get("data") or {}
        self.reasons = tuple(str(reason) for reason in result.get("reasons") or ())
        self.deviations = tuple(str(deviation) for deviation in result.get("deviations") or ())
        self.command = str(result.get("command") or "")
        self.error = str(result.get("error") or "")
        self.log_tail = str(result.get("log_tail") or "")
        self.collapsed = tuple(str(text) for text in result.get("collapsed") or ())
        self.stages: Sequence[Mapping[str, Any]] = result.get("stages") or ()

    @property
    def on_stand_ins(self) -> bool:
        """Whether any of its images were drawn."""
        return "stand-in" in self.kinds.values()

    @cached_property
    def kinds(self) -> dict[str, str]:
        """What the images of each domain were: "stand-in", "real" (the published set), "folder" or "unknown".

        "folder" is one of the user's own, whose counts are not the published ones.
        """
        return {domain: str(entry.get("kind") or "unknown") for domain, entry in sorted(self.data.items())}

    @cached_property
    def folders(self) -> tuple[Folder, ...]:
        """The user's own folders among its domains."""
        return tuple(
            Folder(str(self.data[domain].get("folder") or domain), str(self.data[domain].get("digest") or ""))
            for domain, kind in self.kinds.items()
            if kind == "folder"
        )

    @property
    def comparable(self) -> bool:
        """Whether a difference from the printed number means anything; never on stand-ins, whatever the verdict."""
        if self.on_stand_ins or self.folders or self.scale != "paper" or self.identity.get("subset"):
            return False
        word = str(self.result["verdict"])
        return word in COMPARED and (word != "collapsed" or not self.reasons)

    @property
    def verdict(self) -> Verdict:
        """The verdict's word; one that compares with the paper is not repeated for numbers that do not compare."""
        word = str(self.result["verdict"])
        if word in COMPARED - {"collapsed"} and not self.comparable:
            return verdict("not comparable")
        return verdict(word)

    @property
    def seeds(self) -> tuple[str, ...]:
        """Training seeds that measured something."""
        return tuple(self.measured)

    @property
    def n(self) -> str:
        """`n = 3`."""
        return f"n = {len(self.measured)}"

    def spread(self, name: str) -> Spread | None:
        """Mean and spread of a metric over the seeds, in percent."""
        return spread(numbers.get(name) for numbers in self.measured.values())

    def text(self, name: str) -> str:
        """`44.1 ± 0.4`, or a dash."""
        found = self.spread(name)
        return found.text if found else NOTHING

    @property
    def headline_parts(self) -> tuple[str, ...]:
        """mAP, rank-1 and the number of seeds; nothing where nothing was measured."""
        parts = [f"{metric(name)} {self.text(name)}" for name in ("mAP", "rank1") if self.spread(name)]
        return (*parts, self.n) if parts else ()

    @property
    def headline(self) -> str:
        """The one-line result, or what stands in for it."""
        return ", ".join(self.headline_parts) or self.error.partition("\n")[0] or "; ".join(self.reasons)

    @property
    def name(self) -> str:
        """Row and task as words."""
        return f"{self.label}, {self.column_label}"

    @property
    def where(self) -> str:
        """Scale and kind of data in a few words, for pages that show several settings."""
        worlds = sorted({scalar(e.get("seed")) for e in self.data.values() if e.get("kind") == "stand-in"})
        drawn = ", ".join((f"stand-ins, world seed {listing(worlds)}", *self.turned))
        kind = drawn if worlds else "own folder" if self.folders else ""
        return ", ".join(part for part in (self.scale and f"scale {self.scale}", kind) if part)

    @property
    def turned(self) -> tuple[str, ...]:
        """The dials of its drawn worlds that are not at 1, such as "camera dial at 0"."""
        dials = {
            f"{name} dial at {scalar(value)}"
            for entry in self.data.values()
            for name, value in mapping(entry.get("dials")).items()
            if value != 1
        }
        return tuple(sorted(dials))

    @property
    def run_as(self) -> str:
        """The task that was really run, where it is not the column's."""
        return self.task if self.task != self.column else ""

    @cached_property
    def seed_lines(self) -> tuple[SeedLine, ...]:
        """One line a training seed."""
        return tuple(
            SeedLine(
                seed,
                tuple(percent(numbers.get(name)) for name in PER_SEED),
                _whole(numbers.get("queries")),
                _whole(numbers.get("unmatched")),
            )
            for seed, numbers in self.measured.items()
        )

    @property
    def mean_line(self) -> tuple[str, ...]:
        """Mean and spread in the order of `PER_SEED`; empty for fewer than two seeds."""
        return tuple(self.text(name) for name in PER_SEED) if len(self.measured) > 1 else ()

    @property
    def band_text(self) -> str:
        """The band that the verdict allows around the printed number, in percentage points."""
        return f"band ±{percent(self.band)}" if self.comparable and is_number(self.band) else ""

    @property
    def judged_line(self) -> tuple[str, ...]:
        """The printed numbers that the verdict was given against, in the order of `PER_SEED`."""
        return tuple(percent(self.printed.get(name)) for name in PER_SEED) if self.comparable else ()

    @property
    def outdated(self) -> str:
        """Printed numbers that were corrected after the verdict was given."""
        changed = [
            f"{metric(name)} {percent(old)}, now {percent(self.printed_now[name])}"
            for name, old in self.printed.items()
            if self.comparable and name in self.printed_now and percent(old) != percent(self.printed_now[name])
        ]
        return ", ".join(changed)

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """Scale, weights, selection and the like, as (name, value)."""
        names = {"bn_group": "images per BN group"}
        return tuple(
            (
                names.get(name, name.replace("_", " ")),
                "; ".join(f"{path}: {text}" if path else text for path, text in flatten(value)),
            )
            for name, value in self.identity.items()
            if name != "data"
        )

    @property
    def data_lines(self) -> tuple[DataLine, ...]:
        """Where the images came from, one line a domain."""
        words = {"stand-in": "stand-in, drawn", "real": "real, published", "folder": "folder, not the published set"}
        lines = []
        for domain, kind in self.kinds.items():
            entry = self.data[domain]
            facts = [_fact(str(name), part) for name, part in entry.items() if name != "kind"]
            facts += [f"pixels {digest}" for digest in self._digests(domain) if digest != entry.get("digest")]
            lines.append(DataLine(domain, words.get(kind, kind), "; ".join(facts)))
        return tuple(lines)

    def _digests(self, domain: str) -> list[str]:
        seen = (mapping(provenance_of(stage).get("data")).get(domain) for stage in self.stages)
        return sorted({str(digest) for digest in seen if digest})

    @cached_property
    def provenance(self) -> tuple[tuple[str, str], ...]:
        """What ran it: commit, versions, machine, times; a value that differs between stages is listed in full."""
        known: dict[str, list[str]] = {}
        for stage in self.stages:
            record = dict(provenance_of(stage))
            for name in ("seed", "data", "wall_s", "device_s", "started"):
                record.pop(name, None)
            if "commit" in record:
                commit = str(record["commit"])[:DIGEST_SHOWN] if record["commit"] else "unknown"
                record["commit"] = commit + (" with uncommitted changes" if record.pop("dirty", False) else "")
            record.pop("dirty", None)
            if versions := mapping(record.pop("versions", None)):
                record["versions"] = ", ".join(f"{package} {version}" for package, version in versions.items())
            for path, text in flatten(record):
                if path and text not in known.setdefault(path, []):
                    known[path].append(text)
        lines = [(name.replace(".", " ").replace("_", " "), "; ".join(texts)) for name, texts in known.items()]
        if started := [
            str(provenance_of(stage)["started"]) for stage in self.stages if provenance_of(stage).get("started")
        ]:
            first, last = min(started), max(started)
            lines.append(("started", first if first == last else f"{first}, last stage {last}"))
        if self.stages:
            lines.append(("time of all stages", duration(self.wall_s)))
        return tuple(lines)

    @property
    def wall_s(self) -> float:
        """Seconds that its stages took together, shared stages included."""
        return sum(seconds for seconds in (seconds_of(stage) for stage in self.stages))

    @cached_property
    def stage_lines(self) -> tuple[StageLine, ...]:
        """One line a stage, in the order of the record."""
        return tuple(
            StageLine(
                name=str(stage.get("label") or stage.get("name", "")),
                seed=scalar(stage["seed"]) if stage.get("seed") is not None else NOTHING,
                time=duration(provenance_of(stage).get("wall_s")),
                device=str(provenance_of(stage).get("device") or NOTHING),
                rate=_rate(stage),
                started=str(provenance_of(stage).get("started") or NOTHING),
                key=str(stage.get("key") or NOTHING)[:DIGEST_SHOWN],
            )
            for stage in self.stages
        )

    @cached_property
    def stage_groups(self) -> tuple[StageGroup, ...]:
        """Its stages, those that differ in their seed alone together."""
        return _groups(self.stages)

    @property
    def curve_groups(self) -> tuple[StageGroup, ...]:
        """The stages that logged something."""
        return tuple(group for group in self.stage_groups if group.panels)


def _by_seed(item: tuple[object, object]) -> tuple[int, str]:
    return len(str(item[0])), str(item[0])


def _fact(name: str, value: Any) -> str:
    """`seed 1`, or `size: height 64, width 32`."""
    words = name.replace("_", " ")
    if not isinstance(value, Mapping):
        return f"{words} {scalar(value)}"
    return f"{words}: " + ", ".join(f"{path.replace('_', ' ')} {text}" for path, text in flatten(value))


def _whole(value: object) -> str:
    return f"{value:,.0f}" if is_number(value) else NOTHING


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def provenance_of(stage: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(stage.get("provenance"))


def seconds_of(stage: Mapping[str, Any]) -> float:
    seconds = provenance_of(stage).get("wall_s")
    return float(seconds) if is_number(seconds) else 0.0


def _rate(stage: Mapping[str, Any]) -> str:
    rates = sorted(
        entry["images_per_s"] for entry in stage.get("history") or () if is_number(entry.get("images_per_s"))
    )
    return f"{rates[len(rates) // 2]:,.0f}" if rates else NOTHING


def _groups(stages: Sequence[Mapping[str, Any]]) -> tuple[StageGroup, ...]:
    by_key = {str(stage["key"]): stage for stage in stages if stage.get("key")}

    def seedless(value: Any, depth: int = 0) -> Any:
        if isinstance(value, Mapping):
            if set(value) == {"stage", "key"} and depth < 20:
                upstream = by_key.get(str(value["key"]))
                return [value["stage"], seedless(upstream.get("spec"), depth + 1) if upstream else None]
            return {name: seedless(part, depth) for name, part in value.items() if name != "seed"}
        return [seedless(part, depth) for part in value] if isinstance(value, list | tuple) else value

    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for stage in stages:
        signature = json.dumps([stage.get("name"), seedless(mapping(stage.get("spec")))], sort_keys=True, default=str)
        grouped.setdefault(signature, []).append(stage)
    titles = [_title(members[0]) for members in grouped.values()]
    seen: Counter[str] = Counter()
    made = []
    for title, members in zip(titles, grouped.values(), strict=True):
        seen[title] += 1
        seeds = [scalar(stage["seed"]) for stage in members if stage.get("seed") is not None]
        histories = [
            (scalar(stage["seed"]) if stage.get("seed") is not None else str(place), stage.get("history") or ())
            for place, stage in enumerate(members, 1)
        ]
        made.append(
            StageGroup(
                title=title + (f" ({seen[title]} of {titles.count(title)})" if titles.count(title) > 1 else ""),
                seeds=", ".join(seeds),
                spec=_shared_spec(members),
                panels=panels(histories, _step_name(members[0])),
            )
        )
    return tuple(made)


def _title(stage: Mapping[str, Any]) -> str:
    """The stage's label without its seed, or its name."""
    return re.sub(r",? seed \d+", "", str(stage.get("label") or stage.get("name") or "stage"))


def _step_name(stage: Mapping[str, Any]) -> str:
    """What a logged step was: an epoch where the recipe counts epochs, else a step."""
    return "epoch" if is_number(mapping(stage.get("spec")).get("epochs")) else "step"


def _shared_spec(members: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    values: dict[str, list[str]] = {}
    for stage in members:
        for path, text in flatten(mapping(stage.get("spec"))):
            if path and text not in values.setdefault(path, []):
                values[path].append(text)
    return tuple((path, " | ".join(texts)) for path, texts in values.items())
