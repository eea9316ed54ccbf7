"""The page of measurements is made from the files of `reproduce bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reports import performance
from reports.readme import replaced
from reproduce.commands.bench_train import STEPS
from reproduce.errors import UserError


def report(work: str, seconds: dict[str, float], size: list[int], **machine: Any) -> dict[str, Any]:
    cost = {"wall_s": 1.0, "memory_gib": 0.5}
    return {
        "work": work,
        "machine": {
            "processor": "EPYC",
            "family": "25",
            "instructions": ["avx2"],
            "held_back": {},
            "bfloat16_is_fast": True,
            "threads": 1,
            "gpu": None,
            "versions": {"torch": "2"},
            "date": "2026-11-22",
            **machine,
        },
        "records": [
            {"contender": name, "size": size, "processor_s": own, **cost, "rounds": [{}, {}]}
            for name, own in seconds.items()
        ],
        "differences": [],
    }


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_machines_stand_side_by_side() -> None:
    held = {"held_back": {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "bfloat16_is_fast": False}
    text = performance.page(
        [
            report("neighbours", {"kernel": 2.0, "product, bfloat16": 1.0}, [4096]),
            report("neighbours", {"kernel": 3.0}, [4096], **held),
            report("neighbours", {"kernel": 4.0}, [4096], gpu="H200") | {"work": "evaluate"},
        ]
    )
    assert lines(text, "- **A**")[0].count("fast") == 1
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in lines(text, "- **B**")[0]
    assert "no fast bfloat16" in lines(text, "- **B**")[0]
    assert "GPU H200" in lines(text, "- **C**")[0]
    assert lines(text, "| kernel |")[0] == "| kernel | 2.00 (2) | 0.50 | 3.00 (2) | 0.50 |"
    assert lines(text, "| product")[0] == "| product, bfloat16 | 1.00 (2) | 0.50 |  |  |"


def test_backward_is_a_difference() -> None:
    seconds = {
        "constant tensors": 5.0,
        "part: forward": 1.0,
        "part: loss, both ways": 0.25,
        "part: forward, loss and backward": 4.0,
    }
    text = performance.page([report("train", seconds, [8, 256])])
    each = 1000 * 2.75 / (8 * STEPS)
    assert lines(text, "| part: backward")[0] == f"| part: backward, as difference | {each:.3f} (2) | 0.550 |"
    assert lines(text, "| constant")[0].endswith("| 1.000 |")


def test_damaged_measurement_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "train.json").write_text(json.dumps({"work": "train"}))
    with pytest.raises(UserError, match=r"train\.json .*machine"):
        performance.measurements(tmp_path)


def test_the_page_shows_the_measurements() -> None:
    text = performance.PAGE.read_text(encoding="utf-8")
    measured = performance.page(performance.measurements())
    assert replaced(performance.PAGE, text, "measured", measured) == text, "renew it: python -m reports.performance"
