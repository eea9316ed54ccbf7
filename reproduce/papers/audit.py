"""Find contradictions in printed numbers, by general rules over the tables and the numbers stated in the text."""

from __future__ import annotations

import itertools
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reproduce import metrics
from reproduce.metrics import METRICS
from reproduce.papers.tables import (
    Claim,
    Column,
    Number,
    Paper,
    Printed,
    Row,
    Table,
    full_label,
)

ROUNDING = 0.051
"""Largest rounding error of a difference of two numbers with one decimal, printed with one decimal."""

OUTLIER = 4.0
"""Robust standard deviations from which a cell is implausible among comparable ones."""

FEWEST = 8
"""Fewest comparable rows for such a rule."""

SLIP = 0.35
"""Percentage points below which a difference of two quoted numbers counts as a typing error."""

NAMES = {
    "mAP": "mAP",
    "rank1": "rank-1",
    "rank5": "rank-5",
    "rank10": "rank-10",
    "portion": "portion",
    "mAP_gain": "gain in mAP",
    "rank1_gain": "gain in rank-1",
}


@dataclass(frozen=True)
class Place:
    """The place of a number, and the number."""

    where: str
    value: str


@dataclass(frozen=True)
class Finding:
    """A contradiction or implausible number."""

    rule: str
    """The general rule that found it."""
    weight: str
    """"misprint" if one number is most likely wrong, "different setting" if both may be right, "implausible" if one
    stands out, "contradiction" if text and table cannot both be right."""
    says: str
    """Explanation for someone who has not read the papers."""
    places: tuple[Place, ...]
    """The numbers in question."""


Papers = Mapping[str, Paper]
Rule = Callable[[Papers], Iterator[Finding]]


def audit(papers: Papers) -> list[Finding]:
    """Apply every rule to every paper."""
    return [finding for rule in RULES for finding in rule(papers)]


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Convert findings to plain JSON values."""
    return [asdict(finding) for finding in findings]


def ranks_fall(papers: Papers) -> Iterator[Finding]:
    """Check that rank-1 <= rank-5 <= rank-10, since rank-k counts every query that rank-1 counts."""
    for place, printed in _cells(papers):
        for lower, higher in itertools.combinations(("rank1", "rank5", "rank10"), 2):
            low, high = printed.get(lower), printed.get(higher)
            if low is not None and high is not None and low > high:
                yield Finding(
                    "ranks fall",
                    "misprint",
                    f"{NAMES[lower]} is {low} and {NAMES[higher]} is {high}; a query found within the first ranks is "
                    "found within more of them too, so one of the two is misprinted.",
                    (Place(place, f"{NAMES[lower]} {low}"), Place(place, f"{NAMES[higher]} {high}")),
                )


def implausible_ranks(papers: Papers) -> Iterator[Finding]:
    """Check that the share of missed queries found by the next rank is similar in all rows on one data set."""
    for first, second in (("rank1", "rank5"), ("rank5", "rank10")):
        for rows in _by_target(papers, (first, second)).values():
            shares = [_share(printed[first], printed[second]) for _, printed in rows]
            for (place, printed), share, away in zip(rows, shares, _outlying(shares), strict=True):
                if abs(away) >= OUTLIER:
                    usual = statistics.median(shares)
                    yield Finding(
                        "implausible ranks",
                        "implausible",
                        f"From {NAMES[first]} {printed[first]} to {NAMES[second]} {printed[second]}, {share:.0%} of "
                        f"the missed queries are found; in the other rows on this data set it is about {usual:.0%}.",
                        (
                            Place(place, f"{NAMES[first]} {printed[first]}"),
                            Place(place, f"{NAMES[second]} {printed[second]}"),
                        ),
                    )


def implausible_map(papers: Papers) -> Iterator[Finding]:
    """Check that a row's mAP is below its rank-1 if it is in nearly all other rows on the data set."""
    for rows in _by_target(papers, ("mAP", "rank1")).values():
        for place, printed in rows:
            value, rank1 = printed["mAP"], printed["rank1"]
            others = [other for elsewhere, other in rows if elsewhere != place]
            if value >= rank1 and sum(other["mAP"] < other["rank1"] for other in others) > 0.9 * len(others):
                yield Finding(
                    "implausible mAP",
                    "implausible",
                    f"mAP {value} is not below rank-1 {rank1}, as it is in nearly all other rows on this data set.",
                    (Place(place, f"mAP {value}"), Place(place, f"rank-1 {rank1}")),
                )


def repeated_cells(papers: Papers) -> Iterator[Finding]:
    """Find rows of a table that share most but not all of their numbers, as after a copying error."""
    for paper in papers.values():
        for table in paper.tables.values():
            for one, other in itertools.combinations(table.rows, 2):
                for column in table.columns:
                    pairs = _both(one.printed[column.id], other.printed[column.id])
                    same = [name for name, (left, right) in pairs.items() if left == right]
                    if len(pairs) >= 4 and len(pairs) > len(same) >= 3:
                        shared = ", ".join(f"{NAMES.get(name, name)} {pairs[name][0]}" for name in same)
                        yield Finding(
                            "repeated cells",
                            "implausible",
                            f"Two rows share {shared} but not the rest; one may have been copied from the other.",
                            tuple(Place(_where(paper, table, row, column), shared) for row in (one, other)),
                        )


def same_row_differs(papers: Papers) -> Iterator[Finding]:
    """Find methods that one paper prints twice on one task, with different numbers."""
    for paper in papers.values():
        by_row: dict[tuple[str, str, str], dict[str, list[Number]]] = defaultdict(lambda: defaultdict(list))
        for number in paper.numbers():
            if number.column.task != "none":
                by_row[number.row.id, number.column.id, number.source][number.table].append(number)
        for tables in by_row.values():
            for one, other in itertools.combinations(tables.values(), 2):
                pairs = _differing(one, other)
                if pairs:
                    first, second = pairs[0]
                    yield Finding(
                        "one row, two tables, different numbers",
                        "misprint",
                        f"{paper.name} prints {full_label(first.row)} on {first.column.label} twice, in tables "
                        f"{first.table} and {second.table}, with different numbers: {_listed(pairs)}.",
                        _pair_places(pairs),
                    )


def quoted_differently(papers: Papers) -> Iterator[Finding]:
    """Find methods for which papers that quote them on one task print different numbers."""
    quoted: dict[tuple[str, str], dict[str, dict[str, list[Number]]]] = defaultdict(lambda: defaultdict(dict))
    for paper in papers.values():
        for number in paper.numbers():
            if number.metric in metrics.printed() and number.row.executed[number.column.id] != "yes":
                sources = quoted[_method(number.row), number.target][paper.id]
                sources.setdefault(number.source, []).append(number)
    for (_, target), by_paper in quoted.items():
        disagreeing = [
            (one, other, pairs)
            for left, right in itertools.combinations(by_paper.values(), 2)
            for one, other in _comparable(left, right)
            if (pairs := _differing(one, other))
        ]
        if disagreeing:
            sides = {side[0].paper: side for one, other, _ in disagreeing for side in (one, other)}
            largest = max(abs(one.value - other.value) for _, _, pairs in disagreeing for one, other in pairs)
            label = full_label(next(iter(sides.values()))[0].row)
            yield Finding(
                "quoted differently",
                "misprint" if largest < SLIP else "different setting",
                f"{_and(list(sides))} print different numbers for {label} with the target {target}.",
                tuple(
                    Place(side[0].place, ", ".join(f"{_named(it.metric)} {it.value}" for it in side))
                    for side in sides.values()
                ),
            )


def _comparable(
    one: Mapping[str, list[Number]], other: Mapping[str, list[Number]]
) -> Iterator[tuple[list[Number], list[Number]]]:
    """Pair numbers of one method from the same source, or from its only row if a paper names no source."""
    for source, numbers in one.items():
        if source in other:
            yield numbers, other[source]
        elif len(one) == len(other) == 1 and "none" in (source, *other):
            yield numbers, next(iter(other.values()))


def _differing(one: Sequence[Number], other: Sequence[Number]) -> list[tuple[Number, Number]]:
    """Pair the numbers of a metric that have different values."""
    values = {number.metric: number for number in other}
    return [(it, values[it.metric]) for it in one if it.metric in values and values[it.metric].value != it.value]


def _listed(pairs: Sequence[tuple[Number, Number]]) -> str:
    return "; ".join(f"{_named(one.metric)} {one.value} and {other.value}" for one, other in pairs)


def _pair_places(pairs: Sequence[tuple[Number, Number]]) -> tuple[Place, ...]:
    return tuple(
        Place(side[0].place, ", ".join(f"{_named(number.metric)} {number.value}" for number in side))
        for side in zip(*pairs, strict=True)
    )


def sums(papers: Papers) -> Iterator[Finding]:
    """Check that a printed gain is the difference of the two rows that it names."""
    for paper in papers.values():
        for table in paper.tables.values():
            for row in table.rows:
                upper, lower = (table.row(id) for id in row.gain) if row.gain else (None, None)
                if upper is None or lower is None:
                    continue
                for column in table.columns:
                    for gain, metric in ((name, METRICS[name].gain_of) for name in metrics.names(kind="gain")):
                        printed = row.printed[column.id].get(gain)
                        pair = upper.printed[column.id].get(metric), lower.printed[column.id].get(metric)
                        if printed is None or pair[0] is None or pair[1] is None:
                            continue
                        if abs(pair[0] - pair[1] - printed) > ROUNDING:
                            yield Finding(
                                "sums",
                                "misprint",
                                f"The gain in {_named(metric)} is printed as {printed}, but {pair[0]} - {pair[1]} is "
                                f"{pair[0] - pair[1]:.1f}.",
                                (
                                    Place(_where(paper, table, row, column), f"gain {printed}"),
                                    Place(_where(paper, table, upper, column), f"{_named(metric)} {pair[0]}"),
                                    Place(_where(paper, table, lower, column), f"{_named(metric)} {pair[1]}"),
                                ),
                            )


def counts(papers: Papers) -> Iterator[Finding]:
    """Check that papers agree on the counts of a data set, and that its parts add up to the whole."""
    stated: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for paper in papers.values():
        for claim in paper.claims:
            if claim.kind == "count":
                for name, value in (claim.stated or {}).items():
                    stated[claim.left, name].append((f"{paper.name} {claim.where}", value))
        for number in paper.numbers():
            if METRICS[number.metric].kind == "count":
                stated[number.target, number.metric].append((f"{paper.name} table {number.table}", number.value))
    for (data, name), entries in sorted(stated.items()):
        values = sorted({value for _, value in entries})
        if len(values) > 1:
            yield Finding(
                "counts differ",
                "misprint",
                f"{name.replace('_', ' ')} of {data} are given as {' and '.join(f'{value:,.0f}' for value in values)}.",
                tuple(Place(where, f"{value:,.0f}") for where, value in entries),
            )
    for data in sorted({data for data, _ in stated}):
        parts = [stated.get((data, name)) for name in ("train_images", "query_images", "gallery_images")]
        wholes = stated.get((data, "images"), [])
        if all(parts):
            total = sum(part[0][1] for part in parts if part)
            for whole in sorted({value for _, value in wholes} - {total}):
                saying = [where for where, value in wholes if value == whole]
                yield Finding(
                    "counts do not add up",
                    "different setting",
                    f"{data} is said to hold {whole:,.0f} images, but its train, query and gallery images are "
                    f"{total:,.0f} together.",
                    (
                        *(Place(where, f"{whole:,.0f}") for where in saying),
                        *(Place(part[0][0], f"{part[0][1]:,.0f}") for part in parts if part),
                    ),
                )


def text_against_tables(papers: Papers) -> Iterator[Finding]:
    """Check that numbers and orderings stated in the text agree with the tables."""
    checks = {"value": _check_value, "gain": _check_gain, "order": _check_order}
    for paper in papers.values():
        for claim in paper.claims:
            if check := checks.get(claim.kind):
                yield from check(paper, claim)


RULES: tuple[Rule, ...] = (
    text_against_tables,
    same_row_differs,
    quoted_differently,
    ranks_fall,
    implausible_ranks,
    implausible_map,
    repeated_cells,
    sums,
    counts,
)


def _check_value(paper: Paper, claim: Claim) -> Iterator[Finding]:
    cell = paper.cell(claim.left) or {}
    wrong = {
        name: (value, printed)
        for name, value in (claim.stated or {}).items()
        if (printed := cell.get(name)) is not None and not _agrees(printed, value, claim)
    }
    if wrong:
        numbers = "; ".join(f"{_named(name)} {printed}, not {stated}" for name, (stated, printed) in wrong.items())
        yield Finding(
            "text against table",
            "misprint" if all(abs(stated - printed) < 1 for stated, printed in wrong.values()) else "contradiction",
            f"The text: {claim.says} The table: {numbers}.",
            _places(paper, claim, [claim.left]),
        )


def _check_gain(paper: Paper, claim: Claim) -> Iterator[Finding]:
    left = paper.cell(claim.left) or {}
    wrong: list[str] = []
    cells = [claim.left]
    for name, stated in (claim.stated or {}).items():
        rivals = {place: value for place in claim.right if (value := (paper.cell(place) or {}).get(name)) is not None}
        mine = left.get(name)
        if mine is None or not rivals:
            continue
        best = max(rivals, key=lambda place: rivals[place])
        gain = mine - rivals[best]
        if not _agrees(gain, stated, claim):
            over = f" over {_label(paper, best)}, the best of them" if len(rivals) > 1 else ""
            wrong.append(f"{_named(name)} {stated:+} stated, {gain:+.1f} in the table{over}")
            cells.append(best)
    if wrong:
        instead = _pair_with(paper, claim)
        rule = "text credits another's gain" if instead else "text computes with other numbers"
        tail = f" The stated gain is that of {instead}." if instead else ""
        says = f"The text: {claim.says} But {'; '.join(wrong)}.{tail}"
        yield Finding(rule, "contradiction", says, _places(paper, claim, list(dict.fromkeys(cells))))


def _pair_with(paper: Paper, claim: Claim) -> str:
    """Name two rows of the same table and column whose difference is the stated one; empty if there are none."""
    table_id, _, rest = claim.left.partition("/")
    column = rest.rpartition("/")[2]
    stated = claim.stated or {}
    if len(stated) < 2:
        return ""
    for lower, upper in itertools.permutations(paper.tables[table_id].rows, 2):
        pairs = _both(upper.printed[column], lower.printed[column])
        if all(
            name in pairs and _agrees(pairs[name][0] - pairs[name][1], value, claim) for name, value in stated.items()
        ):
            return f"{full_label(upper)} over {full_label(lower)}"
    return ""


def _check_order(paper: Paper, claim: Claim) -> Iterator[Finding]:
    left = paper.cell(claim.left) or {}
    lost: list[str] = []
    places = [claim.left]
    for right_place in claim.right:
        right = paper.cell(right_place) or {}
        for name in claim.metrics or metrics.printed():
            pair = left.get(name), right.get(name)
            if pair[0] is not None and pair[1] is not None and pair[0] <= pair[1]:
                lost.append(f"{_named(name)} {pair[0]} is not above {pair[1]} of {_label(paper, right_place)}")
                places.append(right_place)
    if lost:
        yield Finding(
            "text orders otherwise",
            "contradiction",
            f"The text: {claim.says} But {'; '.join(lost)}.",
            _places(paper, claim, list(dict.fromkeys(places))),
        )


def _agrees(got: float, stated: float, claim: Claim) -> bool:
    """Return whether a number equals the stated one to its precision: 3 means 2.5 to 3.5, and 3.0 means 3.0."""
    if claim.at_least:
        return got >= stated - ROUNDING
    return abs(got - stated) <= (0.5 + ROUNDING if isinstance(stated, int) else ROUNDING)


def _places(paper: Paper, claim: Claim, cells: Sequence[str]) -> tuple[Place, ...]:
    stated = ", ".join(f"{_named(name)} {value}" for name, value in (claim.stated or {}).items()) or "an ordering"
    text = Place(f"{paper.name} {claim.where}", stated)
    return text, *(Place(_cell_name(paper, cell), _numbers(paper.cell(cell) or {}, claim.metrics)) for cell in cells)


def _numbers(printed: Printed, names: Sequence[str]) -> str:
    shown = {name: value for name, value in printed.items() if value is not None and (not names or name in names)}
    return ", ".join(f"{_named(name)} {value}" for name, value in shown.items())


def _cell_name(paper: Paper, cell: str) -> str:
    table_id, _, rest = cell.partition("/")
    row_id, _, column_id = rest.rpartition("/")
    table = paper.tables[table_id]
    row, column = table.row(row_id), next(column for column in table.columns if column.id == column_id)
    assert row
    return _where(paper, table, row, column)


def _label(paper: Paper, cell: str) -> str:
    table_id, _, rest = cell.partition("/")
    row = paper.tables[table_id].row(rest.rpartition("/")[0])
    assert row
    return full_label(row)


def _where(paper: Paper, table: Table, row: Row, column: Column) -> str:
    return f"{paper.name} table {table.id}, {full_label(row)}, {column.label}"


def _named(metric: str) -> str:
    return NAMES.get(metric, metric.replace("_", " "))


def _cells(papers: Papers) -> Iterator[tuple[str, Printed]]:
    for paper in papers.values():
        for table in paper.tables.values():
            for row in table.rows:
                for column in table.columns:
                    yield _where(paper, table, row, column), row.printed[column.id]


def _by_target(papers: Papers, metrics: tuple[str, str]) -> dict[str, list[tuple[str, dict[str, float]]]]:
    """Group rows that print both metrics by data set, without repeated numbers; omit sets with too few rows."""
    by_target: dict[str, dict[tuple[float, float], tuple[str, dict[str, float]]]] = defaultdict(dict)
    for paper in papers.values():
        for table in paper.tables.values():
            for row in table.rows:
                for column in table.columns:
                    pair = tuple(row.printed[column.id].get(metric) for metric in metrics)
                    if column.task != "none" and pair[0] is not None and pair[1] is not None:
                        numbers = {metrics[0]: pair[0], metrics[1]: pair[1]}
                        place = _where(paper, table, row, column)
                        by_target[column.task[2]].setdefault((pair[0], pair[1]), (place, numbers))
    return {target: list(rows.values()) for target, rows in by_target.items() if len(rows) >= FEWEST}


def _share(low: float, high: float) -> float:
    return (high - low) / (100 - low) if low < 100 else 1.0


def _outlying(values: Sequence[float]) -> list[float]:
    """Compute each value's distance from the median, in robust standard deviations."""
    middle = statistics.median(values)
    spread = 1.4826 * statistics.median(abs(value - middle) for value in values)
    return [(value - middle) / max(spread, 0.01) for value in values]


def _both(one: Printed, other: Printed) -> dict[str, tuple[float, float]]:
    return {
        name: (value, there)
        for name, value in one.items()
        if value is not None and (there := other.get(name)) is not None
    }


def _method(row: Row) -> str:
    """Return a normalised name of a method, to match it across papers."""
    plain = re.sub(r"\[[^]]*\]|\([^)]*(?:19|20|')\d\d[^)]*\)|\([^)]*et al[^)]*\)", "", row.label)
    return re.sub(r"[^a-z0-9+]", "", plain.lower())


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
