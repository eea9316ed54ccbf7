"""Each rule finds a planted contradiction of its kind, and is silent about the same papers without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reproduce.commands.cli import main
from reproduce.papers.audit import Finding, as_json, audit
from reproduce.papers.tables import read, read_all

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
    ({"one": "30.0, 72.0, 71.0, 77.5", "stated_rank1": "32.0"}, "ranks fall", "misprint", "rank-1 is 72.0"),
    ({"one": "30.0, 52.0, 53.0, 60.0"}, "implausible ranks", "implausible", "2% of the missed queries"),
    (
        {"one": "53.0, 52.0, 71.0, 77.5", "stated_map": "33.0", "winner": "one"},
        "implausible mAP",
        "implausible",
        "53.0",
    ),
    ({"one": "20.0, 52.0, 62.0, 70.0", "stated_map": "0.0"}, "repeated cells", "implausible", "rank-5 62.0"),
    ({"again": "20.7", "gain": "12.3"}, "one row, two tables, different numbers", "misprint", "mAP 20.0 and 20.7"),
    ({"gain": "14.0"}, "sums", "misprint", "33.0 - 20.0 is 13.0"),
    ({"value": "35.0"}, "text against table", "contradiction", "mAP 33.0, not 35.0"),
    (
        {"stated_map": "11.0", "stated_rank1": "12.0"},
        "text computes with other numbers",
        "contradiction",
        "mAP +11.0 stated",
    ),
    (
        {"stated_map": "13.0", "stated_rank1": "15.0"},
        "text credits another's gain",
        "contradiction",
        "Two a over Base a",
    ),
    ({"winner": "base"}, "text orders otherwise", "contradiction", "mAP 20.0 is not above 30.0"),
    ({"images": "21"}, "counts do not add up", "different setting", "21 images"),
]


def findings(tmp_path: Path, changes: dict[str, str], other: dict[str, str] | None = None) -> list[Finding]:
    for name, values in (("a", changes), ("b", other if other is not None else changes)):
        (tmp_path / f"{name}.toml").write_text(PAPER.format(paper=name, **{**RIGHT, **values}))
    return audit(read_all(tmp_path))


def test_consistent_papers_have_no_findings(tmp_path: Path) -> None:
    assert findings(tmp_path, {}) == []


@pytest.mark.parametrize(("changes", "rule", "weight", "words"), PLANTED)
def test_a_planted_contradiction_is_found(
    tmp_path: Path, changes: dict[str, str], rule: str, weight: str, words: str
) -> None:
    found = [finding for finding in findings(tmp_path, changes, {}) if finding.rule == rule]
    assert found, [finding.rule for finding in findings(tmp_path, changes, {})]
    assert {finding.weight for finding in found} == {weight}
    assert any(words in finding.says for finding in found)
    assert all(len(finding.places) >= 2 and all(place.value for place in finding.places) for finding in found)


@pytest.mark.parametrize(("quoted", "weight"), [("30.2", "misprint"), ("36.0", "different setting")])
def test_a_method_quoted_differently_by_two_papers(tmp_path: Path, quoted: str, weight: str) -> None:
    (finding,) = findings(tmp_path, {"quoted": quoted, "cite": "17"}, {})
    assert (finding.rule, finding.weight) == ("quoted differently", weight)
    assert "A and B print different numbers for Method Q" in finding.says
    assert [place.where.split(" table")[0] for place in finding.places] == ["A", "B"]


def test_papers_that_count_a_data_set_differently(tmp_path: Path) -> None:
    rules = {finding.rule for finding in findings(tmp_path, {"images": "20"}, {"images": "22"})}
    assert rules == {"counts differ", "counts do not add up"}


@pytest.mark.parametrize(("stated", "fits"), [("10", True), ("10.0", True), ("10.4", False), ("9", False)])
def test_a_number_is_held_to_the_precision_it_is_stated_with(tmp_path: Path, stated: str, fits: bool) -> None:
    assert (findings(tmp_path, {"stated_map": stated}) == []) == fits


def test_at_least(tmp_path: Path) -> None:
    text = PAPER.format(paper="a", **RIGHT).replace('right = "1/base/m2d"', 'right = "1/base/m2d"\nat_least = true')
    for stated, fits in ((9.0, True), (10.5, False)):
        (tmp_path / "a.toml").write_text(text.replace("mAP = 10.0", f"mAP = {stated}"))
        assert (audit({"a": read(tmp_path / "a.toml")}) == []) == fits


def test_the_published_papers(capsys: pytest.CaptureFixture[str]) -> None:
    """The kinds of contradiction that are known to be there."""
    assert main(["audit", "--json", "--suites", str(SUITES)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(as_json(audit(read_all(SUITES)))))
    texts = {finding["rule"]: [] for finding in found}
    for finding in found:
        texts[finding["rule"]].append(finding["says"] + " ".join(place["where"] for place in finding["places"]))
    assert any("random crop" in text and "SPTD (RF + RE) over" in text for text in texts["text credits another's gain"])
    assert any("SPTD (k-means)" in text for text in texts["one row, two tables, different numbers"])
    assert any("18.5" in text and "DAAM" in text for text in texts["text computes with other numbers"])
    assert any("SSG" in text for text in texts["quoted differently"])
    assert any("MSPLR table 1, Supervised" in text for text in texts["implausible ranks"])


def test_the_page_is_for_readers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--suites", str(SUITES)]) == 0
    page = capsys.readouterr().out
    found = audit(read_all(SUITES))
    assert page.count("\n### ") == len(found)
    assert f"{len(found)} findings" in page
    assert "_gain" not in page
