"""Curves of how methods converge, from the histories of the rows that a figure shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import made
import pytest

from reports.cases import Case
from reports.figures import figures
from reports.render import render
from reports.tables import by_setting

PAPER = {
    "paper": "demo",
    "title": "A demonstration",
    "table": [
        {
            "id": "3",
            "metrics": ["mAP"],
            "columns": [{"id": "m2d"}, {"id": "d2m"}],
            "row": [{"id": "without", "label": "+ without"}, {"id": "with", "label": "+ with"}],
        }
    ],
    "figure": [
        {
            "id": "2",
            "kind": "convergence",
            "where": "section 4",
            "shows": "Accuracy over steps <here>.",
            "rows": ["table 3: without", "table 3: with"],
            "task": ["m2d", "d2m"],
        },
        {"id": "1", "kind": "diagram", "where": "section 3", "shows": "The pipeline.", "rows": [], "task": []},
    ],
}

DEMO = made.paper(PAPER)


def result(row: str, curves: dict[str, list[float]], **data: Any) -> dict[str, Any]:
    stages = []
    for seed, curve in curves.items():
        history: list[dict[str, float]] = []
        for mAP in curve:
            history += [{"step": len(history) + 1, "loss": 1.0}, {"step": len(history) + 2, "loss": 1.0, "mAP": mAP}]
        spec = {"train": {"stage": "msplr.Adapt", "key": f"train {row} {seed}"}}
        stages.append({"key": f"train {row} {seed}", "name": "msplr.Adapt", "history": history, "spec": {"epochs": 1}})
        stages.append({"key": f"score {row} {seed}", "name": "evaluation.Evaluate", "history": [], "spec": spec})
        stages.append({"key": f"source {seed}", "name": "supervised.Train", "history": [{"step": 1, "mAP": 99.0}]})
    return {
        "format": 1,
        "case": {"paper": "demo", "table": "3", "row": row, "label": f"+ {row}", "column": "m2d", "task": "m2d"},
        "identity": {"scale": "small", "data": {"duke": {"kind": "stand-in", "seed": 1, "world": 1, **data}}},
        "printed": {},
        "measured": {seed: {"mAP": curve[-1] if curve else 1.0} for seed, curve in curves.items()},
        "verdict": "not comparable",
        "reasons": ["stand-in data"],
        "stages": stages,
    }


def drawn(*results: dict[str, Any]) -> Any:
    (found,) = figures(DEMO, [Case(made.kept(each)) for each in results], lambda cases: [("together", cases)])
    (one,) = found.drawn
    return one


def test_a_line_is_the_mean_over_seeds_at_each_step() -> None:
    one = drawn(
        result("without", {"1": [10.0, 20.0, 40.0], "2": [30.0, 40.0, 50.0]}), result("with", {"1": [60.0] * 3})
    )
    (panel,) = one.panels
    assert panel.title == "m2d: mAP"
    assert "+ without: from 20.0 to 45.0" in panel.summary
    assert "+ with: from 60.0 to 60.0" in panel.summary
    assert "99" not in panel.summary
    assert [label.text for label in panel.labels] == ["60.0", "45.0"]
    assert [name for name, _ in one.legend] == ["+ without", "+ with"]
    assert len({dash for _, dash in one.legend}) == 2


def test_a_panel_for_each_metric_that_the_figure_names() -> None:
    demo = made.paper(PAPER | {"figure": [PAPER["figure"][0] | {"metrics": ["rank1", "mAP"]}]})
    record = result("with", {"1": [10.0, 20.0]})
    for entry in record["stages"][0]["history"]:
        entry |= {"rank1": 2 * entry["mAP"]} if "mAP" in entry else {}
    cases = [Case(made.kept(record)), Case(made.kept(result("without", {"1": [5.0, 6.0]})))]
    (found,) = figures(demo, cases, lambda cases: [("together", cases)])
    rank1, mAP = found.drawn[0].panels
    assert (rank1.title, mAP.title) == ("m2d: rank-1", "m2d: mAP")
    assert "+ with: from 20.0 to 40.0" in rank1.summary
    assert "+ with: from 10.0 to 20.0" in mAP.summary
    assert "without" not in rank1.summary, "it logged none"
    assert "+ without: from 5.0 to 6.0" in mAP.summary


def test_a_run_that_ended_early_stays_where_it_was() -> None:
    (panel,) = drawn(result("with", {"1": [10.0, 20.0, 30.0], "2": [40.0], "3": []})).panels
    assert "from 25.0 to 35.0" in panel.summary


def test_rows_that_the_figure_does_not_show_draw_nothing(tmp_path: Path) -> None:
    assert figures(DEMO, [Case(made.kept(result("other", {"1": [1.0]})))], lambda cases: [("", cases)]) == ()
    html, markdown = render([made.kept(result("other", {"1": [1.0]}))], {"demo": DEMO}, tmp_path)
    assert "Figure 2" not in (html.parent / "demo.html").read_text() + markdown.read_text()


def test_each_setting_has_its_own_panel_on_the_page(tmp_path: Path) -> None:
    plain, neutral = {"camera": 1.0}, {"camera": 0.0}
    found = [result("with", {"1": [10.0, 20.0]}, dials=dials) for dials in (plain, neutral)]
    html, markdown = render([made.kept(each) for each in found], {"demo": DEMO}, tmp_path)
    page, text = (html.parent / "demo.html").read_text(), markdown.read_text()
    assert page.count("m2d: mAP</") + page.count("m2d: mAP <") == 2
    assert "Accuracy over steps &lt;here&gt;." in page
    assert "camera dial at 0" in page
    assert text.count("m2d: mAP: mAP over 2 steps; + with: from 10.0 to 20.0") == 2


def test_the_page_says_who_chose_where_curves_are_compared() -> None:
    figure = PAPER["figure"][0] | {"grid": [1, 2], "grid_from": "ours"}
    demo = made.paper(PAPER | {"figure": [figure]})
    case = Case(made.kept(result("with", {"1": [10.0, 20.0]})))
    (found,) = figures(demo, [case], lambda cases: [("together", cases)])
    assert found.drawn[0].title == "together: compared at 1 and 2, by our choice"


def test_a_figure_may_name_the_column_of_a_row() -> None:
    columns = [{"id": "net", "task": "m2d"}, {"id": "other", "task": "m2d"}]
    rows = ["table 3: without/net", "table 3: with/net"]
    demo = made.paper(
        PAPER | {"table": [PAPER["table"][0] | {"columns": columns}], "figure": [PAPER["figure"][0] | {"rows": rows}]}
    )

    def case(row: str, column: str) -> Case:
        record = result(row, {"1": [10.0, 20.0]})
        return Case(made.kept(record | {"case": record["case"] | {"column": column}}))

    (found,) = figures(demo, [case("with", "net"), case("without", "other")], lambda cases: [("", cases)])
    assert [name for name, _ in found.drawn[0].legend] == ["+ with"]


def swept() -> Any:
    sweep = {"parameter": "p", "label": "share <p>", "grid": [0.5, 1, 2, 4], "printed": False, "metrics": ["mAP"]}
    figure = {"id": "6", "kind": "sweep", "where": "section 5", "shows": "Sizes.", "rows": ["table 3: with"]}
    return made.paper(PAPER | {"figure": [figure | {"task": ["m2d"], "sweep": [sweep]}]})


def point(value: float, **by_seed: float) -> dict[str, Any]:
    found = result("with", {seed.lstrip("s"): [mAP] for seed, mAP in by_seed.items()})
    found["case"]["point"] = {"figure": "6", "parameter": "p", "value": value}
    for stage in found["stages"]:
        stage["key"] += f" at {value}"
        if trained := stage.get("spec", {}).get("train"):
            trained["key"] += f" at {value}"
    return found


def test_a_sweep_is_a_curve_over_its_values_in_each_setting(tmp_path: Path) -> None:
    """The mean over seeds at each value, whatever the order of the records; the row itself is no point."""
    records = [point(2, s1=42.0), point(0.5, s1=40.0, s2=50.0), point(1, s1=48.25), result("with", {"1": [9.0]})]
    (found,) = figures(swept(), [Case(made.kept(each)) for each in records], by_setting)
    (drawn,) = found.drawn
    assert drawn.title.endswith("share <p> (the grid is ours)")
    (panel,) = drawn.panels
    assert (panel.title, panel.note) == ("m2d: mAP", "means within 6.2, SD of a seed 7.1, n = 1 to 2")
    assert panel.summary == "mAP by p; 0.5: 45.0 (40.0 to 50.0), 1: 48.2, 2: 42.0"
    low, *others = panel.bars
    assert low.bottom > low.top
    assert all(bar.bottom == bar.top for bar in others)
    (alone,) = figures(swept(), [Case(made.kept(point(1, s1=3.0)))], by_setting)[0].drawn[0].panels
    assert (alone.note, alone.values, len(alone.lines[0].marks)) == ("n = 1", (), 1)
    html, _ = render([made.kept(each) for each in records], {"demo": swept()}, tmp_path)
    page = (html.parent / "demo.html").read_text()
    assert "means within 6.2" in page
    links = re.findall(r'<a href="(cases/[^"]*-p-[^"]*)"><circle', page)
    assert len(links) == 3
    assert all((html.parent / link).is_file() for link in links)
    assert page.count("A point is the mean over the training seeds") == 1


def test_a_sweep_shows_what_failed_what_collapsed_and_which_value_the_tables_have() -> None:
    records = [point(0.5, s1=40.0), point(1, s1=48.0), point(2), point(4, s1=3.0)]
    records[3] |= {"collapsed": {"1": "1 cluster left"}, "verdict": "collapsed"}
    row = result("with", {"1": [48.0], "2": [50.0]})
    records[1]["stages"] = row["stages"][:2]
    cases = [Case(made.kept(each), direct={"mAP": 20.0}) for each in [*records, row]]
    (figure,) = figures(swept(), cases, by_setting)
    ((panel,),) = [drawn.panels for drawn in figure.drawn]
    assert "in bold" in figure.reading[0]
    assert panel.summary == "mAP by p; 0.5: 40.0, 1: 48.0, 2: no number, 4: 3.0, collapsed"
    assert [(tick.text, tick.usual, tick.missing) for tick in panel.x_ticks] == [
        ("0.5", False, False),
        ("1", True, False),
        ("2", False, True),
        ("4", False, False),
    ]
    assert [mark.hollow for mark in panel.lines[0].marks] == [False, False, True]
    assert panel.level is not None
    assert panel.level.text == "20.0"


def test_a_sweep_with_one_number_shows_it_at_its_value() -> None:
    cases = [Case(made.kept(each)) for each in (point(0.5), point(1, s1=48.0), point(2))]
    (figure,) = figures(swept(), cases, by_setting)
    ((panel,),) = [drawn.panels for drawn in figure.drawn]
    assert panel.values == ()
    (mark,) = panel.lines[0].marks
    assert [(tick.at == mark.x, tick.missing) for tick in panel.x_ticks] == [
        (False, True),
        (True, False),
        (False, True),
    ]
    assert "in bold" not in figure.reading[0]


@pytest.mark.parametrize("change", [{"rounds": 3}, {"subset": 20}, {"precision": "mixed"}, {"selection": "best"}])
def test_a_sweep_run_again_in_another_setting_is_another_curve(change: dict[str, object]) -> None:
    records = [point(1, s1=48.0), point(2, s1=42.0), point(1, s1=30.0)]
    records[2]["identity"] = records[2]["identity"] | change
    (figure,) = figures(swept(), [Case(made.kept(each)) for each in records], by_setting)
    summaries = [panel.summary for drawn in figure.drawn for panel in drawn.panels]
    assert summaries == ["mAP by p; 1: 48.0, 2: 42.0", "mAP by p; 1: 30.0"]


def test_the_tables_value_is_marked_in_each_setting_and_with_more_seeds_than_the_row() -> None:
    records = [point(0.5, s1=40.0), point(1, s1=48.0, s2=50.0), result("with", {"1": [48.0]})]
    records[1]["stages"] = result("with", {"1": [48.0], "2": [50.0]})["stages"]
    elsewhere = result("with", {"1": [20.0]})
    elsewhere["identity"] = elsewhere["identity"] | {"rounds": 3}
    for stage in elsewhere["stages"]:
        stage["key"] += " elsewhere"
        if trained := stage.get("spec", {}).get("train"):
            trained["key"] += " elsewhere"
    (figure,) = figures(swept(), [Case(made.kept(each)) for each in [*records, elsewhere]], by_setting)
    ((panel,),) = [drawn.panels for drawn in figure.drawn]
    assert [(tick.text, tick.usual) for tick in panel.x_ticks] == [("0.5", False), ("1", True)]
