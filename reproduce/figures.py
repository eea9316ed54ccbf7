"""Figures of networks on images: stages that compute what a page draws, and draw nothing themselves.

The seed chooses the images at random, the same for every network; nobody picks them by outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from reproduce.artifacts import Drawing
from reproduce.data.sources import Covered, Source, sources
from reproduce.dataset import JUNK
from reproduce.errors import UserError
from reproduce.evaluation import Distance, Evaluate, Rerank, Trained
from reproduce.stage import Env, Stage, added, walk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from reproduce.data.images import Images
    from reproduce.data.transforms import Pixels
    from reproduce.dataset import Dataset, Image

MOST_PIXELS = (128, 64)
"""Largest height and width of a picture in a figure; smaller if the network's input is."""


@dataclass(frozen=True)
class Network:
    """A network as a row of a table evaluates it; see `Evaluate`."""

    train: Trained
    at: str
    flip: bool = False
    rerank: Rerank | None = None
    view: str = added("")
    distance: Distance | None = added(None)

    def restored(self, env: Env) -> nn.Module:
        """Restore the network on the device, in evaluation mode.

        Raises:
            UserError: the training has no network of that moment.
        """
        return self.train.at_moment(env.get(self.train), self.at, self.view).to(env.device)


@dataclass(frozen=True)
class Figure(Stage[Drawing]):
    """Base class of figures that compare several networks on the same images, test images of a domain if not said."""

    KIND: ClassVar[str]
    """The kind of facts in its drawing; see `run`."""

    rows: tuple[Network, ...]
    """The networks."""
    on: Any
    """The domain."""
    seed: int = 1
    """Seeds the choice of images."""
    pictures: bool = False
    """Whether to keep the images themselves."""

    @property
    def at(self) -> str:
        """List the moments of its networks."""
        return ", ".join(dict.fromkeys(row.at for row in self.rows))

    @property
    def shows_nobody(self) -> bool:
        """Whether all of its images were drawn by a program."""
        return all(part.drawn for part in walk(self) if isinstance(part, Source))

    def facts(self, data: Dataset, env: Env, shown: Shown) -> dict[str, Any]:
        """Compute what to draw; images become entries of `shown`."""
        raise NotImplementedError

    def run(self, env: Env) -> Drawing:
        """Compute the facts: {"kind", "images": [{"name", "pid", "camid"}], ...}; they refer to images by position."""
        data = env.open(self.on)
        shown = Shown(data)
        facts = {"kind": self.KIND, **self.facts(data, env, shown)}
        images = [{"name": it.path.rpartition("/")[2], "pid": it.pid, "camid": it.camid} for it in shown.images]
        size = min(MOST_PIXELS, *(row.train.input for row in self.rows))
        return Drawing(facts | {"images": images}, shown.pictures(size) if self.pictures and images else None)

    def chosen(self, count: int, most: int, what: str) -> list[int]:
        """Choose at most `most` of `count` things at random, in ascending order."""
        from reproduce.data.sampling import numpy_generator

        draw = numpy_generator(self.seed, "figure", what)
        return sorted(draw.choice(count, min(most, count), replace=False).tolist())


Draw: TypeAlias = Callable[..., Figure]
"""Makes a figure of `rows`, `on` and `seed`."""


class Shown:
    """The images of a figure, each once, and pictures that networks make.

    Args:
        data: the data set of images that come without one.
    """

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self._places: dict[tuple[str, Image], int] = {}
        self._sets: dict[str, Dataset] = {}
        self._made: list[Tensor] = []

    @property
    def images(self) -> list[Image]:
        return [image for _, image in self._places]

    def place(self, image: Image, data: Dataset | None = None) -> int:
        """Return the position of an image among them, from 0, adding it if new."""
        data = data or self._data
        self._sets[str(data.root)] = data
        return self._places.setdefault((str(data.root), image), len(self._places))

    def make(self, picture: Tensor) -> int:
        """Add a picture (3, H, W), 0 to 1, that a network made; return its position among those."""
        self._made.append(picture)
        return len(self._made) - 1

    def pictures(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Collect the images (N, height, width, 3), decoded like the input of networks, then what networks made."""
        import numpy as np
        import torch
        from torch.nn import functional as F

        from reproduce.data.images import Images

        height, width = size
        pictures = np.empty((len(self._places) + len(self._made), height, width, 3), np.uint8)
        for root, data in self._sets.items():
            own = {place: image for (where, image), place in self._places.items() if where == root}
            [pixels] = Images(data.root, list(own.values()), size).batches([range(len(own))])
            pictures[list(own)] = pixels.permute(0, 2, 3, 1).numpy()
        if self._made:
            made = F.interpolate(torch.stack(self._made), size, mode="area")
            pictures[len(self._places) :] = (255 * made.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return pictures


@dataclass(frozen=True)
class RankLists(Figure):
    """The first images of the gallery for a few queries.

    Facts: "queries" [image]; "rows" [{"mAP": percent, "lists": [{"AP": percent, "entries": [{"image", "right",
    "distance"}]}]}], in the order of the queries; "similarities": true if pages print those. Lists omit images that are
    not scored: junk, and images of the query's identity from its camera.
    """

    KIND = "rank lists"

    queries: int = 5
    """Number of queries, out of those with a match."""
    ranks: int = 10
    """Length of a list."""
    similarities: bool = added(False)
    """Whether pages print cosine similarities instead of distances, 1 minus them; only for cosine distances."""

    @property
    def detail(self) -> str:
        return f"{self.queries} queries"

    def facts(self, data: Dataset, env: Env, shown: Shown) -> dict[str, Any]:
        import numpy as np

        from reproduce.evaluation import Retrieval

        if self.similarities and any(row.rerank or row.distance for row in self.rows):
            raise UserError("similarities are those of cosine distances, and a row has others")
        pids = np.array([image.pid for image in data.gallery])
        camids = np.array([image.camid for image in data.gallery])
        matched = [
            place for place, query in enumerate(data.query) if ((pids == query.pid) & (camids != query.camid)).any()
        ]
        queries = [matched[place] for place in self.chosen(len(matched), self.queries, "queries")]
        facts: dict[str, Any] = {"queries": [shown.place(data.query[query]) for query in queries], "rows": []}
        for row in self.rows:
            retrieval = Retrieval.of(row.train, data, env.device)
            blocks = retrieval.ranking(
                row.restored(env), env.get(row.train), flip=row.flip, rerank=row.rerank, distance=row.distance
            )
            distances: list[NDArray[Any]] = []
            scores = retrieval.score_distances(_keeping(blocks, queries, distances))
            lists = []
            for query, by_distance in zip(queries, distances, strict=True):
                own = data.query[query]
                counts = (pids != JUNK) & ~((pids == own.pid) & (camids == own.camid))
                first = [place for place in np.argsort(by_distance, kind="stable") if counts[place]][: self.ranks]
                entries = [
                    {
                        "image": shown.place(data.gallery[place]),
                        "right": bool(pids[place] == own.pid),
                        "distance": round(float(by_distance[place]), 4),
                    }
                    for place in first
                ]
                lists.append({"AP": 100 * float(scores.ap[query]), "entries": entries})
            facts["rows"].append({"mAP": scores.mAP, "lists": lists})
        return facts | ({"similarities": True} if self.similarities else {})


@dataclass(frozen=True)
class ActivationMaps(Figure):
    """Activation maps of the last layer of the backbone; see `evaluation.activation`.

    Facts: "shown" [image]; "rows" [{"maps": [[[0 .. 255]]]}], in the order of the images: a map's largest value is 255.
    For drawn images a row also has "on_person" [percent], the share of each map on the person.
    """

    KIND = "activation maps"
    NEEDS: ClassVar[str] = "maps"
    """The method that a network must have."""

    number: int = 8
    """Number of query images."""

    @property
    def detail(self) -> str:
        return f"{self.number} images"

    def facts(self, data: Dataset, env: Env, shown: Shown) -> dict[str, Any]:
        from reproduce.data.images import Images

        images = [data.query[place] for place in self.chosen(len(data.query), self.number, "images")]
        facts: dict[str, Any] = {"shown": [shown.place(image) for image in images], "rows": []}
        for row in self.rows:
            net: Any = row.restored(env)
            if not hasattr(net, self.NEEDS):
                raise UserError(f"the network of {row.train.name} has no `{self.NEEDS}`, which {self.KIND} need")
            own = Images(data.root, images, row.train.input, env.device, resample=row.train.resample)
            maps = self.maps(net, own, row.train.pixels)
            facts["rows"].append({"maps": (255 * maps).round().int().tolist()})
            if isinstance(self.on, Covered):
                facts["rows"][-1] |= self.where(maps, self.on, images)
        return facts

    def maps(self, net: Any, images: Images, pixels: Pixels) -> Tensor:
        """Compute the maps (N, h, w) of a network, between 0 and 1."""
        import torch

        from reproduce.evaluation import activation

        maps = activation(net, images, pixels)
        return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)

    def where(self, maps: Tensor, drawn: Covered, images: Sequence[Image]) -> dict[str, list[float]]:
        """Measure where the maps of drawn images lie."""
        from reproduce.evaluation import looked_at

        return {"on_person": looked_at(maps, drawn, images).person.round(2).tolist()}


@dataclass(frozen=True)
class AttentionMaps(ActivationMaps):
    """What a network's attention lets through: the mean of its weights over channels.

    Facts: as those of activation maps, but 255 is a weight of 1. For drawn images a row has "weight_on_person" and
    "weight_elsewhere" [percent], the means of a map there.
    """

    KIND = "attention maps"
    NEEDS = "passing"

    def maps(self, net: Any, images: Images, pixels: Pixels) -> Tensor:
        """Compute the mean weights (N, h, w) of a network's attention."""
        from reproduce.evaluation import attention

        return attention(net, images, pixels)

    def where(self, maps: Tensor, drawn: Covered, images: Sequence[Image]) -> dict[str, list[float]]:
        """Measure the mean weight on the person and elsewhere."""
        from reproduce.evaluation import weighed_at

        names = ("weight_on_person", "weight_elsewhere")
        return {
            name: means.round(2).tolist() for name, means in zip(names, weighed_at(maps, drawn, images), strict=True)
        }


@dataclass(frozen=True)
class Projection(Figure):
    """The embeddings of a few identities in the plane, by t-SNE (van der Maaten and Hinton, JMLR 2008).

    Facts: "people" [identity of each point, from 0]; "rows" [{"x": [], "y": [], "silhouette": -1 .. 1}]. The
    silhouette is of the embeddings, not of the points: how much nearer an image is, in cosine distance, to its own
    identity than to the nearest other one.
    """

    KIND = "projection"

    identities: int = 20
    """Number of test identities."""

    @property
    def detail(self) -> str:
        return f"{self.identities} identities"

    def facts(self, data: Dataset, env: Env, shown: Shown) -> dict[str, Any]:
        import numpy as np
        from sklearn.manifold import TSNE
        from sklearn.metrics import silhouette_score

        from reproduce.data.images import Images
        from reproduce.evaluation import embed

        pids = sorted({image.pid for image in data.query})
        names = {pids[place]: number for number, place in enumerate(self.chosen(len(pids), self.identities, "people"))}
        images = [image for image in (*data.query, *data.gallery) if image.pid in names]
        people = [names[image.pid] for image in images]
        if not 1 < len(names) < len(images):
            raise UserError(f"{data.name} has too few test images or identities for a projection")
        facts: dict[str, Any] = {"people": people, "rows": []}
        for row in self.rows:
            own = Images(data.root, images, row.train.input, env.device, resample=row.train.resample)
            embeddings: NDArray[np.float64] = (
                embed(row.restored(env), own, flip=row.flip, pixels=row.train.pixels).double().cpu().numpy()
            )
            perplexity = min(30.0, (len(embeddings) - 1) / 3)
            plane = TSNE(perplexity=perplexity, init="pca", random_state=self.seed).fit_transform(embeddings)
            silhouette = float(silhouette_score(embeddings, people, metric="cosine"))
            x, y = np.round(plane.astype(float), 2).T.tolist()
            facts["rows"].append({"x": x, "y": y, "silhouette": silhouette})
        return facts


@dataclass(frozen=True)
class Decoded(Figure):
    """What the decoder of a network makes of test images, and of training images of the domain with labels.

    Facts: "shown" [image], "labelled" [whether it is one of those]; "rows" [{"made": [place among the pictures that
    networks made], "differs": [mean absolute difference of pixels, 0 .. 1]}], in the order of the images.
    """

    KIND = "decoded images"

    number: int = 5
    """Number of images from each of the two domains."""

    @property
    def shows_nobody(self) -> bool:
        """Whether all images were drawn by a program, also those of the labelled domain."""
        return all(source.drawn for source in sources([self]))

    @property
    def detail(self) -> str:
        return f"{2 * self.number} images"

    def facts(self, data: Dataset, env: Env, shown: Shown) -> dict[str, Any]:
        import torch

        from reproduce.data.images import Images
        from reproduce.data.transforms import normalise

        [labelled, *others] = dict.fromkeys(row.train.labelled for row in self.rows)
        if labelled is None or others:
            raise UserError("decoded images need rows that are trained with the labels of one domain")
        known = env.open(labelled)
        parts = [
            (of, [split[place] for place in self.chosen(len(split), self.number, what)])
            for of, split, what in ((known, known.train, "labelled"), (data, data.query, "images"))
        ]
        facts: dict[str, Any] = {
            "shown": [shown.place(image, of) for of, chosen in parts for image in chosen],
            "labelled": [of is known for of, chosen in parts for _ in chosen],
            "rows": [],
        }
        for row in self.rows:
            net: Any = row.restored(env)
            if not hasattr(net, "restyled"):
                raise UserError(f"the network of {row.train.name} has no decoder, which decoded images need")
            made, differs = [], []
            for of, chosen in parts:
                own = Images(of.root, chosen, row.train.input, env.device, resample=row.train.resample)
                [pixels] = own.batches([range(len(chosen))])
                with torch.no_grad():
                    pictures = (net.restyled(normalise(pixels, row.train.pixels)).float() + 1) / 2
                made += [shown.make(picture) for picture in pictures.cpu()]
                differs += (pictures - pixels / 255).abs().mean((1, 2, 3)).tolist()
            facts["rows"].append({"made": made, "differs": [round(value, 4) for value in differs]})
        return facts


def of_rows(draw: Draw, rows: Sequence[Stage[Any]], seed: int) -> Figure:
    """Make the figure of a table's rows.

    Raises:
        UserError: a row is not an evaluation, or the rows are of several domains.
    """
    evaluated = [row for row in rows if isinstance(row, Evaluate)]
    domains = list(dict.fromkeys(row.on for row in evaluated))
    if len(domains) != 1 or len(evaluated) != len(rows):
        raise UserError("a figure needs rows that are evaluated on one domain")
    networks = tuple(Network(row.train, row.at, row.flip, row.rerank, row.view, row.distance) for row in evaluated)
    return draw(rows=networks, on=domains[0], seed=seed)


def _keeping(blocks: Iterable[NDArray[Any]], rows: Sequence[int], kept: list[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Pass on the blocks of a matrix, and append copies of the given rows, ascending, to a list."""
    start = 0
    for block in blocks:
        kept += [block[row - start].copy() for row in rows if start <= row < start + len(block)]
        start += len(block)
        yield block
