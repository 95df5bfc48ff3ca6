"""Which runtime measures: one of this machine, of a device in `devices.toml`, or of a pool."""

from __future__ import annotations

from hwnas.latency_tables.remote.inventory import find_device
from hwnas.latency_tables.remote.pool import RemotePool
from hwnas.latency_tables.remote.runtime import RemoteRuntime
from hwnas.latency_tables.runtimes import Runtime, create_runtime


def runtime_on(device_name: str | None, name: str, threads: int) -> Runtime:
    """Return a runtime on a device or a pool of `devices.toml`, or on this machine.

    Args:
        device_name: a name of `devices.toml`, or None for this machine.
        name: a key of `hwnas.latency_tables.runtimes.RUNTIMES`.
        threads: CPU threads that one inference may use.

    Raises:
        InputError: a name is unknown, the runtime cannot be measured elsewhere, or `threads` is
            below 1.
    """
    if device_name is None:
        return create_runtime(name, threads)
    device = find_device(device_name)
    if not device.members:
        return RemoteRuntime(device, name, threads)
    members = [RemoteRuntime(find_device(member), name, threads) for member in device.members]
    return RemotePool(device.name, members)
