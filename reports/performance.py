"""Write the measurements of `reproduce bench` into docs/performance.md: `python -m reports.performance`.

Machines stand side by side. A machine is a processor, its GPU and the instruction sets that it may use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from reports.files import write
from reports.grids import grid
from reports.readme import replaced
from reproduce.commands.bench_train import RESNET50, STEPS
from reproduce.errors import UserError
from reproduce.wording import counted

Report: TypeAlias = Mapping[str, Any]

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
MEASURED = ROOT / "docs" / "performance"
"""Folder of the JSON files that `reproduce bench` wrote, in any subfolders."""

TITLES = {
    "neighbours": "Jaccard distances and DBSCAN",
    "evaluate": "Evaluation",
    "rerank": "Re-ranking",
    "train": "Training step",
}


def measurements(folder: Path = MEASURED) -> list[Report]:
    """Read the JSON files of a folder, in the order of their paths.

    Raises:
        UserError: One is damaged.
    """
    reports: list[Report] = []
    for path in sorted(folder.rglob("*.json")):
        try:
            report = json.loads(path.read_text())
            reports.append({key: report[key] for key in ("work", "machine", "records", "differences")})
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} is no measurement of `reproduce bench` ({error}): measure again") from None
    return reports


def page(reports: Sequence[Report]) -> str:
    """Format all measurements as Markdown: the machines, then a table for each work and size."""
    machines = list(dict.fromkeys(described(report["machine"]) for report in reports))
    letters = {machine: chr(ord("A") + at) for at, machine in enumerate(machines)}
    dates = {
        machine: {own["machine"]["date"] for own in reports if described(own["machine"]) == machine}
        for machine in letters
    }
    parts = ["\n".join(f"- **{letter}**: {own}; {', '.join(sorted(dates[own]))}" for own, letter in letters.items())]
    for work, title in TITLES.items():
        of_work = [report for report in reports if report["work"] == work]
        for net, size in dict.fromkeys((_net(own), tuple(r["size"])) for own in of_work for r in own["records"]):
            columns = {
                letters[described(own["machine"])]: found
                for own in of_work
                if _net(own) == net
                and (found := {r["contender"]: r for r in own["records"] if tuple(r["size"]) == size})
            }
            heading = f"**{title}, {'x'.join(map(str, size))}{f', {net}' if work == 'train' else ''}**"
            table = _parts(columns, size) if work == "train" else _seconds(columns)
            parts += [heading, table]
    return "\n\n".join(parts)


def described(machine: Mapping[str, Any]) -> str:
    """Describe a machine in a line."""
    held = ", ".join(f"{name}={value}" for name, value in sorted(machine["held_back"].items()))
    low = "multiplies bfloat16 faster than float32" if machine["bfloat16_is_fast"] else "no fast bfloat16"
    return "; ".join(
        filter(
            None,
            (
                f"{machine['processor']} ({machine['family']})",
                f"GPU {machine['gpu']}" if machine["gpu"] else "no GPU",
                low,
                f"held back by {held}" if held else "",
                " ".join(machine["instructions"]),
                counted(machine["threads"], "thread"),
                f"torch {machine['versions'].get('torch', '?')}",
            ),
        )
    )


def _net(report: Report) -> str:
    return str(report["machine"].get("net", RESNET50)).rpartition(":")[2]


def _cost(record: Mapping[str, Any]) -> float:
    """Processor seconds, or wall seconds where a GPU does the work."""
    return float(record["wall_s" if "gpu_memory_gib" in record else "processor_s"])


def _seconds(columns: Mapping[str, Mapping[str, Any]]) -> str:
    head = ["", *(f"{letter}: {what}" for letter in columns for what in ("seconds (runs)", "GiB"))]
    lines = []
    for name in _names(columns):
        line = [name]
        for records in columns.values():
            record = records.get(name)
            memory = record and record.get("gpu_memory_gib", 0) + record["memory_gib"]
            line += [f"{_cost(record):.2f} ({len(record['rounds'])})", f"{memory:.2f}"] if record else ["", ""]
        lines.append(line)
    return grid(head, lines, left=1)


def _parts(columns: Mapping[str, Mapping[str, Any]], size: Sequence[int]) -> str:
    """Tabulate milliseconds an image, and times of a step on constant tensors."""
    head = ["", *(f"{letter}: {what}" for letter in columns for what in ("ms an image (runs)", "to a step"))]
    lines = []
    for name in [*_names(columns), "part: backward, as difference"]:
        line = [name]
        for records in columns.values():
            seconds = {own: _cost(record) for own, record in records.items()}
            forward, loss, both = "part: forward", "part: loss, both ways", "part: forward, loss and backward"
            if {forward, loss, both} <= seconds.keys():
                seconds["part: backward, as difference"] = seconds[both] - seconds[forward] - seconds[loss]
            runs = len(records[name]["rounds"]) if name in records else len(records[both]["rounds"])
            own = seconds.get(name)
            each = 1000 / (STEPS * size[0])
            line += (
                [f"{own * each:.3f} ({runs})", f"{own / seconds['constant tensors']:.3f}"]
                if own is not None
                else ["", ""]
            )
        lines.append(line)
    return grid(head, lines, left=1)


def _names(columns: Mapping[str, Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for records in columns.values() for name in records))


def main() -> None:
    """Renew the page."""
    old = PAGE.read_text(encoding="utf-8")
    new = replaced(PAGE, old, "measured", page(measurements()))
    write(PAGE, new)
    print(f"{PAGE} {'is up to date' if new == old else 'renewed'}")


if __name__ == "__main__":
    main()
