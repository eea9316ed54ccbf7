"""Name processes so that another process, now or later, can tell whether they have ended."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path

_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
"""Environment variables in which batch systems name a job."""


def this_process() -> str:
    """Return a name of this process that is a part of a file name and no other process has, now or later."""
    job = next((os.environ[name] for name in _JOBS if os.environ.get(name)), "")
    return "@".join((_plain(socket.gethostname()), _machine(), str(os.getpid()), _started(os.getpid()), _plain(job)))


def ended(name: str) -> bool | None:
    """Return whether a named process has ended, or None if that cannot be known here, as on another machine."""
    parts = name.split("@")
    if len(parts) != 5 or parts[:2] != this_process().split("@")[:2] or not parts[2].isdecimal():
        return None
    return _started(int(parts[2])) != parts[3]


def described(name: str) -> str:
    """Describe a named process for the user: its number, its machine and its job."""
    host, _, pid, _, job = (*name.split("@"), *[""] * 4)[:5]
    return f"process {pid or '?'} on {host}{f' (job {job})' if job else ''}"


def _machine() -> str:
    """Return a short hash of what makes process numbers comparable: the system's start and the container."""
    parts = []
    for read in (Path("/proc/sys/kernel/random/boot_id").read_text, Path("/proc/self/ns/pid").readlink):
        try:
            parts.append(str(read()))
        except OSError:
            parts.append("")
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:8]


def _started(pid: int) -> str:
    """Return when a process started, in the system's own count; "0" if it has ended, also if nobody collected it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "0" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return "0"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", text)[:64]
