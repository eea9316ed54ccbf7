"""What networks make of images on the pages: rank lists, activation maps, projections, with and without pictures."""

from __future__ import annotations

import base64
import copy
import html
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reports import cli, pictures
from reports.render import render
from reproduce.errors import UserError
from reproduce.papers.records import read_figures, write_figure

HOSTILE = """<script>alert("1 & 2")</script> | 'quoted' `code` *star*"""
PAPER: dict[str, Any] = {
    "paper": "demo",
    "title": "A demonstration",
    "table": [
        {
            "id": "3",
            "columns": [{"id": "m2d", "label": "Market -> Duke"}],
            "metrics": ["mAP"],
            "row": [{"id": "with", "label": "+ CN"}],
        }
    ],
    "figure": [
        {"id": "9", "kind": "picture", "where": "section 1", "shows": "Lists.", "rows": [], "task": ["m2d", "d2m"]},
        {"id": "2", "kind": "convergence", "shows": "Steps.", "rows": ["table 3: with"], "task": ["m2d"]},
        {"id": "4", "kind": "picture", "shows": "Maps.", "rows": [], "task": ["m2d"]},
        {"id": "1", "kind": "diagram", "shows": "The pipeline.", "rows": [], "task": []},
    ],
}
IMAGES = [{"name": f"{pid:04}_c{cam}.jpg", "pid": pid, "camid": cam - 1} for pid, cam in ((7, 1), (8, 2), (7, 3))]
RANKS = [{"image": 1, "right": False, "distance": 0.25}, {"image": 2, "right": True, "distance": 0.5}]
DRAWINGS: dict[str, dict[str, Any]] = {
    "rank lists": {
        "kind": "rank lists",
        "images": IMAGES,
        "queries": [0],
        "rows": [
            {"mAP": 12.34, "lists": [{"AP": 50.0, "entries": RANKS}]},
            {"mAP": 56.78, "lists": [{"AP": 100.0, "entries": RANKS[::-1]}]},
        ],
    },
    "activation maps": {
        "kind": "activation maps",
        "images": IMAGES[:2],
        "shown": [0, 1],
        "rows": [{"maps": [[[0, 255], [64, 128]]] * 2}, {"maps": [[[255, 0], [1, 2]], [[3, 4], [255, 5]]]}],
    },
    "decoded images": {
        "kind": "decoded images",
        "images": IMAGES,
        "shown": [2, 0],
        "labelled": [True, False],
        "rows": [{"made": [0, 1], "differs": [0.1234, 0.5]}, {"made": [2, 3], "differs": [0.25, 0.75]}],
    },
    "projection": {
        "kind": "projection",
        "images": [],
        "people": [0, 0, 1],
        "rows": [
            {"x": [0.0, 1.0, 2.0], "y": [0.0, 0.0, 4.0], "silhouette": 0.1236},
            {"x": [0.0, 1.0, 2.0], "y": [5.0, 5.0, 5.0], "silhouette": -0.5},
        ],
    },
}
STAND_INS = {"duke": {"kind": "stand-in", "seed": 1, "world": 1}}
REAL = {"duke": {"kind": "real", "digest": "00ff"}}
FOLDER = {"duke": {"kind": "folder", "folder": "letters", "digest": "00ff"}}
LEFT_OUT = "are left out; the same command with <code>--pictures</code> shows them."


def figure(kind: str = "rank lists", data: dict[str, Any] = STAND_INS, **changes: Any) -> dict[str, Any]:
    told = {"paper": "demo", "id": "9", "task": "m2d", "rows": ["baseline", "ours"], "where": "old", "shows": "Old."}
    told |= {name: changes.pop(name) for name in tuple(changes) if name in told}
    return {
        "format": 1,
        "figure": told,
        "identity": {"scale": "small", "data": data},
        "seed": 5,
        "deviations": ["No `SIFT` here."],
        "stages": [{"key": "k", "name": "figures.X", "label": "figures.X on duke", "seed": 5, "history": []}],
        "command": "pytest 'suites/test_demo.py::test_figures[m2d-figure9]'",
        "verdict": "drawn",
        "drawing": copy.deepcopy(DRAWINGS[kind]),
        **changes,
    }


def failure(**changes: Any) -> dict[str, Any]:
    record = figure(verdict="error", error="no `maps` <here>", **changes)
    del record["drawing"]
    return record


def kept(folder: Path, record: dict[str, Any], *, shown: bool = False) -> list[dict[str, Any]]:
    """The record as a run writes it and a report reads it, with its strip of pictures or without."""
    drawing = record.get("drawing") or {}
    count = len(drawing.get("images", ())) + sum(len(row.get("made", ())) for row in drawing.get("rows", ()))
    pixels = np.arange(count * 4 * 2 * 3, dtype=np.uint8).reshape(count, 4, 2, 3) if shown and count else None
    write_figure(made.kept(record), pixels, folder)
    return read_figures(folder)


def pages(tmp_path: Path, records: list[dict[str, Any]], **more: Any) -> tuple[str, str, str]:
    """The paper's page, the first page, the Markdown."""
    results = [made.kept(each) for each in more.pop("results", [])]
    figures = [made.kept(each) for each in records]
    index, markdown = render(results, {"demo": made.paper(PAPER)}, tmp_path / "out", figures=figures, **more)
    return (index.parent / "demo.html").read_text(), index.read_text(), markdown.read_text()


def body(page: str) -> str:
    return page.partition("</head>")[2]


class Sound(HTMLParser):
    """Checks that elements close in order, and keeps what a reader that sees nothing is told."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.told: list[str] = []
        self.pictures = 0
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "link", "br", "img"}:
            self.open.append(tag)
        found = dict(attrs)
        self.told += [found["aria-label"] or ""] if found.get("role") == "img" else []
        self.pictures += "shot" in (found.get("class") or "").split()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"path", "circle"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def marked(drawn: pictures.Picture) -> list[pictures.Marks]:
    return [marks for plane in drawn.content.planes for marks in plane.people]


# ---------------------------------------------------------------- each kind, with and without pictures


def test_rank_lists_frame_pictures_from_one_strip(tmp_path: Path) -> None:
    records = kept(tmp_path, figure(), shown=True)
    page, _, _ = pages(tmp_path, records)
    strip = base64.b64encode(next(tmp_path.glob("*.png")).read_bytes()).decode()
    assert page.count(strip) == 1
    assert "aspect-ratio: 2 / 4; --last: 2;" in page
    assert "background-size: 300% 100%;" in page
    found = Sound(page)
    assert found.pictures == 5
    assert found.told == [
        "query 1: id 7, camera 1",
        "rank 1, wrong: id 8, camera 2, distance 0.250",
        "rank 2, right: id 7, camera 3, distance 0.500",
        "rank 1, right: id 7, camera 3, distance 0.500",
        "rank 2, wrong: id 8, camera 2, distance 0.250",
    ]
    assert re.findall(r'--at:(\d)"', page) == ["0", "1", "2", "2", "1"]
    assert re.findall(r"<b>(✓|✗)</b>", page) == ["✗", "✓", "✓", "✗"]
    assert re.findall(r"<span>baseline <b>([\d.]+)</b>|<span>AP ([\d.]+)</span>", page) == [
        ("12.3", ""),
        ("", "50.0"),
        ("", "100.0"),
    ]


def test_rank_lists_without_pictures_say_who_is_where(tmp_path: Path) -> None:
    page, _, _ = pages(tmp_path, kept(tmp_path, figure()))
    found = Sound(page)
    assert found.pictures == 0
    assert "data:image" not in page
    assert '<ol class="hits">' in page, "a strip of hits and misses"
    assert "rank 1, wrong: id 8, camera 2, distance 0.250" in found.told
    assert page.count('<li class="right">') == 2


def test_a_camera_that_is_not_told_is_none(tmp_path: Path) -> None:
    record = figure()
    record["drawing"]["images"] = [{**image, "camid": -1} for image in IMAGES]
    assert Sound(pages(tmp_path, [record])[0]).told[0] == "query 1: id 7, camera –"


def test_rank_lists_print_similarities_where_the_drawing_says_so(tmp_path: Path) -> None:
    record = figure()
    record["drawing"]["similarities"] = True
    page, _, _ = pages(tmp_path, kept(tmp_path, record, shown=True))
    assert Sound(page).told[1:3] == [
        "rank 1, wrong: id 8, camera 2, similarity 0.750",
        "rank 2, right: id 7, camera 3, similarity 0.500",
    ]
    assert "</b>0.750</span>" in page


@pytest.mark.parametrize("shown", [False, True])
def test_decoded_images_stand_under_their_images(shown: bool, tmp_path: Path) -> None:
    page, _, markdown = pages(tmp_path, kept(tmp_path, figure("decoded images"), shown=shown))
    found = Sound(page)
    assert found.pictures == (6 if shown else 0)
    first, second = "image 1: id 7, camera 3", "image 1: id 7, camera 1"
    told = [[first, "decoded by baseline, which differs by 12 %", "decoded by ours, which differs by 25 %"]]
    told += [[second, "decoded by baseline, which differs by 50 %", "decoded by ours, which differs by 75 %"]]
    expected = [f"{words}, {name}" if words != name else name for name, *rest in told for words in (name, *rest)]
    assert found.told == (expected if shown else [first, second])
    assert page.index("come back as they were:") < page.index("in the style of the labelled one:"), (
        "the labelled domain first"
    )
    assert [int(at) for at in re.findall(r'shot" style="--at:(\d+)"', page)] == ([2, 3, 5, 0, 4, 6] if shown else [])
    assert all(f">{share} %</span>" in page for share in (12, 25, 50, 75))
    assert re.search(r"id 7, camera 3 +\| labelled \| 12 % +\| 25 %", markdown)


@pytest.mark.parametrize("shown", [False, True])
def test_maps_lie_over_pictures_or_stand_alone(shown: bool, tmp_path: Path) -> None:
    page, _, _ = pages(tmp_path, kept(tmp_path, figure("activation maps"), shown=shown))
    maps = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="">', page)
    assert len(maps) == 4
    opaque = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))[..., 3].min() == 255 for text in maps]
    assert opaque == [not shown] * 4
    found = Sound(page)
    assert found.pictures == (6 if shown else 0)
    assert found.told[:3] == [
        "image 1: id 7, camera 1",
        "map of baseline, image 1: id 7, camera 1",
        "map of ours, image 1: id 7, camera 1",
    ]
    assert "sum over channels of the squared activations" in page


MAPS = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 255), min_size=width, max_size=width), min_size=1, max_size=6)
)


@given(MAPS)
def test_values_of_a_map_can_be_read_off_its_colours(values: list[list[int]]) -> None:
    places = {tuple(colour): place for place, colour in enumerate(pictures._colours().tolist())}
    for over in (False, True):
        pixels = np.asarray(Image.open(io.BytesIO(pictures.heat(values, over))))
        assert [[places[tuple(pixel[:3])] for pixel in row] for row in pixels.tolist()] == values
        order = np.argsort(np.asarray(values), axis=None, kind="stable")
        alpha = pixels[..., 3].astype(int).ravel()[order]
        assert (np.diff(alpha) >= 0).all()
        assert over or alpha.min() == 255


@pytest.mark.parametrize("without", [0, 1, 2])
def test_each_drawing_has_its_own_strip_where_another_has_none(without: int, tmp_path: Path) -> None:
    records = []
    for number, task in enumerate(("m2d", "d2m", "m2m")):
        folder = tmp_path / task
        record = figure("activation maps", task=task)
        pixels = np.full((3, 4, 2, 3), number, np.uint8)
        write_figure(made.kept(record), None if number == without else pixels, folder)
        records += read_figures(folder)
    page, _, _ = pages(tmp_path, records)
    style, _, shown = page.partition("</head>")
    strips = dict(
        re.findall(r"\.(figure-9-\d) \.shot::before \{ background-image: url\(data:image/png;base64,([^)]+)\)", style)
    )
    articles = re.findall(r'<article class="drawing (figure-9-\d)">(.*?)</article>', shown, re.DOTALL)
    assert len(articles) == 3
    for name, article in articles:
        (task,) = re.findall(r"\b(m2d|d2m|m2m)\b", article.partition("</h3>")[0])[:1]
        number = ("m2d", "d2m", "m2m").index(task)
        assert (name in strips) is (number != without)
        if name in strips:
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(strips[name]))))
            assert (pixels == number).all()


def test_maps_of_drawn_images_say_how_much_lies_on_the_person(tmp_path: Path) -> None:
    record = figure("activation maps")
    record["drawing"]["rows"][0]["on_person"] = [57.25, 8.0]
    page, _, _ = pages(tmp_path, kept(tmp_path, record))
    assert re.findall(r'<span class="under" aria-hidden="true">([^<]+)</span>', page) == ["57 %", "8 %"]
    assert re.findall(r'aria-label="map of (\w+), ([^,"]+ on the person)', page) == [
        ("baseline", "57 % on the person"),
        ("baseline", "8 % on the person"),
    ]


def test_attention_maps_have_one_scale_and_say_the_weights(tmp_path: Path) -> None:
    record = figure("activation maps")
    record["drawing"]["kind"] = "attention maps"
    record["drawing"]["rows"][1] |= {"weight_on_person": [57.25, 8.0], "weight_elsewhere": [40.0, 60.75]}
    page, _, _ = pages(tmp_path, kept(tmp_path, record))
    assert re.findall(r'<span class="under" aria-hidden="true">([^<]+)</span>', page) == ["57 %, 40 %", "8 %, 61 %"]
    assert 'aria-label="map of ours, 57 % on the person, 40 % elsewhere, image 1' in page
    assert "</i> 1</p>" in page
    assert "brightest place of a map" not in page


def test_colours_of_maps_rise_in_brightness() -> None:
    brightness = pictures._colours() @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness[::5]) > 0).all()


def test_a_projection_draws_each_identity_once_a_network(tmp_path: Path) -> None:
    page, _, _ = pages(tmp_path, kept(tmp_path, figure("projection")))
    found = Sound(page)
    assert found.told == [
        "baseline: 3 images of 2 identities in the plane, silhouette 0.124",
        "ours: 3 images of 2 identities in the plane, silhouette −0.500",
    ]
    assert re.findall(r"<title>(.*?)</title></path>", page) == ["identity 1: 2 images", "identity 2: 1 image"] * 2
    assert "no axes are drawn" in page
    assert "data:image" not in page


def test_forty_two_identities_differ_in_colour_or_shape() -> None:
    many = pictures.COLOURS * len(pictures.SHAPES)
    row = {"x": [0.0] * many, "y": list(range(many)), "silhouette": 0.0}
    drawing = {"kind": "projection", "images": [], "people": list(range(many)), "rows": [row]}
    (drawn,) = pictures.pictures(made.paper(PAPER), [made.kept(figure(rows=["one"], drawing=drawing))])
    looks = {(marks.colour, re.sub(r"^M\S+ \S+?(?=m)", "", marks.path)) for marks in marked(drawn)}
    assert len(looks) == many == 42


COORDINATES = st.floats(-1e3, 1e3).map(lambda value: round(value, 2))


@given(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=20, unique=True))
def test_points_stay_in_the_plane_and_keep_their_proportions(points: list[tuple[float, float]]) -> None:
    xs, ys = ([point[axis] for point in points] for axis in (0, 1))
    drawing = {"kind": "projection", "images": [], "people": [0] * len(points)}
    drawing["rows"] = [{"x": xs, "y": ys, "silhouette": 0.0}]
    (drawn,) = pictures.pictures(made.paper(PAPER), [made.kept(figure(rows=["one"], drawing=drawing))])
    (marks,) = marked(drawn)
    placed = [(float(x), float(y)) for x, y in re.findall(r"M(\S+?) (\S+?)m", marks.path)]
    assert len(placed) == len(points)
    low, high = pictures.MARGIN, pictures.PLANE - pictures.MARGIN
    assert all(low <= value <= high for point in placed for value in point)
    across = max(max(xs) - min(xs), max(ys) - min(ys))
    unit = (high - low) / across if across else 1.0
    for (x, y), (right, down) in zip(points, placed, strict=True):
        assert math.isclose(right - placed[0][0], (x - points[0][0]) * unit, abs_tol=0.11)
        assert math.isclose(placed[0][1] - down, (y - points[0][1]) * unit, abs_tol=0.11)


@pytest.mark.parametrize("kind", list(DRAWINGS))
def test_the_choice_of_images_is_explained(kind: str, tmp_path: Path) -> None:
    page, _, markdown = pages(tmp_path, [figure(kind)])
    said = "were drawn at random from seed 5, the same for each network: nobody picked them by their outcome."
    assert said in page
    assert said in markdown


def test_marks_have_contrast(tmp_path: Path) -> None:
    page, _, _ = pages(tmp_path, [figure("projection")])

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    grounds = re.findall(r"--raised: (#\w{6})", page)
    marks = re.findall(r"--c\d: (#\w{6})", page)
    assert len(marks) == 2 * pictures.COLOURS
    for place, mark in enumerate(marks):
        one, two = sorted((luminance(mark), luminance(grounds[place // pictures.COLOURS])))
        assert (two + 0.05) / (one + 0.05) >= 3, mark


# ---------------------------------------------------------------- what may be shown to whom


def test_stand_ins_say_that_they_are_drawn(tmp_path: Path) -> None:
    page, index, _ = pages(tmp_path, kept(tmp_path, figure(), shown=True))
    assert '<span class="tag">drawn pedestrians</span>' in page
    assert "The images are pedestrians drawn by a program." in page
    for text in (page, index):
        assert "stand-in data: not comparable with the paper" in text
        assert "yourself" not in text


def test_stand_ins_without_a_strip_say_why(tmp_path: Path) -> None:
    assert "no copy of them lies beside this record" in pages(tmp_path, kept(tmp_path, figure()))[0]
    assert "beside this record" not in pages(tmp_path, kept(tmp_path / "two", figure("projection")))[0]


@pytest.mark.parametrize(
    ("data", "noun"), [(REAL, "photographs of people"), (FOLDER, "images of your own folders")], ids=["real", "folder"]
)
def test_real_pictures_are_left_out_or_come_with_a_warning(data: dict[str, Any], noun: str, tmp_path: Path) -> None:
    without, index, _ = pages(tmp_path, kept(tmp_path, figure(data=data)))
    assert f"{noun[0].upper()}{noun[1:]} {LEFT_OUT}" in without
    assert "yourself" not in without + index
    shown, index, _ = pages(tmp_path, kept(tmp_path, figure(data=data), shown=True))
    assert LEFT_OUT not in shown
    assert f'<span class="tag">{noun}: keep this page to yourself</span>' in shown
    for text in (shown, index):
        assert f"<strong>{noun}: keep these pages to yourself</strong>" in text
    assert "drawn pedestrians" not in shown


def test_a_strip_that_is_no_longer_there_is_no_picture(tmp_path: Path) -> None:
    records = kept(tmp_path, figure(data=REAL), shown=True)
    next(tmp_path.glob("*.png")).unlink()
    for found in (records, read_figures(tmp_path)):
        page, _, _ = pages(tmp_path, found)
        assert LEFT_OUT in page
        assert "data:image" not in page


# ---------------------------------------------------------------- where a figure stands


def test_figures_alone_make_a_page(tmp_path: Path) -> None:
    page, index, markdown = pages(tmp_path, kept(tmp_path, figure()))
    assert page.count('<li><a href="#figure-9">Figure 9</a></li>') == 1
    assert page.count('<h2 id="figure-9">') == 1
    assert '<a href="demo.html#figure-9">Figure 9</a>' in index
    for text in (index, markdown):
        assert "1 figure of DEMO at scale small with training seed 5, on drawn stand-ins for duke" in text
        assert "No results yet" not in text
        assert "0 of 0" not in text
        assert "pytest suites/test_demo.py --scale small" in text
    Sound(index)


def test_the_papers_file_says_where_a_figure_stands_and_what_it_shows(tmp_path: Path) -> None:
    page, _, _ = pages(tmp_path, [figure(), figure(id="x", task="none")])
    assert "section 1" in page
    assert "<p>Lists.</p>" in page
    assert page.count("Old.") == 1
    assert "<h3>Market → Duke " in page
    assert '<h3>none <span class="soft small">scale small,' in page


def test_figures_stand_in_the_papers_order_among_curves(tmp_path: Path) -> None:
    stages = [
        {"key": "t", "name": "Adapt", "history": [{"step": 1, "mAP": 10.0}, {"step": 2, "mAP": 20.0}]},
        {"key": "s", "name": "Evaluate", "history": [], "spec": {"train": {"key": "t"}}},
    ]
    case = {
        "format": 1,
        "case": {"paper": "demo", "table": "3", "row": "with", "label": "+ CN", "column": "m2d", "task": "m2d"},
        "identity": {"scale": "small", "data": STAND_INS},
        "measured": {"1": {"mAP": 20.0}},
        "verdict": "not comparable",
        "reasons": ["stand-in data"],
        "stages": stages,
    }
    records = [figure("activation maps", id="4"), figure(), figure(task="d2m"), figure(id="9b", task="m2m")]
    page, index, _ = pages(tmp_path, records, results=[case])
    assert re.findall(r'<li><a href="#(figure-[\w-]+)">', page) == ["figure-9", "figure-2", "figure-4", "figure-9b"]
    headings = re.findall(r"<h3>(.*?) <span", page)
    assert headings[:4] == ["Market → Duke", "d2m", "Market → Duke", "m2m"]
    assert "1 case from 1 table and 3 figures of DEMO at scale small with training seeds 1 and 5" in index


def test_settings_and_seeds_stand_apart(tmp_path: Path) -> None:
    smoke = {"identity": {"scale": "smoke", "data": STAND_INS}}
    page, _, _ = pages(tmp_path, [figure(**smoke), figure(seed=10), figure(seed=9)])
    places = [page.index(text) for text in ("training seed 9<", "training seed 10<", "m2d, scale smoke")]
    assert places == sorted(places)
    assert page.count('<section class="table"') == 1
    assert page.count(html.escape(pictures.RANK_LISTS, quote=False).replace("'", "&#39;")) == 1


def test_the_same_record_counts_once_and_keeps_its_pictures(tmp_path: Path) -> None:
    (shown,) = kept(tmp_path / "shown", figure(), shown=True)
    (bare,) = kept(tmp_path / "bare", figure())
    for records in ([shown, bare], [bare, shown], [shown, shown, bare]):
        page, _, _ = pages(tmp_path, records)
        assert page.count('<article class="drawing') == 1
        assert Sound(page).pictures == 5


def test_what_was_run_can_be_opened(tmp_path: Path) -> None:
    page, _, markdown = pages(tmp_path, [figure()])
    command = "pytest &#39;suites/test_demo.py::test_figures[m2d-figure9]&#39;"
    assert f'<summary>Run it alone</summary><pre class="command" tabindex="0"><code>{command}</code>' in page
    assert "<code>figures.X on duke</code>" in page
    assert "<li>No <code>SIFT</code> here.</li>" in page
    assert "`pytest 'suites/test_demo.py::test_figures[m2d-figure9]'`" in markdown


# ---------------------------------------------------------------- errors and odd records


def test_an_error_is_shown_and_comes_first(tmp_path: Path) -> None:
    page, index, markdown = pages(tmp_path, [*kept(tmp_path, failure()), figure(task="d2m")])
    assert "<p>no <code>maps</code> &lt;here&gt;</p>" in page
    assert page.count('<article class="drawing') == 2
    assert page.count('class="problem bad"') == 1
    assert '<a href="demo.html#figure-9">DEMO, Figure 9: m2d</a>' in index
    assert "Run again the figure that failed" in index
    assert index.count("test_figures[m2d-figure9]") == 1
    assert "no \\`maps\\` &lt;here&gt;" in markdown
    for text in (page, index):
        Sound(text)


def test_the_least_record_that_loads_can_be_rendered(tmp_path: Path) -> None:
    least = {"figure": {"paper": "demo", "id": "9", "task": "m2d"}}
    records = [least | more for more in ({"verdict": "error"}, {"drawing": {}})]
    page, _, markdown = pages(tmp_path, records)
    assert page.count(pictures.UNREADABLE) == markdown.count(pictures.UNREADABLE) // 2 == 2


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "hologram"},
        {"kind": "activation maps"},
        {"rows": []},
        {"queries": [3]},
        {"images": [{"pid": 1}] * 3},
        {"kind": "activation maps", "shown": [0], "rows": [{"maps": [[[256]]]}] * 2},
        {"kind": "activation maps", "shown": [0], "rows": [{"maps": [[]]}] * 2},
        {"kind": "projection", "people": [0], "rows": [{"x": [], "y": [], "silhouette": 0}] * 2},
        {"kind": "projection", "people": [], "rows": [{"x": [], "y": [], "silhouette": 0}] * 2},
    ],
)
def test_a_drawing_that_is_not_known_spoils_no_report(change: dict[str, Any], tmp_path: Path) -> None:
    record = figure()
    record["drawing"] |= change
    page, _, _ = pages(tmp_path, [record, figure("projection", id="4")])
    assert page.count(pictures.UNREADABLE) == 1
    assert "silhouette 0.124" in page


def test_everything_is_escaped(tmp_path: Path) -> None:
    hostile = {"rows": [HOSTILE, HOSTILE], "where": HOSTILE, "shows": HOSTILE}
    more = {
        "command": HOSTILE,
        "deviations": [HOSTILE],
        "stages": [{"key": HOSTILE, "label": HOSTILE}],
    }
    records = [figure(kind, **hostile, **more) for kind in DRAWINGS]
    records += [failure(**hostile, **more) | {"error": HOSTILE}]
    records[0]["drawing"]["images"] = [{**image, "pid": HOSTILE} for image in IMAGES]
    page, index, markdown = pages(tmp_path, records)
    for text in (page, index):
        assert "<script>alert" not in text
        Sound(text)
    assert "&lt;script&gt;" in page
    outside = re.sub(r"```.*?```|(`+).*?\1", "", markdown, flags=re.DOTALL)
    assert "<script" not in outside
    assert "*star*" not in outside.replace("\\*star\\*", "")


def test_sizes_of_a_strip_cannot_leave_the_style(tmp_path: Path) -> None:
    kept(tmp_path, figure(), shown=True)
    (path,) = tmp_path.glob("*.json")
    path.write_text(path.read_text().replace('"width": 2', '"width": "2; } body { display: none"'))
    with pytest.raises(UserError, match=r"Expected `int`, got `str` - at `\$\.pictures\.width`"):
        read_figures(tmp_path)


# ---------------------------------------------------------------- bytes, Markdown, command


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    records = [figure(), figure("activation maps", id="4"), figure("projection", id="5"), failure(id="6")]
    made = []
    for name in ("one", "another"):
        for record in records if name == "one" else records[::-1]:
            kept(tmp_path / name, record, shown=True)
        found = read_figures(tmp_path / name)
        made.append(pages(tmp_path / name, found if name == "one" else found[::-1]))
    assert made[0] == made[1]


def test_markdown_holds_what_needs_no_picture(tmp_path: Path) -> None:
    records = [figure(), figure("activation maps", id="4"), figure("projection", id="5")]
    _, _, markdown = pages(tmp_path, records)
    lines = markdown.splitlines()
    assert "### Figure 9, section 1" in lines
    assert "mAP of all queries: baseline 12.3, ours 56.8." in lines
    head = lines.index("| query | network | AP | nearest images, in order |")
    assert lines[head + 1 : head + 4] == [
        "| :-- | :-- | --: | :-- |",
        "| id 7, camera 1 | baseline | 50.0 | ✗✓ |",
        "|  | ours | 100.0 | ✓✗ |",
    ]
    assert "The HTML page shows 2 images with their maps by baseline, ours." in lines
    head = lines.index("| network | silhouette |")
    assert lines[head + 2 : head + 4] == ["| baseline | 0.124 |", "| ours | −0.500 |"]


def options(folder: Path) -> list[str]:
    """Of `reproduce report`, with a folder of suites that describes the paper."""
    suites = folder / "suites"
    suites.mkdir()
    (suites / "demo.toml").write_text(made.EMPTY_PAPER)
    return ["--suites", str(suites), "--out", str(folder / "out")]


def test_command_finds_figures_beside_and_in_a_folder(tmp_path: Path) -> None:
    kept(tmp_path / "run" / "figures", figure(), shown=True)
    kept(tmp_path / "recorded" / "figures", figure(task="d2m"))
    folders = [str(tmp_path / "run" / "results"), str(tmp_path / "recorded")]
    assert cli.main([*folders, *options(tmp_path)]) == 0
    page = (tmp_path / "out" / "report" / "demo.html").read_text()
    assert re.findall(r"<h3>(\w+) <span", page) == ["d2m", "m2d"]
    assert "data:image/png" in page


def test_a_folder_without_results_and_figures_is_still_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(tmp_path / "results"), *options(tmp_path)]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_the_end_of_a_run_hands_figures_on(tmp_path: Path) -> None:
    options(tmp_path)
    figures = kept(tmp_path / "kept", figure(), shown=True)
    index = cli.finish([], tmp_path / "suites", tmp_path / "out", figures=figures)
    assert "data:image/png" in (index.parent / "demo.html").read_text()
