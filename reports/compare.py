"""Two folders of results beside each other: what moved, by how much, and whether seeds explain it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.cases import Case
from reports.files import write
from reports.tables import short_name
from reports.templating import environment
from reports.words import MINUS, NOTHING, Spread, count, metric, percent, signed, spread

METRICS = ("mAP", "rank1")
OUTCOMES = {
    "moved": "beyond what the spread between seeds explains",
    "changed": "too few seeds to say whether chance explains it",
    "within": "changed, but within what the spread between seeds explains",
    "same": "equal to the last digit",
}
"""What became of a case, the most telling first."""


@dataclass(frozen=True)
class Move:
    """One metric of a case, before and after; `band` is half a 95 % t interval of the difference, empty without one."""

    metric: str
    old: str
    new: str
    difference: str
    band: str
    outcome: str


@dataclass(frozen=True)
class Pair:
    """A case that both folders hold.

    Attributes:
        outcome: that of its most telling metric.
        verdicts: "old to new" where they differ.
    """

    name: str
    where: str
    outcome: str
    verdicts: str
    moves: tuple[Move, ...]
    size: float


@dataclass(frozen=True)
class Comparison:
    """Everything that two folders tell; cases are in both, only in the new one, or only in the old one."""

    pairs: tuple[Pair, ...]
    new: tuple[str, ...]
    vanished: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The counts."""
        found = [pair.outcome for pair in self.pairs]
        parts = [f"{found.count(outcome)} {outcome}" for outcome in OUTCOMES if outcome in found]
        shared = f"{count(len(self.pairs), 'case')} in both" + (f": {', '.join(parts)}" if parts else "")
        return f"{shared}; {len(self.new)} new, {len(self.vanished)} vanished."

    @property
    def shown(self) -> tuple[Pair, ...]:
        """Cases that are not the same."""
        return tuple(pair for pair in self.pairs if pair.outcome != "same" or pair.verdicts)


def compare(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], papers: Mapping[str, Mapping[str, Any]]
) -> Comparison:
    """Set results beside earlier ones of the same cell and identity.

    Args:
        old, new: result records.
        papers: the papers' descriptions by id, for their names.
    """
    before, after = _by_identity(old), _by_identity(new)
    pairs = [_pair(before[key], after[key], papers) for key in sorted(before.keys() & after.keys())]
    rank = list(OUTCOMES)
    pairs.sort(key=lambda pair: (rank.index(pair.outcome), -pair.size))
    return Comparison(
        tuple(pairs),
        tuple(_full_name(after[key], papers) for key in sorted(after.keys() - before.keys())),
        tuple(_full_name(before[key], papers) for key in sorted(before.keys() - after.keys())),
    )


def write_page(comparison: Comparison, out: Path, names: tuple[str, str]) -> Path:
    """Write `compare.html`; `names` are what the two folders are called."""
    path = out / "compare.html"
    template = environment().get_template("compare.html.j2")
    write(path, template.render(found=comparison, names=names, outcomes=OUTCOMES, pages=(), root="", here=path.name))
    return path


def text(comparison: Comparison) -> str:
    """The comparison for a terminal."""
    lines = [comparison.sentence]
    for pair in comparison.shown:
        lines += ["", f"{pair.outcome:8} {pair.name}", f"         {pair.where}"]
        if pair.verdicts:
            lines.append(f"         verdict {pair.verdicts}")
        for move in pair.moves:
            band = f"  band ±{move.band}" if move.band else ""
            lines.append(f"         {move.metric:7} {move.old} -> {move.new}  {move.difference}{band}")
    for title, names in (("new", comparison.new), ("vanished", comparison.vanished)):
        lines += ["", *(f"{title:8} {name}" for name in names)] if names else []
    return "\n".join(lines).replace("→", "->").replace(MINUS, "-").replace(NOTHING, "-") + "\n"


def _by_identity(results: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], Case]:
    cases = (Case(result) for result in sorted(results, key=lambda found: json.dumps(found, sort_keys=True)))
    return {
        (case.paper, case.table, case.row, case.column, json.dumps(case.identity.record, sort_keys=True)): case
        for case in cases
    }


def _name(case: Case, papers: Mapping[str, Mapping[str, Any]]) -> str:
    return f"{short_name(case.paper, papers.get(case.paper, {}))} Table {case.table}, {case.label}, {case.column}"


def _full_name(case: Case, papers: Mapping[str, Mapping[str, Any]]) -> str:
    where = f" ({case.identity.where})" if case.identity.where else ""
    return f"{_name(case, papers)}{where}"


def _pair(old: Case, new: Case, papers: Mapping[str, Mapping[str, Any]]) -> Pair:
    moves, size = [], 0.0
    common = old.measured.keys() & new.measured.keys()
    for name in METRICS:
        was, now = (_spread(case, name, common) for case in (old, new))
        if was or now:
            gap = now.mean - was.mean if was and now else None
            size = max(size, abs(gap or 0.0))
            band = _band(was, now)
            shown = NOTHING if gap is None else signed(gap)
            outcome = _outcome(gap, band)
            moves.append(
                Move(metric(name), _with_n(was), _with_n(now), shown, "" if band is None else percent(band), outcome)
            )
    found = {move.outcome for move in moves}
    return Pair(
        name=_name(new, papers),
        where=new.identity.where,
        outcome=next((outcome for outcome in OUTCOMES if outcome in found), "same"),
        verdicts="" if old.verdict == new.verdict else f"{old.verdict.text} → {new.verdict.text}",
        moves=tuple(moves),
        size=size,
    )


def _spread(case: Case, name: str, common: AbstractSet[str]) -> Spread | None:
    """Over the seeds that both have, if there are any: else the seeds alone make a difference."""
    return spread(numbers.get(name) for seed, numbers in case.measured.items() if not common or seed in common)


def _with_n(found: Spread | None) -> str:
    return f"{found.text} (n = {found.n})" if found else NOTHING


def _band(old: Spread | None, new: Spread | None) -> float | None:
    """Half the 95 % t interval of the difference of two means of seeds, each with its own variance (Welch)."""
    if old is None or new is None or old.sd is None or new.sd is None:
        return None
    parts = [(found.sd or 0.0) ** 2 / found.n for found in (old, new)]
    if not sum(parts):
        return 0.0
    from scipy import stats

    freedom = sum(parts) ** 2 / sum(part**2 / (found.n - 1) for part, found in zip(parts, (old, new), strict=True))
    return float(stats.t.ppf(0.975, freedom)) * math.sqrt(sum(parts))


def _outcome(gap: float | None, band: float | None) -> str:
    if gap is None:
        return "changed"
    if abs(gap) < 1e-9:
        return "same"
    if band is None:
        return "changed"
    return "moved" if abs(gap) > band else "within"
