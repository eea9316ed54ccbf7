"""The state of an unfinished training: everything that outlives an epoch, in one safetensors file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reproduce.stage import UserError


def save_state(path: Path, state: object, progress: dict[str, Any]) -> None:
    """Write `state` and the runner's `progress`; a killed process leaves this file or the one before it."""
    tensors: dict[str, Tensor] = {}
    described = {name: _pack(value, name, tensors) for name, value in vars(state).items()}
    label = json.dumps({"progress": progress, "state": described})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    save_file(tensors, temporary, metadata={"label": label})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def load_state(path: Path, state: object) -> dict[str, Any]:
    """Put a saved state back, modules and optimisers in place; return the progress saved with it."""
    try:
        with safe_open(path, "pt") as file:
            label = json.loads(file.metadata()["label"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise UserError(
            f"{path} is not a readable training state ({error}): delete it to start this stage again"
        ) from error
    for name, described in label["state"].items():
        setattr(state, name, _unpack(described, tensors, getattr(state, name, None)))
    progress: dict[str, Any] = label["progress"]
    return progress


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Describe a value as JSON, its arrays moved to `tensors` under their path."""
    match value:
        case nn.Module() | torch.optim.Optimizer():
            return {"in place": _pack(value.state_dict(), path, tensors)}
        case Tensor():
            tensors[path] = value.detach().cpu().contiguous().clone()
            return {"tensor": path, "device": str(value.device)}
        case np.ndarray():
            tensors[path] = torch.from_numpy(np.ascontiguousarray(value))
            return {"array": path}
        case dict():
            return {"dict": [[_plain(key), _pack(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
        case list() | tuple():
            return {type(value).__name__: [_pack(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]}
        case _:
            return {"plain": _plain(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a training state holds modules, optimisers, arrays and plain values, not {type(value).__name__}")


def _unpack(described: dict[str, Any], tensors: dict[str, Tensor], old: Any) -> Any:
    (kind, content), *rest = described.items()
    match kind:
        case "in place":
            saved = _unpack(content, tensors, None)
            if isinstance(old, nn.Module):
                _reload(old, saved)
            else:
                old.load_state_dict(saved)
            return old
        case "tensor":
            return tensors[content].to(rest[0][1])
        case "array":
            return tensors[content].numpy()
        case "dict":
            return {key: _unpack(item, tensors, None) for key, item in content}
        case "list":
            return [_unpack(item, tensors, _at(old, index)) for index, item in enumerate(content)]
        case "tuple":
            return tuple(_unpack(item, tensors, _at(old, index)) for index, item in enumerate(content))
        case _:
            return content


def _at(old: Any, index: int) -> Any:
    return old[index] if isinstance(old, (list, tuple)) and index < len(old) else None


def _reload(module: nn.Module, saved: dict[str, Tensor]) -> None:
    """Load weights in place; a parameter of another shape (a classifier of other clusters) takes the saved one."""
    current = module.state_dict(keep_vars=True)
    for name, tensor in saved.items():
        if name in current and current[name].shape != tensor.shape:
            current[name].data = tensor.to(current[name])
    module.load_state_dict(saved)
