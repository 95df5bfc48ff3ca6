"""The documentation builds without a warning, and links between pages lead somewhere."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest
from sphinx.cmd.build import build_main

import hwnas
from hwnas.spaces import SPACES
from hwnas.strategies import STRATEGIES
from hwnas.tasks import TASKS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The pages as HTML; a warning is an error."""
    out = tmp_path_factory.mktemp("documentation") / "html"
    assert build_main(["-q", "-W", "--keep-going", str(DOCS), str(out)]) == 0
    return out


def test_every_page_is_built_and_in_the_contents(built) -> None:
    contents = (built / "index.html").read_text()
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).with_suffix(".html")
        assert (built / name).exists()
        if name.parent == Path() and name.stem != "index":
            assert f'href="{name}"' in contents, f"{name} is in no toctree"


@pytest.fixture(scope="module")
def documented(built) -> set[str]:
    """Names of all modules, classes and functions in the reference."""
    *_, compressed = (built / "objects.inv").read_bytes().split(b"\n", 4)
    return {line.split()[0] for line in zlib.decompress(compressed).decode().splitlines()}


@pytest.mark.parametrize("entries", [SPACES, STRATEGIES, TASKS])
def test_the_reference_has_what_can_be_chosen(documented, entries) -> None:
    found = {f"{entry.__module__}.{entry.__qualname__}" for entry in entries.values()}
    assert found <= documented


def test_the_reference_has_every_public_name(documented) -> None:
    """Under the module that defines it, where the reference's table links to."""
    table = (DOCS / "reference" / "index.md").read_text()
    for name in hwnas.__all__:
        (target,) = re.findall(rf"`hwnas\.{name} <([\w.]+)>`", table)
        assert target in documented, f"hwnas.{name} leads to {target}, which is not documented"


def anchors_of(page: Path) -> set[str]:
    """The names under which GitHub links to a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
        if "://" in target:
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors_of(file), f"{page.name}: {target}#{anchor}"


def test_the_overview_pages_stay_short() -> None:
    for name, limit in (("README.md", 150), ("DESIGN.md", 200)):
        assert len((ROOT / name).read_text().splitlines()) <= limit, name
