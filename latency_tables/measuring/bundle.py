"""Measuring on devices without PyTorch: models and a script go out, a results file comes back.

A bundle is a folder with `measure.py`, `manifest.json` and the models: operators in context, in
groups to be timed together, and whole networks. The results hold the rounds and the manifest, so
that the table follows from that one file.
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
from hwnas.latency_tables.files import read_json, write_atomic
from hwnas.latency_tables.measuring.onnx_context import ContextGraph
from hwnas.latency_tables.measuring.profiler import Plan, difference
from hwnas.latency_tables.statistics import Statistic, summarise
from hwnas.latency_tables.table import DeviceProfile, LatencyTable, Measurement, OpSpec
from hwnas.latency_tables.timing import Protocol, RoundMedians, status_of

SCRIPT = "measure_bundle.py"
PROVIDERS = {
    "CPUExecutionProvider": ("onnxruntime-cpu", "cpu"),
    "CUDAExecutionProvider": ("onnxruntime-cuda", "gpu"),
    "TensorrtExecutionProvider": ("tensorrt-cuda", "gpu"),
}
# What the script does, in the terms of a table.
PROTOCOL = Protocol(warmup_s=0.05, block_ms=1.0, blocks_per_round=1, min_rounds=50, max_rounds=500)
Milliseconds = Annotated[float, Field(ge=0, le=3_600_000, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Operator(_Part):
    """How an operator's latency follows from the models' times."""

    spec: OpSpec
    total: str
    baseline: str | None
    copies: Annotated[int, Field(ge=1, le=1000)]


class _Model(_Part):
    """A file, and the shapes of its inputs."""

    name: str
    file: str
    inputs: dict[str, list[int]]
    sha256: str | None = None


class _Group(_Part):
    """Models that are timed in the same rounds."""

    models: list[_Model]
    operators: list[_Operator] = Field(default_factory=list)
    networks: list[str] = Field(default_factory=list, description="genotypes of the models")


class Manifest(_Part):
    """What a bundle holds."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    definitions: dict[str, str]
    dtype: str
    batch: Annotated[int, Field(ge=1)]
    space: str
    space_options: dict[str, Any]
    groups: list[_Group]


class Results(_Part):
    """What the script leaves on the device."""

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
        """The runtime's name as tables state it."""
        return PROVIDERS[self.provider][0]

    @property
    def statistic(self) -> Statistic:
        """The figure of this kind of device."""
        return "p10" if PROVIDERS[self.provider][1] == "cpu" else "median"


@dataclass(frozen=True)
class Networks:
    """Whole networks of a bundle with their latencies (networks,) in ms."""

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
        groups: of operators, from `operator_graphs`.
        networks: whole networks by genotype, measured in one group.
        definitions: hash of the structure of each operator.
        dtype, batch: of every inference.
        space, space_options: what the operators and networks are of.

    Raises:
        InputError: when the folder holds something, or cannot be written.
    """
    models = folder / "models"
    try:
        if folder.exists() and any(folder.iterdir()):
            raise InputError("the folder is not empty", where=str(folder), mend="choose another")
        models.mkdir(parents=True)
        stored = []
        for number, (graphs, plans) in enumerate(groups):
            operators = [
                _Operator(spec=s, total=p.total, baseline=p.baseline, copies=p.copies)
                for s, p in plans.items()
            ]
            stored.append(_Group(models=_write(models, f"g{number}", graphs), operators=operators))
        named = {f"network {i}": graph for i, graph in enumerate(networks.values())}
        if named:
            written = _write(models, "networks", named)
            stored.append(_Group(models=written, networks=list(networks)))
        script = resources.files("hwnas.latency_tables.measuring") / SCRIPT
        (folder / "measure.py").write_text(script.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise InputError("cannot write there", where=str(folder), actual=error.strerror) from None
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
    """Read what the script left.

    Raises:
        InputError: when the file is missing, cut short or malformed.
    """
    content = read_json(path)
    try:
        return Results.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"not a bundle's results: {first['msg']}", where=f"{path}: {where}"
        ) from None


def operator_table(results: Results, where: str) -> LatencyTable:
    """The table of a bundle's operators.

    Raises:
        InputError: when groups are missing: the script was stopped before the end.
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
        device=DeviceProfile.model_validate(
            {
                "device": results.device,
                "device_class": PROVIDERS[results.provider][1],
                "runtime": results.runtime,
                "dtype": manifest.dtype,
                "batch": manifest.batch,
                "threads": results.threads,
                "layout": "NCHW",
                "versions": results.versions,
            }
        ),
        protocol=PROTOCOL,
        statistic=results.statistic,
        definitions=manifest.definitions,
    )


def measured_networks(results: Results, where: str) -> Networks:
    """The bundle's whole networks and what they took.

    Raises:
        InputError: when the script was stopped before the end.
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
    if results.manifest is None:
        raise InputError("results of one model, not of a bundle", where=where)
    missing = len(results.manifest.groups) - len(results.rounds_ms)
    if missing:
        raise InputError(
            "the measurement is not finished",
            where=where,
            expected=f"{len(results.manifest.groups)} groups",
            actual=len(results.rounds_ms),
            mend="run measure.py again: it goes on where it stopped",
        )
    return results.manifest


def _timed(results: Results, group: int) -> dict[str, RoundMedians]:
    """The rounds of a group's models as if they had been measured here."""
    return {
        name: RoundMedians(
            rounds_ms=tuple(rounds),
            summary=summarise(rounds, results.statistic),
            status=status_of(rounds, PROTOCOL, results.statistic),
            repeats=0,
        )
        for name, rounds in results.rounds_ms[str(group)].items()
    }


def _write(folder: Path, prefix: str, graphs: Mapping[str, ContextGraph]) -> list[_Model]:
    written = []
    for index, (name, graph) in enumerate(graphs.items()):
        file = f"{prefix}-{index}.onnx"
        (folder / file).write_bytes(graph.model)
        inputs = {key: list(array.shape) for key, array in graph.feeds.items()}
        written.append(_Model(name=name, file=f"models/{file}", inputs=inputs))
    return written
