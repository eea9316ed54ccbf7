"""One result, read for display: what it measured, what it may be compared with, where it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from reports.curves import OF_LABELS, PERCENT
from reports.identity import DIGEST_SHOWN, DataLine, Identity, mapping
from reports.stages import StageGroup, StageLine, provenance, provenance_of, stage_groups, stage_lines
from reports.words import (
    COMPARED,
    NOTHING,
    Spread,
    Verdict,
    is_number,
    metric,
    percent,
    signed,
    slug,
    spread,
    verdict,
)
from reproduce.papers.baselines import OLDER, ROUNDING

Result = Mapping[str, Any]

HEADLINE = ("mAP", "rank1")
PER_SEED = ("rank1", "rank5", "rank10", "mAP", "mINP")
EVEN_IF_INCOMPARABLE = frozenset({"collapsed", "drifted"})
"""Verdicts that need no printed number."""


@dataclass(frozen=True)
class SeedLine:
    """What one training seed measured: a name, percentages in the order of `PER_SEED`, and how many queries."""

    seed: str
    values: tuple[str, ...]
    queries: str
    unmatched: str


@dataclass(frozen=True)
class BaselineLine:
    """One metric beside the result that was recorded for exactly this case."""

    metric: str
    old: str
    new: str
    difference: str
    band: str
    outside: bool


@dataclass(frozen=True)
class Baseline:
    """A case beside its recorded result.

    Attributes:
        unjudged: why a difference is told and not judged; empty where it is.
        on: where it was recorded, if that was another processor.
    """

    commit: str
    seeds: str
    drift: bool
    unjudged: str
    on: str
    lines: tuple[BaselineLine, ...]

    @property
    def outcome(self) -> str:
        """Where the numbers lie, and whether that is judged."""
        if self.unjudged == OLDER:
            return OLDER
        outside = any(line.outside for line in self.lines)
        where = "outside its band" if outside else "inside its band"
        return where + (f"; not judged: {self.unjudged}" if self.unjudged else "")

    @property
    def text(self) -> str:
        """The metrics outside their bands in a line; all of them where none is."""
        shown = [line for line in self.lines if line.outside] or self.lines
        moves = [f"{line.metric} {line.old}, now {line.new} (band ±{line.band})" for line in shown]
        return f"recorded{f' at commit {self.commit}' if self.commit else ''}: {', '.join(moves)}"


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
        self.paper_name = self.paper
        self.file = self.home = ""
        self.place = ""
        self.column_label = self.column
        self.printed_now: Mapping[str, Any] = {}
        self.band: object = result.get("band")
        """Set by paper and table: names, its page, the place of the table, "Table 1", what it prints now, the band."""
        self.printed: Mapping[str, Any] = result.get("printed") or {}
        self.measured: dict[str, Mapping[str, Any]] = {
            str(seed): numbers for seed, numbers in sorted((result.get("measured") or {}).items(), key=_by_seed)
        }
        self.identity = Identity(result.get("identity") or {})
        self.reasons = tuple(str(reason) for reason in result.get("reasons") or ())
        self.deviations = tuple(str(deviation) for deviation in result.get("deviations") or ())
        self.command = str(result.get("command") or "")
        self.error = str(result.get("error") or "")
        self.log_tail = str(result.get("log_tail") or "")
        self.collapsed = tuple(str(text) for text in result.get("collapsed") or ())
        self.stages: Sequence[Mapping[str, Any]] = result.get("stages") or ()

    @property
    def cell(self) -> str:
        """Where it stands, as claims name it."""
        return f"{self.table}/{self.row}/{self.column}"

    @property
    def file_stem(self) -> str:
        """A name for its page: cell, scale, and a digest of what it was measured on."""
        cell = (self.paper, self.table, self.row, self.column, self.identity.scale)
        digest = hashlib.sha256(json.dumps(self.identity.record, sort_keys=True, default=str).encode()).hexdigest()
        return "-".join([*(slug(part)[:40] for part in cell if part), digest[:8]])

    @property
    def comparable(self) -> bool:
        """Whether a difference from the printed number means anything; never on stand-ins, whatever the verdict."""
        on = self.identity
        changed = any(on.record.get(name) for name in ("subset", "precision"))
        if not on.published or on.scale != "paper" or changed:
            return False
        word = str(self.result["verdict"])
        return word in COMPARED | EVEN_IF_INCOMPARABLE and (word not in EVEN_IF_INCOMPARABLE or not self.reasons)

    @property
    def verdict(self) -> Verdict:
        """The verdict's word; one that compares with the paper is not repeated for numbers that do not compare."""
        word = str(self.result["verdict"])
        if word in COMPARED - EVEN_IF_INCOMPARABLE and not self.comparable:
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
        return _text(numbers.get(name) for numbers in self.measured.values())

    @property
    def headline_parts(self) -> tuple[str, ...]:
        """mAP, rank-1 and the number of seeds; nothing where nothing was measured."""
        parts = [f"{metric(name)} {self.text(name)}" for name in HEADLINE if self.spread(name)]
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
    def why(self) -> str:
        """What a reader who looks for trouble should know of it first."""
        if self.verdict.word == "drifted" and self.baseline:
            return self.baseline.text
        if self.collapsed:
            return f"collapsed at {'; '.join(self.collapsed)}"
        if self.verdict.word in ("below", "inconclusive"):
            judged = [
                f"{metric(name)} {self.text(name)}, printed {percent(self.printed.get(name))}" for name in HEADLINE
            ]
            return "; ".join([*judged, *filter(None, [self.band_text])])
        return self.error or self.headline or "No message was recorded."

    @property
    def elsewhere(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Mean and spread on other processors, in the order of `PER_SEED`."""
        found = []
        for side in map(mapping, self.result.get("elsewhere") or ()):
            seeds = [mapping(numbers) for numbers in mapping(side.get("measured")).values()]
            values = tuple(_text(numbers.get(name) for numbers in seeds) for name in PER_SEED)
            found.append(("; ".join(map(str, side.get("on") or ())), values))
        return tuple(found)

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
    def label_names(self) -> tuple[str, ...]:
        """What was measured of the pseudo labels that the scored network was trained with."""
        return tuple(sorted(OF_LABELS & {name for numbers in self.measured.values() for name in numbers}))

    @property
    def label_lines(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The values of `label_names`, by seed."""
        names = self.label_names
        return tuple(
            (seed, tuple(_of_labels(name, numbers.get(name)) for name in names))
            for seed, numbers in self.measured.items()
            if names
        )

    @property
    def band_text(self) -> str:
        """The band that the verdict allows around the printed number, in percentage points."""
        return f"band ±{percent(self.band)}" if self.comparable and is_number(self.band) else ""

    @property
    def band_why(self) -> str:
        """Why the band is as wide as it is, and where that was seen."""
        return str(self.result.get("band_why") or "") if self.band_text else ""

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

    @cached_property
    def baseline(self) -> Baseline | None:
        """The recorded result that it was judged by; None without one."""
        record = mapping(self.result.get("baseline"))
        older, lines = record.get("unjudged") == OLDER, []
        for name, moved in mapping(record.get("metrics")).items():
            old, new, band = (mapping(moved).get(part) for part in ("old", "new", "band"))
            gap = new - old if is_number(new) and is_number(old) else None
            outside = gap is not None and is_number(band) and abs(gap) > band + ROUNDING and not older
            lines.append(BaselineLine(metric(name), percent(old), percent(new), signed(gap), percent(band), outside))
        if not lines:
            return None
        return Baseline(
            commit=str(record.get("commit") or "")[:DIGEST_SHOWN],
            seeds=", ".join(str(seed) for seed in record.get("recorded_seeds") or ()),
            drift=bool(record.get("drift")),
            unjudged=str(record.get("unjudged") or ""),
            on="" if record.get("same_machine", True) else "; ".join(map(str, record.get("recorded_on") or ())),
            lines=tuple(lines),
        )

    @property
    def data_lines(self) -> tuple[DataLine, ...]:
        """Where the images came from, one line a domain."""
        pixels: dict[str, set[str]] = {}
        for stage in self.stages:
            for domain, digest in mapping(provenance_of(stage).get("data")).items():
                pixels.setdefault(domain, set()).update({str(digest)} if digest else ())
        return self.identity.data_lines({domain: sorted(digests) for domain, digests in pixels.items()})

    @cached_property
    def provenance(self) -> tuple[tuple[str, str], ...]:
        """What ran it: commit, versions, machine, times."""
        return provenance(self.stages)

    @cached_property
    def stage_lines(self) -> tuple[StageLine, ...]:
        """One line a stage, in the order of the record."""
        return stage_lines(self.stages)

    @cached_property
    def stage_groups(self) -> tuple[StageGroup, ...]:
        """Its stages, those that differ in their seed alone together."""
        return stage_groups(self.stages)


def _by_seed(item: tuple[object, object]) -> tuple[int, str]:
    return len(str(item[0])), str(item[0])


def _text(values: Iterable[object]) -> str:
    found = spread(values)
    return found.text if found else NOTHING


def _whole(value: object) -> str:
    return f"{value:,.0f}" if is_number(value) else NOTHING


def _of_labels(name: str, value: object) -> str:
    if name in PERCENT or not is_number(value):
        return percent(value)
    return _whole(value) if float(value).is_integer() else f"{value:.3g}"
