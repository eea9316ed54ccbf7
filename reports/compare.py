"""Compare two folders of results: what moved, by how much, and whether seed spread explains it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from reports.cases import Case
from reports.files import write
from reports.pages import unknown
from reports.templating import environment
from reports.words import MINUS, NOTHING, percent, signed
from reproduce.metrics import title as metric_title
from reproduce.papers import baselines
from reproduce.papers.records import Beside, Result
from reproduce.papers.tables import Paper
from reproduce.papers.verdicts import ROUNDING
from reproduce.wording import counted

OUTCOMES = {
    "drifted": "outside its band: a run fails",
    "not judged": "outside its band, which a run reports and does not judge",
    "within": "changed, but within its band",
    "same": "equal to the last digit",
    "changed": "one of the two measured nothing",
}
"""Outcomes of comparing a case, as a run compares a result with its record; the most important first."""


@dataclass(frozen=True)
class Move:
    """One metric of a case, before and after, with the band of the difference (`baselines.compare`)."""

    metric: str
    old: str
    new: str
    difference: str
    band: str
    outcome: str


@dataclass(frozen=True)
class Pair:
    """A case in both folders."""

    name: str
    where: str
    outcome: str
    """Outcome of its most important metric."""
    verdicts: str
    """"old to new" if they differ, else empty."""
    unjudged: str
    """Why a run would not judge the difference; empty if it would."""
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
        shared = f"{counted(len(self.pairs), 'case')} in both" + (f": {', '.join(parts)}" if parts else "")
        return f"{shared}; {len(self.new)} new, {len(self.vanished)} vanished."

    @property
    def shown(self) -> tuple[Pair, ...]:
        """Cases that are not the same."""
        return tuple(pair for pair in self.pairs if pair.outcome != "same" or pair.verdicts)


def compare(old: Sequence[Result], new: Sequence[Result], papers: Mapping[str, Paper]) -> Comparison:
    """Compare results with earlier ones of the same cell and identity.

    Args:
        old, new: Results.
        papers: Papers by id, for their names.
    """
    before, after = _by_identity(old), _by_identity(new)
    pairs = [
        _pair(before[key], after[key], baselines.compare(after[key].result, old), papers)
        for key in sorted(before.keys() & after.keys())
    ]
    rank = list(OUTCOMES)
    pairs.sort(key=lambda pair: (rank.index(pair.outcome), -pair.size))
    return Comparison(
        tuple(pairs),
        tuple(_full_name(after[key], papers) for key in sorted(after.keys() - before.keys())),
        tuple(_full_name(before[key], papers) for key in sorted(before.keys() - after.keys())),
    )


def write_page(comparison: Comparison, out: Path, names: tuple[str, str]) -> Path:
    """Write `compare.html`; `names` are the names of the two folders."""
    path = out / "compare.html"
    template = environment().get_template("compare.html.j2")
    write(path, template.render(found=comparison, names=names, outcomes=OUTCOMES, pages=(), root="", here=path.name))
    return path


def text(comparison: Comparison) -> str:
    """Format the comparison for a terminal."""
    lines = [comparison.sentence]
    for pair in comparison.shown:
        lines += ["", f"{pair.outcome:8} {pair.name}", f"         {pair.where}"]
        lines += [f"         verdict {pair.verdicts}"] * bool(pair.verdicts)
        lines += [f"         not judged: {pair.unjudged}"] * bool(pair.unjudged)
        for move in pair.moves:
            band = f"  band ±{move.band}" if move.band else ""
            lines.append(f"         {move.metric:7} {move.old} -> {move.new}  {move.difference}{band}")
    for title, names in (("new", comparison.new), ("vanished", comparison.vanished)):
        lines += ["", *(f"{title:8} {name}" for name in names)] if names else []
    return "\n".join(lines).replace("→", "->").replace(MINUS, "-").replace(NOTHING, "-") + "\n"


def _by_identity(results: Sequence[Result]) -> dict[str, Case]:
    cases = (Case(result) for result in sorted(results, key=lambda result: msgspec.json.encode(result, order="sorted")))
    return {json.dumps([case.cell.place, case.result.identity.setting], sort_keys=True): case for case in cases}


def _name(case: Case, papers: Mapping[str, Paper]) -> str:
    return f"{(papers.get(case.paper) or unknown(case.paper)).name} Table {case.table}, {case.label}, {case.column}"


def _full_name(case: Case, papers: Mapping[str, Paper]) -> str:
    where = f" ({case.identity.where})" if case.identity.where else ""
    return f"{_name(case, papers)}{where}"


def _pair(old: Case, new: Case, beside: Beside | None, papers: Mapping[str, Paper]) -> Pair:
    moves, size = [], 0.0
    for name, moved in beside.metrics.items() if beside else ():
        gap = moved.new - moved.old
        size = max(size, abs(gap))
        was, now = (f"{percent(mean)} (n = {n})" for mean, n in ((moved.old, moved.before), (moved.new, moved.after)))
        band = "" if moved.band is None else percent(moved.band)
        outcome = "same" if abs(gap) <= ROUNDING else "beyond" if baselines.beyond(moved) else "within"
        moves.append(Move(metric_title(name), was, now, signed(gap), band, outcome))
    return Pair(
        name=_name(new, papers),
        where=new.identity.where,
        outcome=_outcome(beside, [move.outcome for move in moves]),
        verdicts="" if old.verdict == new.verdict else f"{old.verdict.text} → {new.verdict.text}",
        unjudged=beside.unjudged if beside and beside.outside else "",
        moves=tuple(moves),
        size=size,
    )


def _outcome(beside: Beside | None, moves: Sequence[str]) -> str:
    if not moves or not beside:
        return "changed"
    if beside.outside:
        return "drifted" if beside.drift else "not judged"
    return "same" if set(moves) == {"same"} else "within"
