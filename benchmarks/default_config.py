"""Claim: what every strategy finds with the configuration `darts_slice`, in what time and memory.

Each strategy searches, trains, exports and checks in processes of its own, with one latency table
that is measured first. Time and memory are those of the whole search process.

    python benchmarks/default_config.py FOLDER [STRATEGY ...]

A strategy whose run in FOLDER is finished is left out, so the script can be started again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from processes import Usage, run_hwnas
from results import append_row

from hwnas.runs.run_folder import RunFolder
from hwnas.strategies import STRATEGIES

CONFIGURATION = "darts_slice"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("strategies", nargs="*", default=list(STRATEGIES))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    table = arguments.folder / "table.json"
    if not table.exists():
        run_hwnas("profile", CONFIGURATION, "--out", str(table))
    for strategy in arguments.strategies:
        run = arguments.folder / strategy
        if not (run / "check.json").exists():
            search = run_hwnas(
                "search",
                CONFIGURATION,
                "--strategy",
                strategy,
                "--table",
                str(table),
                "--out",
                str(run),
            )
            run_hwnas("run", "--resume", "--out", str(run))
            append_row("default_config", figures(RunFolder(run), strategy, search))


def figures(folder: RunFolder, strategy: str, search: Usage) -> dict[str, object]:
    """A row about a finished run."""
    check = folder.read_json(folder.check)
    candidates = [r for r in folder.read_history() if r["event"] == "measurement"]
    return {
        "strategy": strategy,
        "verdict": check["verdict"],
        "accuracy": check["accuracy"]["onnx"],
        "budget_ms": check["budget_ms"],
        "predicted_ms": check["predicted_ms"],
        "measured_ms": check["measured"]["value_ms"],
        "measured_status": check["measured"]["status"],
        "params": check["model"]["params"],
        "candidates_measured": len(candidates),
        "search_s": search.wall_s,
        "search_peak_mb": search.peak_mb,
    }


if __name__ == "__main__":
    main()
