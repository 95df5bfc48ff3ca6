"""Energy of an inference, by the counters that processors keep of themselves.

NVML counts what a GPU has taken since its driver was loaded (Volta and later), Linux' powercap what
the packages of a processor have (RAPL). Both count the whole device: what it takes while idle and
what others do on it are in the figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwnas.latency_tables.runtimes.base import Runtime

POWERCAP = Path("/sys/class/powercap")
COUNTED_SECONDS = 2.0
"""NVML renews its counter about every 0.1 s: an error of 5 % of this time."""


@dataclass(frozen=True)
class Energy:
    """What inferences took, one after another.

    Attributes:
        mj: millijoules of one inference.
        power_w: mean power of the device meanwhile, in watts.
        inferences: that were counted.
        counter: `nvml` or `powercap`.
    """

    mj: float
    power_w: float
    inferences: int
    counter: str

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Counter:
    """A counter of energy.

    Attributes:
        name: of its source.
        read_mj: what the device has taken up to now, in millijoules of each of its parts.
        ranges_mj: where each part's count starts again at zero.
    """

    name: str
    read_mj: Callable[[], tuple[float, ...]]
    ranges_mj: tuple[float, ...]

    def between_mj(self, before: tuple[float, ...], after: tuple[float, ...]) -> float:
        """What all parts took between two readings, at most one range apart."""
        parts = zip(before, after, self.ranges_mj, strict=True)
        return sum(end - start + (wraps if end < start else 0.0) for start, end, wraps in parts)


def energy_counter(runtime: Runtime) -> Counter | None:
    """The counter of the device that a runtime runs on; None where there is none to read."""
    return _nvml_counter() if runtime.device_class == "gpu" else powercap_counter(POWERCAP)


def measure_energy(
    call: Callable[[], None],
    runtime: Runtime,
    counter: Counter,
    *,
    latency_ms: float,
    seconds: float = COUNTED_SECONDS,
) -> Energy:
    """Count the energy of inferences that follow each other for some seconds.

    Args:
        call: one inference.
        runtime: runs it and waits for its end.
        counter: of its device.
        latency_ms: what one takes; says how many fit.
        seconds: how long, at least one inference.
    """
    inferences = max(1, round(seconds * 1e3 / latency_ms))
    before = counter.read_mj()
    elapsed_ms = runtime.time_block(call, inferences)
    taken_mj = counter.between_mj(before, counter.read_mj())
    return Energy(taken_mj / inferences, taken_mj / elapsed_ms, inferences, counter.name)


def powercap_counter(folder: Path) -> Counter | None:
    """The sum over a processor's packages, or None where the kernel shows none to this user."""
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
    """Of PyTorch's first GPU; None without NVML or on a GPU that counts nothing."""
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
