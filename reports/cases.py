"""Prepare one result for display: its numbers, comparability and provenance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from reports.identity import DIGEST_SHOWN, DataLine, Identity
from reports.stages import StageGroup, StageLine, provenance, stage_groups, stage_lines
from reports.words import (
    COMPARED,
    NOTHING,
    Spread,
    Verdict,
    is_number,
    percent,
    signed,
    slug,
    spread,
    verdict,
)
from reproduce import metrics
from reproduce.metrics import METRICS, title
from reproduce.papers.baselines import OLDER, beyond
from reproduce.papers.records import Cell, Numbers, Result, StageEntry


def per_seed() -> tuple[str, ...]:
    """Return the metrics that a page lists for every training seed."""
    return metrics.names(listed=True)


EVEN_IF_INCOMPARABLE = frozenset({"collapsed", "drifted"})
"""Verdicts that need no printed number."""


@dataclass(frozen=True)
class SeedLine:
    """Numbers of one training seed: percentages in the order of `per_seed`, and counts of queries."""

    seed: str
    values: tuple[str, ...]
    queries: str
    unmatched: str


@dataclass(frozen=True)
class BaselineLine:
    """One metric and its value in the recorded result of this case."""

    metric: str
    old: str
    new: str
    difference: str
    band: str
    outside: bool


@dataclass(frozen=True)
class Baseline:
    """Comparison of a case with its recorded result."""

    commit: str
    seeds: str
    drift: bool
    unjudged: str
    """Why a difference is reported but not judged; empty if it is judged."""
    on: str
    """Where it was recorded, if on another processor."""
    lines: tuple[BaselineLine, ...]

    @property
    def outcome(self) -> str:
        """Whether numbers are inside their bands, and whether that is judged."""
        if self.unjudged == OLDER:
            return OLDER
        outside = any(line.outside for line in self.lines)
        where = "outside its band" if outside else "inside its band"
        return where + (f"; not judged: {self.unjudged}" if self.unjudged else "")

    @property
    def text(self) -> str:
        """One line with the metrics outside their bands, or all if none is."""
        shown = [line for line in self.lines if line.outside] or self.lines
        moves = [f"{line.metric} {line.old}, now {line.new} (band ±{line.band})" for line in shown]
        return f"recorded{f' at commit {self.commit}' if self.commit else ''}: {', '.join(moves)}"


@dataclass(frozen=True, eq=False)
class Case:
    """A result prepared for display. Comparability is decided only here."""

    result: Result
    order: str = ""
    """Sort key of last resort."""
    paper_name: str = ""
    file: str = ""
    """File of its page."""
    home: str = ""
    """Anchor of its table on the paper's page."""
    place: str = ""
    """"Table 1"."""
    column_label: str = ""
    printed_now: Mapping[str, float | None] = field(default_factory=dict)
    """Numbers that the table prints now, which may have been corrected since."""
    direct: Mapping[str, float] = field(default_factory=dict)
    """Direct transfer's mean of each metric on the same data, if it was measured."""

    @property
    def cell(self) -> Cell:
        return self.result.case

    @property
    def paper(self) -> str:
        return self.cell.paper

    @property
    def table(self) -> str:
        return self.cell.table

    @property
    def row(self) -> str:
        return self.cell.row

    @property
    def column(self) -> str:
        return self.cell.column

    @property
    def label(self) -> str:
        return self.cell.label or self.row

    @property
    def task(self) -> str:
        return self.cell.task or self.column

    @property
    def printed(self) -> Mapping[str, float | None]:
        return self.result.printed

    @cached_property
    def measured(self) -> dict[str, Numbers]:
        """Numbers by training seed."""
        return dict(sorted(self.result.measured.items(), key=lambda item: (len(item[0]), item[0])))

    @cached_property
    def identity(self) -> Identity:
        return Identity(self.result.identity)

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(self.result.reasons)

    @property
    def deviations(self) -> tuple[str, ...]:
        return tuple(self.result.deviations)

    @property
    def command(self) -> str:
        return self.result.command

    @property
    def error(self) -> str:
        return self.result.error

    @property
    def log_tail(self) -> str:
        return self.result.log_tail

    @property
    def collapsed(self) -> tuple[str, ...]:
        """The seeds that collapsed, with the reasons."""
        return tuple(f"seed {seed}: {why}" for seed, why in self.result.collapsed.items())

    @property
    def stages(self) -> Sequence[StageEntry]:
        return self.result.stages

    @property
    def band(self) -> float | None:
        return self.result.band

    @property
    def file_stem(self) -> str:
        """A name for its page: cell, scale, and a digest of what it was measured on."""
        point = self.cell.point
        varied = f"{point.parameter}-{point.value:g}" if point else ""
        parts = (self.paper, self.table, self.row, self.column, varied, self.identity.scale)
        return "-".join([*(slug(part)[:40] for part in parts if part), self.result.identity.digest])

    @property
    def comparable(self) -> bool:
        """Whether it is comparable with the printed number; never on stand-ins, whatever the verdict."""
        on = self.identity
        changed = on.record.subset is not None or on.record.precision or on.record.rounds
        if not on.published or on.scale != "paper" or changed:
            return False
        word = self.result.verdict
        return word in COMPARED | EVEN_IF_INCOMPARABLE and (word not in EVEN_IF_INCOMPARABLE or not self.reasons)

    @property
    def verdict(self) -> Verdict:
        """The verdict; one that compares with the paper is replaced if the numbers are not comparable."""
        word = self.result.verdict
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

    @property
    def sunk(self) -> bool:
        """Whether its mean mAP lies below that of direct transfer."""
        own = self.spread("mAP")
        return own is not None and own.mean < self.direct.get("mAP", -math.inf)

    def text(self, name: str) -> str:
        """`44.1 ± 0.4`, or a dash."""
        return _text(numbers.get(name) for numbers in self.measured.values())

    @property
    def headline_parts(self) -> tuple[str, ...]:
        """mAP, rank-1 and the number of seeds; empty if nothing was measured."""
        parts = [f"{title(name)} {self.text(name)}" for name in metrics.names(judged=True) if self.spread(name)]
        return (*parts, self.n) if parts else ()

    @property
    def headline(self) -> str:
        """The result in one line, or the error or reasons instead."""
        return ", ".join(self.headline_parts) or self.error.partition("\n")[0] or "; ".join(self.reasons)

    @property
    def name(self) -> str:
        """Row and task as words."""
        return f"{self.label}, {self.column_label}"

    @property
    def why(self) -> str:
        """The most important fact about a problem with it."""
        if self.verdict.word == "drifted" and self.baseline:
            return self.baseline.text
        if self.collapsed:
            return f"collapsed at {'; '.join(self.collapsed)}"
        if self.verdict.word in ("below", "inconclusive"):
            judged = [
                f"{title(name)} {self.text(name)}, printed {percent(self.printed.get(name))}"
                for name in metrics.names(judged=True)
            ]
            return "; ".join([*judged, *filter(None, [self.band_text])])
        return self.error or self.headline or "No message was recorded."

    @property
    def elsewhere(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Mean and spread on other processors, in the order of `per_seed`."""
        sides = []
        for side in self.result.elsewhere:
            values = tuple(_text(numbers.get(name) for numbers in side.measured.values()) for name in per_seed())
            sides.append(("; ".join(side.on), values))
        return tuple(sides)

    @property
    def run_as(self) -> str:
        """The task that was run, if it is not the column's; else empty."""
        return self.task if self.task != self.column else ""

    @cached_property
    def seed_lines(self) -> tuple[SeedLine, ...]:
        """One line per training seed."""
        return tuple(
            SeedLine(
                seed,
                tuple(percent(numbers.get(name)) for name in per_seed()),
                _whole(numbers.get("queries")),
                _whole(numbers.get("unmatched")),
            )
            for seed, numbers in self.measured.items()
        )

    @property
    def mean_line(self) -> tuple[str, ...]:
        """Mean and spread in the order of `per_seed`; empty for fewer than two seeds."""
        return tuple(self.text(name) for name in per_seed()) if len(self.measured) > 1 else ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """Measured metrics of the pseudo labels that trained the scored network."""
        measured = {name for numbers in self.measured.values() for name in numbers}
        return tuple(sorted(measured & set(metrics.names(kind="labels"))))

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
        """Reason for the width of the band, with its source."""
        return self.result.band_why if self.band_text else ""

    @property
    def judged_line(self) -> tuple[str, ...]:
        """The printed numbers that the verdict was given against, in the order of `per_seed`."""
        return tuple(percent(self.printed.get(name)) for name in per_seed()) if self.comparable else ()

    @property
    def printed_line(self) -> tuple[str, ...]:
        """The numbers that the table prints, in the order of `per_seed`; empty without any."""
        printed = self.printed_now or self.printed
        known = any(printed.get(name) is not None for name in per_seed())
        return tuple(percent(printed.get(name)) for name in per_seed()) if known else ()

    @property
    def data_file(self) -> str:
        """File of its record, beside its page."""
        return self.file.removesuffix(".html") + ".json"

    @property
    def outdated(self) -> str:
        """Printed numbers that were corrected after the verdict was given."""
        changed = [
            f"{title(name)} {percent(old)}, now {percent(self.printed_now[name])}"
            for name, old in self.printed.items()
            if self.comparable and name in self.printed_now and percent(old) != percent(self.printed_now[name])
        ]
        return ", ".join(changed)

    @cached_property
    def baseline(self) -> Baseline | None:
        """The recorded result with which it was compared, or None."""
        beside = self.result.baseline
        if not beside or not beside.metrics:
            return None
        older = beside.unjudged == OLDER
        lines = tuple(
            BaselineLine(
                title(name),
                percent(moved.old),
                percent(moved.new),
                signed(moved.new - moved.old),
                percent(moved.band),
                moved.band is not None and beyond(moved) and not older,
            )
            for name, moved in beside.metrics.items()
        )
        return Baseline(
            commit=(beside.commit or "")[:DIGEST_SHOWN],
            seeds=", ".join(map(str, beside.recorded_seeds)),
            drift=beside.drift,
            unjudged=beside.unjudged,
            on="" if beside.same_machine else "; ".join(beside.recorded_on),
            lines=lines,
        )

    @property
    def data_lines(self) -> tuple[DataLine, ...]:
        """Origin of the images, one line per domain."""
        pixels: dict[str, set[str]] = {}
        for stage in self.stages:
            for domain, digest in stage.provenance.data.items():
                pixels.setdefault(domain, set()).update({digest} if digest else ())
        return self.identity.data_lines({domain: sorted(digests) for domain, digests in pixels.items()})

    @cached_property
    def provenance(self) -> tuple[tuple[str, str], ...]:
        """Commit, versions, machine and times."""
        return provenance(self.stages)

    @cached_property
    def stage_lines(self) -> tuple[StageLine, ...]:
        """One line per stage, in the order of the record."""
        return stage_lines(self.stages)

    @cached_property
    def stage_groups(self) -> tuple[StageGroup, ...]:
        """Its stages, grouped if they differ only in their seed."""
        return stage_groups(self.stages, self.tested, self.direct)

    @property
    def tested(self) -> frozenset[str]:
        """Keys of the trainings whose networks it tests."""
        trained = ((stage.spec.get("train") or {}) for stage in self.stages)
        return frozenset(str(train["key"]) for train in trained if isinstance(train, Mapping) and "key" in train)

    @property
    def adapted(self) -> bool:
        """Whether a training whose network it tests saw images of the domain that it is tested on."""
        fields = {stage.key: list(stage.spec.values()) for stage in self.stages}
        tests = [stage.spec for stage in self.stages if isinstance(stage.spec.get("train"), Mapping)]
        return any("on" in spec and spec["on"] in fields.get(spec["train"].get("key"), ()) for spec in tests)


def _text(values: Iterable[object]) -> str:
    summary = spread(values)
    return summary.text if summary else NOTHING


def _whole(value: object) -> str:
    return f"{value:,.0f}" if is_number(value) else NOTHING


def _of_labels(name: str, value: object) -> str:
    if METRICS[name].percent or not is_number(value):
        return percent(value)
    return _whole(value) if float(value).is_integer() else f"{value:.3g}"
