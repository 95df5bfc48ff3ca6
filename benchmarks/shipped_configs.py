"""Claim: every shipped configuration for a CPU ends with a kept budget, in what time and memory.

Each runs as `hwnas run NAME` does, in a process of its own, its latency table included.

    python benchmarks/shipped_configs.py FOLDER [NAME ...]

A configuration whose run in FOLDER is finished is left out, so the script can be started again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from processes import Usage, run_hwnas
from results import append_row

from hwnas.config import load_config, shipped_configs
from hwnas.runs.run_folder import RunFolder


def main() -> None:
    """Append a row a configuration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="all of those for a CPU by default")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    names = arguments.names or [n for n in shipped_configs() if load_config(n).device == "cpu"]
    for name in names:
        run = RunFolder(arguments.folder / name)
        if not run.check.exists():
            append_row(
                "shipped_configs", figures(run, run_hwnas("run", name, "--out", str(run.path)))
            )


def figures(run: RunFolder, usage: Usage) -> dict[str, object]:
    """A row about a finished run."""
    check = run.read_json(run.check)
    metric = check["metric"]
    return {
        "configuration": run.path.name,
        "verdict": check["verdict"],
        "metric": metric,
        "score": check[metric]["onnx"],
        "budget_ms": check["budget_ms"],
        "predicted_ms": check["predicted_ms"],
        "measured_ms": check["measured"]["value_ms"],
        "measured_status": check["measured"]["status"],
        "params": check["model"]["params"],
        "wall_s": usage.wall_s,
        "processor_s": usage.processor_s,
        "peak_mb": usage.peak_mb,
    }


if __name__ == "__main__":
    main()
