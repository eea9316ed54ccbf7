"""The pages about what papers print: the audit, and one method in several papers."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from made import kept

from reports import pages, words
from reports.render import render
from reproduce.papers.records import read
from reproduce.papers.reported import read_all as read_reported
from reproduce.papers.tables import Paper, read_all

ROOT = Path(__file__).parents[2]
HOSTILE = "<b>X</b>"
SUITE = """
paper = "{paper}"
title = "{title}"
authors = "A. Nonymous"
venue = "Nowhere"

[[table]]
id = "1"
caption = "A comparison."
where = "section 4"
checked = "by eye"
columns = [{{ id = "m2d", label = "Market to Duke" }}, {{ id = "d2m", label = "Duke to Market" }}]
metrics = ["rank1", "mAP"]

[[table.row]]
id = "mmt"
label = "{label}"
ref = "{ref}"
executed = "no"
m2d = [{rank1}, 65.7]
d2m = [90.9, "-"]

[[table.row]]
id = "ours"
label = "Ours"
executed = "yes"
m2d = [82.7, 69.3]
d2m = [89.1, 73.6]
"""


def write(folder: Path, paper: str, **changes: str) -> None:
    parts = {"title": "T", "label": "MMT", "ref": "[8]", "rank1": "79.3"} | changes
    (folder / f"{paper}.toml").write_text(SUITE.format(paper=paper, **parts))


@pytest.fixture
def suites(tmp_path: Path) -> Path:
    folder = tmp_path / "suites"
    folder.mkdir()
    write(folder, "one")
    write(folder, "two", label="MMT (k-means)", ref="Ge et al., 2020", rank1="76.3")
    write(folder, "three", label=HOSTILE, ref=HOSTILE, title=HOSTILE)
    return folder


def rendered(suites: Path, out: Path, results: list[dict[str, Any]] | None = None) -> Path:
    first, _ = render([kept(each) for each in results or ()], read_all(suites), out, problem="")
    return first.parent


def result(row: str) -> dict[str, Any]:
    return {
        "format": 1,
        "case": {"paper": "one", "table": "1", "row": row, "column": "m2d"},
        "measured": {"1": {"mAP": 50.0, "rank1": 61.2}},
        "verdict": "not comparable",
    }


def methods(papers: dict[str, Paper], results: list[dict[str, Any]]) -> Any:
    return pages.page([kept(each) for each in results], papers, "x", problem="").printed.methods


def test_a_method_stands_beside_itself_in_another_paper(suites: Path) -> None:
    (method,) = methods(read_all(suites), [result("mmt")])
    assert (method.name, method.papers, method.tasks) == ("MMT", "ONE and TWO", ("d2m", "m2d"))
    assert [(line.paper, line.label, line.ref, line.cells) for line in method.lines] == [
        ("ONE", "MMT", "[8]", ("", "90.9", "65.7", "79.3")),
        ("TWO", "MMT (k-means)", "Ge et al., 2020", ("", "90.9", "65.7", "76.3")),
    ]
    assert [len(line.cases) for line in method.lines] == [1, 0]


def test_own_methods_of_papers_are_not_the_same_one(suites: Path) -> None:
    assert not any("ours" in method.anchor for method in methods(read_all(suites), []))
    write(suites, "four", label="ONE")
    found = {method.name: method.papers for method in methods(read_all(suites), [])}
    assert found == {"MMT": "ONE and TWO", "ONE": "FOUR and ONE"}


def test_rows_of_a_paper_that_agree_are_one_line() -> None:
    found = {method.name: method for method in methods(read_all(ROOT / "suites"), [])}
    assert {"MMT", "SSG", "ECN"} <= set(found)
    lines = {(line.paper, line.label): line for line in found["SSG"].lines}
    assert lines["SPTD", "SSG"].tables == "tables 1, 2, 3 and 4"
    assert lines["MSPLR", "SSG"].cells[:4] != lines["SPTD", "SSG"].cells[:4]


def test_the_pages_are_linked_and_escaped(suites: Path, tmp_path: Path) -> None:
    write(suites, "two", label="MMT", ref=HOSTILE, rank1="99.9")
    folder = rendered(suites, tmp_path, [result("mmt")])
    assert {path.name for path in folder.glob("*.html")} == {
        *("index.html", "one.html", "methods.html", "audit.html"),
        *("audit-one.html", "audit-two.html", "audit-three.html"),
    }
    for path in folder.rglob("*.html"):
        source = path.read_text()
        assert "<b>" not in source
        assert 'methods.html"' in source
        assert 'audit.html"' in source
    assert "mAP 50.0, rank-1 61.2, n = 1" in (folder / "methods.html").read_text()
    assert re.search(r'href="cases/one-1-mmt-m2d-small-[0-9a-f]{8}\.html"', (folder / "methods.html").read_text())
    assert "&lt;b&gt;X" in (folder / "methods.html").read_text()


def test_the_audit_shows_every_finding_with_its_places(tmp_path: Path) -> None:
    papers = read_all(ROOT / "suites")
    page = pages.page([], papers, "x", problem="")
    source = (rendered(ROOT / "suites", tmp_path) / "audit.html").read_text()
    assert source.count('<article class="card" id=') == page.printed.count > 0
    assert all(finding.places for finding in page.printed.audit.findings)
    assert f"{page.printed.count} findings" in source
    assert f"{page.printed.agreeing:,} of {page.printed.compared:,} comparisons agree" in source
    assert f"Found by reading ({len(page.printed.audit.readings)})" in source


def test_the_overview_says_how_much_agrees_and_what_changes_a_conclusion(tmp_path: Path) -> None:
    papers = read_all(ROOT / "suites")
    page = pages.page([], papers, "x", problem="")
    printed, grave = page.printed, page.printed.audit.grave
    source = html.unescape((rendered(ROOT / "suites", tmp_path) / "index.html").read_text())
    assert page.finding in source
    assert f"{printed.agreeing:,} of {printed.compared:,} comparisons" in page.finding
    assert f"{printed.count} findings, {len(grave)} of which change a conclusion" in page.finding
    assert grave == dict(printed.audit.by_effect)["changes a conclusion"]
    assert all(f'<a href="audit.html#{finding.id.lower()}">' in source for finding in grave)
    assert not pages.page([], {}, "x", problem="").finding


def test_each_paper_has_a_page_of_what_is_wrong_in_it(tmp_path: Path) -> None:
    folder = rendered(ROOT / "suites", tmp_path)
    audits = pages.page([], read_all(ROOT / "suites"), "x", problem="").printed.papers
    assert {"audit-rae.html", "audit-sptd.html"} <= {audited.file for audited in audits}
    for audited in audits:
        source = html.unescape((folder / audited.file).read_text())
        assert source.count('<article class="card" id=') == len(audited.audit.findings)
        for finding in audited.audit.findings:
            assert finding.id in source
            assert all(quote in source for quote in finding.quotes)
        assert all(words.arrows(reading.says) in source for reading in audited.audit.readings)


def test_papers_that_cannot_be_read_spoil_no_report(suites: Path, tmp_path: Path) -> None:
    first, _ = render([], read_all(suites), tmp_path, problem="two.toml: venue is missing")
    assert "could not be audited: two.toml: venue is missing" in first.read_text()
    assert {path.name for path in first.parent.glob("*.html")} == {"index.html"}


def test_recorded_results_have_links_that_lead_somewhere(tmp_path: Path) -> None:
    recorded = read(ROOT / "reports" / "results")
    first, _ = render(recorded, read_all(ROOT / "suites"), tmp_path, problem="")
    for path in first.parent.rglob("*.html"):
        for link in re.findall(r'href="([^"]*)"', path.read_text()):
            file, _, anchor = link.partition("#")
            if not link.startswith("data:"):
                target = path.parent / file if file else path
                assert target.is_file(), link
                assert not anchor or f'id="{anchor}"' in target.read_text(), link


def test_what_others_measured_stands_between_printed_and_measured(tmp_path: Path) -> None:
    recorded = read(ROOT / "reports" / "results")
    papers = read_all(ROOT / "suites")
    reported = read_reported(ROOT / "suites", papers)
    first, markdown = render(recorded, papers, tmp_path, problem="", reported=reported)
    source = (first.parent / "msplr.html").read_text()
    assert source.index("Theory") < source.index("reported by others")
    row = source[source.index("reported by others") :]
    assert re.findall(r"<td[^>]*>([^<]+)</td>", row)[:4] == ["65.5 (1)", "–", "–", "45.7 (1)"]
    assert "| reported by others | 65.5 (1) | – | – | 45.7 (1) |" in markdown.read_text()
    index = first.read_text()
    assert "No independent number was found for SPTD, MSPLR, RAE, DAAM, UP-ReID, MMCL, JVTC." in index
    alone, _ = render(recorded, papers, tmp_path / "alone", problem="")
    assert "reported by others</th>" not in (alone.parent / "msplr.html").read_text()


def test_rows_name_their_sources_where_these_are_not_the_columns(suites: Path, tmp_path: Path) -> None:
    text = (suites / "one.toml").read_text().replace("checked =", "sources = true\nchecked =")
    changed = text.replace('executed = "no"', 'executed = "no"\nsource.m2d = "msmt17"\nsource.d2m = "msmt17"')
    (suites / "one.toml").write_text(changed)
    rendered(suites, tmp_path, [result("ours"), result("mmt")])
    table = (tmp_path / "report.md").read_text()
    assert "`m2d` Market to Duke, source market; `d2m` Duke to Market, source duke" in table
    assert "| Ours | 61.2" in table
    assert "| MMT, source msmt17 | 61.2" in table
