"""Claim: every script of the gallery ends with a checked model, and says what a control reaches.

Runs scripts of `examples/` in full and appends a row for each: score and latency of the network
that was searched for, of a random network, and of a fixed one, all trained by the same recipe. The
fixed network is the one with the most parameters of those within the budget; for CartPole it is the
hand-written policy of the script.

    python benchmarks/gallery.py [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

from results import append_row

EXAMPLES = Path(__file__).parents[1] / "examples"


def main() -> None:
    names = sorted(path.stem for path in EXAMPLES.glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*names, []], help="scripts; all if none")
    sys.path.insert(0, str(EXAMPLES))
    for name in parser.parse_args().names or names:
        with tempfile.TemporaryDirectory() as folder:
            append_row("gallery", {"example": name, **figures(name, folder)})


def figures(name: str, folder: str) -> dict[str, object]:
    """The figures of one script, run in full."""
    script, started = import_module(name), time.monotonic()
    result = script.main(f"{folder}/run")
    seconds = time.monotonic() - started
    networks = result.controls
    if networks:
        searched, fixed = networks["searched"], networks.get("most-parameters", {})
    else:
        score = script.tested(result.model, seed=2000)
        searched, fixed = {"score": score, "latency_ms": result.latency_ms}, script.control()
    random = networks.get("random-1", {})
    options = json.loads((result.folder / "architecture.json").read_text())["choices"]
    return {
        "verdict": result.verdict,
        "budget_ms": result.budget_ms,
        "metric": result.metric,
        "score": searched["score"],
        "latency_ms": searched["latency_ms"],
        "fixed_score": fixed.get("score", ""),
        "fixed_latency_ms": fixed.get("latency_ms", ""),
        "random_score": random.get("score", ""),
        "random_latency_ms": random.get("latency_ms", ""),
        "architecture": ", ".join(f"{choice} {option}" for choice, option in options.items()),
        "seconds": round(seconds),
    }


if __name__ == "__main__":
    main()
