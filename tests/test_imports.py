"""The floors of the house: which module may import which, and no circles."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = {
    **dict.fromkeys((ROOT / "hwnas").rglob("*.py"), "hwnas"),
    **dict.fromkeys((ROOT / "kernels").rglob("*.py"), "hwnas.kernels"),
    **dict.fromkeys((ROOT / "latency_tables").rglob("*.py"), "hwnas.latency_tables"),
}

# From the ground up; a package may import itself and what stands on lower floors.
FLOORS = [
    {"hwnas.errors", "hwnas.durable"},
    {"hwnas.inspection", "hwnas.latency_tables", "hwnas.kernels"},
    {"hwnas.architecture", "hwnas.runs", "hwnas.config", "hwnas.ops", "hwnas.data"},
    {"hwnas.inference"},
    {"hwnas.nn", "hwnas.tasks"},
    {"hwnas.spaces"},
    {"hwnas.strategies", "hwnas.training"},
    {"hwnas.budget", "hwnas.controls", "hwnas.shrinking", "hwnas.knowledge"},
    {
        "hwnas.supernet",
        "hwnas.evaluators",
        "hwnas.calibration",
        "hwnas.checking",
        "hwnas.explaining",
        "hwnas.diagnosis",
        "hwnas.reporting",
    },
    {"hwnas.deploy"},
    {"hwnas.pipeline", "hwnas.studies"},
    {"hwnas.cli", "hwnas.estimators"},
    {"hwnas.__main__", "hwnas"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
# Tables and kernels can be taken out of the house and used alone.
ALONE = {
    "hwnas.kernels": {"hwnas.errors"},
    "hwnas.latency_tables": {"hwnas.errors", "hwnas.durable"},
}


def room(module: str) -> str:
    """The package or module of `FLOORS` that a dotted name belongs to."""
    parts = module.split(".")
    name = ".".join(parts[:2])
    return name if name in FLOOR_OF else parts[0]


def module_name(path: Path) -> str:
    top = SOURCES[path]
    base = ROOT / {"hwnas": "hwnas", "hwnas.kernels": "kernels"}.get(top, "latency_tables")
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join([top, *parts]).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            # `from hwnas import kernels` imports the submodule.
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= set(whole) if node.module == "hwnas" else {node.module}
    return {name for name in found if name.split(".")[0] == "hwnas"}


def test_no_import_runs_back_up() -> None:
    wrong = []
    for path in SOURCES:
        own = room(module_name(path))
        if own == "hwnas":
            continue  # the public names are imported lazily
        for name in imports(path):
            other = room(name)
            if other != own and FLOOR_OF[other] >= FLOOR_OF[own]:
                wrong.append(f"{module_name(path)} imports {name}")
            if own in ALONE and other != own and other not in ALONE[own]:
                wrong.append(f"{module_name(path)} must stand alone, imports {name}")
    assert not wrong, "\n".join(sorted(wrong))


def test_only_mixtures_and_operators_call_kernels() -> None:
    users = {
        module_name(path)
        for path in SOURCES
        if any(room(name) == "hwnas.kernels" for name in imports(path))
        and room(module_name(path)) != "hwnas.kernels"
    }
    assert users == {
        "hwnas.nn.mixed_branches", "hwnas.nn.mixed_edge", "hwnas.nn.mixed_op", "hwnas.ops.cells"
    }  # fmt: skip


def test_there_is_no_circle() -> None:
    graph = {module_name(path): set() for path in SOURCES}
    for path in SOURCES:
        name = module_name(path)
        if name == "hwnas":
            continue
        graph[name] = {other for other in imports(path) if other in graph and other != "hwnas"}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " > ".join((*trail, name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_files_stay_readable() -> None:
    long = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in SOURCES
        if len(path.read_text().splitlines()) > 490
    }
    assert not long
