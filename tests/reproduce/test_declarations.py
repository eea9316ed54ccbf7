"""A metric and a data set are declared once: one of each is added here by that alone, and used everywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest

from reports.render import render
from reproduce import metrics
from reproduce.artifacts import Scores
from reproduce.commands.doctor import examine
from reproduce.data.catalogue import CATALOGUE, Counts, Description, Known
from reproduce.data.domains import Domain
from reproduce.data.layouts import find
from reproduce.data.standins import StandIn
from reproduce.errors import UserError
from reproduce.papers import statistics, verdicts
from reproduce.papers.cases import Suite
from reproduce.papers.export import as_csv, as_markdown
from reproduce.papers.tables import Task
from reproduce.session.display import summary
from reproduce.session.setting import Setting, given_folders

RANK20 = replace(metrics.METRICS["rank10"], name="rank20", title="rank-20", short="R20", rank=20)
HALL = Known(
    name="hall",
    title="Hall",
    letter="h",
    folders=("Hall-2030",),
    ask="ask its authors",
    variants={"": Description(Counts(2, 4, 2), Counts(1, 1, 1), Counts(1, 2, 2), 0, 0)},
    drawn_ids=(30, 30, 0),
    place=CATALOGUE["market"].place,
)
PAPER: dict[str, Any] = {
    "paper": "p",
    "table": [
        {
            "id": "1",
            "columns": [{"id": "m2d", "label": "M to D"}],
            "metrics": ["mAP", "rank20"],
            "row": [{"id": "a", "m2d": [50.0, 90.0]}, {"id": "b", "m2d": [40.0, 80.0]}],
        }
    ],
    "claim": [{"id": "c", "kind": "order", "left": "1/a/m2d", "right": "1/b/m2d", "metrics": ["rank20"]}],
}


def scores(*first: int) -> Scores:
    """Of queries whose first match has these ranks."""
    ranks = np.array(first)
    return Scores(50.0, 0.0, 0.0, 0.0, 0.0, 1 / ranks, ranks, len(ranks), 0, np.arange(len(ranks)))


def test_adding_a_metric_is_one_declaration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown metric 'rank20'"):
        made.paper(PAPER)
    monkeypatch.setitem(metrics.METRICS, "rank20", RANK20)
    paper = made.paper(PAPER)
    assert "p,1,a,market,duke,rank-20,90.0,yes" in as_csv({"p": paper}).splitlines()
    assert "rank-20" in as_markdown([paper])
    numbers = scores(1, 15, 20, 21).numbers
    assert numbers["rank20"] == 75.0, "measured, of stored scores too"
    claim = paper.claims[0]
    sides = [{seed: scores(*ranks) for seed in (1, 2, 3)} for ranks in ((1, 15, 20, 20), (30, 31, 32, 33))]
    (compared,) = statistics.compare(claim, sides[0], sides[1:], paired=True)
    assert compared.difference.mean == 100
    case = next(Suite(paper).rows())
    result = made.result(case=case.cell, printed=dict(case.printed), measured={"1": {"mAP": 50.0, "rank20": 75.0}})
    assert "R20" in summary([result], 140, colour=False)
    judged = verdicts.judge({"rank20": 75.0}, {"1": {"rank20": 75.0}}, 1.0)
    assert judged == "consistent", "where nothing else is printed, a verdict looks at it"
    html, _ = render([result], {"p": paper}, tmp_path)
    (page,) = html.parent.glob("cases/*.html")
    assert "rank-20" in page.read_text()
    assert "rank-20" in (html.parent / "p.html").read_text()


def test_adding_a_data_set_is_one_declaration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="NAME is one of market, duke"):
        given_folders([f"hall={tmp_path}"])
    monkeypatch.setitem(CATALOGUE, "hall", HALL)
    assert Task("m2h").target == Domain("hall")
    assert given_folders([f"hall={tmp_path}"]) == {"hall": tmp_path}
    stand_in = Setting("smoke").resolve(made_of(Domain("hall"))).on
    assert isinstance(stand_in, StandIn)
    assert stand_in.label == "hall"
    root = tmp_path / "data"
    for split, names in {
        "bounding_box_train": ("0001_c1s1_000001_00.jpg", "0001_c2s1_000002_00.jpg"),
        "query": ("0002_c1s1_000003_00.jpg",),
        "bounding_box_test": ("0002_c2s1_000004_00.jpg",),
    }.items():
        folder = root / "hall-2030" / split
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes(b"\xff\xd8\xff" + bytes(20))
    assert find(root, "hall") == root / "hall-2030"
    assert examine("hall", None, None).says == "ask its authors"
    assert "train ids 1, not 2 (1 fewer)" in examine("hall", root, None).says
    with pytest.raises(UserError, match=r"hall: .* is not the published set: train ids 1, not 2"):
        Setting("paper", root=root).locate(Domain("hall"))
    raw = {**PAPER, "table": [{**PAPER["table"][0], "metrics": ["mAP", "rank1"], "columns": [{"id": "m2h"}]}]}
    raw["table"][0]["row"] = [{"id": "a", "m2h": [1.0, 2.0]}]
    paper = made.paper({**raw, "claim": []})
    assert "p,1,a,market,hall,mAP,1.0,yes" in as_csv({"p": paper})


def made_of(domain: Domain) -> Any:
    """A stage that names a domain."""
    from demo_stages import Untrained

    from reproduce.evaluation import Evaluate

    return Evaluate(Untrained(1), on=domain)
