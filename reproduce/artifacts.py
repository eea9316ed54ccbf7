"""What stages make, and how each kind is stored: tensors as safetensors, the rest as JSON. Nothing is pickled."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from reproduce.errors import UserError
from reproduce.metrics import METRICS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Weights = Mapping[str, Tensor]


class Artifact:
    """Something a stage makes. `save` writes files into an empty folder, `load` reads them back."""

    kinds: ClassVar[dict[str, type[Artifact]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Artifact.kinds[cls.__name__] = cls

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path) -> Self:
        raise NotImplementedError


@dataclass(frozen=True)
class Training(Artifact):
    """Networks as a training left them.

    Attributes:
        checkpoints: weights by moment: "last", "best on source", "best on target", "step 3"; kept in memory on the CPU.
        facts: what is needed to rebuild the network, such as the number of classes; and under "health", by moment, what
            `Scores` says of its pseudo labels.
    """

    checkpoints: Mapping[str, Weights]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        for moment, weights in self.checkpoints.items():
            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / f"{moment}.safetensors")
        _write_json(folder / "training.json", {"moments": list(self.checkpoints), "facts": dict(self.facts)})

    @classmethod
    def load(cls, folder: Path) -> Self:
        from safetensors.torch import load_file

        described = _read_json(folder / "training.json")
        return cls(
            {moment: load_file(folder / f"{moment}.safetensors") for moment in described["moments"]}, described["facts"]
        )


@dataclass(frozen=True)
class Scores(Artifact):
    """Retrieval quality of one ranking.

    Attributes:
        mAP, rank1, rank5, rank10, mINP: percent, over the queries that have a match.
        ap: average precision of each query (Q,), a fraction; NaN where a query has no match.
        first: rank of each query's first match (Q,), from 1; 0 where a query has no match.
        queries: how many queries were ranked.
        unmatched: how many of them have no match in the gallery.
        pids: identity of each query (Q,).
        by_query: what else was measured for each query (Q,), in percent, by name; NaN where it is not defined. See
            `evaluation.evaluate_ranking` and `evaluation.Retrieval.looks`.
        health: of the pseudo labels that the network was trained on, such as `portion` (percent of the images);
            empty where there were none.
        collapsed: why the training could not go on; empty where it could.
    """

    mAP: float
    rank1: float
    rank5: float
    rank10: float
    mINP: float
    ap: NDArray[np.float64]
    first: NDArray[np.int64]
    queries: int
    unmatched: int
    pids: NDArray[np.int64]
    health: Mapping[str, float] = dataclasses.field(default_factory=dict)
    collapsed: str = ""
    by_query: Mapping[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float | int]:
        """Every number, and the means of what was measured for each query."""
        import numpy as np

        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        numbers = {name: value for name, value in told.items() if isinstance(value, (int, float))}
        matched = self.first[self.first > 0]
        numbers |= {
            name: 100 * float(np.mean(matched <= metric.rank))
            for name, metric in METRICS.items()
            if metric.rank and name not in numbers
        }
        means = {
            name: float(np.nanmean(values)) for name, values in self.by_query.items() if not np.isnan(values).all()
        }
        return numbers | means | dict(self.health)

    def save(self, folder: Path) -> None:
        import numpy as np
        from safetensors.numpy import save_file

        arrays = {name: np.ascontiguousarray(values, np.float64) for name, values in self.by_query.items()}
        arrays |= {"ap": np.ascontiguousarray(self.ap, np.float64), "first": np.ascontiguousarray(self.first, np.int64)}
        arrays |= {"pids": np.ascontiguousarray(self.pids, np.int64)}
        save_file(arrays, folder / "queries.safetensors")
        apart = {"ap", "first", "pids", "by_query"}
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in apart}
        _write_json(folder / "scores.json", told | {"health": dict(self.health)})

    @classmethod
    def load(cls, folder: Path) -> Self:
        from safetensors.numpy import load_file

        arrays: dict[str, Any] = load_file(folder / "queries.safetensors")
        if "pids" not in arrays:
            raise UserError(f"the scores in {folder} tell no identities of queries: delete that folder, and run again")
        told = {name: arrays.pop(name) for name in ("ap", "first", "pids")}
        return cls(**told, by_query=arrays, **_read_json(folder / "scores.json"))


@dataclass(frozen=True)
class Folder(Artifact):
    """A tree of files that the stage wrote itself, such as a drawn domain.

    Attributes:
        path: where it is.
        facts: what the stage wants to remember of it, such as the pixels' digest.
    """

    path: Path
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def save(self, folder: Path) -> None:
        _write_json(folder / "folder.json", dict(self.facts))

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(folder / "tree", _read_json(folder / "folder.json"))


@dataclass(frozen=True)
class Drawing(Artifact):
    """What a figure shows.

    Attributes:
        facts: what is to be drawn, as plain JSON; see the stages of `reproduce.figures`.
        pictures: the images that the facts name by their place, (N, height, width, 3); None where none were wanted.
    """

    facts: Mapping[str, Any]
    pictures: NDArray[np.uint8] | None = None

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        _write_json(folder / "drawing.json", dict(self.facts))
        if self.pictures is not None:
            save_file({"pictures": self.pictures}, folder / "pictures.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        from safetensors.numpy import load_file

        path = folder / "pictures.safetensors"
        return cls(_read_json(folder / "drawing.json"), load_file(path)["pictures"] if path.exists() else None)


def snapshot(net: nn.Module) -> Weights:
    """A copy of a network's weights on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in net.state_dict().items()}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())
