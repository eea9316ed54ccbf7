"""Results of cases: who is comparable with what is printed, the verdict, and the JSON that keeps it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.data import sources
from reproduce.errors import UserError
from reproduce.papers.baselines import ROUNDING, Runs, setting_of
from reproduce.papers.tables import METRICS, Case, Printed, full_label
from reproduce.running.recipe import digest_of_record
from reproduce.weights import DRAWN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
JUDGED = ("mAP", "rank1")
"""The metrics that a verdict looks at."""

SEEDS_FOR_A_REPRODUCTION = 3

FREEDOM_TO_POOL = 10
"""Degrees of freedom from which the spread between seeds is that of a whole table."""

LIKE_ITS_TABLE = 2.0
"""The most times the table's spread that a row's own may be."""

PASSING = ("reproduced", "consistent", "above", "not comparable")

Result = dict[str, Any]

_INNERMOST = re.compile(r"\{[^{}\[\]]*\}|\[[-+.,\deE\s]*\]")
"""Objects without others in them, such as a line of a history, and lists of numbers: written on one line."""


def reasons_against(identity: Mapping[str, Any]) -> list[str]:
    """Why a result cannot be set against the printed number; none where it can."""
    unpublished = [entry for entry in identity["data"].values() if entry["kind"] != sources.REAL]
    reasons = list(dict.fromkeys(map(_unlike_published, unpublished)))
    if not identity["data"]:
        reasons.append("no data that its stages name")
    if identity["scale"] != "paper":
        reasons.append(f"scale {identity['scale']}")
    if "scratch" in identity["weights"].split(", "):
        reasons.append("trained from scratch")
    if any(start.startswith(f"drawn {DRAWN} ") for start in identity["weights"].split(", ")):
        reasons.append("drawn-object weights")
    if files := identity.get("unpublished_weights"):
        reasons += [f"weights that are not the published file (sha256 {sha[:12]})" for sha in files.split(", ")]
    if identity["subset"] is not None:
        reasons.append(f"a subset of {identity['subset']} identities")
    if precision := identity.get("precision"):
        reasons.append(f"{precision} precision")
    return reasons


def _unlike_published(entry: Mapping[str, Any]) -> str:
    """What the images of an identity's entry are, if not a published set."""
    match entry:
        case {"kind": sources.STAND_IN}:
            return "stand-in data"
        case {"kind": sources.FOLDER}:
            return "a folder that was not checked against the published data set"
        case {"kind": sources.MADE, "by": stage}:
            return f"images made by {stage}"
        case {"by": package}:
            return f"a data set of {package}"
    return f"data of another kind ({entry['kind']})"


def judge(
    printed: Printed,
    measured: Mapping[str, Mapping[str, float]],
    band: float,
    pooled: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """Compare seed means with printed numbers (both in percent) that they are comparable with.

    Each metric has a 90 % t interval of its mean: inside the band, it passes two one-sided tests at 5 % (Schuirmann,
    1987). Judged are mAP and rank-1, or what a row prints that prints neither.

    Args:
        printed: the row's numbers by metric.
        measured: by training seed, what it measured; none collapsed.
        band: percent points around a printed number.
        pooled: the spread of the table, as `pool` has it. The interval takes it where it has the degrees of freedom and
            the row's own is at most twice as wide, else the row's own.

    Returns:
        "reproduced": three seeds or more, numbered from 1, every interval inside the band, no row's own spread more
        than twice the table's. "below" or "above": an interval wholly outside. Else "consistent": every mean inside the
        band, and every standard deviation at most as large. Else "inconclusive".
    """
    names = [metric for metric in JUDGED if printed.get(metric) is not None]
    names = names or [metric for metric in METRICS if printed.get(metric) is not None]
    seeds = list(measured.values())
    found = []
    for metric in names:
        gaps = [seed[metric] - value for seed in seeds if (value := printed[metric]) is not None]
        found.append(_Gap.of(gaps, (pooled or {}).get(metric)))
    if any(gap.high < -band for gap in found):
        return "below"
    if any(gap.low > band for gap in found):
        return "above"
    in_turn = sorted(map(int, measured)) == list(range(1, len(seeds) + 1))
    inside = all(-band <= gap.low and gap.high <= band and gap.ordinary for gap in found)
    if found and inside and in_turn and len(seeds) >= SEEDS_FOR_A_REPRODUCTION:
        return "reproduced"
    near = all(abs(gap.mean) <= band + ROUNDING and gap.own <= band for gap in found)
    return "consistent" if found and near else "inconclusive"


@dataclass(frozen=True)
class _Gap:
    """Measured less printed: the mean, its 90 % interval, the row's own spread, and whether the table's is like it."""

    mean: float
    low: float
    high: float
    own: float
    ordinary: bool

    @classmethod
    def of(cls, gaps: Sequence[float], pooled: Mapping[str, float] | None) -> _Gap:
        from scipy import stats

        count, mean = len(gaps), statistics.fmean(gaps)
        own = statistics.stdev(gaps) if count > 1 else 0.0
        wide = pooled if pooled and pooled["freedom"] >= FREEDOM_TO_POOL else None
        ordinary = not wide or own <= LIKE_ITS_TABLE * wide["sd"]
        sd, freedom = (wide["sd"], wide["freedom"]) if wide and ordinary else (own, count - 1)
        reach = float(stats.t.ppf(0.95, freedom)) * sd / math.sqrt(count) if freedom else math.inf
        return cls(mean, mean - reach, mean + reach, own, ordinary)


def pool(rows: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """The standard deviation between training seeds that rows share, and its degrees of freedom, by metric.

    Args:
        rows: what the seeds of each row measured, in percent.
    """
    several = [row for row in rows if len(row) > 1]
    freedom = sum(len(row) - 1 for row in several)
    if not freedom:
        return {}
    squares = {
        metric: sum(statistics.variance([seed[metric] for seed in row]) * (len(row) - 1) for row in several)
        for metric in METRICS
    }
    return {metric: {"sd": math.sqrt(total / freedom), "freedom": freedom} for metric, total in squares.items()}


def passes(result: Result) -> bool:
    """Whether a case's test passes.

    What is not comparable with the printed number cannot fail by it, and what the paper says collapses may.
    """
    may_collapse = bool(result["reasons"]) or result.get("collapses", False)
    return result["verdict"] in PASSING or (result["verdict"] == "collapsed" and may_collapse)


def describe(case: Case) -> dict[str, str]:
    """The part of a result that says which cell it is."""
    return {
        "paper": case.paper,
        "table": case.table,
        "row": case.row.id,
        "label": full_label(case.row),
        "column": case.column,
        "task": case.task.name,
    }


def file_name(result: Result) -> str:
    """A name by cell and identity: the same case in another setting is another file."""
    case = result["case"]
    digest = _digest(result["identity"])
    return (
        f"{case['paper']}-table{case['table']}-{case['task']}-{case['row']}-{result['identity']['scale']}-{digest}.json"
    )


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def write(result: Result, folder: Path) -> Path:
    """Write a result whole or not at all, in place of those of the same case and setting by another recipe."""
    return _write(result, folder / file_name(result))


def record(result: Result, folder: Path) -> Path:
    """Write a result as a baseline for later ones: without what was said of it beside an older baseline."""
    return write({name: value for name, value in result.items() if name != "baseline"}, folder)


def record_elsewhere(result: Result, folder: Path) -> Path:
    """Add a run's numbers to the record of the same case in the same setting that another processor made.

    Raises:
        UserError: there is no such record, or this processor made it.
    """
    path = folder / file_name(result)
    if not path.exists():
        raise UserError(f"there is no {path} to add to: record the case without --elsewhere first")
    kept, here = _read(path), Runs.of(result).on
    if Runs.of(kept).on == here:
        raise UserError(f"{path} was recorded on this processor: --elsewhere adds what another one measures")
    provenance = result["stages"][-1]["provenance"]
    added = {name: result[name] for name in ("measured", "collapsed")} | {
        "on": sorted(here),
        "commit": provenance["commit"],
    }
    others = [side for side in kept.get("elsewhere", ()) if set(side["on"]) != here]
    return _write(kept | {"elsewhere": [*others, added]}, path)


def write_claim(record: Result, folder: Path) -> Path:
    """Write what came of a claim, as `write` does."""
    claim, identity = record["claim"], record["identity"]
    name = "-".join(filter(None, (claim["paper"], claim["id"], record["world"], identity["scale"], _digest(identity))))
    return _write(record, folder / f"{name}.json")


def write_figure(record: Result, pictures: NDArray[np.uint8] | None, folder: Path) -> Path:
    """Write what a figure shows, as `write` does.

    Args:
        record: the figure; its "pictures" become the name and size of the strip of images beside it, or None.
        pictures: the images that it names, (N, height, width, 3), as one strip in their order; None for no strip, and
            then one of an earlier run goes.
        folder: where both go.
    """
    figure, identity = record["figure"], record["identity"]
    parts = (figure["paper"], f"figure{figure['id']}", figure["task"], identity["scale"], f"seed{record['seed']}")
    path = folder / f"{'-'.join((*parts, _digest(identity)))}.json"
    strip, beside = None, path.with_suffix(".png")
    if pictures is None:
        beside.unlink(missing_ok=True)
    else:
        from PIL import Image

        folder.mkdir(parents=True, exist_ok=True)
        count, height, width, _ = pictures.shape
        side_by_side = pictures.transpose(1, 0, 2, 3).reshape(height, count * width, 3)
        temporary = path.with_suffix(f".{os.getpid()}")
        Image.fromarray(side_by_side).save(temporary, "PNG", optimize=True)
        temporary.replace(beside)
        strip = {"file": beside.name, "count": count, "height": height, "width": width}
    return _write({**record, "pictures": strip}, path)


def _write(document: Result, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
    temporary.write_text(_INNERMOST.sub(lambda found: re.sub(r"\n\s*", " ", found[0]), text) + "\n")
    temporary.replace(path)
    for other in path.parent.glob(f"{path.stem.rpartition('-')[0]}-????????.json"):
        with contextlib.suppress(UserError):  # a broken one is told when it is read
            if other != path and setting_of(_read(other)) == setting_of(document):
                other.unlink()
                other.with_suffix(".png").unlink(missing_ok=True)
    return path


def migrate(folder: Path, digests: Mapping[str, str]) -> Iterator[tuple[Path, Path]]:
    """Give the records of a folder the identities that this version gives them.

    A record without a digest of its recipe gets the one of the stages that it keeps.

    Args:
        folder: of results and figures; claims are tried again.
        digests: of data sets, as they were told before and as they are told now.

    Yields:
        Where each lay and where it lies now.

    Raises:
        UserError: a record does not keep all of its stages.
    """
    for path, document in [(path, _read(path)) for path in _paths(folder)]:
        if "claim" in document or not document.get("stages"):
            continue
        identity = dict(document["identity"])
        identity["data"] = {
            name: {**entry, **({"digest": digests[entry["digest"]]} if entry.get("digest") in digests else {})}
            for name, entry in identity["data"].items()
        }
        try:
            identity.setdefault("recipe", digest_of_record(document))
        except KeyError as error:
            raise UserError(f"{path} names a stage {error} that it does not keep: run its case again") from None
        if identity != document["identity"]:
            carried = {**document, "identity": identity}
            new = write_figure(carried, None, path.parent) if "figure" in document else write(carried, path.parent)
            if new != path:
                path.unlink(missing_ok=True)
            yield path, new


def read(folder: Path) -> list[Result]:
    """Read every result under a folder, sorted by path; hidden files, claims and figures are left out.

    Raises:
        UserError: the folder is missing, or a file in it is broken or of another format; the message names it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} with results: run `pytest suites/` first, or name another folder")
    return [document for document in _documents(folder) if "claim" not in document and "figure" not in document]


def read_claims(folder: Path) -> list[Result]:
    """Read what came of claims from the files under a folder; none where there is no such folder."""
    return [document for document in _documents(folder) if "claim" in document]


def read_figures(folder: Path) -> list[Result]:
    """Read what figures show from the files under a folder, as `read_figure`; none where there is no such folder."""
    return [document for document in _documents(folder) if "figure" in document]


def read_figure(path: Path) -> Result:
    """Read what a figure shows; its "pictures" gain the path of the strip, and are None where that is not there."""
    return _read(path)


def _documents(folder: Path) -> list[Result]:
    return [_read(path) for path in _paths(folder)]


def _paths(folder: Path) -> list[Path]:
    found = sorted(path.relative_to(folder) for path in folder.rglob("*.json"))
    return [folder / path for path in found if not any(part.startswith(".") for part in path.parts)]


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
    if strip := result.get("pictures"):
        beside = path.with_name(strip["file"])
        result["pictures"] = strip | {"path": str(beside)} if beside.is_file() else None
    return result


def update(found: Sequence[Result], tried: Sequence[Result], drawn: Sequence[Result], folder: Path) -> list[str]:
    """Record results, claims and figures in place of older ones, and say what moved, a line each."""
    lines = []
    for result in found:
        if not result["measured"]:
            continue
        record(result, folder)
        case, was = result["case"], result.get("baseline")
        name = f"{case['paper']} table {case['table']}, {case['label']}, {case['task']}"
        moved = [
            f"{metric} {one['old']:.1f} -> {one['new']:.1f}"
            for metric, one in (was["metrics"] if was else {}).items()
            if f"{one['old']:.1f}" != f"{one['new']:.1f}"
        ]
        lines.append(f"recorded  {name}: {', '.join(moved) or ('as it was' if was else 'new')}")
    for claim in tried:
        write_claim(claim, folder / "claims")
    record_figures(drawn, folder)
    return lines


def record_figures(drawn: Sequence[Result], folder: Path) -> list[Path]:
    """Write the figures that were drawn under a folder of recorded results, without their pictures."""
    return [write_figure(figure, None, folder / "figures") for figure in drawn if "drawing" in figure]


def _problem(document: object) -> str:
    """What keeps a document from being a result; empty when nothing does."""
    if not isinstance(document, dict):
        return "it is not a JSON object"
    if document.get("format") != FORMAT:
        return f"its format is {document.get('format')!r}, not {FORMAT}"
    if isinstance(document.get("claim"), dict):
        kept = isinstance(document.get("verdict"), str) and isinstance(document.get("compared"), list)
        return "" if kept else "it is a claim without a verdict"
    if isinstance(figure := document.get("figure"), dict):
        named = all(isinstance(figure.get(name), str) for name in ("paper", "id", "task"))
        kept = isinstance(document.get("drawing"), dict) or document.get("verdict") == "error"
        strip = document.get("pictures")
        file = strip.get("file") if isinstance(strip, dict) else None
        whole = not strip or (isinstance(file, str) and Path(file).name == file)
        return "" if named and kept and whole else "it is a figure without a drawing, or with pictures elsewhere"
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
