"""Which recipe computed a result: a digest of all that its stages do, apart from data and training seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from reproduce.data.domains import Real
from reproduce.stage import Stage, closure, full_spec

LENGTH = 12
SEED = "seed"
"""The field of a stage that tells its training seeds apart."""


def digest(stages: Iterable[Stage[Any]]) -> str:
    """The digest of final stages as a scale resolved them, all upstream stages and their versions included.

    Drawn and published images count by their label alone: an identity lists them beside it. A field that was added
    counts from the value on that changes what the stage does, as in a key.
    """
    return _digest({stage.key: full_spec(stage) for stage in closure(stages)})


def digest_of_record(specs: Mapping[str, Any]) -> str:
    """As `digest`, from the specifications that a record keeps of its stages, by key.

    Raises:
        KeyError: it does not keep all of them.
    """
    return _digest(specs)


def _digest(specs: Mapping[str, Any]) -> str:
    """That of the stages which no other names, by their specifications and those of all upstream, by key."""
    upstream: set[str] = set()

    def whole(described: Any) -> Any:
        """A specification with those of upstream stages in it."""
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

    every = {key: json.dumps(whole(spec), sort_keys=True, separators=(",", ":")) for key, spec in specs.items()}
    final = sorted({text for key, text in every.items() if key not in upstream})
    return hashlib.sha256("\n".join(final).encode()).hexdigest()[:LENGTH]
