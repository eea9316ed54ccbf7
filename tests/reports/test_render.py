"""Pages of results: what is compared, what is escaped, where links lead, what a reader without colour gets."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
import random
import re
import time
import tomllib
from html.parser import HTMLParser
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest
from made import SWEEP

from reports import cli, curves, pages, words
from reports import render as rendering
from reports.cases import Case
from reports.identity import Identity, data_words
from reports.readme import readme_table, update_readme
from reports.templating import environment
from reproduce.errors import UserError
from reproduce.papers import records
from reproduce.papers.records import read as load
from reproduce.papers.tables import parse

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TOML = """
paper = "msplr"
title = "Learn by Guessing: Multi-Step Pseudo-Label Refinement for Person Re-Identification"
authors = "T. Pereira and T. E. de Campos"
venue = "VISAPP 2022"

[[table]]
id = "1"
where = "page 6"
checked = "twice"
caption = "The method between supervised training on the target (expected above) and direct transfer (expected below)."
columns = [{id = "m2d", label = "Market-1501 -> DukeMTMC-reID"}, {id = "d2m", label = "DukeMTMC-reID -> Market-1501"}]
metrics = ["rank1", "rank5", "rank10", "mAP"]
note = "Percentages with one decimal, as printed."

[[table.row]]
id = "supervised"
label = "Supervised"
executed = "yes"
m2d = [82.4, 92.0, 94.5, 68.8]
d2m = [91.2, 92.0, 98.4, 79.2]
runs = {m2d = "d2d", d2m = "m2m"}
note = "Rank-5 on Market-1501 lies suspiciously close to rank-1; it is kept as printed."

[[table.row]]
id = "direct"
label = "Direct Transfer"
executed = "yes"
band = 3.0
band_why = "nothing ties it to the target"
m2d = [44.7, 60.7, 66.4, 27.3]
d2m = [58.9, 74.3, 80.1, 29.0]

[[table.row]]
id = "ours"
label = "Ours"
executed = "yes"
m2d = [82.7, 90.5, 93.5, 69.3]
d2m = [89.1, 95.8, 97.2, 73.6]

[[table]]
id = "2"
where = "section 4.3"
checked = "transcribed twice and compared"
caption = "Against published methods of unsupervised domain adaptation."
columns = [{id = "m2d", label = "Market-1501 -> DukeMTMC-reID"}, {id = "d2m", label = "DukeMTMC-reID -> Market-1501"}]
metrics = ["rank1", "rank5", "rank10", "mAP"]

[[table.row]]
id = "past"
label = "PCB-PAST (Zhang et al., 2019)"
executed = "no"
m2d = [72.4, "-", "-", 54.3]
d2m = [78.4, "-", "-", 54.6]

[[table.row]]
id = "mmt"
label = "MMT (Ge et al., 2020)"
executed = "no"
m2d = [79.3, 89.1, 92.4, 65.7]
d2m = [90.9, 96.4, 97.9, 76.5]
note = "The quoted numbers are those of the IBN-ResNet-50 variant."

[[table.row]]
id = "ours"
label = "Ours"
executed = "yes"
m2d = [82.7, 90.5, 93.5, 69.3]
d2m = [89.1, 95.8, 97.2, 73.6]

[[table.row]]
id = "rr"
label = "Ours + RR"
executed = "unsure"
m2d = [84.8, 90.8, 93.2, 81.2]
d2m = [92.0, 95.3, 96.6, 88.1]

[[table]]
id = "3"
where = "page 7"
checked = "twice"
caption = "Parts of the method, added one by one."
columns = [{id = "m2d", label = "M -> D"}]
metrics = ["rank1", "mAP"]
row = []
"""
MSPLR = tomllib.loads(TOML)
PAPERS = {"msplr": parse(MSPLR, "msplr.toml")}

STAND_IN = {
    "kind": "stand-in",
    "world": 1,
    "seed": 1,
    "size": {"train_ids": 120, "test_ids": 60, "height": 64, "width": 32},
}
DIALS = {"pose": 1.0, "detection": 1.0, "occlusion": 1.0, "illumination": 1.0, "camera": 1.0}
STAND_INS = {name: {**STAND_IN, "dials": DIALS} for name in ("market", "duke")}
PUBLISHED = {name: {"kind": "real", "digest": hashlib.sha256(name.encode()).hexdigest()} for name in ("market", "duke")}
OMNIGLOT = {
    name: {**entry, "kind": "folder", "folder": folder}
    for (name, entry), folder in zip(PUBLISHED.items(), ("greek_latin_etc", "japanese_sanskrit_tagalog"), strict=True)
}
HOSTILE = """<script>alert("1 & 2")</script> | 'quoted' `code` *star*"""
MEANS = {"supervised": (71.4, 84.9), "direct": (21.8, 30.2), "ours": (48.3, 59.0)}
DEVIATIONS = [
    "The paper gives no input size; 256 x 128 from Luo et al. is used.",
    "BN groups of 16 images (`bn_group=16`) instead of a batch spread over four GPUs.",
]


def key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def provenance(seconds: float, **more: object) -> dict[str, Any]:
    return {
        "commit": "3f2c9a1b7d5e4f60812233445566778899aabbcc",
        "dirty": False,
        "versions": {"python": "3.11.9", "torch": "2.15.0", "torchvision": "0.30.0", "numpy": "2.4.1"},
        "host": {"cpu": "AMD EPYC 9R14"},
        "device": "cpu",
        "threads": 1,
        "started": "2026-03-02T09:14:07+00:00",
        "wall_s": seconds,
        "device_s": round(seconds * 0.98, 3),
        "resumed": False,
        "seed": None,
        "data": {},
        **more,
    }


def training(row: str, column: str, seed: int, epochs: int = 60, unit: str = "step") -> dict[str, Any]:
    draw = random.Random(f"{row} {column} {seed}")
    top = MEANS[row][0]
    history = []
    for epoch in range(1, epochs + 1):
        progress = 1 - math.exp(-epoch / (epochs / 4))
        entry: dict[str, float] = {unit: epoch, "loss": 0.35 + 5.6 * (1 - progress) + draw.gauss(0, 0.05)}
        if epoch % 5 == 0:
            entry["mAP"] = max(0.5, top * progress + draw.gauss(0, 0.6))
        if row == "ours":
            entry |= {"clusters": round(40 + 80 * progress), "outliers": round(900 * (1 - progress) + 60)}
        entry["images_per_s"] = 900.0 + draw.gauss(0, 20)
        history.append(entry)
    spec = {
        "type": "methods.supervised.Train",
        "version": 1,
        "domain": {"stage": "standins.StandIn", "key": key(column)},
        "seed": seed,
        "epochs": epochs,
        "batch": {"P": 16, "K": 4},
        "backbone": "narrow_ibn_a",
        "bn_group": None,
        "lr": 3.5e-4,
        "milestones": [20, 35],
        "augment": {"type": "reproduce.data.transforms.Augment", "flip": 0.5, "pad": 2, "erase": None},
    }
    return {
        "key": key(row, column, seed),
        "name": "supervised.Train",
        "label": f"supervised.Train {column[-1]}, seed {seed}",
        "kind": f"supervised.Train {column[-1]}",
        "seed": seed,
        "spec": spec,
        "provenance": provenance(31.2 + seed, seed=seed, data={"market": "9a" * 32}),
        "history": history,
    }


def evaluation(row: str, column: str, seed: int) -> dict[str, Any]:
    spec = {
        "type": "reproduce.evaluation.Evaluate",
        "version": 1,
        "train": {"stage": "supervised.Train", "key": key(row, column, seed)},
        "at": "last",
        "flip": False,
    }
    return {
        "key": key("eval", row, column, seed),
        "name": "evaluation.Evaluate",
        "label": "evaluation.Evaluate",
        "kind": "evaluation.Evaluate",
        "seed": None,
        "spec": spec,
        "provenance": provenance(1.4),
        "history": [],
    }


def result(row: str, column: str, *, paper: str = "msplr", table: str = "1", **changes: Any) -> dict[str, Any]:
    """A measured case on stand-ins, changed at will; `measured_like` moves the numbers."""
    level, top = changes.pop("measured_like", MEANS.get(row, (40.0, 50.0)))
    seeds = changes.pop("seeds", (1, 2, 3))
    epochs = changes.pop("epochs", 60)
    draw = random.Random(f"{paper} {table} {row} {column}")
    measured = {
        str(seed): {
            "mAP": level + draw.gauss(0, 0.5),
            "rank1": top + draw.gauss(0, 0.7),
            "rank5": min(98.0, top + 9) + draw.gauss(0, 0.4),
            "rank10": min(99.0, top + 13) + draw.gauss(0, 0.2),
            "mINP": level / 2 + draw.gauss(0, 0.5),
            "queries": 360,
            "unmatched": 2,
        }
        for seed in seeds
    }
    printed_row: dict[str, Any] = next(
        (r for t in MSPLR["table"] if t["id"] == table for r in t.get("row", ()) if r["id"] == row), {}
    )
    printed = dict(zip(("rank1", "rank5", "rank10", "mAP"), printed_row.get(column, ()), strict=False))
    task = printed_row.get("runs", {}).get(column, column)
    curve = row if row in MEANS else "direct"
    made = {
        "format": 1,
        "case": {
            "paper": paper,
            "table": table,
            "row": row,
            "label": printed_row.get("label", row),
            "column": column,
            "task": task,
        },
        "identity": {
            "scale": "small",
            "data": copy.deepcopy(STAND_INS),
            "weights": "scratch",
            "selection": "last",
            "bn_group": None,
            "subset": None,
        },
        "printed": {name: value for name, value in printed.items() if value != "-"},
        "band": printed_row.get("band", 2.0),
        "measured": measured,
        "verdict": "not comparable",
        "reasons": ["stand-in data", "scale small"],
        "deviations": list(DEVIATIONS),
        "stages": [
            stage
            for seed in seeds
            for stage in (training(curve, column, seed, epochs), evaluation(curve, column, seed))
        ],
        "command": f"pytest 'suites/test_{paper}.py::test_table{table}[{column}-{row}]' --scale small --seeds 1,2,3",
    }
    return made | changes


NOWHERE = {"scale": "paper", "data": {}, "weights": "", "selection": "last", "bn_group": None, "subset": None}


def kept(results: Iterable[Any]) -> list[Any]:
    """Records as the reader gives them."""
    return [records.parse(json.loads(json.dumps(each))) if isinstance(each, dict) else each for each in results]


def render(results: Iterable[Any], papers: Any, out: Path, **options: Any) -> tuple[Path, Path]:
    return rendering.render(kept(results), papers, out, **options)


def case_of(result: dict[str, Any]) -> Case:
    return Case(*kept([result]))


def page_of(results: Iterable[Any], papers: Any, title: str) -> pages.Page:
    return pages.page(kept(results), papers, title)


def table_of(results: Iterable[Any], papers: Any) -> str:
    return readme_table(kept(results), papers)


def unmeasured(row: str, column: str, verdict: str, **changes: Any) -> dict[str, Any]:
    return result(row, column, measured={}, stages=[], verdict=verdict, **changes)


def failed(row: str = "ours", column: str = "d2m", **changes: Any) -> dict[str, Any]:
    """A case that ended with an error on stand-ins."""
    tail = "step 41: loss 2.113\nstep 42: loss nan\nTraceback (most recent call last):\n  ...\nDiverged: loss is nan"
    message = "loss is nan at step 42 of msplr.Adapt: training diverged; lower its lr or look at its input images"
    settings = {"reasons": [], "error": message, "log_tail": tail} | changes
    return unmeasured(row, column, "error", **settings)


def on_paper(row: str, column: str, verdict: str, **changes: Any) -> dict[str, Any]:
    """A case on the published data at paper scale."""
    identity = {
        "scale": "paper",
        "data": copy.deepcopy(PUBLISHED),
        "weights": "imagenet",
        "selection": "best on target",
        "bn_group": 16,
        "subset": None,
    }
    settings: dict[str, Any] = {"identity": identity, "verdict": verdict, "reasons": []}
    return result(row, column, **settings | changes)


def in_another_world(row: str, column: str) -> dict[str, Any]:
    made = result(row, column)
    for entry in made["identity"]["data"].values():
        entry["seed"] = 2
    return made


def stand_ins() -> list[dict[str, Any]]:
    """MSPLR's Table 1 on stand-ins at small: four measured cases, one that is adapted, one error."""
    return [
        *(result(row, column) for row in ("supervised", "direct") for column in ("m2d", "d2m")),
        result("ours", "m2d"),
        failed(),
    ]


def comparable() -> list[dict[str, Any]]:
    """Published data at paper scale with every kind of verdict."""
    return [
        on_paper("supervised", "m2d", "reproduced", measured_like=(68.5, 82.0)),
        on_paper("supervised", "d2m", "consistent", measured_like=(79.6, 91.5), seeds=(1,)),
        on_paper("direct", "m2d", "above", measured_like=(31.9, 50.1)),
        on_paper("direct", "d2m", "below", measured_like=(24.4, 51.5)),
        on_paper("ours", "m2d", "collapsed", measured_like=(1.9, 4.2)),
        unmeasured("ours", "d2m", "blocked(data)", identity=NOWHERE, reasons=["DukeMTMC-reID was not found"]),
        on_paper("ours", "m2d", "reproduced", table="2", measured_like=(69.1, 82.5)),
        unmeasured("ours", "d2m", "blocked(weights)", table="2", identity=NOWHERE, reasons=["no IBN-a weights"]),
    ]


def omniglot() -> list[dict[str, Any]]:
    """A pair of real folders in Market's layout that are not the published sets."""
    identity = {
        "scale": "small",
        "data": copy.deepcopy(OMNIGLOT),
        "weights": "scratch",
        "selection": "last",
        "bn_group": None,
        "subset": None,
    }
    reasons = ["a folder that was not checked against the published data set", "scale small"]
    return [
        result(row, column, identity=identity, reasons=reasons, measured_like=(38.0, 61.0))
        for row in ("supervised", "direct")
        for column in ("m2d", "d2m")
    ]


class Reader(HTMLParser):
    """Collects what the tests ask of a page, and checks that its elements close in order."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.cells: list[tuple[str, str]] = []
        """(classes of the cell and of its row, text) of every td."""
        self._row = self._cell = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self._row = attributes.get("class") or ""
        if tag == "td":
            self.cells.append((f"{self._row} {attributes.get('class') or ''}", ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.open), data))
        if "td" in self.open:
            classes, text = self.cells[-1]
            self.cells[-1] = classes, text + data

    @property
    def text(self) -> str:
        return " ".join("".join(text for path, text in self.texts if "style" not in path).split())

    @property
    def body(self) -> str:
        """The text without the explanations at the end."""
        kept = (text for path, text in self.texts if "style" not in path and "footer" not in path)
        return " ".join("".join(kept).split())

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


def read(*pages: Path) -> Reader:
    """Parse pages, one after the other."""
    reader = Reader()
    for page in pages:
        reader.feed(page.read_text(encoding="utf-8"))
        assert not reader.open
    reader.close()
    return reader


def every(index: Path) -> list[Path]:
    """All HTML pages of a report, the first one first."""
    return [index, *sorted(path for path in index.parent.rglob("*.html") if path != index)]


def shown(tmp_path: Path, results: list[dict[str, Any]], **options: Any) -> tuple[Reader, str]:
    """All HTML pages, parsed as one, and the Markdown page."""
    html, markdown = render(results, PAPERS, tmp_path, **options)
    return read(*every(html)), markdown.read_text(encoding="utf-8")


def paper_page(tmp_path: Path, results: list[dict[str, Any]], papers: Any = PAPERS) -> str:
    """The source of MSPLR's page."""
    return (render(results, papers, tmp_path)[0].parent / "msplr.html").read_text(encoding="utf-8")


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Every table of a Markdown text, as rows of cells; fails on a row of another width."""
    tables: list[list[list[str]]] = []
    previous = ""
    for line in text.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            if not previous.startswith("|"):
                tables.append([])
            tables[-1].append([cell.strip() for cell in cells])
        previous = line
    for table in tables:
        assert len({len(row) for row in table}) == 1, table
        assert all(re.fullmatch(r":?-+:?", cell) for cell in table[1]), table[1]
    return tables


ON_PAPER = "pytest suites/test_msplr.py --domain duke=DIR --domain market=DIR --weights DIR --scale paper --seeds 1,2,3"
ALL = [stand_ins, comparable, omniglot]


@pytest.mark.parametrize("make", ALL)
def test_pages_are_sound_html(make: Any, tmp_path: Path) -> None:
    html, _ = render(make(), PAPERS, tmp_path)
    for page in every(html):
        reader = read(page)
        ids = reader.attributes("id")
        assert len(ids) == len(set(ids))
        assert {name for value in reader.attributes("aria-labelledby") for name in value.split()} <= set(ids)
        assert reader.count("h1") == 1
        assert reader.count("table") == reader.count("caption")
        headings = [attributes for tag, attributes in reader.tags if tag == "th"]
        assert all(attributes.get("scope") in {"row", "col", "rowgroup", "colgroup"} for attributes in headings)
        (script,) = re.findall(r"<script>(.*?)</script>", page.read_text(encoding="utf-8"), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in page.read_text(encoding="utf-8"), "browsers run no other script"


@pytest.mark.parametrize("make", ALL)
def test_pages_need_no_network(make: Any, tmp_path: Path) -> None:
    html, _ = render(make(), PAPERS, tmp_path)
    for page in every(html):
        reader = read(page)
        for name in ("src", "data", "action", "poster", "srcset", "xlink:href"):
            assert not reader.attributes(name)
        text = page.read_text(encoding="utf-8")
        assert "@import" not in text
        assert "url(" not in text
        assert "//" not in text.split("</style>")[0]


@pytest.mark.parametrize("make", ALL)
def test_links_lead_to_what_is_there_and_every_page_is_reached(make: Any, tmp_path: Path) -> None:
    html, _ = render(make(), PAPERS, tmp_path)
    ids = {page: set(read(page).attributes("id")) for page in every(html)}
    reached, waiting = {html}, [html]
    while waiting:
        page = waiting.pop()
        for link in read(page).attributes("href"):
            file, _, anchor = link.partition("#")
            if link.startswith("data:"):
                continue
            target = (page.parent / file).resolve() if file else page
            if target.suffix == ".json":
                assert target.name == page.with_suffix(".json").name
                records.parse(json.loads(target.read_text(encoding="utf-8")))
                continue
            assert target in ids, link
            assert not anchor or anchor in ids[target], link
            if target not in reached:
                reached.add(target)
                waiting.append(target)
    assert reached == set(ids)
    cases = {attributes for attributes in read(html.parent / "msplr.html").attributes("href") if "cases/" in attributes}
    assert len(cases) == len(make()) == len(list(html.parent.glob("cases/*.html")))


def test_rows_of_a_table_all_have_the_same_width(tmp_path: Path) -> None:
    for make in ALL:
        html, _ = render(make(), PAPERS, tmp_path)
        text = "".join(page.read_text(encoding="utf-8") for page in every(html))
        for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
            widths = set()
            below: dict[int, int] = {}
            for place, row in enumerate(re.findall(r"<tr.*?</tr>", table, re.DOTALL)):
                width = below.pop(place, 0)
                for cell in re.findall(r"<t[hd][^>]*>", row):
                    across = int((re.search(r'colspan="(\d+)"', cell) or ["", "1"])[1])
                    down = int((re.search(r'rowspan="(\d+)"', cell) or ["", "1"])[1])
                    width += across
                    for further in range(1, down):
                        below[place + further] = below.get(place + further, 0) + across
                widths.add(width)
            assert len(widths) == 1, table
            assert not below


def test_stand_ins_show_a_badge_and_no_comparison(tmp_path: Path) -> None:
    reader, markdown = shown(tmp_path, stand_ins())
    assert "stand-in data: not comparable with the paper" in reader.text
    assert "**stand-in data: not comparable with the paper**" in markdown
    assert not [cells for cells in reader.cells if "gap" in cells[0].split()]
    tones = {"good", "high", "low"}
    assert not [cells for cells in reader.cells if tones & set(cells[0].split())]
    body = reader.body
    for word in ("difference", "reproduced", "consistent", "judged against"):
        assert word not in body.replace("no difference is drawn", "")
    assert "difference" not in markdown.split("## How to read this")[0]


def test_stand_ins_never_compare_whatever_the_record_says(tmp_path: Path) -> None:
    for verdict in ("reproduced", "above", "below", "consistent", "inconclusive", "collapsed"):
        case = case_of(result("direct", "m2d", verdict=verdict, reasons=[]))
        assert not case.comparable
        assert case.verdict.word == ("collapsed" if verdict == "collapsed" else "not comparable")
    reader, _ = shown(tmp_path, [result("direct", "m2d", verdict="reproduced", reasons=[])])
    assert "✓ reproduced" not in reader.body


def test_an_inconclusive_row_needs_a_look(tmp_path: Path) -> None:
    reader, markdown = shown(tmp_path, [on_paper("supervised", "d2m", "inconclusive", seeds=(1,))])
    for text in (reader.text, markdown):
        assert "? inconclusive" in text
    (trouble,) = page_of([on_paper("supervised", "d2m", "inconclusive", seeds=(1,))], PAPERS, "x").attention
    assert "printed" in trouble.why


def test_other_scales_and_subsets_never_compare() -> None:
    for name, value in (("scale", "medium"), ("subset", 100), ("precision", "mixed")):
        changed = on_paper("direct", "m2d", "reproduced")
        changed["identity"][name] = value
        assert not case_of(changed).comparable
    assert case_of(on_paper("direct", "m2d", "reproduced")).comparable


def test_numbers_by_the_target_s_statistics_stand_under_the_table(tmp_path: Path) -> None:
    """They adapt, so no row shows them, and a row that lacks them is not named."""
    made = [result(row, "m2d", table="1") for row in ("direct", "ours")]
    for seed, numbers in made[1]["measured"].items():
        numbers["renewed"] = 60.0 + int(seed)
    (found,) = page_of(made, PAPERS, "x").papers[0].tables[0].settings[0].renewed
    assert (found.row, found.renewed.text) == ("Ours", "62.0 ± 1.0")
    reader, markdown = shown(tmp_path, made)
    for text in (reader.text, markdown):
        assert "which adapts and is not judged" in text
        assert text.count("as trained") == 1
        assert re.search(r"target\u2019s statistics.{,60}Ours.{,60}62\.0 ± 1\.0", text, re.DOTALL)
        assert text.count("62.0 ± 1.0") == 1


def test_another_world_lists_only_what_was_run(tmp_path: Path) -> None:
    other_world = in_another_world("direct", "m2d")
    one, two = (
        [row.label for row in setting.executed]
        for setting in page_of([*stand_ins(), other_world], PAPERS, "x").papers[0].tables[0].settings
    )
    assert set(two) < set(one)
    assert two == ["Direct Transfer"]


def test_precisions_share_no_grid(tmp_path: Path) -> None:
    mixed = result("ours", "m2d")
    mixed["identity"]["precision"] = "mixed"
    reader, _ = shown(tmp_path, [result("direct", "m2d"), mixed])
    assert reader.text.count("Printed in the paper, on its own data") == 1
    assert "mixed precision, weights scratch" in reader.text
    assert reader.text.count("Measured here") == 2


def test_printed_stands_apart_on_stand_ins_and_beside_on_published_data(tmp_path: Path) -> None:
    apart, _ = shown(tmp_path / "a", stand_ins())
    assert "Printed in the paper, on its own data" in apart.text
    beside, _ = shown(tmp_path / "b", comparable())
    assert "Printed in the paper, on its own data" not in beside.text
    assert "44.7" in apart.text
    assert "44.7" in beside.text


def test_comparable_data_show_difference_and_verdict_words(tmp_path: Path) -> None:
    reader, markdown = shown(tmp_path, comparable())
    body = reader.body
    for word in (
        "✓ reproduced",
        "≈ consistent",
        "▲ above",
        "▼ below",
        "✕ collapsed",
        "⊘ blocked(data)",
        "⊘ blocked(weights)",
    ):
        assert word in body
        assert word in markdown
    case = case_of(comparable()[0])
    spread = case.spread("mAP")
    assert spread is not None
    gap = words.difference(spread.mean, 68.8)
    assert [text for classes, text in reader.cells if "gap" in classes.split()].count(gap) >= 1
    assert spread.text in reader.text
    assert f"**{spread.text}**" in markdown
    assert "published data: compared with the paper" in body
    assert body.count("n = 3, band ±3.0") == 2
    assert "transcribed twice and compared" in body
    assert "section 4.3" in body
    assert "stand-in data: not comparable" not in body


def test_folder_of_the_user_says_so(tmp_path: Path) -> None:
    reader, markdown = shown(tmp_path, omniglot())
    digest = str(PUBLISHED["market"]["digest"])[:12]
    assert f"data: folder greek_latin_etc (digest {digest}) – not the published set" in reader.text
    assert f"**data: folder greek_latin_etc (digest {digest}) – not the published set**" in markdown
    assert not [cells for cells in reader.cells if "gap" in cells[0].split()]
    assert "folder greek_latin_etc" in case_of(omniglot()[0]).data_lines[1].facts
    assert case_of(omniglot()[0]).identity.kinds == {"duke": "folder", "market": "folder"}
    assert not case_of(omniglot()[0] | {"verdict": "reproduced", "reasons": []}).comparable


def test_titles_name_the_users_folders(tmp_path: Path) -> None:
    reader, markdown = shown(tmp_path, omniglot())
    text = (tmp_path / "report" / "msplr.html").read_text(encoding="utf-8")
    heads = re.findall(r'<th scope="colgroup"[^>]*>(.*?)</th>', text)
    assert heads == ["greek_latin_etc → japanese_sanskrit_tagalog", "japanese_sanskrit_tagalog → greek_latin_etc"]
    assert "on its own data (Market-1501 → DukeMTMC-reID; DukeMTMC-reID → Market-1501)" in text
    assert "greek_latin_etc as market and japanese_sanskrit_tagalog as duke" in reader.text
    assert "`m2d` greek_latin_etc → japanese_sanskrit_tagalog; `d2m` japanese_sanskrit_tagalog →" in markdown
    for case in (tmp_path / "report" / "cases").iterdir():
        assert "Market-1501 →" not in case.read_text(encoding="utf-8")
    assert "printed cells measured</dt><dd>0 of 40<" in text, "none is measured on a folder of one's own"


def test_quoted_and_unmeasured_rows(tmp_path: Path) -> None:
    text = paper_page(tmp_path, comparable())
    quoted = re.findall(r'<tr class="quoted"><th[^>]*>PCB-PAST \(Zhang et al\., 2019\)</th>.*?</tr>', text, re.DOTALL)
    assert [re.findall(r'<td class="first printed">(.*?)</td>', line) for line in quoted] == [
        ["54.3", "72.4", "–", "–"],
        ["54.6", "78.4", "–", "–"],
    ]
    assert all('judged">quoted</td>' in line for line in quoted)
    assert re.search(r'<tr class="dim"><th[^>]*>Ours \+ RR<sup.*?judged">not run</td>', text, re.DOTALL)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| *PCB-PAST (Zhang et al., 2019)* | quoted | 72.4 | – | – | 54.3 |" in markdown


def test_case_without_printed_numbers(tmp_path: Path) -> None:
    bare = on_paper("past", "m2d", "consistent", table="2")
    bare["printed"] = {}
    raw = copy.deepcopy(MSPLR)
    raw["table"][1]["row"][0]["m2d"] = ["-", "-", "-", "-"]
    papers = {"msplr": parse(raw, "x")}
    text = paper_page(tmp_path, [bare], papers)
    assert re.search(r'<td class="gap good">–</td>', text)


def test_everything_is_escaped(tmp_path: Path) -> None:
    hostile = result(
        "direct",
        "m2d",
        reasons=[HOSTILE],
        deviations=[HOSTILE],
        command=f"pytest '{HOSTILE}'",
        error=HOSTILE,
        log_tail=HOSTILE + "\n```\n| a |",
    )
    hostile["case"] |= {"label": HOSTILE}
    hostile["identity"]["weights"] = HOSTILE
    hostile["identity"]["data"]["<b>"] = {"kind": HOSTILE, "digest": HOSTILE}
    hostile["stages"][0] |= {"name": HOSTILE}
    hostile["stages"][0]["spec"] = {HOSTILE: HOSTILE}
    hostile["stages"][0]["provenance"] |= {"device": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    hostile["stages"][0]["history"] = [{"epoch": 1, HOSTILE: 2.0}, {"epoch": 2, HOSTILE: 3.0}]
    raw = copy.deepcopy(MSPLR) | {"title": HOSTILE, "authors": HOSTILE, "venue": HOSTILE}
    raw["table"][0] |= {"caption": HOSTILE, "note": HOSTILE}
    raw["table"][0]["columns"][0]["label"] = HOSTILE
    raw["table"][0]["row"][1] |= {"label": HOSTILE, "note": HOSTILE}
    papers = {"msplr": parse(raw, "x")}
    html, markdown = render([hostile], papers, tmp_path, title=HOSTILE)
    source = "".join(page.read_text(encoding="utf-8") for page in every(html))
    assert "<script>alert" not in source
    assert "<i>" not in source
    assert "<b>" not in source
    reader = read(*every(html))
    for tag in ("h1", "td", "th", "pre", "li", "title", "a", "caption"):
        assert any(tag in path and 'alert("1 & 2")' in text for path, text in reader.texts), tag
    text = markdown.read_text(encoding="utf-8")
    outside = re.sub(r"^(```+).*?^\1$|(`+)[^`].*?\2(?!`)", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside
    markdown_tables(text)


@pytest.mark.parametrize("make", ALL)
def test_markdown_tables_are_well_formed(make: Any, tmp_path: Path) -> None:
    _, text = shown(tmp_path, make())
    tables = markdown_tables(text)
    assert tables
    assert "\n\n\n" not in text
    for before, line in pairwise(text.splitlines()):
        if line.startswith("|") and not before.startswith("|"):
            assert not before, "a table needs an empty line above it"
    for made in make():
        assert made["command"] in text


def test_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    results = stand_ins() + comparable() + omniglot()
    runs = {"a": results, "b": list(reversed(copy.deepcopy(results))), "c": results + results}
    for name, found in runs.items():
        render(found, PAPERS, tmp_path / name)
    first, again, doubled = (contents(tmp_path / name) for name in runs)
    assert first == again == doubled
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["report", "report.md"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pages_of_an_earlier_report_go_and_nothing_else_does(tmp_path: Path) -> None:
    html, _ = render(stand_ins(), PAPERS, tmp_path)
    other = html.parent / "cases" / "my-notes.html"
    other.write_text("mine")
    before = set(every(html))
    render(stand_ins()[:1], PAPERS, tmp_path)
    assert before - set(every(html)) == {page for page in before if "supervised-m2d" not in page.name} - {
        html,
        html.parent / "msplr.html",
        other,
    }
    render([], PAPERS, tmp_path)
    assert set(every(html)) == {html, other}


def test_names_of_pages_meet_no_other(tmp_path: Path) -> None:
    """Papers called like pages, rows that differ in signs alone, and long names each get a page of their own."""
    results = [result("direct", "m2d", paper=paper) for paper in ("index", "methods", "up..", "x" * 300)]
    results += [result(row, "m2d", paper="index") for row in ("a+b", "a-b", "a.b", "y" * 400)]
    html, _ = render(results, {}, tmp_path)
    assert len(list(html.parent.glob("cases/*.html"))) == len(results)
    assert len(list(html.parent.glob("*.html"))) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"report", "report.md"}


def test_runs_that_do_not_belong_together_get_their_own_table(tmp_path: Path) -> None:
    other_world = in_another_world("direct", "m2d")
    results = [*stand_ins(), other_world, *comparable()]
    page = page_of(results, PAPERS, "x")
    first = page.papers[0].tables[0]
    assert [setting.compared for setting in first.settings] == [True, False, False]
    assert "world seed 2" in first.settings[-1].title
    reader, markdown = shown(tmp_path / "all", results)
    assert "Printed in the paper" not in reader.text
    alone, alone_in_markdown = shown(tmp_path / "alone", [*stand_ins(), other_world])
    assert alone.text.count("Printed in the paper") == alone_in_markdown.count("Printed in the paper") == 1
    assert "stand-in data: not comparable with the paper" in reader.text
    assert "7 of 15 cases" in reader.text
    for where in ("scale small, stand-ins, world seed 2", "scale paper"):
        assert where in reader.text
        assert f"({where})" in markdown
    assert "The same case in other settings" in reader.text


def test_a_page_names_each_world_once_for_all_of_its_dials() -> None:
    def described(*worlds: tuple[int, str]) -> str:
        other = {"weights": "scratch", "selection": "last", "bn_group": None, "subset": None}
        data = [
            {"market": {**STAND_IN, "world": 4, "seed": seed, "dials": DIALS | ({dial: 0.0} if dial else {})}}
            for seed, dial in worlds
        ]
        return data_words([Identity(records.Identity(scale="small", data=each, **other)) for each in data])

    assert described((1, "")) == "drawn stand-ins for market (world 4, world seed 1)"
    assert described((1, ""), (2, ""), (1, "")) == "drawn stand-ins for market (world 4, world seeds 1 and 2)"
    assert described((1, ""), (1, "camera"), (1, "pose"), (2, "")) == (
        "drawn stand-ins for market (world 4, world seeds 1 and 2; "
        "world 4, world seed 1, camera dial at 0 or pose dial at 0)"
    )
    assert described((1, ""), (1, "pose")) == (
        "drawn stand-ins for market (world 4, world seed 1; world 4, world seed 1, pose dial at 0)"
    )


def test_cells_are_counted_once_and_against_the_authors_own_rows() -> None:
    page = page_of(stand_ins(), PAPERS, "x")
    assert page.whole.cells == "20 of 40"
    assert [(word.word, number) for word, number in page.whole.verdicts] == [("error", 1), ("not comparable", 5)]
    quoted = result("mmt", "m2d", table="2")
    assert page_of([*comparable()[6:], quoted], PAPERS, "x").whole.cells == "4 of 40"
    assert page_of([quoted], PAPERS, "x").whole.cells == "0 of 40"


def test_a_count_stands_on_the_line_of_its_verdict(tmp_path: Path) -> None:
    source = render(stand_ins(), PAPERS, tmp_path)[0].read_text(encoding="utf-8")
    assert '<td><span>1 <span class="verdict bad">' in source
    assert '<span>5 <span class="verdict plain">' in source
    assert ".overview td > :is(a, span) { white-space: nowrap; }" in source


def test_what_holds_for_some_rows_is_said_of_these_alone(tmp_path: Path) -> None:
    translated = result("ours", "m2d", reasons=["stand-in data", "scale small", "images made by x.Translated"])
    translated["identity"]["data"]["x.Translated"] = {"kind": "made", "by": "x.Translated"}
    results = [result("direct", "m2d"), translated, failed()]
    page = page_of(results, PAPERS, "x")
    [setting] = page.papers[0].tables[0].settings
    assert "made by" not in setting.title + page.whole.sentence
    said = "stand-in data, scale small, images made by x.Translated (only Ours)"
    assert setting.reasons == said
    for text in (paper_page(tmp_path, results), shown(tmp_path, results)[1], table_of(results, PAPERS)):
        assert said in text
        assert text.count("made by x.Translated (only Ours)") == 1
    [alone] = page_of([translated], PAPERS, "x").papers[0].tables[0].settings
    assert "images made by x.Translated" in alone.title
    assert alone.reasons.endswith("images made by x.Translated")


def test_a_point_of_a_sweep_is_named_by_its_figure(tmp_path: Path) -> None:
    """Nothing is printed for it, and its page leads to the figure, if that is drawn."""
    papers = {"msplr": parse(tomllib.loads(TOML + SWEEP.replace(": a", ": ours")), "msplr.toml")}

    def point(value: float, made: dict[str, Any]) -> dict[str, Any]:
        varied = {"label": f"Ours, p = {value:g}", "point": {"figure": "5", "parameter": "p", "value": value}}
        return made | {"case": made["case"] | varied, "printed": {}}

    broken = point(2.0, failed(column="m2d"))
    index, markdown = render([broken, point(1.0, result("ours", "m2d"))], papers, tmp_path / "drawn")
    for text in (read(index).text, markdown.read_text(encoding="utf-8")):
        assert "MSPLR, Figure 5: Ours, p = 2, Market-1501 → DukeMTMC-reID" in text
        assert "Table 1: Ours" not in text
    for page in (index.parent / "cases").glob("*.html"):
        assert 'href="../msplr.html#figure-5"' in page.read_text(encoding="utf-8")
        assert "82.7" not in read(page).text
    [page] = (render([broken], papers, tmp_path / "undrawn")[0].parent / "cases").glob("*.html")
    assert 'href="../msplr.html">MSPLR, Figure 5</a>' in page.read_text(encoding="utf-8")


GAINS = """
paper = "demo"
title = "A demonstration"
authors = "A. Nonymous"
venue = "Nowhere"
[[table]]
id = "2"
caption = "Gains."
where = "section 4"
checked = "by eye"
columns = [{ id = "m2d", label = "M -> D" }]
metrics = ["mAP", "mAP_gain"]
[[table.row]]
id = "after"
label = "U"
executed = "yes"
m2d = [40.0, "-"]
[[table.row]]
id = "before"
label = "D"
executed = "yes"
m2d = [30.0, "-"]
[[table.row]]
id = "gain"
label = "G"
executed = "yes"
gain = ["after", "before"]
m2d = ["-", 10.0]
"""


def test_a_gain_is_computed_from_its_parts_over_the_seeds_that_both_have() -> None:
    papers = {"demo": parse(tomllib.loads(GAINS), "demo.toml")}

    def part(row: str, **by_seed: float) -> dict[str, Any]:
        measured = {seed.lstrip("s"): {"mAP": value, "rank1": 9.0} for seed, value in by_seed.items()}
        return result(row, "m2d", paper="demo", table="2", measured=measured, stages=[])

    made = [part("after", s1=40.0, s2=44.0, s3=1.0), part("before", s1=30.0, s2=30.0, s4=9.0)]

    def gain_of(results: list[dict[str, Any]]) -> Any:
        [setting] = page_of(results, papers, "x").papers[0].tables[0].settings
        [row] = [row for row in setting.rows if row.label.startswith("G")]
        return row.cells[0].measured

    mAP, gain = gain_of(made)
    assert mAP is None
    assert (gain.mean, gain.sd, gain.n) == (12.0, pytest.approx(8**0.5), 2)
    assert gain_of(made[:1]) == ()
    assert gain_of([made[0], part("before", s4=9.0)]) == ()


def test_error_is_shown_with_its_log(tmp_path: Path) -> None:
    reader, markdown = shown(tmp_path, stand_ins())
    assert "loss is nan at step 42 of msplr.Adapt" in reader.text
    assert "loss is nan at step 42 of msplr.Adapt" in markdown
    logs = [text for path, text in reader.texts if path[-1:] == ("pre",) and "Traceback" in text]
    assert len(logs) == 1
    assert all("details" in path for path, text in reader.texts if "Traceback" in text)


def test_blocked_cases_are_listed_by_cause(tmp_path: Path) -> None:
    page = page_of(comparable(), PAPERS, "x")
    assert [(why, len(cases)) for why, cases in page.blocked] == [
        ("blocked(data): DukeMTMC-reID was not found", 1),
        ("blocked(weights): no IBN-a weights", 1),
    ]
    reader, _ = shown(tmp_path, comparable())
    assert "DukeMTMC-reID was not found" in reader.text


def test_details_of_a_case(tmp_path: Path) -> None:
    case = case_of(result("supervised", "m2d"))
    assert [line.seed for line in case.seed_lines] == ["1", "2", "3"]
    assert case.seed_lines[0].queries == "360"
    assert case.seed_lines[0].unmatched == "2"
    assert case.run_as == "d2d"
    assert [(group.title, group.seeds) for group in case.stage_groups] == [
        ("supervised.Train d", "1, 2, 3"),
        ("evaluation.Evaluate", ""),
    ]
    spec = dict(case.stage_groups[0].spec)
    assert spec["seed"] == "1 | 2 | 3"
    assert spec["batch.P"] == "16"
    assert spec["milestones"] == "20, 35"
    facts = dict(case.provenance)
    assert facts["commit"] == "3f2c9a1b7d5e"
    assert "torch 2.15.0" in facts["versions"]
    assert facts["host cpu"] == "AMD EPYC 9R14"
    reader, _ = shown(tmp_path, [result("supervised", "m2d")])
    plain = [text.replace("`", "") for text in DEVIATIONS]
    for text in (*plain, "comes from the task d2d", "mINP", "unmatched", "narrow_ibn_a", "world 1", "AMD EPYC 9R14"):
        assert text in reader.text
    assert any(path[-1:] == ("code",) and text == "bn_group=16" for path, text in reader.texts)


def test_uncommitted_changes_are_said() -> None:
    changed = result("direct", "m2d")
    changed["stages"][0]["provenance"]["dirty"] = True
    facts = dict(case_of(changed).provenance)
    assert facts["commit"] == "3f2c9a1b7d5e with uncommitted changes; 3f2c9a1b7d5e"
    assert "with uncommitted changes" in page_of([changed], PAPERS, "x").machine


def test_departures_are_listed_under_their_table(tmp_path: Path) -> None:
    results = [result("supervised", "m2d"), result("direct", "m2d", deviations=[DEVIATIONS[0], "Only here."])]
    (table,) = page_of(results, PAPERS, "x").papers[0].tables
    assert table.deviations == ((DEVIATIONS[0], ""), (DEVIATIONS[1], "Supervised"), ("Only here.", "Direct Transfer"))
    reader, markdown = shown(tmp_path, results)
    assert "Where the methods depart from their papers (3)" in reader.text
    assert "- Only here. (Direct Transfer)" in markdown


def test_a_correction_of_the_printed_number_is_said(tmp_path: Path) -> None:
    old = on_paper("direct", "m2d", "reproduced")
    old["printed"] |= {"mAP": 72.3}
    reader, _ = shown(tmp_path, [old])
    assert "corrected after this verdict: mAP 72.3, now 27.3" in reader.text


def test_colours_have_contrast(tmp_path: Path) -> None:
    text = render([], PAPERS, tmp_path)[0].read_text(encoding="utf-8")
    assert text.count("<style>") == 1

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    schemes = re.findall(r":root \{(.*?)\}", text, re.DOTALL)[:2]
    assert len(schemes) == 2
    pairs = [(name, ground) for name in ("ink", "soft", "link") for ground in ("paper", "sunk")]
    pairs += [(name, f"{name}-bg") for name in ("good", "high", "low", "bad", "badge")]
    pairs += [(name, "paper") for name in ("good", "high", "low", "bad", "plain")]
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", scheme))
        for front, back in pairs:
            dark, light = sorted((luminance(colours[front]), luminance(colours[back])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back)


def test_curves_have_axes_and_last_values(tmp_path: Path) -> None:
    reader, _ = shown(tmp_path, [result("ours", "m2d")])
    labels = [value for tag, attributes in reader.tags if tag == "svg" and (value := attributes.get("aria-label"))]
    assert [label.split(" over ")[0] for label in labels] == ["loss", "mAP", "clusters", "outliers"]
    assert all(text in reader.text for text in ("epoch", "60"))
    last = result("ours", "m2d")["stages"][0]["history"][-1]["mAP"]
    assert f"{last:.1f} (1)" in reader.text


def test_curve_geometry_stays_inside_and_labels_apart() -> None:
    histories = [
        (str(seed), [{"step": x, "loss": 5 / x, "mAP": 30.0 + seed / 50} for x in range(1, 400)]) for seed in (1, 2, 3)
    ]
    for panel in curves.panels(histories):
        for line in panel.lines:
            points = [tuple(map(float, pair.split())) for pair in line.path[1:].split("L")]
            assert len(points) <= curves.MOST_POINTS
            assert all(
                curves.LEFT <= x <= curves.PLOT_RIGHT and curves.TOP <= y <= curves.PLOT_BOTTOM for x, y in points
            )
        heights = sorted(label.y for label in panel.labels)
        assert all(low + 11 <= high for low, high in pairwise(heights))
        assert all(curves.TOP - 4 <= height <= curves.PLOT_BOTTOM + 1 for height in heights)
    assert [line.tint for line in curves.panels(histories)[0].lines] == [0, 1, 2], "seeds are tints of one colour"
    assert {line.dash for line in curves.panels(histories)[0].lines} == {"none"}


def test_points_tell_their_values_and_axes_begin_at_zero() -> None:
    histories = [("2", [{"epoch": x, "agreement": 0.9 + x / 1000} for x in range(1, 61)])]
    (panel,) = curves.panels(histories)
    assert panel.y_ticks[0].text == "0"
    marks = panel.lines[0].marks
    assert len(marks) == curves.MOST_MARKS
    assert (marks[0].text, marks[-1].text) == ("epoch 1: 0.901 (seed 2)", "epoch 60: 0.960 (seed 2)")
    assert [mark.shown for mark in marks] == [False] * (len(marks) - 1) + [True]
    ends = (curves.PLOT_BOTTOM - panel.y_ticks[-1].at) / float(panel.y_ticks[-1].text)
    assert marks[-1].y == pytest.approx(curves.PLOT_BOTTOM - 0.96 * ends, abs=0.1)


def test_a_series_of_one_point_is_a_table() -> None:
    (panel,) = curves.panels([("1", [{"epoch": 3, "mAP": 20.0}]), ("2", [{"epoch": 3, "mAP": 22.0}])])
    assert panel.values == (("1", "20.0"), ("2", "22.0"))
    assert "<svg" not in drawn_panel(panel)
    assert "at one epoch: 3" in drawn_panel(panel)
    (curve,) = curves.panels([("1", [{"epoch": 3, "mAP": 20.0}]), ("2", [{"epoch": x, "mAP": 2.0} for x in (3, 4)])])
    assert not curve.values


def drawn_panel(panel: curves.Panel) -> str:
    """The HTML of one panel."""
    module: Any = environment().get_template("parts.html.j2").module
    return str(module.curve(panel))


def test_direct_transfer_is_a_line_beside_the_training_that_starts_from_it() -> None:
    source = {"key": "source", "spec": {"type": "supervised.Train"}}
    direct = result("direct", "m2d", measured_like=(21.8, 30.2))
    test = {"train": {"stage": "supervised.Train", "key": "source"}}
    direct["stages"] = [bare(**source), bare(key="test", spec=test)]
    ours = result("ours", "m2d", measured_like=(48.3, 59.0))
    learned = [{"epoch": x, "mAP": 30.0 + x} for x in (1, 2, 3)]
    tested = {"train": {"stage": "msplr.Adapt", "key": "adapted"}}
    ours["stages"] = [bare(**source, history=learned), bare(key="adapted", history=learned), bare(key="x", spec=tested)]
    adapted, transferred = (case_in([direct, ours], row) for row in ("ours", "direct"))
    level = fmean(seed["mAP"] for seed in direct["measured"].values())
    assert adapted.direct["mAP"] == pytest.approx(level)
    assert transferred.direct == {}
    levels = [panel.level and panel.level.text for group in adapted.stage_groups for panel in group.learning]
    assert levels == [None, f"{level:.1f}"], "the source model's own curve is that of another data set"


@pytest.mark.parametrize(("saw", "shared"), [("target", True), ("other", False)])
def test_a_row_whose_own_start_is_untested_is_beside_that_of_its_table(saw: str, shared: bool) -> None:
    """Only where its training saw the images of the test: a source model may lie below the one that is tested."""
    place = {"key": "target", "stage": "standins.StandIn"}

    def test(of: str) -> dict[str, Any]:
        return bare(key=f"test {of}", spec={"on": place, "train": {"stage": "a training", "key": of}})

    def adapted(name: str, start: str, saw: str) -> list[dict[str, Any]]:
        return [bare(key=start), bare(key=name, spec={"target": place | {"key": saw}}), test(name)]

    direct, hard, own = (result(row, "m2d") for row in ("direct", "hard", "ours"))
    direct["stages"] = [bare(key="source"), test("source")]
    hard["stages"] = adapted("hard", "source", "target")
    own["stages"] = adapted("own", "source with attention", saw)
    cases = [case_in([direct, hard, own], name) for name in ("direct", "hard", "ours")]
    assert cases[0].direct == {}
    assert cases[1].direct
    assert cases[2].direct == (cases[1].direct if shared else {})


def bare(**changes: Any) -> dict[str, Any]:
    """A stage of a record with these values."""
    return {**copy.deepcopy(result("direct", "m2d")["stages"][0]), "history": [], "spec": {}} | changes


def case_in(results: list[dict[str, Any]], row: str) -> Case:
    """The case of a row among others, as pages show it."""
    shown = pages.page(kept(results), PAPERS, "t")
    return next(case for paper in shown.papers for case in paper.cases if case.row == row)


def test_curves_of_odd_histories() -> None:
    assert curves.panels([("1", [])]) == ()
    assert curves.panels([("1", [{"epoch": 1, "loss": float("nan")}])]) == ()
    (flat,) = curves.panels([("1", [{"loss": 2.0}, {"loss": 2.0}])])
    assert flat.y_ticks[0].at != flat.y_ticks[-1].at
    (single,) = curves.panels([("1", [{"epoch": 3, "mAP": 0.0}])])
    assert single.lines[0].marks
    many = curves.panels(
        [(str(seed), [{"epoch": 1, "mAP": 1.0}, {"epoch": 2, "mAP": 2.0 + seed}]) for seed in range(9)]
    )
    assert [label.text for label in many[0].labels] == ["mean 6.0"]
    (negative,) = curves.panels([("1", [{"epoch": 1, "loss": -1200.0}, {"epoch": 2, "loss": 30000.0}])])
    assert [tick.text for tick in negative.y_ticks] == ["−10k", "0", "10k", "20k", "30k"]
    (iterations,) = curves.panels([("1", [{"iteration": 1, "loss": 1.0}])])
    assert iterations.x_label == "iteration"


def test_accuracies_of_discriminators_are_among_the_curves() -> None:
    """An adversarial training logs more quantities than are drawn; these say whether it works."""
    labels = ("clusters", "outliers", "portion", "purity", "together", "agreement", "largest", "median", "found", "eps")
    losses = ("loss", "feature_gan", "pixel_gan", "fusion", "reconstruction", "lr")
    entry = dict.fromkeys((*labels, *losses, "mAP", "rank1", "feature_accuracy", "pixel_accuracy"), 1.0)
    drawn = curves.panels([("1", [{"step": step, **entry} for step in (1, 2)])])
    assert len(drawn) == curves.MOST_PANELS
    titles = {panel.title: panel.unit for panel in drawn}
    assert (
        titles["accuracy of the discriminator of features"] == titles["accuracy of the discriminator of images"] == "%"
    )
    assert "reconstruction loss" in titles


def test_no_results_and_papers_unknown(tmp_path: Path) -> None:
    reader, markdown = shown(tmp_path, [])
    assert "No results yet." in reader.text
    assert "pytest suites/" in markdown
    stranger = result("own", "m2d", paper="mine", table="a")
    html, _ = render([stranger], {}, tmp_path)
    assert "own" in read(html.parent / "mine.html").text


@pytest.mark.parametrize(
    ("make", "command"),
    [
        (lambda: stand_ins(), failed()["command"]),
        (lambda: stand_ins()[:5], ON_PAPER),
        (lambda: comparable(), ON_PAPER),
        (lambda: comparable()[7:], ON_PAPER),
        (lambda: comparable()[:2], ON_PAPER),
        (lambda: comparable()[:1], "reproduce results --record"),
        (
            lambda: [result("direct", "m2d", identity=NOWHERE | {"scale": "smoke", "data": STAND_INS})],
            "pytest suites/test_msplr.py --scale small --seeds 1,2,3",
        ),
    ],
)
def test_next_command(make: Any, command: str) -> None:
    assert page_of(make(), PAPERS, "x").next.command == command


def test_numbers_as_text() -> None:
    assert [words.percent(value) for value in (27.25, 0.04, -0.04, 100, "-", None, math.nan, True)] == [
        "27.2",
        "0.0",
        "0.0",
        "100.0",
        "–",
        "–",
        "–",
        "–",
    ]
    assert [words.difference(*pair) for pair in ((44.1, 44.7), (50.0, 44.7), (44.7, 44.7), (44.68, 44.7))] == [
        "−0.6",
        "+5.3",
        "0.0",
        "0.0",
    ]
    assert words.spread([]) is None
    assert [found.text for values in ([27.3], [1, 2, 3], [1.0, math.nan]) if (found := words.spread(values))] == [
        "27.3",
        "2.0 ± 1.0",
        "1.0",
    ]
    assert [words.duration(seconds) for seconds in (0.44, 31.2, 725, 11_100, None)] == [
        "0.4 s",
        "31 s",
        "12 min",
        "3 h 05 min",
        "–",
    ]


def test_sentences_leave_names_as_they_are() -> None:
    texts = ("a row", "mAP falls.", "m2d is the harder one", "k-means", "")
    assert [words.sentence(text) for text in texts] == [
        "A row.",
        "mAP falls.",
        "m2d is the harder one.",
        "K-means.",
        "",
    ]


def test_markdown_text() -> None:
    assert words.markdown("a | b\nc_d _x_ *e* <f> `g` [h]") == "a \\| b c_d \\_x\\_ \\*e\\* &lt;f&gt; \\`g\\` \\[h\\]"
    assert words.markdown("1. one") == "&#49;. one"
    assert words.markdown("- one") == "&#45; one"
    assert words.markdown_prose("- a_b `c_d|*` *e*") == "&#45; a_b `c_d|*` \\*e\\*"
    assert words.code("a `b` c") == "``a `b` c``"
    assert words.fenced("a\n```\nb").splitlines()[0] == "````"


def test_load_reads_in_order_and_names_what_is_broken(tmp_path: Path) -> None:
    for name, made in (("b.json", result("direct", "m2d")), ("a/z.json", result("supervised", "m2d"))):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(made))
    (tmp_path / ".hidden.json").write_text("{")
    assert [record.case.row for record in load(tmp_path)] == ["supervised", "direct"]
    assert load(tmp_path)[1:] == kept([result("direct", "m2d")])
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        load(tmp_path / "nowhere")


CASE = {"paper": "p", "table": "1", "row": "r", "column": "c"}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"format": 2, "case": CASE, "verdict": "error"},
        {"format": 1, "verdict": "error"},
        {"format": 1, "case": CASE | {"table": 1}, "verdict": "error"},
        {"format": 1, "case": CASE},
        {"format": 1, "case": CASE, "verdict": "error", "measured": {"1": 3}},
        {"format": 1, "case": CASE, "verdict": "error", "reasons": "one"},
        {"format": 1, "case": CASE, "verdict": "error", "stages": [1]},
        {"format": 1, "case": CASE, "verdict": "error", "stages": [{"history": 1}]},
        {"format": 1, "case": CASE, "verdict": "error", "identity": {"data": []}},
        {"format": 1, "case": CASE, "verdict": "error", "identity": {"data": {"market": 1}}},
    ],
)
def test_load_refuses_what_it_cannot_show(document: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"broken\.json is not a result"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "\x00", '{"format": 1'])
def test_load_refuses_what_is_not_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(UserError, match=r"broken\.json"):
        load(tmp_path)


def test_least_record_that_loads_can_be_rendered(tmp_path: Path) -> None:
    case = {"paper": "p", "table": "1", "row": "r", "column": "c"}
    least = {"format": 1, "case": case, "identity": NOWHERE, "printed": {}, "verdict": "new word"}
    (tmp_path / "least.json").write_text(json.dumps(least))
    html, markdown = render(load(tmp_path), PAPERS, tmp_path)
    assert "· new word" in read(html).text
    assert read(*every(html)).text.count("· new word") >= 3
    markdown_tables(markdown.read_text(encoding="utf-8"))


def test_readme_table(tmp_path: Path) -> None:
    text = table_of(stand_ins() + comparable() + omniglot(), PAPERS)
    first, *rest = markdown_tables(text)
    assert [row[1:3] for row in first[2:]] == [
        ["Supervised", "d2d"],
        ["Supervised", "m2m"],
        ["Direct Transfer", "m2d"],
        ["Direct Transfer", "d2m"],
        ["Ours", "m2d"],
        ["Ours", "m2d"],
    ]
    assert len(rest) == 2
    assert text.count("**Not comparable with the papers: ") == 2
    assert all("verdict" not in table[0] for table in rest)
    assert table_of([], PAPERS) == "No results yet."
    second = [copy.deepcopy(record) for record in stand_ins()]
    for record in second:
        for entry in record["identity"]["data"].values():
            entry["seed"] = 2
    assert table_of(stand_ins() + second + comparable() + omniglot(), PAPERS) == text, "second worlds are for claims"
    assert table_of(second, PAPERS).count("| Direct Transfer |") == table_of(stand_ins(), PAPERS).count(
        "| Direct Transfer |"
    )
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n\n<!-- results -->\nold\n<!-- /results -->\n\nafter\n")
    assert update_readme(readme, text)
    assert not update_readme(readme, text)
    assert readme.read_text() == f"# Title\n\n<!-- results -->\n{text}\n<!-- /results -->\n\nafter\n"


def test_a_row_that_one_table_repeats_is_one_line_of_the_readme() -> None:
    once = result("ours", "m2d", table="2")
    assert "| msplr, Table 2 | Ours | m2d |" in table_of([once, once | {"case": once["case"] | {"row": "rr"}}], PAPERS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- results -->",
        "<!-- /results --> <!-- results -->",
        "<!-- results --> <!-- results --> <!-- /results -->",
    ],
)
def test_readme_without_its_markers(text: str, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(UserError, match="README"):
        update_readme(readme, "x")
    with pytest.raises(UserError, match="absent"):
        update_readme(tmp_path / "absent.md", "x")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suites, results, out = tmp_path / "suites", tmp_path / "results", tmp_path / "out"
    suites.mkdir()
    results.mkdir()
    (suites / "msplr.toml").write_text(TOML)
    (results / "one.json").write_text(json.dumps(result("direct", "m2d")))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results -->\n<!-- /results -->\n")
    arguments = [str(results), "--out", str(out), "--suites", str(suites), "--readme", str(readme)]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(out / "report" / "index.html"),
        str(out / "report.md"),
        f"{readme} renewed",
    ]
    index = out / "report" / "index.html"
    assert "Learn by Guessing" in index.read_text(encoding="utf-8")
    first = (out / "report" / "msplr.html").read_bytes()
    assert cli.finish(kept([result("direct", "m2d")]), suites, out) == index
    assert (out / "report" / "msplr.html").read_bytes() == first
    assert cli.main([str(tmp_path / "absent"), "--suites", str(suites)]) == 2
    assert "absent" in capsys.readouterr().err
    (suites / "broken.toml").write_text('paper = "broken"')
    assert cli.main(arguments) == 2
    assert "broken.toml: table is missing" in capsys.readouterr().err
    cli.finish(kept([result("direct", "m2d")]), suites, out)
    assert "could not be audited: broken.toml: table is missing" in read(index).text, "a run keeps its report"


def test_a_report_leaves_the_pages_of_other_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, row in (("build/results", "direct"), ("lab/results", "ours"), ("records", "ours")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "one.json").write_text(json.dumps(result(row, "m2d")))
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "msplr.toml").write_text(TOML)
    build = tmp_path / "build"
    assert cli.main([]) == 0
    own = contents(build / "report")
    assert cli.main(["lab/results"]) == cli.main(["records"]) == 0
    assert (build / "reports" / "lab" / "report" / "index.html").is_file()
    assert (build / "reports" / "records" / "report" / "index.html").is_file()
    capsys.readouterr()
    assert cli.main(["lab/results", "--out", "build"]) == 2
    told = capsys.readouterr().err
    assert f"build/report holds the pages of {build / 'results'}: name another folder with --out" in told
    assert contents(build / "report") == own
    assert cli.main([str(build / "results")]) == 0, "the same results by another path"
    assert contents(build / "report") == own
    cli.finish(kept([result("direct", "m2d")]), tmp_path / "suites", build / "reports" / "lab")
    rows = [path.name for path in (build / "reports" / "lab" / "report" / "cases").iterdir()]
    assert len(rows) == 4, "a run into the folder of another report removes nothing"


def test_rendering_takes_time_in_proportion_to_the_results(tmp_path: Path) -> None:
    one = result("ours", "m2d", epochs=90)
    places = [{"paper": f"paper{number // 25}", "table": str(number % 25)} for number in range(500)]
    results = [one | {"case": one["case"] | place} for place in places]

    def seconds(count: int) -> float:
        started = time.process_time()
        html, _ = render(results[:count], PAPERS, tmp_path / str(count))
        assert sum(page.stat().st_size for page in every(html)) < count * 80_000
        return time.process_time() - started

    seconds(25)
    assert seconds(500) < 2 * 5 * seconds(100)


def test_one_collapse_is_one_card_whatever_rows_share_the_training() -> None:
    shared = {"verdict": "collapsed", "collapsed": {"1": "1 cluster left"}}
    results = [result(row, "m2d") | shared for row in ("direct", "ours")]
    results.append(result("ours", "d2m") | {"verdict": "collapsed", "collapsed": {"1": "2 clusters left"}})
    troubles = page_of(results, PAPERS, "x").attention
    assert sorted(len(trouble.cases) for trouble in troubles) == [1, 2]
    assert {trouble.why for trouble in troubles} == {
        "collapsed at seed 1: 1 cluster left",
        "collapsed at seed 1: 2 clusters left",
    }


@pytest.mark.parametrize(
    ("grid", "logarithmic"),
    [
        ([2, 4, 6, 8, 10, 12], False),
        ([0.4, 0.8, 1.6, 3.2, 6.4], True),
        ([0.1, 0.5, 1, 2, 5], True),
        ([0, 1, 10], False),
        (list(range(1, 60)), False),
    ],
)
def test_an_axis_is_logarithmic_if_its_grid_is(grid: list[float], logarithmic: bool) -> None:
    panel = curves.sweep("mAP", [curves.Swept(x, (50.0,)) for x in grid], "t", "x")
    assert panel.x_label.endswith("on a logarithmic scale") == logarithmic
    places = [mark.x for mark in panel.lines[0].marks]
    assert [tick.at for tick in panel.x_ticks] == places
    steps = [after - before for before, after in pairwise(places)]
    ratios = [after - before for before, after in pairwise(grid)]
    scale = steps[0] / ratios[0]
    assert all(abs(step - scale * ratio) < 0.2 for step, ratio in zip(steps, ratios, strict=True)) != logarithmic
