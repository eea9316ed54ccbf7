"""Find contradictions in printed numbers, by general rules over the tables and the numbers stated in the text."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from reproduce.papers import consistency, statements
from reproduce.papers.findings import EFFECTS, GRAVEST, Finding, Papers
from reproduce.papers.tables import Paper, full_label

VERSION = "1.0"
"""Version of the rules and of the transcription; raised with every change of the findings about published papers."""

DATED = "2026-11-22"
"""Day of this version."""

Rule = Callable[[Papers], Iterator[Finding | None]]
"""A rule yields a finding for each comparison that fails, and None for each that holds."""

RULES: dict[str, tuple[Rule, ...]] = {
    "numbers and orderings stated in the text": (statements.text_against_tables, statements.two_rivals),
    "rows that a paper prints in several tables": (consistency.same_row_differs,),
    "methods that several papers quote": (consistency.quoted_differently,),
    "names of quoted methods": (consistency.other_names, consistency.two_names, consistency.venues),
    "cells with several ranks": (consistency.ranks_fall, consistency.implausible_ranks),
    "cells with mAP and rank-1": (consistency.implausible_map,),
    "pairs of rows of a table": (consistency.repeated_cells,),
    "printed gains": (consistency.sums,),
    "tables with two sources": (consistency.column_order,),
    "counts of data sets": (consistency.counts,),
}
"""Rules by what they compare."""


@dataclass(frozen=True)
class Tally:
    """The number of comparisons of one kind, and how many of them agree."""

    what: str
    checked: int
    agree: int


@dataclass(frozen=True)
class Reading:
    """An inconsistency that a reader found; it is not computed."""

    paper: str
    where: str
    says: str


@dataclass(frozen=True)
class Audit:
    """What the rules found, how much they compared, and what readers found."""

    findings: tuple[Finding, ...]
    tallies: tuple[Tally, ...]
    readings: tuple[Reading, ...]

    @property
    def by_effect(self) -> list[tuple[str, tuple[Finding, ...]]]:
        """Findings grouped by effect, the gravest first, without empty groups."""
        groups = ((effect, tuple(it for it in self.findings if it.effect == effect)) for effect in EFFECTS)
        return [(effect, members) for effect, members in groups if members]

    @property
    def grave(self) -> tuple[Finding, ...]:
        """Findings that change a conclusion."""
        return tuple(it for it in self.findings if it.effect == GRAVEST)

    def of(self, name: str) -> Audit:
        """Return what concerns one paper: its own findings, those with a place in it, and its readings."""
        return Audit(
            tuple(it for it in self.findings if any(place.paper == name for place in it.places)),
            (),
            tuple(it for it in self.readings if it.paper == name),
        )


def audit(papers: Papers) -> Audit:
    """Apply every rule to every paper and number the findings."""
    findings: list[Finding] = []
    tallies = []
    for what, rules in RULES.items():
        outcomes = [outcome for rule in rules for outcome in rule(papers)]
        found = [outcome for outcome in outcomes if outcome]
        failed = sum(finding.count for finding in found)
        tallies.append(Tally(what, failed + outcomes.count(None), outcomes.count(None)))
        findings += found
    return Audit(
        tuple(_numbered(papers, findings)), tuple(tallies), tuple(it for paper in papers.values() for it in read(paper))
    )


def read(paper: Paper) -> Iterator[Reading]:
    """Yield the inconsistencies that readers noted in a paper's file, in its order."""
    for table in paper.tables.values():
        place = f"table {table.id}"
        yield from (Reading(paper.name, place, doubt) for doubt in table.doubts)
        for row in table.rows:
            yield from (Reading(paper.name, f"{place}, {full_label(row)}", doubt) for doubt in row.doubts)
    for figure in paper.figures:
        yield from (Reading(paper.name, f"figure {figure.id}", doubt) for doubt in figure.doubts)
    for claim in paper.claims:
        yield from (Reading(paper.name, claim.where, doubt) for doubt in claim.doubts)


def _numbered(papers: Papers, findings: list[Finding]) -> Iterator[Finding]:
    """Give findings the ids that their papers' files keep, and the next free ones to all others."""
    by_name = {paper.name: paper for paper in papers.values()}
    used: dict[str, set[int]] = defaultdict(set)
    for paper in papers.values():
        used[paper.name] = {int(kept.id.rpartition("-")[2]) for kept in paper.findings.values()}
    for finding in findings:
        home = by_name[finding.home]
        kept = home.findings.get(finding.about)
        if kept:
            yield replace(finding, id=kept.id, reply=kept.reply)
        else:
            number = max(used[home.name], default=0) + 1
            used[home.name].add(number)
            yield replace(finding, id=f"{home.name}-{number:02d}")


def entries(found: Audit, paper: Paper) -> str:
    """Format the ids of a paper's findings for its TOML file, in the order of ids; replies are kept."""
    own = sorted((it for it in found.findings if it.home == paper.name), key=lambda it: it.id)
    fields = ([("id", it.id), ("about", it.about), *([("reply", it.reply)] if it.reply else [])] for it in own)
    return "\n".join(
        "[[finding]]\n" + "".join(f"{name} = {json.dumps(text, ensure_ascii=False)}\n" for name, text in entry)
        for entry in fields
    )


def as_json(found: Audit) -> dict[str, Any]:
    """Convert an audit to plain JSON values."""
    return {
        "version": VERSION,
        "date": DATED,
        "effects": EFFECTS,
        "checked": [asdict(tally) for tally in found.tallies],
        "findings": [{"computed": True, **asdict(finding)} for finding in found.findings],
        "readings": [{"computed": False, **asdict(reading)} for reading in found.readings],
    }
