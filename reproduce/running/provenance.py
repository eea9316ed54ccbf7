"""Record the provenance of numbers: commit, versions, and the processor or GPU whose arithmetic made them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from msgspec import Struct

ROOT = Path(__file__).resolve().parents[2]
"""Folder of the packages reproduce, methods, suites and reports: a checkout, or site-packages."""

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
"""Environment variables that stop torch and its libraries from using instruction sets of the processor."""


class Host(Struct):
    """A processor."""

    cpu: str = ""
    """Name."""
    family: str = ""
    instructions: list[str] = []
    """Those of `INSTRUCTIONS` that it has."""
    held_back: dict[str, str] = {}
    """Values of the environment variables `HELD_BACK`."""


class Provenance(Struct, kw_only=True, forbid_unknown_fields=True):
    """Code, machine and data that computed one stage."""

    commit: str | None
    dirty: bool | None
    """Whether the code differed from the commit."""
    versions: dict[str, str]
    host: Host
    device: str
    threads: int
    started: str
    """ISO time."""
    wall_s: float
    device_s: float
    """Processor seconds; on a GPU, wall-clock seconds, times the number of GPUs."""
    seed: int | None
    data: dict[str, str]
    """Digest of the images of each source."""
    resumed: bool
    neighbours: str = "torch"
    """Library that searched nearest neighbours."""
    ranks: int = 1
    """Devices that computed it together."""


def is_checkout() -> bool:
    """Return whether this package runs from a clone of its repository instead of an installation."""
    return (ROOT / ".git").exists()


@cache
def machine() -> dict[str, Any]:
    """Return commit, versions and processor: the provenance shared by all stages of a process."""
    return {"commit": _git("rev-parse", "HEAD"), "dirty": _dirty(), "versions": _versions(), "host": _processor()}


def device_name(device: str) -> str:
    """Return the device's name for the provenance: "cpu", or the GPU's name."""
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(device)


def settle_arithmetic() -> None:
    """Make a GPU compute "float32" in float32, never in TF32 (10 bits of mantissa), and convolve deterministically.

    These settings are used instead of `fp32_precision`: once that is set, torch refuses to read these, which its own
    `torch.backends.cudnn.flags` does.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def arithmetic(provenance: Provenance) -> str:
    """Describe what decides a stage's rounding: processor or GPU, torch, another neighbour backend, several devices.

    Stages of equal arithmetic give equal bits; a record without instruction sets never equals one with them.
    """
    host, parts = provenance.host, [provenance.device]
    if provenance.device == "cpu":
        sets = [name for name in INSTRUCTIONS if name in host.instructions]
        held = [f"{name}={value}" for name, value in sorted(host.held_back.items())]
        parts = [host.cpu or "an unknown processor", host.family, " ".join(sets), *held]
    torch = provenance.versions.get("torch")
    parts.append(f"torch {torch}" if torch else "")
    parts.append(f"neighbours by {provenance.neighbours}" if provenance.neighbours != "torch" else "")
    parts.append(f"{provenance.ranks} devices together" if provenance.ranks > 1 else "")
    return ", ".join(filter(None, parts))


def _processor(cpuinfo: Path = Path("/proc/cpuinfo"), environ: Mapping[str, str] = os.environ) -> Host:
    """Read the processor's name, family and instruction sets, if available, and which are held back."""
    entries: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            entries.setdefault(name.strip(), value.strip())
    parts = (
        ("", "vendor_id"),
        ("", "CPU implementer"),
        ("family ", "cpu family"),
        ("model ", "model"),
        ("model ", "CPU part"),
    )
    family = [f"{word}{entries[name]}" for word, name in parts if name in entries]
    flags = (entries.get("flags") or entries.get("Features") or "").split()
    return Host(
        cpu=entries.get("model name") or os.uname().machine,
        family=" ".join(family),
        instructions=[name for name in INSTRUCTIONS if name in flags],
        held_back={name: environ[name] for name in HELD_BACK if environ.get(name)},
    )


def _git(*command: str) -> str | None:
    """Run git in this package's own checkout; return None where it is installed, whatever repository that lies in."""
    if not is_checkout():
        return None
    try:
        done = subprocess.run(["git", "-C", ROOT, *command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _dirty() -> bool | None:
    """Return whether code differs from the commit, ignoring results and reports."""
    changed = _git("status", "--porcelain", "--", ":/reproduce", ":/methods", ":/suites", ":/pyproject.toml")
    return None if changed is None else changed != ""


def _versions() -> dict[str, str]:
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("reproduce-reid", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    if not is_checkout() and (record := distribution("reproduce-reid").read_text("RECORD")):
        versions["reproduce-reid"] += f", files {hashlib.sha256(record.encode()).hexdigest()[:12]}"
    return versions
