"""Compute the content of the pages once, for HTML and Markdown."""

from __future__ import annotations

import itertools
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from reports.cases import Case, per_seed
from reports.claims import ANOTHER, Claim, tally
from reports.figures import Figure
from reports.identity import DIGEST_SHOWN, SCALES, data_words
from reports.methods import Method, methods
from reports.pictures import Picture, distinct
from reports.tables import Paper, filled
from reports.words import CLAIM_VERDICTS, VERDICTS, Verdict, duration, unique
from reproduce.data.catalogue import CATALOGUE
from reproduce.metrics import title as metric_title
from reproduce.papers.audit import DATED, VERSION, Audit, audit
from reproduce.papers.cases import Coverage
from reproduce.papers.export import WORDS
from reproduce.papers.findings import EFFECTS
from reproduce.papers.records import ClaimRecord, FigureRecord, Result
from reproduce.papers.reported import NOBODY, Collection
from reproduce.papers.tables import Paper as Described
from reproduce.wording import counted, listing

DECIDED = ("contradicted", "supported")
"""Verdicts on claims that an overview names first."""

TROUBLE = ("error", "drifted", "collapsed", "below", "inconclusive")
"""Verdicts that need attention, the worst first."""


@dataclass(frozen=True)
class Badge:
    """The notice above the first number: its kind, short texts, and a sentence."""

    kind: str
    texts: tuple[str, ...]
    detail: str


@dataclass(frozen=True)
class Step:
    """The next command, and why."""

    why: str
    command: str


@dataclass(frozen=True)
class Summary:
    """Counts of cases and claims, of all papers or one; `testable` counts claims that cases could test."""

    finding: str
    """What was found, in a sentence."""
    sentence: str
    """What was run."""
    badges: tuple[Badge, ...]
    cells: str
    verdicts: tuple[tuple[Verdict, int], ...]
    claims: tuple[tuple[Verdict, int], ...]
    testable: str


@dataclass(frozen=True)
class Trouble:
    """Cases with the same problem, such as rows of one training that collapsed."""

    cases: tuple[Case, ...]
    verdict: Verdict
    why: str
    where: str


@dataclass(frozen=True)
class Audited:
    """The page about what is wrong in one paper's text and tables."""

    name: str
    title: str
    file: str
    audit: Audit


@dataclass(frozen=True)
class Printed:
    """The audit of printed numbers, and the methods that several papers print."""

    audit: Audit = field(default_factory=lambda: Audit((), (), ()))
    papers: tuple[Audited, ...] = ()
    """What concerns each paper, in the order of papers."""
    methods: tuple[Method, ...] = ()
    problem: str = ""
    """Why all are missing; empty if they are not."""
    effects: Mapping[str, str] = field(default_factory=lambda: EFFECTS)
    version: str = VERSION
    dated: str = DATED
    words: str = WORDS

    @property
    def count(self) -> int:
        return len(self.audit.findings)

    @property
    def compared(self) -> int:
        """Number of comparisons."""
        return sum(tally.checked for tally in self.audit.tallies)

    @property
    def agreeing(self) -> int:
        """Number of comparisons that agree."""
        return sum(tally.agree for tally in self.audit.tallies)

    @property
    def finding(self) -> str:
        """What the audit found, in a sentence."""
        if not self.count:
            return ""
        share = f"{self.agreeing:,} of {self.compared:,} comparisons of the papers' numbers and statements agree"
        grave = len(self.audit.grave)
        rest = (
            f"{counted(self.count, 'finding')}, {grave} of which {'changes' if grave == 1 else 'change'} a conclusion"
        )
        return f"As printed, {share}; the other {self.compared - self.agreeing} make {rest}."


@dataclass(frozen=True)
class Page:
    """Everything that the templates need."""

    title: str
    machine: str
    whole: Summary
    each: tuple[tuple[Paper, Summary], ...]
    next: Step
    decided: tuple[tuple[Paper, Claim], ...]
    """Claims that were contradicted, then supported ones."""
    open: tuple[tuple[Paper, Claim], ...]
    """Claims that were tried and are not decided."""
    attention: tuple[Trouble, ...]
    """Cases that failed, drifted, collapsed or fell short, the worst first."""
    undrawn: tuple[tuple[Paper, Figure, Picture], ...]
    """Figures that failed with an error."""
    blocked: tuple[tuple[str, tuple[Case, ...]], ...]
    without: tuple[str, ...]
    """Papers without results."""
    printed: Printed
    reported: Collection = NOBODY
    meanings: tuple[Verdict, ...] = tuple(VERDICTS.values())
    claim_meanings: tuple[Verdict, ...] = tuple(CLAIM_VERDICTS.values())
    per_seed: tuple[str, ...] = field(default_factory=lambda: tuple(map(metric_title, per_seed())))

    @property
    def finding(self) -> str:
        """What was measured and what the audit found, in two sentences."""
        return " ".join(filter(None, (self.whole.finding, self.printed.finding)))

    @property
    def papers(self) -> tuple[Paper, ...]:
        return tuple(paper for paper, _ in self.each)


def page(
    results: Iterable[Result],
    papers: Mapping[str, Described],
    title: str,
    claims: Iterable[ClaimRecord] = (),
    figures: Iterable[FigureRecord] = (),
    problem: str | None = None,
    covered: Coverage | None = None,
    reported: Collection = NOBODY,
) -> Page:
    """Compute the content of the pages.

    Args:
        results: Results in any order; duplicates count once.
        papers: Papers by id.
        title: Heading.
        claims: Records of claims in any order; duplicates count once.
        figures: Records of figures in any order; duplicates count once, with their pictures.
        problem: Why some papers could not be read; if empty, the papers are audited. None omits audit and methods.
        covered: What the cases of all suites cover; None if they were not collected.
        reported: What others measured.
    """
    cases = [Case(result, text) for text, result in _distinct(results)]
    tried = [record for _, record in _distinct(claims)]
    drawings = distinct(list(figures))
    ids = sorted(
        {case.paper for case in cases} | {it.claim.paper for it in tried} | {it.figure.paper for it in drawings}
    )
    files = Counter({"index": 1, "audit": 1, "methods": 1, "compare": 1})
    shown = [
        filled(
            papers.get(id) or unknown(id),
            [case for case in cases if case.paper == id],
            [record for record in tried if record.claim.paper == id],
            [record for record in drawings if record.figure.paper == id],
            files,
            covered,
            reported,
        )
        for id in ids
    ]
    ordered = [case for paper in shown for case in paper.cases]
    drawn = [(paper, figure, picture) for paper in shown for figure in paper.figures for picture in figure.pictures]
    judged = [(paper, claim) for paper in shown for claim in paper.claims if claim.trials]
    return Page(
        title=title,
        machine=_machine([*ordered, *(picture for _, _, picture in drawn)]),
        whole=_summary(shown),
        each=tuple((paper, _summary([paper])) for paper in shown),
        next=_next(ordered, [(paper.id, picture) for paper, _, picture in drawn]),
        decided=tuple(it for word in DECIDED for it in judged if it[1].verdict.word == word),
        open=tuple(it for it in judged if it[1].verdict.word not in DECIDED),
        attention=_attention(ordered),
        undrawn=tuple(found for found in drawn if found[2].error),
        blocked=_blocked(ordered),
        without=tuple(paper.name for id, paper in papers.items() if id not in ids),
        printed=_printed(papers, problem, shown, files),
        reported=reported,
    )


def unknown(id: str) -> Described:
    """Return a placeholder for a paper known only from its results."""
    name = id.upper() if id.isascii() and id.islower() and len(id) <= 8 else id
    return Described(id=id, title=id, authors="", venue="", tables={}, name=name)


R = TypeVar("R", Result, ClaimRecord)


def _distinct(records: Iterable[R]) -> list[tuple[str, R]]:
    """Drop duplicates and sort by JSON; entries of records are in its order, whether they come from a file or a run."""
    kinds = {msgspec.json.encode(record, order="sorted"): type(record) for record in records}
    return [(text.decode(), msgspec.json.decode(text, type=kinds[text])) for text in sorted(kinds)]


def _attention(cases: Sequence[Case]) -> tuple[Trouble, ...]:
    """Group the cases that need attention by their problem, the worst first."""
    grouped: dict[tuple[Verdict, str, str], list[Case]] = {}
    for case in cases:
        if case.verdict.word in TROUBLE or case.error:
            grouped.setdefault((case.verdict, case.why, case.identity.where), []).append(case)
    troubles = [Trouble(tuple(members), *problem) for problem, members in grouped.items()]
    ranks = {word: rank for rank, word in enumerate(TROUBLE)}
    return tuple(sorted(troubles, key=lambda trouble: ranks.get(trouble.verdict.word, 0)))


def _summary(papers: Sequence[Paper]) -> Summary:
    cases = [case for paper in papers for case in paper.cases]
    claims = [claim for paper in papers for claim in paper.claims]
    pictures = _pictures(papers)
    counts = Counter(case.verdict for case in cases)
    usual = [word for word in VERDICTS.values() if word in counts]
    return Summary(
        finding=_finding(cases, claims),
        sentence=_sentence(cases, papers),
        badges=(*_badges(cases, pictures), *_private(pictures)),
        cells=_cells(papers),
        verdicts=tuple((word, counts[word]) for word in [*usual, *(word for word in counts if word not in usual)]),
        claims=tally(claims),
        testable=f"{sum(claim.testable for claim in claims)} of {len(claims)}",
    )


def _printed(
    papers: Mapping[str, Described], problem: str | None, shown: Sequence[Paper], files: Counter[str]
) -> Printed:
    if problem is None or problem:
        return Printed(problem=problem or "")
    found = audit(papers)
    each = ((paper, found.of(paper.name)) for paper in papers.values())
    return Printed(
        found,
        tuple(
            Audited(paper.name, paper.title, f"{unique(f'audit-{paper.id}'[:40], files)}.html", of)
            for paper, of in each
            if of.findings or of.readings
        ),
        methods(papers, [case for paper in shown for case in paper.cases], {paper.id: paper.file for paper in shown}),
    )


def _pictures(papers: Sequence[Paper]) -> list[Picture]:
    return [picture for paper in papers for figure in paper.figures for picture in figure.pictures]


def _finding(cases: Sequence[Case], claims: Sequence[Claim]) -> str:
    """Say what cases on published data and tried claims came to; if there are none, how cases on drawn data rank."""
    compared = Counter(case.verdict.word for case in cases if case.comparable)
    tried = [claim for claim in claims if claim.trials]
    outcomes = Counter(claim.verdict.word for claim in tried)
    parts = []
    if compared:
        parts.append(_shares("case", "compared with the printed numbers", compared))
    if tried:
        drawn = cases and all(case.identity.on_stand_ins for case in cases)
        parts.append(_shares("claim", "tried on drawn stand-ins" if drawn else "tried", outcomes))
        again = [trial.verdict.word for claim in tried for trial in claim.trials if trial.world == ANOTHER]
        if again:
            parts.append(_shares("claim", "tried in a second drawn world", Counter(again)))
    return " ".join(parts) or _ranking(cases)


def _ranking(cases: Sequence[Case]) -> str:
    """Say how many pairs of cases of a table have the printed order of mAP on drawn data; empty if there are none."""
    columns: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for case in cases:
        printed, mean = case.printed.get("mAP"), case.result.means.get("mAP")
        if printed is not None and mean is not None and case.identity.on_stand_ins and case.identity.scale != "smoke":
            place = (case.paper, case.table, case.column, case.task, case.identity.scale, case.identity.where)
            columns.setdefault(place, []).append((printed, mean))
    signs = [
        (one[0] - other[0]) * (one[1] - other[1])
        for column in columns.values()
        for one, other in itertools.combinations(column, 2)
        if one[0] != other[0]
    ]
    if not signs:
        return ""
    alike = sum(sign > 0 for sign in signs)
    pairs = counted(len(signs), "pair")
    return f"On drawn stand-ins, {alike} of {pairs} of cases in one table rank by mAP as printed; no claim was tried."


def _shares(noun: str, what: str, words: Counter[str]) -> str:
    """Say how many things had each verdict: "Of 3 claims tried, 2 supported and 1 undecided."."""
    known = [word for word in dict.fromkeys([*VERDICTS, *CLAIM_VERDICTS]) if words[word]]
    each = [*known, *(word for word in words if word not in known)]
    if words.total() == 1:
        return f"The {noun} {what} is {each[0]}."
    shares = f"all are {each[0]}" if len(each) == 1 else listing([f"{words[word]} {word}" for word in each])
    return f"Of {counted(words.total(), noun)} {what}, {shares}."


def _sentence(cases: Sequence[Case], papers: Sequence[Paper]) -> str:
    pictures = _pictures(papers)
    if not cases and not pictures:
        return "No results yet."
    tables = sum(len(paper.tables) for paper in papers)
    drawn = sum(bool(figure.pictures) for paper in papers for figure in paper.figures)
    identities = [*(case.identity for case in cases), *(picture.identity for picture in pictures)]
    scales = [scale for scale in SCALES if any(identity.scale == scale for identity in identities)]
    scales += sorted({identity.scale for identity in identities} - set(SCALES) - {""})
    known = {*(seed for case in cases for seed in case.seeds), *(it.seed for it in pictures if it.seed)}
    seeds = sorted(known, key=lambda seed: (len(seed), seed))
    shown = [f"{counted(len(cases), 'case')} from {counted(tables, 'table')}"] if cases else []
    shown += [counted(drawn, "figure")] if drawn else []
    parts = [f"{listing(shown)} of {listing([paper.short for paper in papers])}"]
    if scales:
        parts.append(f"at scale {listing(scales)}")
    if seeds:
        parts.append(f"with training seed{'s' if len(seeds) > 1 else ''} {listing(seeds)}")
    data = data_words(identities)
    return " ".join(parts) + (f", on {data}." if data else ".")


def _machine(measured: Sequence[Case | Picture]) -> str:
    """Describe commit, device and time of the run in one line, counting shared stages once."""
    stages = {stage.key: stage for item in measured for stage in item.stages}
    records = [stage.provenance for stage in stages.values()]
    commits = dict.fromkeys(
        f"{record.commit[:DIGEST_SHOWN]}{' with uncommitted changes' if record.dirty else ''}"
        for record in records
        if record.commit
    )
    torches = sorted({record.versions["torch"] for record in records if "torch" in record.versions})
    devices = sorted({record.device for record in records})
    days = sorted({record.started[:10] for record in records})
    parts = []
    if commits:
        parts.append(f"commit {listing(sorted(commits))}")
    if torches:
        parts.append(f"torch {listing(torches)}")
    if devices:
        parts.append(f"on {listing(devices)}")
    if days:
        parts.append(days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}")
    if stages:
        together = duration(sum(record.wall_s for record in records))
        parts.append(f"{counted(len(stages), 'stage')}, {together} of stage time")
    return " · ".join(parts)


def _private(pictures: Sequence[Picture]) -> tuple[Badge, ...]:
    shown = sorted({picture.private for picture in pictures} - {""}, reverse=True)
    if not shown:
        return ()
    detail = "Figures show them here: do not publish or pass on this report. Without --pictures they are left out."
    return (Badge("private", (f"{listing(shown)}: keep these pages to yourself",), detail),)


def _badges(cases: Sequence[Case], pictures: Sequence[Picture]) -> tuple[Badge, ...]:
    badges = []
    total = len(cases)
    drawn = [case for case in cases if case.identity.on_stand_ins]
    if not cases and any(picture.identity.on_stand_ins for picture in pictures):
        detail = "The figures show what networks make of pedestrians drawn by a program."
        badges.append(Badge("stand-in", ("stand-in data: not comparable with the paper",), detail))
    if drawn:
        share = "All results here were" if len(drawn) == total else f"{len(drawn)} of {total} cases were"
        badges.append(
            Badge(
                "stand-in",
                ("stand-in data: not comparable with the paper",),
                f"{share} measured on pedestrians drawn by a program. They show whether the methods run and how they "
                "rank among themselves; the papers' numbers belong to photographs.",
            )
        )
    folders = {folder.text for case in cases for folder in case.identity.folders}
    if folders:
        detail = "The images are real, but the paper's numbers belong to another data set."
        badges.append(Badge("folder", tuple(sorted(folders)), detail))
    rest = [case for case in cases if not case.identity.on_stand_ins and not case.identity.folders]
    reasons = Counter(", ".join(case.reasons) for case in rest if case.verdict.word == "not comparable")
    badges += [
        Badge(
            "partial",
            (f"{reason or 'other conditions'}: not comparable with the paper",),
            f"{counted(number, 'case')} of {total}.",
        )
        for reason, number in sorted(reasons.items())
    ]
    compared = sum(case.comparable for case in rest)
    if compared:
        share = "All cases are" if compared == total else f"{compared} of {total} cases are"
        detail = f"{share} set beside the printed numbers."
        badges.append(Badge("compared", ("published data: compared with the paper",), detail))
    return tuple(badges)


def _cells(papers: Sequence[Paper]) -> str:
    """Count the papers' own printed numbers, and those with a measured one; none is measured on a user's folders."""
    measured = 0
    for paper in papers:
        cases = [case for table in paper.tables for case in table.cases if not case.identity.folders]
        names = ((case, name) for case in cases for numbers in case.measured.values() for name in numbers)
        measured += len(paper.own & {(case.table, case.row, case.column, name) for case, name in names})
    return f"{measured:,} of {sum(len(paper.own) for paper in papers):,}"


def _blocked(cases: Sequence[Case]) -> tuple[tuple[str, tuple[Case, ...]], ...]:
    grouped: dict[str, list[Case]] = {}
    for case in cases:
        if case.verdict.word.startswith("blocked"):
            why = "; ".join(case.reasons) or case.verdict.meaning
            grouped.setdefault(f"{case.verdict.word}: {why}", []).append(case)
    return tuple((why, tuple(members)) for why, members in sorted(grouped.items()))


def _files(commands: Iterable[tuple[str, str]]) -> str:
    """Name the files of the suites that cases were run from, given their papers and commands, for a command line."""
    files: dict[str, str] = {}
    for paper, command in commands:
        found = re.match(r"pytest '([^']+?)::", command)
        files[paper] = found[1] if found else files.get(paper, f"suites/test_{paper}.py")
    return " ".join(shlex.quote(files[paper]) for paper in sorted(files))


def _next(cases: Sequence[Case], drawn: Sequence[tuple[str, Picture]]) -> Step:
    """Suggest the most useful next command, after cases and after figures."""
    undrawn = next((picture for _, picture in drawn if picture.error and picture.command), None)
    if undrawn and not any(case.verdict.word == "error" and case.command for case in cases):
        return Step("Run again the figure that failed; finished stages are kept.", undrawn.command)
    if not cases and drawn:
        suites = _files([(paper, picture.command) for paper, picture in drawn])
        return Step("A figure shows a few images. Measure the rows that it shows.", f"pytest {suites} --scale small")
    if not cases:
        return Step("Run the cases of one task on drawn images.", "pytest suites/ -k m2d --scale small")
    suites = _files([(case.paper, case.command) for case in cases])
    known = {domain.partition(" ")[0] for case in cases for domain in case.identity.data} & CATALOGUE.keys()
    domains = sorted(known) or ["duke", "market"]
    folders = " ".join(f"--domain {domain}=DIR" for domain in domains)
    on_paper = f"pytest {suites} {folders} --weights DIR --scale paper --seeds 1,2,3"
    words = {case.verdict.word for case in cases}
    failed = next((case for case in cases if case.verdict.word == "error" and case.command), None)
    if failed:
        return Step("Run again what failed; finished stages are kept.", failed.command)
    drifted = next((case for case in cases if case.verdict.word == "drifted" and case.command), None)
    if drifted:
        return Step("This one drifted from its recorded result: run it alone.", drifted.command)
    if "blocked(data)" in words:
        return Step("Name the folders of the data sets that are missing.", on_paper)
    if "blocked(weights)" in words:
        return Step("Name the folder of the weights that the paper starts from.", on_paper)
    compared = [case for case in cases if case.comparable]
    if not compared:
        if all(case.identity.scale == "smoke" for case in cases):
            why = "This showed that everything runs. Train long enough for the rows to mean something."
            return Step(why, f"pytest {suites} --scale small --seeds 1,2,3")
        if any(case.identity.on_stand_ins and len(case.measured) < 3 for case in cases):
            return Step(
                "See how much the numbers move from seed to seed.", f"pytest {suites} --scale small --seeds 1,2,3"
            )
        return Step("Compare with the paper: name the folders of the published data sets and weights.", on_paper)
    if any(len(case.measured) < 3 for case in compared):
        return Step("One or two seeds cannot tell a difference from chance. Run three.", on_paper)
    return Step("Keep these results beside the code.", "reproduce results --record")
