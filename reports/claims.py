"""Prepare claims for display, with the results of their tests in each drawn world and without their cause."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from reports.identity import Identity
from reports.words import NOTHING, Verdict, arrows, claim_verdict, signed, unique
from reproduce.metrics import title as metric_title
from reproduce.papers.baselines import OLDER
from reproduce.papers.cases import STANDINGS, coverage
from reproduce.papers.statistics import ALPHA, beside_verdict
from reproduce.papers.tables import COMPARED, full_label
from reproduce.wording import listing

if TYPE_CHECKING:
    from collections import Counter

    from reports.cases import Case
    from reproduce.papers.cases import Coverage
    from reproduce.papers.records import Claimed, ClaimRecord
    from reproduce.papers.records import Comparison as Compared
    from reproduce.papers.tables import Claim as Described
    from reproduce.papers.tables import Paper

Labels: TypeAlias = Mapping[tuple[str, str], str]
"""Labels of rows, by table and row."""

UNTRIED = {"value": "it repeats a printed number, which the verdict of its row decides"}
"""Reasons why claims of a kind have no case of their own."""

ANOTHER = "another world"
"""A drawn world with another seed."""

WIDTH, HEIGHT, EDGE = 300, 20, 12
"""Size of the drawing of an interval, in user units."""

TICKS = 8
"""Most labelled values of an axis."""


@dataclass(frozen=True)
class Interval:
    """Geometry of one comparison, on the horizontal axis of the paper's claims."""

    zero: float
    mean: float
    low: float
    high: float
    stated: float | None
    seeds: tuple[float, ...]
    summary: str


@dataclass(frozen=True)
class Comparison:
    """One cell against another in one metric; differences in percentage points."""

    against: str
    metric: str
    stated: str
    difference: str
    interval: str
    kind: str
    by_seed: tuple[tuple[str, str], ...]
    drawn: Interval

    @property
    def seeds(self) -> str:
        """The difference of each training seed in a line."""
        return ", ".join(f"{seed}: {value}" for seed, value in self.by_seed)

    @property
    def text(self) -> str:
        """Measured difference with its interval."""
        return f"{self.difference} ({self.interval})" if self.interval else self.difference


@dataclass(frozen=True)
class Trial:
    """The test of a claim in one world."""

    world: str
    """The world, in words."""
    where: str
    """Scale and data, in words."""
    verdict: Verdict
    second: tuple[str, ...]
    """Qualifications of the verdict, such as "smaller than stated" or "+ FT below direct transfer"."""
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    p: str
    """p-value before and after the correction for many claims."""
    collapsed: tuple[str, ...]
    command: str

    @property
    def text(self) -> str:
        """The verdict with its qualifications."""
        return ", ".join([self.verdict.text, *self.second])

    @property
    def remarks(self) -> tuple[str, ...]:
        """Reasons if undecided, kinds of intervals, p-values."""
        kinds = dict.fromkeys(comparison.kind for comparison in self.comparisons)
        return tuple(text for text in (*self.reasons, *kinds, self.p) if text)


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, in this project's words, with its trials."""

    id: str
    anchor: str
    says: str
    where: str
    left: str
    """The left cell, in words."""
    cells: frozenset[str]
    """All cells that it names."""
    cause: str
    testable: bool
    """Whether cases could test it, at least in part."""
    part: str
    """Why a trial decides only part of it; empty if it decides all."""
    why: str
    """Why it was not tried, if it was not."""
    standing: str
    """Heading under which it is listed if it was not tried: whether cases test it."""
    trials: tuple[Trial, ...]
    """Its trials, that in the requested world first."""
    axis: tuple[tuple[float, str], ...]
    """Places and labels of values on the axis of the paper's claims."""

    @property
    def verdict(self) -> Verdict:
        """Verdict of the first trial."""
        return self.trials[0].verdict if self.trials else claim_verdict("not tried")

    @property
    def elsewhere(self) -> str:
        """What further drawn worlds say, if it is something else; else empty."""
        words = dict.fromkeys(trial.verdict.word for trial in self.trials[1:] if trial.world == ANOTHER)
        others = [word for word in words if word != self.verdict.word]
        return f"{listing(others)} in a second drawn world" if others else ""


def read_claims(
    paper: Paper,
    records: Sequence[ClaimRecord],
    anchors: Counter[str],
    covered: Coverage | None = None,
    cases: Sequence[Case] = (),
) -> tuple[Claim, ...]:
    """Prepare a paper's claims in its order, then those that its file does not contain.

    Args:
        paper: The paper.
        records: Records of its claims, one per claim and world.
        anchors: Names already used on the paper's page.
        covered: What the cases of all suites cover; None if they were not collected.
        cases: Its results; a claim says what it compares that ended below direct transfer.
    """
    tried: dict[str, list[ClaimRecord]] = {}
    for record in sorted(records, key=_order):
        tried.setdefault(record.claim.id, []).append(record)
    written: dict[str, Described | Claimed] = {claim.id: claim for claim in paper.claims}
    written |= {id: of[0].claim for id, of in tried.items() if id not in written}
    labels = {(table.id, row.id): arrows(full_label(row)) for table in paper.tables.values() for row in table.rows}
    described = {claim.id: claim for claim in paper.claims}
    values = [0.0, *(value for record in records for entry in record.compared for value in _values(entry))]
    span = min(values), max(values)
    return tuple(
        replace(
            _claim(claim, tried.get(id, ()), labels, anchors, span, cases),
            standing=_standing(paper.id, described[id], covered) if id in described else UNKNOWN,
        )
        for id, claim in written.items()
    )


UNKNOWN = "None of these results tries these"


def _standing(paper: str, claim: Described, covered: Coverage | None) -> str:
    if covered is None and claim.kind in COMPARED:
        return UNKNOWN
    return STANDINGS[(covered or coverage(())).standing(paper, claim)]


def _order(record: ClaimRecord) -> tuple[Any, ...]:
    return bool(record.world), Identity(record.identity).rank, record.world, record.identity.digest


def _claim(
    claim: Described | Claimed,
    records: Sequence[ClaimRecord],
    labels: Labels,
    anchors: Counter[str],
    span: tuple[float, float],
    cases: Sequence[Case],
) -> Claim:
    return Claim(
        id=claim.id,
        anchor=unique(f"claim-{claim.id}", anchors),
        says=claim.says,
        where=claim.where,
        left=_cell(claim.left, labels),
        cells=frozenset((claim.left, *claim.right)),
        cause=claim.cause,
        testable=claim.testable != "no",
        part=claim.why if claim.testable == "part" else "",
        why=claim.why or UNTRIED.get(claim.kind, "no case of these results tries it"),
        standing="",
        trials=tuple(_trial(record, span, labels, cases) for record in records),
        axis=tuple((_place(value, span), signed(value).removesuffix(".0")) for value in _ticks(*span)),
    )


def _trial(record: ClaimRecord, span: tuple[float, float], labels: Labels, cases: Sequence[Case]) -> Trial:
    identity = Identity(record.identity)
    return Trial(
        world=_world(record.world, identity),
        where=", ".join(filter(None, (identity.where, OLDER * identity.older))),
        verdict=claim_verdict(record.verdict),
        second=(*beside_verdict(record), *_sunk(record, cases)),
        reasons=tuple(record.reasons),
        comparisons=tuple(_comparison(entry, span, labels) for entry in record.compared),
        p=_p(record),
        collapsed=tuple(record.collapsed),
        command=record.command,
    )


def _sunk(record: ClaimRecord, cases: Sequence[Case]) -> list[str]:
    """Name what is compared and ended below direct transfer: what beats that need not have gained anything."""
    identity = Identity(record.identity)
    compared = [case for case in cases if case.cell.name in (record.claim.left, *record.claim.right)]
    sunk = [case for case in compared if case.sunk and case.identity.agrees_on_data(identity)]
    names = [f"{point.parameter} = {point.value:g}" if (point := it.cell.point) else arrows(it.label) for it in sunk]
    return [f"{name} below direct transfer" for name in dict.fromkeys(names)]


def _world(name: str, identity: Identity) -> str:
    if name.startswith("no-"):
        return f"{name.removeprefix('no-')} dial at 0"
    if name:
        return ANOTHER
    return "the world asked for" if identity.on_stand_ins else "the data asked for"


def _p(record: ClaimRecord) -> str:
    if record.p is None:
        return ""
    text = f"p {_small(record.p)}"
    if record.p_adjusted is not None:
        text += f", adjusted {_small(record.p_adjusted)}"
    return text + (f" among {record.family}" if record.family else "")


def _small(value: float) -> str:
    """Format a p-value, with enough digits to lie on its own side of the threshold of verdicts."""
    texts = (f"{value:.{digits}f}" for digits in range(3, 20))
    return next(text for text in texts if (float(text) < ALPHA) == (value < ALPHA)) if value >= 0.001 else "below 0.001"


def _comparison(entry: Compared, span: tuple[float, float], labels: Labels) -> Comparison:
    name = metric_title(entry.metric)
    interval = f"{signed(entry.low)} to {signed(entry.high)}"
    difference, stated = signed(entry.difference), signed(entry.stated)
    summary = f"{name}: measured {difference}, interval {interval}"
    return Comparison(
        against=_cell(entry.right, labels),
        metric=name,
        stated=stated,
        difference=difference,
        interval=interval,
        kind=entry.interval,
        by_seed=tuple((seed, signed(value)) for seed, value in entry.by_seed.items()),
        drawn=_interval(entry, span, summary + (f", stated {stated}" if stated != NOTHING else "")),
    )


def _cell(place: str, labels: Labels) -> str:
    """Format a cell for readers: `3/ours/m2d` becomes `Table 3, + CN, m2d`; a point `Figure 5, p = 0.5, m2d`."""
    table, _, rest = place.partition("/")
    row, _, column = rest.rpartition("/")
    if table.startswith("figure "):
        return f"{table.capitalize()}, {row.replace('=', ' = ')}, {column}"
    return f"Table {table}, {labels.get((table, row), row)}, {column}" if row else table


def _values(entry: Compared) -> list[float]:
    stated = [] if entry.stated is None else [entry.stated]
    return [entry.difference, entry.low, entry.high, *stated, *entry.by_seed.values()]


def _interval(entry: Compared, span: tuple[float, float], summary: str) -> Interval:
    place = partial(_place, span=span)
    return Interval(
        zero=place(0.0),
        mean=place(entry.difference),
        low=place(entry.low),
        high=place(entry.high),
        stated=None if entry.stated is None else place(entry.stated),
        seeds=tuple(map(place, entry.by_seed.values())),
        summary=summary,
    )


def _place(value: float, span: tuple[float, float]) -> float:
    """Compute the place of a value on the axis, in user units."""
    low, high = span
    share = (value - low) / (high - low) if high > low else 0.5
    return round(EDGE + share * (WIDTH - 2 * EDGE), 1)


def _ticks(low: float, high: float) -> list[float]:
    """Return round values between two, at most `TICKS`, with 0 among them if it lies between."""
    if not high > low:
        return [low]
    steps = (base * 10.0**power for power in range(-3, 12) for base in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= TICKS - 1)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def tally(claims: Sequence[Claim]) -> tuple[tuple[Verdict, int], ...]:
    """Count the claims with each verdict, in the order of the verdicts."""
    words = ["supported", "contradicted", "undecided", "error", "not tried"]
    verdicts = [claim.verdict for claim in claims]
    others = dict.fromkeys(verdict.word for verdict in verdicts if verdict.word not in words)
    counted = ((claim_verdict(word), sum(verdict.word == word for verdict in verdicts)) for word in [*words, *others])
    return tuple((verdict, number) for verdict, number in counted if number)
