"""docs/tables.md names every entry that the parser knows, and which of them are required."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from reproduce.errors import UserError
from reproduce.papers.tables import TomlPlace, parse, read_all

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "tables.md").read_text()
LEVELS = {
    level: {
        name: mark.strip() == "required"
        for names, mark in re.findall(r"^\| (`[^|]*`) \|([^|]*)\|", text, re.M)
        for name in re.findall(r"`(\w+)`", names)
    }
    for level, text in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
}
"""Entries of each level, and whether they are required, as the page says."""

EXAMPLE: dict[str, Any] = tomllib.loads(re.findall(r"^```toml\n(.*?)^```", PAGE, re.M | re.S)[0])
EXAMPLE["finding"] = [{"id": "MINE-01", "about": "x"}]
PARTS = {
    "paper": lambda whole: whole,
    "table": lambda whole: whole["table"][0],
    "column": lambda whole: whole["table"][0]["columns"][0],
    "row": lambda whole: whole["table"][0]["row"][0],
    "figure": lambda whole: whole["figure"][0],
    "sweep": lambda whole: whole["figure"][0]["sweep"][0],
    "claim": lambda whole: whole["claim"][0],
    "finding": lambda whole: whole["finding"][0],
}
"""A part of the example at each level."""


def test_the_page_names_the_entries_that_the_parser_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    known: set[frozenset[str]] = set()
    columns: set[str] = set()
    check = TomlPlace.only

    def only(place: TomlPlace, raw: Any, *names: str) -> None:
        known.add(frozenset(names))
        check(place, raw, *names)

    monkeypatch.setattr(TomlPlace, "only", only)
    for paper in read_all(ROOT / "suites").values():
        columns |= {column.id for table in paper.tables.values() for column in table.columns}
    entries = {frozenset(names - columns) if "executed" in names else names for names in known}
    assert entries == {frozenset(level) for level in LEVELS.values()}
    assert LEVELS.keys() == PARTS.keys()


@pytest.mark.parametrize(("level", "name"), [(level, name) for level, names in LEVELS.items() for name in names])
def test_required_entries_are_those_without_which_the_example_fails(level: str, name: str) -> None:
    whole = copy.deepcopy(EXAMPLE)
    part = PARTS[level](whole)
    if LEVELS[level][name]:
        del part[name]
        with pytest.raises(UserError):
            parse(whole, "mine.toml")
    elif name not in ("metrics", "left", "right", "stated", "rows", "table"):
        part.pop(name, None)
        parse(whole, "mine.toml")


def test_the_example_is_read() -> None:
    paper = parse(EXAMPLE, "mine.toml")
    assert (len(paper.tables), len(paper.figures), len(paper.claims)) == (1, 1, 1)
