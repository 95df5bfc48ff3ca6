"""The tables that ship with this package, in `data/`."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from hwnas.errors import InputError
from hwnas.latency_tables.table import LatencyTable

SUFFIXES = (".json", ".json.gz")


def shipped_names() -> list[str]:
    """Return the names of the tables that ship, sorted; `load_shipped` takes them."""
    return sorted(
        entry.name.removesuffix(suffix)
        for entry in _folder().iterdir()
        for suffix in SUFFIXES
        if entry.name.endswith(suffix)
    )


def load_shipped(name: str) -> LatencyTable:
    """Load a table that ships with this package.

    Raises:
        InputError: there is no such table; the message lists the names.
    """
    for suffix in SUFFIXES:
        entry = _folder() / f"{name}{suffix}"
        if entry.is_file():
            with resources.as_file(entry) as path:
                return LatencyTable.load(path)
    raise InputError("unknown table", expected=f"one of {', '.join(shipped_names())}", actual=name)


def load_table(source: str | Path) -> LatencyTable:
    """Load a table.

    Args:
        source: a file, or the name of a table that ships if there is no such file.

    Raises:
        InputError: there is no such table, or the file is not a valid table.
    """
    name = str(source)
    if not Path(source).exists() and name in shipped_names():
        return load_shipped(name)
    return LatencyTable.load(source)


def calibrated_for(space: str) -> list[LatencyTable]:
    """Return the shipped tables that have a calibration for networks of a space."""
    tables = (load_shipped(name) for name in shipped_names() if name.startswith(f"{space}-"))
    return [t for t in tables if t.calibration is not None and t.calibration.space == space]


def _folder() -> Traversable:
    return resources.files("hwnas.latency_tables") / "data"
