"""Latency tables from measured networks: fitted to new measurements or to published ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from hwnas.architecture import Architecture
from hwnas.budget.coefficients import architecture_features
from hwnas.calibration.audit import audit
from hwnas.calibration.fit import fit, to_calibration
from hwnas.calibration.networks import from_text
from hwnas.calibration.prior import Prior, from_counts, from_table
from hwnas.data.nasbench201 import load_nasbench201
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import Calibration, Source
from hwnas.latency_tables.measuring.bundle import measured_networks, operator_table, read_results
from hwnas.latency_tables.shipped import load_table
from hwnas.latency_tables.table import DeviceProfile, LatencyTable
from hwnas.spaces import build_space
from hwnas.spaces.base import SearchSpace

HELP = Source(
    title="Lee et al., HELP: Hardware-Adaptive Efficient Latency Prediction for NAS via "
    "Meta-Learning, NeurIPS 2021 (arXiv 2106.08630): measured latencies of all cells",
    url="https://github.com/HayeonLee/HELP",
    licence="MIT",
    note="the number behind the device is the batch size; the runtime is not stated",
)
RUNTIME = "external"
"""Runtime of devices for which only latencies of networks are known."""
HELP_DATE = "2021-06-16"
HELP_DEVICES: dict[str, tuple[str, Literal["cpu", "gpu"]]] = {
    "1080ti": ("NVIDIA GTX 1080 Ti", "gpu"),
    "2080ti": ("NVIDIA RTX 2080 Ti", "gpu"),
    "titanx": ("NVIDIA Titan X", "gpu"),
    "titanxp": ("NVIDIA Titan Xp", "gpu"),
    "essential": ("Essential PH-1", "cpu"),
    "gold": ("Intel Xeon Gold", "cpu"),
    "silver": ("Intel Xeon Silver", "cpu"),
    "pixel3": ("Google Pixel 3", "cpu"),
    "samsung": ("Samsung", "cpu"),
}


def fitted_table(
    space: SearchSpace,
    prior: Prior,
    architectures: Sequence[Architecture],
    latency_ms: np.ndarray,
    device_name: str,
    base: str | Path | None = None,
) -> LatencyTable:
    """Make a table that is calibrated to measured networks.

    Args:
        space: the search space.
        prior: prior knowledge about the device.
        architectures: the measured networks.
        latency_ms: (architectures,) measured latencies.
        device_name: name of the device on which they were measured.
        base: table from which the prior was made. If it is a table of the same device, its
            operators are kept.
    """
    calibration = calibrate(space, prior, architectures, latency_ms)
    if base is not None:
        table = load_table(base)
        if table.device.device == device_name:
            return table.with_calibration(calibration)
        profile = table.device.model_copy(update={"device": device_name})
    else:
        profile = DeviceProfile.elsewhere(device_name, "cpu", 1, RUNTIME)
    return LatencyTable.from_measurements(
        {}, device=profile, statistic="mean", definitions={}, calibration=calibration
    )


def imported_table(path: Path) -> LatencyTable:
    """Make a table from the results of a measurement bundle that was run on another device.

    If networks were measured as well as operators, the table is calibrated to them.

    Raises:
        InputError: the file is malformed or the measurement is unfinished.
    """
    results = read_results(path)
    table = operator_table(results, str(path))
    networks = measured_networks(results, str(path))
    if not networks.genotypes or results.manifest is None:
        return table
    space = build_space(results.manifest.space, results.manifest.space_options, f"{path}: space")
    architectures = [from_text(space, text, path.parent) for text in networks.genotypes]
    prior = from_table(space, table)
    return table.with_calibration(calibrate(space, prior, architectures, networks.latency_ms))


def calibrate(
    space: SearchSpace,
    prior: Prior,
    architectures: Sequence[Architecture],
    latency_ms: np.ndarray,
) -> Calibration:
    """Fit a calibration to networks with measured latencies (architectures,) in ms."""
    rows = {edges: architecture_features(space, architectures, edges) for edges in prior.edges}
    fitted = fit(prior, rows, latency_ms)
    return to_calibration(space, fitted, networks=len(architectures), prior=prior.name)


def converted_help(path: Path, device: str | None) -> LatencyTable:
    """Make a table from the published NAS-Bench-201 latencies of HELP.

    The coefficients are fitted to all cells of the benchmark, and audited on the same cells.

    Args:
        path: npz file with `latency_ms` (cells, devices), in the benchmark's order, and `devices`.
        device: name of the device in the file.

    Raises:
        InputError: the file has other content, or no such device.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            latencies_ms, devices = file["latency_ms"], [str(name) for name in file["devices"]]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            "not the file of HELP's latencies",
            where=str(path),
            expected="an npz file with latency_ms and devices",
            actual=error,
        ) from None
    space = build_space("nasbench201", {})
    networks = all_cells(space)
    if latencies_ms.shape != (len(networks), len(devices)):
        raise InputError(
            "the array does not hold the latencies of all cells",
            where=f"{path}: latency_ms",
            expected=f"shape {(len(networks), len(devices))}",
            actual=latencies_ms.shape,
        )
    if device not in devices:
        raise InputError(
            "no such device in the file",
            where="--device",
            expected=f"one of {', '.join(devices)}",
            actual=device,
        )
    return _help_table(space, networks, device, latencies_ms[:, devices.index(device)])


def _help_table(
    space: SearchSpace, networks: list[Architecture], name: str, latency_ms: np.ndarray
) -> LatencyTable:
    latency_ms = latency_ms.astype(np.float64)
    calibration = calibrate(space, from_counts(space), networks, latency_ms)
    full_name, device_class = HELP_DEVICES.get(name.split("_")[0], (name, "cpu"))
    batch = int(name.split("_")[-1]) if device_class == "gpu" else 1
    table = LatencyTable.from_measurements(
        {},
        device=DeviceProfile.elsewhere(f"{full_name} ({name})", device_class, batch, RUNTIME),
        statistic="mean",
        definitions={},
        created=HELP_DATE,
        source=HELP,
        # After thousands of networks, the remaining uncertainty is negligible.
        calibration=calibration.model_copy(update={"factors": []}),
    )
    return table.with_audit(audit(space, table, networks, latency_ms))


def all_cells(space: SearchSpace) -> list[Architecture]:
    """Return all NAS-Bench-201 cells in the benchmark's order."""
    return [Architecture.of(space.name, choices) for choices in load_nasbench201().choices]
