from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from demo_stages import Number, Untrained
from made import SWEEP

from reproduce.data.catalogue import drawn, letters
from reproduce.data.domains import Domain
from reproduce.errors import UserError
from reproduce.evaluation import Evaluate
from reproduce.figures import Network, RankLists
from reproduce.papers.cases import Case, Suite, cases_of
from reproduce.papers.tables import UNLABELLED, Task, read, read_all

SUITES = Path(__file__).parents[3] / "suites"

GOOD = """
paper = "p"
title = "T"
authors = "A"
venue = "V"
[[table]]
id = "1"
caption = "C"
where = "section 2"
checked = "twice"
columns = [{ id = "m2d", label = "M to D" }]
metrics = ["mAP", "rank1"]
[[table.row]]
id = "a"
label = "Row A"
executed = "yes"
m2d = [1.0, "-"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "p.toml"
    path.write_text(text)
    return path


def recipe(task: Task, seed: int) -> Evaluate:
    return Evaluate(Untrained(seed), on=task.target, at="step 2")


def test_figures_become_cases_of_the_rows_that_they_show(tmp_path: Path) -> None:
    figure = (
        '[[figure]]\nid = "6"\nkind = "picture"\nwhere = "section 3"\nshows = "Lists."\n'
        'rows = ["table 1: a"]\ntask = ["m2d"]\n'
    )
    paper = read(write(tmp_path, GOOD + figure))

    suite = Suite(paper, {"1": {"a": recipe}}, draws={"6": RankLists})
    param = next(param for param in suite.cases() if param.id == "figure6-m2d")
    assert [mark.name for mark in param.marks] == ["withdrawn"], "it needs DukeMTMC-reID"
    [case] = param.values
    assert case.stage(3) == RankLists((Network(Untrained(3), "step 2"),), Domain("duke"), seed=3)
    with pytest.raises(UserError, match="p figure 6 shows rows on m2d that no recipe of its tables produces"):
        Suite(paper, draws={"6": RankLists}).cases()


def test_a_figure_labels_the_views_of_its_rows(tmp_path: Path) -> None:
    picture = SWEEP[: SWEEP.index("[[figure.sweep]]")].replace('"sweep"', '"picture"')

    def evaluated(task: Task, seed: int) -> Any:
        return Evaluate(Untrained(seed), on=task.target)

    def both(rows: tuple[Network, ...], **fields: Any) -> RankLists:
        return RankLists(rows=tuple(part for row in rows for part in (row, replace(row, view="back"))), **fields)

    for draw, labels in ((RankLists, ["Row A"]), (both, ["Row A", "Row A, back"])):
        [case] = Suite(read(write(tmp_path, GOOD + picture)), {"1": {"a": evaluated}}, draws={"5": draw}).pictures()
        assert case.labels(case.stage(1)) == labels


def test_claims_become_cases_where_their_cells_can_be_run(tmp_path: Path) -> None:
    rows = GOOD + '[[table.row]]\nid = "b"\nlabel = "B"\nexecuted = "yes"\nm2d = [1.0, 2.0]\n'
    claim = '[[claim]]\nid = "{}"\nwhere = "s"\nsays = "s"\nkind = "order"\nleft = "1/a/m2d"\nright = "1/b/m2d"\n'
    text = rows + claim.format("plain") + claim.format("caused") + 'cause = "pose"\n' + claim.format("never")
    paper = read(write(tmp_path, text + 'testable = "no"\n'))
    cases = list(Suite(paper, {"1": {"a": recipe, "b": recipe}}).claims())
    ids = ["plain", "plain-world2", "caused", "caused-world2", "caused-no-pose"]
    assert [case.id for case in cases] == [f"claim-{id}" for id in ids]
    assert {case.family for case in cases} == {2}
    assert all(case.paired and case.left.world == case.world for case in cases)
    assert [str(case.world or "") for case in cases] == ["", "world2", "", "world2", "no-pose"]
    assert not list(Suite(paper, {"1": {"a": recipe}}).claims())


def test_cases_of_withdrawn_data_are_marked() -> None:
    assert {Task(name).withdrawn for name in ("m2d", "d2m", "d2d", "u2d")} == {True}
    assert {Task(name).withdrawn for name in ("m2m", "t2m", "u2m", "x2c")} == {False}
    assert Task("u2m").names == {"market"}
    for paper in read_all(SUITES).values():
        for param in Suite(paper).cases():
            marks = [mark.name for mark in param.marks]
            assert marks == (["withdrawn"] if "d" in param.values[0].task.name else [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tables": {"1": {"b": recipe}}}, "p table 1 has no row 'b': its rows are a"),
        ({"tables": {"2": {"a": recipe}}}, "p has no table '2': it has 1"),
        ({"draws": {"9": RankLists}}, "p has no figure '9'"),
        ({"sweeps": {"5": {"k": recipe}}}, "p figure 5 sweeps no 'k': its sweeps are p"),
    ],
)
def test_recipes_must_fit_the_paper(tmp_path: Path, arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Suite(read(write(tmp_path, GOOD + SWEEP)), **arguments)


def test_a_row_without_a_recipe_is_a_case_all_the_same(tmp_path: Path) -> None:
    (param,) = Suite(read(write(tmp_path, GOOD))).cases()
    assert param.id == "table1-m2d-a"
    assert param.values[0].recipe is None


def test_columns_that_are_methods_have_recipes_of_their_own(tmp_path: Path) -> None:
    columns = '[{ id = "one", label = "One", task = "m2m" }, { id = "two", label = "Two", task = "m2m" }]'
    text = GOOD.replace('[{ id = "m2d", label = "M to D" }]', columns)
    text = text.replace('m2d = [1.0, "-"]', "one = [1.0, 2.0]\ntwo = [3.0, 4.0]")
    paper = read(write(tmp_path, text))
    cases = list(Suite(paper, {"1": {"a": {"two": recipe}}}).rows())
    assert [(case.id, case.recipe) for case in cases] == [("table1-m2m-a-one", None), ("table1-m2m-a-two", recipe)]
    assert all(case.recipe is recipe for case in Suite(paper, {"1": {"a": recipe}}).rows())
    with pytest.raises(UserError, match="p table 1 has no column 'three': its columns are one, two"):
        Suite(paper, {"1": {"a": {"three": recipe}}})


def test_points_of_a_sweep_are_cases_that_share_stages(tmp_path: Path) -> None:
    def swept(task: Task, seed: int, value: float) -> Any:
        return Number(value, (Number(seed),), seed=seed)

    suite = Suite(read(write(tmp_path, GOOD + SWEEP)), {"1": {"a": recipe}}, sweeps={"5": {"p": swept}})
    points = [case for case in cases_of(suite.cases()) if isinstance(case, Case) and case.point]
    assert [case.id for case in points] == [f"figure5-m2d-a-p={value}" for value in ("0.5", "1", "2")]
    assert [case.cell.label for case in points] == [f"Row A, p = {value}" for value in ("0.5", "1", "2")]
    assert all(case.printed == {} and case.withdrawn for case in points)
    finals = [case.recipe(case.task, 3) for case in points if case.recipe]
    assert finals == [Number(value, (Number(3),), seed=3) for value in (0.5, 1.0, 2.0)]
    without = Suite(read(write(tmp_path, GOOD + SWEEP))).points()
    assert [case.recipe for case in without] == [None] * 3, "what has no method here yet is a case, and skipped"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("grid = [0.5, 1.0, 2.0]", "grid = [0.5]", "grid must be two or more different numbers"),
        ("grid = [0.5, 1.0, 2.0]", 'grid = [0.5, "x"]', "grid must be numbers, not 'x'"),
        ('metrics = ["mAP"]', 'metrics = ["mAP_gain"]', "unknown metric 'mAP_gain'; runs measure mAP"),
        ("printed = true", "", "figure 5, sweep p: printed is missing"),
        ('kind = "sweep"', 'kind = "picture"', 'sweeps belong to a figure of kind "sweep"'),
        ('parameter = "p"', 'parameter = "p q"', "must be letters, digits and _"),
    ],
)
def test_what_is_wrong_in_a_sweep_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SWEEP
    with pytest.raises(UserError) as error:
        read(write(tmp_path, GOOD + SWEEP.replace(old, new)))
    assert message in str(error.value)


def test_a_row_may_have_been_executed_on_one_task_alone(tmp_path: Path) -> None:
    two = GOOD.replace(
        '[{ id = "m2d", label = "M to D" }]', '[{ id = "m2d", label = "x" }, { id = "d2m", label = "y" }]'
    )
    two += "d2m = [1.0, 2.0]\n"
    text = two.replace('executed = "yes"', 'executed = { m2d = "yes", d2m = "no" }')
    assert [case.id for case in Suite(read(write(tmp_path, text))).rows()] == ["table1-m2d-a"]
    with pytest.raises(UserError, match="row a: executed must be one value, or one for each of"):
        read(write(tmp_path, two.replace('executed = "yes"', 'executed = { m2d = "yes" }')))


def test_no_task_name_contains_another() -> None:
    """`-k m2d` matches substrings."""
    tasks = [f"{source}2{target}" for source in [*letters(), UNLABELLED] for target in letters()]
    assert not [(one, other) for one in tasks for other in tasks if one != other and one in other]
    papers = read_all(SUITES)
    assert papers
    for paper in papers.values():
        for case in Suite(paper).rows():
            assert sum(task in f"test_{paper.id}.py::test[{case.id}]" for task in tasks) == 1


def test_every_task_of_every_paper_names_domains_that_can_be_drawn() -> None:
    assert UNLABELLED not in letters()
    for paper in read_all(SUITES).values():
        tasks = {task for figure in paper.figures for task in figure.task}
        tasks |= {case.task.name for case in Suite(paper).rows()}
        for task in map(Task, tasks):
            assert task.names <= set(drawn())
            assert task.target.name in task.names


def test_a_row_needs_the_images_that_its_network_was_pretrained_on() -> None:
    paper = read_all(SUITES)["upreid"]
    for case in Suite(paper).rows():
        assert ("luperson" in case.names) is (case.row.id != "insup"), "INSUP starts from ImageNet"
        assert case.names - {"luperson"} == case.task.names


def test_a_quoted_row_is_a_case_where_it_has_a_recipe_and_its_claims_can_be_tried(tmp_path: Path) -> None:
    quoted = '[[table.row]]\nid = "b"\nlabel = "B"\nexecuted = "no"\nwhy = "quoted"\nm2d = [2.0, 3.0]\n'
    claim = (
        '[[claim]]\nid = "c"\nwhere = "section 2"\nsays = "A is better."\nkind = "order"\ntestable = "no"\n'
        'why = "B is quoted"\nleft = "1/a/m2d"\nright = "1/b/m2d"\n'
    )
    with pytest.raises(UserError, match="p table 1 quotes the row 'b': give it reference = true"):
        Suite(read(write(tmp_path, GOOD + quoted + claim)), {"1": {"b": recipe}})
    paper = read(write(tmp_path, GOOD + quoted + "reference = true\n" + claim))
    assert [case.row.id for case in Suite(paper, {"1": {"a": recipe}}).rows()] == ["a"]
    assert not list(Suite(paper, {"1": {"a": recipe}}).claims())
    both = Suite(paper, {"1": {"a": recipe, "b": recipe}})
    assert [(case.row.id, case.quoted) for case in both.rows()] == [("a", False), ("b", True)]
    assert {case.claim.id for case in both.claims()} == {"c"}
    with pytest.raises(UserError, match="row a: reference is for rows that the paper quotes"):
        read(write(tmp_path, GOOD + "reference = true\n"))


def test_curves_are_cases_with_and_without_recipes(tmp_path: Path) -> None:
    curves = (
        '[[figure]]\nid = "4"\nkind = "convergence"\nwhere = "section 3"\nshows = "Curves."\n'
        'rows = ["table 1: a/net"]\ntask = ["m2m", "d2d"]\n'
    )
    text = GOOD.replace('{ id = "m2d", label = "M to D" }', '{ id = "net", label = "Net", task = "m2m" }')
    paper = read(write(tmp_path, text.replace("m2d = [", "net = [") + curves))
    for tables, ran in (({}, False), ({"1": {"a": recipe}}, True)):
        (case,) = Suite(paper, tables).shown()
        assert (case.id, case.task.name, case.recipe is not None) == ("figure4-m2m-a-net", "m2m", ran)
