"""What is committed under reports/results, and what the README says of it."""

from __future__ import annotations

from pathlib import Path

from reports.readme import printed_counts, readme_table, update_readme
from reports.render import render
from reproduce.data.world import WORLD_VERSION
from reproduce.papers.records import path_of, read, read_claims
from reproduce.papers.tables import read_all

ROOT = Path(__file__).parents[2]
RECORDED = read(ROOT / "reports" / "results")
CLAIMS = read_claims(ROOT / "reports" / "results")


def test_recorded_results_are_whole_and_of_this_world() -> None:
    assert RECORDED
    for result in RECORDED:
        assert path_of(result, ROOT / "reports" / "results").exists()
        assert result.measured
        assert all(stage.provenance.commit and not stage.provenance.dirty for stage in result.stages)
        worlds = {data["world"] for data in result.identity.data.values() if data["kind"] == "stand-in"}
        assert worlds <= {WORLD_VERSION}, "the world has changed: run these cases again and record them"


def test_recorded_results_quote_the_tables() -> None:
    papers = read_all(ROOT / "suites")
    for result in RECORDED:
        case = result.case
        row = papers[case.paper].tables[case.table].row(case.row)
        assert row
        assert result.printed.items() <= dict(row.printed[case.column]).items()


def test_the_readme_shows_them(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    copy.write_text((ROOT / "README.md").read_text())
    papers = read_all(ROOT / "suites")
    changed = update_readme(copy, readme_table(RECORDED, papers, CLAIMS), printed_counts(papers))
    assert not changed, "renew it: reproduce report reports/results --readme README.md"


def test_lines_of_the_readme_can_be_told_apart() -> None:
    """A table whose columns are methods, such as UP-ReID's 1b, has several of one row and task."""
    lines = [line.split("|")[1:4] for line in readme_table(RECORDED, read_all(ROOT / "suites")).splitlines()]
    named = [tuple(line) for line in lines if len(line) == 3 and "Table" in line[0]]
    assert any(", MGN" in task for _, _, task in named)
    assert len(set(named)) == len(named)


def test_the_report_says_that_duke_was_withdrawn(tmp_path: Path) -> None:
    for path in render(RECORDED, read_all(ROOT / "suites"), tmp_path):
        assert "withdrawn" in path.read_text().lower()
