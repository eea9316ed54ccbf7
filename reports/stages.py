"""Describe the stages behind a result: specification, provenance and logged curves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

from reports.curves import Panel, panels
from reports.identity import DIGEST_SHOWN
from reports.words import NOTHING, duration, flatten, is_number, scalar
from reproduce.papers.records import StageEntry


@dataclass(frozen=True)
class StageLine:
    """One stage of a case, with its time and device."""

    name: str
    seed: str
    time: str
    device: str
    rate: str
    started: str
    key: str


@dataclass(frozen=True)
class StageGroup:
    """Stages that differ only in their seed: one specification, and one curve per seed."""

    title: str
    seeds: str
    spec: tuple[tuple[str, str], ...]
    learning: tuple[Panel, ...]
    labels: tuple[Panel, ...]
    """Panels of loss and scores, and those of pseudo labels."""


def stage_lines(stages: Sequence[StageEntry]) -> tuple[StageLine, ...]:
    """Describe each stage in one line, in the order of the record."""
    return tuple(
        StageLine(
            name=stage.label,
            seed=scalar(stage.seed) if stage.seed is not None else NOTHING,
            time=duration(stage.provenance.wall_s),
            device=stage.provenance.device,
            rate=_rate(stage),
            started=stage.provenance.started,
            key=stage.key[:DIGEST_SHOWN],
        )
        for stage in stages
    )


def provenance(stages: Sequence[StageEntry]) -> tuple[tuple[str, str], ...]:
    """List commit, versions, machine and times; values that differ between stages are all listed."""
    texts_by_path: dict[str, list[str]] = {}
    for stage in stages:
        own = stage.provenance
        fields: dict[str, Any] = msgspec.to_builtins(own)
        for name in ("seed", "data", "wall_s", "device_s", "started", "dirty"):
            del fields[name]
        commit = own.commit[:DIGEST_SHOWN] if own.commit else "unknown"
        fields["commit"] = commit + (" with uncommitted changes" if own.dirty else "")
        fields["versions"] = ", ".join(f"{package} {version}" for package, version in own.versions.items())
        for path, text in flatten(fields):
            if path and text not in texts_by_path.setdefault(path, []):
                texts_by_path[path].append(text)
    lines = [(name.replace(".", " ").replace("_", " "), "; ".join(texts)) for name, texts in texts_by_path.items()]
    if stages:
        started = sorted(stage.provenance.started for stage in stages)
        first, last = started[0], started[-1]
        lines.append(("started", first if first == last else f"{first}, last stage {last}"))
        lines.append(("time of all stages", duration(sum(stage.provenance.wall_s for stage in stages))))
    return tuple(lines)


def _rate(stage: StageEntry) -> str:
    rates = sorted(entry["images_per_s"] for entry in stage.history if is_number(entry.get("images_per_s")))
    return f"{rates[len(rates) // 2]:,.0f}" if rates else NOTHING


def stage_groups(
    stages: Sequence[StageEntry], tested: Collection[str] = (), direct: Mapping[str, float] = MappingProxyType({})
) -> tuple[StageGroup, ...]:
    """Group stages that differ only in their seed.

    Args:
        stages: Stages of a case.
        tested: Keys of the trainings that the case tests.
        direct: Direct transfer's values by metric, drawn beside the curves of those trainings.
    """
    by_key = {stage.key: stage for stage in stages}

    def seedless(value: Any, depth: int = 0) -> Any:
        if isinstance(value, Mapping):
            if set(value) == {"stage", "key"} and depth < 20:
                upstream = by_key.get(str(value["key"]))
                return [value["stage"], seedless(upstream.spec, depth + 1) if upstream else None]
            return {name: seedless(part, depth) for name, part in value.items() if name != "seed"}
        return [seedless(part, depth) for part in value] if isinstance(value, list | tuple) else value

    grouped: dict[str, list[StageEntry]] = {}
    for stage in stages:
        signature = json.dumps([stage.name, seedless(stage.spec)], sort_keys=True)
        grouped.setdefault(signature, []).append(stage)
    titles = [members[0].kind or members[0].name for members in grouped.values()]
    seen: Counter[str] = Counter()
    made = []
    for title, members in zip(titles, grouped.values(), strict=True):
        seen[title] += 1
        seeds = [scalar(stage.seed) for stage in members if stage.seed is not None]
        histories = [
            (scalar(stage.seed) if stage.seed is not None else str(place), stage.history)
            for place, stage in enumerate(members, 1)
        ]
        on_target = any(stage.key in tested for stage in members)
        shown = panels(histories, _step_name(members[0]), direct if on_target else {})
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


def _step_name(stage: StageEntry) -> str:
    """Name a logged step: epoch if the recipe counts epochs, else step."""
    return "epoch" if is_number(stage.spec.get("epochs")) else "step"


def _shared_spec(members: Sequence[StageEntry]) -> tuple[tuple[str, str], ...]:
    values: dict[str, list[str]] = {}
    for stage in members:
        for path, text in flatten(stage.spec):
            if path and text not in values.setdefault(path, []):
                values[path].append(text)
    return tuple((path, " | ".join(texts)) for path, texts in values.items())
