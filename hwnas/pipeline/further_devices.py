"""Further devices of a run that can be logged in to: their settings, and the check on them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from hwnas.budget.gate import measure_network
from hwnas.budget.speed import RecordedSpeed
from hwnas.checking.gates import Gate, budget_gate
from hwnas.checking.inputs.feeds import FeedMaker
from hwnas.config import Config, DeviceConfig
from hwnas.inspection.process import Inspection
from hwnas.latency_tables.remote.choosing import runtime_on
from hwnas.latency_tables.remote.inventory import find_device
from hwnas.latency_tables.runtimes import OnnxModelRuntime
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.run import Run


def further_config(config: Config, device: DeviceConfig) -> Config:
    """The configuration that a further device with a name is measured by."""
    assert device.name is not None
    found = find_device(device.name)
    stated = {"device": found.name, "runtime": found.runtime, "threads": found.threads}
    latency = config.latency.model_copy(update=stated)
    return config.model_copy(update={"latency": latency, "devices": []})


def measured_gates(run: Run, model: Inspection, feeds: FeedMaker) -> list[Gate]:
    """Gates of the budgets on further devices with a name: the model is measured on each.

    Raises:
        DeviceError: when one cannot be reached.
        InputError: when its runtime refuses the model.
    """
    gates = []
    for path, device in zip(run.target.further_tables, run.config.devices, strict=True):
        if device.name is None:
            continue
        latency = further_config(run.config, device).latency
        runtime = runtime_on(device.name, latency.runtime, latency.threads)
        runtime.require()
        assert isinstance(runtime, OnnxModelRuntime)
        found = measure_network(
            partial(runtime.prepare_onnx, model.path, feeds.real(feeds.batch, 0)),
            runtime,
            budget_ms=device.budget_ms,
            seconds=run.config.check.measure_seconds,
            recorded=RecordedSpeed.of(LatencyTable.load(path).reference, []),
        )
        name = f"measured: {device.name}"
        gates.append(replace(budget_gate(found, device.budget_ms), name=name))
    return gates
