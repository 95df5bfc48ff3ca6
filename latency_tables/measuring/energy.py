"""Energy of an inference, measured by the energy counters of processors.

NVML counts the energy that a GPU has used since its driver was loaded (Volta and later). Linux'
powercap interface counts that of a processor's packages (RAPL). Both count the whole device, so the
result includes its idle power and the work of other processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwnas.latency_tables.runtimes.base import Runtime

POWERCAP = Path("/sys/class/powercap")
COUNTED_SECONDS = 2.0
"""Time over which energy is counted. NVML updates its counter about every 0.1 s, which is 5 %."""


@dataclass(frozen=True)
class Energy:
    """Energy of consecutive inferences.

    Attributes:
        mj: energy of one inference, in millijoules.
        power_w: mean power of the device during the measurement, in watts.
        inferences: number of inferences that were counted.
        counter: the source of the energy, `nvml` or `powercap`.
    """

    mj: float
    power_w: float
    inferences: int
    counter: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Counter:
    """An energy counter of a device, which may have several parts.

    Attributes:
        name: name of the source, `nvml` or `powercap`.
        read_mj: returns the energy that each part has used up to now, in millijoules.
        ranges_mj: for each part the value at which its counter starts again at zero.
    """

    name: str
    read_mj: Callable[[], tuple[float, ...]]
    ranges_mj: tuple[float, ...]

    def between_mj(self, before: tuple[float, ...], after: tuple[float, ...]) -> float:
        """Return the energy that all parts used between two readings, at most one range apart."""
        parts = zip(before, after, self.ranges_mj, strict=True)
        return sum(end - start + (span if end < start else 0.0) for start, end, span in parts)


def energy_counter(runtime: Runtime) -> Counter | None:
    """Return the counter of a runtime's device, or None if there is none that can be read."""
    if not runtime.is_here:
        return None
    return _nvml_counter() if runtime.device_class == "gpu" else powercap_counter(POWERCAP)


def measure_energy(
    call: Callable[[], None],
    runtime: Runtime,
    counter: Counter,
    *,
    latency_ms: float,
    seconds: float = COUNTED_SECONDS,
) -> Energy:
    """Measure the energy of consecutive inferences.

    Args:
        call: runs one inference.
        runtime: the runtime of `call`, which waits until the device has finished.
        counter: the energy counter of the runtime's device.
        latency_ms: latency of one inference, from which their number is computed.
        seconds: duration of the measurement; at least one inference is run.
    """
    inferences = max(1, round(seconds * 1e3 / latency_ms))
    before = counter.read_mj()
    elapsed_ms = runtime.time_block(call, inferences)
    taken_mj = counter.between_mj(before, counter.read_mj())
    return Energy(taken_mj / inferences, taken_mj / elapsed_ms, inferences, counter.name)


def powercap_counter(folder: Path) -> Counter | None:
    """Return the counter of all processor packages, or None if this user can read none.

    Args:
        folder: the kernel's folder of power zones.
    """
    packages = [path for path in sorted(folder.glob("*-rapl:*")) if path.name.count(":") == 1]
    packages = [path for path in packages if _read_text(path / "name").startswith("package")]

    def read_mj() -> tuple[float, ...]:
        return tuple(int((path / "energy_uj").read_text()) / 1e3 for path in packages)

    try:
        ranges = [int((path / "max_energy_range_uj").read_text()) / 1e3 for path in packages]
        read_mj()
    except (OSError, ValueError):
        return None
    return Counter("powercap", read_mj, tuple(ranges)) if packages else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _nvml_counter() -> Counter | None:
    """Return the counter of PyTorch's first GPU; None without NVML or if the GPU has no counter."""
    import torch

    try:
        import pynvml  # type: ignore[import-not-found, unused-ignore]

        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except ImportError:
        return None
    except pynvml.NVMLError:
        return None

    def read_mj() -> tuple[float, ...]:
        return (float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)),)

    return Counter("nvml", read_mj, (float(2**64),))
