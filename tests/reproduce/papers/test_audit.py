"""Each rule finds a planted contradiction of its kind, and is silent about the same papers without it."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduce.commands.cli import main
from reproduce.errors import UserError
from reproduce.papers.audit import DATED, as_json, audit
from reproduce.papers.findings import Finding
from reproduce.papers.statements import text_against_tables
from reproduce.papers.tables import Paper, parse, read, read_all

SUITES = Path(__file__).parents[3] / "suites"

PAPER = """
paper = "{paper}"
title = "T"
authors = "A"
venue = "V"
[[table]]
id = "1"
caption = "C"
where = "section 2"
checked = "twice"
columns = [{{ id = "m2d", label = "M to D" }}]
metrics = ["mAP", "rank1", "rank5", "rank10"]
row = [
    {{ id = "quoted", label = "Method Q [{cite}]", executed = "no", m2d = [{quoted}, 50.0, 70.0, 76.0] }},
    {{ id = "base", label = "Base {paper}", executed = "yes", m2d = [20.0, 40.0, 62.0, 70.0] }},
    {{ id = "one", label = "One {paper}", executed = "yes", m2d = [{one}] }},
    {{ id = "two", label = "Two {paper}", executed = "yes", m2d = [33.0, 55.0, 73.0, 79.0] }},
    {{ id = "three", label = "Three {paper}", executed = "yes", m2d = [36.0, 58.0, 75.0, 81.0] }},
    {{ id = "four", label = "Four {paper}", executed = "yes", m2d = [38.0, 60.0, 76.0, 82.0] }},
    {{ id = "five", label = "Five {paper}", executed = "yes", m2d = [41.0, 62.5, 77.0, 83.0] }},
    {{ id = "six", label = "Six {paper}", executed = "yes", m2d = [44.0, 65.0, 79.0, 84.5] }},
    {{ id = "seven", label = "Seven {paper}", executed = "yes", m2d = [47.0, 68.0, 81.0, 86.0] }},
]
[[table]]
id = "2"
caption = "C"
where = "section 3"
checked = "twice"
columns = [{{ id = "m2d", label = "M to D", metrics = ["mAP", "mAP_gain"] }}]
row = [
    {{ id = "base", label = "Base {paper}", executed = "yes", m2d = [{again}, "-"] }},
    {{ id = "two", label = "Two {paper}", executed = "yes", gain = ["two", "base"], m2d = [33.0, {gain}] }},
]
[[claim]]
id = "gain"
where = "section 4"
says = "One is better than the base."
kind = "gain"
left = "1/one/m2d"
right = "1/base/m2d"
stated = {{ mAP = {stated_map}, rank1 = {stated_rank1} }}
[[claim]]
id = "value"
where = "section 4"
says = "Two reaches a value."
kind = "value"
left = "1/two/m2d"
stated = {{ mAP = {value} }}
[[claim]]
id = "order"
where = "section 5"
says = "{winner} is better than one and two."
kind = "order"
left = "1/{winner}/m2d"
right = ["1/one/m2d", "1/two/m2d"]
metrics = ["mAP"]
[[claim]]
id = "count"
where = "section 6"
says = "Duke has images."
kind = "count"
left = "duke"
stated = {{ images = {images}, train_images = 10, query_images = 2, gallery_images = 8 }}
"""

RIGHT = {
    "cite": "3",
    "quoted": "30.0",
    "one": "30.0, 52.0, 71.0, 77.5",
    "again": "20.0",
    "gain": "13.0",
    "stated_map": "10.0",
    "stated_rank1": "12.0",
    "value": "33.0",
    "winner": "three",
    "images": "20",
}

PLANTED = [
    ({"one": "30.0, 72.0, 71.0, 77.5", "stated_rank1": "32.0"}, "ranks fall", "slip", "rank-1 is 72.0"),
    ({"one": "30.0, 52.0, 53.0, 60.0"}, "implausible ranks", "open", "2% of the missed queries"),
    ({"one": "53.0, 52.0, 71.0, 77.5", "stated_map": "33.0", "winner": "one"}, "implausible mAP", "open", "53.0"),
    ({"one": "20.0, 52.0, 62.0, 70.0", "stated_map": "0.0"}, "repeated cells", "open", "rank-5 62.0"),
    ({"again": "20.7", "gain": "12.3"}, "one row, two tables, different numbers", "slip", "mAP 20.0 and 20.7"),
    ({"gain": "14.0"}, "sums", "slip", "33.0 - 20.0 is 13.0"),
    ({"value": "35.0"}, "text against table", "slip", "mAP 33.0, not 35.0"),
    ({"value": "36.0"}, "text against table", "slip", "It is the number of Three a"),
    ({"stated_map": "11.0"}, "text computes with other numbers", "slip", "mAP +11.0 stated"),
    ({"stated_map": "21.0"}, "text computes with other numbers", "changes a conclusion", "+10.0 in the table"),
    (
        {"stated_map": "13.0", "stated_rank1": "15.0"},
        "text credits another's gain",
        "changes a conclusion",
        "Two a over Base a",
    ),
    ({"winner": "base"}, "text orders otherwise", "changes a conclusion", "mAP 20.0 is not above 30.0"),
    ({"images": "21"}, "counts differ", "slip", "given as 20 and 21. Its parts add up to 20."),
]


def findings(tmp_path: Path, changes: dict[str, str], other: dict[str, str] | None = None) -> tuple[Finding, ...]:
    for name, values in (("a", changes), ("b", other if other is not None else changes)):
        (tmp_path / f"{name}.toml").write_text(PAPER.format(paper=name, **{**RIGHT, **values}))
    return audit(read_all(tmp_path)).findings


def test_consistent_papers_have_no_findings(tmp_path: Path) -> None:
    assert findings(tmp_path, {}) == ()


@pytest.mark.parametrize(("changes", "rule", "effect", "words"), PLANTED)
def test_a_planted_contradiction_is_found(
    tmp_path: Path, changes: dict[str, str], rule: str, effect: str, words: str
) -> None:
    found = [finding for finding in findings(tmp_path, changes, {}) if finding.rule == rule]
    assert found, [finding.rule for finding in findings(tmp_path, changes, {})]
    assert {finding.effect for finding in found} == {effect}
    assert any(words in finding.says for finding in found)
    assert all(finding.places and all(place.value for place in finding.places) for finding in found)


@pytest.mark.parametrize(("quoted", "effect"), [("30.2", "slip"), ("36.0", "open")])
def test_a_method_quoted_differently_by_two_papers(tmp_path: Path, quoted: str, effect: str) -> None:
    (finding,) = findings(tmp_path, {"quoted": quoted, "cite": "17"}, {})
    assert (finding.rule, finding.effect) == ("quoted differently", effect)
    assert "A and B print different numbers for Method Q" in finding.says
    assert [(place.paper, dict(place.numbers)) for place in finding.places] == [
        ("A", {"mAP": float(quoted)}),
        ("B", {"mAP": 30.0}),
    ]


def test_counts_that_do_not_add_up(tmp_path: Path) -> None:
    (finding,) = findings(tmp_path, {"images": "21"})
    assert (finding.rule, finding.effect) == ("counts do not add up", "slip")
    assert "said to hold 21 images, but its parts add up to 20" in finding.says


def test_papers_that_count_a_data_set_differently(tmp_path: Path) -> None:
    (finding,) = findings(tmp_path, {"images": "20"}, {"images": "22"})
    assert finding.rule == "counts differ"
    assert finding.says == "images of duke are given as 20 and 22. Its parts add up to 20."


@pytest.mark.parametrize(("stated", "fits"), [("10", True), ("10.0", True), ("10.4", False), ("9", False)])
def test_a_number_is_held_to_the_precision_it_is_stated_with(tmp_path: Path, stated: str, fits: bool) -> None:
    assert (findings(tmp_path, {"stated_map": stated}) == ()) == fits


def test_at_least(tmp_path: Path) -> None:
    text = PAPER.format(paper="a", **RIGHT).replace('right = "1/base/m2d"', 'right = "1/base/m2d"\nat_least = true')
    for stated, fits in ((9.0, True), (10.5, False)):
        (tmp_path / "a.toml").write_text(text.replace("mAP = 10.0", f"mAP = {stated}"))
        assert (audit({"a": read(tmp_path / "a.toml")}).findings == ()) == fits


def toy(name: str, tables: list[dict[str, Any]], claims: Sequence[dict[str, Any]] = (), **more: Any) -> Paper:
    """Build a paper from tables with the columns m2d and d2m, mAP and rank-1 by default."""
    columns = [{"id": "m2d", "label": "M to D"}, {"id": "d2m", "label": "D to M"}]
    usual = {"caption": "C", "where": "section 2", "checked": "twice", "columns": columns, "metrics": ["mAP", "rank1"]}
    numbered = [{"id": str(number), **usual, **table} for number, table in enumerate(tables, 1)]
    text = [{"id": f"claim-{number}", "where": "section 3", "says": "S.", **it} for number, it in enumerate(claims, 1)]
    return parse(
        {"paper": name, "title": "T", "authors": "A", "venue": "V", "table": numbered, "claim": text, **more}, name
    )


def row(label: str, *cells: list[Any], **more: Any) -> dict[str, Any]:
    entry = {"id": re.sub(r"[^a-z0-9]+", "-", label.lower()), "label": label, "executed": "no", **more}
    return entry | dict(zip(("m2d", "d2m"), cells, strict=False))


def gain(left: str, right: str, stated: dict[str, float], **more: Any) -> dict[str, Any]:
    return {"kind": "gain", "left": left, "right": right, "stated": stated, **more}


OURS = {"executed": "yes"}
ROWS = [
    row("Best", [60.0, 75.0], [61.0, 76.0], **OURS),
    row("Next", [50.0, 64.0], [52.0, 67.0]),
    row("Third", [41.0, 55.0], [42.0, 57.0]),
    row("Last", [33.0, 44.0], [30.0, 42.0]),
]


def found(*papers: Paper) -> list[Finding]:
    return list(audit({paper.id: paper for paper in papers}).findings)


def test_gains_that_fit_another_number_are_one_finding() -> None:
    stated = {"next": 3.0, "third": 12.0, "last": 20.0}  # of 53.0, not 60.0
    claims = [gain("1/best/m2d", f"1/{name}/m2d", {"mAP": value}) for name, value in stated.items()]
    (finding,) = found(toy("a", [{"row": ROWS}], claims))
    assert (finding.rule, finding.count, finding.about) == ("constant shift", 3, "shift: 1/best/m2d mAP")
    assert "off by the same 7.0: they fit mAP 53.0 for Best" in finding.says
    assert "By the table" not in finding.says, "each lead is more than half as large as stated"
    assert len(found(toy("a", [{"row": ROWS}], claims[:2]))) == 2, "two may fit by chance"


def test_a_shift_tells_which_conclusion_falls() -> None:
    stated = {"next": 22.0, "third": 31.0, "last": 39.0}  # of 72.0, not 60.0
    claims = [gain("1/best/m2d", f"1/{name}/m2d", {"mAP": value}) for name, value in stated.items()]
    (finding,) = found(toy("a", [{"row": ROWS}], claims))
    assert finding.says.endswith("By the table Best is 10.0 above Next, not 22.0 above it."), "less than half is left"
    stated = {"third": 7.0, "last": 15.0}  # of 48.0
    behind = [gain("1/best/m2d", f"1/{name}/m2d", {"mAP": value}) for name, value in stated.items()]
    behind.append(gain("1/next/m2d", "1/best/m2d", {"mAP": 2.0}))
    (finding,) = found(toy("a", [{"row": ROWS}], behind))
    assert finding.says.endswith("By the table Next is 10.0 below Best, not 2.0 above it.")


def test_a_gain_of_another_row_over_the_same_one() -> None:
    (finding,) = found(toy("a", [{"row": ROWS}], [gain("1/best/m2d", "1/last/m2d", {"mAP": 17.0})]))
    assert finding.rule == "text credits another's gain"
    assert "that of Next over Last" in finding.says


def test_a_sentence_that_is_repeated_with_its_numbers() -> None:
    claims = [gain(f"1/{name}/m2d", "1/last/m2d", {"mAP": 27}) for name in ("best", "next")]
    (finding,) = found(toy("a", [{"row": ROWS}], claims))
    assert "The same numbers are stated of Best, which they fit" in finding.says


@pytest.mark.parametrize(
    ("stated", "effect"), [(11, "rounding"), (20, "slip"), (-5, "slip"), (30, "changes a conclusion")]
)
def test_about(stated: int, effect: str) -> None:
    claim = gain("1/best/m2d", "1/next/m2d", {"mAP": stated}, about=True)
    rows = [row("Best", [60.0, 75.0]), row("Next", [48.0, 64.0])]
    (finding,) = found(toy("a", [{"columns": [{"id": "m2d", "label": "M"}], "row": rows}], [claim]))
    assert finding.effect == effect


def test_ties_are_no_contradiction() -> None:
    rows = [row("One", [50.0, 60.0], [51.0, 61.0]), row("Two", [50.0, 59.0], [49.0, 58.0])]
    (finding,) = found(toy("a", [{"row": rows}], [{"kind": "order", "left": "1/one/m2d", "right": "1/two/m2d"}]))
    assert (finding.rule, finding.effect) == ("text orders otherwise", "rounding")
    assert "mAP 50.0 equals that of Two" in finding.says


def test_a_conclusion_with_two_readings() -> None:
    claims = [{"kind": "order", "left": f"1/{name}/m2d", "right": "1/next/m2d"} for name in ("third", "best")]
    (finding,) = found(toy("a", [{"row": ROWS}], claims))
    assert finding.effect == "one reading"
    assert finding.says.endswith("Read of Best it holds.")
    elsewhere = [claims[0], claims[1] | {"where": "section 9"}]
    (finding,) = found(toy("a", [{"row": ROWS}], elsewhere))
    assert finding.effect == "changes a conclusion", "another place is another statement"


def test_statements_that_contradict_each_other() -> None:
    claims = [
        {"kind": "order", "left": "1/third/m2d", "right": "1/next/m2d", "metrics": ["mAP"]},
        {"kind": "order", "left": "1/next/m2d", "right": "1/third/m2d", "metrics": ["mAP"], "says": "Next leads."},
    ]
    (finding,) = found(toy("a", [{"row": ROWS}], claims))
    assert "The text says the opposite too: Next leads." in finding.says


def test_two_rivals_in_one_statement() -> None:
    claims = [gain("1/best/m2d", "1/next/m2d", {"rank1": 11.0}), gain("1/best/m2d", "1/third/m2d", {"mAP": 19.0})]
    (finding,) = found(toy("a", [{"row": ROWS}], claims))
    assert finding.rule == "two rivals in one statement"
    assert found(toy("a", [{"row": ROWS}], [claims[0], claims[1] | {"quote": "elsewhere"}])) == []


def test_same_numbers_under_another_name() -> None:
    one = toy("a", [{"row": [row("Method P", [40.0, 55.0], [42.0, 57.0])]}])
    (finding,) = found(one, toy("b", [{"row": [row("Method Q [7]", [40.0, 55.0], [42.0, 57.0])]}]))
    assert finding.rule == "same numbers under another name"
    assert finding.says.startswith("Method P and Method Q [7] have the same 4 numbers")
    assert found(one, toy("b", [{"row": [row("Method Q", [40.0, 55.0], [42.0, 57.1])]}])) == []
    two = toy("b", [{"row": [row("Method Q", [40.0, "-"], [42.0, "-"])]}])
    assert found(one, two) == [], "two equal numbers may be chance"
    assert found(one, toy("b", [{"row": [row("Method P: final", [40.0, 55.0], [42.0, 57.0])]}])) == []


def test_one_work_under_two_names() -> None:
    one = toy("a", [{"row": [row("Method P", [40.0, 55.0], [42.0, 57.0])]}])
    for label in ("Extra+Method P", "Method P (k-means)"):
        (finding,) = found(one, toy("b", [{"row": [row(label, [44.0, 59.0], [47.0, 61.0])]}]))
        assert finding.rule == "one work under two names"
    both = [row("Method P", [40.0, 55.0], [42.0, 57.0]), row("Extra+Method P", [44.0, 59.0], [47.0, 61.0])]
    assert found(one, toy("b", [{"row": both}])) == [], "a paper that prints both means two systems"


@pytest.mark.parametrize(
    ("refs", "effect", "odd"),
    [
        (("CVPR'19", "ECCV'18"), "slip", ""),
        (("CVPR'19", "arXiv'18"), "open", ""),
        (("CVPR'19", "CVPR'19", "ECCV'18"), "slip", "P2"),
    ],
)
def test_one_name_two_venues(refs: Sequence[str], effect: str, odd: str) -> None:
    papers = [
        toy(f"p{place}", [{"row": [row("Method P", [40.0, 55.0], ref=ref)], "columns": [{"id": "m2d", "label": "M"}]}])
        for place, ref in enumerate(refs)
    ]
    (finding,) = found(*papers)
    assert (finding.rule, finding.effect, finding.odd) == ("one name, two venues", effect, odd)
    assert (
        found(
            *papers[:1],
            toy(
                "same",
                [
                    {
                        "row": [row("Method P", [40.0, 55.0], ref=refs[0].upper())],
                        "columns": [{"id": "m2d", "label": "M"}],
                    }
                ],
            ),
        )
        == []
    )


def test_minority_order_of_columns() -> None:
    usual = {"row": [row("Best", [60.0, 75.0], [61.0, 76.0])]}
    turned = usual | {"columns": [{"id": "d2m", "label": "D to M"}, {"id": "m2d", "label": "M to D"}]}
    (finding,) = found(toy("a", [usual, turned, usual]))
    assert (finding.rule, finding.about) == ("minority order of columns", "order of columns: table 2")
    assert found(toy("a", [usual, turned])) == [], "of two tables none is the odd one"


def test_a_column_that_repeats_another_row() -> None:
    rows = [row("One", [50.0, 60.0], [51.0, 61.0]), row("Two", [50.0, 60.0], [49.0, 58.0])]
    (finding,) = found(toy("a", [{"row": rows}]))
    assert finding.rule == "repeated cells"
    assert "but not the numbers of the other columns" in finding.says


def test_steps_between_ranks_against_like_rows() -> None:
    metrics = {"metrics": ["rank1", "rank5", "rank10"], "columns": [{"id": "m2d", "label": "M"}]}
    steps = [5.1, 5.6, 4.9, 5.3, 5.8, 5.0, 5.5, 5.2, 5.4]
    rows = [row(f"Row {n}", [60.0 + n / 4, 74.0 + n / 4, 74.0 + n / 4 + step]) for n, step in enumerate(steps)]
    assert found(toy("a", [{"row": rows, **metrics}])) == []
    rows[4] = row("Row 4", [61.0, 75.0, 77.0])
    (finding,) = found(toy("a", [{"row": rows, **metrics}]))
    assert (finding.rule, finding.about) == ("implausible ranks", "implausible ranks: 1/row-4/m2d")


def test_counts_that_papers_explain_are_no_finding() -> None:
    def count(**stated: float) -> dict[str, Any]:
        return {"kind": "count", "left": "duke", "stated": stated}

    table = [{"row": ROWS}]
    apart = count(images=30, train_images=10, query_images=4, gallery_images=20)
    assert found(toy("a", table, [apart])) == [], "queries counted apart"
    people = count(ids=18, camera_ids=14, distractor_ids=4)
    assert found(toy("a", table, [people]), toy("b", table, [count(ids=14)])) == []
    (finding,) = found(toy("a", table, [people]), toy("b", table, [count(ids=15)]))
    assert finding.rule == "counts differ"


def test_findings_keep_their_ids_and_replies() -> None:
    claims = [{"kind": "value", "left": "1/best/m2d", "stated": {"mAP": value}} for value in (10.0, 11.0)]
    kept = [{"id": "A-07", "about": "value: claim-2", "reply": "We agree."}]
    one, two = found(toy("a", [{"row": ROWS}], claims, finding=kept))
    assert [(one.id, one.reply), (two.id, two.reply)] == [("A-08", ""), ("A-07", "We agree.")]
    (alone,) = found(toy("a", [{"row": ROWS}], claims[1:] and [claims[0] | {"id": "claim-2"}], finding=kept))
    assert alone.id == "A-07", "an id belongs to what the finding is about"


def test_what_readers_found_is_not_computed() -> None:
    table = {"row": [ROWS[0] | {"doubts": ["The row looks odd."]}, *ROWS[1:]], "doubts": ["The caption is cut."]}
    result = audit({"a": toy("a", [table])})
    assert result.findings == ()
    assert [(it.paper, it.where, it.says) for it in result.readings] == [
        ("A", "table 1", "The caption is cut."),
        ("A", "table 1, Best", "The row looks odd."),
    ]


def test_quotes_are_short() -> None:
    claim = {"kind": "value", "left": "1/best/m2d", "stated": {"mAP": 60.0}, "quote": "word " * 16}
    with pytest.raises(UserError, match="quote has 16 words"):
        toy("a", [{"row": ROWS}], [claim])


tenths = st.integers(100, 900).map(lambda tenth: tenth / 10)


@given(values=st.lists(tenths, min_size=4, max_size=7), wrong=st.integers(-90, 90))
def test_true_statements_agree_and_a_wrong_one_is_found(values: list[float], wrong: int) -> None:
    """Claims computed from a table agree; one gain off by at least 0.2 fails, all others stay."""
    rows = [row(f"Row {place}", [value, "-"], ["-", "-"]) for place, value in enumerate(values)]
    claims = [
        gain(f"1/row-{high}/m2d", f"1/row-{low}/m2d", {"mAP": round(values[high] - values[low], 1)})
        for high, low in itertools.combinations(range(len(values)), 2)
    ]
    claims += [
        {"kind": "value", "left": f"1/row-{place}/m2d", "stated": {"mAP": it}} for place, it in enumerate(values)
    ]
    outcomes = list(text_against_tables({"a": toy("a", [{"row": rows}], claims)}))
    assert outcomes == [None] * len(claims)
    if abs(wrong) >= 2:
        claims[0] = claims[0] | {"stated": {"mAP": round(claims[0]["stated"]["mAP"] + wrong / 10, 1)}}
        outcomes = list(text_against_tables({"a": toy("a", [{"row": rows}], claims)}))
        (finding,) = [outcome for outcome in outcomes if outcome]
        assert finding.about == "gain: claim-1"
        assert outcomes.count(None) == len(claims) - 1


@given(values=st.lists(tenths, min_size=4, max_size=7, unique=True), off=st.integers(3, 300))
def test_a_misprinted_cell_is_one_finding(values: list[float], off: int) -> None:
    """Gains computed before one cell was misprinted are one finding about that cell."""
    rows = [row(f"Row {place}", [value, "-"], ["-", "-"]) for place, value in enumerate(values)]
    claims = [
        gain("1/row-0/m2d", f"1/row-{low}/m2d", {"mAP": round(values[0] - values[low], 1)})
        for low in range(1, len(values))
    ]
    misprint = round(values[0] + off / 10 if values[0] + off / 10 <= 100 else values[0] - off / 10, 1)
    rows[0] = rows[0] | {"m2d": [max(misprint, 0.0), "-"]}
    (finding,) = [it for it in text_against_tables({"a": toy("a", [{"row": rows}], claims)}) if it]
    assert (finding.rule, finding.about) == ("constant shift", "shift: 1/row-0/m2d mAP")
    assert finding.count == len(claims)


def test_the_published_papers(capsys: pytest.CaptureFixture[str]) -> None:
    """The kinds of contradiction that are known to be there."""
    assert main(["audit", "--json", "--suites", str(SUITES)]) == 0
    printed = json.loads(capsys.readouterr().out)
    result = audit(read_all(SUITES))
    assert printed == json.loads(json.dumps(as_json(result)))
    assert all(it["computed"] for it in printed["findings"])
    assert printed["readings"]
    assert not any(it["computed"] for it in printed["readings"])
    texts = defaultdict(list)
    for finding in printed["findings"]:
        texts[finding["rule"]].append(finding["says"])
    assert any("random crop" in text and "SPTD (RF + RE) over" in text for text in texts["text credits another's gain"])
    assert any("SPTD (k-means)" in text for text in texts["one row, two tables, different numbers"])
    assert any("18.5" in text and "SSG" in text for text in texts["text computes with other numbers"])
    assert len(texts["constant shift"]) == 2
    assert any("number of MMCL" in text for text in texts["text against table"])
    assert not any("ids of duke" in text or "market is said" in text for text in texts["counts differ"])


def test_the_audit_is_the_same_in_every_process() -> None:
    """No order comes from a set of strings, which every process hashes differently."""
    command = [sys.executable, "-m", "reproduce", "audit", "--json", "--suites", str(SUITES)]
    printed = {
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2", "3")
    }
    assert len(printed) == 1


def test_ids_of_published_findings_are_kept() -> None:
    """Every finding about the published papers has an id in its paper's file, and no id is left over."""
    papers = {id: paper for id, paper in read_all(SUITES).items() if (SUITES / f"{id}.toml").is_file()}
    findings = audit(papers).findings
    kept = {about: number.id for paper in papers.values() for about, number in paper.findings.items()}
    assert {finding.about: finding.id for finding in findings} == kept
    assert len(set(kept.values())) == len(kept)


def test_quotes_are_the_papers_own_words(real_data: Path) -> None:
    folder = real_data.parent / "papers"
    if not folder.is_dir():
        pytest.skip("the papers' texts do not lie beside the test data")
    for paper in read_all(SUITES).values():
        if (folder / f"{paper.id}.txt").is_file():
            text = " ".join((folder / f"{paper.id}.txt").read_text().split())
            assert [claim.id for claim in paper.claims if claim.quote not in text] == []


def test_the_page_is_for_readers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--suites", str(SUITES)]) == 0
    page = capsys.readouterr().out
    result = audit(read_all(SUITES))
    assert page.count("\n### ") == len(result.findings)
    assert f"{len(result.findings)} findings" in page
    assert all(reading.says in page for reading in result.readings)
    assert "_gain" not in page


def test_the_ids_command_prints_what_the_files_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--ids", "--suites", str(SUITES)]) == 0
    printed = capsys.readouterr().out
    for block in re.split(r"^# (?=\w+\.toml$)", printed, flags=re.MULTILINE)[1:]:
        name, _, entries = block.partition("\n")
        if (SUITES / name).is_file():
            assert tomllib.loads(entries).get("finding", []) == tomllib.loads((SUITES / name).read_text())["finding"]


def test_the_citation_names_this_version() -> None:
    citation = (SUITES.parent / "CITATION.cff").read_text()
    version = tomllib.loads((SUITES.parent / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in citation
    assert f"\ndate-released: {DATED}\n" in citation
