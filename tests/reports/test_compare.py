"""What moved between two folders of results, and beside what was recorded."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import made
import msgspec
import pytest

from reports import cli
from reports.cases import Case
from reports.compare import compare, text, write_page
from reports.pages import page
from reports.render import render
from reproduce.papers import baselines
from reproduce.papers.baselines import OLDER

HOSTILE = """<script>alert("1 & 2")</script>"""
PAPERS = {"demo": made.paper({"paper": "demo", "name": "Demo"})}


def result(row: str, numbers: list[float], seeds: tuple[int, ...] = (1, 2, 3), **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "format": 1,
        "case": {"paper": "demo", "table": "3", "row": row, "label": f"+ {row}", "column": "m2d"},
        "identity": {"scale": "small", "data": {"duke": {"kind": "stand-in", "seed": 1}}},
        "measured": {
            str(seed): {"mAP": number, "rank1": number + 10} for seed, number in zip(seeds, numbers, strict=False)
        },
        "verdict": "not comparable",
        "reasons": ["stand-in data"],
    }
    return made | changes


def outcome(old: dict[str, Any], new: dict[str, Any]) -> str:
    (pair,) = compare([made.kept(old)], [made.kept(new)], PAPERS).pairs
    return pair.outcome


def test_a_difference_is_judged_as_a_run_judges_it() -> None:
    old = result("a", [50.0, 51.0, 52.0], steady=False)
    for new in (result("a", [80.0]), result("a", [51.5]), result("a", [50.0, 51.0, 52.0])):
        (pair,) = compare([made.kept(old)], [made.kept(new)], PAPERS).pairs
        beside = baselines.compare(made.kept(new), [made.kept(old)])
        assert beside
        assert pair.moves[0].band == f"{beside.metrics['mAP'].band:.1f}"
        assert (pair.outcome == "drifted") == beside.drift


def test_outcomes() -> None:
    old = result("a", [50.0, 52.0, 55.0])
    assert outcome(old, copy.deepcopy(old)) == "same"
    assert outcome(old, result("a", [50.5, 52.0, 55.0])) == "within"
    assert outcome(old, result("a", [50.0], (1,))) == "same", "the seed that both have is the same"
    assert outcome(old, result("a", [50.0, 51.0], (4, 5))) == "within"
    assert outcome(result("a", [50.0] * 3), result("a", [50.1] * 3)) == "drifted"
    swinging = result("a", [46.0, 50.0, 55.0])
    assert outcome(swinging, result("a", [0.0] * 3)) == "not judged"
    assert outcome(old, result("a", [], verdict="error")) == "changed"


def test_only_the_same_setting_is_compared() -> None:
    other = result("a", [50.0])
    other["identity"]["data"]["duke"]["seed"] = 2
    found = compare(
        [made.kept(result("a", [50.0])), made.kept(result("b", [1.0]))],
        [made.kept(other), made.kept(result("b", [1.0]))],
        PAPERS,
    )
    assert [pair.name for pair in found.pairs] == ["Demo Table 3, + b, m2d"]
    assert found.new == ("Demo Table 3, + a, m2d (scale small, stand-ins, world seed 2)",)
    assert found.vanished == ("Demo Table 3, + a, m2d (scale small, stand-ins, world seed 1)",)
    assert found.sentence == "1 case in both: 1 same; 1 new, 1 vanished."


def test_what_moved_stands_first_and_verdicts_that_changed_are_said(tmp_path: Path) -> None:
    old = [result(row, [50.0, 50.5, 51.0]) for row in ("same", "within", "moved")]
    new = [
        result("same", [50.0, 50.5, 51.0], verdict="drifted"),
        result("within", [50.0, 50.5, 51.2]),
        result("moved", [40.0, 40.5, 41.0]),
    ]
    found = compare([made.kept(each) for each in old], [made.kept(each) for each in new], PAPERS)
    assert [pair.name.split("+ ")[1] for pair in found.shown] == ["moved, m2d", "within, m2d", "same, m2d"]
    printed = text(found)
    assert printed.isascii() or "±" in printed
    assert "mAP     50.5 (n = 3) -> 40.5 (n = 3)  -10.0  band ±1.8" in printed
    assert "verdict ○ not comparable -> Δ drifted" in printed
    source = write_page(found, tmp_path, ("old", HOSTILE)).read_text()
    assert "<script>alert" not in source
    assert "−10.0" in source
    assert source.count("<h1>") == 1


def test_the_command_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suites = tmp_path / "suites"
    suites.mkdir()
    (suites / "demo.toml").write_text(made.EMPTY_PAPER)
    for name, number in (("old", 50.0), ("new", 150.0)):
        (tmp_path / name).mkdir()
        hostile = result("a", [number, number + 1])
        hostile["case"]["label"] = HOSTILE
        record = msgspec.to_builtins(made.kept(hostile))
        (tmp_path / name / "one.json").write_text(json.dumps(record))
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    assert cli.main(["--compare", old, new, "--suites", str(suites), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("1 case in both: 1 drifted; 0 new, 0 vanished.")
    assert shown.splitlines()[-1] == str(tmp_path / "compare.html")
    assert "<script>alert" not in (tmp_path / "compare.html").read_text()
    assert cli.main([old, "--compare", old, new, "--suites", str(suites)]) == 2
    assert cli.main(["--compare", old, str(tmp_path / "absent"), "--suites", str(suites)]) == 2


def drifted() -> dict[str, Any]:
    metrics = {"mAP": {"old": 49.7, "new": 30.0, "band": 12.3}, "rank1": {"old": 60.0, "new": 59.0, "band": 12.3}}
    baseline = {"commit": "92c8bba" + "0" * 33, "recorded_seeds": [1, 2, 3], "seeds": [1], "drift": True}
    return result("a", [30.0], verdict="drifted", baseline=baseline | {"metrics": metrics}, command="pytest 'one'")


def test_a_drift_is_said_first_with_old_new_band_and_commit(tmp_path: Path) -> None:
    case = Case(made.kept(drifted()))
    assert not case.comparable
    assert case.verdict.word == "drifted"
    assert case.why == "recorded at commit 92c8bba00000: mAP 49.7, now 30.0 (band ±12.3)"
    whole = page([made.kept(drifted()), made.kept(result("b", [1.0]))], PAPERS, "x")
    assert [[case.row for case in trouble.cases] for trouble in whole.attention] == [["a"]]
    assert whole.next.command == "pytest 'one'"
    html, markdown = render([made.kept(drifted())], PAPERS, tmp_path)
    assert "mAP 49.7, now 30.0" in html.read_text()
    assert "mAP 49.7, now 30.0" in markdown.read_text()
    (shown,) = html.parent.glob("cases/*.html")
    for word in (
        "Beside its recorded result",
        "92c8bba00000",
        "with seeds 1, 2, 3",
        "outside its band",
        "−19.7",
        "±12.3",
    ):
        assert word in shown.read_text()


def test_a_case_inside_its_band_keeps_its_verdict(tmp_path: Path) -> None:
    kept = drifted() | {"verdict": "not comparable"}
    kept["baseline"]["drift"] = False
    kept["baseline"]["metrics"]["mAP"]["new"] = 49.0
    assert page([made.kept(kept)], PAPERS, "x").attention == ()
    html, _ = render([made.kept(kept)], PAPERS, tmp_path)
    (shown,) = html.parent.glob("cases/*.html")
    assert "inside its band" in shown.read_text()


def test_a_difference_that_is_not_judged_says_why_and_where_it_was_recorded(tmp_path: Path) -> None:
    kept = drifted() | {"verdict": "not comparable"}
    kept["baseline"] |= {"drift": False, "unjudged": "it learns", "same_machine": False, "recorded_on": [HOSTILE]}
    kept["elsewhere"] = [{"on": ["a Zen"], "measured": {"1": {"mAP": 41.0}, "2": {"mAP": 43.0}}}]
    html, _ = render([made.kept(kept)], PAPERS, tmp_path)
    (shown,) = html.parent.glob("cases/*.html")
    page = shown.read_text()
    assert "outside its band; not judged: it learns" in page
    assert "<script>alert" not in page
    assert "1 &amp; 2" in page
    assert "on a Zen" in page
    assert "42.0 ± 1.4" in page


def test_an_older_recipe_is_said_and_no_band_is_left(tmp_path: Path) -> None:
    kept = drifted() | {"verdict": "not comparable"}
    kept["baseline"] |= {"drift": False, "unjudged": OLDER}
    html, _ = render([made.kept(kept)], PAPERS, tmp_path)
    (shown,) = html.parent.glob("cases/*.html")
    page = shown.read_text()
    assert "with seeds 1, 2, 3; recorded for an older recipe." in page
    assert "outside" not in page
