"""The state of an unfinished training: everything that outlives an epoch, in one safetensors file.

A state is an object whose attributes hold modules, optimisers, tensors, NumPy arrays and scalars, None, booleans,
numbers and strings, in lists, tuples and dicts of any depth. These come back exactly, and so does what is shared: one
list, tensor or optimiser in two places is one afterwards. Modules and optimisers are restored into those that the
training starts with, so that parameters keep their optimisers. Of a module that covers parameters and buffers; `train`
or `eval`, gradients and other attributes are set by the training's loop, as in its first epoch.
"""

from __future__ import annotations

import dataclasses
import json
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from reproduce.errors import UserError
from reproduce.files import sha256
from reproduce.running import processes

FORMAT = 2
KEPT = 2
"""Saved states of a training, so that the one before serves where the last is damaged."""

_PLAIN = (type(None), bool, int, float, str)
_LABEL = "label"


class Anchor(NamedTuple):
    """A module or optimiser that a training starts with, into which a saved one is restored."""

    thing: weakref.ref[Any]
    structure: dict[str, Any]


Anchors: TypeAlias = Mapping[str, Anchor]
"""By their place, such as `state.nets[0]`."""


def anchors(state: object) -> Anchors:
    """The modules and optimisers of a state as the training starts with it, for `save_state`.

    Raises:
        TypeError: the state holds what `save_state` would refuse.
    """
    fresh = {place: Anchor(weakref.ref(thing), _structure(thing)) for place, thing in _things(state).items()}
    _Packing(state, fresh)
    return fresh


def tensors(state: object) -> list[Tensor]:
    """The tensors of a state, those of modules and optimisers included, to be changed in place; arrays are copies."""
    return _Packing(state, anchors(state)).tensors


class Unreadable(UserError):
    """A saved state that is damaged."""

    def __init__(self, path: Path, why: object, mend: str) -> None:
        super().__init__(f"{path} is not a readable training state ({why}): {mend}")
        self.path = path


def save_next(folder: Path, state: object, progress: dict[str, Any], fresh: Anchors) -> int:
    """Save a state beside the one before it, as `state-<done>-<checksum>.safetensors`, and return its bytes.

    Processes may share the folder if they build the same stage, where a file system has no locks: after equal progress,
    their networks have equal bits.

    Raises:
        TypeError: as `save_state`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{processes.this_process()}.new"
    try:
        save_state(draft, state, progress, fresh)
        size = draft.stat().st_size
        draft.replace(folder / f"state-{progress['done']:09}-{_checksum(draft)}.safetensors")
    finally:
        draft.unlink(missing_ok=True)
    for older in _saved(folder)[KEPT:]:
        older.unlink(missing_ok=True)
    return size


def load_last(folder: Path, state: object, tell: Callable[[str], None]) -> dict[str, Any] | None:
    """Put the last readable state back and return its progress; None if there is none.

    Args:
        folder: of `save_next`.
        state: as for `load_state`.
        tell: called with a message for the user if the last state is damaged and the one before it is used.

    Raises:
        UserError: as `load_state`; or no saved state is readable.
    """
    for draft in folder.glob("*.new"):
        if draft.stem == "state" or processes.ended(draft.stem):  # what a killed run was writing
            draft.unlink(missing_ok=True)
    damaged: list[Unreadable] = []
    for path in _saved(folder):
        try:
            progress = load_state(path, state)
        except Unreadable as error:
            damaged.append(error)
            continue
        if damaged:
            tell(f"{damaged[0].path} is damaged ({damaged[0].__cause__}): the state before it is used")
            for other in damaged:
                other.path.unlink(missing_ok=True)
        return progress
    if damaged:
        raise damaged[0]
    return None


def _saved(folder: Path) -> list[Path]:
    """List the saved states of a folder, the last one first; `state.safetensors` is of an earlier version."""
    return sorted(folder.glob("state*.safetensors"), key=lambda path: path.name.split("-")[1:], reverse=True)


def _checksum(path: Path) -> str:
    return sha256(path)[:16]


def save_state(path: Path, state: object, progress: dict[str, Any], fresh: Anchors | None = None) -> None:
    """Write `state` and the runner's `progress` to disk.

    Args:
        path: the file.
        state: what is saved.
        progress: JSON.
        fresh: what a resumed run will have to restore modules and optimisers into; None: the state as it is now.

    Raises:
        TypeError: a value would not come back exactly; the message names its place and the mend.
    """
    packed = _Packing(state, anchors(state) if fresh is None else fresh)
    label = {
        "format": FORMAT,
        "torch": torch.__version__,
        "progress": progress,
        "state": packed.described,
        "anchors": packed.contents,
    }
    tensors = {str(number): _copied(tensor) for number, tensor in enumerate(packed.tensors)}
    tensors[_LABEL] = torch.frombuffer(bytearray(json.dumps(label).encode()), dtype=torch.uint8)
    save_file(tensors, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def load_state(path: Path, state: object) -> dict[str, Any]:
    """Put a saved state back, modules and optimisers in place; return the progress saved with it.

    Raises:
        UserError: the file is damaged, or was not saved by a training that starts with this state, or by another torch,
            whose bits differ; the state is then as it was.
    """
    mend = "delete it to start this stage again"
    try:
        named = path.stem.split("-")[2:]
        if named and named[0] != _checksum(path):
            raise ValueError("its checksum does not match")
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        label: Any = json.loads(tensors[_LABEL].numpy().tobytes()) if _LABEL in tensors else {"format": 1}
    except Exception as error:
        raise Unreadable(path, error, mend) from error
    if label["format"] != FORMAT:
        raise UserError(f"{path} is of format {label['format']} and this version reads format {FORMAT}: {mend}")

    if (saved_by := label.get("torch", torch.__version__)) != torch.__version__:  # earlier versions did not save it
        raise UserError(
            f"{path} was saved by torch {saved_by}, and torch {torch.__version__} would go on with other bits: "
            f"install that version, or {mend}"
        )

    things = _things(state)
    for place, content in label["anchors"].items():
        new = _structure(things[place]) if place in things else {"class": "none"}
        old = content["structure"]
        if new != old:
            differ = "" if new["class"] != old["class"] else ", of other parts"
            raise UserError(
                f"{path} does not fit this stage: {place} was saved as {old['class']}, "
                f"and the training starts with {new['class']} there{differ}: {mend}"
            )
    unpacking = _Unpacking(tensors, things)
    try:
        attributes = {name: unpacking.value(described) for name, described in label["state"].items()}
        contents = {place: unpacking.value(content["value"]) for place, content in label["anchors"].items()}
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{path} cannot be put back ({error}): run where it was saved, or {mend}") from error

    # All that can be wrong is known by now, so nothing is half restored.
    for place, saved in contents.items():
        if isinstance(thing := things[place], nn.Module):
            _reload(thing, saved)
        else:
            thing.load_state_dict(saved)
    vars(state).clear()
    vars(state).update(attributes)
    progress: dict[str, Any] = label["progress"]
    return progress


def _things(state: object) -> dict[str, Any]:
    """The modules and optimisers of a state by their place."""
    things: dict[str, Any] = {}
    walked: dict[int, Any] = {}

    def walk(value: Any, place: str) -> None:
        if isinstance(value, nn.Module | Optimizer):
            things[place] = value
        elif isinstance(value, list | tuple | dict) and walked.setdefault(id(value), place) == place:
            for inner, item in _items(value, place):
                walk(item, inner)

    for name, value in vars(state).items():
        walk(value, f"state.{name}")
    return things


def _items(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """The items of a list, tuple or dict with their places."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield f"{place}[{json.dumps(key) if isinstance(key, str) else repr(key)}]", item


def _structure(thing: nn.Module | Optimizer) -> dict[str, Any]:
    """What two modules or optimisers have in common where one can be restored into the other.

    Shapes are no part of it: a classifier may be that of other clusters.
    """
    parts: Any
    if isinstance(thing, Optimizer):
        parts = [len(group["params"]) for group in thing.param_groups]
    else:
        parts = {name: str(getattr(part, "dtype", "")) for name, part in _parts(thing).items()}
    return {"class": f"{type(thing).__module__}.{type(thing).__qualname__}", "parts": parts}


def _parts(module: nn.Module) -> dict[str, Any]:
    """Parameters and all buffers, those included that are left out of `state_dict`."""
    return {**dict(module.named_buffers(remove_duplicate=False)), **module.state_dict(keep_vars=True)}


class _Packing:
    """A state as JSON and tensors.

    Attributes:
        described: the attributes, with numbers for tensors and places for modules and optimisers.
        contents: structure and parts of what is at these places.
        tensors: by number; not copied yet.
    """

    def __init__(self, state: object, fresh: Anchors) -> None:
        self._fresh = fresh
        self._used: dict[str, Any] = {}
        self._seen: dict[tuple[int, bool], tuple[int, Any]] = {}
        self._spans: list[tuple[int, int, str, bool]] = []
        self.tensors: list[Tensor] = []
        self.described = {name: self._pack(value, f"state.{name}") for name, value in vars(state).items()}
        self.contents: dict[str, Any] = {}
        for place, thing in self._used.items():
            content = _parts(thing) if isinstance(thing, nn.Module) else thing.state_dict()
            described = self._pack(content, f"{place}.state_dict()", inside=True)
            self.contents[place] = {"structure": _structure(thing), "value": described}
        self._check_spans()

    def _pack(self, value: Any, place: str, *, inside: bool = False) -> dict[str, Any]:
        """Describe a value; `inside` a module or optimiser, whose parts may share memory."""
        kind = type(value)
        if kind in _PLAIN:
            return {"plain": value}
        if kind is tuple:
            return {"tuple": [self._pack(item, at, inside=inside) for at, item in _items(value, place)]}
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value), place)}
        if not inside and isinstance(value, nn.Module | Optimizer):
            return {"in place": self._anchor(value, place)}
        if kind not in (list, dict, np.ndarray, Tensor) and not (inside and isinstance(value, nn.Parameter)):
            _refuse(value, place)
        if (id(value), inside) in self._seen:
            return {"same": self._seen[id(value), inside][0]}
        # Keeping the value keeps its id its own.
        self._seen[id(value), inside] = len(self._seen), value
        if isinstance(value, Tensor):
            return self._tensor(value, place, inside)
        if kind is np.ndarray:
            low, high = np.lib.array_utils.byte_bounds(value)
            self._spans.append((low, high if value.size else low, place, inside))
            return {"array": self._array(value, place), "order": _order(value.strides)}
        items = [self._pack(item, at, inside=inside) for at, item in _items(value, place)]
        if kind is list:
            return {"list": items}
        for key in value:
            if type(key) not in _PLAIN:
                raise TypeError(f"{place} has the key {key!r}: keys in a training state are strings and numbers")
        return {"dict": list(zip(value, items, strict=True))}

    def _anchor(self, thing: Any, place: str) -> str:
        """The place of what a resumed run restores a module or optimiser into."""
        name = type(thing).__name__
        at = next((at for at, anchor in self._fresh.items() if anchor.thing() is thing), place)
        if at not in self._fresh:
            raise TypeError(
                f"{place} is a {name}, and when the training starts there is none at this place, "
                "so a resumed run has nothing to restore it into: put one there from the start"
            )
        if self._fresh[at].structure != _structure(thing):
            raise TypeError(
                f"{place} is a {name} of other parts than what is at {at} when the training starts, "
                "so a resumed run cannot restore it: only the shapes of parameters may change"
            )
        if self._used.setdefault(at, thing) is not thing:
            raise TypeError(
                f"{place} is a {name} of which a resumed run has one, at {at}, and the state holds two: "
                "put both there from the start"
            )
        return at

    def _tensor(self, value: Tensor, place: str, inside: bool) -> dict[str, Any]:
        if value.requires_grad and not inside:
            raise TypeError(f"{place} is a tensor that requires a gradient: detach it, or make it part of a module")
        if value.layout != torch.strided or not _storable(value.dtype):
            raise TypeError(f"{place} is a {value.layout} tensor of {value.dtype}, which cannot be saved: convert it")
        if value.numel():
            start, steps = value.data_ptr(), zip(value.shape, value.stride(), strict=True)
            end = start + (1 + sum((size - 1) * step for size, step in steps)) * value.element_size()
            self._spans.append((start, end, place, inside))
        order = _order(value.stride())
        self.tensors.append(value.detach().permute(order))
        return {"tensor": len(self.tensors) - 1, "order": order, "device": str(value.device)}

    def _array(self, value: NDArray[Any], place: str) -> int:
        try:
            tensor = torch.from_numpy(np.array(value.transpose(_order(value.strides)), order="C"))
        except (TypeError, ValueError):
            tensor = None
        if tensor is None or not _storable(tensor.dtype):
            raise TypeError(f"{place} is of NumPy's {value.dtype!r}, which cannot be saved: convert it")
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _check_spans(self) -> None:
        """Refuse a value in the memory of another one: they would come back apart, and change apart."""
        furthest = {False: (0, ""), True: (0, "")}
        for start, end, place, inside in sorted(self._spans):
            for own, (reached, other) in furthest.items():
                if start < reached and not (inside and own):
                    raise TypeError(f"{place} and {other} share memory, and would not after a resume: copy one of them")
            furthest[inside] = max(furthest[inside], (end, place))


class _Unpacking:
    """Builds values from what `_Packing` made of them."""

    def __init__(self, tensors: dict[str, Tensor], things: dict[str, Any]) -> None:
        self._tensors, self._things = tensors, things
        self._made: list[Any] = []

    def value(self, described: dict[str, Any]) -> Any:
        (kind, content), *_ = described.items()
        match kind:
            case "plain":
                return content
            case "tuple":
                return tuple(map(self.value, content))
            case "scalar":
                return self._tensors[str(content)].numpy()[()]
            case "in place":
                return self._things[content]
            case "same":
                return self._made[content]
        # Numbers of "same" count values in the order in which they begin, so a list or dict goes before its items.
        made: Any
        match kind:
            case "tensor":
                made = self._tensors[str(content)].clone().to(described["device"]).permute(_inverse(described["order"]))
            case "array":
                made = self._tensors[str(content)].clone().numpy().transpose(_inverse(described["order"]))
            case "list":
                self._made.append(made := [])
                made.extend(map(self.value, content))
                return made
            case "dict":
                self._made.append(made := {})
                made.update((key, self.value(item)) for key, item in content)
                return made
        self._made.append(made)
        return made


def _refuse(value: Any, place: str) -> NoReturn:
    plain = next((kind for kind in (dict, list, tuple, str, int, float) if isinstance(value, kind)), None)
    if plain:
        mend = f"keep a plain {plain.__name__}"
    elif isinstance(value, set | frozenset):
        mend = "keep a sorted list"
    elif isinstance(value, Tensor | np.ndarray):
        mend = "keep a plain tensor or array, or a parameter of a module"
    elif dataclasses.is_dataclass(value):
        mend = "keep a dict of its fields"
    elif isinstance(value, torch.Generator | np.random.Generator):
        mend = "make one for each step, by `reproduce.data.sampling.generator`"
    else:
        mend = "keep the numbers, strings and arrays that it is made from, in lists, tuples and dicts"
    raise TypeError(f"{place} is a {type(value).__name__}, which a resumed run would not get back as it was: {mend}")


def _order(strides: Sequence[int]) -> list[int]:
    """Dimensions from the outermost in memory to the innermost."""
    return sorted(range(len(strides)), key=lambda dim: -abs(strides[dim]))


def _inverse(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


@cache
def _storable(dtype: torch.dtype) -> bool:
    try:
        save({"": torch.empty(0, dtype=dtype)})
    except Exception:
        return False
    return True


def _copied(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


def _reload(module: nn.Module, saved: dict[str, Any]) -> None:
    """Load parts in place; one of another shape (a classifier of other clusters) takes the saved one."""
    for name, part in _parts(module).items():
        if isinstance(part, Tensor) and part.shape != saved[name].shape:
            part.data = saved[name].to(part)
    listed = module.state_dict().keys()
    module.load_state_dict({name: saved[name] for name in listed})
    for name, buffer in module.named_buffers():
        if name not in listed:
            buffer.copy_(saved[name])
