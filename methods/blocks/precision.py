"""The precision that a network is trained and run in; every training has it as a field."""

from __future__ import annotations

import torch

from reproduce.errors import UserError

_WEIGHTS = {"float32": torch.float32, "mixed": torch.float32, "float64": torch.float64}


def dtype_of(precision: str) -> torch.dtype:
    """Return the type of weights, inputs and losses; for "mixed" that is float32.

    Raises:
        UserError: the precision is unknown.
    """
    if precision not in _WEIGHTS:
        raise UserError(f"unknown precision {precision!r}: choose one of {', '.join(_WEIGHTS)}")
    return _WEIGHTS[precision]
