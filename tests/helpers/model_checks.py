"""Checks of small models on ONNX Runtime's CPU provider: what is observed, and the gates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwnas.checking.behaviour import Behaviour, observe
from hwnas.checking.check import behaviour_gates, check_file
from hwnas.checking.inputs.feeds import feeds_for
from hwnas.checking.inputs.open_sizes import StatedSizes
from hwnas.checking.references import onnx_reference
from hwnas.checking.request import CheckRequest
from hwnas.checking.trial import probe
from hwnas.config import CheckConfig
from hwnas.inspection.process import inspect_model
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu

RUNTIME = OnnxRuntimeCpu(1)


def observed(
    model: Path,
    reference: Path | None = None,
    data: Path | None = None,
    limits: CheckConfig | None = None,
    stated: StatedSizes | None = None,
) -> tuple[Behaviour, dict[str, str]]:
    """What a model computes, and the status of each gate of its behaviour, by name."""
    inspected, limits = inspect_model(model), limits or CheckConfig()
    feeds = feeds_for(inspected, stated or StatedSizes(), data, 1)
    other = None
    if reference is not None:
        other = onnx_reference(inspect_model(reference), RUNTIME, feeds, limits)
    trial = probe(inspected, RUNTIME, feeds, limits)
    behaviour = observe(inspected, RUNTIME, feeds, other, trial, limits)
    gates = behaviour_gates(
        inspected, feeds, behaviour, limits, has_reference=reference is not None
    )
    return behaviour, {gate.name: gate.status for gate in gates}


def quickly_checked(
    path: Path,
    *,
    limits: Mapping[str, Any] | None = None,
    budgets: Mapping[str, float] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The document of a check that measures for a second unless `limits` says otherwise.

    Args:
        path: the model file.
        limits: fields of `CheckConfig`.
        budgets: fields of `CheckRequest`.
        options: further arguments of `check_file`.
    """
    request = CheckRequest(
        CheckConfig(**{"measure_seconds": 1, **(limits or {})}), **(budgets or {})
    )
    return check_file(inspect_model(path), request, **options)


def statuses_of(document: Mapping[str, Any]) -> dict[str, str]:
    """The status of each gate, by name."""
    return {gate["name"]: gate["status"] for gate in document["gates"]}
