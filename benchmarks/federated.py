"""Claim: a federated search ends with a network as good as that of a search on all samples.

Each configuration is run to its end with all samples in one place, with clients that have equal
shares of the classes, and with clients whose shares differ (Dirichlet distribution). The number of
steps, the table, the seed and the training of the chosen network are the same; each client takes as
many steps as the search on all samples. Stated are the score of the exported network on the test
samples, and the difference to the search on all samples with the same seed.

    python benchmarks/federated.py FOLDER [--config NAME] [--seeds 3] [--clients 4] [--skew 0.3]
        [--set KEY=VALUE ...]

Finished runs in FOLDER are kept, and unfinished ones resumed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from processes import VERDICTS, run_hwnas
from results import append_row

from hwnas.runs.run_folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", default="darts_slice")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--skew", type=float, default=0.3)
    parser.add_argument("--local-steps", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], help="further settings of all runs")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    stated = [word for setting in arguments.set for word in ("--set", setting)]
    table = arguments.folder / "table.json"
    if not table.exists():
        run_hwnas("profile", arguments.config, *stated, "--out", str(table))
    apart = [f"search.clients={arguments.clients}", f"search.local_steps={arguments.local_steps}"]
    searches = {
        "all samples": [],
        "equal clients": apart,
        "different clients": [*apart, f"search.client_skew={arguments.skew}"],
    }
    for seed in range(arguments.seeds):
        central = None
        for name, settings in searches.items():
            own = [word for setting in settings for word in ("--set", setting)]
            run = arguments.folder / f"{name.replace(' ', '-')}-{seed}"
            score, seconds = finished(run, [arguments.config, *stated, *own], table, seed)
            central = score if central is None else central
            row = {
                "configuration": arguments.config,
                "search": name,
                "clients": 1 if name == "all samples" else arguments.clients,
                "local_steps": arguments.local_steps,
                "skew": arguments.skew if name == "different clients" else "",
                "seed": seed,
                "score": score,
                "difference": score - central,
                "search_seconds": seconds,
            }
            append_row("federated", row)


def finished(run: Path, line: list[str], table: Path, seed: int) -> tuple[float, float]:
    """The test score of a run and the seconds of its search; the run is made if it is not there."""
    command = [sys.executable, "-m", "hwnas", "run", "--out", str(run)]
    begun = (run / "config.toml").exists()
    command += ["--resume"] if begun else [*line, "--table", str(table), "--seed", str(seed)]
    code = subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if code not in VERDICTS:
        sys.exit(f"{run} ended with exit code {code}")
    folder = RunFolder(run)
    metrics = folder.read_json(folder.metrics)
    ended = [r["seconds"] for r in folder.read_history() if r.get("stage") == "search"]
    return float(metrics[metrics["metric"]]), float(sum(ended))


if __name__ == "__main__":
    main()
