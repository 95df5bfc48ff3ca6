"""Chooses which operators of a model are quantised to int8, and which stay float32.

Where a runtime's integer operator is slower than its float32 one, or loses too much, the operator
is left as it is. What a choice costs is fitted to models that are measured on the device: all
operators in int8, single ones, random ones, and the choices that are best by the costs so far.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from hwnas.budget.gate import measure_together
from hwnas.checking.outputs import Feeds
from hwnas.deploy.format_choice import (
    FormatCosts,
    Layers,
    MixedChoice,
    fit_costs,
    frontier,
    layers_of,
)
from hwnas.deploy.variants import MIXED, convert
from hwnas.errors import HwnasError, InputError
from hwnas.latency_tables.runtimes import OnnxModelRuntime
from hwnas.latency_tables.statistics import summarise

MOST_LAYERS = 100
"""Operators whose format is chosen, those that lose least first; more stay float32."""
RANDOM = 16
"""Random choices that are measured."""
AT_ONCE = 8
"""Models that are measured in the same rounds, beside the float32 model."""
SECONDS = 2.0
"""Time of the rounds of such a group."""
CORRECTIONS = 4
"""How often the choices found are measured themselves, and the costs fitted anew."""
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Conversion:
    """How a variant is made: its number format, and the nodes that stay float32."""

    format: str
    float32: tuple[str, ...]


def conversions(
    names: Sequence[str], exclude: Sequence[str], choices: Sequence[MixedChoice]
) -> dict[str, Conversion]:
    """The variants that are made, by name: `MIXED` becomes one for each choice.

    Args:
        names: of `parse_variants`.
        exclude: names of nodes that stay float32 in all.
        choices: those of `mixed_choices`.
    """
    found: dict[str, Conversion] = {}
    for name in names:
        if name == MIXED:
            for place, choice in enumerate(choices, start=1):
                found[f"{MIXED}-{place}"] = Conversion("int8", choice.float32)
        else:
            found[name] = Conversion(name, tuple(exclude))
    return found


def mixed_choices(formats: FormatCosts, where: str) -> list[MixedChoice]:
    """Choose formats for several latencies.

    Args:
        formats: what `measured_formats` found for a model.
        where: the model file, for errors.

    Returns:
        Up to `CHOICES` choices that are predicted to be faster than the float32 model, the fastest
        first; each other one has less noise than the ones before.

    Raises:
        InputError: when no choice is predicted to be faster.
    """
    found = frontier(formats)
    if not found:
        raise InputError(
            "no choice of quantised operators is predicted to be faster than float32", where=where
        )
    return [formats.choice(chosen) for chosen in found]


def measured_formats(
    model: onnx.ModelProto,
    sensitivity: Sequence[Mapping[str, Any]],
    runtime: OnnxModelRuntime,
    single: Feeds,
    where: str,
    progress: Progress,
    exclude: Collection[str] = (),
) -> FormatCosts:
    """Measure what a model's operators cost in int8, alone and beside each other.

    Args:
        model: a float32 model whose nodes have names.
        sensitivity: what `operator_sensitivity` found for it.
        runtime: the runtime to measure on.
        single: the inputs that latency is measured with.
        where: the model file, for errors.
        progress: called with the models done, their number, and what is done next.
        exclude: names of nodes that stay float32.

    Raises:
        InputError: when the model has no operator that can be quantised.
    """
    noise = {
        entry["node"]: 0.0 if entry["sqnr_db"] is None else 10 ** (-entry["sqnr_db"] / 10)
        for entry in sensitivity
        if entry["error"] is None and entry["node"] not in exclude
    }
    layers = layers_of(model, sorted(noise, key=lambda name: noise[name])[:MOST_LAYERS])
    if not layers.free.any():
        raise InputError("the model has no operator that can be quantised", where=where)
    powers = np.array([noise.get(name, 0.0) for name in layers.names])

    def measured(designs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        choices = [(*exclude, *layers.float32_nodes(one)) for one in designs]
        ratios = measured_ratios(model, choices, runtime, single, where, progress)
        return designs[np.isfinite(ratios)], ratios[np.isfinite(ratios)]

    designs, ratios = measured(designs_of(layers, np.random.default_rng(0)))
    for _ in range(CORRECTIONS):
        costs = fit_costs(layers, designs, ratios)
        found = frontier(FormatCosts(layers, costs, powers))
        unknown = [one for one in found if not (designs == one).all(axis=1).any()]
        if not unknown:
            break
        more = measured(np.array(unknown))
        designs, ratios = np.concatenate([designs, more[0]]), np.concatenate([ratios, more[1]])
    return FormatCosts(layers, fit_costs(layers, designs, ratios), powers, tuple(exclude))


def designs_of(layers: Layers, rng: np.random.Generator) -> np.ndarray:
    """The choices that are measured, (choices, layers): all, each alone, all but one, random ones.

    None is float32 itself, whose ratio is 1.
    """
    alone = np.eye(len(layers.names), dtype=bool)
    random = rng.random((RANDOM, len(alone))) < rng.random((RANDOM, 1))
    every = np.concatenate([np.ones_like(alone[:1]), alone, ~alone, random]) & layers.free
    unique = np.unique(every, axis=0)
    return np.asarray(unique[unique.any(axis=1)])


def measured_ratios(
    model: onnx.ModelProto,
    choices: Sequence[Sequence[str]],
    runtime: OnnxModelRuntime,
    single: Feeds,
    where: str,
    progress: Progress,
) -> np.ndarray:
    """The latency of each choice as a share of float32's, (choices,); NaN if it cannot run.

    Args:
        model: the float32 model.
        choices: the names of the nodes that stay float32 in each.
        runtime: the runtime to measure on.
        single: the inputs that latency is measured with.
        where: the model file, for errors.
        progress: called with the choices done, their number, and what is done next.
    """
    ratios = np.full(len(choices), np.nan)
    for start in range(0, len(choices), AT_ONCE):
        progress(start, len(choices), "latency of choices")
        calls = {"float32": runtime.prepare_onnx(model.SerializeToString(), single)}
        for place in range(start, min(start + AT_ONCE, len(choices))):
            try:
                made = convert("int8", model, [single], where, exclude=choices[place])
                calls[str(place)] = runtime.prepare_onnx(made.SerializeToString(), single)
            except HwnasError:
                continue
        found_ms = {
            name: summarise(rounds_ms, runtime.statistic).value_ms
            for name, rounds_ms in measure_together(calls, runtime, seconds=SECONDS).items()
        }
        reference_ms = found_ms.pop("float32")
        for name, value_ms in found_ms.items():
            ratios[int(name)] = value_ms / reference_ms
    return ratios
