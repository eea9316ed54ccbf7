"""Audit the text of papers: hold every stated number and ordering against the tables."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reproduce import metrics
from reproduce.papers.findings import (
    EFFECTS,
    GRAVEST,
    Cell,
    Finding,
    Papers,
    agrees,
    cell_at,
    in_text,
    metric_name,
)
from reproduce.papers.tables import Claim, Paper
from reproduce.wording import listing

SHIFTED = 3
"""Fewest statements that fit one other number for a cell."""


@dataclass(frozen=True)
class _Wrong:
    """A stated number that the tables do not give."""

    metric: str
    stated: float
    got: float
    rival: str = ""
    """Cell with which the text compares, for a gain."""


@dataclass(frozen=True)
class _Failed:
    """A statement that the tables contradict."""

    paper: Paper
    claim: Claim
    finding: Finding
    wrong: tuple[_Wrong, ...] = ()


def text_against_tables(papers: Papers) -> Iterator[Finding | None]:
    """Check that numbers and orderings stated in the text agree with the tables."""
    for paper in papers.values():
        failed = []
        for claim in paper.claims:
            if check := CHECKS.get(claim.kind):
                outcome = check(paper, claim)
                if outcome:
                    failed.append(outcome)
                else:
                    yield None
        shifts, rest = _shifts(paper, failed)
        yield from shifts
        yield from _joined(rest)


def two_rivals(papers: Papers) -> Iterator[Finding | None]:
    """Check that gains stated together, in several metrics, are over one row."""
    for paper in papers.values():
        together: dict[tuple[str, str], list[Claim]] = defaultdict(list)
        for claim in paper.claims:
            if claim.kind == "gain" and len(claim.right) == 1:
                together[claim.where, claim.left].append(claim)
        for claims in together.values():
            for one, other in itertools.combinations(claims, 2):
                if set(one.stated) & set(other.stated) or one.quote != other.quote:
                    continue
                rivals = [cell_at(paper, claim.right[0]) for claim in (one, other)]
                if rivals[0] == rivals[1]:
                    yield None
                elif rivals[0].column == rivals[1].column:
                    gains = " and ".join(
                        f"{_numbers(claim.stated)} is the lead over {rival.label}"
                        for claim, rival in zip((one, other), rivals, strict=True)
                    )
                    yield Finding(
                        rule="two rivals in one statement",
                        effect="one reading",
                        about=f"two rivals: {one.id}, {other.id}",
                        says=f"One statement compares {cell_at(paper, one.left).label} with two rows: {gains}.",
                        places=(in_text(paper, one), in_text(paper, other), *(rival.place() for rival in rivals)),
                        quotes=_quotes([one, other]),
                        why=_whys([one, other]),
                    )


def _check_value(paper: Paper, claim: Claim) -> _Failed | None:
    cell = cell_at(paper, claim.left)
    wrong = tuple(
        _Wrong(name, stated, printed)
        for name, stated in claim.stated.items()
        if (printed := cell.printed.get(name)) is not None and not agrees(printed, stated, claim)
    )
    if not wrong:
        return None
    owner = _owner(cell, wrong)
    numbers = "; ".join(f"{metric_name(it.metric)} {it.got}, not {it.stated}" for it in wrong)
    return _Failed(
        paper,
        claim,
        Finding(
            rule="text against table",
            effect="slip",
            about=f"value: {claim.id}",
            says=f"The text: {claim.says} The table: {numbers}." + (f" It is the number of {owner}." if owner else ""),
            places=(in_text(paper, claim), cell.place(claim.metrics)),
            quotes=_quotes([claim]),
            why=_whys([claim]),
        ),
        wrong,
    )


def _owner(cell: Cell, wrong: Sequence[_Wrong]) -> str:
    """Name the row of the same column that prints all the wrong numbers; empty if there is none."""
    if any(isinstance(it.stated, int) for it in wrong):
        return ""
    others = (row for row in cell.table.rows if row.id != cell.row.id)
    owners = [
        Cell(cell.paper, cell.table, row, cell.column)
        for row in others
        if all(row.printed[cell.column.id].get(it.metric) == it.stated for it in wrong)
    ]
    return owners[0].label if owners else ""


def _check_gain(paper: Paper, claim: Claim) -> _Failed | None:
    gains = _gains(paper, claim.left, claim)
    wrong = tuple(it for it in gains if not agrees(it.got, it.stated, claim))
    if not wrong:
        return None
    several = len(claim.right) > 1
    numbers = "; ".join(
        f"{metric_name(it.metric)} {it.stated:+} stated, {it.got:+.1f} in the table"
        + (f" over {cell_at(paper, it.rival).label}, the best of them" if several else "")
        for it in wrong
    )
    reading = next((other for other in _readings(paper, claim) if claim.at_least and _holds(paper, other, claim)), "")
    credited = "" if reading else _credited(paper, claim)
    twin = "" if reading or credited else _twin(paper, claim)
    if reading:
        effect, tail = "one reading", f" Read of {cell_at(paper, reading).label} it holds."
    elif claim.about and all(_roughly(it) for it in wrong):
        effect, tail = "rounding", ""
    elif any(it.got < it.stated / 2 for it in wrong) or (credited and len(claim.stated) > 1):
        effect, tail = "changes a conclusion", ""
    else:
        effect, tail = "slip", ""
    if credited:
        tail += f" The stated gain is that of {credited}."
    if twin:
        tail += f" The same numbers are stated of {twin}, which they fit."
    named = [claim.left, *(it.rival for it in wrong)]
    return _Failed(
        paper,
        claim,
        Finding(
            rule="text credits another's gain" if credited or twin else "text computes with other numbers",
            effect=effect,
            about=f"gain: {claim.id}",
            says=f"The text: {claim.says} But {numbers}.{tail}",
            places=(
                in_text(paper, claim),
                *(cell_at(paper, id).place(claim.metrics) for id in dict.fromkeys(named)),
            ),
            quotes=_quotes([claim]),
            why=_whys([claim]),
        ),
        wrong,
    )


def _gains(paper: Paper, left: str, claim: Claim) -> list[_Wrong]:
    """Compute the stated gains of a cell over the best cell on the right."""
    mine = cell_at(paper, left).printed
    gains = []
    for name, stated in claim.stated.items():
        rivals = {id: value for id in claim.right if (value := cell_at(paper, id).printed.get(name)) is not None}
        value = mine.get(name)
        if value is not None and rivals:
            best = max(rivals, key=lambda id: rivals[id])
            gains.append(_Wrong(name, stated, value - rivals[best], best))
    return gains


def _holds(paper: Paper, left: str, claim: Claim) -> bool:
    gains = _gains(paper, left, claim)
    return bool(gains) and all(agrees(it.got, it.stated, claim) for it in gains)


def _roughly(wrong: _Wrong) -> bool:
    """Return whether an approximate number is right to its first digit: about 10 means 5 to 15."""
    first = 10 ** math.floor(math.log10(abs(wrong.stated))) if wrong.stated else 1
    return abs(wrong.got - wrong.stated) <= first / 2


def _credited(paper: Paper, claim: Claim) -> str:
    """Name two rows of the same column whose difference is the stated one; empty if there are none.

    One number fits some pair of many rows by chance, so one of the claim's own rows must then be in the pair.
    """
    left, rights = cell_at(paper, claim.left), {cell_at(paper, id).row.id for id in claim.right}
    if any(isinstance(stated, int) for stated in claim.stated.values()):
        return ""
    for lower, upper in itertools.permutations(left.table.rows, 2):
        own = upper.id == left.row.id or lower.id in rights
        if len(claim.stated) < 2 and not own:
            continue
        pair = upper.printed[left.column.id], lower.printed[left.column.id]
        differences = {
            name: high - low
            for name in claim.stated
            if (high := pair[0].get(name)) is not None and (low := pair[1].get(name)) is not None
        }
        if len(differences) == len(claim.stated) and all(
            agrees(differences[name], stated, claim) for name, stated in claim.stated.items()
        ):
            names = [Cell(paper, left.table, row, left.column).label for row in (upper, lower)]
            return f"{names[0]} over {names[1]}"
    return ""


def _twin(paper: Paper, claim: Claim) -> str:
    """Name the row of which the same gains over the same row are stated nearby, and which they fit."""
    for other in paper.claims:
        same = (other.kind, other.where, other.right, other.stated) == ("gain", claim.where, claim.right, claim.stated)
        if same and other.left != claim.left:
            gains = _gains(paper, other.left, other)
            if all(agrees(it.got, it.stated, other) or (other.about and _roughly(it)) for it in gains):
                return cell_at(paper, other.left).label
    return ""


def _readings(paper: Paper, claim: Claim) -> Iterator[str]:
    """Yield the other cells that the left side may mean: those that other claims put in its place.

    A text that says "ours" of several rows is stated once for each, at the same place and against the same cells.
    """
    for one, other in itertools.permutations((it for it in paper.claims if it.kind == "order"), 2):
        same = one.left == claim.left and (one.where, one.right) == (other.where, other.right)
        if same and other.left not in (claim.left, *claim.right):
            yield other.left


def _check_order(paper: Paper, claim: Claim) -> _Failed | None:
    names = claim.metrics or metrics.printed()
    lost = _lost(paper, claim.left, claim, names)
    if not lost:
        return None
    reading = _reading(paper, claim, names)
    ties = all(it.got == it.stated for it in lost)
    effect = "rounding" if ties else "one reading" if reading else "changes a conclusion"
    numbers = "; ".join(
        f"{metric_name(name)} {own} " + " and ".join(_below(paper, [it for it in lost if it.metric == name]))
        for name, own in dict.fromkeys((it.metric, it.got) for it in lost)
    )
    opposite = _opposite(paper, claim)
    return _Failed(
        paper,
        claim,
        Finding(
            rule="text orders otherwise",
            effect=effect,
            about=f"order: {claim.id}",
            says=f"The text: {claim.says} But {numbers}."
            + (f" {reading}" if effect == "one reading" else "")
            + (f" The text says the opposite too: {opposite.says}" if opposite else ""),
            places=(
                in_text(paper, claim),
                *([in_text(paper, opposite)] if opposite else []),
                *(cell_at(paper, id).place(names) for id in dict.fromkeys([claim.left, *(it.rival for it in lost)])),
            ),
            quotes=_quotes([claim, *([opposite] if opposite else [])]),
            why=_whys([claim]),
        ),
        tuple(lost),
    )


def _below(paper: Paper, lost: Sequence[_Wrong]) -> Iterator[str]:
    """Say below which rows a number stands, and which it equals."""
    labels = {it: cell_at(paper, it.rival).label for it in lost}
    below = [f"{it.stated} of {labels[it]}" for it in lost if it.got < it.stated]
    equal = [labels[it] for it in lost if it.got == it.stated]
    if below:
        yield f"is not above {listing(below)}"
    if equal:
        yield f"equals that of {listing(equal)}"


def _lost(paper: Paper, left: str, claim: Claim, names: Sequence[str]) -> list[_Wrong]:
    """List the comparisons in which the left cell is not above one on the right."""
    mine = cell_at(paper, left).printed
    return [
        _Wrong(name, theirs, own, id)
        for id in claim.right
        for name in names
        if (own := mine.get(name)) is not None
        and (theirs := cell_at(paper, id).printed.get(name)) is not None
        and own <= theirs
    ]


def _reading(paper: Paper, claim: Claim, names: Sequence[str]) -> str:
    """Say in which reading an ordering holds: of another row, or else in some metrics; empty if in none."""
    partly = ""
    for left in (claim.left, *_readings(paper, claim)):
        printed = cell_at(paper, left).printed
        compared = [name for name in names if printed.get(name) is not None]
        held = [name for name in compared if not _lost(paper, left, claim, [name])]
        of = f"Read of {cell_at(paper, left).label} it" if left != claim.left else "It"
        if held == compared:
            return f"{of} holds."
        if held and not partly:
            partly = f"{of} holds in {' and '.join(map(metric_name, held))} alone."
    return partly


def _opposite(paper: Paper, claim: Claim) -> Claim | None:
    """Return a claim that orders two cells of this one the other way round."""
    return next(
        (
            other
            for other in paper.claims
            if other.kind == "order" and other.left in claim.right and claim.left in other.right
            if set(other.metrics) & set(claim.metrics)
        ),
        None,
    )


CHECKS = {"value": _check_value, "gain": _check_gain, "order": _check_order}


def _shifts(paper: Paper, failed: Sequence[_Failed]) -> tuple[list[Finding], list[_Failed]]:
    """Join wrong gains that all fit one other number for one cell; return the findings and the rest."""
    fitting: dict[tuple[str, str, float], list[_Failed]] = defaultdict(list)
    for it in failed:
        wrong = it.wrong[0]
        if it.claim.kind == "gain" and len(it.wrong) == len(it.claim.right) == 1 and isinstance(wrong.stated, float):
            off = wrong.got - wrong.stated
            for id, fits in ((it.claim.left, -off), (it.claim.right[0], off)):
                printed = cell_at(paper, id).printed[wrong.metric]
                assert printed is not None
                fitting[id, wrong.metric, round(printed + fits, 1)].append(it)
    shifts: list[Finding] = []
    rest = list(failed)
    for (id, name, fits), members in sorted(fitting.items(), key=lambda item: -len(item[1])):
        members = [it for it in members if it in rest]
        if len(members) >= SHIFTED:
            rest = [it for it in rest if it not in members]
            shifts.append(_shift(paper, cell_at(paper, id), name, fits, members))
    return shifts, rest


def _shift(paper: Paper, cell: Cell, name: str, fits: float, members: Sequence[_Failed]) -> Finding:
    printed = cell.printed[name]
    assert printed is not None
    claims = [it.claim for it in members]
    lines = "; ".join(
        f"{cell_at(paper, it.claim.left).label} over {cell_at(paper, it.claim.right[0]).label} "
        f"{it.wrong[0].stated:+}, by the table {it.wrong[0].got:+.1f}"
        for it in members
    )
    fallen = "; ".join(_fallen(it) for it in members if it.finding.effect == GRAVEST)
    metric = metric_name(name)
    return Finding(
        rule="constant shift",
        effect=min((it.finding.effect for it in members), key=list(EFFECTS).index),
        about=f"shift: {cell.id} {name}",
        says=f"{len(members)} stated gains are off by the same {abs(printed - fits):.1f}: they fit {metric} {fits} for "
        f"{cell.label} on {cell.column.label}, where the table prints {printed}. Stated: {lines}."
        + (f" By the table {fallen}." if fallen else ""),
        places=(cell.place([name]), *(in_text(paper, claim) for claim in claims)),
        quotes=_quotes(claims),
        why=_shared_sentences([claim.why for claim in claims]),
        count=len(members),
    )


def _fallen(it: _Failed) -> str:
    """Say where the table puts a row that the text puts elsewhere."""
    left, right = (cell_at(it.paper, id).label for id in (it.claim.left, it.claim.right[0]))
    wrong = it.wrong[0]
    return f"{left} is {_stands(wrong.got)} {right}, not {_stands(wrong.stated)} it"


def _stands(lead: float) -> str:
    return f"{lead:.1f} above" if lead > 0 else f"{-lead:.1f} below" if lead < 0 else "level with"


def _shared_sentences(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the sentences that stand in all texts, as one text; none if there are none."""
    sentences = [re.split(r"(?<=\.) (?=[A-Z])", text) for text in texts]
    shared = [sentence for sentence in sentences[0] if all(sentence in other for other in sentences)]
    return (" ".join(shared),) if any(shared) else ()


def _joined(failed: Sequence[_Failed]) -> Iterator[Finding]:
    """Yield findings; orderings of one row that fail in the same comparisons are one."""
    groups: dict[object, list[_Failed]] = defaultdict(list)
    for it in failed:
        groups[(it.claim.left, it.wrong) if it.claim.kind == "order" else it.claim.id].append(it)
    for members in groups.values():
        first = members[0].finding
        claims = [it.claim for it in members]
        texts = [in_text(it.paper, it.claim) for it in members[1:]]
        yield Finding(
            rule=first.rule,
            effect=first.effect,
            about=first.about,
            says=first.says,
            places=(first.places[0], *texts, *first.places[1:]),
            quotes=tuple(dict.fromkeys((*first.quotes, *_quotes(claims)))),
            why=_whys(claims),
            count=len(members),
        )


def _quotes(claims: Sequence[Claim]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(claim.quote for claim in claims if claim.quote))


def _whys(claims: Sequence[Claim]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(claim.why for claim in claims if claim.why))


def _numbers(stated: Mapping[str, float]) -> str:
    return " and ".join(f"{metric_name(name)} {value:+}" for name, value in stated.items())
