"""Which recipe computed a result: a digest of all that its stages do, apart from data and training seeds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reproduce.data.sources import ImageStage, Source
from reproduce.stage import Stage, spec, type_name

LENGTH = 12
SEED = "seed"
"""The field of a stage that tells its training seeds apart."""


def digest(stages: Iterable[Stage[Any]]) -> str:
    """The digest of final stages as a scale resolved them, all upstream stages and their versions included.

    Images that nobody trained to make count by their label alone: an identity lists them beside it. A field that was
    added counts from the value on that changes what the stage does, as in a key.
    """
    return _hash([_of(stage) for stage in stages])


def digest_of_record(record: Mapping[str, Any]) -> str:
    """As `digest`, from the specifications that a result keeps of its stages."""
    by_key = {stage["key"]: stage["spec"] for stage in record["stages"]}
    named = {value["key"] for described in by_key.values() for value in _stages_in(described)}
    return _hash([_of_spec(described, by_key) for key, described in by_key.items() if key not in named])


def _hash(described: Iterable[Any]) -> str:
    texts = sorted({json.dumps(each, sort_keys=True, separators=(",", ":")) for each in described})
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:LENGTH]


def _of(value: Any) -> Any:
    if isinstance(value, Source) and not isinstance(value, ImageStage):
        return {"source": value.label}
    if isinstance(value, tuple):
        return [_of(item) for item in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return spec(value)
    described: dict[str, Any] = {"type": type_name(type(value))}
    if isinstance(value, Stage):
        described["version"] = value.version
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        seed = field.name == SEED and isinstance(value, Stage)
        if not seed and not ("added" in field.metadata and held == field.metadata["added"]):
            described[field.name] = _of(held)
    return described


def _stages_in(described: Any) -> Iterable[Mapping[str, Any]]:
    """Every mention of an upstream stage in a specification."""
    if isinstance(described, Mapping):
        if set(described) == {"stage", "key"}:
            yield described
        else:
            for value in described.values():
                yield from _stages_in(value)
    elif isinstance(described, Sequence) and not isinstance(described, str):
        for value in described:
            yield from _stages_in(value)


_SOURCES = {"reproduce.data.standins.StandIn": "domain", "reproduce.data.domains.Real": "name"}
"""The sources that a record may hold, and the field with their label."""


def _of_spec(described: Any, by_key: Mapping[str, Any]) -> Any:
    if isinstance(described, list):
        return [_of_spec(item, by_key) for item in described]
    if not isinstance(described, dict):
        return described
    if set(described) == {"stage", "key"}:
        return _of_spec(by_key[described["key"]], by_key)
    if label := _SOURCES.get(described.get("type", "")):
        return {"source": described[label]}
    stage = "version" in described
    return {name: _of_spec(value, by_key) for name, value in described.items() if not (stage and name == SEED)}
