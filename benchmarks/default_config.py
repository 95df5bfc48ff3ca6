"""Claim: what every strategy finds with the default configuration, in what time and memory.

Each strategy searches, trains, exports and checks in processes of its own, with one latency table
that is measured first. Time and memory are those of the whole search process.

    python benchmarks/default_config.py FOLDER [STRATEGY ...]

A strategy whose run in FOLDER is finished is left out, so the script can be started again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from results import append_row

from hwnas.runs.run_folder import RunFolder
from hwnas.strategies import STRATEGIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("strategies", nargs="*", default=list(STRATEGIES))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    table = arguments.folder / "table.json"
    if not table.exists():
        measured("profile", "default", "--out", str(table))
    for strategy in arguments.strategies:
        run = arguments.folder / strategy
        if not (run / "check.json").exists():
            search_s, search_peak_mb = measured(
                "search",
                "default",
                "--strategy",
                strategy,
                "--table",
                str(table),
                "--out",
                str(run),
            )
            measured("run", "--resume", "--out", str(run))
            append_row(
                "default_config", figures(RunFolder(run), strategy, search_s, search_peak_mb)
            )


def measured(*arguments: str) -> tuple[float, float]:
    """Run `hwnas` with these arguments; return its seconds and its peak memory in MB (10^6)."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "hwnas", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    # A budget that is not kept is a result too.
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        sys.exit(f"hwnas {' '.join(arguments)} failed")
    return time.monotonic() - start, usage.ru_maxrss * 1024 / 1e6


def figures(
    folder: RunFolder, strategy: str, search_s: float, search_peak_mb: float
) -> dict[str, object]:
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
        "search_s": search_s,
        "search_peak_mb": search_peak_mb,
    }


if __name__ == "__main__":
    main()
