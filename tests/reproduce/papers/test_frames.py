from __future__ import annotations

from pathlib import Path

import made
from msgspec import structs

from reproduce.papers.frames import COLUMNS, frame
from reproduce.papers.records import Cell, Point
from reproduce.papers.reported import read_all as read_reported
from reproduce.papers.tables import read_all

SUITES = Path(__file__).parents[3] / "suites"


def test_every_printed_number_is_a_line() -> None:
    papers = read_all(SUITES)
    table = frame(papers)
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == sum(1 for paper in papers.values() for _ in paper.numbers()) == 1232
    ours = table.query("paper == 'msplr' and table == '3' and row == 'ours' and task == 'm2d'")
    assert dict(zip(ours["metric"], ours["value"], strict=True)) == {"rank1": 82.7, "mAP": 69.3}
    supervised = table.query("paper == 'msplr' and table == '1' and row == 'supervised' and column == 'm2d'")
    assert set(supervised["task"]) == {"d2d"}, "the task that was run"


def test_measured_and_reported_numbers_stand_beside_printed_ones() -> None:
    cell = Cell(paper="msplr", table="3", row="ours", column="m2d", label="+ CN", task="m2d")
    point = structs.replace(cell, point=Point(figure="2", parameter="k", value=0.5))
    reported = [
        it for it in read_reported(SUITES, read_all(SUITES)).reports if it.method in ("MMT k-means", "SpCL USL", "SpCL")
    ]
    table = frame(read_all(SUITES), [made.result(70.0, 71.0, case=cell), made.result(50.0, case=point)], reported)
    measured = table[(table.origin == "measured") & (table.metric == "mAP") & table.parameter.isna()]
    assert list(measured["seed"]) == [1, 2]
    both = table[table.parameter.isna()].pivot_table(
        index=["paper", "table", "row", "task", "metric"], columns="origin", values="value"
    )
    assert both.loc[("msplr", "3", "ours", "m2d", "mAP")].to_dict() == {"measured": 70.5, "printed": 69.3}
    (value,) = table[(table.parameter == "k") & (table.metric == "mAP")]["parameter_value"]
    assert value == 0.5
    theirs = table[table.origin == "reported"]
    assert len(theirs) == sum(not isinstance(value, str) for it in reported for value in it.numbers.values())
    unlabelled = theirs[theirs.task == "u2t"]
    assert list(unlabelled["value"]) == [6.5, 15.3]
    assert set(unlabelled["source"]) == {"none"}
    assert set(unlabelled["target"]) == {"msmt17"}
