from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import made
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduce.commands.cli import main
from reproduce.files import as_text
from reproduce.papers.exchange import SCHEMA, Document, Exported, as_csv, as_json
from reproduce.papers.records import Cell
from reproduce.papers.reported import read_all as read_reported
from reproduce.papers.tables import read_all

ROOT = Path(__file__).parents[3]
SUITES = ROOT / "suites"
CELL = Cell(paper="msplr", table="3", row="ours", column="m2d", label="+ CN", task="m2d")


def exported(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["export", *arguments, "--suites", str(SUITES), "--results", str(ROOT / "reports/results")]) == 0
    return capsys.readouterr().out


def test_every_number_is_exported_and_fits_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(exported(capsys))
    numbers = msgspec.convert(document, Document).numbers
    papers = read_all(SUITES)
    printed = [it for it in numbers if it.origin == "documentation"]
    assert len(printed) == sum(1 for paper in papers.values() for _ in paper.numbers())
    reports = read_reported(SUITES, papers).reports
    assert sum(it.origin == "third party" for it in numbers) == sum(len(it.numbers) for it in reports)
    assert all(it.link and it.accessed and it.by for it in numbers if it.origin == "third party")
    measured = [it for it in numbers if it.origin == "measured"]
    assert measured
    assert all(it.n and it.verdict and it.stand_ins for it in measured)
    assert all((it.sd is None) == (it.n == 1) == (it.low is None) for it in measured)
    assert {it.unit for it in printed if it.metric in ("mAP", "mAP_gain", "train_ids")} == {
        *("percent", "percentage points", "count")
    }


def test_the_published_schema_is_the_present_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads((ROOT / "docs" / "export.schema.json").read_text()) == SCHEMA
    assert json.loads(exported(capsys, "--schema")) == SCHEMA
    jsonschema = pytest.importorskip("jsonschema")
    document = as_json(read_all(SUITES), read_reported(SUITES, read_all(SUITES)).reports, [made.result(1.0, case=CELL)])
    jsonschema.validate(document, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | {"more": 1}, SCHEMA)


def test_csv_holds_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    lines = list(csv.DictReader(io.StringIO(exported(capsys, "--format", "csv"))))
    numbers = json.loads(exported(capsys))["numbers"]
    assert list(lines[0]) == list(Exported.__struct_fields__)
    assert len(lines) == len(numbers)
    for line, number in zip(lines, numbers, strict=True):
        quoted = {name: as_text(it) if isinstance(it, str) else str(it) for name, it in number.items()}
        assert {name: text for name, text in line.items() if text} == quoted


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_spread_of_seeds(values: list[float]) -> None:
    (number,) = [it for it in as_json({}, [], [made.result(*values, case=CELL)])["numbers"] if it["metric"] == "mAP"]
    mean = math.fsum(values) / len(values)
    assert number["n"] == len(values)
    assert number["value"] == pytest.approx(mean)
    if len(values) == 1:
        assert "sd" not in number
        return
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    assert number["sd"] == pytest.approx(math.sqrt(variance), abs=1e-9)
    quantile = {2: 6.313752, 3: 2.919986, 4: 2.353363, 5: 2.131847, 6: 2.015048}[len(values)]  # t, 95 %
    reach = quantile * math.sqrt(variance / len(values))
    assert (number["low"], number["high"]) == pytest.approx((mean - reach, mean + reach), abs=1e-4)


def test_numbers_that_are_texts_keep_them() -> None:
    reports = [it for it in read_reported(SUITES, read_all(SUITES)).reports if "75.x to 77.x" in it.numbers.values()]
    (number,) = as_json({}, reports, [])["numbers"]
    assert number["text"] == "75.x to 77.x"
    assert "value" not in number
    assert as_csv({}, reports, []).count("75.x to 77.x") == 1
