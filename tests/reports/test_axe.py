"""Pages have no violation of the accessibility rules of axe-core, in light and dark, wide and narrow."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reports.cli import main

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
AXE = os.environ.get("REPRODUCE_TEST_AXE", "")
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH"),
    pytest.mark.skipif(not Path(AXE).is_file(), reason="REPRODUCE_TEST_AXE does not name axe-core's axe.min.js"),
]

RUN = """
for (const details of document.querySelectorAll("details")) details.open = true;
axe.run().then((result) => {
  const found = result.violations.map((it) => `${it.id}: ${it.nodes[0].html}`);
  const wide = document.documentElement.scrollWidth > innerWidth;
  document.body.innerHTML = "<pre id=axe></pre>";
  document.getElementById("axe").textContent = JSON.stringify({ passed: result.passes.length, found, wide });
});
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of the recorded results."""
    folder = tmp_path_factory.mktemp("axe")
    assert main([str(ROOT / "reports" / "results"), "--suites", str(ROOT / "suites"), "--out", str(folder)]) == 0
    return folder / "report"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 500])
@pytest.mark.parametrize("name", ["index", "msplr", "methods", "audit", "audit-rae", "cases/*"])
def test_no_violations(name: str, width: int, scheme: str, report: Path) -> None:
    path = sorted(report.glob(f"{name}.html"))[0]
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text())
    if scheme == "dark":
        source = source.replace("(prefers-color-scheme: dark)", "all")
    tried = path.with_name(f"axe-{width}-{scheme}.html")
    tried.write_text(
        source.replace("</body>", f"<script>{Path(AXE).read_text()}</script><script>{RUN}</script></body>")
    )
    command = [CHROMIUM, *QUIET.split(), f"--window-size={width},900", "--virtual-time-budget=60000", "--dump-dom"]
    dumped = subprocess.run([*command, f"file://{tried}"], capture_output=True, text=True, check=True).stdout
    tried.unlink()
    found = json.loads(html.unescape(re.findall(r'<pre id="axe">(.*?)</pre>', dumped, re.S)[0]))
    assert found["passed"] > 10
    assert found["found"] == []
    assert not found["wide"]
