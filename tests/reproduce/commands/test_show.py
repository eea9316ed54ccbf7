from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import made
import pytest

from reproduce.commands.cli import main
from reproduce.commands.show import find_tables, page
from reproduce.errors import UserError
from reproduce.papers import records
from reproduce.papers.cases import Case
from reproduce.papers.records import Cell, Result
from reproduce.papers.reported import NOBODY, read_all
from reproduce.papers.tables import Paper, read
from reproduce.papers.tables import read_all as read_papers
from reproduce.session.planning import collected

REAL = {
    "market": {"kind": "real", "digest": "1"},
    "duke": {"kind": "real", "digest": "2"},
}


@pytest.fixture(scope="module")
def cases() -> list[object]:
    return collected(Path("suites"))


@pytest.fixture(scope="module")
def msplr() -> Paper:
    return read(Path("suites/msplr.toml"))


def shown(paper: Paper, results: list[Result], cases: list[object], table: str = "3") -> str:
    return page(paper, paper.tables[table], NOBODY, results, cases, 100)


def measured(row: str, column: str, **identity: object) -> Result:
    cell = Cell(paper="msplr", table="3", row=row, column=column, task=column)
    return made.result(50.0, 52.0, case=cell, identity=made.identity(**identity), reasons=["stand-in data"])


def test_a_table_that_was_not_tried_on_real_data(msplr: Paper, cases: list[object]) -> None:
    text = shown(msplr, [measured("ours", "m2d")], cases)
    lines = text.splitlines()
    place = next(at for at, line in enumerate(lines) if line.startswith("+ CN, m2d"))
    assert lines[place].split() == ["+", "CN,", "m2d", "printed", "69.3", "82.7"]
    numbers = ["measured", "51.0", "±1.4", "61.0", "±1.4"]
    assert lines[place + 1].split() == [*numbers, "small,", "stand-ins,", "n=2"]
    assert lines[-2] == "Stand-in data: not comparable with the paper."
    assert lines[-1].startswith('not tried on real data; this command would: pytest suites/ -k "msplr and table3-" ')


def test_cases_tried_on_real_data_are_counted(msplr: Paper, cases: list[object]) -> None:
    own = [case for case in cases if isinstance(case, Case) and (case.paper, case.table) == ("msplr", "3")]
    ran = [(case.row.id, case.column) for case in own if not case.quoted and not case.figure]
    paper = {"scale": "paper", "data": REAL, "weights": "imagenet 0676ba61"}
    one = shown(msplr, [measured(*ran[0], **paper), measured(*ran[1], **(paper | {"scale": "trial"}))], cases)
    assert f"tried on real data: 1 of {len(ran)} cases; this command would: " in one
    every = shown(msplr, [measured(*place, **paper) for place in ran], cases)
    assert f"tried on real data: all {len(ran)} cases, by: " in every


def test_the_command_selects_the_cases_of_the_table(msplr: Paper, cases: list[object]) -> None:
    command = shown(msplr, [], cases).splitlines()[-1]
    words = command.partition('-k "')[2].partition('"')[0]
    collect = [sys.executable, "-m", "pytest", "suites/", "-k", words, "--collect-only", "-q", "-p", "no:cacheprovider"]
    listed = subprocess.run(collect, capture_output=True, text=True, check=True).stdout
    tests = {line.partition("::")[2] for line in listed.splitlines() if "::" in line}
    own = [case for case in cases if isinstance(case, Case) and (case.paper, case.table) == ("msplr", "3")]
    assert tests == {f"test[{case.id}]" for case in own if not case.figure}
    assert len(tests) == 10


def test_a_table_without_recipes_or_runs(msplr: Paper, cases: list[object]) -> None:
    assert shown(msplr, [], []).splitlines()[-1] == "not tried on real data: the authors ran no row of it"


def test_reports_of_others_stand_between(cases: list[object]) -> None:
    papers = read_papers(Path("suites"))
    daam, (table,) = find_tables(papers, "DAAM", "table 1")
    text = page(daam, table, read_all(Path("suites"), papers), [], cases, 100)
    assert "reported  47.8–52.3 (4)  71.4–76.0 (4)  by others" in text


def test_unknown_papers_and_tables_are_named(msplr: Paper) -> None:
    papers = {"msplr": msplr}
    assert find_tables(papers, "MSPLR")[1] == list(msplr.tables.values())
    with pytest.raises(UserError, match="no folder or paper 'mmt'"):
        find_tables(papers, "mmt", "3")
    with pytest.raises(UserError, match="MSPLR has no table '9': name one of 1, 2, 3, 4"):
        find_tables(papers, "msplr", "9")


def test_show_still_takes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(measured("ours", "m2d"), tmp_path)
    assert main(["show", str(tmp_path)]) == 0
    assert "msplr 3" in capsys.readouterr().out
    assert main(["show", "msplr", "3", "--results", str(tmp_path)]) == 0
    assert "51.0 ±1.4" in capsys.readouterr().out
    assert main(["show", str(tmp_path), "--results", str(tmp_path)]) == 2
    assert main(["show", "msplr", "3", "4"]) == 2
