"""Audit the tables of papers: within a cell, between rows and tables, and between papers."""

from __future__ import annotations

import itertools
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from reproduce import metrics
from reproduce.data.catalogue import letters
from reproduce.metrics import METRICS
from reproduce.papers.findings import (
    ROUNDING,
    Cell,
    Finding,
    Papers,
    Place,
    cell_at,
    cells,
    in_text,
    method,
    metric_name,
    odd_one,
    shown,
)
from reproduce.papers.tables import Number, Paper, domains
from reproduce.wording import listing

OUTLIER = 4.0
"""Robust standard deviations from which a cell is implausible among all rows on a data set."""

STEP = 3.5
"""Robust standard deviations from which a step between ranks is implausible among like rows; by Iglewicz and Hoaglin
(1993)."""

LIKE = 5.0
"""Percentage points of rank-5 within which rows are alike."""

FEWEST = 8
"""Fewest comparable rows for such rules."""

SLIP = 0.35
"""Percentage points below which a difference of two quoted numbers counts as a typing error."""

TWINS = 3
"""Fewest equal cells of rows that print the same numbers under two names."""

GENERIC = frozenset({"baseline", "supervised", "ours", "directtransfer"})
"""Names that mean something different in each paper."""


def ranks_fall(papers: Papers) -> Iterator[Finding | None]:
    """Check that rank-1 <= rank-5 <= rank-10, since rank-k counts every query that rank-1 counts."""
    for cell in cells(papers):
        ranks = [name for name in ("rank1", "rank5", "rank10") if cell.printed.get(name) is not None]
        values = {name: value for name in ranks if (value := cell.printed[name]) is not None}
        if len(ranks) < 2:
            continue
        falling = [pair for pair in itertools.combinations(ranks, 2) if values[pair[0]] > values[pair[1]]]
        if not falling:
            yield None
        for lower, higher in falling:
            yield Finding(
                rule="ranks fall",
                effect="slip",
                about=f"ranks fall: {cell.id} {lower} {higher}",
                says=f"{metric_name(lower)} is {values[lower]} and {metric_name(higher)} is {values[higher]}; a query "
                "found within the first ranks is found within more of them too, so one of the two is misprinted.",
                places=(cell.place([lower]), cell.place([higher])),
            )


def implausible_ranks(papers: Papers) -> Iterator[Finding | None]:
    """Check steps between ranks against rows on the same data set.

    The share of missed queries that the next rank finds must be like that of all rows, and the step itself like that of
    rows of like rank-5.
    """
    said: dict[str, list[str]] = defaultdict(list)
    concerned: dict[str, Cell] = {}
    checked: dict[str, Cell] = {}
    for first, second in (("rank1", "rank5"), ("rank5", "rank10")):
        for rows in _by_target(papers, (first, second)).values():
            shares = [_share(low, high) for _, low, high in rows]
            for (cell, low, high), share, away in zip(rows, shares, _outlying(shares), strict=True):
                key = f"{cell.paper.id}/{cell.id}"
                checked[key] = cell
                text = f"from {metric_name(first)} {low} to {metric_name(second)} {high}"
                if abs(away) >= OUTLIER:
                    usual = statistics.median(shares)
                    said[key].append(
                        f"{text}, {share:.0%} of the missed queries are found; in the other rows on this data set it "
                        f"is about {usual:.0%}"
                    )
                elif usual_step := _odd_step((cell, low, high), rows, first == "rank5"):
                    said[key].append(
                        f"{text} is a step of {high - low:.1f}; in rows of like rank-5 on this data set it is about "
                        f"{usual_step:.1f}"
                    )
                concerned[key] = cell
    for key, cell in checked.items():
        if not said[key]:
            yield None
            continue
        texts = "; ".join(said[key])
        repeated = _repeated(cell)
        yield Finding(
            rule="implausible ranks",
            effect="open",
            about=f"implausible ranks: {cell.id}",
            says=f"{texts[0].upper()}{texts[1:]}.{repeated}",
            places=(cell.place(("rank1", "rank5", "rank10")),),
        )


def _odd_step(row: tuple[Cell, float, float], rows: Sequence[tuple[Cell, float, float]], first: bool) -> float:
    """Return the usual step in rows of like rank-5 if a row's step is far from it, else 0.

    Args:
        row: A cell with the numbers of two ranks.
        rows: All such cells on one data set.
        first: Whether rank-5 is the first of the two ranks.
    """
    like = [high - low for _, low, high in rows if abs(low - row[1] if first else high - row[2]) <= LIKE]
    if len(like) < FEWEST:
        return 0.0
    away = _outlying([*like, row[2] - row[1]])[-1]
    return statistics.median(like) if abs(away) >= STEP else 0.0


def _repeated(cell: Cell) -> str:
    """Say which number of a cell stands in another column of the same row too."""
    for other in cell.table.columns:
        for name in ("rank1", "rank5", "rank10") if other != cell.column else ():
            value = cell.printed.get(name)
            if value is not None and cell.row.printed[other.id].get(name) == value:
                return f" {metric_name(name)} {value} also stands under {other.label}."
    return ""


def implausible_map(papers: Papers) -> Iterator[Finding | None]:
    """Check that a row's mAP is below its rank-1 if it is in nearly all other rows on the data set."""
    for rows in _by_target(papers, ("mAP", "rank1")).values():
        for cell, value, rank1 in rows:
            others = [(one, two) for elsewhere, one, two in rows if elsewhere != cell]
            if value < rank1 or sum(one < two for one, two in others) <= 0.9 * len(others):
                yield None
                continue
            equal = " It repeats the rank-1 beside it." if value == rank1 else ""
            yield Finding(
                rule="implausible mAP",
                effect="open",
                about=f"implausible mAP: {cell.id}",
                says=f"mAP {value} is not below rank-1 {rank1}, as it is in nearly all other rows on this data set."
                + equal,
                places=(cell.place(("mAP", "rank1")),),
            )


def repeated_cells(papers: Papers) -> Iterator[Finding | None]:
    """Find rows of a table that share most of their numbers, or all of one column's alone, as after a copying error."""
    for paper in papers.values():
        for table in paper.tables.values():
            for one, other in itertools.combinations(table.rows, 2):
                pairs = {it.id: _both(one.printed[it.id], other.printed[it.id]) for it in table.columns}
                same = {id: [name for name, (a, b) in both.items() if a == b] for id, both in pairs.items()}
                for column in table.columns:
                    both, equal = pairs[column.id], same[column.id]
                    if len(both) < 2:
                        continue
                    most = len(both) >= 4 and len(both) > len(equal) >= 3
                    elsewhere = any(len(same[id]) < len(pairs[id]) for id in pairs if id != column.id)
                    if not most and not (len(both) == len(equal) and elsewhere):
                        yield None
                        continue
                    copies = [Cell(paper, table, row, column) for row in (one, other)]
                    numbers = ", ".join(f"{metric_name(name)} {both[name][0]}" for name in equal)
                    rest = "but not the rest" if most else "but not the numbers of the other columns"
                    yield Finding(
                        rule="repeated cells",
                        effect="open",
                        about=f"repeated cells: {copies[0].id}, {copies[1].id}",
                        says=f"Two rows share {numbers} {rest}; one may have been copied from the other.",
                        places=tuple(cell.place(equal) for cell in copies),
                    )


def same_row_differs(papers: Papers) -> Iterator[Finding | None]:
    """Check that a row that one paper prints in several tables has the same numbers in all."""
    for paper in papers.values():
        by_row: dict[tuple[str, str, str], dict[str, Cell]] = defaultdict(dict)
        for cell in cells({paper.id: paper}):
            if cell.column.task != "none":
                source = domains(cell.row, cell.column)[0]
                by_row[cell.row.id, cell.column.id, source].setdefault(cell.table.id, cell)
        for tables in by_row.values():
            for one, other in itertools.combinations(tables.values(), 2):
                pairs = {name: pair for name, pair in _both(one.printed, other.printed).items() if pair[0] != pair[1]}
                if not pairs:
                    yield None
                    continue
                numbers = "; ".join(f"{metric_name(name)} {a} and {b}" for name, (a, b) in pairs.items())
                owners = [text for text in (_owner(one, other, pairs), _owner(other, one, pairs)) if text]
                yield Finding(
                    rule="one row, two tables, different numbers",
                    effect="slip",
                    about=f"one row, two tables: {one.id}, {other.id}",
                    says=f"{paper.name} prints {one.label} on {one.column.label} twice, in tables {one.table.id} and "
                    f"{other.table.id}, with different numbers: {numbers}." + "".join(owners),
                    places=(one.place(pairs), other.place(pairs)),
                )


def _owner(cell: Cell, twin: Cell, pairs: Mapping[str, object]) -> str:
    """Say which other row of the twin's table prints the numbers of a cell; empty if none, or for a single number."""
    for row in twin.table.rows if len(pairs) > 1 else ():
        other = Cell(cell.paper, twin.table, row, twin.column)
        if row.id != twin.row.id and all(other.printed.get(name) == cell.printed[name] for name in pairs):
            return f" Those of table {cell.table.id} stand in table {twin.table.id} beside {other.label}."
    return ""


def sums(papers: Papers) -> Iterator[Finding | None]:
    """Check that a printed gain is the difference of the two rows that it names."""
    for cell in cells(papers):
        for gain in metrics.names(kind="gain") if cell.row.gain else ():
            upper, lower = (cell_at(cell.paper, f"{cell.table.id}/{id}/{cell.column.id}") for id in cell.row.gain)
            name, printed = METRICS[gain].gain_of, cell.printed.get(gain)
            high, low = upper.printed.get(name), lower.printed.get(name)
            if printed is None or high is None or low is None:
                continue
            if abs(high - low - printed) <= ROUNDING:
                yield None
                continue
            yield Finding(
                rule="sums",
                effect="slip",
                about=f"sums: {cell.id} {gain}",
                says=f"The {metric_name(gain)} is printed as {printed}, but {high} - {low} is {high - low:.1f}.",
                places=(cell.place([gain]), upper.place([name]), lower.place([name])),
            )


def column_order(papers: Papers) -> Iterator[Finding | None]:
    """Check that the tables of a paper order sources alike: one that does not is misread easily."""
    for paper in papers.values():
        orders: dict[frozenset[str], dict[str, tuple[str, ...]]] = defaultdict(dict)
        for table in paper.tables.values():
            tasks = [column.task for column in table.columns if column.task != "none"]
            sources = tuple(dict.fromkeys(task[0] for task in tasks if task[0] in letters()))
            if len(sources) > 1:
                orders[frozenset(sources)][table.id] = sources
        for by_table in orders.values():
            odd = odd_one(by_table)
            yield from [None] * (len(by_table) - bool(odd))
            if odd:
                usual = next(sources for id, sources in by_table.items() if id != odd)
                names = [" before ".join(letters()[it] for it in order) for order in (by_table[odd], usual)]
                yield Finding(
                    rule="minority order of columns",
                    effect="open",
                    about=f"order of columns: table {odd}",
                    says=f"Table {odd} has the source {names[0]}, the other tables of {paper.name} {names[1]}.",
                    places=tuple(
                        Place(paper=paper.name, where=f"table {id}", text=" | ".join(_headings(paper, id)))
                        for id in (odd, *(id for id in by_table if id != odd))
                    ),
                )


def _headings(paper: Paper, table: str) -> list[str]:
    return [column.label for column in paper.tables[table].columns]


def venues(papers: Papers) -> Iterator[Finding | None]:
    """Check that a method is quoted from one venue and year wherever venues are printed."""
    printed: dict[str, dict[str, tuple[Place, str]]] = defaultdict(dict)
    for paper in papers.values():
        for table in paper.tables.values():
            for row in table.rows:
                if re.fullmatch(r"[A-Za-z]+'\d\d", row.ref):
                    place = Place(paper=paper.name, where=f"table {table.id}", row=row.label, text=row.ref)
                    printed[method(row)].setdefault(f"{paper.name} table {table.id}", (place, row.ref.casefold()))
    for name, places in printed.items():
        values = {where: venue for where, (_, venue) in places.items()}
        if len(places) < 2:
            continue
        if len(set(values.values())) == 1:
            yield None
            continue
        odd = odd_one(values)
        first = {venue: place for place, venue in places.values()}
        label = next(iter(first.values())).row
        yield Finding(
            rule="one name, two venues",
            effect="open" if any(venue.startswith("arxiv") for venue in first) else "slip",
            about=f"venues: {name}",
            says=f"{label} is quoted from {listing([place.text for place in first.values()])}.",
            places=tuple(place for place, _ in places.values()),
            odd=places[odd][0].paper if odd else "",
        )


Key = tuple[str, str, str]
"""Source, target and metric of a quoted number."""


def _quoted(papers: Papers) -> dict[tuple[str, str], dict[Key, Number]]:
    """Collect the numbers that papers quote or may quote, by paper and name of the method."""
    quoted: dict[tuple[str, str], dict[Key, Number]] = defaultdict(dict)
    for paper in papers.values():
        for number in paper.numbers():
            if number.metric in metrics.printed() and number.row.executed[number.column.id] != "yes":
                key = number.source, number.target, number.metric
                quoted[paper.id, method(number.row)].setdefault(key, number)
    return quoted


def other_names(papers: Papers) -> Iterator[Finding | None]:
    """Find methods of two papers that have the same numbers under different names."""
    quoted = _quoted(papers)
    works = {side: "+".join(sorted(_parts(_label(numbers)))) for side, numbers in quoted.items()}
    groups: dict[frozenset[str], dict[tuple[str, str], dict[Key, Number]]] = defaultdict(dict)
    for (one, left), (other, right) in itertools.combinations(quoted.items(), 2):
        shared = left.keys() & right.keys()
        if one[0] == other[0] or works[one] == works[other] or len(shared) < TWINS:
            continue
        if all(left[key].value == right[key].value for key in shared):
            for side, numbers in ((one, left), (other, right)):
                own = {key: number for key, number in numbers.items() if key in shared}
                groups[frozenset((works[one], works[other]))][side] = own
    alike = {side for members in groups.values() for side in members}
    yield from [None] * (len(quoted) - len(alike))
    for names, members in groups.items():
        labels = list(dict.fromkeys(map(_label, members.values())))
        yield Finding(
            rule="same numbers under another name",
            effect="open",
            about=f"same numbers: {', '.join(sorted(names))}",
            says=f"{listing(labels)} have the same {len(next(iter(members.values())))} numbers: one work, or one "
            "mistaken for another.",
            places=tuple(place for numbers in members.values() for place in _places(papers, numbers.values())),
            count=len(members),
        )


def two_names(papers: Papers) -> Iterator[Finding | None]:
    """Find works that two papers print under names of which one is a part or a variant of the other."""
    quoted = {side: numbers for side, numbers in _quoted(papers).items() if ":" not in _label(numbers)}
    by_paper: dict[str, set[str]] = defaultdict(set)
    parts: dict[tuple[str, str], set[str]] = {}
    for side, numbers in quoted.items():
        by_paper[side[0]].add(side[1])
        parts[side] = _parts(_label(numbers)) - GENERIC
    groups: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for one, other in itertools.combinations(quoted, 2):
        shared = parts[one] & parts[other]
        apart = one[0] != other[0] and one[1] not in by_paper[other[0]] and other[1] not in by_paper[one[0]]
        both = quoted[one].keys() & quoted[other].keys()
        if shared and apart and any(quoted[one][key].value != quoted[other][key].value for key in both):
            groups[min(shared)] |= {one, other}
    named = {side for members in groups.values() for side in members}
    yield from [None] * (len(quoted) - len(named))
    for part, members in groups.items():
        sides = [side for side in quoted if side in members]
        labels = list(dict.fromkeys(_label(quoted[side]) for side in sides))
        yield Finding(
            rule="one work under two names",
            effect="open",
            about=f"two names: {part}",
            says=f"{listing(labels)} have one work in their names, and different numbers on the same task.",
            places=tuple(place for side in sides for place in _places(papers, quoted[side].values())),
            count=len(sides),
        )


def _label(numbers: Mapping[Key, Number]) -> str:
    return next(iter(numbers.values())).row.label


def _parts(label: str) -> set[str]:
    """Split a label into the works that it names: "A (k-means)" and "A: final" name A, "A + B" names A and B."""
    plain = re.sub(r"\[[^]]*\]|\([^)]*\)|:.*", "", label).lower()
    return {re.sub(r"[^a-z0-9+]", "", part) for part in re.split(r"\s*\+\s*(?=\w)", plain)} - {""}


def quoted_differently(papers: Papers) -> Iterator[Finding | None]:
    """Find methods for which papers that quote them on one task print different numbers."""
    by_name: dict[str, dict[str, dict[Key, Number]]] = defaultdict(dict)
    for (paper, name), numbers in _quoted(papers).items():
        by_name[name][paper] = numbers
    for name, by_paper in by_name.items():
        pairs = {
            (one, other): _comparable(by_paper[one], by_paper[other])
            for one, other in itertools.combinations(by_paper, 2)
        }
        differing = {
            sides: [(left, right) for left, right in found if left.value != right.value]
            for sides, found in pairs.items()
        }
        if not any(pairs.values()):
            continue
        if not any(differing.values()):
            yield None
            continue
        largest = max(abs(left.value - right.value) for found in differing.values() for left, right in found)
        sides = [paper for paper in by_paper if any(found and paper in pair for pair, found in differing.items())]
        concerned = {it.place + it.metric: it for found in differing.values() for pair in found for it in pair}
        targets = list(dict.fromkeys(number.target for number in concerned.values()))
        label = next(iter(concerned.values())).row.label
        yield Finding(
            rule="quoted differently",
            effect="slip" if largest < SLIP else "open",
            about=f"quoted differently: {name}",
            says=f"{listing([papers[it].name for it in sides])} print different numbers for {label} with the target "
            f"{listing(targets)}.",
            places=tuple(
                place
                for paper in sides
                for place in _places(papers, (it for it in concerned.values() if it.paper == papers[paper].name))
            ),
            odd=papers[odd].name if (odd := _odd_paper(sides, differing)) else "",
        )


def _odd_paper(papers: Sequence[str], differing: Mapping[tuple[str, str], Sequence[object]]) -> str:
    """Return the only paper that takes part in every difference, if there are several others; else ""."""
    pairs = [pair for pair, found in differing.items() if found]
    odd = [paper for paper in papers if all(paper in pair for pair in pairs)]
    return odd[0] if len(papers) >= 3 and len(odd) == 1 else ""


def _comparable(one: Mapping[Key, Number], other: Mapping[Key, Number]) -> list[tuple[Number, Number]]:
    """Pair numbers from the same source, or from the only row on a target if a paper names no source."""
    pairs = []
    for (source, target, metric), number in one.items():
        same = other.get((source, target, metric))
        if same is None:
            rows = [it for key, it in other.items() if key[1:] == (target, metric)]
            alone = sum(key[1:] == (target, metric) for key in one) == len(rows) == 1
            same = rows[0] if alone and "none" in (source, rows[0].source) else None
        if same is not None:
            pairs.append((number, same))
    return pairs


def _places(papers: Papers, numbers: Iterable[Number]) -> list[Place]:
    """Group numbers by cell and return one place for each."""
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for number in numbers:
        found[number.paper, f"{number.table}/{number.row.id}/{number.column.id}"][number.metric] = number.value
    by_name = {paper.name: paper for paper in papers.values()}
    return [cell_at(by_name[paper], id).place(values) for (paper, id), values in found.items()]


Counts = dict[tuple[str, str], list[tuple[Place, float]]]
"""Stated counts of data sets with their places, by data set and name of the count."""


def _counts(papers: Papers) -> Counts:
    stated: Counts = defaultdict(list)
    for paper in papers.values():
        for claim in paper.claims:
            for name, value in claim.stated.items() if claim.kind == "count" else ():
                place = in_text(paper, claim)
                stated[claim.left, name].append(
                    (Place(paper=place.paper, where=place.where, numbers={name: value}, claim=claim.id), value)
                )
    for cell in cells(papers):
        for name, number in cell.printed.items():
            if METRICS[name].kind == "count" and number is not None:
                stated[cell.row.target, name].append((cell.place([name]), number))
    return stated


PARTS = {
    "images": (
        ("train_images", "query_images", "gallery_images"),
        ("train_images", "gallery_images"),
        ("train_images", "test_images"),
    ),
    "ids": (("train_ids", "gallery_ids"), ("train_ids", "query_ids"), ("train_ids", "test_ids")),
}
"""Ways in which parts make up a whole; queries are counted with the gallery or apart from it."""


def counts(papers: Papers) -> Iterator[Finding | None]:
    """Check that papers agree on the counts of a data set, and that its parts add up to the whole."""
    stated = _counts(papers)
    for (data, name), entries in sorted(stated.items()):
        values = {value for _, value in entries}
        if len(entries) < 2:
            continue
        wrong = _unexplained(data, values, stated)
        if not wrong:
            yield None
            continue
        totals = _totals(data, name, stated)
        fitting = sorted(values & totals)
        adds = f" Its parts add up to {listing([shown(name, value) for value in fitting])}." if fitting else ""
        by_paper = {place.paper: value for place, value in entries}
        given = listing([shown(name, it) for it in sorted(values)])
        yield Finding(
            rule="counts differ",
            effect="slip",
            about=f"counts differ: {data} {name}",
            says=f"{metric_name(name)} of {data} are given as {given}.{adds}",
            places=tuple(place for place, _ in entries),
            odd=odd_one(by_paper),
        )
    for (data, name), entries in sorted(stated.items()):
        totals = _totals(data, name, stated)
        values = {value for _, value in entries}
        if not totals or _unexplained(data, values, stated):
            continue
        explained = totals | _sums_of_people(data, stated)
        for value in sorted(values):
            if value in explained:
                yield None
                continue
            saying = [place for place, its in entries if its == value]
            total = f"{min(totals, key=lambda it: abs(it - value)):,.0f}"
            yield Finding(
                rule="counts do not add up",
                effect="slip",
                about=f"counts do not add up: {data} {name}",
                says=f"{data} is said to hold {value:,.0f} {metric_name(name)}, but its parts add up to {total}.",
                places=(
                    *saying,
                    *(
                        stated[data, part][0][0]
                        for part in dict.fromkeys(itertools.chain(*PARTS[name]))
                        if (data, part) in stated
                    ),
                ),
            )


def _totals(data: str, name: str, stated: Counts) -> set[float]:
    """Add up the parts of a whole in every way for which all parts are stated."""
    return {
        sum(values)
        for parts in PARTS.get(name, ())
        for values in itertools.product(*({value for _, value in stated.get((data, part), ())} for part in parts))
    }


def _sums_of_people(data: str, stated: Counts) -> set[float]:
    """Add up pairs of stated counts of people, such as those of several cameras and distractors."""
    people = [
        value for (of, name), entries in stated.items() if of == data and name.endswith("_ids") for _, value in entries
    ]
    return {one + other for one, other in itertools.combinations(people, 2)}


def _unexplained(data: str, values: AbstractSet[float], stated: Counts) -> bool:
    """Return whether counts differ although no paper says that the larger is the smaller and another part."""
    if len(values) < 2:
        return False
    parts = {
        value: name
        for (of, name), entries in stated.items()
        if of == data and name.endswith("_ids")
        for _, value in entries
    }
    small, *larger = sorted(values)
    return not (small in parts and all(value - small in parts for value in larger))


def _by_target(papers: Papers, names: tuple[str, str]) -> dict[str, list[tuple[Cell, float, float]]]:
    """Group cells that print both metrics by data set, without repeated numbers; omit sets with too few."""
    by_target: dict[str, dict[tuple[float, float], tuple[Cell, float, float]]] = defaultdict(dict)
    for cell in cells(papers):
        one, two = (cell.printed.get(name) for name in names)
        if cell.target and one is not None and two is not None:
            by_target[cell.target].setdefault((one, two), (cell, one, two))
    return {target: list(rows.values()) for target, rows in by_target.items() if len(rows) >= FEWEST}


def _share(low: float, high: float) -> float:
    return (high - low) / (100 - low) if low < 100 else 1.0


def _outlying(values: Sequence[float]) -> list[float]:
    """Compute each value's distance from the median, in robust standard deviations."""
    middle = statistics.median(values)
    spread = 1.4826 * statistics.median(abs(value - middle) for value in values)
    return [(value - middle) / max(spread, 0.01) for value in values]


def _both(one: Mapping[str, float | None], other: Mapping[str, float | None]) -> dict[str, tuple[float, float]]:
    return {
        name: (value, there)
        for name, value in one.items()
        if value is not None and (there := other.get(name)) is not None
    }
