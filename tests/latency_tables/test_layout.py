"""The package's layout: imports go from remote to measuring to runtimes to the top level."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hwnas.latency_tables

PACKAGE = "hwnas.latency_tables"
ROOT = Path(hwnas.latency_tables.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ROOMS = tuple(f"{PACKAGE}.{name}" for name in ("runtimes", "measuring", "remote"))
FORBIDDEN = {
    "remote": (),
    "measuring": ROOMS[2:],
    "runtimes": ROOMS[1:],
    ".": ROOMS,
    "on_device": ROOMS,
}


def imported(path: Path) -> set[str]:
    """Names of the modules that a file imports anywhere."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_its_own_level_or_below(path) -> None:
    forbidden = FORBIDDEN[str(path.parent.relative_to(ROOT))]
    assert not [name for name in imported(path) if name.startswith(forbidden)]


def test_the_readme_describes_every_module() -> None:
    readme = (ROOT / "README.md").read_text()
    described = {path.name for path in FILES if f"`{path.name}`" in readme}
    assert {path.name for path in FILES} - described == set()
