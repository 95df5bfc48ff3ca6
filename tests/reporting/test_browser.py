"""The pages in a browser: the script, both themes, and the width of a phone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers.explained_runs import write_explained
from helpers.hostile_texts import TEXTS
from helpers.run_folders import run_with, written_run
from helpers.tiny import tiny_space
from PIL import Image

from hwnas.reporting.comparison import render_comparison
from hwnas.reporting.theme import DARK, LIGHT
from hwnas.runs.run_folder import RunFolder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("HWNAS_CHROMIUM") == "required"
pytestmark = pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no chromium")

EXPLAINED = ("Why this network?", "How far can it be trusted?", "What theory says")
"""Chapters of `hwnas explain` and `hwnas diagnose`."""
# Imitates a reader and records what the page then shows; runs after the page's own script.
READER = """
const found = {};
const press = (target, key) => target.dispatchEvent(new KeyboardEvent("keydown", {key}));
const shown = (part) => getComputedStyle(part).display !== "none";
const tip = document.getElementById("tip");
try {
  found.overflow = document.documentElement.scrollWidth - innerWidth;
  found.width = innerWidth;
  const chart = document.querySelector('svg[aria-label="Loss of the search"]');
  chart.focus();
  press(chart, "ArrowRight");
  found.first = tip.textContent;
  press(chart, "End");
  found.last = tip.textContent;
  press(chart, "Escape");
  found.closed = tip.textContent;
  const dot = document.querySelectorAll('svg[aria-label^="Predicted"] g.mark')[1];
  dot.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
  found.pointer = tip.textContent;
  const matrix = document.querySelector('svg[aria-label="Confusion matrix"]');
  matrix.focus();
  press(matrix, "ArrowRight");
  found.matrix = tip.textContent;
  press(matrix, "Escape");
  const wide = (part) => part.getBoundingClientRect().right > innerWidth;
  found.cut = [...document.querySelectorAll("td, th, .bar, .gallery img, svg")]
    .filter((part) => !part.closest("details:not([open])") && wide(part))
    .map((part) => part.outerHTML.slice(0, 80));
  found.bars = Math.max(...[...document.querySelectorAll(".bar")].map((bar) => bar.offsetWidth));
  const line = chart.querySelector('[data-series="1"]');
  const button = chart.closest("figure").querySelectorAll(".legend button")[1];
  button.click();
  found.hidden = [button.getAttribute("aria-pressed"), shown(line)];
  button.click();
  found.visible = [button.getAttribute("aria-pressed"), shown(line)];
  const table = document.querySelector("table.bars th button").closest("table");
  const head = [...table.tHead.rows[0].cells].at(-1);
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex].innerText);
  head.querySelector("button").click();
  found.descending = [head.getAttribute("aria-sort"), column()];
  head.querySelector("button").click();
  found.ascending = [head.getAttribute("aria-sort"), column()];
  const theme = document.getElementById("theme");
  const paper = () => getComputedStyle(document.body).backgroundColor;
  found.papers = [paper()];
  for (let i = 0; i < 2; i++) {
    theme.click();
    found.papers.push(paper());
  }
} catch (error) {
  found.error = String(error);
}
document.body.dataset.found = JSON.stringify(found);
"""


def browse(page: Path, *options: str, width: int = 1000, dark: bool = False) -> tuple[str, str]:
    """Open a page in a headless browser; its output, and the messages of its console."""
    assert CHROMIUM is not None, "HWNAS_CHROMIUM=required, and there is no chromium"
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},900",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--enable-logging=stderr", *options, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, "\n".join(x for x in done.stderr.splitlines() if "CONSOLE" in x)


def write_page(folder: Path) -> Path:
    run = write_explained(written_run(folder / "run", tiny_space("darts")))
    page = folder / "page.html"
    page.write_text(run.html())
    return page


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def test_charts_tables_and_themes_react_to_the_reader(tmp_path: Path) -> None:
    page = write_page(tmp_path)
    source = page.read_text()
    # The policy of the page would block the reader's script.
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
    page.write_text(source.replace("</body>", f"<script>{READER}</script></body>"))
    dom, console = browse(page, "--dump-dom", width=390)
    assert not console
    written = re.search(r'data-found="([^"]*)"', dom)
    assert written is not None
    found: dict[str, Any] = json.loads(written[1].replace("&quot;", '"').replace("&nbsp;", " "))
    assert "error" not in found, found["error"]
    assert found["overflow"] <= 0
    assert found["width"] <= 500
    assert re.fullmatch(r"step 10: training [\d.]+", found["first"])
    assert re.fullmatch(r"step 600: training [\d.]+, validation [\d.]+", found["last"])
    assert found["closed"] == ""
    assert re.fullmatch(r"trouser: 85 of 100 \(85\s%\) correct", found["matrix"])
    assert not found["cut"]
    assert found["bars"] > 300
    assert all(f"{title}</h2>" in dom for title in EXPLAINED)
    assert found["pointer"].startswith("candidate 2: predicted 0.44")
    assert found["hidden"] == ["false", False]
    assert found["visible"] == ["true", True]
    for name, sign in (("descending", -1), ("ascending", 1)):
        order, column = found[name]
        values = [float(words.split()[0].replace("\u00a0ms", "")) for words in column]
        assert order == name
        assert values == sorted(values, key=lambda v: sign * v)
    light, dark = (f"rgb({', '.join(map(str, rgb(t['paper'])))})" for t in (LIGHT, DARK))
    assert found["papers"] == [light, dark, light]


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1200])
def test_pages_use_the_theme_of_the_system_and_comply_with_their_policy(
    tmp_path: Path, width: int, dark: bool
) -> None:
    report = write_page(tmp_path)
    comparison = tmp_path / "comparison.html"
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    runs = [RunFolder(tmp_path / name) for name in ("run", "again")]
    comparison.write_text(render_comparison(runs, tmp_path))
    for page in (report, comparison):
        dom, console = browse(page, "--dump-dom", width=width, dark=dark)
        assert not console
        assert 'data-script="on"' in dom
        picture = tmp_path / "page.png"
        browse(page, f"--screenshot={picture}", width=width, dark=dark)
        with Image.open(picture) as drawn:
            assert drawn.size == (width, 900)
            assert drawn.convert("RGB").getpixel((2, 2)) == rgb((DARK if dark else LIGHT)["paper"])
            assert len(drawn.convert("RGB").getcolors(2**20) or []) > 20


@pytest.mark.slow
def test_foreign_scripts_do_not_run(tmp_path: Path) -> None:
    page = write_page(tmp_path)
    attack = "<script>document.body.dataset.owned = 1</script></body>"
    page.write_text(page.read_text().replace("</body>", attack))
    dom, console = browse(page, "--dump-dom")
    assert "data-owned" not in dom
    assert "Content Security Policy" in console


@pytest.mark.slow
def test_texts_of_others_run_and_load_nothing(tmp_path: Path) -> None:
    """The page's policy would block a script too; hence it is looked at without one as well."""
    run = write_explained(run_with(tmp_path / "run", TEXTS), TEXTS)
    report, comparison = tmp_path / "report.html", tmp_path / "comparison.html"
    report.write_text(run.html())
    comparison.write_text(render_comparison([run.folder], tmp_path))
    for page in (report, comparison):
        for policy in (True, False):
            source = page.read_text()
            if not policy:
                source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
                page.write_text(source)
            dom, console = browse(page, "--dump-dom")
            assert not console
            assert "data-owned" not in dom
            assert 'data-script="on"' in dom
            tags = re.findall(r"<([a-z]+)", dom)
            assert sorted(set(tags)) == sorted(set(re.findall(r"<([a-z]+)", source)) | {"tbody"})
