"""Claim: what a run's model costs and keeps in other number formats.

Every variant is judged by the gates of its format and measured in the same rounds as the exported
model; the ratio is of latencies, paired round by round, with its 95 % interval.

    hwnas run --out DIR && python benchmarks/variants.py DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

from results import append_row

from hwnas.deploy.variants import VARIANTS
from hwnas.pipeline.run import Run
from hwnas.pipeline.variants import export_variants
from hwnas.runs import progress


def main() -> None:
    """Append a row a variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run's folder")
    run = Run.open(parser.parse_args().run, stage=progress.shown)
    document = export_variants(run, tuple(VARIANTS))
    for name, entry in document["variants"].items():
        if entry["error"] is not None:
            print(f"{name}: {entry['error']}")
            continue
        metric = entry["metric"]
        append_row(
            "variants",
            {
                "space": run.problem.space.name,
                "runtime": document["runtime"],
                "batch": document["batch"],
                "threads": document["environment"]["threads"],
                "variant": name,
                "latency_ms": entry["measured"]["value_ms"],
                "ratio_median": entry["ratio"]["value"],
                "ratio_low": entry["ratio"]["ci_low"],
                "ratio_high": entry["ratio"]["ci_high"],
                "size_bytes": entry["size_bytes"],
                "memory_mb": entry["memory_mb"],
                "sqnr_db": entry["parity"]["sqnr_db"],
                "agreement": entry["parity"]["top1_agreement"],
                "metric": metric,
                "score": entry[metric]["onnx"],
                "drop": entry[metric]["drop"],
                "verdict": entry["verdict"],
                "fastest": document["fastest"] == name,
            },
        )


if __name__ == "__main__":
    main()
