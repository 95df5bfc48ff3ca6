"""The tables that ship: devices that were measured here or whose measurements are published."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from hwnas.errors import InputError
from hwnas.latency_tables.table import LatencyTable

SUFFIXES = (".json", ".json.gz")


def shipped_names() -> list[str]:
    """Names of the tables that ship, as `load_shipped` takes them."""
    names = []
    for entry in _folder().iterdir():
        for suffix in SUFFIXES:
            if entry.name.endswith(suffix):
                names.append(entry.name.removesuffix(suffix))
    return sorted(names)


def load_shipped(name: str) -> LatencyTable:
    """A table that ships.

    Raises:
        InputError: when there is none of this name; lists those there are.
    """
    for suffix in SUFFIXES:
        entry = _folder() / f"{name}{suffix}"
        if entry.is_file():
            with resources.as_file(entry) as path:
                return LatencyTable.load(path)
    raise InputError(
        "no such table ships", expected=f"one of {', '.join(shipped_names())}", actual=name
    )


def load_table(source: str | Path) -> LatencyTable:
    """A table from a file, or one that ships where there is no such file."""
    name = str(source)
    if not Path(source).exists() and name in shipped_names():
        return load_shipped(name)
    return LatencyTable.load(source)


def calibrated_for(space: str) -> list[LatencyTable]:
    """The tables that ship with a calibration of whole networks of a space."""
    tables = (load_shipped(name) for name in shipped_names() if name.startswith(f"{space}-"))
    return [t for t in tables if t.calibration is not None and t.calibration.space == space]


def _folder() -> Traversable:
    return resources.files("hwnas.latency_tables") / "data"
