"""Claim: a search in a network written with `hwnas.nn` reaches what the built-in space reaches.

Searches, trains and checks the network of `own_network.py` and the space of the configuration
`mbconv_slice`, which have the same architectures: with the configuration's settings, its data, the
same seeds, and one latency table that has the operators of both. Appends a row for each seed.

    python benchmarks/own_network_accuracy.py FOLDER [--seeds 3] [--set KEY=VALUE ...]

Runs in FOLDER that are finished are not repeated, so the script can be started again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from own_network import Network, measured_together
from results import append_row

import hwnas
from hwnas.config import Config, load_config
from hwnas.data import load_dataset
from hwnas.pipeline import stages
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces import build_space

SECONDS = 0.5
"""For each operator of the latency table."""


def main() -> None:
    """Append a row for each seed that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    table = arguments.folder / "table.json"
    if not table.exists():
        shipped = build_space("mbconv", {"layout": "small", "input_channels": 1} | SIZES)
        own = hwnas.space_of(Network(), torch.zeros(1, 1, *SIZES.values()))
        measured_together(own, shipped, SECONDS).save(table)
    for seed in range(arguments.seeds):
        config = load_config("mbconv_slice", [f"seed={seed}", *arguments.overrides])
        row = arguments.folder / f"{seed}"
        if not RunFolder(row / "own").check.exists():
            of_shipped = searched_in_shipped(config, row / "shipped", table)
            of_own = searched_in_own(config, row / "own", table)
            steps = {"steps": config.search.steps, "epochs": config.train.epochs}
            append_row("own_network_accuracy", {"seed": seed, **steps, **of_own, **of_shipped})


SIZES = {"height": 28, "width": 28}


def searched_in_shipped(config: Config, folder: Path, table: Path) -> dict[str, Any]:
    """Accuracy and latency with the built-in space."""
    stages.run(config, folder, table=table, resume=RunFolder(folder).history.exists())
    return figures("shipped", folder)


def searched_in_own(config: Config, folder: Path, table: Path) -> dict[str, Any]:
    """Accuracy and latency with the network, by the same settings."""
    tables = {name: getattr(config, name) for name in ("budget", "search", "train", "latency")}
    settings: dict[str, Any] = {"threads": config.threads}
    for name, stated in tables.items():
        settings[name] = stated.model_dump(mode="json", exclude_none=True)
    torch.manual_seed(config.seed)
    data = load_dataset(config.data.name)
    hwnas.search(Network(), folder, train=data, table=table, seed=config.seed, settings=settings)
    return figures("own", folder)


def figures(name: str, folder: Path) -> dict[str, Any]:
    """The figures of a finished run."""
    result = hwnas.load(folder)
    return {
        f"{name}_accuracy": result.score,
        f"{name}_latency_ms": result.latency_ms,
        f"{name}_verdict": result.verdict,
    }


if __name__ == "__main__":
    main()
