"""The precision that a network is trained and run in: a field of every training."""

from __future__ import annotations

import torch

from reproduce.errors import UserError

_WEIGHTS = {"float32": torch.float32, "mixed": torch.float32, "float64": torch.float64}


def dtype_of(precision: str) -> torch.dtype:
    """What weights, inputs and losses are held in; with "mixed" that is float32.

    Raises:
        UserError: there is no such precision.
    """
    if precision not in _WEIGHTS:
        raise UserError(f"precision {precision!r} is none of {', '.join(_WEIGHTS)}")
    return _WEIGHTS[precision]
