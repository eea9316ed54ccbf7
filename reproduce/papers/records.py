"""What a run keeps, as typed records, and the JSON files that hold them: results of rows, claims, figures."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct, structs

from reproduce.errors import UserError
from reproduce.files import replacing
from reproduce.running.provenance import Provenance, arithmetic
from reproduce.running.recipe import digest_of_record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1

Numbers = dict[str, float | int]
"""What one training seed measured, by metric."""

_INNERMOST = re.compile(r"\{[^{}\[\]]*\}|\[[-+.,\deE\s]*\]")
"""Objects without others in them, such as a line of a history, and lists of numbers: written on one line."""


class Kept(Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of a record."""


class Point(Kept, kw_only=True):
    """A point of a sweep: the figure that shows it, and what is varied."""

    figure: str
    parameter: str
    value: float | int | str


class Cell(Kept, kw_only=True, omit_defaults=True):
    """Which row on which task."""

    paper: str
    table: str
    row: str
    column: str
    label: str = ""
    """The row, as readers know it."""
    task: str = ""
    """The task that was really run for the column."""
    point: Point | None = None
    """Where in a sweep; None for the row as it is printed."""

    @property
    def place(self) -> tuple[object, ...]:
        """What tells it from other cells."""
        point = self.point and (self.point.figure, self.point.parameter, self.point.value)
        return self.paper, self.table, self.column, self.row, self.task, point


class Identity(Kept, kw_only=True, omit_defaults=True):
    """What makes results of one cell comparable with each other: everything but the training seed."""

    scale: str
    data: dict[str, dict[str, Any]]
    """Of each source of images what it says of itself, at least its "kind"."""
    weights: str
    """What networks start from; "scratch" for nothing."""
    selection: str
    """The moment of the training that is tested."""
    bn_group: int | None
    subset: int | None
    """Identities kept of real data sets; None for all."""
    scale_version: int = 0
    """Of the rules by which the scale shrinks experiments; 0 at published scales and where nothing told it."""
    precision: str = ""
    """Other than float32."""
    rounds: int = 0
    """At most so many rounds of labelling and training; 0 for what each recipe says."""
    unpublished_weights: str = ""
    """SHA-256 of files that are not known to be the published ones."""
    recipe: str = ""
    """A digest of all that the stages do (`reproduce.running.recipe`)."""

    @property
    def digest(self) -> str:
        """A short name for it."""
        return hashlib.sha256(json.dumps(msgspec.to_builtins(self), sort_keys=True).encode()).hexdigest()[:8]

    @property
    def setting(self) -> dict[str, Any]:
        """All of it but the recipe, as JSON."""
        told: dict[str, Any] = msgspec.to_builtins(structs.replace(self, recipe=""))
        return told


class StageEntry(Kept, kw_only=True, omit_defaults=True):
    """A stage behind a record."""

    key: str
    name: str
    label: str
    seed: int | None
    spec: dict[str, Any]
    provenance: Provenance
    history: list[dict[str, Any]]
    """What it logged, an entry a step."""
    kind: str = ""
    """Its label without training seeds and drawn worlds: what its time depends on."""


class Elsewhere(Kept, kw_only=True):
    """The numbers of the same case on another processor."""

    on: list[str]
    """Arithmetics (`provenance.arithmetic`)."""
    measured: dict[str, Numbers]
    collapsed: dict[str, str] = {}
    commit: str | None = None


class Moved(Kept, kw_only=True):
    """One metric beside its recorded value: means, the band of their difference, and of how many runs they are."""

    old: float
    new: float
    band: float | None
    before: int
    after: int


class Beside(Kept, kw_only=True):
    """A result beside what was recorded for the same case in the same setting (`baselines.compare`)."""

    commit: str | None
    """That recorded it."""
    recorded_on: list[str]
    """The processors, in words."""
    same_machine: bool
    recorded_seeds: list[int]
    seeds: list[int]
    metrics: dict[str, Moved]
    unjudged: str
    """Why it is not judged; empty where it is."""
    outside: bool
    """Whether a metric lies beyond its band."""
    drift: bool


class Spread(Kept, kw_only=True):
    """The standard deviation between training seeds that rows share, and its degrees of freedom."""

    sd: float
    freedom: int


class Result(Kept, kw_only=True):
    """What a row measured on one task in one setting."""

    format: int = FORMAT
    case: Cell
    identity: Identity
    printed: dict[str, float | None]
    band: float | None = None
    """Percentage points around a printed number."""
    band_why: str = ""
    collapses: bool = False
    """Whether the paper reports that this row's training falls apart."""
    measured: dict[str, Numbers] = {}
    """By training seed; empty where there are no numbers."""
    collapsed: dict[str, str] = {}
    """Why training could not go on, by seed."""
    reasons: list[str] = []
    """Why it is not comparable with the printed number."""
    deviations: list[str] = []
    """Where the methods depart from their papers."""
    stages: list[StageEntry] = []
    command: str = ""
    """Runs it alone."""
    verdict: str
    steady: bool = False
    """Whether rounding moves it little: no stage learns from pseudo labels."""
    table_spread: dict[str, Spread] = {}
    """The spread between seeds that the verdict took (`verdicts.pool`)."""
    baseline: Beside | None = None
    elsewhere: list[Elsewhere] = []
    error: str = ""
    log_tail: str = ""

    @property
    def on(self) -> set[str]:
        """The arithmetics that its stages were computed with."""
        return {arithmetic(stage.provenance) for stage in self.stages}

    @property
    def means(self) -> Numbers:
        """The mean over seeds of every metric that all of them have."""
        seeds = list(self.measured.values())
        shared = [name for name in seeds[0] if all(name in seed for seed in seeds)] if seeds else []
        return {name: sum(seed[name] for seed in seeds) / len(seeds) for name in shared}


class Claimed(Kept, kw_only=True):
    """A claim, as the paper's file describes it."""

    paper: str
    id: str
    table: str
    kind: str
    where: str
    says: str
    left: str
    right: list[str]
    cause: str
    testable: str
    why: str


class Comparison(Kept, kw_only=True):
    """One cell against another in one metric: left minus right in percentage points."""

    right: str
    metric: str
    stated: float | int | None
    difference: float
    low: float
    high: float
    interval: str
    """Of what kind it is, in words."""
    by_seed: dict[str, float]
    p: float


class ClaimRecord(Kept, kw_only=True):
    """What came of a claim in one world."""

    format: int = FORMAT
    claim: Claimed
    world: str
    """The change of the drawn world; empty for the world, or the data, that was asked for."""
    identity: Identity
    seeds: list[int]
    verdict: str
    second: list[str] = []
    """What stands beside the verdict, such as "smaller than stated"."""
    reasons: list[str] = []
    compared: list[Comparison] = []
    p: float | None = None
    p_adjusted: float | None = None
    family: str = ""
    """Among how many claims p was adjusted."""
    collapsed: list[str] = []
    """Cells and seeds whose training could not go on."""
    command: str = ""


class Shown(Kept, kw_only=True):
    """A figure on one task, as the paper's file describes it; `rows` are labels."""

    paper: str
    id: str
    where: str
    shows: str
    task: str
    rows: list[str]


class Strip(Kept, kw_only=True, omit_defaults=True):
    """The pictures of a figure, side by side in one PNG beside its record."""

    file: str
    count: int
    height: int
    width: int
    path: str = ""
    """Where it lies, once it was found; never written."""


class FigureRecord(Kept, kw_only=True):
    """What a figure shows."""

    format: int = FORMAT
    figure: Shown
    identity: Identity
    seed: int
    verdict: str
    """"drawn" or "error"."""
    drawing: dict[str, Any] | None = None
    """Facts to draw (`reproduce.figures`)."""
    pictures: Strip | None = None
    deviations: list[str] = []
    stages: list[StageEntry] = []
    command: str = ""
    error: str = ""


Record = Result | ClaimRecord | FigureRecord
R = TypeVar("R", Result, ClaimRecord, FigureRecord)


def path_of(record: Record, folder: Path) -> Path:
    """Where a folder keeps a record: a name by what it is of and its identity."""
    identity = record.identity
    match record:
        case Result(case=case):
            point = [f"{case.point.figure}-{case.point.parameter}-{case.point.value}"] if case.point else []
            parts = [case.paper, f"table{case.table}", case.task, case.row, *point]
        case ClaimRecord(claim=claim):
            parts = [claim.paper, claim.id, record.world]
        case FigureRecord(figure=figure):
            parts = [figure.paper, f"figure{figure.id}", figure.task]
    seed = f"seed{record.seed}" if isinstance(record, FigureRecord) else ""
    return folder / f"{'-'.join(filter(None, (*parts, identity.scale, seed, identity.digest)))}.json"


def write(record: Record, folder: Path) -> Path:
    """Write a record whole or not at all, in place of those of the same case and setting by another recipe."""
    path = path_of(record, folder)
    if isinstance(record, FigureRecord) and record.pictures:
        record = structs.replace(record, pictures=structs.replace(record.pictures, path=""))
    _put(msgspec.to_builtins(record), path)
    for other in path.parent.glob(f"{path.stem.rpartition('-')[0]}-????????.json"):
        with contextlib.suppress(UserError):  # a broken one is told when it is read
            if other != path and read_one(other).identity.setting == record.identity.setting:
                other.unlink()
                other.with_suffix(".png").unlink(missing_ok=True)
    return path


def write_figure(record: FigureRecord, pictures: NDArray[np.uint8] | None, folder: Path) -> Path:
    """Write what a figure shows, as `write` does.

    Args:
        record: the figure; it gets the name and size of the strip.
        pictures: the images that it names, (N, height, width, 3), as one strip in their order; None for no strip, and
            then one of an earlier run goes.
        folder: where both go.
    """
    path = path_of(record, folder)
    strip, beside = None, path.with_suffix(".png")
    if pictures is None:
        beside.unlink(missing_ok=True)
    else:
        from PIL import Image

        count, height, width, _ = pictures.shape
        side_by_side = pictures.transpose(1, 0, 2, 3).reshape(height, count * width, 3)
        with replacing(beside) as draft:
            Image.fromarray(side_by_side).save(draft, "PNG", optimize=True)
        strip = Strip(file=beside.name, count=count, height=height, width=width)
    return write(structs.replace(record, pictures=strip), folder)


def _put(document: Any, path: Path) -> None:
    text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
    with replacing(path) as draft:
        draft.write_text(_INNERMOST.sub(lambda found: re.sub(r"\n\s*", " ", found[0]), text) + "\n")


def read(folder: Path) -> list[Result]:
    """Read every result under a folder, sorted by path; hidden files, claims and figures are left out.

    Raises:
        UserError: the folder is missing, or a file in it is broken or of another format; the message names it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} with results: run `pytest suites/` first, or name another folder")
    return _of_kind(Result, folder)


def read_claims(folder: Path) -> list[ClaimRecord]:
    """Read what came of claims from the files under a folder; none where there is no such folder."""
    return _of_kind(ClaimRecord, folder)


def read_figures(folder: Path) -> list[FigureRecord]:
    """Read what figures show from the files under a folder; none where there is no such folder."""
    return _of_kind(FigureRecord, folder)


def _of_kind(kind: type[R], folder: Path) -> list[R]:
    records = (read_one(path) for path in _paths(folder))
    return [record for record in records if isinstance(record, kind)]


def _paths(folder: Path) -> list[Path]:
    found = sorted(path.relative_to(folder) for path in folder.rglob("*.json"))
    return [folder / path for path in found if not any(part.startswith(".") for part in path.parts)]


def read_one(path: Path) -> Record:
    """Read a record. The pictures of a figure gain the path of their strip, and are None where that is not there.

    Raises:
        UserError: the file is broken, or of another format.
    """
    try:
        document = msgspec.json.decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable result ({error}): delete it and run its case again") from None
    try:
        record = parse(document)
    except ValueError as error:
        raise UserError(
            f"{path} is not a result that this version can show: {error}; move it away or run its case again"
        ) from None
    if isinstance(record, FigureRecord) and record.pictures:
        if Path(record.pictures.file).name != record.pictures.file:
            raise UserError(f"{path} names pictures elsewhere: delete it and run its case again")
        beside = path.with_name(record.pictures.file)
        found = structs.replace(record.pictures, path=str(beside)) if beside.is_file() else None
        record = structs.replace(record, pictures=found)
    return record


def parse(document: Any) -> Record:
    """A record from JSON.

    Raises:
        ValueError: it is none; the message says where.
    """
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    if document.get("format") != FORMAT:
        raise ValueError(f"its format is {document.get('format')!r}, not {FORMAT}")
    kind: Any = ClaimRecord if "claim" in document else FigureRecord if "figure" in document else Result
    if kind is Result:
        for part in (document, *(document.get("elsewhere") or ())):
            if isinstance(part, dict) and isinstance(texts := part.get("collapsed"), list):  # as it was written once
                part["collapsed"] = dict(re.findall(r"seed (\d+): (.*)", "\n".join(map(str, texts))))
    record: Record = msgspec.convert(document, kind)
    return record


def record(result: Result, folder: Path) -> Path:
    """Write a result as a baseline for later ones: without what was said of it beside an older baseline."""
    return write(structs.replace(result, baseline=None), folder)


def record_elsewhere(result: Result, folder: Path) -> Path:
    """Add a run's numbers to the record of the same case in the same setting that another processor made.

    Raises:
        UserError: there is no such record, or this processor made it.
    """
    path = path_of(result, folder)
    if not path.exists():
        raise UserError(f"there is no {path} to add to: record the case without --elsewhere first")
    kept, here = read_one(path), result.on
    assert isinstance(kept, Result)
    if kept.on == here:
        raise UserError(f"{path} was recorded on this processor: --elsewhere adds what another one measures")
    added = Elsewhere(
        on=sorted(here),
        measured=result.measured,
        collapsed=result.collapsed,
        commit=result.stages[-1].provenance.commit,
    )
    others = [side for side in kept.elsewhere if set(side.on) != here]
    return write(structs.replace(kept, elsewhere=[*others, added]), folder)


def record_figures(drawn: Sequence[FigureRecord], folder: Path) -> list[Path]:
    """Write the figures that were drawn under a folder of recorded results, without their pictures."""
    return [write_figure(figure, None, folder / "figures") for figure in drawn if figure.drawing is not None]


def update(
    results: Sequence[Result], claims: Sequence[ClaimRecord], figures: Sequence[FigureRecord], folder: Path
) -> list[str]:
    """Record results, claims and figures in place of older ones, and say what moved, a line each."""
    lines = []
    for result in results:
        if not result.measured:
            continue
        record(result, folder)
        case, was = result.case, result.baseline
        moved = [
            f"{metric} {one.old:.1f} -> {one.new:.1f}"
            for metric, one in (was.metrics if was else {}).items()
            if f"{one.old:.1f}" != f"{one.new:.1f}"
        ]
        name = f"{case.paper} table {case.table}, {case.label}, {case.task}"
        lines.append(f"recorded  {name}: {', '.join(moved) or ('as it was' if was else 'new')}")
    for claim in claims:
        write(claim, folder / "claims")
    record_figures(figures, folder)
    return lines


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
    for path, kept in [(path, read_one(path)) for path in _paths(folder)]:
        if isinstance(kept, ClaimRecord) or not kept.stages:
            continue
        data = {
            name: {**entry, **({"digest": digests[entry["digest"]]} if entry.get("digest") in digests else {})}
            for name, entry in kept.identity.data.items()
        }
        try:
            own = kept.identity.recipe or digest_of_record({stage.key: stage.spec for stage in kept.stages})
        except KeyError as error:
            raise UserError(f"{path} names a stage {error} that it does not keep: run its case again") from None
        identity = structs.replace(kept.identity, data=data, recipe=own)
        if identity != kept.identity:
            carried = structs.replace(kept, identity=identity)
            new = (
                write_figure(carried, None, path.parent)
                if isinstance(carried, FigureRecord)
                else write(carried, path.parent)
            )
            if new != path:
                path.unlink(missing_ok=True)
            yield path, new
