from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduce.commands.cli import main
from reproduce.data.catalogue import letters
from reproduce.errors import UserError
from reproduce.papers.reported import Report, read, read_all, spread, summary
from reproduce.papers.tables import Paper
from reproduce.papers.tables import read_all as read_papers

SUITES = Path(__file__).parents[3] / "suites"
FILE = """
accessed = "2026-01-31"
without = ["None Such"]
[[method]]
name = "MMT k-means"
backbone = "resnet50"
pooling = "avg"
rows = ["sptd 1/mmt-kmeans"]
[[method.number]]
task = "m2d"
setting = "4 GPUs"
mAP = 63.7
who = "a library"
independence = "independent"
source = "https://example.org/a"
"""


@pytest.fixture(scope="module")
def papers() -> dict[str, Paper]:
    return read_papers(SUITES)


def test_the_file_holds_what_was_collected(papers: dict[str, Paper], real_data: Path) -> None:
    """Every line of the collection is there, with its numbers and texts as collected."""
    collected = real_data / "reported.csv"
    if not collected.is_file():
        pytest.skip("the test data hold no reported.csv")
    by_name = {name: letter for letter, name in letters().items()}
    fields = ("setting", "who", "independence", "code", "source")

    def line(method: str, task: str, numbers: dict[str, str], others: list[str]) -> tuple[object, ...]:
        return method, task, tuple(sorted(numbers.items())), *others

    expected = Counter(
        line(
            entry["method"],
            by_name.get(entry["task"], entry["task"]),
            {name: _number(entry[name]) for name in ("mAP", "rank1") if entry[name]},
            [entry[name] for name in fields],
        )
        for entry in csv.DictReader(collected.read_text().splitlines())
    )
    one_set = {
        name: task[2] if task[0] in ("u", task[2]) else task
        for name, task in ((it.task, it.task) for it in read_all(SUITES, papers).reports)
    }
    found = Counter(
        line(
            it.method,
            one_set[it.task],
            {name: _number(str(value)) for name, value in it.numbers.items()},
            [getattr(it, name) for name in fields],
        )
        for it in read_all(SUITES, papers).reports
    )
    assert found == expected


def _number(text: str) -> str:
    try:
        return repr(float(text))
    except ValueError:
        return text


def test_tasks_on_one_set_say_whether_it_was_labelled(papers: dict[str, Paper]) -> None:
    tasks = {it.method: it.task for it in read_all(SUITES, papers).reports if it.task[0] in ("u", it.task[2])}
    assert tasks["BoT R50"] in ("m2m", "d2d")
    assert tasks["PPLR"] == "u2m"


def test_reports_stand_beside_rows_of_their_method(papers: dict[str, Paper]) -> None:
    reported = read_all(SUITES, papers)
    table = papers["sptd"].tables["2"]
    row, column = table.row("mmt-dbscan"), table.columns[0]
    assert row
    beside = reported.beside("sptd", "2", row, column)
    assert {it.method for it in beside} == {"MMT DBSCAN"}
    assert summary(beside, "mAP") == "68.5\u201380.0 (3)"
    assert summary(beside, "rank5") == ""
    msplr = papers["msplr"].tables["2"]
    ibn = msplr.row("mmt")
    assert ibn
    assert not any(reported.beside("msplr", "2", ibn, column) for column in msplr.columns), "MMT with another backbone"
    assert all(it.rows or it.apart for it in reported.reports)
    text = " ".join(it.apart for it in reported.reports)
    assert all(word in text for word in ("variant", "released weights", "saw images of the target"))


def test_no_report_is_about_a_paper_of_which_none_was_found(papers: dict[str, Paper]) -> None:
    reported = read_all(SUITES, papers)
    assert set(reported.without) >= {paper.name for paper in papers.values() if (SUITES / f"{paper.id}.toml").is_file()}
    assert not {it.method for it in reported.reports} & set(reported.without)


def report(value: float | str, independence: str = "independent") -> Report:
    return Report(
        method="M",
        task="m2d",
        setting="",
        numbers={"mAP": value},
        who="somebody",
        independence=independence,
        code="",
        source="https://example.org",
        link="",
        accessed="2026-01-31",
        backbone="",
        pooling="",
        rows=("sptd 1/mmt-kmeans",),
        apart="",
    )


@given(
    st.lists(st.tuples(st.floats(0, 100), st.sampled_from(["independent", "same authors", "unclear"])), max_size=8),
    st.lists(st.just("75.x to 77.x"), max_size=2),
)
def test_ranges_count_numbers_and_keep_origins_apart(numbers: list[tuple[float, str]], texts: list[str]) -> None:
    reports = [report(value, independence) for value, independence in numbers] + [report(text) for text in texts]
    alone = [value for value, independence in numbers if independence == "independent"]
    found = spread((it for it in reports if it.independent), "mAP")
    assert (found is None) == (not alone)
    if found:
        assert (found.low, found.high, found.count) == (min(alone), max(alone), len(alone))
    text = summary(reports, "mAP")
    assert ("same authors or unclear" in text) == (len(alone) < len(numbers))
    assert (text == "") == (not numbers)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sptd 1/mmt-kmeans", "sptd 1/absent", "reported.toml, method MMT k-means: there is no row 'sptd 1/absent'"),
        ('rows = ["sptd 1/mmt-kmeans"]', "", "name either the printed rows .* or why there are none"),
        ('task = "m2d"', 'task = "market"', "number 1: 'market' is no task"),
        ("mAP = 63.7", "mAP = 637", "numbers must lie between 0 and 100"),
        ("mAP = 63.7", "", "states at least one of mAP, rank1"),
        ('"independent"', '"perhaps"', "independence must be one of independent, same authors, unclear"),
        ("https://example.org/a", "example.org", "must be a link"),
        ('who = "a library"', "", "who is missing"),
        ("mAP = 63.7", "mAP = 63.7\nmINP = 3.0", "unknown entry 'mINP'"),
    ],
)
def test_invalid_files_raise(tmp_path: Path, papers: dict[str, Paper], old: str, new: str, message: str) -> None:
    path = tmp_path / "reported.toml"
    path.write_text(FILE)
    assert len(read(path, papers).reports) == 1
    assert old in FILE
    path.write_text(FILE.replace(old, new))
    with pytest.raises(UserError, match=message):
        read(path, papers)


def test_the_tables_show_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--markdown", "--suites", str(SUITES)]) == 0
    page = capsys.readouterr().out
    (line,) = [it for it in page.splitlines() if it.startswith("| MMT (DBSCAN) | [8] | 73.8")]
    assert line.endswith("| mAP 68.5\u201380.0 (3) | unsure |")
    assert "| MMT | Ge et al., 2020 |" in page
    (ibn,) = [it for it in page.splitlines() if it.startswith("| MMT | Ge et al., 2020 |")]
    assert "(1)" not in ibn


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("UDAP", ["UDA_TP, d2m, 1 GPU: mAP 47.8", "DAAM-05 same numbers", "RAE table 2, UDAP", "read 2026-11-21"]),
        ("mmt", ["MMT+ (GeM), d2m", "a variant with other pooling", "MMT (k-means)", "SPTD section 4.2"]),
        ("RAE", ["RAE (Ours)", "No independent number was found."]),
        ("MSPLR", ["Ours + RR", "No independent number was found.", "seed 1: mAP"]),
        ("SpCL", ["75.x to 77.x", "no paper here prints it on this task"]),
    ],
)
def test_evidence_of_a_method(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evidence", name, "--suites", str(SUITES), "--results", str(SUITES.parent / "reports/results")]) == 0
    page = capsys.readouterr().out
    assert [word for word in words if word not in page] == []


def test_evidence_of_an_unknown_method_raises(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evidence", "SPGANX", "--suites", str(SUITES)]) == 2
    assert "no paper prints and nobody reports 'SPGANX': try SPGAN, SPGAN+LMP" in capsys.readouterr().err
