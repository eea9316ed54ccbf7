"""Identify the recipe of a result: a digest of all that its stages do, apart from data and training seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from reproduce.data.domains import Real
from reproduce.stage import Stage, closure, full_spec

LENGTH = 12
SEED = "seed"
"""The field of a stage that holds its training seed."""


def digest(stages: Iterable[Stage[Any]]) -> str:
    """Compute the digest of resolved final stages, including all upstream stages and their versions.

    Drawn and published images enter by their label only, since an identity lists them separately. An `added` field
    enters only with values that change what the stage does, as in a key.
    """
    return _digest({stage.key: full_spec(stage) for stage in closure(stages)})


def digest_of_record(specs: Mapping[str, Any]) -> str:
    """Compute the same digest from the specifications of a record's stages, by key.

    Raises:
        KeyError: The record does not keep all of its stages.
    """
    return _digest(specs)


def _digest(specs: Mapping[str, Any]) -> str:
    """Compute the digest of the final stages (those that no other names) from all specifications, by key."""
    upstream: set[str] = set()

    def whole(described: Any) -> Any:
        """Insert the specifications of upstream stages into one."""
        if isinstance(described, list):
            return [whole(item) for item in described]
        if not isinstance(described, dict):
            return described
        if set(described) == {"stage", "key"}:
            upstream.add(described["key"])
            return whole(specs[described["key"]])
        match described["type"]:
            case "reproduce.data.standins.StandIn":
                return {"source": described["domain"]}
            case "reproduce.data.domains.Real":
                return {"source": Real(described["name"], "", variant=described["variant"]).label}
        stage = "version" in described
        return {name: whole(value) for name, value in described.items() if not (stage and name == SEED)}

    texts = {key: json.dumps(whole(spec), sort_keys=True, separators=(",", ":")) for key, spec in specs.items()}
    final = sorted({text for key, text in texts.items() if key not in upstream})
    return hashlib.sha256("\n".join(final).encode()).hexdigest()[:LENGTH]
