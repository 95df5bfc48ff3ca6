"""ONNX Runtime on a device that is elsewhere, as a runtime like those that are here."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import DeviceError, InputError, RuntimeMissingError
from hwnas.latency_tables.devices import cpu_name
from hwnas.latency_tables.on_device.measure import Call
from hwnas.latency_tables.remote.connection import Connection, RemoteModel, State
from hwnas.latency_tables.remote.inventory import Device
from hwnas.latency_tables.runtimes import (
    Infer,
    Model,
    OnnxModelRuntime,
    OnnxRuntime,
    OnnxRuntimeCpu,
    OnnxRuntimeCuda,
    TensorRtCuda,
)
from hwnas.latency_tables.timing import Progress, Protocol, RoundMedians, Stop, collect

logger = logging.getLogger("hwnas")


class OnnxRuntimeWeb(OnnxRuntime):
    """ONNX Runtime as WebAssembly, in a page."""

    name = "onnxruntime-web"
    device_class = "cpu"
    statistic = "p10"
    providers = ("wasm",)
    memory = "cpu"

    def options(self) -> dict[str, str]:
        """See `Runtime.options`; with the names of its JavaScript interface."""
        return {
            "executionMode": "sequential",
            "executionProviders": ", ".join(self.providers),
            "graphOptimizationLevel": "all",
            "numThreads": str(self.threads),
        }

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        return cpu_name()


KINDS: dict[str, type[OnnxRuntime]] = {
    kind.name: kind for kind in (OnnxRuntimeCpu, OnnxRuntimeCuda, TensorRtCuda, OnnxRuntimeWeb)
}
"""Runtimes that can be measured on a device that is elsewhere, or in a browser."""
MOST_OTHERS = 0.25
"""Processor cores in use by other programs above which a measurement is remarked on."""


@dataclass(frozen=True)
class RemoteCall:
    """One session of a model on a device; it is started when it is measured.

    Attributes:
        runtime: where it runs: a device or a pool of them.
        model: names its files.
        files: their contents, by digest.
    """

    runtime: OnnxModelRuntime
    model: RemoteModel
    files: Mapping[str, bytes]

    def __call__(self) -> None:
        """Run the model once there."""
        self.runtime.time_block(self, 1)


class RemoteRuntime(OnnxModelRuntime):
    """ONNX Runtime on a device of `devices.toml`.

    Models are measured there, in the same rounds as they would be here. What they compute is judged
    here; `infer` tells what the device computes.

    Attributes:
        device: how it is reached.
    """

    is_here = False

    def __init__(self, device: Device, name: str, threads: int) -> None:
        """Keep the settings, without connecting to the device.

        Args:
            device: how it is reached.
            name: a key of `KINDS`.
            threads: CPU threads that one inference may use.

        Raises:
            InputError: the runtime cannot be measured elsewhere, or `threads` is below 1.
        """
        super().__init__(threads)
        if name not in KINDS:
            raise InputError(
                "this runtime is measured on this machine only",
                where=f"device {device.name}",
                expected=f"one of {', '.join(KINDS)}",
                actual=name,
            )
        if (device.transport == "browser") != (name == OnnxRuntimeWeb.name):
            raise InputError(
                "this runtime does not run there",
                where=f"device {device.name}: transport {device.transport}",
                expected=f"{OnnxRuntimeWeb.name} with a browser, another one with a device",
                actual=name,
            )
        self.device, self.place = device, device.name
        self._doubts: dict[str, str] = {}
        self._most_others = 0.0
        self._kind = KINDS[name](threads)
        self.name, self.device_class = self._kind.name, self._kind.device_class
        self.statistic = self._kind.statistic
        self._connection = Connection(device)

    @property
    def remarks(self) -> Sequence[str]:
        """What made measurements doubtful so far."""
        return list(self._doubts.values())

    @property
    def connection(self) -> Connection:
        """The connection to the device; it is opened by the first request."""
        return self._connection

    def require(self) -> None:
        """See `Runtime.require`; connects to the device.

        Raises:
            DeviceError: the device cannot be reached, or is not set as `devices.toml` says.
            RuntimeMissingError: it does not have ONNX Runtime or the execution provider.
        """
        facts, name = self._connection.facts, self.device.name
        python = " ".join(self.device.words)
        needed = () if self.device.transport == "browser" else ("onnxruntime", "numpy")
        for library in needed:
            if library not in facts.versions:
                install = self._connection.by_hand(f"{python} -m pip install onnxruntime numpy")
                raise RuntimeMissingError(
                    f"{library} is not installed on the device",
                    where=name,
                    mend=f"install it with `{install}`",
                )
        if self._kind.providers[0] not in facts.providers:
            raise RuntimeMissingError(
                "the device's ONNX Runtime has no such execution provider",
                where=name,
                expected=self._kind.providers[0],
                actual=", ".join(facts.providers),
            )
        if self.device.governor is not None and facts.governors != [self.device.governor]:
            raise DeviceError(
                "another frequency governor is set",
                where=name,
                expected=self.device.governor,
                actual=", ".join(facts.governors) or "none that can be read",
                mend="set it there, as with `sudo cpupower frequency-set -g GOVERNOR`",
            )

    def device_name(self) -> str:
        """See `Runtime.device_name`."""
        facts = self._connection.facts
        return facts.gpu or facts.device if self.device_class == "gpu" else facts.device

    def options(self) -> dict[str, str]:
        """See `Runtime.options`; the processors too, where they are stated."""
        cpus = self.device.cpus
        stated = {} if cpus is None else {"cpus": ", ".join(map(str, cpus))}
        return self._kind.options() | stated

    def _versions(self) -> dict[str, str]:
        # Those on the device.
        return self._connection.facts.versions

    def prepare_onnx(self, model: Model, feeds: Mapping[str, np.ndarray]) -> RemoteCall:
        """See `OnnxModelRuntime.prepare_onnx`; the session starts when it is measured."""
        parts = (_serialised(model), _as_npz(feeds.values()))
        model_digest, feeds_digest = (hashlib.sha256(part).hexdigest() for part in parts)
        files = dict(zip((model_digest, feeds_digest), parts, strict=True))
        return RemoteCall(self, RemoteModel(model_digest, feeds_digest, tuple(feeds)), files)

    def measure(
        self,
        calls: Mapping[str, Call],
        protocol: Protocol,
        *,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> dict[str, RoundMedians]:
        """See `Runtime.measure`; the rounds run on the device."""
        remote = [self._own(call) for call in calls.values()]
        files = {digest: data for call in remote for digest, data in call.files.items()}
        rounds = self._connection.rounds(
            [call.model for call in remote], files, protocol, self._settings()
        )
        with contextlib.closing(rounds):
            found = collect(rounds, list(calls), protocol, self.statistic, progress, stop)
        state = self._connection.state
        if state is not None:
            self._remark(state)
            if state.throttled:
                found = {name: replace(r, status="throttled") for name, r in found.items()}
        return found

    def time_block(self, call: Call, calls: int) -> float:
        """See `Runtime.time_block`; in a session of its own, after one run."""
        return float(self._ask("time", self._own(call), calls=calls))

    def single_calls_ms(
        self, call: Call, *, calls: int, seconds: float, few: int, few_seconds: float
    ) -> list[float]:
        """See `Runtime.single_calls_ms`; the device's clock times them."""
        limits = {"calls": calls, "seconds": seconds, "few": few, "few_seconds": few_seconds}
        return list(map(float, self._ask("single", self._own(call), limits=limits)))

    def infer(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """See `OnnxModelRuntime.infer`; the device computes, and takes as long as it needs."""

        def run(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
            answer = self._ask("infer", self.prepare_onnx(model, feeds))
            content = io.BytesIO(base64.b64decode(answer["npz"]))
            with np.load(content, allow_pickle=False) as arrays:
                return {name: arrays[f"arr_{i}"] for i, name in enumerate(answer["names"])}

        return run

    def infer_unoptimised(self, model: Model, *, limit_s: float | None = None) -> Infer:
        """See `OnnxModelRuntime.infer_unoptimised`; on this machine."""
        return OnnxRuntimeCpu(1).infer_unoptimised(model, limit_s=limit_s)

    def placement(self, model: Model) -> dict[str, dict[str, int]]:
        """See `OnnxModelRuntime.placement`; not known of a device that is elsewhere."""
        return {}

    def _settings(self) -> dict[str, Any]:
        """What the device needs to start a session."""
        first, *others = self._kind.providers
        options = self._kind.provider_options
        providers = [[first, options] if options else first, *others]
        return {"providers": providers, "threads": self.threads, "memory": self._kind.memory}

    def _ask(self, do: str, call: RemoteCall, **content: Any) -> Any:
        models = [asdict(call.model)]
        return self._connection.ask(do, call.files, models=models, **self._settings(), **content)

    def _own(self, call: Call) -> RemoteCall:
        assert isinstance(call, RemoteCall)
        return call

    def _remark(self, state: State) -> None:
        """Keep what makes measurements doubtful, and say it the first time."""
        if state.throttled and "heat" not in self._doubts:
            self._doubts["heat"] = f"{self.place} lowered its clock for heat or power"
            logger.warning(self._doubts["heat"])
        most = max(state.others_cores or 0.0, self._most_others)
        if most > MOST_OTHERS:
            is_first, self._most_others = self._most_others == 0.0, most
            self._doubts["others"] = (
                f"other programs used up to {most:.1f} processor cores of {self.place} during "
                "measurements"
            )
            if is_first:
                logger.warning(self._doubts["others"])


def _serialised(model: Model) -> bytes:
    """An ONNX model as one piece, with its external data."""
    if isinstance(model, bytes):
        return model
    import onnx
    from onnx.external_data_helper import uses_external_data

    tensors = onnx.load(model, load_external_data=False).graph.initializer
    if any(uses_external_data(tensor) for tensor in tensors):
        return bytes(onnx.load(model).SerializeToString())
    return Path(model).read_bytes()


def _as_npz(arrays: Iterable[np.ndarray]) -> bytes:
    """Arrays as the bytes of an npz file, the same for the same arrays."""
    file = io.BytesIO()
    np.savez(file, *arrays)
    return file.getvalue()
