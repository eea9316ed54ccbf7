"""Records made up for tests."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from reproduce.papers.records import FORMAT, Cell, Identity, Result, StageEntry, parse
from reproduce.papers.tables import Paper
from reproduce.papers.tables import parse as read_paper
from reproduce.running.provenance import Host, Provenance

ZEN = Host(cpu="AMD EPYC", family="AuthenticAMD family 25 model 17", instructions=["avx2", "avx512f"])
DRAWN: dict[str, dict[str, Any]] = {"duke": {"kind": "stand-in", "world": 1, "seed": 1, "dials": {}}}

SWEEP = """
[[figure]]
id = "5"
kind = "sweep"
where = "section 4"
shows = "Accuracy over p."
rows = ["table 1: a"]
task = ["m2d"]
[[figure.sweep]]
parameter = "p"
label = "share of pairs"
grid = [0.5, 1.0, 2.0]
printed = true
metrics = ["mAP"]
"""
"""A figure of a paper, with a sweep over a row of its table 1."""


def provenance(**changes: Any) -> Provenance:
    """Where a stage ran."""
    usual: dict[str, Any] = {
        "commit": "c0ffee",
        "dirty": False,
        "versions": {"torch": "2.15.0"},
        "host": ZEN,
        "device": "cpu",
        "threads": 1,
        "started": "2026-11-02T10:00:00+00:00",
        "wall_s": 10.0,
        "device_s": 9.0,
        "seed": None,
        "data": {},
        "resumed": False,
    }
    return Provenance(**(usual | changes))


def stage(key: str = "k", **changes: Any) -> StageEntry:
    """A stage of a record."""
    usual: dict[str, Any] = {
        "key": key,
        "name": "toy.Stage",
        "label": "toy.Stage, seed 1",
        "kind": "toy.Stage",
        "seed": 1,
        "spec": {"type": "toy.Stage", "version": 1},
        "provenance": provenance(),
        "history": [],
    }
    return StageEntry(**(usual | changes))


def identity(**changes: Any) -> Identity:
    """Of a result on drawn images."""
    usual: dict[str, Any] = {
        "scale": "small",
        "data": DRAWN,
        "weights": "scratch",
        "selection": "last",
        "bn_group": None,
        "subset": None,
    }
    return Identity(**(usual | changes))


def result(*mAP: float, row: str = "a", seeds: int = 1, on: Host = ZEN, **changes: Any) -> Result:
    """A result with these mAP, seeds counting from `seeds`, and rank-1 ten points higher."""
    usual: dict[str, Any] = {
        "case": Cell(paper="p", table="3", row=row, label=row, column="m2d", task="m2d"),
        "identity": identity(),
        "printed": {},
        "verdict": "not comparable",
        "band": 2.0,
        "measured": {str(seeds + n): {"mAP": value, "rank1": value + 10} for n, value in enumerate(mAP)},
        "stages": [stage(provenance=provenance(host=on))],
    }
    return Result(**(usual | changes))


EMPTY_PAPER = """
paper = "demo"
title = "A demonstration"
authors = "A. Nonymous"
venue = "nowhere"
table = []
"""


def kept(document: Any) -> Any:
    """A record from a few words of JSON: what is not said of it is as usual."""
    if not isinstance(document, dict):
        return document
    whole: dict[str, Any] = {"format": FORMAT, "verdict": "not comparable"} | json.loads(json.dumps(document))
    whole["identity"] = msgspec.to_builtins(identity()) | whole.get("identity", {})
    whole["stages"] = [msgspec.to_builtins(stage()) | each for each in whole.get("stages", ())]
    if "claim" in whole:
        texts = dict.fromkeys(("where", "says", "left", "cause", "why", "kind", "table"), "") | {"testable": "yes"}
        whole["claim"] = texts | {"right": []} | whole["claim"]
        whole["compared"] = [{"p": 0.5} | each for each in whole.get("compared", ())]
        whole = {"seeds": [1, 2, 3], "world": ""} | whole
        del whole["stages"]
    elif "figure" in whole:
        whole = {"seed": 1} | whole
        whole["figure"] = {"where": "", "shows": "", "rows": []} | whole["figure"]
    else:
        whole = {"printed": {}} | whole
        if baseline := whole.get("baseline"):
            moved = {name: {"before": 3, "after": 1} | one for name, one in baseline["metrics"].items()}
            usual = {"recorded_on": [], "same_machine": True, "seeds": [1], "unjudged": "", "outside": False}
            whole["baseline"] = usual | baseline | {"metrics": moved}
    return parse(whole)


def paper(document: dict[str, Any]) -> Paper:
    """A paper from a few words of TOML: what is not said of it is as usual."""
    raw = json.loads(json.dumps(document))
    usual = {"authors": "A. Nonymous", "venue": "nowhere", "title": "A demonstration"}
    raw = usual | raw
    raw["table"] = [
        {"caption": "", "where": "", "checked": "by eye", "columns": [], "row": []} | table
        for table in raw.get("table", ())
    ]
    for table in raw["table"]:
        table["columns"] = [{"label": column["id"]} | column for column in table["columns"]]
        cells = {
            column["id"]: ["-"] * len(column.get("metrics") or table.get("metrics", ())) for column in table["columns"]
        }
        table["row"] = [cells | {"executed": "yes", "label": row["id"]} | row for row in table["row"]]
    raw["figure"] = [{"where": "", "shows": ""} | figure for figure in raw.get("figure", ())]
    raw["claim"] = [{"where": "", "says": "", "kind": "other"} | claim for claim in raw.get("claim", ())]
    return read_paper(raw, "made.toml")
