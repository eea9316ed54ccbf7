"""What a paper concludes, beside what was found when it was tried: in each drawn world, with the cause's dial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from reports.identity import Identity, mapping
from reports.words import (
    NOTHING,
    Verdict,
    claim_verdict,
    is_number,
    metric,
    row_label,
    scalar,
    signed,
    unique,
)
from reproduce.papers.baselines import OLDER

if TYPE_CHECKING:
    from collections import Counter

Labels: TypeAlias = Mapping[tuple[str, str], str]
"""Of rows, by table and row."""

UNTRIED = {"value": "it repeats a printed number, which the verdict of its row decides"}
"""Why a claim of a kind has no case of its own."""

WIDTH, HEIGHT, EDGE = 190, 20, 8
"""Of the drawing of an interval, in user units."""


@dataclass(frozen=True)
class Interval:
    """The geometry of one comparison: places on a horizontal axis that the claim's comparisons share."""

    zero: float | None
    mean: float | None
    low: float | None
    high: float | None
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
    """A claim tried in one world.

    Attributes:
        world: which world, in words; `where` adds scale and data.
        second: what stands beside the verdict, such as "smaller than stated".
        p: the probability that chance alone gives as much, before and after the correction for many claims.
    """

    world: str
    where: str
    verdict: Verdict
    second: tuple[str, ...]
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    p: str
    collapsed: tuple[str, ...]
    command: str

    @property
    def text(self) -> str:
        """The verdict with what stands beside it."""
        return ", ".join([self.verdict.text, *self.second])

    @property
    def remarks(self) -> tuple[str, ...]:
        """Why it is undecided, kinds of intervals, p-values."""
        kinds = dict.fromkeys(comparison.kind for comparison in self.comparisons)
        return tuple(text for text in (*self.reasons, *kinds, self.p) if text)


@dataclass(frozen=True)
class Claim:
    """A conclusion of a paper, in this project's words, and its trials: the world that was asked for first.

    Attributes:
        left: the cell that it is about, in words; `cells` are all that it names.
        testable: whether cases could try it, if only in part.
        part: why a trial decides only a part of it; empty where it decides all.
        why: why it was not tried, where it was not.
    """

    id: str
    anchor: str
    says: str
    where: str
    left: str
    cells: frozenset[str]
    cause: str
    testable: bool
    part: str
    why: str
    trials: tuple[Trial, ...]

    @property
    def verdict(self) -> Verdict:
        """That of the first trial."""
        return self.trials[0].verdict if self.trials else claim_verdict("not tried")


def read_claims(
    described: Mapping[str, Any], records: Sequence[Mapping[str, Any]], anchors: Counter[str]
) -> tuple[Claim, ...]:
    """A paper's claims in its order, then those that its file does not hold.

    Args:
        described: the paper's TOML file.
        records: documents of this paper, one for each claim and world.
        anchors: names that are taken on the paper's page.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=_order):
        found.setdefault(str(mapping(record.get("claim")).get("id")), []).append(record)
    written = {str(claim.get("id")): claim for claim in described.get("claim") or () if isinstance(claim, Mapping)}
    written |= {id: mapping(tried[0].get("claim")) for id, tried in found.items() if id not in written}
    labels = {
        (str(table.get("id")), str(row.get("id"))): row_label(row)
        for table in described.get("table") or ()
        for row in table.get("row") or ()
    }
    return tuple(_claim(id, claim, found.get(id, ()), labels, anchors) for id, claim in written.items())


def _order(record: Mapping[str, Any]) -> tuple[Any, ...]:
    world = str(record.get("world") or "")
    return bool(world), Identity(mapping(record.get("identity"))).rank, world, json.dumps(record, sort_keys=True)


def _claim(
    id: str, claim: Mapping[str, Any], records: Sequence[Mapping[str, Any]], labels: Labels, anchors: Counter[str]
) -> Claim:
    values = [0.0, *chain.from_iterable(_values(entry) for record in records for entry in record.get("compared") or ())]
    span = min(values), max(values)
    why = str(claim.get("why") or "")
    return Claim(
        id=id,
        anchor=unique(f"claim-{id}", anchors),
        says=str(claim.get("says") or id),
        where=str(claim.get("where") or ""),
        left=_cell(claim.get("left"), labels),
        cells=frozenset((str(claim.get("left")), *_several(claim.get("right")))),
        cause=str(claim.get("cause") or ""),
        testable=claim.get("testable") != "no",
        part=why if claim.get("testable") == "part" else "",
        why=why or UNTRIED.get(str(claim.get("kind")), "no case of these results tries it"),
        trials=tuple(_trial(record, span, labels) for record in records),
    )


def _trial(record: Mapping[str, Any], span: tuple[float, float], labels: Labels) -> Trial:
    identity = Identity(mapping(record.get("identity")))
    return Trial(
        world=_world(str(record.get("world") or ""), identity),
        where=", ".join(filter(None, (identity.where, OLDER * identity.older))),
        verdict=claim_verdict(str(record.get("verdict"))),
        second=tuple(str(word) for word in record.get("second") or ()),
        reasons=tuple(str(reason) for reason in record.get("reasons") or ()),
        comparisons=tuple(_comparison(entry, span, labels) for entry in record.get("compared") or ()),
        p=_p(record),
        collapsed=tuple(str(text) for text in record.get("collapsed") or ()),
        command=str(record.get("command") or ""),
    )


def _world(name: str, identity: Identity) -> str:
    if name.startswith("no-"):
        return f"{name.removeprefix('no-')} dial at 0"
    if name:
        return "another world"
    return "the world asked for" if identity.on_stand_ins else "the data asked for"


def _p(record: Mapping[str, Any]) -> str:
    if not is_number(record.get("p")):
        return ""
    text = f"p {_small(record['p'])}"
    if is_number(record.get("p_adjusted")):
        text += f", adjusted {_small(record['p_adjusted'])}"
    return text + (f" among {record['family']}" if record.get("family") else "")


def _small(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"


def _comparison(entry: Mapping[str, Any], span: tuple[float, float], labels: Labels) -> Comparison:
    low, high = entry.get("low"), entry.get("high")
    name = metric(str(entry.get("metric") or ""))
    by_seed = tuple((str(seed), signed(value)) for seed, value in mapping(entry.get("by_seed")).items())
    interval = f"{signed(low)} to {signed(high)}" if is_number(low) and is_number(high) else ""
    difference, stated = signed(entry.get("difference")), signed(entry.get("stated"))
    summary = f"{name}: measured {difference}" + (f", interval {interval}" if interval else "")
    return Comparison(
        against=_cell(entry.get("right"), labels),
        metric=name,
        stated=stated,
        difference=difference,
        interval=interval,
        kind=str(entry.get("interval") or ""),
        by_seed=by_seed,
        drawn=_interval(entry, span, summary + (f", stated {stated}" if stated != NOTHING else "")),
    )


def _cell(place: object, labels: Labels) -> str:
    """`3/ours/m2d` as `Table 3, + CN, m2d`."""
    table, _, rest = scalar(place or "").partition("/")
    row, _, column = rest.rpartition("/")
    return f"Table {table}, {labels.get((table, row), row)}, {column}" if row else table


def _several(value: object) -> list[str]:
    """One text, or a list of them."""
    return [str(part) for part in value] if isinstance(value, list | tuple) else [str(value or "")]


def _values(entry: Mapping[str, Any]) -> list[float]:
    numbers = [entry.get(name) for name in ("difference", "low", "high", "stated")]
    return [float(value) for value in [*numbers, *mapping(entry.get("by_seed")).values()] if is_number(value)]


def _interval(entry: Mapping[str, Any], span: tuple[float, float], summary: str) -> Interval:
    low, high = span

    def place(value: object) -> float | None:
        if not is_number(value):
            return None
        share = (value - low) / (high - low) if high > low else 0.5
        return round(EDGE + share * (WIDTH - 2 * EDGE), 1)

    seeds = [place(value) for value in mapping(entry.get("by_seed")).values()]
    return Interval(
        zero=place(0.0),
        mean=place(entry.get("difference")),
        low=place(entry.get("low")),
        high=place(entry.get("high")),
        stated=place(entry.get("stated")),
        seeds=tuple(at for at in seeds if at is not None),
        summary=summary,
    )


def tally(claims: Sequence[Claim]) -> tuple[tuple[Verdict, int], ...]:
    """How many claims came to each verdict, in the order of the verdicts."""
    words = ["supported", "contradicted", "undecided", "error", "not tried"]
    found = [claim.verdict for claim in claims]
    others = dict.fromkeys(verdict.word for verdict in found if verdict.word not in words)
    counted = ((claim_verdict(word), sum(verdict.word == word for verdict in found)) for word in [*words, *others])
    return tuple((verdict, number) for verdict, number in counted if number)
