"""Load the templates; HTML escapes everything automatically, Markdown by filters."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import jinja2
from markupsafe import Markup, escape

from reports import claims, curves, grids, pictures, words
from reproduce.metrics import title


@cache
def environment() -> jinja2.Environment:
    """Return the environment of the templates, with their functions and filters."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": words.percent,
        "md": words.markdown,
        "code": words.code,
        "fenced": words.fenced,
        "md_prose": words.markdown_prose,
        "prose": _prose,
        "sentence": words.sentence,
        "metric": title,
        "arrows": words.arrows,
        "slug": words.slug,
        "beside_lines": grids.beside_lines,
        "measured_lines": grids.measured_lines,
        "renewed_lines": grids.renewed_lines,
        "printed_lines": grids.printed_lines,
        "claim_lines": grids.claim_lines,
        "rank_lines": grids.rank_lines,
        "decoded_lines": grids.decoded_lines,
        "plane_lines": grids.plane_lines,
    }
    made.globals["size"] = SimpleNamespace(
        width=curves.WIDTH, height=curves.HEIGHT, left=curves.LEFT, right=curves.PLOT_RIGHT, bottom=curves.PLOT_BOTTOM
    )
    script = (Path(__file__).parent / "templates" / "script.js").read_text(encoding="utf-8")
    made.globals["script"] = script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made.globals["script_hash"] = f"sha256-{digest}"
    made.globals["span"] = SimpleNamespace(width=claims.WIDTH, height=claims.HEIGHT)
    made.globals["error_verdict"] = words.verdict("error")
    made.globals["plane_side"] = pictures.PLANE
    made.globals["heat_scale"] = pictures.scale
    return made


def _prose(text: object) -> Markup:
    """Convert text to HTML, with text between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
