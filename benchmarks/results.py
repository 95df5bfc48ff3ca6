"""Rows of results: one CSV a benchmark, every row with its date, machine and versions."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwnas.latency_tables.devices import cpu_name

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("hwnas", "torch", "onnxruntime-gpu", "onnxruntime", "numpy")


def append_row(benchmark: str, figures: Mapping[str, Any], *, quiet: bool = False) -> None:
    """Print a row, unless quiet, and append it to `results/<benchmark>.csv`."""
    stamp = {"date": datetime.date.today().isoformat(), "cpu": cpu_name()}
    stamp["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            stamp[package.replace("-gpu", "")] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    row = {key: _text(value) for key, value in {**figures, **stamp}.items()}
    if not quiet:
        for key, value in row.items():
            print(f"{key}: {value}")
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{benchmark}.csv"
    exists = path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
        if not exists:
            writer.writeheader()
        writer.writerow(row)


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
