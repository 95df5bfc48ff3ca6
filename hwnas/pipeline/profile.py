"""Measuring on a runtime: the operators of a space into a table, and whole networks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hwnas import ops
from hwnas.architecture import Architecture
from hwnas.budget.gate import in_parallel
from hwnas.calibration.audit import audit
from hwnas.calibration.design import design
from hwnas.calibration.networks import to_text
from hwnas.calibration.prior import from_counts
from hwnas.config import Config
from hwnas.data import Normalisation
from hwnas.data.inputs import InputShape, named_inputs
from hwnas.data.normalisation import LARGEST
from hwnas.deploy.export import INPUT, deployed, export_network, raw_dtype, to_onnx
from hwnas.deploy.fold import fold_batch_norms
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import Audit
from hwnas.latency_tables.measuring.bundle import Manifest, write_bundle
from hwnas.latency_tables.measuring.child import call_in_child
from hwnas.latency_tables.measuring.onnx_context import ContextGraph
from hwnas.latency_tables.measuring.operator_calls import (
    GROUP_SIZE,
    Kind,
    Shape,
    operator_graphs,
)
from hwnas.latency_tables.measuring.profiler import (
    OPERATOR_S,
    PROFILE_PROTOCOL,
    profile_operators,
)
from hwnas.latency_tables.remote.choosing import runtime_on
from hwnas.latency_tables.remote.pool import RemotePool
from hwnas.latency_tables.runtimes import OnnxModelRuntime, Runtime
from hwnas.latency_tables.table import DeviceProfile, LatencyTable, OpSpec
from hwnas.latency_tables.timing import Protocol
from hwnas.pipeline.problem import data_sizes, read_dataset
from hwnas.runs import interruption, progress
from hwnas.spaces import SearchSpace, build_space
from hwnas.spaces.networks import Network
from hwnas.spaces.options import SpaceOptions
from hwnas.tasks import task_of

SESSIONS = 3
"""How often a network is prepared when networks are compared."""


def profile(
    config: Config,
    out: str | Path,
    *,
    seconds: float = OPERATOR_S,
    partial: Path | None = None,
    stage: progress.Stage = progress.silent,
    space: SearchSpace | None = None,
) -> LatencyTable:
    """Measure all operators of a configuration's space on its runtime and write the table.

    Args:
        config: space, data (for the sizes that the space does not state) and latency settings.
        out: the table's file.
        seconds: for each operator on average; the longer, the fewer rows are noisy.
        partial: where an unfinished table is kept and resumed from; beside `out` by default.
        stage: shows progress.
        space: the space itself, where it is not the one that the configuration names.

    Raises:
        DeviceError: when the device that `latency.device` names cannot be reached.
        RuntimeMissingError: when the runtime or device is not there.
        Interrupted: after a signal; a repeated call goes on from there.
    """
    out = Path(out)
    latency = config.latency
    runtime = runtime_on(latency.device, latency.runtime, latency.threads)
    runtime.require()
    space = space or profiled_space(config)
    partial = partial or out.with_name(f".{out.name}.partial")
    with stage("profile") as advance:

        def on_progress(done: int, total: int) -> None:
            advance(done, total, "operators")
            interruption.stop_if_requested()

        table = profile_operators(
            space.all_operators(),
            runtime=runtime,
            build=functools.partial(operator_module, space=space),
            to_onnx=to_onnx,
            batch=latency.batch,
            dtype=latency.dtype,
            definitions=space.definitions(),
            protocol=replace(PROFILE_PROTOCOL, time_limit_s=GROUP_SIZE * seconds),
            partial_path=partial,
            progress=on_progress,
        )
    table.save(out)
    partial.unlink(missing_ok=True)
    return table


def bundle(config: Config, folder: Path, networks: int) -> Manifest:
    """Write what another device needs to measure a configuration's operators and networks.

    Args:
        config: space, data and latency settings; the runtime is chosen on the device.
        folder: a new or empty folder.
        networks: how many whole networks are designed and added.

    Raises:
        InputError: when the folder holds something.
    """
    space, latency = profiled_space(config), config.latency
    shape = space.options.input_shape
    torch.manual_seed(0)
    inputs = example_feeds(latency.batch, shape)
    whole = {
        to_text(space, a): ContextGraph(
            export_network(space.network(a).eval(), shape).SerializeToString(), inputs
        )
        for a in design(space, from_counts(space), networks)
    }
    groups = operator_graphs(
        space.all_operators(),
        build=functools.partial(operator_module, space=space),
        to_onnx=to_onnx,
        batch=latency.batch,
        dtype=latency.dtype,
    )
    return write_bundle(
        folder,
        groups,
        whole,
        definitions=space.definitions(),
        dtype=latency.dtype,
        batch=latency.batch,
        space=space.name,
        space_options=space.options.model_dump(),
    )


def profiled_space(config: Config) -> SearchSpace:
    """The space to profile: sizes that it does not state are those of the data."""
    options = config.space.options
    if not all(key in options for key in SpaceOptions.model_fields):
        options = data_sizes(task_of(read_dataset(config.data, config.seed))) | options
    return build_space(config.space.name, options, "configuration: space")


def audit_here(
    space: SearchSpace,
    table: LatencyTable,
    count: int,
    *,
    device_name: str | None = None,
    seed: int = 0,
    seconds: float = 60.0,
    stage: progress.Stage = progress.silent,
) -> Audit:
    """Measure random networks on the table's device, twice, each time in a process of its own.

    Args:
        space: the search space at its deployed sizes.
        table: of this device; its runtime, batch and threads are used.
        count: how many networks.
        device_name: the device's name in `devices.toml`; this machine if None.
        seed: of the networks.
        seconds: limit of each of the two measurements.
        stage: shows progress.

    Raises:
        DeviceError: when the named device cannot be reached.
        InputError: when the table is of another device.
        RuntimeMissingError: when its runtime is not there.
    """
    device = table.device
    runtime = runtime_on(device_name, device.runtime, device.threads)
    runtime.require()
    table.require_device(runtime.profile(dtype=device.dtype, batch=device.batch))
    rng = np.random.default_rng(seed)
    networks = [space.sample(rng) for _ in range(count)]
    kind = type(space)
    if kind.__module__ == "__main__":
        raise InputError(
            "networks are measured in fresh processes, which cannot import the started script",
            where=f"space {space.name}",
            mend="define the space in a module of its own and import it",
        )
    places: list[str | None] = [device_name]
    if isinstance(runtime, RemotePool):
        places = [member.place for member in runtime.members]
    arguments = (kind, space.options.model_dump(), networks, device, seconds)
    measured = []
    with stage("audit") as advance:
        for done in range(2):
            advance(done, 2, "measuring in a process of its own")
            # A fresh process shares nothing with this one but the device.
            on_each = [
                functools.partial(call_in_child, measure_networks, *arguments, p) for p in places
            ]
            measured.append(in_parallel(on_each))
            interruption.stop_if_requested()
        advance(2, 2, f"{count} networks")
    latency_ms = np.array(measured).mean(axis=1)
    members = None
    if isinstance(runtime, RemotePool):
        members = member_ratios([str(place) for place in places], np.array(measured).mean(axis=0))
    return audit(space, table, networks, latency_ms[0], latency_ms[1], members)


def member_ratios(names: Sequence[str], latency_ms: np.ndarray) -> dict[str, float]:
    """How much faster or slower than all devices of a pool each of them is.

    Args:
        names: of the devices.
        latency_ms: (devices, networks), latencies of the same networks.

    Returns:
        For each device the median over the networks of its latency, divided by their mean.
    """
    ratios = np.median(latency_ms / latency_ms.mean(axis=0), axis=1)
    return dict(zip(names, ratios.tolist(), strict=True))


def measure_networks(
    kind: type[SearchSpace],
    space_options: dict[str, Any],
    architectures: Sequence[Architecture],
    device: DeviceProfile,
    seconds: float,
    device_name: str | None,
) -> np.ndarray:
    """Latencies (architectures,) in ms of networks with random weights, in interleaved rounds.

    Each is prepared several times and the mean is taken: where a session's memory happens to lie
    moves a small network by 2 to 3 %.
    """
    torch.set_num_threads(device.threads)
    space = kind(kind.options_model(**space_options))
    runtime = runtime_on(device_name, device.runtime, device.threads)
    shape = space.options.input_shape
    torch.manual_seed(0)
    calls = {
        f"{index}/{session}": call
        for index, a in enumerate(architectures)
        for session, call in enumerate(
            inferences(space.network(a).eval(), shape, runtime, device.batch, SESSIONS)
        )
    }
    found = runtime.measure(
        calls,
        # Every network once a round is what makes them comparable; no single one is a sentinel.
        Protocol(
            min_rounds=40,
            max_rounds=100_000,
            time_limit_s=seconds,
            half_width=0.003,
            sentinel_drift=10.0,
        ),
    )
    values_ms = np.array([rounds.summary.value_ms for rounds in found.values()])
    by_network: np.ndarray = values_ms.reshape(len(architectures), SESSIONS).mean(axis=1)
    return by_network


def operator_module(
    spec: OpSpec, space: SearchSpace | None = None
) -> tuple[nn.Module, list[Shape], Kind]:
    """What the profiler measures for a spec: the folded module, its input shapes, its kind.

    Args:
        spec: the operator.
        space: the space that it belongs to; only that of a user's own model makes a difference.
    """
    built = ops.operator_module(spec) if space is None else space.operator_module(spec)
    module, shapes, kind = built
    return fold_batch_norms(module), shapes, kind


def preparation(
    network: Network,
    input_shape: InputShape,
    runtime: Runtime,
    batch: int,
    preprocessing: Normalisation | None = None,
) -> Callable[[], Callable[[], None]]:
    """What prepares a network as it is deployed on a runtime, and returns one inference."""
    feeds = example_feeds(batch, input_shape, preprocessing)
    if isinstance(runtime, OnnxModelRuntime):
        model = export_network(network, input_shape, preprocessing=preprocessing)
        data = model.SerializeToString()
        return lambda: runtime.prepare_onnx(data, feeds)
    module = deployed(network, len(feeds), preprocessing)
    given = tuple(map(torch.from_numpy, feeds.values()))
    return lambda: runtime.prepare(module, given, to_onnx)


def inferences(
    network: Network,
    input_shape: InputShape,
    runtime: Runtime,
    batch: int,
    count: int,
    preprocessing: Normalisation | None = None,
) -> list[Callable[[], None]]:
    """Inferences of one network, each prepared anew."""
    prepare = preparation(network, input_shape, runtime, batch, preprocessing)
    return [prepare() for _ in range(count)]


def example_feeds(
    batch: int,
    input_shape: InputShape,
    preprocessing: Normalisation | None = None,
    name: str = INPUT,
) -> dict[str, np.ndarray]:
    """Seeded random inputs to measure with.

    Args:
        batch: number of samples.
        input_shape: shape of a sample, (C, H, W) or (L,) for tokens; or several inputs.
        preprocessing: of a model that reads raw inputs; they are of its type.
        name: of the input, if there is one.

    Returns:
        By name (batch, C, H, W), or tokens (batch, L), 0 or 1.
    """
    rng = np.random.default_rng(0)
    return {
        one.name: _random((batch, *one.shape), raw_dtype(one, preprocessing), rng)
        for one in named_inputs(input_shape, name)
    }


def _random(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> np.ndarray:
    """Random values of a type: any of an image, normally distributed floats, or tokens 0 and 1."""
    if dtype == "float32":
        return rng.standard_normal(shape, dtype=np.float32)
    if dtype == "int64":
        return rng.integers(0, 2, shape)
    return rng.integers(0, LARGEST[dtype] + 1, shape).astype(dtype)
