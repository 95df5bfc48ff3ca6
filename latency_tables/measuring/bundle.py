"""Measurements on devices without PyTorch: a bundle of models and a script, and its results file.

A bundle is a folder with `measure.py`, `manifest.json` and ONNX models: operators in their context,
in groups that are timed together, and whole networks. The script writes one results file, which
contains the times and the manifest, so that a table can be made from this file alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hwnas.errors import InputError
from hwnas.latency_tables.device_profile import DeviceProfile
from hwnas.latency_tables.files import read_json, write_atomic
from hwnas.latency_tables.measuring.onnx_context import ContextGraph
from hwnas.latency_tables.measuring.operator_calls import Plan, difference
from hwnas.latency_tables.on_device.measure import PROTOCOL as SCRIPT_PROTOCOL
from hwnas.latency_tables.rows import Measurement, OpSpec
from hwnas.latency_tables.statistics import Statistic, summarise
from hwnas.latency_tables.table import LatencyTable
from hwnas.latency_tables.timing import Protocol, RoundMedians, status_of

SCRIPT = "measure.py"
PROVIDERS: dict[str, tuple[str, Literal["cpu", "gpu"]]] = {
    "CPUExecutionProvider": ("onnxruntime-cpu", "cpu"),
    "CUDAExecutionProvider": ("onnxruntime-cuda", "gpu"),
    "TensorrtExecutionProvider": ("tensorrt-cuda", "gpu"),
}
PROTOCOL = Protocol(**SCRIPT_PROTOCOL)
Milliseconds = Annotated[float, Field(ge=0, le=3_600_000, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Operator(_Part):
    """How an operator's latency is computed from the models' times, see `Plan`."""

    spec: OpSpec
    total: str
    baseline: str | None
    copies: Annotated[int, Field(ge=1, le=1000)]


class _Model(_Part):
    """A model's file and the shapes of its inputs."""

    name: str
    file: str
    inputs: dict[str, list[int]]
    sha256: str | None = None


class _Group(_Part):
    """Models that are timed in the same rounds."""

    models: list[_Model]
    operators: list[_Operator] = Field(default_factory=list)
    networks: list[str] = Field(
        default_factory=list, description="the networks' genotypes, in the order of the models"
    )


class Manifest(_Part):
    """The contents of a bundle."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    definitions: dict[str, str]
    dtype: str
    batch: Annotated[int, Field(ge=1)]
    space: str
    space_options: dict[str, Any]
    groups: list[_Group]


class Results(_Part):
    """The file that the script writes on the device."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    device: Annotated[str, Field(min_length=1, max_length=500)]
    provider: Literal["CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"]
    threads: Annotated[int, Field(ge=1)]
    versions: dict[str, str]
    manifest: Manifest | None
    model: _Model | None = None
    rounds_ms: dict[str, dict[str, Annotated[list[Milliseconds], Field(min_length=1)]]]

    @property
    def runtime(self) -> str:
        """The runtime's name, as tables state it."""
        return PROVIDERS[self.provider][0]

    @property
    def statistic(self) -> Statistic:
        """The quantile that is repeatable on this class of device."""
        return "p10" if PROVIDERS[self.provider][1] == "cpu" else "median"


@dataclass(frozen=True)
class Networks:
    """Whole networks of a bundle.

    Attributes:
        genotypes: as they were given to `write_bundle`.
        latency_ms: measured latencies, (networks,).
    """

    genotypes: list[str]
    latency_ms: np.ndarray


def write_bundle(
    folder: Path,
    groups: Iterable[tuple[dict[str, ContextGraph], dict[OpSpec, Plan]]],
    networks: Mapping[str, ContextGraph],
    *,
    definitions: dict[str, str],
    dtype: str,
    batch: int,
    space: str,
    space_options: dict[str, Any],
) -> Manifest:
    """Write models, manifest and script.

    Args:
        folder: a new or empty folder.
        groups: operators in their contexts, from `operator_graphs`.
        networks: whole networks by genotype, measured in one group.
        definitions: hash of the structure of each operator.
        dtype: number format of weights and inputs.
        batch: images per inference.
        space: name of the search space.
        space_options: options of the search space.

    Raises:
        InputError: the folder is not empty or cannot be written.
    """
    models = folder / "models"
    try:
        if folder.exists() and any(folder.iterdir()):
            raise InputError("the folder is not empty", where=str(folder), mend="choose another")
        models.mkdir(parents=True)
        stored = [
            _write_operators(models, f"g{number}", graphs, plans)
            for number, (graphs, plans) in enumerate(groups)
        ]
        if networks:
            stored.append(_write_networks(models, networks))
        script = resources.files("hwnas.latency_tables.on_device") / SCRIPT
        (folder / SCRIPT).write_text(script.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise InputError(
            "the bundle cannot be written", where=str(folder), actual=error.strerror
        ) from None
    manifest = Manifest(
        definitions=definitions,
        dtype=dtype,
        batch=batch,
        space=space,
        space_options=space_options,
        groups=stored,
    )
    write_atomic(folder / "manifest.json", manifest.model_dump_json(by_alias=True, indent=1))
    return manifest


def read_results(path: Path) -> Results:
    """Read the results file of a bundle's script.

    Raises:
        InputError: the file is missing, truncated or malformed.
    """
    content = read_json(path)
    try:
        return Results.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"not the results of a bundle: {first['msg']}", where=f"{path}: {where}"
        ) from None


def operator_table(results: Results, where: str) -> LatencyTable:
    """Make a table from the times of a bundle's operators.

    Args:
        results: the results file.
        where: its name, for error messages.

    Raises:
        InputError: groups are missing because the script was stopped before its end.
    """
    manifest = _finished(results, where)
    measurements: dict[OpSpec, Measurement] = {}
    for number, group in enumerate(manifest.groups):
        timed = _timed(results, number)
        for operator in group.operators:
            plan = Plan(operator.total, operator.baseline, operator.copies)
            measurements[operator.spec] = difference(plan, timed, results.statistic)
    return LatencyTable.from_measurements(
        measurements,
        device=DeviceProfile(
            device=results.device,
            device_class=PROVIDERS[results.provider][1],
            runtime=results.runtime,
            dtype=manifest.dtype,
            batch=manifest.batch,
            threads=results.threads,
            layout="NCHW",
            versions=results.versions,
        ),
        protocol=PROTOCOL,
        statistic=results.statistic,
        definitions=manifest.definitions,
    )


def measured_networks(results: Results, where: str) -> Networks:
    """Return the bundle's whole networks and their latencies.

    Args:
        results: the results file.
        where: its name, for error messages.

    Raises:
        InputError: groups are missing because the script was stopped before its end.
    """
    manifest = _finished(results, where)
    genotypes: list[str] = []
    latency_ms: list[float] = []
    for number, group in enumerate(manifest.groups):
        if group.networks:
            timed = _timed(results, number)
            genotypes += group.networks
            latency_ms += [timed[model.name].summary.value_ms for model in group.models]
    return Networks(genotypes, np.array(latency_ms))


def _finished(results: Results, where: str) -> Manifest:
    """Return the manifest, or raise InputError if a group has not been measured."""
    if results.manifest is None:
        raise InputError("results of a single model instead of a bundle", where=where)
    missing = len(results.manifest.groups) - len(results.rounds_ms)
    if missing:
        raise InputError(
            "the measurement is not finished",
            where=where,
            expected=f"{len(results.manifest.groups)} groups",
            actual=len(results.rounds_ms),
            mend="run measure.py again; it continues where it stopped",
        )
    return results.manifest


def _timed(results: Results, group: int) -> dict[str, RoundMedians]:
    """Return the results of a group's models as `measure` would have returned them."""
    return {
        name: RoundMedians(
            rounds_ms=tuple(rounds),
            summary=summarise(rounds, results.statistic),
            status=status_of(rounds, PROTOCOL, results.statistic),
            repeats=0,
        )
        for name, rounds in results.rounds_ms[str(group)].items()
    }


def _write_operators(
    folder: Path, prefix: str, graphs: Mapping[str, ContextGraph], plans: Mapping[OpSpec, Plan]
) -> _Group:
    operators = [
        _Operator(spec=spec, total=plan.total, baseline=plan.baseline, copies=plan.copies)
        for spec, plan in plans.items()
    ]
    return _Group(models=_write_models(folder, prefix, graphs), operators=operators)


def _write_networks(folder: Path, networks: Mapping[str, ContextGraph]) -> _Group:
    named = {f"network {index}": graph for index, graph in enumerate(networks.values())}
    return _Group(models=_write_models(folder, "networks", named), networks=list(networks))


def _write_models(folder: Path, prefix: str, graphs: Mapping[str, ContextGraph]) -> list[_Model]:
    written = []
    for index, (name, graph) in enumerate(graphs.items()):
        file = f"{prefix}-{index}.onnx"
        (folder / file).write_bytes(graph.model)
        inputs = {key: list(array.shape) for key, array in graph.feeds.items()}
        written.append(_Model(name=name, file=f"models/{file}", inputs=inputs))
    return written
