"""Claims on the pages: each world that one was tried in, what it came to, and what was not tried."""

from __future__ import annotations

import copy
import re
from collections import Counter
from pathlib import Path
from typing import Any

import made
import pytest
from msgspec import structs

from reports import cli, pages
from reports.cases import Case
from reports.claims import WIDTH, read_claims, tally
from reports.readme import readme_table
from reports.render import render
from reproduce.papers.cases import STANDINGS, ClaimCase, coverage
from reproduce.papers.export import claims_page
from reproduce.papers.records import Point, write
from reproduce.papers.statistics import on_its_own
from reproduce.papers.tables import read_all
from reproduce.session.display import claims_summary
from reproduce.session.planning import collected

HOSTILE = """<script>alert("1 & 2")</script> | 'quoted' `code` *star*"""
PAPER = {
    "paper": "demo",
    "title": "A demonstration",
    "table": [
        {
            "id": "3",
            "columns": [{"id": "m2d"}],
            "metrics": ["mAP"],
            "row": [{"id": "with", "label": "+ CN", "m2d": [69.3]}, {"id": "without", "label": "+ CS", "m2d": [61.8]}],
        }
    ],
    "claim": [
        {"id": "facts", "where": "section 3", "says": "The set holds six cameras.", "testable": "no", "why": "a fact"},
        {
            "id": "gain",
            "where": "section 4",
            "says": "CN adds 7.5 mAP.",
            "left": "3/with/m2d",
            "right": "3/without/m2d",
            "cause": "camera",
            "testable": "yes",
        },
        {"id": "other", "where": "section 4", "says": "CS adds more than CN.", "testable": "yes"},
    ],
}
DEMO = made.paper(PAPER)
NOTHING = made.paper({"paper": "nothing"})
IDENTITY = {"scale": "small", "data": {"duke": {"kind": "stand-in", "seed": 1, "dials": {"camera": 1.0}}}}


def trial(world: str = "", verdict: str = "undecided", **changes: Any) -> dict[str, Any]:
    identity = copy.deepcopy(IDENTITY)
    identity["data"]["duke"] |= {"seed": 2} if world == "world2" else {}
    identity["data"]["duke"] |= {"dials": {"camera": 0.0}} if world == "no-camera" else {}
    claim = {
        "paper": "demo",
        "id": "gain",
        "left": "3/with/m2d",
        "right": ["3/without/m2d"],
        "says": "CN adds 7.5 mAP.",
    }
    compared = {
        "right": "3/without/m2d",
        "metric": "mAP",
        "stated": 7.5,
        "difference": -3.2,
        "low": -9.9,
        "high": 3.5,
        "interval": "95 % t interval over 3 seeds and the queries",
        "by_seed": {"1": -2.0, "2": -4.1, "3": -3.5},
    }
    made = {
        "format": 1,
        "claim": claim,
        "world": world,
        "identity": identity,
        "verdict": verdict,
        "reasons": ["p = 0.84 after Holm's correction"],
        "compared": [compared],
        "p": 0.21,
        "p_adjusted": 0.84,
        "family": "11 claims of table 3 (Holm)",
        "collapsed": ["3/with, seed 1: 1 cluster was left"],
        "command": f"pytest 'suites/test_demo.py::test_claims[gain{world}]' --scale small",
    }
    return made | changes


def cell(row: str) -> dict[str, Any]:
    return {
        "format": 1,
        "case": {"paper": "demo", "table": "3", "row": row, "column": "m2d"},
        "identity": IDENTITY,
        "measured": {"1": {"mAP": 50.0}},
        "verdict": "not comparable",
    }


THREE_WORLDS = [trial("no-camera", "contradicted"), trial("world2", "supported"), trial()]


def shown(tmp_path: Path, records: list[dict[str, Any]]) -> tuple[Path, str]:
    html, markdown = render(
        [made.kept(cell("with"))], {"demo": DEMO}, tmp_path, claims=[made.kept(record) for record in records]
    )
    return html.parent, markdown.read_text(encoding="utf-8")


def plain(source: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", source.split("</style>")[-1]).split())


@pytest.mark.parametrize(
    ("stated", "difference", "changes", "alone"),
    [
        (7.5, -3.2, {}, "contradicted"),
        (7.5, 3.2, {}, "supported"),
        (None, 3.2, {}, "supported"),
        (-7.5, -3.2, {}, "supported"),
        (7.5, -3.2, {"p": 0.2}, ""),
        (7.5, -3.2, {"p_adjusted": 0.04, "verdict": "contradicted"}, ""),
        (7.5, -3.2, {"reasons": ["p = 0.14 after Holm's correction", "drawn weights"]}, ""),
        (7.5, -3.2, {"seeds": [1, 2], "reasons": ["2 seeds: nothing is decided below 3"]}, ""),
    ],
)
def test_what_the_correction_leaves_undecided_says_how_it_would_be_decided_alone(
    tmp_path: Path, stated: float | None, difference: float, changes: dict[str, Any], alone: str
) -> None:
    record = trial(p=0.012, p_adjusted=0.14)
    record["compared"][0] |= {"stated": stated, "difference": difference}
    folder, markdown = shown(tmp_path, [record | changes])
    kept = made.kept(record | changes)
    assert on_its_own(kept) == alone
    for text in (plain((folder / "demo.html").read_text()), markdown, claims_summary([kept], 200, colour=False)):
        assert text.count("if tried alone") == text.count(f"{alone} if tried alone")
        assert ("if tried alone" in text) == bool(alone)


def test_a_claim_is_shown_in_every_world_the_one_asked_for_first(tmp_path: Path) -> None:
    folder, markdown = shown(tmp_path, THREE_WORLDS)
    text = plain((folder / "demo.html").read_text())
    places = [text.index(word) for word in ("the world asked for", "another world", "camera dial at 0")]
    assert places == sorted(places)
    for word in ("? undecided", "✓ supported", "≠ contradicted", "−3.2 (−9.9 to +3.5)", "1: −2.0, 2: −4.1, 3: −3.5"):
        assert word in text.replace("( ", "(")
        assert word in markdown
    cause = "the cause it names: camera"
    for word in ("+7.5", "Table 3, + CS, m2d", cause, "adjusted 0.840", "1 cluster was left"):
        assert word in text
    assert "test_claims[gainno-camera]" in text
    assert "world seed 2" in text


def test_second_words_stand_beside_the_verdict(tmp_path: Path) -> None:
    words = ["smaller than stated", "baseline untrained"]
    folder, markdown = shown(tmp_path, [trial(verdict="supported", second=words), trial("world2", "supported")])
    text = plain((folder / "demo.html").read_text())
    assert text.count("✓ supported smaller than stated baseline untrained") == 2, "the claim's and the first world's"
    assert markdown.count("✓ supported, smaller than stated, baseline untrained") == 1
    overview = plain((folder / "index.html").read_text())
    assert "✓ supported smaller than stated baseline untrained DEMO: CN adds 7.5 mAP." in overview


@pytest.mark.parametrize("verdict", ["supported", "undecided"])
def test_a_claim_tried_in_part_says_so_wherever_its_verdict_stands(verdict: str, tmp_path: Path) -> None:
    record = trial(verdict=verdict, second=["smaller than stated"])
    record["claim"]["testable"] = "part"
    folder, markdown = shown(tmp_path, [record])
    (case,) = folder.glob("cases/*.html")
    for page in (folder / "index.html", folder / "demo.html", case):
        assert f"{verdict} tried in part smaller than stated" in plain(page.read_text())
    for text in (markdown, claims_summary([made.kept(record)], 200, colour=False)):
        assert f"{verdict}, tried in part, smaller than stated" in text


@pytest.mark.parametrize(
    ("p", "shown"),
    [(0.0004, "below 0.001"), (0.0494, "0.049"), (0.04992, "0.0499"), (0.04999999, "0.04999999"), (0.0504, "0.050")],
)
def test_a_p_value_lies_on_its_own_side_of_the_threshold(p: float, shown: str) -> None:
    (claim,) = read_claims(NOTHING, [made.kept(trial(p=p, p_adjusted=p))], Counter())
    assert claim.trials[0].p.startswith(f"p {shown}, adjusted {shown} among")


def test_claims_without_a_trial_say_why(tmp_path: Path) -> None:
    folder, markdown = shown(tmp_path, THREE_WORLDS)
    text = plain((folder / "demo.html").read_text())
    for found in (text, markdown):
        assert "The set holds six cameras." in found
        assert "a fact" in found
        assert "no case of these results tries it" in found


def test_the_overview_counts_each_claim_once(tmp_path: Path) -> None:
    page = pages.page([], {"demo": DEMO}, "x", map(made.kept, THREE_WORLDS))
    assert [(word.word, number) for word, number in page.whole.claims] == [("undecided", 1), ("not tried", 2)]
    folder, _ = shown(tmp_path, THREE_WORLDS)
    overview = plain((folder / "index.html").read_text())
    assert "The claim tried on drawn stand-ins is undecided." in overview
    assert "1 not decided ? undecided DEMO: CN adds 7.5 mAP." in overview
    assert "CN adds 7.5 mAP. supported in a second drawn world" in overview
    ((_, same),) = pages.page([], {"demo": DEMO}, "x", map(made.kept, [trial("world2"), trial()])).open
    assert same.elsewhere == ""
    assert "claims about what the papers ran 2 of 3 ? undecided 1 – not tried 2" in plain(
        (folder / "demo.html").read_text()
    )


def test_the_overview_names_decided_claims_first_contradicted_ones_above_all() -> None:
    verdicts = ("undecided", "supported", "contradicted", "supported")
    records = [trial(verdict=verdict) for verdict in verdicts]
    for number, record in enumerate(records):
        record["claim"] = record["claim"] | {"id": f"claim{number}"}
    page = pages.page([], {"demo": DEMO}, "x", map(made.kept, records))
    assert [claim.verdict.word for _, claim in page.decided] == ["contradicted", "supported", "supported"]
    assert [claim.verdict.word for _, claim in page.open] == ["undecided"]
    assert page.whole.finding == "Of 4 claims tried, 2 supported, 1 contradicted and 1 undecided."
    assert readme_table([], {"demo": DEMO}, list(map(made.kept, records))) == page.whole.finding


@pytest.mark.parametrize(
    ("drawn", "measured", "scale", "expected"),
    [
        (True, (20.0, 30.0, 25.0), "small", "On drawn stand-ins, 1 of 2 pairs of cases in one table rank by mAP"),
        (True, (20.0, 30.0, 35.0), "small", "On drawn stand-ins, 2 of 2 pairs"),
        (True, (20.0, 30.0, 35.0), "smoke", ""),
        (False, (20.0, 30.0, 35.0), "small", ""),
    ],
)
def test_without_tried_claims_the_overview_tells_how_cases_rank(
    drawn: bool, measured: tuple[float, ...], scale: str, expected: str
) -> None:
    """Printed are 40, 40 and 50, so that two of the three pairs are apart."""
    identity = made.identity(scale=scale, data=made.DRAWN if drawn else {"duke": {"kind": "folder", "folder": "own"}})
    results = [
        made.result(value, row=row, identity=identity, printed={"mAP": printed})
        for row, printed, value in zip("abc", (40.0, 40.0, 50.0), measured, strict=True)
    ]
    found = pages.page(results, {"demo": DEMO}, "x").whole.finding
    assert found.startswith(expected) if expected else not found


def test_claims_of_a_paper_share_an_axis_of_round_values() -> None:
    near, far = trial(), trial()
    far["claim"] = far["claim"] | {"id": "far"}
    far["compared"] = [far["compared"][0] | {"difference": 40.0, "low": 31.0, "high": 52.0}]
    claims = [claim for claim in read_claims(NOTHING, [made.kept(near), made.kept(far)], Counter()) if claim.trials]
    one, other = (claim.trials[0].comparisons[0].drawn for claim in claims)
    assert claims[0].axis == claims[1].axis
    assert [label for _, label in claims[0].axis] == ["0", "+10", "+20", "+30", "+40", "+50"]
    assert one.zero == other.zero == claims[0].axis[0][0]
    assert other.low > one.high


def test_a_case_names_the_claims_that_compare_it(tmp_path: Path) -> None:
    folder, _ = shown(tmp_path, THREE_WORLDS)
    (page,) = folder.glob("cases/*.html")
    assert 'href="../demo.html#claim-gain"' in page.read_text()
    assert 'id="claim-gain"' in (folder / "demo.html").read_text()


def test_verdicts_need_no_colour_and_a_contradiction_is_no_error() -> None:
    for word in ("supported", "contradicted", "undecided", "error"):
        (claim,) = read_claims(NOTHING, [made.kept(trial(verdict=word))], Counter())
        assert claim.verdict.word == word
        assert claim.verdict.symbol
        assert (claim.verdict.tone == "bad") == (word == "error")
    assert [(word.word, number) for word, number in tally(read_claims(DEMO, [], Counter()))] == [("not tried", 3)]


@pytest.mark.parametrize(
    ("direct", "world", "said"),
    [
        ({"mAP": 25.0}, "", ("without below direct transfer",)),
        ({"mAP": 35.0}, "", ("with below direct transfer", "without below direct transfer")),
        ({"mAP": 20.0}, "", ()),
        ({}, "", ()),
        ({"mAP": 35.0}, "world2", ()),
    ],
)
def test_a_claim_says_which_of_its_rows_ended_below_direct_transfer(
    direct: dict[str, float], world: str, said: tuple[str, ...]
) -> None:
    """The row with camera normalisation has 30 mAP, that without it 20, another 10."""
    identity = made.identity(**IDENTITY)
    rows = [
        made.result(value, row=row, identity=identity)
        for row, value in (("with", 30.0), ("without", 20.0), ("other", 10.0))
    ]
    cases = [Case(row, direct=direct) for row in rows]
    (claim,) = read_claims(NOTHING, [made.kept(trial(world))], Counter(), cases=cases)
    assert claim.trials[0].second == said


def test_a_claim_says_which_points_of_a_sweep_ended_below_direct_transfer() -> None:
    """Of the points at 1, 2 and 3 the claim compares the first two; the row that the sweep varies is no point."""
    usual = made.result(10.0).case
    points = [None, *(Point(figure="6", parameter="p", value=value) for value in (1, 2.0, 3))]
    cells = [structs.replace(usual, label=f"ours, {point}", point=point) for point in points]
    cases = [
        Case(made.result(20.0, case=cell, identity=made.identity(**IDENTITY)), direct={"mAP": 25.0}) for cell in cells
    ]
    record = trial()
    record["claim"] |= {"left": "figure 6/p=1/m2d", "right": ["figure 6/p=2/m2d"]}
    (claim,) = read_claims(NOTHING, [made.kept(record)], Counter(), cases=cases)
    assert claim.trials[0].second == ("p = 1 below direct transfer", "p = 2 below direct transfer")


def test_what_is_drawn_lies_inside_and_in_order() -> None:
    (claim,) = read_claims(NOTHING, [made.kept(trial())], Counter())
    drawn = claim.trials[0].comparisons[0].drawn
    low, mean, zero, high, stated = drawn.low, drawn.mean, drawn.zero, drawn.high, drawn.stated
    assert low is not None
    assert mean is not None
    assert zero is not None
    assert high is not None
    assert stated is not None
    assert 0 < low < mean < zero < high < stated < WIDTH
    assert drawn.summary == "mAP: measured −3.2, interval −9.9 to +3.5, stated +7.5"


def test_least_record_and_one_with_an_error_can_be_shown(tmp_path: Path) -> None:
    least = {
        "format": 1,
        "claim": {"paper": "new", "id": "x"},
        "verdict": "error",
        "compared": [],
        "reasons": ["no m2d"],
    }
    bare = {"format": 1, "claim": {"paper": "new", "id": "y"}, "verdict": "odd"}
    folder, markdown = shown(tmp_path, [least, bare])
    text = plain((folder / "new.html").read_text())
    assert "! error" in text
    assert "· odd" in text
    assert "no m2d" in text
    assert "no m2d" in markdown


def test_claims_are_escaped(tmp_path: Path) -> None:
    hostile = trial(
        "no-camera",
        HOSTILE,
        reasons=[HOSTILE],
        second=[HOSTILE],
        collapsed=[HOSTILE],
        family=HOSTILE,
        command=HOSTILE,
    )
    hostile["claim"] |= dict.fromkeys(("says", "where", "left", "cause", "why"), HOSTILE)
    hostile["claim"] |= {"testable": "part", "right": [HOSTILE]}
    hostile["compared"][0] |= {"right": HOSTILE, "metric": HOSTILE, "interval": HOSTILE, "by_seed": {HOSTILE: 1.0}}
    folder, markdown = shown(tmp_path, [hostile])
    for page in folder.rglob("*.html"):
        assert "<script>alert" not in page.read_text()
    assert "<script" not in re.sub(r"(`+).*?\1", "", markdown)


@pytest.mark.parametrize("where", ["out/claims", "out/results/claims"])
def test_the_command_finds_the_claims_of_a_folder(where: str, tmp_path: Path) -> None:
    results, claims, suites = tmp_path / "out" / "results", tmp_path / where, tmp_path / "suites"
    for folder in (results, claims, suites):
        folder.mkdir(parents=True, exist_ok=True)
    (suites / "demo.toml").write_text(made.EMPTY_PAPER)
    write(made.kept(cell("with")), results)
    write(made.kept(trial()), claims)
    assert cli.main([str(results), "--suites", str(suites), "--out", str(tmp_path / "pages")]) == 0
    assert "CN adds 7.5 mAP." in (tmp_path / "pages" / "report" / "demo.html").read_text()
    index = cli.finish([made.kept(cell("with"))], suites, tmp_path / "finished", claims=[made.kept(trial())])
    assert "? undecided" in plain(index.read_text())


def test_the_order_of_records_changes_nothing(tmp_path: Path) -> None:
    first, again = shown(tmp_path / "a", THREE_WORLDS), shown(tmp_path / "b", THREE_WORLDS[::-1] * 2)
    assert first[1] == again[1]
    assert (first[0] / "demo.html").read_bytes() == (again[0] / "demo.html").read_bytes()


def test_pages_and_the_list_of_claims_agree_on_what_cases_test() -> None:
    suites = Path(__file__).parents[2] / "suites"
    cases = collected(suites)
    tried = {(case.paper, case.claim.id) for case in cases if isinstance(case, ClaimCase)}
    claims = {
        (paper.id, claim.id): claim
        for paper in read_all(suites).values()
        for claim in read_claims(paper, [], Counter(), coverage(cases))
    }
    assert tried
    assert {place for place, claim in claims.items() if claim.standing == STANDINGS["tested"]} == tried
    lines = claims_page(read_all(suites).values(), cases).splitlines()
    listed = [line for line in lines if line.startswith("- `")]
    assert len(listed) == len(claims)
    for heading, words in (("lacking", "no recipe computes"), ("never", "no case can test it")):
        expected = [claim.id for claim in claims.values() if claim.standing == STANDINGS[heading]]
        assert sorted(line.split("`")[1] for line in listed if words in line) == sorted(expected)
