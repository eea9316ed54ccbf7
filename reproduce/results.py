"""Results of cases: who is comparable with what is printed, the verdict, and the JSON that keeps it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reproduce.stage import UserError
from reproduce.tables import Case, Printed

FORMAT = 1
JUDGED = ("mAP", "rank1")
"""The metrics that a verdict looks at."""

SEEDS_FOR_A_REPRODUCTION = 3
PASSING = ("reproduced", "consistent", "above", "not comparable")

Result = dict[str, Any]

_INNERMOST = re.compile(r"\{[^{}\[\]]*\}")
"""Objects without others in them, such as a line of a history: written on one line."""


def reasons_against(identity: Mapping[str, Any]) -> list[str]:
    """Why a result cannot be set against the printed number; none where it can."""
    reasons: list[str] = []
    kinds = {data["kind"] for data in identity["data"].values()}
    if "stand-in" in kinds:
        reasons.append("stand-in data")
    if "folder" in kinds:
        reasons.append("a folder that was not checked against the published data set")
    if identity["scale"] != "paper":
        reasons.append(f"scale {identity['scale']}")
    if identity["weights"] == "scratch":
        reasons.append("trained from scratch")
    if identity["subset"] is not None:
        reasons.append(f"a subset of {identity['subset']} identities")
    return reasons


def judge(printed: Printed, measured: Sequence[Mapping[str, float]], band: float) -> str:
    """Compare seed means with printed numbers (both in percent) that they are comparable with.

    Returns:
        "below" or "above" where a metric lies outside the band; else "reproduced", or "consistent" with fewer than
        three seeds.
    """
    gaps = [
        statistics.fmean(seed[metric] for seed in measured) - value
        for metric in JUDGED
        if (value := printed.get(metric)) is not None
    ]
    if any(gap < -band for gap in gaps):
        return "below"
    if any(gap > band for gap in gaps):
        return "above"
    return "reproduced" if len(measured) >= SEEDS_FOR_A_REPRODUCTION else "consistent"


def passes(result: Result) -> bool:
    """Whether a case's test passes; what is not comparable with the printed number cannot fail by it."""
    return result["verdict"] in PASSING or (result["verdict"] == "collapsed" and bool(result["reasons"]))


def describe(case: Case) -> dict[str, str]:
    """The part of a result that says which cell it is."""
    return {
        "paper": case.paper,
        "table": case.table,
        "row": case.row.id,
        "label": case.row.label,
        "column": case.column,
        "task": case.task.name,
    }


def file_name(result: Result) -> str:
    """A name by cell and identity: the same case in another setting is another file."""
    case = result["case"]
    digest = hashlib.sha256(json.dumps(result["identity"], sort_keys=True).encode()).hexdigest()[:8]
    return (
        f"{case['paper']}-table{case['table']}-{case['task']}-{case['row']}-{result['identity']['scale']}-{digest}.json"
    )


def write(result: Result, folder: Path) -> Path:
    """Write a result whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(result)
    temporary = path.with_suffix(f".{os.getpid()}")
    text = json.dumps(result, indent=1, sort_keys=True, allow_nan=False)
    temporary.write_text(_INNERMOST.sub(lambda found: re.sub(r"\n\s*", " ", found[0]), text) + "\n")
    temporary.replace(path)
    return path


def read(folder: Path) -> list[Result]:
    """Read every result under a folder, sorted by path; hidden files are left out.

    Raises:
        UserError: the folder is missing, or a file in it is broken or of another format; the message names it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} with results: run `pytest suites/` first, or name another folder")
    found = sorted(path.relative_to(folder) for path in folder.rglob("*.json"))
    return [_read(folder / path) for path in found if not any(part.startswith(".") for part in path.parts)]


def _read(path: Path) -> Result:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable result ({error}): delete it and run its case again") from None
    if problem := _problem(document):
        raise UserError(
            f"{path} is not a result that this version can show: {problem}; move it away or run its case again"
        )
    result: Result = document
    return result


def _problem(document: object) -> str:
    """What keeps a document from being a result; empty when nothing does."""
    if not isinstance(document, dict):
        return "it is not a JSON object"
    if document.get("format") != FORMAT:
        return f"its format is {document.get('format')!r}, not {FORMAT}"
    case = document.get("case")
    if not isinstance(case, dict):
        return "it has no case"
    for name in ("paper", "table", "row", "column"):
        if not isinstance(case.get(name), str):
            return f"case.{name} is not a text"
    if not isinstance(document.get("verdict"), str):
        return "its verdict is not a text"
    shapes: tuple[tuple[str, type, type], ...] = (
        ("identity", dict, object),
        ("printed", dict, object),
        ("measured", dict, dict),
        ("reasons", list, object),
        ("deviations", list, object),
        ("stages", list, dict),
    )
    for name, outer, inner in shapes:
        value = document.get(name)
        if value is None:
            continue
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not isinstance(value, outer) or not all(isinstance(part, inner) for part in parts):
            return f"{name} is not what it should be"
    data = (document.get("identity") or {}).get("data", {})
    if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
        return "identity.data is not what it should be"
    for stage in document.get("stages") or ():
        history = stage.get("history") or []
        if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
            return "a stage's history is not a list of objects"
    return ""
