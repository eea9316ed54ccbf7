"""Artifacts that stages compute, and how each kind is stored: tensors as safetensors, the rest as JSON, no pickle."""

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
    """Base class of what stages compute. `save` writes files into an empty folder, `load` reads them back."""

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
    """The networks that a training kept."""

    checkpoints: Mapping[str, Weights]
    """Weights by moment: "last", "best on source", "best on target", "step 3", "warm-up"; in memory on the CPU."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What is needed to rebuild the network, such as the number of classes; and under "health", by moment, the health
    of its pseudo labels (see `Scores`)."""

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
    """Retrieval quality of one ranking."""

    mAP: float
    """Percent, over queries with a match."""
    rank1: float
    """Percent, over queries with a match."""
    rank5: float
    """Percent, over queries with a match."""
    rank10: float
    """Percent, over queries with a match."""
    mINP: float
    """Percent, over queries with a match."""
    ap: NDArray[np.float64]
    """(Q,) average precision, a fraction; NaN for queries without a match."""
    first: NDArray[np.int64]
    """(Q,) rank of the first match, from 1; 0 for queries without a match."""
    queries: int
    """Number of queries ranked."""
    unmatched: int
    """Number of queries without a match in the gallery."""
    pids: NDArray[np.int64]
    """(Q,) identities."""
    health: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Health of the pseudo labels that the network was trained on, such as `portion` (percent of the images); empty if
    none."""
    collapsed: str = ""
    """Why the training could not continue; empty if it could."""
    by_query: Mapping[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)
    """Other measures per query (Q,) by name, in percent; NaN where undefined. See `evaluation.evaluate_ranking` and
    `evaluation.Retrieval.looks`."""

    @property
    def numbers(self) -> dict[str, float | int]:
        """Return all numbers, including means of the measures per query and the health of pseudo labels."""
        import numpy as np

        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        matched = self.first[self.first > 0]
        numbers |= {
            name: 100 * float(np.mean(matched <= metric.rank))
            for name, metric in METRICS.items()
            if metric.rank and name not in numbers
        }
        means = {
            name: float(np.nanmean(measured))
            for name, measured in self.by_query.items()
            if not np.isnan(measured).all()
        }
        return numbers | means | dict(self.health)

    def save(self, folder: Path) -> None:
        import numpy as np
        from safetensors.numpy import save_file

        arrays = {name: np.ascontiguousarray(values, np.float64) for name, values in self.by_query.items()}
        arrays |= {"ap": np.ascontiguousarray(self.ap, np.float64), "first": np.ascontiguousarray(self.first, np.int64)}
        arrays |= {"pids": np.ascontiguousarray(self.pids, np.int64)}
        save_file(arrays, folder / "queries.safetensors")
        rest = {field.name for field in dataclasses.fields(self)} - {"ap", "first", "pids", "by_query"}
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name in rest}
        _write_json(folder / "scores.json", content | {"health": dict(self.health)})

    @classmethod
    def load(cls, folder: Path) -> Self:
        from safetensors.numpy import load_file

        arrays: dict[str, Any] = load_file(folder / "queries.safetensors")
        if "pids" not in arrays:
            raise UserError(f"the scores in {folder} lack the identities of queries: delete that folder and run again")
        per_query = {name: arrays.pop(name) for name in ("ap", "first", "pids")}
        return cls(**per_query, by_query=arrays, **_read_json(folder / "scores.json"))


@dataclass(frozen=True)
class Folder(Artifact):
    """A tree of files that the stage wrote itself, such as a drawn domain."""

    path: Path
    """The folder."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the stage records about it, such as a digest of the pixels."""

    def save(self, folder: Path) -> None:
        _write_json(folder / "folder.json", dict(self.facts))

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(folder / "tree", _read_json(folder / "folder.json"))


@dataclass(frozen=True)
class Drawing(Artifact):
    """The content of a figure."""

    facts: Mapping[str, Any]
    """What to draw, as plain JSON; see the stages of `reproduce.figures`."""
    pictures: NDArray[np.uint8] | None = None
    """(N, height, width, 3) images that the facts refer to by position; None if images are not kept."""

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
    """Copy a network's weights to the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in net.state_dict().items()}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())
