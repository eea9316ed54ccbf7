"""The precision that a network is trained and run in: a field of every training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from reproduce.stage import UserError

if TYPE_CHECKING:
    from methods.blocks.heads import ReID

_WEIGHTS = {"float32": torch.float32, "mixed": torch.float32, "float64": torch.float64}


def dtype_of(precision: str) -> torch.dtype:
    """What weights, inputs and losses are held in; with "mixed" that is float32.

    Raises:
        UserError: there is no such precision.
    """
    if precision not in _WEIGHTS:
        raise UserError(f"precision {precision!r} is none of {', '.join(_WEIGHTS)}")
    return _WEIGHTS[precision]


def in_precision(net: ReID, precision: str) -> ReID:
    """Let a network compute in a precision; "mixed" runs its backbone in bfloat16 wherever torch's autocast does.

    Pooling, neck, classifier and losses stay in float32, and so do all weights. bfloat16 has the range of float32, so
    no loss is scaled.

    Args:
        net: changed in place.
        precision: "float32", "mixed" or "float64".
    """
    net.mixed = precision == "mixed"
    return net.to(dtype_of(precision))
