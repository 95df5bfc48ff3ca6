"""Make the tables of this machine that ship, each audited on random networks; a row a table.

    python benchmarks/make_machine_tables.py MACHINE [NAME ...] [--seconds 3] [--networks 30]

`MACHINE` stands in the files' names. Operators are of the spaces at the sizes that their papers
state figures for, batch 1, one thread, float32. Tables that are there are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from processes import run_hwnas
from results import append_row

from hwnas.latency_tables.table import LatencyTable

FOLDER = Path(__file__).parents[1] / "latency_tables" / "data"
IMAGES = "input_channels=3, height=32, width=32, classes=10"
IMAGENET = "input_channels=3, height=224, width=224, classes=1000"
SPACES = {
    "darts": f"{{name='darts', cells=20, channels=36, {IMAGES}}}",
    "nasbench201": f"{{name='nasbench201', cells=5, channels=16, {IMAGES}}}",
    "proxylessnas": f"{{name='mbconv', layout='proxylessnas', {IMAGENET}}}",
    "fbnet": f"{{name='mbconv', layout='fbnet', {IMAGENET}}}",
}
RUNTIMES = ("onnxruntime-cpu", "torch-cpu")


def main() -> None:
    """Profile, audit, append a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("machine")
    parser.add_argument("names", nargs="*", help="of a space and a runtime, as darts-torch-cpu")
    parser.add_argument("--seconds", type=float, default=3.0, help="an operator")
    parser.add_argument("--audit-seconds", type=float, default=240.0)
    parser.add_argument("--networks", type=int, default=30)
    arguments = parser.parse_args()
    for space, options_of_space in SPACES.items():
        changes = ["--set", f"space={options_of_space}"]
        for runtime in RUNTIMES:
            path = FOLDER / f"{space}-{arguments.machine}-{runtime}.json"
            is_wanted = not arguments.names or f"{space}-{runtime}" in arguments.names
            if path.exists() or not is_wanted:
                continue
            options = ["--runtime", runtime, "--seconds", str(arguments.seconds)]
            run_hwnas("profile", *changes, *options, "--out", str(path))
            options = ["-k", str(arguments.networks), "--seconds", str(arguments.audit_seconds)]
            run_hwnas("table", "audit", str(path), *changes, *options)
            append_row("machine_tables", figures(path))


def figures(path: Path) -> dict[str, object]:
    """A row about a table."""
    table = LatencyTable.load(path)
    audit = table.audit
    assert audit is not None
    assert audit.repeatability is not None
    return {
        "table": path.stem,
        "operators": len(table.operators),
        "networks": audit.networks,
        "spearman": audit.spearman,
        "kendall": audit.kendall,
        "median_error": audit.median_error,
        "p95_error": audit.p95_error,
        "within_10": audit.within_10_percent,
        "macs_spearman": audit.macs.spearman,
        "params_spearman": audit.params.spearman,
        "repeated_median": audit.repeatability.median_difference,
        "repeated_p95": audit.repeatability.p95_difference,
    }


if __name__ == "__main__":
    main()
