"""Make the tables of public devices that ship, from the published files in `HWNAS_DATA`.

HWNAS_DATA=... python benchmarks/make_device_tables.py
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from hwnas.calibration.make import converted_help
from hwnas.latency_tables.convert import convert
from hwnas.latency_tables.table import LatencyTable

FOLDER = Path(__file__).parents[1] / "latency_tables" / "data"


def main() -> None:
    """Write one file a device."""
    data = Path(os.environ["HWNAS_DATA"])
    latencies = data / "help_nb201_latency_ms.npz"
    with np.load(latencies, allow_pickle=False) as file:
        devices = [str(name) for name in file["devices"]]
    for device in devices:
        _save(f"nasbench201-{device}.json", converted_help(latencies, device))
    lut = data / "lut"
    _save("proxylessnas-pixel1.json", convert("proxylessnas", lut / "proxylessnas_pixel1_lut.json"))
    _save("fbnet-rpi4.json", convert("fbnet", lut / "fbnet_rpi4_lut.json"))
    for device in ("titanrtx", "xeon6130"):
        table = convert("tfnas", lut / "tfnas_lut.csv.gz", device)
        _save(f"tfnas-{device}.json.gz", table)


def _save(name: str, table: LatencyTable) -> None:
    table.save(FOLDER / name)
    print(name, len(table.operators), "operators", table.audit and f"{table.audit.spearman:.3f}")


if __name__ == "__main__":
    main()
