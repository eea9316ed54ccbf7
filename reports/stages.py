"""The stages behind a result: what ran, where, with which specification, and the curves that they logged."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.curves import Panel, panels
from reports.identity import DIGEST_SHOWN, mapping
from reports.words import NOTHING, duration, flatten, is_number, scalar


@dataclass(frozen=True)
class StageLine:
    """One stage of a case: what ran, for how long, on what."""

    name: str
    seed: str
    time: str
    device: str
    rate: str
    started: str
    key: str


@dataclass(frozen=True)
class StageGroup:
    """Stages that differ in their seed alone: one specification, and a curve a seed."""

    title: str
    seeds: str
    spec: tuple[tuple[str, str], ...]
    learning: tuple[Panel, ...]
    labels: tuple[Panel, ...]
    """Loss and scores; and how healthy the pseudo labels were."""


def stage_lines(stages: Sequence[Mapping[str, Any]]) -> tuple[StageLine, ...]:
    """One line a stage, in the order of the record."""
    return tuple(
        StageLine(
            name=str(stage.get("label") or stage.get("name", "")),
            seed=scalar(stage["seed"]) if stage.get("seed") is not None else NOTHING,
            time=duration(provenance_of(stage).get("wall_s")),
            device=str(provenance_of(stage).get("device") or NOTHING),
            rate=_rate(stage),
            started=str(provenance_of(stage).get("started") or NOTHING),
            key=str(stage.get("key") or NOTHING)[:DIGEST_SHOWN],
        )
        for stage in stages
    )


def provenance(stages: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """What ran it: commit, versions, machine, times; a value that differs between stages is listed in full."""
    known: dict[str, list[str]] = {}
    for stage in stages:
        record = dict(provenance_of(stage))
        for name in ("seed", "data", "wall_s", "device_s", "started"):
            record.pop(name, None)
        if "commit" in record:
            commit = str(record["commit"])[:DIGEST_SHOWN] if record["commit"] else "unknown"
            record["commit"] = commit + (" with uncommitted changes" if record.pop("dirty", False) else "")
        record.pop("dirty", None)
        if versions := mapping(record.pop("versions", None)):
            record["versions"] = ", ".join(f"{package} {version}" for package, version in versions.items())
        for path, text in flatten(record):
            if path and text not in known.setdefault(path, []):
                known[path].append(text)
    lines = [(name.replace(".", " ").replace("_", " "), "; ".join(texts)) for name, texts in known.items()]
    if started := [str(provenance_of(stage)["started"]) for stage in stages if provenance_of(stage).get("started")]:
        first, last = min(started), max(started)
        lines.append(("started", first if first == last else f"{first}, last stage {last}"))
    if stages:
        lines.append(("time of all stages", duration(sum(map(seconds_of, stages)))))
    return tuple(lines)


def provenance_of(stage: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a stage says about where it ran."""
    return mapping(stage.get("provenance"))


def seconds_of(stage: Mapping[str, Any]) -> float:
    """Wall time of a stage."""
    seconds = provenance_of(stage).get("wall_s")
    return float(seconds) if is_number(seconds) else 0.0


def _rate(stage: Mapping[str, Any]) -> str:
    rates = sorted(
        entry["images_per_s"] for entry in stage.get("history") or () if is_number(entry.get("images_per_s"))
    )
    return f"{rates[len(rates) // 2]:,.0f}" if rates else NOTHING


def stage_groups(stages: Sequence[Mapping[str, Any]]) -> tuple[StageGroup, ...]:
    """Stages that differ in their seed alone, together."""
    by_key = {str(stage["key"]): stage for stage in stages if stage.get("key")}

    def seedless(value: Any, depth: int = 0) -> Any:
        if isinstance(value, Mapping):
            if set(value) == {"stage", "key"} and depth < 20:
                upstream = by_key.get(str(value["key"]))
                return [value["stage"], seedless(upstream.get("spec"), depth + 1) if upstream else None]
            return {name: seedless(part, depth) for name, part in value.items() if name != "seed"}
        return [seedless(part, depth) for part in value] if isinstance(value, list | tuple) else value

    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for stage in stages:
        signature = json.dumps([stage.get("name"), seedless(mapping(stage.get("spec")))], sort_keys=True, default=str)
        grouped.setdefault(signature, []).append(stage)
    titles = [_title(members[0]) for members in grouped.values()]
    seen: Counter[str] = Counter()
    made = []
    for title, members in zip(titles, grouped.values(), strict=True):
        seen[title] += 1
        seeds = [scalar(stage["seed"]) for stage in members if stage.get("seed") is not None]
        histories = [
            (scalar(stage["seed"]) if stage.get("seed") is not None else str(place), stage.get("history") or ())
            for place, stage in enumerate(members, 1)
        ]
        shown = panels(histories, _step_name(members[0]))
        made.append(
            StageGroup(
                title=title + (f" ({seen[title]} of {titles.count(title)})" if titles.count(title) > 1 else ""),
                seeds=", ".join(seeds),
                spec=_shared_spec(members),
                learning=tuple(panel for panel in shown if not panel.of_labels),
                labels=tuple(panel for panel in shown if panel.of_labels),
            )
        )
    return tuple(made)


def _title(stage: Mapping[str, Any]) -> str:
    """The stage's label without its seed, or its name."""
    return re.sub(r",? seed \d+", "", str(stage.get("label") or stage.get("name") or "stage"))


def _step_name(stage: Mapping[str, Any]) -> str:
    """What a logged step was: an epoch where the recipe counts epochs, else a step."""
    return "epoch" if is_number(mapping(stage.get("spec")).get("epochs")) else "step"


def _shared_spec(members: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    values: dict[str, list[str]] = {}
    for stage in members:
        for path, text in flatten(mapping(stage.get("spec"))):
            if path and text not in values.setdefault(path, []):
                values[path].append(text)
    return tuple((path, " | ".join(texts)) for path, texts in values.items())
