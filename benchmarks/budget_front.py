"""Claim: runs keep their budgets, and how the search compares with random search at equal steps.

Collects finished run folders into one row each; `hwnas report FOLDER` plots them.

    for f in 0.2 0.5 0.8; do
        hwnas run --table T.json --set budget.fraction=$f --out FOLDER/f$f; done
    python benchmarks/budget_front.py FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

from results import append_row

from hwnas.config import load_config
from hwnas.runs.run_folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for path in sorted(parser.parse_args().folder.glob("*/check.json")):
        folder = RunFolder(path.parent)
        config = load_config(folder.config)
        check, history = folder.read_json(folder.check), folder.read_history()
        steps = [r for r in history if r["event"] == "search"]
        candidates = [r for r in history if r["event"] == "measurement"]
        entropy = [r["entropy"] for r in steps if r["entropy"] is not None]
        append_row(
            "budget_front",
            {
                "strategy": config.search.strategy,
                "budget_fraction": config.budget.fraction,
                "seed": config.seed,
                "steps": config.search.steps,
                "verdict": check["verdict"],
                "budget_ms": check["budget_ms"],
                "predicted_ms": check["predicted_ms"],
                "measured_ms": check["measured"]["value_ms"],
                "ci_high_ms": check["measured"]["ci_high_ms"],
                "measured_status": check["measured"]["status"],
                "accuracy": check["accuracy"]["onnx"],
                "macs": check["model"]["macs"],
                "params": check["model"]["params"],
                "candidates_measured": len(candidates),
                "entropy_first": entropy[0] if entropy else "",
                "entropy_last": entropy[-1] if entropy else "",
            },
        )


if __name__ == "__main__":
    main()
