"""Where numbers were made: commit, versions, and the processor or GPU whose arithmetic they carry."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from msgspec import Struct

INSTRUCTIONS = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "asimd",
    "sve",
    "bf16",
)
"""Instruction sets, by their names in /proc/cpuinfo, that decide which kernels torch runs."""

HELD_BACK = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
"""Environment variables that keep torch and its libraries from instruction sets which the processor has."""


class Host(Struct):
    """A processor: name, family, instruction sets, and which of them are held back by environment variables."""

    cpu: str = ""
    family: str = ""
    instructions: list[str] = []
    held_back: dict[str, str] = {}


class Provenance(Struct, kw_only=True, forbid_unknown_fields=True):
    """Where and from what one stage was computed."""

    commit: str | None
    dirty: bool | None
    """Whether code differed from the commit."""
    versions: dict[str, str]
    host: Host
    device: str
    threads: int
    started: str
    """ISO time."""
    wall_s: float
    device_s: float
    """Processor seconds; on a GPU, seconds of work there."""
    seed: int | None
    data: dict[str, str]
    """Digest of the images of each source."""
    resumed: bool
    neighbours: str = "torch"
    """What looked for nearest neighbours."""


@cache
def machine() -> dict[str, Any]:
    """Commit, versions and processor: the part of the provenance that one process shares."""
    return {"commit": _git("rev-parse", "HEAD"), "dirty": _dirty(), "versions": _versions(), "host": _processor()}


def device_name(device: str) -> str:
    """The device's own name, as the provenance keeps it: "cpu", or that of the GPU."""
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(device)


def settle_arithmetic() -> None:
    """Have a GPU compute "float32" in float32, never in TF32 (10 bits of mantissa), and convolve deterministically.

    These names of the settings, not those of `fp32_precision`: where the latter are set, torch refuses to read the
    former, as its own `torch.backends.cudnn.flags` does.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def arithmetic(provenance: Provenance) -> str:
    """What decides how a stage's numbers round, in words: processor or GPU, torch, and what else finds neighbours.

    Stages of equal arithmetic give equal bits; a record that does not tell its instruction sets equals none that does.
    """
    host, parts = provenance.host, [provenance.device]
    if provenance.device == "cpu":
        sets = [name for name in INSTRUCTIONS if name in host.instructions]
        held = [f"{name}={value}" for name, value in sorted(host.held_back.items())]
        parts = [host.cpu or "an unknown processor", host.family, " ".join(sets), *held]
    torch = provenance.versions.get("torch")
    parts.append(f"torch {torch}" if torch else "")
    parts.append(f"neighbours by {provenance.neighbours}" if provenance.neighbours != "torch" else "")
    return ", ".join(filter(None, parts))


def _processor(cpuinfo: Path = Path("/proc/cpuinfo"), environ: Mapping[str, str] = os.environ) -> Host:
    """Name, family and instruction sets of the processor, as far as the system tells, and what is held back."""
    told: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip(), value.strip())
    known = (
        ("", "vendor_id"),
        ("", "CPU implementer"),
        ("family ", "cpu family"),
        ("model ", "model"),
        ("model ", "CPU part"),
    )
    family = [f"{word}{told[name]}" for word, name in known if name in told]
    flags = (told.get("flags") or told.get("Features") or "").split()
    return Host(
        cpu=told.get("model name") or os.uname().machine,
        family=" ".join(family),
        instructions=[name for name in INSTRUCTIONS if name in flags],
        held_back={name: environ[name] for name in HELD_BACK if environ.get(name)},
    )


def _git(*command: str) -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "-C", here, *command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _dirty() -> bool | None:
    """Whether code differs from the commit; results and reports do not count."""
    changed = _git("status", "--porcelain", "--", ":/reproduce", ":/methods", ":/suites", ":/pyproject.toml")
    return None if changed is None else changed != ""


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("reproduce-reid", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
