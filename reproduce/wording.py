"""Put numbers and lists into sentences."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 case`, `1,020 cases`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def listing(words: Sequence[str]) -> str:
    """Join words: `a`, `a and b`, `a, b and c`; empty for none."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
