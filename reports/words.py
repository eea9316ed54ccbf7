"""Format single values (verdicts, numbers, escaped text) alike in HTML and Markdown."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

MINUS = "\u2212"
NOTHING = "\u2013"


@dataclass(frozen=True)
class Verdict:
    """The outcome of a case: a word, a symbol that needs no colour, a colour tone, and the meaning."""

    word: str
    symbol: str
    tone: str
    meaning: str

    @property
    def text(self) -> str:
        """Symbol and word."""
        return f"{self.symbol} {self.word}"


VERDICTS: Mapping[str, Verdict] = {
    verdict.word: verdict
    for verdict in (
        Verdict(
            "reproduced",
            "✓",
            "good",
            "three seeds or more, and the 90 % interval of their mean lies inside the band around the printed number",
        ),
        Verdict(
            "consistent", "≈", "good", "mean and spread of the seeds lie in the band, but they are too few to say more"
        ),
        Verdict(
            "above", "▲", "high", "the 90 % interval of the mean lies above the band around the printed number; a pass"
        ),
        Verdict("below", "▼", "low", "the 90 % interval of the mean lies below the band around the printed number"),
        Verdict(
            "inconclusive",
            "?",
            "plain",
            "the mean or the spread of the seeds lies outside the band, but the seeds are too few to say more; no pass",
        ),
        Verdict("collapsed", "✕", "bad", "training fell apart, as when clustering puts everything into one cluster"),
        Verdict("drifted", "Δ", "bad", "outside the band around the result that was recorded for exactly this case"),
        Verdict("error", "!", "bad", "a stage ended with an error; there is no number"),
        Verdict("blocked(data)", "⊘", "quiet", "the data set is not on this machine; nothing was put in its place"),
        Verdict("blocked(weights)", "⊘", "quiet", "the initial weights that the paper names are not on this machine"),
        Verdict(
            "not comparable",
            "○",
            "plain",
            "something that the number depends on differs from the paper, so no difference is drawn",
        ),
    )
}
COMPARED = frozenset({"reproduced", "consistent", "above", "below", "inconclusive", "collapsed"})

CLAIM_VERDICTS: Mapping[str, Verdict] = {
    verdict.word: verdict
    for verdict in (
        Verdict(
            "supported",
            "✓",
            "good",
            "the difference goes the way that the paper says, beyond what chance explains; its size may be another",
        ),
        Verdict(
            "contradicted",
            "≠",
            "plain",
            "the difference goes the other way, beyond what chance explains; a finding, not an error",
        ),
        Verdict("undecided", "?", "plain", "chance could explain either; below three seeds nothing is decided"),
        Verdict("error", "!", "bad", "a case that the claim needs has no number"),
        Verdict("not tried", "–", "quiet", "no case here tries it"),
    )
}


def verdict(word: str) -> Verdict:
    """Return the verdict of a word; an unknown word is shown unchanged, without a tone."""
    return VERDICTS.get(word) or Verdict(word, "·", "plain", "")


def claim_verdict(word: str) -> Verdict:
    """Return the verdict of a word on a claim; an unknown word is shown unchanged, without a tone."""
    return CLAIM_VERDICTS.get(word) or verdict(word)


def arrows(text: str) -> str:
    """Replace `->` by a real arrow."""
    return text.replace("->", "→")


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether this is a finite number; "-", None, True and NaN are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def percent(value: object) -> str:
    """Format a percentage with one decimal, as papers print it, or a dash."""
    return _tidy(f"{value:.1f}") if is_number(value) else NOTHING


def difference(measured: float, printed: float) -> str:
    """Format measured minus printed with its sign, in percentage points."""
    return signed(measured - printed)


def signed(value: object) -> str:
    """Format a difference in percentage points with its sign, or a dash."""
    text = _tidy(f"{value:+.1f}") if is_number(value) else NOTHING
    return "0.0" if text in ("+0.0", f"{MINUS}0.0") else text


def _tidy(text: str) -> str:
    return "0.0" if text == "-0.0" else text.replace("-", MINUS)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of one number over n training seeds; no deviation when n is 1."""

    mean: float
    sd: float | None
    n: int

    @property
    def text(self) -> str:
        """`44.1 ± 0.4`, or `44.1` for one seed."""
        return percent(self.mean) + (f" ± {percent(self.sd)}" if self.sd is not None else "")


def spread(values: Iterable[object]) -> Spread | None:
    """Compute mean and spread of the finite numbers among `values`; None without any."""
    numbers = [float(value) for value in values if is_number(value)]
    if not numbers:
        return None
    n = len(numbers)
    mean = math.fsum(numbers) / n
    sd = math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / (n - 1)) if n > 1 else None
    return Spread(mean, sd, n)


def duration(seconds: object) -> str:
    """Format seconds for readers: `0.4 s`, `31 s`, `12 min`, `3 h 05 min`."""
    if not is_number(seconds):
        return NOTHING
    value = float(seconds)
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def sentence(text: str) -> str:
    """Add a capital and a full stop; `mAP` and `m2d` stay as they are."""
    first = text[:1] if text[1:2].isupper() or text[1:2].isdigit() else text[:1].upper()
    return f"{first}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}" if text else ""


def scalar(value: object) -> str:
    """Format one value of a specification."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def flatten(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Flatten a nested specification to (dotted path, text) lines, in order; a list of plain values is one line."""
    if isinstance(value, Mapping):
        lines = [
            line for name, part in value.items() for line in flatten(part, f"{path}.{name}" if path else str(name))
        ]
        return lines or [(path, "(empty)")]
    if isinstance(value, list | tuple):
        if any(isinstance(part, Mapping | list | tuple) for part in value):
            return [line for place, part in enumerate(value, 1) for line in flatten(part, f"{path}[{place}]")]
        return [(path, ", ".join(scalar(part) for part in value) or "(empty)")]
    return [(path, scalar(value))]


def slug(text: str) -> str:
    """Convert text for an anchor: ASCII letters and digits, the rest as single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def unique(text: str, taken: Counter[str]) -> str:
    """Return an unused slug of a text, numbered if needed, and mark it as used."""
    name = slug(text)
    taken[name] += 1
    return name if taken[name] == 1 else unique(f"{name}-{taken[name]}", taken)


def markdown(text: object) -> str:
    """Escape text for a Markdown paragraph, list or table cell, as one line without markup."""
    return _at_start(_escaped(" ".join(str(text).split())))


def _escaped(line: str) -> str:
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)


def _at_start(line: str) -> str:
    return re.sub(r"^([-+#=]|\d+(?=[.)]\s))", _lead, line)


def _lead(match: re.Match[str]) -> str:
    return f"&#{ord(match[0][0])};{match[0][1:]}"


def code(text: object) -> str:
    """Format text as a Markdown inline code span, even with backticks in it."""
    line = " ".join(str(text).split())
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", line)), default=0))
    pad = " " if line[:1] == "`" or line[-1:] == "`" else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def markdown_prose(text: object) -> str:
    """Escape like `markdown`, but keep text between backticks as code spans."""
    parts = re.split(r"`([^`]+)`", " ".join(str(text).split()))
    return _at_start("".join(code(part) if place % 2 else _escaped(part) for place, part in enumerate(parts)))


def fenced(text: object, language: str = "") -> str:
    """Format text as a fenced Markdown block."""
    body = str(text).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", body)), default=0))
    return f"{fence}{language}\n{body}\n{fence}"
