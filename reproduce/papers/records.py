"""Define typed records of rows, claims and figures, and read and write their JSON files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Struct, structs

from reproduce.errors import UserError
from reproduce.files import replacing
from reproduce.papers.tables import point_name
from reproduce.running.provenance import Provenance, arithmetic
from reproduce.running.recipe import digest_of_record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1

Id = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9+.-]*\Z")]
"""A part of a record's file name, as `tables` allows it; or, of `IdOrNone`, empty."""

IdOrNone = Annotated[str, msgspec.Meta(pattern=r"\A([a-z0-9][a-z0-9+.-]*)?\Z")]

Parameter = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z][A-Za-z0-9_]*\Z")]
"""Name of a sweep's parameter, in a record's file name."""

Numbers = dict[str, float | int]
"""Numbers of one training seed, by metric."""

_INNERMOST = re.compile(r"\{[^{}\[\]]*\}|\[[-+.,\deE\s]*\]")
"""Matches innermost objects, such as a line of a history, and lists of numbers, which are written on one line."""


class Kept(Struct, kw_only=True, forbid_unknown_fields=True):
    """Base class of records and their parts."""


class Point(Kept, kw_only=True):
    """A point of a sweep: its figure, parameter and value."""

    figure: Id
    parameter: Parameter
    value: float | int | Id


class Cell(Kept, kw_only=True, omit_defaults=True):
    """A row on a task."""

    paper: Id
    table: Id
    row: Id
    column: Id
    label: str = ""
    """The row's label for readers."""
    task: IdOrNone = ""
    """The task that was run for the column."""
    point: Point | None = None
    """Point of a sweep; None for the row as printed."""

    @property
    def name(self) -> str:
        """The name by which claims call it, such as "3/ours/m2d" or "figure 5/p=0.5/m2d"."""
        if self.point:
            return point_name(self.point.figure, self.point.parameter, float(self.point.value), self.task)
        return f"{self.table}/{self.row}/{self.column}"

    @property
    def place(self) -> tuple[object, ...]:
        """A tuple that distinguishes it from other cells."""
        point = self.point and (self.point.figure, self.point.parameter, self.point.value)
        return self.paper, self.table, self.column, self.row, self.task, point


class Identity(Kept, kw_only=True, omit_defaults=True):
    """Everything but the training seed that results of one cell must share to be compared."""

    scale: Id
    data: dict[str, dict[str, Any]]
    """Description of each source of images, with at least its "kind"."""
    weights: str
    """Initial weights of networks; "scratch" for none."""
    selection: str
    """Moment of the training that is tested."""
    bn_group: int | None
    subset: int | None
    """Identities kept of real data sets; None for all."""
    scale_version: int = 0
    """Version of the rules by which the scale shrinks experiments; 0 at published scales and if it is unknown."""
    precision: str = ""
    """Precisions other than float32."""
    rounds: int = 0
    """Largest number of rounds of labelling and training; 0 for each recipe's own."""
    unpublished_weights: str = ""
    """SHA-256 of files not known to be the published ones."""
    recipe: str = ""
    """Digest of all that the stages do (`reproduce.running.recipe`)."""

    @property
    def digest(self) -> str:
        """A short hash of it."""
        return hashlib.sha256(json.dumps(msgspec.to_builtins(self), sort_keys=True).encode()).hexdigest()[:8]

    @property
    def setting(self) -> dict[str, Any]:
        """All fields but the recipe, as JSON values."""
        fields: dict[str, Any] = msgspec.to_builtins(structs.replace(self, recipe=""))
        return fields

    @property
    def drawn(self) -> str:
        """The drawn world of its stand-ins and the dials turned in it, such as "world 2, camera 0"; empty for none."""
        worlds = [entry for entry in self.data.values() if entry.get("kind") == "stand-in"]
        parts = [f"world {entry.get('seed')}" for entry in worlds]
        for entry in worlds:
            parts += [f"{name} {value:g}" for name, value in (entry.get("dials") or {}).items() if value != 1]
        return ", ".join(dict.fromkeys(parts))

    @property
    def folders(self) -> list[str]:
        """Names of the user's own folders among its data."""
        entries = self.data.values()
        return sorted({str(entry.get("folder") or "a folder") for entry in entries if entry.get("kind") == "folder"})


class StageEntry(Kept, kw_only=True, omit_defaults=True):
    """A stage behind a record."""

    key: str
    name: str
    label: str
    seed: int | None
    spec: dict[str, Any]
    provenance: Provenance
    history: list[dict[str, Any]]
    """Logged values, one entry per step."""
    kind: str = ""
    """Label without training seeds and drawn worlds, on which its time depends."""
    work: float = 0.0
    """Images that it passed through a network (`Stage.work`); 0 if unknown."""


class Elsewhere(Kept, kw_only=True):
    """Numbers of the same case on another processor."""

    on: list[str]
    """Arithmetics (`provenance.arithmetic`)."""
    measured: dict[str, Numbers]
    collapsed: dict[str, str] = {}
    commit: str | None = None


class Moved(Kept, kw_only=True):
    """One metric and its recorded value."""

    old: float
    """Mean of the recorded runs."""
    new: float
    """Mean of the new runs."""
    band: float | None
    """Largest difference of the means that is no drift; None if it is unknown."""
    before: int
    """Number of recorded runs."""
    after: int
    """Number of new runs."""


class Beside(Kept, kw_only=True):
    """Comparison of a result with the recorded one of the same case and setting (`baselines.compare`)."""

    commit: str | None
    """Commit of the recorded result."""
    recorded_on: list[str]
    """Arithmetics of the recorded runs (`provenance.arithmetic`)."""
    same_machine: bool
    recorded_seeds: list[int]
    seeds: list[int]
    metrics: dict[str, Moved]
    unjudged: str
    """Why it is not judged; empty if it is."""
    outside: bool
    """Whether a metric lies outside its band."""
    drift: bool


class Spread(Kept, kw_only=True):
    """Standard deviation between training seeds, pooled over rows, and its degrees of freedom."""

    sd: float
    freedom: int


class Result(Kept, kw_only=True):
    """Measured numbers of a row on one task in one setting."""

    format: int = FORMAT
    case: Cell
    identity: Identity
    printed: dict[str, float | None]
    band: float | None = None
    """Percentage points around a printed number."""
    band_why: str = ""
    collapses: bool = False
    """Whether the paper reports that this row's training collapses."""
    measured: dict[str, Numbers] = {}
    """Numbers by training seed; empty if there are none."""
    collapsed: dict[str, str] = {}
    """Why training could not continue, by seed."""
    reasons: list[str] = []
    """Why it is not comparable with the printed number."""
    deviations: list[str] = []
    """Differences of the methods from their papers."""
    stages: list[StageEntry] = []
    command: str = ""
    """Command that runs it alone."""
    verdict: str
    steady: bool = False
    """Whether rounding has little effect on it: no stage learns from pseudo labels."""
    table_spread: dict[str, Spread] = {}
    """Spread between seeds that the verdict used (`verdicts.pool`)."""
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
        """Mean over seeds of every metric that all of them have."""
        seeds = list(self.measured.values())
        shared = [name for name in seeds[0] if all(name in seed for seed in seeds)] if seeds else []
        return {name: sum(seed[name] for seed in seeds) / len(seeds) for name in shared}


class Claimed(Kept, kw_only=True):
    """A claim as described in the paper's file."""

    paper: Id
    id: Id
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
    """Kind of the interval, in words."""
    by_seed: dict[str, float]
    p: float


class ClaimRecord(Kept, kw_only=True):
    """Verdict on a claim in one world."""

    format: int = FORMAT
    claim: Claimed
    world: IdOrNone
    """Change of the drawn world; empty for the requested world or data."""
    identity: Identity
    seeds: list[int]
    verdict: str
    second: list[str] = []
    """Qualifications of the verdict, such as "smaller than stated"."""
    reasons: list[str] = []
    compared: list[Comparison] = []
    p: float | None = None
    p_adjusted: float | None = None
    family: str = ""
    """The claims over which p was adjusted, in words."""
    collapsed: list[str] = []
    """Cells and seeds whose training could not continue."""
    command: str = ""


class Shown(Kept, kw_only=True):
    """A figure on one task as described in the paper's file; `rows` are labels."""

    paper: Id
    id: Id
    where: str
    shows: str
    task: IdOrNone
    rows: list[str]


class Strip(Kept, kw_only=True, omit_defaults=True):
    """The pictures of a figure, side by side in one PNG that lies beside its record."""

    file: str
    count: int
    height: int
    width: int
    path: str = ""
    """Path of the PNG once it was found; never written."""


class FigureRecord(Kept, kw_only=True):
    """Facts and pictures of a figure."""

    format: int = FORMAT
    figure: Shown
    identity: Identity
    seed: int
    verdict: str
    """"drawn" or "error"."""
    drawing: dict[str, Any] | None = None
    """Facts for the page to draw (`reproduce.figures`)."""
    pictures: Strip | None = None
    deviations: list[str] = []
    stages: list[StageEntry] = []
    command: str = ""
    error: str = ""


Record = Result | ClaimRecord | FigureRecord
R = TypeVar("R", Result, ClaimRecord, FigureRecord)


def path_of(record: Record, folder: Path) -> Path:
    """Return a record's path in a folder, named by its case, claim or figure and its identity."""
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
    """Write a record atomically, replacing those of the same case and setting by another recipe."""
    path = path_of(record, folder)
    if isinstance(record, FigureRecord) and record.pictures:
        record = structs.replace(record, pictures=structs.replace(record.pictures, path=""))
    _put(msgspec.to_builtins(record), path)
    for other in path.parent.glob(f"{path.stem.rpartition('-')[0]}-????????.json"):
        with contextlib.suppress(UserError):  # a broken record is reported when it is read
            if other != path and _of_another_recipe(read_one(other), record):
                other.unlink()
                other.with_suffix(".png").unlink(missing_ok=True)
    return path


def _of_another_recipe(old: Record, new: Record) -> bool:
    """Whether a record of the same file name, but for the identity, is of the same case and setting."""
    if isinstance(old, Result) and isinstance(new, Result) and old.case.place != new.case.place:
        return False  # another column: columns of methods share their task
    return old.identity.setting == new.identity.setting


def write_figure(record: FigureRecord, pictures: NDArray[np.uint8] | None, folder: Path) -> Path:
    """Write a figure's record, as `write` does, with its pictures.

    Args:
        record: The figure's record, to which the name and size of the strip are added.
        pictures: The images that it names, (N, height, width, 3), written as one strip in this order; None writes no
            strip and removes that of an earlier run.
        folder: Folder for both files.
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
        draft.write_text(_INNERMOST.sub(lambda match: re.sub(r"\n\s*", " ", match[0]), text) + "\n")


def read(folder: Path) -> list[Result]:
    """Read every result under a folder, sorted by path, except hidden files, claims and figures.

    Raises:
        UserError: The folder is missing, or a file in it is broken or of another format; the message names it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} with results: run `pytest suites/` first, or name another folder")
    return _of_kind(Result, folder)


def read_claims(folder: Path) -> list[ClaimRecord]:
    """Read the records of claims under a folder; none if it does not exist."""
    return _of_kind(ClaimRecord, folder)


def read_figures(folder: Path) -> list[FigureRecord]:
    """Read the records of figures under a folder; none if it does not exist."""
    return _of_kind(FigureRecord, folder)


def _of_kind(kind: type[R], folder: Path) -> list[R]:
    records = (read_one(path) for path in _paths(folder))
    return [record for record in records if isinstance(record, kind)]


def _paths(folder: Path) -> list[Path]:
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.json"))
    return [folder / path for path in paths if not any(part.startswith(".") for part in path.parts)]


def read_one(path: Path) -> Record:
    """Read a record, with the path of a figure's strip in `pictures`, or None if the strip is missing.

    Raises:
        UserError: The file is broken or of another format.
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
            raise UserError(f"{path} names pictures in another folder: delete it and run its case again")
        beside = path.with_name(record.pictures.file)
        strip = structs.replace(record.pictures, path=str(beside)) if beside.is_file() else None
        record = structs.replace(record, pictures=strip)
    return record


def parse(document: Any) -> Record:
    """Convert JSON to a record.

    Raises:
        ValueError: It is no record; the message says where.
    """
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    if document.get("format") != FORMAT:
        raise ValueError(f"its format is {document.get('format')!r}, not {FORMAT}")
    kind: Any = ClaimRecord if "claim" in document else FigureRecord if "figure" in document else Result
    if kind is Result:
        elsewhere = document.get("elsewhere")
        for part in (document, *(elsewhere if isinstance(elsewhere, list) else ())):
            if isinstance(part, dict) and isinstance(
                texts := part.get("collapsed"), list
            ):  # written by earlier versions
                part["collapsed"] = dict(re.findall(r"seed (\d+): (.*)", "\n".join(map(str, texts))))
    record: Record = msgspec.convert(document, kind)
    return record


def record(result: Result, folder: Path) -> Path:
    """Write a result as a baseline for later ones, without its own comparison with an older baseline.

    What other processors measured is kept if the recipe and the numbers are those recorded before.
    """
    path = path_of(result, folder)
    elsewhere: list[Elsewhere] = []
    if path.exists() and isinstance(old := read_one(path), Result):
        same = (old.identity, old.measured) == (result.identity, result.measured)
        elsewhere = old.elsewhere if same else []
    return write(structs.replace(result, baseline=None, elsewhere=elsewhere), folder)


def record_elsewhere(result: Result, folder: Path) -> Path:
    """Add a run's numbers to the record that another processor made of the same case in the same setting.

    Raises:
        UserError: There is no such record, or this processor made it.
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
    """Write the drawn figures under a folder of recorded results, without their pictures."""
    return [write_figure(figure, None, folder / "figures") for figure in drawn if figure.drawing is not None]


def update(
    results: Sequence[Result], claims: Sequence[ClaimRecord], figures: Sequence[FigureRecord], folder: Path
) -> list[str]:
    """Record results, claims and figures in place of older ones; return one line per result with what moved."""
    lines = []
    for result in results:
        if not result.measured:
            continue
        record(result, folder)
        case, was = result.case, result.baseline
        moved = [
            f"{metric} {change.old:.1f} -> {change.new:.1f}"
            for metric, change in (was.metrics if was else {}).items()
            if f"{change.old:.1f}" != f"{change.new:.1f}"
        ]
        name = f"{case.paper} table {case.table}, {case.label}, {case.task}"
        lines.append(f"recorded  {name}: {', '.join(moved) or ('as it was' if was else 'new')}")
    for claim in claims:
        write(claim, folder / "claims")
    record_figures(figures, folder)
    return lines


def migrate(folder: Path, digests: Mapping[str, str]) -> Iterator[tuple[Path, Path]]:
    """Convert the identities of a folder's records to those of this version.

    A record without a recipe digest gets the one of the stages that it keeps.

    Args:
        folder: Folder of results and figures; claims are not converted.
        digests: Present digests of data sets by former ones.

    Yields:
        Old and new path of each converted record.

    Raises:
        UserError: A record does not keep all of its stages.
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
