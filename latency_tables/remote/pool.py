"""Equal devices that measure in parallel, as one runtime.

Each measurement runs on the member that is free, so sessions of one network are spread over the
members, and what the members differ by is a part of what its sessions differ by.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from hwnas.errors import DeviceError
from hwnas.latency_tables.device_profile import DeviceProfile
from hwnas.latency_tables.on_device.measure import Call
from hwnas.latency_tables.remote.runtime import RemoteCall, RemoteRuntime
from hwnas.latency_tables.runtimes import Infer, Model, OnnxModelRuntime
from hwnas.latency_tables.timing import Progress, Protocol, RoundMedians, Stop


class RemotePool(OnnxModelRuntime):
    """A runtime on several devices with the same processor and the same versions."""

    is_here = False

    def __init__(self, name: str, members: Sequence[RemoteRuntime]) -> None:
        """Keep the members, without connecting to them.

        Args:
            name: of the pool in `devices.toml`.
            members: the runtime on each device, at least one.
        """
        first = members[0]
        super().__init__(first.threads)
        self.place, self.members, self._first = name, members, first
        self.name, self.device_class = first.name, first.device_class
        self.statistic = first.statistic
        self.parallel = len(members)
        self._free: queue.Queue[RemoteRuntime] = queue.Queue()
        for member in members:
            self._free.put(member)

    @property
    def remarks(self) -> Sequence[str]:
        """See `Runtime.remarks`; those of all members."""
        return [remark for member in self.members for remark in member.remarks]

    def require(self) -> None:
        """See `Runtime.require`.

        Raises:
            DeviceError: a member cannot be reached, or differs from the first.
            RuntimeMissingError: a member does not have the runtime.
        """
        profiles = []
        for member in self.members:
            member.require()
            profiles.append(member.profile(dtype="float32", batch=1))
            differences = profiles[0].differences(profiles[-1], DeviceProfile.model_fields)
            if differences:
                raise DeviceError(
                    f"{member.place} differs from {self._first.place}",
                    where=f"pool {self.place}",
                    actual="; ".join(differences),
                    mend="leave it out of `members`, or give it the same versions",
                )

    def device_name(self) -> str:
        """See `Runtime.device_name`; the same for all members."""
        return self._first.device_name()

    def options(self) -> dict[str, str]:
        """See `Runtime.options`."""
        return self._first.options()

    def profile(
        self, *, dtype: str, batch: int, versions: Mapping[str, str] | None = None
    ) -> DeviceProfile:
        """See `Runtime.profile`; that of the first member."""
        return self._first.profile(dtype=dtype, batch=batch, versions=versions)

    def prepare_onnx(self, model: Model, feeds: Mapping[str, np.ndarray]) -> RemoteCall:
        """See `OnnxModelRuntime.prepare_onnx`; any member may measure it."""
        return replace(self._first.prepare_onnx(model, feeds), runtime=self)

    def measure(
        self,
        calls: Mapping[str, Call],
        protocol: Protocol,
        *,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> dict[str, RoundMedians]:
        """See `Runtime.measure`; on the first member that is free."""
        with self._member() as member:
            return member.measure(calls, protocol, progress=progress, stop=stop)

    def time_block(self, call: Call, calls: int) -> float:
        """See `Runtime.time_block`."""
        with self._member() as member:
            return member.time_block(call, calls)

    def single_calls_ms(
        self, call: Call, *, calls: int, seconds: float, few: int, few_seconds: float
    ) -> list[float]:
        """See `Runtime.single_calls_ms`."""
        with self._member() as member:
            return member.single_calls_ms(
                call, calls=calls, seconds=seconds, few=few, few_seconds=few_seconds
            )

    def infer(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """See `OnnxModelRuntime.infer`; on the first member."""
        return self._first.infer(model, limit_s=limit_s)

    def infer_unoptimised(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """See `OnnxModelRuntime.infer_unoptimised`; on this machine."""
        return self._first.infer_unoptimised(model, limit_s=limit_s)

    def placement(self, model: Model) -> dict[str, dict[str, int]]:
        """See `OnnxModelRuntime.placement`; not known of devices that are elsewhere."""
        return {}

    @contextmanager
    def _member(self) -> Iterator[RemoteRuntime]:
        """A member that nothing else measures on, as soon as there is one."""
        member = self._free.get()
        try:
            yield member
        finally:
            self._free.put(member)
