"""What a machine is, what it has, and what else happens on it during a measurement."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hwnas.latency_tables.on_device.measure import device_name, versions


class Watch:
    """What else happens on this machine during a measurement."""

    def __init__(self) -> None:
        self.start = (time.perf_counter(), busy_s(), own_s(), throttled())

    def state(self) -> dict[str, Any]:
        """Return the cores that other programs used, and whether the clock was lowered for heat."""
        start_s, busy, own, heat = self.start
        seconds = max(time.perf_counter() - start_s, 1e-3)
        used = None
        if busy is not None:
            used = max(0.0, (busy_s() or busy) - busy - (own_s() - own)) / seconds
        return {
            "others_cores": used,
            "seconds": seconds,
            "throttled": throttled() != heat or under_heat(),
            "temperature_c": temperature_c(),
        }


def busy_s() -> float | None:
    """Return the seconds that all processors have worked since the start, summed; Linux only."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        times = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        user, nice, system, _, _, irq, softirq = map(int, times[:7])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return None


def own_s() -> float:
    """Return the seconds of processor time that this process has used."""
    times = os.times()
    return times.user + times.system


def throttled() -> int:
    """Return how often processors were slowed down for heat or power, by the kernel's counters."""
    counters = Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/*_throttle_count")
    return sum(int(_text(path) or 0) for path in counters)


def under_heat() -> bool:
    """Return whether a Raspberry Pi's firmware says that it lowers the clock now."""
    found = _text("/sys/devices/platform/soc/soc:firmware/get_throttled")
    # Bits 0 to 3: under-voltage, frequency capped, throttled, soft temperature limit.
    with contextlib.suppress(ValueError):
        return bool(int(found or "0", 16) & 0b1111)
    return False


def temperature_c() -> float | None:
    """Return the temperature of the hottest zone in degrees Celsius, or None."""
    found = [
        int(text) / 1000
        for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")
        for text in [_text(path)]
        if text and text.lstrip("-").isdigit()
    ]
    return max(found, default=None)


def facts(workdir: Path) -> dict[str, Any]:
    """Return what this machine is and what it has."""
    found: dict[str, Any] = {
        "device": device_name(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": os.cpu_count(),
        "versions": versions(),
        "providers": [],
        "memory_mb": _memory_mb("MemTotal"),
        "free_memory_mb": _memory_mb("MemAvailable"),
        "governors": sorted({_text(p) or "" for p in _cpufreq("scaling_governor")}),
        "clock_mhz": sorted({int(_text(p) or 0) // 1000 for p in _cpufreq("cpuinfo_max_freq")}),
        "temperature_c": temperature_c(),
        "time_s": time.time(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "workdir": str(workdir),
    }
    with contextlib.suppress(Exception):  # a broken installation may raise anything
        import onnxruntime

        found["providers"] = onnxruntime.get_available_providers()
        with contextlib.suppress(Exception):
            found["gpu"] = gpu_name()
    with contextlib.suppress(OSError):
        found["load"] = os.getloadavg()[0]
    existing = next(path for path in [workdir, *workdir.parents] if path.exists())
    with contextlib.suppress(OSError):
        found["free_disk_mb"] = shutil.disk_usage(str(existing)).free / 1e6
    return found


def gpu_name() -> str | None:
    """Return the name of the first NVIDIA GPU, by the driver's files, or of a Jetson's board."""
    for path in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            if key == "Model":
                return value.strip()
    return _text("/proc/device-tree/model")


def _cpufreq(name: str) -> Iterator[Path]:
    return Path("/sys/devices/system/cpu/cpufreq").glob(f"policy*/{name}")


def _memory_mb(key: str) -> float | None:
    for line in (_text("/proc/meminfo") or "").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def _text(path: str | Path) -> str | None:
    """Return the text of a file of the system, or None if there is none."""
    try:
        return Path(path).read_text(encoding="utf-8").strip("\0\n ")
    except (OSError, ValueError):
        return None
