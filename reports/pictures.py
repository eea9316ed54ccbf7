"""Draw figures that show images: rank lists, activation maps, projections to the plane."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from reports.identity import Identity, folders_of, setting_words
from reports.stages import StageLine, provenance, stage_lines
from reports.words import MINUS, NOTHING, arrows, percent, scalar, sentence
from reproduce.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from reproduce.papers.records import FigureRecord, StageEntry
    from reproduce.papers.tables import Paper

RIGHT, WRONG = "✓", "✗"

COLOURS = 7
"""Colours of identities' marks, defined in the pages' style for light and dark pages."""

SHAPES = (
    "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    "m-2.7-2.7h5.4v5.4h-5.4z",
    "m0-3.7l3.4 6.2h-6.8z",
    "m0-3.9l3.3 3.9-3.3 3.9-3.3-3.9z",
    "m0 3.7l3.4-6.2h-6.8z",
    "m-1.1-3.3h2.2v2.2h2.2v2.2h-2.2v2.2h-2.2v-2.2h-2.2v-2.2h2.2z",
)
"""Of the marks, as paths around a point; as many as have no factor in common with the colours, so pairs last long."""

PLANE, MARGIN = 320, 10
"""Side of the drawing of a projection, and the margin around the points, in user units."""

HEAT = "inferno"
"""Colours of maps, from dark to bright in perceptually even steps, also for the colour-blind."""

RANK_LISTS = (
    "A line holds the images of the gallery that are nearest to the query, the nearest first. "
    f"{RIGHT} in green is the query's identity, {WRONG} in red another; the distance to the query, or its similarity "
    "where the paper prints that, is below or, without pictures, under the pointer. AP is the query's average "
    "precision, mAP its mean over all queries of the test set; both are percentages."
)
ACTIVATION_MAPS = (
    "A map is the sum over channels of the squared activations that are pooled into features. The brightest place of "
    "each map is its own 1, so brightness tells places of one map apart, and not one map from another. Under maps of "
    "drawn images stands how much of the sum lies on the person, which only the program that drew them knows."
)
ATTENTION_MAPS = (
    "A map is the mean over channels of the weights by which the attention multiplies the backbone's maps for a "
    "branch, dark for 0 and bright for 1 in all maps. Under maps of drawn images stands the mean weight on the person "
    "and elsewhere, which only the program that drew them can tell apart."
)
PROJECTION = (
    "A mark is an image; colour and shape together are its identity. t-SNE puts images with similar embeddings near "
    "each other. Its axes and the distances between far groups have no meaning, so no axes are drawn. The silhouette "
    "is that of the embeddings, not of the marks: how much nearer an image is, in cosine distance, to its own identity "
    f"than to the next one, from {MINUS}1 to 1."
)
DECODED = (
    "Under or beside an image is what the decoder makes of the encoder's maps of it. An image of the labelled domain "
    "ought to come back as it was, one of the other in the style of the labelled domain. Below stands the mean "
    "difference of pixel values, of the whole range between black and white."
)
READING = {
    "rank lists": RANK_LISTS,
    "activation maps": ACTIVATION_MAPS,
    "attention maps": ATTENTION_MAPS,
    "projection": PROJECTION,
    "decoded images": DECODED,
}
UNREADABLE = "What this record holds cannot be drawn by this version."


@dataclass(frozen=True)
class Strip:
    """Pictures of one size side by side in one PNG, as a data URI."""

    uri: str
    count: int
    height: int
    width: int

    @property
    def last(self) -> int:
        """Place of the last picture, at least 1: what places are divided by."""
        return max(1, self.count - 1)


@dataclass(frozen=True)
class Shot:
    """An image: its place in the strip, and who was seen by which camera, counted from 1 as file names do."""

    place: int
    pid: str
    camera: str

    @property
    def words(self) -> str:
        return f"id {self.pid}, camera {self.camera}"


@dataclass(frozen=True)
class Rank:
    """One image of a rank list."""

    number: int
    image: Shot
    right: bool
    measured: str
    """Its distance to the query or, named so, its similarity."""
    what: str = "distance"

    @property
    def sign(self) -> str:
        return RIGHT if self.right else WRONG

    @property
    def words(self) -> str:
        """Text alternative for screen readers."""
        outcome = "right" if self.right else "wrong"
        return f"rank {self.number}, {outcome}: {self.image.words}, {self.what} {self.measured}"


@dataclass(frozen=True)
class RankList:
    """One network's first ranks for one query."""

    network: str
    ap: str
    ranks: tuple[Rank, ...]

    @property
    def signs(self) -> str:
        return "".join(rank.sign for rank in self.ranks)


@dataclass(frozen=True)
class Query:
    """A query and each network's rank list."""

    image: Shot
    lists: tuple[RankList, ...]


@dataclass(frozen=True)
class Heat:
    """The map of one network: as a PNG in a data URI, and how much of it lies on the person where that is known."""

    network: str
    uri: str
    share: str
    where: str

    @property
    def words(self) -> str:
        return f"map of {self.network}" + (f", {self.where}" if self.where else "")


@dataclass(frozen=True)
class Heated:
    """An image and each network's map."""

    image: Shot
    maps: tuple[Heat, ...]


@dataclass(frozen=True)
class Made:
    """What one network's decoder made of an image: its place in the strip, and how much it differs."""

    network: str
    place: int
    differs: str

    @property
    def words(self) -> str:
        return f"decoded by {self.network}, which differs by {self.differs}"


@dataclass(frozen=True)
class Decoded:
    """An image, whether its domain is the labelled one, and what each network makes of it."""

    image: Shot
    labelled: bool
    made: tuple[Made, ...]


@dataclass(frozen=True)
class Marks:
    """The points of one identity: path, colour and description."""

    path: str
    colour: int
    words: str


@dataclass(frozen=True)
class Plane:
    """The embeddings of one network in the plane."""

    network: str
    silhouette: str
    people: tuple[Marks, ...]
    summary: str


@dataclass(frozen=True)
class Content:
    """The content of a drawing: one of four kinds, and each network's mAP for rank lists."""

    queries: tuple[Query, ...] = ()
    heated: tuple[Heated, ...] = ()
    brightest: str = ""
    """What the end of the scale of maps is."""
    planes: tuple[Plane, ...] = ()
    decoded: tuple[Decoded, ...] = ()
    scores: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Picture:
    """A figure on one task, in one setting."""

    task: str
    label: str
    setting: str
    seed: str
    identity: Identity
    networks: tuple[str, ...]
    content: Content
    strip: Strip | None
    """Its pictures; None without any."""
    reading: str
    """How to read drawings of its kind."""
    notes: str
    """How its images were chosen, and why pictures are missing, if they are."""
    error: str
    """Why there is nothing to show; empty if there is."""
    command: str
    stages: Sequence[StageEntry]
    deviations: tuple[str, ...]

    @property
    def private(self) -> str:
        """Real images that it shows."""
        return _photographs(self.identity) if self.strip and not self.identity.drawn else ""

    @property
    def where(self) -> str:
        """Its setting and seed."""
        return ", ".join(part for part in (self.setting, self.seed and f"training seed {self.seed}") if part)

    @property
    def stage_lines(self) -> tuple[StageLine, ...]:
        return stage_lines(self.stages)

    @property
    def provenance(self) -> tuple[tuple[str, str], ...]:
        return provenance(self.stages)


def pictures(paper: Paper, records: Sequence[FigureRecord]) -> tuple[Picture, ...]:
    """Sort the records of one figure by the paper's order of tasks, the most informative setting first.

    Args:
        paper: The paper.
        records: Records of this figure.
    """
    ids = {record.figure.id for record in records}
    tasks = [task for figure in paper.figures if figure.id in ids for task in figure.task]
    labels = {
        column.task: arrows(column.label) for table in reversed(list(paper.tables.values())) for column in table.columns
    }

    def order(record: FigureRecord) -> tuple[Any, ...]:
        task = record.figure.task
        place = tasks.index(task) if task in tasks else len(tasks)
        return place, task, Identity(record.identity).rank, record.seed, stable(record)

    return tuple(_picture(record, labels) for record in sorted(records, key=order))


def stable(record: FigureRecord) -> str:
    """Encode a figure's record as text, ignoring the path and presence of its pictures."""
    return msgspec.json.encode(structs.replace(record, pictures=None), order="sorted").decode()


def distinct(records: Sequence[FigureRecord]) -> list[FigureRecord]:
    """Drop duplicate records, preferring those with pictures."""
    by_text: dict[str, FigureRecord] = {}
    for record in records:
        text = stable(record)
        if text not in by_text or record.pictures:
            by_text[text] = record
    return [by_text[text] for text in sorted(by_text)]


def _picture(record: FigureRecord, labels: Mapping[str, str]) -> Picture:
    drawing = record.drawing or {}
    identity = Identity(record.identity)
    networks, task, seed = tuple(record.figure.rows), record.figure.task, str(record.seed)
    kind, strip, error = str(drawing.get("kind") or ""), _strip(record), record.error
    content = Content()
    if not error:
        try:
            content = _content(kind, drawing, networks, strip is not None)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError):
            error = UNREADABLE
    return Picture(
        task=task,
        label=folders_of(task, [identity]) or labels.get(task, ""),
        setting=setting_words([identity]),
        seed=seed,
        identity=identity,
        networks=networks,
        content=content,
        strip=None if error else strip,
        reading="" if error else READING[kind],
        notes="" if error else f"{_chosen(kind, seed)} {_about_pictures(kind, identity, strip is not None)}".strip(),
        error=error,
        command=record.command,
        stages=record.stages,
        deviations=tuple(record.deviations),
    )


def _strip(record: FigureRecord) -> Strip | None:
    beside = record.pictures
    if not beside or not beside.path:
        return None
    try:
        return Strip(_uri(Path(beside.path).read_bytes()), beside.count, beside.height, beside.width)
    except OSError:
        return None


def _content(kind: str, drawing: Mapping[str, Any], networks: Sequence[str], over: bool) -> Content:
    """Convert a drawing's facts for display.

    Raises:
        KeyError, IndexError, TypeError, ValueError, OverflowError: The facts are no known drawing.
    """
    shots = [
        Shot(place, scalar(image["pid"]), str(image["camid"] + 1) if image["camid"] >= 0 else NOTHING)
        for place, image in enumerate(drawing["images"])
    ]
    rows = list(zip(networks, drawing["rows"], strict=True))
    if kind == "rank lists":
        similar = bool(drawing.get("similarities"))
        return Content(
            queries=tuple(
                Query(
                    shots[query],
                    tuple(_rank_list(network, row["lists"][place], shots, similar) for network, row in rows),
                )
                for place, query in enumerate(drawing["queries"])
            ),
            scores=tuple((network, percent(row["mAP"])) for network, row in rows),
        )
    if kind in ("activation maps", "attention maps"):
        return Content(
            heated=tuple(
                Heated(shots[image], tuple(_heat(network, row, place, over) for network, row in rows))
                for place, image in enumerate(drawing["shown"])
            ),
            brightest="1" if kind == "attention maps" else "brightest place of a map",
        )
    if kind == "projection":
        return Content(planes=tuple(_plane(network, row, drawing["people"]) for network, row in rows))
    if kind == "decoded images":
        return Content(
            decoded=tuple(
                Decoded(
                    shots[image],
                    bool(labelled),
                    tuple(
                        Made(network, len(shots) + row["made"][place], f"{100 * row['differs'][place]:.0f} %")
                        for network, row in rows
                    ),
                )
                for place, (image, labelled) in enumerate(zip(drawing["shown"], drawing["labelled"], strict=True))
            )
        )
    raise ValueError(kind)


def _rank_list(network: str, facts: Mapping[str, Any], shots: Sequence[Shot], similar: bool) -> RankList:
    def measured(distance: float) -> str:
        return f"{1 - distance if similar else distance:.3f}".replace("-", MINUS)

    what = "similarity" if similar else "distance"
    ranks = tuple(
        Rank(number, shots[entry["image"]], bool(entry["right"]), measured(entry["distance"]), what)
        for number, entry in enumerate(facts["entries"], 1)
    )
    return RankList(network, percent(facts["AP"]), ranks)


@cache
def _colours() -> NDArray[np.uint8]:
    """Compute the 256 colours of maps (256, 3)."""
    import numpy as np
    from matplotlib import colormaps

    colours: NDArray[np.uint8] = colormaps[HEAT](np.arange(256), bytes=True)[:, :3]
    return colours


def scale() -> str:
    """Return the colours of maps from 0 to 1 as a CSS gradient."""
    stops = ", ".join(f"#{bytes(colour).hex()}" for colour in _colours()[::51])
    return f"linear-gradient(90deg, {stops})"


def heat(values: Sequence[Sequence[int]], over: bool) -> bytes:
    """Encode a map as a PNG.

    Args:
        values: The map, 0 to 255.
        over: Whether it is drawn over its picture, with dark places more transparent.
    """
    import numpy as np
    from PIL import Image

    field = np.asarray(values, dtype=np.uint8)
    if field.ndim != 2 or not field.size:
        raise ValueError("a map has rows of numbers")
    opaque = np.full(field.shape, 255, np.uint8)
    alpha = (64 + field * (128 / 255)).round().astype(np.uint8) if over else opaque
    out = io.BytesIO()
    Image.fromarray(np.dstack((_colours()[field], alpha))).save(out, "PNG", optimize=True)
    return out.getvalue()


def _heat(network: str, row: Mapping[str, Any], place: int, over: bool) -> Heat:
    share = where = ""
    if "on_person" in row:
        share = f"{row['on_person'][place]:.0f} %"
        where = f"{share} on the person"
    elif "weight_on_person" in row:
        on, off = (f"{row[name][place]:.0f} %" for name in ("weight_on_person", "weight_elsewhere"))
        share, where = f"{on}, {off}", f"{on} on the person, {off} elsewhere"
    return Heat(network, _uri(heat(row["maps"][place], over)), share, where)


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _plane(network: str, row: Mapping[str, Any], people: Sequence[int]) -> Plane:
    points = list(zip(row["x"], row["y"], people, strict=True))
    xs, ys = ([float(point[axis]) for point in points] for axis in (0, 1))
    span = max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
    middle = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    unit = (PLANE - 2 * MARGIN) / span
    placed: dict[int, list[str]] = {}
    for x, y, person in points:
        right, down = PLANE / 2 + (x - middle[0]) * unit, PLANE / 2 - (y - middle[1]) * unit
        placed.setdefault(person, []).append(f"M{right:.1f} {down:.1f}{SHAPES[person % len(SHAPES)]}")
    silhouette = f"{row['silhouette']:.3f}".replace("-", MINUS)
    return Plane(
        network,
        silhouette,
        tuple(
            Marks("".join(paths), person % COLOURS, f"identity {person + 1}: {counted(len(paths), 'image')}")
            for person, paths in sorted(placed.items())
        ),
        f"{network}: {counted(len(points), 'image')} of {len(placed)} identities in the plane, silhouette {silhouette}",
    )


def _chosen(kind: str, seed: str) -> str:
    what = {"rank lists": "queries", "projection": "identities"}.get(kind, "images")
    drawn = f"The {what} were drawn at random{f' from seed {seed}' if seed else ''}, the same for each network"
    return f"{drawn}: nobody picked them by their outcome."


def _about_pictures(kind: str, identity: Identity, shown: bool) -> str:
    if kind == "projection":
        return ""
    if identity.drawn:
        made = "The images are pedestrians drawn by a program"
        return f"{made}." if shown else f"{made}; no copy of them lies beside this record, and its command draws them."
    if shown:
        return ""
    return f"{sentence(_photographs(identity))[:-1]} are left out; the same command with `--pictures` shows them."


def _photographs(identity: Identity) -> str:
    return "images of your own folders" if identity.folders else "photographs of people"
