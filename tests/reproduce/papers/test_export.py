from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path

import pytest
from loading import suite

from reproduce import metrics
from reproduce.commands.cli import main
from reproduce.papers.cases import Case, ClaimCase, cases_of
from reproduce.papers.tables import read_all
from reproduce.session.planning import collected

SUITES = Path(__file__).parents[3] / "suites"
TABLES = {
    "sptd": [*"1234567"],
    "msplr": [*"1234"],
    "rae": [*"1234"],
    "daam": [*"1234"],
    "upreid": ["1a", "1b", "1c", "1d", *"23456"],
}


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments, "--suites", str(SUITES)]) == 0
    return capsys.readouterr().out


def test_csv(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "tables", "--csv"))))
    assert list(rows[0]) == ["paper", "table", "row", "source", "target", "metric", "value", "executed"]
    assert {paper: sorted({row["table"] for row in rows if row["paper"] == paper}) for paper in TABLES} == {
        paper: sorted(tables) for paper, tables in TABLES.items()
    }
    assert len(rows) == 1232
    assert {row["metric"] for row in rows} == {
        *("mAP", "rank-1", "rank-5", "rank-10", "mAP-gain", "rank-1-gain", "portion"),
        *(f"{split}_{what}" for split in ("train", "gallery", "query") for what in ("ids", "images")),
    }
    assert {row["executed"] for row in rows} == {"yes", "no", "unsure"}
    assert {row["source"] for row in rows} <= {"market", "duke", "msmt17", "cuhk03", "personx", "none", "mix"}
    assert all(float(row["value"]) >= 0 for row in rows)
    same = Counter(tuple(row.values()) for row in rows)
    assert all(count == 1 for line, count in same.items() if "baseline + FT" not in line[2])


def test_csv_knows_supervised_rows_and_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "tables", "--csv").splitlines()
    assert "upreid,1c,UP-ReID / BDB,personx,personx,rank-1,95.3,yes" in lines
    assert "msplr,1,Supervised,duke,duke,rank-1,82.4,yes" in lines
    assert "msplr,1,Direct Transfer,market,duke,mAP,27.3,yes" in lines
    assert "msplr,4,DBSCAN,market,duke,portion,69.7,yes" in lines
    assert "rae,1,MSMT17,none,msmt17,train_images,32621,no" in lines
    assert "upreid,2,UP-ReID,none,market,mAP,75.1,yes" in lines
    assert "upreid,2,UP-ReID,personx,market,mAP,78.7,yes" in lines


def test_markdown_draws_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, "tables", "--markdown")
    assert page.count("\n## Table ") == sum(map(len, TABLES.values())) == 28
    for block in page.split("\n## Table ")[1:]:
        widths = {line.replace("\\|", "").count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) == 1
    assert "| 12,936 |" in page


def test_markdown_keeps_the_sources_that_a_paper_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, "tables", "--markdown")
    rae = page[page.index("# RAE:") : page.index("# SPTD:")]
    rows = [
        "| SyRI | ECCV'18 | - | - | - | - | - | mix | 65.7 | - | - | - |",
        "| BOW | ICCV'15 | duke | 25.1 | - | - | 12.2 | market | 44.4 | - | - | 20.8 |",
        "| BOW | ICCV'15 | none | 17.1 | 28.8 | 34.9 | 8.3 | none | 35.8 | 52.4 | 60.3 | 14.8 |",
        "| LDNS | CVPR'16 | duke | - | - | - | - | market | 61.0 | - | - | 35.7 |",
        "| NRMT | ECCV'20 | market | 43.7 | 56.5 | 62.2 | 19.8 | duke | 45.2 | 57.8 | 63.3 | 20.6 |",
    ]
    assert [row for row in rows if row not in rae] == []
    assert ": source |" not in page[page.index("# SPTD:") :]
    assert "Run by the authors: bdb unsure; bot yes; mgn unsure. Section 4.2 says that BDB was re-implemented" in page


def test_claims_page_quotes_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, "show", "--claims")
    quotes = {claim.quote for paper in read_all(SUITES).values() for claim in paper.claims} - {""}
    assert quotes
    assert all(f"\u201c{quote}\u201d" in page for quote in quotes)


def test_claims_page_lists_every_claim(capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, "show", "--claims")
    papers = read_all(SUITES)
    claims = [claim for paper in papers.values() for claim in paper.claims]
    assert len(claims) > 300
    assert all(f"`{claim.id}`" in page and claim.says in page for claim in claims)


def test_claims_page_says_whether_a_case_tests_each_claim(capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, "show", "--claims")
    tried = {(case.paper, case.claim.id) for case in collected(SUITES) if isinstance(case, ClaimCase)}
    papers = re.split(r"^# ", page, flags=re.MULTILINE)[1:]
    lines = [line for part in papers for line in part.splitlines() if line.startswith("- `")]
    said = {
        (part.partition(":")[0].lower().replace("-", ""), line.split("`")[1])
        for part in papers
        for line in part.splitlines()
        if line.startswith("- `") and "cases test" in line.rpartition("*(")[2]
    }
    assert said == tried
    assert len(tried) == sum(int(count) for count in re.findall(r"cases test (\d+) of them", page))
    lacking = [line for line in lines if "no recipe computes" in line]
    assert lacking, "as long as rows have no method here"
    assert all(re.search(r"computes \w+/[\w+-]+/\w+", line) for line in lacking)


def test_every_executed_row_and_task_is_a_case() -> None:
    for paper in read_all(SUITES).values():
        expected = {
            (table.id, row.id, column.id)
            for table in paper.tables.values()
            for row in table.rows
            for column in table.columns
            if row.executed[column.id] != "no"
            and row.ours
            and any(row.printed[column.id].get(metric) is not None for metric in metrics.printed())
        }
        (mark,) = suite(paper.id).test.pytestmark
        rows = [case for case in cases_of(mark.args[1]) if isinstance(case, Case) and not case.figure]
        ran = {(case.table, case.row.id, case.column) for case in rows if not case.quoted}
        assert ran == expected, paper.id


def test_csv_cells_are_no_formulas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["=1+1", "+ DA", "-x", "@SUM(A1)", "plain"]
    rows = ",".join(
        f'{{ id = "r{at}", label = "{label}", executed = "yes", m2d = [1.0] }}' for at, label in enumerate(labels)
    )
    table = f"""columns = [{{ id = "m2d", label = "=L" }}]\nmetrics = ["mAP"]\nrow = [{rows}]"""
    head = 'paper = "demo"\ntitle = "T"\nauthors = "A"\nvenue = "V"\n'
    text = f'{head}[[table]]\nid = "1"\ncaption = "C"\nwhere = "W"\nchecked = "C"\n{table}\n'
    (tmp_path / "demo.toml").write_text(text)
    assert main(["tables", "--csv", "--suites", str(tmp_path)]) == 0
    written = [row["row"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert written == ["'=1+1", "'+ DA", "'-x", "'@SUM(A1)", "plain"]
