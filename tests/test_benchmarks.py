"""The benchmarks are not run by the suite; that their imports hold is."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))
NEIGHBOURS = {script.stem: script for script in SCRIPTS}


def defined(script: Path) -> set[str]:
    """The names that other scripts may import from a script, which is not run."""
    names = set()
    for node in ast.parse(script.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {
                name.id for t in targets for name in ast.walk(t) if isinstance(name, ast.Name)
            }
    return names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_benchmark_imports_is_there(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Import):
            for name in {alias.name for alias in node.names} - set(NEIGHBOURS):
                importlib.import_module(name)
        elif isinstance(node, ast.ImportFrom) and node.module in NEIGHBOURS:
            assert {alias.name for alias in node.names} <= defined(NEIGHBOURS[node.module])
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            missing = {alias.name for alias in node.names if not hasattr(module, alias.name)}
            # What is no attribute of a package may be a module in it.
            for name in missing:
                importlib.import_module(f"{node.module}.{name}")
